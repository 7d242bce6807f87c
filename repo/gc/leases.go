package gc

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sync/errgroup"

	"packhold/repo/format"
	"packhold/repo/stored"
)

// removers is how many leases are removed at once: enough to hide round trips.
const removers = 16

// dropLeases removes the leases of sessions that had ended before this run looked: nobody waits for them, and they can never commit. Packs that such a
// session stored and no index names were garbage to this run, as others are, so nobody needs the lease to find them. One that cannot be removed stays, to
// nobody's harm.
func (p *pruner) dropLeases(ctx context.Context, v *sight) error {
	infos, _, err := stored.List(ctx, p.r.Storage(), "leases/")
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(removers)
	for _, i := range infos {
		id, err := format.LeaseSession(i.Name)
		if l := v.leases[id]; err != nil || l == nil || !l.Ended {
			continue
		}
		g.Go(func() error {
			err := p.r.Storage().Delete(gctx, i.Name)
			if err != nil && !stored.Missing(err) && !errors.Is(err, fs.ErrPermission) {
				return stored.Failed("removing", i.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}
