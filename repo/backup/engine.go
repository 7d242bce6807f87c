package backup

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
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

	rule *chunk.Rule
	pool *chunk.Pool

	parent *parentGetter // nil without a parent
	racy   snapshot.Time // changes from then on may be newer than what the parent saw
	trees  *treeWriter   // nil without a cache
	avoid  map[fileID]bool

	devices devices
	links   links
	sources atomic.Int32 // those of which something was read

	queue  queue
	skipMu sync.Mutex // guards res.Skipped and res.More
	root   crypt.ID   // set before the queue is done
}

// fileID is a file as the running system knows it.
type fileID struct{ dev, inode uint64 }

// racyWindow is how long before the parent's start a file's times must lie for its content to count as seen: a file system may keep
// times in steps of 2 s (FAT), and a change within the step would not show.
const racyWindow = 2 * time.Second

// prepare opens what the walk needs: chunk rule, the parent's tree, the new tree cache.
func (e *engine) prepare(lineage [32]byte) error {
	var err error
	if e.rule, err = chunk.New(e.repo.Config().Chunker, e.repo.Keys().Chunker); err != nil {
		return err
	}
	if e.pool, err = chunk.NewPool(e.repo.Config().Chunker, chunk.DefaultBuffers); err != nil {
		return err
	}
	e.queue.init()
	e.findAvoided()
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
		if g.cache != nil || e.repo.CanRead() {
			e.parent = g
			e.racy = timeOf(p.StartTime().Add(-racyWindow))
		}
		if e.repo.CanRead() {
			if g.reader, err = e.repo.NewReader(); err != nil {
				return err
			}
		}
	}
	if dir != "" && e.session != nil {
		e.trees, e.res.CacheErr = newTreeWriter(dir, cacheName(lineage, e.session.ID), *local)
	}
	return nil
}

func (e *engine) cleanup() {
	e.trees.abandon()
	if e.parent != nil && e.parent.cache != nil {
		e.parent.cache.f.Close()
	}
}

// findAvoided notes which directories Avoid means, so that they are known under every path.
func (e *engine) findAvoided() {
	e.avoid = make(map[fileID]bool)
	for _, path := range e.o.Avoid {
		h, err := localfs.OpenDir(path)
		if err != nil {
			continue // not there, or not ours to enter
		}
		var n snapshot.Node
		if st, err := h.Stat("", &n); err == nil && n.Inode != 0 {
			e.avoid[fileID{st.Dev, n.Inode}] = true
		}
		h.Close()
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

// work walks the sources with all workers and returns the root page. When it returns all its goroutines have ended and all it opened is closed.
func (e *engine) work(ctx context.Context) (crypt.ID, error) {
	defer e.queue.drain()
	g, gctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(gctx, e.queue.fail)
	defer stop()
	var workers []*worker
	for range e.o.Workers {
		w, err := e.newWorker(gctx)
		if err != nil {
			return crypt.ID{}, err
		}
		workers = append(workers, w)
	}
	reader := &worker{e: e, ctx: gctx}
	splitter, err := chunk.NewSplitter(e.rule, e.pool)
	if err != nil {
		return crypt.ID{}, err
	}
	defer splitter.Close()
	if e.o.Stdin != nil {
		e.pushStream()
	} else {
		e.pushRoot()
	}
	if e.session != nil {
		alive, done := context.WithCancel(gctx)
		defer done()
		e.queue.finished = done
		g.Go(func() error { return e.session.KeepAlive(alive) })
	}
	for _, w := range workers {
		g.Go(w.run)
	}
	g.Go(func() error { return reader.readLarge(splitter) })
	if err := g.Wait(); err != nil {
		return crypt.ID{}, err
	}
	if err := ctx.Err(); err != nil {
		return crypt.ID{}, err
	}
	e.sum(append(workers, reader))
	if e.sources.Load() == 0 {
		if len(e.res.Skipped) > 0 {
			return crypt.ID{}, fmt.Errorf("%w: %s: %s", ErrNoSource, e.res.Skipped[0].Path, e.res.Skipped[0].Reason)
		}
		return crypt.ID{}, ErrNoSource
	}
	return e.root, nil
}

// sum completes the result from what each worker counted.
func (e *engine) sum(workers []*worker) {
	t := &e.res.Stats
	for _, w := range workers {
		s := &w.stats
		t.Files += s.Files
		t.Dirs += s.Dirs
		t.Others += s.Others
		t.New += s.New
		t.Changed += s.Changed
		t.Unmodified += s.Unmodified
		t.BytesTotal += s.BytesTotal
		t.BytesRead += s.BytesRead
		if w.store != nil {
			e.res.Fallback += w.store.Fallbacks()
		}
	}
	slices.SortFunc(e.res.Skipped, func(a, b snapshot.SkippedItem) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Reason, b.Reason))
	})
	t.Skipped = uint64(len(e.res.Skipped)) + e.res.More
}

// worker is one goroutine's tools. It counts in stats what went into the tree.
type worker struct {
	e      *engine
	ctx    context.Context
	store  *repo.Worker // nil for a dry run, and for the reader of large files
	cutter chunk.Cutter
	buf    []byte // for small files
	stats  snapshot.Stats

	seen unmodified
	next []task                   // to be pushed when the part at hand is walked
	prev [partSize]*snapshot.Node // of the part at hand
	free [][]snapshot.Node        // of partSize, all zero

	pathOf   *dir // whose path pathText is
	pathText string

	owner  owner
	device struct {
		dev    uint64
		number uint32 // 0: none yet
	}
}

// unmodified counts files that were not read since progress was last told.
type unmodified struct{ files, bytes int64 }

// owner is the one that the last entry had: the next has most often the same.
type owner struct {
	uid, gid    uint32
	user, group string
	known       bool
}

// smallFile is the largest file, in bytes, that one worker reads whole and carries through everything: it fits in a core's cache with room to work.
const smallFile = 1 << 20

func (e *engine) newWorker(ctx context.Context) (*worker, error) {
	w := &worker{e: e, ctx: ctx, cutter: e.rule.Cutter(), buf: make([]byte, smallFile)}
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
		t := w.e.queue.take()
		if t == nil {
			return nil
		}
		if err := t.do(w); err != nil {
			return err
		}
	}
}

// put stores a piece of a file.
func (w *worker) put(plain []byte) (crypt.ID, error) {
	if w.store == nil {
		return crypt.Sum(plain), nil
	}
	id, _, err := w.store.Store(plain)
	return id, err
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

func (w *worker) has(id crypt.ID) bool {
	if w.e.session == nil {
		return w.e.repo.Index().Has(id)
	}
	return w.e.session.Has(id)
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

// links holds the content of files with several names, until all names were seen.
type links struct {
	mu sync.Mutex // guards m
	m  map[linkKey]*linked
}

// linkKey names a file that several directory entries share.
type linkKey struct {
	device uint32
	inode  uint64
}

// linked is what was read under one name, and the times and size it had then.
type linked struct {
	node snapshot.Node // Size, MTime, CTime and what takeContent takes
	left uint32        // names not yet seen
}

// take completes n with the content that another name of the same inode had, if nothing changed since that was read.
func (l *links) take(n *snapshot.Node) bool {
	k := linkKey{n.Device, n.Inode}
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.m[k]
	if f == nil || f.node.Size != n.Size || f.node.MTime != n.MTime || f.node.CTime != n.CTime {
		return false
	}
	takeContent(n, &f.node)
	l.seen(k, f)
	return true
}

// put remembers the content of n, which was stored just now.
func (l *links) put(n *snapshot.Node) {
	if n.Links < 2 || n.Inode == 0 || n.Name == "" {
		return
	}
	k := linkKey{n.Device, n.Inode}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.m[k]; f != nil { // both names were in work at once
		l.seen(k, f)
		return
	}
	if l.m == nil {
		l.m = make(map[linkKey]*linked)
	}
	f := &linked{node: snapshot.Node{Size: n.Size, MTime: n.MTime, CTime: n.CTime}, left: n.Links - 1}
	takeContent(&f.node, n)
	l.m[k] = f
}

// seen notes one more name. The caller holds mu.
func (l *links) seen(k linkKey, f *linked) {
	if f.left--; f.left == 0 {
		delete(l.m, k)
	}
}

// takeContent takes over what is stored of a file, and the attributes whose change shows in the ctime. The caller knows that both are one inode.
func takeContent(n, from *snapshot.Node) {
	n.Inline, n.Extents, n.ExtentBlobs = from.Inline, from.Extents, from.ExtentBlobs
	n.XAttrs, n.XAttrBlob, n.Flags = from.XAttrs, from.XAttrBlob, from.Flags
}
