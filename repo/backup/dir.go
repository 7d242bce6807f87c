package backup

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"packhold/crypt"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// dir is a directory being backed up. The task that lists it, and then the one that walks on, is its only user of what comes before mu.
type dir struct {
	up     *part // nil for the root
	slot   int   // in up.nodes
	name   string
	depth  int // names in the path
	length int // bytes of the path
	dev    uint64
	plan   *plan    // for a source or a directory above one
	prev   crypt.ID // root page of the same directory in the parent; zero: none

	partial error // the attributes that could not be read

	h     *handle  // nil until it is open
	names []string // not walked yet, ascending
	old   *oldDir  // the same directory in the parent

	mu     sync.Mutex // guards what follows
	parts  []*part    // not written yet, in order
	ended  bool       // there will be no more parts
	parked *walkTask  // waits until parts are written
	by     *worker    // who holds mu: pages are stored with its tools
	pages  *snapshot.DirWriter
}

// path returns the path of d, "" for the root. No directory keeps its own: those of a deep tree would need memory by the square of its depth.
func (w *worker) path(d *dir) string {
	if w.pathOf == d {
		return w.pathText
	}
	b := make([]byte, d.length)
	for at, end := d, d.length; at.up != nil; at = at.up.d {
		end -= len(at.name)
		copy(b[end:], at.name)
		end--
		b[end] = '/'
	}
	w.pathOf, w.pathText = d, string(b)
	return w.pathText
}

// partSize is how many entries of a directory are walked together: enough to be worth a task, few enough that a huge directory keeps
// all workers busy.
const partSize = 512

// maxParts is how many parts of one directory may wait for an earlier one, which has a huge file perhaps, before its walk pauses.
const maxParts = 16

// part is some entries of a directory.
type part struct {
	d       *dir
	nodes   []snapshot.Node // by name; one without a name is left out
	pending atomic.Int32    // what is not finished: the walk itself, child directories, large files
	done    bool            // guarded by d.mu
}

// newPart returns a part of n entries, of which the walk is pending.
func (w *worker) newPart(d *dir, n int) *part {
	p := &part{d: d}
	if k := len(w.free) - 1; n == partSize && k >= 0 {
		p.nodes, w.free = w.free[k], w.free[:k]
	} else {
		p.nodes = make([]snapshot.Node, n)
	}
	p.pending.Store(1)
	d.parts = append(d.parts, p)
	return p
}

// handle is an open directory that several tasks use. The last one closes it.
type handle struct {
	*localfs.Dir
	refs atomic.Int32
}

func (h *handle) take() *handle {
	h.refs.Add(1)
	return h
}

func (h *handle) drop() {
	if h != nil && h.refs.Add(-1) == 0 {
		h.Close()
	}
}

// child returns the directory whose node is p.nodes[i], which is pending from now on.
func (w *worker) child(p *part, i int, dev uint64, prev *snapshot.Node) *dir {
	p.pending.Add(1)
	c := &dir{up: p, slot: i, name: p.nodes[i].Name, depth: p.d.depth + 1, dev: dev}
	c.length = p.d.length + 1 + len(c.name)
	if prev != nil && prev.Type == snapshot.Dir {
		c.prev = prev.Subtree
	}
	return c
}

// listTask opens a directory and lists it.
type listTask struct {
	d    *dir
	from *handle // the parent's; nil for a source, or a directory above one
	name string
}

func (t *listTask) drop() { t.from.drop() }

func (t *listTask) do(w *worker) error {
	d := t.d
	err := t.open()
	t.from.drop()
	defer d.h.drop()
	if d.plan != nil && !d.plan.source {
		w.report(d, nil)
		return w.planned(d) // also if it cannot be opened
	}
	if err == nil {
		err = w.list(d)
	}
	if w.ctx.Err() != nil {
		return w.ctx.Err()
	}
	w.report(d, err) // what cannot be listed is in the snapshot as an empty directory
	if err == nil && d.plan != nil {
		w.e.sources.Add(1)
	}
	return w.walk(d)
}

func (t *listTask) open() error {
	d := t.d
	var h *localfs.Dir
	var err error
	switch {
	case t.from != nil:
		h, err = t.from.Open(t.name)
	case d.volumes():
		return nil
	default:
		h, err = localfs.OpenDir(d.plan.path)
	}
	if err != nil {
		return err
	}
	d.h = (&handle{Dir: h}).take()
	return nil
}

// list reads the names of a directory that is to be entered.
func (w *worker) list(d *dir) error {
	var n snapshot.Node
	st, err := d.h.Stat("", &n)
	if err != nil {
		return err
	}
	if source := d.plan != nil; (source || st.Dev != d.up.d.dev) && d.h.Synthetic() {
		if source {
			return errSynthetic
		}
		return nil
	}
	d.dev = st.Dev
	if w.e.avoid[fileID{st.Dev, n.Inode}] || n.Inode == 0 && slices.Contains(w.e.o.Avoid, w.path(d)) {
		return nil
	}
	d.names, err = d.h.Names(w.ctx)
	if w.e.o.ExcludeCaches && isCache(d) {
		d.names = []string{cacheTag}
	}
	return err
}

var errSynthetic = errors.New("the kernel makes up what is there: nothing of it can be saved")

// The tag of a cache directory (bford.info/cachedir): a file of this name that begins with this signature.
const (
	cacheTag       = "CACHEDIR.TAG"
	cacheSignature = "Signature: 8a477f597d28d172789f06886806bc55"
)

func isCache(d *dir) bool {
	if _, ok := slices.BinarySearch(d.names, cacheTag); !ok {
		return false
	}
	f, err := d.h.OpenFile(cacheTag)
	if err != nil {
		return false
	}
	defer f.Close()
	var b [len(cacheSignature)]byte
	n, _ := io.ReadFull(f, b[:])
	return bytes.Equal(b[:n], []byte(cacheSignature))
}

// oldDir is a directory as the parent has it, read along with the walk: both are sorted.
type oldDir struct {
	r     *snapshot.DirReader
	n     *snapshot.Node
	ended bool
}

// before returns what the parent has under name, nil if nothing or if that cannot be read: then the file is read again. Names ascend from call to call.
func (w *worker) before(d *dir, name string) (*snapshot.Node, error) {
	if d.old == nil {
		d.old = &oldDir{ended: d.prev.IsZero() || w.e.parent == nil}
		if !d.old.ended {
			d.old.r = snapshot.OpenDir(w.ctx, w.e.parent, d.prev)
		}
	}
	o := d.old
	for !o.ended && (o.n == nil || o.n.Name < name) {
		n, err := o.r.Next()
		switch {
		case err == io.EOF:
			o.ended, o.n = true, nil
		case w.ctx.Err() != nil:
			return nil, w.ctx.Err()
		case err == nil:
			o.n = n
		}
		// Any other error is one page: the reader goes on behind it.
	}
	if o.n != nil && o.n.Name == name {
		return o.n, nil
	}
	return nil, nil
}

// walkTask goes on with a directory.
type walkTask struct{ d *dir }

func (t *walkTask) drop() { t.d.h.drop() }

func (t *walkTask) do(w *worker) error {
	d := t.d
	d.mu.Lock()
	if len(d.parts) >= maxParts {
		d.parked = t
		w.e.queue.park(t)
		d.mu.Unlock()
		return nil
	}
	d.mu.Unlock()
	defer d.h.drop()
	return w.walk(d)
}

// walk backs up the next entries of a directory. Before it works on them it lets others walk on.
func (w *worker) walk(d *dir) error {
	if w.ctx.Err() != nil {
		return w.ctx.Err()
	}
	names := d.names[:min(len(d.names), partSize)]
	d.names = d.names[len(names):]
	prev := w.prev[:len(names)]
	defer clear(prev)
	for i, name := range names {
		var err error
		if prev[i], err = w.before(d, name); err != nil {
			return err
		}
	}
	d.mu.Lock()
	p := w.newPart(d, len(names))
	d.ended = len(d.names) == 0
	more := !d.ended
	d.mu.Unlock()
	if more {
		d.h.take()
		w.e.queue.push(&walkTask{d})
	}
	for i, name := range names {
		if err := w.entry(p, i, name, prev[i]); err != nil {
			w.launch() // so that the queue drops them
			return err
		}
	}
	w.launch()
	return w.partDone(p)
}

// launch pushes what the walk of a part found to do, and tells progress of the files that were not read.
func (w *worker) launch() {
	if w.seen.files > 0 {
		w.e.o.Progress.Done(w.seen.files, w.seen.bytes, w.seen.bytes)
		w.seen = unmodified{}
	}
	if len(w.next) > 0 {
		slices.Reverse(w.next) // the first is done first
		w.e.queue.push(w.next...)
		clear(w.next)
		w.next = w.next[:0]
	}
}

// partDone notes that something of a part is finished. The last of the last part finishes the directory, and perhaps that completes
// those above it.
func (w *worker) partDone(p *part) error {
	for p.pending.Add(-1) == 0 {
		d := p.d
		root, finished, err := w.write(d, p)
		if err != nil || !finished {
			return err
		}
		if d.up == nil {
			w.e.root = root
			w.e.queue.finish()
			return nil
		}
		p = d.up
		p.nodes[d.slot].Subtree = root
	}
	return nil
}

// write encodes the parts of d that are done and have no earlier ones waiting, and lets them go. After the last one it returns d's root page.
func (w *worker) write(d *dir, done *part) (root crypt.ID, finished bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.by = w
	done.done = true
	if d.pages == nil {
		d.pages = snapshot.NewDirWriter(func(plain []byte) (crypt.ID, error) { return d.by.putTree(plain) })
	}
	for len(d.parts) > 0 && d.parts[0].done {
		p := shift(&d.parts)
		if err := w.writePart(d, p); err != nil {
			return root, false, err
		}
	}
	if d.parked != nil && len(d.parts) < maxParts {
		w.e.queue.unpark(d.parked)
		d.parked = nil
	}
	if !d.ended || len(d.parts) > 0 {
		return root, false, nil
	}
	if w.e.o.DryRun {
		return root, true, nil
	}
	root, _, err = d.pages.Finish()
	return root, err == nil, err
}

func (w *worker) writePart(d *dir, p *part) error {
	for i := range p.nodes {
		n := &p.nodes[i]
		if n.Name == "" {
			continue
		}
		switch n.Type {
		case snapshot.Dir:
			w.stats.Dirs++
		case snapshot.File:
			w.stats.Files++
			w.stats.BytesTotal += n.Size
		default:
			w.stats.Others++
		}
		if d.plan != nil && n.Type != snapshot.Dir && !d.plan.source {
			w.e.sources.Add(1) // a single file
		}
		if w.e.o.DryRun {
			continue
		}
		if err := d.pages.Add(n); err != nil {
			return err
		}
	}
	if cap(p.nodes) == partSize && len(w.free) < 4 {
		clear(p.nodes)
		w.free = append(w.free, p.nodes[:partSize])
	}
	p.nodes = nil
	return nil
}
