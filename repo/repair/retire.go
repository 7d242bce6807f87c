package repair

import (
	"context"
	"errors"
	"slices"

	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/check"
	"packhold/repo/format"
	"packhold/repo/gc"
	"packhold/repo/stored"
)

// ref is the pack of a name; false is that it names none.
func ref(name string) (format.PackRef, bool) {
	id, tree, inc, err := format.ParsePackName(name)
	return format.PackRef{Name: id, Tree: tree, Incarnation: inc}, err == nil
}

// retirable makes steps of packs that nothing mends and nobody misses, or only for blobs that can still be read. Where something else is lost no pack goes:
// that may be what is missed.
func (m *mender) retirable(ctx context.Context, p *Plan, rep *check.Report) error {
	var bad []format.PackRef
	for _, l := range p.Left {
		if r, ok := ref(l.Object); ok && !errors.Is(l.Why, repo.ErrTampered) && !slices.Contains(rep.Unnamed, l.Object) {
			bad = append(bad, r)
		}
	}
	if id := m.r.Keys().Identity; len(bad) == 0 || id == nil || m.r.Trust().Roles(id.Host)&crypt.RolePrune == 0 {
		return nil
	}
	gone, _, err := gc.Retire(ctx, m.r, bad, gc.PruneOptions{DryRun: true, Anyway: true})
	if held(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range gone {
		name := format.PackName(r.Name, r.Tree, r.Incarnation)
		p.Steps = append(p.Steps, Step{Object: name, How: Blobs})
		p.Left = slices.DeleteFunc(p.Left, func(l Left) bool { return l.Object == name })
	}
	return nil
}

// held reports that packs stay for now: something is lost, cannot be told, or another prune is at work.
func held(err error) bool {
	return stored.Isolated(err) || stored.Unreadable(err) || errors.Is(err, gc.ErrUnsafe) || errors.Is(err, gc.ErrBusy)
}

// retire carries these steps out, by the protocol of a prune: a backup that may count on one of the packs is waited for by the next run.
func (m *mender) retire(ctx context.Context, steps []Step, d *Done) error {
	var bad []format.PackRef
	for _, s := range steps {
		if r, ok := ref(s.Object); ok {
			bad = append(bad, r)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	gone, res, err := gc.Retire(ctx, m.r, bad, gc.PruneOptions{})
	if err != nil && !held(err) {
		return err
	}
	if err == nil && res.Waiting > 0 {
		err = errors.New("a session that is open may count on it: run the repair again when it has ended")
	} else if err == nil {
		err = errors.New("it is needed after all")
	}
	for _, s := range steps {
		if r, _ := ref(s.Object); slices.Contains(gone, r) && res.Waiting+res.Spared == 0 {
			d.Mended = append(d.Mended, s)
		} else {
			d.Left = append(d.Left, Left{s.Object, err})
		}
	}
	return nil
}
