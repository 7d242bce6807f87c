package pack

import (
	"sync/atomic"
	"time"
)

// Pace chooses the level of compression. One that is automatic compresses harder while the storage is what everybody waits for: then the processors
// would be idle, and fewer bytes are stored sooner. Level may be called concurrently.
type Pace struct {
	level atomic.Int32
	now   func() time.Time // nil: the level is fixed

	// Guarded by the lock of the Filler.
	last   time.Time     // when the pack before was opened
	waited time.Duration // since then
}

// NewPace reads a level's name. With "auto" the level begins at Fastest and moves up to Better; now is the clock.
func NewPace(name string, now func() time.Time) (*Pace, error) {
	l, err := ParseLevel(name)
	if err != nil {
		return nil, err
	}
	p := new(Pace)
	p.level.Store(int32(l))
	if name == "auto" {
		p.now, p.last = now, now()
	}
	return p, nil
}

// Level is the level for the next blob.
func (p *Pace) Level() Level { return Level(p.level.Load()) }

// The shares of the time between the openings of two packs that was spent waiting for the storage, above and below which the level moves by one. Where processors
// and storage are equally fast both are waited for a little, so between them nothing moves.
const (
	waitsMuch   = 0.5
	waitsLittle = 0.1
)

// wait measures how long block waits for the storage.
func (p *Pace) wait(block func()) {
	if p == nil || p.now == nil {
		block()
		return
	}
	start := p.now()
	block()
	p.waited += p.now().Sub(start)
}

// opened says that a pack is opened, and moves the level.
func (p *Pace) opened() {
	if p == nil || p.now == nil {
		return
	}
	now := p.now()
	share := float64(p.waited) / float64(max(now.Sub(p.last), 1))
	p.last, p.waited = now, 0
	switch l := p.Level(); {
	case share > waitsMuch && l < Better:
		p.level.Store(int32(l + 1))
	case share < waitsLittle && l > Fastest:
		p.level.Store(int32(l - 1))
	}
}
