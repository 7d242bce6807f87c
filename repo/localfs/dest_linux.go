package localfs

import (
	"bytes"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"packhold/repo/snapshot"
)

// DestDir is an open directory below the destination of a restore. All methods take the name of one entry of it,
// and refuse others with ErrName, so nothing a snapshot says can lead out; and none follows a symbolic link.
// Methods may be called concurrently, Close not.
type DestDir struct {
	fd int // O_PATH: needs no permission to list
}

// OpenParent opens the directory path (slash-separated, relative; "" or "." is the root itself) below root, to work on
// its entries. No component may be a symbolic link, even one that stays inside root. path may be of any length;
// a walk opens children with DestDir.Open instead, which does not go through the parents again.
func OpenParent(root *os.Root, path string) (*DestDir, error) {
	f, err := root.OpenFile(".", os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	d, err := openDest(int(f.Fd()), ".")
	f.Close()
	if err != nil || path == "" || path == "." {
		return d, err
	}
	for name := range strings.SplitSeq(path, "/") {
		child, err := d.Open(name)
		d.Close()
		if err != nil {
			return nil, err
		}
		d = child
	}
	return d, nil
}

// Open opens a child directory. A symbolic link is refused with ENOTDIR.
func (d *DestDir) Open(name string) (*DestDir, error) {
	if err := checkName("opening directory", name); err != nil {
		return nil, err
	}
	return openDest(d.fd, name)
}

func openDest(dirfd int, name string) (*DestDir, error) {
	fd, err := openat(dirfd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return nil, &fs.PathError{Op: "opening directory", Path: name, Err: err}
	}
	return &DestDir{fd}, nil
}

// Source opens the same directory for reading, to list or compare what is there.
func (d *DestDir) Source() (*Dir, error) {
	return openDir(d.fd, ".", 0)
}

// Close frees the descriptor. Closing twice is harmless.
func (d *DestDir) Close() error {
	return closeFD(&d.fd)
}

// do runs one system call on a name.
func (d *DestDir) do(op, name string, call func() error) error {
	if err := checkName(op, name); err != nil {
		return err
	}
	err := call()
	for err == unix.EINTR {
		err = call()
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// Lstat is Dir.Stat of an entry.
func (d *DestDir) Lstat(name string, n *snapshot.Node) (Stat, error) {
	if err := checkName("reading metadata", name); err != nil {
		return Stat{}, err
	}
	return statNode(d.fd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, n)
}

// MkDir makes a directory with the permission bits perm less the umask.
func (d *DestDir) MkDir(name string, perm uint32) error {
	return d.do("making directory", name, func() error { return unix.Mkdirat(d.fd, name, perm) })
}

// CreateFile makes a new file, for reading and writing, with mode 0600. An existing entry is fs.ErrExist.
func (d *DestDir) CreateFile(name string) (*os.File, error) {
	return d.openFile("creating file", name, unix.O_CREAT|unix.O_EXCL)
}

// OpenFile opens an existing regular file for reading and writing. Everything else is ErrNotRegular.
func (d *DestDir) OpenFile(name string) (*os.File, error) {
	f, err := d.openFile("opening file", name, unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && typeOf(st.Mode) != snapshot.File {
		err = ErrNotRegular
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "opening file", Path: name, Err: err}
	}
	return f, nil
}

func (d *DestDir) openFile(op, name string, flags int) (*os.File, error) {
	var f *os.File
	err := d.do(op, name, func() error {
		fd, err := unix.Openat(d.fd, name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0o600)
		switch err {
		case nil:
			f = os.NewFile(uintptr(fd), name)
		case unix.ELOOP, unix.ENXIO, unix.EISDIR:
			err = ErrNotRegular
		}
		return err
	})
	return f, err
}

// Symlink makes a symbolic link that holds target, any bytes but NUL, at most 4,095.
func (d *DestDir) Symlink(target, name string) error {
	return d.do("making link", name, func() error { return unix.Symlinkat(target, d.fd, name) })
}

// Mknod makes a FIFO, socket (nobody listens), character or block device with mode 0600.
// Devices need CAP_MKNOD.
func (d *DestDir) Mknod(name string, n *snapshot.Node) error {
	mode := uint32(0o600)
	dev := 0
	switch n.Type {
	case snapshot.FIFO:
		mode |= unix.S_IFIFO
	case snapshot.Socket:
		mode |= unix.S_IFSOCK
	case snapshot.CharDevice, snapshot.BlockDevice:
		mode |= unix.S_IFCHR
		if n.Type == snapshot.BlockDevice {
			mode = mode&^unix.S_IFMT | unix.S_IFBLK
		}
		major, minor := uint32(n.Rdev>>32), uint32(n.Rdev)
		// mknod takes 12 and 20 bits and would cut the rest: another device.
		if major >= 1<<12 || minor >= 1<<20 {
			return &fs.PathError{Op: "making device", Path: name, Err: unix.EINVAL}
		}
		dev = int(uint32(unix.Mkdev(major, minor)))
	default:
		return &fs.PathError{Op: "making special file", Path: name, Err: fs.ErrInvalid}
	}
	return d.do("making special file", name, func() error { return unix.Mknodat(d.fd, name, mode, dev) })
}

// Link makes name another name of oldName in oldDir, which is not followed if it is a symbolic link.
func (d *DestDir) Link(oldDir *DestDir, oldName, name string) error {
	if err := checkName("making hard link", oldName); err != nil {
		return err
	}
	return d.do("making hard link", name, func() error { return unix.Linkat(oldDir.fd, oldName, d.fd, name, 0) })
}

// Rename gives an entry another name in the same directory, in one step; what had that name is gone.
func (d *DestDir) Rename(oldName, newName string) error {
	if err := checkName("renaming", oldName); err != nil {
		return err
	}
	return d.do("renaming", newName, func() error { return unix.Renameat(d.fd, oldName, d.fd, newName) })
}

// Remove removes an entry; a directory only if it is empty.
func (d *DestDir) Remove(name string) error {
	return d.do("removing", name, func() error {
		err := unix.Unlinkat(d.fd, name, 0)
		if err == unix.EISDIR {
			err = unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR)
		}
		return err
	})
}

// Apply gives an entry the metadata of n: owner, extended attributes (n.XAttrs; those of a blob must have been
// fetched into it), mode, times, and last the inode flags. The name "" means the directory itself. The entry must have
// n's type, else it is ErrChanged. All that is possible is done; what failed is named in a *PartialError.
//
// After it the entry has exactly n's attributes of the namespaces user, trusted and POSIX ACL. Permissions are
// never wider than n's: setuid and setgid are set only where the owner or group is as wanted.
// The access time becomes n.ATime if recorded, else n.MTime. For files just written ApplyFile is safer where others may
// write in the directory, as they could put a hard link in its place, and faster.
func (d *DestDir) Apply(name string, n *snapshot.Node, opt ApplyOptions) error {
	t := placeTarget(d.fd)
	if name != "" {
		var err error
		if t, err = openTarget(d.fd, name); err != nil {
			return err
		}
		defer t.close()
	}
	return t.apply(n, opt, n.Flags)
}

// ApplyFile is Apply for an open file, except for the flags that would forbid to rename it: when it has its
// final name, ApplyLockingFlags sets them.
func ApplyFile(f *os.File, n *snapshot.Node, opt ApplyOptions) error {
	defer runtime.KeepAlive(f)
	return target{fd: int(f.Fd())}.apply(n, opt, n.Flags&^lockingFlags)
}

// ApplyLockingFlags makes a restored file append-only or immutable if n says so. Otherwise it does nothing.
func (d *DestDir) ApplyLockingFlags(name string, n *snapshot.Node) error {
	want := n.Flags & lockingFlags
	if want == 0 || n.Type != snapshot.File && n.Type != snapshot.Dir {
		return nil
	}
	t, err := openTarget(d.fd, name)
	if err != nil {
		return err
	}
	defer t.close()
	var st unix.Stat_t
	if err := unix.Fstat(t.fd, &st); err != nil {
		return &fs.PathError{Op: "setting flags", Path: name, Err: err}
	}
	if typeOf(st.Mode) != n.Type {
		return &fs.PathError{Op: "setting flags", Path: name, Err: ErrChanged}
	}
	var failed failures
	failed.add("flags", t.addFlags(want))
	return failed.err()
}

// PrepareFile sets, on a file that has no bytes yet, the flags that have no effect later (no copy-on-write,
// compression). File systems without them are not an error here: ApplyFile reports what is missing.
func PrepareFile(f *os.File, n *snapshot.Node) {
	defer runtime.KeepAlive(f)
	if want := n.Flags & birthFlags; want != 0 {
		_ = target{fd: int(f.Fd())}.addFlags(want)
	}
}

func (t target) apply(n *snapshot.Node, opt ApplyOptions, flags uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(t.fd, &st); err != nil {
		return &fs.PathError{Op: "applying metadata", Path: n.Name, Err: err}
	}
	if typeOf(st.Mode) != n.Type {
		return &fs.PathError{Op: "applying metadata", Path: n.Name, Err: ErrChanged}
	}
	var failed failures
	mode := t.applyOwner(n, opt, &st, &failed)
	// The mode comes after the attributes: a user must still have write permission to set user.*, and an ACL changes
	// the mode. The owner comes before both: changing it removes setuid, setgid and capabilities.
	t.applyXAttrs(n, opt, &failed)
	if n.Type != snapshot.Symlink {
		failed.add("mode", t.applyMode(mode))
	}
	failed.add("times", t.applyTimes(n))
	if flags &= settableFlags; flags != 0 && (n.Type == snapshot.File || n.Type == snapshot.Dir) {
		failed.add("flags", t.addFlags(flags))
	}
	return failed.err()
}

// applyOwner sets owner and group and gives the mode that is right for what came of it. st is kept up to date.
func (t target) applyOwner(n *snapshot.Node, opt ApplyOptions, st *unix.Stat_t, failed *failures) (mode uint32) {
	uid, gid := n.UID, n.GID
	if opt.Owners != nil && !opt.NumericOwner {
		uid, gid = opt.Owners.IDs(n)
	}
	if !opt.NoOwner && (st.Uid != uid || st.Gid != gid) {
		failed.add("owner", t.chown(uid, gid))
		if err := unix.Fstat(t.fd, st); err != nil { // cannot be; and then nobody's setuid is set
			st.Uid, st.Gid = ^uid, ^gid
		}
	}
	mode = n.Mode & modeAll
	if n.Type == snapshot.Dir {
		return mode // setgid says who owns new entries, setuid nothing
	}
	if st.Uid != uid || opt.NoPrivileged {
		mode &^= modeSetUID
	}
	if st.Gid != gid || opt.NoPrivileged {
		mode &^= modeSetGID
	}
	return mode
}

// chown sets both, or at least the group, which an ordinary user can often give.
func (t target) chown(uid, gid uint32) error {
	if uid == ^uint32(0) || gid == ^uint32(0) { // means "leave it" to the system: it would succeed and do nothing
		return unix.EINVAL
	}
	const flags = unix.AT_EMPTY_PATH | unix.AT_SYMLINK_NOFOLLOW
	err := unix.Fchownat(t.fd, "", int(uid), int(gid), flags)
	if err != nil {
		_ = unix.Fchownat(t.fd, "", -1, int(gid), flags) // the first error says it all
	}
	return err
}

func (t target) applyMode(mode uint32) error {
	var st unix.Stat_t
	err := unix.Fstat(t.fd, &st)
	if err != nil || st.Mode&modeAll == mode {
		return err
	}
	if t.path != "" {
		err = t.explain(unix.Chmod(t.path, mode))
	} else {
		err = unix.Fchmod(t.fd, mode)
	}
	// The system drops setgid without a word when the user is not in the group.
	if err == nil && mode&(modeSetUID|modeSetGID) != 0 {
		err = unix.Fstat(t.fd, &st)
		if err == nil && st.Mode&modeAll != mode {
			err = unix.EPERM
		}
	}
	return err
}

func (t target) applyXAttrs(n *snapshot.Node, opt ApplyOptions, failed *failures) {
	have, err := t.xattrNames()
	if err != nil {
		failed.add("xattrs", t.explain(err))
	}
	for _, name := range have {
		if !removableXAttr(name) || hasXAttr(n, name) && !(opt.NoPrivileged && privilegedXAttr(name)) {
			continue
		}
		if err := t.removexattr(name); err != nil && err != unix.ENODATA {
			failed.addXAttr(name, t.explain(err))
		}
	}
	for i := range n.XAttrs {
		a := &n.XAttrs[i]
		if opt.NoPrivileged && privilegedXAttr(a.Name) {
			continue
		}
		err := t.explain(t.setxattr(a.Name, a.Value))
		if err == unix.EPERM { // an immutable entry that has it already lacks nothing
			if have, errGet := t.xattr(a.Name); errGet == nil && bytes.Equal(have, a.Value) {
				err = nil
			}
		}
		failed.addXAttr(a.Name, err)
	}
}

func hasXAttr(n *snapshot.Node, name string) bool {
	for i := range n.XAttrs {
		if n.XAttrs[i].Name == name {
			return true
		}
	}
	return false
}

func (t target) applyTimes(n *snapshot.Node) error {
	atime := n.ATime
	if atime == (snapshot.Time{}) {
		atime = n.MTime
	}
	var ts [2]unix.Timespec
	var err error
	if ts[0], err = timespec(atime); err != nil {
		return err
	}
	if ts[1], err = timespec(n.MTime); err != nil {
		return err
	}
	if t.path != "" {
		err = t.explain(unix.UtimesNanoAt(unix.AT_FDCWD, t.path, ts[:], 0))
	} else if _, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(t.fd), 0, uintptr(unsafe.Pointer(&ts[0])), 0, 0, 0); e != 0 {
		err = e // no path at all, that is futimens(3): needs no /proc
	}
	if err == unix.EPERM && t.hasTimes(n) {
		return nil
	}
	if err != nil {
		return err
	}
	// File systems with narrower times move what they cannot hold to their limit without a word, from 1901 and
	// 2038 outwards.
	if n.MTime.Sec < 0 || n.MTime.Sec > 1<<31-1 {
		var sx unix.Statx_t
		if err := statx(t.fd, "", unix.AT_EMPTY_PATH, &sx); err != nil {
			return err
		}
		if sx.Mtime.Sec != n.MTime.Sec {
			return unix.ERANGE
		}
	}
	return nil
}

// hasTimes reports whether an entry, which may be immutable, has the recorded times already.
func (t target) hasTimes(n *snapshot.Node) bool {
	var now snapshot.Node
	st, err := statNode(t.fd, "", unix.AT_EMPTY_PATH, &now)
	return err == nil && now.MTime == n.MTime && (n.ATime == snapshot.Time{} || st.ATime == n.ATime)
}
