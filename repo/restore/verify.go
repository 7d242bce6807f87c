package restore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math"
	"runtime"

	"golang.org/x/sync/errgroup"

	"packhold/crypt"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// verifyPart is how much of a file one worker reads again at once, bytes and extents: a large file keeps all of them busy.
const (
	verifyPart    = 64 << 20
	verifyExtents = 4096
	verifyItems   = 128
)

// source is a restored directory, opened for reading.
type source struct {
	up   *source // nil for the destination itself
	name string
	h    *localfs.Dir
	pool handleState
}

func (s *source) state() *handleState { return &s.pool }

func (s *source) reopen(p *handles) error {
	if s.up == nil {
		d, err := localfs.OpenParent(p.root, "")
		if err != nil {
			return err
		}
		defer d.Close()
		s.h, err = d.Source()
		return err
	}
	if err := p.taken(s.up); err != nil {
		return err
	}
	defer p.given(s.up)
	var err error
	s.h, err = s.up.h.Open(s.name)
	return err
}

func (s *source) shut() error { return s.h.Close() }

// look is a part of the comparison: an entry's metadata, or a part of a file's content, or both.
type look struct {
	in      *source
	node    *snapshot.Node
	path    string
	meta    bool
	content bool
	at      int64 // of the extents in the file
	extents []snapshot.Extent
}

// verifier compares what was restored with the snapshot.
type verifier struct {
	e     *engine
	jobs  chan []look
	batch []look
	bytes int64 // of content in batch
	inode map[groupKey]uint64
}

// verify walks the tree once more, reads everything that was restored, and compares.
func (e *engine) verify(ctx context.Context, pages *pageReader) error {
	v := &verifier{e: e, jobs: make(chan []look, e.o.Workers), inode: make(map[groupKey]uint64)}
	g, gctx := errgroup.WithContext(ctx)
	for range e.o.Workers {
		g.Go(func() error {
			buf := make([]byte, 1<<20)
			for {
				select {
				case <-gctx.Done():
					return gctx.Err()
				case batch, ok := <-v.jobs:
					if !ok {
						return nil
					}
					for i := range batch {
						if err := gctx.Err(); err != nil {
							return err
						}
						e.compare(gctx, &batch[i], buf)
					}
				}
			}
		})
	}
	g.Go(func() error {
		defer close(v.jobs)
		return v.walk(gctx, pages)
	})
	return g.Wait()
}

func (v *verifier) walk(ctx context.Context, pages *pageReader) error {
	e := v.e
	root := &source{}
	if n := e.tree.self; n != nil && e.tree.picked && e.o.Overwrite == Always {
		if err := v.add(ctx, look{in: root, node: n, path: e.tree.prefix, meta: true}); err != nil {
			return err
		}
	}
	stack := []*source{root}
	known := func(string, uint64, error) error { return nil } // reported when it was restored
	err := e.each(ctx, pages, func(x picked) error {
		stack = stack[:x.Depth]
		in := stack[x.Depth-1]
		gone := in == nil || e.missing.has(x.seq)
		if x.Node.Type == snapshot.Dir {
			down := &source{up: in, name: x.Node.Name}
			if gone && (in == nil || !e.there(in, x.Node.Name)) {
				down = nil
			}
			stack = append(stack, down)
		}
		// Directories that are not picked exist only if something below them is.
		if gone || e.partial.has(x.seq) && x.Node.Type == snapshot.Dir || !x.in {
			return nil
		}
		return v.entry(ctx, pages, in, x)
	}, known)
	if err != nil {
		return err
	}
	return v.flush(ctx)
}

// there reports whether a directory that was kept as it is exists.
func (e *engine) there(in *source, name string) bool {
	if e.pool.take(in) != nil {
		return false
	}
	defer e.pool.give(in)
	var n snapshot.Node
	_, err := in.h.Stat(name, &n)
	return err == nil && n.Type == snapshot.Dir
}

// entry queues one entry, and the parts of a file.
func (v *verifier) entry(ctx context.Context, pages *pageReader, in *source, x picked) error {
	e, n := v.e, x.Node.Clone()
	var err error
	if !n.XAttrBlob.IsZero() {
		if n.XAttrs, err = snapshot.XAttrs(ctx, pages, n); err != nil {
			if ctx.Err() != nil || !isDamage(err) {
				return err
			}
			n.XAttrs = nil // reported when it was restored
		}
	}
	l := look{in: in, node: n, path: x.path, meta: !e.partial.has(x.seq), content: n.Type == snapshot.File}
	if n.Links > 1 && n.Type != snapshot.Dir && l.meta {
		v.sameInode(l)
	}
	at := int64(0)
	size := int64(0)
	for ext, err := range snapshot.EachExtent(ctx, pages, n) {
		if err != nil {
			if ctx.Err() != nil || !isDamage(err) {
				return err
			}
			break // it was restored, so this is the repository going bad meanwhile; what was read is compared
		}
		l.extents = append(l.extents, ext)
		if ext.Kind == snapshot.Data {
			size += int64(ext.Length)
		}
		at += int64(ext.Length)
		if size >= verifyPart || len(l.extents) >= verifyExtents {
			if err := v.add(ctx, l); err != nil {
				return err
			}
			l.meta, l.extents, l.at, size = false, nil, at, 0
		}
	}
	return v.add(ctx, l)
}

// add queues a look; full batches go to the workers.
func (v *verifier) add(ctx context.Context, l look) error {
	v.batch = append(v.batch, l)
	for i := range l.extents {
		if l.extents[i].Kind == snapshot.Data {
			v.bytes += int64(l.extents[i].Length)
		}
	}
	if len(v.batch) < verifyItems && v.bytes < verifyPart/4 {
		return nil
	}
	return v.flush(ctx)
}

func (v *verifier) flush(ctx context.Context) error {
	if len(v.batch) == 0 {
		return nil
	}
	select {
	case v.jobs <- v.batch:
	case <-ctx.Done():
		return ctx.Err()
	}
	v.batch, v.bytes = nil, 0
	return nil
}

// sameInode checks that the names of one file are names of one file.
func (v *verifier) sameInode(l look) {
	e := v.e
	if e.pool.take(l.in) != nil {
		return // the comparison of the entry says it
	}
	defer e.pool.give(l.in)
	var got snapshot.Node
	if _, err := l.in.h.Stat(l.node.Name, &got); err != nil || got.Inode == 0 {
		return
	}
	key := groupKey{l.node.Device, l.node.Inode, l.node.Type}
	first, ok := v.inode[key]
	if !ok {
		v.inode[key] = got.Inode
	} else if first != got.Inode {
		e.mismatch(Mismatch{Path: l.path, What: "hard link", Want: fmt.Sprint("inode ", first), Got: fmt.Sprint("inode ", got.Inode)})
	}
}

func (e *engine) mismatch(m Mismatch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.res.MismatchCount++; len(e.res.Mismatch) < maxListed {
		e.res.Mismatch = append(e.res.Mismatch, m)
	}
}

// compare does one look. What cannot be read is a mismatch too: nobody can say that it is as it should be.
func (e *engine) compare(ctx context.Context, l *look, buf []byte) {
	bad := func(err error) {
		if ctx.Err() == nil {
			e.mismatch(Mismatch{Path: l.path, What: "reading", Want: "the restored entry", Got: err.Error()})
		}
	}
	if err := e.pool.take(l.in); err != nil {
		bad(err)
		return
	}
	defer e.pool.give(l.in)
	name := l.node.Name
	if l.in.up == nil && l.node == e.tree.self {
		name = ""
	}
	if l.meta {
		if err := e.compareMetadata(l, name); err != nil {
			bad(err)
			return
		}
		e.n.verified.Add(1)
		e.o.Progress.Verified(1, 0)
	}
	if l.content {
		if err := e.compareContent(ctx, l, buf); err != nil {
			bad(err)
		}
	}
}

// compareMetadata compares what was asked to be applied.
func (e *engine) compareMetadata(l *look, name string) error {
	var got snapshot.Node
	want, opt := l.node, &e.o.Apply
	if _, err := l.in.h.Stat(name, &got); err != nil {
		return err
	}
	differ := func(what string, w, g any) {
		if w != g {
			e.mismatch(Mismatch{Path: l.path, What: what, Want: fmt.Sprint(w), Got: fmt.Sprint(g)})
		}
	}
	if got.Type != want.Type {
		differ("type", want.Type, got.Type)
		return nil
	}
	if err := l.in.h.Details(name, &got, localfs.DetailOptions{}); err != nil {
		return err
	}
	if runtime.GOOS != "windows" && !opt.NoOwner {
		uid, gid := want.UID, want.GID
		if opt.Owners != nil && !opt.NumericOwner {
			uid, gid = opt.Owners.IDs(want)
		}
		differ("owner", fmt.Sprint(uid, ":", gid), fmt.Sprint(got.UID, ":", got.GID))
	}
	if want.Type != snapshot.Symlink && runtime.GOOS != "windows" { // there a read-only bit is all
		mode := want.Mode
		if opt.NoPrivileged && want.Type != snapshot.Dir {
			mode &^= 0o6000
		}
		differ("mode", fmt.Sprintf("%04o", mode), fmt.Sprintf("%04o", got.Mode))
	}
	if want.Type != snapshot.Symlink || runtime.GOOS != "windows" {
		differ("modification time", fmt.Sprintf("%d.%09d", want.MTime.Sec, want.MTime.Nsec), fmt.Sprintf("%d.%09d", got.MTime.Sec, got.MTime.Nsec))
	}
	differ("size", want.Size, got.Size)
	differ("target", fmt.Sprintf("%q", want.Target), fmt.Sprintf("%q", got.Target))
	differ("device", want.Rdev, got.Rdev)
	if runtime.GOOS == "linux" { // elsewhere they are not kept
		differ("flags", want.Flags, got.Flags&want.Flags)
	}
	e.compareXAttrs(l.path, want.XAttrs, got.XAttrs)
	return nil
}

func (e *engine) compareXAttrs(path string, want, got []snapshot.XAttr) {
	for _, w := range want {
		if e.o.Apply.NoPrivileged && (len(w.Name) > 8 && (w.Name[:8] == "trusted." || w.Name[:8] == "security")) {
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
			e.mismatch(Mismatch{Path: path, What: fmt.Sprintf("xattr %q", w.Name), Want: fmt.Sprintf("%.40q", w.Value), Got: found})
		}
	}
}

// compareContent reads extents again.
func (e *engine) compareContent(ctx context.Context, l *look, buf []byte) error {
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
		e.compareSum(l.path, 0, int64(len(l.node.Inline)), crypt.Sum(l.node.Inline), crypt.Sum(buf[:n]))
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
			e.compareSum(l.path, at, int64(x.Length), x.ID, crypt.ID(h.Sum(nil)))
			e.o.Progress.Verified(0, int64(x.Length))
		} else if err := e.compareZeros(ctx, f, l.path, at, at+int64(x.Length), buf); err != nil {
			return err
		}
		at += int64(x.Length)
	}
	return nil
}

func (e *engine) compareSum(path string, off, n int64, want, got crypt.ID) {
	if want != got {
		e.mismatch(Mismatch{Path: path, What: "content", Off: off, N: n, Want: want.String(), Got: got.String()})
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

// compareZeros looks at what is stored between two offsets, which is nothing in a hole of any size.
func (e *engine) compareZeros(ctx context.Context, f *localfs.File, path string, off, end int64, buf []byte) error {
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
			if i := notZero(part[:k]); i >= 0 {
				e.mismatch(Mismatch{Path: path, What: "content", Off: at + int64(i), N: int64(k - i), Want: "zeros", Got: crypt.Sum(part[i:k]).String()})
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

// notZero returns the index of the first byte that is not 0, or -1.
func notZero(b []byte) int {
	var zeros [4096]byte
	for at := 0; at < len(b); at += len(zeros) {
		part := b[at:min(at+len(zeros), len(b))]
		if bytes.Equal(part, zeros[:len(part)]) {
			continue
		}
		for i, c := range part {
			if c != 0 {
				return at + i
			}
		}
	}
	return -1
}
