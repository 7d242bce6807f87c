package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/localfs"
	"packhold/repo/restore/fetch"
	"packhold/repo/snapshot"
)

// The bounds of a window: what one costs is about 600 bytes for an entry, with its node, and 80 for a reference. 8,192 files under 4 KiB are
// 10 to 15 MiB of packs; 65,536 blobs of 0.7 MiB are 45 GiB.
const (
	maxItems = 8192
	maxRefs  = 65536
)

// The bounds of a job. A gap costs less than another request, up to this size; ranges are long enough for far storages and short enough that workers
// end a window together.
const (
	maxGap     = 64 << 10
	maxRange   = 4 << 20
	maxJobRefs = 1024
	itemsPer   = 256
)

// window is a part of the tree that is restored in the order of the packs.
type window struct {
	items []*item // that need no blob
	files int     // the others
	refs  []ref
	packs []*index.PackInfo
	last  int32 // the pack of the last reference
	of    map[*index.PackInfo]int32
	left  atomic.Int32 // jobs not finished
}

func newWindow() *window {
	return &window{of: make(map[*index.PackInfo]int32)}
}

func (w *window) pack(p *index.PackInfo) int32 {
	if len(w.packs) > 0 && w.packs[w.last] == p {
		return w.last
	}
	i, ok := w.of[p]
	if !ok {
		i = int32(len(w.packs))
		w.packs = append(w.packs, p)
		w.of[p] = i
	}
	w.last = i
	return i
}

// group is a file with several names. The first one gets the content, the others become links to it.
type group struct {
	dir   *dir
	name  string
	names uint32         // not met yet
	node  *snapshot.Node // for flags that forbid links, else nil
	seq   uint64
	state atomic.Int32 // 0, groupDone or groupFailed
	fail  *failure     // beside groupFailed
}

const (
	groupDone   = 1
	groupFailed = 2
)

func (g *group) end(f *failure) {
	if f != nil {
		g.fail = f
		g.state.Store(groupFailed)
		return
	}
	g.state.Store(groupDone)
}

type groupKey struct {
	device uint32
	inode  uint64
	kind   snapshot.Type
}

// link is a further name, waiting for the first.
type link struct {
	dir    *dir
	node   *snapshot.Node
	seq    uint64
	group  *group
	absent bool // see item
}

// planner walks the tree. It is one goroutine, and has a worker's readers for the directories that it finishes.
type planner struct {
	ctx    context.Context
	e      *engine
	w      *worker
	pages  *fetch.Pages
	stack  []*dir // by depth
	win    *window
	groups map[groupKey]*group
	links  []link
	locked []*group // flags to set when all links are made
	clone  bool     // nodes are few of many: do not keep their pages
}

func newPlanner(ctx context.Context, e *engine, w *worker, pages *fetch.Pages) *planner {
	return &planner{ctx: ctx, e: e, w: w, pages: pages, win: newWindow(), groups: make(map[groupKey]*group),
		clone: e.o.Include != nil || e.o.Exclude != nil}
}

func (p *planner) run(at *os.Root) error {
	e := p.e
	if p.pages.Again != nil {
		p.pages.Again = p.reload
	}
	root := &dir{root: at, path: "/", made: true, fresh: e.made, node: e.tree.self, in: e.tree.picked}
	if e.tree.prefix != "" {
		root.path = e.tree.prefix
	}
	root.todo.Store(1)
	if err := p.openRoot(root); err != nil {
		return err
	}
	p.stack = []*dir{root}
	if err := e.each(p.ctx, p.pages, p.entry, p.badEntry); err != nil {
		return err
	}
	if err := p.pop(1); err != nil {
		return err
	}
	if err := p.settleAll(); err != nil {
		return err
	}
	p.lock()
	e.n.fetched.Add(p.pages.Fetched)
	return p.pop(0)
}

// openRoot prepares the destination itself.
func (p *planner) openRoot(root *dir) error {
	e := p.e
	if root.fresh {
		return nil
	}
	var have snapshot.Node
	if err := e.pool.Take(root); err != nil {
		return err
	}
	defer e.pool.Give(root)
	src, err := root.h.Source()
	if err != nil {
		return err
	}
	defer src.Close()
	if _, err := src.Stat("", &have); err != nil {
		return err
	}
	if !e.tree.picked || !e.replaces(&have, root.node) {
		root.node = nil
	}
	p.enter(root, &have)
	return nil
}

// enter prepares an existing directory, which is open.
func (p *planner) enter(d *dir, have *snapshot.Node) {
	if !p.e.o.DryRun {
		p.unlock(d, have)
	}
	src, err := d.h.Source()
	if err != nil {
		return // then every entry is looked for by itself, and nothing is removed
	}
	defer src.Close()
	names, err := src.Names(p.ctx)
	if err != nil {
		return
	}
	d.had = &listing{names: names}
	for _, n := range names {
		if strings.HasPrefix(n, tempMark) {
			d.had.left = append(d.had.left, n)
		}
	}
}

// pop finishes the directories of the walk from a depth on.
func (p *planner) pop(depth int) error {
	for len(p.stack) > depth {
		d := p.stack[len(p.stack)-1]
		p.stack = p.stack[:len(p.stack)-1]
		if err := p.sweep(d); err != nil {
			return err
		}
		if err := p.w.left(p.ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// badEntry files what the walk could not read. Bytes that are true to their hash and still malformed were made so by someone who may write:
// that is no damage.
func (p *planner) badEntry(path string, seq uint64, err error) error {
	for _, d := range p.stack {
		// The error is about a directory that is being read, or the last one, which cannot be entered.
		d.broken = d.broken || d == p.stack[len(p.stack)-1] || d.path == path
	}
	if errors.Is(err, snapshot.ErrMalformed) {
		p.e.local(path, seq, noNode, fmt.Errorf("%w: %w", ErrUnsafe, err))
		return nil
	}
	p.e.lost(Lost{Path: path, Err: err}, seq)
	return nil
}

// entry plans one entry of the walk.
func (p *planner) entry(x picked) error {
	if err := p.pop(x.Depth); err != nil {
		return err
	}
	up, n := p.stack[x.Depth-1], x.Node
	if n.Type == snapshot.Dir {
		d := &dir{up: up, name: strings.Clone(n.Name), path: x.path, seq: x.seq, node: n.Clone(), in: x.in}
		d.todo.Store(1)
		up.todo.Add(1)
		if x.in {
			p.makeDir(d, true)
			up.pass(n.Name, p.e.o.Delete)
		}
		if d.bad {
			p.e.mark(d.seq)
		}
		p.stack = append(p.stack, d)
		return nil
	}
	if p.makeDir(up, false); up.bad {
		// That is reported of the directory; but what found no space is counted.
		if p.e.mark(x.seq); p.e.full.Load() {
			p.e.local(x.path, x.seq, n, ErrFull)
		}
		return nil
	}
	up.pass(n.Name, p.e.o.Delete)
	if p.clone {
		n = n.Clone()
	}
	return p.item(up, n, x.seq)
}

// makeDir makes sure that d exists in the destination, and those above it. With picked its metadata is set at the end even if it existed.
func (p *planner) makeDir(d *dir, picked bool) {
	if d.made || d.bad {
		return
	}
	if p.makeDir(d.up, false); d.up.bad {
		d.bad = true
		return
	}
	have, err := p.openOrMake(d)
	if err != nil {
		d.bad = true
		p.e.local(d.path, d.seq, d.node, err)
		return
	}
	d.made = true
	p.e.n.dirs.Add(1)
	if d.fresh {
		return
	}
	if !picked || !p.e.replaces(have, d.node) {
		d.node = nil
		p.e.mark(d.seq)
	}
	if err := p.e.pool.Take(d); err == nil {
		p.enter(d, have)
		p.e.pool.Give(d)
	}
}

// find looks for what has the name of an entry of d.
func (p *planner) find(d *dir, name string, n *snapshot.Node) (st localfs.Stat, found bool, err error) {
	if d.fresh {
		return st, false, nil
	}
	st, found, err = p.e.stat(d, name, n)
	if found && d.had != nil && !d.had.has(name) {
		// It is called otherwise, or was made since: by this run, if the file system takes two names for one.
		d.broken = true // and what it is called is not too many
		return st, true, errCollide
	}
	return st, found, err
}

// openOrMake returns the node of an existing directory, or makes it.
func (p *planner) openOrMake(d *dir) (*snapshot.Node, error) {
	e, up := p.e, d.up
	var have snapshot.Node
	st, found, err := p.find(up, d.name, &have)
	switch {
	case err != nil:
		return nil, err
	case found && have.Type == snapshot.Dir && e.deny[fileID{st.Dev, have.Inode}]:
		return nil, ErrForbidden
	case found && have.Type == snapshot.Dir:
		return &have, nil
	case found && !e.replaces(&have, d.node):
		return nil, errExists
	case e.o.DryRun:
		d.fresh = true
		return nil, nil
	}
	if err := e.pool.Take(up); err != nil {
		return nil, err
	}
	defer e.pool.Give(up)
	if found {
		if err := up.h.Remove(d.name); err != nil {
			return nil, err
		}
	}
	err = up.h.MkDir(d.name, 0o700)
	if err == nil {
		d.fresh = true
		return nil, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if _, serr := up.h.Lstat(d.name, &have); serr == nil && have.Type == snapshot.Symlink {
		return nil, fmt.Errorf("%w: %w", ErrUnsafe, err)
	}
	return nil, errCollide
}

// unlock lets this run work in an existing directory that its owner may not write to. d is open.
func (p *planner) unlock(d *dir, have *snapshot.Node) {
	if have.Mode&0o700 == 0o700 {
		return
	}
	src, err := d.h.Source()
	if err == nil {
		err = src.Details("", have, localfs.DetailOptions{NoFlags: true})
		src.Close()
	}
	if err != nil {
		return // then what is tried inside says why
	}
	if d.node == nil {
		d.node = have.Clone() // as it was
	}
	open := *have
	open.Mode |= 0o700
	_ = d.h.Apply("", &open, localfs.ApplyOptions{NoOwner: true}) // as above
}

// replaces reports whether what exists makes room, or gets new metadata.
func (e *engine) replaces(have, n *snapshot.Node) bool {
	switch e.o.Overwrite {
	case Never:
		return false
	case IfNewer:
		return n != nil && older(have.MTime, n.MTime)
	}
	return true
}

func older(a, b snapshot.Time) bool { return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec }

// item plans an entry that is not a directory.
func (p *planner) item(d *dir, n *snapshot.Node, seq uint64) error {
	e := p.e
	it := &item{dir: d, node: n, seq: seq}
	var have snapshot.Node
	_, found, err := p.find(d, n.Name, &have)
	file := found && n.Type == snapshot.File && have.Type == n.Type
	same := file && have.Size == n.Size && have.MTime == n.MTime
	switch {
	case err != nil:
		e.local(join(d.path, n.Name), seq, n, err)
		return nil
	case !found:
		it.absent = true
	case !e.replaces(&have, n):
		e.kept(seq)
		return nil
	case e.o.Overwrite == IfChanged && same:
		it.how = metadata
	}
	d.todo.Add(1)
	if n.Links > 1 && it.how != metadata {
		key := groupKey{n.Device, n.Inode, n.Type}
		if g := p.groups[key]; g != nil {
			if g.names--; g.names == 0 {
				delete(p.groups, key)
			}
			p.links = append(p.links, link{d, n, seq, g, it.absent})
			if len(p.links)%e.o.items == 0 {
				return p.settleNow()
			}
			return nil
		}
		g := &group{dir: d, name: strings.Clone(n.Name), names: n.Links - 1, seq: seq}
		it.group = g
		p.groups[key] = g
		if n.Flags != 0 {
			g.node = n.Clone()
			p.locked = append(p.locked, g)
		}
	}
	if file && it.how != metadata {
		p.reuse(it, &have, same)
	}
	return p.add(it)
}

// reuse decides whether the existing file is changed in place, or compared. Where that is not possible it is replaced.
func (p *planner) reuse(it *item, have *snapshot.Node, same bool) {
	uid, _ := p.e.owner(it.node)
	// In place, whoever owns the file has it: nobody but its future owner or this user may. And it may have no other name.
	mine := p.e.o.Apply.NoOwner || runtime.GOOS == "windows" || have.UID == uid || have.UID == uint32(os.Geteuid())
	place := p.e.o.InPlace && mine && have.Links <= 1
	it.check = !place && same && p.e.o.Overwrite == Always
	if !place && !it.check {
		return
	}
	it.base, it.place, it.temp = true, true, it.node.Name
	if err := p.e.pool.Take(it); err != nil {
		it.base, it.place, it.check = false, false, false
		return
	}
	p.e.pool.Give(it)
}

// adopt looks for a leftover of the file.
func (p *planner) adopt(it *item) {
	l := it.dir.had
	if l == nil || len(l.left) == 0 {
		return
	}
	end := digestOf(it.node.Name)
	for i, name := range l.left {
		if !strings.HasSuffix(name, end) {
			continue
		}
		it.base, it.temp = true, name
		if p.e.pool.Take(it) == nil {
			p.e.pool.Give(it)
			l.left = slices.Delete(l.left, i, i+1)
			p.e.n.left.Add(1)
			return
		}
	}
	it.base = false
}

func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// add puts an item into the window. Its directory counts it already.
func (p *planner) add(it *item) error {
	if len(p.win.items)+p.win.files == p.e.o.items {
		if err := p.flush(); err != nil {
			return err
		}
	}
	w, x := p.win, it.node.Extents
	empty := len(x) == 0 && len(it.node.ExtentBlobs) == 0
	switch {
	case it.how == metadata || it.node.Type != snapshot.File || empty && !it.base:
		w.items = append(w.items, it)
		return nil
	case len(x) == 1 && x[0].Kind == snapshot.Data && len(it.node.ExtentBlobs) == 0 && !it.base && (!p.e.o.Sparse || it.node.Size < localfs.ZeroBlock):
		w.files++
		it.todo.Store(1)
		return p.want(it, x[0], 0)
	}
	w.files++
	it.how = pieces
	if !it.base && !p.e.o.DryRun {
		p.adopt(it)
	}
	if !it.base {
		it.temp = p.e.tempName() + digestOf(it.node.Name)
	}
	if !it.place && !p.e.o.DryRun {
		p.e.partial.Store(it, nil)
	}
	return p.content(it)
}

// content plans the bytes of a file.
func (p *planner) content(it *item) error {
	it.todo.Store(1)
	at := uint64(0)
	for x, err := range snapshot.EachExtent(p.ctx, p.pages, it.node) {
		if err != nil {
			if p.ctx.Err() != nil || !fetch.Damage(err) {
				return err
			}
			p.e.note(it, &failure{lost: true, ranges: []Range{{int64(at), int64(it.node.Size - at)}}, err: err})
			break
		}
		if x.Kind == snapshot.Data {
			it.todo.Add(1)
			if err := p.want(it, x, int64(at)); err != nil {
				return err
			}
		} else {
			it.gaps = it.gaps || it.base || x.Kind == snapshot.Zeros && !p.e.o.Sparse
		}
		at += x.Length
	}
	return p.w.drop(p.ctx, it)
}

// locate finds the best place of a blob that has the length which the tree says: whoever claims a blob that it never stored may say any.
func (p *planner) locate(id crypt.ID, raw uint32) (index.Place, error) {
	at, err := p.e.repo.Locate(id)
	if err != nil || at.Raw == raw {
		return at, err
	}
	for _, other := range p.e.repo.Index().Places(id) {
		if other.Raw == raw {
			return other, nil
		}
	}
	return at, fmt.Errorf("%w: blob %v has %d bytes, not the %d of its place", snapshot.ErrMalformed, id, raw, at.Raw)
}

// want plans one blob of a file.
func (p *planner) want(it *item, x snapshot.Extent, at int64) error {
	r := ref{id: x.ID, raw: uint32(x.Length), to: it, at: at}
	place, err := p.locate(x.ID, r.raw)
	if err != nil && errors.Is(err, repo.ErrDamaged) && !p.e.o.DryRun && p.e.later(r) {
		return nil
	}
	if err != nil {
		if !fetch.Damage(err) {
			return err
		}
		p.e.note(it, &failure{lost: true, ranges: []Range{{at, int64(x.Length)}}, err: err})
		return p.w.drop(p.ctx, it)
	}
	return p.place(r, place)
}

func (p *planner) place(r ref, at index.Place) error {
	if len(p.win.refs) == p.e.o.refs {
		if err := p.flush(); err != nil {
			return err
		}
	}
	w := p.win
	r.pack, r.offset, r.length, r.raw, r.how = w.pack(at.Pack), at.Offset, at.Length, at.Raw, at.Compression
	w.refs = append(w.refs, r)
	return nil
}

// flush hands the window to the workers and begins another one.
func (p *planner) flush() error {
	w, e := p.win, p.e
	if len(w.refs)+len(w.items) == 0 {
		return p.settle()
	}
	p.win = newWindow()
	jobs := w.jobs()
	e.n.packs.Add(uint64(len(w.packs)))
	w.left.Store(int32(len(jobs)))
	select {
	case e.windows <- struct{}{}:
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
	if e.o.Far && !e.o.DryRun && !slices.ContainsFunc(w.refs, func(r ref) bool { return r.to.base }) { // those may have their bytes
		var a *fetch.Ahead
		for i := range jobs {
			if j := &jobs[i]; j.n > 0 {
				a = a.Add(w.packs[w.refs[j.from].pack], j.off, j.n)
				j.ahead = a
			}
		}
	}
	var last *fetch.Ahead
	for _, j := range jobs {
		if j.ahead != nil && j.ahead != last {
			last = j.ahead
			select {
			case e.aheads <- last:
			case <-p.ctx.Done():
				return p.ctx.Err()
			}
		}
		select {
		case e.jobs <- j:
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
	return p.settle()
}

// jobs sorts the references and cuts them into ranges.
func (w *window) jobs() []job {
	slices.SortFunc(w.refs, func(a, b ref) int {
		if c := cmp.Compare(a.pack, b.pack); c != 0 {
			return c
		}
		return cmp.Compare(a.offset, b.offset)
	})
	jobs := w.cut(nil, 0, len(w.refs))
	for i := 0; i < len(w.items); i += itemsPer {
		jobs = append(jobs, job{w: w, from: int32(i), to: int32(min(i+itemsPer, len(w.items)))})
	}
	return jobs
}

// cut makes ranges of sorted references.
func (w *window) cut(jobs []job, i, to int) []job {
	for i < to {
		first := &w.refs[i]
		from, end := int64(first.offset), int64(first.offset)+int64(first.length)
		j := i + 1
		for ; j < to; j++ {
			r := &w.refs[j]
			rend := max(end, int64(r.offset)+int64(r.length))
			same := r.offset == w.refs[j-1].offset // the blob is open anyway
			if r.pack != first.pack || !same && (int64(r.offset)-end > maxGap || rend-from > maxRange || j-i >= maxJobRefs) {
				break
			}
			end = rend
		}
		jobs = append(jobs, job{w: w, from: int32(i), to: int32(j), off: from, n: end - from})
		i = j
	}
	return jobs
}

// drain waits until the workers have nothing to do.
func (p *planner) drain() error {
	for range cap(p.e.windows) {
		select {
		case p.e.windows <- struct{}{}:
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
	for range cap(p.e.windows) {
		<-p.e.windows
	}
	return nil
}

// reload reads the index again: a prune may have moved what we miss. Nobody may look anything up meanwhile.
func (p *planner) reload(ctx context.Context) error {
	if err := p.drain(); err != nil {
		return err
	}
	return p.e.repo.LoadIndex(ctx)
}

// settleNow makes the links that wait for nothing but their turn, so that they cannot pile up.
func (p *planner) settleNow() error {
	if err := p.flush(); err != nil {
		return err
	}
	if err := p.drain(); err != nil {
		return err
	}
	return p.settle()
}

// settleAll does what had to wait: links whose first name was not complete, and blobs whose pack was gone.
func (p *planner) settleAll() error {
	for again := true; ; {
		if err := p.settleNow(); err != nil {
			return err
		}
		p.e.mu.Lock()
		retry := p.e.retry
		p.e.retry = nil
		p.e.mu.Unlock()
		if again && len(retry) > 0 {
			again = false
			if err := p.reload(p.ctx); err != nil {
				return err
			}
			if err := p.second(retry); err != nil {
				return err
			}
			continue
		}
		p.e.mu.Lock()
		more := len(p.e.redo)
		p.e.mu.Unlock()
		if more+len(p.links)+len(p.win.refs)+len(p.win.items) == 0 {
			return nil
		}
	}
}

// second plans blobs once more.
func (p *planner) second(refs []ref) error {
	for _, r := range refs {
		r.again = true
		at, err := p.locate(r.id, r.raw)
		if err == nil {
			err = p.place(r, at)
		} else if fetch.Damage(err) {
			err = p.w.failed(p.ctx, &r, &failure{lost: true, ranges: []Range{{r.at, int64(r.raw)}}, err: err})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settle plans the files again that were compared and differ, and makes the links whose first name is complete. A link that the file system
// refuses becomes a file of its own.
func (p *planner) settle() error {
	for {
		p.e.mu.Lock()
		redo := p.e.redo
		p.e.redo = nil
		p.e.mu.Unlock()
		if len(redo) == 0 {
			break
		}
		for _, it := range redo {
			if err := p.add(it); err != nil {
				return err
			}
		}
	}
	waiting := p.links
	p.links = nil
	for _, l := range waiting {
		e := p.e
		path := join(l.dir.path, l.node.Name)
		switch l.group.state.Load() {
		case groupDone:
			var err error
			if !e.o.DryRun {
				err = p.link(l)
			}
			if errors.Is(err, errRefused) && !isUnsafe(err) {
				e.local(path, l.seq, nil, fmt.Errorf("a file of its own instead of a link to %q: %w", join(l.group.dir.path, l.group.name), err))
				if err := p.add(&item{dir: l.dir, node: l.node, seq: l.seq, absent: l.absent}); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				e.local(path, l.seq, l.node, err)
			} else {
				e.n.links.Add(1)
				e.o.Progress.Done(1, 0)
			}
		case groupFailed:
			if f := l.group.fail; f.lost {
				e.lost(Lost{Path: path, Ranges: f.ranges, Err: f.err}, l.seq)
			} else {
				// The reason may be the first name's own: this one gets a try.
				if err := p.add(&item{dir: l.dir, node: l.node, seq: l.seq, absent: l.absent}); err != nil {
					return err
				}
				continue
			}
		default:
			p.links = append(p.links, l)
			continue
		}
		if err := p.w.left(p.ctx, l.dir); err != nil {
			return err
		}
	}
	return nil
}

// errRefused says that the file system does not make a link: it has none, or not between these directories, or not so many.
var errRefused = errors.New("no hard link")

// link makes one link.
func (p *planner) link(l link) error {
	pool, from := p.e.pool, l.group.dir
	if err := pool.Take(from); err != nil {
		return err
	}
	defer pool.Give(from)
	if err := pool.Take(l.dir); err != nil {
		return err
	}
	defer pool.Give(l.dir)
	if l.absent {
		err := l.dir.h.Link(from.h, l.group.name, l.node.Name)
		if errors.Is(err, fs.ErrExist) {
			return errCollide
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		return nil
	}
	var have, want snapshot.Node
	a, errHave := l.dir.h.Lstat(l.node.Name, &have)
	b, errWant := from.h.Lstat(l.group.name, &want)
	if errHave == nil && errWant == nil && a.Dev == b.Dev && have.Inode == want.Inode && have.Inode != 0 {
		return nil // it is one already, and may be immutable
	}
	return persist(func() error {
		temp := p.e.tempName()
		if err := l.dir.h.Link(from.h, l.group.name, temp); err != nil {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		if err := p.e.publish(l.dir, temp, l.node.Name, false); err != nil {
			return err
		}
		// Renaming one name of a file to another of its names does nothing.
		if err := l.dir.h.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// lock sets the flags that forbid links, on files that have all their names.
func (p *planner) lock() {
	for _, g := range p.locked {
		if p.e.o.DryRun || g.state.Load() != groupDone {
			continue
		}
		err := p.e.pool.Take(g.dir)
		if err == nil {
			err = g.dir.h.ApplyLockingFlags(g.name, g.node)
			p.e.pool.Give(g.dir)
		}
		if err != nil {
			p.e.local(join(g.dir.path, g.name), g.seq, nil, err)
		}
	}
}
