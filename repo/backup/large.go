package backup

import (
	"context"
	"fmt"
	"io"
	"sync"

	"packhold/chunk"
	"packhold/crypt"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// largeFile is a file whose chunks all workers process.
type largeFile struct {
	p      *part
	i      int
	had    verdict
	h      *handle
	r      io.Reader // of a stream; nil: the entry is opened
	issued uint64    // extents so far; the reader's own

	special, follow bool // a device or FIFO; perhaps behind a link

	mu      sync.Mutex // guards what follows
	extents *snapshot.ExtentWriter
	by      *worker                    // who holds mu: extent blobs are stored with its tools
	ready   map[uint64]snapshot.Extent // not yet in order
	next    uint64                     // extents in order so far
	total   uint64                     // once ended
	ended   bool
	whole   bool // nothing went wrong
	size    uint64
}

func newLargeFile(p *part, i int, had verdict) *largeFile {
	f := &largeFile{p: p, i: i, had: had, ready: make(map[uint64]snapshot.Extent)}
	f.extents = snapshot.NewExtentWriter(func(plain []byte) (crypt.ID, error) { return f.by.putTree(plain) })
	return f
}

// later makes what is left to the reader of large files. The caller pushes it.
func (w *worker) later(p *part, i int, had verdict) *largeFile {
	p.pending.Add(1)
	f := newLargeFile(p, i, had)
	f.h = p.d.h.take()
	return f
}

// chunkTask is a piece of a large file.
type chunkTask struct {
	f     *largeFile
	seq   uint64
	piece chunk.Piece
}

func (t *chunkTask) drop() { t.piece.Release() }

func (t *chunkTask) do(w *worker) error {
	x := snapshot.Extent{Kind: snapshot.Data, Length: uint64(len(t.piece.Data))}
	var err error
	x.ID, err = w.put(t.piece.Data)
	t.piece.Release()
	if err != nil {
		return err
	}
	w.e.o.Progress.Done(0, int64(x.Length), 0)
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	t.f.ready[t.seq] = x
	return w.advance(t.f)
}

// endTask notes that a large file was read to its end.
type endTask struct {
	f     *largeFile
	whole bool
}

func (t *endTask) drop() {}

func (t *endTask) do(w *worker) error {
	f := t.f
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended, f.total, f.whole = true, f.issued, t.whole
	return w.advance(f)
}

// advance takes the extents that are in order now. They come in any order and leave in the file's; with the last one the file is finished.
// The caller holds f.mu.
func (w *worker) advance(f *largeFile) error {
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
			return err
		}
	}
	if !f.ended || f.next != f.total {
		return nil
	}
	f.ended = false // only one caller finds it so
	d, n := f.p.d, &f.p.nodes[f.i]
	w.e.o.Progress.Done(1, 0, 0)
	if n.Name == "" { // it could not be opened
		return w.partDone(f.p)
	}
	n.Size, n.Inline = f.size, nil
	if err := f.extents.Finish(n); err != nil {
		return err
	}
	if err := w.externXAttrs(d, n); err != nil {
		return err
	}
	if f.whole {
		w.e.links.put(n)
	}
	w.saved(d, n, f.had)
	return w.partDone(f.p)
}

// readLarge reads large files one after the other and gives their pieces to the workers. A single goroutine finds cuts at more than
// twice the speed at which two cores can process what it finds.
func (w *worker) readLarge(s *chunk.Splitter) error {
	for {
		f := w.e.queue.takeLarge()
		if f == nil {
			return nil
		}
		problem, err := w.readOne(s, f)
		f.h.drop()
		if err != nil {
			return err
		}
		if problem != nil {
			w.e.skip(problem)
		}
		w.e.queue.push(&endTask{f, problem == nil})
	}
}

// readOne reads a large file. What was read before a failure of the source is kept, and the failure told.
func (w *worker) readOne(s *chunk.Splitter, f *largeFile) (*SourceError, error) {
	if f.r != nil {
		return nil, w.readStream(s, f)
	}
	n, d := &f.p.nodes[f.i], f.p.d
	name := n.Name
	if f.special {
		problem, err := w.readSpecial(s, f)
		if err != nil || problem == nil {
			return nil, err
		}
		return &SourceError{Path: w.path(d) + "/" + name, Err: problem}, nil
	}
	file, err := f.h.OpenFile(name)
	if err != nil {
		w.lose(d, n, name, err)
		return nil, nil
	}
	defer file.Close()
	_, problem := w.opened(file, n)
	if n.Name == "" {
		w.lose(d, n, name, problem)
		return nil, nil
	}
	file.Sequential()
	srcErr, err := w.readExtents(s, f, file)
	if err != nil {
		return nil, err
	}
	if srcErr == nil {
		srcErr = w.still(file, n, n.Size)
	}
	if srcErr != nil {
		problem = srcErr
	}
	if problem != nil {
		return &SourceError{Path: w.path(d) + "/" + name, Err: problem}, nil
	}
	return nil, nil
}

// readExtents reads the data and the holes of an open file, up to the size it had when it was opened.
func (w *worker) readExtents(s *chunk.Splitter, f *largeFile, file *localfs.File) (srcErr, err error) {
	size := int64(f.p.nodes[f.i].Size)
	for off := int64(0); off < size; {
		start, end, err := file.NextData(off, size)
		if err != nil {
			return err, nil
		}
		if start > off {
			f.issue(snapshot.Extent{Kind: snapshot.Hole, Length: uint64(start - off)})
			w.e.o.Progress.Done(0, start-off, start-off)
		}
		if end > start {
			n, srcErr, err := w.pieces(s, f, io.NewSectionReader(file, start, end-start), start)
			if err != nil || srcErr != nil {
				return srcErr, err
			}
			if n < end-start {
				return fmt.Errorf("%w: it became shorter", errChanged), nil
			}
		}
		off = end
	}
	return nil, w.ctx.Err()
}

// pieces cuts a stretch of a file, which begins at off, and gives the pieces to the workers. It returns how many bytes it gave.
func (w *worker) pieces(s *chunk.Splitter, f *largeFile, r io.Reader, off int64) (n int64, srcErr, err error) {
	s.Reset(r, off)
	for {
		p, err := s.Next(w.ctx)
		switch {
		case err == io.EOF:
			return n, nil, nil
		case w.ctx.Err() != nil && err != nil:
			return n, nil, w.ctx.Err()
		case err != nil:
			return n, err, nil
		}
		n += p.Len()
		w.stats.BytesRead += uint64(p.Len())
		if p.Zeros > 0 {
			p.Release()
			f.issue(snapshot.Extent{Kind: snapshot.Zeros, Length: uint64(p.Zeros)})
			w.e.o.Progress.Done(0, p.Zeros, 0)
			continue
		}
		w.e.queue.pushChunk(&chunkTask{f, f.issued, p})
		f.issued++
	}
}

// issue adds an extent without bytes. It goes on its way with the next chunk, or the end.
func (f *largeFile) issue(x snapshot.Extent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready[f.issued] = x
	f.issued++
}

// pushStream starts the backup of a stream as the one file of the root directory.
func (e *engine) pushStream() {
	d := &dir{ended: true}
	p := &part{d: d, nodes: []snapshot.Node{{Name: e.o.StdinName, Type: snapshot.File, Mode: 0o600, MTime: timeOf(e.started), Links: 1}}}
	p.pending.Store(1)
	d.parts = []*part{p}
	f := newLargeFile(p, 0, fresh)
	f.r = e.o.Stdin
	e.queue.pushLarge(f)
}

// readStream reads the stream. One that fails, or is empty because what should have filled it failed, is no backup.
func (w *worker) readStream(s *chunk.Splitter, f *largeFile) error {
	r := newStreamReader(w.ctx, f.r)
	defer r.stop()
	n, srcErr, err := w.pieces(s, f, r, 0)
	switch {
	case err != nil:
		return err
	case srcErr != nil:
		return fmt.Errorf("reading standard input: %w", srcErr)
	case n == 0:
		return ErrEmpty
	}
	w.e.sources.Add(1)
	return nil
}

// streamReader is a reader whose Read returns when ctx ends, even if that of the stream blocks, as a terminal's or a pipe's may for ever.
type streamReader struct {
	ctx     context.Context
	want    chan []byte
	got     chan readResult
	blocked bool
}

type readResult struct {
	n   int
	err error
}

func newStreamReader(ctx context.Context, r io.Reader) *streamReader {
	s := &streamReader{ctx: ctx, want: make(chan []byte), got: make(chan readResult, 1)}
	go func() {
		defer close(s.got)
		for p := range s.want {
			n, err := r.Read(p)
			s.got <- readResult{n, err}
		}
	}()
	return s
}

// Read reads into p. After the end of ctx p may still be written to, by a Read that was under way: who called must not use it again.
func (s *streamReader) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	s.want <- p
	select {
	case r := <-s.got:
		return r.n, r.err
	case <-s.ctx.Done():
		s.blocked = true
		return 0, s.ctx.Err()
	}
}

// stop ends the goroutine, and waits for that unless it is blocked in the stream.
func (s *streamReader) stop() {
	close(s.want)
	if !s.blocked {
		<-s.got
	}
}
