package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
)

func openTest(t *testing.T, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	t.Cleanup(func() { unlock(dir) })
	return s
}

// unlock takes the flag off all files below dir, so that it can be removed.
func unlock(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if f, err := os.Open(path); err == nil {
			_ = setFlag(f, false)
			f.Close()
		}
		return nil
	})
}

func TestStorage(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backends.Storage {
		dir := t.TempDir()
		t.Cleanup(func() { backendtest.Empty(t, filepath.Join(dir, tempDir)) })
		return openTest(t, dir, Options{NoSync: true})
	})
}

// TestStorageTwice: two stores, as two processes have them, keep the contract together.
func TestStorageTwice(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backends.Storage {
		dir := t.TempDir()
		return backendtest.Alternate(openTest(t, dir, Options{NoSync: true}), openTest(t, dir, Options{NoSync: true}))
	})
}

// TestStorageWithoutLinks: where link(2) is refused as vfat does, the rename that refuses an existing target stands in.
func TestStorageWithoutLinks(t *testing.T) {
	ops := systemOps(true)
	ops.link = func(root *os.Root, from, to string) error {
		return withoutLinks(root, from, to, &os.LinkError{Op: "link", Old: from, New: to, Err: fs.ErrPermission})
	}
	open := func(t *testing.T) *Store {
		dir := t.TempDir()
		s, err := open(dir, Options{}, ops)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close(); backendtest.Empty(t, filepath.Join(dir, tempDir)); unlock(dir) })
		return s
	}
	err := open(t).Put(t.Context(), "a", nil, backends.PutOptions{IfAbsent: true})
	if errors.Is(err, backends.ErrUnsupported) {
		if runtime.GOOS == "linux" {
			t.Skip("this file system has no RENAME_NOREPLACE:", err)
		}
		return // as documented
	}
	if err != nil {
		t.Fatal(err)
	}
	backendtest.Run(t, func(t *testing.T) backends.Storage { return open(t) })
}

func TestNoExclusiveCreate(t *testing.T) {
	dir := t.TempDir()
	ops := systemOps(true)
	ops.link = func(*os.Root, string, string) error {
		return fmt.Errorf("%w: %w", backends.ErrUnsupported, fs.ErrPermission)
	}
	s, err := open(dir, Options{}, ops)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Put(t.Context(), "a", nil, backends.PutOptions{IfAbsent: true}); !errors.Is(err, backends.ErrUnsupported) {
		t.Error(err)
	}
	backendtest.Put(t, s, "a", "x") // works without
	backendtest.Empty(t, filepath.Join(dir, tempDir))
}

func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if _, err := Open(dir, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it was made")
	}
	backendtest.Put(t, openTest(t, dir, Options{Create: true}), "x", "1")
	again := openTest(t, dir, Options{Create: true})
	if b, err := again.Get(t.Context(), "x", 0, -1); err != nil || string(b) != "1" {
		t.Errorf("%q, %v", b, err)
	}
	file := filepath.Join(dir, "x")
	if _, err := Open(file, Options{}); err == nil {
		t.Error("a file is opened as a directory")
	}
	if _, err := Open(file, Options{Create: true}); err == nil {
		t.Error("a file is opened as a directory")
	}
	// Opening and reading write nothing.
	empty := t.TempDir()
	s := openTest(t, empty, Options{RemoveStale: true})
	if names, err := backendtest.Names(t, s, ""); err != nil || len(names) != 0 {
		t.Errorf("%q, %v", names, err)
	}
	if entries, err := os.ReadDir(empty); err != nil || len(entries) != 0 {
		t.Errorf("reading wrote %v, %v", entries, err)
	}
}

func TestRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	s := openTest(t, "repo", Options{Create: true, NoSync: true})
	t.Chdir(t.TempDir())
	backendtest.Put(t, s, "a/b", "x")
	if _, err := s.Stat(t.Context(), "a/b"); err != nil {
		t.Error(err)
	}
}

func TestModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such modes")
	}
	dir := filepath.Join(t.TempDir(), "repo")
	s := openTest(t, dir, Options{Create: true, NoSync: true})
	backendtest.Put(t, s, "packs/ab/cd", "x")
	if err := s.Put(t.Context(), "snapshots/s", nil, backends.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		".": fs.ModeDir | 0o700, "packs": fs.ModeDir | 0o700, "packs/ab": fs.ModeDir | 0o700, "tmp": fs.ModeDir | 0o700,
		"packs/ab/cd": 0o400, "snapshots/s": 0o400,
	} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, want %v, %v", name, info.Mode(), want, err)
		}
	}
}

func TestSorted(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{NoSync: true})
	names := []string{"a-b", "a-c/x", "a.b", "a/c", "a/d/e", "a0", "a_/x", "ab/y", "b"}
	for _, i := range []int{4, 8, 0, 2, 7, 1, 6, 3, 5} {
		backendtest.Put(t, s, names[i], "")
	}
	if got, err := backendtest.Names(t, s, ""); err != nil || !slices.Equal(got, names) || !slices.IsSorted(got) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestForeign: files that are not ours are left out and left alone.
func TestForeign(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, Options{NoSync: true})
	backendtest.Put(t, s, "packs/ab/cd", "x")
	for _, name := range []string{
		".DS_Store", "packs/.DS_Store", "packs/ab/Thumbs.db", "packs/ab/cd.tmp", "packs/ab/.nfs0001", "packs/ab/._cd", "packs/ab/CD",
		"packs/ab/cd.partial~", "lost+found/x", ".snapshot/hourly/packs/ab/cd", "tmp/leftover", "Packs2/ab/cd", "packs/ab/" + strings.Repeat("x", 250),
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range []string{"", "packs/", "packs/ab/"} {
		if got, err := backendtest.Names(t, s, prefix); err != nil || !slices.Equal(got, []string{"packs/ab/cd"}) {
			t.Errorf("%q: %q, %v", prefix, got, err)
		}
	}
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Skip("no symbolic links here:", err)
	}
}

// TestSymlinks: a link is never followed, and makes a listing fail rather than come out short.
func TestSymlinks(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "file"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ what, link, target, file string }{
		{"directory inside", "packs/link", "ab", "packs/link/cd"},
		{"directory outside", "packs/link", outside, "packs/link/file"},
		{"top directory inside", "link", "packs/ab", "link/cd"},
		{"file inside", "packs/ab/link", "cd", "packs/ab/link"},
		{"file outside", "packs/ab/link", filepath.Join(outside, "file"), "packs/ab/link"},
		{"dangling", "packs/link", "nowhere", "packs/link"},
		{"loop", "packs/link", "link", "packs/link"},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			s := openTest(t, dir, Options{NoSync: true})
			backendtest.Put(t, s, "packs/ab/cd", "x")
			symlink(t, c.target, filepath.Join(dir, c.link))
			if got, err := backendtest.Names(t, s, ""); err == nil {
				t.Errorf("the listing hides the link: %q", got)
			}
			linked := c.file
			if b, err := s.Get(t.Context(), linked, 0, -1); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Get: %q, %v", b, err)
			}
			if _, err := s.Stat(t.Context(), linked); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Stat: %v", err)
			}
			if err := s.Delete(t.Context(), linked); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Delete: %v", err)
			}
			if c.link != c.file {
				for _, ifAbsent := range []bool{true, false} {
					if err := s.Put(t.Context(), c.link+"/new", []byte("y"), backends.PutOptions{IfAbsent: ifAbsent}); err == nil {
						t.Error("a Put went through the link")
					}
				}
				if _, err := backendtest.Names(t, s, c.link+"/"); err == nil {
					t.Error("the link is listed as a directory")
				}
			}
			if b, err := os.ReadFile(filepath.Join(outside, "file")); err != nil || string(b) != "secret" {
				t.Errorf("outside: %q, %v", b, err)
			}
			if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
				t.Errorf("outside: %v, %v", entries, err)
			}
			if b, err := s.Get(t.Context(), "packs/ab/cd", 0, -1); err != nil || string(b) != "x" {
				t.Errorf("the file beside: %q, %v", b, err)
			}
		})
	}
}

// TestRootGone: a root that was removed, moved away or replaced makes every call fail, never with "does not exist", and
// comes back by itself in no case.
func TestRootGone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows lets nobody move an open directory")
	}
	for _, c := range []struct {
		what   string
		gone   func(dir string) error
		exists bool // a directory is at the path after
	}{
		{"removed", os.RemoveAll, false},
		{"moved", func(dir string) error { return os.Rename(dir, dir+"-old") }, false},
		{"replaced by an empty one", func(dir string) error {
			return errors.Join(os.Rename(dir, dir+"-old"), os.Mkdir(dir, 0o700))
		}, true},
		{"removed and made again", func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)) }, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "repo")
			s := openTest(t, dir, Options{Create: true, NoSync: true})
			backendtest.Put(t, s, "packs/ab/cd", "x")
			if err := c.gone(dir); err != nil {
				t.Fatal(err)
			}
			check := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, backends.ErrGone) || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", what, err)
				}
			}
			for _, ifAbsent := range []bool{false, true} {
				for _, name := range []string{"new", "packs/ab/new", "packs/ab/cd", "new/dir/file"} {
					check("Put", s.Put(t.Context(), name, []byte("x"), backends.PutOptions{IfAbsent: ifAbsent}))
				}
			}
			_, err := s.Get(t.Context(), "packs/ab/other", 0, -1)
			check("Get", err)
			_, err = s.Stat(t.Context(), "packs/ab/other")
			check("Stat", err)
			check("Delete", s.Delete(t.Context(), "packs/ab/cd"))
			for _, prefix := range []string{"", "packs/", "other/"} {
				_, err = backendtest.Names(t, s, prefix)
				check("List "+prefix, err)
			}
			entries, err := os.ReadDir(dir)
			if c.exists && (err != nil || len(entries) != 0) || !c.exists && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the directory was filled or made again: %v, %v", entries, err)
			}
		})
	}
}

// TestRootGoneWhileListing: what was listed until then may be a part only.
func TestRootGoneWhileListing(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows lets nobody move an open directory")
	}
	dir := filepath.Join(t.TempDir(), "repo")
	s := openTest(t, dir, Options{Create: true, NoSync: true})
	backendtest.Put(t, s, "a", "")
	backendtest.Put(t, s, "b", "")
	var last error
	for _, err := range s.List(t.Context(), "") {
		if last = err; err == nil {
			_ = os.Rename(dir, dir+"-old")
		}
	}
	if !errors.Is(last, backends.ErrGone) {
		t.Errorf("the listing ended with %v", last)
	}
}

// TestDirectoryRemoved: one that a Store has used and someone removed, for being empty, is made again.
func TestDirectoryRemoved(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, Options{NoSync: true})
	for _, ifAbsent := range []bool{false, true} {
		backendtest.Put(t, s, "packs/ab/cd", "x")
		for _, name := range []string{"packs", "tmp"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Stat(t.Context(), "packs/ab/cd"); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		if err := s.Put(t.Context(), "packs/ab/ef", []byte("y"), backends.PutOptions{IfAbsent: ifAbsent}); err != nil {
			t.Fatal(err)
		}
		if got, err := backendtest.Names(t, s, ""); err != nil || !slices.Equal(got, []string{"packs/ab/ef"}) {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestRemoveStale(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, Options{NoSync: true})
	backendtest.Put(t, s, "a", "x")
	const fresh, young, stale = "AAAAAAAAAAAAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBBBBBBBBBBBB", "CCCCCCCCCCCCCCCCCCCCCCCCCC"
	for name, age := range map[string]time.Duration{fresh: 0, young: 23 * time.Hour, stale: 25 * time.Hour, "foreign": 99 * time.Hour} {
		name = filepath.Join(dir, tempDir, name)
		if err := os.WriteFile(name, []byte("x"), 0o400); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(name, then, then); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (names []string) {
		entries, err := os.ReadDir(filepath.Join(dir, tempDir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	openTest(t, dir, Options{})
	if got := left(); len(got) != 4 {
		t.Errorf("unasked, %q are left", got)
	}
	openTest(t, dir, Options{RemoveStale: true})
	if got := left(); !slices.Equal(got, []string{fresh, young, "foreign"}) {
		t.Errorf("%q are left", got)
	}
	if b, err := s.Get(t.Context(), "a", 0, -1); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestGetMany: concurrent reads of ranges do not mix.
func TestGetMany(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{NoSync: true})
	data := make([]byte, 1<<16)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	backendtest.Put(t, s, "f", string(data))
	done := make(chan error)
	for g := range 8 {
		go func() {
			var err error
			for i := range 100 {
				off := (g*7919 + i*104729) % len(data)
				n := (i * 31) % (len(data) - off + 1)
				got, getErr := s.Get(t.Context(), "f", int64(off), int64(n))
				if getErr != nil || !bytes.Equal(got, data[off:off+n]) {
					err = fmt.Errorf("Get(%d, %d): %w", off, n, getErr)
				}
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
