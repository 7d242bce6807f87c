// Package gc frees what no snapshot needs.
package gc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/retain"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// ErrNotOwn says that a host would take out another's snapshot.
var ErrNotOwn = errors.New("the snapshot is another host's")

// Plan is what a policy would do.
type Plan struct {
	Groups []retain.Group   // with the reason beside every snapshot that is kept
	Forget []*repo.Snapshot // the others, in the order of the groups, the newest of each first
}

// NewPlan applies a policy to the snapshots of list. body finds what only readers see of one, nil if it stays closed. Holds, pins and suspicions are those
// of m. Errors are retain's.
func NewPlan(r *repo.Repo, list []*repo.Snapshot, body func(*repo.Snapshot) *snapshot.Body, m *Marks, p retain.Policy) (*Plan, error) {
	byID := make(map[crypt.SessionID]*repo.Snapshot, len(list))
	asked := make([]retain.Snapshot, len(list))
	for i, s := range list {
		byID[s.ID()] = s
		v := retain.Snapshot{ID: s.ID(), Number: s.Number, Host: s.Host, Stored: s.Stored, Claimed: time.Unix(s.End.Sec, int64(s.End.Nsec)), Class: s.Retention}
		// One that was brought back, or that came from another repository, is older than it looks.
		v.Aside = s.Origin != nil || len(m.Of(r, s.ID(), s.Host, format.MarkSuspect)) > 0
		for _, h := range m.Held(r, s) {
			v.Held = append(v.Held, h.said(r))
		}
		if b := body(s); b != nil {
			v.Sources, v.Tags, v.Job = b.Sources, b.Tags, b.Job
		} else {
			v.Closed = true
		}
		asked[i] = v
	}
	groups, err := p.Apply(asked)
	if err != nil {
		return nil, err
	}
	plan := &Plan{Groups: groups}
	for _, g := range groups {
		for _, d := range g.Decisions {
			if !d.Keep {
				plan.Forget = append(plan.Forget, byID[d.ID])
			}
		}
	}
	return plan, nil
}

// said is a hold or pin in a few words.
func (m *Mark) said(r *repo.Repo) string {
	word := "hold"
	if m.Kind == format.MarkPin {
		word = "pin"
	}
	if m.Until != 0 {
		word += " until " + timeOf(m.Until).Format("2006-01-02")
	}
	if text, err := Reason(r, m); err == nil && text != "" {
		word += ": " + text
	}
	return word
}

// Forget takes snapshots out of the list. Their data stays until a prune, and until then Undelete brings them back. It takes an administrator's key
// (repo.ErrNeedAdmin), or, where the settings allow it, the host's own, for its own snapshots (ErrNotOwn). If one of them is held nothing is forgotten
// (ErrHeld). It returns how many were forgotten: after an error any of list.
//
// A hold that comes while Forget runs is ErrHeld too, after all were forgotten: prune keeps the data of a snapshot that is held, and Undelete
// brings it back.
func Forget(ctx context.Context, r *repo.Repo, list []*repo.Snapshot, reason string) (int, error) {
	n, err := forget(ctx, r, list, reason)
	if err != nil {
		return n, fmt.Errorf("forgetting: %w", err)
	}
	return n, nil
}

// forgetter is who forgets in this process, and whether only its own snapshots.
func forgetter(r *repo.Repo) (id *crypt.Identity, own bool, err error) {
	if id = signer(r, crypt.RoleAdmin); id == nil && r.Settings().HostForget {
		id, own = signer(r, crypt.RoleWriter), true
	}
	if id == nil {
		return nil, false, repo.ErrNeedAdmin
	}
	return id, own, nil
}

// Forgettable returns those of list that Forget may take out of it. repo.ErrNeedAdmin says that it may none.
func Forgettable(r *repo.Repo, list []*repo.Snapshot) ([]*repo.Snapshot, error) {
	id, own, err := forgetter(r)
	if err != nil {
		return nil, err
	}
	var out []*repo.Snapshot
	for _, s := range list {
		if !own || s.Host == id.Host {
			out = append(out, s)
		}
	}
	return out, nil
}

func forget(ctx context.Context, r *repo.Repo, list []*repo.Snapshot, reason string) (int, error) {
	id, own, err := forgetter(r)
	if err != nil {
		return 0, err
	}
	for _, s := range list {
		if own && s.Host != id.Host {
			return 0, fmt.Errorf("snapshot %v: %w", s.ID(), ErrNotOwn)
		}
	}
	if err := notHeld(ctx, r, list); err != nil {
		return 0, err
	}
	var done atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(putters)
	for _, s := range list {
		g.Go(func() error {
			if gctx.Err() != nil {
				return gctx.Err()
			}
			object, err := recordOf(gctx, r, s)
			if err != nil {
				return err
			}
			f := format.Forgotten{Session: s.ID(), Object: s.Object, Record: object, Host: id.Host, Time: r.Now().Unix(), Reason: reason}
			name, sealed, err := r.SealAs(id, crypt.TypeForgotten, "forgotten/", canon.Marshal(f))
			if err == nil {
				err = stored.Put(gctx, r.Storage(), name, sealed, backends.PutOptions{})
			}
			if err == nil {
				done.Add(1)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return int(done.Load()), err
	}
	return len(list), notHeld(ctx, r, list)
}

// putters is how many snapshots are forgotten at once: enough to hide round trips. A hostile record takes 16 MiB three times.
const putters = 4

// notHeld reports ErrHeld with the holds of list.
func notHeld(ctx context.Context, r *repo.Repo, list []*repo.Snapshot) error {
	m, err := ReadMarks(ctx, r)
	if err != nil {
		return err
	}
	var held []string
	for _, s := range list {
		for _, h := range m.Held(r, s) {
			held = append(held, fmt.Sprintf("%v (%s)", s.ID(), h.said(r)))
		}
	}
	if len(held) > 0 {
		return fmt.Errorf("%w: %s", ErrHeld, strings.Join(held, ", "))
	}
	return nil
}

// recordOf reads the object of a snapshot, as it was when the snapshot was listed.
func recordOf(ctx context.Context, r *repo.Repo, s *repo.Snapshot) ([]byte, error) {
	object, err := stored.Fetch(ctx, r.Storage(), s.Name)
	if err == nil && strings.HasPrefix(s.Name, "copied/") {
		_, object, err = format.SplitCopied(s.Name, object)
	}
	if err == nil && crypt.Sum(object) != s.Object {
		err = stored.Tampered("reading", s.Name, errors.New("it is another record than before"))
	}
	return object, err
}
