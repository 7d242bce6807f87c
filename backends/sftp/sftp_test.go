//go:build unix

package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
)

func openTest(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func wantFile(t *testing.T, s *Store, name, data string) {
	t.Helper()
	if b, err := s.Get(t.Context(), name, 0, -1); err != nil || string(b) != data {
		t.Errorf("%s: %d bytes, %v", name, len(b), err)
	}
}

// within fails if f takes longer.
func within(t *testing.T, d time.Duration, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > d {
		t.Errorf("%s took %v, more than %v", what, took, d)
	}
}

// server is a kind of server, with the options for a Store in a directory.
type server struct {
	name    string
	options func(t *testing.T, dir string) Options
	durable bool
}

func command(argv ...string) func(*testing.T, string) Options {
	return func(_ *testing.T, dir string) Options { return Options{Command: argv, Path: dir} }
}

func TestStorage(t *testing.T) {
	d := startSSHD(t)
	for _, server := range []server{
		{"sshd", func(_ *testing.T, dir string) Options { return d.options(dir) }, true},
		{"sftp-server", command(openSSHServer(t)...), true},
		{"WithoutLinks", command(openSSHServer(t, "-P", "hardlink,fsync")...), false}, // a plain rename stands in
		{"Go", command(goServer(t, "hardlink@openssh.com posix-rename@openssh.com")...), false},
	} {
		t.Run(server.name, func(t *testing.T) {
			t.Parallel()
			backendtest.Run(t, func(t *testing.T) backends.Storage {
				dir := t.TempDir()
				t.Cleanup(func() { backendtest.Empty(t, filepath.Join(dir, tempDir)) })
				s := openTest(t, server.options(t, dir))
				if s.Durable() != server.durable {
					t.Errorf("durable: %v", s.Durable())
				}
				return s
			})
		})
	}
}

// TestStorageTwice: two stores, as two processes have them, keep the contract together.
func TestStorageTwice(t *testing.T) {
	t.Parallel()
	argv := openSSHServer(t, "-P", "fsync") // which only takes time
	backendtest.Run(t, func(t *testing.T) backends.Storage {
		dir := t.TempDir()
		return backendtest.Alternate(openTest(t, Options{Command: argv, Path: dir}), openTest(t, Options{Command: argv, Path: dir, Connections: 1}))
	})
}

// TestExclusive: of many writers on all connections of two stores one wins. What they write is large enough to have a connection to itself.
func TestExclusive(t *testing.T) {
	t.Parallel()
	d := startSSHD(t)
	dir := t.TempDir()
	o := d.options(dir)
	o.Connections = 4
	stores := []*Store{openTest(t, o), openTest(t, o)}
	var wg sync.WaitGroup
	var won, lost atomic.Int32
	for i := range 64 {
		wg.Go(func() {
			err := stores[i%2].Put(t.Context(), "snapshots/s", bytes.Repeat([]byte{byte(i)}, partSize), backends.PutOptions{IfAbsent: true})
			switch {
			case err == nil:
				won.Add(1)
			case errors.Is(err, fs.ErrExist):
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 63 {
		t.Errorf("%d won, %d lost", won.Load(), lost.Load())
	}
	if n := len(stores[0].pool.links); n != 4 {
		t.Errorf("%d connections were used", n)
	}
}

func TestLarge(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openTest(t, startSSHD(t).options(dir))
	for _, size := range []int{32<<10 - 1, 32 << 10, 32<<10 + 1, partSize - 1, partSize, partSize + 1, 7*partSize + 12345} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i>>15 + i*7)
		}
		backendtest.Put(t, s, "f", string(data))
		wantFile(t, s, "f", string(data))
		off, n := int64(size/3), int64(size/2)
		if b, err := s.Get(t.Context(), "f", off, n); err != nil || !bytes.Equal(b, data[off:off+n]) {
			t.Errorf("%d of %d bytes, %v", len(b), size, err)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	argv := openSSHServer(t)
	dir := filepath.Join(t.TempDir(), "a", "b")
	if _, err := Open(t.Context(), Options{Command: argv, Path: dir}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it was made")
	}
	backendtest.Put(t, openTest(t, Options{Command: argv, Path: dir, Create: true}), "x", "1")
	wantFile(t, openTest(t, Options{Command: argv, Path: dir, Create: true}), "x", "1")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != rootMode {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(dir, "x")); err != nil || info.Mode() != fileMode {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for _, create := range []bool{false, true} {
		if _, err := Open(t.Context(), Options{Command: argv, Path: filepath.Join(dir, "x"), Create: create}); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a file is opened as a directory: %v", err)
		}
	}
	// Opening and reading write nothing.
	empty := t.TempDir()
	s := openTest(t, Options{Command: argv, Path: empty, RemoveStale: true})
	if names, err := backendtest.Names(t, s, ""); err != nil || len(names) != 0 {
		t.Errorf("%q, %v", names, err)
	}
	if entries, err := os.ReadDir(empty); err != nil || len(entries) != 0 {
		t.Errorf("reading wrote %v, %v", entries, err)
	}
}

func TestOptions(t *testing.T) {
	good := Options{Host: "h", User: "u"}
	if _, err := good.withDefaults(); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*Options){
		"host": func(o *Options) { o.Host = "" }, "host name": func(o *Options) { o.Host = "a/b" }, "user": func(o *Options) { o.User = "" },
		"both": func(o *Options) { o.Command = []string{"x"} }, "command": func(o *Options) { *o = Options{Command: []string{""}} },
		"port": func(o *Options) { o.Port = 65536 }, "negative port": func(o *Options) { o.Port = -1 }, "connections": func(o *Options) { o.Connections = 17 },
		"path": func(o *Options) { o.Path = "a\x00b" }, "time": func(o *Options) { o.KeepAlive = -1 },
	} {
		o := good
		change(&o)
		if _, err := Open(t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), "opening storage: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), Options{Command: openSSHServer(t), Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	backendtest.Put(t, s, "a", "x")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
}

func TestSorted(t *testing.T) {
	t.Parallel()
	s := openTest(t, Options{Command: openSSHServer(t), Path: t.TempDir()})
	names := []string{"a-b", "a-c/x", "a.b", "a/c", "a/d/e", "a0", "a_/x", "ab/y", "b"}
	for _, i := range []int{4, 8, 0, 2, 7, 1, 6, 3, 5} {
		backendtest.Put(t, s, names[i], "")
	}
	if got, err := backendtest.Names(t, s, ""); err != nil || !slices.Equal(got, names) || !slices.IsSorted(got) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestListMany: more directories than are read ahead, and a listing that is stopped leaves nothing running.
func TestListMany(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openTest(t, Options{Command: openSSHServer(t), Path: dir})
	var want []string
	for i := range 256 {
		for j := range 3 {
			name := fmt.Sprintf("packs/%02x/%d", i, j)
			want = append(want, name)
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, name), "x")
		}
	}
	if got, err := backendtest.Names(t, s, ""); err != nil || !slices.Equal(got, want) {
		t.Errorf("%d files, %v", len(got), err)
	}
	for range s.List(t.Context(), "") {
		break
	}
}

// TestForeign: files that are not ours are left out and left alone.
func TestForeign(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openTest(t, Options{Command: openSSHServer(t), Path: dir})
	backendtest.Put(t, s, "packs/ab/cd", "x")
	for _, name := range []string{
		".DS_Store", "packs/ab/cd.tmp", "packs/ab/.nfs0001", "packs/ab/CD", "packs/ab/cd.partial~", ".snapshot/hourly/packs/ab/cd", "tmp/leftover",
		"Packs2/ab/cd", "packs/ab/" + strings.Repeat("x", 250), "packs/ab/a b", "packs/ab/a\nb",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, name, "")
	}
	for _, prefix := range []string{"", "packs/", "packs/ab/"} {
		if got, err := backendtest.Names(t, s, prefix); err != nil || !slices.Equal(got, []string{"packs/ab/cd"}) {
			t.Errorf("%q: %q, %v", prefix, got, err)
		}
	}
}

// TestSymlinks: a link is never followed, and makes a listing fail rather than come out short.
func TestSymlinks(t *testing.T) {
	t.Parallel()
	argv := openSSHServer(t)
	outside := t.TempDir()
	writeFile(t, filepath.Join(outside, "file"), "secret")
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
			s := openTest(t, Options{Command: argv, Path: dir})
			backendtest.Put(t, s, "packs/ab/cd", "x")
			if err := os.Symlink(c.target, filepath.Join(dir, c.link)); err != nil {
				t.Fatal(err)
			}
			refusesAll(t, s, c.file)
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
			wantFile(t, s, "packs/ab/cd", "x")
		})
	}
}

// refusesAll fails unless every way to look at the name is an error, and no authentic "does not exist".
func refusesAll(t *testing.T, s *Store, name string) {
	t.Helper()
	if got, err := backendtest.Names(t, s, ""); err == nil {
		t.Errorf("the listing hides it: %q", got)
	}
	if b, err := s.Get(t.Context(), name, 0, -1); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get: %q, %v", b, err)
	}
	if _, err := s.Stat(t.Context(), name); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat: %v", err)
	}
	if err := s.Delete(t.Context(), name); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Delete: %v", err)
	}
}

// TestFIFO: opening a named pipe would wait for its writer.
func TestFIFO(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openTest(t, Options{Command: openSSHServer(t), Path: dir})
	backendtest.Put(t, s, "d/a", "x")
	if err := syscall.Mkfifo(filepath.Join(dir, "d/pipe"), 0o600); err != nil {
		t.Skip("no named pipes here:", err)
	}
	within(t, 5*time.Second, "refusing a pipe", func() { refusesAll(t, s, "d/pipe") })
	wantFile(t, s, "d/a", "x")
}

// TestRootGone: a root that was removed, moved away or replaced makes every call fail, never with "does not exist", and comes back by itself in no case.
func TestRootGone(t *testing.T) {
	t.Parallel()
	argv := openSSHServer(t)
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
			s := openTest(t, Options{Command: argv, Path: dir, Create: true})
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
			if entries, err := os.ReadDir(dir); c.exists && (err != nil || len(entries) != 0) || !c.exists && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the directory was filled or made again: %v, %v", entries, err)
			}
		})
	}
}

// TestRootGoneWhileListing: what was listed until then may be a part only.
func TestRootGoneWhileListing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "repo")
	s := openTest(t, Options{Command: openSSHServer(t), Path: dir, Create: true})
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
	t.Parallel()
	dir := t.TempDir()
	s := openTest(t, Options{Command: openSSHServer(t), Path: dir})
	backendtest.Put(t, s, "keys/a", "k")
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
		if got, err := backendtest.Names(t, s, ""); err != nil || !slices.Equal(got, []string{"keys/a", "packs/ab/ef"}) {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestRemoveStale(t *testing.T) {
	t.Parallel()
	argv := openSSHServer(t)
	dir := t.TempDir()
	s := openTest(t, Options{Command: argv, Path: dir})
	backendtest.Put(t, s, "a", "x")
	const fresh, young, stale = "AAAAAAAAAAAAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBBBBBBBBBBBB", "CCCCCCCCCCCCCCCCCCCCCCCCCC"
	for name, age := range map[string]time.Duration{
		fresh: 0, young: 23 * time.Hour, stale: 25 * time.Hour, stale + "L": 25 * time.Hour, "foreign": 99 * time.Hour,
	} {
		name = filepath.Join(dir, tempDir, name)
		writeFile(t, name, "x")
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
	openTest(t, Options{Command: argv, Path: dir})
	if got := left(); len(got) != 5 {
		t.Errorf("unasked, %q are left", got)
	}
	openTest(t, Options{Command: argv, Path: dir, RemoveStale: true})
	if got := left(); !slices.Equal(got, []string{fresh, young, "foreign"}) {
		t.Errorf("%q are left", got)
	}
	wantFile(t, s, "a", "x")
}

// TestOrder: what OpenSSH's server says it did for a Put, in which order.
func TestOrder(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	// requests returns what was done since the last call, without what only looks, and equal ones in a row once.
	read := 0
	requests := func() (list []string) {
		text := readFile(t, log)
		for line := range strings.SplitSeq(text[read:], "\n") {
			line = strings.TrimPrefix(line, "debug1: ")
			if strings.HasPrefix(line, "request ") {
				_, line, _ = strings.Cut(line, ": ") // "request 11: write ..."
			}
			verb, _, _ := strings.Cut(line, " ")
			if !slices.Contains([]string{"open", "write", "fsync", "close", "posix-rename", "hardlink", "rename", "remove"}, verb) {
				continue
			}
			if len(list) == 0 || list[len(list)-1] != verb {
				list = append(list, verb)
			}
		}
		read = len(text)
		return list
	}
	for _, c := range []struct {
		denied   string
		ifAbsent bool
		want     []string
	}{
		{"none", false, []string{"open", "write", "fsync", "close", "posix-rename"}},
		{"none", true, []string{"open", "write", "fsync", "hardlink", "fsync", "close", "remove"}},
		{"posix-rename", false, []string{"open", "write", "fsync", "close", "rename"}},
	} {
		argv := []string{"sh", "-c", "exec " + openSSHServer(t)[0] + " -e -l DEBUG3 -P " + c.denied + " 2>>" + log}
		s, err := Open(t.Context(), Options{Command: argv, Path: t.TempDir(), Connections: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 3 * partSize} {
			if err := s.Put(t.Context(), fmt.Sprint("d/", size), make([]byte, size), backends.PutOptions{IfAbsent: c.ifAbsent}); err != nil {
				t.Fatal(err)
			}
			s.pool.links[0].behind.Wait()
			if got := requests(); !slices.Equal(got, c.want) && !(c.ifAbsent && slices.Equal(got, swapped(c.want))) {
				t.Errorf("%d bytes, exclusively: %v, without %s: %q", size, c.ifAbsent, c.denied, got)
			}
		}
		s.Close()
		requests()
	}
}

// swapped returns list with its last two elements, which nobody waits for, the other way round.
func swapped(list []string) []string {
	list = slices.Clone(list)
	n := len(list)
	list[n-1], list[n-2] = list[n-2], list[n-1]
	return list
}

// TestServersThatLack: what is done without each of the extensions.
func TestServersThatLack(t *testing.T) {
	t.Parallel()
	only := backends.PutOptions{IfAbsent: true}
	t.Run("hard links, with a rename that replaces", func(t *testing.T) {
		dir := t.TempDir()
		s := openTest(t, Options{Command: goServer(t, "posix-rename@openssh.com"), Path: dir})
		for range 2 {
			if err := s.Put(t.Context(), "a", nil, only); !errors.Is(err, backends.ErrUnsupported) {
				t.Error(err)
			}
		}
		backendtest.Put(t, s, "a", "x")
		backendtest.Put(t, s, "a", "y")
		wantFile(t, s, "a", "y")
		s.Close()
		backendtest.Empty(t, filepath.Join(dir, tempDir))
	})
	t.Run("posix-rename, with a rename that replaces", func(t *testing.T) {
		s := openTest(t, Options{Command: goServer(t, ""), Path: t.TempDir()})
		backendtest.Put(t, s, "a", "x")
		backendtest.Put(t, s, "a", "y")
		wantFile(t, s, "a", "y")
	})
	t.Run("posix-rename and hard links", func(t *testing.T) {
		dir := t.TempDir()
		s := openTest(t, Options{Command: openSSHServer(t, "-P", "posix-rename,hardlink"), Path: dir})
		backendtest.Put(t, s, "a", "x")
		backendtest.Put(t, s, "a", "y") // by removing it first
		wantFile(t, s, "a", "y")
		if err := s.Put(t.Context(), "a", nil, only); !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
		if err := s.Put(t.Context(), "b", []byte("z"), only); err != nil {
			t.Error(err)
		}
		wantFile(t, s, "b", "z")
		s.Close()
		backendtest.Empty(t, filepath.Join(dir, tempDir))
	})
	t.Run("fsync", func(t *testing.T) {
		s := openTest(t, Options{Command: openSSHServer(t, "-P", "fsync"), Path: t.TempDir()})
		if s.Durable() {
			t.Error("durable without fsync")
		}
		backendtest.Put(t, s, "a", "x")
		wantFile(t, s, "a", "x")
	})
	t.Run("writing", func(t *testing.T) {
		dir := t.TempDir()
		backendtest.Put(t, openTest(t, Options{Command: openSSHServer(t), Path: dir}), "d/a", "x")
		s := openTest(t, Options{Command: openSSHServer(t, "-R"), Path: dir, RemoveStale: true}) // read-only
		if err := s.Put(t.Context(), "b", nil, only); !errors.Is(err, fs.ErrPermission) {
			t.Error(err)
		}
		if err := s.Delete(t.Context(), "d/a"); !errors.Is(err, fs.ErrPermission) {
			t.Error(err)
		}
		wantFile(t, s, "d/a", "x")
	})
}

func TestCommandErrors(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), Options{Command: []string{"/nowhere/at-all"}})
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing command: %v", err)
	}
	_, err = Open(t.Context(), Options{Command: []string{"sh", "-c", "echo the reason >&2; exit 3"}})
	if err == nil || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("a command that fails: %v", err)
	}
	within(t, 5*time.Second, "a command that says nothing", func() {
		_, err := Open(t.Context(), Options{Command: []string{"sleep", "60"}, DialTimeout: 300 * time.Millisecond})
		if err == nil || !strings.Contains(err.Error(), "no answer within") || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	within(t, 5*time.Second, "cancelling", func() {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := Open(ctx, Options{Command: []string{"sleep", "60"}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}
