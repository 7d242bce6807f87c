package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"
)

const (
	// callsPerLink bounds the calls on one connection: servers bound the open files of each.
	callsPerLink = 24

	// Weights of calls. A link whose load is fullLink is not shared further as long as another can be opened: small calls share a link, because
	// another one costs a dozen round trips, and large ones have one each.
	smallCall = 1
	largeCall = 48
	fullLink  = 48

	// refusedPause is how long no further connection is tried after one was refused.
	refusedPause = time.Minute

	// maxTries of a call: the first may find a connection that died unnoticed, and the second one that dies under it.
	maxTries = 3
)

// errClosed is the error of calls after Close.
var errClosed = fmt.Errorf("storage %w", fs.ErrClosed)

// pool holds the connections.
type pool struct {
	dial func(ctx context.Context) (*link, error)
	most int
	room chan struct{} // one element for each call under way
	ends chan struct{} // closed by close

	mu      sync.Mutex // guards what is below
	links   []*link
	dialing int
	refused time.Time     // when a further connection was refused last
	changed chan struct{} // closed, and made anew, when one of the above changes
	closed  bool
}

func newPool(most int, dial func(ctx context.Context) (*link, error)) *pool {
	return &pool{dial: dial, most: most, room: make(chan struct{}, most*callsPerLink), ends: make(chan struct{}), changed: make(chan struct{})}
}

// do makes a call on a connection, and again on another one when the connection is lost. What call does must bear that.
func (p *pool) do(ctx context.Context, weight int, call func(ctx context.Context, l *link) error) error {
	var lost error
	for try := 1; ; try++ {
		l, err := p.acquire(ctx, weight)
		if err != nil {
			if lost != nil {
				return fmt.Errorf("%w (after: %v)", err, lost)
			}
			return err
		}
		err = l.run(ctx, call)
		p.release(l, weight)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctxError(ctx)
		case !isLost(err) || try == maxTries:
			return err
		}
		lost = err
	}
}

// acquire returns a live link, counting a call of the weight on it.
func (p *pool) acquire(ctx context.Context, weight int) (*link, error) {
	if ctx.Err() != nil {
		return nil, ctxError(ctx)
	}
	select {
	case p.room <- struct{}{}:
	case <-p.ends:
		return nil, errClosed
	case <-ctx.Done():
		return nil, ctxError(ctx)
	}
	l, err := p.choose(ctx, weight)
	if err != nil {
		<-p.room
	}
	return l, err
}

func (p *pool) choose(ctx context.Context, weight int) (*link, error) {
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, errClosed
		}
		p.dropDead()
		best := p.idlest()
		more := len(p.links)+p.dialing < p.most && (len(p.links) == 0 || time.Since(p.refused) > refusedPause)
		switch {
		case best != nil && (best.load < fullLink || !more):
			p.take(best, weight)
			p.mu.Unlock()
			return best, nil
		case more:
			p.dialing++
			p.mu.Unlock()
			if l, err := p.open(ctx, weight); l != nil || err != nil {
				return l, err
			}
		default: // others are dialing
			changed := p.changed
			p.mu.Unlock()
			select {
			case <-changed:
			case <-p.ends:
				return nil, errClosed
			case <-ctx.Done():
				return nil, ctxError(ctx)
			}
		}
	}
}

// open dials, the place having been counted by the caller. It returns neither a link nor an error if others must do.
func (p *pool) open(ctx context.Context, weight int) (*link, error) {
	l, err := p.dialUntilClosed(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialing--
	defer p.notify()
	switch {
	case p.closed && l != nil:
		_ = l.close()
		return nil, errClosed
	case p.closed:
		return nil, errClosed
	case err == nil:
		p.links = append(p.links, l)
		p.take(l, weight)
		return l, nil
	case ctx.Err() != nil:
		return nil, ctxError(ctx)
	case errors.Is(err, ErrHostKeyChanged) || p.idlest() == nil:
		return nil, err
	}
	// A server may allow fewer connections than this one wants.
	p.refused = time.Now()
	return nil, nil
}

func (p *pool) dialUntilClosed(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-p.ends:
			cancel()
		case <-ctx.Done():
		}
	})
	defer wg.Wait()
	defer cancel()
	return p.dial(ctx)
}

// notify wakes those who wait for others. p.mu is held.
func (p *pool) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// idlest returns the live link with the least load, or nil. p.mu is held.
func (p *pool) idlest() (best *link) {
	for _, l := range p.links {
		if !l.isDead() && (best == nil || l.load < best.load) {
			best = l
		}
	}
	return best
}

// take counts a call. p.mu is held.
func (p *pool) take(l *link, weight int) {
	if l.load == 0 {
		l.since.Store(time.Now().UnixNano())
	}
	l.load += weight
}

// dropDead forgets dead links that nobody uses. Their ends are quick to join. p.mu is held.
func (p *pool) dropDead() {
	kept := p.links[:0]
	for _, l := range p.links {
		if l.load == 0 && l.isDead() {
			_ = l.close()
			continue
		}
		kept = append(kept, l)
	}
	clear(p.links[len(kept):])
	p.links = kept
}

func (p *pool) release(l *link, weight int) {
	p.mu.Lock()
	l.load -= weight
	if l.load == 0 {
		l.since.Store(0)
	}
	p.dropDead()
	p.notify()
	p.mu.Unlock()
	<-p.room
}

// close ends all connections. Calls under way get a moment to finish, then fail.
func (p *pool) close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	close(p.ends)
	links := append([]*link(nil), p.links...)
	p.mu.Unlock()
	timers := make([]*time.Timer, len(links))
	for i, l := range links {
		timers[i] = time.AfterFunc(closeGrace, l.kill)
	}
	for range cap(p.room) {
		p.room <- struct{}{}
	}
	for _, t := range timers {
		t.Stop()
	}
	p.mu.Lock()
	links = p.links
	p.links = nil
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, l := range links {
		wg.Go(func() { _ = l.close() })
	}
	wg.Wait()
}
