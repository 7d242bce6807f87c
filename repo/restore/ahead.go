package restore

import (
	"context"
	"sync/atomic"

	"packhold/backends"
	"packhold/index"
)

// From far storages packs are fetched in one piece as far as they are wanted, and ahead of the workers. Memory: aheadMost times farRange, 108 MiB.
// Three hide a round trip of 100 ms behind the work on what has come: at 1 GB/s a piece takes 35 ms to arrive and as long to be restored.
const (
	farRange  = 36 << 20 // a pack of the default size with its parity
	farGap    = 1 << 20  // fetched for nothing, in place of a round trip of 10 ms at 100 MB/s
	farPages  = 1 << 20  // of tree pages at once
	aheadMost = 3
)

// ahead is a range of a pack that is fetched before the jobs that need it are done.
type ahead struct {
	pack   *index.PackInfo
	off, n int64
	left   atomic.Int32  // jobs not finished
	ready  chan struct{} // closed when data and err are set
	done   chan struct{} // closed when no job needs it any more
	data   []byte
	err    error
}

// gather makes ranges of the sorted jobs of a window: those whose parts of one pack lie close together share one.
func gather(w *window, jobs []job) {
	var last *ahead
	for i := range jobs {
		j := &jobs[i]
		if j.n == 0 {
			continue
		}
		pack, end := w.packs[w.refs[j.from].pack], j.off+j.n
		if last == nil || last.pack != pack || j.off-(last.off+last.n) > farGap || end-last.off > farRange {
			last = &ahead{pack: pack, off: j.off, ready: make(chan struct{}), done: make(chan struct{})}
		}
		last.n = max(last.n, end-last.off)
		last.left.Add(1)
		j.ahead = last
	}
}

// fetchAhead fetches what planners ask for, one range after the other, and keeps each until nobody needs it.
func (e *engine) fetchAhead(ctx context.Context) error {
	for {
		var a *ahead
		var ok bool
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a, ok = <-e.aheads:
			if !ok {
				return nil
			}
		}
		if !e.full.Load() {
			a.data, a.err = e.repo.ReadPack(ctx, a.pack, a.off, a.n)
			e.n.fetched.Add(uint64(len(a.data)))
		}
		close(a.ready)
		select {
		case <-ctx.Done():
			return ctx.Err() // workers may still look at the bytes
		case <-a.done:
			backends.Release(a.data)
			a.data = nil
		}
	}
}

// wait returns the bytes of a job.
func (a *ahead) wait(ctx context.Context, j job) ([]byte, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-a.ready:
	}
	if a.err != nil || a.data == nil {
		return nil, a.err
	}
	return a.data[j.off-a.off:][:j.n:j.n], nil
}

// finish notes that a job is done with the bytes.
func (a *ahead) finish() {
	if a.left.Add(-1) == 0 {
		close(a.done)
	}
}
