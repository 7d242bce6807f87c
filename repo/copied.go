package repo

import (
	"context"
	"fmt"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/pack"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// PackCopy is a pack of another end.
type PackCopy struct {
	index.PackID        // under which it is stored here (where a copying session may put it)
	Class        string // retention class
	Trailer      *pack.Trailer
	Table        *pack.Table // what it says of itself (ParsePack)
	File         []byte      // whole, so that it hashes to the name (pack.Verify); nil: its bytes are here already
}

// CopyPack stores a pack verbatim, reads it back and adds it to what the session's segments will name. One whose bytes are here already is read and
// checked instead: an error matching ErrDamaged or fs.ErrNotExist says that it has to be stored. It may be called concurrently.
func (s *Session) CopyPack(ctx context.Context, p PackCopy) error {
	if err := s.copyPack(ctx, p); err != nil {
		return fmt.Errorf("copying pack %v: %w", p.Name, err)
	}
	return nil
}

func (s *Session) copyPack(ctx context.Context, p PackCopy) error {
	r := s.r
	name := format.PackName(p.Name, p.Trailer.Header.Type == crypt.TypeTreePack, p.Incarnation)
	if p.File == nil {
		if err := stored.CheckWhole(ctx, r.storage, backends.Info{Name: name, Size: int64(p.Trailer.FileSize())}, p.Name); err != nil {
			return err
		}
	} else {
		storage := s.storage
		if r.keeper != nil {
			storage = r.keeper.Class(p.Class)
		}
		// Not exclusively: what stands there under the name does not match it, or is this very pack.
		if err := stored.Put(ctx, storage, name, p.File, backends.PutOptions{}); err != nil {
			return err
		}
		if !s.o.NoValidate {
			if err := r.surveys.Compare(ctx, name, p.File); err != nil {
				return s.fenced(err)
			}
		}
	}
	s.packs.Add(1)
	s.packBytes.Add(uint64(p.Trailer.FileSize()))
	described := packOf(p.Trailer, p.Name)
	described.Incarnation, described.Retention = p.Incarnation, p.Class
	if err := s.x.Add(described, p.Table.Session, entriesOf(p.Table.Entries)); err != nil {
		return err
	}
	if r.now().Sub(s.segmentTime()) >= segmentEvery {
		return s.putSegments(ctx)
	}
	return nil
}

// ParsePack reads what a pack whose bytes are here says of itself. Errors match ErrDamaged or ErrTampered.
func (r *Repo) ParsePack(name string, file []byte) (*pack.Trailer, *pack.Table, error) {
	return r.tables().Parse(name, file)
}

// Dead returns the packs that the reading of the index found condemned, final or lost; with blind nobody knows. The map must not be changed.
func (r *Repo) Dead() (packs map[index.PackID]index.Exclusion, blind bool) {
	r.loadMu.Lock()
	defer r.loadMu.Unlock()
	return r.dead, r.blind
}

// Forgotten returns the sessions whose snapshots were taken out of the list.
func (r *Repo) Forgotten(ctx context.Context) (map[crypt.SessionID]bool, error) {
	names, err := r.forgotten(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("reading what is forgotten: %w", err)
	}
	out := make(map[crypt.SessionID]bool, len(names))
	for id := range names {
		out[id] = true
	}
	return out, nil
}

// SaveSegments stores index segments for the packs that none names yet, so that a session which ends without a commit leaves them to the next.
func (s *Session) SaveSegments(ctx context.Context) error {
	if err := s.putSegments(ctx); err != nil {
		return fmt.Errorf("storing index segments: %w", err)
	}
	return nil
}
