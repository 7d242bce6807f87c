package chunk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

const (
	// readSize is the most that is asked of a reader at once: what was read is cut, hashed and compressed while it is in
	// the processor's cache.
	readSize = 1 << 20
	// leastRead is the least free space of a buffer that is read into: below it the rest of the buffer is given up.
	leastRead = 64 << 10
	// slack is what a buffer holds beyond a longest chunk. The chunk in progress moves to the next buffer when one is
	// full, so more slack means fewer copies.
	slack = 1 << 20
	// leastSlack is enough to find the end of a longest chunk: at most ZeroMin + ZeroAlign bytes are undecided about
	// zero extents, and leastRead may stay unread.
	leastSlack = ZeroMin + ZeroAlign + leastRead
)

// DefaultBuffers is a good number of buffers for one [Splitter]: one to read into and one whose chunks are in work: a third made nothing faster.
const DefaultBuffers = 2

// A Pool holds a fixed number of buffers, the memory of all splitters that share it. It is safe for concurrent use.
type Pool struct {
	free chan *buffer
	size int
}

// NewPool makes a pool of buffers of p.Max + 1 MiB each. Memory is taken when a buffer is first used, and kept.
//
// Every open [Splitter] holds one buffer from its first read until it is closed, so a pool should have more buffers
// than splitters at work; with fewer, one waits for another to close.
func NewPool(p Params, buffers int) (*Pool, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if buffers < 1 || buffers > 1<<10 {
		return nil, fmt.Errorf("making a pool of buffers: %d buffers are outside 1..1024", buffers)
	}
	return newPool(p.Max+slack, buffers), nil
}

func newPool(size, buffers int) *Pool {
	p := &Pool{free: make(chan *buffer, buffers), size: size}
	for range buffers {
		p.free <- &buffer{pool: p, alone: make(chan struct{}, 1)}
	}
	return p
}

// buffer is owned by its splitter and by the pieces cut out of it; the last of them returns it to the pool.
type buffer struct {
	pool *Pool
	data []byte
	refs atomic.Int32
	// alone has a token after refs fell to 1, perhaps an outdated one: refs is what counts. Only the splitter waits for
	// it, and while it does so the one owner left is itself.
	alone chan struct{}
}

func (b *buffer) release() {
	switch n := b.refs.Add(-1); {
	case n == 1:
		select {
		case b.alone <- struct{}{}:
		default:
		}
	case n == 0:
		b.pool.free <- b // never blocks: the channel has room for all buffers
	case n < 0:
		panic("chunk: a piece was released twice")
	}
}

// Piece is a chunk or a zero extent of a stream.
type Piece struct {
	Data  []byte // the bytes of a chunk, not to be changed; nil for a zero extent
	Zeros int64  // the length of a zero extent, else 0
	buf   *buffer
}

// Len returns the number of bytes of the stream that p stands for.
func (p Piece) Len() int64 { return int64(len(p.Data)) + p.Zeros }

// Release gives the memory of p.Data back. It must be called exactly once for every piece, from any goroutine.
func (p Piece) Release() {
	if p.buf != nil {
		p.buf.release()
	}
}

// A Splitter cuts streams into pieces, one stream after another. Bytes are read straight into the buffers that pieces
// point into, and small files share a buffer. One goroutine calls its methods; pieces may be used and released by
// others meanwhile.
type Splitter struct {
	cut  Cutter
	pool *Pool
	r    io.Reader
	buf  *buffer // nil before the first read and after Close

	// buf.data[lo:hi] has been read and not been given out. No byte of [lo:clean] is in a zero extent, so these may be
	// cut; where ends is set the last chunk ends at clean, because a zero extent begins there or the stream is over.
	// In a zero extent lo == clean, and zeros counts what of it has already left the buffer.
	lo, clean, hi int
	ends, inZeros bool
	zeros         int64

	base int64 // file offset of buf.data[0], may be negative
	eof  bool
	err  error // what Next returns until Reset
}

// NewSplitter makes a splitter. Call Reset before Next, and Close in the end. An error means that the pool was made
// for shorter chunks.
func NewSplitter(rule *Rule, pool *Pool) (*Splitter, error) {
	if need := rule.params.Max + leastSlack; pool.size < need {
		return nil, fmt.Errorf("making a splitter: buffers have %d bytes, %d are needed", pool.size, need)
	}
	return &Splitter{cut: rule.Cutter(), pool: pool, err: errNoStream}, nil
}

var errNoStream = errors.New("splitting a stream: there is none: call Reset")

// Reset begins a stream whose first byte is byte off of its file: off places the pages that zero extents consist of.
// Whatever was left of the stream before is dropped; its pieces stay valid until they are released.
func (s *Splitter) Reset(r io.Reader, off int64) {
	s.cut.Reset()
	s.r, s.eof, s.err = r, false, nil
	s.lo, s.clean, s.ends, s.inZeros, s.zeros = s.hi, s.hi, false, false, 0
	s.base = off - int64(s.hi)
}

// Close lets go of the splitter's buffer; pieces stay valid until they are released. A closed splitter may be Reset.
func (s *Splitter) Close() {
	if s.buf != nil {
		s.buf.release()
	}
	s.buf, s.lo, s.clean, s.hi, s.err = nil, 0, 0, 0, errNoStream
}

// Next returns the next piece of the stream, never an empty one, and io.EOF after the last. The pieces in order are
// the stream: chunks end where the rule cuts, and zero extents are as [ZeroRun] says.
//
// Next blocks while all buffers are in use, until pieces are released or ctx ends; releasing this splitter's own
// pieces is enough. An error of the reader is returned unchanged; after an error the stream is over until Reset.
func (s *Splitter) Next(ctx context.Context) (Piece, error) {
	for s.err == nil {
		if p, ok := s.piece(); ok {
			return p, nil
		}
		if s.eof {
			s.err = io.EOF
			break
		}
		if err := s.fill(ctx); err != nil {
			s.err = err
		}
	}
	return Piece{}, s.err
}

// piece returns the next piece, if what is in the buffer decides it.
func (s *Splitter) piece() (Piece, bool) {
	for s.hi > s.lo || s.inZeros {
		data := s.buf.data
		if s.inZeros {
			n := zeroPrefix(data[s.lo:s.hi])
			s.lo += n
			s.clean = s.lo
			s.zeros += int64(n)
			if s.hi-s.lo < ZeroAlign && !s.eof {
				return Piece{}, false
			}
			p := Piece{Zeros: s.zeros}
			s.inZeros, s.zeros = false, 0
			return p, true
		}
		if !s.ends {
			start, n := ZeroRun(data[s.clean:s.hi], s.base+int64(s.clean))
			s.clean += start
			if n >= ZeroMin {
				s.ends = true
			} else if s.eof {
				s.clean, s.ends = s.hi, true
			}
		}
		if n := s.cut.Next(data[s.lo:s.clean], s.ends); n > 0 {
			p := Piece{Data: data[s.lo : s.lo+n : s.lo+n], buf: s.buf}
			s.buf.refs.Add(1)
			s.lo += n
			return p, true
		}
		if !s.ends {
			return Piece{}, false
		}
		// Everything before clean is given out. Bytes behind it are a zero extent: at the end there are none.
		s.ends, s.inZeros = false, s.clean < s.hi
	}
	return Piece{}, false
}

// fill reads more of the stream.
func (s *Splitter) fill(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.buf == nil || len(s.buf.data)-s.hi < leastRead {
		if err := s.makeRoom(ctx); err != nil {
			return err
		}
	}
	free := s.buf.data[s.hi:min(len(s.buf.data), s.hi+readSize)]
	for range 100 {
		n, err := s.r.Read(free)
		if n < 0 || n > len(free) {
			return fmt.Errorf("splitting a stream: its reader read %d bytes into %d", n, len(free))
		}
		s.hi += n
		if err == io.EOF {
			s.eof = true
			return nil
		}
		if err != nil || n > 0 {
			return err
		}
	}
	return io.ErrNoProgress
}

// makeRoom moves the bytes not yet given out to the start of a buffer: a free one or, once nobody else uses it, the
// same. To wait for either is what makes a splitter need no more than its own pieces released: two that share a pool
// of two buffers cannot block each other.
func (s *Splitter) makeRoom(ctx context.Context) error {
	old := s.buf
	if old == nil {
		select {
		case s.buf = <-s.pool.free:
		case <-ctx.Done():
			return ctx.Err()
		}
		s.take()
	} else {
		for s.buf == old && old.refs.Load() > 1 {
			select {
			case s.buf = <-s.pool.free:
				s.take()
			case <-old.alone:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		// If the buffer is the same, refs is 1: only Next, which is here, could make it more.
		copy(s.buf.data, old.data[s.lo:s.hi])
		if s.buf != old {
			old.release()
		}
	}
	s.base += int64(s.lo)
	s.lo, s.clean, s.hi = 0, s.clean-s.lo, s.hi-s.lo
	return nil
}

// take makes the splitter the owner of a buffer that came out of the pool.
func (s *Splitter) take() {
	if s.buf.data == nil {
		s.buf.data = make([]byte, s.pool.size)
	}
	s.buf.refs.Store(1)
}
