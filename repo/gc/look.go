package gc

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// needed is which blobs the snapshots need. Of a blob it keeps 64 bits, keyed at random so that nobody can choose blobs with the same: a blob that is
// taken for a needed one costs its room. Pages are kept whole: one that was taken for another would lose what is below it.
type needed struct {
	seed  maphash.Seed
	blobs map[uint64]struct{}
	pages map[crypt.ID]struct{}
	trees map[crypt.SessionID]bool // snapshots that were walked, or are being walked
}

func newNeeded() *needed {
	return &needed{maphash.MakeSeed(), make(map[uint64]struct{}), make(map[crypt.ID]struct{}), make(map[crypt.SessionID]bool)}
}

func (n *needed) add(id crypt.ID)      { n.blobs[maphash.Comparable(n.seed, id)] = struct{}{} }
func (n *needed) has(id crypt.ID) bool { _, is := n.blobs[maphash.Comparable(n.seed, id)]; return is }

// getter notes the pages that a walk reads.
type getter struct {
	*repo.Reader
	n *needed
}

// Get implements snapshot.Getter.
func (g getter) Get(ctx context.Context, id crypt.ID) ([]byte, error) {
	g.n.add(id)
	return g.Reader.Get(ctx, id)
}

// walk adds everything that a snapshot needs. An error ends it: what cannot be read may name anything.
func (n *needed) walk(ctx context.Context, d *repo.Reader, s *repo.Snapshot) error {
	if n.trees[s.ID()] {
		return nil
	}
	n.trees[s.ID()] = true
	g := getter{d, n}
	enter := func(root crypt.ID) bool {
		if _, seen := n.pages[root]; seen {
			return false
		}
		n.pages[root] = struct{}{}
		return true
	}
	if enter(s.Root) {
		for e, err := range snapshot.Walk(ctx, g, s.Root, snapshot.WalkOptions{}) {
			if err != nil {
				return unsafe(fmt.Sprint("snapshot ", s.ID()), err)
			}
			if e.Node.Type == snapshot.Dir && !enter(e.Node.Subtree) {
				e.SkipDir()
			}
			for id, err := range snapshot.Blobs(ctx, g, e.Node) {
				if err != nil {
					return unsafe(fmt.Sprint("snapshot ", s.ID()), err)
				}
				n.add(id)
			}
		}
	}
	return nil
}

// sight is what a look found, in the order in which it was read.
type sight struct {
	x      *index.Index
	listed stored.Packs
	dead   map[index.PackID]bool // in a set or a final, but for the set that is being swept
	final  map[index.PackID]bool // of those, in a final
	leases map[crypt.SessionID]*repo.Lease
	now    time.Time // by this machine's clock
}

// good reports whether a pack holds what the index says, as far as can be told without reading it, and nothing is about to remove it.
func (v *sight) good(p *index.PackInfo) bool {
	size, ok := v.listed.Size(p.Name, p.Incarnation)
	return ok && uint64(size) == p.Size && !v.dead[p.PackID]
}

// late are packs of finals that are still there: an earlier run was not allowed to remove them, or did not come to it.
func (v *sight) late(sets []*set) (refs []format.PackRef) {
	for _, t := range sets {
		if !t.final || t.bad {
			continue
		}
		for _, ref := range t.packs {
			if _, there := v.listed.Size(ref.Name, ref.Incarnation); there {
				refs = append(refs, ref)
			}
		}
	}
	return refs
}

// vital are the prefixes of objects that say what is needed, or whom to believe: one that cannot be read ends a prune.
var vital = []string{"snapshots/", "copied/", "hosts/", "settings/", "marks/", "roots/"}

// look reads, in this order: condemned sets and finals; all snapshots, less the forgotten, and then the holds that keep some of these all the same; their
// trees; condemned sets, finals and index once more; the packs that are stored; and the leases.
func (p *pruner) look(ctx context.Context, but [16]byte) (*sight, error) {
	v := &sight{dead: make(map[index.PackID]bool), final: make(map[index.PackID]bool), now: p.r.Now()}
	if err := v.readDead(ctx, p.r, but); err != nil {
		return nil, err
	}
	if err := p.r.LoadIndex(ctx); err != nil { // to read trees with
		return nil, err
	}
	if err := p.walkAll(ctx); err != nil {
		return nil, err
	}
	if err := v.readDead(ctx, p.r, but); err != nil {
		return nil, err
	}
	if err := p.r.LoadListed(ctx); err != nil {
		return nil, err
	}
	if _, blind := p.r.Dead(); blind {
		return nil, fmt.Errorf("%w: a final cannot be read, and its set is gone", ErrUnsafe)
	}
	for _, problem := range p.r.Problems() {
		if errors.Is(problem.Err, repo.ErrNotKept) {
			continue // whom to believe was asked and has answered; else whoever stole a credential could end all prunes with it
		}
		if problem.Object == "(more)" { // than are told: any of these may be a snapshot
			return nil, unsafe("too much is damaged", problem.Err)
		}
		if slices.ContainsFunc(vital, func(prefix string) bool { return strings.HasPrefix(problem.Object, prefix) }) {
			return nil, unsafe(problem.Object, problem.Err)
		}
	}
	v.x = p.r.Index()
	var err error
	if v.listed, err = stored.ListPacks(ctx, p.r.Storage()); err != nil {
		return nil, err
	}
	if v.leases, err = p.r.Leases(ctx); err != nil { // after the packs: the lease of whoever stored one was there before it
		return nil, err
	}
	return v, p.sessions(ctx, v)
}

// sessions refuses a place where packs are and no session ever was: each leaves its lease, and when it ends an object under snapshots/ that nobody removes. So
// that folder was taken away, or is not shown, and with it what says what is needed.
func (p *pruner) sessions(ctx context.Context, v *sight) error {
	if p.res.Snapshots > 0 || len(v.leases) > 0 || len(v.listed) == 0 {
		return nil
	}
	infos, _, err := stored.List(ctx, p.r.Storage(), "snapshots/")
	if err == nil && len(infos) == 0 {
		err = unsafe("snapshots/", stored.Tampered("listing", "snapshots/", errors.New("packs are stored, and there is nothing of the sessions that stored them")))
	}
	return err
}

// readDead adds the packs of all sets but one.
func (v *sight) readDead(ctx context.Context, r *repo.Repo, but [16]byte) error {
	sets, err := readSets(ctx, r)
	if err != nil {
		return err
	}
	for _, t := range sets {
		if t.id == but && !t.final {
			continue
		}
		for _, ref := range t.packs {
			id := index.PackID{Name: ref.Name, Incarnation: ref.Incarnation}
			v.dead[id] = true
			if t.final {
				v.final[id] = true
			}
		}
	}
	return nil
}

// walkAll adds what all snapshots need.
func (p *pruner) walkAll(ctx context.Context) error {
	snaps, err := p.r.Snapshots(ctx)
	if err != nil {
		return err
	}
	known, err := p.r.Forgotten(ctx) // those that the snapshots lack, at least
	if err != nil {
		return err
	}
	forgotten, all, err := readForgotten(ctx, p.r)
	if err != nil {
		return err
	}
	for id := range known { // what fell between the two would not be looked at, and may be held
		if all[id] == nil {
			return unsafe("forgotten/", stored.Damaged("reading", "forgotten/", fmt.Errorf("the entry about snapshot %v was read, and cannot be read again", id)))
		}
	}
	marks, err := ReadMarks(ctx, p.r) // after what is forgotten: a hold is told to be good only where the snapshot was not
	if err != nil {
		return err
	}
	if len(marks.Problems) > 0 {
		return unsafe(marks.Problems[0].Object, marks.Problems[0].Err)
	}
	for _, f := range forgotten {
		if len(marks.Held(p.r, f.Snapshot)) > 0 {
			snaps = append(snaps, f.Snapshot)
			p.held[f.Snapshot.ID()] = true
		}
	}
	p.res.Snapshots = len(snaps)
	d, err := p.r.NewReader()
	if err != nil {
		return err
	}
	for _, s := range snaps {
		if err := p.use.walk(ctx, d, s); err != nil {
			return err
		}
	}
	return nil
}

// spare returns the packs of a set that can go: it takes off each one that holds a needed blob with no copy outside of every set. A copy that
// no prune made is opened: a host may claim a blob that it never stored, at any moment since the set was made.
func (p *pruner) spare(ctx context.Context, v *sight, packs []format.PackRef) ([]format.PackRef, error) {
	going := make(map[index.PackID]bool, len(packs))
	for _, ref := range packs {
		going[index.PackID{Name: ref.Name, Incarnation: ref.Incarnation}] = true
	}
	d, err := p.r.NewReader()
	if err != nil {
		return nil, err
	}
	byPrune := make(map[uint32]bool) // by the numbers of sessions
	err = p.eachNeeded(ctx, v, func(id crypt.ID, places []index.Place) error {
		touched := slices.ContainsFunc(places, func(at index.Place) bool { return going[at.Pack.PackID] })
		for i := range places {
			at := &places[i]
			if !v.good(at.Pack) || going[at.Pack.PackID] {
				continue
			}
			ok := !touched
			if !ok {
				var known bool
				if ok, known = byPrune[at.Pack.Session]; !known {
					ok = p.byPrune(v, at.Pack)
					byPrune[at.Pack.Session] = ok
				}
			}
			if !ok {
				var err error
				if ok, err = p.opens(ctx, d, id, at); err != nil {
					return err
				}
			}
			if ok {
				return nil
			}
		}
		for _, at := range places {
			delete(going, at.Pack.PackID)
		}
		if !touched {
			return p.lost(ctx, v, id, places)
		}
		return nil
	})
	out := slices.DeleteFunc(slices.Clone(packs), func(ref format.PackRef) bool {
		return !going[index.PackID{Name: ref.Name, Incarnation: ref.Incarnation}]
	})
	return out, err
}

// byPrune reports whether a prune made a pack: it opened and hashed whatever it put there.
func (p *pruner) byPrune(v *sight, pack *index.PackInfo) bool {
	record, err := v.x.Session(pack.Session)
	if err != nil {
		return false
	}
	rec, err := crypt.ParseSessionRecord(record)
	return err == nil && p.r.Trust().Roles(rec.Host)&crypt.RolePrune != 0 && !p.r.Trust().Revoked(rec.Host)
}

// lost is called for a needed blob of which no good copy is listed. A listing that lacks a pack is not believed until the pack was asked for; a copy in
// another set may still be saved by whoever sweeps that.
func (p *pruner) lost(ctx context.Context, v *sight, id crypt.ID, places []index.Place) error {
	for _, at := range places {
		info, err := stored.Stat(ctx, p.r.Storage(), format.PackName(at.Pack.Name, at.Pack.Tree(), at.Pack.Incarnation))
		switch {
		case err == nil && uint64(info.Size) == at.Pack.Size && !v.final[at.Pack.PackID]:
			return nil
		case err != nil && !stored.Missing(err):
			return err
		}
	}
	return stored.Damaged("looking for", "blob "+id.String(), errors.New("a snapshot needs it, and no pack has it"))
}

// eachNeeded calls f for every blob that is needed, with its places, the best first. One that the index does not know is damage: a pack that no segment names
// may have it, and is not to go.
func (p *pruner) eachNeeded(ctx context.Context, v *sight, f func(id crypt.ID, places []index.Place) error) error {
	var last crypt.ID
	found := 0
	for l, err := range v.x.All() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if l.ID == last || !p.use.has(l.ID) {
			continue
		}
		last = l.ID
		found++
		if err := f(l.ID, v.x.Places(l.ID)); err != nil {
			return err
		}
	}
	if err := v.x.Err(); err != nil {
		return err
	}
	if missing := len(p.use.blobs) - found; missing > 0 {
		return stored.Damaged("looking for", "index/", fmt.Errorf("%d blobs that snapshots need are in no pack that the index knows", missing))
	}
	return nil
}
