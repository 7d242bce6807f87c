package compare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"packhold/crypt"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// noPages has no blob: nodes here hold all that is said of them.
type noPages struct{}

var errPage = errors.New("no page")

func (noPages) Get(context.Context, crypt.ID) ([]byte, error) { return nil, errPage }

// node describes a file as a backup does, its bytes cut into chunks of 1,000.
func node(t *testing.T, dir, name string) *snapshot.Node {
	t.Helper()
	d, err := localfs.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	n := new(snapshot.Node)
	if _, err := d.Stat(name, n); err != nil {
		t.Fatal(err)
	}
	if err := d.Details(name, n, localfs.DetailOptions{}); err != nil {
		t.Fatal(err)
	}
	n.Name = name
	if n.Type != snapshot.File {
		return n
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	for len(b) > 0 {
		k := min(len(b), 1000)
		n.Extents = append(n.Extents, snapshot.Extent{Kind: snapshot.Data, Length: uint64(k), ID: crypt.Sum(b[:k])})
		b = b[k:]
	}
	return n
}

func TestRun(t *testing.T) {
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		change func(dir string) error
		want   []string // what differs, and where
	}{
		"nothing":  {func(string) error { return nil }, nil},
		"a byte":   {func(dir string) error { return flip(dir+"/sub/file", 1500) }, []string{"/sub/file content 1000+1000"}},
		"the end":  {func(dir string) error { return os.Truncate(dir+"/sub/file", 2500) }, []string{"/sub/file content 2000+1000", "/sub/file size"}},
		"the mode": {func(dir string) error { return os.Chmod(dir+"/sub/file", 0o600) }, []string{"/sub/file mode"}},
		"a link":   {func(dir string) error { return errors.Join(os.Remove(dir+"/link"), os.Symlink("x", dir+"/link")) }, []string{"/link target"}},
		"the type": {func(dir string) error { return errors.Join(os.Remove(dir+"/link"), os.Mkdir(dir+"/link", 0o755)) }, []string{"/link type"}},
		"gone":     {func(dir string) error { return os.Remove(dir + "/sub/file") }, []string{"/sub/file reading"}},
		"all gone": {func(dir string) error { return os.RemoveAll(dir + "/sub") }, []string{"/sub reading"}},
	} {
		dir := t.TempDir()
		if err := errors.Join(os.Mkdir(dir+"/sub", 0o755), os.Symlink("target", dir+"/link")); err != nil {
			t.Fatal(err)
		}
		write(dir+"/sub/file", strings.Repeat("0123456789", 300))
		entries := []Entry{{Node: node(t, dir, "link"), Path: "/link", Depth: 1, Meta: true}, {Node: node(t, dir, "sub"), Path: "/sub", Depth: 1, Meta: true},
			{Node: node(t, filepath.Join(dir, "sub"), "file"), Path: "/sub/file", Depth: 2, Meta: true, Content: true}}
		times := map[string]os.FileInfo{}
		for _, p := range []string{"sub/file", "sub"} {
			info, err := os.Stat(filepath.Join(dir, p))
			if err != nil {
				t.Fatal(err)
			}
			times[p] = info
		}
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{"sub/file", "sub"} { // times are not what is tried
			_ = os.Chtimes(filepath.Join(dir, p), times[p].ModTime(), times[p].ModTime())
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		var mu sync.Mutex
		var got []string
		err = Run(t.Context(), root, func(_ context.Context, f func(Entry) error) error {
			for _, e := range entries {
				if err := f(e); err != nil {
					return err
				}
			}
			return nil
		}, Options{Pages: noPages{}, Damaged: func(err error) bool { return errors.Is(err, errPage) }, Workers: 3, Done: func(int64, int64) {}, Mismatch: func(m Mismatch) {
			mu.Lock()
			defer mu.Unlock()
			text := m.Path + " " + m.What
			if m.What == "content" {
				text += fmt.Sprintf(" %d+%d", m.Off, m.N)
			}
			if m.What != "modification time" || m.Path != "/link" { // a new link has its own
				got = append(got, text)
			}
		}})
		slices.Sort(got)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("X"), at)
	return errors.Join(err, f.Close())
}

// An error of the walk ends the comparison, and so does a context.
func TestRunEnds(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	o := Options{Pages: noPages{}, Damaged: func(error) bool { return false }, Workers: 1, Done: func(int64, int64) {}, Mismatch: func(Mismatch) {}}
	stop := errors.New("the walk fails")
	if err := Run(t.Context(), root, func(context.Context, func(Entry) error) error { return stop }, o); !errors.Is(err, stop) {
		t.Error(err)
	}
	lost := &snapshot.Node{Name: "x", Type: snapshot.File, ExtentBlobs: []crypt.ID{{1}}}
	if err := Run(t.Context(), root, func(_ context.Context, f func(Entry) error) error {
		return f(Entry{Node: lost, Path: "/x", Depth: 1, Content: true})
	}, o); !errors.Is(err, errPage) {
		t.Error(err)
	}
}
