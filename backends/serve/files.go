package serve

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"syscall"

	"packhold/backends"
)

// handle is a file or directory that a client has open.
type handle struct {
	target target // what it was opened as, or the name it got since
	file   *os.File
	dir    bool
	reads  bool

	// What follows is about a handle that created its temporary file, and holds its lock.
	writes   bool
	finished bool // a final name was asked for: nothing writes to the file any more
	dirty    bool // written to since it was synchronized
	size     int64
	lost     error // of an fsync that failed
}

// plainDir returns an error unless name is a directory and no symbolic link to one.
func (s *session) plainDir(name string) error {
	info, err := s.root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%q is no directory (%s)", name, info.Mode().Type())
	}
	return nil
}

// plainDirs returns an error unless dir and those above it are directories and no symbolic links to such.
func (s *session) plainDirs(dir string) error {
	for _, d := range slices.Backward(backends.Parents(dir)) {
		if err := s.plainDir(d); err != nil {
			return err
		}
	}
	return nil
}

// lstat describes what has a name, without following symbolic links on the way: os.Root follows those that stay inside.
func (s *session) lstat(t target) (fs.FileInfo, error) {
	if err := s.plainDirs(path.Dir(t.name)); err != nil {
		return nil, err
	}
	return s.root.Lstat(t.name)
}

// openPlain opens a regular file, or a directory, for reading.
func (s *session) openPlain(t target, dir bool) (*os.File, error) {
	for try := 0; ; try++ {
		info, err := s.lstat(t)
		if err != nil {
			return nil, err
		}
		if dir != info.IsDir() || !dir && !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%q is of another kind: %s", t.name, info.Mode())
		}
		f, err := s.root.OpenFile(t.name, openFlags, 0)
		if err != nil {
			return nil, err
		}
		opened, err := f.Stat()
		if err == nil && os.SameFile(info, opened) {
			return f, nil
		}
		_ = f.Close() // only read
		if err == nil && try == 10 {
			err = fmt.Errorf("%q was replaced while it was opened, again and again", t.name)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (s *session) open(q request, t target) error {
	if err := s.mayOpen(); err != nil {
		return err
	}
	const created = flagWrite | flagCreate
	switch {
	case q.flags == flagRead:
		f, err := s.openPlain(t, false)
		if err == nil {
			s.keep(q.id, &handle{target: t, file: f, reads: true})
		}
		return err
	case q.flags&flagAppend != 0:
		return fmt.Errorf("opening for appending: %w", errUnsupported)
	case q.flags&created != created || q.flags&^(created|flagRead|flagTrunc|flagExcl) != 0:
		return fmt.Errorf("files are written only by who creates them: %w", fs.ErrPermission)
	case t.kind != kindTemporary:
		return fmt.Errorf("files are written below %s/ and then given their names: %w", tempDir, fs.ErrPermission)
	}
	h, err := s.create(t, q.flags&flagRead != 0)
	if err == nil {
		s.keep(q.id, h)
	}
	return err
}

func (s *session) mayOpen() error {
	if len(s.handles) >= maxHandles {
		return fmt.Errorf("%d files are open, which is the limit", maxHandles)
	}
	return nil
}

// create makes a temporary file, exclusively whatever the client asked for.
func (s *session) create(t target, reads bool) (*handle, error) {
	if err := s.present(); err != nil {
		return nil, err
	}
	// A file in a directory that is not durable itself is as good as none, which suits temporary ones.
	if err := s.plainDir(tempDir); errors.Is(err, fs.ErrNotExist) {
		if err := s.ops.mkdir(s.root, tempDir); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	flags := os.O_WRONLY
	if reads {
		flags = os.O_RDWR
	}
	f, err := s.ops.create(s.root, t.name, flags)
	if err != nil {
		return nil, err
	}
	err = s.claim(f, t)
	if err == nil {
		err = onlyName(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &handle{target: t, file: f, reads: reads, writes: true}, nil
}

// onlyName returns errBusy if f has a second name, which another process gave it before this one had its lock: that may be a final one.
func onlyName(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, n := links(info); n != 1 {
		return errBusy
	}
	return nil
}

// claim locks a file and makes sure that it then still has the name t: until the lock is had, another process may take it.
func (s *session) claim(f *os.File, t target) error {
	if err := s.ops.lock(f); errors.Is(err, syscall.EWOULDBLOCK) {
		return errBusy
	} else if errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.ENOLCK) || errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("%w: %w", errNoLocks, err) // EBADF: a file that is open for reading alone, on NFS
	} else if err != nil {
		return fmt.Errorf("locking a temporary file: %w", err)
	}
	return s.claimed(f, t)
}

// claimed returns errBusy unless f, whose lock is held, has the name t.
func (s *session) claimed(f *os.File, t target) error {
	now, err := s.lstat(t)
	if errors.Is(err, fs.ErrNotExist) {
		return errBusy
	}
	if err != nil {
		return err
	}
	opened, err := f.Stat()
	if err == nil && !os.SameFile(opened, now) {
		err = errBusy
	}
	return err
}

// mayWrite returns an error unless bytes of h up to end may be written.
func (s *session) mayWrite(ctx context.Context, h *handle, end int64) error {
	switch {
	case h.lost != nil:
		return fmt.Errorf("the file lost writes before: %w", h.lost)
	case !h.writes || h.finished:
		return fmt.Errorf("%q is not open for writing: %w", h.target.name, fs.ErrPermission)
	case end > backends.MaxObject:
		return fmt.Errorf("file too large: the limit is %d bytes", int64(backends.MaxObject))
	}
	return s.quota.take(ctx, s, max(0, end-h.size))
}

func (s *session) write(ctx context.Context, q request, h *handle) error {
	if q.off > math.MaxInt64-maxPacket {
		return fmt.Errorf("file too large: an offset of %d", q.off)
	}
	end := int64(q.off) + int64(len(q.data))
	if len(q.data) == 0 {
		end = h.size // writes nothing, wherever
	}
	if err := s.mayWrite(ctx, h, end); err != nil {
		return err
	}
	h.dirty = true
	if err := s.ops.write(h.file, q.data, int64(q.off)); err != nil {
		return err
	}
	h.size = max(h.size, end)
	return nil
}

func (s *session) read(q request, h *handle) error {
	if !h.reads {
		return fmt.Errorf("%q is not open for reading: %w", h.target.name, fs.ErrPermission)
	}
	if q.off > math.MaxInt64-maxPacket {
		return io.EOF
	}
	n := int(min(q.n, maxRead))
	s.answer.begin(typeData, q.id)
	head := len(s.answer)
	s.answer = slices.Grow(s.answer, 4+n)
	data := s.answer[head+4 : head+4+n]
	got, err := h.file.ReadAt(data, int64(q.off))
	if got == 0 && err != nil {
		return err
	}
	if err != nil && err != io.EOF {
		return err
	}
	s.answer.u32(uint32(got))
	s.answer = s.answer[:head+4+got]
	return nil
}

// sync makes what was written durable. A file that cannot be loses its name: who repeated the fsync would be told that all is well.
func (s *session) sync(h *handle) error {
	if h.lost != nil {
		return fmt.Errorf("the file lost writes before: %w", h.lost)
	}
	if !h.dirty {
		return nil // or finished: its names were made durable before that was answered
	}
	if err := s.ops.syncFile(h.file); err != nil {
		h.lost = err
		return errors.Join(err, s.drop(h.target, h.file))
	}
	h.dirty = false
	return nil
}

// drop removes the temporary name t of the file f, whose lock is held.
func (s *session) drop(t target, f *os.File) error {
	if err := s.claimed(f, t); err != nil {
		return err
	}
	return s.ops.remove(s.root, t.name)
}

// setstat is allowed for what has a writing handle in this connection, as fsetstat.
func (s *session) setstat(ctx context.Context, q request, t target) error {
	info, err := s.lstat(t)
	if err != nil {
		return err
	}
	if h := s.writer(info); h != nil && t.kind == kindTemporary {
		return s.fsetstat(ctx, q, h)
	}
	return fmt.Errorf("attributes are not changed: %w", fs.ErrPermission)
}

// fsetstat sets the size of a file that is being written. Its mode is the server's business: a change is taken note of, without effect, because clients
// insist on it. Its times tell when it was stored, by the server's clock, and its owner is who runs the server.
func (s *session) fsetstat(ctx context.Context, q request, h *handle) error {
	if q.attrs&^(attrSize|attrMode) != 0 || !h.writes || h.finished {
		return fmt.Errorf("attributes are not changed: %w", fs.ErrPermission)
	}
	if q.attrs&attrSize == 0 {
		return nil
	}
	size := int64(min(q.size, math.MaxInt64))
	if err := s.mayWrite(ctx, h, size); err != nil {
		return err
	}
	h.dirty = true
	if err := s.ops.truncate(h.file, size); err != nil {
		return err
	}
	h.size = size
	return nil
}

func (s *session) stat(q request, t target) error {
	info, err := s.lstat(t)
	if err == nil {
		s.answer.described(q.id, info)
	}
	return err
}

// realpath tells what a path would be without looking whether anything is there. It is the only request that takes "..", which clients ask it about.
func (s *session) realpath(q request) error {
	const maxPath = 4096
	if len(q.path) > maxPath || slices.Contains([]byte(q.path), 0) {
		return fmt.Errorf("no path: %w", fs.ErrPermission)
	}
	name := path.Clean("/" + q.path)
	s.answer.begin(typeName, q.id)
	s.answer.u32(1)
	s.answer.str(name)
	s.answer.str(name)
	s.answer.u32(0) // no attributes
	return nil
}

func (s *session) opendir(q request, t target) error {
	if err := s.mayOpen(); err != nil {
		return err
	}
	f, err := s.openPlain(t, true)
	if err == nil {
		s.keep(q.id, &handle{target: t, file: f, dir: true})
	}
	return err
}

// readdir answers with up to 100 entries, so that a directory of any size needs little memory. Foreign names are left out; what is neither file nor directory
// is shown as what it is.
func (s *session) readdir(q request, h *handle) error {
	if !h.dir {
		return errors.New("not a directory")
	}
	const atOnce = 100 // of at most 600 bytes each
	for {
		names, err := h.file.Readdirnames(atOnce)
		if err != nil {
			return err // io.EOF at the end
		}
		if err := s.plainDirs(h.target.name); err != nil {
			return err
		}
		s.answer.begin(typeName, q.id)
		at := len(s.answer)
		s.answer.u32(0)
		n := uint32(0)
		for _, name := range names {
			t, ours := h.target.child(name)
			if !ours {
				continue
			}
			info, err := s.root.Lstat(t.name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // since it was read
			}
			if err != nil {
				return err
			}
			s.answer.entry(name, info)
			n++
		}
		if n > 0 {
			binary.BigEndian.PutUint32(s.answer[at:], n)
			return nil
		}
	}
}
