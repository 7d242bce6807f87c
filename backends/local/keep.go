package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/pkg/xattr"

	"packhold/backends"
)

// keepAttribute holds until when a file is kept, as RFC 3339. It is in the file's inode: written and synchronized before the file has its name,
// and as safe as the bytes. The immutable flag, which has no date, covers it.
const keepAttribute = "user.packhold.retain"

// keptUntil returns the date of a file, zero if it has none.
func keptUntil(f *os.File) (time.Time, error) {
	if !xattr.XATTR_SUPPORTED {
		return time.Time{}, nil
	}
	b, err := xattr.FGet(f, keepAttribute)
	switch {
	case errors.Is(err, xattr.ENOATTR) || errors.Is(err, errors.ErrUnsupported):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, err
	}
	until, err := time.Parse(time.RFC3339, string(b))
	if err != nil { // not ours: as good as none, and the next extension writes one
		return time.Time{}, nil
	}
	return until, nil
}

// setKept writes a date into a file.
func setKept(f *os.File, until time.Time) error {
	if !xattr.XATTR_SUPPORTED {
		return fmt.Errorf("keeping files until a date: %w on this system", backends.ErrUnsupported)
	}
	// Rounded up: a file must not be free before its time.
	date := until.Add(time.Second - 1).Truncate(time.Second).UTC().Format(time.RFC3339)
	err := xattr.FSet(f, keepAttribute, []byte(date))
	if errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("keeping files until a date: the file system has no extended attributes, where the date would stand: %w: %w", backends.ErrUnsupported, err)
	}
	return err
}

// open opens the file name as Get does.
func (s *Store) open(name string) (*os.File, error) {
	if _, err := s.lstat(name); err != nil {
		return nil, err
	}
	f, err := s.root.OpenFile(name, openFlags, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = regular(info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// kept says until when a file is kept, and how.
func kept(f *os.File) (time.Time, backends.Guard, error) {
	until, err := keptUntil(f)
	if err != nil || until.IsZero() {
		return time.Time{}, backends.Unguarded, err
	}
	if flagged, err := immutable(f); err != nil || !flagged {
		return until, backends.Mode, err
	}
	return until, backends.Immutable, nil
}

// guarded fills in how the file is kept, if it says so: who only wants to read it does not depend on that.
func (s *Store) guarded(info *backends.Info) {
	f, err := s.open(info.Name)
	if err != nil {
		return
	}
	defer f.Close()
	if until, guard, err := kept(f); err == nil {
		info.RetainUntil, info.Guard = until, guard
	}
}

// checkClock compares the clock that dates new files, which on a network file system is the server's, with this machine's.
func (s *Store) checkClock(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if skew := info.ModTime().Sub(s.now()); skew.Abs() > backends.MaxSkew {
		return fmt.Errorf("%w by %v, the limit is %v", backends.ErrClock, skew.Round(time.Second), backends.MaxSkew)
	}
	return nil
}

// extend keeps an existing file until a later date. Its order: the flag off, the date, the flag on. A crash in between leaves a file that
// is kept by its date alone, which the next extension mends.
func (s *Store) extend(name string, until time.Time) error {
	f, err := s.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.absent(err); errors.Is(err, backends.ErrGone) {
			return err
		}
		if err := s.tryKeep(until); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	now, guard, err := kept(f)
	if err != nil {
		return err
	}
	if until.After(now) {
		if err := s.timed(until); err != nil {
			return err
		}
		if guard == backends.Immutable {
			if err := s.ops.setFlag(f, false); err != nil {
				return err
			}
		}
		if err := s.ops.keep(f, until); err != nil {
			return err
		}
	}
	return s.flag(f)
}

// timed compares the clocks before the first extension. A Put compares them with the file that it writes.
func (s *Store) timed(until time.Time) error {
	s.mu.Lock()
	known := s.sameTime
	s.mu.Unlock()
	if known {
		return nil
	}
	if err := s.tryKeep(until); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sameTime = true
	return nil
}

// tryKeep finds out whether files can be kept here, with a temporary one.
func (s *Store) tryKeep(until time.Time) error {
	temp, err := s.writeTemp(nil, until)
	if err != nil {
		return s.absent(err)
	}
	return s.ops.remove(s.root, temp)
}

// flag makes a file immutable where the file system and this user's rights allow it; elsewhere its date and its mode have to do. It comes after the
// file has its name, because nothing can be done to the name of an immutable file.
func (s *Store) flag(f *os.File) error {
	err := s.ops.setFlag(f, true)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	if err == nil {
		err = s.ops.syncFile(f)
	}
	return err
}

// flagNamed flags the file that just got its name. That another process removed it meanwhile, or put its own in its place, is not this one's business.
func (s *Store) flagNamed(name string) error {
	f, err := s.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return s.absentAfterPut(err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	until, err := keptUntil(f)
	if err != nil || until.IsZero() {
		return err
	}
	return s.flag(f)
}

func (s *Store) absentAfterPut(err error) error {
	if gone := s.absent(err); errors.Is(gone, backends.ErrGone) {
		return gone
	}
	return nil
}

// free makes sure that a file may be deleted or replaced: it returns a *backends.KeptError before its date, and takes the flag off after it.
// A file of another user that cannot be opened is the file system's to guard.
func (s *Store) free(name string) error {
	f, err := s.open(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	until, guard, err := kept(f)
	switch {
	case err != nil:
		return err
	case s.now().Before(until):
		return &backends.KeptError{Until: until}
	case guard == backends.Immutable:
		return s.ops.setFlag(f, false)
	}
	return nil
}

// replaceable prepares the replacement of an existing file that may be kept. done says that it has these bytes already and need not be stored.
func (s *Store) replaceable(ctx context.Context, name string, data []byte, until time.Time) (done bool, err error) {
	err = s.free(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, s.absentAfterPut(err)
	}
	if _, ok := errors.AsType[*backends.KeptError](err); !ok {
		return false, err
	}
	there, getErr := s.get(ctx, name, 0, -1)
	if getErr != nil {
		return false, getErr
	}
	if same := bytes.Equal(there, data); !same {
		return false, err
	}
	if until.IsZero() {
		return true, nil
	}
	return true, s.extend(name, until)
}
