// Package progress counts the work that is done and shows it while it goes on.
package progress

import (
	"sync/atomic"
	"time"
)

// Counter is the state of one long operation. Its methods may be called concurrently from any number of workers and do
// not block. The zero value is ready.
type Counter struct {
	totalFiles, totalBytes atomic.Int64
	doneFiles, doneBytes   atomic.Int64
	skipped                atomic.Int64
	current                atomic.Pointer[string]

	// OnWarn, if not nil, is told every warning. It is set before the work begins and must allow concurrent calls.
	OnWarn func(item, reason string)
}

// Total adds to the work that is known to lie ahead, done work included. Work of unknown size leaves it at zero.
func (c *Counter) Total(files, bytes int64) {
	c.totalFiles.Add(files)
	c.totalBytes.Add(bytes)
}

// File names the item that is worked on now. With several workers the last call counts.
func (c *Counter) File(name string) { c.current.Store(&name) }

// Done adds finished work.
func (c *Counter) Done(files, bytes int64) {
	c.doneFiles.Add(files)
	c.doneBytes.Add(bytes)
}

// Warn counts an item that was skipped, and why. Any warning makes the program exit with code 3 at least.
func (c *Counter) Warn(item, reason string) {
	c.skipped.Add(1)
	if c.OnWarn != nil {
		c.OnWarn(item, reason)
	}
}

// Skipped returns the number of warnings so far.
func (c *Counter) Skipped() int64 { return c.skipped.Load() }

// State is what a Counter held at a moment. Its numbers are read one after the other, so they may be apart by what
// workers did meanwhile.
type State struct {
	TotalFiles, TotalBytes int64 // zero if unknown
	DoneFiles, DoneBytes   int64
	Skipped                int64
	Current                string
}

// State returns the present state.
func (c *Counter) State() State {
	s := State{
		// Done before total: work done is never more than what was announced before it.
		DoneFiles: c.doneFiles.Load(), DoneBytes: c.doneBytes.Load(),
		TotalFiles: c.totalFiles.Load(), TotalBytes: c.totalBytes.Load(),
		Skipped: c.skipped.Load(),
	}
	if p := c.current.Load(); p != nil {
		s.Current = *p
	}
	return s
}

// meter turns states at times into a rate and the time that is left.
type meter struct {
	start   time.Time
	samples []sample // oldest first, none older than window but the first
}

type sample struct {
	at    time.Time
	bytes int64
	files int64
}

// window is how far back the rate looks: long enough to even out one slow file, short enough to show a stall.
const window = 15 * time.Second

// add notes a state at a time that is not before the last.
func (m *meter) add(now time.Time, s State) {
	if m.samples == nil {
		m.start = now
	}
	m.samples = append(m.samples, sample{now, s.DoneBytes, s.DoneFiles})
	for len(m.samples) > 2 && now.Sub(m.samples[1].at) >= window {
		m.samples = m.samples[1:]
	}
}

// rate returns bytes and files per second over the window.
func (m *meter) rate() (bytes, files float64) {
	if len(m.samples) < 2 {
		return 0, 0
	}
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if seconds <= 0 {
		return 0, 0
	}
	return float64(last.bytes-first.bytes) / seconds, float64(last.files-first.files) / seconds
}

// maxLeft is the longest time left that is shown: behind it the rate means nothing.
const maxLeft = 100 * 24 * time.Hour

// left estimates the time to the end from the larger of what bytes and files say; ok is false while it cannot be told.
func (m *meter) left(s State) (d time.Duration, ok bool) {
	bytes, files := m.rate()
	seconds := 0.0
	for _, part := range []struct{ rest, rate float64 }{
		{float64(s.TotalBytes - s.DoneBytes), bytes}, {float64(s.TotalFiles - s.DoneFiles), files},
	} {
		if part.rest <= 0 {
			continue
		}
		if part.rate <= 0 {
			return 0, false
		}
		seconds = max(seconds, part.rest/part.rate)
	}
	if s.TotalBytes+s.TotalFiles == 0 || seconds > maxLeft.Seconds() {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}
