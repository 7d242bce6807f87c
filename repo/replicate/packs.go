package replicate

import (
	"context"
	"errors"
	"fmt"

	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// heldPacks is what a session that copies packs knows of those at its end: what it may lean on, and which names are dead. It is read after
// the session's lease was stored (Begin), so a prune that condemns more of them waits for the session. Its methods may be called concurrently.
type heldPacks struct {
	listed stored.Packs
	dead   map[index.PackID]index.Exclusion
	held   map[crypt.ID]bool
}

// newHeldPacks lists the packs at this end of a copying session, whose Begin has read the index.
func newHeldPacks(ctx context.Context, r *repo.Repo) (*heldPacks, error) {
	dead, blind := r.Dead()
	if blind { // it may name any pack
		return nil, fmt.Errorf("listing packs: %w", stored.Damaged("reading", "condemned/", errors.New("a final cannot be read, and its set is gone")))
	}
	listed, err := stored.ListPacks(ctx, r.Storage())
	if err != nil {
		return nil, fmt.Errorf("listing packs: %w", err)
	}
	h := &heldPacks{listed: listed, dead: dead, held: make(map[crypt.ID]bool)}
	for p, err := range r.Index().Packs() {
		if err != nil {
			return nil, fmt.Errorf("listing packs: %w", err)
		}
		if size, ok := listed.Size(p.Name, p.Incarnation); ok && dead[p.PackID] == 0 && uint64(size) == p.Size {
			h.held[p.Name] = true
		}
	}
	return h, nil
}

// has reports whether an index segment names the pack, the storage lists it in its size, and nothing condemned it.
func (h *heldPacks) has(name crypt.ID) bool { return h.held[name] }

// place is the name under which a pack of size bytes that is not held can be stored: the first incarnation that nothing condemned, since a final
// kills a name for ever. With there a file of that name and size exists, which no segment names: an interrupted copy left it, as like as not.
func (h *heldPacks) place(name crypt.ID, size int64) (id index.PackID, there bool) {
	for id.Name = name; h.dead[id] != 0; id.Incarnation++ {
	}
	n, ok := h.listed.Size(id.Name, id.Incarnation)
	return id, ok && n == size
}

// livePacks reads the index until no segment vanished meanwhile, so that what a concurrent prune moved from one segment to another is not
// missed, and yields every pack that it names and no final does, each name once. Those that readers found lost are apart, in gone.
func livePacks(ctx context.Context, r *repo.Repo) (live, gone map[crypt.ID]*index.PackInfo, err error) {
	for try := 0; ; try++ {
		before, _, err := stored.List(ctx, r.Storage(), "index/")
		if err != nil {
			return nil, nil, err
		}
		if err := r.LoadIndex(ctx); err != nil {
			return nil, nil, err
		}
		after, _, err := stored.List(ctx, r.Storage(), "index/")
		if err != nil {
			return nil, nil, err
		}
		there := make(map[string]bool, len(after))
		for _, i := range after {
			there[i.Name] = true
		}
		vanished := ""
		for _, i := range before {
			if !there[i.Name] {
				vanished = i.Name
			}
		}
		if vanished == "" {
			break
		}
		if try == segmentTries {
			return nil, nil, stored.Failed("reading", vanished, errors.New("index segments go faster than they are read"))
		}
	}
	dead, _ := r.Dead()
	lost, err := lostPacks(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	live, gone = make(map[crypt.ID]*index.PackInfo), make(map[crypt.ID]*index.PackInfo)
	for p, err := range r.Index().Packs() {
		switch {
		case err != nil:
			return nil, nil, err
		case dead[p.PackID]&index.Final != 0:
		case lost[p.PackID]:
			gone[p.Name] = p
		default:
			if have := live[p.Name]; have == nil || dead[have.PackID] != 0 { // one that nothing condemned stays longer
				live[p.Name] = p
			}
		}
	}
	for name := range live {
		delete(gone, name)
	}
	return live, gone, nil
}

// lostPacks are those that readers found lost.
func lostPacks(ctx context.Context, r *repo.Repo) (map[index.PackID]bool, error) {
	lost := make(map[index.PackID]bool)
	return lost, r.EachVerified(ctx, func(v *format.Verified) {
		for _, p := range v.Lost {
			lost[index.PackID{Name: p.Name, Incarnation: p.Incarnation}] = true
		}
	})
}

// segmentTries is how often segments are listed: a prune moves a few in minutes, and reading them takes seconds.
const segmentTries = 10
