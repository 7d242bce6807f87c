package repo

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo/snapshot"
)

// Snapshot is a committed snapshot.
type Snapshot struct {
	snapshot.Record
	Name   string    // of its object
	Object crypt.ID  // SHA-256 of the stored object
	Stored time.Time // by the storage's clock
	Body   *snapshot.Body
}

// ID is the name of the snapshot that people use: its session.
func (s *Snapshot) ID() crypt.SessionID { return crypt.SessionID(s.Session) }

// StartTime returns when the backup began, by its host's clock.
func (s *Snapshot) StartTime() time.Time { return time.Unix(s.Start.Sec, int64(s.Start.Nsec)) }

// sealedBody is Record.Body: the session record, from which a reader finds the key, and what that key seals.
type sealedBody struct {
	_       struct{} `cbor:",toarray"`
	Session []byte
	Sealed  []byte
}

// SnapshotObject opens and checks the object of one session: its signature, and that the session is the signer's. A void
// may also be the prune role's. Errors match ErrDamaged or ErrTampered.
func (r *Repo) SnapshotObject(name string, object []byte) (*snapshot.Record, error) {
	s, err := r.openSigned(crypt.TypeSnapshot, name, object)
	if err != nil {
		return nil, err
	}
	rec, err := snapshot.ParseRecord(s.Body)
	if err != nil {
		return nil, damaged("reading", name, err)
	}
	switch {
	case "snapshots/"+crypt.SessionID(rec.Session).String() != name:
		err = errors.New("it speaks of another session")
	case rec.Kind == snapshot.Void && crypt.HostID(rec.Host) != s.Signer:
		if c := r.trust.Certificate(s.Signer); c == nil || c.Roles&crypt.RolePrune == 0 {
			err = errors.New("a host ended the session of another")
		}
	case crypt.HostID(rec.Host) != s.Signer || crypt.NewSessionID(s.Signer, rec.Nonce) != crypt.SessionID(rec.Session):
		err = errors.New("the session is not its signer's")
	case r.trust.Revoked(s.Signer):
		err = errors.New("its host was revoked")
	}
	if err != nil {
		return nil, tampered("reading", name, err)
	}
	return rec, nil
}

// Snapshots reads all committed snapshots that were not forgotten, in the order of their numbers, then of their start. Invalid ones are
// left out and become Problems. It may be called before LoadIndex: readers look at snapshots first, then at the index.
func (r *Repo) Snapshots(ctx context.Context) ([]*Snapshot, error) {
	all, err := r.snapshots(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading snapshots: %w", err)
	}
	return all, nil
}

func (r *Repo) snapshots(ctx context.Context) ([]*Snapshot, error) {
	infos, _, err := List(ctx, r.storage, "snapshots/")
	if err != nil {
		return nil, err
	}
	forgotten, err := r.forgotten(ctx)
	if err != nil {
		return nil, err
	}
	found := make([]*Snapshot, len(infos))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, info := range infos {
		g.Go(func() error {
			b, err := Fetch(gctx, r.storage, info.Name)
			if err != nil {
				return err
			}
			rec, err := r.SnapshotObject(info.Name, b)
			if err != nil {
				r.problem(info.Name, err)
				return nil
			}
			if rec.Kind == snapshot.Snapshot {
				found[i] = &Snapshot{Record: *rec, Name: info.Name, Object: crypt.Sum(b), Stored: info.ModTime}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(s *Snapshot) bool { return s == nil || forgotten[s.ID()] })
	slices.SortFunc(found, func(a, b *Snapshot) int {
		if a.Number != b.Number {
			return int(min(max(int64(a.Number)-int64(b.Number), -1), 1))
		}
		if c := a.StartTime().Compare(b.StartTime()); c != 0 {
			return c
		}
		return slices.Compare(a.Session[:], b.Session[:])
	})
	return found, nil
}

// forgotten reads which snapshots were taken out of the list. An invalid entry forgets nothing.
func (r *Repo) forgotten(ctx context.Context) (map[crypt.SessionID]bool, error) {
	infos, _, err := List(ctx, r.storage, "forgotten/")
	if err != nil {
		return nil, err
	}
	out := make(map[crypt.SessionID]bool)
	for _, i := range infos {
		s, err := r.getSigned(ctx, crypt.TypeForgotten, i.Name)
		if err == nil {
			var f *Forgotten
			if f, err = parseBody[Forgotten](s.Body); err == nil {
				err = r.mayForget(s.Signer, f)
			} else {
				err = damaged("reading", i.Name, err)
			}
			if err == nil {
				out[f.Session] = true
				continue
			}
		} else if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrTampered) {
			return nil, err
		}
		r.problem(i.Name, err)
	}
	return out, nil
}

// mayForget checks that an administrator, or the snapshot's own host where settings allow, took it out.
func (r *Repo) mayForget(signer crypt.HostID, f *Forgotten) error {
	c := r.trust.Certificate(signer)
	if signer == (crypt.HostID{}) || c != nil && c.Roles&crypt.RoleAdmin != 0 {
		return nil
	}
	rec, err := r.SnapshotObject("snapshots/"+f.Session.String(), f.Record)
	if err != nil {
		return err
	}
	if !r.settings.HostForget || crypt.HostID(rec.Host) != signer {
		return tampered("reading", "forgotten snapshot "+f.Session.String(), crypt.ErrSignature)
	}
	return nil
}

// OpenBody opens the part of a snapshot that only readers may see. It needs the passphrase (ErrNeedRead), or to be in the session that made it.
func (r *Repo) OpenBody(s *Snapshot) (*snapshot.Body, error) {
	var b sealedBody
	if err := canon.Unmarshal(s.Record.Body, &b); err != nil {
		return nil, damaged("reading", s.Name, err)
	}
	rec, err := crypt.ParseSessionRecord(b.Session)
	if err != nil {
		return nil, damaged("reading", s.Name, err)
	}
	if rec.Session != s.ID() {
		return nil, tampered("reading", s.Name, errors.New("its key is of another session"))
	}
	key, err := r.sessionKey(b.Session)
	if errors.Is(err, ErrNeedRead) || errors.Is(err, ErrNoKey) {
		return nil, err
	}
	var plain []byte
	if err == nil {
		plain, err = key.OpenBody(r.config.ID, s.ID(), b.Sealed)
	}
	if err != nil {
		return nil, damaged("reading", s.Name, err)
	}
	body, err := snapshot.ParseBody(plain)
	if err != nil {
		return nil, damaged("reading", s.Name, err)
	}
	return body, nil
}

// nextLinks finds the number of the next snapshot, and what it links back to: all heads of its own host, and a head of each other.
func nextLinks(all []*Snapshot, host [16]byte) (number uint64, prev []snapshot.Ref, seen []snapshot.SeenRef) {
	linked := make(map[[16]byte]bool)
	for _, s := range all {
		number = max(number, s.Number)
		for _, p := range s.Prev {
			linked[p.Session] = true
		}
	}
	for _, s := range slices.Backward(all) {
		if linked[s.Session] {
			continue
		}
		if s.Host == host {
			if len(prev) < snapshot.MaxPrev {
				prev = append(prev, snapshot.Ref{Session: s.Session, Object: s.Object})
			}
		} else if len(seen) < snapshot.MaxSeen {
			seen = append(seen, snapshot.SeenRef{Host: s.Host, Session: s.Session, Object: s.Object})
		}
	}
	slices.SortFunc(prev, func(a, b snapshot.Ref) int { return slices.Compare(a.Session[:], b.Session[:]) })
	slices.SortFunc(seen, func(a, b snapshot.SeenRef) int { return slices.Compare(a.Session[:], b.Session[:]) })
	return number + 1, prev, seen
}

// Lineage ties the backups of the same sources by this host together, without telling what they are: HMAC-SHA-256(lineage key,
// host id | count u32 | each source: length u32, bytes), with the key HKDF-SHA-256(chunker secret, "packhold/1/lineage" | repo id). The chunker secret
// never changes, so rotating other keys keeps parents.
func (r *Repo) Lineage(sources []string) ([32]byte, error) {
	if r.keys.Identity == nil {
		return [32]byte{}, fmt.Errorf("naming lineage: %w", ErrNeedHost)
	}
	key, err := hkdf.Key(sha256.New, r.keys.Chunker[:], nil, "packhold/1/lineage"+string(r.config.ID[:]), 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("naming lineage: %w", err)
	}
	m := hmac.New(sha256.New, key)
	m.Write(r.keys.Identity.Host[:])
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(sources)))
	m.Write(n[:])
	for _, s := range sources {
		binary.LittleEndian.PutUint32(n[:], uint32(len(s)))
		m.Write(n[:])
		m.Write([]byte(s))
	}
	return [32]byte(m.Sum(nil)), nil
}

// Parent finds the snapshot that a backup of this lineage compares with: the newest, or with full the newest full one. It must be
// signed by this host. nil if there is none.
func (r *Repo) Parent(all []*Snapshot, lineage [32]byte, full bool) *Snapshot {
	for _, s := range slices.Backward(all) {
		if s.Lineage == lineage && crypt.HostID(s.Host) == r.keys.Identity.Host && (!full || s.Type == snapshot.Full) {
			return s
		}
	}
	return nil
}

// HostName returns the name in a host's certificate, or its id.
func (r *Repo) HostName(host [16]byte) string {
	if c := r.trust.Certificate(host); c != nil && c.Name != "" {
		return c.Name
	}
	return crypt.HostID(host).String()
}

// FindSnapshot finds a snapshot by number, by the beginning of its id (at least 4 digits), or "latest". An ambiguous word is an error that names the candidates.
func FindSnapshot(all []*Snapshot, word string) (*Snapshot, error) {
	if word == "latest" {
		var best *Snapshot
		for _, s := range all {
			if best == nil || s.StartTime().After(best.StartTime()) {
				best = s
			}
		}
		if best == nil {
			return nil, fmt.Errorf("finding snapshot %q: %w", word, ErrNoSnapshot)
		}
		return best, nil
	}
	var found []*Snapshot
	for _, s := range all {
		if fmt.Sprint(s.Number) == word || len(word) >= 4 && strings.HasPrefix(s.ID().String(), word) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("finding snapshot %q: %w", word, ErrNoSnapshot)
	case 1:
		return found[0], nil
	}
	var ids []string
	for _, s := range found {
		ids = append(ids, s.ID().String())
	}
	return nil, fmt.Errorf("finding snapshot %q: %w: it may be %s", word, ErrAmbiguous, strings.Join(ids, " or "))
}
