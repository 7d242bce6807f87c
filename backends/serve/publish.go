package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"packhold/backends"
)

// What a temporary file's old name becomes when it gets another.
const (
	keepsOld = false
	movesOld = true
)

// held is a temporary file whose lock is held, so that nobody else writes it, names it or takes its name away.
type held struct {
	file   *os.File
	writer *handle // of this connection, if there is one
}

// writer returns the handle that writes the file of info, or nil.
func (s *session) writer(info fs.FileInfo) *handle {
	for _, h := range s.handles {
		if !h.writes {
			continue
		}
		if own, err := h.file.Stat(); err == nil && os.SameFile(own, info) {
			return h
		}
	}
	return nil
}

// hold gets the lock of a temporary file, or returns errBusy. The caller must release it.
func (s *session) hold(t target) (held, error) {
	info, err := s.lstat(t)
	if err != nil {
		return held{}, err
	}
	if h := s.writer(info); h != nil {
		return held{h.file, h}, nil
	}
	f, err := s.openPlain(t, false)
	if err != nil {
		return held{}, err
	}
	if err := s.claim(f, t); err != nil {
		return held{}, errors.Join(err, f.Close())
	}
	return held{f, nil}, nil
}

// release gives the lock back, unless it is that of a handle.
func (h held) release() {
	if h.writer == nil {
		_ = h.file.Close() // only read
	}
}

// publish gives a temporary file another name, by one of the ops.
func (s *session) publish(from, to target, give func(*os.Root, string, string) error, moves bool) error {
	switch {
	case from.kind != kindTemporary:
		return fmt.Errorf("only temporary files get names: %w", fs.ErrPermission)
	case to.kind != kindTemporary && to.kind != kindFinished:
		return fmt.Errorf("%q is a directory: %w", to.name, fs.ErrPermission)
	}
	if err := s.present(); err != nil {
		return err
	}
	f, err := s.hold(from)
	if err != nil {
		return err
	}
	defer f.release()
	if err := s.syncHeld(f, from); err != nil {
		return err
	}
	dir := path.Dir(to.name)
	unsynced, err := s.makeDirs(dir)
	if err != nil {
		return err
	}
	if err := s.replaceable(to); err != nil {
		return err
	}
	if f.writer != nil && to.kind == kindFinished {
		// Whatever comes of it: a step that fails, or on a network file system an answer that gets lost, may have given the name nevertheless.
		f.writer.finished = true
	}
	err = give(s.root, from.name, to.name) // the commit point
	if errors.Is(err, fs.ErrExist) {
		// Said once that is durable: whose file it is may not have come to synchronizing the directory yet.
		return errors.Join(err, s.syncDirs(dir, unsynced))
	}
	if err != nil {
		return err
	}
	if f.writer != nil && moves {
		f.writer.target = to
	}
	return s.syncDirs(dir, unsynced)
}

// syncHeld makes the bytes of a file durable before it gets a name.
func (s *session) syncHeld(f held, t target) error {
	if f.writer != nil {
		return s.sync(f.writer)
	}
	if err := s.ops.syncFile(f.file); err != nil {
		return errors.Join(err, s.drop(t, f.file))
	}
	return nil
}

// replaceable returns an error if what has the name is no regular file, which even a server that lets files be replaced leaves alone.
func (s *session) replaceable(t target) error {
	info, err := s.lstat(t)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%q is no regular file (%s): %w", t.name, info.Mode().Type(), fs.ErrExist)
	}
	return err
}

// remove takes a temporary name away, or where that is allowed a finished file.
func (s *session) remove(t target) error {
	switch {
	case t.kind == kindTemporary:
		f, err := s.hold(t)
		if err != nil {
			return err
		}
		defer f.release()
		return s.drop(t, f.file)
	case t.kind != kindFinished || s.o.AppendOnly:
		return fmt.Errorf("finished files and directories are not removed: %w", fs.ErrPermission)
	}
	info, err := s.lstat(t)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%q is no regular file (%s): %w", t.name, info.Mode().Type(), fs.ErrPermission)
	}
	if err != nil {
		return err
	}
	return s.ops.remove(s.root, t.name) // need not be durable
}

func (s *session) mkdir(t target) error {
	if t.kind != kindFinished && t.kind != kindTempDir {
		return fmt.Errorf("%q is no directory of a repository: %w", t.name, fs.ErrPermission)
	}
	if err := s.present(); err != nil {
		return err
	}
	if _, err := s.lstat(t); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("making the directory %q: %w", t.name, fs.ErrExist)
		}
		return err
	}
	if err := s.ops.mkdir(s.root, t.name); err != nil {
		return err
	}
	return s.syncDir(path.Dir(t.name))
}

// makeDirs makes dir and those above it where missing, never the root. It returns the directories, deepest first, not known to outlast a power loss.
func (s *session) makeDirs(dir string) (unsynced []string, err error) {
	list := backends.Parents(dir)
	for _, d := range slices.Backward(list) {
		err := s.plainDir(d)
		if errors.Is(err, fs.ErrNotExist) {
			delete(s.synced, d) // it was removed, if it was seen at all
			if err = s.ops.mkdir(s.root, d); err == nil || errors.Is(err, fs.ErrExist) {
				err = s.plainDir(d)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	for _, d := range list {
		if !s.synced[d] {
			unsynced = append(unsynced, d)
		}
	}
	return unsynced, nil
}

// syncDirs makes the entries in dir durable, then those of the unsynced directories in their parents, deepest first.
func (s *session) syncDirs(dir string, unsynced []string) error {
	if err := s.syncDir(dir); err != nil {
		return err
	}
	for _, d := range unsynced {
		if err := s.syncDir(path.Dir(d)); err != nil {
			return err
		}
	}
	const maxSynced = 1 << 12 // a repository has some 600; one with more is synchronized more often
	if len(s.synced) > maxSynced {
		clear(s.synced)
	}
	for _, d := range unsynced {
		s.synced[d] = true
	}
	return nil
}

func (s *session) syncDir(dir string) error {
	if err := s.lost[dir]; err != nil {
		return fmt.Errorf("the directory lost writes before: %w", err)
	}
	err := s.ops.syncDir(s.root, dir)
	if err != nil {
		s.lost[dir] = err
	}
	return err
}

// removeStale removes the temporary files that nobody has written to for a day. Those that are open for writing are locked, whatever their age.
func (s *session) removeStale(ctx context.Context) error {
	const staleAge = 24 * time.Hour
	d, err := s.openPlain(target{kindTempDir, tempDir}, true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			t, ours := target{kindTempDir, tempDir}.child(name)
			if !ours {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			info, err := s.lstat(t)
			if err == nil && info.Mode().IsRegular() && s.now().Sub(info.ModTime()) > staleAge {
				err = s.remove(t)
			}
			switch {
			case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, errBusy): // gone, or its writer slept
			case errors.Is(err, errNoLocks): // nobody knows whether it has a writer
			case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS): // another user's, or the file system is read-only
			default:
				return err
			}
		}
	}
}
