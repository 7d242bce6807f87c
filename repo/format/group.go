package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"packhold/crypt"
)

// maxGroupParity caps the parity shards of a group together, bytes: a reader holds them in memory.
const maxGroupParity = 256 << 20

func (g *Group) validate() error {
	n, m := len(g.Members), int(g.Parity)
	switch {
	case n == 0 || n > maxMembers || m == 0 || m > MaxParity || len(g.Digests) != m:
		return fmt.Errorf("%d members, %d parity shards, %d digests", n, m, len(g.Digests))
	case g.Shard > MaxPackFile || g.Shard*uint64(m) > maxGroupParity:
		return fmt.Errorf("%d shards of %d bytes, the limit is %d bytes together", m, g.Shard, maxGroupParity)
	}
	largest := uint64(0)
	seen := make(map[PackRef]bool, n)
	for _, p := range g.Members {
		if seen[p.Pack] || p.Size == 0 {
			return errors.New("a member stands twice or is empty")
		}
		seen[p.Pack] = true
		largest = max(largest, p.Size)
	}
	if largest != g.Shard {
		return fmt.Errorf("shards of %d bytes, the largest member has %d", g.Shard, largest)
	}
	for _, d := range g.Digests {
		if len(d) != 32 {
			return fmt.Errorf("digest of %d bytes", len(d))
		}
	}
	return nil
}

// JoinGroup makes a group object of g, sealed, and its parity shards: sealed | the shards | the length of sealed, u32. It is named by the SHA-256
// of all of it. The digests in g say which shards are whole where the object as a whole is not.
func JoinGroup(g *Group, sealed []byte, shards [][]byte) (name string, object []byte, err error) {
	if err := g.validate(); err != nil {
		return "", nil, fmt.Errorf("making group: %w", err)
	}
	if len(shards) != len(g.Digests) {
		return "", nil, fmt.Errorf("making group: %d shards of %d", len(shards), len(g.Digests))
	}
	for i, s := range shards {
		if sum := crypt.Sum(s); uint64(len(s)) != g.Shard || !bytes.Equal(sum[:], g.Digests[i]) {
			return "", nil, fmt.Errorf("making group: shard %d is not the one of its digest", i)
		}
	}
	object = bytes.Join(append([][]byte{sealed}, shards...), nil)
	object = binary.LittleEndian.AppendUint32(object, uint32(len(sealed)))
	return "group/" + crypt.Sum(object).String(), object, nil
}

// SplitGroup takes a group object apart: the sealed Group, and its parity shards, for Shards.
func SplitGroup(object []byte) (sealed, parity []byte, err error) {
	if len(object) < 4 || len(object) > maxGroup {
		return nil, nil, fmt.Errorf("%d bytes", len(object))
	}
	rest := object[:len(object)-4]
	n := binary.LittleEndian.Uint32(object[len(rest):])
	if uint64(n) > uint64(len(rest)) {
		return nil, nil, errors.New("the length of the body is beyond the object")
	}
	return rest[:n], rest[n:], nil
}

// Shards returns the parity shards that SplitGroup found, nil for each that does not match its digest, and whether they are all there is.
func (g *Group) Shards(parity []byte) (shards [][]byte, exact bool) {
	shards = make([][]byte, g.Parity)
	for i := range shards {
		from := uint64(i) * g.Shard
		if from+g.Shard > uint64(len(parity)) {
			break
		}
		b := parity[from : from+g.Shard]
		if sum := crypt.Sum(b); bytes.Equal(sum[:], g.Digests[i]) {
			shards[i] = b
		}
	}
	return shards, uint64(len(parity)) == uint64(g.Parity)*g.Shard
}
