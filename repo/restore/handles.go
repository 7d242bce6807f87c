package restore

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// maxHandles bounds the open directories and files of a run. A third of the 1,024 that every system allows.
const maxHandles = 340

// handles keeps directories and unfinished files open, the last used ones, and opens them again by their names in their directory.
type handles struct {
	root *os.Root // nil in a dry run without a destination

	mu      sync.Mutex // guards what follows, and the handles themselves; held while one is opened
	open    int
	idle    handleState // ring of those that nobody uses, the next one to close first
	partial map[*item]struct{}
}

// handled is a directory or file that handles keeps open.
type handled interface {
	state() *handleState
	reopen(p *handles) error // with p.mu held
	shut() error
}

type handleState struct {
	next, prev *handleState // nil: not in the ring
	of         handled
	users      int
	open       bool
}

func (p *handles) init(root *os.Root) {
	p.root = root
	p.partial = make(map[*item]struct{})
	p.idle.next, p.idle.prev = &p.idle, &p.idle
}

func (s *handleState) unlink() {
	if s.next != nil {
		s.next.prev, s.prev.next = s.prev, s.next
		s.next, s.prev = nil, nil
	}
}

// take opens h, unless it is open, and keeps it so until give.
func (p *handles) take(h handled) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken(h)
}

func (p *handles) taken(h handled) error {
	s := h.state()
	if !s.open {
		for p.open >= maxHandles && p.idle.next != &p.idle {
			p.closed(p.idle.next.of)
		}
		if err := h.reopen(p); err != nil {
			return err
		}
		s.of, s.open = h, true
		p.open++
	}
	s.unlink()
	s.users++
	return nil
}

// give ends what take began.
func (p *handles) give(h handled) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.given(h)
}

func (p *handles) given(h handled) {
	s := h.state()
	if s.users--; s.users == 0 && s.open {
		last := p.idle.prev
		s.prev, s.next = last, &p.idle
		last.next, p.idle.prev = s, s
	}
}

// discard closes h, which nobody uses.
func (p *handles) discard(h handled) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed(h)
}

func (p *handles) closed(h handled) error {
	s := h.state()
	if !s.open || s.users > 0 {
		return nil
	}
	s.unlink()
	s.open = false
	p.open--
	return h.shut()
}

// closeAll closes everything. Nobody uses any handle any more.
func (p *handles) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.idle.next != &p.idle {
		_ = p.closed(p.idle.next.of) // nothing was written that counts
	}
}

// removePartial removes the temporary files of a run that ended early. Nobody uses any handle any more.
func (p *handles) removePartial() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for it := range p.partial {
		it.pool.users = 0
		_ = p.closed(it)
		if p.taken(it.dir) == nil {
			_ = it.dir.h.Remove(it.temp) // best effort: the name says what it is
			p.given(it.dir)
		}
	}
	clear(p.partial)
}

// dir is a directory of the destination.
type dir struct {
	up    *dir // nil for the destination itself
	name  string
	path  string // in the snapshot
	seq   uint64
	node  *snapshot.Node // metadata to set at the end; nil: none
	made  bool           // it exists in the destination; the planner decides
	fresh bool           // this run made it: nothing in it is overwritten
	bad   bool           // it cannot be used, and that was reported
	todo  atomic.Int32   // entries not finished, child directories, and one for the planner

	h    *localfs.DestDir
	pool handleState
}

func (d *dir) state() *handleState { return &d.pool }

func (d *dir) reopen(p *handles) (err error) {
	if d.up == nil {
		d.h, err = localfs.OpenParent(p.root, "")
		return err
	}
	if err := p.taken(d.up); err != nil {
		return err
	}
	defer p.given(d.up)
	d.h, err = d.up.h.Open(d.name)
	return err
}

func (d *dir) shut() error { return d.h.Close() }

// item is an entry of the destination that is not a directory.
type item struct {
	dir   *dir
	node  *snapshot.Node
	seq   uint64
	group *group // of files with several names, nil for others
	how   action
	todo  atomic.Int32 // places still to be written, and one for the planner

	fail *failure // guarded by engine.mu

	f       *os.File
	writing sync.Mutex // of f
	temp    string     // name while unfinished, "" before it exists
	pool    handleState
}

// action is what is done with an item.
type action uint8

const (
	whole    action = iota // made in one go, from what the node holds or from one blob
	pieces                 // a file whose bytes come one by one
	metadata               // only the metadata of what exists
)

// failure says why an item is not restored.
type failure struct {
	lost   bool // by the repository's fault
	ranges []Range
	err    error
}

func (it *item) path() string {
	if it.dir.path == "/" {
		return "/" + it.node.Name
	}
	return it.dir.path + "/" + it.node.Name
}

func (it *item) state() *handleState { return &it.pool }

// reopen makes the temporary file of its final size, a single hole, or opens it again.
func (it *item) reopen(p *handles) error {
	if err := p.taken(it.dir); err != nil {
		return err
	}
	defer p.given(it.dir)
	if _, ok := p.partial[it]; ok {
		f, err := it.dir.h.OpenFile(it.temp)
		it.f = f
		return err
	}
	f, err := it.dir.h.CreateFile(it.temp)
	if err != nil {
		return err
	}
	it.f = f
	p.partial[it] = struct{}{}
	localfs.PrepareFile(f, it.node)
	if err := f.Truncate(int64(it.node.Size)); err != nil {
		it.f.Close()
		return err
	}
	return nil
}

func (it *item) shut() error { return it.f.Close() }

// finished takes the item off the list of temporary files.
func (p *handles) finished(it *item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.partial, it)
}

func (p *handles) isPartial(it *item) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.partial[it]
	return ok
}

// tempPrefix begins all temporary names of a run. 26 random letters: no snapshot can hold one of them on purpose, nor another run by chance.
func tempPrefix() string { return ".packhold-partial-" + rand.Text() + "-" }

func (e *engine) tempName() string {
	return e.temp + strconv.FormatUint(e.temps.Add(1), 36)
}

// publish gives the temporary entry its final name. What has that name is replaced; a directory only if it is empty.
func (e *engine) publish(d *dir, temp, name string) error {
	err := d.h.Rename(temp, name)
	if err == nil {
		return nil
	}
	var n snapshot.Node
	if _, serr := d.h.Lstat(name, &n); serr == nil && n.Type == snapshot.Dir {
		if rerr := d.h.Remove(name); rerr == nil {
			err = d.h.Rename(temp, name)
		} else {
			err = errDirInWay
		}
	}
	if err != nil {
		_ = d.h.Remove(temp) // the error says it all
	}
	return err
}

var errDirInWay = errors.New("a directory that is not empty has its name")

// exists looks for an entry of d.
func (p *handles) exists(d *dir, name string, n *snapshot.Node) (bool, error) {
	if err := p.take(d); err != nil {
		return false, err
	}
	defer p.give(d)
	_, err := d.h.Lstat(name, n)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, fs.ErrInvalid) { // a type that no Node has: it is in the way
		n.Type = 0
		return true, nil
	}
	return err == nil, err
}
