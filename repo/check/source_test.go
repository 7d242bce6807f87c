package check_test

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/check"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// pages holds tree pages by ID.
type pages map[crypt.ID][]byte

func (p pages) Get(_ context.Context, id crypt.ID) ([]byte, error) {
	if b, ok := p[id]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

func (p pages) put(b []byte) (crypt.ID, error) {
	id := crypt.Sum(b)
	p[id] = append([]byte(nil), b...)
	return id, nil
}

// dirOf stores a directory.
func dirOf(t *testing.T, p pages, nodes ...*snapshot.Node) crypt.ID {
	t.Helper()
	w := snapshot.NewDirWriter(p.put)
	for _, n := range nodes {
		if err := w.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	id, _, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A file with other bytes and the times of the backup is rotten; one with other times was changed, one that is missing is gone.
func TestSource(t *testing.T) {
	dir := t.TempDir()
	h := func() *localfs.Dir {
		d, err := localfs.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	node := func(name, live, saved string) *snapshot.Node {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(live), 0o600); err != nil {
			t.Fatal(err)
		}
		var n snapshot.Node
		d := h()
		if _, err := d.Stat(name, &n); err != nil {
			t.Fatal(err)
		}
		if err := d.Details(name, &n, localfs.DetailOptions{}); err != nil {
			t.Fatal(err)
		}
		n.Name, n.Size, n.Device = name, uint64(len(saved)), 0
		n.Extents = []snapshot.Extent{{Kind: snapshot.Data, Length: uint64(len(saved)), ID: crypt.Sum([]byte(saved))}}
		return &n
	}
	long := string(make([]byte, 200))
	good := node("a-good", long+"1", long+"1")
	changed := node("b-changed", long+"1", long+"2")
	changed.CTime.Nsec ^= 1
	set := node("c-times-set-back", long+"1", long+"2")
	set.CTime.Sec--
	gone := node("d-gone", long+"1", long+"1")
	longer := node("e-longer", long+"11", long+"1")
	rotten := node("f-rotten", long+"1", long+"2")
	touched := node("g-touched", long+"1", long+"1")
	touched.MTime.Sec++
	if err := os.Remove(filepath.Join(dir, "d-gone")); err != nil {
		t.Fatal(err)
	}
	p := make(pages)
	root := dirOf(t, p, good, changed, set, gone, longer, rotten, touched)
	parts := []string{}
	for rest := dir; rest != "/"; rest = filepath.Dir(rest) {
		parts = append(parts, filepath.Base(rest))
	}
	for _, name := range parts {
		root = dirOf(t, p, &snapshot.Node{Name: name, Type: snapshot.Dir, Mode: 0o700, Subtree: root})
	}
	s := new(repo.Snapshot)
	s.Root = root
	compare := func(start time.Time, sample float64, sources ...string) map[string]check.Change {
		s.Start = snapshot.Time{Sec: start.Unix()}
		rep, err := check.Source(t.Context(), s, check.SourceOptions{Pages: p, Sources: sources, Sample: sample})
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]check.Change)
		for _, d := range rep.Differences {
			got[filepath.Base(d.Path)] = d.Change
		}
		return got
	}
	want := map[string]check.Change{"b-changed": check.Changed, "c-times-set-back": check.Changed, "d-gone": check.Gone, "e-longer": check.Changed, "f-rotten": check.Rotten, "g-touched": check.Changed}
	later := time.Now().Add(time.Hour)
	if got := compare(later, 0, dir); !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	// Times that the clock does not tell apart prove nothing.
	want["f-rotten"] = check.Changed
	if got := compare(time.Now(), 0, dir); !maps.Equal(got, want) {
		t.Errorf("just changed: got %v\nwant %v", got, want)
	}
	if got := compare(later, 0, filepath.Join(dir, "f-rotten")); !maps.Equal(got, map[string]check.Change{"f-rotten": check.Rotten}) {
		t.Errorf("a source that is a file: %v", got)
	}
	if got := compare(later, 1e-9, dir); len(got) != 0 {
		t.Errorf("a sample of nearly nothing: %v", got)
	}
}
