package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"packhold/backends"
)

const (
	// maxHeld is the number of directory entries one listing may hold in memory at a time, about 150 bytes each. With packs spread over 256
	// directories it is reached at 8 PiB.
	maxHeld = 1 << 20

	// maxNames is the number of names that may come on one connection while a directory is read on it, those of others included: pkg/sftp holds
	// them all before it returns.
	maxNames = 2 * maxHeld

	// ahead is how many directories are read at a time. Each takes four round trips, and a repository has hundreds.
	ahead = 64
)

// errTooMany says that a directory has more names than a listing may hold.
var errTooMany = fmt.Errorf("more than %d files in a directory", maxHeld)

// readDir reads a whole directory, as long as most names come meanwhile.
func (l *link) readDir(ctx context.Context, dir string, most int64) ([]fs.FileInfo, error) {
	readCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer l.meter.watch(most, func() { cancel(errTooMany) })()
	entries, err := l.client.ReadDirContext(readCtx, dir)
	if ctx.Err() == nil && readCtx.Err() != nil {
		return nil, errTooMany
	}
	return entries, err
}

// List implements backends.Storage, sorted by name. A directory that cannot be read, another kind of file where a file or directory could be, or a root
// gone by the end is an error.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		l := lister{s: s, yield: yield}
		if err := l.list(ctx, prefix); err != nil && !l.stopped {
			yield(backends.Info{}, fmt.Errorf("listing %q: %w", prefix, err))
		}
	}
}

// lister is one listing under way.
type lister struct {
	s       *Store
	yield   func(backends.Info, error) bool
	stopped bool         // yield returned false and must not be called again
	held    atomic.Int64 // entries in memory
	listed  int
}

// entry is a directory's entry. The key sorts directories by where their files' names sort: "a.b" < "a/c" < "a0".
type entry struct {
	key  string // the name, with a slash after a directory's
	size int64
	mod  time.Time
}

func (e entry) isDir() bool { return strings.HasSuffix(e.key, "/") }

var errStopped = errors.New("listing stopped by its reader")

func (l *lister) list(ctx context.Context, prefix string) error {
	if err := backends.CheckPrefix(prefix); err != nil {
		return err
	}
	entries, err := l.read(ctx, prefix, true)
	if errors.Is(err, fs.ErrNotExist) { // of the prefix's own directory, in a root that is there
		return nil
	}
	if err == nil {
		err = l.walk(ctx, prefix, entries)
	}
	if err == nil {
		err = l.s.pool.do(ctx, smallCall, func(_ context.Context, k *link) error { return l.s.present(k) })
	}
	return err
}

// page is what is in a directory.
type page struct {
	entries []entry
	err     error
}

// walk yields the files below a directory, whose names begin with prefix. It reads the directories in it ahead.
func (l *lister) walk(ctx context.Context, prefix string, entries []entry) error {
	defer func() { l.held.Add(-int64(len(entries))) }()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	pages := map[string]chan page{}
	next := 0 // no entry from here on is being read
	for _, e := range entries {
		if ctx.Err() != nil {
			return ctxError(ctx)
		}
		if !e.isDir() {
			if l.listed++; l.listed > backends.MaxListed {
				return fmt.Errorf("more than %d files", backends.MaxListed)
			}
			if !l.yield(backends.Info{Name: prefix + e.key, Size: e.size, ModTime: e.mod}, nil) {
				l.stopped = true
				return errStopped
			}
			continue
		}
		for ; next < len(entries) && len(pages) < ahead; next++ {
			if dir := entries[next].key; strings.HasSuffix(dir, "/") {
				read := make(chan page, 1)
				pages[dir] = read
				wg.Go(func() {
					var p page
					p.entries, p.err = l.read(ctx, prefix+dir, false)
					read <- p
				})
			}
		}
		p := <-pages[e.key]
		delete(pages, e.key)
		if errors.Is(p.err, fs.ErrNotExist) {
			// %v, not %w: nobody may take this for an authentic absence. Nothing of ours removes directories, so its files may live on elsewhere.
			return fmt.Errorf("a directory vanished while it was listed: %v", p.err)
		}
		if p.err != nil {
			return p.err
		}
		if err := l.walk(ctx, prefix+e.key, p.entries); err != nil {
			return err
		}
	}
	return nil
}

// read returns the files and directories in the prefix's directory that are not foreign, sorted by key. look says that the ways to it are not known to be
// plain directories.
func (l *lister) read(ctx context.Context, prefix string, look bool) (entries []entry, err error) {
	s := l.s
	dir := strings.TrimSuffix(prefix, "/")
	if dir == "" {
		dir = "."
	}
	var infos []fs.FileInfo
	err = s.pool.do(ctx, smallCall, func(ctx context.Context, k *link) (err error) {
		var wg sync.WaitGroup
		var lookErr error
		if look {
			wg.Go(func() { lookErr = s.lookDirs(k, dir) })
		}
		infos, err = k.readDir(ctx, s.at(dir), maxNames)
		wg.Wait()
		if lookErr != nil {
			err = lookErr
		}
		return s.absent(k, err)
	})
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		name := info.Name()
		if !backends.ValidName(prefix + name) {
			continue
		}
		if info.IsDir() {
			entries = append(entries, entry{key: name + "/"})
			continue
		}
		if err := regular(info); err != nil {
			return nil, err
		}
		entries = append(entries, entry{key: name, size: info.Size(), mod: info.ModTime()})
	}
	if l.held.Add(int64(len(entries))) > maxHeld {
		return nil, fmt.Errorf("more than %d files in %q", maxHeld, prefix)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	// Some file systems show an entry twice that is replaced while they are read.
	if unique := slices.CompactFunc(entries, func(a, b entry) bool { return a.key == b.key }); len(unique) < len(entries) {
		l.held.Add(int64(len(unique) - len(entries)))
		entries = unique
	}
	return entries, nil
}
