package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// What RevokeHost refuses.
var (
	ErrNoHost = errors.New("there is no such host")
	ErrSelf   = errors.New("this is who would revoke it")
)

// Revocation is what RevokeHost did.
type Revocation struct {
	Before        bool   // the host had been revoked before: its snapshots stay as was said then
	Kept, Dropped int    // snapshots of the host that stay valid and that do not
	Epoch         uint32 // of the write secret that the others have from now on
}

// RevokeHost takes a host's rights back: it begins no session any more, and what it signs from now on does not count and is reported. Of the snapshots that it has
// committed those stay valid for which keep is true, with nil all; a forgotten one counts as stored when it was forgotten. Then a new write secret is granted to
// all other hosts and put in every key slot, so what is stored from then on tells the revoked host nothing. Read keys it never had.
//
// The revocation counts first, the secret follows. It may be interrupted anywhere and run again: a host that is revoked already is left so, and the secret is
// changed once more. r knows the new secret after it, is not to be used any more where it failed, and in either case not to read snapshots. ErrNoHost and
// ErrSelf match; ErrChanged: open again.
func RevokeHost(ctx context.Context, r *repo.Repo, host crypt.HostID, keep func(*repo.Snapshot) bool) (*Revocation, error) {
	a, err := rootOf(r)
	var v *Revocation
	if err == nil {
		v, err = a.revokeHost(ctx, r, host, keep)
	}
	if err != nil {
		return nil, fmt.Errorf("revoking host %v: %w", host, err)
	}
	return v, nil
}

func (a *root) revokeHost(ctx context.Context, r *repo.Repo, host crypt.HostID, keep func(*repo.Snapshot) bool) (*Revocation, error) {
	if err := sure(r); err != nil {
		return nil, err
	}
	if r.Trust().Certificate(host) == nil {
		return nil, ErrNoHost
	}
	for _, id := range []*crypt.Identity{a.keys.Identity, a.keys.Reader} {
		if id != nil && id.Host == host {
			return nil, ErrSelf
		}
	}
	v := &Revocation{Before: r.Trust().Revoked(host)}
	announce := func(*format.Settings) {}
	if !v.Before {
		m := format.Mark{Kind: format.MarkRevocation, Host: host, Time: a.now.Unix()}
		all, err := committed(ctx, r, host)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			if keep == nil || keep(s) {
				m.Kept = append(m.Kept, format.KeptSnapshot{Session: s.ID(), Object: s.Object})
			}
		}
		v.Kept, v.Dropped = len(m.Kept), len(all)-len(m.Kept)
		hash, err := a.putRevocation(ctx, &m)
		if err != nil {
			return nil, err
		}
		announce = func(s *format.Settings) {
			s.Revocations = append(slices.Clone(s.Revocations), hash)
			slices.SortFunc(s.Revocations, bytes.Compare)
		}
	}
	if err := a.nextSettings(ctx, r, announce); err != nil {
		return nil, err
	}
	r.Trust().Revoke(host)
	var err error
	v.Epoch, err = a.rotate(ctx, r, nil)
	return v, err
}

// putRevocation stores the mark, and returns what the settings name it by.
func (a *root) putRevocation(ctx context.Context, m *format.Mark) ([]byte, error) {
	slices.SortFunc(m.Kept, func(x, y format.KeptSnapshot) int { return bytes.Compare(x.Session[:], y.Session[:]) })
	body := canon.Marshal(m)
	if _, err := format.Parse[format.Mark](body); err != nil {
		return nil, err
	}
	name, object, err := a.seal(crypt.TypeMark, "marks/", body)
	if err != nil {
		return nil, err
	}
	hash := crypt.Sum(object)
	return hash[:], stored.Put(ctx, a.storage, name, object, backends.PutOptions{})
}

// committed are the snapshots of a host, forgotten ones too, each once: those can be brought back only as long as their records count.
func committed(ctx context.Context, r *repo.Repo, host crypt.HostID) ([]*repo.Snapshot, error) {
	listed, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	infos, _, err := stored.List(ctx, r.Storage(), "forgotten/")
	if err != nil {
		return nil, err
	}
	err = stored.Each(ctx, r.Storage(), infos, func(i backends.Info, object []byte, err error) error {
		var f *format.Forgotten
		if err == nil {
			f, err = r.ForgottenObject(i.Name, object)
		}
		if err == nil {
			rec, err := r.SnapshotObject("snapshots/"+f.Session.String(), f.Record)
			if err == nil {
				listed = append(listed, &repo.Snapshot{Record: *rec, Object: f.Object, Stored: i.ModTime})
			}
			return nil
		}
		if stored.Missing(err) || errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrTampered) {
			return nil // it forgets nothing
		}
		return err
	})
	seen := make(map[crypt.SessionID]bool)
	return slices.DeleteFunc(listed, func(s *repo.Snapshot) bool {
		again := seen[s.ID()]
		seen[s.ID()] = true
		return again || crypt.HostID(s.Host) != host
	}), err
}
