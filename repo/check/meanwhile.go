package check

import (
	"context"
	"slices"
	"strings"

	"packhold/backends"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// meanwhile takes back what was found to be missing because others forgot it and pruned while this run looked: packs that a final names by now, and what
// snapshots lack that are forgotten by now. A final stands before its packs go, and the entry of what is forgotten before both, so whatever went that way is
// excused here; what is gone without either stays a problem.
func (c *checker) meanwhile(ctx context.Context) error {
	if len(c.rep.Problems) == 0 || len(c.rep.Problems) < c.rep.Count { // with so many not all of them are known
		return nil
	}
	forgotten, err := c.r.Forgotten(ctx)
	if err != nil {
		return err
	}
	final, err := c.finals(ctx)
	if err != nil {
		return err
	}
	problems := c.rep.Problems
	c.rep.Problems, c.rep.Count, c.rep.kinds = nil, 0, 0
	for _, p := range problems {
		about := len(p.Files)
		p.Files = slices.DeleteFunc(p.Files, func(f File) bool { return forgotten[f.Snapshot] })
		if !final[p.Object] && (about == 0 || len(p.Files) > 0) {
			c.rep.Add(p)
		}
	}
	for ref := range c.lostPacks {
		if final[format.PackName(ref.Name, ref.Tree, ref.Incarnation)] {
			delete(c.lostPacks, ref)
		}
	}
	for blob, ref := range c.failed {
		if final[format.PackName(ref.Name, ref.Tree, ref.Incarnation)] {
			delete(c.failed, blob)
		}
	}
	return nil
}

// finals returns the names of all packs that finals name.
func (c *checker) finals(ctx context.Context) (map[string]bool, error) {
	infos, _, err := stored.List(ctx, c.s, "condemned/")
	if err != nil {
		return nil, err
	}
	infos = slices.DeleteFunc(infos, func(i backends.Info) bool { return !strings.HasSuffix(i.Name, ".final") })
	names := make(map[string]bool)
	err = stored.Each(ctx, c.s, infos, func(i backends.Info, object []byte, err error) error {
		if err == nil {
			part, perr := c.r.SetObject(i.Name, "final", object)
			if err = perr; err == nil && !c.r.Trust().Revoked(part.Signer) {
				for _, ref := range part.Packs {
					names[format.PackName(ref.Name, ref.Tree, ref.Incarnation)] = true
				}
			}
		}
		if stored.Missing(err) || stored.Isolated(err) || stored.Unreadable(err) { // it excuses nothing
			return nil
		}
		return err
	})
	return names, err
}
