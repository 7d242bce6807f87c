package localfs

import (
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"packhold/repo/snapshot"
)

// File is an open source file, for reading. ReadAt, Stat and Details may be called concurrently, the others not.
type File struct {
	fd   int
	name string
	off  int64 // where Read goes on; kept here because NextData moves the descriptor's own offset
}

// OpenFile opens a regular file, without touching its access time where the system permits. Everything else is
// ErrNotRegular, and nothing is waited for: not for the writer of a FIFO, nor for a device.
func (d *Dir) OpenFile(name string) (*File, error) {
	return d.openFile(name, unix.O_NOFOLLOW, func(t snapshot.Type) bool { return t == snapshot.File })
}

func (d *Dir) openFile(name string, flags int, wanted func(snapshot.Type) bool) (*File, error) {
	if err := checkName("opening", name); err != nil {
		return nil, err
	}
	fd, err := openNoATime(d.fd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|flags)
	if err == unix.ELOOP || err == unix.ENXIO { // a symbolic link; a socket or a device without driver
		err = ErrNotRegular
	}
	if err != nil {
		return nil, &fs.PathError{Op: "opening", Path: name, Err: err}
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && !wanted(typeOf(st.Mode)) {
		err = ErrNotRegular
	}
	if err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "opening", Path: name, Err: err}
	}
	return &File{fd: fd, name: name}, nil
}

// Close frees the descriptor. Closing twice is harmless.
func (f *File) Close() error {
	return closeFD(&f.fd)
}

// Read reads on from where the last Read ended.
func (f *File) Read(p []byte) (int, error) {
	n, err := f.pread(p, f.off)
	f.off += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	total := 0
	for total < len(p) {
		n, err := f.pread(p[total:], off+int64(total))
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func (f *File) pread(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	const most = 1 << 30 // one call moves less than 2 GiB, whatever it is asked
	p = p[:min(len(p), most)]
	for {
		n, err := unix.Pread(f.fd, p, off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, &fs.PathError{Op: "reading", Path: f.name, Err: err}
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// Stat is Dir.Stat of the open file. The same answer before and after reading means that nobody wrote meanwhile
// (within the granularity of the file system's clock).
func (f *File) Stat(n *snapshot.Node) (Stat, error) {
	st, err := statNode(f.fd, "", unix.AT_EMPTY_PATH, n)
	n.Name = f.name
	return st, err
}

// Details is Dir.Details of the open file. n must come from Stat.
func (f *File) Details(n *snapshot.Node, opt DetailOptions) error {
	return target{fd: f.fd}.details(n, opt)
}

// Size is the offset of the end: the length of a file or block device now.
func (f *File) Size() (int64, error) {
	size, err := unix.Seek(f.fd, 0, unix.SEEK_END)
	if err != nil {
		return 0, &fs.PathError{Op: "measuring", Path: f.name, Err: err}
	}
	return size, nil
}

// NextData finds the first stretch of stored bytes at or after off: [start, end), within [off, size). The bytes from
// off to start are a hole. Behind the last stretch start and end are size. Where the file system cannot tell,
// everything is data.
func (f *File) NextData(off, size int64) (start, end int64, err error) {
	if off >= size {
		return size, size, nil
	}
	start, err = unix.Seek(f.fd, off, unix.SEEK_DATA)
	switch err {
	case nil:
	case unix.ENXIO: // nothing stored behind off
		return size, size, nil
	case unix.EINVAL, unix.ENOTSUP, unix.ESPIPE:
		return off, size, nil
	default:
		return 0, 0, &fs.PathError{Op: "looking for holes", Path: f.name, Err: err}
	}
	if start >= size {
		return size, size, nil
	}
	end, err = unix.Seek(f.fd, start, unix.SEEK_HOLE)
	if err != nil || end <= start { // cut off meanwhile: let reading find out
		end = size
	}
	return start, min(end, size), nil
}

// Sequential tells the system that the file is about to be read once from front to back.
func (f *File) Sequential() {
	// Advice: when it is refused nothing is lost.
	_ = unix.Fadvise(f.fd, 0, 0, unix.FADV_SEQUENTIAL)
}
