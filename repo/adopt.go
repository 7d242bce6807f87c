package repo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/pack"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// adopt finds the packs that a crashed or interrupted session of this host stored and no index names, so that they need not be
// stored again. It costs a listing of all packs, and happens only while such a session's lease is there or a segment is bad. Sessions
// that were silent for LeaseDead of the storage's time are ended by their void: a wrong judgement is safe.
func (s *Session) adopt(ctx context.Context) error {
	r := s.r
	// A session that is not in this survey began after the index was read: there is nothing of it to adopt yet.
	infos, err := r.surveys.Recent().List(ctx, r.storage, "leases/")
	if err != nil {
		return err
	}
	var now time.Time
	infos = slices.DeleteFunc(infos, func(i backends.Info) bool {
		own := strings.HasPrefix(i.Name, format.LeaseName(s.ID, 0))
		if own && i.ModTime.After(now) {
			now = i.ModTime
		}
		return own
	})
	open, err := r.sessionsOf(ctx, infos)
	if err != nil {
		return err
	}
	var ended []crypt.SessionID
	found := s.r.badIndex // then packs of sessions that ended well may have no name either
	own := r.keys.Identity.Host
	for _, l := range open {
		if l.Host != own {
			continue
		}
		found = true
		if !l.Ended && now.Sub(l.Seen) >= LeaseDead {
			if err := r.putVoid(ctx, l.ID, l.Nonce); err != nil {
				return err
			}
			l.Ended = true
		}
		if l.Ended {
			ended = append(ended, l.ID)
		}
	}
	if !found {
		return nil
	}
	n, err := r.adoptPacks(ctx, s)
	if err != nil {
		return err
	}
	s.adopted.Store(uint64(n))
	if n > 0 {
		if err := s.putSegments(ctx); err != nil {
			return err
		}
	}
	// What the ended sessions left is named by our segment now.
	r.dropLeases(ctx, ended...)
	return nil
}

// Lease is what the leases say of one session.
type Lease struct {
	ID      crypt.SessionID
	Host    crypt.HostID
	Nonce   [32]byte
	Purpose string
	Seen    time.Time // last sign of life by the storage's clock
	Ended   bool      // snapshots/<session> exists
	Known   bool      // a lease of it can be read; otherwise host and nonce are zero, and it counts as open all the same
}

// Leases reads the leases, by session. One that cannot be read counts as the session that its name says, of an unknown host.
func (r *Repo) Leases(ctx context.Context) (map[crypt.SessionID]*Lease, error) {
	infos, _, err := stored.List(ctx, r.storage, "leases/")
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	all, err := r.sessionsOf(ctx, infos)
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	return all, nil
}

// Fence ends a session that was judged dead, as the prune role may: from then on it cannot commit. Where it has ended already nothing is changed; who
// fences looks at its snapshot afterwards.
func (r *Repo) Fence(ctx context.Context, l *Lease) error {
	if err := r.putVoidOf(ctx, l.ID, l.Host, l.Nonce); err != nil {
		return fmt.Errorf("ending session %v: %w", l.ID, err)
	}
	return nil
}

// sessionsOf reads the leases that were listed.
func (r *Repo) sessionsOf(ctx context.Context, infos []backends.Info) (map[crypt.SessionID]*Lease, error) {
	out := make(map[crypt.SessionID]*Lease)
	err := stored.Each(ctx, r.storage, infos, func(i backends.Info, object []byte, err error) error {
		id, err2 := format.LeaseSession(i.Name)
		if err2 != nil {
			return stored.Damaged("listing", i.Name, err2)
		}
		var l *format.Lease
		if err == nil {
			l, err = r.control().Lease(i.Name, object)
		}
		switch {
		case stored.Missing(err): // its session has ended, as its snapshot will show; else the storage is at fault
		case stored.Isolated(err), stored.Unreadable(err):
			r.problem(i.Name, err)
		case err != nil:
			return err
		}
		o := out[id]
		if o == nil {
			o = &Lease{ID: id}
			out[id] = o
		}
		if l != nil {
			o.Host, o.Nonce, o.Purpose, o.Known = l.Host, [32]byte(l.Nonce), l.Purpose, true
		}
		if i.ModTime.After(o.Seen) {
			o.Seen = i.ModTime
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ended, err := stored.Present(ctx, r.storage, "snapshots/", slices.SortedFunc(maps.Keys(out), func(a, b crypt.SessionID) int { return slices.Compare(a[:], b[:]) }))
	if err != nil {
		return nil, err
	}
	for id := range ended {
		out[id].Ended = true
	}
	return out, nil
}

// adoptPacks adds every whole pack of this host that no index names and that is neither condemned nor final. It returns how many.
func (r *Repo) adoptPacks(ctx context.Context, s *Session) (int, error) {
	named, err := r.ownPacks(s.x)
	if err != nil {
		return 0, err
	}
	excluded, _, err := r.readCondemned(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, prefix := range []string{"packs/", "meta/"} {
		infos, _, err := stored.List(ctx, r.storage, prefix)
		if err != nil {
			return n, err
		}
		for _, i := range infos {
			id, _, inc, err := format.ParsePackName(i.Name)
			pid := index.PackID{Name: id, Incarnation: inc}
			if err != nil || named[pid] || excluded.packs[pid] != 0 || excluded.blind || inc != 0 {
				continue
			}
			t, table, err := r.ReadTable(ctx, i)
			if err == nil {
				var rec *crypt.SessionRecord
				if rec, err = crypt.ParseSessionRecord(table.Session); err == nil {
					if rec.Host != r.keys.Identity.Host {
						continue
					}
					err = stored.CheckWhole(ctx, r.storage, i, id)
				}
				if err == nil {
					err = s.addPack(t, id, table.Entries, table.Session)
				}
			}
			switch {
			case err == nil:
				n++
			case ctx.Err() != nil:
				return n, err
			case stored.Isolated(err), stored.Unreadable(err):
				r.problem(i.Name, err)
			case stored.Missing(err):
			default:
				return n, err
			}
		}
	}
	return n, nil
}

// ownPacks returns the packs that the index names as this host's. What another host's segment says of them does not count.
func (r *Repo) ownPacks(x *index.Index) (map[index.PackID]bool, error) {
	named := make(map[index.PackID]bool)
	own := make(map[uint32]bool) // by session number
	for p, err := range x.Packs() {
		if err != nil {
			return nil, err
		}
		is, known := own[p.Session]
		if !known {
			record, err := x.Session(p.Session)
			if err != nil {
				return nil, err
			}
			rec, err := crypt.ParseSessionRecord(record)
			is = err == nil && rec.Host == r.keys.Identity.Host
			own[p.Session] = is
		}
		if is {
			named[p.PackID] = true
		}
	}
	return named, nil
}

// ReadTable reads what a pack says of itself: its trailer and, opened with the write secret, its signed table. It needs no passphrase.
// Errors match ErrDamaged, ErrTampered, or are the storage's.
func (r *Repo) ReadTable(ctx context.Context, i backends.Info) (*pack.Trailer, *pack.Table, error) {
	return r.tables().Read(ctx, r.storage, i)
}

func (r *Repo) tables() stored.Tables {
	return stored.Tables{Repo: r.config.ID, Writes: r.keys.Writes, Trust: r.trust}
}
