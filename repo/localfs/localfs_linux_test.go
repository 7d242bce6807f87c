package localfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"packhold/backends/backendtest"
	"packhold/repo/snapshot"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		backendtest.Lacks(t, "this is not run by root: devices, owners, trusted attributes")
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// onTmpfs is a folder on tmpfs, which holds what ext4 cannot (64 KiB attributes, files beyond 16 TiB).
func onTmpfs(t *testing.T) string {
	t.Helper()
	var s unix.Statfs_t
	if unix.Statfs("/dev/shm", &s) != nil || s.Type != unix.TMPFS_MAGIC {
		backendtest.Lacks(t, "/dev/shm is not a tmpfs")
	}
	dir, err := os.MkdirTemp("/dev/shm", "localfs")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func openBoth(t *testing.T, path string) (*Dir, *DestDir) {
	t.Helper()
	src, err := OpenDir(path)
	check(t, err)
	root, err := os.OpenRoot(path)
	check(t, err)
	dst, err := OpenParent(root, "")
	check(t, err)
	check(t, root.Close()) // a DestDir stands on its own
	t.Cleanup(func() { src.Close(); dst.Close() })
	return src, dst
}

// asUser runs f on a thread that has the rights of an ordinary user, who is also in group 88.
func asUser(t *testing.T, uid int, f func()) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		groups := []uint32{88}
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&groups[0])), 0); e != 0 {
			t.Error(e)
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETFSGID, uintptr(uid), 0, 0); e != 0 {
			t.Error(e)
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0); e != 0 {
			t.Error(e)
		}
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			t.Error(err)
		}
		f()
	})
	wg.Wait()
}

// copyTree restores src into dst the way a backup and a restore would, and joins all errors.
func copyTree(src *Dir, dst *DestDir, opt ApplyOptions, links map[uint64]link) error {
	names, err := src.Names(context.Background())
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if err := copyEntry(src, dst, name, opt, links); err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", name, err))
		}
	}
	var n snapshot.Node
	if _, err := src.Stat("", &n); err != nil {
		return err
	}
	if err := src.Details("", &n, DetailOptions{}); err != nil {
		return err
	}
	errs = append(errs, dst.Apply("", &n, opt))
	return errors.Join(errs...)
}

type link struct {
	dir  *DestDir
	name string
}

func copyEntry(src *Dir, dst *DestDir, name string, opt ApplyOptions, links map[uint64]link) error {
	var n snapshot.Node
	if _, err := src.Stat(name, &n); err != nil {
		return err
	}
	if n.Links > 1 && n.Type != snapshot.Dir {
		if l, ok := links[n.Inode]; ok {
			return dst.Link(l.dir, l.name, name)
		}
		links[n.Inode] = link{dst, name}
	}
	switch n.Type {
	case snapshot.File:
		f, err := src.OpenFile(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Stat(&n); err != nil {
			return err
		}
		if err := f.Details(&n, DetailOptions{}); err != nil {
			return err
		}
		out, err := dst.CreateFile(".part")
		if err != nil {
			return err
		}
		defer out.Close()
		PrepareFile(out, &n)
		if err := copyData(f, out, int64(n.Size)); err != nil {
			return err
		}
		if err := ApplyFile(out, &n, opt); err != nil {
			return err
		}
		if err := dst.Rename(".part", name); err != nil {
			return err
		}
		return dst.ApplyLockingFlags(name, &n)
	case snapshot.Dir:
		if err := dst.MkDir(name, 0o700); err != nil {
			return err
		}
		s, err := src.Open(name)
		if err != nil {
			return err
		}
		defer s.Close()
		d, err := dst.Open(name)
		if err != nil {
			return err
		}
		// not closed: links may need it
		return copyTree(s, d, opt, links)
	}
	if err := src.Details(name, &n, DetailOptions{}); err != nil {
		return err
	}
	var err error
	if n.Type == snapshot.Symlink {
		err = dst.Symlink(n.Target, name)
	} else {
		err = dst.Mknod(name, &n)
	}
	if err != nil {
		return err
	}
	return dst.Apply(name, &n, opt)
}

func copyData(f *File, out *os.File, size int64) error {
	for off := int64(0); off < size; {
		start, end, err := f.NextData(off, size)
		if err != nil {
			return err
		}
		if start < end {
			if _, err := io.Copy(io.NewOffsetWriter(out, start), io.NewSectionReader(f, start, end-start)); err != nil {
				return err
			}
		}
		off = end
	}
	return out.Truncate(size)
}

// describe lists a tree by paths and library calls that the package does not use: one line per entry.
func describe(t *testing.T, root string) map[string]string {
	t.Helper()
	first := map[uint64]string{}
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := fmt.Sprintf("mode %o owner %d:%d mtime %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" -> %q", target)
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d bytes %q", len(b), bytes.TrimRight(b, "\x00"))
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %d", st.Rdev)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			line += fmt.Sprintf(" links %d first %q", st.Nlink, first[st.Ino])
		}
		buf := make([]byte, 64<<10)
		n, err := unix.Llistxattr(path, buf)
		if err != nil {
			return err
		}
		names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
		slices.Sort(names)
		for _, name := range names {
			if name == "" {
				continue
			}
			v := make([]byte, 64<<10)
			n, err := unix.Lgetxattr(path, name, v)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s=%x", name, v[:n])
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			line += fmt.Sprintf(" flags %#x", pathFlags(t, path)&settableFlags)
		}
		all[rel] = line
		return nil
	})
	check(t, err)
	return all
}

func pathFlags(t *testing.T, path string) uint32 {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == unix.ENOTTY || err == unix.ENOTSUP {
		return 0
	}
	check(t, err)
	return flags
}

func setPathFlags(t *testing.T, path string, flags uint32) {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	have, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(have&^settableFlags|flags))
	}
	if err != nil {
		t.Fatalf("setting flags of %s: %v", path, err)
	}
}

// acl makes the value of system.posix_acl_access: version 2, then tag, permission, id of each entry.
func acl(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

const noID = ^uint32(0)

var (
	// user rw, user 1234 rwx, group r, mask rwx, other none
	aclAccess = acl([3]uint32{1, 6, noID}, [3]uint32{2, 7, 1234}, [3]uint32{4, 4, noID}, [3]uint32{16, 7, noID}, [3]uint32{32, 0, noID})
	// cap_net_raw=ep, revision 2
	capNetRaw = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
)

func nanos(t *testing.T, path string, sec int64, nsec int64) {
	t.Helper()
	ts, err := unix.TimeToTimespec(time.Unix(sec, nsec))
	if err == unix.ERANGE && strconv.IntSize == 32 {
		return // beyond 2038; the package says ERANGE too
	}
	check(t, err)
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// makeTree fills dir with everything that ext4 and tmpfs both hold.
func makeTree(t *testing.T, dir string) {
	t.Helper()
	p := func(s string) string { return filepath.Join(dir, s) }
	write := func(name, s string) { check(t, os.WriteFile(p(name), []byte(s), 0o644)) }
	xattr := func(name, attr string, v []byte) {
		if err := unix.Lsetxattr(p(name), attr, v, 0); err != nil {
			t.Fatalf("%s %s: %v", name, attr, err)
		}
	}
	write("plain", "hello")
	write("empty", "")
	for _, name := range []string{"new\nline", "esc\x1b[31m", "bad\xff\xfe utf8", "-rf", "trailing  ", "*?'\"\\", strings.Repeat("n", 255),
		"caf\u00e9", "cafe\u0301"} {
		write(name, name)
	}
	check(t, os.Mkdir(p("dir"), 0o755))
	check(t, os.Mkdir(p("sticky"), 0o700))
	check(t, unix.Chmod(p("sticky"), 0o1777))
	check(t, os.Mkdir(p("setgid"), 0o700))
	check(t, os.Chown(p("setgid"), 0, 77))
	check(t, unix.Chmod(p("setgid"), 0o2770))
	check(t, os.Symlink("nowhere\n\x1b\xff", p("link")))
	check(t, os.Symlink(strings.Repeat("t/", 2000), p("longlink")))
	check(t, os.Lchown(p("link"), 123, 456))
	xattr("link", "trusted.onlink", []byte("link itself"))
	check(t, os.Symlink("plain", p("goodlink"))) // whatever is done to it must not reach plain
	check(t, os.Lchown(p("goodlink"), 5, 6))
	check(t, os.Link(p("plain"), p("dir/hard")))
	check(t, os.Link(p("link"), p("dir/hardlink")))
	check(t, unix.Mknod(p("fifo"), unix.S_IFIFO|0o640, 0))
	check(t, unix.Mknod(p("socket"), unix.S_IFSOCK|0o750, 0))
	check(t, unix.Mknod(p("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(t, unix.Mknod(p("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(4095, 1<<20-1))))
	xattr("fifo", "trusted.onfifo", []byte{0, 1, 255})
	write("setuid", "#!")
	check(t, os.Chown(p("setuid"), 1000, 1001))
	check(t, unix.Chmod(p("setuid"), 0o6755))
	write("none", "x")
	check(t, unix.Chmod(p("none"), 0))
	write("attrs", "")
	xattr("attrs", "user.empty", nil)
	xattr("attrs", "user.binary", []byte("\x00\xff\n"))
	xattr("attrs", "user.longer", bytes.Repeat([]byte("v"), 1500))
	xattr("attrs", "trusted.t", []byte("t"))
	xattr("attrs", "security.capability", capNetRaw)
	for i := range 30 {
		xattr("attrs", fmt.Sprintf("user.%s%02d", strings.Repeat("many", 5), i), []byte{byte(i)}) // list above 512 bytes
	}
	write("acl", "")
	xattr("acl", "system.posix_acl_access", aclAccess)
	check(t, unix.Chmod(p("acl"), 0o4670)) // setuid beside an ACL
	xattr("dir", "system.posix_acl_access", aclAccess)
	xattr("dir", "system.posix_acl_default", aclAccess)
	xattr("dir", "user.dir", []byte("d"))
	for name, at := range map[string][2]int64{"plain": {10413792000, 123456789}, "empty": {-1, 999999999}, "none": {-2000000000, 1}, "acl": {0, 0},
		"link": {1, 2}, "goodlink": {4000000000, 5}, "fifo": {3, 999999999}, "null": {77, 7}, "socket": {78, 8}, "sticky": {-5, 5}, "dir": {1 << 32, 1}, "": {9, 9}} {
		nanos(t, p(name), at[0], at[1])
	}
}

func TestRoundTrip(t *testing.T) {
	needRoot(t)
	for name, base := range map[string]func(*testing.T) string{
		"disk":  func(t *testing.T) string { return t.TempDir() },
		"tmpfs": onTmpfs,
	} {
		t.Run(name, func(t *testing.T) {
			dir := base(t)
			from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
			check(t, os.Mkdir(from, 0o750))
			check(t, os.Mkdir(to, 0o700))
			// What the destination hands down must not stay on what is restored.
			check(t, unix.Setxattr(to, "system.posix_acl_default", aclAccess, 0))
			check(t, unix.Setxattr(to, "user.stale", []byte("x"), 0))
			makeTree(t, from)
			src, _ := openBoth(t, from)
			_, dst := openBoth(t, to)
			check(t, copyTree(src, dst, ApplyOptions{}, map[uint64]link{}))
			compare(t, describe(t, from), describe(t, to))
		})
	}
}

func compare(t *testing.T, want, got map[string]string) {
	t.Helper()
	if len(want) < 2 {
		t.Fatalf("only %d entries to compare", len(want))
	}
	for name, line := range want {
		if got[name] != line {
			t.Errorf("%q\n was %s\n now %s", name, line, got[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%q appeared", name)
		}
	}
}

func TestInodeFlags(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	files := map[string]uint32{"nodump": flagNoDump, "append": flagAppend | flagNoDump, "immutable": flagImmutable | flagNoATime, "sync": flagSync, "none": 0}
	dirs := map[string]uint32{"d-append": flagAppend, "d-immutable": flagImmutable, "d-dirsync": flagDirSync, "d-none": 0}
	t.Cleanup(func() { // or the folder could not be removed
		for _, base := range []string{from, to} {
			for name := range files {
				setPathFlags(t, filepath.Join(base, name), 0)
			}
			for name := range dirs {
				setPathFlags(t, filepath.Join(base, name), 0)
			}
		}
	})
	check(t, os.Mkdir(from, 0o755))
	check(t, os.Mkdir(to, 0o755))
	for name := range files {
		check(t, os.WriteFile(filepath.Join(from, name), []byte(name), 0o644))
		nanos(t, filepath.Join(from, name), 12345, 6)
	}
	for name := range dirs {
		check(t, os.Mkdir(filepath.Join(from, name), 0o755))
		check(t, os.WriteFile(filepath.Join(from, name, "child"), nil, 0o644))
		nanos(t, filepath.Join(from, name), 12345, 6)
	}
	for name, flags := range files {
		setPathFlags(t, filepath.Join(from, name), flags)
	}
	for name, flags := range dirs {
		setPathFlags(t, filepath.Join(from, name), flags)
	}
	src, _ := openBoth(t, from)
	_, dst := openBoth(t, to)
	check(t, copyTree(src, dst, ApplyOptions{}, map[uint64]link{}))
	compare(t, describe(t, from), describe(t, to))

	// A flag the file system does not have is reported, the others are set.
	var n snapshot.Node
	_, err := src.Stat("none", &n)
	check(t, err)
	n.Flags = flagNoDump | flagNoCOW
	err = dst.Apply("none", &n, ApplyOptions{})
	wantFailed(t, err, "flags")
	if got := pathFlags(t, filepath.Join(to, "none")) & settableFlags; got != flagNoDump {
		t.Errorf("flags are %#x", got)
	}
}

// wantFailed asserts exactly which attributes failed.
func wantFailed(t *testing.T, err error, attrs ...string) {
	t.Helper()
	partial, ok := errors.AsType[*PartialError](err)
	if !ok {
		t.Errorf("error is %v, wanted a failure of %q", err, attrs)
		return
	}
	var got []string
	for _, f := range partial.Failed {
		got = append(got, f.Attr)
	}
	if !slices.Equal(got, attrs) {
		t.Errorf("failed: %q, wanted %q (%v)", got, attrs, err)
	}
}

func TestStatMatchesSystem(t *testing.T) {
	src, err := OpenDir("/dev")
	check(t, err)
	defer src.Close()
	names, err := src.Names(context.Background())
	check(t, err)
	entries, err := os.ReadDir("/dev")
	check(t, err)
	if len(names) < 5 || !slices.IsSorted(names) {
		t.Fatalf("names: %q", names)
	}
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			t.Errorf("%q is not listed", e.Name())
		}
	}
	for _, name := range append(names, "") {
		n := snapshot.Node{User: "kept", Size: 99, Rdev: 99}
		got, err := src.Stat(name, &n)
		if errors.Is(err, fs.ErrNotExist) {
			continue // others use /dev too
		}
		check(t, err)
		var st unix.Stat_t
		check(t, unix.Lstat("/dev/"+name, &st))
		want := snapshot.Node{Name: name, Type: typeOf(st.Mode), Mode: st.Mode & modeAll, UID: st.Uid, GID: st.Gid, User: "kept",
			MTime: snapshot.Time{Sec: int64(st.Mtim.Sec), Nsec: uint32(st.Mtim.Nsec)},
			CTime: snapshot.Time{Sec: int64(st.Ctim.Sec), Nsec: uint32(st.Ctim.Nsec)},
			BTime: n.BTime, Inode: st.Ino, Links: uint32(st.Nlink)}
		if want.Type == snapshot.CharDevice || want.Type == snapshot.BlockDevice {
			want.Rdev = uint64(unix.Major(uint64(st.Rdev)))<<32 | uint64(unix.Minor(uint64(st.Rdev)))
		}
		if want.Type == snapshot.File {
			want.Size = uint64(st.Size)
		}
		want.MTime, n.MTime = snapshot.Time{}, snapshot.Time{} // terminals in use
		want.CTime, n.CTime = snapshot.Time{}, snapshot.Time{}
		if !reflect.DeepEqual(n, want) {
			t.Errorf("%q\n got %+v\nwant %+v", name, n, want)
		}
		if dev := uint64(unix.Major(uint64(st.Dev)))<<32 | uint64(unix.Minor(uint64(st.Dev))); got.Dev != dev {
			t.Errorf("%q: device %#x, want %#x", name, got.Dev, dev)
		}
		if int64(got.Blocks) != int64(st.Blocks) {
			t.Errorf("%q: %d blocks, want %d", name, got.Blocks, st.Blocks)
		}
	}
}

func TestStatDetails(t *testing.T) {
	dir := t.TempDir()
	before := time.Now().Add(-2 * time.Second)
	check(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 100000), 0o640))
	src, _ := openBoth(t, dir)
	var n snapshot.Node
	st, err := src.Stat("f", &n)
	check(t, err)
	if n.BTime.Sec < before.Unix() || n.BTime.Sec > time.Now().Unix() {
		t.Errorf("born %v", n.BTime)
	}
	if st.ATime.Sec < before.Unix() || n.ATime != (snapshot.Time{}) {
		t.Errorf("accessed %v, node has %v", st.ATime, n.ATime)
	}
	if st.Sparse(n.Size) || n.Size != 100000 {
		t.Errorf("%d bytes in %d blocks are called sparse", n.Size, st.Blocks)
	}
	// bind mounts and other file systems differ in Mount
	proc, err := OpenDir("/proc")
	check(t, err)
	defer proc.Close()
	other, err := proc.Stat("", &n)
	check(t, err)
	if other.Mount == st.Mount || other.Dev == st.Dev {
		t.Errorf("/proc: %+v, here: %+v", other, st)
	}
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := src.Stat("f", &n); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("Stat allocates %v times", allocs)
	}
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	src, _ := openBoth(t, dir)
	ctx, cancel := context.WithCancel(context.Background())
	if names, err := src.Names(ctx); err != nil || len(names) != 0 {
		t.Fatalf("empty directory: %q, %v", names, err)
	}
	var want []string
	for i := range 3000 { // several buffers
		want = append(want, fmt.Sprintf("%d%s", i, strings.Repeat("x", i%250)))
		check(t, os.Symlink("t", filepath.Join(dir, want[i])))
	}
	want = append(want, "...", "..x", ".x")
	for _, name := range want[3000:] {
		check(t, os.Symlink("t", filepath.Join(dir, name)))
	}
	slices.Sort(want)
	for range 2 { // a second listing starts from the beginning
		got, err := src.Names(ctx)
		check(t, err)
		if !slices.Equal(got, want) {
			t.Fatalf("got %d names, want %d", len(got), len(want))
		}
	}
	cancel()
	if _, err := src.Names(ctx); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	check(t, src.Close())
	check(t, src.Close())
	if _, err := src.Names(context.Background()); err == nil {
		t.Error("a closed directory is listed")
	}
}

func TestOddNamesRefused(t *testing.T) {
	dir := t.TempDir()
	guard := filepath.Join(dir, "guard")
	check(t, os.Mkdir(guard, 0o700))
	in := filepath.Join(guard, "in")
	check(t, os.Mkdir(in, 0o700))
	check(t, os.WriteFile(filepath.Join(in, "f"), nil, 0o600))
	src, dst := openBoth(t, in)
	root, err := os.OpenRoot(in)
	check(t, err)
	defer root.Close()
	f := snapshot.Node{Type: snapshot.File}
	fifo := snapshot.Node{Type: snapshot.FIFO}
	before := describe(t, guard)
	for _, name := range []string{"", ".", "..", "/", "a/b", "../x", "/etc/passwd", "f/", "x\x00y", "\x00", "./f"} {
		calls := map[string]func() error{
			"MkDir":       func() error { return dst.MkDir(name, 0o700) },
			"CreateFile":  func() error { _, err := dst.CreateFile(name); return err },
			"OpenFile":    func() error { _, err := dst.OpenFile(name); return err },
			"Symlink":     func() error { return dst.Symlink("x", name) },
			"Mknod":       func() error { return dst.Mknod(name, &fifo) },
			"Link":        func() error { return dst.Link(dst, "f", name) },
			"Link from":   func() error { return dst.Link(dst, name, "new") },
			"Rename":      func() error { return dst.Rename("f", name) },
			"Rename from": func() error { return dst.Rename(name, "new") },
			"Remove":      func() error { return dst.Remove(name) },
			"Lstat":       func() error { _, err := dst.Lstat(name, &f); return err },
			"Open":        func() error { _, err := dst.Open(name); return err },
			"ApplyLocking": func() error {
				return dst.ApplyLockingFlags(name, &snapshot.Node{Type: snapshot.File, Flags: flagAppend})
			},
			"Dir.Open":     func() error { _, err := src.Open(name); return err },
			"Dir.OpenFile": func() error { _, err := src.OpenFile(name); return err },
		}
		if name != "" { // the directory itself
			calls["Apply"] = func() error { return dst.Apply(name, &f, ApplyOptions{}) }
			calls["Dir.Stat"] = func() error { _, err := src.Stat(name, &f); return err }
			calls["Dir.Details"] = func() error { return src.Details(name, &f, DetailOptions{}) }
		}
		if name != "" && name != "." && name != "a/b" { // OpenParent takes paths
			calls["OpenParent"] = func() error { _, err := OpenParent(root, name); return err }
		}
		for what, call := range calls {
			if err := call(); !errors.Is(err, ErrName) && !(what == "OpenParent" && err != nil) {
				t.Errorf("%s(%q): %v", what, name, err)
			}
		}
	}
	compare(t, before, describe(t, guard))
}

func TestLinksNeverFollowed(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	guard, in := filepath.Join(dir, "guard"), filepath.Join(dir, "in")
	check(t, os.Mkdir(guard, 0o700))
	check(t, os.Mkdir(in, 0o700))
	check(t, os.WriteFile(filepath.Join(guard, "f"), []byte("guarded"), 0o600))
	check(t, os.Mkdir(filepath.Join(in, "real"), 0o700))
	check(t, os.WriteFile(filepath.Join(in, "real/f"), []byte("inside"), 0o600))
	check(t, os.Symlink("../guard", filepath.Join(in, "out")))
	check(t, os.Symlink(guard, filepath.Join(in, "abs")))
	check(t, os.Symlink("real", filepath.Join(in, "inner")))
	check(t, os.Symlink("../guard/f", filepath.Join(in, "file")))
	before := describe(t, guard)
	root, err := os.OpenRoot(in)
	check(t, err)
	defer root.Close()
	src, dst := openBoth(t, in)
	for _, name := range []string{"out", "abs", "inner"} {
		if _, err := OpenParent(root, name); err == nil {
			t.Errorf("OpenParent went through %q", name)
		}
		if _, err := dst.Open(name); err == nil {
			t.Errorf("DestDir.Open went through %q", name)
		}
		if _, err := src.Open(name); err == nil {
			t.Errorf("Dir.Open went through %q", name)
		}
	}
	if _, err := OpenParent(root, "real/../out"); err == nil {
		t.Error("OpenParent took ..")
	}
	if _, err := src.OpenFile("file"); !errors.Is(err, ErrNotRegular) {
		t.Errorf("OpenFile of a link: %v", err)
	}
	if _, err := dst.OpenFile("file"); !errors.Is(err, ErrNotRegular) {
		t.Errorf("DestDir.OpenFile of a link: %v", err)
	}
	if _, err := dst.CreateFile("file"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("CreateFile over a link: %v", err)
	}
	full := snapshot.Node{Type: snapshot.File, Mode: 0o4777, UID: 7, GID: 7, MTime: snapshot.Time{Sec: 1}, Flags: flagNoDump | flagAppend,
		XAttrs: []snapshot.XAttr{{Name: "user.x", Value: []byte("y")}}}
	if err := dst.Apply("file", &full, ApplyOptions{}); !errors.Is(err, ErrChanged) {
		t.Errorf("Apply of a file to a link: %v", err)
	}
	if err := dst.ApplyLockingFlags("file", &full); !errors.Is(err, ErrChanged) {
		t.Errorf("flags of a file to a link: %v", err)
	}
	for _, other := range []snapshot.Node{{Type: snapshot.File, Inode: 1}, {Type: snapshot.Symlink, Inode: 1}} {
		if err := src.Details("file", &other, DetailOptions{}); !errors.Is(err, ErrChanged) {
			t.Errorf("Details of a replaced entry: %v", err)
		}
	}
	// As a link it gets a link's metadata, its target nothing. Attributes of users are not for links.
	asLink := full
	asLink.Type = snapshot.Symlink
	wantFailed(t, dst.Apply("file", &asLink, ApplyOptions{}), `xattr "user.x"`)
	compare(t, before, describe(t, guard))
}

// TestSwapRace moves a link to a guarded folder in and out of the place of a directory and a file while both are worked
// on. Whatever each call answers, nothing may happen in the guarded folder.
func TestSwapRace(t *testing.T) {
	needRoot(t)
	dir := onTmpfs(t)
	guard, in := filepath.Join(dir, "guard"), filepath.Join(dir, "in")
	check(t, os.Mkdir(guard, 0o700))
	check(t, os.MkdirAll(filepath.Join(in, "d"), 0o700))
	check(t, os.WriteFile(filepath.Join(guard, "f"), []byte("guarded"), 0o600))
	check(t, os.WriteFile(filepath.Join(in, "f"), []byte("inside"), 0o600))
	check(t, os.WriteFile(filepath.Join(in, "d/f"), []byte("inside"), 0o600))
	check(t, os.Symlink(guard, filepath.Join(in, "d.link")))
	check(t, os.Symlink(filepath.Join(guard, "f"), filepath.Join(in, "f.link")))
	before := describe(t, guard)
	src, dst := openBoth(t, in)
	root, err := os.OpenRoot(in)
	check(t, err)
	defer root.Close()
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			for _, name := range []string{"d", "f"} {
				if err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(in, name), unix.AT_FDCWD, filepath.Join(in, name+".link"), unix.RENAME_EXCHANGE); err != nil {
					t.Error(err)
				}
			}
		}
	})
	n := snapshot.Node{Type: snapshot.File, Mode: 0o4777, UID: 7, GID: 7, XAttrs: []snapshot.XAttr{{Name: "user.x", Value: []byte("y")}}}
	nd := n
	nd.Type = snapshot.Dir
	// What counts is seen at least once: calls that met the links, calls that did not, and an exchange between two calls of which the second finds out.
	refused, done, between := 0, 0, 0
	for i, start := 0, time.Now(); i < 3000 || refused == 0 || done == 0 || between == 0; i++ {
		if time.Since(start) > time.Minute {
			t.Errorf("no race in %d rounds: %d refused, %d done, %d in between", i, refused, done, between)
			break
		}
		count := func(err error) {
			if err != nil {
				refused++
			} else {
				done++
			}
		}
		count(dst.Apply("f", &n, ApplyOptions{}))
		count(dst.Apply("d", &nd, ApplyOptions{}))
		if d, err := OpenParent(root, "d"); err == nil {
			count(d.Apply("f", &n, ApplyOptions{}))
			d.MkDir("new", 0o700)
			d.Remove("new")
			d.Close()
		} else {
			count(err)
		}
		if f, err := src.OpenFile("f"); err == nil {
			b, err := io.ReadAll(f)
			if string(b) != "inside" || err != nil {
				t.Errorf("read %q, %v", b, err)
			}
			f.Close()
		}
		var got snapshot.Node
		if _, err := src.Stat("f", &got); err == nil && got.Type == snapshot.Symlink {
			if err := src.Details("f", &got, DetailOptions{}); errors.Is(err, ErrChanged) {
				between++
			} else if err == nil && got.Target != filepath.Join(guard, "f") {
				t.Errorf("target %q", got.Target)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d refused, %d done, %d in between", refused, done, between)
	compare(t, before, describe(t, guard))
}

func TestOpenFileNeverWaits(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	check(t, unix.Mknod(filepath.Join(dir, "fifo"), unix.S_IFIFO|0o600, 0))
	check(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0))
	check(t, unix.Mknod(filepath.Join(dir, "zero"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
	check(t, unix.Mknod(filepath.Join(dir, "nodriver"), unix.S_IFBLK|0o600, int(unix.Mkdev(4000, 5))))
	check(t, os.Mkdir(filepath.Join(dir, "dir"), 0o700))
	src, dst := openBoth(t, dir)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, name := range []string{"fifo", "socket", "zero", "nodriver", "dir"} {
			if f, err := src.OpenFile(name); !errors.Is(err, ErrNotRegular) {
				t.Errorf("OpenFile(%q): %v, %v", name, f, err)
			}
			if f, err := dst.OpenFile(name); !errors.Is(err, ErrNotRegular) {
				t.Errorf("DestDir.OpenFile(%q): %v, %v", name, f, err)
			}
			if f, err := src.OpenSpecial(t.Context(), name, false); err == nil && (name == "fifo" || name == "zero") {
				check(t, f.Close())
			} else if !errors.Is(err, ErrNotRegular) {
				t.Errorf("OpenSpecial(%q): %v, %v", name, f, err)
			}
			var n snapshot.Node
			_, err := src.Stat(name, &n)
			check(t, err)
			check(t, src.Details(name, &n, DetailOptions{}))
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("opening a special file waits")
	}
	if _, err := src.OpenFile("missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestFileReadsAndChanges(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	want := make([]byte, 300000)
	for i := range want {
		want[i] = byte(i * 7)
	}
	check(t, os.WriteFile(path, want, 0o600))
	old := time.Unix(1000, 0)
	check(t, os.Chtimes(path, old, old))
	src, _ := openBoth(t, dir)
	f, err := src.OpenFile("f")
	check(t, err)
	defer f.Close()
	f.Sequential()
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	part := make([]byte, 1000)
	if n, err := f.ReadAt(part, 299500); n != 500 || err != io.EOF || !bytes.Equal(part[:n], want[299500:]) {
		t.Errorf("ReadAt over the end: %d, %v", n, err)
	}
	if n, err := f.Read(nil); n != 0 || err != nil {
		t.Errorf("empty read: %d, %v", n, err)
	}
	var before, after snapshot.Node
	st, err := f.Stat(&before)
	check(t, err)
	if st.ATime.Sec != old.Unix() {
		t.Errorf("reading left its time: %v", st.ATime)
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	check(t, err)
	_, err = out.Write([]byte("more"))
	check(t, err)
	check(t, out.Close())
	_, err = f.Stat(&after)
	check(t, err)
	if after.Size != before.Size+4 || after.MTime == before.MTime || after.Inode != before.Inode || after.Name != "f" {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	if size, err := f.Size(); err != nil || uint64(size) != after.Size {
		t.Errorf("size %d, %v", size, err)
	}
}

func TestHoles(t *testing.T) {
	const mib = 1 << 20
	type stretch struct{ start, end int64 }
	cases := map[string]struct {
		size int64
		data []stretch
	}{
		"empty":      {0, nil},
		"all data":   {mib, []stretch{{0, mib}}},
		"all hole":   {mib, nil},
		"both ends":  {8 * mib, []stretch{{2 * mib, 3 * mib}, {5 * mib, 5*mib + 65536}}},
		"data first": {3 * mib, []stretch{{0, mib}}},
		"data last":  {3 * mib, []stretch{{2 * mib, 3 * mib}}},
	}
	maps := func(t *testing.T, f *File, size int64) []stretch {
		var got []stretch
		for off := int64(0); off < size; {
			start, end, err := f.NextData(off, size)
			check(t, err)
			if start < off || end < start || end > size || end == off {
				t.Fatalf("NextData(%d, %d) = %d, %d", off, size, start, end)
			}
			if start < end {
				got = append(got, stretch{start, end})
			}
			off = end
		}
		return got
	}
	for where, base := range map[string]func(*testing.T) string{
		"disk":  func(t *testing.T) string { return t.TempDir() },
		"tmpfs": onTmpfs,
	} {
		t.Run(where, func(t *testing.T) {
			dir := base(t)
			src, dst := openBoth(t, dir)
			for name, c := range cases {
				f, err := os.Create(filepath.Join(dir, name))
				check(t, err)
				check(t, f.Truncate(c.size))
				for _, s := range c.data {
					_, err := f.WriteAt(bytes.Repeat([]byte{1}, int(s.end-s.start)), s.start)
					check(t, err)
				}
				check(t, f.Sync())
				check(t, f.Close())
				in, err := src.OpenFile(name)
				check(t, err)
				if got := maps(t, in, c.size); !slices.Equal(got, c.data) {
					t.Errorf("%s: %v, want %v", name, got, c.data)
				}
				var n snapshot.Node
				st, err := in.Stat(&n)
				check(t, err)
				if c.size > 0 && st.Sparse(n.Size) != (name != "all data") {
					t.Errorf("%s: sparse is %v with %d blocks", name, st.Sparse(n.Size), st.Blocks)
				}
				out, err := dst.CreateFile(name + " copy")
				check(t, err)
				check(t, copyData(in, out, c.size))
				check(t, out.Sync())
				check(t, out.Close())
				again, err := src.OpenFile(name + " copy")
				check(t, err)
				if got := maps(t, again, c.size); !slices.Equal(got, c.data) {
					t.Errorf("%s: copy has %v, want %v", name, got, c.data)
				}
				// A file cut off while it is looked at ends at the size the caller goes by.
				if start, end, err := again.NextData(c.size, c.size+mib); err != nil || start != c.size+mib || end != start {
					t.Errorf("%s: behind the end: %d, %d, %v", name, start, end, err)
				}
				// So does one that grew.
				if c.size > 0 && len(c.data) > 0 {
					cut := c.data[0].start + 100
					if start, end, err := again.NextData(0, cut); err != nil || start != c.data[0].start || end != cut {
						t.Errorf("%s: up to %d: %d, %d, %v", name, cut, start, end, err)
					}
				}
				in.Close()
				again.Close()
			}
		})
	}
	t.Run("16 TiB", func(t *testing.T) {
		dir := onTmpfs(t)
		const size = 16 << 40
		f, err := os.Create(filepath.Join(dir, "huge"))
		check(t, err)
		defer f.Close()
		check(t, f.Truncate(size))
		_, err = f.WriteAt([]byte("end"), size-4096)
		check(t, err)
		src, _ := openBoth(t, dir)
		in, err := src.OpenFile("huge")
		check(t, err)
		defer in.Close()
		if got := maps(t, in, size); len(got) != 1 || got[0].end != size || got[0].start < size-4<<20 {
			t.Errorf("%v", got)
		}
	})
}

func TestXAttrLimits(t *testing.T) {
	dir := onTmpfs(t)
	check(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	big := bytes.Repeat([]byte("0123456789abcdef"), 4096) // 64 KiB, XATTR_SIZE_MAX
	if err := unix.Setxattr(filepath.Join(dir, "f"), "user.big", big, 0); err != nil {
		t.Skipf("this kernel has a tmpfs without 64 KiB attributes: %v", err)
	}
	src, dst := openBoth(t, dir)
	var n snapshot.Node
	_, err := src.Stat("f", &n)
	check(t, err)
	check(t, src.Details("f", &n, DetailOptions{}))
	if len(n.XAttrs) != 1 || n.XAttrs[0].Name != "user.big" || !bytes.Equal(n.XAttrs[0].Value, big) {
		t.Fatalf("%d attributes", len(n.XAttrs))
	}
	check(t, src.Details("f", &n, DetailOptions{NoXAttrs: true}))
	if n.XAttrs != nil {
		t.Error("attributes although not asked for")
	}
	n.XAttrs = []snapshot.XAttr{{Name: "user.big", Value: append(big, 1)}, {Name: "user.ok", Value: []byte("v")}, {Name: "nonsense", Value: nil}}
	wantFailed(t, dst.Apply("f", &n, ApplyOptions{}), `xattr "user.big"`, `xattr "nonsense"`)
	got := make([]byte, 10)
	if k, err := unix.Getxattr(filepath.Join(dir, "f"), "user.ok", got); err != nil || string(got[:k]) != "v" {
		t.Errorf("the good one: %q, %v", got[:max(k, 0)], err)
	}
}

func TestDeepPath(t *testing.T) {
	dir := t.TempDir()
	src, dst := openBoth(t, dir)
	const depth = 1100
	name := "level-name" // 1,100 levels of 11 bytes: 12,100 bytes of path
	levels := []*DestDir{dst}
	for range depth {
		top := levels[len(levels)-1]
		check(t, top.MkDir(name, 0o700))
		child, err := top.Open(name)
		check(t, err)
		levels = append(levels, child)
	}
	bottom := levels[depth]
	f, err := bottom.CreateFile("f")
	check(t, err)
	check(t, f.Close())
	n := snapshot.Node{Type: snapshot.File, Mode: 0o640, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MTime: snapshot.Time{Sec: 42, Nsec: 42}}
	check(t, bottom.Apply("f", &n, ApplyOptions{}))

	root, err := os.OpenRoot(dir)
	check(t, err)
	defer root.Close()
	direct, err := OpenParent(root, strings.TrimSuffix(strings.Repeat(name+"/", depth), "/"))
	check(t, err)
	var got snapshot.Node
	_, err = direct.Lstat("f", &got)
	check(t, err)
	if got.MTime != n.MTime || got.Mode != 0o640 {
		t.Errorf("at the bottom: %+v", got)
	}
	check(t, direct.Close())

	d := src
	for range depth {
		names, err := d.Names(context.Background())
		if err != nil || !slices.Equal(names, []string{name}) {
			t.Fatalf("%q, %v", names, err)
		}
		child, err := d.Open(name)
		check(t, err)
		if d != src {
			d.Close()
		}
		d = child
	}
	file, err := d.OpenFile("f")
	check(t, err)
	file.Close()
	d.Close()

	check(t, bottom.Remove("f"))
	for i := depth; i > 0; i-- { // also what t.TempDir cannot remove in one path
		levels[i].Close()
		check(t, levels[i-1].Remove(name))
	}
	if err := dst.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestRemoveIsNotRecursive(t *testing.T) {
	dir := t.TempDir()
	_, dst := openBoth(t, dir)
	check(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o700))
	if err := dst.Remove("a"); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("removing a full directory: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a/b")); err != nil {
		t.Error(err)
	}
}

func TestApplyAsUser(t *testing.T) {
	needRoot(t)
	dir := onTmpfs(t)
	check(t, os.Chmod(dir, 0o777))
	check(t, os.WriteFile(filepath.Join(dir, "roots"), []byte("r"), 0o644))
	src, dst := openBoth(t, dir)
	root4755 := snapshot.Node{Type: snapshot.File, Mode: 0o6755, UID: 0, GID: 0, MTime: snapshot.Time{Sec: 5, Nsec: 6},
		XAttrs: []snapshot.XAttr{{Name: "trusted.t", Value: []byte("t")}, {Name: "user.u", Value: []byte("u")}}}
	asUser(t, 1000, func() {
		f, err := dst.CreateFile("f")
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		err = ApplyFile(f, &root4755, ApplyOptions{})
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("not a permission error: %v", err)
		}
		wantFailed(t, err, "owner", `xattr "trusted.t"`)
		var n snapshot.Node
		if _, err := src.Stat("f", &n); err != nil || n.Mode != 0o755 || n.UID != 1000 || n.MTime != root4755.MTime {
			t.Errorf("%+v, %v", n, err)
		}
		// One's own setuid program is one's own business, on a read-only file too: attributes come before the mode.
		own := root4755
		own.UID, own.GID, own.Mode = 1000, 1000, 0o4555
		own.XAttrs = []snapshot.XAttr{{Name: "user.own", Value: []byte("o")}}
		if err := ApplyFile(f, &own, ApplyOptions{}); err != nil {
			t.Error(err)
		}
		if _, err := src.Stat("f", &n); err != nil || n.Mode != 0o4555 {
			t.Errorf("%+v, %v", n, err)
		}
		// The group one is in can be given, and with it setgid, even where the owner cannot.
		shared := own
		shared.UID, shared.GID, shared.Mode, shared.XAttrs = 0, 88, 0o6755, nil
		wantFailed(t, ApplyFile(f, &shared, ApplyOptions{}), "owner", `xattr "user.own"`)
		if _, err := src.Stat("f", &n); err != nil || n.Mode != 0o2755 || n.GID != 88 {
			t.Errorf("%+v, %v", n, err)
		}
		check(t, unix.Fchmod(int(f.Fd()), 0o444))
		if err := ApplyFile(f, &root4755, ApplyOptions{NoOwner: true, NoPrivileged: true}); err == nil {
			t.Error("user.u on a read-only file should have failed")
		}
		// Others' files are readable without O_NOATIME.
		r, err := src.OpenFile("roots")
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		if b, err := io.ReadAll(r); string(b) != "r" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		wantFailed(t, dst.Apply("roots", &snapshot.Node{Type: snapshot.File, Mode: 0o600}, ApplyOptions{}), "mode", "times")
		if err := dst.Mknod("dev", &snapshot.Node{Type: snapshot.CharDevice, Rdev: 1<<32 | 3}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("device: %v", err)
		}
	})
}

func TestApplyOptions(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	src, dst := openBoth(t, dir)
	f, err := dst.CreateFile("f")
	check(t, err)
	defer f.Close()
	get := func() (n snapshot.Node) {
		_, err := src.Stat("f", &n)
		check(t, err)
		check(t, src.Details("f", &n, DetailOptions{}))
		return n
	}
	// The name is another number where the snapshot comes from.
	u, err := user.LookupId("0")
	if err != nil {
		backendtest.Lacks(t, "the system knows no name for root: %v", err)
	}
	n := snapshot.Node{Type: snapshot.File, Mode: 0o6755, UID: 1234, GID: 1235, User: u.Username, Group: "no such group, surely",
		XAttrs: []snapshot.XAttr{{Name: "security.capability", Value: capNetRaw}, {Name: "user.u", Value: []byte("u")}}}
	check(t, ApplyFile(f, &n, ApplyOptions{Owners: new(Owners)}))
	if got := get(); got.UID != 0 || got.GID != 1235 || got.Mode != 0o6755 || len(got.XAttrs) != 2 {
		t.Errorf("by name: %+v", got)
	}
	check(t, ApplyFile(f, &n, ApplyOptions{Owners: new(Owners), NumericOwner: true}))
	if got := get(); got.UID != 1234 || got.GID != 1235 || got.Mode != 0o6755 || len(got.XAttrs) != 2 {
		t.Errorf("by number: %+v", got)
	}
	check(t, ApplyFile(f, &n, ApplyOptions{NoPrivileged: true}))
	if got := get(); got.Mode != 0o755 || len(got.XAttrs) != 1 || got.XAttrs[0].Name != "user.u" {
		t.Errorf("without privileges: %+v", got)
	}
	n.UID, n.GID = 77, 78
	check(t, ApplyFile(f, &n, ApplyOptions{NoOwner: true}))
	if got := get(); got.UID != 1234 || got.GID != 1235 || got.Mode != 0o755 {
		t.Errorf("without owner: %+v", got)
	}
	n.UID, n.XAttrs = ^uint32(0), nil // -1: the system would keep the owner and call it success
	n.GID = 1235
	wantFailed(t, ApplyFile(f, &n, ApplyOptions{}), "owner")
	if got := get(); got.UID != 1234 || got.Mode != 0o2755 || got.XAttrs != nil {
		t.Errorf("owner -1: %+v", got)
	}
}

func TestApplyTimes(t *testing.T) {
	dir := t.TempDir()
	src, dst := openBoth(t, dir)
	f, err := dst.CreateFile("f")
	check(t, err)
	defer f.Close()
	n := snapshot.Node{Type: snapshot.File, Mode: 0o600, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	// Beyond what ext4 holds (1901 to 2446) the system moves the time and says nothing.
	for _, sec := range []int64{-1 << 33, 1 << 40} {
		n.MTime = snapshot.Time{Sec: sec}
		err := ApplyFile(f, &n, ApplyOptions{})
		var got snapshot.Node
		_, errStat := src.Stat("f", &got)
		check(t, errStat)
		if (err == nil) != (got.MTime == n.MTime) {
			t.Errorf("%d became %d, error %v", sec, got.MTime.Sec, err)
		}
	}
	// The numbers that mean "now" and "leave it" to the system.
	for _, nsec := range []uint32{1e9, unix.UTIME_NOW, unix.UTIME_OMIT} {
		n.MTime = snapshot.Time{Sec: 1, Nsec: nsec}
		wantFailed(t, ApplyFile(f, &n, ApplyOptions{}), "times")
		wantFailed(t, dst.Apply("f", &n, ApplyOptions{}), "times")
	}
	n.MTime, n.ATime = snapshot.Time{Sec: 11, Nsec: 12}, snapshot.Time{Sec: 13, Nsec: 14}
	check(t, dst.Apply("f", &n, ApplyOptions{}))
	var got snapshot.Node
	st, err := src.Stat("f", &got)
	check(t, err)
	if got.MTime != n.MTime || st.ATime != n.ATime {
		t.Errorf("modified %v, accessed %v", got.MTime, st.ATime)
	}
}

func TestMknodRefusesOtherDevices(t *testing.T) {
	needRoot(t)
	_, dst := openBoth(t, t.TempDir())
	for _, n := range []snapshot.Node{
		{Type: snapshot.CharDevice, Rdev: 1 << 44},
		{Type: snapshot.BlockDevice, Rdev: 1 << 20},
		{Type: snapshot.File}, {Type: snapshot.Dir}, {Type: snapshot.Symlink}, {}, {Type: 200},
	} {
		if err := dst.Mknod("x", &n); err == nil {
			t.Errorf("made %+v", n)
		}
	}
}

func TestUnreadableAttributes(t *testing.T) {
	needRoot(t)
	dir := onTmpfs(t)
	check(t, os.Chmod(dir, 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	check(t, unix.Setxattr(filepath.Join(dir, "f"), "user.secret", []byte("s"), 0))
	check(t, unix.Setxattr(filepath.Join(dir, "f"), "system.posix_acl_access", aclAccess, 0))
	src, _ := openBoth(t, dir)
	asUser(t, 1000, func() {
		var n snapshot.Node
		if _, err := src.Stat("f", &n); err != nil {
			t.Error(err)
		}
		wantFailed(t, src.Details("f", &n, DetailOptions{}), `xattr "user.secret"`, "flags")
		if len(n.XAttrs) != 1 || !bytes.Equal(n.XAttrs[0].Value, aclAccess) {
			t.Errorf("what can be read: %+v", n.XAttrs)
		}
	})
}

func TestSource(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600))
	_, dst := openBoth(t, dir)
	src, err := dst.Source()
	check(t, err)
	defer src.Close()
	names, err := src.Names(context.Background())
	if err != nil || !slices.Equal(names, []string{"f"}) {
		t.Errorf("%q, %v", names, err)
	}
	f, err := dst.OpenFile("f")
	check(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("y"), 0)
	check(t, err)
}

func TestDescriptorsAreFreed(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	check(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	check(t, os.Symlink("f", filepath.Join(dir, "l")))
	src, dst := openBoth(t, dir)
	root, err := os.OpenRoot(dir)
	check(t, err)
	defer root.Close()
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		return len(entries)
	}
	before := count()
	for range 20 {
		for _, name := range []string{"d", "f", "l", "missing"} {
			var n snapshot.Node
			src.Stat(name, &n)
			src.Details(name, &n, DetailOptions{})
			src.Details(name, &snapshot.Node{Type: n.Type}, DetailOptions{})
			dst.Apply(name, &n, ApplyOptions{})
			dst.Apply(name, &snapshot.Node{Type: snapshot.FIFO}, ApplyOptions{})
			n.Flags = flagAppend
			if name == "missing" {
				dst.ApplyLockingFlags(name, &n)
			}
			if f, err := src.OpenFile(name); err == nil {
				f.Close()
			}
			if f, err := dst.OpenFile(name); err == nil {
				f.Close()
			}
			if d, err := src.Open(name); err == nil {
				d.Close()
			}
			for _, path := range []string{name, name + "/x", "d/" + name} {
				if d, err := OpenParent(root, path); err == nil {
					d.Close()
				}
			}
		}
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
