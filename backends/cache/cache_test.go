package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/backends/mem"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, func(t *testing.T) backends.Storage {
		return New(mem.New(time.Now), Options{Dir: filepath.Join(t.TempDir(), "cache")})
	})
}

// counting counts the calls of Get that reach a storage.
type counting struct {
	backends.Storage
	gets atomic.Int64
}

func (c *counting) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	c.gets.Add(1)
	return c.Storage.Get(ctx, name, off, n)
}

func named(prefix string, data []byte) string { return prefix + sumOf(data) }

func mustPut(t *testing.T, s backends.Storage, name string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, data, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// reads gets a file, which must have these bytes, and returns how often the storage was asked.
func reads(t *testing.T, s *Store, inner *counting, name string, want []byte) int64 {
	t.Helper()
	before := inner.gets.Load()
	for _, n := range []int64{-1, int64(len(want))} {
		got, err := s.Get(t.Context(), name, 0, n)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	return inner.gets.Load() - before
}

func TestKept(t *testing.T) {
	t.Parallel()
	inner := &counting{Storage: mem.New(time.Now)}
	dir := filepath.Join(t.TempDir(), "a", "cache")
	s := New(inner, Options{Dir: dir, File: 1000, Keep: func(name string) bool { return !strings.HasPrefix(name, "no/") }})
	one, large := []byte("a certificate"), bytes.Repeat([]byte("x"), 1001)
	mustPut(t, inner, named("hosts/1-", one), one)
	if n := reads(t, s, inner, named("hosts/1-", one), one); n != 1 {
		t.Errorf("the storage was asked %d times", n)
	}
	// A part of it comes from what is kept, and what goes beyond its end is the storage's to refuse.
	before := inner.gets.Load()
	if got, err := s.Get(t.Context(), named("hosts/1-", one), 2, 4); err != nil || string(got) != "cert" || inner.gets.Load() != before {
		t.Errorf("a part: %q, %v", got, err)
	}
	if _, err := s.Get(t.Context(), named("hosts/1-", one), 2, 400); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("beyond the end: %v", err)
	}
	// What is put is there for the next process.
	two := []byte("a mark")
	mustPut(t, s, named("marks/", two), two)
	if n := reads(t, New(inner, Options{Dir: dir}), inner, named("marks/", two), two); n != 0 {
		t.Errorf("what was put was asked for %d times", n)
	}
	// Not kept: names without a hash, with a hash of other bytes, too large, not wanted.
	for name, data := range map[string][]byte{"settings/1": one, named("packs/", []byte("a trailer")): one, named("index/", large): large, named("no/", one): one} {
		mustPut(t, s, name, data)
		if n := reads(t, s, inner, name, data); n != 2 {
			t.Errorf("%s: asked %d times", name, n)
		}
	}
	// Existence is the storage's word.
	if err := s.Delete(t.Context(), named("marks/", two)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), named("marks/", two), 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a deleted file: %v", err)
	}
	if err := inner.Delete(t.Context(), named("hosts/1-", one)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), named("hosts/1-", one)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that another host deleted: %v", err)
	}
	for info, err := range s.List(t.Context(), "hosts/") {
		t.Errorf("a file that another host deleted is listed: %v, %v", info, err)
	}
}

// TestVandalism does to the folder what can be done to it, before a read and between the reads. The bytes are always those that were stored.
func TestVandalism(t *testing.T) {
	t.Parallel()
	one, two := []byte("the one"), []byte("the two")
	for what, f := range map[string]func(a, b string) error{
		"deleted":   func(a, b string) error { return os.Remove(a) },
		"truncated": func(a, b string) error { return os.Truncate(a, 3) },
		"empty":     func(a, b string) error { return os.Truncate(a, 0) },
		"longer":    func(a, b string) error { return os.Truncate(a, 1<<20) },
		"swapped": func(a, b string) error {
			return errors.Join(os.Rename(a, a+"x"), os.Rename(b, a), os.Rename(a+"x", b))
		},
		"flipped": func(a, b string) error { return os.WriteFile(a, []byte("thE one"), 0o600) },
		"a folder": func(a, b string) error {
			return errors.Join(os.Remove(a), os.MkdirAll(filepath.Join(a, "x"), 0o700))
		},
		"a link": func(a, b string) error {
			if runtime.GOOS == "windows" {
				return nil
			}
			return errors.Join(os.Remove(a), os.Symlink(b, a))
		},
		"gone with its folder": func(a, b string) error { return os.RemoveAll(filepath.Dir(a)) },
		"a file for a folder": func(a, b string) error {
			return errors.Join(os.RemoveAll(filepath.Dir(a)), os.WriteFile(filepath.Dir(a), nil, 0o600))
		},
	} {
		inner := &counting{Storage: mem.New(time.Now)}
		dir := filepath.Join(t.TempDir(), "cache")
		s := New(inner, Options{Dir: dir})
		mustPut(t, s, named("hosts/1-", one), one)
		mustPut(t, s, named("hosts/2-", two), two)
		if err := f(s.path(sumOf(one)), s.path(sumOf(two))); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for range 2 {
			reads(t, s, inner, named("hosts/1-", one), one)
			reads(t, s, inner, named("hosts/2-", two), two)
		}
	}
}

func TestBounded(t *testing.T) {
	t.Parallel()
	inner := &counting{Storage: mem.New(time.Now)}
	dir := t.TempDir()
	s := New(inner, Options{Dir: dir, File: 1000, Most: 20_000})
	stale := filepath.Join(dir, temporary+"1")
	if err := os.WriteFile(stale, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(stale, time.Time{}, time.Now().Add(-2*staleAge)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 50 {
				data := fmt.Appendf(bytes.Repeat([]byte("x"), 900), "%d %d", i, j)
				if err := s.Put(t.Context(), named("marks/", data), data, backends.PutOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 20_000 || total < 10_000 {
		t.Errorf("%d bytes are kept", total)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a killed run left: %v", err)
	}
}
