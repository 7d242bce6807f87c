package localfs

import (
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"packhold/repo/snapshot"
)

// RenameNew is Rename, except that what has newName already stays: then the error is fs.ErrExist. Where the file system cannot do that in
// one step it is errors.ErrUnsupported, and nothing was done.
func (d *DestDir) RenameNew(oldName, newName string) error {
	if err := checkName("renaming", oldName); err != nil {
		return err
	}
	return d.do("renaming", newName, func() error {
		err := unix.Renameat2(d.fd, oldName, d.fd, newName, unix.RENAME_NOREPLACE)
		if err == unix.EINVAL || err == unix.ENOSYS {
			err = unix.ENOTSUP
		}
		return err
	})
}

// StatFile is Dir.Stat of an open file.
func StatFile(f *os.File, n *snapshot.Node) (Stat, error) {
	defer runtime.KeepAlive(f)
	return statNode(int(f.Fd()), "", unix.AT_EMPTY_PATH, n)
}

// Punch makes a range of an open file a hole: it reads as zeros and takes no room, as far as whole blocks are in it. The size stays. Where the
// file system has no holes the error is errors.ErrUnsupported.
func Punch(f *os.File, off, n int64) error {
	return allocate(f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// Reserve gives a range of an open file room on the disk. Its bytes stay as they are; holes go on reading as zeros. A file that is shorter grows.
// Where the file system cannot the error is errors.ErrUnsupported.
func Reserve(f *os.File, off, n int64) error {
	return allocate(f, 0, off, n)
}

func allocate(f *os.File, mode uint32, off, n int64) error {
	defer runtime.KeepAlive(f)
	for {
		err := unix.Fallocate(int(f.Fd()), mode, off, n)
		switch err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		case unix.ENOSYS:
			err = unix.ENOTSUP
		}
		return &fs.PathError{Op: "allocating", Path: f.Name(), Err: err}
	}
}

// NextData is File.NextData of a file open for writing. It moves the offset of Read and Write, but not that of ReadAt and WriteAt.
func NextData(f *os.File, off, size int64) (start, end int64, err error) {
	defer runtime.KeepAlive(f)
	return (&File{fd: int(f.Fd()), name: f.Name()}).NextData(off, size)
}

// Self is Lstat of the directory itself.
func (d *DestDir) Self(n *snapshot.Node) (Stat, error) {
	return statNode(d.fd, "", unix.AT_EMPTY_PATH, n)
}

// OpenRead opens an existing regular file for reading. Everything else is ErrNotRegular.
func (d *DestDir) OpenRead(name string) (*os.File, error) {
	src := &Dir{fd: d.fd}
	f, err := src.OpenFile(name)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(f.fd), name), nil
}
