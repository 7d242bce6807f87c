package gc_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/gc"
	"packhold/repo/repotest"
	"packhold/repo/retain"
	"packhold/repo/snapshot"
)

const year = 365 * 24 * time.Hour

// told opens the repository for somebody with this clock.
func (w *world) told(s backends.Storage, a repo.Access, now func() time.Time) *repo.Repo {
	w.t.Helper()
	r, err := repo.Open(w.t.Context(), s, a, repo.Options{Now: now})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// plan is what an administrator with this clock would forget.
func (w *world) plan(p retain.Policy, now func() time.Time) *gc.Plan {
	w.t.Helper()
	r := w.told(w.store, repo.Access{Credential: w.cred, Passphrase: []byte(repotest.Passphrase)}, now)
	all, err := r.Snapshots(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := gc.ReadMarks(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	plan, err := gc.NewPlan(r, all, func(s *repo.Snapshot) *snapshot.Body {
		b, err := r.OpenBody(s)
		if err != nil {
			w.t.Fatal(err)
		}
		return b
	}, m, p)
	if err != nil {
		w.t.Fatal(err)
	}
	return plan
}

// TestClocks: whoever backs up, forgets or prunes has a clock that is ten years off, or jumps by ten years at any look at it. Snapshots keep their order, the
// policy keeps what it would by the right clock, no open session is judged by a wrong one, and nothing is lost.
func TestClocks(t *testing.T) {
	var storage *time.Time
	right := func() time.Time { return *storage }
	rng := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex // guards rng
	clocks := map[string]func() time.Time{
		"right":          right,
		"ten years on":   func() time.Time { return right().Add(10 * year) },
		"ten years back": func() time.Time { return right().Add(-10 * year) },
		"jumping": func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return right().Add(time.Duration(rng.Int64N(int64(20*year))) - 10*year)
		},
	}
	for name, now := range clocks {
		t.Run(name, func(t *testing.T) {
			var w *world
			w, storage = clocked(t)
			if name == "ten years back" { // this host's certificate begins now; that of the next in the year 2001
				_, err := w.told(w.store, repo.Access{Credential: w.cred}, now).Begin(t.Context(), repo.SessionOptions{})
				if !errors.Is(err, repo.ErrNeedHost) {
					t.Errorf("before its certificate begins: %v", err)
				}
			}
			c := *w.cred
			c.Identity = w.role("old", crypt.RoleWriter).Keys().Identity
			host := repo.Access{Credential: &c}
			dir := t.TempDir()
			cache := t.TempDir()
			for i := range 5 {
				*storage = storage.Add(24 * time.Hour)
				for name, data := range some(i) {
					path := filepath.Join(dir, name)
					if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				res, err := backup.Run(t.Context(), w.told(w.store, host, now), backup.Options{Sources: []string{dir}, CacheDir: cache, Now: now})
				if err != nil {
					t.Fatal(err)
				}
				if res.Snapshot.Number != uint64(i+1) || (res.Parent == nil) != (i == 0) {
					t.Errorf("snapshot %d of %d, with the parent %v", res.Snapshot.Number, i+1, res.Parent)
				}
			}
			open, err := w.host().Begin(t.Context(), repo.SessionOptions{})
			if err != nil {
				t.Fatal(err)
			}
			plan := w.plan(retain.Policy{Within: retain.Period{Days: 1}}, now)
			kept := 0
			for _, d := range plan.Groups[0].Decisions {
				if d.Keep {
					kept++
				}
			}
			// Tolerance of a day where a host's clock is behind: then more is kept, never less.
			if kept < 2 || name == "right" && kept != 2 {
				t.Errorf("%d snapshots would be kept", kept)
			}
			first := w.snapshots()[0]
			if _, err := gc.Forget(t.Context(), w.told(w.store, repo.Access{Credential: w.cred, Passphrase: []byte(repotest.Passphrase)}, now), []*repo.Snapshot{first}, ""); err != nil {
				t.Fatal(err)
			}
			prune := func() *gc.Pruned {
				t.Helper()
				packs := w.packs()
				for _, clock := range []func() time.Time{now, right} {
					res, err := gc.Prune(t.Context(), w.told(w.store, repo.Access{Passphrase: []byte(repotest.Passphrase)}, clock), gc.PruneOptions{MaxRepack: -1})
					if err == nil {
						return res
					}
					// Whose certificate begins in the future removes nothing, until the clock is set.
					if !errors.Is(err, repo.ErrNeedHost) || name == "right" || name == "ten years on" || len(w.packs()) < len(packs) {
						t.Fatal(err)
					}
				}
				t.Fatal("a right clock does not help")
				return nil
			}
			if res := prune(); res.Waiting != 1 || res.Fenced+res.Removed != 0 {
				t.Errorf("beside a session that began just now: %+v", res)
			}
			open.Close(t.Context())
			if res := prune(); res.Finished != 1 || res.Removed == 0 {
				t.Errorf("the session has ended: %+v", res)
			}
			w.whole()
			if n := len(w.snapshots()); n != 4 {
				t.Errorf("%d snapshots", n)
			}
		})
	}
}

// TestFutureSnapshots: a host with a hostile clock stores as many snapshots as another has, all far in the future, and invents days for more. Neither the
// other host's snapshots nor what it had stored itself before are pushed out by them.
func TestFutureSnapshots(t *testing.T) {
	w, storage := clocked(t)
	right := func() time.Time { return *storage }
	other := w.role("host-b", crypt.RoleWriter)
	c := *w.cred
	c.Identity = other.Keys().Identity
	// Both back up the same folder, so that only the host parts them.
	dir := t.TempDir()
	save := func(a *crypt.Credential, now func() time.Time) *repo.Snapshot {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(fmt.Sprint(right())), 0o600); err != nil {
			t.Fatal(err)
		}
		res, err := backup.Run(t.Context(), w.told(w.store, repo.Access{Credential: a}, now), backup.Options{Sources: []string{dir}, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return res.Snapshot
	}
	var good []*repo.Snapshot
	for range 8 {
		*storage = storage.Add(24 * time.Hour)
		good = append(good, save(w.cred, right), save(&c, right))
	}
	p := retain.Policy{Daily: 5, Within: retain.Period{Days: 3}}
	goes := func() []string { return ids(w.plan(p, right).Forget) }
	before := goes()
	*storage = storage.Add(time.Hour)
	future := make(map[string]bool)
	for i := range 20 {
		s := save(&c, func() time.Time { return right().Add(time.Duration(i+1) * year) })
		future[s.ID().String()] = true
	}
	after := goes()
	for _, s := range good {
		id := s.ID().String()
		if slices.Contains(after, id) && !slices.Contains(before, id) && s.Host == w.cred.Identity.Host {
			t.Errorf("snapshot %d of another host was pushed out", s.Number)
		}
		// Of its own the day of the attack is a day, as any other: one day at the other end goes for it.
		if slices.Contains(after, id) && !slices.Contains(before, id) && s.Stored.After(right().Add(-4*24*time.Hour)) {
			t.Errorf("snapshot %d of its own was pushed out", s.Number)
		}
	}
	flagged := 0
	for _, g := range w.plan(p, right).Groups {
		for _, d := range g.Decisions {
			if off := d.ClockOff() > 0; off {
				flagged++
				if !future[d.ID.String()] {
					t.Errorf("snapshot %d is said to be of the future", d.Number)
				}
			}
		}
	}
	if flagged != len(future) {
		t.Errorf("%d of %d are flagged", flagged, len(future))
	}
}

// TestParentGone: the snapshot that a host compares with was forgotten and pruned since. The next backup stores everything again that is gone.
func TestParentGone(t *testing.T) {
	w := newWorld(t)
	dir, cache := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(random(1, 300_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "file"), old, old); err != nil {
		t.Fatal(err)
	}
	save := func() *backup.Result {
		t.Helper()
		res, err := backup.Run(t.Context(), w.host(), backup.Options{Sources: []string{dir}, CacheDir: cache})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	one := save()
	w.forget(one.Snapshot)
	w.prune(gc.PruneOptions{})
	w.clean(0)
	if res := save(); res.Stored.BytesNew < 300_000 {
		t.Errorf("%d bytes were stored", res.Stored.BytesNew)
	}
	w.whole()
	// Forgotten and pruned between the backup's look at its parent and its commit: TestSimulation and tests/TestFleet.
	if n := len(w.snapshots()); n != 1 {
		t.Errorf("%d snapshots", n)
	}
}
