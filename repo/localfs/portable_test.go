package localfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"packhold/repo/snapshot"
)

// TestEverySystem covers what all systems have: files, directories, links, names, times to the microsecond.
func TestEverySystem(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	src, err := OpenDir(dir)
	must(err)
	defer src.Close()
	root, err := os.OpenRoot(dir)
	must(err)
	defer root.Close()
	dst, err := OpenParent(root, "")
	must(err)
	defer dst.Close()

	must(dst.MkDir("dir", 0o700))
	sub, err := dst.Open("dir")
	must(err)
	defer sub.Close()
	f, err := sub.CreateFile("part")
	must(err)
	_, err = f.Write([]byte("hello"))
	must(err)
	var n snapshot.Node
	_, err = sub.Lstat("part", &n)
	must(err)
	n.Mode = 0o444
	n.MTime = snapshot.Time{Sec: 1000000001, Nsec: 123456000}
	PrepareFile(f, &n)
	must(ApplyFile(f, &n, ApplyOptions{}))
	if _, err := sub.CreateFile("part"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	must(f.Close())
	must(sub.Rename("part", "file"))
	must(sub.ApplyLockingFlags("file", &n))
	must(dst.Link(sub, "file", "hard"))
	links := true
	if err := dst.Symlink("dir", "link"); err != nil {
		if runtime.GOOS != "windows" { // where it needs a privilege
			t.Fatal(err)
		}
		links = false
	}
	var d snapshot.Node
	_, err = dst.Lstat("dir", &d)
	must(err)
	d.MTime = snapshot.Time{Sec: 2, Nsec: 3000}
	must(dst.Apply("dir", &d, ApplyOptions{}))

	names, err := src.Names(context.Background())
	must(err)
	want := []string{"dir", "hard", "link"}
	if !links {
		want = want[:2]
	}
	if !slices.Equal(names, want) {
		t.Errorf("names %q", names)
	}
	var got snapshot.Node
	_, err = src.Stat("hard", &got)
	must(err)
	must(src.Details("hard", &got, DetailOptions{}))
	if got.Type != snapshot.File || got.Size != 5 || got.MTime != n.MTime || got.Mode != 0o444 || got.UID != n.UID {
		t.Errorf("file: %+v", got)
	}
	if runtime.GOOS != "windows" && got.Links != 2 {
		t.Errorf("%d links", got.Links)
	}
	_, err = src.Stat("dir", &got)
	must(err)
	if got.Type != snapshot.Dir || got.MTime != d.MTime {
		t.Errorf("directory: %+v", got)
	}
	if err := dst.Apply("dir", &n, ApplyOptions{}); !errors.Is(err, ErrChanged) {
		t.Errorf("file applied to a directory: %v", err)
	}
	if links {
		_, err = src.Stat("link", &got)
		must(err)
		must(src.Details("link", &got, DetailOptions{}))
		if got.Type != snapshot.Symlink || got.Target != "dir" {
			t.Errorf("link: %+v", got)
		}
		got.MTime = snapshot.Time{Sec: 7, Nsec: 8000}
		must(dst.Apply("link", &got, ApplyOptions{}))
		if runtime.GOOS != "windows" {
			_, err = src.Stat("link", &got)
			must(err)
			if got.MTime.Sec != 7 {
				t.Errorf("link: %+v", got)
			}
		}
		if _, err := OpenParent(root, "link"); err == nil {
			t.Error("OpenParent followed a link")
		}
		if _, err := src.Open("link"); err == nil {
			t.Error("Open followed a link")
		}
		if _, err := src.OpenFile("link"); err == nil {
			t.Error("OpenFile followed a link")
		}
	}
	child, err := src.Open("dir")
	must(err)
	defer child.Close()
	r, err := child.OpenFile("file")
	must(err)
	defer r.Close()
	r.Sequential()
	start, end, err := r.NextData(0, 5)
	if start != 0 || end != 5 || err != nil {
		t.Errorf("data from %d to %d, %v", start, end, err)
	}
	if b, err := io.ReadAll(r); !bytes.Equal(b, []byte("hello")) || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	_, err = r.Stat(&got)
	must(err)
	must(r.Details(&got, DetailOptions{}))
	if got.Name != "file" || got.Size != 5 {
		t.Errorf("open file: %+v", got)
	}
	if _, err := src.OpenFile("dir"); !errors.Is(err, ErrNotRegular) {
		t.Errorf("directory opened as a file: %v", err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "x\x00"} {
		if err := dst.MkDir(name, 0o700); !errors.Is(err, ErrName) {
			t.Errorf("MkDir(%q): %v", name, err)
		}
	}
	if err := dst.Remove("dir"); err == nil {
		t.Error("a full directory was removed")
	}
	deep, err := OpenParent(root, "dir")
	must(err)
	defer deep.Close()
	back, err := deep.Source()
	must(err)
	defer back.Close()
	if names, err := back.Names(context.Background()); err != nil || !slices.Equal(names, []string{"file"}) {
		t.Errorf("%q, %v", names, err)
	}
	if runtime.GOOS == "windows" { // read-only files stay
		must(os.Chmod(filepath.Join(dir, "hard"), 0o600))
	}
	must(deep.Remove("file"))
	must(dst.Remove("dir"))
}
