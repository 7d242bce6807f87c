package chunk

import "encoding/binary"

// gear is the rule "cut after byte i if h(i) < limit", where h(i) = 2 h(i-1) + table[byte i] modulo 2^64. A byte leaves
// the hash after 64 shifts, so h(i) is the sum of table[byte i-k] << k for k = 0..63: which places may be cut depends on
// their 64 bytes alone, and cuts fall into step again soon after a change.
//
// One condition, not the two of FastCDC: with Min at three quarters of the average the lengths are already close
// together, and the second condition bought nothing (see [DefaultParams]) but a slower scan. Keeping Min that high also
// bounds the harm of data whose every place is a cut: a third more chunks than usual.
type gear struct {
	table    [256]uint64
	limit    uint64 // 2^64 / (Avg - Min), rounded down
	min, max int
}

func newGear(p Params, secret [32]byte) (*gear, error) {
	s, err := newKeyStream(secret, "packhold/1/gear")
	if err != nil {
		return nil, err
	}
	g := &gear{min: p.Min, max: p.Max}
	if err := binary.Read(s, binary.LittleEndian, &g.table); err != nil {
		return nil, err
	}
	// (2^64 - 1) / n is 2^64 / n rounded down, except where n is a power of two: it is then one less. Both are right
	// in one division as (2^64 - n)/n + 1.
	n := uint64(p.Avg - p.Min)
	g.limit = -n/n + 1
	return g, nil
}

// gearCutter applies a gear rule. Between calls the bytes data[:pos] of the current chunk are known to hold no cut, and
// hash is their hash; pos is 0 until there are Min bytes.
type gearCutter struct {
	*gear
	pos  int
	hash uint64
}

func (c *gearCutter) Reset() { c.pos, c.hash = 0, 0 }

func (c *gearCutter) Next(data []byte, final bool) int {
	n := min(len(data), c.max)
	if n < c.pos {
		panic("chunk: Next was called with fewer bytes of a chunk than before")
	}
	if n >= c.min {
		if c.pos == 0 {
			// The first place to look at is after byte Min-1; 63 bytes before it complete its hash.
			c.pos = c.min - 1
			for _, b := range data[c.min-window : c.pos] {
				c.hash = c.hash<<1 + c.table[b]
			}
		}
		k, h := c.scan(data[c.pos:n], c.hash)
		if k > 0 {
			k += c.pos
			c.Reset()
			return k
		}
		c.pos, c.hash = n, h
	}
	if n == c.max || final {
		c.Reset()
		return n
	}
	return 0
}

// scan returns the number of bytes of p up to and including the first that ends a chunk, or 0 and the hash after p.
// Eight bytes a turn let the compiler drop all bounds checks; two lanes, one 64-bit load, and two bytes a step were
// each slower or no faster.
func (g *gear) scan(p []byte, h uint64) (int, uint64) {
	t, limit := &g.table, g.limit
	n := 0
	for ; len(p) >= 8; p, n = p[8:], n+8 {
		q := p[:8:8]
		if h = h<<1 + t[q[0]]; h < limit {
			return n + 1, h
		}
		if h = h<<1 + t[q[1]]; h < limit {
			return n + 2, h
		}
		if h = h<<1 + t[q[2]]; h < limit {
			return n + 3, h
		}
		if h = h<<1 + t[q[3]]; h < limit {
			return n + 4, h
		}
		if h = h<<1 + t[q[4]]; h < limit {
			return n + 5, h
		}
		if h = h<<1 + t[q[5]]; h < limit {
			return n + 6, h
		}
		if h = h<<1 + t[q[6]]; h < limit {
			return n + 7, h
		}
		if h = h<<1 + t[q[7]]; h < limit {
			return n + 8, h
		}
	}
	for i, b := range p {
		if h = h<<1 + t[b]; h < limit {
			return n + i + 1, h
		}
	}
	return 0, h
}
