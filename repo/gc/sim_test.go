package gc_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/gc"
	"packhold/repo/snapshot"
)

// The simulation: the real sessions, forget, undelete, holds, replication and prune (or, in some seeds, a prune that does what docs/protocol.md says and
// condemns more than is wise) on one storage, whose single calls a scheduler lets through in an order that the seed says. After every call that can take
// something away, or that promises something, every listed snapshot is looked for to its last blob. A seed decides everything: who takes part
// (shapeOf), the order, the random bytes of all keys and names, clocks, pauses, crashes and faults.

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
	fate  fate // what becomes of it
}

// fate is what becomes of a call.
type fate uint8

const (
	none   fate = iota
	before      // it fails
	after       // it has its effect, and fails
)

var errFault = errors.New("injected fault")

// staged is a storage as one actor has it.
type staged struct {
	backends.Storage
	*stage
	actor int
	where string // "" or what to call the storage
	on    *bool  // set before the actor runs

	// hasty makes every foreign lease look as if its session had been silent for two hours, so that whoever judges judges wrong.
	hasty bool
	mu    sync.Mutex // guards own
	own   map[string]bool
}

func (s *staged) wait(ctx context.Context, what string) (fate, error) {
	if !*s.on {
		return none, nil
	}
	c := &call{actor: s.actor, what: s.where + what, turn: make(chan struct{})}
	s.stage.mu.Lock()
	s.calls = append(s.calls, c)
	s.stage.mu.Unlock()
	select {
	case <-c.turn:
		if c.fate == before {
			return none, errFault
		}
		return c.fate, nil
	case <-ctx.Done():
		s.stage.mu.Lock()
		defer s.stage.mu.Unlock()
		c.gone = true
		return none, ctx.Err()
	}
}

// answer is err, unless the answer is lost.
func (f fate) answer(err error) error {
	if f == after {
		return errFault
	}
	return err
}

func (s *staged) Put(ctx context.Context, name string, data []byte, o backends.PutOptions) error {
	f, err := s.wait(ctx, "put "+name)
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, "leases/") {
		s.mu.Lock()
		s.own[name[:min(len(name), len("leases/")+32)]] = true
		s.mu.Unlock()
	}
	return f.answer(s.Storage.Put(ctx, name, data, o))
}

func (s *staged) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	f, err := s.wait(ctx, "get "+name)
	if err != nil {
		return nil, err
	}
	b, err := s.Storage.Get(ctx, name, off, n)
	return b, f.answer(err)
}

func (s *staged) Stat(ctx context.Context, name string) (backends.Info, error) {
	f, err := s.wait(ctx, "stat "+name)
	if err != nil {
		return backends.Info{}, err
	}
	i, err := s.Storage.Stat(ctx, name)
	return i, f.answer(err)
}

// List shows what there is at one moment. With its answer lost, the second half is.
func (s *staged) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		f, err := s.wait(ctx, "list "+prefix)
		if err != nil {
			yield(backends.Info{}, err)
			return
		}
		var infos []backends.Info
		for i, err := range s.Storage.List(ctx, prefix) {
			if err != nil {
				yield(i, err)
				return
			}
			infos = append(infos, i)
		}
		for n, i := range infos {
			if f == after && n >= len(infos)/2 {
				break
			}
			if s.hasty && strings.HasPrefix(i.Name, "leases/") {
				s.mu.Lock()
				if !s.own[i.Name[:min(len(i.Name), len("leases/")+32)]] {
					i.ModTime = i.ModTime.Add(-2 * repo.LeaseDead)
				}
				s.mu.Unlock()
			}
			if !yield(i, nil) {
				return
			}
		}
		if f == after {
			yield(backends.Info{}, errFault)
		}
	}
}

func (s *staged) Delete(ctx context.Context, name string) error {
	f, err := s.wait(ctx, "delete "+name)
	if err != nil {
		return err
	}
	return f.answer(s.Storage.Delete(ctx, name))
}

// sim is one run.
type sim struct {
	t     *testing.T
	seed  uint64
	shape shape
	rng   *rand.Rand
	stage *stage
	store *mem.Store
	now   func() time.Time
	blobs [][]byte
	check *repo.Repo // looks from outside

	mu        sync.Mutex // guards what follows
	trees     map[crypt.ID][]crypt.ID
	committed map[crypt.SessionID]promised
	held      map[crypt.SessionID]bool // told to be good
	done      map[string]int           // what happened, for the test of the test
	log       []string
}

// promised is a commit that was reported.
type promised struct {
	by   string
	root crypt.ID
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

// promises are the calls after which the snapshots are looked at.
func promises(what string) bool {
	op, name, _ := strings.Cut(what, " ")
	prefix, _, _ := strings.Cut(name, "/")
	switch op {
	case "delete":
		return prefix != "leases"
	case "put":
		return prefix == "snapshots" || prefix == "marks" || prefix == "forgotten" || strings.HasSuffix(name, ".final")
	}
	return false
}

// whole looks for every listed snapshot, and those that are held, to the last blob: in a pack that a segment names, that is stored whole, and that no final
// took. With deep it reads them.
func (s *sim) whole(ctx context.Context, deep bool) error {
	r := s.check
	all, err := r.Snapshots(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	committed, held := len(s.committed), len(s.held)
	s.mu.Unlock()
	there := make(map[crypt.SessionID]crypt.ID)
	for _, a := range all {
		there[a.ID()] = a.Root
	}
	if committed > 0 || held > 0 {
		gone, err := gc.ReadForgotten(ctx, r)
		if err != nil {
			return err
		}
		s.mu.Lock()
		for _, f := range gone {
			there[f.ID()] = f.Root
			if s.held[f.ID()] {
				all = append(all, f.Snapshot)
			}
		}
		for id, p := range s.committed {
			switch root, ok := there[id]; {
			case !ok:
				err = fmt.Errorf("snapshot %v, which %s was told to be committed, is gone", id, p.by)
			case root != p.root:
				err = fmt.Errorf("snapshot %v, which %s was told to be committed, has another tree", id, p.by)
			}
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if err := r.LoadIndex(ctx); err != nil {
		return err
	}
	seen := make(map[crypt.ID]bool)
	for _, a := range all {
		ids, err := s.learn(ctx, a.Root)
		if err != nil {
			return fmt.Errorf("snapshot %v: %w", a.ID(), err)
		}
		if ids == nil {
			return fmt.Errorf("snapshot %v has a tree that nobody stored", a.ID())
		}
		for _, id := range ids {
			if seen[id] {
				continue
			}
			seen[id] = true
			if err := s.find(ctx, id); err != nil {
				return fmt.Errorf("snapshot %v: %w", a.ID(), err)
			}
		}
	}
	if p := r.Problems(); len(p) > 0 {
		return fmt.Errorf("problem: %v: %w", p[0].Object, p[0].Err)
	}
	if !deep {
		return nil
	}
	d, err := r.NewReader()
	if err != nil {
		return err
	}
	for id := range seen {
		if b, err := d.Get(ctx, id); err != nil {
			return err
		} else if crypt.Sum(b) != id {
			return fmt.Errorf("blob %v: other bytes were read than were stored", id)
		}
	}
	return nil
}

// find looks for a good copy of a blob.
func (s *sim) find(ctx context.Context, id crypt.ID) error {
	dead, _ := s.check.Dead()
	for _, p := range s.check.Index().Places(id) {
		i, err := s.store.Stat(ctx, format.PackName(p.Pack.Name, p.Pack.Tree(), p.Pack.Incarnation))
		if err == nil && uint64(i.Size) == p.Pack.Size && dead[p.Pack.PackID]&index.Final == 0 {
			return nil
		}
	}
	return fmt.Errorf("blob %v is lost", id)
}

// learn reads the blobs of a tree that was not made by put.
func (s *sim) learn(ctx context.Context, root crypt.ID) ([]crypt.ID, error) {
	if ids := s.tree(root); ids != nil || !s.shape.parent {
		return ids, nil
	}
	all := make(map[crypt.ID]bool)
	if err := blobsOf(ctx, s.check, root, all); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trees[root] = slices.Collect(maps.Keys(all))
	return s.trees[root], nil
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
		if e.Node.Type == snapshot.Dir {
			ids[e.Node.Subtree] = true
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
