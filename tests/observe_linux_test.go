//go:build !386 && !arm

package tests

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// observer looks at a tree with system calls of its own, none of packhold's: by descriptors, so that neither the length of a path nor the depth of
// the tree matters.
type observer struct {
	atime bool // look at access times too
	still bool // looking at a link does not change its access time
	lines map[string]string
	names map[fileID][]string // of files that are no folders
}

type fileID struct{ dev, inode uint64 }

// observe returns a line about everything at and below dir, by its path: type, permissions, owner, times, extended attributes with access control
// lists and capabilities, inode flags, link target, device, the names of one file, size, where data and holes are, and a hash of the bytes.
func observe(t testing.TB, dir string, atime bool) map[string]string {
	t.Helper()
	o := &observer{atime: atime, lines: map[string]string{}, names: map[fileID][]string{}}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME, 0)
	if err == nil {
		var fs unix.Statfs_t
		o.still = unix.Fstatfs(fd, &fs) == nil && fs.Flags&unix.ST_NOATIME != 0
		err = o.dir(fd, ".")
	}
	if err != nil {
		t.Fatalf("observing %s: %v", dir, err)
	}
	for _, names := range o.names {
		for _, name := range names[1:] {
			o.lines[name] += fmt.Sprintf(" is %.200q", names[0])
		}
	}
	return o.lines
}

// dir takes over fd.
func (o *observer) dir(fd int, rel string) error {
	d := os.NewFile(uintptr(fd), rel)
	defer d.Close()
	if err := o.entry(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d/.", fd), rel); err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		child := path.Join(rel, name)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NOATIME, 0)
			if err == nil {
				err = o.dir(sub, child)
			}
			if err != nil {
				return fmt.Errorf("%.200q: %w", child, err)
			}
			continue
		}
		if err := o.entry(fd, fmt.Sprintf("/proc/self/fd/%d/%s", fd, name), child); err != nil {
			return fmt.Errorf("%.200q: %w", child, err)
		}
	}
	return nil
}

// entry describes what is at place, a path of which only the last part can be a link.
func (o *observer) entry(dirfd int, place, rel string) error {
	var st unix.Stat_t
	if err := unix.Lstat(place, &st); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	b := new(strings.Builder)
	fmt.Fprintf(b, "mode %o owner %d:%d mtime %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	if o.atime && (kind != unix.S_IFLNK || o.still) {
		fmt.Fprintf(b, " atime %d.%09d", st.Atim.Sec, st.Atim.Nsec)
	}
	if kind == unix.S_IFBLK || kind == unix.S_IFCHR {
		fmt.Fprintf(b, " device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		id := fileID{uint64(st.Dev), st.Ino}
		o.names[id] = append(o.names[id], rel)
	}
	if err := xattrs(b, place); err != nil {
		return err
	}
	switch kind {
	case unix.S_IFLNK:
		buf := make([]byte, 8192)
		n, err := unix.Readlink(place, buf)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, " -> %.100q %x", buf[:n], sha256.Sum256(buf[:n]))
	case unix.S_IFREG, unix.S_IFDIR:
		f, err := os.OpenFile(place, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if err != nil && err != unix.ENOTTY && err != unix.ENOTSUP {
			return err
		}
		fmt.Fprintf(b, " flags %#x", flags&^layoutFlags)
		if kind == unix.S_IFREG {
			if err := content(b, f, st.Size); err != nil {
				return err
			}
		}
	}
	o.lines[rel] = b.String()
	return nil
}

// layoutFlags tell how a file system keeps a file, not what the file is: extents, an indexed directory, bytes inside the inode.
const layoutFlags = 0x00080000 | 0x00001000 | 0x10000000

func xattrs(b *strings.Builder, place string) error {
	buf := make([]byte, 64<<10) // the kernel's limit
	n, err := unix.Llistxattr(place, buf)
	if err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return err
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	for _, name := range names {
		n, err := unix.Lgetxattr(place, name, buf)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, " %q=%d:%x", name, n, sha256.Sum256(buf[:n]))
	}
	return nil
}

// content tells where a file has data, and hashes that. The rest is holes.
func content(b *strings.Builder, f *os.File, size int64) error {
	h := sha256.New()
	for off := int64(0); off < size; {
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, " [%d,%d)", data, hole)
		if _, err := io.Copy(h, io.NewSectionReader(f, data, hole-data)); err != nil {
			return err
		}
		off = hole
	}
	fmt.Fprintf(b, " size %d sha256 %x", size, h.Sum(nil))
	return nil
}

// sameObserved fails the test unless dir looks exactly like want.
func sameObserved(t testing.TB, want map[string]string, dir string, atime bool) {
	t.Helper()
	if d := differences(want, observe(t, dir, atime)); d != "" {
		t.Errorf("%s differs from what was backed up:\n%.20000s", dir, d)
	}
}

// mountImage makes a file system in a file and mounts it until the test ends.
func mountImage(t *testing.T, kind string, size int64, mkfs ...string) string {
	t.Helper()
	needRoot(t)
	if _, err := lookTool(mkfs[0]); err != nil {
		t.Fatalf("%v; tests/setup.sh installs it", err)
	}
	image := filepath.Join(t.TempDir(), kind)
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(size)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	runTool(t, append(mkfs, image)...)
	dir := t.TempDir()
	if out, err := tool("mount", "-o", "loop", image, dir); err != nil {
		lacksMount(t, kind, fmt.Errorf("%w %s", err, out))
	}
	t.Cleanup(func() { runTool(t, "umount", dir) })
	return dir
}

// mountTmpfs mounts a tmpfs until the test ends.
func mountTmpfs(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOATIME, "size=256m"); err != nil {
		lacksMount(t, "tmpfs", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
