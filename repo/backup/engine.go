package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"packhold/chunk"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// engine is one walk over the sources, in one session.
type engine struct {
	o       *Options
	repo    *repo.Repo
	session *repo.Session // nil for a dry run
	owners  *localfs.Owners
	started time.Time
	res     *Result
	stats   stats

	rule *chunk.Rule
	pool *chunk.Pool

	parent *parentGetter // nil without a parent
	racy   snapshot.Time // changes from then on may be newer than what the parent saw
	trees  *treeWriter   // nil without a cache

	devices devices
	links   sync.Map // linkKey -> *snapshot.Node whose content is stored
	sources atomic.Int32

	queue  queue
	skipMu sync.Mutex // guards res.Skipped and res.More
	root   crypt.ID
}

// stats counts what is walked; see snapshot.Stats.
type stats struct {
	files, dirs, others, fresh, changed, unmodified, total, read atomic.Uint64
}

func (s *stats) sum() snapshot.Stats {
	return snapshot.Stats{Files: s.files.Load(), Dirs: s.dirs.Load(), Others: s.others.Load(), New: s.fresh.Load(),
		Changed: s.changed.Load(), Unmodified: s.unmodified.Load(), BytesTotal: s.total.Load(), BytesRead: s.read.Load()}
}

// racyWindow is how long before the parent's start a file's times must lie for its content to count as seen: a file system may keep
// times in steps of 2 s (FAT), and a change within the step would not show.
const racyWindow = 2 * time.Second

// maxWaiting is how many large files may wait for the reader before the walk pauses: each keeps a directory open.
const maxWaiting = 64

// prepare opens what the walk needs: chunk rule, the parent's tree, the new tree cache.
func (e *engine) prepare(ctx context.Context, lineage [32]byte, all []*repo.Snapshot) error {
	var err error
	if e.rule, err = chunk.New(e.repo.Config().Chunker, e.repo.Keys().Chunker); err != nil {
		return err
	}
	if e.pool, err = chunk.NewPool(e.repo.Config().Chunker, chunk.DefaultBuffers); err != nil {
		return err
	}
	e.queue.cond = sync.NewCond(&e.queue.mu)
	local := e.repo.Keys().Local
	dir := ""
	if e.o.CacheDir != "" && local != nil {
		dir = filepath.Join(e.o.CacheDir, "trees")
	}
	if p := e.res.Parent; p != nil {
		g := &parentGetter{}
		if dir != "" {
			// A cache that does not open costs time, or the passphrase.
			g.cache, _ = openTreeReader(filepath.Join(dir, cacheName(lineage, p.Session)), *local)
		}
		if e.repo.CanRead() {
			if g.reader, err = e.repo.NewReader(); err != nil {
				return err
			}
		}
		if g.cache != nil || g.reader != nil {
			e.parent = g
			e.racy = timeOf(p.StartTime().Add(-racyWindow))
		}
	}
	if dir != "" && e.session != nil {
		if e.trees, err = newTreeWriter(dir, cacheName(lineage, e.session.ID), *local); err != nil {
			e.res.CacheErr, e.trees = err, nil
		}
	}
	return nil
}

func (e *engine) cleanup() {
	e.trees.abandon()
	if e.parent != nil && e.parent.cache != nil {
		e.parent.cache.f.Close()
	}
}

// skip notes an item that could not be read.
func (e *engine) skip(err *SourceError) {
	e.o.Progress.Skipped(err.Path, err.Err)
	e.skipMu.Lock()
	defer e.skipMu.Unlock()
	if len(e.res.Skipped) < snapshot.MaxSkipped {
		e.res.Skipped = append(e.res.Skipped, snapshot.SkippedItem{Path: err.Path, Reason: err.Err.Error()})
	} else {
		e.res.More++
	}
}

// work walks the sources with all workers and returns the root page.
func (e *engine) work(ctx context.Context) (crypt.ID, error) {
	g, gctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(gctx, func() { e.queue.fail() })
	defer stop()
	if e.session != nil {
		alive, done := context.WithCancel(gctx)
		defer done()
		g.Go(func() error { return e.session.KeepAlive(alive) })
		e.queue.finished = done
	}
	first, err := e.newWorker(gctx)
	if err != nil {
		return crypt.ID{}, err
	}
	if e.o.Stdin != nil {
		e.pushStream()
	} else {
		e.pushRoot()
	}
	workers := []*worker{first}
	for len(workers) < e.o.Workers {
		w, err := e.newWorker(gctx)
		if err != nil {
			return crypt.ID{}, err
		}
		workers = append(workers, w)
	}
	for _, w := range workers {
		g.Go(w.run)
	}
	g.Go(func() error { return e.readLarge(gctx) })
	if err := g.Wait(); err != nil {
		return crypt.ID{}, err
	}
	if err := ctx.Err(); err != nil {
		return crypt.ID{}, err
	}
	for _, w := range workers {
		if w.store != nil {
			e.res.Fallback += w.store.Fallbacks()
		}
	}
	if e.sources.Load() == 0 {
		if len(e.res.Skipped) > 0 {
			return crypt.ID{}, fmt.Errorf("%w: %s: %s", ErrNoSource, e.res.Skipped[0].Path, e.res.Skipped[0].Reason)
		}
		return crypt.ID{}, ErrNoSource
	}
	return e.root, nil
}

// task is a piece of work for any worker.
type task interface{ do(w *worker) error }

// queue holds what is to be done. Chunks of large files come first, because they hold buffers; then what was pushed last, so that
// few directories are open at once.
type queue struct {
	mu       sync.Mutex // guards all but finished
	cond     *sync.Cond
	chunks   []*chunkTask
	tasks    []task
	large    []*largeFile
	done     bool
	failed   bool
	finished func() // called once when done; set before the start
}

func (q *queue) push(tasks ...task) {
	q.mu.Lock()
	q.tasks = append(q.tasks, tasks...)
	q.mu.Unlock()
	q.cond.Broadcast()
}

func (q *queue) pushChunk(c *chunkTask) {
	q.mu.Lock()
	q.chunks = append(q.chunks, c)
	q.mu.Unlock()
	q.cond.Broadcast()
}

func (q *queue) pushLarge(f *largeFile) {
	q.mu.Lock()
	q.large = append(q.large, f)
	q.mu.Unlock()
	q.cond.Broadcast()
}

// fail wakes everybody up to stop.
func (q *queue) fail() {
	q.mu.Lock()
	q.failed = true
	q.mu.Unlock()
	q.cond.Broadcast()
}

// finish says that the root is complete.
func (q *queue) finish() {
	q.mu.Lock()
	q.done = true
	q.mu.Unlock()
	q.cond.Broadcast()
	if q.finished != nil {
		q.finished()
	}
}

// next returns a task, or nil when there is nothing left to do.
func (q *queue) next() task {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.done || q.failed:
			return nil
		case len(q.chunks) > 0:
			c := q.chunks[0]
			q.chunks = q.chunks[1:]
			return c
		case len(q.tasks) > 0 && len(q.large) < maxWaiting:
			t := q.tasks[len(q.tasks)-1]
			q.tasks = q.tasks[:len(q.tasks)-1]
			return t
		}
		q.cond.Wait()
	}
}

// nextLarge returns the next large file, or nil when there is nothing left to do.
func (q *queue) nextLarge() *largeFile {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.done || q.failed:
			return nil
		case len(q.large) > 0:
			f := q.large[0]
			q.large = q.large[1:]
			if len(q.large) == maxWaiting-1 {
				q.cond.Broadcast()
			}
			return f
		}
		q.cond.Wait()
	}
}

// worker is one goroutine's tools.
type worker struct {
	e      *engine
	ctx    context.Context
	store  *repo.Worker // nil for a dry run
	cutter chunk.Cutter
	buf    []byte // for small files
}

// smallFile is the largest file that one worker reads whole and carries through everything: it fits in a core's cache with room to work.
const smallFile = 1 << 20

func (e *engine) newWorker(ctx context.Context) (*worker, error) {
	w := &worker{e: e, ctx: ctx, cutter: e.rule.Cutter(), buf: make([]byte, smallFile+1)}
	if e.session != nil {
		var err error
		if w.store, err = e.session.NewWorker(); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *worker) run() error {
	for {
		t := w.e.queue.next()
		if t == nil {
			return nil
		}
		if err := t.do(w); err != nil {
			return err
		}
	}
}

// putTree stores a tree page, or a blob of the tree's kind, and keeps it in the cache.
func (w *worker) putTree(plain []byte) (crypt.ID, error) {
	if w.store == nil {
		return crypt.Sum(plain), nil
	}
	id, _, err := w.store.StoreTree(plain)
	if err == nil {
		w.e.trees.put(id, plain)
	}
	return id, err
}

// devices gives the file systems of a snapshot small numbers, the same as in its parent where they can be told.
type devices struct {
	mu      sync.Mutex // guards what follows
	numbers map[uint64]uint32
	used    map[uint32]bool
}

func (d *devices) number(dev uint64, hint *snapshot.Node) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n, ok := d.numbers[dev]; ok {
		return n
	}
	if d.numbers == nil {
		d.numbers, d.used = make(map[uint64]uint32), make(map[uint32]bool)
	}
	n := uint32(1)
	if hint != nil && hint.Device != 0 && !d.used[hint.Device] {
		n = hint.Device
	} else {
		for d.used[n] {
			n++
		}
	}
	d.numbers[dev], d.used[n] = n, true
	return n
}

// isSource reports whether err is the source's fault, not ours: everything a system call on the source may return.
func sourceErr(path string, err error) *SourceError {
	var s *SourceError
	if errors.As(err, &s) {
		return s
	}
	return &SourceError{Path: path, Err: err}
}

var errGrew = errors.New("changed while it was read")

// readFull reads until buf is full or the file ends.
func readFull(f io.Reader, buf []byte) (int, error) {
	n, err := io.ReadFull(f, buf)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return n, err
}
