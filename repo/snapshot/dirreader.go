package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"packhold/crypt"
)

// ErrNotFound is wrapped by Find and Lookup where the tree has no such name. It is not fs.ErrNotExist, which a Getter may
// return for a blob that is lost: that is damage, not an answer.
var ErrNotFound = errors.New("no such entry")

// DirReader reads a directory's nodes in order, page by page. It holds one leaf and the branches above it.
// Calls must not overlap.
type DirReader struct {
	ctx    context.Context
	g      Getter
	root   crypt.ID
	opened bool     // the root was asked for
	pages  []cursor // root first; all but the last are branches
	last   string   // the last name read, "" at the start
}

// cursor is a place in an open page.
type cursor struct {
	id     crypt.ID
	page   *Page // nil after release
	leaf   bool
	n, at  int // entries, and the next one
	memory int64
}

// OpenDir returns a reader of the directory whose root page is root. It reads nothing yet.
func OpenDir(ctx context.Context, g Getter, root crypt.ID) *DirReader {
	return &DirReader{ctx: ctx, g: g, root: root}
}

// Next returns the next node, which is valid and must not be changed, or io.EOF after the last one. Any other error is
// about one node or one page; a later call goes on behind it, so what can be read of a damaged directory is read. Names
// ascend across errors too.
func (r *DirReader) Next() (*Node, error) {
	for {
		switch r.peek() {
		case atEnd:
			return nil, io.EOF
		case atNode:
			return r.take()
		case atPage:
			if err := r.open(); err != nil {
				return nil, err
			}
		}
	}
}

// position is what a reader meets next.
type position int

const (
	atEnd position = iota
	atNode
	atPage // a page that is not open yet
)

// peek closes the pages that are read through and returns what comes next.
func (r *DirReader) peek() position {
	if !r.opened {
		return atPage
	}
	for len(r.pages) > 0 {
		c := r.top()
		switch {
		case c.at == c.n:
			r.pages = r.pages[:len(r.pages)-1]
		case c.leaf:
			return atNode
		default:
			return atPage
		}
	}
	return atEnd
}

func (r *DirReader) top() *cursor { return &r.pages[len(r.pages)-1] }

// loaded returns the last open page, read again if it was released. If that fails the page is passed over.
func (r *DirReader) loaded() (*cursor, error) {
	c := r.top()
	if c.page != nil {
		return c, nil
	}
	p, size, err := loadPage(r.ctx, r.g, c.id, nil)
	if err == nil && max(len(p.Nodes), len(p.Children)) != c.n {
		err = fmt.Errorf("page %v: %w", c.id, malformed("read again, it has other entries"))
	}
	if err != nil {
		c.at = c.n
		return nil, err
	}
	c.page, c.memory = p, p.memory(size)
	return c, nil
}

// page returns the page that comes next; of the root nothing but the ID is known.
func (r *DirReader) page() (Child, error) {
	if !r.opened {
		return Child{ID: r.root, Count: math.MaxUint64}, nil
	}
	c, err := r.loaded()
	if err != nil {
		return Child{}, err
	}
	return c.page.Children[c.at], nil
}

// skip passes over the page that comes next.
func (r *DirReader) skip() {
	if !r.opened {
		r.opened = true
		return
	}
	r.top().at++
}

// open reads the page that comes next. If that fails the page is passed over.
func (r *DirReader) open() error {
	child, err := r.page()
	if err != nil {
		return err
	}
	want := &child
	if !r.opened {
		want = nil
	}
	r.skip()
	switch {
	case want != nil && child.First <= r.last:
		return fmt.Errorf("page %v: %w", child.ID, malformed("name %s after %s", quote(child.First), quote(r.last)))
	case len(r.pages) == MaxPageLevels:
		return fmt.Errorf("page %v: %w", child.ID, malformed("more than %d levels of pages", MaxPageLevels))
	}
	p, size, err := loadPage(r.ctx, r.g, child.ID, want)
	if err != nil {
		return err
	}
	r.pages = append(r.pages, cursor{
		id: child.ID, page: p, leaf: p.Children == nil,
		n: max(len(p.Nodes), len(p.Children)), memory: p.memory(size),
	})
	return nil
}

// name returns the name of the node that comes next.
func (r *DirReader) name() (string, error) {
	c, err := r.loaded()
	if err != nil {
		return "", err
	}
	return c.page.Nodes[c.at].Name, nil
}

// take returns the node that comes next and passes over it.
func (r *DirReader) take() (*Node, error) {
	c, err := r.loaded()
	if err != nil {
		return nil, err
	}
	n := &c.page.Nodes[c.at]
	c.at++
	r.last = n.Name
	if err := n.Validate(); err != nil {
		return nil, fmt.Errorf("page %v: %w", c.id, err)
	}
	return n, nil
}

// held returns about how many bytes of pages are in memory.
func (r *DirReader) held() int64 {
	var sum int64
	for i := range r.pages {
		sum += r.pages[i].memory
	}
	return sum
}

// release gives up the memory of all pages. They are read again when they are needed.
func (r *DirReader) release() {
	r.last = strings.Clone(r.last) // it aliases a page
	for i := range r.pages {
		r.pages[i].page, r.pages[i].memory = nil, 0
	}
}

// loadPage reads a page and checks it against its entry in the branch above, if any. It returns the page's encoded size
// too.
func loadPage(ctx context.Context, g Getter, id crypt.ID, want *Child) (*Page, int, error) {
	plain, err := g.Get(ctx, id)
	if err != nil {
		return nil, 0, fmt.Errorf("page %v: %w", id, err)
	}
	p, err := decodePage(plain)
	if err != nil {
		return nil, 0, fmt.Errorf("page %v: %w", id, err)
	}
	if want == nil {
		return p, len(plain), nil
	}
	first, count := "", uint64(len(p.Nodes))
	if len(p.Nodes) > 0 {
		first = p.Nodes[0].Name
	} else if len(p.Children) > 0 {
		first = p.Children[0].First
		count, _ = checkChildren(p.Children) // decodePage checked them
	}
	if first != want.First || count != want.Count {
		return nil, 0, fmt.Errorf("page %v: %w", id, malformed("it has %d nodes from %s on, its branch says %d from %s on",
			count, quote(first), want.Count, quote(want.First)))
	}
	return p, len(plain), nil
}

// Find returns the node with the given name in the directory whose root page is root, or an error that wraps
// ErrNotFound. It reads one page of each level.
func Find(ctx context.Context, g Getter, root crypt.ID, name string) (*Node, error) {
	n, err := find(ctx, g, root, name)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", quote(name), err)
	}
	return n, nil
}

func find(ctx context.Context, g Getter, root crypt.ID, name string) (*Node, error) {
	id, want, end := root, (*Child)(nil), "" // names on the page are less than end, "" for no bound
	for range MaxPageLevels {
		p, _, err := loadPage(ctx, g, id, want)
		if err != nil {
			return nil, err
		}
		if p.Children == nil {
			if k := len(p.Nodes); end != "" && k > 0 && p.Nodes[k-1].Name >= end {
				return nil, fmt.Errorf("page %v: %w", id, malformed("its names reach into the next page"))
			}
			i, ok := slices.BinarySearchFunc(p.Nodes, name, func(n Node, name string) int { return strings.Compare(n.Name, name) })
			if !ok {
				return nil, ErrNotFound
			}
			if err := p.Nodes[i].Validate(); err != nil {
				return nil, fmt.Errorf("page %v: %w", id, err)
			}
			return &p.Nodes[i], nil
		}
		i, ok := slices.BinarySearchFunc(p.Children, name, func(c Child, name string) int { return strings.Compare(c.First, name) })
		if !ok {
			i-- // the last child that starts before name
		}
		if i < 0 {
			return nil, ErrNotFound
		}
		if i+1 < len(p.Children) {
			end = p.Children[i+1].First
		}
		id, want = p.Children[i].ID, &p.Children[i]
	}
	return nil, fmt.Errorf("page %v: %w", id, malformed("more than %d levels of pages", MaxPageLevels))
}

// Lookup returns the node at a path of names below the directory whose root page is root, or an error that wraps
// ErrNotFound. For an empty path that is a directory without a name and metadata, whose Subtree is root.
func Lookup(ctx context.Context, g Getter, root crypt.ID, path []string) (*Node, error) {
	n := &Node{Type: Dir, Subtree: root}
	for i, name := range path {
		if n.Type != Dir {
			return nil, fmt.Errorf("finding %s: %w: %s is not a directory", quote(strings.Join(path, "/")), ErrNotFound,
				quote(strings.Join(path[:i], "/")))
		}
		next, err := find(ctx, g, n.Subtree, name)
		if err != nil {
			return nil, fmt.Errorf("finding %s: at %s: %w", quote(strings.Join(path, "/")), quote(strings.Join(path[:i+1], "/")), err)
		}
		n = next
	}
	return n, nil
}
