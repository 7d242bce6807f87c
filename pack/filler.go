package pack

import (
	"context"
	"errors"
	"sync"
)

// Filler fills packs of one kind: at any moment at most one is open, which all workers share. Add may be called concurrently.
type Filler struct {
	Pace *Pace // is told how long packs wait for the storage; set before the first Add; nil: nobody

	ctx     context.Context
	size    int
	begin   func(buf []byte) (*Builder, error)
	full    func(b *Builder, free func())
	buffers chan []byte // bounds the packs in memory: open or on their way

	mu   sync.Mutex // guards what follows
	open *Builder
	buf  []byte // of open
}

// NewFiller makes a Filler of at most n packs in memory, each of size bytes at most (BufferSize). begin opens a pack in buf. full takes a pack that
// nothing more fits in on its way, and calls free when its memory is no longer needed; it may wait. When ctx ends, Add fails with its cause.
func NewFiller(ctx context.Context, n, size int, begin func(buf []byte) (*Builder, error), full func(b *Builder, free func())) *Filler {
	f := &Filler{ctx: ctx, size: size, begin: begin, full: full, buffers: make(chan []byte, n)}
	for range n {
		f.buffers <- nil // memory is made on first use
	}
	return f
}

// Add puts a blob into the open pack, opening and closing packs as needed (Builder.Add).
func (f *Filler) Add(c *Codec, blob *Blob) error {
	for {
		b, err := f.current()
		if err != nil {
			return err
		}
		if err = b.Add(c, blob); !errors.Is(err, ErrFull) {
			return err
		}
		f.rotate(b)
	}
}

// current returns the open pack, after waiting for a buffer if there is none.
func (f *Filler) current() (*Builder, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := context.Cause(f.ctx); err != nil {
		return nil, err
	}
	if f.open != nil {
		return f.open, nil
	}
	var buf []byte
	f.Pace.wait(func() {
		select {
		case buf = <-f.buffers:
		case <-f.ctx.Done():
		}
	})
	if err := context.Cause(f.ctx); err != nil {
		return nil, err
	}
	if buf == nil {
		buf = make([]byte, f.size)
	}
	f.Pace.opened()
	b, err := f.begin(buf)
	if err != nil {
		return nil, err
	}
	f.open, f.buf = b, buf
	return b, nil
}

// rotate sends the pack b on its way, if it is still the open one.
func (f *Filler) rotate(b *Builder) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open != b || b == nil {
		return
	}
	f.open = nil
	buf := f.buf
	// Where full waits it does so with the lock held: nobody could open a pack meanwhile, all buffers being full.
	f.Pace.wait(func() { f.full(b, func() { f.buffers <- buf }) })
}

// Finish sends the open pack on its way, if it holds anything.
func (f *Filler) Finish() {
	f.mu.Lock()
	b := f.open
	f.mu.Unlock()
	if b != nil && b.Count() > 0 {
		f.rotate(b)
	}
}

// Drop gives up the memory of packs that are neither open nor on their way. It is made again when needed.
func (f *Filler) Drop() {
	n := 0
	for range cap(f.buffers) {
		select {
		case <-f.buffers:
			n++
		default:
		}
	}
	for range n {
		f.buffers <- nil
	}
}
