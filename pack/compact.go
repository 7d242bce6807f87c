package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Compact appends the trailer without its zeros and footer to dst: all that an index segment needs to carry so that a pack
// which lost both copies of its trailer can be mended.
func (t *Trailer) Compact(dst []byte) []byte {
	return append(dst, t.Append(nil)[:trailerFixed+32*len(t.Digests)]...)
}

// ParseCompact is the inverse of Compact: ParseCompact(t.Compact(nil)) is t.
func ParseCompact(b []byte) (*Trailer, error) {
	fail := func(err error) (*Trailer, error) { return nil, fmt.Errorf("parsing compact trailer: %w", err) }
	if len(b) < trailerFixed || len(b) > MaxTrailer {
		return fail(fmt.Errorf("%d bytes", len(b)))
	}
	shards := int(binary.LittleEndian.Uint16(b[12:])) + int(binary.LittleEndian.Uint16(b[14:]))
	if shards > maxShards+MaxParity || len(b) != trailerFixed+32*shards {
		return fail(fmt.Errorf("%d bytes for %d shards", len(b), shards))
	}
	size := trailerSize(shards)
	full := append(bytes.Clone(b), make([]byte, size-len(b))...)
	foot := full[size-footerSize:]
	copy(foot, footerMagic)
	binary.LittleEndian.PutUint32(foot[8:], uint32(size))
	t, err := parseTrailer(full)
	if err != nil {
		return fail(err)
	}
	if t.size() != size {
		return fail(errors.New("wrong size"))
	}
	return t, nil
}
