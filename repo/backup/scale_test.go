package backup_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
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
	t.Run("held back", func(t *testing.T) {
		// A large file that comes first holds the parts behind it.
		src, n := filepath.Join(base, "held"), 10_000
		write(t, filepath.Join(src, "a large one"), random(1, 16<<20))
		for i := range n {
			if err := os.WriteFile(filepath.Join(src, fmt.Sprint("file number ", i)), []byte{1, 2, 3}, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		twice(t, src, uint64(n)+1, 0)
	})
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }
