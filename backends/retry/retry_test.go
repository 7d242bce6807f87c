package retry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/backends/fault"
	"packhold/backends/mem"
)

var errBroken = errors.New("connection reset")

// clock is a clock that sleeping moves.
type clock struct {
	mu    sync.Mutex
	now   time.Time
	waits []time.Duration
}

func (c *clock) options() Options {
	return Options{Now: func() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }, Rand: func() float64 { return 0.5 },
		Sleep: func(ctx context.Context, d time.Duration) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.now = c.now.Add(d)
			c.waits = append(c.waits, d)
			return ctx.Err()
		}}
}

func newStore(t *testing.T) (*Store, *fault.Store, *clock) {
	t.Helper()
	c := &clock{now: time.Unix(1e9, 0)}
	f := fault.New(mem.New(time.Now))
	return New(f, c.options()), f, c
}

func TestConformance(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, func(t *testing.T) backends.Storage { return New(mem.New(time.Now), Options{}) })
}

// Storages whose first call of every kind fails now and then conform as well: nothing is lost, and nothing done twice that shows.
func TestConformanceOfFlaky(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, func(t *testing.T) backends.Storage {
		f := fault.New(mem.New(time.Now))
		var mu sync.Mutex
		n := 0
		f.SetHook(func(fault.Op, string) error {
			mu.Lock()
			defer mu.Unlock()
			if n++; n%3 == 0 {
				return errBroken
			}
			return nil
		})
		return New(f, Options{First: time.Microsecond, Most: time.Microsecond})
	})
}

// calls is one call of each kind.
var calls = map[fault.Op]func(ctx context.Context, s backends.Storage) error{
	fault.Put: func(ctx context.Context, s backends.Storage) error {
		return s.Put(ctx, "new", []byte("new"), backends.PutOptions{})
	},
	fault.Get:  func(ctx context.Context, s backends.Storage) error { _, err := s.Get(ctx, "old", 0, -1); return err },
	fault.Stat: func(ctx context.Context, s backends.Storage) error { _, err := s.Stat(ctx, "old"); return err },
	fault.List: func(ctx context.Context, s backends.Storage) error {
		for _, err := range s.List(ctx, "") {
			if err != nil {
				return err
			}
		}
		return nil
	},
	fault.Delete: func(ctx context.Context, s backends.Storage) error { return s.Delete(ctx, "old") },
}

func old(t *testing.T, s backends.Storage) {
	t.Helper()
	if err := s.Put(t.Context(), "old", []byte("old"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestOutages(t *testing.T) {
	t.Parallel()
	for op, call := range calls {
		for _, outage := range []time.Duration{2 * time.Second, 5 * time.Minute, 15*time.Minute - time.Millisecond, 16 * time.Minute} {
			s, f, c := newStore(t)
			old(t, s)
			end := c.now.Add(outage)
			f.SetHook(func(fault.Op, string) error {
				if c.now.Before(end) {
					return errBroken
				}
				return nil
			})
			began := c.now
			err := call(t.Context(), s)
			took := c.now.Sub(began)
			if outage < 15*time.Minute {
				if err != nil || took < outage || took > outage+30*time.Second {
					t.Errorf("%v, %v: %v after %v", op, outage, err, took)
				}
			} else if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "given up after") || took != 15*time.Minute {
				t.Errorf("%v, %v: %v after %v", op, outage, err, took)
			}
			if !slices.IsSorted(c.waits[:len(c.waits)-1]) || c.waits[0] > 250*time.Millisecond || slices.Max(c.waits) > 30*time.Second {
				t.Errorf("%v, %v: waits %v", op, outage, c.waits)
			}
		}
	}
}

// TestAway has calls come one after another while the storage is away: all of them together are given up after the time of one, each further one after
// one try, and when it is back they wait again.
func TestAway(t *testing.T) {
	t.Parallel()
	s, f, c := newStore(t)
	type line struct {
		what string
		at   time.Duration
	}
	var told []line
	began := c.now
	s.o.Waiting = func(what string, err error, wait time.Duration) { told = append(told, line{what, c.now.Sub(began)}) }
	var back []time.Duration
	s.o.Back = func(away time.Duration) { back = append(back, away) }
	old(t, s)
	f.SetHook(func(fault.Op, string) error { return errBroken })
	for n := range 3 {
		_, err := s.Get(t.Context(), "old", 0, -1)
		if took := c.now.Sub(began); !errors.Is(err, errBroken) || took != 15*time.Minute {
			t.Errorf("call %d: %v after %v", n, err, took)
		}
		if n == 0 {
			// One line at first, then one every half minute.
			if len(told) < 20 || len(told) > 31 || told[0] != (line{"reading old", 0}) || told[1].at < 30*time.Second {
				t.Errorf("told %v", told)
			}
			c.waits = nil
		}
	}
	if len(c.waits) > 0 {
		t.Errorf("later calls waited %v", c.waits)
	}
	f.SetHook(nil)
	if _, err := s.Get(t.Context(), "old", 0, -1); err != nil || !slices.Equal(back, []time.Duration{15 * time.Minute}) {
		t.Errorf("%v, back after %v", err, back)
	}

	// One file that cannot be read does not make the storage away, and has its own time.
	f.SetHook(func(op fault.Op, name string) error {
		if op == fault.Get {
			_, err := s.Stat(t.Context(), "old") // another call, which works
			return errors.Join(errBroken, err)
		}
		return nil
	})
	began = c.now
	if _, err := s.Get(t.Context(), "old", 0, -1); !errors.Is(err, errBroken) || c.now.Sub(began) != 15*time.Minute {
		t.Errorf("%v after %v", err, c.now.Sub(began))
	}
	// A call that ended by its caller's will long ago says nothing of the storage now.
	f.SetHook(func(fault.Op, string) error { return errBroken })
	ctx, cancel := context.WithCancel(t.Context())
	s.o.Waiting = func(string, error, time.Duration) { cancel() }
	if _, err := s.Get(ctx, "old", 0, -1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	c.now = c.now.Add(time.Hour)
	f.SetHook(nil)
	f.Add(fault.Rule{Op: fault.Stat, Err: errBroken})
	if _, err := s.Stat(t.Context(), "old"); err != nil {
		t.Error(err)
	}
}

// TestEnded: a call whose context has ended is not waited with, whatever its error is.
func TestEnded(t *testing.T) {
	t.Parallel()
	s, f, c := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.SetHook(func(fault.Op, string) error { cancel(); return context.DeadlineExceeded })
	if _, err := s.Stat(ctx, "old"); err == nil || len(c.waits) > 0 {
		t.Errorf("%v after waits %v", err, c.waits)
	}
}

func TestFinalErrors(t *testing.T) {
	t.Parallel()
	for op, call := range calls {
		for _, err := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, backends.ErrNoSpace, backends.ErrUnsupported, backends.ErrGone, backends.ErrPermanent,
			context.Canceled} {
			s, f, c := newStore(t)
			old(t, s)
			f.Add(fault.Rule{Op: op, Err: fmt.Errorf("refused: %w", err)})
			if got := call(t.Context(), s); !errors.Is(got, err) || len(c.waits) > 0 {
				t.Errorf("%v, %v: %v after waits %v", op, err, got, c.waits)
			}
		}
	}
}

type later time.Duration

func (l later) Error() string             { return "slow down" }
func (l later) RetryAfter() time.Duration { return time.Duration(l) }

// TestLater has the storage say when to ask again: it is waited for, but not beyond the end.
func TestLater(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, time.Second, time.Minute, 20 * time.Minute} {
		s, f, c := newStore(t)
		old(t, s)
		f.Add(fault.Rule{Op: fault.Get, Err: fmt.Errorf("reading: %w", later(after))})
		_, err := s.Get(t.Context(), "old", 0, -1)
		if after > 15*time.Minute {
			if err == nil || len(c.waits) > 0 {
				t.Errorf("%v: %v after %v", after, err, c.waits)
			}
		} else if err != nil || len(c.waits) != 1 || c.waits[0] < after || c.waits[0] > max(after, 250*time.Millisecond) {
			t.Errorf("%v: %v after %v", after, err, c.waits)
		}
	}
}

// Answers that get lost change nothing: an exclusive Put may find its own file, a Delete that it is gone.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	s, f, _ := newStore(t)
	old(t, s)
	f.Add(fault.Rule{Op: fault.Delete, Effect: fault.After, Err: errBroken}, fault.Rule{Op: fault.Put, Effect: fault.After, Err: errBroken})
	if err := s.Delete(t.Context(), "old"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := s.Stat(t.Context(), "old"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := s.Put(t.Context(), "new", []byte("new"), backends.PutOptions{IfAbsent: true}); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if b, err := s.Get(t.Context(), "new", 0, -1); err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
}

// A listing that breaks off in the middle is complete in the end.
func TestListing(t *testing.T) {
	t.Parallel()
	s, f, c := newStore(t)
	for i := range 10 {
		if err := s.Put(t.Context(), fmt.Sprint("f", i), nil, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	f.Add(fault.Rule{Op: fault.List, Effect: fault.Partial, Err: errBroken})
	seen := map[string]int{}
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		seen[info.Name]++
	}
	if len(seen) != 10 || len(c.waits) != 1 {
		t.Errorf("%v, waits %v", seen, c.waits)
	}
	f.Add(fault.Rule{Op: fault.List, Effect: fault.Partial, Err: errBroken})
	for range s.List(t.Context(), "") {
		break
	}
}

// TestCancel ends a wait.
func TestCancel(t *testing.T) {
	t.Parallel()
	f := fault.New(mem.New(time.Now), fault.Rule{Sticky: true, Err: errBroken})
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("the user wants to stop")
	told := 0
	s := New(f, Options{First: time.Hour, Most: time.Hour, GiveUp: 100 * time.Hour, Waiting: func(what string, err error, wait time.Duration) {
		if told++; what != "looking for x" || !errors.Is(err, errBroken) || wait < 30*time.Minute {
			t.Errorf("%s, %v, %v", what, err, wait)
		}
		cancel(stop)
	}})
	if _, err := s.Stat(ctx, "x"); !errors.Is(err, stop) || told != 1 {
		t.Errorf("%v after %d", err, told)
	}
}
