package tests

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// describeSystem adds what Linux knows of a file, and for one with several names a group common to them.
func describeSystem(path string, info fs.FileInfo) (about, group string, err error) {
	st := info.Sys().(*syscall.Stat_t)
	about = fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
	if info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) != 0 {
		about += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if st.Nlink > 1 {
		group = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	}
	buf := make([]byte, 64<<10) // the kernel's limit
	n, err := unix.Llistxattr(path, buf)
	if err == unix.ENOTSUP {
		return about, group, nil
	}
	if err != nil {
		return "", "", fmt.Errorf("listing attributes of %s: %w", path, err)
	}
	var names []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return "", "", fmt.Errorf("reading attribute %s of %s: %w", name, path, err)
		}
		about += fmt.Sprintf(" %s=%x", name, buf[:n])
	}
	return about, group, nil
}

// unlockTree takes the immutable flag off all files below path, so that they can be removed.
func unlockTree(path string) {
	const immutable = 0x10
	_ = filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if f, err := os.Open(path); err == nil {
			if flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil && flags&immutable != 0 {
				_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags&^immutable))
			}
			f.Close()
		}
		return nil
	})
}
