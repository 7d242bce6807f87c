// Package retry tries again what a storage failed to do, since networks and servers come back.
package retry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"packhold/backends"
)

// Options say how long to try. The zero value is good.
type Options struct {
	// First and Most are the first and the longest wait between two tries of a call; each wait is up to twice the one before. 0: 250 ms and 30 s.
	First, Most time.Duration

	// GiveUp is how long after its first failure a call is tried, or after that of the first call of all since the storage answered one. 0: 15 minutes.
	GiveUp time.Duration

	// Waiting is told of a wait before it begins: of the first since the storage answered, and then of one every Most, since many calls wait at once.
	// Back is told when it answers again, and for how long it did not. They are called concurrently; nil: nobody is told.
	Waiting func(what string, err error, wait time.Duration)
	Back    func(away time.Duration)

	// Now is the clock, Sleep waits until the time is over or ctx is done, Rand draws from [0, 1). Nil: the real ones.
	Now   func() time.Time
	Sleep func(ctx context.Context, d time.Duration) error
	Rand  func() float64
}

// Later is an error of a storage that says when to ask again.
type Later interface {
	error
	RetryAfter() time.Duration
}

// Store is a backends.Storage that hands every call to another, and tries it again when it fails for a reason that may pass. A Put whose answer got lost is
// tried again too, so that an exclusive one may find its own file, and so is a Delete. A listing that breaks off begins again: it may yield a file twice.
//
// Once a call was given up because the storage is away, later ones are tried once each until it is back: who failed must not wait as long again to say so.
type Store struct {
	inner backends.Storage
	o     Options

	mu   sync.Mutex // guards what is below
	away time.Time  // the first failure since the storage answered, zero if there was none
	last time.Time  // the last one
	told time.Time  // when Waiting was called last, zero if it was not in this outage
}

var _ backends.Storage = (*Store)(nil)

// New returns a Store over inner.
func New(inner backends.Storage, o Options) *Store {
	if o.First <= 0 {
		o.First = 250 * time.Millisecond
	}
	if o.Most <= 0 {
		o.Most = 30 * time.Second
	}
	if o.GiveUp <= 0 {
		o.GiveUp = 15 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	return &Store{inner: inner, o: o}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// final reports whether the same call would fail the same way again.
func final(err error) bool {
	for _, is := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, fs.ErrInvalid, backends.ErrNoSpace, backends.ErrUnsupported, backends.ErrInvalidName,
		backends.ErrGone, backends.ErrPermanent, backends.ErrClock, io.ErrUnexpectedEOF, context.Canceled} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// answers reports whether err is what only a storage says that is there.
func answers(err error) bool {
	return err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist)
}

// answered notes that the storage is there.
func (s *Store) answered() {
	s.mu.Lock()
	away, told := s.away, !s.told.IsZero()
	s.away, s.told = time.Time{}, time.Time{}
	s.mu.Unlock()
	if told && s.o.Back != nil {
		s.o.Back(s.o.Now().Sub(away))
	}
}

// failed notes a failure, and returns since when the storage does not answer.
func (s *Store) failed(now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Calls whose callers went away leave no end of an outage: one that nobody has seen for so long is another.
	if s.away.IsZero() || now.Sub(s.last) > s.o.GiveUp/2 {
		s.away, s.told = now, time.Time{}
	}
	s.last = now
	return s.away
}

// tell tells of a wait, unless somebody was told a moment ago.
func (s *Store) tell(what string, err error, pause time.Duration, now time.Time) {
	s.mu.Lock()
	quiet := s.o.Waiting == nil || !s.told.IsZero() && now.Sub(s.told) < s.o.Most
	if !quiet {
		s.told = now
	}
	s.mu.Unlock()
	if !quiet {
		s.o.Waiting(what, err, pause)
	}
}

// try calls f until it succeeds, fails for good, or the time is over.
func (s *Store) try(ctx context.Context, what string, f func() error) error {
	var began time.Time
	wait := s.o.First
	for n := 1; ; n++ {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		err := f()
		if answers(err) {
			s.answered()
		}
		if err == nil || final(err) || ctx.Err() != nil {
			return err
		}
		now := s.o.Now()
		if n == 1 {
			began = now
		}
		away := s.failed(now)
		if began.Before(away) { // the storage answers others, but not this call
			away = began
		}
		left := s.o.GiveUp - now.Sub(away)
		// Not all who were cut off at once come back at once. The last try is at the end.
		pause := min(wait/2+time.Duration(s.o.Rand()*float64(wait)/2), left)
		if later, ok := errors.AsType[Later](err); ok {
			pause = max(pause, later.RetryAfter())
		}
		if left <= 0 || pause > left {
			return fmt.Errorf("%w; given up after %d tries in %v", err, n, now.Sub(away).Round(time.Second))
		}
		s.tell(what, err, pause, now)
		if err := s.o.Sleep(ctx, pause); err != nil {
			return err
		}
		wait = min(2*wait, s.o.Most)
	}
}

// Put implements backends.Storage.
func (s *Store) Put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	return s.try(ctx, "storing "+name, func() error { return s.inner.Put(ctx, name, data, opts) })
}

// Get implements backends.Storage.
func (s *Store) Get(ctx context.Context, name string, off, n int64) (data []byte, err error) {
	err = s.try(ctx, "reading "+name, func() (err error) {
		data, err = s.inner.Get(ctx, name, off, n)
		return err
	})
	return data, err
}

// Stat implements backends.Storage.
func (s *Store) Stat(ctx context.Context, name string) (info backends.Info, err error) {
	err = s.try(ctx, "looking for "+name, func() (err error) {
		info, err = s.inner.Stat(ctx, name)
		return err
	})
	return info, err
}

// List implements backends.Storage.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		stopped := false
		err := s.try(ctx, "listing "+prefix, func() error {
			for info, err := range s.inner.List(ctx, prefix) {
				if err != nil {
					return err
				}
				if !yield(info, nil) {
					stopped = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(backends.Info{}, err)
		}
	}
}

// Delete implements backends.Storage. It may find that its own earlier try has removed the file.
func (s *Store) Delete(ctx context.Context, name string) error {
	return s.try(ctx, "deleting "+name, func() error { return s.inner.Delete(ctx, name) })
}
