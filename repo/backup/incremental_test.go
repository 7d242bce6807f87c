package backup_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/snapshot"
)

// onDisk reads all regular files below dir.
func onDisk(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		out[p] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mutate makes n random changes below dir. Times are as they come, so changes within one tick of the file system's clock occur.
func mutate(t *testing.T, rnd *rand.Rand, dir string, n int) {
	t.Helper()
	sizes := []int{0, 1, 127, 128, 129, 4096, 70_000, 300_000, 1<<20 - 1, 1 << 20, 1<<20 + 1, 2 << 20}
	for range n {
		parts := []string{dir}
		for range rnd.IntN(3) {
			parts = append(parts, fmt.Sprint("d", rnd.IntN(3)))
		}
		parent := filepath.Join(parts...)
		path := filepath.Join(parent, fmt.Sprint("f", rnd.IntN(12)))
		data := random(byte(rnd.IntN(256)), sizes[rnd.IntN(len(sizes))])
		if rnd.IntN(4) == 0 && len(data) > 200_000 {
			clear(data[4096 : 4096+130_000])
		}
		var err error
		switch rnd.IntN(8) {
		case 0:
			err = os.RemoveAll(path)
		case 1:
			os.RemoveAll(filepath.Join(dir, "moved"))
			os.Rename(parent, filepath.Join(dir, "moved"))
			err = os.MkdirAll(dir, 0o700)
		case 2:
			os.Link(path, path+"link")
		case 3:
			os.Symlink(string(random(1, 5)[:1])+"x", path+"sym")
		case 4:
			os.Chmod(path, os.FileMode(rnd.IntN(0o1000)|0o400))
		case 5: // the same size and mtime, other bytes
			if info, serr := os.Lstat(path); serr == nil && info.Mode().IsRegular() {
				os.WriteFile(path, random(byte(rnd.IntN(256)), int(info.Size())), 0o600)
				os.Chtimes(path, info.ModTime(), info.ModTime())
			}
		default:
			os.RemoveAll(path)
			write(t, path, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever happened, an incremental backup is the tree that a full one is, and both are what is on disk.
func TestIncrementalIsFull(t *testing.T) {
	for range 4 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			src, cache := filepath.Join(t.TempDir(), "src"), t.TempDir()
			st, c := newRepo(t)
			access := repo.Access{Credential: c}
			mutate(t, rnd, src, 20)
			for range 3 {
				want := onDisk(t, src)
				o := backup.Options{Sources: []string{src}, CacheDir: cache, Type: snapshot.Incremental}
				incr := run(t, open(t, st, access), o)
				o.Type = snapshot.Full
				full := run(t, open(t, st, access), o)
				if at(t, st, incr.Snapshot, src) != at(t, st, full.Snapshot, src) {
					t.Error("incremental and full trees differ")
				}
				if full.Snapshot.Stats.BytesNew > 4096 {
					t.Errorf("the full backup found %d bytes that the incremental had not", full.Stats.BytesNew)
				}
				got := tree(t, st, incr.Snapshot)
				compare(t, got, want)
				if s := incr.Stats; s.Files != uint64(len(want)) || s.New+s.Changed+s.Unmodified != s.Files {
					t.Errorf("%d files, stats %+v", len(want), s)
				}
				mutate(t, rnd, src, 8)
			}
		})
	}
}

// Stats count what a walk of the tree counts.
func TestStats(t *testing.T) {
	src := t.TempDir()
	want := variety(t, src)
	if err := os.Symlink("a", filepath.Join(src, "sym")); err != nil {
		t.Fatal(err)
	}
	st, c := newRepo(t)
	p := &hook{}
	o := backup.Options{Sources: []string{src}, Progress: p, CacheDir: t.TempDir()}
	res := run(t, open(t, st, repo.Access{Credential: c}), o)
	_, d := getter(t, st)
	var s snapshot.Stats
	for e, err := range snapshot.Walk(t.Context(), d, res.Snapshot.Root, snapshot.WalkOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Path == "" {
			continue
		}
		switch e.Node.Type {
		case snapshot.File:
			s.Files++
			s.BytesTotal += e.Node.Size
		case snapshot.Dir:
			s.Dirs++
		default:
			s.Others++
		}
	}
	if g := res.Stats; g.Files != s.Files || g.Dirs != s.Dirs || g.Others != s.Others || g.BytesTotal != s.BytesTotal || g.New != s.Files {
		t.Errorf("stats %+v, the tree has %+v", g, s)
	}
	if res.Stats.BytesRead != s.BytesTotal-5000 && res.Stats.BytesRead != s.BytesTotal { // two names of one file may be in work at once
		t.Errorf("%d bytes read of %d", res.Stats.BytesRead, s.BytesTotal)
	}
	if p.files != int64(s.Files) || p.bytes != int64(s.BytesTotal) {
		t.Errorf("progress was told of %d files, %d bytes", p.files, p.bytes)
	}
	write(t, filepath.Join(src, "a/small"), random(50, 5001)) // and so "linked"
	write(t, filepath.Join(src, "b/new"), []byte("new"))
	*p = hook{}
	res = run(t, open(t, st, repo.Access{Credential: c}), o)
	if g := res.Stats; g.New != 1 || g.Changed != 2 || g.Unmodified != uint64(len(want)-2) {
		t.Errorf("then: %+v", g)
	}
	if p.files != int64(res.Stats.Files) || p.bytes != int64(res.Stats.BytesTotal) || p.unread < int64(res.Stats.BytesTotal)-10005 {
		t.Errorf("progress was told of %d files, %d bytes, %d unread", p.files, p.bytes, p.unread)
	}
}

// What changed less than two seconds before the parent began is read again, even if nothing shows.
func TestRacyWindow(t *testing.T) {
	src, cache := t.TempDir(), t.TempDir()
	write(t, filepath.Join(src, "f"), random(1, 1000))
	st, c := newRepo(t)
	o := backup.Options{Sources: []string{src}, CacheDir: cache, Type: snapshot.Incremental}
	for i, test := range []struct {
		ahead      time.Duration // of the parent's clock
		unmodified uint64
	}{{time.Second, 0}, {-time.Hour, 0}, {time.Minute, 1}} {
		r, err := repo.Open(t.Context(), st, repo.Access{Credential: c}, repo.Options{Now: func() time.Time { return time.Now().Add(test.ahead) }})
		if err != nil {
			t.Fatal(err)
		}
		run(t, r, o)
		r, err = repo.Open(t.Context(), st, repo.Access{Credential: c}, repo.Options{Now: func() time.Time { return time.Now().Add(test.ahead) }})
		if err != nil {
			t.Fatal(err)
		}
		if res := run(t, r, o); res.Stats.Unmodified != test.unmodified {
			t.Errorf("%d: %+v", i, res.Stats)
		}
	}
}

// A change that keeps size and mtime shows in the ctime; and the ctime has its racy window too.
func TestHiddenChange(t *testing.T) {
	src, cache := t.TempDir(), t.TempDir()
	path, past := filepath.Join(src, "f"), time.Now().Add(-1000*time.Hour)
	st, c := newRepo(t)
	o := backup.Options{Sources: []string{src}, CacheDir: cache, Type: snapshot.Incremental}
	for i := range 3 {
		write(t, path, random(byte(i), 1000))
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
		res := run(t, open(t, st, repo.Access{Credential: c}), o)
		compare(t, tree(t, st, res.Snapshot), map[string]string{path: string(random(byte(i), 1000))})
		if s := res.Stats; s.New+s.Changed != 1 {
			t.Errorf("%d: %+v", i, s)
		}
	}
	for range 2 { // the parent of the second began now
		r, err := repo.Open(t.Context(), st, repo.Access{Credential: c}, repo.Options{})
		if err != nil {
			t.Fatal(err)
		}
		o.Type = snapshot.Full
		run(t, r, o)
		o.Type = snapshot.Incremental
		if r, err = repo.Open(t.Context(), st, repo.Access{Credential: c}, repo.Options{}); err != nil {
			t.Fatal(err)
		}
		if res := run(t, r, o); res.Stats.Changed != 1 {
			t.Errorf("in the racy window: %+v", res.Stats)
		}
	}
}

func TestDifferential(t *testing.T) {
	src, cache := t.TempDir(), t.TempDir()
	st, c := newRepo(t)
	access := repo.Access{Credential: c}
	o := backup.Options{Sources: []string{src}, CacheDir: cache}
	var full *repo.Snapshot
	for i, kind := range []snapshot.BackupType{snapshot.Differential, snapshot.Full, snapshot.Incremental, snapshot.Differential, snapshot.Incremental, snapshot.Differential} {
		write(t, filepath.Join(src, fmt.Sprint("f", i)), random(byte(i), 1000))
		o.Type = kind
		res := run(t, open(t, st, access), o)
		compare(t, tree(t, st, res.Snapshot), onDisk(t, src))
		switch {
		case kind == snapshot.Full:
			full = res.Snapshot
			if res.Parent != nil || res.Stats.New != 2 {
				t.Errorf("full: parent %v, %+v", res.Parent, res.Stats)
			}
		case i == 0:
			if res.Parent != nil {
				t.Error("a differential backup without a full one has a parent")
			}
		case kind == snapshot.Differential:
			if res.Parent.ID() != full.ID() || res.Snapshot.Parent != full.Session || res.Stats.New != uint64(i-1) || res.Stats.Unmodified != 2 {
				t.Errorf("%d: parent %v, %+v", i, res.Parent.ID(), res.Stats)
			}
		default:
			if res.Parent.Number != res.Snapshot.Number-1 || res.Stats.New != 1 || res.Stats.Unmodified != uint64(i) {
				t.Errorf("%d: parent %v, %+v", i, res.Parent.ID(), res.Stats)
			}
		}
	}
	if files, _ := filepath.Glob(cache + "/trees/*"); len(files) != 2 { // the last and the last full one
		t.Errorf("caches %q", files)
	}
}

// Whatever happens to the cache costs time only.
func TestCacheDamage(t *testing.T) {
	src, cache := t.TempDir(), t.TempDir()
	want := variety(t, src)
	for i := range 1500 { // several pages and blocks
		write(t, filepath.Join(src, "wide", fmt.Sprint(i)), []byte{byte(i)})
		want[filepath.Join(src, "wide", fmt.Sprint(i))] = string([]byte{byte(i)})
	}
	st, c := newRepo(t)
	access := repo.Access{Credential: c}
	o := backup.Options{Sources: []string{src}, CacheDir: cache, Type: snapshot.Incremental}
	first := run(t, open(t, st, access), o)
	file, err := filepath.Glob(cache + "/trees/*")
	if err != nil || len(file) != 1 {
		t.Fatal(file, err)
	}
	good, err := os.ReadFile(file[0])
	if err != nil {
		t.Fatal(err)
	}
	root := at(t, st, first.Snapshot, src)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	damage := map[string]func() []byte{
		"missing": func() []byte { return nil },
		"empty":   func() []byte { return []byte{} },
		"short":   func() []byte { return good[:7] },
		"table":   func() []byte { return good[len(good)-8:] },
		"huge":    func() []byte { return append(slices.Clone(good[:len(good)-8]), bytes.Repeat([]byte{255}, 8)...) },
		"zeros":   func() []byte { return make([]byte, len(good)) },
		"doubled": func() []byte { return append(slices.Clone(good), good...) },
	}
	for i := range 4 {
		damage[fmt.Sprint("bit ", i)] = func() []byte {
			b := slices.Clone(good)
			b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
			return b
		}
		damage[fmt.Sprint("cut ", i)] = func() []byte { return good[:rnd.IntN(len(good))] }
	}
	for name, change := range damage {
		st := st.Clone()
		os.RemoveAll(cache)
		if b := change(); b != nil {
			write(t, file[0], b)
		}
		// And while it is in use.
		o.Progress = &hook{start: func(string) { os.Truncate(file[0], 100) }}
		res := run(t, open(t, st, access), o)
		if res.CacheErr != nil {
			t.Errorf("%s: %v", name, res.CacheErr)
		}
		if strings.HasSuffix(name, " 0") && at(t, st, res.Snapshot, src) != root { // this opens the repository with the passphrase: a sample will do
			t.Errorf("%s: another tree", name)
		}
		if s := res.Stats; s.Files != uint64(len(want)) || s.BytesNew > 4096 {
			t.Errorf("%s: %+v", name, s)
		}
	}
	// The cache of another snapshot, under this one's name, is other trees of the same key: only equal pages are taken from it.
	os.RemoveAll(cache)
	write(t, filepath.Join(src, "many/x"), random(99, 350))
	want[filepath.Join(src, "many/x")] = string(random(99, 350))
	second := run(t, open(t, st, access), o)
	file, _ = filepath.Glob(cache + "/trees/*")
	write(t, file[0], good)
	third := run(t, open(t, st, access), o)
	if at(t, st, third.Snapshot, src) != at(t, st, second.Snapshot, src) {
		t.Error("a swapped cache made another tree")
	}
	compare(t, tree(t, st, third.Snapshot), want)
	// A cache that cannot be written is no reason to fail.
	os.RemoveAll(cache)
	write(t, cache, []byte("a file"))
	if res := run(t, open(t, st, access), o); res.CacheErr == nil || res.Snapshot == nil {
		t.Error("no error for the cache")
	}
}

// With the passphrase the parent is read from the repository.
func TestParentFromRepository(t *testing.T) {
	src := t.TempDir()
	want := variety(t, src)
	st, c := newRepo(t)
	o := backup.Options{Sources: []string{src}, Type: snapshot.Incremental}
	run(t, open(t, st, repo.Access{Credential: c}), o)
	if res := run(t, open(t, st, repo.Access{Credential: c}), o); res.Stats.Unmodified != 0 || res.Stats.BytesNew > 4096 {
		t.Errorf("without cache and passphrase: %+v", res.Stats)
	}
	res := run(t, open(t, st, repo.Access{Credential: c, Passphrase: []byte(passphrase)}), o)
	if res.Stats.Unmodified != uint64(len(want)) || res.Stats.BytesRead != 0 {
		t.Errorf("with the passphrase: %+v", res.Stats)
	}
	compare(t, tree(t, st, res.Snapshot), want)
}

// Blobs that are gone from the repository are stored again, though the cache still knows them.
func TestLostBlobs(t *testing.T) {
	src, cache := t.TempDir(), t.TempDir()
	want := variety(t, src)
	sparse(t, filepath.Join(src, "holes"), 1100)
	want[filepath.Join(src, "holes")] = string(read(t, filepath.Join(src, "holes")))
	st, c := newRepo(t)
	o := backup.Options{Sources: []string{src}, CacheDir: cache, Type: snapshot.Incremental}
	run(t, open(t, st, repo.Access{Credential: c}), o)
	for _, prefix := range []string{"packs/", "meta/"} {
		st := st.Clone()
		drop(t, st, prefix, "index/")
		res := run(t, open(t, st, repo.Access{Credential: c}), o)
		if prefix == "packs/" && res.Stats.BytesRead == 0 {
			t.Error("nothing was read again")
		}
		compare(t, tree(t, st, res.Snapshot), want)
	}
}

func drop(t *testing.T, st *mem.Store, prefixes ...string) {
	t.Helper()
	var names []string
	for _, p := range prefixes {
		for info, err := range backends.Storage(st).List(t.Context(), p) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, info.Name)
		}
	}
	for _, n := range names {
		if err := st.Delete(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sparse makes a file of n stretches of one data and one missing block, with a hole at both ends.
func sparse(t *testing.T, path string, n int) {
	t.Helper()
	const block = 4096
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range n {
		if _, err := f.WriteAt(random(byte(i), block), int64(2*i+1)*block); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(int64(2*n+1) * block); err != nil {
		t.Fatal(err)
	}
}
