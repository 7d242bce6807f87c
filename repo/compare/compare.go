// Package compare compares a tree of the file system with nodes of a snapshot, by reading everything again.
package compare

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"

	"packhold/crypt"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// partSize and the numbers beside it are how much one worker reads again at once, bytes, extents and entries: a large file keeps all of them busy.
const (
	partSize    = 64 << 20
	partExtents = 4096
	partEntries = 128
)

// maxOpen bounds the open directories, a third of the 1,024 files that every system allows.
const maxOpen = 340

// Mismatch is a difference.
type Mismatch struct {
	Path      string
	What      string // "content", "size", "mode", "owner", "modification time", "target", `xattr "user.comment"`, …
	Off, N    int64  // of content
	Want, Got string // of content: SHA-256 of the range, in hex
	Node      *snapshot.Node
	Err       error // What is "reading": why nothing could be compared
}

// Entry is what the tree should hold at a place. Its numbers of owners are compared, not its names.
type Entry struct {
	Node    *snapshot.Node // not changed afterwards
	Path    string         // for mismatches
	Depth   int            // names below the root; 0: the root itself
	Meta    bool           // compare type, metadata and link target
	Content bool           // compare the bytes of a file
}

// Walk calls f with the entries of a tree, those of depth n after the one of depth n-1 that they lie in. It returns f's first error.
type Walk func(ctx context.Context, f func(Entry) error) error

// Options say how to compare.
type Options struct {
	Pages        snapshot.Getter  // reads extents and attributes that are in blobs; calls do not overlap
	Damaged      func(error) bool // tells whether an error of Pages is about its bytes; others end the run
	NoOwner      bool
	NoPrivileged bool                       // set-id bits of files and attributes that give power were left out
	ChangeTime   bool                       // compare when the entry was changed last, which no program can set: of a source, never of what was restored
	Workers      int                        // at least 1
	Mismatch     func(Mismatch)             // called concurrently
	Done         func(entries, bytes int64) // compared entries and bytes; called concurrently
}

// dir is a directory, opened for reading.
type dir struct {
	root *os.Root // of the topmost
	up   *dir     // nil for the topmost
	name string
	h    *localfs.Dir
	pool localfs.HandleState
}

func (d *dir) State() *localfs.HandleState { return &d.pool }

func (d *dir) Reopen(o localfs.Opening) error {
	if d.up == nil {
		top, err := localfs.OpenParent(d.root, "")
		if err != nil {
			return err
		}
		defer top.Close()
		d.h, err = top.Source()
		return err
	}
	if err := o.Take(d.up); err != nil {
		return err
	}
	defer o.Give(d.up)
	var err error
	d.h, err = d.up.h.Open(d.name)
	return err
}

func (d *dir) Shut() error { return d.h.Close() }

// look is a part of the comparison: an entry's metadata, or a part of a file's content, or both.
type look struct {
	in      *dir
	node    *snapshot.Node
	name    string // "" is the directory itself
	path    string
	meta    bool
	content bool
	at      int64 // of the extents in the file
	extents []snapshot.Extent
}

type comparer struct {
	o     *Options
	pool  *localfs.Pool
	jobs  chan []look
	batch []look
	bytes int64 // of content in batch
	inode map[inodeKey]uint64
}

type inodeKey struct {
	device uint32
	inode  uint64
	kind   snapshot.Type
}

// Run compares what walk tells with what is below root. What cannot be read is a mismatch too: nobody can say that it is as it should be.
// What lies below a directory that is not there is not looked at, beyond what its own entry says. An error is the walk's or the Pages'.
func Run(ctx context.Context, root *os.Root, walk Walk, o Options) error {
	c := &comparer{o: &o, pool: localfs.NewPool(maxOpen), jobs: make(chan []look, o.Workers), inode: make(map[inodeKey]uint64)}
	defer c.pool.Close()
	g, gctx := errgroup.WithContext(ctx)
	for range o.Workers {
		g.Go(func() error { return c.work(gctx) })
	}
	g.Go(func() error {
		defer close(c.jobs)
		return c.walk(gctx, root, walk)
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("comparing: %w", err)
	}
	return nil
}

func (c *comparer) work(ctx context.Context) error {
	buf := make([]byte, 1<<20)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case batch, ok := <-c.jobs:
			if !ok {
				return nil
			}
			for i := range batch {
				if err := ctx.Err(); err != nil {
					return err
				}
				c.compare(ctx, &batch[i], buf)
			}
		}
	}
}

func (c *comparer) walk(ctx context.Context, root *os.Root, walk Walk) error {
	top := &dir{root: root}
	stack := []*dir{top}
	err := walk(ctx, func(x Entry) error {
		if x.Depth == 0 {
			return c.add(ctx, look{in: top, node: x.Node, path: x.Path, meta: x.Meta})
		}
		stack = stack[:x.Depth]
		in := stack[x.Depth-1]
		if x.Node.Type == snapshot.Dir {
			down := &dir{up: in, name: x.Node.Name}
			if in == nil || !c.there(in, x.Node.Name) {
				down = nil
			}
			stack = append(stack, down)
		}
		if in == nil || !x.Meta && !x.Content {
			return nil
		}
		return c.entry(ctx, in, x)
	})
	if err != nil {
		return err
	}
	return c.flush(ctx)
}

// there reports whether a directory exists.
func (c *comparer) there(in *dir, name string) bool {
	if c.pool.Take(in) != nil {
		return false
	}
	defer c.pool.Give(in)
	var n snapshot.Node
	_, err := in.h.Stat(name, &n)
	return err == nil && n.Type == snapshot.Dir
}

// entry queues one entry, and the parts of a file.
func (c *comparer) entry(ctx context.Context, in *dir, x Entry) error {
	n := x.Node
	if !n.XAttrBlob.IsZero() {
		attrs, err := snapshot.XAttrs(ctx, c.o.Pages, n)
		if err != nil && (ctx.Err() != nil || !c.o.Damaged(err)) {
			return err
		}
		copied := *n
		n = &copied
		n.XAttrs = attrs // none, if they are lost
	}
	l := look{in: in, node: n, name: n.Name, path: x.Path, meta: x.Meta, content: x.Content && n.Type == snapshot.File}
	if n.Links > 1 && n.Type != snapshot.Dir && l.meta {
		c.sameInode(l)
	}
	if !l.content {
		return c.add(ctx, l)
	}
	at := int64(0)
	size := int64(0)
	for ext, err := range snapshot.EachExtent(ctx, c.o.Pages, n) {
		if err != nil {
			if ctx.Err() != nil || !c.o.Damaged(err) {
				return err
			}
			break // what was read is compared
		}
		l.extents = append(l.extents, ext)
		if ext.Kind == snapshot.Data {
			size += int64(ext.Length)
		}
		at += int64(ext.Length)
		if size >= partSize || len(l.extents) >= partExtents {
			if err := c.add(ctx, l); err != nil {
				return err
			}
			l.meta, l.extents, l.at, size = false, nil, at, 0
		}
	}
	return c.add(ctx, l)
}

// add queues a look; full batches go to the workers.
func (c *comparer) add(ctx context.Context, l look) error {
	c.batch = append(c.batch, l)
	for i := range l.extents {
		if l.extents[i].Kind == snapshot.Data {
			c.bytes += int64(l.extents[i].Length)
		}
	}
	if len(c.batch) < partEntries && c.bytes < partSize/4 {
		return nil
	}
	return c.flush(ctx)
}

func (c *comparer) flush(ctx context.Context) error {
	if len(c.batch) == 0 {
		return nil
	}
	select {
	case c.jobs <- c.batch:
	case <-ctx.Done():
		return ctx.Err()
	}
	c.batch, c.bytes = nil, 0
	return nil
}

// sameInode checks that the names of one file are names of one file.
func (c *comparer) sameInode(l look) {
	if c.pool.Take(l.in) != nil {
		return // the comparison of the entry says it
	}
	defer c.pool.Give(l.in)
	var got snapshot.Node
	if _, err := l.in.h.Stat(l.name, &got); err != nil || got.Inode == 0 {
		return
	}
	key := inodeKey{l.node.Device, l.node.Inode, l.node.Type}
	first, ok := c.inode[key]
	if !ok {
		c.inode[key] = got.Inode
	} else if first != got.Inode {
		c.o.Mismatch(Mismatch{Path: l.path, Node: l.node, What: "hard link", Want: fmt.Sprint("inode ", first), Got: fmt.Sprint("inode ", got.Inode)})
	}
}

// compare does one look.
func (c *comparer) compare(ctx context.Context, l *look, buf []byte) {
	err := c.pool.Take(l.in)
	if err == nil {
		defer c.pool.Give(l.in)
		if l.meta {
			if err = c.metadata(l); err == nil {
				c.o.Done(1, 0)
			}
		}
		if err == nil && l.content {
			err = c.content(ctx, l, buf)
		}
	}
	if err != nil && ctx.Err() == nil {
		c.o.Mismatch(Mismatch{Path: l.path, Node: l.node, What: "reading", Want: "the entry", Got: err.Error(), Err: err})
	}
}

// metadata compares all that the system keeps of what the node says.
func (c *comparer) metadata(l *look) error {
	var got snapshot.Node
	want := l.node
	if _, err := l.in.h.Stat(l.name, &got); err != nil {
		return err
	}
	differ := func(what string, w, g any) {
		if w != g {
			c.o.Mismatch(Mismatch{Path: l.path, Node: l.node, What: what, Want: fmt.Sprint(w), Got: fmt.Sprint(g)})
		}
	}
	if got.Type != want.Type {
		differ("type", want.Type, got.Type)
		return nil
	}
	if err := l.in.h.Details(l.name, &got, localfs.DetailOptions{}); err != nil {
		return err
	}
	if runtime.GOOS != "windows" && !c.o.NoOwner {
		differ("owner", fmt.Sprint(want.UID, ":", want.GID), fmt.Sprint(got.UID, ":", got.GID))
	}
	if want.Type != snapshot.Symlink && runtime.GOOS != "windows" { // there a read-only bit is all
		mode := want.Mode
		if c.o.NoPrivileged && want.Type != snapshot.Dir {
			mode &^= 0o6000
		}
		differ("mode", fmt.Sprintf("%04o", mode), fmt.Sprintf("%04o", got.Mode))
	}
	if want.Type != snapshot.Symlink || runtime.GOOS != "windows" {
		differ("modification time", fmt.Sprintf("%d.%09d", want.MTime.Sec, want.MTime.Nsec), fmt.Sprintf("%d.%09d", got.MTime.Sec, got.MTime.Nsec))
	}
	if c.o.ChangeTime && want.CTime != (snapshot.Time{}) && got.CTime != (snapshot.Time{}) {
		differ("change time", want.CTime, got.CTime)
	}
	differ("size", want.Size, got.Size)
	differ("target", fmt.Sprintf("%q", want.Target), fmt.Sprintf("%q", got.Target))
	differ("device", want.Rdev, got.Rdev)
	if runtime.GOOS == "linux" { // elsewhere they are not kept
		differ("flags", want.Flags, got.Flags&want.Flags)
	}
	c.xattrs(l, want.XAttrs, got.XAttrs)
	return nil
}

func (c *comparer) xattrs(l *look, want, got []snapshot.XAttr) {
	for _, w := range want {
		if c.o.NoPrivileged && (len(w.Name) > 8 && (w.Name[:8] == "trusted." || w.Name[:8] == "security")) {
			continue
		}
		found := "nothing"
		for _, g := range got {
			if g.Name == w.Name {
				found = fmt.Sprintf("%.40q", g.Value)
				if bytes.Equal(g.Value, w.Value) {
					found = ""
				}
			}
		}
		if found != "" {
			c.o.Mismatch(Mismatch{Path: l.path, Node: l.node, What: fmt.Sprintf("xattr %q", w.Name), Want: fmt.Sprintf("%.40q", w.Value), Got: found})
		}
	}
}

// content reads extents again.
func (c *comparer) content(ctx context.Context, l *look, buf []byte) error {
	f, err := l.in.h.OpenFile(l.node.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	if len(l.node.Inline) > 0 {
		n, err := f.ReadAt(buf[:len(l.node.Inline)], 0)
		if err != nil && err != io.EOF {
			return err
		}
		c.sum(l, 0, int64(len(l.node.Inline)), crypt.Sum(l.node.Inline), crypt.Sum(buf[:n]))
	}
	at := l.at
	h := sha256.New()
	for i := range l.extents {
		x := &l.extents[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if x.Kind == snapshot.Data {
			h.Reset()
			if err := readInto(f, h, at, int64(x.Length), buf); err != nil {
				return err
			}
			c.sum(l, at, int64(x.Length), x.ID, crypt.ID(h.Sum(nil)))
			c.o.Done(0, int64(x.Length))
		} else if err := c.zeros(ctx, f, l, at, at+int64(x.Length), buf); err != nil {
			return err
		}
		at += int64(x.Length)
	}
	return nil
}

func (c *comparer) sum(l *look, off, n int64, want, got crypt.ID) {
	if want != got {
		c.o.Mismatch(Mismatch{Path: l.path, Node: l.node, What: "content", Off: off, N: n, Want: want.String(), Got: got.String()})
	}
}

// readInto hashes n bytes from off, or fewer where the file ends.
func readInto(f *localfs.File, h hash.Hash, off, n int64, buf []byte) error {
	for n > 0 {
		part := buf[:min(n, int64(len(buf)))]
		k, err := f.ReadAt(part, off)
		h.Write(part[:k])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		off, n = off+int64(k), n-int64(k)
	}
	return nil
}

// zeros looks at what is stored between two offsets, which is nothing in a hole of any size.
func (c *comparer) zeros(ctx context.Context, f *localfs.File, l *look, off, end int64, buf []byte) error {
	for off < end {
		from, to, err := f.NextData(off, end)
		if err != nil {
			return err
		}
		for at := from; at < to; at += int64(len(buf)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := buf[:min(to-at, int64(len(buf)))]
			k, err := f.ReadAt(part, at)
			if err != nil && err != io.EOF {
				return err
			}
			if i := localfs.NotZero(part[:k]); i >= 0 {
				c.o.Mismatch(Mismatch{Path: l.path, Node: l.node, What: "content", Off: at + int64(i), N: int64(k - i), Want: "zeros", Got: crypt.Sum(part[i:k]).String()})
				return nil
			}
		}
		if to >= end || to == math.MaxInt64 {
			return nil
		}
		off = to
	}
	return nil
}
