//go:build !386 && !arm

// Times and offsets here are 64 bits wide.

package tests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lookTool finds a program that an ordinary user may not have in PATH.
func lookTool(name string) (string, error) {
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return exec.LookPath(name)
}

func tool(args ...string) (string, error) {
	p, err := lookTool(args[0])
	if err != nil {
		return "", err
	}
	out, err := exec.Command(p, args[1:]...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func runTool(t testing.TB, args ...string) string {
	t.Helper()
	out, err := tool(args...)
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return out
}

// maker makes files, and fails the test if it cannot.
type maker struct {
	testing.TB
	dir string
}

func (m maker) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m maker) path(name string) string { return m.dir + "/" + name }

func (m maker) file(name string, data string) string {
	m.Helper()
	m.must(os.MkdirAll(filepath.Dir(m.path(name)), 0o755))
	m.must(os.WriteFile(m.path(name), []byte(data), 0o644))
	return m.path(name)
}

func (m maker) folder(name string) string {
	m.Helper()
	m.must(os.MkdirAll(m.path(name), 0o755))
	return m.path(name)
}

// times sets modification and access time of an entry, links too.
func (m maker) times(name string, mtime, atime unix.Timespec) {
	m.Helper()
	m.must(unix.UtimesNanoAt(unix.AT_FDCWD, m.path(name), []unix.Timespec{atime, mtime}, unix.AT_SYMLINK_NOFOLLOW))
}

func (m maker) xattr(name, attr string, value []byte) {
	m.Helper()
	m.must(unix.Lsetxattr(m.path(name), attr, value, 0))
}

// pieces makes a file of size bytes with 8 KiB of data at each of the offsets, and holes between.
func (m maker) pieces(name string, size int64, at ...int64) {
	m.Helper()
	f, err := os.Create(m.path(name))
	m.must(err)
	for i, off := range at {
		_, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 8<<10), off)
		m.must(err)
	}
	m.must(f.Truncate(size))
	m.must(f.Sync())
	m.must(f.Close())
}

// flags sets inode flags beside those that the entry has.
func (m maker) flags(name string, flags int) {
	m.Helper()
	f, err := os.Open(m.path(name))
	m.must(err)
	defer f.Close()
	have, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	m.must(err)
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, have|flags); err != nil {
		m.Fatalf("flags %#x of %s: %v", flags, name, err)
	}
}

const (
	flagCompress  = 0x4
	flagSync      = 0x8
	flagImmutable = 0x10
	flagAppend    = 0x20
	flagNoDump    = 0x40
	flagNoATime   = 0x80
	flagDirSync   = 0x10000
	flagNoCOW     = 0x800000
)

// longName is a name of 255 bytes.
func longName(c string) string { return strings.Repeat(c, 255)[:255] }

// fidelity are the cases of TestFidelity. Each makes files in a folder of its own.
var fidelity = []struct {
	name   string
	on     string // the file system: "" is that of the temporary folder; tmpfs; ext4 and btrfs are made for it
	make   func(m maker)
	atime  bool
	backup []string // further flags
}{
	{name: "kinds", make: func(m maker) {
		m.file("empty", "")
		m.file("one byte", "x")
		m.file("inline", strings.Repeat("i", 128))
		m.file("blob", strings.Repeat("b", 129))
		m.must(writeRandom(m.path("large"), 1, 3<<20+1))
		m.folder("folder/empty")
		m.must(os.Chmod(m.folder("closed"), 0))
		m.must(os.Chmod(m.file("unreadable", "root reads it"), 0))
		m.must(unix.Mkfifo(m.path("fifo"), 0o640))
		m.must(unix.Mknod(m.path("socket"), unix.S_IFSOCK|0o755, 0))
		m.must(unix.Mknod(m.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		m.must(unix.Mknod(m.path("character"), unix.S_IFCHR|0o600, int(unix.Mkdev(4095, 1<<20-1))))
		m.must(unix.Mknod(m.path("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
		for i, name := range []string{"fifo", "socket", "null", "block"} {
			m.must(os.Chown(m.path(name), 1000+i, 2000+i))
			m.times(name, unix.Timespec{Sec: 1e9, Nsec: int64(i + 1)}, unix.Timespec{Sec: 1e9})
		}
	}},
	{name: "symbolic links", make: func(m maker) {
		for i, target := range []string{"nowhere", ".", "/", "../../../../etc/passwd", "any \xff\xfe bytes\n\x1b[31m", " ", strings.Repeat("t/", 2047) + "t", "/proc/self/exe"} {
			name := fmt.Sprint("link", i)
			m.must(os.Symlink(target, m.path(name)))
			m.must(os.Lchown(m.path(name), 7, 8))
			m.times(name, unix.Timespec{Sec: 1234567890, Nsec: 987654321}, unix.Timespec{Sec: 1})
		}
		m.xattr("link0", "trusted.of.link", []byte("value"))
	}},
	{name: "hard links", make: func(m maker) {
		m.folder("a")
		m.folder("b/c")
		for _, size := range []int{0, 10, 5000, 3 << 20} {
			name := fmt.Sprint("f", size)
			m.file("a/"+name, strings.Repeat("x", size))
			m.must(os.Link(m.path("a/"+name), m.path("b/c/"+name)))
			m.must(os.Link(m.path("a/"+name), m.path("z"+name)))
		}
		m.must(unix.Mkfifo(m.path("a/fifo"), 0o600))
		m.must(os.Link(m.path("a/fifo"), m.path("b/fifo")))
		m.must(unix.Mknod(m.path("a/null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		m.must(os.Link(m.path("a/null"), m.path("b/null")))
		m.must(os.Symlink("target", m.path("a/link")))
		m.file("one name here", "and one outside of the source")
		m.must(os.Link(m.path("one name here"), m.path("../outside")))
		m.must(unix.Linkat(unix.AT_FDCWD, m.path("a/link"), unix.AT_FDCWD, m.path("b/link"), 0))
	}},
	{name: "holes", make: func(m maker) {
		const mib = 1 << 20
		m.pieces("begin", 4*mib, 4*mib-8192)
		m.pieces("end", 4*mib, 0)
		m.pieces("middle", 4*mib, 0, 4*mib-8192)
		m.pieces("both ends", 4*mib, 2*mib)
		m.pieces("many", 40*mib, 4*mib, 4*mib+65536, 20*mib, 39*mib)
		m.pieces("small", 200<<10, 64<<10)
		m.pieces("only hole", 3*mib)
		m.pieces("small hole", 4096)
		m.pieces("odd size", mib+17, 8192)
	}},
	{name: "names", make: func(m maker) {
		for _, name := range []string{"new\nline", "\x1b[2J\x1b[31m", "\xff\xfe", "\xc3\x28", "-rf", "--help", " lead", "trail  ", " ", "...", "..a", "é", "e\u0301", "\\", "*", "C:", "CON",
			"a\tb\rc\x7f", "\x01", "'\"`$(x)", "%s%n", ".packhold", "~", "#", "{a,b}", "\U0001f4a9", longName("n"), longName("\xff"), longName("…")} {
			m.file("files/"+name, name)
			m.must(os.MkdirAll(m.path("folders/"+name+"/"+name), 0o755))
			m.must(os.MkdirAll(m.path("links"), 0o755))
			m.must(os.Symlink(name, m.path("links/"+name)))
		}
	}},
	{name: "modes and owners", make: func(m maker) {
		for i, mode := range []uint32{0, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777, 0o4000, 0o644, 0o200} {
			for _, kind := range []string{"file", "folder"} {
				name := fmt.Sprint(kind, i)
				if kind == "file" {
					m.file(name, name)
				} else {
					m.folder(name)
				}
				m.must(os.Chown(m.path(name), i*100000, 1<<31+i)) // most without a name here
				m.must(unix.Chmod(m.path(name), mode))
			}
		}
		m.must(os.Chown(m.file("daemon", "has a name"), 1, 1))
	}},
	{name: "attributes", make: func(m maker) {
		m.file("file", "x")
		m.folder("folder")
		for _, name := range []string{"file", "folder"} {
			m.xattr(name, "user.empty", nil)
			m.xattr(name, "user.any bytes \xff", []byte("\x00\xff\n"))
			m.xattr(name, "trusted.overlay.opaque", []byte("y"))
			m.xattr(name, "security.test", []byte("label"))
			m.xattr(name, "user."+strings.Repeat("l", 250), []byte("long name"))
			m.xattr(name, "user.large", bytes.Repeat([]byte("v"), 3000))
			runTool(m, "setfacl", "-m", "u:1234:rwx,g:5678:r-x,m::rwx", m.path(name))
		}
		runTool(m, "setfacl", "-d", "-m", "u:1234:rwx,g:5678:---", m.path("folder"))
		m.folder("folder/inherits")
		m.file("folder/inherits/too", "y")
		m.must(os.Chmod(m.file("tool", "#!"), 0o755))
		runTool(m, "setcap", "cap_net_raw,cap_net_admin=ep", m.path("tool"))
		m.must(os.Chown(m.file("owned tool", "#!"), 1234, 1234))
		runTool(m, "setcap", "cap_net_bind_service=eip", m.path("owned tool"))
		m.must(unix.Mkfifo(m.path("fifo"), 0o644))
		m.xattr("fifo", "trusted.of.fifo", []byte("v"))
		runTool(m, "setfacl", "-m", "u:1234:rw", m.path("fifo"))
		for _, name := range []string{"file", "folder", "tool", "fifo"} {
			m.times(name, unix.Timespec{Sec: 1e9}, unix.Timespec{Sec: 1e9})
		}
	}},
	{name: "large attributes", on: "tmpfs", make: func(m maker) {
		m.file("file", "x")
		m.folder("folder")
		m.must(os.Symlink("x", m.path("link")))
		for i, name := range []string{"file", "folder", "link"} {
			m.xattr(name, "trusted.most", bytes.Repeat([]byte{byte(i)}, 64<<10))
			m.xattr(name, "trusted.second", bytes.Repeat([]byte("s"), 40<<10))
		}
	}},
	{name: "times", on: "tmpfs", atime: true, backup: []string{"--with-atime"}, make: func(m maker) {
		const farAhead, longAgo = 1 << 40, -1 << 40
		for i, at := range []unix.Timespec{{Sec: -1, Nsec: 999999999}, {Sec: 0, Nsec: 1}, {Sec: -86400 * 365 * 100, Nsec: 1}, {Sec: 1 << 31, Nsec: 5}, {Sec: 1<<33 + 7, Nsec: 123456789},
			{Sec: 253402300800}, {Sec: farAhead, Nsec: 999999999}, {Sec: longAgo, Nsec: 1}, {Sec: 0}} {
			other := unix.Timespec{Sec: 1e9 + int64(i), Nsec: int64(i) + 1}
			for _, kind := range []string{"file", "folder", "link", "fifo"} {
				name := fmt.Sprint(kind, i)
				switch kind {
				case "file":
					m.file(name, name)
				case "folder":
					m.folder(name)
				case "link":
					m.must(os.Symlink("x", m.path(name)))
				case "fifo":
					m.must(unix.Mkfifo(m.path(name), 0o600))
				}
				m.times(name, at, other)
				if i > 0 && i < 8 {
					m.times(name, other, at)
				}
			}
		}
		m.times(".", unix.Timespec{Sec: -5, Nsec: 5}, unix.Timespec{Sec: 1e9, Nsec: 77})
	}},
	{name: "flags", on: "ext4", make: func(m maker) {
		m.file("append", "log")
		m.file("immutable", "fixed")
		m.must(writeRandom(m.path("large immutable"), 1, 2<<20))
		m.file("linked immutable", "two names")
		m.must(os.Link(m.path("linked immutable"), m.path("other name")))
		m.file("nodump", "")
		m.file("sync", "s")
		m.file("append folder/child", "x")
		m.file("immutable folder/child", "x")
		m.folder("sync folder")
		for _, name := range []string{"append", "immutable", "large immutable", "append folder", "immutable folder"} {
			m.times(name, unix.Timespec{Sec: 12345, Nsec: 6789}, unix.Timespec{Sec: 12345})
		}
		m.flags("append", flagAppend|flagNoDump)
		m.flags("immutable", flagImmutable|flagNoATime)
		m.flags("large immutable", flagImmutable)
		m.flags("linked immutable", flagImmutable)
		m.flags("nodump", flagNoDump)
		m.flags("sync", flagSync)
		m.flags("append folder", flagAppend)
		m.flags("immutable folder", flagImmutable)
		m.flags("sync folder", flagDirSync)
	}},
	{name: "compression and copy-on-write", on: "btrfs", make: func(m maker) {
		m.file("plain", strings.Repeat("plain", 50000))
		m.file("compressed", "")
		m.flags("compressed", flagCompress)
		m.must(os.WriteFile(m.path("compressed"), bytes.Repeat([]byte("compress me"), 50000), 0o644))
		m.file("in place", "")
		m.flags("in place", flagNoCOW)
		m.must(os.WriteFile(m.path("in place"), bytes.Repeat([]byte("x"), 3<<20), 0o644))
		m.folder("compressed folder")
		m.flags("compressed folder", flagCompress)
		m.file("compressed folder/inherits", "z")
		m.folder("in place folder")
		m.flags("in place folder", flagNoCOW)
		m.file("in place folder/inherits", "z")
		m.pieces("holes", 4<<20, 1<<20)
		unix.Sync()
	}},
	{name: "deep", make: func(m maker) {
		at, err := os.OpenRoot(m.dir)
		m.must(err)
		for i := range 1100 {
			m.must(at.Mkdir("d", 0o750))
			next, err := at.OpenRoot("d")
			m.must(err)
			m.must(at.WriteFile("f", fmt.Append(nil, i), 0o640))
			at.Close()
			at = next
		}
		at.Close()
	}},
	{name: "long paths", make: func(m maker) {
		at, err := os.OpenRoot(m.dir)
		m.must(err)
		for i := range 40 { // 10,200 bytes
			name := longName(string(rune('a' + i%26)))
			m.must(at.Mkdir(name, 0o750))
			next, err := at.OpenRoot(name)
			m.must(err)
			at.Close()
			at = next
			m.must(at.WriteFile(longName("F"), fmt.Append(nil, i), 0o640))
			m.must(at.Symlink(strings.Repeat("t", 4000), "link"))
		}
		m.must(at.Link("link", "second"))
		at.Close()
	}},
}

// Everything that Linux keeps of a file comes back: what was backed up and restored looks, to system calls of the test's own, as it did.
func TestFidelity(t *testing.T) {
	needRoot(t)
	h := newHome(t)
	for _, test := range fidelity {
		t.Run(test.name, func(t *testing.T) {
			var base string
			switch test.on {
			case "":
				base = t.TempDir()
			case "tmpfs":
				base = mountTmpfs(t)
			case "ext4":
				base = mountImage(t, "ext4", 32<<20, "mkfs.ext4", "-q")
			case "btrfs":
				base = mountImage(t, "btrfs", 256<<20, "mkfs.btrfs", "-q")
			}
			src, dst := filepath.Join(base, "source"), filepath.Join(base, "restored")
			if err := os.Mkdir(src, 0o755); err != nil {
				t.Fatal(err)
			}
			test.make(maker{t, src})
			want, before := observe(t, src, test.atime), observe(t, src, true)
			if len(want) < 3 {
				t.Fatalf("only %d files", len(want))
			}
			start := time.Now()
			h.must(t, append([]string{"backup", "--quiet", "--source", src}, test.backup...)...)
			saved := time.Since(start)
			h.must(t, "restore", "--quiet", "--backup-id", "latest", "--destination", dst, "--verify")
			t.Logf("%d entries, saved in %v, restored in %v", len(want), saved, time.Since(start)-saved)
			sameObserved(t, want, dst, test.atime)
			h.must(t, "restore", "--quiet", "--backup-id", "latest", "--destination", dst) // over what is there, immutable or not
			sameObserved(t, want, dst, test.atime)
			sameObserved(t, before, src, true) // reading left no trace, not even in access times
		})
	}
	h.must(t, "verify", "--quiet", "--read-data")
}

// measured runs packhold, which must succeed, and tells how long it took and how much anonymous memory it had at its largest.
func (h home) measured(t *testing.T, args ...string) (time.Duration, int64) {
	t.Helper()
	cmd := h.command(args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	most, err := anonymous(t, cmd)
	if err != nil {
		t.Fatalf("packhold %s: %v\n%s", strings.Join(args, " "), err, &out)
	}
	return time.Since(start), most
}

// A file of 16 TiB that is one hole with a few bytes costs what the few bytes cost, and no more than one of 16 MiB.
func TestHugeHole(t *testing.T) {
	base := mountTmpfs(t)
	const slack = 16 << 20 // what two runs of the same may differ by
	var small []int64
	for _, size := range []int64{16 << 20, 16 << 40} {
		h := newHome(t)
		src, dst := filepath.Join(base, fmt.Sprint("source", size)), filepath.Join(base, fmt.Sprint("restored", size))
		if err := os.Mkdir(src, 0o755); err != nil {
			t.Fatal(err)
		}
		m := maker{t, src}
		m.pieces("huge", size, 0, size/4+4096, size-8192)
		m.pieces("nothing", size+1)
		want := observe(t, src, false)
		for i, args := range [][]string{
			{"backup", "--source", src},
			{"backup", "--source", src},
			{"backup", "--source", src, "--type", "full"},
			{"restore", "--destination", dst, "--verify"},
			{"restore", "--destination", dst},
			{"restore", "--destination", dst, "--in-place", "--sparse"},
			{"verify", "--read-data"},
		} {
			took, most := h.measured(t, append(args, "--quiet")...)
			t.Logf("%s: %v, %d MiB", args, took, most>>20)
			if took > 20*time.Second || most > 64<<20 {
				t.Errorf("%s took %v and %d MiB", args, took, most>>20)
			}
			if args[0] == "restore" {
				sameObserved(t, want, dst, false)
			}
			if i == len(small) {
				small = append(small, most)
			} else if most > small[i]+slack {
				t.Errorf("%s took %d MiB, and %d for a hole of 16 MiB", args, most>>20, small[i]>>20)
			}
		}
	}
}

// summary runs packhold with --json, which must exit with code, and returns its summary.
func (h home) summary(t *testing.T, code int, args ...string) line {
	t.Helper()
	r := h.run(t, append(args, "--json")...)
	if r.code != code {
		t.Fatalf("packhold %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
	}
	lines, err := parseLines(r.stdout)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if l.text("message_type") == "summary" {
			return l
		}
	}
	t.Fatalf("packhold %s: no summary\n%s", strings.Join(args, " "), r.stdout)
	return nil
}

// One new name among 50,000 stores the page of the tree that it is in, not the list of all.
func TestOneNameOfMany(t *testing.T) {
	h := newHome(t)
	base := mountTmpfs(t)
	src, dst := filepath.Join(base, "source"), filepath.Join(base, "restored")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	name := func(i int) string { return fmt.Sprintf("%x.eml", sha256.Sum256(fmt.Append(nil, i)))[:40] } // no pattern to compress
	for i := range 50_000 {
		if err := unix.Mknod(filepath.Join(src, name(i)), unix.S_IFREG|0o600, 0); err != nil {
			t.Fatal(err)
		}
	}
	first := h.summary(t, 0, "backup", "--source", src)
	if err := os.WriteFile(filepath.Join(src, name(-1)), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	second := h.summary(t, 0, "backup", "--source", src)
	t.Logf("first stored %v of %v bytes, second %v of %v", first["bytes_stored"], first["bytes_new"], second["bytes_stored"], second["bytes_new"])
	if first.number("files") != 50_000 || second.number("files") != 50_001 || second.number("files_new") != 1 || second.number("bytes_read") != 0 {
		t.Errorf("%v, then %v", first, second)
	}
	if n := second.number("bytes_stored"); n == 0 || n > first.number("bytes_stored")/50 || n > 64<<10 {
		t.Errorf("one more name stored %d bytes, all of them %d", n, first.number("bytes_stored"))
	}
	h.must(t, "restore", "--quiet", "--destination", dst)
	list := func(dir string) []string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if !slices.Equal(list(src), list(dst)) {
		t.Error("other names were restored")
	}
}

// inNamespace runs a command line of packhold in a shell with mounts of its own, of which the first are made by prepare.
func (h home) inNamespace(prepare string, args ...string) *exec.Cmd {
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-ec", prepare + "\nexec \"$@\"", "sh", packhold}, args...)...)
	cmd.Env = h.environ()
	return cmd
}

// Owners are found by name on the system that restores, and by number where there is no such name or with --numeric-owner.
func TestOwnersByName(t *testing.T) {
	needRoot(t)
	h := newHome(t)
	src := filepath.Join(t.TempDir(), "source")
	m := maker{t, t.TempDir()}
	m.file("here.passwd", "root:x:0:0::/:/bin/sh\nalice:x:7001:7101::/:/bin/sh\nbob:x:7002:7102::/:/bin/sh\n")
	m.file("here.group", "root:x:0:\nalice:x:7101:\nbob:x:7102:\n")
	m.file("there.passwd", "root:x:0:0::/:/bin/sh\nalice:x:8001:8101::/:/bin/sh\ncarol:x:7002:7102::/:/bin/sh\n")
	m.file("there.group", "root:x:0:\nalice:x:8101:\ncarol:x:7102:\n")
	for name, id := range map[string]int{"alices": 7001, "bobs": 7002, "nobodys": 7003} {
		s := maker{t, src}
		s.must(os.Chown(s.file(name, name), id, id+100))
	}
	at := func(system string) string {
		return "mount --make-rprivate /\nmount --bind " + m.path(system+".passwd") + " /etc/passwd\nmount --bind " + m.path(system+".group") + " /etc/group"
	}
	if out, err := h.inNamespace(at("here"), "version").CombinedOutput(); err != nil {
		lacks(t, "a process cannot have mounts of its own: %v\n%s", err, out)
	}
	if r := finish(t, h.inNamespace(at("here"), "backup", "--quiet", "--source", src)); r.code != 0 {
		t.Fatal(r.stderr)
	}
	for _, test := range []struct {
		flags string
		want  map[string][2]uint32
	}{
		{"", map[string][2]uint32{"alices": {8001, 8101}, "bobs": {7002, 7102}, "nobodys": {7003, 7103}}},
		{"--numeric-owner", map[string][2]uint32{"alices": {7001, 7101}, "bobs": {7002, 7102}, "nobodys": {7003, 7103}}},
		{"--no-owner", map[string][2]uint32{"alices": {0, 0}, "bobs": {0, 0}, "nobodys": {0, 0}}},
	} {
		dst := filepath.Join(t.TempDir(), "restored")
		args := append([]string{"restore", "--quiet", "--destination", dst}, strings.Fields(test.flags)...)
		if r := finish(t, h.inNamespace(at("there"), args...)); r.code != 0 {
			t.Fatalf("%s: exit %d\n%s", test.flags, r.code, r.stderr)
		}
		for name, want := range test.want {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dst, name), &st); err != nil {
				t.Fatal(err)
			}
			if got := [2]uint32{st.Uid, st.Gid}; got != want {
				t.Errorf("%s with %q belongs to %d, want %d", name, test.flags, got, want)
			}
		}
	}
}

// Each mount is entered once, under the path where it is: a folder mounted into itself shows there what is below it, with the place of the mount empty.
// With --one-file-system other file systems are saved as empty folders; a bind mount is the same file system.
func TestMounts(t *testing.T) {
	needRoot(t)
	h := newHome(t)
	m := maker{t, filepath.Join(t.TempDir(), "source")}
	m.file("a/file", "once on the disk")
	m.must(os.Link(m.path("a/file"), m.path("a/second")))
	m.folder("a/b/empty")
	m.folder("other")
	mount := func(from, to, kind string, flags uintptr) {
		if err := unix.Mount(from, m.path(to), kind, flags, ""); err != nil {
			lacks(t, "cannot mount: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(m.path(to), unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	mount(m.dir, "a/b", "", unix.MS_BIND|unix.MS_REC)
	mount("none", "other", "tmpfs", 0)
	m.file("other/file", "elsewhere")
	for flags, want := range map[string][]string{
		"":                  {"a/b/a/b/empty", "a/b/a/file", "a/b/a/second", "a/b/other", "a/file", "a/second", "other/file"},
		"--one-file-system": {"a/b/a/b/empty", "a/b/a/file", "a/b/a/second", "a/b/other", "a/file", "a/second", "other"},
	} {
		h.must(t, append([]string{"backup", "--quiet", "--source", m.dir}, strings.Fields(flags)...)...)
		dst := filepath.Join(t.TempDir(), "restored")
		h.must(t, "restore", "--quiet", "--destination", dst)
		got := observe(t, dst, false)
		var ends []string // what holds nothing
		delete(got, ".")
		for path := range got {
			if path += "/"; !slices.ContainsFunc(slices.Collect(maps.Keys(got)), func(p string) bool { return strings.HasPrefix(p, path) }) {
				ends = append(ends, strings.TrimSuffix(path, "/"))
			}
		}
		if slices.Sort(ends); !slices.Equal(ends, want) {
			t.Errorf("%q restored %q, want %q", flags, ends, want)
		}
		if b, err := os.ReadFile(filepath.Join(dst, "a/b/a/file")); err != nil || string(b) != "once on the disk" {
			t.Errorf("%q: %q, %v", flags, b, err)
		}
	}
}

// Devices and FIFOs are recorded and never opened, unless --read-special makes files of them: below a source, as a source, and behind a link that is a
// source.
func TestReadSpecial(t *testing.T) {
	needRoot(t)
	h := newHome(t)
	base := t.TempDir()
	image := filepath.Join(base, "image")
	if err := writeRandom(image, 5, 5<<20); err != nil {
		t.Fatal(err)
	}
	disk := hashed(t, image)
	loop, err := tool("losetup", "--find", "--show", image)
	if err != nil {
		lacks(t, "cannot make a loop device: %v", err)
	}
	t.Cleanup(func() { runTool(t, "losetup", "--detach", loop) })
	var dev unix.Stat_t
	if err := unix.Stat(loop, &dev); err != nil {
		t.Fatal(err)
	}
	m := maker{t, filepath.Join(base, "source")}
	m.folder(".")
	m.must(unix.Mknod(m.path("disk"), unix.S_IFBLK|0o640, int(dev.Rdev)))
	m.must(unix.Mknod(m.path("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	m.must(unix.Mkfifo(m.path("fifo"), 0o600))
	m.must(unix.Mknod(m.path("socket"), unix.S_IFSOCK|0o600, 0))
	m.must(os.Symlink(m.path("disk"), m.path("link")))
	m.times("disk", unix.Timespec{Sec: 1e9, Nsec: 5}, unix.Timespec{Sec: 1e9})
	m.must(os.Chown(m.path("disk"), 1234, 5678))

	want := observe(t, m.dir, false)
	h.must(t, "backup", "--quiet", "--source", m.dir) // would wait for the FIFO
	plain := filepath.Join(base, "plain")
	h.must(t, "restore", "--quiet", "--destination", plain)
	sameObserved(t, want, plain, false)

	for i, first := range []string{"a writer that was there", "and again"} {
		written := make(chan error, 1)
		go func() { // waits in open until the backup reads
			f, err := os.OpenFile(m.path("fifo"), os.O_WRONLY, 0)
			if err == nil {
				for range 3 {
					time.Sleep(20 * time.Millisecond)
					if _, err = f.WriteString(first + strings.Repeat(".", 100_000)); err != nil {
						break
					}
				}
				f.Close()
			}
			written <- err
		}()
		sum := h.summary(t, 0, "backup", "--read-special", "--source", m.dir)
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		if sum.number("files") != 3 || sum.number("others") != 2 || sum.number("files_changed") != int64(3*i) {
			t.Errorf("%v", sum)
		}
		dst := filepath.Join(base, "special", fmt.Sprint(i))
		h.must(t, "restore", "--quiet", "--destination", dst, "--verify")
		if got := hashed(t, filepath.Join(dst, "disk")); got != disk {
			t.Error("the device's bytes differ")
		}
		var st unix.Stat_t
		m.must(unix.Lstat(filepath.Join(dst, "disk"), &st))
		if st.Mode != unix.S_IFREG|0o640 || st.Uid != 1234 || st.Gid != 5678 || st.Mtim != (unix.Timespec{Sec: 1e9, Nsec: 5}) || st.Size != 5<<20 {
			t.Errorf("the device came back as %+v", st)
		}
		if b, err := os.ReadFile(filepath.Join(dst, "fifo")); err != nil || string(b) != strings.Repeat(first+strings.Repeat(".", 100_000), 3) {
			t.Errorf("the FIFO gave %d bytes, %v", len(b), err)
		}
		if b, err := os.ReadFile(filepath.Join(dst, "null")); err != nil || len(b) != 0 {
			t.Errorf("/dev/null gave %d bytes, %v", len(b), err)
		}
		got := observe(t, dst, false)
		for _, name := range []string{"socket", "link"} {
			if got[name] != want[name] {
				t.Errorf("%s: %s, want %s", name, got[name], want[name])
			}
		}
	}
	for i, name := range []string{loop, m.path("link")} {
		h.must(t, "backup", "--quiet", "--read-special", "--source", name)
		dst := filepath.Join(base, "alone", fmt.Sprint(i))
		h.must(t, "restore", "--quiet", "--destination", dst)
		if got := hashed(t, filepath.Join(dst, filepath.Base(name))); got != disk {
			t.Errorf("the bytes of %s differ", name)
		}
	}
	// Nobody ever writes to this one: the backup waits, and can be interrupted.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, packhold, "backup", "--read-special", "--source", m.path("fifo"))
	cmd.Env = h.environ()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if r := finish(t, cmd); r.code < 128 {
		t.Errorf("exit %d of a backup that was interrupted\n%s", r.code, r.stderr)
	}
}

func hashed(t *testing.T, path string) string {
	t.Helper()
	sum, err := hashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// What the kernel makes up is not read: below a source it is an empty folder, and as a source it is named as skipped. /proc/kcore alone claims 128 TiB.
func TestSynthetic(t *testing.T) {
	needRoot(t)
	h := newHome(t)
	m := maker{t, filepath.Join(t.TempDir(), "source")}
	m.file("file", "saved")
	for _, kind := range []string{"proc", "sysfs"} {
		at := m.folder(kind)
		if err := unix.Mount("none", at, kind, unix.MS_RDONLY, ""); err != nil {
			lacksMount(t, kind, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	sum := h.summary(t, 0, "backup", "--source", m.dir)
	if sum.number("files") != 1 || sum.number("bytes_read") != 5 {
		t.Errorf("%v", sum)
	}
	dst := filepath.Join(t.TempDir(), "restored")
	h.must(t, "restore", "--quiet", "--destination", dst)
	if got := observe(t, dst, false); len(got) != 4 {
		t.Errorf("restored %v", got)
	}
	sum = h.summary(t, 3, "backup", "--source", m.path("file"), "--source", m.path("proc"), "--source", "/proc/kcore")
	if sum.number("files") != 1 || sum.number("skipped") != 2 {
		t.Errorf("%v", sum)
	}
}

// skippedItems runs a backup that may leave out items, and returns them with their reasons. Each must be listed once.
func (h home) skippedItems(t *testing.T, cmd *exec.Cmd) map[string]string {
	t.Helper()
	r := finish(t, cmd)
	lines, err := parseLines(r.stdout)
	if err != nil {
		t.Fatal(err)
	}
	items := map[string]string{}
	for _, l := range lines {
		switch l.text("message_type") {
		case "warning":
			if items[l.text("item")] != "" {
				t.Errorf("%q is listed twice: %s; %s", l.text("item"), items[l.text("item")], l.text("reason"))
			}
			items[l.text("item")] = l.text("reason")
		case "summary":
			if n := l.number("skipped"); int(n) != len(items) {
				t.Errorf("%d items are listed, %d counted", len(items), n)
			}
		}
	}
	if want := 3; r.code != want && (r.code != 0 || len(items) > 0) {
		t.Fatalf("exit %d with %d items skipped\n%s", r.code, len(items), r.stderr)
	}
	return items
}

// What its owner closed to the user who backs up is listed once, with the reason, and everything else is saved.
func TestDenied(t *testing.T) {
	needRoot(t)
	h := newHome(t)
	m := maker{t, filepath.Join(t.TempDir(), "source")}
	m.file("fine/file", "fine")
	m.file("closed file", "secret")
	m.file("closed folder/file", "secret")
	m.file("only passed/file", "secret")
	m.file("only listed/file", "secret")
	m.file("foreign", "of root, readable")
	m.xattr("foreign", "trusted.of.root", []byte("unseen"))
	m.must(unix.Mkfifo(m.path("closed fifo"), 0))
	for _, dir := range []string{string(h), m.dir} {
		m.must(giveAway(dir))
	}
	m.must(os.Chown(m.path("foreign"), 0, 0))
	for name, mode := range map[string]os.FileMode{"closed file": 0, "closed folder": 0, "only passed": 0o100, "only listed": 0o400} {
		m.must(os.Chmod(m.path(name), mode))
	}
	cmd := h.command("backup", "--json", "--source", m.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	got := h.skippedItems(t, cmd)
	want := []string{"closed file", "closed folder", "only listed/file", "only passed"}
	for i := range want {
		want[i] = m.path(want[i])
		if !strings.Contains(got[want[i]], "permission denied") {
			t.Errorf("%s: %q", want[i], got[want[i]])
		}
	}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("skipped %q, want %q", names, want)
	}
	dst := filepath.Join(t.TempDir(), "restored")
	h.must(t, "restore", "--quiet", "--destination", dst)
	for _, name := range []string{"fine/file", "foreign", "closed fifo", "closed folder", "only passed", "only listed"} {
		var a, b unix.Stat_t
		m.must(unix.Lstat(m.path(name), &a))
		m.must(unix.Lstat(filepath.Join(dst, name), &b))
		if a.Mode != b.Mode || a.Uid != b.Uid || a.Mtim != b.Mtim || a.Mode&unix.S_IFMT == unix.S_IFREG && a.Size != b.Size {
			t.Errorf("%s came back as %+v, it was %+v", name, b, a)
		}
	}
}

// pattern is the byte at an offset of every file of TestRace: so what was read of one is right or wrong whenever it was read.
func pattern(off int64) byte { return byte(off>>16)*31 + byte(off>>8)*7 + byte(off) | 1 }

func patternOf(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = pattern(int64(i))
	}
	return b
}

// Files grow, shrink, vanish and come back while backups run. Each backup is a whole snapshot: what stood still is in it, what changed is in it as far as it
// was read or listed, and nothing holds bytes that were never there.
func TestRace(t *testing.T) {
	r := newSeed(t)
	h := newHome(t)
	m := maker{t, filepath.Join(t.TempDir(), "source")}
	all := patternOf(6 << 20)
	sizes := []int{0, 100, 5000, 70_000, 900_000, 1<<20 + 1, 4 << 20}
	m.folder("still")
	m.folder("moving")
	var moving []string
	for i := range 35 {
		size := sizes[i%len(sizes)]
		m.must(os.WriteFile(m.path(fmt.Sprint("still/", i)), all[:size], 0o644))
		moving = append(moving, m.path(fmt.Sprint("moving/", i)))
		m.must(os.WriteFile(moving[i], all[:size], 0o644))
	}
	stop := make(chan struct{})
	var done sync.WaitGroup
	for k := range 3 {
		seed := rand.New(rand.NewPCG(r.Uint64(), uint64(k)))
		done.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				name := moving[3*seed.IntN(len(moving)/3)+k] // no two change the same file
				info, err := os.Lstat(name)
				if err != nil {
					os.WriteFile(name, all[:seed.IntN(70_000)], 0o644)
					continue
				}
				switch seed.IntN(6) {
				case 0, 1:
					if f, err := os.OpenFile(name, os.O_WRONLY, 0); err == nil && info.Mode().IsRegular() {
						size := info.Size()
						f.WriteAt(all[size:min(size+int64(seed.IntN(300_000)), int64(len(all)))], size)
						f.Close()
					}
				case 2, 3:
					if info.Mode().IsRegular() && info.Size() > 0 {
						os.Truncate(name, seed.Int64N(info.Size()))
					}
				case 4:
					os.Remove(name)
				case 5:
					os.Remove(name)
					os.Symlink("/etc/passwd", name)
				}
				time.Sleep(time.Duration(seed.IntN(3000)) * time.Microsecond)
			}
		})
	}
	rounds, changed := 4, 0
	if soaking() {
		rounds = 100
	}
	skipped := make([]map[string]string, rounds)
	for i := range rounds {
		kind := "full"
		if i%2 == 1 {
			kind = "incremental"
		}
		skipped[i] = h.skippedItems(t, h.command("backup", "--json", "--type", kind, "--source", m.dir))
		changed += len(skipped[i])
	}
	close(stop)
	done.Wait()
	t.Logf("%d items were skipped or changed while they were read", changed)
	h.must(t, "verify", "--quiet", "--read-data")
	for i := range rounds {
		dst := filepath.Join(t.TempDir(), "restored")
		h.must(t, "restore", "--quiet", "--backup-id", fmt.Sprint(i+1), "--destination", dst, "--verify")
		for path := range skipped[i] {
			if filepath.Dir(path) != m.path("moving") {
				t.Errorf("backup %d: %s, which nobody touched: %s", i+1, path, skipped[i][path])
			}
		}
		for k := range 35 {
			b, err := os.ReadFile(filepath.Join(dst, fmt.Sprint("still/", k)))
			if err != nil || !bytes.Equal(b, all[:sizes[k%len(sizes)]]) {
				t.Errorf("backup %d: still/%d has %d bytes, %v", i+1, k, len(b), err)
			}
		}
		entries, err := os.ReadDir(filepath.Join(dst, "moving"))
		m.must(err)
		for _, e := range entries {
			if !e.Type().IsRegular() {
				continue
			}
			b, err := os.ReadFile(filepath.Join(dst, "moving", e.Name()))
			m.must(err)
			listed := skipped[i][m.path("moving/"+e.Name())] != ""
			for at := range b {
				if b[at] != all[at] && !(listed && b[at] == 0) { // the system clears the pages behind a new end under whoever reads them
					t.Errorf("backup %d: byte %d of %d of moving/%s was never there; listed: %v", i+1, at, len(b), e.Name(), listed)
					break
				}
			}
		}
		m.must(os.RemoveAll(dst))
	}
}

// A file system that cannot hold an attribute costs that attribute, which is named, and nothing else: ext4 says of one that is too large for it that there is
// no space.
func TestLesserDestination(t *testing.T) {
	base, small := mountTmpfs(t), mountImage(t, "ext4", 32<<20, "mkfs.ext4", "-q")
	h := newHome(t)
	m := maker{t, filepath.Join(base, "source")}
	for _, name := range []string{"a file", "large file", "fine"} {
		m.file(name, name)
	}
	m.must(writeRandom(m.path("large file"), 1, 3<<20))
	m.folder("folder/in it")
	for i := range 20 {
		m.file(fmt.Sprint("folder/", i), "x")
	}
	for _, name := range []string{"a file", "large file", "folder"} {
		m.xattr(name, "trusted.a", []byte("fits"))
		m.xattr(name, "trusted.large", bytes.Repeat([]byte("v"), 64<<10))
		m.xattr(name, "trusted.z", []byte("fits too"))
		m.must(os.Chmod(m.path(name), 0o710))
		m.must(os.Chown(m.path(name), 1234, 5678))
		m.times(name, unix.Timespec{Sec: 1e9, Nsec: 9}, unix.Timespec{Sec: 1e9})
		m.flags(name, flagNoDump|flagAppend)
	}
	m.times("fine", unix.Timespec{Sec: 1 << 40}, unix.Timespec{Sec: 1e9}) // beyond ext4's 2446
	t.Cleanup(func() { tool("chattr", "-R", "-a", m.dir) })
	want := observe(t, m.dir, false)
	h.must(t, "backup", "--quiet", "--source", m.dir)
	dst := filepath.Join(small, "restored")
	r := h.run(t, "restore", "--quiet", "--destination", dst)
	for _, name := range []string{"a file", "large file", "folder", "fine"} {
		if !strings.Contains(r.stderr, name) {
			t.Errorf("%s is not named", name)
		}
	}
	if r.code != 3 {
		t.Errorf("exit %d, want 3\n%s", r.code, r.stderr)
	}
	large := regexp.MustCompile(` "trusted.large"=\S+`)
	far := regexp.MustCompile(` mtime \S+`)
	got := observe(t, dst, false)
	for name := range want {
		want[name] = large.ReplaceAllString(want[name], "")
	}
	for _, lines := range []map[string]string{want, got} {
		lines["fine"] = far.ReplaceAllString(lines["fine"], "")
	}
	if d := differences(want, got); d != "" {
		t.Error(d)
	}
}

// What is immutable in the destination and differs stays as it is, and is named; everything else is restored.
func TestImmutableDestination(t *testing.T) {
	base := mountImage(t, "ext4", 32<<20, "mkfs.ext4", "-q")
	h := newHome(t)
	m := maker{t, filepath.Join(base, "source")}
	m.file("fixed", "new")
	m.file("free", "new")
	m.file("folder/missing", "new")
	h.must(t, "backup", "--quiet", "--source", m.dir)
	dst := maker{t, filepath.Join(base, "restored")}
	dst.file("fixed", "of the destination")
	dst.file("free", "old")
	dst.folder("folder")
	dst.flags("fixed", flagImmutable)
	dst.flags("folder", flagImmutable)
	before := observe(t, dst.dir, false)["fixed"]
	r := h.run(t, "restore", "--quiet", "--destination", dst.dir)
	if r.code != 3 || !strings.Contains(r.stderr, "/fixed") || !strings.Contains(r.stderr, "/folder/missing") || strings.Contains(r.stderr, "/free") {
		t.Errorf("exit %d\n%s", r.code, r.stderr)
	}
	got := observe(t, dst.dir, false)
	if len(got) != 4 || got["fixed"] != before || got["free"] != observe(t, m.dir, false)["free"] {
		t.Errorf("%v", got)
	}
}
