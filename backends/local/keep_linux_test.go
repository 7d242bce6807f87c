package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"packhold/backends"
	"packhold/backends/backendtest"
)

// mountImage mounts a new file system of a kind, from a file.
func mountImage(t *testing.T, kind string, size int64, mkfs ...string) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), kind), t.TempDir()
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{append(mkfs, image), {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			backendtest.LacksMount(t, kind, fmt.Errorf("%w %s", err, out))
		}
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	return dir
}

// fileSystems are those where the immutable flag works, and one where that depends on the kernel.
func fileSystems(t *testing.T, run func(t *testing.T, dir string, guard backends.Guard)) {
	for kind, mkfs := range map[string][]string{"ext4": {"mkfs.ext4", "-q"}, "btrfs": {"mkfs.btrfs", "-q"}} {
		t.Run(kind, func(t *testing.T) {
			run(t, mountImage(t, kind, map[string]int64{"ext4": 64 << 20, "btrfs": 256 << 20}[kind], mkfs...), backends.Immutable)
		})
	}
	t.Run("tmpfs", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "disk")
		backendtest.Mount(t, "tmpfs", dir, "size=64m")
		if err := unix.Setxattr(dir, keepAttribute, []byte("x"), 0); err != nil {
			t.Skip("no extended attributes here:", err)
		}
		guard := backends.Mode
		if d, err := os.Open(dir); err == nil {
			if _, err := unix.IoctlGetUint32(int(d.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
				guard = backends.Immutable
			}
			d.Close()
		}
		run(t, dir, guard)
	})
}

func TestKept(t *testing.T) {
	fileSystems(t, func(t *testing.T, dir string, guard backends.Guard) {
		n := 0
		t.Run("Contract", func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backends.Storage {
				n++
				place := filepath.Join(dir, fmt.Sprint(n))
				if err := os.Mkdir(place, 0o700); err != nil {
					t.Fatal(err)
				}
				return openTest(t, place, Options{})
			})
		})
		now := time.Now()
		later := now
		place := filepath.Join(dir, "repository")
		s := openTest(t, place, Options{Create: true, Now: func() time.Time { return later }})
		for i, exclusive := range []bool{false, true} {
			name := fmt.Sprint("packs/ab/", i)
			later = now
			until := now.Add(time.Minute)
			o := backends.PutOptions{RetainUntil: until, IfAbsent: exclusive}
			if err := s.Put(t.Context(), name, []byte("kept"), o); err != nil {
				t.Fatal(err)
			}
			backendtest.Empty(t, filepath.Join(place, tempDir))
			info, err := s.Stat(t.Context(), name)
			if err != nil || info.Guard != guard || info.RetainUntil.Before(until) {
				t.Errorf("%+v, %v, want %v", info, err, guard)
			}
			path := filepath.Join(place, name)
			if guard == backends.Immutable {
				// Against every other program too.
				for what, err := range map[string]error{"remove": os.Remove(path), "rename": os.Rename(path, path+"x"), "link": os.Link(path, path+"y"),
					"truncate": os.Truncate(path, 0), "chmod": os.Chmod(path, 0o600), "times": os.Chtimes(path, now, now),
					"date": unix.Setxattr(path, keepAttribute, []byte("x"), 0), "folder": os.RemoveAll(place)} {
					if !errors.Is(err, fs.ErrPermission) {
						t.Errorf("%s: %v", what, err)
					}
				}
			}
			later = info.RetainUntil.Add(-1)
			if err := s.Delete(t.Context(), name); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), info.RetainUntil.UTC().Format(time.RFC3339)) {
				t.Errorf("before its date: %v", err)
			}
			if err := s.Put(t.Context(), name, []byte("other"), backends.PutOptions{}); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("replaced before its date: %v", err)
			}
			later = info.RetainUntil
			if err := s.Put(t.Context(), name, []byte("other"), backends.PutOptions{}); err != nil {
				t.Errorf("replaced after its date: %v", err)
			}
			if info, err := s.Stat(t.Context(), name); err != nil || info.Guard != backends.Unguarded || !info.RetainUntil.IsZero() {
				t.Errorf("after its replacement: %+v, %v", info, err)
			}
			later = now
			if err := s.Put(t.Context(), name, nil, backends.PutOptions{Extend: true, RetainUntil: until}); err != nil {
				t.Error(err)
			}
			later = until.Add(time.Second)
			if err := s.Delete(t.Context(), name); err != nil {
				t.Errorf("after its date: %v", err)
			}
		}
	})
}

// TestKeptByUser: who is not root keeps files by date and mode, and leaves alone what root made immutable.
func TestKeptByUser(t *testing.T) {
	if os.Getuid() != 0 {
		backendtest.Lacks(t, "only root becomes another user")
	}
	fileSystems(t, func(t *testing.T, dir string, guard backends.Guard) {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		for above := filepath.Dir(dir); above != os.TempDir() && above != "/"; above = filepath.Dir(above) {
			if err := os.Chmod(above, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		later := time.Now()
		clock := func() time.Time { return later }
		until := later.Add(time.Hour)
		asUser(t, func() {
			s := openTest(t, filepath.Join(dir, "theirs"), Options{Create: true, Now: clock})
			for _, name := range []string{"a", "b"} {
				if err := s.Put(t.Context(), name, []byte(name), backends.PutOptions{RetainUntil: until, IfAbsent: name == "b"}); err != nil {
					t.Error(err)
				}
				for _, date := range []time.Time{until, until.Add(time.Hour)} {
					if err := s.Put(t.Context(), name, nil, backends.PutOptions{Extend: true, RetainUntil: date}); err != nil {
						t.Error(err)
					}
					if info, err := s.Stat(t.Context(), name); err != nil || info.Guard != backends.Mode || info.RetainUntil.Before(date) {
						t.Errorf("%+v, %v", info, err)
					}
				}
				info, err := os.Stat(filepath.Join(dir, "theirs", name))
				if err != nil || info.Mode() != fileMode {
					t.Errorf("%v, %v", info.Mode(), err)
				}
				if _, ok := errors.AsType[*backends.KeptError](s.Delete(t.Context(), name)); !ok {
					t.Error("deleted before its date")
				}
			}
		})
		// Root makes them immutable with the next extension, or this one: the date is no other.
		s := openTest(t, filepath.Join(dir, "theirs"), Options{Now: clock})
		if err := s.Put(t.Context(), "a", nil, backends.PutOptions{Extend: true, RetainUntil: until}); err != nil {
			t.Error(err)
		}
		if info, err := s.Stat(t.Context(), "a"); err != nil || info.Guard != guard {
			t.Errorf("%+v, %v", info, err)
		}
		later = until.Add(2 * time.Hour)
		asUser(t, func() {
			s := openTest(t, filepath.Join(dir, "theirs"), Options{Now: clock})
			if err := s.Delete(t.Context(), "b"); err != nil {
				t.Errorf("one's own, after its date: %v", err)
			}
			if err := s.Delete(t.Context(), "a"); guard == backends.Immutable && !errors.Is(err, fs.ErrPermission) {
				t.Errorf("what root made immutable: %v", err)
			}
		})
	})
}

// asUser runs f as another user, as far as the file system is concerned. The thread ends with it.
func asUser(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if _, err := unix.SetfsuidRetUid(65534); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// TestKeepOrder: the date is in the file before it has its name, and the flag comes when the temporary name is gone.
func TestKeepOrder(t *testing.T) {
	s, r := openRecorded(t)
	until := time.Now().Add(time.Hour)
	backendtest.Put(t, s, "x", "makes the folders")
	r.take()
	if err := s.Put(t.Context(), "a", []byte("a"), backends.PutOptions{RetainUntil: until, IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	want := []string{"create tmp/3", "write tmp/3", "keep tmp/3", "chmod tmp/3", "syncfile tmp/3", "link tmp/3 a", "syncdir .", "remove tmp/3", "setflag a", "syncfile a"}
	if log := r.take(); !slices.Equal(log, want) {
		t.Errorf("%q", log)
	}
	if err := s.Put(t.Context(), "a", nil, backends.PutOptions{RetainUntil: until.Add(time.Hour), Extend: true}); err != nil {
		t.Fatal(err)
	}
	log := r.take()
	if try := []string{"create tmp/4", "write tmp/4", "keep tmp/4", "chmod tmp/4", "syncfile tmp/4", "remove tmp/4"}; len(log) < len(try) || !slices.Equal(log[:len(try)], try) {
		t.Errorf("the first extension does not compare the clocks: %q", log)
	} else {
		log = log[len(try):]
	}
	if immutable := slices.Contains(log, "clearflag a"); immutable {
		log = slices.Delete(log, 0, 1)
	}
	if want := []string{"keep a", "setflag a", "syncfile a"}; !slices.Equal(log, want) {
		t.Errorf("%q", log)
	}
}

// TestKeepFails: whichever step of keeping a file fails, or is the last before a crash, the file is kept by its date or is not there, and the next
// extension makes up for what is missing.
func TestKeepFails(t *testing.T) {
	until := time.Now().Add(time.Hour)
	later := until.Add(time.Hour)
	broken := errors.New("the disk fails")
	for _, extend := range []bool{false, true} {
		for n := 0; ; n++ {
			s, r := openRecorded(t)
			if extend {
				if err := s.Put(t.Context(), "a", []byte("a"), backends.PutOptions{RetainUntil: until}); err != nil {
					t.Fatal(err)
				}
			}
			r.take()
			failed := ""
			r.mu.Lock()
			r.fail = func(i int, step string) error {
				if i < n || strings.HasPrefix(step, "remove") {
					return nil
				}
				if failed == "" {
					failed = step
				}
				return broken
			}
			r.mu.Unlock()
			o := backends.PutOptions{RetainUntil: later, Extend: extend}
			data := []byte("a")
			if extend {
				data = nil
			}
			err := s.Put(t.Context(), "a", data, o)
			r.mu.Lock()
			r.fail = nil
			r.mu.Unlock()
			if failed == "" {
				if err != nil {
					t.Error(err)
				}
				break
			}
			if !errors.Is(err, broken) {
				t.Errorf("%q failed: %v", failed, err)
			}
			info, err := s.Stat(t.Context(), "a")
			if errors.Is(err, fs.ErrNotExist) && !extend {
				continue
			}
			if err != nil || info.RetainUntil.Before(until) {
				t.Errorf("%q failed: %+v, %v", failed, info, err)
			}
			if _, ok := errors.AsType[*backends.KeptError](s.Delete(t.Context(), "a")); !ok {
				t.Errorf("%q failed, and it was deleted", failed)
			}
			if err := s.Put(t.Context(), "a", nil, backends.PutOptions{RetainUntil: later, Extend: true}); err != nil {
				t.Errorf("%q failed: %v", failed, err)
			}
			if info, err := s.Stat(t.Context(), "a"); err != nil || info.RetainUntil.Before(later) || info.Guard == backends.Unguarded {
				t.Errorf("%q failed, extended: %+v, %v", failed, info, err)
			}
		}
	}
}

// TestKeptClock: nothing is kept by a clock that is not the file system's.
func TestKeptClock(t *testing.T) {
	for off, fine := range map[time.Duration]bool{backends.MaxSkew - 10*time.Second: true, -backends.MaxSkew + 10*time.Second: true, backends.MaxSkew + 10*time.Second: false,
		-backends.MaxSkew - 10*time.Second: false, 10 * 365 * 24 * time.Hour: false} {
		dir := t.TempDir()
		backendtest.Put(t, openTest(t, dir, Options{}), "there", "x")
		now := time.Now().Add(off)
		s := openTest(t, dir, Options{Now: func() time.Time { return now }})
		for name, o := range map[string]backends.PutOptions{"new": {RetainUntil: now.Add(time.Hour)}, "there": {RetainUntil: now.Add(time.Hour), Extend: true}} {
			err := s.Put(t.Context(), name, nil, o)
			if fine && err != nil || !fine && !errors.Is(err, backends.ErrClock) {
				t.Errorf("a clock off by %v, %+v: %v", off, o, err)
			}
			info, err := s.Stat(t.Context(), name)
			if !fine && (name == "new") != errors.Is(err, fs.ErrNotExist) || info.RetainUntil.IsZero() == fine {
				t.Errorf("a clock off by %v, %+v: %+v, %v", off, o, info, err)
			}
		}
		backendtest.Empty(t, filepath.Join(dir, tempDir))
	}
}

// TestKeptNonsense: what somebody else wrote where the date stands keeps nobody from reading, is no lock, and gives way to one.
func TestKeptNonsense(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, Options{})
	for _, text := range []string{"", "soon", "2999", strings.Repeat("x", 3000)} {
		backendtest.Put(t, s, "a", "x")
		if err := unix.Setxattr(filepath.Join(dir, "a"), keepAttribute, []byte(text), 0); err != nil {
			t.Skip("no extended attributes here:", err)
		}
		if info, err := s.Stat(t.Context(), "a"); err != nil || info.Guard != backends.Unguarded || !info.RetainUntil.IsZero() {
			t.Errorf("%q: %+v, %v", text, info, err)
		}
		if b, err := s.Get(t.Context(), "a", 0, -1); err != nil || string(b) != "x" {
			t.Errorf("%q: %q, %v", text, b, err)
		}
		if text == "soon" {
			if err := s.Put(t.Context(), "a", nil, backends.PutOptions{Extend: true, RetainUntil: time.Now().Add(time.Hour)}); err != nil {
				t.Error(err)
			}
			if info, err := s.Stat(t.Context(), "a"); err != nil || info.RetainUntil.IsZero() {
				t.Errorf("%+v, %v", info, err)
			}
			unlock(dir)
			if err := unix.Removexattr(filepath.Join(dir, "a"), keepAttribute); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Delete(t.Context(), "a"); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestKeptNowhere: a file system without extended attributes cannot keep files, and says so before anything is stored.
func TestKeptNowhere(t *testing.T) {
	dir := t.TempDir()
	backendtest.Mount(t, "ramfs", dir, "")
	s := openTest(t, dir, Options{})
	for _, o := range []backends.PutOptions{{RetainUntil: time.Now().Add(time.Hour)}, {RetainUntil: time.Now().Add(time.Hour), Extend: true}} {
		if err := s.Put(t.Context(), "a", nil, o); !errors.Is(err, backends.ErrUnsupported) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if names, err := backendtest.Names(t, s, ""); err != nil || len(names) > 0 {
		t.Errorf("%q, %v", names, err)
	}
	backendtest.Empty(t, filepath.Join(dir, tempDir))
}
