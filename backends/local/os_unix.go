//go:build unix

package local

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// openFlags keeps the opening of a named pipe that took a file's place from blocking. Regular files ignore it.
const openFlags = os.O_RDONLY | syscall.O_NONBLOCK

// protect makes a file read-only. This guards against accidents only, so file systems without modes (vfat, SMB) may refuse.
func protect(f *os.File) error {
	err := f.Chmod(fileMode)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

func syncDir(d *os.File) error {
	err := d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		// What file systems say that have no way to synchronize a directory (fsync(2): EINVAL), some FUSE and SMB ones.
		return nil
	}
	return err
}

// isNoSpace: EFBIG comes from a file system's or a process's limit on the size of a file, which is a quota, too.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

func isReadOnly(err error) bool { return errors.Is(err, syscall.EROFS) }
