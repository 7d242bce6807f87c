package gc_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/gc"
	"packhold/repo/replicate"
	"packhold/repo/repotest"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// The twin of docs/protocol/prune_protocol.py: the real sessions, forget, undelete, holds, replication and prune, or in every other seed a prune that
// does what docs/protocol.md says and condemns more than is wise, on one storage, whose single calls a scheduler lets through in an order that the seed says. After every call that can take something away, or that
// promises something, every listed snapshot is read to its last blob.

// stage lets calls through one by one.
type stage struct {
	mu    sync.Mutex // guards calls
	calls []*call
}

type call struct {
	actor int
	what  string
	turn  chan struct{}
	gone  bool // its context ended
}

// staged is the storage as one actor has it.
type staged struct {
	backends.Storage
	*stage
	actor int
	on    bool // set before the actor runs
}

func (s *staged) wait(ctx context.Context, what string) error {
	if !s.on {
		return nil
	}
	c := &call{actor: s.actor, what: what, turn: make(chan struct{})}
	s.mu.Lock()
	s.calls = append(s.calls, c)
	s.mu.Unlock()
	select {
	case <-c.turn:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		c.gone = true
		return ctx.Err()
	}
}

func (s *staged) Put(ctx context.Context, name string, data []byte, o backends.PutOptions) error {
	if err := s.wait(ctx, "put "+name); err != nil {
		return err
	}
	return s.Storage.Put(ctx, name, data, o)
}

func (s *staged) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if err := s.wait(ctx, "get "+name); err != nil {
		return nil, err
	}
	return s.Storage.Get(ctx, name, off, n)
}

func (s *staged) Stat(ctx context.Context, name string) (backends.Info, error) {
	if err := s.wait(ctx, "stat "+name); err != nil {
		return backends.Info{}, err
	}
	return s.Storage.Stat(ctx, name)
}

func (s *staged) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		if err := s.wait(ctx, "list "+prefix); err != nil {
			yield(backends.Info{}, err)
			return
		}
		s.Storage.List(ctx, prefix)(yield)
	}
}

func (s *staged) Delete(ctx context.Context, name string) error {
	if err := s.wait(ctx, "delete "+name); err != nil {
		return err
	}
	return s.Storage.Delete(ctx, name)
}

// sim is one run.
type sim struct {
	t     *testing.T
	rng   *rand.Rand
	stage *stage
	now   func() time.Time
	blobs [][]byte
	check *repo.Repo // looks from outside

	mu        sync.Mutex // guards what follows
	committed map[crypt.SessionID]string
	held      map[crypt.SessionID]bool // told to be good
	done      map[string]int           // what happened, for the test of the test
	log       []string
}

func (s *sim) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *sim) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[what]++
}

// actor is who does something, and where.
type actor struct {
	name string
	r    *repo.Repo
	st   *staged
	rng  *rand.Rand
	run  func(ctx context.Context, a *actor) error
}

// tree stores a tree of one file for each of blobs, and returns its root.
func tree(w *repo.Worker, blobs [][]byte) (crypt.ID, error) {
	var nodes []*snapshot.Node
	for _, b := range blobs {
		id, _, err := w.Store(b)
		if err != nil {
			return id, err
		}
		nodes = append(nodes, &snapshot.Node{Name: id.String(), Type: snapshot.File, Size: uint64(len(b)), Extents: []snapshot.Extent{{Kind: snapshot.Data, Length: uint64(len(b)), ID: id}}})
	}
	slices.SortFunc(nodes, func(a, b *snapshot.Node) int { return strings.Compare(a.Name, b.Name) })
	d := snapshot.NewDirWriter(func(plain []byte) (crypt.ID, error) {
		id, _, err := w.StoreTree(plain)
		return id, err
	})
	for _, n := range nodes {
		if err := d.Add(n); err != nil {
			return crypt.ID{}, err
		}
	}
	root, _, err := d.Finish()
	return root, err
}

// backup commits a snapshot of some of the blobs.
func (s *sim) backup(ctx context.Context, a *actor, r *repo.Repo) error {
	var some [][]byte
	for _, b := range s.blobs {
		if a.rng.IntN(2) == 0 {
			some = append(some, b)
		}
	}
	for range 3 {
		err := func() error {
			session, err := r.Begin(ctx, repo.SessionOptions{Compression: "none"})
			if err != nil {
				return err
			}
			defer session.Close(ctx)
			w, err := session.NewWorker()
			if err != nil {
				return err
			}
			root, err := tree(w, some)
			if err != nil {
				return err
			}
			start := s.now()
			snap, err := session.Commit(ctx, &snapshot.Record{Type: snapshot.Full, Root: root, Lineage: [32]byte{1}, Start: snapshot.Time{Sec: start.Unix()}}, &snapshot.Body{}, nil)
			if err != nil {
				return err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.committed[snap.ID()] = a.name
			s.done["backup"]++
			return nil
		}()
		if !errors.Is(err, repo.ErrFenced) {
			return err
		}
		s.count("fenced")
	}
	return nil
}

// pick draws one of list; nil if there is none.
func pick[T any](rng *rand.Rand, list []T) (one T) {
	if len(list) > 0 {
		one = list[rng.IntN(len(list))]
	}
	return one
}

func (s *sim) forget(ctx context.Context, a *actor) error {
	all, err := a.r.Snapshots(ctx)
	if err != nil {
		return err
	}
	if one := pick(a.rng, all); one != nil {
		_, err = gc.Forget(ctx, a.r, []*repo.Snapshot{one}, "")
		if errors.Is(err, gc.ErrHeld) {
			err = nil
		} else if err == nil {
			s.count("forget")
		}
	}
	return err
}

func (s *sim) undelete(ctx context.Context, a *actor) error {
	all, err := gc.ReadForgotten(ctx, a.r)
	if err != nil {
		return err
	}
	if one := pick(a.rng, all); one != nil {
		var back *repo.Snapshot
		if back, err = gc.Undelete(ctx, a.r, one, nil); errors.Is(err, gc.ErrSwept) || errors.Is(err, repo.ErrFenced) {
			s.count("swept")
			return nil
		}
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.committed[back.ID()] = a.name
			s.done["undelete"]++
		}
	}
	return err
}

func (s *sim) hold(ctx context.Context, a *actor) error {
	all, err := a.r.Snapshots(ctx)
	if err != nil {
		return err
	}
	if one := pick(a.rng, all); one != nil {
		if err = gc.AddHold(ctx, a.r, one, time.Time{}, ""); errors.Is(err, gc.ErrForgotten) {
			return nil
		}
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.held[one.ID()] = true
			s.done["hold"]++
		}
	}
	return err
}

// set is a condemned set as a prune reads it.
type set struct {
	packs    map[index.PackID]format.PackRef
	sessions []crypt.SessionID
	leases   bool // .leases is there
	final    bool // packs are those of the final
}

func readSets(ctx context.Context, r *repo.Repo) (map[string]*set, error) {
	infos, _, err := stored.List(ctx, r.Storage(), "condemned/")
	if err != nil {
		return nil, err
	}
	sets := make(map[string]*set)
	for pass, suffix := range []string{"", "leases", "final"} {
		for _, i := range infos {
			id, have, _ := strings.Cut(strings.TrimPrefix(i.Name, "condemned/"), ".")
			if have != suffix {
				continue
			}
			object, err := stored.Fetch(ctx, r.Storage(), i.Name)
			if stored.Missing(err) {
				continue
			}
			var signed *crypt.Signed
			if err == nil {
				signed, err = r.OpenControl([]crypt.Type{crypt.TypeCondemned, crypt.TypeCondemnedLeases, crypt.TypeCondemnedFinal}[pass], i.Name, object)
			}
			if err != nil {
				return nil, err
			}
			if sets[id] == nil {
				sets[id] = &set{packs: make(map[index.PackID]format.PackRef)}
			}
			var refs []format.PackRef
			switch pass {
			case 0:
				v, err := format.Parse[format.Condemned](signed.Body)
				if err != nil {
					return nil, err
				}
				refs = v.Packs
			case 1:
				v, err := format.Parse[format.CondemnedLeases](signed.Body)
				if err != nil {
					return nil, err
				}
				sets[id].sessions, sets[id].leases = v.Sessions, true
			case 2:
				v, err := format.Parse[format.CondemnedFinal](signed.Body)
				if err != nil {
					return nil, err
				}
				clear(sets[id].packs)
				refs, sets[id].final = v.Packs, true
			}
			for _, p := range refs {
				sets[id].packs[index.PackID{Name: p.Name, Incarnation: p.Incarnation}] = p
			}
		}
	}
	return sets, nil
}

// used returns the blobs of all snapshots that are listed, or forgotten and held: snapshots, forgotten, holds, in this order.
func used(ctx context.Context, r *repo.Repo) (map[crypt.ID]bool, error) {
	all, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	gone, err := gc.ReadForgotten(ctx, r)
	if err != nil {
		return nil, err
	}
	m, err := gc.ReadMarks(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, f := range gone {
		if len(m.Of(r, f.ID(), f.Host, format.MarkHold)) > 0 {
			all = append(all, f.Snapshot)
		}
	}
	if err := r.LoadIndex(ctx); err != nil {
		return nil, err
	}
	ids := make(map[crypt.ID]bool)
	for _, s := range all {
		if err := blobsOf(ctx, r, s.Root, ids); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// blobsOf adds all blobs of a tree to ids.
func blobsOf(ctx context.Context, r *repo.Repo, root crypt.ID, ids map[crypt.ID]bool) error {
	d, err := r.NewReader()
	if err != nil {
		return err
	}
	ids[root] = true
	for e, err := range snapshot.Walk(ctx, d, root, snapshot.WalkOptions{}) {
		if err != nil {
			return err
		}
		for id, err := range snapshot.Blobs(ctx, d, e.Node) {
			if err != nil {
				return err
			}
			ids[id] = true
		}
	}
	return nil
}

// pruning is a prune that leaves out what a test says.
type pruning struct {
	noFence, noSecond, leasesFirst, noHolds bool
}

// prune is one run: mark, or take over an unfinished set, then sweep. It stops where it would have to wait.
func (s *sim) prune(ctx context.Context, a *actor, without pruning) error {
	r := a.r
	put := func(t crypt.Type, name string, body any, exclusive bool) error {
		_, object, err := r.SealControl(t, name, canon.Marshal(body))
		if err != nil {
			return err
		}
		return stored.Put(ctx, r.Storage(), name, object, backends.PutOptions{IfAbsent: exclusive})
	}
	sets, err := readSets(ctx, r)
	if err != nil {
		return err
	}
	var own string
	for id, c := range sets {
		if !c.final && (own == "" || a.rng.IntN(2) == 0) {
			own = id
		}
	}
	open := func() (list []crypt.SessionID, err error) {
		infos, _, err := stored.List(ctx, r.Storage(), "leases/")
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			id, err := format.LeaseSession(i.Name)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(list, id) {
				list = append(list, id)
			}
		}
		slices.SortFunc(list, func(a, b crypt.SessionID) int { return bytes.Compare(a[:], b[:]) })
		return list, nil
	}
	var early []crypt.SessionID
	if own == "" || a.rng.IntN(3) == 0 {
		var id [16]byte
		for i := range id {
			id[i] = byte(a.rng.IntN(256))
		}
		own = hex.EncodeToString(id[:])
		refs, err := s.choose(ctx, a, sets, without)
		if err != nil || len(refs) == 0 {
			return err
		}
		if without.leasesFirst {
			if early, err = open(); err != nil {
				return err
			}
		}
		if err := put(crypt.TypeCondemned, "condemned/"+own, format.Condemned{ID: id, Packs: refs}, true); err != nil {
			return err
		}
		sets[own] = &set{packs: make(map[index.PackID]format.PackRef)}
		for _, p := range refs {
			sets[own].packs[index.PackID{Name: p.Name, Incarnation: p.Incarnation}] = p
		}
		s.count("mark")
	} else {
		s.count("takeover")
	}
	var id [16]byte
	if _, err := hex.Decode(id[:], []byte(own)); err != nil {
		return err
	}
	if !sets[own].leases {
		list := early
		if !without.leasesFirst {
			if list, err = open(); err != nil {
				return err
			}
		}
		err := put(crypt.TypeCondemnedLeases, "condemned/"+own+".leases", format.CondemnedLeases{ID: id, Sessions: list}, true)
		switch {
		case stored.Exists(err): // by who runs beside it
			again, err := readSets(ctx, r)
			if err != nil || again[own] == nil {
				return err
			}
			list = again[own].sessions
		case err != nil:
			return err
		}
		sets[own].sessions = list
	}
	for _, session := range sets[own].sessions {
		name := "snapshots/" + session.String()
		_, err := stored.Stat(ctx, r.Storage(), name)
		switch {
		case err == nil || without.noFence:
			continue
		case !stored.Missing(err):
			return err
		case a.rng.IntN(3) == 0: // it may live: another run looks again
			s.count("left")
			return nil
		}
		host, err := s.hostOf(ctx, r, session)
		if err != nil || host == (crypt.HostID{}) {
			return err
		}
		void := snapshot.Record{Session: session, Host: host, Kind: snapshot.Void}
		body, err := void.Marshal()
		if err != nil {
			return err
		}
		_, object, err := r.SealControl(crypt.TypeSnapshot, name, body)
		if err == nil {
			err = stored.Create(ctx, r.Storage(), name, object)
		}
		if err != nil && !stored.Exists(err) {
			return err
		}
	}
	final, err := s.second(ctx, a, own, sets[own], without)
	if err != nil {
		return err
	}
	err = put(crypt.TypeCondemnedFinal, "condemned/"+own+".final", format.CondemnedFinal{ID: id, Packs: final}, true)
	if stored.Exists(err) {
		again, err2 := readSets(ctx, r)
		if err2 != nil || again[own] == nil {
			return err2
		}
		final, err = nil, nil
		for _, p := range again[own].packs {
			final = append(final, p)
		}
		s.count("finalled by another")
	}
	if err != nil {
		return err
	}
	for _, p := range final {
		if err := stored.Remove(ctx, r.Storage(), format.PackName(p.Name, p.Tree, p.Incarnation)); err != nil {
			return err
		}
		s.count("delete")
	}
	if a.rng.IntN(2) == 0 { // what the final makes superfluous
		for _, suffix := range []string{"", ".leases"} {
			if err := stored.Remove(ctx, r.Storage(), "condemned/"+own+suffix); err != nil {
				return err
			}
		}
	}
	return nil
}

// pruneReal is a run of the program's own prune.
func (s *sim) pruneReal(ctx context.Context, a *actor) error {
	res, err := gc.Prune(ctx, a.r, gc.PruneOptions{MaxUnused: float64(a.rng.IntN(2)) / 2, MaxRepack: -1, Anyway: true})
	s.mu.Lock()
	defer s.mu.Unlock()
	for what, n := range map[string]int{"real: removed": res.Removed, "real: repacked": res.Repacked, "real: spared": res.Spared, "real: waiting": res.Waiting,
		"real: fenced": res.Fenced, "real: finished": res.Finished, "real: segments": res.Segments} {
		s.done[what] += n
	}
	if err != nil {
		s.log = append(s.log, fmt.Sprintf("%s: %v", a.name, err))
	}
	if errors.Is(err, gc.ErrUnsafe) || errors.Is(err, repo.ErrFenced) {
		s.done["real: stopped"]++
		return nil
	}
	return err
}

// hostOf finds the host of an open session by its lease.
func (s *sim) hostOf(ctx context.Context, r *repo.Repo, session crypt.SessionID) (host crypt.HostID, err error) {
	name := format.LeaseName(session, 0)
	object, err := stored.Fetch(ctx, r.Storage(), name)
	if stored.Missing(err) { // it ended meanwhile
		return host, nil
	}
	var signed *crypt.Signed
	if err == nil {
		signed, err = r.OpenControl(crypt.TypeLease, name, object)
	}
	if err != nil {
		return host, err
	}
	l, err := format.Parse[format.Lease](signed.Body)
	if err != nil {
		return host, err
	}
	return l.Host, nil
}

// listed are the stored packs.
func listed(ctx context.Context, r *repo.Repo) (map[index.PackID]format.PackRef, error) {
	all := make(map[index.PackID]format.PackRef)
	for _, prefix := range []string{"packs/", "meta/"} {
		infos, _, err := stored.List(ctx, r.Storage(), prefix)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			id, tree, inc, err := format.ParsePackName(i.Name)
			if err != nil {
				return nil, err
			}
			all[index.PackID{Name: id, Incarnation: inc}] = format.PackRef{Name: id, Tree: tree, Incarnation: inc}
		}
	}
	return all, nil
}

// choose marks packs: those without which every used blob still has a copy that nothing condemned. Those that no index names go too.
func (s *sim) choose(ctx context.Context, a *actor, sets map[string]*set, without pruning) ([]format.PackRef, error) {
	need, err := s.needed(ctx, a.r, without)
	if err != nil {
		return nil, err
	}
	there, err := listed(ctx, a.r)
	if err != nil {
		return nil, err
	}
	absent := make(map[index.PackID]bool)
	for _, c := range sets {
		for p := range c.packs {
			absent[p] = true
		}
	}
	var order []index.PackID
	for p := range there {
		if !absent[p] {
			order = append(order, p)
		}
	}
	slices.SortFunc(order, index.PackID.Compare)
	a.rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	var refs []format.PackRef
	for _, p := range order {
		absent[p] = true
		if spare(a.r, need, absent, there) {
			refs = append(refs, there[p])
		} else {
			delete(absent, p)
		}
	}
	slices.SortFunc(refs, format.PackRef.Compare)
	return refs, nil
}

func (s *sim) needed(ctx context.Context, r *repo.Repo, without pruning) (map[crypt.ID]bool, error) {
	if !without.noHolds {
		return used(ctx, r)
	}
	all, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.LoadIndex(ctx); err != nil {
		return nil, err
	}
	ids := make(map[crypt.ID]bool)
	for _, s := range all {
		if err := blobsOf(ctx, r, s.Root, ids); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// spare reports whether every needed blob has a copy that is stored and not absent.
func spare(r *repo.Repo, need map[crypt.ID]bool, absent map[index.PackID]bool, there map[index.PackID]format.PackRef) bool {
	for id := range need {
		if !slices.ContainsFunc(r.Index().Places(id), func(p index.Place) bool {
			_, is := there[p.Pack.PackID]
			return is && !absent[p.Pack.PackID]
		}) {
			return false
		}
	}
	return true
}

// second looks again at what the set may take: condemned sets and finals, snapshots, index, packs.
func (s *sim) second(ctx context.Context, a *actor, own string, c *set, without pruning) (final []format.PackRef, err error) {
	sets, err := readSets(ctx, a.r)
	if err != nil {
		return nil, err
	}
	absent := make(map[index.PackID]bool)
	for id, other := range sets {
		for p := range other.packs {
			if id != own || other.final {
				absent[p] = true
			}
		}
	}
	need, err := s.needed(ctx, a.r, without)
	if err != nil {
		return nil, err
	}
	there, err := listed(ctx, a.r)
	if err != nil {
		return nil, err
	}
	for p := range c.packs {
		absent[p] = true
	}
	for p, ref := range c.packs {
		held := make(map[crypt.ID]bool) // used blobs that it holds
		for id := range need {
			if slices.ContainsFunc(a.r.Index().Places(id), func(q index.Place) bool { return q.Pack.PackID == p }) {
				held[id] = true
			}
		}
		if without.noSecond || spare(a.r, held, absent, there) {
			final = append(final, ref)
		} else {
			s.count("taken off")
		}
	}
	slices.SortFunc(final, format.PackRef.Compare)
	return final, nil
}

// promises are the calls after which the snapshots are read.
func promises(what string) bool {
	op, name, _ := strings.Cut(what, " ")
	prefix, _, _ := strings.Cut(name, "/")
	switch op {
	case "delete":
		return prefix == "packs" || prefix == "meta"
	case "put":
		return prefix == "snapshots" || prefix == "marks" || strings.HasSuffix(name, ".final")
	}
	return false
}

// whole reads every listed snapshot, and those that are held, to the last blob.
func (s *sim) whole(ctx context.Context) error {
	r := s.check
	all, err := r.Snapshots(ctx)
	if err != nil {
		return err
	}
	gone, err := gc.ReadForgotten(ctx, r)
	if err != nil {
		return err
	}
	there := make(map[crypt.SessionID]bool)
	for _, a := range all {
		there[a.ID()] = true
	}
	s.mu.Lock()
	for _, f := range gone {
		there[f.ID()] = true
		if s.held[f.ID()] {
			all = append(all, f.Snapshot)
		}
	}
	for id, who := range s.committed {
		if !there[id] {
			err = fmt.Errorf("snapshot %v, which %s was told to be committed, is gone", id, who)
		}
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := r.LoadIndex(ctx); err != nil {
		return err
	}
	d, err := r.NewReader()
	if err != nil {
		return err
	}
	for _, a := range all {
		ids := make(map[crypt.ID]bool)
		err := blobsOf(ctx, r, a.Root, ids)
		for id := range ids {
			if err == nil {
				_, err = d.Get(ctx, id)
			}
		}
		if err != nil {
			return fmt.Errorf("snapshot %v: %w", a.ID(), err)
		}
	}
	if p := r.Problems(); len(p) > 0 {
		return fmt.Errorf("problem: %v", p[0])
	}
	return nil
}

// simulate runs one seed. It returns what went wrong, what happened, and the calls in their order.
func simulate(t *testing.T, seed uint64, base *mem.Store, cred *crypt.Credential, pruner, replicator *crypt.Identity, without pruning) (done map[string]int, log []string, err error) {
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		bubble := time.Now()
		now := func() time.Time { return began.Add(time.Since(bubble)) }
		store := mem.New(now)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		copyAll := func(to *mem.Store) {
			for i, err := range base.List(ctx, "") {
				if err != nil {
					t.Fatal(err)
				}
				b, err := base.Get(ctx, i.Name, 0, -1)
				if err == nil {
					err = to.Put(ctx, i.Name, b, backends.PutOptions{})
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		copyAll(store)
		s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 1)), stage: new(stage), now: now,
			committed: make(map[crypt.SessionID]string), held: make(map[crypt.SessionID]bool), done: make(map[string]int)}
		for i := range 6 {
			s.blobs = append(s.blobs, []byte(random(i, 2000+i)))
		}
		open := func(st backends.Storage, id *crypt.Identity, pass bool) *repo.Repo {
			a := repo.Access{Credential: cred}
			if id != nil {
				c := *cred
				c.Identity = id
				a.Credential = &c
			}
			if pass {
				a.Passphrase = []byte(repotest.Passphrase)
			}
			r, err := repo.Open(ctx, st, a, repo.Options{Now: now})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		s.check = open(store, nil, true)
		var actors []*actor
		add := func(name string, id *crypt.Identity, pass bool, times int, run func(ctx context.Context, a *actor) error) {
			st := &staged{Storage: store, stage: s.stage, actor: len(actors)}
			a := &actor{name: name, st: st, rng: rand.New(rand.NewPCG(seed, uint64(len(actors)+2))), r: open(st, id, pass)}
			a.run = func(ctx context.Context, a *actor) error {
				for range times {
					if err := run(ctx, a); err != nil {
						return fmt.Errorf("%s: %w", a.name, err)
					}
				}
				return nil
			}
			actors = append(actors, a)
		}
		writer := func(ctx context.Context, a *actor) error { return s.backup(ctx, a, a.r) }
		add("writer 1", nil, false, 2, writer)
		add("writer 2", replicator, false, 2, writer) // of another host
		add("forgetter", nil, true, 2, s.forget)
		add("undeleter", nil, true, 1+s.rng.IntN(2), s.undelete)
		if s.rng.IntN(2) == 0 {
			add("holder", nil, true, 1, s.hold)
		}
		real := seed%2 == 0 && without == (pruning{})
		for i := range 1 + s.rng.IntN(2) {
			add(fmt.Sprint("prune ", i+1), pruner, true, 3, func(ctx context.Context, a *actor) error {
				var err error
				if real {
					err = s.pruneReal(ctx, a)
				} else {
					err = s.prune(ctx, a, without)
				}
				if errors.Is(err, repo.ErrDamaged) {
					// A snapshot that it read was forgotten, and swept by another run before it came to its tree. It removes nothing then; whether
					// something is lost indeed is looked at from outside.
					s.count("aborted")
					return nil
				}
				return err
			})
		}
		replicating := s.rng.IntN(2) == 0
		if replicating {
			s.addReplicator(ctx, store, add, open, copyAll, pruner, replicator)
		}
		// A snapshot at the start, so that there is something to forget.
		if err := s.backup(ctx, actors[0], actors[0].r); err != nil {
			t.Fatal(err)
		}
		ended := make([]error, len(actors))
		var running sync.WaitGroup
		left := make(chan int, len(actors))
		for i, a := range actors {
			a.st.on = true
			running.Go(func() {
				ended[i] = a.run(ctx, a)
				left <- i
			})
		}
		jumps := 1
		switch {
		case replicating: // it would wait for a lock that is held over a call
			jumps = 0
		case real: // which ends no session that showed a sign of life in the last hour
			jumps = 6
		}
		err = s.schedule(ctx, len(actors), left, jumps)
		cancel()
		running.Wait()
		for i, e := range ended {
			if err == nil && e != nil && !errors.Is(e, context.Canceled) {
				err = fmt.Errorf("%s ended: %w", actors[i].name, e)
			}
		}
		done, log = s.done, s.log
	})
	return done, log, err
}

// addReplicator adds one whose source has a snapshot or two, that are forgotten and swept at some moment of the copying.
func (s *sim) addReplicator(ctx context.Context, store *mem.Store, add func(string, *crypt.Identity, bool, int, func(context.Context, *actor) error),
	open func(backends.Storage, *crypt.Identity, bool) *repo.Repo, copyAll func(*mem.Store), pruner, replicator *crypt.Identity) {
	source := mem.New(s.now)
	copyAll(source)
	rng := rand.New(rand.NewPCG(s.rng.Uint64(), 0)) // the replicator runs beside the scheduler
	at := &actor{name: "source", rng: rng, r: open(source, nil, true)}
	for range 2 {
		if err := s.backup(ctx, at, at.r); err != nil {
			s.t.Fatal(err)
		}
	}
	s.committed = make(map[crypt.SessionID]string) // not here
	left := 5 + s.rng.IntN(60)
	home := &hooked{Storage: source, hook: func() {
		if left--; left == 0 {
			sweep := &actor{name: "source's prune", rng: rng, r: open(source, pruner, true)}
			err := s.forget(ctx, at)
			for range 3 {
				if err == nil {
					err = s.prune(ctx, sweep, pruning{})
				}
			}
			if err != nil && ctx.Err() == nil {
				s.note("at the source: %v", err)
			}
		}
	}}
	from := open(home, replicator, false)
	add("replicator", replicator, false, 1, func(ctx context.Context, a *actor) error {
		_, err := replicate.Run(ctx, from, a.st, replicate.Options{
			Open:    func(context.Context) (*repo.Repo, error) { return a.r, nil },
			Journal: func(context.Context, *repo.Repo) (repo.Journal, error) { return nil, nil },
			Logs:    func(context.Context, *repo.Repo) ([]backends.Info, error) { return nil, nil },
		})
		if errors.Is(err, repo.ErrStorage) { // the source, or prune, was too quick for it
			s.count("replicator gave up")
			return nil
		}
		if err == nil {
			s.count("replicate")
		}
		return err
	})
}

// hooked calls hook before every call.
type hooked struct {
	backends.Storage
	mu   sync.Mutex
	hook func()
}

func (h *hooked) call() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hook()
}

func (h *hooked) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	h.call()
	return h.Storage.Get(ctx, name, off, n)
}

func (h *hooked) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	h.call()
	return h.Storage.List(ctx, prefix)
}

// schedule lets calls through until all actors have ended or crashed. The actor with the highest priority goes on; now and then priorities are drawn anew,
// so that others sleep for long, and sometimes one crashes, or, after jumps of 200 calls, an hour passes.
func (s *sim) schedule(ctx context.Context, n int, left <-chan int, jumps int) error {
	priority := s.rng.Perm(n)
	crashed := make([]bool, n)
	over := make([]bool, n)
	idle := 0
	for {
		synctest.Wait()
		for len(left) > 0 {
			over[<-left] = true
		}
		all := true
		for i := range n {
			all = all && (over[i] || crashed[i])
		}
		if all {
			return nil
		}
		var next *call
		s.stage.mu.Lock()
		s.stage.calls = slices.DeleteFunc(s.stage.calls, func(c *call) bool { return c.gone })
		for _, c := range s.stage.calls {
			if !crashed[c.actor] && (next == nil || priority[c.actor] > priority[next.actor] || c.actor == next.actor && s.rng.IntN(2) == 0) {
				next = c
			}
		}
		s.stage.calls = slices.DeleteFunc(s.stage.calls, func(c *call) bool { return c == next })
		s.stage.mu.Unlock()
		if next == nil {
			if idle++; idle > 1000 {
				return errors.New("nothing moves any more")
			}
			time.Sleep(time.Minute)
			continue
		}
		idle = 0
		s.note("%d %s", next.actor, next.what)
		close(next.turn)
		synctest.Wait()
		if promises(next.what) {
			if err := s.whole(ctx); err != nil {
				return fmt.Errorf("after %q of actor %d: %w", next.what, next.actor, err)
			}
		}
		switch roll := s.rng.IntN(800); {
		case roll == 0:
			crashed[s.rng.IntN(n)] = true
		case roll < 50:
			s.rng.Shuffle(n, func(i, j int) { priority[i], priority[j] = priority[j], priority[i] })
		case roll < 50+4*jumps:
			time.Sleep(61 * time.Minute)
		}
	}
}

// simWorld is what every seed starts from.
func simWorld(t *testing.T) (w *world, pruner, replicator *crypt.Identity) {
	t.Helper()
	w = newWorld(t)
	pruner = w.role("pruner", crypt.RoleWriter|crypt.RolePrune).Keys().Identity
	replicator = w.role("replicator", crypt.RoleWriter|crypt.RolePrune).Keys().Identity
	return w, pruner, replicator
}

// soak asks for many more seeds.
var soak = os.Getenv("PACKHOLD_SOAK") != ""

// TestSimulation runs many seeds.
func TestSimulation(t *testing.T) {
	w, pruner, replicator := simWorld(t)
	seeds, least := 20, []string{"backup", "forget", "mark", "delete", "taken off"}
	switch {
	case soak:
		seeds = 3000
		least = append(least, "fenced", "finalled by another", "undelete", "swept", "hold", "takeover", "left", "replicate", "aborted",
			"real: removed", "real: repacked", "real: spared", "real: waiting", "real: fenced", "real: finished", "real: segments")
	case testing.Short():
		seeds, least = 4, least[:1]
	}
	total := make(map[string]int)
	for seed := range seeds {
		done, log, err := simulate(t, uint64(seed), w.store, w.cred, pruner, replicator, pruning{})
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(log[max(0, len(log)-400):], "\n"))
		}
		for what, n := range done {
			total[what] += n
		}
		if seed%100 == 99 {
			t.Logf("%d seeds so far", seed+1)
		}
	}
	t.Logf("%d seeds: %v", seeds, total)
	for _, what := range least {
		if total[what] == 0 {
			t.Errorf("%s never happened", what)
		}
	}
}

// TestSimulationFinds leaves out steps of prune, and the simulation must find what goes wrong.
func TestSimulationFinds(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes many seeds")
	}
	broken := map[string]pruning{"no fence": {noFence: true}, "no second look": {noSecond: true}}
	if soak { // these take hundreds of seeds
		broken["leases first"], broken["no holds"] = pruning{leasesFirst: true}, pruning{noHolds: true}
	}
	w, pruner, replicator := simWorld(t)
	for name, without := range broken {
		found := false
		for seed := uint64(0); !found && seed < 5000; seed++ {
			_, _, err := simulate(t, seed, w.store, w.cred, pruner, replicator, without)
			if found = err != nil; found {
				t.Logf("%s: seed %d: %v", name, seed, err)
			}
		}
		if !found {
			t.Errorf("%s: nothing is found", name)
		}
	}
}
