package gc_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing/cryptotest"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/gc"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// actor is who does something, and where.
type actor struct {
	name  string
	r     *repo.Repo
	st    *staged
	rng   *rand.Rand
	clone bool // of a machine whose random bytes another one draws too
	run   func(ctx context.Context, a *actor) error
}

// tree stores a tree of one file for each of blobs, and returns its root.
func tree(w *repo.Worker, blobs [][]byte) (crypt.ID, error) {
	root, _, err := storeTree(w, blobs)
	return root, err
}

// storeTree also returns the IDs of all blobs of the tree.
func storeTree(w *repo.Worker, blobs [][]byte) (root crypt.ID, ids []crypt.ID, err error) {
	var nodes []*snapshot.Node
	for _, b := range blobs {
		id, _, err := w.Store(b)
		if err != nil {
			return id, nil, err
		}
		ids = append(ids, id)
		nodes = append(nodes, &snapshot.Node{Name: id.String(), Type: snapshot.File, Size: uint64(len(b)), Extents: []snapshot.Extent{{Kind: snapshot.Data, Length: uint64(len(b)), ID: id}}})
	}
	slices.SortFunc(nodes, func(a, b *snapshot.Node) int { return strings.Compare(a.Name, b.Name) })
	d := snapshot.NewDirWriter(func(plain []byte) (crypt.ID, error) {
		id, _, err := w.StoreTree(plain)
		ids = append(ids, id)
		return id, err
	})
	for _, n := range nodes {
		if err := d.Add(n); err != nil {
			return crypt.ID{}, nil, err
		}
	}
	root, _, err = d.Finish()
	return root, ids, err
}

// put stores a tree and remembers what it needs.
func (s *sim) put(w *repo.Worker, blobs [][]byte) (crypt.ID, error) {
	root, ids, err := storeTree(w, blobs)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trees[root] = ids
	return root, err
}

// tree returns the blobs of a tree that was stored before.
func (s *sim) tree(root crypt.ID) []crypt.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trees[root]
}

// some draws blobs for a snapshot.
func (s *sim) some(rng *rand.Rand) (some [][]byte) {
	for _, b := range s.blobs {
		if rng.IntN(2) == 0 {
			some = append(some, b)
		}
	}
	return some
}

// backup commits a snapshot of some of the blobs.
func (s *sim) backup(ctx context.Context, a *actor) error {
	some := s.some(a.rng)
	for range 3 {
		err := s.session(ctx, a, some)
		if !errors.Is(err, repo.ErrFenced) {
			return err
		}
		s.count("fenced")
	}
	return nil
}

// session is one try of a backup.
func (s *sim) session(ctx context.Context, a *actor, some [][]byte) error {
	s.clone(a)
	session, err := a.r.Begin(ctx, repo.SessionOptions{Compression: "none"})
	if err != nil {
		return err
	}
	defer session.Close(ctx)
	w, err := session.NewWorker()
	if err != nil {
		return err
	}
	s.clone(a)
	root, err := s.put(w, some)
	if err != nil {
		return err
	}
	start := a.r.Now()
	snap, err := session.Commit(ctx, &snapshot.Record{Type: snapshot.Full, Root: root, Lineage: [32]byte{1}, Start: snapshot.Time{Sec: start.Unix()}}, &snapshot.Body{}, nil)
	if err != nil {
		return err
	}
	s.promise(snap.ID(), a, root, "backup")
	return nil
}

// clone gives clones of one machine the random bytes that they share.
func (s *sim) clone(a *actor) {
	if a.clone {
		cryptotest.SetGlobalRandom(s.t, s.seed)
	}
}

// promise notes that a commit was reported.
func (s *sim) promise(id crypt.SessionID, a *actor, root crypt.ID, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.committed[id] = promised{a.name, root}
	s.done[what]++
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
			s.promise(back.ID(), a, one.Root, "undelete")
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
func (s *sim) used(ctx context.Context, r *repo.Repo) (map[crypt.ID]bool, error) {
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
	for _, a := range all {
		for _, id := range s.tree(a.Root) {
			ids[id] = true
		}
	}
	return ids, nil
}

// prune is one run: mark, or take over an unfinished set, then sweep. It stops where it would have to wait.
func (s *sim) prune(ctx context.Context, a *actor) error {
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
	for _, id := range slices.Sorted(maps.Keys(sets)) {
		if c := sets[id]; !c.final && (own == "" || a.rng.IntN(2) == 0) {
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
	if own == "" || a.rng.IntN(3) == 0 {
		var id [16]byte
		for i := range id {
			id[i] = byte(a.rng.IntN(256))
		}
		own = hex.EncodeToString(id[:])
		refs, err := s.choose(ctx, a, sets)
		if err != nil || len(refs) == 0 {
			return err
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
		list, err := open()
		if err != nil {
			return err
		}
		err = put(crypt.TypeCondemnedLeases, "condemned/"+own+".leases", format.CondemnedLeases{ID: id, Sessions: list}, true)
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
		case err == nil:
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
	final, err := s.second(ctx, a, own, sets[own])
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
		slices.SortFunc(final, format.PackRef.Compare)
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
func (s *sim) choose(ctx context.Context, a *actor, sets map[string]*set) ([]format.PackRef, error) {
	need, err := s.used(ctx, a.r)
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
func (s *sim) second(ctx context.Context, a *actor, own string, c *set) (final []format.PackRef, err error) {
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
	need, err := s.used(ctx, a.r)
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
		if spare(a.r, held, absent, there) {
			final = append(final, ref)
		} else {
			s.count("taken off")
		}
	}
	slices.SortFunc(final, format.PackRef.Compare)
	return final, nil
}
