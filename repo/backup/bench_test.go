package backup_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"packhold/backends/local"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/format"
	"packhold/repo/repotest"
	"packhold/repo/snapshot"
)

// BenchmarkTree backs up the tree that PACKHOLD_BENCH_TREE names, once for the first time and then again, into a repository
// under PACKHOLD_BENCH_REPO.
func BenchmarkTree(b *testing.B) {
	src, dst := os.Getenv("PACKHOLD_BENCH_TREE"), os.Getenv("PACKHOLD_BENCH_REPO")
	if src == "" || dst == "" {
		b.Skip("PACKHOLD_BENCH_TREE and PACKHOLD_BENCH_REPO are not set")
	}
	for b.Loop() {
		dir, err := os.MkdirTemp(dst, "repo")
		if err != nil {
			b.Fatal(err)
		}
		st, err := local.Open(filepath.Join(dir, "r"), local.Options{Create: true})
		if err != nil {
			b.Fatal(err)
		}
		c, err := repotest.Init(context.Background(), st, repotest.Options{Parity: 2, PackSize: format.DefaultPackSize})
		if err != nil {
			b.Fatal(err)
		}
		for _, name := range []string{"first", "again", "again"} {
			r, err := repo.Open(context.Background(), st, repo.Access{Credential: c}, repo.Options{CachePath: filepath.Join(dir, "index")})
			if err != nil {
				b.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			res, err := backup.Run(context.Background(), r, backup.Options{Sources: []string{src}, Type: snapshot.Incremental, CacheDir: dir})
			if err != nil {
				b.Fatal(err)
			}
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			b.Logf("%s: %.2f s, %d allocations, %d MiB; %+v, stored %+v, cache %v", name, took.Seconds(), after.Mallocs-before.Mallocs,
				(after.TotalAlloc-before.TotalAlloc)>>20, res.Stats, res.Stored, res.CacheErr)
		}
		st.Close()
		os.RemoveAll(dir)
	}
}
