// Package repair makes damaged objects of a repository whole again from what is left of them.
//
// A Plan says what can be done and changes nothing. Apply carries it out in a session of its own, so that no prune removes what it mends, and in an order in
// which every call leaves at least as much restorable as there was: what is new is stored and read back before anything old goes. Whatever is mended is
// proved first, a pack by its name, which commits to every byte of it, and anything else by its signature: there are no false repairs.
package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"packhold/backends"
	"packhold/pack"
	"packhold/repo"
	"packhold/repo/check"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// How says what an object is mended with.
type How uint8

// The ways, as Step.How has them.
const (
	Parity  How = iota + 1 // a pack: from its own parity
	Replica                // the same object of a copy of the repository
	Copy                   // the same object of this repository, under another name
	Tables                 // index segments: from what the packs say of themselves
	Drop                   // it is removed: what it said is known from elsewhere, or of no use any more
	Blobs                  // a pack: what is needed of it is whole in other packs, or is copied there from what can still be read; then it goes
)

// whole is for an object that is as it should be: what is wrong is in the packs that it needs.
const whole How = 255

func (h How) String() string {
	return [...]string{"none", "parity", "replica", "copy", "tables", "drop", "blobs"}[h]
}

// Step is one thing to do.
type Step struct {
	Object string
	How    How
	Packs  []string // Tables: those that no segment names
}

// Left is a damaged object that nothing mends.
type Left struct {
	Object string
	Why    error
}

// Plan is what can be done about the damage that a check found.
type Plan struct {
	Steps []Step
	Left  []Left
	First bool // the steps mend what says whom to believe: what else is wrong shows when the repository was opened again
}

// Options say what there is to mend with.
type Options struct {
	From backends.Storage // a copy of the repository; nil: there is none
}

// mender is one run.
type mender struct {
	r     *repo.Repo
	s     backends.Storage
	from  backends.Storage
	coder pack.Coder
}

func newMender(r *repo.Repo, o Options) *mender {
	return &mender{r: r, s: r.Storage(), from: o.From}
}

// Make finds out what can be done about rep, which is of a check of r that read every byte. It stores nothing. Errors are the storage's.
func Make(ctx context.Context, r *repo.Repo, rep *check.Report, o Options) (*Plan, error) {
	p, err := newMender(r, o).plan(ctx, rep)
	if err != nil {
		return nil, fmt.Errorf("planning the repair: %w", err)
	}
	return p, nil
}

func (m *mender) plan(ctx context.Context, rep *check.Report) (*Plan, error) {
	p := new(Plan)
	objects := make(map[string]error) // that are damaged
	var order []string
	for _, q := range rep.Problems {
		if _, have := objects[q.Object]; !have {
			order = append(order, q.Object)
		}
		objects[q.Object] = errors.Join(objects[q.Object], q.Err)
	}
	index := len(rep.Unnamed) > 0
	for _, name := range order {
		why := objects[name]
		how, err := m.judge(ctx, name, why)
		switch {
		case err != nil:
			return nil, err
		case how == whole:
		case how == Tables:
			index = true
		case how != 0:
			p.Steps = append(p.Steps, Step{Object: name, How: how})
		case !slices.Contains(rep.Unnamed, name) && !strings.HasPrefix(name, "blob "):
			p.Left = append(p.Left, Left{name, why})
		}
	}
	first, err := m.absent(ctx, order)
	if err != nil {
		return nil, err
	}
	for _, s := range p.Steps {
		if rank(s.Object) == 0 {
			first = append(first, s)
		}
	}
	if len(first) > 0 {
		return &Plan{Steps: first, First: true}, nil
	}
	missing, err := m.missing(ctx, order)
	if err != nil {
		return nil, err
	}
	for _, name := range missing {
		if _, have := objects[name]; !have {
			p.Steps, index = append(p.Steps, Step{Object: name, How: Replica}), true
		}
	}
	slices.SortStableFunc(p.Steps, func(a, b Step) int { return rank(a.Object) - rank(b.Object) })
	if err := m.retirable(ctx, p, rep); err != nil {
		return nil, err
	}
	if index {
		packs, bad, err := m.unnamed(ctx)
		if err != nil {
			return nil, err
		}
		packs = append(packs, missing...)
		for i, name := range bad {
			s := Step{Object: name, How: Tables}
			if i == 0 {
				s.Packs = packs
			}
			p.Steps = append(p.Steps, s)
		}
		if len(bad) == 0 && len(packs) > 0 {
			p.Steps = append(p.Steps, Step{Object: "index/", How: Tables, Packs: packs})
		}
	}
	return p, nil
}

// rank is the order of steps: first what says whom to believe, then packs, whose tables the index may be made from, then what goes.
func rank(name string) int {
	switch {
	case strings.HasPrefix(name, "packs/"), strings.HasPrefix(name, "meta/"):
		return 1
	case strings.HasPrefix(name, "leases/"), strings.HasPrefix(name, "verified/"), strings.HasPrefix(name, "snapshots/"), strings.HasPrefix(name, "copied/"):
		return 2
	}
	return 0
}

// judge finds what mends one object; 0 is nothing, whole that nothing has to.
func (m *mender) judge(ctx context.Context, name string, why error) (How, error) {
	prefix, _, _ := strings.Cut(name, "/")
	switch prefix {
	case "packs", "meta":
		if r, ok := ref(name); ok {
			if beside, err := m.besides(ctx, r.Name, r.Incarnation); beside || err != nil {
				return 0, err
			}
		}
		_, how, err := m.whole(ctx, name)
		if unmendable(err) {
			return 0, nil
		}
		return how, err
	case "config", "replica", "keys":
		_, how, err := m.twin(ctx, name)
		return how, err
	case "index":
		return m.rotten(ctx, name, Tables)
	case "leases":
		return m.lease(ctx, name)
	case "verified": // all of it has just been looked at anew
		return m.rotten(ctx, name, Drop)
	case "settings", "roots", "bundles", "hosts", "grants", "marks", "forgotten", "copied", "snapshots":
		if b, err := m.good(ctx, m.s, name); b != nil || err != nil {
			return whole, err
		}
		b, err := m.abroad(ctx, name)
		if b == nil || err != nil {
			return 0, err
		}
		return Replica, nil
	}
	return 0, nil
}

// absent finds what the replica has of certificates, marks and their like and that is not here: once stored it is never removed, and who misses a
// certificate takes what its host stored for forged.
func (m *mender) absent(ctx context.Context, damaged []string) (steps []Step, err error) {
	if m.from == nil || len(damaged) == 0 {
		return nil, nil
	}
	for _, prefix := range []string{"roots/", "hosts/", "grants/", "marks/", "forgotten/"} {
		here, _, err := stored.List(ctx, m.s, prefix)
		if err != nil {
			return nil, err
		}
		have := make(map[string]bool)
		for _, i := range here {
			have[i.Name] = true
		}
		there, _, err := stored.List(ctx, m.from, prefix)
		if err != nil {
			return nil, err
		}
		for _, i := range there {
			if have[i.Name] {
				continue
			}
			switch b, err := m.abroad(ctx, i.Name); {
			case err != nil:
				return nil, err
			case b != nil:
				steps = append(steps, Step{Object: i.Name, How: Replica})
			}
		}
	}
	return steps, nil
}

// rotten is how for an object whose bytes are not those of its name: of one that somebody signed wrongly nothing is known to be wrong with the storage, and
// it stays as evidence.
func (m *mender) rotten(ctx context.Context, name string, how How) (How, error) {
	b, err := stored.Fetch(ctx, m.s, name)
	switch {
	case stored.Isolated(err), stored.Unreadable(err):
		return how, nil
	case stored.Missing(err):
		return 0, nil
	case err != nil:
		return 0, err
	case matches(name, b):
		return 0, nil
	}
	return how, nil
}

// lease drops a lease that cannot be read and whose session has ended; the others may be at work.
func (m *mender) lease(ctx context.Context, name string) (How, error) {
	id, err := format.LeaseSession(name)
	if err != nil {
		return 0, nil
	}
	switch _, err := stored.Stat(ctx, m.s, "snapshots/"+id.String()); {
	case err == nil:
		return Drop, nil
	case stored.Missing(err):
		return 0, nil
	default:
		return 0, err
	}
}

// unmendable reports that an error is about bytes that are lost, not about the storage that was asked for them.
func unmendable(err error) bool {
	return stored.Isolated(err) || stored.Unreadable(err) || stored.Missing(err)
}
