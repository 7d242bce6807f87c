package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"

	"packhold/crypt"
)

// maxWalkPages is how many bytes of pages a walk keeps. Over it, the directories nearest to the root give up theirs and
// read them again on the way back, so that a tree of 4,096 levels with full pages costs no more memory than others.
const maxWalkPages = 64 << 20

// Entry is an entry of a tree.
type Entry struct {
	Path  string // names joined by '/', "" for the root
	Node  *Node  // nil beside an error; it must not be changed
	Depth int    // names in Path
	Post  bool   // a directory after its children
	skip  *bool
}

// SkipDir makes the walk pass over what is below e, a directory. It is called before the next entry is asked for.
// Equal subtrees come up as often as the tree has them, so who wants each once skips the Subtree IDs already seen: a
// hostile tree of a few pages can have more entries than a walk could ever yield.
func (e Entry) SkipDir() { *e.skip = true }

// WalkOptions changes what Walk yields.
type WalkOptions struct {
	// Post yields every directory that was walked a second time, after its children, with Entry.Post set.
	Post bool
}

// Walk yields the entries of the tree whose root page is root in the order of their names, directories before what is
// below them. The root itself has no entry.
//
// An error comes with the path of the directory that it is about; if the consumer goes on, so does the walk, with what
// can still be read there and with the siblings. After an error of ctx it ends. Paths of more than MaxDepth names or
// MaxPath bytes are errors. Memory is bounded (64 MiB and the pages of one directory), whatever the tree.
func Walk(ctx context.Context, g Getter, root crypt.ID, o WalkOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		w := &walker{ctx: ctx, g: g, post: o.Post}
		w.frames = []frame{{new: OpenDir(ctx, g, root)}}
		w.run(func(s step, err error) bool {
			return yield(Entry{Path: s.path, Node: s.new, Depth: s.depth, Post: s.post, skip: &w.skip}, err)
		})
	}
}

// Change is a difference between two trees.
type Change struct {
	Path string
	Old  *Node // nil: added
	New  *Node // nil: removed
}

// Diff yields the differences from one tree to another in the order of their paths' names: every node that was added or
// removed, those below such directories included, and every pair of the same path whose nodes differ in any field but
// Subtree. It reads only pages that differ. Errors are as with Walk, but a directory that cannot be read wholly on
// both sides is not compared further: what is lost on one side would look like a change.
func Diff(ctx context.Context, g Getter, old, new crypt.ID) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		w := &walker{ctx: ctx, g: g, diff: true}
		w.frames = []frame{{old: OpenDir(ctx, g, old), new: OpenDir(ctx, g, new)}}
		w.run(func(s step, err error) bool {
			if err == nil && s.old != nil && s.new != nil && equal(s.old, s.new) {
				return true
			}
			return yield(Change{Path: s.path, Old: s.old, New: s.new}, err)
		})
	}
}

// equal compares all fields but Subtree, by their encoding.
func equal(a, b *Node) bool {
	x, y := *a, *b
	x.Subtree, y.Subtree = crypt.ID{}, crypt.ID{}
	return bytes.Equal(appendNode(nil, &x), appendNode(nil, &y))
}

// walker goes through one tree, or through two side by side. A walk is a comparison with nothing.
type walker struct {
	ctx    context.Context
	g      Getter
	diff   bool
	post   bool
	skip   bool // set by the consumer about the last entry
	frames []frame
	held   int64  // bytes of pages of all frames but the last
	path   []byte // of the last entry; one buffer, because the paths of all frames would be MaxDepth * MaxPath bytes
}

// frame is a directory that is being read.
type frame struct {
	old, new *DirReader // nil: nothing on this side
	path     int        // bytes of walker.path that name the directory
	held     int64      // bytes of pages, 0 for the last frame
	node     *Node      // for the entry after its children
}

// step is what the walker met.
type step struct {
	path     string
	old, new *Node
	depth    int
	post     bool
}

func (w *walker) run(yield func(step, error) bool) {
	for len(w.frames) > 0 {
		f := &w.frames[len(w.frames)-1]
		if err := w.ctx.Err(); err != nil {
			yield(w.here(), fmt.Errorf("walking %s: %w", w.quoted(f.path), err))
			return
		}
		old, new, err := f.next()
		if err == io.EOF {
			done := w.here()
			done.new, done.post = f.node, true
			w.pop()
			if done.new != nil && !yield(done, nil) {
				return
			}
			continue
		}
		if err != nil {
			err = fmt.Errorf("walking %s: %w", w.quoted(f.path), err)
			at := w.here()
			if w.diff {
				w.pop()
			}
			if !yield(at, err) {
				return
			}
			continue
		}
		if !w.enter(f, old, new, yield) {
			return
		}
	}
}

// pop goes back to the directory above.
func (w *walker) pop() {
	w.frames[len(w.frames)-1] = frame{} // its pages
	w.frames = w.frames[:len(w.frames)-1]
	if k := len(w.frames); k > 0 {
		w.held -= w.frames[k-1].held
		w.frames[k-1].held = 0
	}
}

// enter yields an entry of f and, if it is a directory, adds a frame for it.
func (w *walker) enter(f *frame, old, new *Node, yield func(step, error) bool) bool {
	node := new
	if node == nil {
		node = old
	}
	w.path = w.path[:f.path]
	if f.path > 0 {
		w.path = append(w.path, '/')
	}
	w.path = append(w.path, node.Name...)
	if len(w.path) > MaxPath {
		return yield(w.here(), fmt.Errorf("walking %s: %w", w.quoted(len(w.path)), malformed("path of %d bytes, the limit is %d", len(w.path), MaxPath)))
	}
	w.skip = false
	s := step{path: string(w.path), old: old, new: new, depth: len(w.frames)}
	if !yield(s, nil) {
		return false
	}
	down := frame{path: len(w.path)}
	if old != nil && old.Type == Dir {
		down.old = OpenDir(w.ctx, w.g, old.Subtree)
	}
	if new != nil && new.Type == Dir {
		down.new = OpenDir(w.ctx, w.g, new.Subtree)
	}
	if w.skip || down.old == nil && down.new == nil || down.old != nil && down.new != nil && old.Subtree == new.Subtree {
		return true
	}
	if err := w.canDescend(&down); err != nil {
		return yield(step{path: s.path, depth: s.depth}, fmt.Errorf("walking %s: %w", w.quoted(down.path), err))
	}
	if w.post {
		down.node = new.Clone() // what the consumer saw would hold a page for every level
	}
	for _, r := range [...]*DirReader{f.old, f.new} {
		if r != nil {
			f.held += r.held()
		}
	}
	w.held += f.held
	w.frames = append(w.frames, down) // f is not valid any more
	if w.held > maxWalkPages {
		w.limitPages()
	}
	return true
}

// canDescend refuses trees that are too deep, and cycles. No cycle exists where IDs are true; the check costs little and
// holds where a Getter lies.
func (w *walker) canDescend(down *frame) error {
	if len(w.frames) >= MaxDepth {
		return malformed("more than %d names in a path", MaxDepth)
	}
	for i := range w.frames {
		if down.new != nil && w.frames[i].new != nil && down.new.root == w.frames[i].new.root ||
			down.old != nil && w.frames[i].old != nil && down.old.root == w.frames[i].old.root {
			return malformed("directory inside itself")
		}
	}
	return nil
}

// limitPages releases pages of the frames nearest to the root if all but the last frame hold more than maxWalkPages, and
// then so many that it is not needed again soon.
func (w *walker) limitPages() {
	for i := 0; w.held > maxWalkPages/2 && i < len(w.frames)-1; i++ {
		f := &w.frames[i]
		for _, r := range [...]*DirReader{f.old, f.new} {
			if r != nil && f.held > 0 {
				r.release()
			}
		}
		w.held -= f.held
		f.held = 0
	}
}

// here returns a step that names the directory of the last frame.
func (w *walker) here() step {
	return step{path: string(w.path[:w.frames[len(w.frames)-1].path]), depth: len(w.frames) - 1}
}

// quoted returns the first n bytes of the path for a message.
func (w *walker) quoted(n int) string { return quote(string(w.path[:n])) }

// next returns the next node of the frame, or the pair of the same name, or io.EOF. Pages that are equal on both sides
// are passed over unread.
func (f *frame) next() (old, new *Node, err error) {
	for {
		o, n := f.old.at(), f.new.at()
		switch {
		case o == atEnd && n == atEnd:
			return nil, nil, io.EOF
		case n == atEnd || o == atEnd:
			r := f.new
			if n == atEnd {
				r = f.old
			}
			node, err := r.Next()
			if err == io.EOF { // the last page was an empty one
				continue
			}
			if r == f.old {
				return node, nil, err
			}
			return nil, node, err
		case o == atPage && n == atPage:
			err = f.nextPages()
		case o == atNode && n == atNode:
			return f.nextNodes()
		case o == atNode:
			if old, err = beforePage(f.old, f.new); old != nil || err != nil {
				return old, nil, err
			}
		default:
			if new, err = beforePage(f.new, f.old); new != nil || err != nil {
				return nil, new, err
			}
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// at is peek for a side that may be nothing.
func (r *DirReader) at() position {
	if r == nil {
		return atEnd
	}
	return r.peek()
}

// nextPages passes over equal pages; of others it opens the one that starts first or, of two that start alike, the one
// with more below it, so that both sides come to pages of one level.
func (f *frame) nextPages() error {
	o, err := f.old.page()
	if err != nil {
		return err
	}
	n, err := f.new.page()
	if err != nil {
		return err
	}
	switch {
	case o == n:
		f.old.skip()
		f.new.skip()
		return nil
	case o.First < n.First || o.First == n.First && o.Count > n.Count:
		return f.old.open()
	case n.First < o.First || n.Count > o.Count:
		return f.new.open()
	}
	if err := f.old.open(); err != nil {
		return err
	}
	return f.new.open()
}

func (f *frame) nextNodes() (old, new *Node, err error) {
	o, err := f.old.name()
	if err != nil {
		return nil, nil, err
	}
	n, err := f.new.name()
	if err != nil {
		return nil, nil, err
	}
	if o <= n {
		if old, err = f.old.take(); err != nil {
			return nil, nil, err
		}
	}
	if n <= o {
		if new, err = f.new.take(); err != nil {
			return nil, nil, err
		}
	}
	return old, new, nil
}

// beforePage returns the next node of a if it comes before the next page of b, and otherwise opens that page.
func beforePage(a, b *DirReader) (*Node, error) {
	name, err := a.name()
	if err != nil {
		return nil, err
	}
	child, err := b.page()
	if err != nil {
		return nil, err
	}
	if name < child.First {
		return a.take()
	}
	return nil, b.open()
}
