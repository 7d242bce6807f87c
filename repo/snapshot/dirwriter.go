package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"packhold/crypt"
)

// Where a page ends: after an entry whose name's hash has 9 zero bits, so that pages have 64 + 512 entries on average and
// a name that comes or goes moves no other boundary; not before 64 entries, so that branches stay small; and at 2,048
// entries or 1 MiB, so that no page is large.
const (
	pageLeast = 64
	pageMask  = 1<<9 - 1
	pageBytes = 1 << 20
)

// endsPage reports whether the hash of name lets a page end after it.
func endsPage(name string) bool {
	sum := sha256.Sum256([]byte(name))
	return binary.LittleEndian.Uint64(sum[:8])&pageMask == 0
}

// DirWriter writes a directory's nodes, in ascending order of their names, into pages. Equal nodes give equal pages.
// It holds the open page of every level. Calls must not overlap.
type DirWriter struct {
	put    func(plain []byte) (crypt.ID, error)
	levels []*openPage // leaf first
	last   string
	count  uint64
	err    error
}

// openPage is a page that may still grow.
type openPage struct {
	first string
	buf   []byte // room for the head, then the entries
	n     int
	count uint64 // nodes below
	done  int    // finished pages of this level; 2 stands for more
	only  crypt.ID
}

// NewDirWriter returns a writer that stores pages with put. Put must not keep the bytes.
func NewDirWriter(put func(plain []byte) (crypt.ID, error)) *DirWriter {
	return &DirWriter{put: put, levels: []*openPage{newOpenPage()}}
}

func newOpenPage() *openPage { return &openPage{buf: make([]byte, maxPageHead)} }

// Add appends n, which must be valid and whose name must be greater than the last one's. It keeps nothing of n.
// After an error every call returns it.
func (w *DirWriter) Add(n *Node) error {
	if w.err != nil {
		return w.err
	}
	if err := n.Validate(); err != nil {
		w.err = fmt.Errorf("writing directory: %w", err)
		return w.err
	}
	if n.Name <= w.last { // no valid name is "", the last one of the first node
		w.err = fmt.Errorf("writing directory: name %s after %s: %w", quote(n.Name), quote(w.last), ErrMalformed)
		return w.err
	}
	leaf := w.levels[0]
	leaf.buf = appendNode(leaf.buf, n)
	w.last = n.Name
	w.count++
	w.added(0, n.Name, 1)
	return w.err
}

// added accounts for an entry that was appended to the open page of a level, and ends the page if it must.
func (w *DirWriter) added(level int, name string, count uint64) {
	p := w.levels[level]
	if p.n == 0 {
		p.first = name
	}
	p.n++
	p.count += count
	if p.n >= pageLeast && endsPage(name) || p.n == MaxPageEntries || len(p.buf)-maxPageHead >= pageBytes {
		w.finishPage(level)
	}
}

// finishPage stores the open page of a level and enters it above.
func (w *DirWriter) finishPage(level int) {
	p := w.levels[level]
	tag := byte(tagBranch)
	if level == 0 {
		tag = tagLeaf
	}
	id, err := w.put(setPageHead(p.buf, tag, p.n))
	if err != nil {
		w.err = fmt.Errorf("writing directory: %w", err)
		return
	}
	// A level has 64 times fewer pages than the one below: 8 levels are 2^48 nodes at least, MaxPageLevels is not in reach.
	if level+1 == len(w.levels) {
		w.levels = append(w.levels, newOpenPage())
	}
	p.done = min(p.done+1, 2)
	p.only = id
	child := Child{First: p.first, ID: id, Count: p.count}
	p.buf, p.n, p.count = p.buf[:maxPageHead], 0, 0
	up := w.levels[level+1]
	up.buf = appendChild(up.buf, &child)
	w.added(level+1, child.First, child.Count)
}

// Finish stores the open pages and returns the root page and the number of nodes. It is the last call.
func (w *DirWriter) Finish() (root crypt.ID, count uint64, err error) {
	for level := 0; w.err == nil; level++ {
		p := w.levels[level]
		if p.n > 0 || level == 0 && p.done == 0 {
			w.finishPage(level)
		}
		if w.err == nil && p.done == 1 {
			return p.only, w.count, nil
		}
	}
	return crypt.ID{}, 0, w.err
}
