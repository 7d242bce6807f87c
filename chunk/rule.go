package chunk

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
)

// window is the number of bytes a cut depends on, in both rules: a gear hash is 64 bits shifted by one a byte.
const window = 64

// A Cutter finds the ends of chunks in bytes its caller holds. It keeps a scan position and a hash, never a slice, so
// the caller may move the bytes between calls. It serves one goroutine at a time.
type Cutter interface {
	// Next returns the length of the chunk that data begins with, or 0 when data does not decide it: then the caller
	// comes again with the same bytes and more behind them, which are not scanned twice. It is not 0 when data has Max
	// bytes, and, where final says that nothing follows data, only if data is empty. After a length n > 0 the next
	// chunk begins at data[n:].
	Next(data []byte, final bool) int
	// Reset forgets a chunk that was begun: the next call brings the first bytes of a new one.
	Reset()
}

// A Rule is cut parameters with their key. It is immutable and safe for concurrent use.
type Rule struct {
	params Params
	gear   *gear         // set if params.Rule is Gear
	rabin  *rabinPattern // set if params.Rule is Rabin
}

// New makes a rule of parameters and the repository's chunker secret. An error means that the parameters are invalid.
func New(p Params, secret [32]byte) (*Rule, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	r := &Rule{params: p}
	var err error
	switch p.Rule {
	case Gear:
		r.gear, err = newGear(p, secret)
	case Rabin:
		r.rabin, err = newRabinPattern(p, secret)
	}
	if err != nil {
		return nil, fmt.Errorf("keying the cut rule %q: %w", p.Rule, err)
	}
	return r, nil
}

// Params returns the parameters r was made of.
func (r *Rule) Params() Params { return r.params }

// Cutter returns a new cutter at the start of a chunk. It costs at most 5 KiB; any number may be in use at once.
func (r *Rule) Cutter() Cutter {
	if r.rabin != nil {
		return r.rabin.cutter()
	}
	return &gearCutter{gear: r.gear}
}

// keyStream is an endless stream of bytes determined by the chunker secret and a label: with
// key = HKDF-SHA-256(secret, no salt, label, 32 bytes), block i is HMAC-SHA-256(key, i as 8 bytes little-endian).
type keyStream struct {
	mac  hash.Hash
	next uint64
	rest []byte
}

func newKeyStream(secret [32]byte, label string) (*keyStream, error) {
	key, err := hkdf.Key(sha256.New, secret[:], nil, label, 32)
	if err != nil {
		return nil, err
	}
	return &keyStream{mac: hmac.New(sha256.New, key)}, nil
}

// Read fills p and returns no error.
func (s *keyStream) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		if len(s.rest) == 0 {
			s.mac.Reset()
			s.mac.Write(binary.LittleEndian.AppendUint64(nil, s.next))
			s.rest = s.mac.Sum(nil)
			s.next++
		}
		k := copy(p[n:], s.rest)
		s.rest = s.rest[k:]
		n += k
	}
	return len(p), nil
}
