package backup_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/format"
	"packhold/repo/repotest"
	"packhold/repo/snapshot"
)

const passphrase = repotest.Passphrase

func newRepo(t *testing.T) (*mem.Store, *crypt.Credential) {
	t.Helper()
	s := mem.New(time.Now)
	c, err := repotest.Copy(t.Context(), s, repotest.Options{PackSize: format.MinPackSize})
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// clock gives every repository that is opened a time of its own, hours after that of the last one and in the future: so files that a test
// has just made are older than any parent's racy window.
var clock atomic.Int64

func open(t *testing.T, s backends.Storage, a repo.Access) *repo.Repo {
	t.Helper()
	ahead := time.Duration(clock.Add(1)) * time.Hour
	r, err := repo.Open(t.Context(), s, a, repo.Options{Now: func() time.Time { return time.Now().Add(ahead) }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// readers holds a repository for every storage that a test has opened with the passphrase, which costs 0.1 s.
var readers sync.Map

// getter reads blobs with the passphrase.
func getter(t *testing.T, s backends.Storage) (*repo.Repo, *repo.Reader) {
	t.Helper()
	known, ok := readers.Load(s)
	if !ok {
		known = open(t, s, repo.Access{Passphrase: []byte(passphrase)})
		readers.Store(s, known)
	}
	r := known.(*repo.Repo)
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, err := r.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	return r, d
}

// content reads a file of a snapshot.
func content(t *testing.T, d *repo.Reader, n *snapshot.Node) []byte {
	t.Helper()
	out := append([]byte(nil), n.Inline...)
	for x, err := range snapshot.EachExtent(t.Context(), d, n) {
		if err != nil {
			t.Fatal(err)
		}
		if x.Kind != snapshot.Data {
			out = append(out, make([]byte, x.Length)...)
			continue
		}
		b, err := d.Get(t.Context(), x.ID)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}

// tree reads all files of a snapshot by path.
func tree(t *testing.T, s backends.Storage, snap *repo.Snapshot) map[string]string {
	t.Helper()
	_, d := getter(t, s)
	_, d2 := getter(t, s)
	out := map[string]string{}
	for e, err := range snapshot.Walk(t.Context(), d, snap.Root, snapshot.WalkOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Node != nil && e.Node.Type == snapshot.File {
			out["/"+e.Path] = string(content(t, d2, e.Node))
		}
	}
	return out
}

// at returns the page of a directory in a snapshot. That of the root also tells of directories that are not the test's, as /tmp.
func at(t *testing.T, s backends.Storage, snap *repo.Snapshot, path string) crypt.ID {
	t.Helper()
	_, d := getter(t, s)
	n, err := snapshot.Lookup(t.Context(), d, snap.Root, strings.Split(strings.Trim(path, "/"), "/"))
	if err != nil {
		t.Fatal(err)
	}
	return n.Subtree
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func random(seed byte, n int) []byte {
	out := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(out)
	return out
}

func run(t *testing.T, r *repo.Repo, o backup.Options) *backup.Result {
	t.Helper()
	if o.Type == 0 {
		o.Type = snapshot.Incremental
	}
	res, err := backup.Run(context.Background(), r, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestBackup(t *testing.T) {
	st, c := newRepo(t)
	src := t.TempDir()
	files := map[string][]byte{"empty": nil, "inline": []byte("hello"), "a/small": random(1, 5000), "a/b/medium": random(2, 900_000),
		"a/large": random(3, 5<<20), "zeros": make([]byte, 3<<20), "mixed": append(append(random(4, 100_000), make([]byte, 200_000)...), random(5, 2<<20)...)}
	want := map[string]string{}
	for name, data := range files {
		write(t, filepath.Join(src, name), data)
		want[filepath.Join(src, name)] = string(data)
	}
	cache := t.TempDir()
	o := backup.Options{Sources: []string{src}, Type: snapshot.Full, CacheDir: cache}
	first := run(t, open(t, st, repo.Access{Credential: c}), o)
	compare(t, tree(t, st, first.Snapshot), want)
	if first.Stats.New != uint64(len(files)) || len(first.Skipped) != 0 {
		t.Errorf("first: %+v %v", first.Stats, first.Skipped)
	}
	o.Type = snapshot.Incremental
	second := run(t, open(t, st, repo.Access{Credential: c}), o)
	if second.Stats.Unmodified != uint64(len(files)) || second.Stats.BytesRead != 0 || second.Stats.BytesNew > 4096 {
		t.Errorf("second: %+v, stored %+v", second.Stats, second.Stored)
	}
	if at(t, st, second.Snapshot, src) != at(t, st, first.Snapshot, src) {
		t.Error("the tree of an unchanged source changed")
	}
	compare(t, tree(t, st, second.Snapshot), want)
}

func compare(t *testing.T, got, want map[string]string) {
	t.Helper()
	for p, data := range want {
		if g, ok := got[p]; !ok {
			t.Errorf("%s is missing", p)
		} else if g != data {
			t.Errorf("%s differs: %d bytes, want %d", p, len(g), len(data))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
}
