package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
)

// recorder is a disk that writes down the steps made on it, and can make one fail.
type recorder struct {
	base string // of all names

	mu   sync.Mutex
	log  []string // "step name", the temporary files in order of creation are tmp/1, tmp/2 …
	temp map[string]string
	fail func(n int, step string) error // n counts steps from 0; nil is success
}

// ops returns the operations of the system, recorded. They leave out fsync, which takes seconds here: TestSyncIsReal.
func (r *recorder) ops() ops {
	r.temp = map[string]string{}
	system := systemOps(true)
	file := func(f *os.File) string { return f.Name() }
	in := func(root *os.Root, name string) string { return filepath.Join(root.Name(), name) }
	return ops{
		create: func(root *os.Root, name string) (f *os.File, err error) {
			r.step("create", in(root, name))(&err, func() error { f, err = system.create(root, name); return err })
			return f, err
		},
		write: func(f *os.File, data []byte) (err error) {
			r.step("write", file(f))(&err, func() error { return system.write(f, data) })
			return err
		},
		chmod: func(f *os.File) (err error) {
			r.step("chmod", file(f))(&err, func() error { return system.chmod(f) })
			return err
		},
		syncFile: func(f *os.File) (err error) {
			r.step("syncfile", file(f))(&err, func() error { return system.syncFile(f) })
			return err
		},
		link: func(root *os.Root, from, to string) (err error) {
			r.step("link", in(root, from), in(root, to))(&err, func() error { return system.link(root, from, to) })
			return err
		},
		rename: func(root *os.Root, from, to string) (err error) {
			r.step("rename", in(root, from), in(root, to))(&err, func() error { return system.rename(root, from, to) })
			return err
		},
		mkdir: func(root *os.Root, name string) (err error) {
			r.step("mkdir", in(root, name))(&err, func() error { return system.mkdir(root, name) })
			return err
		},
		syncDir: func(d *os.File) (err error) {
			r.step("syncdir", file(d))(&err, func() error { return system.syncDir(d) })
			return err
		},
		remove: func(root *os.Root, name string) (err error) {
			r.step("remove", in(root, name))(&err, func() error { return system.remove(root, name) })
			return err
		},
		keep: func(f *os.File, until time.Time) (err error) {
			r.step("keep", file(f))(&err, func() error { return system.keep(f, until) })
			return err
		},
		setFlag: func(f *os.File, on bool) (err error) {
			what := "clearflag"
			if on {
				what = "setflag"
			}
			r.step(what, file(f))(&err, func() error { return system.setFlag(f, on) })
			return err
		},
	}
}

// step writes a step down and returns what runs it, or fails it.
func (r *recorder) step(what string, names ...string) func(err *error, run func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		name, _ = filepath.Rel(r.base, name)
		name = filepath.ToSlash(name)
		if path.Base(path.Dir(name)) == tempDir {
			if r.temp[name] == "" {
				r.temp[name] = fmt.Sprintf("%s/%d", path.Dir(name), len(r.temp)+1)
			}
			name = r.temp[name]
		}
		what += " " + name
	}
	n := len(r.log)
	r.log = append(r.log, what)
	var failure error
	if r.fail != nil {
		failure = r.fail(n, what)
	}
	return func(err *error, run func() error) {
		if failure != nil {
			*err = failure
			return
		}
		*err = run()
	}
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	log := r.log
	r.log = nil
	return log
}

func openRecorded(t *testing.T) (*Store, *recorder) {
	t.Helper()
	r := &recorder{base: t.TempDir()}
	s, err := open(r.base, Options{}, r.ops())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	t.Cleanup(func() { unlock(r.base) })
	return s, r
}

func TestOrder(t *testing.T) {
	for _, give := range []string{"rename", "link"} {
		t.Run(give, func(t *testing.T) {
			s, r := openRecorded(t)
			opts := backends.PutOptions{IfAbsent: give == "link"}
			for _, c := range []struct {
				name  string
				fresh []string
				want  []string
			}{
				{"packs/ab/cd", []string{"packs", "packs/ab"}, []string{
					"create tmp/1", "mkdir tmp", "create tmp/2", "write tmp/2", "chmod tmp/2", "syncfile tmp/2",
					"mkdir packs", "mkdir packs/ab", give + " tmp/2 packs/ab/cd", "syncdir packs/ab", "syncdir packs", "syncdir .",
					"remove tmp/2",
				}},
				{"packs/ab/ce", nil, []string{
					"create tmp/3", "write tmp/3", "chmod tmp/3", "syncfile tmp/3", give + " tmp/3 packs/ab/ce", "syncdir packs/ab", "remove tmp/3",
				}},
				{"packs/cd/ef", []string{"packs/cd"}, []string{
					"create tmp/4", "write tmp/4", "chmod tmp/4", "syncfile tmp/4",
					"mkdir packs/cd", give + " tmp/4 packs/cd/ef", "syncdir packs/cd", "syncdir packs", "remove tmp/4",
				}},
				{"config", nil, []string{
					"create tmp/5", "write tmp/5", "chmod tmp/5", "syncfile tmp/5", give + " tmp/5 config", "syncdir .", "remove tmp/5",
				}},
			} {
				if err := s.Put(t.Context(), c.name, []byte("x"), opts); err != nil {
					t.Fatal(err)
				}
				log := r.take()
				if !slices.Equal(log, c.want) {
					t.Errorf("%s:\n got %q\nwant %q", c.name, log, c.want)
				}
				if err := backendtest.Lasts(log, c.name, c.fresh); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				// The law holds for no log that lacks one of the steps it is made of.
				for j, line := range log {
					switch what, _, _ := strings.Cut(line, " "); what {
					case "write", "syncfile", "link", "rename", "syncdir":
						if backendtest.Lasts(slices.Delete(slices.Clone(log), j, j+1), c.name, c.fresh) == nil {
							t.Errorf("%s: without %q all seems well, too", c.name, line)
						}
					}
				}
			}
		})
	}
}

// TestForeignDirectory: a directory that another process made may not have been synchronized yet.
func TestForeignDirectory(t *testing.T) {
	s, r := openRecorded(t)
	if err := os.MkdirAll(filepath.Join(r.base, "packs/ab"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "packs/ab/none"); !errors.Is(err, fs.ErrNotExist) { // has seen it now
		t.Fatal(err)
	}
	backendtest.Put(t, s, "packs/ab/cd", "x")
	if err := backendtest.Lasts(r.take(), "packs/ab/cd", []string{"packs", "packs/ab"}); err != nil {
		t.Error(err)
	}
}

// TestExistsLasts: fs.ErrExist is only said of a file whose name lasts, though another process gave it.
func TestExistsLasts(t *testing.T) {
	s, r := openRecorded(t)
	other := openTest(t, r.base, Options{NoSync: true})
	backendtest.Put(t, other, "snapshots/a/s", "x")
	if err := s.Put(t.Context(), "snapshots/a/s", []byte("x"), backends.PutOptions{IfAbsent: true}); !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	if log, want := r.take(), []string{"syncdir snapshots/a", "syncdir snapshots", "syncdir ."}; !slices.Equal(log, want) {
		t.Errorf("%q, want %q", log, want)
	}
}

func TestCreateRootOrder(t *testing.T) {
	base := t.TempDir()
	r := &recorder{base: base}
	s, err := open(filepath.Join(base, "a/b/c"), Options{Create: true}, r.ops())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if log, want := r.take(), []string{"syncdir a/b", "syncdir a", "syncdir ."}; !slices.Equal(log, want) {
		t.Errorf("%q, want %q", log, want)
	}
}

// TestSyncIsReal: the steps recorded elsewhere reach the system unless NoSync says otherwise.
func TestSyncIsReal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := systemOps(false).syncFile(f); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("fsync of a closed file: %v", err)
	}
	if err := systemOps(true).syncFile(f); err != nil {
		t.Error(err)
	}
	if err := systemOps(true).syncDir(f); err != nil {
		t.Error(err)
	}
	if err := syncDir(f); openFlags != os.O_RDONLY && !errors.Is(err, fs.ErrClosed) {
		t.Errorf("fsync of a closed directory: %v", err)
	}
}

// TestCreateRefuses: a temporary file is never one that was there before, nor reached through a link.
func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, Options{NoSync: true})
	backendtest.Put(t, s, "a", "x")
	symlink(t, "b", filepath.Join(dir, "link"))
	for _, name := range []string{"a", "link"} {
		if _, err := systemOps(true).create(s.root, name); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCancelledWhileWriting: a Put cancelled before its file has a name leaves nothing.
func TestCancelledWhileWriting(t *testing.T) {
	s, r := openRecorded(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.fail = func(_ int, step string) error {
		if strings.HasPrefix(step, "syncfile") {
			cancel()
		}
		return nil
	}
	if err := s.Put(ctx, "a", []byte("x"), backends.PutOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	backendtest.Empty(t, filepath.Join(r.base, tempDir))
}

// TestRemoveStaleOnFullDisk: a storage without room for the file that tells the time can still be opened.
func TestRemoveStaleOnFullDisk(t *testing.T) {
	r := &recorder{base: t.TempDir()}
	backendtest.Put(t, openTest(t, r.base, Options{NoSync: true}), "a", "x")
	for errno, ok := range map[syscall.Errno]bool{syscall.ENOSPC: true, syscall.EIO: false} {
		r.fail = func(int, string) error { return errno }
		s, err := open(r.base, Options{RemoveStale: true}, r.ops())
		if err == nil {
			s.Close()
		}
		if ok != (err == nil) || !ok && !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

// TestRemoveStaleOfOthers: what another user's killed run left may not be ours to remove, and stands in nobody's way.
func TestRemoveStaleOfOthers(t *testing.T) {
	r := &recorder{base: t.TempDir()}
	backendtest.Put(t, openTest(t, r.base, Options{NoSync: true}), "a", "x")
	stale := filepath.Join(r.base, tempDir, strings.Repeat("A", 26))
	if err := os.WriteFile(stale, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	then := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(stale, then, then); err != nil {
		t.Fatal(err)
	}
	removed := 0
	r.fail = func(_ int, what string) error {
		if strings.HasPrefix(what, "remove") {
			if removed++; removed == 2 { // the first is the file that tells the time
				return syscall.EPERM
			}
		}
		return nil
	}
	s, err := open(r.base, Options{RemoveStale: true}, r.ops())
	if err != nil || removed != 2 {
		t.Fatalf("after %d removals: %v", removed, err)
	}
	s.Close()
}

// TestEachStepFails makes every step of a Put fail, one after the other, and looks at what is left and at a second try.
func TestEachStepFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		for _, opts := range []backends.PutOptions{{}, {IfAbsent: true}} {
			for n := 0; ; n++ {
				s, r := openRecorded(t)
				backendtest.Put(t, s, "warm/up", "")
				if !opts.IfAbsent {
					backendtest.Put(t, s, "packs/ab/cd", "old")
				}
				r.take()
				r.fail = func(i int, step string) error {
					if i == n {
						return &os.PathError{Op: "injected", Path: step, Err: errno}
					}
					return nil
				}
				err := s.Put(t.Context(), "packs/ab/cd", []byte("new"), opts)
				log := r.take()
				if len(log) <= n {
					if err != nil {
						t.Errorf("no step failed: %v", err)
					}
					break // all steps have had their turn
				}
				failed := log[n]
				if strings.HasPrefix(failed, "remove") {
					if err != nil {
						t.Errorf("%s failed: %v", failed, err)
					}
					continue
				}
				if !errors.Is(err, errno) || errors.Is(err, fs.ErrExist) || (errno == syscall.ENOSPC) != errors.Is(err, backends.ErrNoSpace) {
					t.Errorf("%s failed: %v", failed, err)
				}
				backendtest.Empty(t, filepath.Join(r.base, tempDir))
				if slices.ContainsFunc(log[n+1:], func(s string) bool { return strings.Contains(s, "sync") }) {
					t.Errorf("after a failed step something was synchronized: %q", log)
				}

				got, err := s.Get(t.Context(), "packs/ab/cd", 0, -1)
				dirLost := strings.HasPrefix(failed, "syncdir")
				switch {
				case dirLost: // Visible or not is left open.
				case opts.IfAbsent && !errors.Is(err, fs.ErrNotExist) || !opts.IfAbsent && string(got) != "old":
					t.Errorf("%s failed: the name holds %q, %v", failed, got, err)
				}

				r.fail = nil
				err = s.Put(t.Context(), "packs/ab/cd", []byte("new"), opts)
				log = r.take()
				if dirLost {
					// Neither success nor fs.ErrExist: both would say that the file lasts.
					if !errors.Is(err, errno) || errors.Is(err, fs.ErrExist) {
						t.Errorf("%s failed: the second try says %v", failed, err)
					}
					if slices.Contains(log, failed) {
						t.Errorf("%s was repeated", failed)
					}
				} else if err != nil {
					t.Errorf("%s failed: the second try says %v", failed, err)
				} else if slices.Contains(log, failed) && strings.HasPrefix(failed, "syncfile") {
					t.Errorf("%s was repeated", failed)
				} else if err := backendtest.Lasts(log, "packs/ab/cd", nil); err != nil {
					t.Error(err)
				}
				backendtest.Put(t, s, "warm/too", "") // other directories are not affected
				backendtest.Empty(t, filepath.Join(r.base, tempDir))
			}
		}
	}
}
