package repo

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// unnamed is what the index holds of packs that no segment names.
type unnamed struct {
	x     *index.Index
	packs map[crypt.ID]index.PackID // by the names under which they stand in x beside the segments
}

// tableReaders is how many tables are read at once: enough to hide the round trips of a network.
const tableReaders = 8

// addUnnamed adds to x what packs that no segment names say of themselves, so that a bad segment hides nothing from readers. No writer relies
// on them: another host's session may be about to name them, or a prune to remove them.
func (r *Repo) addUnnamed(ctx context.Context, x *index.Index, excluded map[index.PackID]index.Exclusion) error {
	named := make(map[index.PackID]struct{})
	for p, err := range x.Packs() {
		if err != nil {
			return err
		}
		named[p.PackID] = struct{}{}
	}
	var mu sync.Mutex // guards found
	found := make(map[crypt.ID]*index.Segment)
	for _, prefix := range []string{"packs/", "meta/"} {
		infos, _, err := stored.List(ctx, r.storage, prefix)
		if err != nil {
			return err
		}
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(tableReaders)
		for _, i := range infos {
			id, _, inc, err := format.ParsePackName(i.Name)
			pid := index.PackID{Name: id, Incarnation: inc}
			if _, known := named[pid]; err != nil || known || excluded[pid]&index.Final != 0 {
				continue
			}
			g.Go(func() error {
				s, err := r.Describe(gctx, pid, i)
				switch {
				case err == nil:
					mu.Lock()
					defer mu.Unlock()
					found[crypt.Sum([]byte(i.Name))] = s
				case stored.Missing(err):
				case stored.Isolated(err), stored.Unreadable(err):
					r.problem(i.Name, err)
				default:
					return err
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	if len(found) == 0 {
		return nil
	}
	for name, s := range found {
		r.unnamed.packs[name] = s.Packs[0].PackID
		excluded[s.Packs[0].PackID] |= index.NoDedup
	}
	x.Exclude(excluded)
	for name, s := range found {
		if err := x.AddSegment(name, s); err != nil {
			return stored.Damaged("reading", format.PackName(s.Packs[0].Name, s.Packs[0].Kind == crypt.TypeTreePack, s.Packs[0].Incarnation), err)
		}
	}
	return nil
}

// Describe makes a segment of what a pack, which was listed so, says of itself.
func (r *Repo) Describe(ctx context.Context, id index.PackID, i backends.Info) (*index.Segment, error) {
	t, table, err := r.ReadTable(ctx, i)
	if err != nil {
		return nil, err
	}
	p := packOf(t, id.Name)
	p.Incarnation = id.Incarnation
	s := &index.Segment{Sessions: [][]byte{table.Session}, Packs: []index.Pack{p}, Entries: entriesOf(table.Entries)}
	s.Sort()
	return s, nil
}
