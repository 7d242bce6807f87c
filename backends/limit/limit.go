// Package limit slows storages down to a rate, so that a backup leaves room on a line for others.
package limit

import (
	"context"
	"iter"
	"net"

	"golang.org/x/time/rate"

	"packhold/backends"
)

// burst is how many bytes pass at once, without a wait between them: 1/16 s of 1 MiB/s, and no more than buffers on the way hold anyway.
const burst = 64 << 10

// Limiter bounds how many bytes a second go to a storage, and come from it, over all connections together. It may be used concurrently.
type Limiter struct{ up, down *rate.Limiter }

// New returns a Limiter of so many bytes a second. 0 is no limit.
func New(up, down int64) *Limiter { return &Limiter{limiter(up), limiter(down)} }

func limiter(n int64) *rate.Limiter {
	if n <= 0 {
		return rate.NewLimiter(rate.Inf, burst)
	}
	return rate.NewLimiter(rate.Limit(n), burst)
}

// Conn returns c with its bytes counted: those of all programs above it, encryption and repeated ones too. Closing it ends waits.
func (l *Limiter) Conn(c net.Conn) net.Conn {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &conn{Conn: c, l: l, ctx: ctx, cancel: cancel}
}

type conn struct {
	net.Conn
	l      *Limiter
	ctx    context.Context // done when the connection is closed
	cancel context.CancelCauseFunc
}

func (c *conn) Write(p []byte) (done int, err error) {
	for done < len(p) {
		n := min(len(p)-done, burst)
		if err := c.l.up.WaitN(c.ctx, n); err != nil {
			return done, context.Cause(c.ctx)
		}
		n, err := c.Conn.Write(p[done : done+n])
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), burst)])
	if n > 0 && c.l.down.WaitN(c.ctx, n) != nil && err == nil {
		err = context.Cause(c.ctx)
	}
	return n, err
}

func (c *conn) Close() error {
	c.cancel(net.ErrClosed)
	return c.Conn.Close()
}

// Storage returns s with the bytes of Put and Get counted, for storages without connections, such as mounted folders. A file goes as a whole when its turn comes.
func (l *Limiter) Storage(s backends.Storage) backends.Storage { return &store{s, l} }

type store struct {
	inner backends.Storage
	l     *Limiter
}

func wait(ctx context.Context, r *rate.Limiter, n int) error {
	for n > 0 {
		part := min(n, burst)
		if err := r.WaitN(ctx, part); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		n -= part
	}
	return nil
}

func (s *store) Put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	if err := wait(ctx, s.l.up, len(data)); err != nil {
		return err
	}
	return s.inner.Put(ctx, name, data, opts)
}

func (s *store) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	b, err := s.inner.Get(ctx, name, off, n)
	if err != nil {
		return nil, err
	}
	return b, wait(ctx, s.l.down, len(b))
}

func (s *store) Stat(ctx context.Context, name string) (backends.Info, error) {
	return s.inner.Stat(ctx, name)
}

func (s *store) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	return s.inner.List(ctx, prefix)
}

func (s *store) Delete(ctx context.Context, name string) error { return s.inner.Delete(ctx, name) }
