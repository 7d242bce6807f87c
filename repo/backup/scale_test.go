package backup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/snapshot"
)

// peak measures the largest live heap while f runs.
func peak(f func()) uint64 {
	runtime.GC()
	var most, first runtime.MemStats
	runtime.ReadMemStats(&first)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.HeapAlloc = max(most.HeapAlloc, m.HeapAlloc)
		}
	})
	f()
	close(stop)
	wg.Wait()
	return max(most.HeapAlloc, first.HeapAlloc) - first.HeapAlloc
}

// twice backs src up for the first time and again, and returns the live heap of each.
func twice(t *testing.T, src string, files, dirs uint64) (first, again uint64) {
	t.Helper()
	st, c := newRepo(t)
	o := backup.Options{Sources: []string{src}, CacheDir: t.TempDir(), Type: snapshot.Incremental}
	for i, heap := range []*uint64{&first, &again} {
		r := open(t, st, repo.Access{Credential: c})
		var res *backup.Result
		*heap = peak(func() { res = run(t, r, o) })
		above := uint64(strings.Count(src, "/"))
		if s := res.Stats; s.Files != files || s.Dirs != dirs+above || len(res.Skipped) > 0 || i == 1 && s.Unmodified != files {
			t.Errorf("run %d: %+v, skipped %v", i, s, res.Skipped)
		}
	}
	return first, again
}

// TestScale is for real sizes with PACKHOLD_SCALE_TESTS=1, and for a fraction of them without.
func TestScale(t *testing.T) {
	scale := 40
	if os.Getenv("PACKHOLD_SCALE_TESTS") == "" {
		scale = 1
	}
	base := t.TempDir()
	if dir, err := os.MkdirTemp("/dev/shm", "packhold-test"); err == nil {
		defer os.RemoveAll(dir)
		base = dir
	}
	t.Run("wide", func(t *testing.T) {
		src, n := filepath.Join(base, "wide"), 5_000*scale
		for i := range n {
			if i == 0 {
				os.Mkdir(src, 0o700)
			}
			if err := os.WriteFile(filepath.Join(src, fmt.Sprint("file number ", i)), []byte{1, 2, 3}, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		first, again := twice(t, src, uint64(n), 0)
		t.Logf("%d files in one directory: live heap %.1f MiB at first, %.1f MiB again", n, mib(first), mib(again))
		// Names, parts, packs: not the nodes, which would be 400 bytes each.
		if limit := 40 + float64(n)*120/(1<<20); mib(max(first, again)) > limit {
			t.Errorf("the limit is %.1f MiB", limit)
		}
	})
	t.Run("dirs", func(t *testing.T) {
		src, n := filepath.Join(base, "dirs"), 3_000*scale
		for i := range n {
			dir := filepath.Join(src, fmt.Sprint(i%10), fmt.Sprint(i))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		first, again := twice(t, src, 0, uint64(n)+10)
		t.Logf("%d directories: live heap %.1f MiB at first, %.1f MiB again", n, mib(first), mib(again))
		if limit := 40 + float64(n)*150/(1<<20); mib(max(first, again)) > limit {
			t.Errorf("the limit is %.1f MiB", limit)
		}
	})
	t.Run("deep", func(t *testing.T) {
		src, n := filepath.Join(base, "deep"), 1500
		if err := os.Mkdir(src, 0o700); err != nil {
			t.Fatal(err)
		}
		at, err := os.OpenRoot(src) // the path is too long for any single call
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			name := strings.Repeat("d", 200)
			if err := at.Mkdir(name, 0o700); err != nil {
				t.Fatal(err)
			}
			next, err := at.OpenRoot(name)
			at.Close()
			if err != nil {
				t.Fatal(err)
			}
			at = next
		}
		if err := at.WriteFile("bottom", []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		at.Close()
		first, again := twice(t, src, 1, uint64(n))
		t.Logf("%d levels: live heap %.1f MiB at first, %.1f MiB again", n, mib(first), mib(again))
	})
}

// A tree that is deeper than a snapshot may be is saved as far as it can be walked again.
func TestTooDeep(t *testing.T) {
	if os.Getenv("PACKHOLD_SCALE_TESTS") == "" {
		t.Skip("PACKHOLD_SCALE_TESTS is not set")
	}
	src := t.TempDir()
	at, err := os.OpenRoot(src)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { at.Close() }()
	for range snapshot.MaxDepth + 5 {
		if err := at.Mkdir("d", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := at.OpenRoot("d")
		if err != nil {
			t.Fatal(err)
		}
		at.Close()
		at = next
	}
	st, c := newRepo(t)
	res := run(t, open(t, st, repo.Access{Credential: c}), backup.Options{Sources: []string{src}})
	if len(res.Skipped) != 1 || res.Stats.Dirs != snapshot.MaxDepth-1 {
		t.Errorf("skipped %d items, saved %d directories", len(res.Skipped), res.Stats.Dirs)
	}
	tree(t, st, res.Snapshot)
}

// paused runs a backup, stops one of its two workers, or the reader of large files, at the first piece of a large file until at least so many files
// were begun, or a minute is over, and nothing moves any more, and tells hold how many files were begun by then.
func paused(t *testing.T, src string, least int64, hold func(began int64)) *backup.Result {
	t.Helper()
	st, c := newRepo(t)
	var files atomic.Int64
	var held atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := &hook{start: func(string) { files.Add(1) }}
	wait := func() {
		if !held.CompareAndSwap(false, true) {
			return // the other worker goes on
		}
		for end := time.Now().Add(time.Minute); files.Load() < least && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		}
		for last := int64(-1); files.Load() != last; time.Sleep(100 * time.Millisecond) {
			last = files.Load()
		}
		hold(files.Load())
	}
	p.done = func() {
		p.mu.Lock()
		large := p.bytes > 1<<16 // part of a large file
		p.mu.Unlock()
		if large {
			wait()
		}
	}
	res, err := backup.Run(ctx, open(t, st, repo.Access{Credential: c}), backup.Options{Sources: []string{src}, Progress: p, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// The walk does not run ahead of large files without limit: neither of one that is first in a huge directory, nor of many.
func TestWalkPauses(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "a large one"), random(1, 3<<20))
	const files = 9_500
	for i := range files {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint("file number ", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var began int64
	res := paused(t, src, 15*512, func(n int64) { began = n })
	if began < 15*512 || began > 17*512 {
		t.Errorf("%d files were begun before the large one was done", began)
	}
	if res.Stats.Files != files+1 || len(res.Skipped) > 0 {
		t.Errorf("%+v", res.Stats)
	}

	t.Run("and fails", func(t *testing.T) { failPaused(t, src) })

	src = t.TempDir()
	const dirs = 300
	for i := range dirs {
		path := filepath.Join(src, fmt.Sprint(i), "large")
		write(t, path, nil)
		if err := os.Truncate(path, 2<<20); err != nil { // one hole: nothing to read
			t.Fatal(err)
		}
	}
	res = paused(t, src, 64, func(n int64) { began = n })
	if began < 64 || began > 64+4 {
		t.Errorf("%d large files were begun while none was done", began)
	}
	if res.Stats.Files != dirs || len(res.Skipped) > 0 {
		t.Errorf("%+v", res.Stats)
	}
}

// failPaused checks that a backup that fails while its walk pauses closes everything.
func failPaused(t *testing.T, src string) {
	st, c := newRepo(t)
	r := open(t, st, repo.Access{Credential: c})
	goroutines, descriptors := runtime.NumGoroutine(), openFiles(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := &hook{}
	var held atomic.Bool
	p.done = func() {
		p.mu.Lock()
		large := p.bytes > 1<<16
		p.mu.Unlock()
		if large && held.CompareAndSwap(false, true) {
			time.Sleep(200 * time.Millisecond) // the walk goes on meanwhile, as far as it may
			cancel()
		}
	}
	if _, err := backup.Run(ctx, r, backup.Options{Sources: []string{src}, Progress: p, Workers: 2}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	settled(t, goroutines, descriptors)
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }
