//go:build !linux

package localfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/pkg/xattr"

	"packhold/repo/snapshot"
)

// Dir is an open source directory. Stat, Details, Open and OpenFile may be called concurrently; Names and Close not.
// A Dir holds one descriptor until Close, and does not need the Dir it was opened from.
type Dir struct {
	root *os.Root
}

// OpenDir opens a source root. Of all directories only this one may be named by a symbolic link.
func OpenDir(path string) (*Dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &Dir{root}, nil
}

// Open opens a child directory. Anything else, a symbolic link too, is ErrChanged.
func (d *Dir) Open(name string) (*Dir, error) {
	if err := checkName("opening directory", name); err != nil {
		return nil, err
	}
	return openChild(d.root, name)
}

// openChild opens a directory that is not a symbolic link. os.Root follows links that stay within it, so that
// what was opened is compared with what is there.
func openChild(root *os.Root, path string) (*Dir, error) {
	before, err := root.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, &fs.PathError{Op: "opening directory", Path: path, Err: ErrChanged}
	}
	child, err := root.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	now, err := child.Stat(".")
	if err == nil && !os.SameFile(before, now) {
		err = &fs.PathError{Op: "opening directory", Path: path, Err: ErrChanged}
	}
	if err != nil {
		child.Close()
		return nil, err
	}
	return &Dir{child}, nil
}

// Close frees the descriptor. Closing twice is harmless.
func (d *Dir) Close() error {
	return d.root.Close()
}

// Names lists all entries but "." and "..", each once, sorted by bytes. ctx is looked at every thousand names.
func (d *Dir) Names(ctx context.Context) ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		some, err := f.Readdirnames(1000)
		names = append(names, some...)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Stat fills n's Name, Type, Mode, UID, GID, Size, MTime, CTime, BTime, Inode, Links and Rdev as far as the system
// has them, and leaves the rest of n as it is. The name "" means the directory itself. Links are not followed.
// A type that no Node can have is an error that is fs.ErrInvalid.
func (d *Dir) Stat(name string, n *snapshot.Node) (Stat, error) {
	path := name
	if name == "" {
		path = "."
	} else if err := checkName("reading metadata", name); err != nil {
		return Stat{}, err
	}
	info, err := d.root.Lstat(path)
	if err != nil {
		return Stat{}, err
	}
	return statNode(info, name, n)
}

func statNode(info fs.FileInfo, name string, n *snapshot.Node) (Stat, error) {
	t := typeOf(info.Mode())
	if t == 0 {
		return Stat{}, &fs.PathError{Op: "reading metadata", Path: name, Err: fs.ErrInvalid}
	}
	n.Name = name
	n.Type = t
	n.Mode = modeBits(info.Mode())
	n.UID, n.GID, n.Inode, n.Links, n.Rdev, n.Size = 0, 0, 0, 1, 0, 0
	n.CTime, n.BTime = snapshot.Time{}, snapshot.Time{}
	if t == snapshot.File {
		n.Size = uint64(info.Size())
	}
	mtime := info.ModTime()
	n.MTime = snapshot.Time{Sec: mtime.Unix(), Nsec: uint32(mtime.Nanosecond())}
	st := Stat{Blocks: n.Size/512 + 1}
	sysStat(info, n, &st)
	return st, nil
}

func typeOf(mode fs.FileMode) snapshot.Type {
	switch mode.Type() {
	case 0:
		return snapshot.File
	case fs.ModeDir:
		return snapshot.Dir
	case fs.ModeSymlink:
		return snapshot.Symlink
	case fs.ModeNamedPipe:
		return snapshot.FIFO
	case fs.ModeSocket:
		return snapshot.Socket
	case fs.ModeDevice | fs.ModeCharDevice:
		return snapshot.CharDevice
	case fs.ModeDevice:
		return snapshot.BlockDevice
	}
	return 0
}

// modeBits and fileMode are inverses on the bits of modeAll.
func modeBits(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		bits |= modeSetUID
	}
	if m&fs.ModeSetgid != 0 {
		bits |= modeSetGID
	}
	if m&fs.ModeSticky != 0 {
		bits |= modeSticky
	}
	return bits
}

func fileMode(bits uint32) fs.FileMode {
	m := fs.FileMode(bits) & fs.ModePerm
	if bits&modeSetUID != 0 {
		m |= fs.ModeSetuid
	}
	if bits&modeSetGID != 0 {
		m |= fs.ModeSetgid
	}
	if bits&modeSticky != 0 {
		m |= fs.ModeSticky
	}
	return m
}

const modeSticky = 0o1000

// Details fills n's Target and XAttrs: the costly part, for entries that are new or changed. n must come from
// Stat of the same name. What cannot be read is named in a *PartialError; the rest is filled. Extended attributes are
// read of files and directories.
func (d *Dir) Details(name string, n *snapshot.Node, opt DetailOptions) error {
	n.Target, n.XAttrs, n.Flags = "", nil, 0
	if name == "" {
		name = "."
	} else if err := checkName("reading details", name); err != nil {
		return err
	}
	switch {
	case n.Type == snapshot.Symlink:
		link, err := d.root.Readlink(name)
		n.Target = link
		return err
	case opt.NoXAttrs || !xattr.XATTR_SUPPORTED || n.Type != snapshot.File && n.Type != snapshot.Dir:
		return nil
	}
	var failed failures
	f, err := openSame(d.root, name, os.O_RDONLY, n.Type)
	if err != nil {
		if errors.Is(err, ErrNotRegular) {
			return &fs.PathError{Op: "reading details", Path: name, Err: ErrChanged}
		}
		failed.add("xattrs", err)
		return failed.err()
	}
	defer f.Close()
	n.XAttrs = readXAttrs(f, &failed)
	return failed.err()
}

// readXAttrs reads all attributes of an open file, sorted by name.
func readXAttrs(f *os.File, failed *failures) []snapshot.XAttr {
	if !xattr.XATTR_SUPPORTED {
		return nil
	}
	names, err := xattr.FList(f)
	if err != nil {
		if !errors.Is(err, errors.ErrUnsupported) {
			failed.add("xattrs", err)
		}
		return nil
	}
	slices.Sort(names)
	var attrs []snapshot.XAttr
	total := 0
	for _, name := range names {
		value, err := xattr.FGet(f, name)
		switch {
		case errors.Is(err, xattr.ENOATTR):
			continue
		case err != nil:
			failed.addXAttr(name, err)
			continue
		}
		if total += len(name) + len(value); total > maxXAttrBytes {
			failed.addXAttr(name, errors.New("too many bytes of attributes"))
			break
		}
		attrs = append(attrs, snapshot.XAttr{Name: name, Value: value})
	}
	return attrs
}

// openSame opens an entry of the given type that is not a symbolic link, else ErrNotRegular.
func openSame(root *os.Root, path string, flags int, want snapshot.Type) (*os.File, error) {
	before, err := root.Lstat(path)
	if err != nil {
		return nil, err
	}
	if typeOf(before.Mode()) != want {
		return nil, &fs.PathError{Op: "opening", Path: path, Err: ErrNotRegular}
	}
	f, err := root.OpenFile(path, flags|openNonBlock, 0)
	if err != nil {
		return nil, err
	}
	now, err := f.Stat()
	if err == nil && !os.SameFile(before, now) {
		err = &fs.PathError{Op: "opening", Path: path, Err: ErrNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// File is an open source file, for reading. ReadAt, Stat and Details may be called concurrently, the others not.
type File struct {
	f    *os.File
	name string
}

// OpenFile opens a regular file. Everything else is ErrNotRegular, and nothing is waited for.
func (d *Dir) OpenFile(name string) (*File, error) {
	return d.openFile(name, snapshot.File)
}

// Special is an open device, whose bytes are read as a stream. It is used by one goroutine.
type Special struct{ *File }

// OpenSpecial opens a block or character device for its bytes. Everything else is ErrNotRegular, a symbolic link too; a FIFO, for whose
// writer one cannot wait here so that ctx ends it, is errors.ErrUnsupported.
func (d *Dir) OpenSpecial(_ context.Context, name string, _ bool) (*Special, error) {
	var n snapshot.Node
	if _, err := d.Stat(name, &n); err != nil {
		return nil, err
	}
	switch n.Type {
	case snapshot.BlockDevice, snapshot.CharDevice:
		f, err := d.openFile(name, n.Type)
		if err != nil {
			return nil, err
		}
		return &Special{f}, nil
	case snapshot.FIFO:
		return nil, &fs.PathError{Op: "opening", Path: name, Err: errors.ErrUnsupported}
	}
	return nil, &fs.PathError{Op: "opening", Path: name, Err: ErrNotRegular}
}

// Synthetic tells whether the kernel makes up what is below the directory while it is read. Here it never does.
func (d *Dir) Synthetic() bool { return false }

func (d *Dir) openFile(name string, want snapshot.Type) (*File, error) {
	if err := checkName("opening", name); err != nil {
		return nil, err
	}
	f, err := openSame(d.root, name, os.O_RDONLY, want)
	if err != nil {
		return nil, err
	}
	return &File{f, name}, nil
}

// Close frees the descriptor.
func (f *File) Close() error { return f.f.Close() }

// Read reads on from where the last Read ended.
func (f *File) Read(p []byte) (int, error) { return f.f.Read(p) }

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// Stat is Dir.Stat of the open file. The same answer before and after reading means that nobody wrote meanwhile
// (within the granularity of the file system's clock).
func (f *File) Stat(n *snapshot.Node) (Stat, error) {
	info, err := f.f.Stat()
	if err != nil {
		return Stat{}, err
	}
	return statNode(info, f.name, n)
}

// Details is Dir.Details of the open file. n must come from Stat.
func (f *File) Details(n *snapshot.Node, opt DetailOptions) error {
	n.Target, n.XAttrs, n.Flags = "", nil, 0
	if opt.NoXAttrs {
		return nil
	}
	var failed failures
	n.XAttrs = readXAttrs(f.f, &failed)
	return failed.err()
}

// Size is the offset of the end: the length of a file or block device now. It must not be called between Reads.
func (f *File) Size() (int64, error) {
	size, err := f.f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	_, err = f.f.Seek(0, io.SeekStart)
	return size, err
}

// NextData finds the first stretch of stored bytes at or after off. Here holes are not looked for: all is data.
func (f *File) NextData(off, size int64) (start, end int64, err error) {
	return min(off, size), size, nil
}

// Sequential tells the system that the file is about to be read once from front to back. Here it does nothing.
func (f *File) Sequential() {}
