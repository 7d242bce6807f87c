package repo

import (
	"context"
	"errors"
	"fmt"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/pack"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// HeldPacks is what a session that copies packs knows of those at its end: what it may lean on, and which names are dead. It is read after
// the session's lease was stored (Begin), so a prune that condemns more of them waits for the session. Its methods may be called concurrently.
type HeldPacks struct {
	listed stored.Packs
	dead   map[index.PackID]index.Exclusion
	held   map[crypt.ID]bool
}

// HeldPacks lists the packs at this end of a copying session.
func (s *Session) HeldPacks(ctx context.Context) (*HeldPacks, error) {
	r := s.r
	r.loadMu.Lock()
	dead, blind := r.dead, r.blind
	r.loadMu.Unlock()
	if blind { // it may name any pack
		return nil, fmt.Errorf("listing packs: %w", stored.Damaged("reading", "condemned/", errors.New("a final cannot be read, and its set is gone")))
	}
	listed, err := stored.ListPacks(ctx, r.storage)
	if err != nil {
		return nil, fmt.Errorf("listing packs: %w", err)
	}
	h := &HeldPacks{listed: listed, dead: dead, held: make(map[crypt.ID]bool)}
	for p, err := range s.x.Packs() {
		if err != nil {
			return nil, fmt.Errorf("listing packs: %w", err)
		}
		if size, ok := listed.Size(p.Name, p.Incarnation); ok && dead[p.PackID] == 0 && uint64(size) == p.Size {
			h.held[p.Name] = true
		}
	}
	return h, nil
}

// Has reports whether an index segment names the pack, the storage lists it in its size, and nothing condemned it.
func (h *HeldPacks) Has(name crypt.ID) bool { return h.held[name] }

// Place is the name under which a pack of size bytes that is not held can be stored: the first incarnation that nothing condemned, since a final
// kills a name for ever. With there a file of that name and size exists, which no segment names: an interrupted copy left it, as like as not.
func (h *HeldPacks) Place(name crypt.ID, size int64) (id index.PackID, there bool) {
	for id.Name = name; h.dead[id] != 0; id.Incarnation++ {
	}
	n, ok := h.listed.Size(id.Name, id.Incarnation)
	return id, ok && n == size
}

// PackCopy is a pack of another end.
type PackCopy struct {
	index.PackID        // under which it is stored here (HeldPacks.Place)
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
			if err := stored.Compare(ctx, r.storage, name, p.File); err != nil {
				return err
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

// LivePacks reads the index until no segment vanished meanwhile, so that what a concurrent prune moved from one segment to another is not
// missed, and yields every pack that it names and no final does, each name once. Packs that readers found lost are left out, and counted in lost.
func (r *Repo) LivePacks(ctx context.Context) (live map[crypt.ID]*index.PackInfo, lost int, err error) {
	live, lost, err = r.livePacks(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("listing live packs: %w", err)
	}
	return live, lost, nil
}

func (r *Repo) livePacks(ctx context.Context) (map[crypt.ID]*index.PackInfo, int, error) {
	for try := 0; ; try++ {
		before, _, err := stored.List(ctx, r.storage, "index/")
		if err != nil {
			return nil, 0, err
		}
		if err := r.LoadIndex(ctx); err != nil {
			return nil, 0, err
		}
		after, _, err := stored.List(ctx, r.storage, "index/")
		if err != nil {
			return nil, 0, err
		}
		there := make(map[string]bool, len(after))
		for _, i := range after {
			there[i.Name] = true
		}
		gone := ""
		for _, i := range before {
			if !there[i.Name] {
				gone = i.Name
			}
		}
		if gone == "" {
			break
		}
		if try == condemnedTries {
			return nil, 0, stored.Failed("reading", gone, errors.New("index segments go faster than they are read"))
		}
	}
	r.loadMu.Lock()
	dead := r.dead
	r.loadMu.Unlock()
	lost, err := r.lostPacks(ctx)
	if err != nil {
		return nil, 0, err
	}
	live := make(map[crypt.ID]*index.PackInfo)
	left := 0
	for p, err := range r.index.Load().Packs() {
		switch {
		case err != nil:
			return nil, 0, err
		case dead[p.PackID]&index.Final != 0:
		case lost[p.PackID]:
			left++
		default:
			if have := live[p.Name]; have == nil || dead[have.PackID] != 0 { // one that nothing condemned stays longer
				live[p.Name] = p
			}
		}
	}
	return live, left, nil
}

// lostPacks are those that readers found lost.
func (r *Repo) lostPacks(ctx context.Context) (map[index.PackID]bool, error) {
	lost := make(map[index.PackID]bool)
	return lost, r.EachVerified(ctx, func(v *format.Verified) {
		for _, p := range v.Lost {
			lost[index.PackID{Name: p.Name, Incarnation: p.Incarnation}] = true
		}
	})
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
