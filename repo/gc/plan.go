package gc

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
)

// packUse is how much of a pack is needed.
type packUse struct {
	info   *index.PackInfo
	stored int64 // sealed bytes of all its blobs
	alive  int64 // of those, of blobs that are needed and have no better copy
	blobs  []index.Located
}

// plan is what goes.
type plan struct {
	drop   map[index.PackID]*packUse
	repack map[index.PackID]*packUse // of drop, those with something alive, which is in their blobs
}

// classes are the retention classes of what is copied, sorted.
func (p *plan) classes() []string {
	all := make(map[string]bool)
	for _, u := range p.repack {
		all[u.info.Retention] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// plan decides which packs go: those with nothing alive, and of the others those with the most that nobody needs, until no more than the share that may
// stay is left. Packs of open sessions stay, whatever is in them, and so do those of sets that are not finished.
func (p *pruner) plan(ctx context.Context, v *sight) (*plan, error) {
	if p.retired != nil {
		return p.retire(ctx, v)
	}
	all, err := p.weigh(ctx, v)
	if err != nil {
		return nil, err
	}
	out := &plan{drop: make(map[index.PackID]*packUse), repack: make(map[index.PackID]*packUse)}
	var part []*packUse
	var total, unused int64
	for id, u := range all {
		p.res.Packs++
		p.res.Bytes += int64(u.info.Size)
		p.res.Unused += u.stored - u.alive
		open, err := v.open(u.info)
		switch {
		case err != nil:
			return nil, err
		case open || !v.good(u.info):
		case u.alive == 0:
			out.drop[id] = u
		default:
			total += u.alive
			unused += u.stored - u.alive
			part = append(part, u)
		}
	}
	slices.SortFunc(part, func(a, b *packUse) int {
		return cmp.Or(cmp.Compare(float64(a.alive)/float64(a.stored), float64(b.alive)/float64(b.stored)), a.info.Compare(b.info.PackID))
	})
	budget := p.o.MaxRepack
	for _, u := range part {
		waste := u.stored - u.alive
		if waste == 0 || float64(unused) <= p.o.MaxUnused*float64(total+unused) {
			break
		}
		if p.o.MaxRepack >= 0 {
			if budget -= u.alive; budget < 0 {
				break
			}
		}
		unused -= waste
		out.drop[u.info.PackID], out.repack[u.info.PackID] = u, u
	}
	if err := p.sure(ctx, v, out); err != nil {
		return nil, err
	}
	for _, u := range out.drop {
		p.res.Removed++
		p.res.RemovedBytes += int64(u.info.Size)
	}
	for _, u := range out.repack {
		p.res.Repacked++
		p.res.RepackedBytes += u.alive
	}
	return out, nil
}

// weigh finds out how much of each pack is needed. Of a blob with several copies the best one is kept.
func (p *pruner) weigh(ctx context.Context, v *sight) (map[index.PackID]*packUse, error) {
	all := make(map[index.PackID]*packUse)
	for info, err := range v.x.Packs() {
		if err != nil {
			return nil, err
		}
		if !v.final[info.PackID] && all[info.PackID] == nil {
			all[info.PackID] = &packUse{info: info}
		}
	}
	var last crypt.ID
	var seen []index.PackID // of last: a pack that two segments name comes twice
	for l, err := range v.x.All() {
		if err != nil {
			return nil, err
		}
		if l.ID != last {
			last, seen = l.ID, seen[:0]
		}
		if u := all[l.Pack.PackID]; u != nil && !slices.Contains(seen, l.Pack.PackID) {
			u.stored += int64(l.Length)
			seen = append(seen, l.Pack.PackID)
		}
	}
	err := p.eachNeeded(ctx, v, func(id crypt.ID, places []index.Place) error {
		at := v.keeper(places)
		if at == nil {
			return p.lost(ctx, v, id, places)
		}
		u := all[at.Pack.PackID]
		u.alive += int64(at.Length)
		return nil
	})
	return all, err
}

// keeper is the copy that stays, nil if there is none outside of every set.
func (v *sight) keeper(places []index.Place) *index.Place {
	for i := range places {
		if v.good(places[i].Pack) {
			return &places[i]
		}
	}
	return nil
}

// open reports whether a pack is of a session that has not ended, nor been silent for so long that its machine must be gone: whoever sweeps ends that one,
// by the storage's clock, or waits. Else what it left would stay for ever where nothing else goes.
func (v *sight) open(p *index.PackInfo) (bool, error) {
	record, err := v.x.Session(p.Session)
	if err != nil {
		return false, err
	}
	rec, err := crypt.ParseSessionRecord(record)
	if err != nil {
		return true, nil // whose it is nobody can tell
	}
	l := v.leases[rec.Session]
	return l != nil && !l.Ended && v.now.Sub(l.Seen) < repo.LeaseDead, nil
}

// sure opens and hashes the copy that stays of every blob of which another copy goes: a host may have claimed a blob that it never stored. Where it does not
// open, the packs of the other copies stay too. It also collects what is to be copied.
func (p *pruner) sure(ctx context.Context, v *sight, out *plan) error {
	if len(out.drop) == 0 {
		return nil
	}
	d, err := p.r.NewReader()
	if err != nil {
		return err
	}
	return p.eachNeeded(ctx, v, func(id crypt.ID, places []index.Place) error {
		at := v.keeper(places)
		if at == nil {
			return nil
		}
		if u := out.repack[at.Pack.PackID]; u != nil { // it is opened when it is copied
			u.blobs = append(u.blobs, index.Located{ID: id, Place: *at})
			return nil
		}
		doubted := false
		for i := range places {
			other := &places[i]
			if other == at || out.drop[other.Pack.PackID] == nil {
				continue
			}
			if !doubted {
				ok, err := p.opens(ctx, d, id, at)
				if err != nil {
					return err
				}
				if ok {
					return nil
				}
				doubted = true
			}
			delete(out.drop, other.Pack.PackID)
			delete(out.repack, other.Pack.PackID)
		}
		return nil
	})
}

// opens reports whether a copy of a blob is what it should be.
func (p *pruner) opens(ctx context.Context, d *repo.Reader, id crypt.ID, at *index.Place) (bool, error) {
	sealed, err := p.r.ReadPack(ctx, at.Pack, int64(at.Offset), int64(at.Length))
	if err == nil {
		_, err = d.Open(id, *at, sealed)
		backends.Release(sealed)
	}
	return err == nil, cutShort(ctx, err)
}

// cutShort passes on errors that are not about the bytes that were read.
func cutShort(ctx context.Context, err error) error {
	if err == nil || isDamage(err) && ctx.Err() == nil {
		return nil
	}
	return err
}

// repackers is how many packs are copied at once: each takes a pack's memory.
const repackers = 2

// repack copies what is alive in the packs of a class into packs of the session.
func (p *pruner) repack(ctx context.Context, s *repo.Session, plan *plan, class string) error {
	var todo []*packUse
	var bytes int64
	for _, u := range plan.repack {
		if u.info.Retention == class {
			todo = append(todo, u)
			bytes += u.alive
		}
	}
	slices.SortFunc(todo, func(a, b *packUse) int { return a.info.Compare(b.info.PackID) })
	if p.o.Progress != nil {
		p.o.Progress.Total(bytes)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(repackers)
	for _, u := range todo {
		g.Go(func() error { return p.copyAlive(gctx, s, u) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.Flush(); err != nil {
		return err
	}
	return s.SaveSegments(ctx)
}

// copyAlive copies the blobs of one pack, which it reads in one piece. A blob that does not open there is looked for elsewhere, and mended.
func (p *pruner) copyAlive(ctx context.Context, s *repo.Session, u *packUse) error {
	d, err := p.r.NewReader()
	if err != nil {
		return err
	}
	w, err := s.NewWorker()
	if err != nil {
		return err
	}
	slices.SortFunc(u.blobs, func(a, b index.Located) int { return cmp.Compare(a.Offset, b.Offset) })
	from, to := int64(u.blobs[0].Offset), int64(0)
	for _, b := range u.blobs { // where a host lies they may overlap
		to = max(to, int64(b.Offset)+int64(b.Length))
	}
	span, err := p.r.ReadPack(ctx, u.info, from, to-from)
	if err := cutShort(ctx, err); err != nil {
		return err
	}
	defer func() { backends.Release(span) }()
	for _, b := range u.blobs {
		var plain []byte
		err := repo.ErrDamaged
		if span != nil {
			at := int64(b.Offset) - from
			plain, err = d.Open(b.ID, b.Place, span[at:at+int64(b.Length)])
		}
		if isDamage(err) {
			plain, err = d.Get(ctx, b.ID)
		}
		if err != nil {
			return err
		}
		if u.info.Tree() {
			_, _, err = w.StoreTree(plain)
		} else {
			_, _, err = w.Store(plain)
		}
		if err != nil {
			return err
		}
		if p.o.Progress != nil {
			p.o.Progress.Done(int64(b.Length))
		}
	}
	return nil
}
