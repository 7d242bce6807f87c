package check

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// locate finds a place of a blob. A blob that no segment knows is looked for in packs that none names: a lost segment loses no bytes.
func (c *checker) locate(ctx context.Context, id crypt.ID) error {
	_, err := c.r.Locate(id)
	if err != nil && !c.again && c.rep.Orphans > 0 {
		c.again = true
		if err := c.r.LoadIndex(ctx); err != nil {
			return err
		}
		_, err = c.r.Locate(id)
	}
	if err == nil {
		c.known(id)
	}
	return err
}

// known notes the pack of a blob that only packs hold which the index did not name when the run began.
func (c *checker) known(id crypt.ID) {
	if c.rep.Orphans == 0 {
		return
	}
	places := c.r.Index().Places(id)
	for _, p := range places {
		if c.named[format.PackName(p.Pack.Name, p.Pack.Tree(), p.Pack.Incarnation)] {
			return
		}
	}
	if len(places) > 0 {
		p := places[0].Pack
		c.strange[format.PackName(p.Name, p.Tree(), p.Incarnation)] = true
	}
}

// sumStrange reports the packs that are needed and that no segment names. A prune may have moved a blob while the run went on, so the segments are asked
// once more.
func (c *checker) sumStrange(ctx context.Context) error {
	if len(c.strange) == 0 {
		return nil
	}
	named, _, err := Named(ctx, c.r)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.strange)) {
		id, _, inc, err := format.ParsePackName(name)
		if err != nil {
			return err
		}
		if !named[index.PackID{Name: id, Incarnation: inc}] {
			c.rep.Unnamed = append(c.rep.Unnamed, name)
			c.problem(Problem{Object: name, Mendable: true, Err: fmt.Errorf("%w: snapshots need what it holds, and no index segment names it", repo.ErrDamaged)})
		}
	}
	return nil
}

// Named reads which packs valid index segments name, and which segments are not valid ones.
func Named(ctx context.Context, r *repo.Repo) (named map[index.PackID]bool, bad []string, err error) {
	named = make(map[index.PackID]bool)
	infos, _, err := stored.List(ctx, r.Storage(), "index/")
	if err != nil {
		return nil, nil, err
	}
	err = stored.Each(ctx, r.Storage(), infos, func(i backends.Info, object []byte, err error) error {
		var seg *index.Segment
		if err == nil {
			seg, err = r.SegmentObject(i.Name, object)
		}
		switch {
		case stored.Missing(err): // a prune put it together with others
			return nil
		case stored.Isolated(err), stored.Unreadable(err):
			bad = append(bad, i.Name)
			return nil
		case err != nil:
			return err
		}
		for _, p := range seg.Packs {
			named[p.PackID] = true
		}
		return nil
	})
	return named, bad, err
}
