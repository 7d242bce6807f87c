package fetch

import (
	"context"
	"sync/atomic"

	"packhold/backends"
	"packhold/index"
	"packhold/repo"
)

// From far storages packs are fetched in one piece as far as they are wanted, and ahead of the work. Memory: AheadMost pieces, 108 MiB. Three hide a
// round trip of 100 ms behind the work on what has come: at 1 GB/s a piece takes 35 ms to arrive and as long to be restored.
const (
	AheadMost = 3
	aheadMost = 36 << 20 // a pack of the default size with its parity
	aheadGap  = 1 << 20  // fetched for nothing, in place of a round trip of 10 ms at 100 MB/s
)

// Ahead is a range of a pack that is fetched before those who need it come for it. Add comes first, by one goroutine; then one calls Fetch, and
// those who were added call Wait and Finish, concurrently.
type Ahead struct {
	pack   *index.PackInfo
	off, n int64
	left   atomic.Int32  // not finished
	ready  chan struct{} // closed when data and err are set
	done   chan struct{} // closed when nobody needs it any more
	data   []byte
	err    error
}

// Add makes a range of a pack a part of a, or of a new one where it lies too far away. a may be nil. It returns the one it is in.
func (a *Ahead) Add(pack *index.PackInfo, off, n int64) *Ahead {
	if a == nil || a.pack != pack || off-(a.off+a.n) > aheadGap || off+n-a.off > aheadMost {
		a = &Ahead{pack: pack, off: off, ready: make(chan struct{}), done: make(chan struct{})}
	}
	a.n = max(a.n, off+n-a.off)
	a.left.Add(1)
	return a
}

// Fetch fetches the range unless skip, and returns when nobody needs it any more, with the number of bytes.
func (a *Ahead) Fetch(ctx context.Context, r *repo.Repo, skip bool) (n int, err error) {
	if !skip {
		a.data, a.err = r.ReadPack(ctx, a.pack, a.off, a.n)
		n = len(a.data)
	}
	close(a.ready)
	select {
	case <-ctx.Done():
		return n, ctx.Err() // they may still look at the bytes
	case <-a.done:
		backends.Release(a.data)
		return n, nil
	}
}

// Wait returns the bytes of a range that was added, until Finish; none where they were skipped.
func (a *Ahead) Wait(ctx context.Context, off, n int64) ([]byte, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-a.ready:
	}
	if a.err != nil || a.data == nil {
		return nil, a.err
	}
	return a.data[off-a.off:][:n:n], nil
}

// Finish notes that one who was added is done with the bytes.
func (a *Ahead) Finish() {
	if a.left.Add(-1) == 0 {
		close(a.done)
	}
}
