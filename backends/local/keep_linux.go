package local

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// immutableFlag is FS_IMMUTABLE_FL of linux/fs.h, which x/sys lacks: nobody writes, renames, links or removes the file, nor changes its attributes. It
// takes CAP_LINUX_IMMUTABLE to set and to clear; ext4, xfs, btrfs and f2fs have it, tmpfs and network file systems do not.
const immutableFlag = 0x10

// immutable reports whether a file has the flag.
func immutable(f *os.File) (bool, error) {
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if noFlags(err) {
		return false, nil
	}
	return flags&immutableFlag != 0, err
}

// setFlag sets or clears the flag. fs.ErrPermission says that it takes more rights, errors.ErrUnsupported that the file system has none.
func setFlag(f *os.File, on bool) error {
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		if on == (flags&immutableFlag != 0) {
			return nil
		}
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags^immutableFlag))
	}
	if noFlags(err) {
		return fmt.Errorf("the immutable flag: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("the immutable flag: %w", err)
	}
	return nil
}

// noFlags: what file systems without flags say.
func noFlags(err error) bool {
	return errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, errors.ErrUnsupported)
}
