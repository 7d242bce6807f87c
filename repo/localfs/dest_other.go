//go:build !linux

package localfs

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/pkg/xattr"

	"packhold/repo/snapshot"
)

// DestDir is a directory below the destination of a restore. All methods take the name of one entry of it, and refuse
// others with ErrName. Every operation goes through the os.Root, so nothing can lead out of the destination; a
// directory that somebody replaces by a link within the destination while a restore runs is followed there.
// Methods may be called concurrently.
type DestDir struct {
	root *os.Root // not closed here
	path string   // "." or names joined by '/'
}

// OpenParent opens the directory path (slash-separated, relative; "" or "." is the root itself) below root, to work on
// its entries. No component may be a symbolic link, even one that stays inside root. root must stay open.
func OpenParent(root *os.Root, path string) (*DestDir, error) {
	d := &DestDir{root, "."}
	if path == "" || path == "." {
		return d, nil
	}
	for name := range strings.SplitSeq(path, "/") {
		child, err := d.Open(name)
		if err != nil {
			return nil, err
		}
		d = child
	}
	return d, nil
}

// Open opens a child directory. Anything else, a symbolic link too, is ErrChanged.
func (d *DestDir) Open(name string) (*DestDir, error) {
	if err := checkName("opening directory", name); err != nil {
		return nil, err
	}
	info, err := d.root.Lstat(d.at(name))
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "opening directory", Path: name, Err: ErrChanged}
	}
	return &DestDir{d.root, d.at(name)}, nil
}

func (d *DestDir) at(name string) string {
	switch {
	case name == "":
		return d.path
	case d.path == ".":
		return name
	}
	return d.path + "/" + name
}

// Source opens the same directory for reading, to list or compare what is there.
func (d *DestDir) Source() (*Dir, error) {
	return openChild(d.root, d.path)
}

// Close ends the use of d. Closing twice is harmless.
func (d *DestDir) Close() error { return nil }

// Lstat is Dir.Stat of an entry.
func (d *DestDir) Lstat(name string, n *snapshot.Node) (Stat, error) {
	if err := checkName("reading metadata", name); err != nil {
		return Stat{}, err
	}
	info, err := d.root.Lstat(d.at(name))
	if err != nil {
		return Stat{}, err
	}
	return statNode(info, name, n)
}

// MkDir makes a directory with the permission bits perm less the umask.
func (d *DestDir) MkDir(name string, perm uint32) error {
	if err := checkName("making directory", name); err != nil {
		return err
	}
	return d.root.Mkdir(d.at(name), fs.FileMode(perm)&fs.ModePerm)
}

// CreateFile makes a new file, for reading and writing, with mode 0600. An existing entry is fs.ErrExist.
func (d *DestDir) CreateFile(name string) (*os.File, error) {
	if err := checkName("creating file", name); err != nil {
		return nil, err
	}
	return d.root.OpenFile(d.at(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// OpenFile opens an existing regular file for reading and writing. Everything else is ErrNotRegular.
func (d *DestDir) OpenFile(name string) (*os.File, error) {
	if err := checkName("opening file", name); err != nil {
		return nil, err
	}
	return openSame(d.root, d.at(name), os.O_RDWR, snapshot.File)
}

// Symlink makes a symbolic link that holds target.
func (d *DestDir) Symlink(target, name string) error {
	if err := checkName("making link", name); err != nil {
		return err
	}
	return d.root.Symlink(target, d.at(name))
}

// Mknod is not supported here: its error is errors.ErrUnsupported.
func (d *DestDir) Mknod(name string, n *snapshot.Node) error {
	if err := checkName("making special file", name); err != nil {
		return err
	}
	return &fs.PathError{Op: "making special file", Path: name, Err: errors.ErrUnsupported}
}

// Link makes name another name of oldName in oldDir, which must be below the same os.Root.
func (d *DestDir) Link(oldDir *DestDir, oldName, name string) error {
	if err := checkName("making hard link", oldName); err != nil {
		return err
	}
	if err := checkName("making hard link", name); err != nil {
		return err
	}
	return d.root.Link(oldDir.at(oldName), d.at(name))
}

// Rename gives an entry another name in the same directory, in one step; what had that name is gone.
func (d *DestDir) Rename(oldName, newName string) error {
	if err := checkName("renaming", oldName); err != nil {
		return err
	}
	if err := checkName("renaming", newName); err != nil {
		return err
	}
	return d.root.Rename(d.at(oldName), d.at(newName))
}

// Remove removes an entry; a directory only if it is empty.
func (d *DestDir) Remove(name string) error {
	if err := checkName("removing", name); err != nil {
		return err
	}
	return d.root.Remove(d.at(name))
}

// Apply gives an entry the metadata of n: owner, extended attributes, mode and times, as far as the system has them.
// The name "" means the directory itself. The entry must have n's type, else it is ErrChanged. All that is possible
// is done; what failed is named in a *PartialError. Setuid and setgid are set only where the owner was set.
func (d *DestDir) Apply(name string, n *snapshot.Node, opt ApplyOptions) error {
	if name != "" {
		if err := checkName("applying metadata", name); err != nil {
			return err
		}
	}
	path := d.at(name)
	info, err := d.root.Lstat(path)
	if err != nil {
		return err
	}
	if typeOf(info.Mode()) != n.Type {
		return &fs.PathError{Op: "applying metadata", Path: path, Err: ErrChanged}
	}
	if n.Type == snapshot.File || n.Type == snapshot.Dir {
		f, err := openSame(d.root, path, os.O_RDONLY, n.Type)
		if err != nil {
			return &PartialError{[]AttrError{{"metadata", err}}}
		}
		defer f.Close()
		// By name, as Windows refuses both on a file opened for reading only.
		return applyOpen(f, n, opt, setters{
			mode:  func(m fs.FileMode) error { return d.root.Chmod(path, m) },
			times: func(atime, mtime time.Time) error { return d.root.Chtimes(path, atime, mtime) },
		})
	}
	var failed failures
	if ownersSupported && !opt.NoOwner {
		uid, gid := wantedOwner(n, opt)
		failed.add("owner", d.root.Lchown(path, int(uid), int(gid)))
	}
	failed.add("times", d.linkTimes(name, n))
	if len(n.XAttrs) > 0 {
		failed.add("xattrs", errors.ErrUnsupported)
	}
	return failed.err()
}

// ApplyFile is Apply for an open file. On macOS and FreeBSD it sets times to the microsecond, Apply to the nanosecond.
func ApplyFile(f *os.File, n *snapshot.Node, opt ApplyOptions) error {
	return applyOpen(f, n, opt, setters{
		mode:  f.Chmod,
		times: func(atime, mtime time.Time) error { return openFileTimes(f, atime, mtime) },
	})
}

// setters are the two things that are done by name or by descriptor.
type setters struct {
	mode  func(fs.FileMode) error
	times func(atime, mtime time.Time) error
}

func applyOpen(f *os.File, n *snapshot.Node, opt ApplyOptions, set setters) error {
	var failed failures
	mode := n.Mode & modeAll
	owned := false
	if ownersSupported && !opt.NoOwner {
		uid, gid := wantedOwner(n, opt)
		err := f.Chown(int(uid), int(gid))
		failed.add("owner", err)
		owned = err == nil
	}
	if n.Type != snapshot.Dir && (!owned || opt.NoPrivileged) {
		mode &^= modeSetUID | modeSetGID
	}
	applyXAttrs(f, n, opt, &failed)
	failed.add("mode", set.mode(fileMode(mode)))
	atime := n.ATime
	if atime == (snapshot.Time{}) {
		atime = n.MTime
	}
	failed.add("times", set.times(time.Unix(atime.Sec, int64(atime.Nsec)), time.Unix(n.MTime.Sec, int64(n.MTime.Nsec))))
	return failed.err()
}

func applyXAttrs(f *os.File, n *snapshot.Node, opt ApplyOptions, failed *failures) {
	if !xattr.XATTR_SUPPORTED {
		if len(n.XAttrs) > 0 {
			failed.add("xattrs", errors.ErrUnsupported)
		}
		return
	}
	for _, a := range n.XAttrs {
		if !(opt.NoPrivileged && privilegedXAttr(a.Name)) {
			failed.addXAttr(a.Name, xattr.FSet(f, a.Name, a.Value))
		}
	}
}

func wantedOwner(n *snapshot.Node, opt ApplyOptions) (uid, gid uint32) {
	if opt.Owners != nil && !opt.NumericOwner {
		return opt.Owners.IDs(n)
	}
	return n.UID, n.GID
}

// ApplyLockingFlags does nothing here: inode flags are not kept.
func (d *DestDir) ApplyLockingFlags(name string, n *snapshot.Node) error { return nil }

// PrepareFile does nothing here: inode flags are not kept.
func PrepareFile(f *os.File, n *snapshot.Node) {}
