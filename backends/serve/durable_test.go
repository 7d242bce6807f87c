//go:build linux || darwin || freebsd

package serve

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"packhold/backends/backendtest"
)

// recorder writes down the steps that change the disk, and can make one fail.
type recorder struct {
	mu   sync.Mutex
	log  []string
	fail func(n int, step string) error // n counts steps from 0; nil is success
	n    int
}

func (r *recorder) step(run func() error, what ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	step := strings.Join(what, " ")
	r.log = append(r.log, step)
	r.n++
	if r.fail != nil {
		if err := r.fail(r.n-1, step); err != nil {
			return &fs.PathError{Op: what[0], Path: step, Err: err}
		}
	}
	return run()
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	log := r.log
	r.log = nil
	return log
}

// ops are the system's, recorded, without fsync: TestSyncIsReal.
func (r *recorder) ops() ops {
	o := quick()
	file := func(f *os.File) string { return path.Join(path.Base(path.Dir(f.Name())), path.Base(f.Name())) }
	named := func(what string, give func(*os.Root, string, string) error) func(*os.Root, string, string) error {
		return func(root *os.Root, from, to string) error {
			return r.step(func() error { return give(root, from, to) }, what, from, to)
		}
	}
	return ops{
		lock: o.lock,
		create: func(root *os.Root, name string, flags int) (f *os.File, err error) {
			err = r.step(func() error { f, err = o.create(root, name, flags); return err }, "create", name)
			return f, err
		},
		write: func(f *os.File, data []byte, off int64) error {
			return r.step(func() error { return o.write(f, data, off) }, "write", file(f))
		},
		truncate: func(f *os.File, size int64) error {
			return r.step(func() error { return o.truncate(f, size) }, "write", file(f))
		},
		syncFile: func(f *os.File) error { return r.step(func() error { return o.syncFile(f) }, "syncfile", file(f)) },
		link:     named("link", o.link),
		rename:   named("rename", o.rename),
		replace:  named("rename", o.replace),
		mkdir: func(root *os.Root, name string) error {
			return r.step(func() error { return o.mkdir(root, name) }, "mkdir", name)
		},
		syncDir: func(root *os.Root, name string) error {
			return r.step(func() error { return o.syncDir(root, name) }, "syncdir", name)
		},
		remove: func(root *os.Root, name string) error {
			return r.step(func() error { return o.remove(root, name) }, "remove", name)
		},
	}
}

var gives = []verb{verbRename, verbPosixRename, verbHardlink}

// TestOrder: what is synchronized before an answer, and that nothing is twice.
func TestOrder(t *testing.T) {
	for _, v := range gives {
		t.Run(string(v), func(t *testing.T) {
			word := map[bool]string{true: "link", false: "rename"}[v == verbHardlink]
			dir, r := t.TempDir(), &recorder{}
			c := start(t, dir, Options{AppendOnly: true}, r.ops())
			want := func(what string, want ...string) {
				t.Helper()
				if got := r.take(); !slices.Equal(got, want) {
					t.Errorf("%s:\n got %q\nwant %q", what, got, want)
				}
			}
			h := c.creates(t, "tmp/a", "x")
			want("create", "mkdir tmp", "create tmp/a", "write tmp/a")
			c.want(t, codeOK, v, "tmp/a", "packs/ab/a")
			want("give", "syncfile tmp/a", "mkdir packs", "mkdir packs/ab", word+" tmp/a packs/ab/a", "syncdir packs/ab", "syncdir packs", "syncdir .")
			c.want(t, codeOK, verbFsync, h)
			want("fsync of what has its name")
			c.want(t, codeOK, verbClose, h)

			h = c.creates(t, "tmp/b", "x")
			c.want(t, codeOK, verbFsync, h)
			c.want(t, codeOK, verbFsync, h)
			want("fsync", "create tmp/b", "write tmp/b", "syncfile tmp/b")
			c.want(t, codeOK, v, "tmp/b", "packs/ab/b")
			want("give what was synchronized", word+" tmp/b packs/ab/b", "syncdir packs/ab")

			h = c.creates(t, "tmp/c", "x")
			c.want(t, codeOK, verbClose, h)
			r.take()
			c.want(t, codeOK, v, "tmp/c", "config")
			want("give what was closed", "syncfile tmp/c", word+" tmp/c config", "syncdir .")

			h = c.creates(t, "tmp/d", "x")
			c.want(t, codeOK, verbFsync, h)
			c.want(t, codeOK, verbFsetstat, h, attributes{flags: attrSize, size: 0})
			r.take()
			code, _ := c.ask(t, v, "tmp/d", "packs/ab/a")
			if code == codeOK {
				t.Error("a taken name was given")
			}
			want("exists", "syncfile tmp/d", word+" tmp/d packs/ab/a", "syncdir packs/ab")

			c.want(t, codeOK, verbMkdir, "meta", attributes{})
			c.want(t, codeOK, verbMkdir, "meta/ab", attributes{})
			want("mkdir", "mkdir meta", "syncdir .", "mkdir meta/ab", "syncdir meta")

			// Who did not see directories made does not know whether they last.
			second := start(t, dir, Options{AppendOnly: true}, r.ops())
			second.creates(t, "tmp/e", "x")
			r.take()
			second.want(t, codeOK, v, "tmp/e", "packs/ab/e")
			want("another connection", "syncfile tmp/e", word+" tmp/e packs/ab/e", "syncdir packs/ab", "syncdir packs", "syncdir .")
		})
	}
}

// TestEveryStepFails makes each step on the way to a finished file fail: what is answered with success lasts, and nothing half done is seen.
func TestEveryStepFails(t *testing.T) {
	for _, v := range gives {
		for _, early := range []bool{false, true} {
			for failing := 0; ; failing++ {
				dir, r := t.TempDir(), &recorder{}
				failed := ""
				r.fail = func(n int, step string) error {
					if n != failing {
						return nil
					}
					failed = step
					return syscall.EIO
				}
				c := start(t, dir, Options{AppendOnly: true}, r.ops())
				ok, h := true, ""
				code, body := c.ask(t, verbOpen, "tmp/a", uint32(flagWrite|flagCreate|flagExcl), attributes{})
				if ok = code == codeOK; ok {
					d := decoder{rest: body}
					h = d.str()
					for _, request := range [][]any{{verbWrite, h, uint64(0), "bytes"}, {verbFsync, h}, {v, "tmp/a", "packs/ab/a"}} {
						if request[0] == verbFsync && !early {
							continue
						}
						if code, _ := c.ask(t, request[0].(verb), request[1:]...); code != codeOK {
							ok = false
							break // as a client does
						}
					}
				}
				log := r.take()
				if failed == "" {
					if !ok || failing < 7 {
						t.Fatalf("%s: without a failure, after %d steps: %v", v, failing, ok)
					}
					break
				}
				if ok {
					t.Errorf("%s: %s failed, and nobody was told", v, failed)
				}
				text, err := os.ReadFile(filepath.Join(dir, "packs/ab/a"))
				if err == nil && string(text) != "bytes" {
					t.Errorf("%s: after %s failed the file holds %q", v, failed, text)
				}
				if strings.HasPrefix(failed, "syncfile") {
					// To be asked again for success would be to be lied to.
					if _, err := os.Lstat(filepath.Join(dir, "tmp/a")); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("a file that lost its bytes is still there: %v", err)
					}
					if code, _ := c.ask(t, v, "tmp/a", "packs/ab/a"); code == codeOK {
						t.Error("it got a name")
					}
				}
				if f := strings.Fields(failed)[0]; f == "link" || f == "rename" || f == "syncdir" {
					c.want(t, codeDenied, verbWrite, h, uint64(0), "other") // it may have its name
				}
				// Trying again from the beginning either works, or is refused for what was lost.
				again := c.creates(t, "tmp/b", "bytes")
				code, _ = c.ask(t, v, "tmp/b", "packs/ab/b")
				if lost := strings.HasPrefix(failed, "syncdir"); lost == (code == codeOK) {
					t.Errorf("%s: after %s failed another file: code %d", v, failed, code)
				}
				if code == codeOK {
					if err := backendtest.Lasts(append(log, r.take()...), "packs/ab/b", []string{"packs/ab", "packs"}); err != nil {
						t.Errorf("%s: after %s failed: %v", v, failed, err)
					}
				}
				c.want(t, codeOK, verbClose, again)
			}
		}
	}
}

// TestSyncIsReal: the system's operations are no stubs. A directory cannot be synchronized through a closed handle.
func TestSyncIsReal(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := systemOps().syncFile(f); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed file: %v", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := systemOps().syncDir(root, "."); err != nil {
		t.Error(err)
	}
	if err := systemOps().syncDir(root, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	root.Close()
	if err := systemOps().syncDir(root, "."); err == nil {
		t.Error("a closed root")
	}
}
