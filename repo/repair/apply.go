package repair

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// Errors of Apply.
var (
	ErrRole = errors.New("only who has the prune role mends packs and index")
	ErrDead = errors.New("a prune condemned it meanwhile")
)

// Done is what Apply did.
type Done struct {
	Mended []Step
	Left   []Left // what could not be done after all
	Kept   int    // of Mended: packs whose bad file a lock keeps; the good one stands beside it
}

// Apply carries a plan out. Each step looks again at what it mends, and leaves alone what is whole by then: a run that was interrupted is finished by the next
// one. It takes an identity with the prune role (ErrRole), but for a plan that comes First. An empty plan calls nothing.
//
// What cannot be mended after all is in Done; the error is for a run that could not go on. After it, what was mended stays mended.
func (p *Plan) Apply(ctx context.Context, r *repo.Repo, o Options) (*Done, error) {
	d := new(Done)
	if len(p.Steps) == 0 {
		return d, nil
	}
	if err := newMender(r, o).apply(ctx, p, d); err != nil {
		return d, fmt.Errorf("repairing: %w", err)
	}
	return d, nil
}

func (m *mender) apply(ctx context.Context, p *Plan, d *Done) error {
	if p.First { // no prune ever removes these, and who lacks its own certificate has no session
		for _, step := range p.Steps {
			if err := m.step(ctx, nil, step, d); err != nil {
				return err
			}
		}
		return nil
	}
	if id := m.r.Keys().Identity; id == nil || m.r.Trust().Roles(id.Host)&crypt.RolePrune == 0 {
		return ErrRole
	}
	var retire []Step
	steps := slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool {
		if s.How == Blobs {
			retire = append(retire, s)
		}
		return s.How == Blobs
	})
	if err := m.session(ctx, steps, d); err != nil {
		return err
	}
	return m.retire(ctx, retire, d)
}

// session does the steps in a session.
func (m *mender) session(ctx context.Context, steps []Step, d *Done) error {
	if len(steps) == 0 {
		return nil
	}
	// The lease comes before anything is looked at again: a prune that condemns from here on waits for this session.
	s, err := m.r.Begin(ctx, repo.SessionOptions{Purpose: "repair"})
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	return s.Alive(ctx, func(ctx context.Context) error {
		for _, step := range steps {
			if err := m.step(ctx, s, step, d); err != nil {
				return err
			}
		}
		return m.recant(ctx, d)
	})
}

// step does one thing, and files what cannot be done.
func (m *mender) step(ctx context.Context, s *repo.Session, step Step, d *Done) error {
	how, err := m.do(ctx, s, step, d)
	var left *leftError
	switch {
	case err == nil && how != 0:
		step.How = how
		d.Mended = append(d.Mended, step)
	case errors.As(err, &left):
		d.Left = append(d.Left, Left{step.Object, left.error})
	case unmendable(err), errors.Is(err, ErrDead):
		d.Left = append(d.Left, Left{step.Object, err})
	case errors.Is(err, fs.ErrPermission): // kept until a date
		d.Left = append(d.Left, Left{step.Object, err})
	default:
		return err
	}
	return nil
}

// leftError is a failure that concerns one step alone.
type leftError struct{ error }

// do does one step and returns how: 0 is that there was nothing to do any more.
func (m *mender) do(ctx context.Context, s *repo.Session, step Step, d *Done) (How, error) {
	if rank(step.Object) == 1 {
		return m.doPack(ctx, s, step, d)
	}
	switch step.How {
	case Tables:
		return Tables, m.rebuild(ctx, s, step, d)
	case Drop:
		how, err := m.judge(ctx, step.Object, nil)
		if err == nil && how == Drop {
			err = stored.Remove(ctx, m.s, step.Object)
		}
		return how, err
	case Copy:
		b, how, err := m.twin(ctx, step.Object)
		if err == nil && b == nil {
			err = &leftError{stored.Damaged("mending", step.Object, errors.New("no good copy is left"))}
		}
		if err == nil {
			err = m.mendCopies(ctx, step.Object, b, how)
		}
		return how, err
	}
	if copies(step.Object) != nil {
		b, how, err := m.twin(ctx, step.Object)
		if err == nil && b != nil {
			err = m.mendCopies(ctx, step.Object, b, how)
		}
		return how, err
	}
	if there, err := m.good(ctx, m.s, step.Object); there != nil || err != nil {
		return 0, err
	}
	b, err := m.abroad(ctx, step.Object)
	if err == nil && b == nil {
		err = &leftError{stored.Damaged("mending", step.Object, errors.New("the replica has no good one any more"))}
	}
	if err == nil {
		err = m.replace(ctx, step.Object, b)
	}
	return Replica, err
}

func (m *mender) doPack(ctx context.Context, s *repo.Session, step Step, d *Done) (How, error) {
	id, _, inc, err := format.ParsePackName(step.Object)
	if err != nil {
		return 0, &leftError{err}
	}
	dead, _ := m.r.Dead()
	if dead[index.PackID{Name: id, Incarnation: inc}]&index.Final != 0 {
		return 0, ErrDead
	}
	how, beside, err := m.mendPack(ctx, step.Object)
	if err == nil && beside != nil {
		d.Kept++
		_, err = s.PutSegment(ctx, beside)
	}
	return how, err
}

// rebuild names the packs that no segment names, and then removes the damaged segment: what it said of packs that are there is known again.
func (m *mender) rebuild(ctx context.Context, s *repo.Session, step Step, d *Done) error {
	var join index.Joiner
	put := func() error {
		seg := join.Take()
		if seg == nil {
			return nil
		}
		_, err := s.PutSegment(ctx, seg)
		return err
	}
	packs, _, err := m.unnamed(ctx)
	if err != nil {
		return err
	}
	for _, name := range packs {
		one, err := m.describe(ctx, name)
		if unmendable(err) {
			d.Left = append(d.Left, Left{name, err})
			continue
		}
		if err != nil {
			return err
		}
		for !join.Add(one.Packs[0], one.Sessions[0], one.Entries) {
			if err := put(); err != nil {
				return err
			}
		}
	}
	if err := put(); err != nil {
		return err
	}
	if step.Object == "index/" {
		return nil
	}
	if how, err := m.rotten(ctx, step.Object, Tables); how == 0 || err != nil {
		return err
	}
	return stored.Remove(ctx, m.s, step.Object)
}

// recant takes back what readers noted about packs that are whole again, so that backups count on them. Best effort where the storage keeps the notes:
// a note that stays costs storing a blob twice.
func (m *mender) recant(ctx context.Context, d *Done) error {
	mended := make(map[crypt.ID]bool)
	for _, step := range d.Mended {
		if id, _, _, err := format.ParsePackName(step.Object); err == nil && rank(step.Object) == 1 {
			mended[id] = true
		}
	}
	reader := m.r.Keys().Reader
	if len(mended) == 0 || reader == nil {
		return nil
	}
	infos, _, err := stored.List(ctx, m.s, "verified/")
	if err != nil {
		return err
	}
	for _, i := range infos {
		object, err := m.good(ctx, m.s, i.Name)
		if err != nil {
			return err
		}
		if object == nil {
			continue
		}
		signed, err := m.r.OpenControl(crypt.TypeVerified, i.Name, object)
		if err != nil {
			continue
		}
		v, err := format.Parse[format.Verified](signed.Body)
		if err != nil {
			continue
		}
		before := len(v.Lost) + len(v.Failed)
		v.Lost = slices.DeleteFunc(v.Lost, func(p format.PackRef) bool { return mended[p.Name] })
		v.Failed = slices.DeleteFunc(v.Failed, func(f format.FailedBlob) bool { return mended[f.Pack] })
		if len(v.Lost)+len(v.Failed) == before {
			continue
		}
		if len(v.Lost)+len(v.Failed)+len(v.Packs) > 0 {
			v.Host = reader.Host
			name, object, err := m.r.SealAs(reader, crypt.TypeVerified, "verified/", canon.Marshal(*v))
			if err != nil {
				return err
			}
			if err := m.replace(ctx, name, object); err != nil {
				return err
			}
		}
		if err := stored.Remove(ctx, m.s, i.Name); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}
