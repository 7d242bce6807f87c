//go:build unix

package localfs

import (
	"io"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// TryLock takes the advisory lock of an open file (flock), and reports false if another process or open file has it. It lasts until f and what
// Duplicate made of it are closed, or the process ends: so it tells who is alive. File systems without locks give an error.
func TryLock(f *os.File) (bool, error) {
	defer runtime.KeepAlive(f)
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch err {
		case nil:
			return true, nil
		case unix.EINTR:
			continue
		case unix.EWOULDBLOCK:
			return false, nil
		}
		return false, &fs.PathError{Op: "locking", Path: f.Name(), Err: err}
	}
}

// Duplicate holds the lock of f beyond f.Close, until its own Close.
func Duplicate(f *os.File) (io.Closer, error) {
	defer runtime.KeepAlive(f)
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "duplicating", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
