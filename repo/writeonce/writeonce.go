// Package writeonce keeps the objects of a repository from being deleted for as long as its settings say.
package writeonce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/repo/format"
)

// ErrNoLock says that the storage cannot lock what has to be locked. Its errors match backends.ErrUnsupported too.
var ErrNoLock = errors.New("the repository is write-once, and this place cannot lock files")

// An object is locked for its length and a quarter more, and its lock is extended to that again once less than the length is left: so what is promised
// always holds, and a live object is extended about four times in its length, not with every backup.
const leadPart = 4

// Policy says for how long objects are locked.
type Policy struct {
	Length     time.Duration            // of everything that has no class, or one without a length of its own
	Classes    map[string]time.Duration // by retention class
	Compliance bool                     // in a way that nobody ends early
	Since      time.Time                // when the settings were made: no clock that is right shows less
}

// clockSlack is how far a clock may be behind that of who made the settings: time zones mixed up, no more.
const clockSlack = 24 * time.Hour

// PolicyOf is that of settings. A Length of 0 locks nothing.
func PolicyOf(s *format.Settings) Policy {
	p := Policy{Length: time.Duration(s.Lock) * time.Second, Compliance: s.LockMode == "compliance", Since: time.Unix(s.Time, 0)}
	for _, c := range s.ClassLocks {
		if p.Classes == nil {
			p.Classes = make(map[string]time.Duration)
		}
		p.Classes[c.Class] = time.Duration(c.Seconds) * time.Second
	}
	return p
}

// Settle writes p into settings: PolicyOf(s) is p then, in whole seconds, but for Since.
func (p Policy) Settle(s *format.Settings) {
	s.Lock, s.LockMode, s.ClassLocks = int64(p.Length/time.Second), "", nil
	switch {
	case p.Compliance:
		s.LockMode = "compliance"
	case s.Lock != 0:
		s.LockMode = "governance"
	}
	for _, class := range slices.Sorted(maps.Keys(p.Classes)) {
		s.ClassLocks = append(s.ClassLocks, format.ClassLock{Class: class, Seconds: int64(p.Classes[class] / time.Second)})
	}
}

// Of returns the length of a class.
func (p Policy) Of(class string) time.Duration {
	if d, ok := p.Classes[class]; ok {
		return d
	}
	return p.Length
}

// Until returns the date that a new lock of length d gets.
func Until(now time.Time, d time.Duration) time.Time { return now.Add(d + d/leadPart) }

// Keeper is a storage that locks what is stored through it, as one policy and the clock say. Its methods may be called concurrently.
//
// Where the storage has no locks, as a replica's may, a Keeper stores without, unless it is a strict one.
type Keeper struct {
	backends.Storage
	policy Policy
	class  string
	strict bool
	now    func() time.Time
	memory *memory
}

// New returns a Keeper over s for what has no class. What it finds out of packs it writes to the file path, sealed with key, where both are given, so
// that it need not be asked again; Save does.
func New(s backends.Storage, p Policy, now func() time.Time, m Memory) *Keeper {
	return &Keeper{Storage: s, policy: p, now: now, memory: m.load(now())}
}

// Class returns a Keeper for what a session of a class stores.
func (k *Keeper) Class(class string) *Keeper {
	c := *k
	c.class = class
	return &c
}

// Strict returns a Keeper that stores nothing without the lock that it should have, for who promises one.
func (k *Keeper) Strict() *Keeper {
	c := *k
	c.strict = true
	return &c
}

// Policy returns the policy.
func (k *Keeper) Policy() Policy { return k.policy }

// Save writes down what is known of packs. It saves requests only: a failure may be told, and costs nothing else.
func (k *Keeper) Save() error { return k.memory.save(k.now()) }

// Doubt forgets what is known of packs, so that Hold asks the storage for all.
func (k *Keeper) Doubt() { k.memory.clear() }

// Put implements backends.Storage. What is write-once is locked, unless opts have a date of their own.
func (k *Keeper) Put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	plain := opts
	if err := k.checkClock(); err != nil && format.WriteOnce(name) {
		return fmt.Errorf("storing %q: %w", name, err)
	}
	if opts.RetainUntil.IsZero() && format.WriteOnce(name) {
		opts.RetainUntil = Until(k.now(), k.policy.Of(k.class))
	}
	opts.Compliance = k.policy.Compliance && !opts.RetainUntil.IsZero()
	err := k.Storage.Put(ctx, name, data, opts)
	if errors.Is(err, backends.ErrUnsupported) && !opts.RetainUntil.IsZero() {
		if k.strict {
			return fmt.Errorf("%w: %w", ErrNoLock, err)
		}
		return k.Storage.Put(ctx, name, data, plain)
	}
	if err == nil && !opts.RetainUntil.IsZero() {
		k.memory.note(name, opts.RetainUntil)
	}
	return err
}

// checkClock finds a clock that was never set, as where a battery is dead: what is locked by it would be free. The storage's own check cannot, where the
// storage is this machine's disk.
func (k *Keeper) checkClock() error {
	if now := k.now(); now.Before(k.policy.Since.Add(-clockSlack)) {
		return fmt.Errorf("%w: it is %s here, and the settings of the repository were made on %s", backends.ErrClock, now.UTC().Format(time.DateOnly), k.policy.Since.UTC().Format(time.DateOnly))
	}
	return nil
}

// Object is one that has to be kept, and its class.
type Object struct {
	Name, Class string
}

// Held says what Hold did.
type Held struct {
	Objects  int // that were to be kept
	Asked    int // of those, whose date had to be asked for
	Extended int // of those, that were not kept for long enough
	Gone     int // of those, that do not exist
}

// holders is how many objects are asked for and extended at once: enough to hide the round trips of a network.
const holders = 16

// Hold makes sure that every object stays locked for the length of its class from now on, and extends the locks of those that would not. Each costs
// no request where its date is remembered, and else one that asks and perhaps one that extends. A missing one is an error matching fs.ErrNotExist,
// after the others were looked after. It may go through objects twice.
func (k *Keeper) Hold(ctx context.Context, objects iter.Seq2[Object, error]) (Held, error) {
	held, wrong, err := k.holdAll(ctx, objects)
	if err == nil && wrong {
		// What is remembered is of another storage, as where disks with copies of one repository are mounted in turn.
		k.Doubt()
		before := held.Extended
		held, _, err = k.holdAll(ctx, objects)
		held.Extended += before
	}
	return held, err
}

// holdAll is Hold once. wrong says that an object is kept for less than was remembered.
func (k *Keeper) holdAll(ctx context.Context, objects iter.Seq2[Object, error]) (held Held, wrong bool, err error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(holders)
	var mu sync.Mutex // guards held, wrong and gone
	var gone error
	remembered := 0
	for o, err := range objects {
		if err == nil {
			err = gctx.Err()
		}
		if err == nil {
			err = k.checkClock()
		}
		if err != nil {
			err = cmp.Or(g.Wait(), err) // what failed in a worker, not that the others were stopped for it
			return held, false, err
		}
		need := k.now().Add(k.policy.Of(o.Class))
		known := k.memory.until(o.Name)
		if !known.Before(need) {
			if remembered++; remembered > 1 && !k.sampled(o.Name) {
				mu.Lock()
				held.Objects++
				mu.Unlock()
				continue
			}
		}
		g.Go(func() error {
			until, extended, err := k.hold(gctx, o, need)
			mu.Lock()
			defer mu.Unlock()
			held.Objects++
			held.Asked++
			if extended {
				held.Extended++
			}
			if errors.Is(err, fs.ErrNotExist) {
				if held.Gone++; gone == nil {
					gone = err
				}
				return nil
			}
			wrong = wrong || err == nil && until.Before(known)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return held, false, err
	}
	return held, wrong, gone
}

// samples is of how many packs one is asked for although its date is remembered, another one every day. The first of every call is, too.
const samples = 64

func (k *Keeper) sampled(name string) bool {
	id, _, _, err := format.ParsePackName(name)
	return err == nil && int64(id[len(id)-1])%samples == k.now().Unix()/(24*60*60)%samples
}

// hold asks for an object's date and extends it if it is before need. It returns the date that was there.
func (k *Keeper) hold(ctx context.Context, o Object, need time.Time) (until time.Time, extended bool, err error) {
	info, err := k.Storage.Stat(ctx, o.Name)
	if err != nil {
		return until, false, fmt.Errorf("looking until when %s is kept: %w", o.Name, err)
	}
	weak := k.policy.Compliance && info.Guard == backends.Governance
	if !info.RetainUntil.Before(need) && !weak {
		k.memory.note(o.Name, info.RetainUntil)
		return info.RetainUntil, false, nil
	}
	later := Until(k.now(), k.policy.Of(o.Class))
	if info.RetainUntil.After(later) {
		later = info.RetainUntil
	}
	err = k.Storage.Put(ctx, o.Name, nil, backends.PutOptions{Extend: true, RetainUntil: later, Compliance: k.policy.Compliance})
	if errors.Is(err, backends.ErrUnsupported) {
		if k.strict {
			return info.RetainUntil, false, fmt.Errorf("%w: %w", ErrNoLock, err)
		}
		return info.RetainUntil, false, nil
	}
	if err != nil {
		return info.RetainUntil, false, err
	}
	k.memory.note(o.Name, later)
	return info.RetainUntil, true, nil
}

// Check returns an error matching backends.ErrUnsupported if s cannot keep files as p says. It tries with the config: if there is one it is locked for
// a minute, and nothing is stored.
func Check(ctx context.Context, s backends.Storage, p Policy, now time.Time) error {
	err := s.Put(ctx, format.ConfigNames[0], nil, backends.PutOptions{Extend: true, RetainUntil: now.Add(time.Minute), Compliance: p.Compliance})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
