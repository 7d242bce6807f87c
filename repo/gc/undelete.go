package gc

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// ErrSwept says that data of a forgotten snapshot cannot be read any more.
var ErrSwept = errors.New("its data is gone")

// Forgotten is a snapshot that was taken out of the list.
type Forgotten struct {
	*repo.Snapshot
	By     crypt.HostID // zero: the root
	When   time.Time    // by the clock of who did it
	Reason string
}

// ReadForgotten returns the forgotten snapshots in the order of their numbers. Those whose record cannot be checked, such as of a host that was revoked
// since, are left out.
func ReadForgotten(ctx context.Context, r *repo.Repo) ([]*Forgotten, error) {
	list, _, err := readForgotten(ctx, r)
	return list, err
}

// readForgotten also returns all entries that count.
func readForgotten(ctx context.Context, r *repo.Repo) (list []*Forgotten, all map[crypt.SessionID]*format.Forgotten, err error) {
	if all, err = forgottenOf(ctx, r); err != nil {
		return nil, nil, fmt.Errorf("reading what was forgotten: %w", err)
	}
	for id, f := range all {
		name := "snapshots/" + id.String()
		rec, err := r.SnapshotObject(name, f.Record)
		if err != nil || rec.Kind != snapshot.Snapshot {
			continue
		}
		list = append(list, &Forgotten{&repo.Snapshot{Record: *rec, Name: name, Object: f.Object}, f.Host, timeOf(f.Time), f.Reason})
	}
	slices.SortFunc(list, func(a, b *Forgotten) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), bytes.Compare(a.Session[:], b.Session[:]))
	})
	return list, all, nil
}

// forgottenOf reads the entries that count, by session. Of several about one the first in the order of names is taken.
func forgottenOf(ctx context.Context, r *repo.Repo) (map[crypt.SessionID]*format.Forgotten, error) {
	infos, _, err := stored.List(ctx, r.Storage(), "forgotten/")
	if err != nil {
		return nil, err
	}
	all := make(map[crypt.SessionID]*format.Forgotten)
	names := make(map[crypt.SessionID]string)
	err = stored.Each(ctx, r.Storage(), infos, func(i backends.Info, object []byte, err error) error {
		var f *format.Forgotten
		if err == nil {
			f, err = r.ForgottenObject(i.Name, object)
		}
		switch {
		case stored.Missing(err), stored.Isolated(err), stored.Unreadable(err): // it forgets nothing; the list of snapshots tells
			return nil
		case err != nil:
			return err
		}
		if have, ok := names[f.Session]; !ok || i.Name < have {
			all[f.Session], names[f.Session] = f, i.Name
		}
		return nil
	})
	return all, err
}

func timeOf(unix int64) time.Time { return time.Unix(unix, 0).UTC() }

// maxSessions is how often a fenced session is begun again.
const maxSessions = 3

// Undelete makes a snapshot with the tree of a forgotten one: a new session with a number of its own, whose Origin names the old one. What a prune has
// marked, and not yet removed, is stored again. It takes the passphrase (repo.ErrNeedRead), and an identity that may write (repo.ErrNeedHost).
// ErrSwept says that something cannot be read any more; then there is no new snapshot.
func Undelete(ctx context.Context, r *repo.Repo, f *Forgotten, j repo.Journal) (*repo.Snapshot, error) {
	for try := 1; ; try++ {
		s, err := undelete(ctx, r, f, j)
		if errors.Is(err, repo.ErrFenced) && try < maxSessions {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("bringing back snapshot %v: %w", f.ID(), err)
		}
		return s, nil
	}
}

func undelete(ctx context.Context, r *repo.Repo, f *Forgotten, j repo.Journal) (*repo.Snapshot, error) {
	body, err := r.OpenBody(f.Snapshot)
	if err != nil {
		return nil, err
	}
	s, err := r.Begin(ctx, repo.SessionOptions{Purpose: "undelete", Retention: f.Retention})
	if err != nil {
		return nil, err
	}
	defer s.Close(ctx)
	c := copier{s: s}
	if c.reader, err = r.NewReader(); err != nil {
		return nil, err
	}
	if c.worker, err = s.NewWorker(); err != nil {
		return nil, err
	}
	if err := s.Alive(ctx, func(ctx context.Context) error { return c.tree(ctx, f.Root) }); err != nil {
		return nil, err
	}
	// The start stays: a later backup that compares with the tree trusts no file that changed after it.
	rec := &snapshot.Record{Type: f.Type, Root: f.Root, Lineage: f.Lineage, Start: f.Start, Retention: f.Retention, Stats: f.Stats,
		Origin: &snapshot.Origin{Repository: r.Config().ID, Session: f.Session}}
	snap, err := s.Commit(ctx, rec, body, j)
	if err != nil {
		return nil, err
	}
	snap.Body = body
	return snap, nil
}

// copier sees to it that a session may count on every blob of a tree.
type copier struct {
	s      *repo.Session
	reader *repo.Reader
	worker *repo.Worker
}

// Get implements snapshot.Getter: pages, lists of extents and attributes are read in any case, and then stored if they have to be.
func (c *copier) Get(ctx context.Context, id crypt.ID) ([]byte, error) {
	b, err := c.reader.Get(ctx, id)
	if errors.Is(err, repo.ErrDamaged) {
		return nil, fmt.Errorf("%w: %w", ErrSwept, err)
	}
	if err != nil {
		return nil, err
	}
	if !c.s.Has(id) {
		if _, _, err := c.worker.StoreTree(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// tree goes through the tree. Everything that the session's view lacks is read where it still can be, and stored.
func (c *copier) tree(ctx context.Context, root crypt.ID) error {
	seen := make(map[crypt.ID]bool) // subtrees: a hostile tree has more entries than a walk could ever yield
	for e, err := range snapshot.Walk(ctx, c, root, snapshot.WalkOptions{}) {
		if err != nil {
			return err
		}
		n := e.Node
		if n.Type == snapshot.Dir {
			if seen[n.Subtree] {
				e.SkipDir()
			}
			seen[n.Subtree] = true
		}
		if !n.XAttrBlob.IsZero() {
			if _, err := c.Get(ctx, n.XAttrBlob); err != nil {
				return fmt.Errorf("%q: %w", e.Path, err)
			}
		}
		for id, err := range snapshot.Blobs(ctx, c, n) {
			if err == nil && !slices.Contains(n.ExtentBlobs, id) { // those come through Get
				err = c.blob(ctx, id)
			}
			if err != nil {
				return fmt.Errorf("%q: %w", e.Path, err)
			}
		}
	}
	return nil
}

// blob stores a blob that the session's view lacks.
func (c *copier) blob(ctx context.Context, id crypt.ID) error {
	if c.s.Has(id) {
		return nil
	}
	b, err := c.reader.Get(ctx, id)
	if errors.Is(err, repo.ErrDamaged) {
		return fmt.Errorf("%w: %w", ErrSwept, err)
	}
	if err == nil {
		_, _, err = c.worker.Store(b)
	}
	return err
}
