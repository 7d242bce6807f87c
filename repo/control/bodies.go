package control

import (
	"errors"
	"fmt"
	"strings"

	"packhold/crypt"
	"packhold/index"
	"packhold/pack"
	"packhold/repo/format"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// Generation opens the settings of generation g.
func (o *Objects) Generation(name string, g uint64, object []byte) (*format.Settings, error) {
	v, _, err := openBody[format.Settings](o, crypt.TypeSettings, name, object)
	if err != nil {
		return nil, err
	}
	if _, err = pack.ParseLevel(v.Compression); err == nil && v.Generation != g {
		err = errors.New("it is another generation")
	}
	if err != nil {
		return nil, stored.Damaged("reading", name, err)
	}
	return v, nil
}

// Host opens a certificate and checks that it is the one it is named for.
func (o *Objects) Host(name string, object []byte) (*crypt.Certificate, error) {
	s, err := o.Open(crypt.TypeHost, name, object)
	if err != nil {
		return nil, err
	}
	c, err := crypt.ParseCertificate(s.Body)
	if err == nil && !strings.HasPrefix(name, fmt.Sprintf("hosts/%v/%d-", c.Host, c.Serial)) {
		err = errors.New("it is another host's or another serial")
	}
	if err != nil {
		return nil, stored.Damaged("reading", name, err)
	}
	return c, nil
}

// Mark opens a mark, says who signed it (zero: the root), and checks that its signer may make one of its kind. That a writer speaks of its own
// snapshots is for the caller to check.
func (o *Objects) Mark(name string, object []byte) (m *format.Mark, signer crypt.HostID, err error) {
	m, signer, err = openBody[format.Mark](o, crypt.TypeMark, name, object)
	if err == nil && signer != (crypt.HostID{}) && o.Trust.Roles(signer)&m.Kind.Signers() == 0 {
		return nil, signer, stored.Tampered("reading", name, fmt.Errorf("its signer may not make marks of kind %d: %w", m.Kind, crypt.ErrSignature))
	}
	return m, signer, err
}

// Snapshot opens and checks the object of one session: its signature, and that the session is the signer's. A void
// may also be the prune role's. Errors match ErrDamaged or ErrTampered.
func (o *Objects) Snapshot(name string, object []byte) (*snapshot.Record, error) {
	s, err := o.Open(crypt.TypeSnapshot, name, object)
	if err != nil {
		return nil, err
	}
	rec, err := snapshot.ParseRecord(s.Body)
	if err != nil {
		return nil, stored.Damaged("reading", name, err)
	}
	byPrune := rec.Kind == snapshot.Void && crypt.HostID(rec.Host) != s.Signer
	switch {
	case "snapshots/"+crypt.SessionID(rec.Session).String() != name:
		err = errors.New("it speaks of another session")
	case byPrune && o.Trust.Roles(s.Signer)&crypt.RolePrune == 0:
		err = errors.New("a host ended the session of another")
	case !byPrune && (crypt.HostID(rec.Host) != s.Signer || crypt.NewSessionID(s.Signer, rec.Nonce) != crypt.SessionID(rec.Session)):
		err = errors.New("the session is not its signer's")
	case rec.Kind == snapshot.Snapshot && o.Trust.Revoked(s.Signer) && o.Kept[crypt.SessionID(rec.Session)] != crypt.Sum(object):
		// A void takes nothing away that a commit had made, so a revoked host's voids stand: the name is taken in any case. And a replicator's copies are
		// of what other hosts signed: a place would lose them all on the day when its credential is stolen.
		err = ErrNotKept
	}
	if err != nil {
		return nil, stored.Tampered("reading", name, err)
	}
	return rec, nil
}

// Copied opens copied/<sha256>, checks the record as the one of its home, and returns the object of its home too. Errors match ErrDamaged or
// ErrTampered.
func (o *Objects) Copied(name string, copied []byte) (rec *snapshot.Record, object []byte, err error) {
	session, object, err := format.SplitCopied(name, copied)
	if err != nil {
		return nil, nil, stored.Damaged("reading", name, err)
	}
	if rec, err = o.Snapshot("snapshots/"+session.String(), object); err != nil {
		return nil, nil, err
	}
	if rec.Kind != snapshot.Snapshot {
		return nil, nil, stored.Damaged("reading", name, errors.New("not the record of a snapshot"))
	}
	return rec, object, nil
}

// Forgotten opens an entry and checks that its signer may forget that snapshot: an administrator any, and, where the settings
// allow it, a host its own.
func (o *Objects) Forgotten(name string, object []byte) (*format.Forgotten, error) {
	f, signer, err := openBody[format.Forgotten](o, crypt.TypeForgotten, name, object)
	if err != nil {
		return nil, err
	}
	switch {
	case o.Trust.Revoked(signer):
		// What it forgot before the revocation comes back, and can be forgotten again; the other mistake would let data be removed.
		err = errors.New("its signer was revoked")
	case signer == (crypt.HostID{}) || o.Trust.Roles(signer)&crypt.RoleAdmin != 0:
	case !o.HostForget:
		err = errors.New("only an administrator forgets here")
	default:
		var rec *snapshot.Record
		if rec, err = o.Snapshot("snapshots/"+f.Session.String(), f.Record); err == nil && crypt.HostID(rec.Host) != signer {
			err = errors.New("a host took out the snapshot of another")
		}
	}
	if err != nil {
		return nil, stored.Tampered("reading", name, err)
	}
	return f, nil
}

// Lease opens a lease or renewal and checks that it is its signer's and the one it is named for.
func (o *Objects) Lease(name string, object []byte) (*format.Lease, error) {
	l, signer, err := openBody[format.Lease](o, crypt.TypeLease, name, object)
	if err != nil {
		return nil, err
	}
	if l.Host != signer || crypt.NewSessionID(l.Host, [32]byte(l.Nonce)) != l.Session || format.LeaseName(l.Session, l.Renewal) != name {
		return nil, stored.Tampered("reading", name, errors.New("the session is not its signer's, or its name is another's"))
	}
	return l, nil
}

// SetPart is one object of a condemned set.
type SetPart struct {
	Packs    []format.PackRef  // of the set or the final
	Sessions []crypt.SessionID // of .leases: those that may not have seen the set
	Signer   crypt.HostID
}

// Set opens one object of a condemned set, by the suffix of its name ("", "leases" or "final"), and checks that it speaks of the set it is named for.
func (o *Objects) Set(name, suffix string, object []byte) (part SetPart, err error) {
	var id [16]byte
	switch suffix {
	case "leases":
		var v *format.CondemnedLeases
		if v, part.Signer, err = openBody[format.CondemnedLeases](o, crypt.TypeCondemnedLeases, name, object); err == nil {
			id, part.Sessions = v.ID, v.Sessions
		}
	case "final":
		var v *format.CondemnedFinal
		if v, part.Signer, err = openBody[format.CondemnedFinal](o, crypt.TypeCondemnedFinal, name, object); err == nil {
			id, part.Packs = v.ID, v.Packs
		}
	default:
		var v *format.Condemned
		if v, part.Signer, err = openBody[format.Condemned](o, crypt.TypeCondemned, name, object); err == nil {
			id, part.Packs = v.ID, v.Packs
		}
	}
	if err == nil && !strings.HasPrefix(name, fmt.Sprintf("condemned/%x", id)) {
		err = stored.Damaged("reading", name, errors.New("it speaks of another set"))
	}
	if err != nil {
		return SetPart{}, err
	}
	return part, nil
}

// Verified opens what a reader says it verified.
func (o *Objects) Verified(name string, object []byte) (*format.Verified, error) {
	v, signer, err := openBody[format.Verified](o, crypt.TypeVerified, name, object)
	if err == nil && v.Host != signer {
		return nil, stored.Tampered("reading", name, errors.New("its signer is another host"))
	}
	return v, err
}

// Group opens a group object. Of one that does not match its name whole is false, and shards that do not match their digests are nil; where
// not even the body can be opened the error matches ErrDamaged or ErrTampered.
func (o *Objects) Group(name string, object []byte) (g *format.Group, shards [][]byte, whole bool, err error) {
	sealed, parity, err := format.SplitGroup(object)
	if err != nil {
		return nil, nil, false, stored.Damaged("reading", name, err)
	}
	// The sealed body is opened as if it were the object: its type is one that is named by its hash.
	if g, _, err = openBody[format.Group](o, crypt.TypeGroup, "group/"+crypt.Sum(sealed).String(), sealed); err != nil {
		return nil, nil, false, err
	}
	shards, whole = g.Shards(parity)
	return g, shards, whole && name == "group/"+crypt.Sum(object).String(), nil
}

// Succession opens roots/<sha256> and checks both of its signatures. Errors match ErrDamaged or ErrTampered.
func (o *Objects) Succession(name string, object []byte) (*format.Succession, error) {
	s, err := format.ParseSuccession(o.Config.ID, name, object)
	switch {
	case errors.Is(err, crypt.ErrSignature):
		return nil, stored.Tampered("reading", name, err)
	case err != nil:
		return nil, stored.Damaged("reading", name, err)
	}
	return s, nil
}

// Segment opens and checks an index segment: its signer is the host of its session, and speaks only for packs of its own sessions
// unless it has the prune role. Errors match ErrDamaged or ErrTampered.
func (o *Objects) Segment(name string, object []byte) (*index.Segment, error) {
	s, err := o.Open(crypt.TypeIndex, name, object)
	if err != nil {
		return nil, err
	}
	seg, err := index.ParseSegment(s.Body)
	if err != nil {
		return nil, stored.Damaged("reading", name, err)
	}
	if crypt.HostID(seg.Host) != s.Signer || crypt.NewSessionID(s.Signer, seg.Nonce) != crypt.SessionID(seg.Session) {
		return nil, stored.Tampered("reading", name, errors.New("its session is not its signer's"))
	}
	prune := o.Trust.Roles(s.Signer)&crypt.RolePrune != 0
	if len(seg.Supersedes) > 0 && !prune {
		return nil, stored.Tampered("reading", name, errors.New("only the prune role supersedes segments"))
	}
	for _, b := range seg.Sessions {
		rec, err := crypt.ParseSessionRecord(b)
		if err == nil {
			err = o.Trust.CheckSession(rec)
		}
		if err == nil && rec.Host != s.Signer && !prune {
			err = fmt.Errorf("it speaks for packs of host %v", rec.Host)
		}
		if err != nil {
			return nil, stored.Tampered("reading", name, err)
		}
	}
	for i := range seg.Packs {
		p := &seg.Packs[i]
		t, err := pack.ParseCompact(p.Trailer)
		if err != nil {
			return nil, stored.Damaged("reading", name, err)
		}
		if t.Name() != p.Name || t.Header.Type != p.Kind || t.Header.Salt != p.Salt || t.Header.Epoch != p.Epoch || uint64(t.FileSize()) != p.Size {
			return nil, stored.Damaged("reading", name, fmt.Errorf("what it says of pack %v is not what the pack's trailer says", p.Name))
		}
	}
	return seg, nil
}
