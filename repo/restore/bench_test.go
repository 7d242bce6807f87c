package restore_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"packhold/backends/local"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/format"
	"packhold/repo/localfs"
	"packhold/repo/repotest"
	"packhold/repo/restore"
	"packhold/repo/snapshot"
)

// BenchmarkTree backs up the tree that PACKHOLD_BENCH_TREE names into a repository under PACKHOLD_BENCH_REPO, unless it is
// there, and restores it beside the repository.
func BenchmarkTree(b *testing.B) {
	src, at := os.Getenv("PACKHOLD_BENCH_TREE"), os.Getenv("PACKHOLD_BENCH_REPO")
	if src == "" || at == "" {
		b.Skip("PACKHOLD_BENCH_TREE and PACKHOLD_BENCH_REPO are not set")
	}
	ctx := context.Background()
	where := filepath.Join(at, "repository")
	_, err := os.Stat(where)
	st, oerr := local.Open(where, local.Options{Create: true, NoSync: true})
	if oerr != nil {
		b.Fatal(oerr)
	}
	defer st.Close()
	if err != nil {
		c, err := repotest.Init(ctx, st, repotest.Options{Parity: 2, PackSize: format.DefaultPackSize})
		if err != nil {
			b.Fatal(err)
		}
		r, err := repo.Open(ctx, st, repo.Access{Credential: c}, repo.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := backup.Run(ctx, r, backup.Options{Sources: []string{src}, Type: snapshot.Full}); err != nil {
			b.Fatal(err)
		}
	}
	dst := filepath.Join(at, "restored")
	for b.Loop() {
		r, err := repo.Open(ctx, st, repo.Access{Passphrase: []byte(passphrase)}, repo.Options{})
		if err != nil {
			b.Fatal(err)
		}
		all, err := r.Snapshots(ctx)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.LoadIndex(ctx); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		res, err := restore.Run(ctx, r, all[0], dst, restore.Options{Apply: localfs.ApplyOptions{Owners: new(localfs.Owners)},
			Verify: os.Getenv("PACKHOLD_BENCH_VERIFY") != ""})
		if err != nil {
			b.Fatal(err)
		}
		b.Logf("%.2f s, %+v", time.Since(start).Seconds(), *res)
		b.StopTimer()
		os.RemoveAll(dst)
		b.StartTimer()
	}
}
