// Package replicate copies a repository to another storage, verbatim: it checks every name and opens no file.
//
// A replication is a session at the destination, under the destination's own leases and prune. The source is only read. docs/protocol.md says
// why the calls stand in this order.
package replicate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/pack"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// ErrLost says that packs of the source are missing or damaged beyond their parity, so that no snapshot was added to the replica.
var ErrLost = errors.New("packs are lost at the source")

// ErrRole says that the identity is no replicator's: only the prune role may speak for the packs of all hosts.
var ErrRole = errors.New("this needs the credential of a replicator")

// Progress is told how far the copying is. Its methods are called concurrently.
type Progress interface {
	Total(bytes int64) // of packs, together; it may be called again
	Done(bytes int64)
}

// Options shape a replication.
type Options struct {
	// Open opens the destination, once it has the keys, with an identity that has the prune role: segments speak for packs of all hosts.
	Open func(ctx context.Context) (*repo.Repo, error)

	// Journal is the audit log of that identity at the destination.
	Journal func(ctx context.Context, r *repo.Repo) (repo.Journal, error)

	// Logs lists the objects of the source's audit logs, in the order in which to store them (audit.Files).
	Logs func(ctx context.Context, r *repo.Repo) ([]backends.Info, error)

	// Set is what a removable medium carries, which home then is opened on; nil: home is the whole repository.
	Set *format.Set

	Mirror bool      // forget at the destination what the source forgot
	DryRun bool      // copy nothing, say what is missing
	Until  time.Time // begin no other pack after that; zero: no end

	Progress Progress              // may be nil
	Program  string                // name and version, for the record
	Body     func() *snapshot.Body // what readers see of the run; nil: nothing
}

// Result says what was done, or with DryRun would be.
type Result struct {
	Snapshots []*repo.Snapshot // that the replica lacked
	Forgotten int              // snapshots that the replica was told to forget
	Objects   int              // keys, settings, marks, and parts of logs
	Packs     int
	Bytes     int64         // of packs
	Found     int           // packs that an interrupted run had left there
	Mended    []string      // packs that were damaged at the source, and are whole in the replica
	Lost      []string      // packs that could not be copied
	KnownLost int           // packs that a reader found lost before
	Behind    time.Duration // between the newest snapshots of both, after the run
	Missing   int           // snapshots that the replica still lacks
	Stopped   bool          // by Until
	Newest    *repo.Snapshot
	Problems  []repo.Problem // objects of the source that cannot be used, and were not copied
}

// rounds is how often the source is read anew because a prune removed what was to be copied, and a session begun anew because it was judged dead.
const rounds = 5

// memory is how many bytes of packs are held at once: three of the usual 32 MiB and their parity. A larger pack is held alone.
const memory = 112 << 20

// workers is how many packs are on their way at once, as far as memory allows.
const workers = 4

type run struct {
	o    Options
	home *repo.Repo
	to   backends.Storage
	dst  *repo.Repo
	res  *Result
	room *semaphore.Weighted

	mu    sync.Mutex // guards what follows and res
	again bool       // a pack went away
	seen  map[string]bool
}

// Run brings the storage to up to the state of home. It can be interrupted at any moment and run again: what was copied stays. Several may run at once.
//
// Errors match ErrLost, repo.ErrExists where the destination is another repository, ErrRole, or are the storage's.
func Run(ctx context.Context, home *repo.Repo, to backends.Storage, o Options) (*Result, error) {
	r := &run{o: o, home: home, to: to, res: new(Result), room: semaphore.NewWeighted(memory), seen: make(map[string]bool)}
	if err := r.run(ctx); err != nil {
		return r.res, fmt.Errorf("replicating: %w", err)
	}
	return r.res, nil
}

func (r *run) run(ctx context.Context) (err error) {
	empty, err := r.checkPlace(ctx)
	if err != nil {
		return err
	}
	switch {
	case r.o.DryRun && empty:
		return r.plan(ctx)
	case !r.o.DryRun:
		if err := r.copyKeys(ctx); err != nil {
			return err
		}
	}
	if r.dst, err = r.o.Open(ctx); err != nil {
		return fmt.Errorf("opening the replica: %w", err)
	}
	if r.o.DryRun {
		return r.plan(ctx)
	}
	if id := r.dst.Keys().Identity; id == nil || r.dst.Trust().Roles(id.Host)&crypt.RolePrune == 0 {
		return ErrRole
	}
	for round := 0; ; round++ {
		again, err := r.round(ctx)
		if errors.Is(err, repo.ErrFenced) {
			again, err = true, nil
		}
		switch {
		case err != nil:
			return err
		case again && round < rounds:
		case again:
			return fmt.Errorf("packs go faster than they are copied: %w", stored.ErrStorage)
		default:
			return r.lag(ctx)
		}
	}
}

// checkPlace refuses a place that holds another repository, or a part of one.
func (r *run) checkPlace(ctx context.Context) (empty bool, err error) {
	want, err := stored.Fetch(ctx, r.home.Storage(), r.configName(ctx))
	if err != nil {
		return false, err
	}
	for _, name := range format.ConfigNames {
		b, err := stored.Fetch(ctx, r.to, name)
		switch {
		case err == nil && !bytes.Equal(b, want):
			c, bad := format.ParseConfig(b)
			if bad == nil && c.ID != r.home.Config().ID {
				return false, fmt.Errorf("%w: %x, and not a copy of %x", repo.ErrExists, c.ID, r.home.Config().ID)
			}
			return false, stored.Damaged("reading", name, cmp.Or(bad, errors.New("not the config of the source")))
		case err == nil:
			return false, nil
		case !stored.Missing(err):
			return false, err
		}
	}
	for _, prefix := range []string{"snapshots/", "packs/", "meta/"} {
		infos, _, err := stored.List(ctx, r.to, prefix)
		if err != nil {
			return false, err
		}
		if len(infos) > 0 {
			return false, fmt.Errorf("%w: %w", repo.ErrDamaged, repo.ErrNoConfig)
		}
	}
	return true, nil
}

// configName is the copy of the source's config that can be read.
func (r *run) configName(ctx context.Context) string {
	for _, name := range format.ConfigNames {
		if b, err := stored.Fetch(ctx, r.home.Storage(), name); err == nil && r.home.CheckObject(name, b) == nil {
			return name
		}
	}
	return format.ConfigNames[0]
}

// keyPrefixes are what says whom to believe, in an order in which each stands on those before: a grant comes before the settings that announce its
// epoch, and the config, which makes the repository, last.
var keyPrefixes = []string{"roots/", "hosts/", "grants/", "bundles/", "settings/", "marks/", "replica/2/keys/", "replica/1/keys/", "keys/"}

// copyKeys copies what the destination lacks of it. It removes nothing: a key that was taken away at the source opens the replica until it is
// removed there, or whoever gets hold of the source could lock everybody out of the replica too.
func (r *run) copyKeys(ctx context.Context) error {
	for _, prefix := range keyPrefixes {
		if err := r.copyMissing(ctx, prefix); err != nil {
			return err
		}
	}
	if err := r.compareSettings(ctx); err != nil {
		return err
	}
	config := r.configName(ctx)
	for _, name := range slices.Backward(format.ConfigNames[:]) {
		b, err := stored.Fetch(ctx, r.home.Storage(), config)
		if err == nil {
			err = stored.Create(ctx, r.to, name, b)
		}
		if err != nil && !stored.Exists(err) {
			return err
		}
	}
	return nil
}

// compareSettings refuses a destination whose settings went another way than those of the source: then each has an administrator of its own.
func (r *run) compareSettings(ctx context.Context) error {
	name := format.SettingsName(r.home.Settings().Generation)
	here, err := stored.Fetch(ctx, r.home.Storage(), name)
	if err != nil {
		return err
	}
	there, err := stored.Fetch(ctx, r.to, name)
	if err == nil && !bytes.Equal(here, there) {
		err = stored.Tampered("comparing", name, errors.New("source and replica have settings of one generation that differ"))
	}
	return err
}

// copyMissing copies the objects below prefix that the destination does not have. One that cannot be used stays behind, and becomes a Problem.
func (r *run) copyMissing(ctx context.Context, prefix string) error {
	have, err := r.names(ctx, prefix)
	if err != nil {
		return err
	}
	infos, _, err := stored.List(ctx, r.home.Storage(), prefix)
	if err != nil {
		return err
	}
	infos = slices.DeleteFunc(infos, func(i backends.Info) bool { return have[i.Name] })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * workers)
	for _, i := range infos {
		g.Go(func() error { return r.copyObject(ctx, i.Name) })
	}
	return g.Wait()
}

// names lists what the destination has below prefix.
func (r *run) names(ctx context.Context, prefix string) (map[string]bool, error) {
	infos, _, err := stored.List(ctx, r.to, prefix)
	have := make(map[string]bool, len(infos))
	for _, i := range infos {
		have[i.Name] = true
	}
	return have, err
}

// copyObject copies one object that is no pack, verbatim.
func (r *run) copyObject(ctx context.Context, name string) error {
	b, err := stored.Fetch(ctx, r.home.Storage(), name)
	if err == nil && !strings.HasPrefix(name, "audit/") { // what is wrong in a log is for a verification of the log to say, here and there
		err = r.home.CheckObject(name, b)
	}
	switch {
	case stored.Missing(err): // superseded between the listing and now
		return nil
	case stored.Isolated(err), stored.Unreadable(err):
		r.problem(name, err)
		return nil
	case err != nil:
		return err
	}
	if err := stored.Create(ctx, r.to, name, b); err != nil && !stored.Exists(err) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Objects++
	return nil
}

func (r *run) problem(name string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.seen[name] {
		r.seen[name] = true
		r.res.Problems = append(r.res.Problems, repo.Problem{Object: name, Err: err})
	}
}

// view is what the source has.
type view struct {
	snapshots []*repo.Snapshot
	live      map[crypt.ID]*index.PackInfo
	lost      map[crypt.ID]*index.PackInfo // that readers found lost
}

// look reads the source: snapshots, then finals and index, and then once more what is forgotten, because of a snapshot that was forgotten and swept in
// between the index has nothing left, and nothing on the way would fail.
func (r *run) look(ctx context.Context) (*view, error) {
	snaps, err := r.home.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	v := new(view)
	if r.o.Set != nil {
		v.live = packsOf(r.o.Set)
		if snaps, err = r.carried(ctx, snaps); err != nil {
			return nil, err
		}
	} else if v.live, v.lost, err = livePacks(ctx, r.home); err != nil {
		return nil, err
	}
	forgotten, err := r.home.Forgotten(ctx)
	if err != nil {
		return nil, err
	}
	v.snapshots = slices.DeleteFunc(snaps, func(s *repo.Snapshot) bool { return forgotten[s.ID()] })
	return v, nil
}

// lacking are the snapshots of v that the replica neither has nor forgot. One that a replicator copied who was revoked is copied again, since it may not be
// whole.
func (r *run) lacking(ctx context.Context, v *view) ([]*repo.Snapshot, error) {
	if r.dst == nil {
		return v.snapshots, nil
	}
	have, err := r.dst.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	there, err := r.dst.Forgotten(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range have {
		there[s.ID()] = there[s.ID()] || !s.Doubted
	}
	return slices.DeleteFunc(slices.Clone(v.snapshots), func(s *repo.Snapshot) bool { return there[s.ID()] }), nil
}

// plan says what a run would do.
func (r *run) plan(ctx context.Context) error {
	v, err := r.look(ctx)
	if err != nil {
		return err
	}
	if r.res.Snapshots, err = r.lacking(ctx, v); err != nil {
		return err
	}
	r.res.KnownLost = len(v.lost)
	held := make(map[crypt.ID]*index.PackInfo)
	if r.dst != nil {
		if held, _, err = livePacks(ctx, r.dst); err != nil {
			return err
		}
	}
	for name, p := range v.live {
		if held[name] == nil && len(r.res.Snapshots) > 0 {
			r.res.Packs++
			r.res.Bytes += int64(p.Size)
		}
	}
	return r.lagOf(ctx, v)
}

// round is one session at the destination. With again the source or the session has to be looked at anew.
func (r *run) round(ctx context.Context) (again bool, err error) {
	v, err := r.look(ctx)
	if err != nil {
		return false, err
	}
	r.res.KnownLost, r.res.Lost = len(v.lost), nil
	todo, err := r.lacking(ctx, v)
	if err != nil {
		return false, err
	}
	if len(todo) > 0 {
		if again, err = r.session(ctx, v, todo[:min(len(todo), snapshot.MaxCopied)]); err != nil || r.res.Stopped {
			return false, err
		}
		again = again || len(todo) > snapshot.MaxCopied
	} else if err := r.copyLogs(ctx); err != nil {
		return false, err
	}
	if r.o.Mirror && !again {
		before := r.res.Objects
		err = r.copyMissing(ctx, "forgotten/")
		r.res.Forgotten = r.res.Objects - before
	}
	return again, err
}

// session copies the packs of v and makes todo count.
func (r *run) session(ctx context.Context, v *view, todo []*repo.Snapshot) (again bool, err error) {
	s, err := r.dst.Begin(ctx, repo.SessionOptions{Purpose: "replicate"})
	if err != nil {
		return false, fmt.Errorf("at the replica: %w", err)
	}
	defer s.Close(ctx)
	// Records first, though they count for nothing yet: they tell everybody that this is a copy, whose logs may lag behind those of its home.
	ids, err := r.copyRecords(ctx, todo)
	if err != nil {
		return false, err
	}
	err = s.Alive(ctx, func(ctx context.Context) error {
		held, err := newHeldPacks(ctx, r.dst)
		if err != nil {
			return err
		}
		if err := r.recover(ctx, v); err != nil {
			return err
		}
		return r.copyPacks(ctx, s, held, v)
	})
	if err != nil || r.again {
		again, r.again = r.again, false
		if err == nil {
			err = s.SaveSegments(ctx)
		}
		return again, err
	}
	if r.res.Stopped || len(r.res.Lost) > 0 {
		if err := s.SaveSegments(ctx); err != nil || r.res.Stopped {
			return false, err
		}
		return false, fmt.Errorf("%w: %d of them, the first is %s: %w", ErrLost, len(r.res.Lost), r.res.Lost[0], repo.ErrDamaged)
	}
	if err := r.copyLogs(ctx); err != nil {
		return false, err
	}
	rec := &snapshot.Record{Kind: snapshot.Copied, Copied: ids, Start: snapshot.Time{Sec: s.Started.Unix(), Nsec: uint32(s.Started.Nanosecond())}}
	j, err := r.o.Journal(ctx, r.dst)
	if err != nil {
		return false, err
	}
	body := new(snapshot.Body)
	if r.o.Body != nil {
		body = r.o.Body()
	}
	if _, err := s.Commit(ctx, rec, body, j); err != nil {
		return false, err
	}
	r.res.Snapshots = append(r.res.Snapshots, todo...)
	return false, nil
}

// recover has those packs copied that were found lost and can be read all the same: what was away may be back, and what was damaged may be mended. A
// snapshot is copied once, so what it lacks in the replica then it would lack for ever.
func (r *run) recover(ctx context.Context, v *view) error {
	for id, p := range v.lost {
		file, _, err := r.fetch(ctx, format.PackName(p.Name, p.Kind == crypt.TypeTreePack, p.Incarnation), p)
		switch {
		case err == nil:
			backends.Release(file)
			v.live[id] = p
			delete(v.lost, id)
		case !stored.Missing(err) && !stored.Isolated(err) && !stored.Unreadable(err):
			return err
		}
	}
	r.res.KnownLost = len(v.lost)
	return nil
}

// copyPacks copies the packs that are not held, small and tree packs and data packs alike.
func (r *run) copyPacks(ctx context.Context, s *repo.Session, held *heldPacks, v *view) error {
	var todo []*index.PackInfo
	var total int64
	for name, p := range v.live {
		if !held.has(name) {
			todo = append(todo, p)
			total += int64(p.Size)
		}
	}
	return r.each(ctx, todo, total, func(ctx context.Context, p *index.PackInfo) error { return r.copyPack(ctx, s, held, p) })
}

// each calls f for several packs at once, as many as there is memory for, until Until.
func (r *run) each(ctx context.Context, todo []*index.PackInfo, total int64, f func(ctx context.Context, p *index.PackInfo) error) error {
	slices.SortFunc(todo, func(a, b *index.PackInfo) int { return a.Compare(b.PackID) })
	if r.o.Progress != nil {
		r.o.Progress.Total(total)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, p := range todo {
		if !r.o.Until.IsZero() && !r.home.Now().Before(r.o.Until) {
			r.res.Stopped = true
			break
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(int64(p.Size), memory)
			if err := r.room.Acquire(ctx, n); err != nil {
				return err
			}
			defer r.room.Release(n)
			if err := f(ctx, p); err != nil {
				return err
			}
			if r.o.Progress != nil {
				r.o.Progress.Done(int64(p.Size))
			}
			return nil
		})
	}
	return g.Wait()
}

// copyPack copies one pack, whole and under the name that it may have at the destination.
func (r *run) copyPack(ctx context.Context, s *repo.Session, held *heldPacks, p *index.PackInfo) error {
	name := format.PackName(p.Name, p.Kind == crypt.TypeTreePack, p.Incarnation)
	place, there := held.place(p.Name, int64(p.Size))
	if there {
		t, table, err := r.home.ReadTable(ctx, backends.Info{Name: name, Size: int64(p.Size)})
		if err == nil {
			err = s.CopyPack(ctx, repo.PackCopy{PackID: place, Class: p.Retention, Trailer: t, Table: table})
			if err == nil {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.res.Found++
				return nil
			}
		}
		if !stored.Isolated(err) && !stored.Missing(err) && !stored.Unreadable(err) {
			return err
		}
	}
	file, mended, err := r.fetch(ctx, name, p)
	var t *pack.Trailer
	var table *pack.Table
	if err == nil {
		t, table, err = r.home.ParsePack(name, file)
	}
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
	err = s.CopyPack(ctx, repo.PackCopy{PackID: place, Class: p.Retention, Trailer: t, Table: table, File: file})
	backends.Release(file)
	if err != nil {
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

func (r *run) lose(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Lost = append(r.res.Lost, name)
}

// gone decides what it means that a pack is not there: a prune removed it, or the source lost it.
func (r *run) gone(ctx context.Context, name string, p *index.PackInfo) error {
	if r.o.Set != nil {
		return r.notCarried(name, p)
	}
	live, _, err := livePacks(ctx, r.home)
	if err != nil {
		return err
	}
	if q := live[p.Name]; q != nil && q.PackID == p.PackID {
		r.problem(name, stored.Damaged("reading", name, errors.New("an index segment names it, and the storage does not have it")))
		r.lose(name)
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.again = true
	return nil
}

// fetch reads a pack and checks every byte of it against its name; what its parity mends is mended here, the source stays as it is.
func (r *run) fetch(ctx context.Context, name string, p *index.PackInfo) (file []byte, mended bool, err error) {
	st := r.home.Storage()
	file, err = st.Get(ctx, name, 0, -1)
	if stored.Unreadable(err) {
		file, err = stored.ReadBroken(ctx, st, name, int64(p.Size))
	}
	if err != nil {
		return nil, false, stored.Failed("reading pack", name, err)
	}
	rep, err := pack.Verify(file, p.Name, nil)
	if err == nil && rep.OK() {
		return file, false, nil
	}
	whole, err := new(pack.Coder).Repair(file, p.Name, nil)
	backends.Release(file)
	if err != nil {
		return nil, false, stored.Damaged("reading pack", name, err)
	}
	return whole, true, nil
}

// copyRecords puts the records of snapshots under copied/ and returns their names there.
func (r *run) copyRecords(ctx context.Context, snaps []*repo.Snapshot) ([]crypt.ID, error) {
	ids := make([]crypt.ID, len(snaps))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * workers)
	for i, s := range snaps {
		g.Go(func() error {
			object, err := r.record(ctx, s)
			if err != nil {
				return err
			}
			name, copied := format.JoinCopied(s.ID(), object)
			if ids[i], err = crypt.ParseID(strings.TrimPrefix(name, "copied/")); err != nil {
				return err
			}
			return stored.Put(ctx, r.to, name, copied, backends.PutOptions{})
		})
	}
	err := g.Wait()
	slices.SortFunc(ids, func(a, b crypt.ID) int { return slices.Compare(a[:], b[:]) })
	return ids, err
}

// record fetches the record of a snapshot as the host that made it stored it.
func (r *run) record(ctx context.Context, s *repo.Snapshot) ([]byte, error) {
	object, err := stored.Fetch(ctx, r.home.Storage(), s.Name)
	if err == nil && s.Copied() {
		_, object, err = format.SplitCopied(s.Name, object)
	}
	if err == nil && crypt.Sum(object) != s.Object {
		err = stored.Damaged("reading", s.Name, format.ErrName)
	}
	return object, err
}

// copyLogs copies what the destination lacks of the audit logs. What a log's owner removed since stays: it was superseded.
func (r *run) copyLogs(ctx context.Context) error {
	have, err := r.names(ctx, "audit/")
	if err != nil {
		return err
	}
	infos, err := r.o.Logs(ctx, r.home)
	if err != nil {
		return err
	}
	for _, checkpoints := range []bool{false, true} {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(2 * workers)
		for _, i := range infos {
			if !have[i.Name] && strings.Contains(i.Name, "/checkpoint/") == checkpoints {
				g.Go(func() error { return r.copyObject(ctx, i.Name) })
			}
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// lag measures how far the replica is behind now.
func (r *run) lag(ctx context.Context) error {
	v := new(view)
	var err error
	if v.snapshots, err = r.home.Snapshots(ctx); err != nil {
		return err
	}
	if r.o.Set != nil { // the medium may carry other sets
		if v.snapshots, err = r.carried(ctx, v.snapshots); err != nil {
			return err
		}
	}
	return r.lagOf(ctx, v)
}

func (r *run) lagOf(ctx context.Context, v *view) error {
	missing, err := r.lacking(ctx, v)
	if err != nil {
		return err
	}
	r.res.Missing = len(missing)
	lacks := make(map[crypt.SessionID]bool, len(missing))
	for _, s := range missing {
		lacks[s.ID()] = true
	}
	var newest time.Time
	for _, s := range v.snapshots {
		if t := s.StartTime(); !lacks[s.ID()] && (r.res.Newest == nil || t.After(r.res.Newest.StartTime())) {
			r.res.Newest = s
		}
		if t := s.StartTime(); t.After(newest) {
			newest = t
		}
	}
	if r.res.Newest != nil {
		r.res.Behind = newest.Sub(r.res.Newest.StartTime())
	}
	return nil
}
