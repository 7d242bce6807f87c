package gc

import (
	"context"
	"fmt"
	"slices"

	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
)

// Retire is a Prune of packs that were found damaged or missing, and of no others: those go of which every blob that a snapshot needs is whole in another
// pack, or can still be read and was copied. It returns which these are, or with DryRun would be; of o MaxUnused and MaxRepack do not count. Errors are those of Prune.
func Retire(ctx context.Context, r *repo.Repo, packs []format.PackRef, o PruneOptions) (gone []format.PackRef, res *Pruned, err error) {
	p := newPruner(r, o)
	p.retired = make(map[index.PackID]bool)
	for _, ref := range packs {
		p.retired[index.PackID{Name: ref.Name, Incarnation: ref.Incarnation}] = true
	}
	if err := p.prune(ctx); err != nil {
		return nil, p.res, fmt.Errorf("retiring damaged packs: %w", err)
	}
	return p.going, p.res, nil
}

// retire plans it.
func (p *pruner) retire(ctx context.Context, v *sight) (*plan, error) {
	out := &plan{drop: make(map[index.PackID]*packUse), repack: make(map[index.PackID]*packUse)}
	for info, err := range v.x.Packs() {
		if err != nil {
			return nil, err
		}
		if !p.retired[info.PackID] || v.final[info.PackID] {
			continue
		}
		if v.dead[info.PackID] { // a run that was interrupted condemned it: this one finishes that
			p.going = append(p.going, format.PackRef{Name: info.Name, Tree: info.Tree(), Incarnation: info.Incarnation})
			continue
		}
		open, err := v.open(info)
		if err != nil {
			return nil, err
		}
		if !open {
			out.drop[info.PackID] = &packUse{info: info}
		}
	}
	d, err := p.r.NewReader()
	if err != nil {
		return nil, err
	}
	err = p.eachNeeded(ctx, v, func(id crypt.ID, places []index.Place) error {
		bad := func(at index.Place) bool { return p.retired[at.Pack.PackID] }
		if !slices.ContainsFunc(places, bad) {
			if v.keeper(places) == nil {
				return p.lost(ctx, v, id, places)
			}
			return nil
		}
		var still *index.Place // where it can be read in a damaged pack
		for i := range places {
			at := &places[i]
			if v.dead[at.Pack.PackID] || bad(*at) && still != nil {
				continue
			}
			ok, err := p.opens(ctx, d, id, at)
			switch {
			case err != nil:
				return err
			case ok && !bad(*at) && v.good(at.Pack):
				return nil
			case ok && bad(*at):
				still = at
			}
		}
		if still == nil {
			for _, at := range places {
				delete(out.drop, at.Pack.PackID)
			}
			return nil
		}
		if u := out.drop[still.Pack.PackID]; u != nil {
			u.alive += int64(still.Length)
			u.blobs = append(u.blobs, index.Located{ID: id, Place: *still})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for id, u := range out.drop {
		if len(u.blobs) > 0 {
			out.repack[id] = u
		}
		p.going = append(p.going, format.PackRef{Name: id.Name, Tree: u.info.Tree(), Incarnation: id.Incarnation})
		p.res.Removed++
		p.res.RemovedBytes += int64(u.info.Size)
	}
	slices.SortFunc(p.going, format.PackRef.Compare)
	p.going = slices.Compact(p.going) // a pack that two segments name comes twice
	return out, nil
}
