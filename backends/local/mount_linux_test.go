package local

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"packhold/backends"
	"packhold/backends/backendtest"
)

// TestFull fills real file systems, one by bytes and one by files.
func TestFull(t *testing.T) {
	for _, options := range []string{"size=1m", "nr_inodes=40"} {
		t.Run(options, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "disk")
			backendtest.Mount(t, "tmpfs", dir, options)
			s := openTest(t, dir, Options{})
			data := make([]byte, 50_000)
			var stored []string
			for i := 0; ; i++ {
				name := "packs/" + string([]byte{'a' + byte(i/26), 'a' + byte(i%26)})
				err := s.Put(t.Context(), name, data, backends.PutOptions{IfAbsent: i%2 == 0})
				if err != nil {
					if !errors.Is(err, backends.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
						t.Errorf("a full disk: %v", err)
					}
					if _, err := s.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("the file that did not fit: %v", err)
					}
					break
				}
				if stored = append(stored, name); i > 100 {
					t.Fatal("the disk never gets full")
				}
			}
			backendtest.Empty(t, filepath.Join(dir, tempDir))
			if got, err := backendtest.Names(t, s, ""); err != nil || !slices.Equal(got, stored) || len(got) < 10 {
				t.Errorf("%q, %v", got, err)
			}
			// A failed replacement leaves the old bytes. (A tmpfs counts hard links as files, so there only links fail.)
			if err := s.Put(t.Context(), stored[0], make([]byte, 900_000), backends.PutOptions{}); options == "size=1m" && !errors.Is(err, backends.ErrNoSpace) {
				t.Errorf("replacing: %v", err)
			} else if err == nil {
				data = make([]byte, 900_000)
			}
			if got, err := s.Get(t.Context(), stored[0], 0, -1); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			openTest(t, dir, Options{RemoveStale: true}) // works on a full disk
			if err := errors.Join(s.Delete(t.Context(), stored[0]), s.Delete(t.Context(), stored[1])); err != nil {
				t.Fatal(err)
			}
			backendtest.Put(t, s, "packs/zz", "it fits again")
		})
	}
}

// TestUnmounted: the empty mount point that is left when a disk is taken away gets nothing.
func TestUnmounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	backendtest.Mount(t, "tmpfs", dir, "size=1m")
	s := openTest(t, dir, Options{})
	backendtest.Put(t, s, "packs/ab/cd", "x")
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "packs/ab/ef", nil, backends.PutOptions{}); !errors.Is(err, backends.ErrGone) {
		t.Errorf("Put: %v", err)
	}
	if _, err := s.Stat(t.Context(), "packs/ab/ef"); !errors.Is(err, backends.ErrGone) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat: %v", err)
	}
	if _, err := backendtest.Names(t, s, ""); !errors.Is(err, backends.ErrGone) {
		t.Errorf("List: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the mount point holds %v, %v", entries, err)
	}
}

// TestMountedBelow: a directory on another file system is listed, not skipped.
func TestMountedBelow(t *testing.T) {
	dir := t.TempDir()
	backendtest.Mount(t, "tmpfs", filepath.Join(dir, "packs"), "size=1m")
	s := openTest(t, dir, Options{NoSync: true})
	if err := os.WriteFile(filepath.Join(dir, "packs", "a"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	backendtest.Put(t, s, "config", "")
	if got, err := backendtest.Names(t, s, ""); err != nil || !slices.Equal(got, []string{"config", "packs/a"}) {
		t.Errorf("%q, %v", got, err)
	}
	// Names cannot be given across file systems. That is an error, and leaves nothing.
	if err := s.Put(t.Context(), "packs/b", nil, backends.PutOptions{IfAbsent: true}); !errors.Is(err, syscall.EXDEV) {
		t.Errorf("Put: %v", err)
	}
	backendtest.Empty(t, filepath.Join(dir, tempDir))
}

// TestReadOnly: a file system mounted read-only can be read, and says what is wrong when written.
func TestReadOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	backendtest.Mount(t, "tmpfs", dir, "size=1m")
	backendtest.Put(t, openTest(t, dir, Options{}), "packs/ab/cd", "x")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		backendtest.Lacks(t, "cannot remount: %v", err)
	}
	s := openTest(t, dir, Options{})
	if err := s.Put(t.Context(), "packs/ab/ef", nil, backends.PutOptions{}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Put: %v", err)
	}
	if err := s.Delete(t.Context(), "packs/ab/cd"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Delete: %v", err)
	}
	if b, err := s.Get(t.Context(), "packs/ab/cd", 0, -1); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	if got, err := backendtest.Names(t, s, ""); err != nil || len(got) != 1 {
		t.Errorf("%q, %v", got, err)
	}
}
