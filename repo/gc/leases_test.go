package gc_test

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/check"
	"packhold/repo/format"
	"packhold/repo/gc"
	"packhold/repo/repotest"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// clocked is a world whose storage has the clock that it returns.
func clocked(t *testing.T) (*world, *time.Time) {
	now := time.Now()
	w := &world{t: t, store: mem.New(func() time.Time { return now })}
	c, err := repotest.Copy(t.Context(), w.store, repotest.Options{Parity: 2, PackSize: format.MinPackSize})
	if err != nil {
		t.Fatal(err)
	}
	w.cred = c
	w.boss = w.open(w.store, repo.Access{Credential: c, Passphrase: []byte(repotest.Passphrase)})
	return w, &now
}

// count returns how many names begin so.
func (w *world) count(prefix string) (n int) {
	for _, err := range w.store.List(w.t.Context(), prefix) {
		if err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	return n
}

// TestOrphans: a host is killed between its packs and their segment, and never comes back. An hour later its session is ended, and what it left goes.
func TestOrphans(t *testing.T) {
	w, now := clocked(t)
	w.backup(w.host(), some(1), backup.Options{})
	want := len(w.packs())
	gone := w.role("gone", crypt.RoleWriter)
	f := fault.New(w.store, fault.Rule{Op: fault.Put, Prefix: "index/", Sticky: true}, fault.Rule{Op: fault.Put, Prefix: "snapshots/", Sticky: true})
	c := *w.cred
	c.Identity = gone.Keys().Identity
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/a", []byte(random(7, 50_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Run(t.Context(), w.open(f, repo.Access{Credential: &c}), backup.Options{Sources: []string{dir}}); err == nil {
		t.Fatal("it was to be killed")
	}
	if len(w.packs()) == want || w.count("leases/") != 1 {
		t.Fatalf("%d packs, %d leases: nothing was left behind", len(w.packs()), w.count("leases/"))
	}
	left := len(w.packs())
	if res := w.prune(gc.PruneOptions{}); res.Removed != 0 || len(w.packs()) != left || w.count("leases/") != 1 {
		t.Errorf("its session is open, it may go on: %+v", res)
	}
	*now = now.Add(2 * time.Hour)
	// Only a prune that waits for the session ends it: something else has to go.
	w.forget(w.backup(w.host(), some(2), backup.Options{}))
	if res := w.prune(gc.PruneOptions{}); res.Fenced != 1 {
		t.Errorf("it was silent for two hours: %+v", res)
	}
	plan := w.prune(gc.PruneOptions{DryRun: true})
	if res := w.prune(gc.PruneOptions{}); res.Removed != left-want || plan.Removed != res.Removed || plan.RemovedBytes != res.RemovedBytes || res.RemovedBytes < 50_000 {
		t.Errorf("planned %+v, did %+v", plan, res)
	}
	w.clean(want)
	w.whole()
	w.prune(gc.PruneOptions{}) // that of the prune before it
	if n := w.count("leases/"); n != 0 {
		t.Errorf("%d leases are left", n)
	}
}

// TestManyLeases: hosts left very many leases, of sessions that committed, that were ended, and that are open. What a prune and a backup ask the
// storage is bounded by their number, and the next prune asks for none of those that have ended.
func TestManyLeases(t *testing.T) {
	many := 20_000
	switch {
	case soak:
		many = 100_000
	case testing.Short():
		many = 1000
	}
	w, now := clocked(t)
	a := w.backup(w.host(), some(1), backup.Options{})
	h := w.host()
	host := h.Keys().Identity.Host
	const open = 50
	for n := range many {
		var nonce [32]byte
		copy(nonce[:], fmt.Sprint("lease ", n))
		id := crypt.NewSessionID(host, nonce)
		w.signed(h, crypt.TypeLease, format.LeaseName(id, 0), format.Lease{Session: id, Host: host, Nonce: nonce[:], Time: 1e9, Purpose: "backup"})
		if n < open {
			continue
		}
		b, err := (&snapshot.Record{Session: id, Host: host, Nonce: nonce, Kind: snapshot.Void}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		name, object, err := h.SealControl(crypt.TypeSnapshot, "snapshots/"+id.String(), b)
		if err == nil {
			err = stored.Put(t.Context(), w.store, name, object, backends.PutOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.forget(a)
	*now = now.Add(2 * time.Hour)
	prune := func() (*gc.Pruned, int) {
		f := fault.New(w.store)
		res, err := gc.Prune(t.Context(), w.holder(f), gc.PruneOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return res, f.Calls(fault.Any)
	}
	start := time.Now()
	res, calls := prune()
	t.Logf("%d leases: %d calls, %v", many, calls, time.Since(start))
	if res.Fenced != open || res.Removed == 0 {
		t.Errorf("%+v", res)
	}
	// Each lease is read a few times, and removed once; each void is read once. None is asked for by itself.
	if most := 10 * many; calls > most {
		t.Errorf("%d calls, want at most %d", calls, most)
	}
	prune() // those that the first one ended
	if n := w.count("leases/"); n != 0 {
		t.Errorf("%d leases are left", n)
	}
	f := fault.New(w.store)
	w.backup(w.open(f, repo.Access{Credential: w.cred}), some(3), backup.Options{})
	t.Logf("a backup: %d calls", f.Calls(fault.Any))
	w.whole()
}

// during copies the world, whose storage calls then at its call number at, beside what makes that call, and tells how many calls there were.
func (w *world) during(at int, then func(w *world)) (*world, *fault.Store, func() int) {
	c := *w
	c.store = w.store.Clone()
	f := fault.New(c.store)
	var n atomic.Int64
	f.SetHook(func(fault.Op, string) error {
		if n.Add(1) == int64(at) {
			then(&c)
		}
		return nil
	})
	return &c, f, func() int { return int(n.Load()) }
}

// TestPruneOvertaken: while a prune looks, at each of its calls, somebody forgets a snapshot that it has seen and another prune removes what that alone
// needed. Nothing is damaged, and nobody is told so.
func TestPruneOvertaken(t *testing.T) {
	base := newWorld(t)
	base.backup(base.host(), some(1), backup.Options{})
	a := base.backup(base.host(), some(2), backup.Options{})
	busy, step := 0, 3
	if soak {
		step = 1
	}
	for at := 1; ; at += step {
		w, f, calls := base.during(at, func(w *world) {
			w.forget(a)
			if res := w.prune(gc.PruneOptions{Anyway: true}); res.Removed == 0 {
				t.Errorf("call %d: %+v", at, res)
			}
		})
		_, err := gc.Prune(t.Context(), w.holder(f), gc.PruneOptions{Anyway: true})
		if errors.Is(err, gc.ErrBusy) {
			busy++
		} else if err != nil {
			t.Errorf("at call %d: %v", at, err)
		}
		w.whole()
		if calls() < at {
			break
		}
	}
	if busy == 0 {
		t.Error("it was never overtaken")
	}
}

// TestVerifyBesidePrune: while somebody verifies, at each call, a snapshot is forgotten and what it alone needed is removed, and the rest is copied. Nothing
// is damaged, and nothing is said to be.
func TestVerifyBesidePrune(t *testing.T) {
	base := newWorld(t)
	files := make(map[string]string)
	for i := range 6 {
		files[fmt.Sprint(i)] = random(i, 100_000)
	}
	a := base.backup(base.host(), files, backup.Options{})
	base.backup(base.host(), map[string]string{"3": files["3"]}, backup.Options{})
	base.backup(base.host(), some(9), backup.Options{})
	step := 3
	if soak {
		step = 1
	}
	for at := 1; ; at += step {
		w, f, calls := base.during(at, func(w *world) {
			w.forget(a)
			if res := w.prune(gc.PruneOptions{MaxRepack: -1}); res.Removed == 0 || res.Repacked == 0 {
				t.Errorf("call %d: %+v", at, res)
			}
		})
		rep, err := check.Run(t.Context(), w.open(f, repo.Access{Credential: w.cred, Passphrase: []byte(repotest.Passphrase)}), check.Options{ReadData: true})
		if err != nil {
			t.Fatalf("at call %d: %v", at, err)
		}
		for _, p := range rep.Problems {
			t.Errorf("at call %d: %v", at, p)
		}
		if rep.Count+len(rep.Lost)+len(rep.Failed) != 0 {
			t.Errorf("at call %d: %d problems, %d packs and %d blobs lost", at, rep.Count, len(rep.Lost), len(rep.Failed))
		}
		if calls() < at {
			break
		}
	}
}
