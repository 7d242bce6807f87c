package gc_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/format"
	"packhold/repo/gc"
	"packhold/repo/repotest"
	"packhold/repo/snapshot"
)

// holder is whoever has the passphrase, and no host: who prunes.
func (w *world) holder(s backends.Storage) *repo.Repo {
	return w.open(s, repo.Access{Passphrase: []byte(repotest.Passphrase)})
}

func (w *world) prune(o gc.PruneOptions) *gc.Pruned {
	w.t.Helper()
	res, err := gc.Prune(w.t.Context(), w.holder(w.store), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

// forget takes snapshots out of the list.
func (w *world) forget(list ...*repo.Snapshot) {
	w.t.Helper()
	if _, err := gc.Forget(w.t.Context(), w.again(w.boss), list, "test"); err != nil {
		w.t.Fatal(err)
	}
}

// clean fails unless nothing but what is needed is stored: no pack too many, no open set, no lease of a session that ended badly.
func (w *world) clean(packs int) {
	w.t.Helper()
	if got := w.packs(); len(got) != packs {
		w.t.Errorf("%d packs, want %d", len(got), packs)
	}
	for i, err := range w.store.List(w.t.Context(), "condemned/") {
		if err != nil || !strings.HasSuffix(i.Name, ".final") {
			w.t.Errorf("%s is still there, %v", i.Name, err)
		}
	}
}

func TestPrune(t *testing.T) {
	w := newWorld(t)
	if res := w.prune(gc.PruneOptions{}); res.Removed != 0 || res.Packs != 0 {
		t.Errorf("an empty repository: %+v", res)
	}
	a := w.backup(w.host(), some(1), backup.Options{})
	one := len(w.packs())
	b := w.backup(w.host(), some(2), backup.Options{})
	if res := w.prune(gc.PruneOptions{}); res.Removed != 0 || res.Unused != 0 || res.Snapshots != 2 {
		t.Errorf("nothing is to go: %+v", res)
	}
	before := w.packs()
	w.forget(a)
	plan := w.prune(gc.PruneOptions{DryRun: true})
	if got := w.packs(); !slices.Equal(before, got) {
		t.Error("a dry run removed something")
	}
	res := w.prune(gc.PruneOptions{})
	if res.Removed != one || res.Removed != plan.Removed || res.RemovedBytes != plan.RemovedBytes || res.Waiting+res.Spared+res.Deferred != 0 {
		t.Errorf("planned %+v, did %+v", plan, res)
	}
	w.clean(len(before) - one)
	w.whole()
	if again := w.prune(gc.PruneOptions{}); again.Removed != 0 {
		t.Errorf("again: %+v", again)
	}
	// A host that knew the old packs stores again what it needs of them.
	c := w.backup(w.host(), some(1), backup.Options{})
	w.whole()
	w.forget(b, c)
	w.prune(gc.PruneOptions{})
	w.clean(0)
}

// TestRepack: packs with little alive are copied and go, as much as the options say; what is damaged in them is mended on the way.
func TestRepack(t *testing.T) {
	files := make(map[string]string)
	for i := range 20 {
		files[fmt.Sprint(i)] = random(i, 100_000)
	}
	w := newWorld(t)
	all := w.backup(w.host(), files, backup.Options{})
	some := map[string]string{"3": files["3"], "17": files["17"]}
	w.backup(w.host(), some, backup.Options{})
	w.forget(all)
	if res := w.prune(gc.PruneOptions{MaxUnused: 1}); res.Repacked != 0 {
		t.Errorf("everything may stay: %+v", res)
	}
	if res := w.prune(gc.PruneOptions{MaxRepack: 0}); res.Repacked != 0 || res.Unused < 1_500_000 {
		t.Errorf("nothing may be copied: %+v", res)
	}
	// One bit of the pack that is to be copied.
	for _, ref := range w.packs() {
		if !ref.Tree {
			name := format.PackName(ref.Name, false, 0)
			b, err := w.store.Get(t.Context(), name, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			b[5000] ^= 1
			if err := w.store.Put(t.Context(), name, b, backends.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	res := w.prune(gc.PruneOptions{MaxRepack: -1})
	if res.Repacked == 0 || res.RepackedBytes > 300_000 {
		t.Errorf("%+v", res)
	}
	var left int64
	for i, err := range w.store.List(t.Context(), "packs/") {
		if err != nil {
			t.Fatal(err)
		}
		left += i.Size
	}
	if left > 400_000 {
		t.Errorf("%d bytes are left", left)
	}
	w.whole()
	if again := w.prune(gc.PruneOptions{MaxRepack: -1}); again.Removed != 0 || again.Unused != 0 {
		t.Errorf("again: %+v", again)
	}
}

// TestPruneWaits: a session that may count on a condemned pack keeps it; when it committed, the pack is spared, and when it ended without, it goes.
func TestPruneWaits(t *testing.T) {
	for _, commits := range []bool{true, false} {
		w := newWorld(t)
		a := w.backup(w.host(), some(1), backup.Options{})
		w.forget(a)
		packs := len(w.packs())
		s, err := w.host().Begin(t.Context(), repo.SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		res := w.prune(gc.PruneOptions{})
		if res.Waiting != 1 || res.Removed != 0 || len(w.packs()) != packs {
			t.Errorf("an open session: %+v", res)
		}
		id := crypt.Sum([]byte(some(1)["a/b/small"]))
		if !s.Has(id) {
			t.Fatal("the session does not count on what it saw")
		}
		if commits {
			wk, err := s.NewWorker()
			if err != nil {
				t.Fatal(err)
			}
			// A tree whose one file is the blob of the old pack.
			tree, err := (&snapshot.Page{Nodes: []snapshot.Node{{Name: "f", Type: snapshot.File, Mode: 0o600, Size: 3000, Extents: []snapshot.Extent{{Kind: snapshot.Data, Length: 3000, ID: id}}}}}).Encode()
			if err != nil {
				t.Fatal(err)
			}
			root, _, err := wk.StoreTree(tree)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Commit(t.Context(), &snapshot.Record{Root: root, Type: snapshot.Full, Start: snapshot.Time{Sec: 1e9}, Lineage: [32]byte{1}}, &snapshot.Body{}, nil); err != nil {
				t.Fatal(err)
			}
		}
		s.Close(t.Context())
		res = w.prune(gc.PruneOptions{})
		if commits && (res.Finished != 1 || res.Spared == 0) || !commits && (res.Finished != 1 || res.Spared != 0 || res.Removed != packs) {
			t.Errorf("commits %v: %+v", commits, res)
		}
		w.whole()
	}
}

// TestPruneFences: a session that was silent for an hour of the storage's time is ended, and cannot commit.
func TestPruneFences(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	w.store = mem.New(func() time.Time { return now })
	c, err := repotest.Copy(t.Context(), w.store, repotest.Options{Parity: 2, PackSize: format.MinPackSize})
	if err != nil {
		t.Fatal(err)
	}
	w.cred = c
	w.boss = w.open(w.store, repo.Access{Credential: c, Passphrase: []byte(repotest.Passphrase)})
	a := w.backup(w.host(), some(1), backup.Options{})
	w.forget(a)
	s, err := w.host().Begin(t.Context(), repo.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Hour)
	if res := w.prune(gc.PruneOptions{}); res.Fenced != 1 || res.Removed == 0 {
		t.Errorf("%+v", res)
	}
	wk, err := s.NewWorker()
	if err != nil {
		t.Fatal(err)
	}
	page, err := (&snapshot.Page{}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	root, _, err := wk.StoreTree(page)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Commit(t.Context(), &snapshot.Record{Root: root, Type: snapshot.Full, Start: snapshot.Time{Sec: 1e9}, Lineage: [32]byte{1}}, &snapshot.Body{}, nil)
	if !errors.Is(err, repo.ErrFenced) {
		t.Errorf("the silent session: %v", err)
	}
	s.Close(t.Context())
	w.prune(gc.PruneOptions{})
	w.clean(0)
}

// TestPruneInterrupted fails every call of a prune once; everything that is needed stays, and the next run ends what was begun.
func TestPruneInterrupted(t *testing.T) {
	w := newWorld(t)
	files := make(map[string]string)
	for i := range 10 {
		files[fmt.Sprint(i)] = random(i, 100_000)
	}
	all := w.backup(w.host(), files, backup.Options{})
	w.backup(w.host(), map[string]string{"3": files["3"]}, backup.Options{})
	w.backup(w.host(), some(7), backup.Options{})
	w.forget(all)
	start := w.store
	o := gc.PruneOptions{MaxRepack: -1}
	w.store = start.Clone()
	w.prune(o)
	want := len(w.packs())
	step := 7
	switch {
	case soak:
		step = 1
	case testing.Short():
		step = 29
	}
	for _, effect := range []fault.Effect{fault.Before, fault.After} {
		for n := 1; ; n += step {
			w.store = start.Clone()
			f := fault.New(w.store, fault.Rule{N: n, Effect: effect})
			r, err := repo.Open(t.Context(), f, repo.Access{Passphrase: []byte(repotest.Passphrase)}, repo.Options{})
			if err == nil {
				_, err = gc.Prune(t.Context(), r, o)
			}
			if n > f.Calls(fault.Any) {
				break
			}
			w.whole()
			// The session that failed may have left no void; nobody waits an hour here.
			w.end()
			if _, err := gc.Prune(t.Context(), w.holder(w.store), o); err != nil {
				t.Fatalf("after call %d: %v", n, err)
			}
			if _, err := gc.Prune(t.Context(), w.holder(w.store), o); err != nil {
				t.Fatalf("after call %d, once more: %v", n, err)
			}
			w.whole()
			if got := len(w.packs()); got > want+1 {
				t.Errorf("after call %d (%v): %d packs, want %d", n, err, got, want)
			}
		}
	}
}

// end ends every session that is open.
func (w *world) end() {
	w.t.Helper()
	r := w.holder(w.store)
	leases, err := r.Leases(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range leases {
		if !l.Ended {
			if err := r.Fence(w.t.Context(), l); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// TestPruneUnsafe: what cannot be read may be, or name, something needed: nothing is removed.
func TestPruneUnsafe(t *testing.T) {
	base := newWorld(t)
	a := base.backup(base.host(), some(1), backup.Options{})
	base.backup(base.host(), some(2), backup.Options{})
	base.forget(a)
	live := base.snapshots()[0]
	pages := func(w *world) string {
		for _, ref := range w.packs() {
			if ref.Tree {
				return format.PackName(ref.Name, true, 0)
			}
		}
		return ""
	}
	flip := func(w *world, name string) {
		b, err := w.store.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		for i := 48; i < len(b); i += 7 {
			b[i] ^= 0xff
		}
		if err := w.store.Put(t.Context(), name, b, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for what, damage := range map[string]func(w *world){
		"a snapshot": func(w *world) { flip(w, live.Name) },
		"tree packs": func(w *world) {
			for pages(w) != "" {
				if err := w.store.Delete(t.Context(), pages(w)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"a final": func(w *world) {
			name := fmt.Sprintf("condemned/%x.final", [16]byte{1})
			if err := w.store.Put(t.Context(), name, []byte("no final"), backends.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		w := *base
		w.store = base.store.Clone()
		damage(&w)
		before := w.packs()
		_, err := gc.Prune(t.Context(), w.holder(w.store), gc.PruneOptions{MaxRepack: -1})
		if !errors.Is(err, gc.ErrUnsafe) && !errors.Is(err, repo.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
		if got := w.packs(); !slices.Equal(before, got) {
			t.Errorf("%s: packs were removed", what)
		}
	}
	// Who has no passphrase, or no role.
	if _, err := gc.Prune(t.Context(), base.host(), gc.PruneOptions{}); !errors.Is(err, repo.ErrNeedRead) {
		t.Error(err)
	}
	if _, err := gc.Prune(t.Context(), base.boss, gc.PruneOptions{}); !errors.Is(err, gc.ErrRole) {
		t.Error(err)
	}
}

// TestPruneHolds: what is held stays, even if it was forgotten.
func TestPruneHolds(t *testing.T) {
	w := newWorld(t)
	a := w.backup(w.host(), some(1), backup.Options{})
	b := w.backup(w.host(), some(2), backup.Options{})
	w.forget(a, b)
	r := w.again(w.boss)
	held, err := gc.ReadForgotten(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	// A hold that came too late to be told good, as when both happen at once, keeps it all the same.
	w.signed(w.holder(w.store), crypt.TypeMark, "marks/", format.Mark{Kind: format.MarkHold, Session: held[0].Session, Time: time.Now().Unix()})
	_ = r
	packs := len(w.packs())
	if res := w.prune(gc.PruneOptions{}); res.Removed == 0 || res.Snapshots > 1 {
		t.Errorf("%+v", res)
	}
	if got := len(w.packs()); got == 0 || got >= packs {
		t.Errorf("%d packs of %d are left", got, packs)
	}
}

// TestPruneCompacts: segments that name what is gone go, and many small ones become one.
func TestPruneCompacts(t *testing.T) {
	w := newWorld(t)
	var list []*repo.Snapshot
	for i := range 20 {
		list = append(list, w.backup(w.host(), some(i*7), backup.Options{}))
	}
	w.forget(list[3], list[11])
	res := w.prune(gc.PruneOptions{})
	n := 0
	for _, err := range w.store.List(t.Context(), "index/") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 1 || res.Segments < 20 {
		t.Errorf("%d segments, %+v", n, res)
	}
	w.whole()
	w.backup(w.host(), some(7), backup.Options{})
	w.whole()
}

// TestPruneLeavesOpenSegments: a prune puts segments together while a backup reads back the one that it stored just now.
func TestPruneLeavesOpenSegments(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		s := w.backup(w.host(), some(i*7), backup.Options{})
		if i == 3 {
			w.forget(s)
		}
	}
	st := fault.New(w.store)
	var mu sync.Mutex // guards what follows
	var put string
	var res *gc.Pruned
	st.SetHook(func(op fault.Op, name string) error {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case op == fault.Put && strings.HasPrefix(name, "index/"):
			put = name
		case op == fault.Get && name == put && res == nil:
			res = w.prune(gc.PruneOptions{MaxUnused: 1})
		}
		return nil
	})
	w.backup(w.open(st, repo.Access{Credential: w.cred}), some(1000), backup.Options{})
	if res == nil || res.Segments < 20 {
		t.Errorf("the prune did %+v", res)
	}
	w.whole()
}

// TestPruneRaces: hosts back up, forget and prune at once, for as long as the seed says. Every snapshot that was committed and not forgotten is whole at
// any moment when all stand still, and after quiet and two prunes nothing is left that nobody needs.
func TestPruneRaces(t *testing.T) {
	seeds := 2
	switch {
	case soak:
		seeds = 100
	case testing.Short():
		seeds = 1
	}
	for seed := range seeds {
		w := newWorld(t)
		rng := rand.New(rand.NewPCG(uint64(seed), 1))
		var mu sync.Mutex // guards kept and rng
		var kept []*repo.Snapshot
		draw := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return rng.IntN(n)
		}
		ctx, stop := context.WithTimeout(t.Context(), 4*time.Second)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for ctx.Err() == nil {
					// Few different contents, so that one's garbage is another's need.
					snap := w.backup(w.host(), some(draw(5)), backup.Options{})
					mu.Lock()
					kept = append(kept, snap)
					mu.Unlock()
				}
			})
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				var out []*repo.Snapshot
				for len(kept) > 3 {
					i := rng.IntN(len(kept))
					out, kept = append(out, kept[i]), slices.Delete(kept, i, i+1)
				}
				mu.Unlock()
				if len(out) > 0 {
					w.forget(out...)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
		for range 2 {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, err := gc.Prune(t.Context(), w.holder(w.store), gc.PruneOptions{MaxRepack: -1})
					if err != nil && !errors.Is(err, gc.ErrBusy) && !errors.Is(err, gc.ErrUnsafe) && !errors.Is(err, repo.ErrDamaged) {
						t.Errorf("seed %d: %v", seed, err)
					}
				}
			})
		}
		wg.Wait()
		stop()
		w.whole()
		var want []string
		for _, s := range kept {
			want = append(want, s.ID().String())
		}
		slices.Sort(want)
		if got := ids(w.snapshots()); !slices.Equal(got, want) {
			t.Errorf("seed %d: %d snapshots, want %d", seed, len(got), len(want))
		}
		w.end()
		w.prune(gc.PruneOptions{MaxRepack: -1})
		w.prune(gc.PruneOptions{MaxRepack: -1})
		w.whole()
		if res := w.prune(gc.PruneOptions{MaxRepack: -1}); res.Unused != 0 || res.Removed != 0 {
			t.Errorf("seed %d: garbage is left: %+v", seed, res)
		}
		if t.Failed() {
			return
		}
	}
}
