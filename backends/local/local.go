// Package local keeps a repository's files in a directory of the running system.
//
// A file is written under a random name in the directory "tmp", synchronized, given its name, and the directories that lead
// to it are synchronized. Everything goes through one handle of the repository's root (os.Root): nothing outside is ever
// touched, and a root that was unmounted, removed or replaced while in use is noticed and never made again.
package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"packhold/backends"
)

const (
	// tempDir is kept out of the way by backends.ValidName.
	tempDir = "tmp"

	// staleAge is far longer than any Put, whose one write and fsync take seconds. A writer that slept longer finds its
	// file gone, and its Put fails.
	staleAge = 24 * time.Hour

	dirMode  = 0o700
	tempMode = 0o600
	fileMode = 0o400 // a finished file never changes
)

// Options says how Open opens a repository's directory. The zero value is for an existing one and writes nothing.
type Options struct {
	// Create makes the directory, and those above it, if missing.
	Create bool

	// RemoveStale removes the temporary files that interrupted writers left behind more than 24 hours ago, as the storage
	// counts them: by the time it gives to a new file. A storage that takes none, being full or read-only, keeps them.
	RemoveStale bool

	// Now says when a file that is kept until a date is free; nil is time.Now.
	Now func() time.Time

	// NoSync leaves out every fsync. Only for tests and throw-away copies: a power loss can take everything.
	NoSync bool
}

// Store is a backends.Storage in a directory. Listings are sorted by name.
//
// Symbolic links in the directory are not followed and, like devices and other special files, are errors wherever their
// name could be a file's or a directory's. IfAbsent is supported where the file system has hard
// links or, on Linux, a rename that refuses an existing target. NFS may answer fs.ErrExist to the very call that created
// the file.
//
// RetainUntil is supported where the file system has extended attributes: the date stands in one, and Delete and Put heed it. Where this process
// may and the file system can, the file is made immutable too, which holds against every program (backends.Immutable); elsewhere only its mode
// stands against others (backends.Mode). The clock that counts is this machine's, and root can always take both away.
type Store struct {
	path string // absolute
	root *os.Root
	self fs.FileInfo // of root
	ops  ops
	now  func() time.Time

	mu sync.Mutex // guards what is below

	// dirs holds the directories that were looked at and are no symbolic links. The value says whether it is certain that
	// they outlast a power loss: another process may have made one and not have synchronized its parent yet.
	dirs map[string]bool

	// lost holds the directories whose fsync failed, with the error. It is not repeated, because the kernel reports a lost
	// write only once: a writer who repeats an exclusive Put would take "exists, and holds my bytes" for success. The new
	// name cannot be taken back either, because others may have acted on seeing it.
	lost map[string]error

	sameTime bool // the clocks agreed; see timed
}

var _ backends.Storage = (*Store)(nil)

// Open opens the repository's files in the directory dir. A missing one is an error matching fs.ErrNotExist unless
// o.Create is set.
func Open(dir string, o Options) (*Store, error) {
	return open(dir, o, systemOps(o.NoSync))
}

func open(dir string, o Options, ops ops) (*Store, error) {
	s, err := openRoot(dir, o.Create, ops)
	if err == nil && o.Now != nil {
		s.now = o.Now
	}
	if err == nil && o.RemoveStale {
		if err = s.removeStale(); err != nil {
			err = errors.Join(err, s.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening storage %q: %w", dir, classify(err))
	}
	return s, nil
}

func openRoot(dir string, create bool, ops ops) (*Store, error) {
	// A later change of the working directory must not look like a replaced root.
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if create {
		if err := makeRoot(dir, ops); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	self, err := root.Stat(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &Store{path: dir, root: root, self: self, ops: ops, now: time.Now, dirs: map[string]bool{}, lost: map[string]error{}}, nil
}

// makeRoot makes dir and the directories above it, and synchronizes the parent of each one it made, deepest first.
func makeRoot(dir string, ops ops) error {
	var missing []string
	for p := dir; ; p = filepath.Dir(p) {
		_, err := os.Stat(p)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || p == filepath.Dir(p) {
			return err
		}
		missing = append(missing, p)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := os.Mkdir(missing[i], dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, p := range missing {
		parent, err := os.Open(filepath.Dir(p))
		if err != nil {
			return err
		}
		if err := errors.Join(ops.syncDir(parent), parent.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Close releases the handle of the directory. Calls after it fail.
func (s *Store) Close() error { return s.root.Close() }

// present returns an error matching backends.ErrGone unless the directory that was opened is still the one at its path.
// It costs a microsecond. Without it a Put would end in a place nobody reads, and everything in a removed directory
// would look like an authentic "does not exist". The open handle keeps the number of the inode from being given away.
func (s *Store) present() error {
	now, err := os.Stat(s.path)
	if err != nil {
		// %v, not %w: nobody may take this for the absence of a file.
		return fmt.Errorf("%w: %v", backends.ErrGone, err)
	}
	if !os.SameFile(s.self, now) {
		return fmt.Errorf("%w: another directory is at %q", backends.ErrGone, s.path)
	}
	return nil
}

// absent returns err, found while something was looked for, unless it says "does not exist" and the whole root is gone.
func (s *Store) absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		if gone := s.present(); gone != nil {
			return gone
		}
	}
	return err
}

// Put implements backends.Storage. It answers fs.ErrExist only when the existing file outlasts a power loss.
func (s *Store) Put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	if err := s.put(ctx, name, data, opts); err != nil {
		return fmt.Errorf("storing %q (%d bytes): %w", name, len(data), classify(err))
	}
	return nil
}

func (s *Store) put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	if err := check(ctx, name); err != nil {
		return err
	}
	if len(data) > backends.MaxObject {
		return fmt.Errorf("the limit is %d bytes: %w", backends.MaxObject, backends.ErrPermanent)
	}
	if err := opts.CheckExtend(data); err != nil {
		return err
	}
	if err := s.present(); err != nil {
		return err
	}
	if opts.Extend {
		return s.extend(name, opts.RetainUntil)
	}
	if opts.IfAbsent {
		// Only spares the writing of data in vain. publish decides.
		if _, err := s.root.Lstat(name); err == nil {
			return s.exists(name)
		}
	} else if done, err := s.replaceable(ctx, name, data, opts.RetainUntil); done || err != nil {
		return err
	}
	temp, err := s.writeTemp(data, opts.RetainUntil)
	if err != nil {
		return s.absent(err)
	}
	if err = ctx.Err(); err == nil {
		err = s.publish(temp, name, opts.IfAbsent)
	}
	// After a rename there is nothing to remove. A leftover is harmless, and removed when stale.
	_ = s.ops.remove(s.root, temp)
	if err == nil && !opts.RetainUntil.IsZero() {
		err = s.flagNamed(name) // the temporary name is gone: an immutable file keeps all it has
	}
	return err
}

// writeTemp returns the name of a new temporary file that holds data durably. After an error there is none: a file whose
// fsync failed is never synchronized again, because the kernel has marked the lost pages clean and would report success.
// With a date the file has that too.
func (s *Store) writeTemp(data []byte, until time.Time) (string, error) {
	temp, f, err := s.createTemp()
	if err != nil {
		return "", err
	}
	err = s.ops.write(f, data)
	if err == nil && !until.IsZero() {
		if err = s.checkClock(f); err == nil {
			err = s.ops.keep(f, until)
		}
	}
	if err == nil {
		err = s.ops.chmod(f)
	}
	if err == nil {
		err = s.ops.syncFile(f)
	}
	// Closed before it gets its name: Windows renames no open file, and some network file systems report errors here.
	if err = errors.Join(err, f.Close()); err != nil {
		_ = s.ops.remove(s.root, temp)
		return "", err
	}
	return temp, nil
}

func (s *Store) createTemp() (string, *os.File, error) {
	// Clones of one virtual machine may draw the same random name once. O_EXCL keeps them apart.
	for try := 0; ; try++ {
		temp := tempDir + "/" + rand.Text()
		f, err := s.ops.create(s.root, temp)
		if err == nil {
			return temp, f, nil
		}
		if try == 10 {
			return "", nil, err
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// A file in a directory that is not durable itself is as good as none, which suits temporary ones.
			if err := s.ops.mkdir(s.root, tempDir); err != nil && !errors.Is(err, fs.ErrExist) {
				return "", nil, err
			}
		case !errors.Is(err, fs.ErrExist):
			return "", nil, err
		}
	}
}

// publish gives the temporary file its name and makes that durable.
func (s *Store) publish(temp, name string, ifAbsent bool) error {
	give := s.ops.rename
	if ifAbsent {
		give = s.ops.link
	}
	dir := path.Dir(name)
	unsynced, err := s.makeDirs(dir)
	if err != nil {
		return err
	}
	err = give(s.root, temp, name)
	if errors.Is(err, fs.ErrNotExist) {
		// Someone removed a directory this Store had seen.
		if err := s.present(); err != nil {
			return err
		}
		s.forget(dir)
		if unsynced, err = s.makeDirs(dir); err != nil {
			return err
		}
		err = give(s.root, temp, name)
	}
	if errors.Is(err, fs.ErrExist) && ifAbsent {
		return s.exists(name)
	}
	if err != nil {
		return s.absent(err)
	}
	return s.syncDirs(dir, unsynced)
}

// exists answers an exclusive Put of a name that is taken: with fs.ErrExist, once that fact is durable. Its writer may
// not have come to synchronizing the directory yet. (The bytes were synchronized before they got the name.)
func (s *Store) exists(name string) error {
	dir := path.Dir(name)
	unsynced, err := s.makeDirs(dir)
	if err != nil {
		return err
	}
	if err := s.syncDirs(dir, unsynced); err != nil {
		return err
	}
	return fs.ErrExist
}

// makeDirs makes dir and those above it where missing, never the root. It returns the directories, deepest first, not
// known to outlast a power loss.
func (s *Store) makeDirs(dir string) (unsynced []string, err error) {
	list := backends.Parents(dir)
	s.mu.Lock()
	for _, d := range list {
		if !s.dirs[d] {
			unsynced = append(unsynced, d)
		}
	}
	s.mu.Unlock()
	for i := len(unsynced) - 1; i >= 0; i-- {
		d := unsynced[i]
		err := s.plainDir(d)
		if errors.Is(err, fs.ErrNotExist) {
			if err = s.ops.mkdir(s.root, d); err == nil || errors.Is(err, fs.ErrExist) {
				err = s.plainDir(d)
			}
		}
		if err != nil {
			return nil, s.absent(err)
		}
	}
	return unsynced, nil
}

// syncDirs makes the entries in dir durable, then those of the unsynced directories in their parents, deepest first.
func (s *Store) syncDirs(dir string, unsynced []string) error {
	if err := s.syncDir(dir); err != nil {
		return err
	}
	for _, d := range unsynced {
		if err := s.syncDir(path.Dir(d)); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range unsynced {
		s.dirs[d] = true
	}
	return nil
}

func (s *Store) syncDir(dir string) error {
	s.mu.Lock()
	err := s.lost[dir]
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("the directory lost writes before: %w", err)
	}
	d, err := s.root.Open(dir)
	if err != nil {
		return s.absent(err)
	}
	if err = s.ops.syncDir(d); err != nil {
		s.mu.Lock()
		s.lost[dir] = err
		s.mu.Unlock()
	}
	return errors.Join(err, d.Close())
}

func (s *Store) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range backends.Parents(dir) {
		delete(s.dirs, d)
	}
}

// plainDir returns an error unless name is a directory and no symbolic link to one.
func (s *Store) plainDir(name string) error {
	info, err := s.root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%q is no directory (%s)", name, info.Mode().Type())
	}
	return nil
}

// lookDirs checks every directory that leads to a file of dir with plainDir, once: os.Root follows links that stay inside.
func (s *Store) lookDirs(dir string) error {
	list := backends.Parents(dir)
	for i := len(list) - 1; i >= 0; i-- {
		s.mu.Lock()
		_, seen := s.dirs[list[i]]
		s.mu.Unlock()
		if seen {
			continue
		}
		if err := s.plainDir(list[i]); err != nil {
			return err
		}
		s.mu.Lock()
		if _, known := s.dirs[list[i]]; !known {
			s.dirs[list[i]] = false // plain; durable is for makeDirs to say
		}
		s.mu.Unlock()
	}
	return nil
}

// lstat describes the regular file name. A directory is no file, so fs.ErrNotExist.
func (s *Store) lstat(name string) (fs.FileInfo, error) {
	if err := s.lookDirs(path.Dir(name)); err != nil {
		return nil, err
	}
	info, err := s.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("a directory: %w", fs.ErrNotExist)
	}
	return info, regular(info)
}

func regular(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is no regular file (%s)", info.Name(), info.Mode().Type())
	}
	return nil
}

// Get implements backends.Storage.
func (s *Store) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	data, err := s.get(ctx, name, off, n)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, classify(s.absent(err)))
	}
	return data, nil
}

func (s *Store) get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if err := check(ctx, name); err != nil {
		return nil, err
	}
	f, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The size of what was opened: since lstat the file may have been replaced.
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if n, err = backends.Span(info.Size(), off, n); err != nil || n == 0 {
		return []byte{}, err
	}
	data := backends.Buffer(n)
	if _, err := f.ReadAt(data, off); err != nil {
		if err == io.EOF {
			err = fmt.Errorf("file got shorter: %w", io.ErrUnexpectedEOF)
		}
		return nil, err
	}
	return data, nil
}

// Stat implements backends.Storage.
func (s *Store) Stat(ctx context.Context, name string) (backends.Info, error) {
	err := check(ctx, name)
	if err == nil {
		var info fs.FileInfo
		if info, err = s.lstat(name); err == nil {
			found := backends.Info{Name: name, Size: info.Size(), ModTime: info.ModTime()}
			s.guarded(&found)
			return found, nil
		}
	}
	return backends.Info{}, fmt.Errorf("looking for %q: %w", name, classify(s.absent(err)))
}

// Delete implements backends.Storage. It leaves directories, because removing them would race with writers.
func (s *Store) Delete(ctx context.Context, name string) error {
	err := check(ctx, name)
	if err == nil {
		err = s.present()
	}
	if err == nil {
		_, err = s.lstat(name)
	}
	if err == nil {
		err = s.free(name)
	}
	if err == nil {
		err = s.ops.remove(s.root, name)
	}
	if err != nil {
		return fmt.Errorf("deleting %q: %w", name, classify(s.absent(err)))
	}
	return nil
}

// removeStale does what Options.RemoveStale says.
func (s *Store) removeStale() error {
	if err := s.plainDir(tempDir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	temp, f, err := s.createTemp()
	if err := classify(err); errors.Is(err, backends.ErrNoSpace) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err := errors.Join(err, f.Close(), s.ops.remove(s.root, temp)); err != nil {
		return err
	}
	now := info.ModTime()

	dir, err := s.root.Open(tempDir)
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err := errors.Join(err, dir.Close()); err != nil {
		return err
	}
	length := len(rand.Text())
	for _, name := range names {
		// Foreign: those of createTemp look like rand.Text.
		if len(name) != length || strings.ToUpper(name) != name {
			continue
		}
		name = tempDir + "/" + name
		info, err := s.root.Lstat(name)
		if err == nil && info.Mode().IsRegular() && now.Sub(info.ModTime()) > staleAge {
			err = s.ops.remove(s.root, name)
		}
		// Gone: its writer finished, or another process cleans up, too. Refused: it is another user's, who shares the repository.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}

func check(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return backends.CheckName(name)
}

// classify makes err match the sentinel that callers look for.
func classify(err error) error {
	switch {
	case err == nil || errors.Is(err, backends.ErrNoSpace) || errors.Is(err, backends.ErrGone):
		return err
	case isNoSpace(err):
		return fmt.Errorf("%w: %w", backends.ErrNoSpace, err)
	case isReadOnly(err) && !errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", fs.ErrPermission, err)
	}
	return err
}
