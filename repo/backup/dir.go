package backup

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"packhold/crypt"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// dir is a directory being backed up.
type dir struct {
	up   *dir // nil for the root
	slot int  // in up.nodes
	path string
	h    *handle // nil until it is open
	dev  uint64
	only []*plan  // the entries to take, for a directory above the sources; nil: all
	prev crypt.ID // root page of the same directory in the parent; zero: none

	names   []string
	nodes   []snapshot.Node // by name; one without a name is left out
	pending atomic.Int32    // parts not finished: slices, child directories, large files
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

// plan is the part of the tree above the sources.
type plan struct {
	name     string
	path     string // as the system takes it
	source   bool
	children []*plan
}

// makePlan arranges the sources under one root. On Windows the volumes are its children.
func makePlan(sources []string) *plan {
	root := &plan{path: "/"}
	for _, s := range sources {
		at, sys := root, "/"
		volume := filepath.VolumeName(s)
		parts := strings.Split(strings.Trim(filepath.ToSlash(s[len(volume):]), "/"), "/")
		if volume != "" {
			parts = append([]string{volume}, parts...)
			sys = ""
		}
		for _, p := range parts {
			if p == "" {
				continue
			}
			name := strings.TrimSuffix(p, ":") // a volume "C:" is stored as "C"
			sys = filepath.Join(sys, p)
			if p == volume {
				sys = p + string(filepath.Separator)
			}
			i := slices.IndexFunc(at.children, func(c *plan) bool { return c.name == name })
			if i < 0 {
				at.children = append(at.children, &plan{name: name, path: sys})
				i = len(at.children) - 1
			}
			at = at.children[i]
		}
		at.source = true
	}
	root.sort()
	return root
}

func (p *plan) sort() {
	slices.SortFunc(p.children, func(a, b *plan) int { return strings.Compare(a.name, b.name) })
	for _, c := range p.children {
		c.sort()
	}
}

// pushRoot starts the walk.
func (e *engine) pushRoot() {
	p := makePlan(e.o.Sources)
	d := &dir{path: "", only: p.children}
	if e.parent != nil {
		d.prev = e.res.Parent.Root
	}
	if p.source {
		d.only = nil
	}
	e.queue.push(&listTask{d: d, sys: p.path})
}

// listTask opens a directory and lists it.
type listTask struct {
	d    *dir
	from *handle // the parent's; nil where sys names the directory
	name string
	sys  string
}

func (t *listTask) do(w *worker) error {
	d, e := t.d, w.e
	var h *localfs.Dir
	var err error
	if t.from != nil {
		h, err = t.from.Open(t.name)
		t.from.drop()
	} else if d.only == nil || runtime.GOOS != "windows" || d.up != nil {
		h, err = localfs.OpenDir(t.sys)
	}
	if h != nil {
		d.h = &handle{Dir: h}
		d.h.take()
	}
	if err == nil && h != nil {
		var n snapshot.Node
		var st localfs.Stat
		if st, err = h.Stat("", &n); err == nil {
			d.dev = st.Dev
			if d.up == nil {
				e.devices.number(st.Dev, nil)
			}
		}
	}
	if err != nil {
		// What cannot be opened is in the snapshot as an empty directory, and in the list of skipped items.
		e.skip(sourceErr(display(d.path), err))
		d.h.drop()
		return w.finishDir(d)
	}
	defer d.h.drop()
	if d.only != nil {
		return w.planned(d)
	}
	if d.up == nil {
		e.sources.Add(1)
	}
	if d.names, err = d.h.Names(w.ctx); err != nil {
		if w.ctx.Err() != nil {
			return w.ctx.Err()
		}
		e.skip(sourceErr(display(d.path), err))
	}
	if e.o.ExcludeCaches && isCache(d) {
		d.names = []string{cacheTag}
	}
	d.nodes = make([]snapshot.Node, len(d.names))
	prev, err := w.previous(d)
	if err != nil {
		return err
	}
	if len(d.names) == 0 {
		return w.finishDir(d)
	}
	slices := (len(d.names) + sliceSize - 1) / sliceSize
	d.pending.Store(int32(slices))
	if slices == 1 {
		d.h.take()
		return (&sliceTask{d: d, prev: prev, to: len(d.names)}).do(w)
	}
	for i := range slices {
		d.h.take()
		e.queue.push(&sliceTask{d: d, prev: prev, from: i * sliceSize, to: min((i+1)*sliceSize, len(d.names))})
	}
	return nil
}

// display is a path as people know it; that of the root is "/".
func display(p string) string {
	if p == "" {
		return "/"
	}
	return p
}

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

// previous reads the directory as the parent has it. What cannot be read is as if it were not there: its files are read again.
func (w *worker) previous(d *dir) ([]*snapshot.Node, error) {
	if d.prev.IsZero() || w.e.parent == nil {
		return nil, nil
	}
	var out []*snapshot.Node
	r := snapshot.OpenDir(w.ctx, w.e.parent, d.prev)
	for {
		n, err := r.Next()
		switch {
		case err == io.EOF:
			return out, nil
		case w.ctx.Err() != nil:
			return nil, w.ctx.Err()
		case err != nil:
			return out, nil
		}
		out = append(out, n)
	}
}

// sliceSize is how many entries of a directory one task takes: enough to be worth a task, few enough that a
// huge directory keeps all workers busy.
const sliceSize = 512

// sliceTask backs up some entries of a directory.
type sliceTask struct {
	d        *dir
	prev     []*snapshot.Node // of the whole directory, by name
	from, to int
}

func (t *sliceTask) do(w *worker) error {
	d := t.d
	defer d.h.drop()
	// Both lists are sorted: one walk over them finds every entry's predecessor.
	j, _ := slices.BinarySearchFunc(t.prev, d.names[t.from], func(n *snapshot.Node, name string) int { return strings.Compare(n.Name, name) })
	for i := t.from; i < t.to; i++ {
		name := d.names[i]
		for j < len(t.prev) && t.prev[j].Name < name {
			j++
		}
		var prev *snapshot.Node
		if j < len(t.prev) && t.prev[j].Name == name {
			prev = t.prev[j]
		}
		if i%64 == 0 && w.ctx.Err() != nil {
			return w.ctx.Err()
		}
		if err := w.entry(d, i, name, prev); err != nil {
			return err
		}
	}
	return w.partDone(d)
}

// entry backs up one entry of a directory into d.nodes[i]. A problem of the source is noted and leaves the entry out.
func (w *worker) entry(d *dir, i int, name string, prev *snapshot.Node) error {
	n := &d.nodes[i]
	st, err := d.h.Stat(name, n)
	if err != nil {
		*n = snapshot.Node{}
		w.e.skip(&SourceError{Path: d.path + "/" + name, Err: vanished(err)})
		return nil
	}
	n.Device = w.e.devices.number(st.Dev, prev)
	w.optional(n, st)
	if x := w.e.o.Exclude; x != nil && x.Match(d.path+"/"+name, n.Type == snapshot.Dir) {
		*n = snapshot.Node{}
		return nil
	}
	switch n.Type {
	case snapshot.Dir:
		return w.directory(d, i, st, prev)
	case snapshot.File:
		return w.file(d, i, st, prev)
	}
	w.e.stats.others.Add(1)
	return w.details(d, n, prev)
}

// optional completes what the system said of an entry.
func (w *worker) optional(n *snapshot.Node, st localfs.Stat) {
	if n.Type == snapshot.Dir {
		n.Links = 0 // they count children: no hard links
	}
	if w.e.o.ATime {
		n.ATime = st.ATime
	}
	w.e.owners.Fill(n)
}

// vanished gives the usual reason its plain name.
func vanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("vanished before it was read")
	}
	return err
}

// details reads link target, attributes and flags, unless the parent has them: whatever changes them changes the ctime.
func (w *worker) details(d *dir, n *snapshot.Node, prev *snapshot.Node) error {
	if w.e.unchanged(prev, n) && (prev.XAttrBlob.IsZero() || w.has(prev.XAttrBlob)) {
		n.Target, n.XAttrs, n.XAttrBlob, n.Flags = prev.Target, prev.XAttrs, prev.XAttrBlob, prev.Flags
		return nil
	}
	if err := d.h.Details(n.Name, n, localfs.DetailOptions{}); err != nil {
		path := d.path + "/" + n.Name
		if fatal := !isPartial(err); fatal {
			*n = snapshot.Node{}
		}
		w.e.skip(&SourceError{Path: path, Err: vanished(err)})
	}
	return w.externXAttrs(n)
}

func isPartial(err error) bool {
	var p *localfs.PartialError
	return errors.As(err, &p)
}

// externXAttrs moves attributes that are too large for a node into a blob.
func (w *worker) externXAttrs(n *snapshot.Node) error {
	size := 0
	for _, x := range n.XAttrs {
		size += len(x.Name) + len(x.Value)
	}
	if size <= snapshot.MaxXAttrInline {
		return nil
	}
	b, err := snapshot.EncodeXAttrs(n.XAttrs)
	if err != nil {
		return err
	}
	n.XAttrs = nil
	n.XAttrBlob, err = w.putTree(b)
	return err
}

// unchanged reports whether n is what the parent saw: equal in everything that a change of content or metadata changes, and older than
// the parent's start by more than the racy window.
func (e *engine) unchanged(prev, n *snapshot.Node) bool {
	return prev != nil && e.o.Type != snapshot.Full && prev.Type == n.Type && prev.Size == n.Size && prev.MTime == n.MTime &&
		prev.CTime == n.CTime && prev.Inode == n.Inode && before(n.MTime, e.racy) && before(n.CTime, e.racy)
}

func before(a, b snapshot.Time) bool {
	return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec
}

func (w *worker) has(id crypt.ID) bool {
	if w.e.session == nil {
		return w.e.repo.Index().Has(id)
	}
	return w.e.session.Has(id)
}

// directory backs up a child directory of d.
func (w *worker) directory(d *dir, i int, st localfs.Stat, prev *snapshot.Node) error {
	n := &d.nodes[i]
	if err := w.details(d, n, prev); err != nil {
		return err
	}
	if n.Name == "" {
		return nil
	}
	child := &dir{up: d, slot: i, path: d.path + "/" + n.Name, dev: st.Dev}
	if prev != nil && prev.Type == snapshot.Dir {
		child.prev = prev.Subtree
	}
	if w.e.o.OneFileSystem && st.Dev != d.dev || slices.Contains(w.e.o.Avoid, child.path) {
		d.pending.Add(1)
		return w.finishDir(child)
	}
	d.pending.Add(1)
	w.e.queue.push(&listTask{d: child, from: d.h.take(), name: n.Name})
	return nil
}

// planned backs up a directory above the sources: only what leads to them.
func (w *worker) planned(d *dir) error {
	prev, err := w.previous(d)
	if err != nil {
		return err
	}
	d.nodes = make([]snapshot.Node, len(d.only))
	d.pending.Store(1)
	for i, p := range d.only {
		var old *snapshot.Node
		if j := slices.IndexFunc(prev, func(n *snapshot.Node) bool { return n.Name == p.name }); j >= 0 {
			old = prev[j]
		}
		if err := w.plannedEntry(d, i, p, old); err != nil {
			return err
		}
	}
	return w.partDone(d)
}

// plannedEntry backs up a source, or a directory above one. It may be a symbolic link to a directory: this is the one place where links are followed.
func (w *worker) plannedEntry(d *dir, i int, p *plan, prev *snapshot.Node) error {
	n := &d.nodes[i]
	h, err := localfs.OpenDir(p.path)
	if err != nil {
		if p.source && d.h != nil { // not a directory: a single file
			if _, serr := d.h.Stat(p.name, n); serr == nil && n.Type != snapshot.Dir {
				w.e.sources.Add(1)
				return w.entry(d, i, p.name, prev)
			}
		}
		*n = snapshot.Node{}
		w.e.skip(&SourceError{Path: p.path, Err: err})
		return nil
	}
	defer h.Close()
	st, err := h.Stat("", n)
	if err == nil {
		err = h.Details("", n, localfs.DetailOptions{})
	}
	if err != nil && !isPartial(err) {
		*n = snapshot.Node{}
		w.e.skip(&SourceError{Path: p.path, Err: err})
		return nil
	}
	n.Name = p.name
	n.Device = w.e.devices.number(st.Dev, prev)
	w.optional(n, st)
	if err := w.externXAttrs(n); err != nil {
		return err
	}
	child := &dir{up: d, slot: i, path: d.path + "/" + p.name, dev: st.Dev}
	if prev != nil && prev.Type == snapshot.Dir {
		child.prev = prev.Subtree
	}
	if p.source {
		w.e.sources.Add(1)
	} else {
		child.only = p.children
	}
	d.pending.Add(1)
	w.e.queue.push(&listTask{d: child, sys: p.path})
	return nil
}

// partDone notes that a part of d is finished; the last one finishes d.
func (w *worker) partDone(d *dir) error {
	if d.pending.Add(-1) == 0 {
		return w.finishDir(d)
	}
	return nil
}

// finishDir stores the pages of d, whose entries are complete, and those of every directory above that this completes.
func (w *worker) finishDir(d *dir) error {
	for {
		dw := snapshot.NewDirWriter(w.putTree)
		for i := range d.nodes {
			if d.nodes[i].Name == "" {
				continue
			}
			if err := dw.Add(&d.nodes[i]); err != nil {
				return err
			}
		}
		root, _, err := dw.Finish()
		if err != nil {
			return err
		}
		w.e.stats.dirs.Add(1)
		d.nodes, d.names = nil, nil
		up := d.up
		if up == nil {
			w.e.root = root
			w.e.queue.finish()
			return nil
		}
		up.nodes[d.slot].Subtree = root
		if up.pending.Add(-1) != 0 {
			return nil
		}
		d = up
	}
}
