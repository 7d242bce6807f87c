//go:build unix

package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
)

// TestSpecialFiles: a named pipe neither blocks a reader nor is left out silently.
func TestSpecialFiles(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, Options{NoSync: true})
	backendtest.Put(t, s, "packs/ab/cd", "x")
	if err := syscall.Mkfifo(filepath.Join(dir, "packs/ab/pipe"), 0o600); err != nil {
		t.Skip("no named pipes here:", err)
	}
	if got, err := backendtest.Names(t, s, ""); err == nil {
		t.Errorf("the pipe is hidden: %q", got)
	}
	read := make(chan error, 1)
	go func() {
		_, err := s.Get(t.Context(), "packs/ab/pipe", 0, -1)
		read <- err
	}()
	select {
	case err := <-read:
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Get of a pipe blocks")
	}
	if err := s.Delete(t.Context(), "packs/ab/pipe"); err == nil {
		t.Error("a pipe was deleted")
	}
}

// asNobody runs f without the privileges of root. It skips the test if it cannot: the effective user is one per thread on
// Linux, but Go's runtime sets it for all, so nothing else may run at the same time.
func asNobody(t *testing.T, dirs []string, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	const nobody = 65534
	for _, d := range dirs {
		if err := os.Chown(d, nobody, nobody); err != nil {
			backendtest.Lacks(t, "cannot give files away: %v", err)
		}
	}
	if err := syscall.Seteuid(nobody); err != nil {
		backendtest.Lacks(t, "cannot become another user: %v", err)
	}
	defer func() {
		if err := syscall.Seteuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// TestUnreadable: a directory that cannot be read is an error, and no absence.
func TestUnreadable(t *testing.T) {
	base, err := os.MkdirTemp("", "packhold") // unlike t.TempDir() open to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	dir := filepath.Join(base, "repo")
	for _, mode := range []fs.FileMode{0, 0o100, 0o400} {
		s := openTest(t, dir, Options{Create: true, NoSync: true})
		backendtest.Put(t, s, "packs/ab/cd", "x")
		backendtest.Put(t, s, "packs/cd/ef", "x")
		locked := filepath.Join(dir, "packs/ab")
		dirs := []string{base, dir, filepath.Join(dir, tempDir), filepath.Join(dir, "packs"), locked, filepath.Join(dir, "packs/cd")}
		if err := os.Chmod(locked, mode); err != nil {
			t.Fatal(err)
		}
		asNobody(t, dirs, func() {
			s := openTest(t, dir, Options{NoSync: true})
			for _, prefix := range []string{"", "packs/", "packs/ab/"} {
				if got, err := backendtest.Names(t, s, prefix); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("mode %v: List(%q): %q, %v", mode, prefix, got, err)
				}
			}
			if got, err := backendtest.Names(t, s, "packs/cd/"); err != nil || len(got) != 1 {
				t.Errorf("mode %v: beside it: %q, %v", mode, got, err)
			}
			if mode&0o100 == 0 {
				for _, name := range []string{"packs/ab/cd", "packs/ab/none"} {
					if _, err := s.Get(t.Context(), name, 0, -1); !errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
						t.Errorf("mode %v: Get: %v", mode, err)
					}
					if _, err := s.Stat(t.Context(), name); !errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
						t.Errorf("mode %v: Stat: %v", mode, err)
					}
				}
			}
			if err := s.Delete(t.Context(), "packs/ab/cd"); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("mode %v: Delete: %v", mode, err)
			}
			for _, ifAbsent := range []bool{false, true} {
				if err := s.Put(t.Context(), "packs/ab/new", nil, backends.PutOptions{IfAbsent: ifAbsent}); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("mode %v: Put: %v", mode, err)
				}
			}
		})
		backendtest.Empty(t, filepath.Join(dir, tempDir))
		if err := os.Chmod(locked, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClassify(t *testing.T) {
	for errno, want := range map[syscall.Errno]error{
		syscall.ENOSPC: backends.ErrNoSpace, syscall.EDQUOT: backends.ErrNoSpace, syscall.EFBIG: backends.ErrNoSpace,
		syscall.EROFS: fs.ErrPermission, syscall.EACCES: fs.ErrPermission, syscall.EPERM: fs.ErrPermission,
		syscall.EIO: syscall.EIO, syscall.EMFILE: syscall.EMFILE, syscall.ENOENT: fs.ErrNotExist,
	} {
		err := classify(&os.PathError{Op: "x", Path: "y", Err: errno})
		if !errors.Is(err, want) || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
		for _, other := range []error{backends.ErrNoSpace, fs.ErrPermission, backends.ErrGone, fs.ErrNotExist} {
			if other != want && errors.Is(err, other) {
				t.Errorf("%v: %v also matches %v", errno, err, other)
			}
		}
	}
}
