package repo

import (
	"cmp"
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

	"packhold/backends"
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
	byPrune := rec.Kind == snapshot.Void && crypt.HostID(rec.Host) != s.Signer
	switch {
	case "snapshots/"+crypt.SessionID(rec.Session).String() != name:
		err = errors.New("it speaks of another session")
	case byPrune && r.role(s.Signer)&crypt.RolePrune == 0:
		err = errors.New("a host ended the session of another")
	case !byPrune && (crypt.HostID(rec.Host) != s.Signer || crypt.NewSessionID(s.Signer, rec.Nonce) != crypt.SessionID(rec.Session)):
		err = errors.New("the session is not its signer's")
	case rec.Kind != snapshot.Void && r.trust.Revoked(s.Signer) && r.kept[crypt.SessionID(rec.Session)] != crypt.Sum(object):
		// A void takes nothing away that a commit had made, so a revoked host's voids stand: the name is taken in any case.
		err = errors.New("its host was revoked, and the revocation does not name it among the snapshots that stay valid")
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
			var rec *snapshot.Record
			if err == nil {
				rec, err = r.SnapshotObject(info.Name, b)
			}
			switch {
			case isMissing(err): // forgotten and removed between the listing and now
				return nil
			case isolated(err):
				r.problem(info.Name, err)
				return nil
			case err != nil:
				return err
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
		return cmp.Or(cmp.Compare(a.Number, b.Number), a.StartTime().Compare(b.StartTime()), slices.Compare(a.Session[:], b.Session[:]))
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
	err = r.fetchEach(ctx, infos, func(i backends.Info, object []byte, err error) error {
		var f *Forgotten
		if err == nil {
			f, err = r.parseForgotten(i.Name, object)
		}
		switch {
		case err == nil:
			out[f.Session] = true
		case isMissing(err):
		case isolated(err):
			r.problem(i.Name, err)
		default:
			return err
		}
		return nil
	})
	return out, err
}

// parseForgotten opens an entry and checks that its signer may forget that snapshot: an administrator any, and, where the settings
// allow it, a host its own.
func (r *Repo) parseForgotten(name string, object []byte) (*Forgotten, error) {
	s, err := r.openSigned(crypt.TypeForgotten, name, object)
	if err != nil {
		return nil, err
	}
	f, err := parseBody[Forgotten](s.Body)
	if err != nil {
		return nil, damaged("reading", name, err)
	}
	switch {
	case r.trust.Revoked(s.Signer):
		// What it forgot before the revocation comes back, and can be forgotten again; the other mistake would let data be removed.
		err = errors.New("its signer was revoked")
	case s.Signer == (crypt.HostID{}) || r.role(s.Signer)&crypt.RoleAdmin != 0:
	case !r.settings.HostForget:
		err = errors.New("only an administrator forgets here")
	default:
		var rec *snapshot.Record
		if rec, err = r.SnapshotObject("snapshots/"+f.Session.String(), f.Record); err == nil && crypt.HostID(rec.Host) != s.Signer {
			err = errors.New("a host took out the snapshot of another")
		}
	}
	if err != nil {
		return nil, tampered("reading", name, err)
	}
	return f, nil
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

// maxNumberStep is how far a number may be above the count of snapshots before it is ignored for the choice of the next: a hostile
// host cannot use numbers up.
const maxNumberStep = 1_000_000

// nextLinks finds the number of the next snapshot, and what it links back to: all heads of its own host, and the newest head of each other, of
// which a different part each time where they are more than fit.
func nextLinks(all []*Snapshot, host [16]byte) (number uint64, prev []snapshot.Ref, seen []snapshot.SeenRef) {
	type of struct{ host, session [16]byte }
	linked := make(map[of]bool) // by snapshots of the same host: what others say hides no head
	for _, s := range all {
		if s.Number <= uint64(len(all))+maxNumberStep {
			number = max(number, s.Number)
		}
		for _, p := range s.Prev {
			linked[of{s.Host, p.Session}] = true
		}
	}
	number++
	heads := make(map[[16]byte]bool)
	var others []snapshot.SeenRef
	for _, s := range slices.Backward(all) {
		if linked[of{s.Host, s.Session}] {
			continue
		}
		if s.Host == host {
			if len(prev) < snapshot.MaxPrev {
				prev = append(prev, snapshot.Ref{Session: s.Session, Object: s.Object})
			}
		} else if !heads[s.Host] {
			heads[s.Host] = true
			others = append(others, snapshot.SeenRef{Host: s.Host, Session: s.Session, Object: s.Object})
		}
	}
	slices.SortFunc(others, func(a, b snapshot.SeenRef) int { return slices.Compare(a.Host[:], b.Host[:]) })
	for i := range min(len(others), snapshot.MaxSeen) {
		at := i
		if len(others) > snapshot.MaxSeen {
			at = int((number*snapshot.MaxSeen + uint64(i)) % uint64(len(others)))
		}
		seen = append(seen, others[at])
	}
	slices.SortFunc(prev, func(a, b snapshot.Ref) int { return slices.Compare(a.Session[:], b.Session[:]) })
	slices.SortFunc(seen, func(a, b snapshot.SeenRef) int { return slices.Compare(a.Session[:], b.Session[:]) })
	return number, prev, seen
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
