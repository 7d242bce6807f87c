package gc_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/check"
	"packhold/repo/format"
	"packhold/repo/gc"
	"packhold/repo/replicate"
	"packhold/repo/repotest"
	"packhold/repo/retain"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// world is a repository with who uses it.
type world struct {
	t     *testing.T
	store *mem.Store
	cred  *crypt.Credential
	boss  *repo.Repo // whoever has the passphrase, on host-a
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: mem.New(time.Now)}
	c, err := repotest.Copy(t.Context(), w.store, repotest.Options{Parity: 2, PackSize: format.MinPackSize})
	if err != nil {
		t.Fatal(err)
	}
	w.cred = c
	w.boss = w.open(w.store, repo.Access{Credential: c, Passphrase: []byte(repotest.Passphrase)})
	return w
}

func (w *world) open(s backends.Storage, a repo.Access) *repo.Repo {
	w.t.Helper()
	r, err := repo.Open(w.t.Context(), s, a, repo.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// again opens the repository as r has it, so that it sees what came since.
func (w *world) again(r *repo.Repo) *repo.Repo {
	a := repo.Access{}
	if k := r.Keys(); k.Identity != nil && r != w.boss {
		c := *w.cred
		c.Identity = k.Identity
		a.Credential = &c
		return w.open(w.store, a)
	}
	return w.open(w.store, repo.Access{Credential: w.cred, Passphrase: []byte(repotest.Passphrase)})
}

// host is host-a without a passphrase.
func (w *world) host() *repo.Repo { return w.open(w.store, repo.Access{Credential: w.cred}) }

// rooted stores what the root signs.
func (w *world) rooted(t crypt.Type, name string, body []byte) {
	w.t.Helper()
	k := w.boss.Keys()
	signed := k.Admin.Sign(t, format.Subject(t, name), body)
	epoch := w.boss.Settings().WriteEpoch
	full, object, err := format.Sealer{Repo: k.Repo, Epoch: epoch, Write: k.Writes[epoch]}.Seal(t, name, signed)
	if err == nil {
		err = stored.Put(w.t.Context(), w.store, full, object, backends.PutOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// role makes a host with these roles.
func (w *world) role(name string, roles crypt.Role) *repo.Repo {
	w.t.Helper()
	k := *w.cred
	k.Identity = w.certify(name, roles)
	return w.open(w.store, repo.Access{Credential: &k})
}

// certify makes a host.
func (w *world) certify(name string, roles crypt.Role) *crypt.Identity {
	w.t.Helper()
	id, err := crypt.NewIdentity()
	if err != nil {
		w.t.Fatal(err)
	}
	c := id.Certificate(name, roles, 1, time.Unix(1e9, 0))
	w.rooted(crypt.TypeHost, fmt.Sprintf("hosts/%v/%d-", c.Host, c.Serial), c.Bytes())
	return id
}

// settings stores a new generation.
func (w *world) settings(change func(*format.Settings)) {
	w.t.Helper()
	next := *w.boss.Settings()
	b, err := stored.Fetch(w.t.Context(), w.store, format.SettingsName(next.Generation))
	if err != nil {
		w.t.Fatal(err)
	}
	sum := crypt.Sum(b)
	next.Generation, next.Previous = next.Generation+1, sum[:]
	change(&next)
	w.rooted(crypt.TypeSettings, format.SettingsName(next.Generation), canon.Marshal(next))
	w.boss = w.again(w.boss)
}

// signed stores a control object of r's host.
func (w *world) signed(r *repo.Repo, t crypt.Type, name string, body any) string {
	w.t.Helper()
	full, object, err := r.SealControl(t, name, canon.Marshal(body))
	if err == nil {
		err = stored.Put(w.t.Context(), w.store, full, object, backends.PutOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return full
}

// backup stores a snapshot of files, whose contents are their values.
func (w *world) backup(r *repo.Repo, files map[string]string, o backup.Options) *repo.Snapshot {
	w.t.Helper()
	dir := w.t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	o.Sources = []string{dir}
	res, err := backup.Run(w.t.Context(), r, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Snapshot
}

// snapshots lists the repository anew.
func (w *world) snapshots() []*repo.Snapshot {
	w.t.Helper()
	all, err := w.host().Snapshots(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func ids(list []*repo.Snapshot) (out []string) {
	for _, s := range list {
		out = append(out, s.ID().String())
	}
	slices.Sort(out)
	return out
}

// whole opens and hashes every blob.
func (w *world) whole() {
	w.t.Helper()
	rep, err := check.Run(w.t.Context(), w.again(w.boss), check.Options{ReadData: true})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range rep.Problems {
		w.t.Errorf("the repository is not whole: %v", p)
	}
}

// packs are all stored packs.
func (w *world) packs() (refs []format.PackRef) {
	w.t.Helper()
	for _, prefix := range []string{"packs/", "meta/"} {
		for i, err := range w.store.List(w.t.Context(), prefix) {
			if err != nil {
				w.t.Fatal(err)
			}
			id, tree, inc, err := format.ParsePackName(i.Name)
			if err != nil {
				w.t.Fatal(err)
			}
			refs = append(refs, format.PackRef{Name: id, Tree: tree, Incarnation: inc})
		}
	}
	slices.SortFunc(refs, format.PackRef.Compare)
	return refs
}

// random is text that no other test blob equals and nothing compresses.
func random(seed, n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		sum := crypt.Sum([]byte(fmt.Sprint(seed, i)))
		b.Write(sum[:])
	}
	return b.String()[:n]
}

func some(seed int) map[string]string {
	return map[string]string{"a/big": random(seed, 300_000), "a/b/small": random(seed+1000, 3000), "inline": "x"}
}

func TestForgetAuthority(t *testing.T) {
	for _, c := range []struct {
		name   string
		who    func(w *world) *repo.Repo
		allow  bool
		others bool // a snapshot of another host is among them
		want   error
	}{
		{"administrator", func(w *world) *repo.Repo { return w.boss }, false, true, nil},
		{"administrator on no host", func(w *world) *repo.Repo {
			return w.open(w.store, repo.Access{Passphrase: []byte(repotest.Passphrase)})
		}, false, true, nil},
		{"a host with the admin role", func(w *world) *repo.Repo { return w.role("boss", crypt.RoleAdmin) }, false, true, nil},
		{"the host", (*world).host, false, false, repo.ErrNeedAdmin},
		{"the host, where settings allow it", (*world).host, true, false, nil},
		{"the host, another's", (*world).host, true, true, gc.ErrNotOwn},
		{"an operator", func(w *world) *repo.Repo { return w.role("operator", crypt.RoleOperator|crypt.RolePrune) }, true, false, repo.ErrNeedAdmin},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if c.allow {
				w.settings(func(s *format.Settings) { s.HostForget = true })
			}
			one := w.backup(w.host(), some(1), backup.Options{})
			two := w.backup(w.role("host-b", crypt.RoleWriter), some(2), backup.Options{})
			list := []*repo.Snapshot{one}
			if c.others {
				list = append(list, two)
			}
			n, err := gc.Forget(t.Context(), w.again(c.who(w)), list, "no longer needed")
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || (err == nil) != (n == len(list)) {
				t.Fatalf("%d forgotten, %v, want %v", n, err, c.want)
			}
			left := 2
			if err == nil {
				left -= len(list)
			}
			if all := w.snapshots(); len(all) != left {
				t.Errorf("%d snapshots are left, want %d", len(all), left)
			}
			gone, err := gc.ReadForgotten(t.Context(), w.again(w.boss))
			if err != nil || len(gone) != 2-left {
				t.Fatalf("%d forgotten, %v", len(gone), err)
			}
			for _, f := range gone {
				if f.Reason != "no longer needed" || f.By == (crypt.HostID{}) || time.Since(f.When) > time.Hour || f.Number == 0 {
					t.Errorf("told of it: %+v", f)
				}
			}
			w.whole()
			// Nothing was taken away: the objects and packs are all there.
			if _, err := w.store.Stat(t.Context(), one.Name); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestForgetTwice: a second time forgets nothing more, and harms nothing.
func TestForgetTwice(t *testing.T) {
	w := newWorld(t)
	one := w.backup(w.host(), some(1), backup.Options{})
	for range 2 {
		if n, err := gc.Forget(t.Context(), w.boss, []*repo.Snapshot{one}, ""); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if gone, err := gc.ReadForgotten(t.Context(), w.boss); len(gone) != 1 || err != nil || len(w.snapshots()) != 0 {
		t.Errorf("%d forgotten, %v, %d listed", len(gone), err, len(w.snapshots()))
	}
}

// TestForgetStops forgets some, until the storage fails.
func TestForgetStops(t *testing.T) {
	w := newWorld(t)
	var list []*repo.Snapshot
	for i := range 3 {
		list = append(list, w.backup(w.host(), some(i), backup.Options{}))
	}
	st := fault.New(w.store, fault.Rule{Op: fault.Put, Prefix: "forgotten/", N: 2, Err: io.ErrClosedPipe})
	n, err := gc.Forget(t.Context(), w.open(st, repo.Access{Credential: w.cred, Passphrase: []byte(repotest.Passphrase)}), list, "")
	if n == len(list) || !errors.Is(err, repo.ErrStorage) {
		t.Fatalf("%d forgotten, %v", n, err)
	}
	if all := w.snapshots(); len(all) != len(list)-n {
		t.Errorf("%d forgotten, left: %v", n, ids(all))
	}
	// The same again does the rest.
	if n, err := gc.Forget(t.Context(), w.boss, list[:2], ""); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := gc.Forget(t.Context(), w.boss, list[2:], ""); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	list = []*repo.Snapshot{w.backup(w.host(), some(9), backup.Options{})}
	// What is listed is another record than it was.
	other := *list[0]
	other.Object[0]++
	if n, err := gc.Forget(t.Context(), w.boss, []*repo.Snapshot{&other}, ""); n != 0 || !errors.Is(err, repo.ErrTampered) {
		t.Errorf("%d forgotten, %v", n, err)
	}
}

// TestForgetCopied forgets and brings back what a replication brought, at the replica.
func TestForgetCopied(t *testing.T) {
	w := newWorld(t)
	replicator := w.role("replicator", crypt.RoleWriter|crypt.RolePrune)
	home := w.store.Clone()
	s := w.backup(w.open(home, repo.Access{Credential: w.cred}), some(1), backup.Options{Tags: []string{"home"}})
	access := repo.Access{Credential: w.cred}
	copied := *w.cred
	copied.Identity = replicator.Keys().Identity
	access.Credential = &copied
	_, err := replicate.Run(t.Context(), w.open(home, access), w.store, replicate.Options{
		Open:    func(context.Context) (*repo.Repo, error) { return w.open(w.store, access), nil },
		Journal: func(context.Context, *repo.Repo) (repo.Journal, error) { return nil, nil },
		Logs:    func(context.Context, *repo.Repo) ([]backends.Info, error) { return nil, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	all := w.snapshots()
	if len(all) != 1 || all[0].ID() != s.ID() || !all[0].Copied() {
		t.Fatalf("the replica has %v", ids(all))
	}
	if n, err := gc.Forget(t.Context(), w.again(w.boss), all, ""); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if all := w.snapshots(); len(all) != 0 {
		t.Errorf("left: %v", ids(all))
	}
	gone, err := gc.ReadForgotten(t.Context(), w.again(w.boss))
	if err != nil || len(gone) != 1 {
		t.Fatal(gone, err)
	}
	back, err := gc.Undelete(t.Context(), w.again(w.boss), gone[0], nil)
	if err != nil || back.Body.Tags[0] != "home" || back.Origin.Session != s.Session {
		t.Fatalf("%+v, %v", back, err)
	}
	w.whole()
}

func TestHolds(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s := w.backup(w.host(), some(1), backup.Options{})
	operator := w.role("operator", crypt.RoleOperator)
	other := w.role("host-b", crypt.RoleWriter)
	w.boss = w.again(w.boss)
	held := func(want int) []gc.Mark {
		t.Helper()
		m, err := gc.ReadMarks(ctx, w.boss)
		if err != nil {
			t.Fatal(err)
		}
		list := m.Held(w.boss, s)
		if len(list) != want {
			t.Fatalf("%d holds, want %d", len(list), want)
		}
		_, err = gc.Forget(ctx, w.boss, []*repo.Snapshot{s}, "")
		if (err != nil) != (want > 0) || err != nil && !errors.Is(err, gc.ErrHeld) {
			t.Fatalf("with %d holds: %v", want, err)
		}
		return list
	}
	if err := gc.AddHold(ctx, w.host(), s, time.Time{}, ""); !errors.Is(err, repo.ErrNeedAdmin) {
		t.Fatalf("a hold by a writer: %v", err)
	}
	if err := gc.AddHold(ctx, w.boss, s, time.Time{}, "lawsuit 7"); err != nil {
		t.Fatal(err)
	}
	list := held(1)
	if reason, err := gc.Reason(w.boss, &list[0]); reason != "lawsuit 7" || err != nil {
		t.Errorf("reason %q, %v", reason, err)
	}
	if _, err := gc.Reason(w.host(), &list[0]); !errors.Is(err, repo.ErrNeedRead) {
		t.Errorf("a host reads the reason: %v", err)
	}
	if err := gc.AddHold(ctx, operator, s, time.Now().Add(time.Hour), ""); err != nil {
		t.Fatal(err)
	}
	held(2)
	if n, err := gc.RemoveHolds(ctx, operator, s); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := gc.RemoveHolds(ctx, operator, s); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	// In the same second as what took back the last one.
	if err := gc.AddHold(ctx, operator, s, time.Time{}, ""); err != nil {
		t.Fatal(err)
	}
	held(1)
	if n, err := gc.RemoveHolds(ctx, w.boss, s); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	// A host pins its own snapshots only; a pin that names a host is a witness.
	pin := format.Mark{Kind: format.MarkPin, Session: s.ID(), Time: time.Now().Unix()}
	w.signed(other, crypt.TypeMark, "marks/", pin)
	witness := pin
	witness.Host = s.Host
	w.signed(w.host(), crypt.TypeMark, "marks/", witness)
	m, err := gc.ReadMarks(ctx, w.boss)
	if err != nil || len(m.Held(w.boss, s)) != 0 {
		t.Fatalf("pinned by another host: %v, %v", m.Held(w.boss, s), err)
	}
	w.signed(w.host(), crypt.TypeMark, "marks/", pin)
	held(1)
	pin.Remove, pin.Time = true, pin.Time+1
	w.signed(w.host(), crypt.TypeMark, "marks/", pin)
	// A hold that a writer made all the same does not count, and is told.
	name := w.signed(w.host(), crypt.TypeMark, "marks/", format.Mark{Kind: format.MarkHold, Session: s.ID(), Time: time.Now().Unix()})
	if m, err = gc.ReadMarks(ctx, w.boss); err != nil || len(m.Problems) != 1 || m.Problems[0].Object != name || !errors.Is(m.Problems[0].Err, repo.ErrTampered) {
		t.Errorf("problems %v, %v", m.Problems, err)
	}
	held(0)
	if err := gc.AddHold(ctx, w.boss, s, time.Time{}, ""); !errors.Is(err, gc.ErrForgotten) {
		t.Errorf("a hold on what is forgotten: %v", err)
	}
}

// TestUnreadMark: what cannot be read may be a hold.
func TestUnreadMark(t *testing.T) {
	w := newWorld(t)
	s := w.backup(w.host(), some(1), backup.Options{})
	junk := []byte("PACKHOLD junk")
	if err := w.store.Put(t.Context(), "marks/"+crypt.Sum(junk).String(), junk, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if n, err := gc.Forget(t.Context(), w.boss, []*repo.Snapshot{s}, ""); n != 0 || !errors.Is(err, gc.ErrUnsure) || !errors.Is(err, repo.ErrDamaged) {
		t.Errorf("%d forgotten, %v", n, err)
	}
	if len(w.snapshots()) != 1 {
		t.Error("it was forgotten")
	}
}

// TestHoldEnds: a hold ends by the storage's clock, not by one that was set forward.
func TestHoldEnds(t *testing.T) {
	now := time.Now()
	w := newWorld(t)
	s := w.backup(w.host(), some(1), backup.Options{})
	if err := gc.AddHold(t.Context(), w.boss, s, now.Add(24*time.Hour), ""); err != nil {
		t.Fatal(err)
	}
	access := repo.Access{Credential: w.cred, Passphrase: []byte(repotest.Passphrase)}
	at := func(local time.Time) *repo.Repo {
		r, err := repo.Open(t.Context(), w.store, access, repo.Options{Now: func() time.Time { return local }})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	held := func(r *repo.Repo) int {
		m, err := gc.ReadMarks(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return len(m.Held(r, s))
	}
	if n := held(at(now.AddDate(1, 0, 0))); n != 1 {
		t.Errorf("by a clock that was set forward %d holds", n)
	}
	// The storage's clock goes on, and something is stored.
	late := mem.New(func() time.Time { return now.AddDate(0, 0, 2) })
	for i, err := range w.store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := w.store.Get(t.Context(), i.Name, 0, -1)
		if err == nil {
			err = late.Put(t.Context(), i.Name, b, backends.PutOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.store = late
	if n := held(at(now)); n != 1 {
		t.Errorf("by a clock that is late %d holds", n)
	}
	if n := held(at(now.AddDate(0, 0, 2))); n != 0 {
		t.Errorf("a day after its end %d holds", n)
	}
}

// TestHoldAtOnce: a hold comes between the look at holds and the forgetting. One of the two notices.
func TestHoldAtOnce(t *testing.T) {
	w := newWorld(t)
	s := w.backup(w.host(), some(1), backup.Options{})
	boss := w.again(w.boss)
	st := fault.New(w.store)
	var holding error
	st.SetHook(func(op fault.Op, name string) error {
		if op == fault.Put && strings.HasPrefix(name, "forgotten/") {
			holding = gc.AddHold(context.WithoutCancel(t.Context()), boss, s, time.Time{}, "just now")
		}
		return nil
	})
	n, err := gc.Forget(t.Context(), w.open(st, repo.Access{Credential: w.cred, Passphrase: []byte(repotest.Passphrase)}), []*repo.Snapshot{s}, "")
	if holding != nil || n != 1 || !errors.Is(err, gc.ErrHeld) || !strings.Contains(err.Error(), "just now") {
		t.Errorf("hold %v; %d forgotten, %v", holding, n, err)
	}
}

func TestUndelete(t *testing.T) {
	set := [16]byte{1}
	base := fmt.Sprintf("condemned/%x", set)
	for _, c := range []struct {
		name   string
		prune  func(w *world, pruner *repo.Repo)
		stores bool // what is condemned is stored again
		want   error
	}{
		{"no prune came", func(*world, *repo.Repo) {}, false, nil},
		{"condemned", func(w *world, p *repo.Repo) {
			w.signed(p, crypt.TypeCondemned, base, format.Condemned{ID: set, Packs: w.packs()})
		}, true, nil},
		{"trees condemned", func(w *world, p *repo.Repo) {
			refs := slices.DeleteFunc(w.packs(), func(r format.PackRef) bool { return !r.Tree })
			w.signed(p, crypt.TypeCondemned, base, format.Condemned{ID: set, Packs: refs})
		}, true, nil},
		{"final", func(w *world, p *repo.Repo) {
			w.signed(p, crypt.TypeCondemned, base, format.Condemned{ID: set, Packs: w.packs()})
			w.signed(p, crypt.TypeCondemnedFinal, base+".final", format.CondemnedFinal{ID: set, Packs: w.packs()})
		}, false, gc.ErrSwept},
		{"data final", func(w *world, p *repo.Repo) {
			refs := slices.DeleteFunc(w.packs(), func(r format.PackRef) bool { return r.Tree })
			w.signed(p, crypt.TypeCondemned, base, format.Condemned{ID: set, Packs: refs})
			w.signed(p, crypt.TypeCondemnedFinal, base+".final", format.CondemnedFinal{ID: set, Packs: refs})
		}, false, gc.ErrSwept},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			pruner := w.role("pruner", crypt.RoleWriter|crypt.RolePrune)
			w.boss = w.again(w.boss)
			large := some(1)
			large["many"] = strings.Repeat(random(3, 1<<20), 3)
			s := w.backup(w.host(), large, backup.Options{Tags: []string{"gold"}, Job: "nightly", Type: snapshot.Full})
			if _, err := gc.Forget(t.Context(), w.boss, []*repo.Snapshot{s}, "a mistake"); err != nil {
				t.Fatal(err)
			}
			before := w.packs()
			c.prune(w, pruner)
			gone, err := gc.ReadForgotten(t.Context(), w.boss)
			if err != nil || len(gone) != 1 {
				t.Fatal(gone, err)
			}
			back, err := gc.Undelete(t.Context(), w.again(w.boss), gone[0], nil)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if err != nil {
				if all := w.snapshots(); len(all) != 0 {
					t.Errorf("%d snapshots without their data", len(all))
				}
				return
			}
			if stores := len(w.packs()) > len(before); stores != c.stores {
				t.Errorf("stored again: %v, want %v", stores, c.stores)
			}
			all := w.snapshots()
			if len(all) != 1 || all[0].ID() != back.ID() || back.ID() == s.ID() || back.Root != s.Root || back.Number != s.Number+1 || back.Start != s.Start ||
				back.Stats.Files != s.Stats.Files || back.Type != s.Type || back.Origin == nil || back.Origin.Session != s.Session {
				t.Errorf("brought back %+v as %+v", s.Record, back.Record)
			}
			body, err := w.again(w.boss).OpenBody(all[0])
			if err != nil || body.Job != "nightly" || !slices.Equal(body.Tags, []string{"gold"}) {
				t.Errorf("body %+v, %v", body, err)
			}
			if c.stores { // the prune goes on
				w.signed(pruner, crypt.TypeCondemnedFinal, base+".final", format.CondemnedFinal{ID: set, Packs: before})
				for _, p := range before {
					if c.name == "condemned" || p.Tree {
						if err := w.store.Delete(t.Context(), format.PackName(p.Name, p.Tree, p.Incarnation)); err != nil {
							t.Fatal(err)
						}
					}
				}
				if c.name == "trees condemned" {
					return // that final is not the set's
				}
			}
			w.whole()
			// The next backup does not compare with what is older than it looks.
			r := w.host()
			list, err := r.Snapshots(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if p := r.Parent(list, s.Lineage, false); p != nil {
				t.Errorf("the parent is %v", p.ID())
			}
		})
	}
	t.Run("without the passphrase", func(t *testing.T) {
		w := newWorld(t)
		s := w.backup(w.host(), some(1), backup.Options{})
		if _, err := gc.Undelete(t.Context(), w.host(), &gc.Forgotten{Snapshot: s}, nil); !errors.Is(err, repo.ErrNeedRead) {
			t.Error(err)
		}
	})
	t.Run("on a machine that is no host", func(t *testing.T) {
		w := newWorld(t)
		s := w.backup(w.host(), some(1), backup.Options{})
		r := w.open(w.store, repo.Access{Passphrase: []byte(repotest.Passphrase)})
		if back, err := gc.Undelete(t.Context(), r, &gc.Forgotten{Snapshot: s}, nil); err != nil || back.Host == s.Host {
			t.Errorf("%+v, %v", back, err) // whoever has the passphrase may write, in its own name
		}
		w.whole()
	})
}

// TestUndeleteFenced: the session is judged dead before it commits, and all is done again.
func TestUndeleteFenced(t *testing.T) {
	for fences, want := range map[int]error{1: nil, 2: nil, 3: repo.ErrFenced} {
		w := newWorld(t)
		pruner := w.role("pruner", crypt.RoleWriter|crypt.RolePrune)
		s := w.backup(w.host(), some(1), backup.Options{})
		if _, err := gc.Forget(t.Context(), w.boss, []*repo.Snapshot{s}, ""); err != nil {
			t.Fatal(err)
		}
		st := fault.New(w.store)
		left, fenced := fences, make(map[string]bool)
		st.SetHook(func(op fault.Op, name string) error {
			if id, ok := strings.CutPrefix(name, "snapshots/"); ok && op == fault.Put && left > 0 && !fenced[name] {
				left--
				fenced[name] = true
				session, err := hex.DecodeString(id)
				if err != nil {
					return err
				}
				void := snapshot.Record{Session: [16]byte(session), Host: s.Host, Kind: snapshot.Void}
				body, err := void.Marshal()
				if err != nil {
					return err
				}
				_, object, err := pruner.SealControl(crypt.TypeSnapshot, name, body)
				if err != nil {
					return err
				}
				return stored.Create(context.WithoutCancel(t.Context()), w.store, name, object)
			}
			return nil
		})
		r := w.open(st, repo.Access{Credential: w.cred, Passphrase: []byte(repotest.Passphrase)})
		_, err := gc.Undelete(t.Context(), r, &gc.Forgotten{Snapshot: s}, nil)
		if !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("fenced %d times: %v, want %v", fences, err, want)
		}
		if n := len(w.snapshots()); (n == 1) != (want == nil) {
			t.Errorf("fenced %d times: %d snapshots", fences, n)
		}
		w.whole()
	}
}

func TestPlan(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	var made []*repo.Snapshot
	for i := range 4 {
		made = append(made, w.backup(w.host(), some(i), backup.Options{Tags: []string{fmt.Sprint("t", i)}, Session: repo.SessionOptions{Retention: "30d"}}))
	}
	if err := gc.AddHold(ctx, w.boss, made[0], time.Time{}, "lawsuit"); err != nil {
		t.Fatal(err)
	}
	w.signed(w.boss, crypt.TypeMark, "marks/", format.Mark{Kind: format.MarkSuspect, Session: made[3].ID(), Time: time.Now().Unix()})
	plan := func(p retain.Policy, open bool) (*gc.Plan, error) {
		t.Helper()
		r := w.again(w.boss)
		all, err := r.Snapshots(ctx)
		if err != nil {
			t.Fatal(err)
		}
		m, err := gc.ReadMarks(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		return gc.NewPlan(r, all, func(s *repo.Snapshot) *snapshot.Body {
			b, err := r.OpenBody(s)
			if err != nil {
				t.Fatal(err)
			}
			if !open {
				return nil
			}
			return b
		}, m, p)
	}
	p, err := plan(retain.Policy{Last: 1}, false)
	if err != nil {
		t.Fatal(err)
	}
	reasons := make(map[uint64]string)
	for _, d := range p.Groups[0].Decisions {
		reasons[d.Number] = strings.Join(d.Reasons, "; ")
	}
	if want := map[uint64]string{1: "hold: lawsuit", 2: "", 3: "last without suspect or undeleted ones", 4: "last"}; !maps.Equal(reasons, want) {
		t.Errorf("reasons %v, want %v", reasons, want)
	}
	if !slices.Equal(ids(p.Forget), ids(made[1:2])) {
		t.Errorf("would forget %v", ids(p.Forget))
	}
	if _, err := plan(retain.Policy{Last: 1, ByTags: true}, false); !errors.Is(err, retain.ErrClosed) {
		t.Errorf("with closed tags: %v", err)
	}
	if p, err = plan(retain.Policy{Tags: [][]string{{"t1"}}}, true); err != nil || len(p.Forget) != 2 {
		t.Errorf("by tags: %v, %v", p, err)
	}
	if p, err = plan(retain.Policy{Class: true}, true); err != nil || len(p.Forget) != 0 {
		t.Errorf("by class: %v, %v", p, err)
	}
	// What the plan says is what happens, and a second plan finds nothing to do.
	p, err = plan(retain.Policy{Last: 1}, true)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := gc.Forget(ctx, w.boss, p.Forget, "policy"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if p, err = plan(retain.Policy{Last: 1}, true); err != nil || len(p.Forget) != 0 {
		t.Errorf("the second time: %v, %v", p, err)
	}
	// One that is brought back does not push out the newest.
	gone, err := gc.ReadForgotten(ctx, w.boss)
	if err != nil {
		t.Fatal(err)
	}
	back, err := gc.Undelete(ctx, w.again(w.boss), gone[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = plan(retain.Policy{Last: 1}, true); err != nil || slices.Contains(ids(p.Forget), made[2].ID().String()) || slices.Contains(ids(p.Forget), back.ID().String()) {
		t.Errorf("after undelete %v, %v", p, err)
	}
}

// TestWriteOnce: where objects stay write-once, so does what is forgotten and held.
func TestWriteOnce(t *testing.T) {
	w := newWorld(t)
	w.settings(func(s *format.Settings) { s.Lock, s.LockMode = 3600, "governance" })
	s := w.backup(w.again(w.host()), some(1), backup.Options{})
	if err := gc.AddHold(t.Context(), w.boss, s, time.Time{}, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := gc.RemoveHolds(t.Context(), w.boss, s); err != nil {
		t.Fatal(err)
	}
	if _, err := gc.Forget(t.Context(), w.boss, []*repo.Snapshot{s}, ""); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, prefix := range []string{"marks/", "forgotten/"} {
		for i, err := range w.store.List(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			if err := w.store.Delete(t.Context(), i.Name); !errors.Is(err, os.ErrPermission) {
				t.Errorf("%s is not write-once: %v", i.Name, err)
			}
			n++
		}
	}
	if n != 3 {
		t.Errorf("%d objects", n)
	}
}

// TestFaults lets every single call of the storage fail, before it has its effect or after. What is listed then is whole, nothing is half done that
// the same command does not finish, and nothing is told as done that is not.
func TestFaults(t *testing.T) {
	base := newWorld(t)
	one := base.backup(base.host(), some(1), backup.Options{})
	two := base.backup(base.host(), some(2), backup.Options{})
	if _, err := gc.Forget(t.Context(), base.boss, []*repo.Snapshot{two}, ""); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(ctx context.Context, r *repo.Repo) error{
		"forget": func(ctx context.Context, r *repo.Repo) error {
			_, err := gc.Forget(ctx, r, []*repo.Snapshot{one}, "")
			return err
		},
		"hold": func(ctx context.Context, r *repo.Repo) error { return gc.AddHold(ctx, r, one, time.Time{}, "why") },
		"undelete": func(ctx context.Context, r *repo.Repo) error {
			gone, err := gc.ReadForgotten(ctx, r)
			if err == nil && len(gone) == 1 {
				_, err = gc.Undelete(ctx, r, gone[0], nil)
			}
			return err
		},
	} {
		for _, effect := range []fault.Effect{fault.Before, fault.After} {
			if testing.Short() && effect == fault.After {
				continue
			}
			failed, step := 0, 1
			if testing.Short() {
				step = 4
			}
			for n := 1; ; n += step {
				ctx := t.Context()
				st := fault.New(base.store.Clone())
				r := base.open(st, repo.Access{Credential: base.cred, Passphrase: []byte(repotest.Passphrase)})
				st.Add(fault.Rule{Op: fault.Any, N: n, Effect: effect, Err: io.ErrClosedPipe})
				before := st.Calls(fault.Any)
				err := do(ctx, r)
				if err != nil {
					failed++
				}
				calls := st.Calls(fault.Any) - before
				st.Clear()
				all, lerr := r.Snapshots(ctx)
				if lerr == nil {
					lerr = r.LoadIndex(ctx)
				}
				if lerr != nil {
					t.Fatal(lerr)
				}
				ids := make(map[crypt.ID]bool)
				for _, s := range all {
					if err := blobsOf(ctx, r, s.Root, ids); err != nil {
						t.Errorf("%s, call %d %v: snapshot %v: %v", name, n, effect, s.ID(), err)
					}
				}
				m, merr := gc.ReadMarks(ctx, r)
				if merr != nil {
					t.Fatal(merr)
				}
				want := map[string]bool{"forget": len(all) == 0, "hold": len(m.Held(r, one)) > 0, "undelete": len(all) == 2}[name]
				if err == nil && !want {
					t.Errorf("%s, call %d %v: told as done, and is not", name, n, effect)
				}
				if err := do(ctx, r); err != nil {
					t.Errorf("%s, call %d %v: the second time %v", name, n, effect, err)
				}
				if n > calls {
					break
				}
			}
			if failed < 5/step {
				t.Errorf("%s: only %d calls can fail", name, failed)
			}
		}
	}
}
