package backends_test

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"packhold/backends"
)

func TestValidName(t *testing.T) {
	long := strings.Repeat("a", backends.MaxName)
	for _, name := range []string{
		"a", "config", "0", "-", "_", "a.b", "packs/ab/ab12", "leases/0f.17", "audit/x1/tile/8/0/x001/067.p/8",
		"a/tmp", "tmpx", "tmp1/a", "a.tmp.b", long,
	} {
		if !backends.ValidName(name) {
			t.Errorf("%q is refused", name)
		}
		if !backends.ValidPrefix(name + "/") {
			t.Errorf("prefix %q is refused", name+"/")
		}
		if err := backends.CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{
		"", ".", "..", "/", "/a", "a/", "a//b", "a/./b", "a/../b", "../a", "a/..", "A", "packs/AB", "é", "a b", "a\\b", "a:b",
		"a\x00", "a\n", "a%", "a+b", ".ds_store", "a/.nfs01", "._a", "a.", "a./b", "tmp", "tmp/a", "a.tmp", "packs/a.tmp",
		"x.tmp/a", long + "a", "\xff",
	} {
		if backends.ValidName(name) {
			t.Errorf("%q is accepted", name)
		}
		if err := backends.CheckName(name); !errors.Is(err, backends.ErrInvalidName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestValidPrefix(t *testing.T) {
	if err := backends.CheckPrefix(""); err != nil {
		t.Error(err)
	}
	for _, prefix := range []string{"a", "/", "a//", "/a/", "A/", "../", "./", "tmp/", "a/../"} {
		if err := backends.CheckPrefix(prefix); !errors.Is(err, backends.ErrInvalidName) {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}

func TestSpan(t *testing.T) {
	const ends, other = -1, -2
	for _, c := range []struct{ size, off, n, want int64 }{
		{0, 0, 0, 0}, {0, 0, -1, 0}, {0, 0, 1, ends}, {0, 1, 0, ends}, {0, 1, -1, ends},
		{10, 0, 10, 10}, {10, 0, 11, ends}, {10, 9, 1, 1}, {10, 9, 2, ends}, {10, 10, 0, 0}, {10, 10, -1, 0}, {10, 11, -1, ends},
		{10, 3, -5, 7}, {10, 3, math.MinInt64, 7}, {10, -1, 1, other}, {10, math.MaxInt64, math.MaxInt64, ends},
		{10, 1, math.MaxInt64, ends}, {math.MaxInt64, math.MaxInt64, 0, 0},
		{backends.MaxObject, 0, -1, backends.MaxObject}, {backends.MaxObject + 1, 0, -1, other}, {backends.MaxObject + 1, 1, -1, backends.MaxObject},
		{math.MaxInt64, 0, -1, other},
	} {
		n, err := backends.Span(c.size, c.off, c.n)
		switch c.want {
		case ends:
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v: %d, %v", c, n, err)
			}
		case other:
			if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v: %d, %v", c, n, err)
			}
		default:
			if err != nil || n != c.want {
				t.Errorf("%v: %d, %v", c, n, err)
			}
		}
	}
}
