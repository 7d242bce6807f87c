package chunk

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"io"

	"github.com/restic/chunker"
)

// The rules once more, written from the format text for whole inputs, without speed in mind.

// tb is what a *testing.T and a *rapid.T have in common and the helpers need.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// reference returns the lengths of the pieces of a stream that begins at byte off of its file; a zero extent of n
// bytes is the length -n.
type reference func(data []byte, off int64) []int

func newReference(t tb, p Params, secret [32]byte) reference {
	t.Helper()
	cut := referenceCutter(t, p, secret)
	return func(data []byte, off int64) []int { return referencePieces(cut, data, off) }
}

func referencePieces(cut func([]byte) []int, data []byte, off int64) []int {
	var out []int
	zero := func(page int64) bool { // page by number in the file, wholly in data and zero
		from, to := page*ZeroAlign-off, (page+1)*ZeroAlign-off
		return from >= 0 && to <= int64(len(data)) && len(bytes.Trim(data[from:to], "\x00")) == 0
	}
	start := 0
	for page := off / ZeroAlign; page*ZeroAlign < off+int64(len(data)); {
		n := int64(0)
		for zero(page + n) {
			n++
		}
		if n*ZeroAlign >= ZeroMin {
			out = append(out, cut(data[start:page*ZeroAlign-off])...)
			out = append(out, -int(n*ZeroAlign))
			start = int((page+n)*ZeroAlign - off)
		}
		page += n + 1
	}
	return append(out, cut(data[start:])...)
}

// referenceKeys returns block i of the key stream.
func referenceKeys(t tb, secret [32]byte, label string, i uint64) []byte {
	t.Helper()
	key, err := hkdf.Key(sha256.New, secret[:], make([]byte, sha256.Size), label, 32)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(binary.LittleEndian.AppendUint64(nil, i))
	return mac.Sum(nil)
}

func referencePolynomial(t tb, secret [32]byte) chunker.Pol {
	t.Helper()
	for i := uint64(0); ; i++ {
		for b := referenceKeys(t, secret, "packhold/1/rabin", i); len(b) > 0; b = b[8:] {
			f := binary.LittleEndian.Uint64(b)&(1<<54-1) | 1<<53 | 1
			if pol := chunker.Pol(f); pol.Irreducible() {
				return pol
			}
		}
	}
}

func referenceCutter(t tb, p Params, secret [32]byte) func([]byte) []int {
	t.Helper()
	if p.Rule == Rabin {
		pol := referencePolynomial(t, secret)
		bits := 0
		for 1<<bits < p.Avg-p.Min {
			bits++
		}
		return func(data []byte) (out []int) {
			c := chunker.New(bytes.NewReader(data), pol,
				chunker.WithBoundaries(uint(p.Min), uint(p.Max)), chunker.WithAverageBits(bits))
			for {
				k, err := c.Next(nil)
				if err == io.EOF {
					return out
				}
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, int(k.Length))
			}
		}
	}
	var table [256]uint64
	for i := range table {
		table[i] = binary.LittleEndian.Uint64(referenceKeys(t, secret, "packhold/1/gear", uint64(i/4))[i%4*8:])
	}
	limit := ^uint64(0) / uint64(p.Avg-p.Min)
	if uint64(p.Avg-p.Min)&uint64(p.Avg-p.Min-1) == 0 {
		limit++ // 2^64 is divisible, 2^64 - 1 falls one short
	}
	return func(data []byte) (out []int) {
		n, h := 0, uint64(0) // h runs from the chunk's first byte: Min >= 64 makes that the same
		for _, b := range data {
			n++
			h = 2*h + table[b]
			if n >= p.Min && h < limit || n == p.Max {
				out = append(out, n)
				n, h = 0, 0
			}
		}
		if n > 0 {
			out = append(out, n)
		}
		return out
	}
}

// counterBytes returns n reproducible bytes: block i is SHA-256(label | i as 8 bytes little-endian).
func counterBytes(label string, n int) []byte {
	out := make([]byte, 0, n+sha256.Size)
	for i := uint64(0); len(out) < n; i++ {
		sum := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(label), i))
		out = append(out, sum[:]...)
	}
	return out[:n]
}

var testSecret = [32]byte(counterBytes("secret", 32))

func mustRule(t tb, p Params) *Rule {
	t.Helper()
	r, err := New(p, testSecret)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// collect runs a stream through s, checks the pieces against data and returns their lengths.
func collect(t tb, s *Splitter, r io.Reader, off int64, data []byte) []int {
	t.Helper()
	s.Reset(r, off)
	var out []int
	for pos := 0; ; {
		p, err := s.Next(context.Background())
		if err == io.EOF {
			if pos != len(data) {
				t.Fatalf("pieces end at %d of %d", pos, len(data))
			}
			if _, err := s.Next(context.Background()); err != io.EOF {
				t.Fatalf("after the end: %v", err)
			}
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		n := int(p.Len())
		if n <= 0 || pos+n > len(data) {
			t.Fatalf("piece of %d bytes at %d of %d", n, pos, len(data))
		}
		want := data[pos : pos+n]
		if p.Zeros > 0 {
			if p.Data != nil || len(bytes.Trim(want, "\x00")) != 0 {
				t.Fatalf("bytes %d+%d are no zeros", pos, n)
			}
			n = -n
		} else if !bytes.Equal(p.Data, want) {
			t.Fatalf("bytes %d+%d differ", pos, n)
		}
		p.Release()
		out = append(out, n)
		pos += int(p.Len())
	}
}
