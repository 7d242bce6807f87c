package backends_test

import (
	"testing"

	"packhold/backends"
)

// What is given back is used again, in its size class, and not more of it is kept than was said.
func TestBuffer(t *testing.T) {
	for _, n := range []int64{0, 1, 256<<10 - 1, 256 << 10, 256<<10 + 1, 1 << 20, 4<<20 - 7, 4 << 20, 8 << 20, 8<<20 + 1} {
		b := backends.Buffer(n)
		if int64(len(b)) != n {
			t.Fatalf("Buffer(%d) has %d bytes", n, len(b))
		}
		if n == 0 {
			backends.Release(b)
			continue
		}
		b[0], b[n-1] = 1, 2
		backends.Release(b)
		again := backends.Buffer(n)
		if kept := n >= 256<<10 && n <= 8<<20; kept != (&again[0] == &b[0]) {
			t.Errorf("%d bytes: kept is %v, want %v", n, !kept, kept)
		}
		third := backends.Buffer(n)
		if &third[0] == &again[0] {
			t.Errorf("%d bytes are given out twice", n)
		}
	}
	var all [][]byte
	for range 10 {
		all = append(all, backends.Buffer(8<<20))
	}
	for _, b := range all {
		backends.Release(b)
	}
	known := make(map[*byte]bool)
	for _, b := range all {
		known[&b[0]] = true
	}
	reused := 0
	for range 10 {
		if b := backends.Buffer(8 << 20); known[&b[0]] {
			reused++
		}
	}
	if reused != 3 {
		t.Errorf("%d buffers of 8 MiB were kept, want 3: 24 MiB", reused)
	}
}

// A slice that is not of the kind Buffer makes does no harm.
func TestReleaseForeign(t *testing.T) {
	backends.Release(nil)
	backends.Release(make([]byte, 300<<10, 300<<10+1))
	b := make([]byte, 1<<20)
	backends.Release(b[10:])
	if got := backends.Buffer(1 << 20); cap(got) < 1<<20 {
		t.Fatal("a buffer is too small")
	}
}
