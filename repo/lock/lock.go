// Package lock extends the locks of what a repository needs, and tells what is locked and what lies open.
package lock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
	"packhold/repo/writeonce"
)

// ErrNone says that the settings of the repository lock nothing.
var ErrNone = errors.New("this repository is not write-once")

// Extend makes sure that every live object stays locked for the length of its class from now on: packs and segments that the index names, which it
// reads anew, and everything beside packs. It asks the storage for each, whatever is remembered. Packs that no segment names, those of a final, and
// superseded parts of audit logs are left to become free. A repository without write-once is ErrNone.
func Extend(ctx context.Context, r *repo.Repo) (writeonce.Held, error) {
	if k := r.Keeper(); k != nil {
		k.Doubt()
	}
	return Keep(ctx, r)
}

// Keep is Extend that asks for no pack whose date is remembered.
func Keep(ctx context.Context, r *repo.Repo) (writeonce.Held, error) {
	k := r.Keeper()
	if k == nil {
		return writeonce.Held{}, ErrNone
	}
	if err := r.LoadIndex(ctx); err != nil {
		return writeonce.Held{}, fmt.Errorf("extending locks: %w", err)
	}
	held, err := k.Strict().Hold(ctx, objects(ctx, r))
	if stored.Missing(err) { // removed meanwhile, or lost, which is for verify to say
		err = nil
	}
	if err != nil {
		return held, fmt.Errorf("extending locks: %w", stored.Failed("extending the lock of", "an object", err))
	}
	return held, nil
}

// Class is what is known of the objects of one retention class.
type Class struct {
	Name    string        // "" for what has no class
	Length  time.Duration // that the settings promise
	Objects int
	Bytes   int64
	Locked  int       // of Objects
	First   time.Time // when the first lock ends, of those that are locked
	Last    time.Time
}

// maxOpen is how many names of what lies open a Status keeps.
const maxOpen = 1000

// Status is how the live objects of a repository are locked.
type Status struct {
	Policy  writeonce.Policy
	Guard   backends.Guard // of what is locked, the weakest; Unguarded if nothing is
	Classes []Class        // by name
	Open    []string       // names of what should be locked and is not, at most 1,000, sorted
	Opened  int            // how many there are
	Gone    int            // live objects that are not there
}

// Due reports whether something lies open, or has less than three quarters of its length left: Extend should run.
func (s *Status) Due(now time.Time) bool {
	return s.Opened > 0 || slices.ContainsFunc(s.Classes, func(c Class) bool {
		return c.Locked > 0 && c.First.Before(now.Add(c.Length*3/4))
	})
}

// askers is how many objects are asked for at once.
const askers = 16

// Look asks the storage for the lock of every live object. Without write-once in the settings all of them lie open, and only what they are is counted.
func Look(ctx context.Context, r *repo.Repo) (*Status, error) {
	if err := r.LoadIndex(ctx); err != nil {
		return nil, fmt.Errorf("looking at locks: %w", err)
	}
	s := &Status{Policy: writeonce.PolicyOf(r.Settings())}
	classes := make(map[string]*Class)
	now := r.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(askers)
	var mu sync.Mutex // guards s and classes
	seen := make(map[string]bool)
	for o, err := range objects(ctx, r) {
		if err == nil {
			err = gctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("looking at locks: %w", cmp.Or(g.Wait(), err)) // what failed in an asker, not that the others were stopped for it
		}
		if strings.HasPrefix(o.Name, "packs/") || strings.HasPrefix(o.Name, "meta/") {
			if seen[o.Name] { // two segments name it
				continue
			}
			seen[o.Name] = true
		}
		g.Go(func() error {
			info, err := stored.Stat(gctx, r.Storage(), o.Name)
			mu.Lock()
			defer mu.Unlock()
			if stored.Missing(err) {
				s.Gone++
				return nil
			}
			if err == nil {
				s.count(classes, o, info, now)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("looking at locks: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(classes)) {
		s.Classes = append(s.Classes, *classes[name])
	}
	slices.Sort(s.Open)
	return s, nil
}

func (s *Status) count(classes map[string]*Class, o writeonce.Object, info backends.Info, now time.Time) {
	c := classes[o.Class]
	if c == nil {
		c = &Class{Name: o.Class, Length: s.Policy.Of(o.Class)}
		classes[o.Class] = c
	}
	c.Objects++
	c.Bytes += info.Size
	if !info.RetainUntil.After(now) {
		if s.Opened++; len(s.Open) < maxOpen {
			s.Open = append(s.Open, o.Name)
		}
		return
	}
	c.Locked++
	if s.Guard == backends.Unguarded || info.Guard < s.Guard {
		s.Guard = info.Guard
	}
	if c.First.IsZero() || info.RetainUntil.Before(c.First) {
		c.First = info.RetainUntil
	}
	if info.RetainUntil.After(c.Last) {
		c.Last = info.RetainUntil
	}
}

// objects yields what has to stay. The index is loaded. A pack that two segments name comes twice.
func objects(ctx context.Context, r *repo.Repo) iter.Seq2[writeonce.Object, error] {
	return func(yield func(writeonce.Object, error) bool) {
		failed := func(err error) { yield(writeonce.Object{}, err) }
		for p, err := range r.Index().Packs() {
			if err != nil {
				failed(err)
				return
			}
			if p.Excluded()&index.Final != 0 {
				continue
			}
			if !yield(writeonce.Object{Name: format.PackName(p.Name, p.Tree(), p.Incarnation), Class: p.Retention}, nil) {
				return
			}
		}
		for _, id := range r.Index().Segments() {
			if !yield(writeonce.Object{Name: "index/" + id.String()}, nil) {
				return
			}
		}
		snaps, err := r.Snapshots(ctx)
		if err != nil {
			failed(err)
			return
		}
		class := make(map[string]string)
		for _, s := range snaps {
			class[s.Name] = s.Retention
		}
		if !yield(writeonce.Object{Name: format.ConfigNames[0]}, nil) {
			return
		}
		for _, prefix := range append(slices.Clone(format.ControlPrefixes[1:]), "audit/") {
			if prefix == "index/" || prefix == "leases/" {
				continue
			}
			infos, _, err := stored.List(ctx, r.Storage(), prefix)
			if err != nil {
				failed(err)
				return
			}
			if prefix == "audit/" {
				infos = liveAudit(infos)
			}
			for _, i := range infos {
				if format.WriteOnce(i.Name) && !yield(writeonce.Object{Name: i.Name, Class: class[i.Name]}, nil) {
					return
				}
			}
		}
	}
}

// liveAudit leaves out what newer objects of the same log make superfluous: incomplete tiles that a wider or the complete one holds, and checkpoints but
// for the newest one and those of sizes divisible by 256 (FORMAT.md, section 13.3). Only these may ever be removed, so only these may become free.
func liveAudit(infos []backends.Info) []backends.Info {
	const width = 256
	newest := make(map[string]uint64) // by what stands before the number
	split := func(name string) (string, uint64, bool) {
		for _, mark := range []string{".p/", "/checkpoint/"} {
			if base, number, ok := strings.Cut(name, mark); ok {
				n, err := strconv.ParseUint(number, 10, 63)
				return base + mark, n, err == nil
			}
		}
		return name + ".p/", width, strings.Contains(name, "/tile/data/") // a complete tile is wider than all
	}
	for _, i := range infos {
		if base, n, ok := split(i.Name); ok {
			newest[base] = max(newest[base], n)
		}
	}
	return slices.DeleteFunc(infos, func(i backends.Info) bool {
		base, n, ok := split(i.Name)
		return ok && n != newest[base] && (strings.HasSuffix(base, ".p/") || n%width != 0)
	})
}
