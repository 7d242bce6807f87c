package catalog_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"packhold/repo/catalog"
)

const repository = "00112233"

func open(t *testing.T, path string) *catalog.Catalog {
	t.Helper()
	c, err := catalog.Open(t.Context(), path, repository)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// update runs f in an update that is kept.
func update(t *testing.T, c *catalog.Catalog, f func(ctx context.Context, u *catalog.Update) error) catalog.Difference {
	t.Helper()
	u, err := c.Update(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = f(t.Context(), u)
	d, ended := u.End(err == nil)
	if err = errors.Join(err, ended); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestUpdate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a folder with ? and % and #", "catalog.db")
	c := open(t, path)
	if i, err := os.Stat(path); err != nil || i.Mode().Perm()&0o077 != 0 {
		t.Errorf("mode %v, %v", i.Mode(), err)
	}
	snap := catalog.Snapshot{ID: "a", Number: 1, HostName: "host", Root: "r", Start: time.Unix(1, 2), Bytes: 1 << 40}
	entries := []catalog.Entry{{Name: "\xffname", Kind: 1, Size: 3}, {Name: "\xffz", Kind: 2, Child: "d"}}
	fill := func(ctx context.Context, u *catalog.Update) error {
		return errors.Join(u.Snapshot(ctx, snap), u.Run(ctx, catalog.Run{Log: "l", Seq: 7, Op: "backup"}), u.Dir(ctx, "r", entries), u.Dir(ctx, "d", entries[:1]),
			u.Prune(ctx, "snapshots"), u.Prune(ctx, "runs"), u.Prune(ctx, "entries"))
	}
	if d := update(t, c, fill); d.Added != 5 || d.Removed != 0 || d.Wrongs != 0 {
		t.Errorf("first: %+v", d)
	}
	if d := update(t, c, fill); d.Added != 0 || d.Removed != 0 || d.Wrongs != 0 {
		t.Errorf("nothing changed: %+v", d)
	}
	snap.Bytes++
	entries[0].Size++
	if d := update(t, c, fill); d.Wrongs != 3 || d.Added != 0 {
		t.Errorf("a row and two directories changed: %+v", d)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Error(err)
	}
	snap.ID = "b"
	if d := update(t, c, fill); d.Added != 1 || d.Removed != 1 {
		t.Errorf("another snapshot: %+v", d)
	}
	if n, err := c.Count(t.Context()); err != nil || n != (catalog.Counts{Snapshots: 1, Runs: 1, Entries: 3}) {
		t.Errorf("rows: %+v, %v", n, err)
	}
	if _, err := catalog.Open(t.Context(), path, "other"); !errors.Is(err, catalog.ErrUnusable) {
		t.Errorf("of another repository: %v", err)
	}
}

func TestLedger(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "catalog.db"))
	early, late := time.Unix(100, 0), time.Unix(200, 0)
	update(t, c, func(ctx context.Context, u *catalog.Update) error {
		return errors.Join(u.Checked(ctx, catalog.Check{Name: "p", Size: 1, Scrubbed: late, Good: true}),
			u.Checked(ctx, catalog.Check{Name: "p", Size: 1, Opened: early, Good: false}), u.Checked(ctx, catalog.Check{Name: "q", Scrubbed: early, Good: true}))
	})
	all, err := c.Ledger(t.Context())
	if p := all["p"]; err != nil || !p.Scrubbed.Equal(late) || !p.Opened.Equal(early) || !p.Good || len(all) != 2 {
		t.Errorf("%+v, %v", all, err)
	}
	update(t, c, func(ctx context.Context, u *catalog.Update) error { u.Keep("q"); return u.Prune(ctx, "packs") })
	if all, err = c.Ledger(t.Context()); len(all) != 1 || err != nil {
		t.Errorf("%+v, %v", all, err)
	}
	for _, began := range []time.Time{early, late, {}} {
		if err := c.SetUnfinished(t.Context(), "scrub", began); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Unfinished(t.Context(), "scrub"); err != nil || !got.Equal(began) {
			t.Errorf("%v, %v, want %v", got, err, began)
		}
	}
}

// Backups of one machine that end at the same moment all reach the catalog.
func TestSeveralAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.db")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			c, err := catalog.Open(t.Context(), path, repository)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			u, err := c.Update(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			err = u.Snapshot(t.Context(), catalog.Snapshot{ID: string(rune('a' + i))})
			if _, ended := u.End(err == nil); err != nil || ended != nil {
				t.Error(err, ended)
			}
		})
	}
	all.Wait()
	if n, err := open(t, path).Count(t.Context()); err != nil || n.Snapshots != 8 {
		t.Errorf("%+v, %v", n, err)
	}
}
