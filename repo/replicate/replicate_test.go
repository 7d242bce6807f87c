package replicate

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo"
	"packhold/repo/admin"
	"packhold/repo/audit"
	"packhold/repo/backup"
	"packhold/repo/check"
	"packhold/repo/format"
	"packhold/repo/repotest"
	"packhold/repo/snapshot"
)

// home is a repository with a host that backs up and an identity that replicates.
type home struct {
	t          *testing.T
	store      *mem.Store
	host, copy *crypt.Credential
	dir        string
	state      string
}

var template = sync.OnceValues(func() (*home, error) {
	ctx := context.Background()
	h := &home{store: mem.New(time.Now)}
	var err error
	if h.host, err = repotest.Init(ctx, h.store, repotest.Options{Parity: 2, PackSize: format.MinPackSize}); err != nil {
		return nil, err
	}
	r, err := repo.Open(ctx, h.store, repo.Access{Passphrase: []byte(repotest.Passphrase)}, repo.Options{})
	if err != nil {
		return nil, err
	}
	h.copy, err = admin.EnrollHost(ctx, r, "vault", crypt.RolePrune)
	return h, err
})

func newHome(t *testing.T) *home {
	t.Helper()
	base, err := template()
	if err != nil {
		t.Fatal(err)
	}
	return &home{t, base.store.Clone(), base.host, base.copy, t.TempDir(), t.TempDir()}
}

func open(t *testing.T, s backends.Storage, a repo.Access) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), s, a, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func reader(t *testing.T, s backends.Storage) *repo.Repo {
	return open(t, s, repo.Access{Passphrase: []byte(repotest.Passphrase)})
}

// backup writes a file of random bytes and makes a snapshot, with its audit entry.
func (h *home) backup(st backends.Storage, size int) *repo.Snapshot {
	h.t.Helper()
	b := make([]byte, size)
	rand.Read(b)
	if err := os.WriteFile(filepath.Join(h.dir, fmt.Sprintf("%x", b[:8])), b, 0o600); err != nil {
		h.t.Fatal(err)
	}
	r := open(h.t, st, repo.Access{Credential: h.host})
	log, err := audit.Open(h.t.Context(), r, audit.Options{State: filepath.Join(h.state, "host")})
	if err != nil {
		h.t.Fatal(err)
	}
	res, err := backup.Run(h.t.Context(), r, backup.Options{Sources: []string{h.dir}, Journal: log})
	if err != nil {
		h.t.Fatal(err)
	}
	return res.Snapshot
}

func (h *home) options(to backends.Storage) Options {
	return Options{
		Open: func(ctx context.Context) (*repo.Repo, error) {
			return repo.Open(ctx, to, repo.Access{Credential: h.copy}, repo.Options{})
		},
		Journal: func(ctx context.Context, r *repo.Repo) (repo.Journal, error) {
			return audit.Open(ctx, r, audit.Options{})
		},
		Logs: audit.Files,
	}
}

func (h *home) run(from, to backends.Storage, change func(*Options)) (*Result, error) {
	o := h.options(to)
	if change != nil {
		change(&o)
	}
	return Run(h.t.Context(), open(h.t, from, repo.Access{Credential: h.copy}), to, o)
}

// copy is run without an error.
func (h *home) replicate(from, to backends.Storage) *Result {
	h.t.Helper()
	res, err := h.run(from, to, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if len(res.Problems) > 0 {
		h.t.Error(res.Problems)
	}
	return res
}

// whole verifies every byte, every log and every snapshot of a repository, and returns the sessions of its snapshots.
func whole(t *testing.T, s backends.Storage) []crypt.SessionID {
	t.Helper()
	r := reader(t, s)
	rep, err := check.Run(t.Context(), r, check.Options{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range rep.Problems {
		t.Error(p)
	}
	logs, err := audit.Verify(t.Context(), r, audit.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range logs.Problems {
		t.Error(p)
	}
	all, err := r.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	missing, err := r.Missing(t.Context(), all)
	if err != nil || len(missing) > 0 {
		t.Error(missing, err)
	}
	var ids []crypt.SessionID
	for _, s := range all {
		ids = append(ids, s.ID())
	}
	return ids
}

func names(t *testing.T, s backends.Storage, prefix string) (all []string) {
	t.Helper()
	for i, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, i.Name)
	}
	slices.Sort(all)
	return all
}

func get(t *testing.T, s backends.Storage, name string) []byte {
	t.Helper()
	b, err := s.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReplicate: into an empty place, again with nothing to do, and again after more backups; packs are the same files under the same names, and the
// replica opens with the passphrase of its home.
func TestReplicate(t *testing.T) {
	h, to := newHome(t), mem.New(time.Now)
	h.backup(h.store, 3<<20)
	h.backup(h.store, 1000)
	res := h.replicate(h.store, to)
	if len(res.Snapshots) != 2 || res.Packs < 3 || res.Missing != 0 || res.Behind != 0 || res.Newest == nil {
		t.Errorf("%+v", res)
	}
	if got, want := whole(t, to), whole(t, h.store); !slices.Equal(got, want) {
		t.Errorf("snapshots %v, at home %v", got, want)
	}
	for _, prefix := range []string{"packs/", "meta/"} {
		for _, name := range names(t, h.store, prefix) {
			if !bytes.Equal(get(t, h.store, name), get(t, to, name)) {
				t.Errorf("%s differs", name)
			}
		}
	}
	if n := names(t, to, "snapshots/"); len(n) != 1 {
		t.Errorf("%d commits", len(n))
	}

	before := names(t, to, "")
	if res := h.replicate(h.store, to); len(res.Snapshots)+res.Packs+res.Objects != 0 || res.Missing != 0 {
		t.Errorf("again: %+v", res)
	}
	if after := names(t, to, ""); !slices.Equal(before, after) {
		t.Error("a run with nothing to do stored something")
	}

	h.backup(h.store, 2000)
	if res := h.replicate(h.store, to); len(res.Snapshots) != 1 || res.Packs != 2 {
		t.Errorf("one more: %+v", res)
	}
	if got, want := whole(t, to), whole(t, h.store); !slices.Equal(got, want) {
		t.Errorf("snapshots %v, at home %v", got, want)
	}
}

// TestDryRun: a plan stores nothing, and says what the run then does.
func TestDryRun(t *testing.T) {
	h, to := newHome(t), mem.New(time.Now)
	for range 2 {
		h.backup(h.store, 2<<20)
		before := names(t, to, "")
		plan, err := h.run(h.store, to, func(o *Options) { o.DryRun = true })
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(before, names(t, to, "")) {
			t.Error("a dry run stored something")
		}
		res := h.replicate(h.store, to)
		if plan.Packs != res.Packs || plan.Bytes != res.Bytes || len(plan.Snapshots) != len(res.Snapshots) || plan.Missing != 1 || res.Missing != 0 {
			t.Errorf("planned %+v, did %+v", plan, res)
		}
	}
}

// TestChain: a replica is replicated, and what was lost at home comes back from it; a host can go on there.
func TestChain(t *testing.T) {
	h, a, b := newHome(t), mem.New(time.Now), mem.New(time.Now)
	h.backup(h.store, 1<<20)
	h.replicate(h.store, a)
	h.backup(h.store, 1000)
	h.replicate(h.store, a)
	res := h.replicate(a, b)
	if len(res.Snapshots) != 2 {
		t.Errorf("%+v", res)
	}
	want := whole(t, h.store)
	if got := whole(t, b); !slices.Equal(got, want) {
		t.Errorf("snapshots %v, at home %v", got, want)
	}
	snap := h.backup(b, 1000)
	if snap.Number != 3 || snap.Parent == ([16]byte{}) || snap.Stats.BytesNew > 10_000 {
		t.Errorf("a backup at the replica: number %d, parent %x, %d new bytes", snap.Number, snap.Parent, snap.Stats.BytesNew)
	}
	if res := h.replicate(b, h.store); len(res.Snapshots) != 1 {
		t.Errorf("back home: %+v", res)
	}
	if got := whole(t, h.store); len(got) != 3 {
		t.Errorf("%d snapshots", len(got))
	}
}

// TestInterrupted fails every call of a replication once, at either end, and then runs it again: nothing counts before all of it is there, and afterwards
// everything is.
func TestInterrupted(t *testing.T) {
	h := newHome(t)
	h.backup(h.store, 2<<20)
	first := mem.New(time.Now)
	h.replicate(h.store, first)
	h.backup(h.store, 2<<20)
	want := whole(t, h.store)
	for _, place := range []string{"empty", "replica"} {
		for _, effect := range []fault.Effect{fault.Before, fault.After} {
			step := 1
			if testing.Short() {
				step = 7
			}
			for n := 1; ; n += step {
				to := mem.New(time.Now)
				if place == "replica" {
					to = first.Clone()
				}
				f := fault.New(to, fault.Rule{N: n, Effect: effect})
				_, err := h.run(h.store, f, nil)
				if errors.Is(err, repo.ErrTampered) || errors.Is(err, repo.ErrDamaged) {
					t.Errorf("%s, call %d: %v", place, n, err)
				}
				hit := err != nil
				if _, none := to.Stat(t.Context(), "config"); none == nil {
					all, err := reader(t, to).Snapshots(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					for _, s := range all {
						if !slices.Contains(want, s.ID()) {
							t.Errorf("%s, call %d: a snapshot that is none", place, n)
						}
					}
					if n%10 == 1 && len(all) > 0 {
						whole(t, to)
					}
				}
				res, err := h.run(h.store, to, nil)
				if err != nil {
					t.Fatalf("%s, after call %d failed: %v", place, n, err)
				}
				if got := whole(t, to); !slices.Equal(got, want) {
					t.Fatalf("%s, after call %d failed: %v %+v", place, n, got, res)
				}
				calls := f.Calls(fault.Any)
				if !hit && n > calls {
					break
				}
			}
		}
	}
}

// TestDamagedSource: a pack that its parity can mend is mended on the way; one beyond it, or missing, keeps all snapshots from the replica, and
// does not once a reader found it lost.
func TestDamagedSource(t *testing.T) {
	h := newHome(t)
	h.backup(h.store, 2<<20)
	name := names(t, h.store, "packs/")[0]
	good := get(t, h.store, name)
	damage := func(change func(b []byte)) {
		b := slices.Clone(good)
		change(b)
		if err := h.store.Put(t.Context(), name, b, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	damage(func(b []byte) { b[100] ^= 1 })
	to := mem.New(time.Now)
	if res := h.replicate(h.store, to); len(res.Mended) != 1 || res.Mended[0] != name {
		t.Errorf("%+v", res)
	}
	if !bytes.Equal(get(t, to, name), good) {
		t.Error("the pack at the replica is not the one that was stored")
	}
	whole(t, to)

	for _, kind := range []string{"beyond", "missing"} {
		if kind == "beyond" {
			damage(func(b []byte) { clear(b[:len(b)/2]) })
		} else if err := h.store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		to = mem.New(time.Now)
		res, err := h.run(h.store, to, nil)
		if !errors.Is(err, ErrLost) || !errors.Is(err, repo.ErrDamaged) || len(res.Lost) != 1 || res.Lost[0] != name {
			t.Fatalf("%s: %v %+v", kind, err, res)
		}
		if got := whole(t, to); len(got) != 0 {
			t.Errorf("%s: %d snapshots", kind, len(got))
		}
	}

	r := reader(t, h.store)
	id, _, _, err := format.ParsePackName(name)
	if err != nil {
		t.Fatal(err)
	}
	v := format.Verified{Host: r.Keys().Reader.Host, Time: 1, Lost: []format.PackRef{{Name: id}}}
	full, object, err := r.SealAs(r.Keys().Reader, crypt.TypeVerified, "verified/", canon.Marshal(v))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.store.Put(t.Context(), full, object, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	res, err := h.run(h.store, to, nil)
	if err != nil || len(res.Snapshots) != 1 || res.KnownLost != 1 {
		t.Errorf("%v %+v", err, res)
	}
	// It is back, as where a disk was not mounted when somebody looked: what was found then is no reason to leave it out of a copy.
	damage(func([]byte) {})
	to = mem.New(time.Now)
	if res, err = h.run(h.store, to, nil); err != nil || res.KnownLost != 0 {
		t.Errorf("%v %+v", err, res)
	}
	if !bytes.Equal(get(t, to, name), good) {
		t.Error("the replica lacks the pack")
	}
	if got := whole(t, to); len(got) != 1 {
		t.Errorf("%d snapshots", len(got))
	}
}

// TestForeign: another repository, a part of one, and settings that went another way are refused, and nothing is stored.
func TestForeign(t *testing.T) {
	h := newHome(t)
	h.backup(h.store, 1000)
	other := mem.New(time.Now)
	if _, err := repotest.Init(t.Context(), other, repotest.Options{PackSize: format.MinPackSize}); err != nil {
		t.Fatal(err)
	}
	part := mem.New(time.Now)
	pack := names(t, h.store, "packs/")[0]
	if err := part.Put(t.Context(), pack, []byte("x"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	forked := mem.New(time.Now)
	h.replicate(h.store, forked)
	if err := forked.Put(t.Context(), "settings/1", get(t, other, "settings/1"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		to   *mem.Store
		want error
	}{{"another", other, repo.ErrExists}, {"part", part, repo.ErrNoConfig}, {"forked", forked, repo.ErrTampered}} {
		before := names(t, c.to, "")
		if _, err := h.run(h.store, c.to, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if !slices.Equal(before, names(t, c.to, "")) {
			t.Errorf("%s: something was stored", c.name)
		}
	}
	// A host without the prune role may not speak for the packs of others.
	o := h.options(mem.New(time.Now))
	to := mem.New(time.Now)
	o.Open = func(ctx context.Context) (*repo.Repo, error) {
		return repo.Open(ctx, to, repo.Access{Credential: h.host}, repo.Options{})
	}
	if _, err := Run(t.Context(), open(t, h.store, repo.Access{Credential: h.host}), to, o); !errors.Is(err, ErrRole) {
		t.Error(err)
	}
}

// condemn stores a condemned set over a pack, and with final its final, as a prune at the storage does.
func condemn(t *testing.T, s backends.Storage, c *crypt.Credential, final bool, packs ...string) {
	t.Helper()
	r := open(t, s, repo.Access{Credential: c})
	var refs []format.PackRef
	for _, name := range packs {
		id, tree, inc, err := format.ParsePackName(name)
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, format.PackRef{Name: id, Tree: tree, Incarnation: inc})
	}
	slices.SortFunc(refs, func(a, b format.PackRef) int { return bytes.Compare(a.Name[:], b.Name[:]) })
	var id [16]byte
	rand.Read(id[:])
	name := fmt.Sprintf("condemned/%x", id)
	put := func(typ crypt.Type, name string, body any) {
		t.Helper()
		_, object, err := r.SealControl(typ, name, canon.Marshal(body))
		if err == nil {
			err = s.Put(t.Context(), name, object, backends.PutOptions{IfAbsent: true})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(crypt.TypeCondemned, name, format.Condemned{ID: id, Session: crypt.SessionID{1}, Time: 1, Packs: refs})
	if final {
		put(crypt.TypeCondemnedFinal, name+".final", format.CondemnedFinal{ID: id, Time: 2, Packs: refs})
	}
}

// TestCondemnedThere: at the destination a condemned pack is not leant on, and a finalled one comes back under another incarnation.
func TestCondemnedThere(t *testing.T) {
	for _, final := range []bool{false, true} {
		h, to := newHome(t), mem.New(time.Now)
		h.backup(h.store, 2<<20)
		h.replicate(h.store, to)
		packs := slices.Concat(names(t, to, "packs/"), names(t, to, "meta/"))
		condemn(t, to, h.copy, final, packs...)
		if final {
			for _, name := range packs {
				if err := to.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
		snap := h.backup(h.store, 1000)
		res := h.replicate(h.store, to)
		if res.Packs != len(packs)+2 {
			t.Errorf("final %v: %+v", final, res)
		}
		for _, name := range packs {
			if !bytes.Equal(get(t, to, name+".1"), get(t, h.store, name)) {
				t.Errorf("final %v: %s.1 differs", final, name)
			}
		}
		if got := whole(t, to); !slices.Contains(got, snap.ID()) {
			t.Errorf("final %v: the snapshot is missing", final)
		}
		if res := h.replicate(h.store, to); res.Packs != 0 {
			t.Errorf("final %v: again %+v", final, res)
		}
	}
}

// TestSweptSource: a prune at the source moves what is to be copied into another pack and removes it, before the copying comes to it; and one that
// sweeps what was forgotten after the snapshots were listed. No snapshot is ever added without its blobs.
func TestSweptSource(t *testing.T) {
	h, to := newHome(t), mem.New(time.Now)
	h.backup(h.store, 2<<20)
	// The prune: the same blobs in packs of its own, then the old ones go.
	moved := mem.New(time.Now)
	copied := h.replicate(h.store, moved)
	if copied.Packs == 0 {
		t.Fatal("nothing to move")
	}
	packs := slices.Concat(names(t, h.store, "packs/"), names(t, h.store, "meta/"))
	f := fault.New(h.store)
	var once sync.Once
	f.SetHook(func(op fault.Op, name string) error {
		if op == fault.Get && strings.HasPrefix(name, "packs/") && !strings.Contains(name, ".") {
			once.Do(func() {
				repack(t, h, packs)
				condemn(t, h.store, h.copy, true, packs...)
				for _, name := range packs {
					if err := h.store.Delete(t.Context(), name); err != nil {
						t.Error(err)
					}
				}
			})
		}
		return nil
	})
	res := h.replicate(f, to)
	if len(res.Snapshots) != 1 || len(res.Lost) != 0 {
		t.Errorf("%+v", res)
	}
	if got := whole(t, to); len(got) != 1 {
		t.Errorf("%d snapshots", len(got))
	}
}

// repack gives packs new incarnations and a segment of its own, as a prune does that moves everything alive.
func repack(t *testing.T, h *home, packs []string) {
	t.Helper()
	condemn(t, h.store, h.copy, false, packs...)
	r := open(t, h.store, repo.Access{Credential: h.copy})
	s, err := r.Begin(t.Context(), repo.SessionOptions{Purpose: "prune"})
	if err != nil {
		t.Error(err)
		return
	}
	held, err := newHeldPacks(t.Context(), r)
	if err != nil {
		t.Error(err)
		return
	}
	for _, name := range packs {
		file := get(t, h.store, name)
		table, entries, err := r.ParsePack(name, file)
		if err == nil {
			id, _ := held.place(table.Name(), int64(len(file)))
			err = s.CopyPack(t.Context(), repo.PackCopy{PackID: id, Trailer: table, Table: entries, File: file})
		}
		if err != nil {
			t.Error(err)
		}
	}
	if err := s.SaveSegments(t.Context()); err != nil {
		t.Error(err)
	}
	s.Close(t.Context())
}

// forget takes a snapshot out of the list.
func (h *home) forget(s backends.Storage, snap *repo.Snapshot) {
	t := h.t
	t.Helper()
	r := reader(t, s)
	object := get(t, h.store, snap.Name)
	f := format.Forgotten{Session: snap.Session, Object: crypt.Sum(object), Record: object, Host: r.Keys().Reader.Host, Time: 1}
	name, sealed, err := r.SealAs(r.Keys().Reader, crypt.TypeForgotten, "forgotten/", canon.Marshal(f))
	if err == nil {
		err = s.Put(t.Context(), name, sealed, backends.PutOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestForgotten: what the source forgot stays at the replica, unless it is a mirror; what the replica forgot does not come back; and what is forgotten
// and swept while the source is read is not copied.
func TestForgotten(t *testing.T) {
	h, to := newHome(t), mem.New(time.Now)
	a, b := h.backup(h.store, 1000), h.backup(h.store, 1000)
	h.replicate(h.store, to)
	h.forget(h.store, a)
	if res := h.replicate(h.store, to); res.Missing != 0 {
		t.Errorf("%+v", res)
	}
	if got := whole(t, to); len(got) != 2 {
		t.Errorf("%d snapshots", len(got))
	}
	res, err := h.run(h.store, to, func(o *Options) { o.Mirror = true })
	if err != nil || res.Forgotten != 1 {
		t.Errorf("%v %+v", err, res)
	}
	if got := whole(t, to); !slices.Equal(got, []crypt.SessionID{b.ID()}) {
		t.Errorf("%v", got)
	}
	h.forget(to, b)
	if res := h.replicate(h.store, to); len(res.Snapshots) != 0 || res.Missing != 0 {
		t.Errorf("%+v", res)
	}
	if got := whole(t, to); len(got) != 0 {
		t.Errorf("%v", got)
	}

	// Forgotten and swept between the snapshots and the index.
	c := h.backup(h.store, 1<<20)
	fresh := mem.New(time.Now)
	f := fault.New(h.store)
	var once sync.Once
	f.SetHook(func(op fault.Op, name string) error {
		if op == fault.List && name == "index/" {
			once.Do(func() {
				h.forget(h.store, c)
				packs := slices.Concat(names(t, h.store, "packs/"), names(t, h.store, "meta/"))
				h.forget(h.store, b)
				condemn(t, h.store, h.copy, true, packs...)
				for _, name := range packs {
					if err := h.store.Delete(t.Context(), name); err != nil {
						t.Error(err)
					}
				}
			})
		}
		return nil
	})
	res, err = h.run(f, fresh, nil)
	if err != nil || len(res.Snapshots) != 0 {
		t.Errorf("%v %+v", err, res)
	}
	if got := whole(t, fresh); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// TestFenced: a session at the destination that was judged dead starts again and commits.
func TestFenced(t *testing.T) {
	h, to := newHome(t), mem.New(time.Now)
	h.backup(h.store, 1<<20)
	f := fault.New(to)
	var once sync.Once
	f.SetHook(func(op fault.Op, name string) error {
		if op == fault.Put && strings.HasPrefix(name, "copied/") {
			once.Do(func() {
				id := strings.TrimPrefix(names(t, to, "leases/")[0], "leases/")
				r := open(t, to, repo.Access{Credential: h.copy})
				session, err := format.LeaseSession("leases/" + id)
				if err != nil {
					t.Error(err)
				}
				rec := snapshot.Record{Session: session, Host: h.copy.Identity.Host, Kind: snapshot.Void}
				lease, err := r.OpenControl(crypt.TypeLease, "leases/"+id, get(t, to, "leases/"+id))
				if err == nil {
					var l *format.Lease
					if l, err = format.Parse[format.Lease](lease.Body); err == nil {
						copy(rec.Nonce[:], l.Nonce)
					}
				}
				b, err2 := rec.Marshal()
				if err != nil || err2 != nil {
					t.Error(err, err2)
				}
				_, object, err := r.SealControl(crypt.TypeSnapshot, "snapshots/"+id, b)
				if err == nil {
					err = to.Put(t.Context(), "snapshots/"+id, object, backends.PutOptions{IfAbsent: true})
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	})
	if res := h.replicate(h.store, f); len(res.Snapshots) != 1 {
		t.Errorf("%+v", res)
	}
	if got := whole(t, to); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

// TestUntil: at its end a run stops, what it copied stays, and the next one goes on.
func TestUntil(t *testing.T) {
	h, to := newHome(t), mem.New(time.Now)
	h.backup(h.store, 6<<20)
	f := fault.New(h.store)
	var mu sync.Mutex
	now := time.Now()
	end := now.Add(time.Hour)
	f.SetHook(func(op fault.Op, name string) error {
		if op == fault.Get && strings.HasPrefix(name, "packs/") {
			mu.Lock()
			defer mu.Unlock()
			now = end
		}
		return nil
	})
	src, err := repo.Open(t.Context(), f, repo.Access{Credential: h.copy}, repo.Options{Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	if err != nil {
		t.Fatal(err)
	}
	o := h.options(to)
	o.Until = end
	res, err := Run(t.Context(), src, to, o)
	if err != nil || !res.Stopped || res.Packs == 0 || len(res.Snapshots) != 0 {
		t.Fatalf("%v %+v", err, res)
	}
	if got := whole(t, to); len(got) != 0 {
		t.Errorf("%v", got)
	}
	next := h.replicate(h.store, to)
	if all := len(names(t, h.store, "packs/")) + len(names(t, h.store, "meta/")); next.Packs+res.Packs != all || next.Found != 0 {
		t.Errorf("%d packs, then %d, of %d", res.Packs, next.Packs, all)
	}
	whole(t, to)
}

// TestRevokedReplicator: that a replicator's credential was stolen takes no snapshot out of the copies that it made, which the revocation reaches with the next
// replication: the records in them are their hosts'. Whoever replicates then makes sure that they are whole, because what the thief said may not be so.
func TestRevokedReplicator(t *testing.T) {
	h := newHome(t)
	a := h.backup(h.store, 2<<20)
	to := mem.New(time.Now)
	h.replicate(h.store, to)
	r := reader(t, h.store)
	if _, err := admin.RevokeHost(t.Context(), r, h.copy.Identity.Host, nil); err != nil {
		t.Fatal(err)
	}
	next, err := admin.EnrollHost(t.Context(), reader(t, h.store), "vault2", crypt.RolePrune)
	if err != nil {
		t.Fatal(err)
	}
	// Only keys and settings have come so far.
	for _, prefix := range keyPrefixes {
		for _, name := range names(t, h.store, prefix) {
			if err := to.Put(t.Context(), name, get(t, h.store, name), backends.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if all, err := reader(t, to).Snapshots(t.Context()); err != nil || len(all) != 1 || all[0].ID() != a.ID() {
		t.Fatalf("the copy has %d snapshots, %v", len(all), err)
	}
	pack := names(t, to, "packs/")[0]
	if err := to.Delete(t.Context(), pack); err != nil {
		t.Fatal(err)
	}
	h.copy = next
	res, err := h.run(h.store, to, nil)
	if err != nil || len(res.Snapshots) != 1 || res.Packs != 1 {
		t.Errorf("%v, %+v", err, res)
	}
	if got := whole(t, to); len(got) != 1 {
		t.Errorf("%d snapshots", len(got))
	}
	if res, err = h.run(h.store, to, nil); err != nil || len(res.Snapshots) != 0 {
		t.Errorf("%v, %+v", err, res)
	}
}
