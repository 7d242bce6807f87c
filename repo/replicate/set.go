package replicate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// ErrBase says that a set builds on packs which the replica does not have.
var ErrBase = errors.New("the set builds on another one that is not in the replica")

// Export writes what a replica lacks to a removable medium: packs, records, keys, logs, and last a signed set that names them all. What the replica has is
// read from the newest receipt on the medium (WriteReceipt); with full, or where there is none, everything is written. Of o Logs and Progress are
// used. Errors are those of Run.
func Export(ctx context.Context, home *repo.Repo, medium backends.Storage, o Options, full bool) (*Result, *format.Set, error) {
	r := &run{o: o, home: home, to: medium, res: new(Result), room: semaphore.NewWeighted(memory), seen: make(map[string]bool)}
	set, err := r.export(ctx, full)
	if err != nil {
		return r.res, nil, fmt.Errorf("exporting: %w", err)
	}
	return r.res, set, nil
}

func (r *run) export(ctx context.Context, full bool) (*format.Set, error) {
	id := r.home.Keys().Identity
	if id == nil || r.home.Trust().Roles(id.Host)&crypt.RolePrune == 0 {
		return nil, ErrRole
	}
	if _, err := r.checkMedium(ctx); err != nil {
		return nil, err
	}
	base := new(format.Receipt)
	if !full {
		var err error
		if base, err = r.receipt(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.copyKeys(ctx); err != nil {
		return nil, err
	}
	for round := 0; ; round++ {
		v, err := r.look(ctx)
		if err != nil {
			return nil, err
		}
		r.res.Lost = nil
		if err := r.recover(ctx, v); err != nil {
			return nil, err
		}
		set, err := r.exportPacks(ctx, v, base)
		switch {
		case err != nil:
			return nil, err
		case len(r.res.Lost) > 0:
			return nil, fmt.Errorf("%w: %d of them, the first is %s: %w", ErrLost, len(r.res.Lost), r.res.Lost[0], repo.ErrDamaged)
		case r.again && round < rounds:
			r.again = false
			continue
		case r.again:
			return nil, fmt.Errorf("packs go faster than they are copied: %w", stored.ErrStorage)
		}
		if err := r.copyMissing(ctx, "forgotten/"); err != nil {
			return nil, err
		}
		if err := r.copyLogs(ctx); err != nil {
			return nil, err
		}
		return set, r.seal(ctx, set, v, base)
	}
}

// checkMedium is checkPlace, but that a medium may hold packs without a config: an interrupted export left them.
func (r *run) checkMedium(ctx context.Context) (bool, error) {
	empty, err := r.checkPlace(ctx)
	if errors.Is(err, repo.ErrNoConfig) {
		return true, nil
	}
	return empty, err
}

// exportPacks writes the packs of v that neither base nor the medium has.
func (r *run) exportPacks(ctx context.Context, v *view, base *format.Receipt) (*format.Set, error) {
	there, err := stored.ListPacks(ctx, r.to)
	if err != nil {
		return nil, err
	}
	set := &format.Set{ID: [16]byte(crypt.NewRepoID()), Time: r.home.Now().Unix()}
	var todo []*index.PackInfo
	var total int64
	for name, p := range v.live {
		_, held := slices.BinarySearchFunc(base.Packs, name, func(a, b crypt.ID) int { return bytes.Compare(a[:], b[:]) })
		set.Packs = append(set.Packs, format.SetPack{Name: name, Tree: p.Kind == crypt.TypeTreePack, Size: p.Size, Class: p.Retention, Carried: !held})
		if size, ok := there.Size(name, 0); !held && (!ok || uint64(size) != p.Size) {
			todo = append(todo, p)
			total += int64(p.Size)
		}
	}
	slices.SortFunc(set.Packs, func(a, b format.SetPack) int { return bytes.Compare(a.Name[:], b.Name[:]) })
	return set, r.each(ctx, todo, total, r.exportPack)
}

// exportPack writes one pack under its plain name, whichever incarnation it is at the source.
func (r *run) exportPack(ctx context.Context, p *index.PackInfo) error {
	tree := p.Kind == crypt.TypeTreePack
	name := format.PackName(p.Name, tree, p.Incarnation)
	file, mended, err := r.fetch(ctx, name, p)
	switch {
	case err == nil:
	case stored.Missing(err):
		return r.gone(ctx, name, p)
	case stored.Isolated(err), stored.Unreadable(err):
		r.problem(name, err)
		r.lose(name)
		return nil
	default:
		return err
	}
	defer backends.Release(file)
	plain := format.PackName(p.Name, tree, 0)
	if err := stored.Put(ctx, r.to, plain, file, backends.PutOptions{}); err != nil {
		return err
	}
	if err := stored.Compare(ctx, r.to, plain, file, stored.NearWindow); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Packs++
	r.res.Bytes += int64(p.Size)
	if mended {
		r.res.Mended = append(r.res.Mended, name)
	}
	return nil
}

// seal writes the records that base lacks and then the set, which makes everything before it count.
func (r *run) seal(ctx context.Context, set *format.Set, v *view, base *format.Receipt) error {
	for _, s := range v.snapshots {
		if _, held := slices.BinarySearchFunc(base.Sessions, s.ID(), func(a, b crypt.SessionID) int { return bytes.Compare(a[:], b[:]) }); !held {
			r.res.Snapshots = append(r.res.Snapshots, s)
			set.Snapshots = append(set.Snapshots, format.KeptSnapshot{Session: s.ID(), Object: s.Object})
		}
		if r.res.Newest == nil || s.StartTime().After(r.res.Newest.StartTime()) {
			r.res.Newest = s
		}
	}
	slices.SortFunc(set.Snapshots, func(a, b format.KeptSnapshot) int { return bytes.Compare(a.Session[:], b.Session[:]) })
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * workers)
	for _, s := range r.res.Snapshots {
		g.Go(func() error {
			object, err := r.record(gctx, s)
			if err == nil {
				err = stored.Create(gctx, r.to, "snapshots/"+s.ID().String(), object)
			}
			if stored.Exists(err) { // a set before carries it too
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return r.put(ctx, r.home, crypt.TypeSet, fmt.Sprintf("set/%x", set.ID), canon.Marshal(set))
}

// put signs an object of the medium and writes it.
func (r *run) put(ctx context.Context, by *repo.Repo, t crypt.Type, name string, body []byte) error {
	_, object, err := by.SealControl(t, name, body)
	if err != nil {
		return err
	}
	return stored.Create(ctx, r.to, name, object)
}

// maxSets is how many sets and receipts of a medium are read.
const maxSets = 1000

// read opens the sets or receipts of a medium. One that cannot be used becomes a Problem.
func read[B format.Set | format.Receipt](ctx context.Context, by *repo.Repo, medium backends.Storage, t crypt.Type, problem func(name string, err error)) ([]*B, error) {
	prefix := t.String() + "/"
	var all []*B
	n := 0
	for i, err := range medium.List(ctx, prefix) {
		if err != nil {
			return nil, stored.Failed("listing", prefix, err)
		}
		if n++; n > maxSets {
			return nil, stored.Tampered("listing", prefix, fmt.Errorf("more than %d names", maxSets))
		}
		object, err := stored.Fetch(ctx, medium, i.Name)
		if err == nil {
			var s *crypt.Signed
			if s, err = by.OpenControl(t, i.Name, object); err == nil && by.Trust().Revoked(s.Signer) {
				err = stored.Tampered("reading", i.Name, errors.New("its signer was revoked"))
			}
			if err == nil {
				var v *B
				if v, err = format.Parse[B](s.Body); err == nil {
					all = append(all, v)
					continue
				}
				err = stored.Damaged("reading", i.Name, err)
			}
		}
		if !stored.Isolated(err) && !stored.Unreadable(err) {
			return nil, err
		}
		problem(i.Name, err)
	}
	return all, nil
}

// receipt is the newest one on the medium, an empty one if there is none.
func (r *run) receipt(ctx context.Context) (*format.Receipt, error) {
	all, err := read[format.Receipt](ctx, r.home, r.to, crypt.TypeReceipt, r.problem)
	newest := new(format.Receipt)
	for _, v := range all {
		if v.Time >= newest.Time {
			newest = v
		}
	}
	return newest, err
}

// Sets reads the sets of the medium that home is opened on, the oldest first, and what is wrong with others.
func Sets(ctx context.Context, home *repo.Repo) (sets []*format.Set, problems []repo.Problem, err error) {
	sets, err = read[format.Set](ctx, home, home.Storage(), crypt.TypeSet, func(name string, err error) {
		problems = append(problems, repo.Problem{Object: name, Err: err})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading sets: %w", err)
	}
	slices.SortStableFunc(sets, func(a, b *format.Set) int { return int(min(max(a.Time-b.Time, -1), 1)) })
	return sets, problems, nil
}

// WriteReceipt writes to the medium what the replica has, so that the next set can leave it out.
func WriteReceipt(ctx context.Context, replica *repo.Repo, medium backends.Storage) error {
	if err := writeReceipt(ctx, replica, medium); err != nil {
		return fmt.Errorf("writing receipt: %w", err)
	}
	return nil
}

func writeReceipt(ctx context.Context, replica *repo.Repo, medium backends.Storage) error {
	live, _, err := livePacks(ctx, replica)
	if err != nil {
		return err
	}
	rec := &format.Receipt{ID: [16]byte(crypt.NewRepoID()), Time: replica.Now().Unix()}
	for name := range live {
		rec.Packs = append(rec.Packs, name)
	}
	slices.SortFunc(rec.Packs, func(a, b crypt.ID) int { return bytes.Compare(a[:], b[:]) })
	snaps, err := replica.Snapshots(ctx)
	if err != nil {
		return err
	}
	sessions, err := replica.Forgotten(ctx)
	if err != nil {
		return err
	}
	for _, s := range snaps {
		sessions[s.ID()] = true
	}
	for id := range sessions {
		rec.Sessions = append(rec.Sessions, id)
	}
	slices.SortFunc(rec.Sessions, func(a, b crypt.SessionID) int { return bytes.Compare(a[:], b[:]) })
	r := &run{to: medium}
	return r.put(ctx, replica, crypt.TypeReceipt, fmt.Sprintf("receipt/%x", rec.ID), canon.Marshal(rec))
}

// packsOf is what the index named where a set was written.
func packsOf(set *format.Set) map[crypt.ID]*index.PackInfo {
	live := make(map[crypt.ID]*index.PackInfo, len(set.Packs))
	for _, p := range set.Packs {
		kind := crypt.TypeDataPack
		if p.Tree {
			kind = crypt.TypeTreePack
		}
		live[p.Name] = &index.PackInfo{PackID: index.PackID{Name: p.Name, Incarnation: p.Incarnation}, Kind: kind, Size: p.Size, Retention: p.Class}
	}
	return live
}

// carried are the snapshots of the set, whose records must be on the medium or in the replica.
func (r *run) carried(ctx context.Context, snaps []*repo.Snapshot) ([]*repo.Snapshot, error) {
	want := make(map[crypt.SessionID]crypt.ID, len(r.o.Set.Snapshots))
	for _, s := range r.o.Set.Snapshots {
		want[s.Session] = s.Object
	}
	for _, s := range snaps {
		if object, is := want[s.ID()]; is && object != s.Object {
			return nil, stored.Tampered("reading", s.Name, errors.New("it is not the one that the set names"))
		}
	}
	snaps = slices.DeleteFunc(slices.Clone(snaps), func(s *repo.Snapshot) bool { _, is := want[s.ID()]; return !is })
	if len(snaps) < len(want) {
		forgotten, err := r.home.Forgotten(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range snaps {
			delete(want, s.ID())
		}
		for id := range want {
			if !forgotten[id] { // by a later set on the same medium
				return nil, fmt.Errorf("%w: %w", ErrLost, stored.Damaged("reading", "snapshots/"+id.String(), errors.New("the set names it, and the medium does not have it")))
			}
		}
	}
	return snaps, nil
}

// notCarried says why a pack of the set is not on the medium.
func (r *run) notCarried(name string, p *index.PackInfo) error {
	i, found := slices.BinarySearchFunc(r.o.Set.Packs, p.Name, func(a format.SetPack, b crypt.ID) int { return bytes.Compare(a.Name[:], b[:]) })
	if found && !r.o.Set.Packs[i].Carried {
		return fmt.Errorf("%w: pack %s", ErrBase, strings.TrimPrefix(name, "packs/"))
	}
	r.problem(name, stored.Damaged("reading", name, errors.New("the set carries it, and the medium does not have it")))
	r.lose(name)
	return nil
}
