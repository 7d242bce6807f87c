package repo

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// Snapshot is a committed snapshot.
type Snapshot struct {
	snapshot.Record
	Name    string    // of its object
	Object  crypt.ID  // SHA-256 of the stored object
	Stored  time.Time // by the storage's clock
	Body    *snapshot.Body
	Doubted bool // it was copied here, and who says that all of it is here was revoked
}

// ID is the name of the snapshot that people use: its session.
func (s *Snapshot) ID() crypt.SessionID { return crypt.SessionID(s.Session) }

// StartTime returns when the backup began, by its host's clock.
func (s *Snapshot) StartTime() time.Time { return time.Unix(s.Start.Sec, int64(s.Start.Nsec)) }

// Snapshots reads all committed snapshots that were not forgotten, in the order of their numbers, then of their start. Invalid ones are
// left out and become Problems. It may be called before LoadIndex: readers look at snapshots first, then at the index.
func (r *Repo) Snapshots(ctx context.Context) ([]*Snapshot, error) {
	return r.snapshotsBy(ctx, nil)
}

// RecentSnapshots is Snapshots, perhaps as they were up to a second ago, when this process listed the whole storage: for those who look for a parent or
// for what to restore. Whoever removes things calls Snapshots.
func (r *Repo) RecentSnapshots(ctx context.Context) ([]*Snapshot, error) {
	return r.snapshotsBy(ctx, r.surveys.Recent())
}

// Listed returns the size of an object that the storage listed up to a second ago. false says that nobody knows: ask the storage.
func (r *Repo) Listed(name string) (size int64, ok bool) { return r.surveys.Recent().Size(name) }

func (r *Repo) snapshotsBy(ctx context.Context, by *stored.Survey) ([]*Snapshot, error) {
	all, _, _, err := r.snapshots(ctx, by)
	if err != nil {
		return nil, fmt.Errorf("reading snapshots: %w", err)
	}
	return all, nil
}

// knownObject is what an object of snapshots/, copied/ or forgotten/ was found to be, with the size it had. Such objects never change.
type knownObject struct {
	size      int64
	snap      *Snapshot // nil: neither a snapshot nor the record of one
	copied    []crypt.ID
	doubted   bool            // a revoked host said so
	forgotten crypt.SessionID // of what an object of forgotten/ takes out
	record    crypt.ID        // and its name under copied/
}

// snapshots also returns those that were forgotten, and counts the objects that were left out: each of them may be a snapshot. Their numbers must not
// be given again.
func (r *Repo) snapshots(ctx context.Context, by *stored.Survey) (listed, gone []*Snapshot, unread int, err error) {
	infos, err := by.List(ctx, r.storage, "snapshots/")
	if err != nil {
		return nil, nil, 0, err
	}
	forgotten, err := r.forgotten(ctx, by)
	if err != nil {
		return nil, nil, 0, err
	}
	all, unread, err := r.readSnapshots(ctx, infos)
	if err != nil {
		return nil, nil, 0, err
	}
	var found []*Snapshot
	copies := make(map[string]bool) // names under copied/ that count, and whether somebody says so who was not revoked
	for _, k := range all {
		if k.snap != nil {
			found = append(found, k.snap)
		}
		for _, id := range k.copied {
			copies["copied/"+id.String()] = copies["copied/"+id.String()] || !k.doubted
		}
	}
	for _, object := range forgotten {
		delete(copies, "copied/"+object.String()) // it may be gone
	}
	if len(copies) > 0 {
		copied, bad, err := r.copiedSnapshots(ctx, copies)
		if err != nil {
			return nil, nil, 0, err
		}
		found, unread = append(found, copied...), unread+bad
	}
	slices.SortFunc(found, func(a, b *Snapshot) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), a.StartTime().Compare(b.StartTime()), slices.Compare(a.Session[:], b.Session[:]), cmp.Compare(b.Name, a.Name))
	})
	// What was copied back to where it came from stands under both names: snapshots/ before copied/.
	found = slices.CompactFunc(found, func(a, b *Snapshot) bool { return a.Session == b.Session })
	for _, s := range found {
		if _, is := forgotten[s.ID()]; is {
			gone = append(gone, s)
		} else {
			listed = append(listed, s)
		}
	}
	return listed, gone, unread, nil
}

// copiedSnapshots reads the records that sessions copied here. One that is gone was taken away by somebody, or by a revoked host made up.
func (r *Repo) copiedSnapshots(ctx context.Context, names map[string]bool) (found []*Snapshot, unread int, err error) {
	infos, _, err := stored.List(ctx, r.storage, "copied/")
	if err != nil {
		return nil, 0, err
	}
	gone := maps.Clone(names)
	maps.DeleteFunc(gone, func(_ string, sure bool) bool { return !sure })
	infos = slices.DeleteFunc(infos, func(i backends.Info) bool {
		_, named := names[i.Name]
		delete(gone, i.Name)
		return !named
	})
	for name := range gone {
		r.problem(name, stored.Tampered("looking for", name, errors.New("it was copied here, is gone from the storage, and nobody forgot it")))
		unread++
	}
	all, bad, err := r.readSnapshots(ctx, infos)
	for _, k := range all {
		if k.snap != nil {
			s := *k.snap
			s.Doubted = !names[s.Name]
			found = append(found, &s)
		}
	}
	return found, unread + bad, err
}

// readSnapshots reads objects of snapshots/ and copied/, and counts those that cannot be used.
func (r *Repo) readSnapshots(ctx context.Context, infos []backends.Info) (all []knownObject, bad int, err error) {
	all = make([]knownObject, len(infos))
	var unread atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	room := stored.NewBudget()
	for i, info := range infos {
		r.mu.Lock()
		known, ok := r.known[info.Name]
		r.mu.Unlock()
		if ok && known.size == info.Size {
			all[i] = known
			continue
		}
		g.Go(func() error {
			b, done, err := room.FetchListed(gctx, r.storage, info)
			defer done()
			var rec *snapshot.Record
			object := b
			if err == nil {
				if strings.HasPrefix(info.Name, "copied/") {
					rec, object, err = r.control().Copied(info.Name, b)
				} else {
					rec, err = r.SnapshotObject(info.Name, b)
				}
			}
			switch {
			case stored.Isolated(err), stored.Unreadable(err), stored.Missing(err): // nobody removes what is listed here
				r.problem(info.Name, err)
				unread.Add(1)
				return nil
			case err != nil:
				return err
			}
			k := knownObject{size: info.Size, copied: rec.Copied, doubted: r.trust.Revoked(rec.Host)}
			if rec.Kind == snapshot.Snapshot {
				k.snap = &Snapshot{Record: *rec, Name: info.Name, Object: crypt.Sum(object), Stored: info.ModTime}
			}
			all[i] = k
			r.mu.Lock()
			defer r.mu.Unlock()
			r.known[info.Name] = k
			return nil
		})
	}
	err = g.Wait()
	return all, int(unread.Load()), err
}

// Copied reports whether the snapshot's record was copied here from the repository that it was made in.
func (s *Snapshot) Copied() bool { return strings.HasPrefix(s.Name, "copied/") }

// Missing finds the snapshots that others, of all, refer to and that are neither stored nor forgotten: somebody took them out of the storage. What
// is stored and cannot be read is not missing.
func (r *Repo) Missing(ctx context.Context, all []*Snapshot) ([]Problem, error) {
	infos, _, err := stored.List(ctx, r.storage, "snapshots/")
	if err != nil {
		return nil, fmt.Errorf("looking for snapshots: %w", err)
	}
	forgotten, err := r.forgotten(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("looking for snapshots: %w", err)
	}
	there := make(map[crypt.SessionID]bool)
	for id := range forgotten {
		there[id] = true
	}
	objects := make(map[crypt.SessionID]crypt.ID)
	for _, i := range infos {
		var id crypt.SessionID
		if _, err := hex.Decode(id[:], []byte(strings.TrimPrefix(i.Name, "snapshots/"))); err == nil { // List yields exact names only
			there[id] = true
		}
	}
	for _, s := range all {
		objects[s.ID()] = s.Object
	}
	var problems []Problem
	said := make(map[crypt.SessionID]bool)
	for _, s := range all {
		refs := slices.Clone(s.Prev)
		for _, o := range s.Seen {
			refs = append(refs, snapshot.Ref{Session: o.Session, Object: o.Object})
		}
		for _, ref := range refs {
			id := crypt.SessionID(ref.Session)
			object, read := objects[id]
			known := there[id] || read
			if said[id] || known && (!read || object == ref.Object) || !known && s.Copied() { // a replica need not have what came before
				continue
			}
			said[id] = true
			why := "it is gone from the storage, and nobody forgot it"
			if known {
				why = "it is not the one that was there"
			}
			name := "snapshots/" + id.String()
			problems = append(problems, Problem{name, stored.Tampered("looking for", name, fmt.Errorf("snapshot %d follows it: %s", s.Number, why))})
		}
	}
	return problems, nil
}

// forgotten reads which snapshots were taken out of the list, and under which names in copied/ they would stand at a replica. An invalid
// entry forgets nothing.
func (r *Repo) forgotten(ctx context.Context, by *stored.Survey) (map[crypt.SessionID]crypt.ID, error) {
	infos, err := by.List(ctx, r.storage, "forgotten/")
	if err != nil {
		return nil, err
	}
	out := make(map[crypt.SessionID]crypt.ID)
	r.mu.Lock()
	infos = slices.DeleteFunc(infos, func(i backends.Info) bool {
		k, ok := r.known[i.Name]
		if ok = ok && k.size == i.Size; ok {
			out[k.forgotten] = k.record
		}
		return ok
	})
	r.mu.Unlock()
	err = stored.Each(ctx, r.storage, infos, func(i backends.Info, object []byte, err error) error {
		var f *format.Forgotten
		if err == nil {
			f, err = r.control().Forgotten(i.Name, object)
		}
		switch {
		case err == nil:
			name, _ := format.JoinCopied(f.Session, f.Record)
			id, err := crypt.ParseID(strings.TrimPrefix(name, "copied/"))
			if err != nil {
				return err
			}
			out[f.Session] = id
			r.mu.Lock()
			defer r.mu.Unlock()
			r.known[i.Name] = knownObject{size: i.Size, forgotten: f.Session, record: id}
		case stored.Missing(err):
		case stored.Isolated(err), stored.Unreadable(err):
			r.problem(i.Name, err)
		default:
			return err
		}
		return nil
	})
	return out, err
}

// OpenBody opens the part of a snapshot that only readers may see. It needs the passphrase (ErrNeedRead), or to be in the session that made it.
func (r *Repo) OpenBody(s *Snapshot) (*snapshot.Body, error) {
	var b format.SealedBody
	if err := canon.Unmarshal(s.Record.Body, &b); err != nil {
		return nil, stored.Damaged("reading", s.Name, err)
	}
	rec, err := crypt.ParseSessionRecord(b.Session)
	if err != nil {
		return nil, stored.Damaged("reading", s.Name, err)
	}
	if rec.Session != s.ID() {
		return nil, stored.Tampered("reading", s.Name, errors.New("its key is of another session"))
	}
	key, err := r.sessionKey(b.Session)
	if errors.Is(err, ErrNeedRead) || errors.Is(err, keyring.ErrNoKey) {
		return nil, err
	}
	var plain []byte
	if err == nil {
		plain, err = key.OpenBody(r.config.ID, s.ID(), b.Sealed)
	}
	if err != nil {
		return nil, stored.Damaged("reading", s.Name, err)
	}
	body, err := snapshot.ParseBody(plain)
	if err != nil {
		return nil, stored.Damaged("reading", s.Name, err)
	}
	return body, nil
}

// Lineage ties the backups of the same sources by this host together, without telling what they are.
func (r *Repo) Lineage(sources []string) ([32]byte, error) {
	if r.keys.Identity == nil {
		return [32]byte{}, fmt.Errorf("naming lineage: %w", ErrNeedHost)
	}
	return crypt.Lineage(r.keys.Chunker, r.config.ID, r.keys.Identity.Host, sources)
}

// Parent finds the snapshot that a backup of this lineage compares with: the newest, or with full the newest full one. It must be
// signed by this host, and be no copy: one that was brought back is older than its number. nil if there is none.
func (r *Repo) Parent(all []*Snapshot, lineage [32]byte, full bool) *Snapshot {
	for _, s := range slices.Backward(all) {
		if s.Lineage == lineage && s.Origin == nil && crypt.HostID(s.Host) == r.keys.Identity.Host && (!full || s.Type == snapshot.Full) {
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
