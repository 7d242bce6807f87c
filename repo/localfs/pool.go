package localfs

import "sync"

// Handle is a directory or file that a Pool keeps open.
type Handle interface {
	// State is where the Pool keeps its notes: the same *HandleState in every call, zero at first.
	State() *HandleState
	// Reopen opens it. The Pool is locked meanwhile, so other handles are taken and given through o, and nothing else of the Pool is called.
	Reopen(o Opening) error
	// Shut closes it.
	Shut() error
}

// HandleState is what a Pool knows of a Handle.
type HandleState struct {
	next, prev *HandleState // nil: not in the ring
	of         Handle
	users      int
	open       bool
}

// Pool keeps up to a number of handles open, those used last, and opens them again when they are wanted. Its methods may be called concurrently.
type Pool struct {
	mu   sync.Mutex // guards what follows, and the handles themselves; held while one is opened
	most int
	open int
	idle HandleState // ring of those that nobody uses, the next one to close first
}

// NewPool returns a Pool of most handles; more only while more are in use.
func NewPool(most int) *Pool {
	p := &Pool{most: most}
	p.idle.next, p.idle.prev = &p.idle, &p.idle
	return p
}

// Opening stands for the Pool while it opens a Handle.
type Opening struct{ p *Pool }

// Take is Pool.Take.
func (o Opening) Take(h Handle) error { return o.p.take(h) }

// Give is Pool.Give.
func (o Opening) Give(h Handle) { o.p.give(h) }

// Take opens h, unless it is open, and keeps it so until Give.
func (p *Pool) Take(h Handle) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.take(h)
}

func (p *Pool) take(h Handle) error {
	s := h.State()
	if !s.open {
		for p.open >= p.most && p.idle.next != &p.idle {
			_ = p.shut(p.idle.next) // it is opened again when it is wanted: that tells
		}
		if err := h.Reopen(Opening{p}); err != nil {
			return err
		}
		s.of, s.open = h, true
		p.open++
	}
	s.unlink()
	s.users++
	return nil
}

// Give ends what Take began.
func (p *Pool) Give(h Handle) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.give(h)
}

func (p *Pool) give(h Handle) {
	s := h.State()
	if s.users--; s.users == 0 && s.open {
		last := p.idle.prev
		s.prev, s.next = last, &p.idle
		last.next, p.idle.prev = s, s
	}
}

// Discard closes h, unless somebody uses it or it is closed.
func (p *Pool) Discard(h Handle) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := h.State(); s.open && s.users == 0 {
		return p.shut(s)
	}
	return nil
}

// Abandon closes h for users that ended without Give.
func (p *Pool) Abandon(h Handle) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := h.State(); s.open {
		s.users = 0
		_ = p.shut(s) // nothing was written that counts
	}
}

// Close closes what nobody uses.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.idle.next != &p.idle {
		_ = p.shut(p.idle.next) // nothing was written that counts
	}
}

func (p *Pool) shut(s *HandleState) error {
	s.unlink()
	s.open = false
	p.open--
	return s.of.Shut()
}

func (s *HandleState) unlink() {
	if s.next != nil {
		s.next.prev, s.prev.next = s.prev, s.next
		s.next, s.prev = nil, nil
	}
}
