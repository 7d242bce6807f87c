package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"packhold/chunk"
	"packhold/crypt"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// linkKey names a file that several directory entries share.
type linkKey struct {
	device uint32
	inode  uint64
}

// file backs up a regular file.
func (w *worker) file(d *dir, i int, st localfs.Stat, prev *snapshot.Node) error {
	n, e := &d.nodes[i], w.e
	size := n.Size
	if e.o.LargerThan > 0 && size > uint64(e.o.LargerThan) {
		*n = snapshot.Node{}
		return nil
	}
	e.stats.files.Add(1)
	e.stats.total.Add(size)
	if prev != nil && prev.Type != snapshot.File {
		prev = nil
	}
	if e.unchanged(prev, n) {
		kept, err := w.keep(n, prev)
		if err != nil {
			return err
		}
		if kept {
			e.stats.unmodified.Add(1)
			e.o.Progress.Done(1, int64(size), int64(size))
			return nil
		}
	}
	if prev == nil {
		e.stats.fresh.Add(1)
	} else {
		e.stats.changed.Add(1)
	}
	if e.o.DryRun {
		e.stats.read.Add(size)
		e.o.Progress.Done(1, int64(size), 0)
		*n = snapshot.Node{Name: n.Name, Type: snapshot.FIFO} // not stored: a name will do
		return nil
	}
	if n.Links > 1 {
		if first, ok := e.links.Load(linkKey{n.Device, n.Inode}); ok {
			w.sameContent(n, first.(*snapshot.Node))
			e.o.Progress.Done(1, int64(size), int64(size))
			return nil
		}
	}
	e.o.Progress.Start(d.path + "/" + n.Name)
	if size > smallFile || st.Sparse(size) {
		d.pending.Add(1)
		e.queue.pushLarge(&largeFile{d: d, i: i, h: d.h.take()})
		return nil
	}
	return w.small(d, i)
}

// sameContent takes over what is stored of a file under another name. The caller knows that both are one inode.
func (w *worker) sameContent(n, from *snapshot.Node) {
	n.Size, n.Inline, n.Extents, n.ExtentBlobs = from.Size, from.Inline, from.Extents, from.ExtentBlobs
	n.XAttrs, n.XAttrBlob, n.Flags = from.XAttrs, from.XAttrBlob, from.Flags
}

// linked remembers the content of a file with several names.
func (w *worker) linked(n *snapshot.Node) {
	if n.Links > 1 && n.Name != "" {
		w.e.links.Store(linkKey{n.Device, n.Inode}, n.Clone())
	}
}

// keep takes the parent's content list for an unchanged file, if every blob of it is there in this session's view.
func (w *worker) keep(n, prev *snapshot.Node) (bool, error) {
	if !prev.XAttrBlob.IsZero() && !w.has(prev.XAttrBlob) {
		return false, nil
	}
	if len(prev.ExtentBlobs) == 0 {
		for i := range prev.Extents {
			if x := &prev.Extents[i]; x.Kind == snapshot.Data && !w.has(x.ID) {
				return false, nil
			}
		}
	} else {
		for _, id := range prev.ExtentBlobs {
			if !w.has(id) {
				return false, nil
			}
			b, err := w.e.parent.Get(w.ctx, id)
			if err != nil {
				return false, w.ctx.Err()
			}
			list, err := snapshot.DecodeExtents(b)
			if err != nil || slices.ContainsFunc(list, func(x snapshot.Extent) bool { return x.Kind == snapshot.Data && !w.has(x.ID) }) {
				return false, nil
			}
			w.e.trees.put(id, b)
		}
	}
	w.sameContent(n, prev)
	return true, nil
}

// small reads a file whole and stores it.
func (w *worker) small(d *dir, i int) error {
	n := &d.nodes[i]
	serr, err := w.readSmall(d, n)
	if err != nil {
		return err
	}
	if serr != nil {
		w.e.skip(serr)
	}
	w.linked(n)
	w.e.o.Progress.Done(1, int64(n.Size), 0)
	return nil
}

// readSmall returns what the source did wrong and, apart from it, what the repository did: the two never mix.
func (w *worker) readSmall(d *dir, n *snapshot.Node) (*SourceError, error) {
	path := d.path + "/" + n.Name
	lost := func(err error) (*SourceError, error) {
		w.uncount(n)
		*n = snapshot.Node{}
		return &SourceError{path, vanished(err)}, nil
	}
	f, err := d.h.OpenFile(n.Name)
	if err != nil {
		return lost(err)
	}
	defer f.Close()
	serr := w.opened(f, n, path)
	if serr != nil && n.Name == "" {
		return lost(serr.Err)
	}
	k, err := readFull(f, w.buf)
	if err != nil {
		return lost(err)
	}
	if k > smallFile {
		k = smallFile // it grew since: what is beyond comes with the next backup
	}
	if err := w.changed(f, n, uint64(k)); err != nil {
		serr = &SourceError{path, err}
	}
	w.e.stats.read.Add(uint64(k))
	n.Size = uint64(k)
	if err := w.externXAttrs(n); err != nil {
		return nil, err
	}
	return serr, w.content(n, w.buf[:k])
}

// opened reads the metadata of the open file, which is the truth: the entry may have been replaced since it was listed.
func (w *worker) opened(f *localfs.File, n *snapshot.Node, path string) *SourceError {
	device, name := n.Device, n.Name
	st, err := f.Stat(n)
	n.Name, n.Device = name, device
	if err != nil {
		n.Name = ""
		return &SourceError{path, err}
	}
	w.optional(n, st)
	if err := f.Details(n, localfs.DetailOptions{}); err != nil {
		if !isPartial(err) {
			n.Name = ""
		}
		return &SourceError{path, err}
	}
	return nil
}

// changed compares the file with what it was when it was opened.
func (w *worker) changed(f *localfs.File, n *snapshot.Node, read uint64) error {
	var now snapshot.Node
	if _, err := f.Stat(&now); err != nil {
		return err
	}
	if now.Size != n.Size || now.MTime != n.MTime || now.CTime != n.CTime && now.Links == n.Links || read != n.Size {
		return fmt.Errorf("%w: %d bytes of it were saved", errGrew, read)
	}
	return nil
}

// uncount takes a file out of the statistics that file counted.
func (w *worker) uncount(n *snapshot.Node) {
	w.e.stats.files.Add(^uint64(0))
	w.e.stats.total.Add(^(n.Size - 1))
}

// content stores the bytes of a file that are all in memory.
func (w *worker) content(n *snapshot.Node, data []byte) error {
	n.Inline, n.Extents, n.ExtentBlobs = nil, nil, nil
	if len(data) == 0 {
		return nil
	}
	if len(data) <= snapshot.MaxInline {
		n.Inline = append([]byte(nil), data...)
		return nil
	}
	for off := 0; off < len(data); {
		start, zeros := 0, 0
		if rest := data[off:]; len(rest) >= chunk.ZeroMin {
			start, zeros = chunk.ZeroRun(rest, int64(off))
			if zeros < chunk.ZeroMin {
				start, zeros = len(rest), 0 // the file ends: what was undecided is content
			}
		} else {
			start = len(rest)
		}
		w.cutter.Reset()
		for end := off + start; off < end; {
			k := w.cutter.Next(data[off:end], true)
			id, _, err := w.store.Store(data[off : off+k])
			if err != nil {
				return err
			}
			n.Extents = append(n.Extents, snapshot.Extent{Kind: snapshot.Data, Length: uint64(k), ID: id})
			off += k
		}
		if zeros > 0 {
			n.Extents = append(n.Extents, snapshot.Extent{Kind: snapshot.Zeros, Length: uint64(zeros)})
			off += zeros
		}
	}
	return nil
}

// largeFile is a file whose chunks all workers process.
type largeFile struct {
	d *dir
	i int
	h *handle
	r io.Reader // of a stream; nil: the entry is opened

	mu      sync.Mutex // guards what follows
	extents *snapshot.ExtentWriter
	by      *worker                    // who holds mu: extent blobs are stored with its tools
	ready   map[uint64]snapshot.Extent // not yet in order
	next    uint64                     // extents in order so far
	issued  uint64
	ended   bool // issued is final
	size    uint64
}

// chunkTask is a piece of a large file, in order.
type chunkTask struct {
	f     *largeFile
	seq   uint64
	piece chunk.Piece
}

func (t *chunkTask) do(w *worker) error {
	x := snapshot.Extent{Kind: snapshot.Data, Length: uint64(len(t.piece.Data))}
	var err error
	x.ID, _, err = w.store.Store(t.piece.Data)
	t.piece.Release()
	if err != nil {
		return err
	}
	w.e.o.Progress.Done(0, int64(x.Length), 0)
	return w.extent(t.f, t.seq, x)
}

// endTask notes that a large file was read to its end.
type endTask struct{ f *largeFile }

func (t *endTask) do(w *worker) error {
	t.f.mu.Lock()
	t.f.ended = true
	t.f.mu.Unlock()
	return w.complete(t.f)
}

// extent adds an extent of a large file. They come in any order and leave in the file's.
func (w *worker) extent(f *largeFile, seq uint64, x snapshot.Extent) error {
	f.mu.Lock()
	f.ready[seq] = x
	f.by = w
	for {
		x, ok := f.ready[f.next]
		if !ok {
			break
		}
		delete(f.ready, f.next)
		f.next++
		f.size += x.Length
		if err := f.extents.Add(x); err != nil {
			f.mu.Unlock()
			return err
		}
	}
	f.mu.Unlock()
	return w.complete(f)
}

// complete finishes a large file once all its extents are there. Only one caller finds that so.
func (w *worker) complete(f *largeFile) error {
	f.mu.Lock()
	if !f.ended || f.next != f.issued {
		f.mu.Unlock()
		return nil
	}
	f.ended = false
	f.by = w
	n := &f.d.nodes[f.i]
	n.Size = f.size
	n.Inline = nil
	err := f.extents.Finish(n)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if err := w.externXAttrs(n); err != nil {
		return err
	}
	w.linked(n)
	w.e.o.Progress.Done(1, 0, 0)
	return w.partDone(f.d)
}

// readLarge reads large files one after the other and gives their pieces to the workers. A single goroutine finds cuts at more than
// twice the speed at which two cores can process what it finds.
func (e *engine) readLarge(ctx context.Context) error {
	s, err := chunk.NewSplitter(e.rule, e.pool)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		f := e.queue.nextLarge()
		if f == nil {
			return nil
		}
		f.ready = make(map[uint64]snapshot.Extent)
		f.extents = snapshot.NewExtentWriter(func(plain []byte) (crypt.ID, error) { return f.by.putTree(plain) })
		serr, err := e.readOne(ctx, s, f)
		f.h.drop()
		if err != nil {
			return err
		}
		if serr != nil {
			e.skip(serr)
		}
		e.queue.push(&endTask{f})
	}
}

// readOne reads a large file. What was read before a failure of the source is kept, and the failure told.
func (e *engine) readOne(ctx context.Context, s *chunk.Splitter, f *largeFile) (*SourceError, error) {
	n := &f.d.nodes[f.i]
	path := f.d.path + "/" + n.Name
	if f.r != nil {
		serr, err := e.pieces(ctx, s, f, f.r, 0)
		if serr != nil { // a stream that fails is no backup
			return nil, fmt.Errorf("reading standard input: %w", serr.Err)
		}
		return nil, err
	}
	file, err := f.h.OpenFile(n.Name)
	if err != nil {
		e.forget(f, n)
		return &SourceError{path, vanished(err)}, nil
	}
	defer file.Close()
	w := &worker{e: e, ctx: ctx}
	serr := w.opened(file, n, path)
	if serr != nil && n.Name == "" {
		e.forget(f, n)
		return serr, nil
	}
	file.Sequential()
	size := int64(n.Size)
	for off := int64(0); off < size; {
		start, end, err := file.NextData(off, size)
		if err != nil {
			return &SourceError{path, err}, nil
		}
		if start > off {
			if err := e.issue(ctx, f, snapshot.Extent{Kind: snapshot.Hole, Length: uint64(start - off)}); err != nil {
				return nil, err
			}
		}
		if end > start {
			r := &countReader{r: io.NewSectionReader(file, start, end-start)}
			serr, err := e.pieces(ctx, s, f, r, start)
			if err != nil {
				return nil, err
			}
			if serr != nil {
				serr.Path = path
				return serr, nil
			}
			e.stats.read.Add(uint64(r.n))
			if r.n < end-start {
				return &SourceError{path, fmt.Errorf("%w: it became shorter", errGrew)}, nil
			}
		}
		off = end
	}
	if err := w.changed(file, n, n.Size); err != nil {
		return &SourceError{path, err}, nil
	}
	return serr, nil
}

// forget leaves a large file that cannot be opened out of its directory.
func (e *engine) forget(f *largeFile, n *snapshot.Node) {
	e.stats.files.Add(^uint64(0))
	e.stats.total.Add(^(n.Size - 1))
	// The node still has to be finished like any other; without a name it is left out.
	*n = snapshot.Node{}
}

type countReader struct {
	r io.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// pieces cuts a stretch of a file and gives the pieces to the workers.
func (e *engine) pieces(ctx context.Context, s *chunk.Splitter, f *largeFile, r io.Reader, off int64) (*SourceError, error) {
	s.Reset(r, off)
	for {
		p, err := s.Next(ctx)
		switch {
		case err == io.EOF:
			return nil, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return &SourceError{Err: err}, nil
		case p.Zeros > 0:
			p.Release()
			if err := e.issue(ctx, f, snapshot.Extent{Kind: snapshot.Zeros, Length: uint64(p.Zeros)}); err != nil {
				return nil, err
			}
		default:
			if e.stopped() {
				p.Release()
				return nil, errStopped
			}
			f.mu.Lock()
			seq := f.issued
			f.issued++
			f.mu.Unlock()
			e.queue.pushChunk(&chunkTask{f, seq, p})
		}
	}
}

var errStopped = errors.New("stopped")

func (e *engine) stopped() bool {
	e.queue.mu.Lock()
	defer e.queue.mu.Unlock()
	return e.queue.failed
}

// issue adds an extent without bytes.
func (e *engine) issue(ctx context.Context, f *largeFile, x snapshot.Extent) error {
	f.mu.Lock()
	seq := f.issued
	f.issued++
	f.mu.Unlock()
	e.queue.push(&extentTask{f, seq, x})
	return ctx.Err()
}

// extentTask adds an extent that needs no storing.
type extentTask struct {
	f   *largeFile
	seq uint64
	x   snapshot.Extent
}

func (t *extentTask) do(w *worker) error {
	w.e.o.Progress.Done(0, int64(t.x.Length), int64(t.x.Length))
	return w.extent(t.f, t.seq, t.x)
}

// pushStream starts the backup of a stream as the one file of the root directory.
func (e *engine) pushStream() {
	d := &dir{}
	e.sources.Add(1)
	e.stats.files.Add(1)
	e.stats.fresh.Add(1)
	d.nodes = []snapshot.Node{{Name: e.o.StdinName, Type: snapshot.File, Mode: 0o600, MTime: timeOf(e.started), Links: 1}}
	d.pending.Store(1)
	f := &largeFile{d: d, i: 0, r: e.o.Stdin}
	f.ready = make(map[uint64]snapshot.Extent)
	e.queue.pushLarge(f)
}
