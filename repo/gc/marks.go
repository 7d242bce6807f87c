package gc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// Errors about holds.
var (
	// ErrHeld: a hold or pin keeps the snapshot.
	ErrHeld = errors.New("the snapshot is held")
	// ErrForgotten: the snapshot was forgotten before the hold came. Undelete brings it back, until a prune has removed its data.
	ErrForgotten = errors.New("the snapshot was forgotten")
	// ErrUnsure: an object under marks/ cannot be read. It may be a hold, so nothing is forgotten.
	ErrUnsure = errors.New("a mark cannot be read, and may be a hold")
)

// Mark is something that people or programs said about a snapshot.
type Mark struct {
	format.Mark
	Name   string
	Signer crypt.HostID // zero: the root
}

// Marks is what is said about snapshots. It does not change.
type Marks struct {
	// Problems are marks that do not count, such as those whose signer may not make them.
	Problems []repo.Problem

	now  time.Time // the earlier one of this machine's clock and the newest time of the storage
	said map[crypt.SessionID][]Mark
}

// ReadMarks reads the holds, pins and suspicions. Who forgets or prunes reads them after what is forgotten, or a hold could be missed. An object
// that cannot be opened is ErrUnsure.
func ReadMarks(ctx context.Context, r *repo.Repo) (*Marks, error) {
	m, err := readMarks(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("reading marks: %w", err)
	}
	return m, nil
}

func readMarks(ctx context.Context, r *repo.Repo) (*Marks, error) {
	infos, _, err := stored.List(ctx, r.Storage(), "marks/")
	if err != nil {
		return nil, err
	}
	var newest time.Time
	for _, i := range infos {
		newest = later(newest, i.ModTime)
	}
	for info, err := range r.Storage().List(ctx, "snapshots/") {
		if err != nil {
			return nil, stored.Failed("listing", "snapshots/", err)
		}
		newest = later(newest, info.ModTime)
	}
	m := &Marks{said: make(map[crypt.SessionID][]Mark), now: r.Now()}
	if newest.Before(m.now) {
		m.now = newest
	}
	err = stored.Each(ctx, r.Storage(), infos, func(i backends.Info, object []byte, err error) error {
		var v *format.Mark
		var signer crypt.HostID
		if err == nil {
			v, signer, err = r.MarkObject(i.Name, object)
		}
		switch {
		case errors.Is(err, repo.ErrTampered):
			m.Problems = append(m.Problems, repo.Problem{Object: i.Name, Err: err})
			return nil
		case stored.Isolated(err), stored.Unreadable(err), stored.Missing(err): // nobody removes one
			return fmt.Errorf("%w: %w", ErrUnsure, err)
		case err != nil:
			return err
		}
		if v.Session != (crypt.SessionID{}) {
			m.said[v.Session] = append(m.said[v.Session], Mark{*v, i.Name, signer})
		}
		return nil
	})
	return m, err
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Now is by what time marks end: not after this machine's clock, and not after what the storage has seen, so that a clock that was set forward ends nothing.
func (m *Marks) Now() time.Time { return m.now }

// Of returns the marks of a kind about a snapshot of host that count: those made after the last one of the kind was taken back, that have not
// ended. They are in the order of their making. A writer speaks of its own snapshots only.
func (m *Marks) Of(r *repo.Repo, id crypt.SessionID, host crypt.HostID, kind format.MarkKind) []Mark {
	var out []Mark
	var back int64
	counts := func(v *Mark) bool {
		above := v.Signer == (crypt.HostID{}) || r.Trust().Roles(v.Signer)&(crypt.RoleOperator|crypt.RoleAdmin) != 0
		// What was held by who was revoked since stays held: the other mistake would lose it, and others can take the hold back.
		believed := !r.Trust().Revoked(v.Signer) || kind == format.MarkHold && !v.Remove
		return v.Kind == kind && (above || v.Signer == host) && believed
	}
	for _, v := range m.said[id] {
		if v.Remove && counts(&v) {
			back = max(back, v.Time)
		}
	}
	for _, v := range m.said[id] {
		if !v.Remove && counts(&v) && v.Time > back && (v.Until == 0 || time.Unix(v.Until, 0).After(m.now)) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b Mark) int { return int(a.Time - b.Time) })
	return out
}

// Held returns the holds and pins that keep a snapshot. A pin that names a host too keeps nothing: it says that this was the host's newest snapshot.
func (m *Marks) Held(r *repo.Repo, s *repo.Snapshot) []Mark {
	pins := m.Of(r, s.ID(), s.Host, format.MarkPin)
	pins = slices.DeleteFunc(pins, func(v Mark) bool { return v.Host != crypt.HostID{} })
	return append(m.Of(r, s.ID(), s.Host, format.MarkHold), pins...)
}

// Reason opens what a mark says to whoever has the passphrase; "" where it says nothing. repo.ErrNeedRead says that it stays closed.
func Reason(r *repo.Repo, m *Mark) (string, error) {
	if len(m.Text) == 0 {
		return "", nil
	}
	key := r.Keys().Read[m.Epoch]
	if key == nil {
		return "", repo.ErrNeedRead
	}
	text, err := key.OpenText(r.Config().ID, m.About(), m.Text)
	if err != nil {
		return "", stored.Damaged("reading", m.Name, err)
	}
	return string(text), nil
}

// AddHold keeps a snapshot until a time (zero: until it is taken back), for a reason that only readers see. It takes an operator's or administrator's
// key (repo.ErrNeedAdmin). ErrForgotten says that the snapshot was forgotten before: only after that was looked at is the hold good.
func AddHold(ctx context.Context, r *repo.Repo, s *repo.Snapshot, until time.Time, reason string) error {
	if err := addHold(ctx, r, s, until, reason); err != nil {
		return fmt.Errorf("holding snapshot %v: %w", s.ID(), err)
	}
	return nil
}

func addHold(ctx context.Context, r *repo.Repo, s *repo.Snapshot, until time.Time, reason string) error {
	v := format.Mark{Kind: format.MarkHold, Session: s.ID()}
	if !until.IsZero() {
		v.Until = until.Unix()
	}
	if reason != "" {
		keys := r.Settings().ReadKeys
		read, err := keys[len(keys)-1].Public()
		if err != nil {
			return err
		}
		v.Epoch = read.Epoch
		if v.Text, err = read.SealText(r.Config().ID, v.About(), []byte(reason)); err != nil {
			return err
		}
	}
	if err := putMark(ctx, r, v); err != nil {
		return err
	}
	gone, err := forgottenOf(ctx, r)
	if err != nil {
		return err
	}
	if gone[s.ID()] != nil {
		return ErrForgotten
	}
	return nil
}

// RemoveHolds takes back the holds of a snapshot, and returns how many there were. It takes an operator's or administrator's key.
func RemoveHolds(ctx context.Context, r *repo.Repo, s *repo.Snapshot) (int, error) {
	m, err := ReadMarks(ctx, r)
	var n int
	if err == nil {
		if n = len(m.Of(r, s.ID(), s.Host, format.MarkHold)); n > 0 {
			err = putMark(ctx, r, format.Mark{Kind: format.MarkHold, Session: s.ID(), Remove: true})
		}
	}
	if err != nil {
		return 0, fmt.Errorf("taking back holds of snapshot %v: %w", s.ID(), err)
	}
	return n, nil
}

// putMark signs and stores a mark, later than what it takes back and what took back one before it: clocks of several machines differ.
func putMark(ctx context.Context, r *repo.Repo, v format.Mark) error {
	id := signer(r, v.Kind.Signers())
	if id == nil {
		return repo.ErrNeedAdmin
	}
	m, err := readMarks(ctx, r)
	if err != nil {
		return err
	}
	v.Time = r.Now().Unix()
	for _, old := range m.said[v.Session] {
		switch {
		case old.Kind != v.Kind || old.Remove && r.Trust().Revoked(old.Signer):
		case !v.Remove && old.Remove && old.Time == math.MaxInt64: // nothing is later, so v would not count
			return stored.Tampered("reading", old.Name, errors.New("it takes back whatever there will be"))
		case v.Remove && !old.Remove:
			v.Time = max(v.Time, old.Time)
		case !v.Remove && old.Remove:
			v.Time = max(v.Time, old.Time+1)
		}
	}
	name, object, err := r.SealAs(id, crypt.TypeMark, "marks/", canon.Marshal(v))
	if err != nil {
		return err
	}
	return stored.Put(ctx, r.Storage(), name, object, backends.PutOptions{})
}

// signer is who of this process has one of roles: who holds the passphrase before this machine's host. nil: nobody.
func signer(r *repo.Repo, roles crypt.Role) *crypt.Identity {
	for _, id := range []*crypt.Identity{r.Keys().Reader, r.Keys().Identity} {
		if id != nil && r.Trust().Roles(id.Host)&roles != 0 && !r.Trust().Revoked(id.Host) {
			return id
		}
	}
	return nil
}
