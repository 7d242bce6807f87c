package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"packhold/backends"
)

// maxHeld is the number of directory entries one listing may hold in memory at a time, about 150 bytes each. With packs
// spread over 256 directories it is reached at 8 PiB.
const maxHeld = 1 << 20

// List implements backends.Storage. A directory that cannot be read, another kind of file where a file or directory
// could be, or a root gone by the end is an error. Directories on other file systems are listed like all others.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		l := lister{ctx: ctx, yield: yield}
		if err := s.list(&l, prefix); err != nil && !l.stopped {
			yield(backends.Info{}, fmt.Errorf("listing %q: %w", prefix, classify(err)))
		}
	}
}

func (s *Store) list(l *lister, prefix string) error {
	if err := backends.CheckPrefix(prefix); err != nil {
		return err
	}
	if err := l.ctx.Err(); err != nil {
		return err
	}
	dir := strings.TrimSuffix(prefix, "/")
	if dir == "" {
		dir = "."
	}
	switch err := s.lookDirs(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return s.present()
	case err != nil:
		return err
	}
	root, err := s.root.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return s.present()
	}
	if err != nil {
		return err
	}
	defer root.Close()
	err = l.walk(root, prefix)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		if gone := s.present(); gone != nil {
			return gone
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		// %v, not %w: nobody may take this for an authentic absence.
		return fmt.Errorf("a directory vanished while it was listed: %v", err)
	}
	return err
}

// lister is one listing under way.
type lister struct {
	ctx     context.Context
	yield   func(backends.Info, error) bool
	stopped bool // yield returned false and must not be called again
	held    int  // entries in memory
	listed  int
}

// entry is a directory's entry. The key sorts directories by where their files' names sort: "a.b" < "a/c" < "a0".
type entry struct {
	key  string // the name, with a slash after a directory's
	size int64
	mod  time.Time
}

var errStopped = errors.New("listing stopped by its reader")

// walk yields the files below dir, whose names begin with prefix.
func (l *lister) walk(dir *os.Root, prefix string) error {
	entries, err := l.read(dir, prefix)
	if err != nil {
		return err
	}
	defer func() { l.held -= len(entries) }()
	for _, e := range entries {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		if name, ok := strings.CutSuffix(e.key, "/"); ok {
			sub, err := dir.OpenRoot(name)
			if err != nil {
				// Missing, too: nothing of ours removes directories, so its files may live on elsewhere.
				return err
			}
			if err := errors.Join(l.walk(sub, prefix+e.key), sub.Close()); err != nil {
				return err
			}
			continue
		}
		if l.listed++; l.listed > backends.MaxListed {
			return fmt.Errorf("more than %d files", backends.MaxListed)
		}
		if !l.yield(backends.Info{Name: prefix + e.key, Size: e.size, ModTime: e.mod}, nil) {
			l.stopped = true
			return errStopped
		}
	}
	return nil
}

// read returns the files and directories in dir that are not foreign, sorted by key.
func (l *lister) read(dir *os.Root, prefix string) ([]entry, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var entries []entry
	for {
		if err := l.ctx.Err(); err != nil {
			return nil, err
		}
		names, err := f.Readdirnames(4096)
		for _, name := range names {
			if !backends.ValidName(prefix + name) {
				continue
			}
			if l.held+len(entries) >= maxHeld {
				return nil, fmt.Errorf("more than %d files in %q", maxHeld, prefix)
			}
			info, err := dir.Lstat(name)
			switch {
			case errors.Is(err, fs.ErrNotExist): // deleted since
				continue
			case err != nil:
				return nil, err
			case info.IsDir():
				entries = append(entries, entry{key: name + "/"})
				continue
			}
			if err := regular(info); err != nil {
				return nil, err
			}
			entries = append(entries, entry{key: name, size: info.Size(), mod: info.ModTime()})
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	// Some file systems show an entry twice that is replaced while they are read.
	entries = slices.CompactFunc(entries, func(a, b entry) bool { return a.key == b.key })
	l.held += len(entries)
	return entries, nil
}
