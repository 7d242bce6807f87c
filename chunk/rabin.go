package chunk

import (
	"math/bits"

	"github.com/restic/chunker"
)

// rabinPattern is a chunker of restic's library at the start of a chunk. Cutters are copies of it: the library has no
// exported way to begin a chunk afresh, and its own tables are expensive to make.
type rabinPattern struct {
	fresh chunker.BaseChunker
}

func newRabinPattern(p Params, secret [32]byte) (*rabinPattern, error) {
	s, err := newKeyStream(secret, "packhold/1/rabin")
	if err != nil {
		return nil, err
	}
	pol, err := chunker.DerivePolynomial(s)
	if err != nil {
		return nil, err
	}
	base := chunker.NewBase(pol,
		chunker.WithBaseBoundaries(uint(p.Min), uint(p.Max)),
		chunker.WithBaseAverageBits(bits.Len(uint(p.Avg-p.Min))-1))
	return &rabinPattern{fresh: *base}, nil
}

func (r *rabinPattern) cutter() *rabinCutter {
	return &rabinCutter{pattern: r, base: r.fresh}
}

// rabinCutter gives the library only bytes it has not seen; data[:pos] of the current chunk hold no cut.
type rabinCutter struct {
	pattern *rabinPattern
	base    chunker.BaseChunker
	pos     int
}

func (c *rabinCutter) Reset() { c.base, c.pos = c.pattern.fresh, 0 }

func (c *rabinCutter) Next(data []byte, final bool) int {
	if len(data) < c.pos {
		panic("chunk: Next was called with fewer bytes of a chunk than before")
	}
	if k := c.base.NextSplitPoint(data[c.pos:]); k > 0 {
		k += c.pos
		c.pos = 0 // the library has begun a new chunk itself
		return k
	}
	if c.pos = len(data); final {
		n := c.pos
		c.Reset()
		return n
	}
	return 0
}
