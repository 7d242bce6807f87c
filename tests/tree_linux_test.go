package tests

import (
	"fmt"
	"io/fs"
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
