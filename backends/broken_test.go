package backends_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/mem"
)

// disk fails to read some sectors.
type disk struct {
	*mem.Store
	bad []int64 // numbers of sectors of 4 KiB
}

func (d disk) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	for _, b := range d.bad {
		if off < (b+1)<<12 && off+n > b<<12 {
			return nil, syscall.EIO
		}
	}
	return d.Store.Get(ctx, name, off, n)
}

func TestGetBroken(t *testing.T) {
	const sectors = 200
	size := int64(sectors<<12 - 100) // three wide steps and a part, the last sector is short
	whole := bytes.Repeat([]byte{7}, int(size))
	for what, c := range map[string]struct {
		bad   []int64
		limit int64
		want  int64
	}{
		"whole":            {nil, 0, 0},
		"first sector":     {[]int64{0}, 4096, 4096},
		"last sector":      {[]int64{sectors - 1}, 4096, 4096 - 100},
		"on a wide border": {[]int64{63, 64}, size / 2, 8192},
		"at the limit":     {[]int64{5, 9, 150}, 3 * 4096, 3 * 4096},
	} {
		d := disk{mem.New(time.Now), c.bad}
		if err := d.Put(t.Context(), "x", whole, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		want := bytes.Clone(whole)
		for _, b := range c.bad {
			clear(want[b<<12 : min((b+1)<<12, size)])
		}
		got, bad, err := backends.GetBroken(t.Context(), d, "x", size, c.limit)
		if err != nil || bad != c.want || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bad bytes, want %d, %v", what, bad, c.want, err)
		}
		if len(c.bad) > 0 {
			if _, _, err := backends.GetBroken(t.Context(), d, "x", size, c.want-1); !errors.Is(err, syscall.EIO) {
				t.Errorf("%s, above the limit: %v", what, err)
			}
		} else if _, _, err := backends.GetBroken(t.Context(), d, "x", size+1, size); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s, a byte too many: %v", what, err)
		}
	}
}
