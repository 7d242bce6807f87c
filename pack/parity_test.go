package pack

import (
	"bytes"
	"testing"
)

// gfMul multiplies in GF(2^8) with the polynomial 0x11d, the slow way.
func gfMul(a, b byte) (p byte) {
	for ; b > 0; b >>= 1 {
		if b&1 != 0 {
			p ^= a
		}
		high := a & 0x80
		a <<= 1
		if high != 0 {
			a ^= 0x1d
		}
	}
	return p
}

func gfInv(a byte) byte {
	for b := 1; b < 256; b++ {
		if gfMul(a, byte(b)) == 1 {
			return byte(b)
		}
	}
	panic("zero has no inverse")
}

// parityRows is V U^-1 below its identity, as the format's text says it: by elimination on the columns of V.
func parityRows(k, m int) [][]byte {
	v := make([][]byte, k+m)
	for r := range v {
		v[r] = make([]byte, k)
		x := byte(1)
		for c := range v[r] {
			v[r][c] = x
			x = gfMul(x, byte(r))
		}
	}
	for c := range k {
		for j := c; v[c][c] == 0; j++ { // swap a column in
			for r := range v {
				v[r][c], v[r][j+1] = v[r][j+1], v[r][c]
			}
		}
		inv := gfInv(v[c][c])
		for r := range v {
			v[r][c] = gfMul(v[r][c], inv)
		}
		for j := range k {
			if f := v[c][j]; j != c && f != 0 {
				for r := range v {
					v[r][j] ^= gfMul(f, v[r][c])
				}
			}
		}
	}
	return v[k:]
}

// The parity of the library is that of the format's text: a pack must be mendable by whoever has only the text.
func TestParityIsAsTheFormatSays(t *testing.T) {
	for _, g := range [][2]int{{2, 1}, {3, 2}, {64, 2}, {77, 16}, {128, 16}} {
		k, m := g[0], g[1]
		const size = 64
		tr := &Trailer{Data: k, Parity: m, ShardSize: size, Digests: make([][32]byte, k+m)}
		file := random(uint64(k), tr.FileSize())
		if err := new(Coder).encode(tr, file); err != nil {
			t.Fatal(err)
		}
		s := tr.shards(file)
		for j, row := range parityRows(k, m) {
			want := make([]byte, size)
			for i, f := range row {
				for b := range want {
					want[b] ^= gfMul(f, s[i][b])
				}
			}
			if !bytes.Equal(want, s[k+j]) {
				t.Fatalf("%d+%d: parity shard %d differs", k, m, j)
			}
		}
	}
}
