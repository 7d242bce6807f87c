package gc

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/stored"
)

// Errors of Prune. After each of them nothing was removed that the run had not made certain of before.
var (
	ErrBusy   = errors.New("another prune is at work")
	ErrUnsafe = errors.New("it cannot be told what is needed")
	ErrRole   = errors.New("only who has the prune role removes packs")
)

// unsafe is the error of an object that must be read. A storage that is away says nothing about the object, and may be back the next time.
func unsafe(what string, err error) error {
	if errors.Is(err, stored.ErrStorage) && !stored.Isolated(err) && !stored.Unreadable(err) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnsafe, what, err)
}

// Progress is told how far the copying of what stays is. Its methods are called concurrently.
type Progress interface {
	Total(bytes int64)
	Done(bytes int64)
}

// PruneOptions shape a prune.
type PruneOptions struct {
	MaxUnused float64 // share of the bytes in packs that may stay although nothing needs them, 0 to 1
	MaxRepack int64   // bytes that are copied at most out of packs with little alive; below 0: any number
	DryRun    bool    // say what would be done
	Anyway    bool    // also where another prune seems to be at work

	// Intent is called before the first call that leads to the removal of anything; its error ends the run. nil: nobody is told.
	Intent   func(ctx context.Context, plan *Pruned) error
	Progress Progress // may be nil
}

// Pruned says what a prune found and did, or with DryRun would do.
type Pruned struct {
	Snapshots     int // that were looked at, held ones too
	Packs         int // there were
	Bytes         int64
	Unused        int64 // of Bytes: blobs that nothing needs
	Removed       int   // packs that are gone, or for DryRun would be
	RemovedBytes  int64
	Repacked      int // of those, packs whose live blobs were copied first
	RepackedBytes int64
	Spared        int // packs that turned out to be needed at the second look
	Deferred      int // removals that the storage refuses until a date
	Waiting       int // sessions that may still count on what was condemned: a later run goes on when they have ended
	Fenced        int // silent sessions that were ended
	Finished      int // sets of earlier runs that were finished
	Segments      int // index segments that others took the place of
}

type pruner struct {
	r   *repo.Repo
	o   PruneOptions
	res *Pruned
	use *needed

	held map[crypt.SessionID]bool // what is looked at although it was forgotten

	retired map[index.PackID]bool // damaged packs that are to go, and no others; nil: a prune
	going   []format.PackRef      // of those, what can go
}

// Prune removes the packs that no snapshot needs, while hosts go on backing up. Every step of it can be interrupted; the next run goes on. It takes the
// passphrase (repo.ErrNeedRead) and an identity with the prune role (ErrRole). docs/protocol.md says why the calls stand in this order.
//
// ErrBusy says that another one is at work: two at once would be safe, and a waste. ErrUnsafe says that an object cannot be read that may be, or may
// name, something needed; repo.ErrDamaged that a blob is lost.
func Prune(ctx context.Context, r *repo.Repo, o PruneOptions) (*Pruned, error) {
	p := newPruner(r, o)
	if err := p.prune(ctx); err != nil {
		return p.res, fmt.Errorf("pruning: %w", err)
	}
	return p.res, nil
}

func newPruner(r *repo.Repo, o PruneOptions) *pruner {
	return &pruner{r: r, o: o, res: new(Pruned), use: newNeeded(), held: make(map[crypt.SessionID]bool)}
}

// prune is run, which calls nothing damage that was forgotten and removed by another prune meanwhile.
func (p *pruner) prune(ctx context.Context) error {
	err := p.run(ctx)
	if (errors.Is(err, ErrUnsafe) || isDamage(err)) && p.overtaken(ctx) {
		err = fmt.Errorf("%w: a snapshot that was looked at was forgotten and removed meanwhile", ErrBusy)
	}
	return err
}

// overtaken reports whether something that this run needed to read was forgotten since it looked, so that another run may have removed it.
func (p *pruner) overtaken(ctx context.Context) bool {
	now, err := p.r.Forgotten(ctx)
	if err != nil {
		return false
	}
	for id := range now {
		if asked := p.use.trees[id]; asked && !p.held[id] {
			return true
		}
	}
	return false
}

func (p *pruner) run(ctx context.Context) error {
	if !p.r.CanRead() {
		return repo.ErrNeedRead
	}
	if id := p.r.Keys().Identity; id == nil || p.r.Trust().Roles(id.Host)&crypt.RolePrune == 0 {
		return ErrRole
	}
	if !p.o.Anyway {
		if err := p.alone(ctx); err != nil {
			return err
		}
	}
	sets, err := readSets(ctx, p.r)
	if err != nil {
		return err
	}
	v, err := p.look(ctx, [16]byte{})
	if err != nil {
		return err
	}
	plan, err := p.plan(ctx, v)
	if err != nil {
		return err
	}
	if p.o.DryRun {
		return nil
	}
	if err := p.dropLeases(ctx, v); err != nil {
		return err
	}
	late := v.late(sets)
	if len(plan.drop) == 0 && len(late) == 0 && !slices.ContainsFunc(sets, (*set).unfinished) {
		return nil
	}
	if p.o.Intent != nil {
		if err := p.o.Intent(ctx, p.res); err != nil {
			return err
		}
	}
	p.res.Removed, p.res.RemovedBytes = 0, 0 // from here on it counts what is gone
	// Removals that an earlier run put off.
	for _, ref := range late {
		if err := p.remove(ctx, ref, v); err != nil {
			return err
		}
	}
	id, err := p.condemn(ctx, plan)
	if err != nil {
		return err
	}
	s, err := p.r.Begin(ctx, repo.SessionOptions{Purpose: "prune"})
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	return s.Alive(ctx, func(ctx context.Context) error {
		for _, t := range sets {
			if !t.unfinished() {
				continue
			}
			done, err := p.sweep(ctx, t.id, s.ID)
			if err != nil {
				return err
			}
			if done {
				p.res.Finished++
			}
		}
		if id != nil {
			if _, err := p.sweep(ctx, *id, s.ID); err != nil {
				return err
			}
		}
		return p.compact(ctx, s)
	})
}

// alone looks for another prune that is at work.
func (p *pruner) alone(ctx context.Context) error {
	leases, err := p.r.Leases(ctx)
	if err != nil {
		return err
	}
	var now time.Time // of the storage, at least
	for _, l := range leases {
		now = later(now, l.Seen)
	}
	for _, l := range leases {
		if l.Purpose == "prune" && !l.Ended && now.Sub(l.Seen) < repo.LeaseDead && p.r.Now().Sub(l.Seen) < repo.LeaseDead {
			return fmt.Errorf("%w: session %v of %s", ErrBusy, l.ID, p.r.HostName(l.Host))
		}
	}
	return nil
}

// condemn copies what is alive out of packs that go, publishes the set, and writes down which sessions may not have seen it. nil is that nothing goes.
func (p *pruner) condemn(ctx context.Context, plan *plan) (*[16]byte, error) {
	if len(plan.drop) == 0 {
		return nil, nil
	}
	var refs []format.PackRef
	for id, u := range plan.drop {
		refs = append(refs, format.PackRef{Name: id.Name, Tree: u.info.Tree(), Incarnation: id.Incarnation})
	}
	slices.SortFunc(refs, format.PackRef.Compare)
	set := format.Condemned{Time: p.r.Now().Unix(), Packs: refs}
	rand.Read(set.ID[:])
	publish := func(ctx context.Context, s *repo.Session) error {
		set.Session = s.ID
		return p.create(ctx, crypt.TypeCondemned, setName(set.ID, ""), set)
	}
	classes := plan.classes()
	if len(classes) == 0 {
		classes = []string{""}
	}
	for i, class := range classes {
		err := p.session(ctx, repo.SessionOptions{Purpose: "prune", Alone: true, Retention: class}, func(ctx context.Context, s *repo.Session) error {
			if err := p.repack(ctx, s, plan, class); err != nil || i < len(classes)-1 {
				return err
			}
			return publish(ctx, s)
		})
		if err != nil {
			return nil, err
		}
	}
	return &set.ID, nil
}

// session runs f in a session, stores the segments, and ends it without a snapshot.
func (p *pruner) session(ctx context.Context, o repo.SessionOptions, f func(ctx context.Context, s *repo.Session) error) error {
	s, err := p.r.Begin(ctx, o)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	return s.Alive(ctx, func(ctx context.Context) error { return f(ctx, s) })
}

// create signs an object of a set and creates it exclusively.
func (p *pruner) create(ctx context.Context, t crypt.Type, name string, body any) error {
	_, object, err := p.r.SealControl(t, name, canon.Marshal(body))
	if err != nil {
		return err
	}
	return stored.Create(ctx, p.r.Storage(), name, object)
}

// sweep carries a published set out, as far as that can be done now: it returns false where a session that may count on its packs is still open.
func (p *pruner) sweep(ctx context.Context, id [16]byte, own crypt.SessionID) (bool, error) {
	t, err := p.recorded(ctx, id, own)
	if err != nil || t == nil {
		return false, err
	}
	waiting, err := p.settle(ctx, t, own)
	if err != nil || waiting > 0 {
		p.res.Waiting += waiting
		return false, err
	}
	v, err := p.look(ctx, id)
	if err != nil {
		return false, err
	}
	final := format.CondemnedFinal{ID: id, Time: p.r.Now().Unix()}
	if final.Packs, err = p.spare(ctx, v, t.packs); err != nil {
		return false, err
	}
	p.res.Spared += len(t.packs) - len(final.Packs)
	name := setName(id, ".final")
	if err := p.create(ctx, crypt.TypeCondemnedFinal, name, final); stored.Exists(err) { // another sweeper decided; it binds this one
		object, err := stored.Fetch(ctx, p.r.Storage(), name)
		if err != nil {
			return false, err
		}
		part, err := p.r.SetObject(name, "final", object)
		if err != nil || p.r.Trust().Revoked(part.Signer) {
			return false, err
		}
		final.Packs = part.Packs
	} else if err != nil {
		return false, err
	}
	late := p.res.Deferred
	for _, ref := range final.Packs {
		if err := p.remove(ctx, ref, v); err != nil {
			return false, err
		}
	}
	if p.res.Deferred == late { // nothing depends on them any more, and nothing on their removal
		_ = p.r.Storage().Delete(ctx, setName(id, ""))
		_ = p.r.Storage().Delete(ctx, setName(id, ".leases"))
	}
	return true, nil
}

// recorded reads a set with the sessions that may not have seen it, and records them where nobody did yet. nil is that it is to be left alone.
func (p *pruner) recorded(ctx context.Context, id [16]byte, own crypt.SessionID) (*set, error) {
	for range 2 {
		sets, err := readSets(ctx, p.r)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(sets, func(t *set) bool { return t.id == id })
		if i < 0 || !sets[i].unfinished() {
			return nil, nil
		}
		if sets[i].leases {
			return sets[i], nil
		}
		leases, err := p.r.Leases(ctx)
		if err != nil {
			return nil, err
		}
		list := format.CondemnedLeases{ID: id, Time: p.r.Now().Unix()}
		for session, l := range leases {
			if !l.Ended && session != own {
				list.Sessions = append(list.Sessions, session)
			}
		}
		slices.SortFunc(list.Sessions, func(a, b crypt.SessionID) int { return bytes.Compare(a[:], b[:]) })
		if err := p.create(ctx, crypt.TypeCondemnedLeases, setName(id, ".leases"), list); err != nil && !stored.Exists(err) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: the sessions of set %x were recorded, and cannot be read", ErrUnsafe, id)
}

// settle ends the recorded sessions that were silent for too long, and counts those that are open. own stands for the storage's clock.
func (p *pruner) settle(ctx context.Context, t *set, own crypt.SessionID) (waiting int, err error) {
	leases, err := p.r.Leases(ctx)
	if err != nil {
		return 0, err
	}
	me := leases[own]
	if me == nil { // only who ended the session removes its lease
		return 0, fmt.Errorf("session %v: %w", own, repo.ErrFenced)
	}
	for _, session := range t.sessions {
		name := "snapshots/" + session.String()
		switch _, err := stored.Stat(ctx, p.r.Storage(), name); {
		case err == nil:
			continue
		case !stored.Missing(err):
			return 0, err
		}
		l := leases[session]
		if l == nil { // a lease goes only after its session ended, or when somebody took it away: the session may be alive
			l = &repo.Lease{ID: session, Seen: t.at}
		}
		if me.Seen.Sub(l.Seen) < repo.LeaseDead {
			waiting++
			continue
		}
		if !l.Known { // a void names a host, and nobody knows whose session it is
			l.Host = crypt.HostID(session)
		}
		if err := p.r.Fence(ctx, l); err != nil {
			return 0, err
		}
		if _, err := stored.Stat(ctx, p.r.Storage(), name); err != nil {
			return 0, err
		}
		p.res.Fenced++
	}
	return waiting, nil
}

// remove deletes one pack of a final. A storage that refuses until a date is asked again by a later run.
func (p *pruner) remove(ctx context.Context, ref format.PackRef, v *sight) error {
	name := format.PackName(ref.Name, ref.Tree, ref.Incarnation)
	size, listed := v.listed.Size(ref.Name, ref.Incarnation)
	switch err := p.r.Storage().Delete(ctx, name); {
	case err == nil:
		p.res.Removed++
		if listed {
			p.res.RemovedBytes += size
		}
	case stored.Missing(err):
	case errors.Is(err, fs.ErrPermission):
		p.res.Deferred++
	default:
		return stored.Failed("removing", name, err)
	}
	return nil
}

// isDamage reports that bytes are not what they should be: the storage itself did what it was asked. What is said to be under a read key that nobody
// has is as good as damaged, or who says it of any blob would end all prunes.
func isDamage(err error) bool {
	return errors.Is(err, repo.ErrDamaged) || stored.Unreadable(err) || errors.Is(err, keyring.ErrNoKey)
}
