package localfs

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"packhold/repo/snapshot"
)

// target is one entry, held open, whose attributes are read or written without looking its name up again.
//
// Of entries other than one's own open files only the place is opened (O_PATH | O_NOFOLLOW): that needs no
// permission on the entry, has no effect on devices and FIFOs, and holds symbolic links too. Calls that refuse such a
// descriptor go through /proc/self/fd/N, which the kernel resolves to the very inode, a link included, with no lookup.
type target struct {
	fd   int
	path string // "/proc/self/fd/N" when only the place is open, else ""
}

func openTarget(dirfd int, name string) (target, error) {
	if err := checkName("opening entry", name); err != nil {
		return target{}, err
	}
	fd, err := openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return target{}, &fs.PathError{Op: "opening entry", Path: name, Err: err}
	}
	return placeTarget(fd), nil
}

func placeTarget(fd int) target {
	return target{fd, "/proc/self/fd/" + strconv.Itoa(fd)}
}

func (t target) close() { unix.Close(t.fd) }

// explain names the reason for ENOENT on an entry that is held open.
func (t target) explain(err error) error {
	if t.path != "" && err == unix.ENOENT {
		return fmt.Errorf("/proc is not mounted: %w", err)
	}
	return err
}

func (t target) details(n *snapshot.Node, opt DetailOptions) error {
	var failed failures
	n.Target, n.XAttrs, n.Flags = "", nil, 0
	if n.Type == snapshot.Symlink {
		link, err := t.readlink()
		if err != nil { // without its target there is no link
			return &fs.PathError{Op: "reading link", Path: n.Name, Err: err}
		}
		n.Target = link
	}
	if !opt.NoXAttrs {
		n.XAttrs = t.xattrs(&failed)
	}
	if !opt.NoFlags && (n.Type == snapshot.File || n.Type == snapshot.Dir) {
		flags, err := t.flags()
		failed.add("flags", t.explain(err))
		n.Flags = flags & settableFlags
	}
	return failed.err()
}

func (t target) readlink() (string, error) {
	// Targets are shorter than PATH_MAX, 4,096, on every Linux file system; a full buffer would mean a cut target.
	var buf [4097]byte
	n, err := unix.Readlinkat(t.fd, "", buf[:])
	if err != nil {
		return "", err
	}
	if n == len(buf) {
		return "", unix.ENAMETOOLONG
	}
	return string(buf[:n]), nil
}

// xattrNames lists the names, in the order of the file system. None where extended attributes are not supported.
func (t target) xattrNames() ([]string, error) {
	// The kernel allocates as much as the buffer says, so the first try is small. XATTR_LIST_MAX is 64 KiB.
	var small [512]byte
	buf := small[:]
	n, err := t.listxattr(buf)
	if err == unix.ERANGE {
		buf = make([]byte, 64<<10)
		n, err = t.listxattr(buf)
	}
	switch {
	case err == unix.ENOTSUP || err == unix.ENOSYS:
		return nil, nil
	case err != nil:
		return nil, err
	case n <= 0:
		return nil, nil
	}
	return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
}

// xattrs reads all attributes the system shows to this process, sorted by name.
func (t target) xattrs(failed *failures) []snapshot.XAttr {
	names, err := t.xattrNames()
	if err != nil {
		failed.add("xattrs", t.explain(err))
		return nil
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	attrs := make([]snapshot.XAttr, 0, len(names))
	total := 0
	for _, name := range names {
		value, err := t.xattr(name)
		switch {
		case err == unix.ENODATA || err == unix.ENOTSUP: // gone since it was listed, or listed but not held
			continue
		case err != nil:
			failed.addXAttr(name, t.explain(err))
			continue
		}
		if total += len(name) + len(value); total > maxXAttrBytes {
			failed.addXAttr(name, fmt.Errorf("more than %d MiB of attributes", maxXAttrBytes>>20))
			break
		}
		attrs = append(attrs, snapshot.XAttr{Name: name, Value: value})
	}
	return attrs
}

func (t target) xattr(name string) ([]byte, error) {
	var small [512]byte
	n, err := t.getxattr(name, small[:])
	if err == nil {
		return append([]byte{}, small[:n]...), nil
	}
	if err != unix.ERANGE {
		return nil, err
	}
	buf := make([]byte, 64<<10) // XATTR_SIZE_MAX
	n, err = t.getxattr(name, buf)
	if err != nil {
		return nil, err
	}
	return slices.Clone(buf[:n]), nil
}

func (t target) listxattr(buf []byte) (int, error) {
	if t.path != "" {
		return unix.Listxattr(t.path, buf)
	}
	return unix.Flistxattr(t.fd, buf)
}

func (t target) getxattr(name string, buf []byte) (int, error) {
	if t.path != "" {
		return unix.Getxattr(t.path, name, buf)
	}
	return unix.Fgetxattr(t.fd, name, buf)
}

func (t target) setxattr(name string, value []byte) error {
	if t.path != "" {
		return unix.Setxattr(t.path, name, value, 0)
	}
	return unix.Fsetxattr(t.fd, name, value, 0)
}

func (t target) removexattr(name string) error {
	if t.path != "" {
		return unix.Removexattr(t.path, name)
	}
	return unix.Fremovexattr(t.fd, name)
}

// flags reads the inode flags of a file or directory; 0 where the file system has none.
func (t target) flags() (uint32, error) {
	fd, err := t.ioctlFD()
	if err != nil {
		return 0, err
	}
	if fd != t.fd {
		defer unix.Close(fd)
	}
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	switch err {
	case unix.ENOTTY, unix.ENOTSUP, unix.EINVAL, unix.ENOSYS:
		return 0, nil
	}
	return flags, err
}

// addFlags sets inode flags beside those the entry has: what it inherited from the destination stays.
func (t target) addFlags(want uint32) error {
	fd, err := t.ioctlFD()
	if err != nil {
		return t.explain(err)
	}
	if fd != t.fd {
		defer unix.Close(fd)
	}
	have, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	if have&want == want {
		return nil
	}
	err = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(have|want))
	if err != nil {
		// A file system refuses all for one flag it does not know: each alone, the locking ones last.
		for _, group := range []uint32{want &^ lockingFlags, want & lockingFlags} {
			for bit := uint32(1); bit != 0; bit <<= 1 {
				if group&bit != 0 && unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(have|bit)) == nil {
					have |= bit
				}
			}
		}
	}
	now, errGet := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if errGet != nil {
		return errGet
	}
	if missing := want &^ now; missing != 0 {
		if err == nil {
			err = unix.ENOTSUP // silently left out, as btrfs does with no-copy-on-write on files that have bytes
		}
		return fmt.Errorf("%#x not set: %w", missing, err)
	}
	return nil
}

// ioctlFD is a descriptor that takes ioctls; the caller closes it if it is not t.fd. The entry must be known to be
// a file or directory, as opening anything else may do things.
func (t target) ioctlFD() (int, error) {
	if t.path == "" {
		return t.fd, nil
	}
	return openNoATime(unix.AT_FDCWD, t.path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC)
}
