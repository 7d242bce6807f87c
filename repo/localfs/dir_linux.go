package localfs

import (
	"context"
	"encoding/binary"
	"io/fs"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"packhold/repo/snapshot"
)

// Dir is an open source directory. Stat, Details, Open and OpenFile may be called concurrently; Names and Close not.
// A Dir holds one descriptor until Close, and does not need the Dir it was opened from.
//
// Descriptors are plain numbers rather than os.Files: 300,000 of them would each pay for a finalizer and the poller.
type Dir struct {
	fd int
}

// OpenDir opens a source root. Of all directories only this one may be named by a symbolic link.
func OpenDir(path string) (*Dir, error) {
	return openDir(unix.AT_FDCWD, path, 0)
}

// Open opens a child directory. A symbolic link is refused with ENOTDIR. An automount point is mounted by this, and
// by nothing else here.
func (d *Dir) Open(name string) (*Dir, error) {
	if err := checkName("opening directory", name); err != nil {
		return nil, err
	}
	return openDir(d.fd, name, unix.O_NOFOLLOW)
}

func openDir(dirfd int, name string, flags int) (*Dir, error) {
	fd, err := openNoATime(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|flags)
	if err != nil {
		return nil, &fs.PathError{Op: "opening directory", Path: name, Err: err}
	}
	return &Dir{fd}, nil
}

// openNoATime opens without leaving a trace in the access time, where the system permits: to the file's owner and root.
func openNoATime(dirfd int, name string, flags int) (int, error) {
	fd, err := openat(dirfd, name, flags|unix.O_NOATIME)
	if err == unix.EPERM {
		fd, err = openat(dirfd, name, flags)
	}
	return fd, err
}

func openat(dirfd int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// Close frees the descriptor. Closing twice is harmless.
func (d *Dir) Close() error {
	return closeFD(&d.fd)
}

func closeFD(fd *int) error {
	if *fd < 0 {
		return nil
	}
	err := unix.Close(*fd)
	*fd = -1
	return err
}

// Names lists all entries but "." and "..", each once, sorted by bytes. Strings of one directory share memory, up to
// 32 KiB: who keeps single ones for long should clone them. ctx is looked at every few hundred names.
func (d *Dir) Names(ctx context.Context) ([]string, error) {
	if _, err := unix.Seek(d.fd, 0, unix.SEEK_SET); err != nil {
		return nil, &fs.PathError{Op: "listing directory", Path: ".", Err: err}
	}
	var names []string
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var done bool
		var err error
		names, done, err = d.moreNames(names)
		if err != nil {
			return nil, &fs.PathError{Op: "listing directory", Path: ".", Err: err}
		}
		if done {
			break
		}
	}
	slices.Sort(names)
	// Renames during the listing can show an entry twice.
	return slices.Compact(names), nil
}

// moreNames appends what one getdents64 call gives. The buffer lives on the stack, and the names of one call are one
// string, so that a directory costs two or three allocations. 32 KiB hold about 800 names; zeroing more would cost
// small directories more than a second call costs big ones.
func (d *Dir) moreNames(names []string) (_ []string, done bool, _ error) {
	var buf [32 << 10]byte
	n, err := unix.Getdents(d.fd, buf[:])
	for err == unix.EINTR {
		n, err = unix.Getdents(d.fd, buf[:])
	}
	if err != nil {
		return nil, false, err
	}
	if n <= 0 {
		return names, true, nil
	}
	// struct linux_dirent64: inode 8, offset 8, record length 2, type 1, name, NUL. Each name moves to the front:
	// it gets shorter by its header, so what is written never overtakes what is read.
	const header = 19
	w, count := 0, 0
	for rest := buf[:n]; len(rest) > 0; {
		if len(rest) <= header {
			return nil, false, unix.EIO
		}
		size := int(binary.NativeEndian.Uint16(rest[16:]))
		if size <= header || size > len(rest) {
			return nil, false, unix.EIO
		}
		name := rest[header:size]
		end := slices.Index(name, 0)
		if end < 0 {
			return nil, false, unix.EIO
		}
		if s := name[:end]; string(s) != "." && string(s) != ".." {
			w += copy(buf[w:], name[:end+1])
			count++
		}
		rest = rest[size:]
	}
	all := string(buf[:w])
	names = slices.Grow(names, count)
	for range count {
		end := strings.IndexByte(all, 0)
		names = append(names, all[:end])
		all = all[end+1:]
	}
	return names, false, nil
}

// Stat fills n's Name, Type, Mode, UID, GID, Size, MTime, CTime, BTime, Inode, Links and Rdev, and leaves the rest
// of n as it is. The name "" means the directory itself. Links are not followed, automounts not triggered. A type
// that no Node can have is an error that is fs.ErrInvalid. Nothing is allocated.
func (d *Dir) Stat(name string, n *snapshot.Node) (Stat, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	} else if err := checkName("reading metadata", name); err != nil {
		return Stat{}, err
	}
	return statNode(d.fd, name, flags, n)
}

func statNode(dirfd int, name string, flags int, n *snapshot.Node) (Stat, error) {
	var sx unix.Statx_t
	err := statx(dirfd, name, flags, &sx)
	if err != nil {
		return Stat{}, &fs.PathError{Op: "reading metadata", Path: name, Err: err}
	}
	t := typeOf(uint32(sx.Mode))
	if t == 0 {
		return Stat{}, &fs.PathError{Op: "reading metadata", Path: name, Err: fs.ErrInvalid}
	}
	n.Name = name
	n.Type = t
	n.Mode = uint32(sx.Mode) & modeAll
	n.UID, n.GID = sx.Uid, sx.Gid
	n.Size = 0
	if t == snapshot.File {
		n.Size = sx.Size
	}
	n.MTime = snapshot.Time{Sec: sx.Mtime.Sec, Nsec: sx.Mtime.Nsec}
	n.CTime = snapshot.Time{Sec: sx.Ctime.Sec, Nsec: sx.Ctime.Nsec}
	n.BTime = snapshot.Time{}
	if sx.Mask&unix.STATX_BTIME != 0 {
		n.BTime = snapshot.Time{Sec: sx.Btime.Sec, Nsec: sx.Btime.Nsec}
	}
	n.Inode = sx.Ino
	n.Links = sx.Nlink
	n.Rdev = 0
	if t == snapshot.CharDevice || t == snapshot.BlockDevice {
		n.Rdev = uint64(sx.Rdev_major)<<32 | uint64(sx.Rdev_minor)
	}
	st := Stat{
		Dev:        uint64(sx.Dev_major)<<32 | uint64(sx.Dev_minor),
		Attributes: sx.Attributes & sx.Attributes_mask,
		Blocks:     sx.Blocks,
		ATime:      snapshot.Time{Sec: sx.Atime.Sec, Nsec: sx.Atime.Nsec},
	}
	if sx.Mask&unix.STATX_MNT_ID != 0 {
		st.Mount = sx.Mnt_id
	}
	return st, nil
}

// statx is unix.Statx without its allocation: the name is put on the stack with its NUL.
func statx(dirfd int, name string, flags int, sx *unix.Statx_t) error {
	const mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID
	var buf [256]byte // NAME_MAX is 255 everywhere but on some FUSE file systems
	if len(name) >= len(buf) {
		for {
			err := unix.Statx(dirfd, name, flags, mask, sx)
			if err != unix.EINTR {
				return err
			}
		}
	}
	copy(buf[:], name)
	for {
		_, _, e := unix.Syscall6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(&buf[0])), uintptr(flags),
			mask, uintptr(unsafe.Pointer(sx)), 0)
		switch e {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return e
	}
}

// typeOf maps st_mode to a Type, 0 where there is none.
func typeOf(mode uint32) snapshot.Type {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return snapshot.File
	case unix.S_IFDIR:
		return snapshot.Dir
	case unix.S_IFLNK:
		return snapshot.Symlink
	case unix.S_IFIFO:
		return snapshot.FIFO
	case unix.S_IFSOCK:
		return snapshot.Socket
	case unix.S_IFCHR:
		return snapshot.CharDevice
	case unix.S_IFBLK:
		return snapshot.BlockDevice
	}
	return 0
}

// Details fills n's Target, XAttrs and Flags: the costly part, for entries that are new or changed. n must come from
// Stat of the same name; an entry that was replaced since is ErrChanged. For regular files that are opened anyway
// File.Details is cheaper. What cannot be read is named in a *PartialError; the rest is filled.
func (d *Dir) Details(name string, n *snapshot.Node, opt DetailOptions) error {
	if name == "" {
		return target{fd: d.fd}.details(n, opt)
	}
	t, err := openTarget(d.fd, name)
	if err != nil {
		return err
	}
	defer t.close()
	var st unix.Stat_t
	if err := unix.Fstat(t.fd, &st); err != nil {
		return &fs.PathError{Op: "reading details", Path: name, Err: err}
	}
	if typeOf(st.Mode) != n.Type || st.Ino != n.Inode {
		return &fs.PathError{Op: "reading details", Path: name, Err: ErrChanged}
	}
	return t.details(n, opt)
}
