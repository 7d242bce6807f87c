package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/index"
	"packhold/repo/format"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// enroll makes a host with the given roles and opens the repository as it.
func enroll(t testing.TB, s backends.Storage, name string, roles crypt.Role, domain string) *Repo {
	t.Helper()
	a := admin(t, s)
	id, err := crypt.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	cert := id.Certificate(name, roles, 1, time.Unix(1e9, 0))
	cert.Domain = domain
	if err := PutHost(t.Context(), a, cert); err != nil {
		t.Fatal(err)
	}
	c := *baseCredential
	c.Identity = id
	return openWriter(t, s, &c)
}

// put seals body as r's host or the root, and stores it.
func put(t testing.TB, r *Repo, typ crypt.Type, name string, body any, asRoot bool) string {
	t.Helper()
	full, object, err := r.sealSigned(typ, name, canon.Marshal(body), asRoot)
	if err == nil {
		err = r.put(t.Context(), full, object)
	}
	if err != nil {
		t.Fatal(err)
	}
	return full
}

// nextSettings stores a new generation.
func nextSettings(t testing.TB, s backends.Storage, change func(*format.Settings)) {
	t.Helper()
	a := admin(t, s)
	next := *a.settings
	b, err := stored.Fetch(t.Context(), s, format.SettingsName(next.Generation))
	if err != nil {
		t.Fatal(err)
	}
	sum := crypt.Sum(b)
	next.Generation, next.Previous = next.Generation+1, sum[:]
	change(&next)
	put(t, a, crypt.TypeSettings, format.SettingsName(next.Generation), next, true)
}

func refsOf(t testing.TB, s backends.Storage, prefixes ...string) (refs []format.PackRef) {
	t.Helper()
	for _, prefix := range prefixes {
		for name := range allNames(t, s, prefix) {
			id, tree, inc, err := format.ParsePackName(name)
			if err != nil {
				t.Fatal(err)
			}
			refs = append(refs, format.PackRef{Name: id, Tree: tree, Incarnation: inc})
		}
	}
	slices.SortFunc(refs, format.PackRef.Compare)
	return refs
}

// problemsWith returns the problems of objects under prefix, which must all match want.
func problemsWith(t testing.TB, r *Repo, prefix string, want error) int {
	t.Helper()
	n := 0
	for _, p := range r.Problems() {
		if strings.HasPrefix(p.Object, prefix) {
			n++
			if !errors.Is(p.Err, want) {
				t.Errorf("%v, want %v", p, want)
			}
		}
	}
	return n
}

// TestFencedRepo goes on with the Repo of a fenced, of a failed and of a closed session: none may believe what those claimed.
func TestFencedRepo(t *testing.T) {
	st, c := newTestRepo(t)
	blobs := randomBlobs(3, 5000)
	r := openWriter(t, st, c)
	for _, how := range []string{"fenced", "closed"} {
		s, err := r.Begin(t.Context(), SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Begin(t.Context(), SessionOptions{}); !errors.Is(err, errActive) {
			t.Errorf("a second session of one Repo: %v", err)
		}
		w, err := s.NewWorker()
		if err != nil {
			t.Fatal(err)
		}
		if how == "fenced" {
			if err := r.putVoid(t.Context(), s.ID, s.nonce); err != nil {
				t.Fatal(err)
			}
			root, _, err := w.StoreTree([]byte("page"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Commit(t.Context(), record(root), &snapshot.Body{}, nil); !errors.Is(err, ErrFenced) {
				t.Errorf("commit of a void session: %v", err)
			}
		}
		for _, b := range blobs { // stays in the open pack
			if _, _, err := w.Store(b); err != nil && how == "closed" {
				t.Fatal(err)
			}
		}
		s.Close(t.Context())
		if _, err := s.Commit(t.Context(), record(crypt.ID{1}), &snapshot.Body{}, nil); err == nil {
			t.Error("a closed session commits")
		}
	}
	store(t, r, blobs...)
	readAll(t, st, blobs...)
}

// TestFencedGone: a prune judged the session dead and removed its pack before it was read back. The session says that it was fenced, so that the
// backup begins anew, and not that the storage lost a file.
func TestFencedGone(t *testing.T) {
	for _, fenced := range []bool{true, false} {
		base, c := newTestRepo(t)
		st := fault.New(base)
		r := openWriter(t, st, c)
		s, err := r.Begin(t.Context(), SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		st.SetHook(func(op fault.Op, name string) error {
			if op != fault.Get || !strings.HasPrefix(name, "packs/") {
				return nil
			}
			if fenced {
				if err := openWriter(t, base, c).putVoid(t.Context(), s.ID, s.nonce); err != nil {
					return err
				}
			}
			return base.Delete(t.Context(), name)
		})
		w, err := s.NewWorker()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.Store([]byte("a blob")); err != nil {
			t.Fatal(err)
		}
		_, err = s.Commit(t.Context(), record(crypt.ID{1}), &snapshot.Body{}, nil)
		if errors.Is(err, ErrFenced) != fenced || errors.Is(err, fs.ErrNotExist) == fenced {
			t.Errorf("the pack is gone, fenced %v: %v", fenced, err)
		}
		s.Close(t.Context())
	}
}

// TestVMClone runs two copies of one session, as a machine that was cloned while it ran does.
func TestVMClone(t *testing.T) {
	st, c := newTestRepo(t)
	r1, r2 := openWriter(t, st, c), openWriter(t, st, c)
	s1, err := r1.Begin(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s2, err := r2.Begin(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s2.ID, s2.key, s2.record, s2.nonce = s1.ID, s1.key, s1.record, s1.nonce
	commit := func(s *Session, page string) error {
		w, err := s.NewWorker()
		if err != nil {
			t.Fatal(err)
		}
		root, _, err := w.StoreTree([]byte(page))
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Commit(t.Context(), record(root), &snapshot.Body{}, nil)
		return err
	}
	if err := s2.putLease(t.Context(), 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the clone's lease: %v", err)
	}
	if err := commit(s2, "the clone's"); err != nil {
		t.Errorf("first commit: %v", err)
	}
	if err := commit(s1, "the first's"); !errors.Is(err, ErrFenced) {
		t.Errorf("second commit: %v", err)
	}
	s1.Close(t.Context())
	s2.Close(t.Context())
	store(t, r1, []byte("again"))
	if all := snapshotsIn(t, st, c); len(all) != 2 {
		t.Errorf("%d snapshots", len(all))
	}
	readAll(t, st, []byte("the clone's"), []byte("again"))
}

// TestConcurrentSessions runs sessions of two hosts, two each, over overlapping blobs.
func TestConcurrentSessions(t *testing.T) {
	t.Parallel()
	st, c := newTestRepo(t)
	other := enroll(t, st, "host-b", crypt.RoleWriter, "")
	blobs := randomBlobs(24, 100_000)
	g, ctx := errgroup.WithContext(t.Context())
	for i := range 4 {
		r := openWriter(t, st, c)
		if i%2 == 1 {
			r.keys.Identity = other.keys.Identity
		}
		g.Go(func() error {
			_, _, err := backup(ctx, r, blobs[4*i:4*i+12])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	r := readAll(t, st, blobs...)
	all, err := r.Snapshots(t.Context())
	if err != nil || len(all) != 4 || len(r.Problems()) > 0 {
		t.Errorf("%d snapshots, %v, %v", len(all), err, r.Problems())
	}
	// The next one joins the forks.
	snap := store(t, openWriter(t, st, c))
	if len(snap.Prev) == 0 || len(snap.Seen) == 0 {
		t.Errorf("links: %d previous, %d seen", len(snap.Prev), len(snap.Seen))
	}
}

// TestOrder looks at the order of a session's calls, on which everything rests.
func TestOrder(t *testing.T) {
	base, c := newTestRepo(t)
	store(t, openWriter(t, base, c), []byte("old"))
	st := fault.New(base)
	r := openWriter(t, st, c)
	var mu sync.Mutex
	var calls []string
	st.SetHook(func(op fault.Op, name string) error {
		mu.Lock()
		defer mu.Unlock()
		prefix, _, _ := strings.Cut(name, "/")
		if n := len(calls); n == 0 || calls[n-1] != op.String()+" "+prefix {
			calls = append(calls, op.String()+" "+prefix)
		}
		return nil
	})
	if _, _, err := backup(t.Context(), r, randomBlobs(2, 5000)); err != nil {
		t.Fatal(err)
	}
	want := []string{"put leases", "list condemned", "list index", "get index", "list leases", "put packs", "put index", "list snapshots", "put snapshots", "delete leases"}
	for _, call := range calls {
		if len(want) > 0 && call == want[0] {
			want = want[1:]
		}
	}
	if len(want) > 0 {
		t.Errorf("%q does not come where it should in %q", want[0], calls)
	}
	first := func(call string) int { return slices.Index(calls, call) }
	last := func(call string) int {
		at := -1
		for i, c := range calls {
			if c == call {
				at = i
			}
		}
		return at
	}
	if first("put leases") != 0 || first("list condemned") > first("list index") || max(last("put packs"), last("put meta")) > first("put index") ||
		last("put index") > first("put snapshots") {
		t.Errorf("order %q", calls)
	}
}

func TestCommitRetry(t *testing.T) {
	base, c := newTestRepo(t)
	r := openWriter(t, base, c)
	name, object, err := r.sealSigned(crypt.TypeLease, "leases/"+strings.Repeat("0", 32), []byte{0xa0}, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds the first's bytes
		if err := stored.Create(t.Context(), r.storage, name, object); err != nil {
			t.Error(err)
		}
	}
	if err := stored.Create(t.Context(), r.storage, name, append(object, 0)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("other bytes: %v", err)
	}
}

func TestCondemned(t *testing.T) {
	t.Parallel()
	st, c := newTestRepo(t)
	prune := enroll(t, st, "pruner", crypt.RolePrune, "")
	blobs := randomBlobs(3, 5000)
	store(t, openWriter(t, st, c), blobs...)
	refs := refsOf(t, st, "packs/")
	ids := func(r *Repo) (has, readable bool) {
		if err := r.LoadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, readable = r.Index().Lookup(crypt.Sum(blobs[0]))
		return r.Index().Has(crypt.Sum(blobs[0])), readable
	}
	check := func(what string, s *mem.Store, has, readable bool) *Repo {
		t.Helper()
		r := openWriter(t, s, c)
		if h, rd := ids(r); h != has || rd != readable {
			t.Errorf("%s: counts for dedup %v, may be read %v", what, h, rd)
		}
		return r
	}
	id := [16]byte{1}
	set := fmt.Sprintf("condemned/%x", id)
	check("nothing condemned", st, true, true)

	// By a host without the role: no effect, and it is reported.
	hostile := st.Clone()
	put(t, openWriter(t, hostile, c), crypt.TypeCondemned, set, format.Condemned{ID: id, Packs: refs}, false)
	put(t, openWriter(t, hostile, c), crypt.TypeCondemnedFinal, set+".final", format.CondemnedFinal{ID: id, Packs: refs}, false)
	if r := check("condemned by a writer", hostile, true, true); problemsWith(t, r, "condemned/", ErrTampered) != 2 {
		t.Errorf("problems %v", r.Problems())
	}

	put(t, prune, crypt.TypeCondemned, set, format.Condemned{ID: id, Packs: refs}, false)
	check("condemned", st, false, true)
	snap := store(t, openWriter(t, st.Clone(), c), blobs...)
	if snap.Stats.Blobs < 3 {
		t.Errorf("%d blobs stored beside condemned packs", snap.Stats.Blobs)
	}

	// A squatted or damaged .leases or .final: nothing is gone, and nothing is relied on.
	for _, suffix := range []string{".leases", ".final"} {
		bad := st.Clone()
		if err := bad.Put(t.Context(), set+suffix, []byte("junk"), backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		check("squatted "+suffix, bad, false, true)
	}

	// A set whose final takes the packs off is free again.
	spared := st.Clone()
	put(t, prune2(prune, spared), crypt.TypeCondemnedFinal, set+".final", format.CondemnedFinal{ID: id}, false)
	check("spared", spared, true, true)

	// A final takes them for ever, whatever segment lists them, and also where its .leases is broken.
	put(t, prune, crypt.TypeCondemnedFinal, set+".final", format.CondemnedFinal{ID: id, Packs: refs}, false)
	check("final", st, false, false)
	broken := st.Clone()
	if err := broken.Put(t.Context(), set+".leases", []byte("junk"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	check("final with broken leases", broken, false, false)

	// The packs are deleted, then the final is damaged and its set is gone: nobody knows which packs it took.
	lost := st.Clone()
	for name := range allNames(t, lost, "packs/") {
		if err := lost.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := lost.Put(t.Context(), set+".final", []byte("junk"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := lost.Delete(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	check("lost final", lost, false, true)
	store(t, openWriter(t, lost, c), blobs...)
	readAll(t, lost, blobs...)
}

// sweeping lists condemned/ for the first time while a prune ends its work there: it shows neither what comes nor what goes meanwhile.
type sweeping struct {
	backends.Storage
	sweep func()
}

func (s *sweeping) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	if sweep := s.sweep; sweep != nil && prefix == "condemned/" {
		s.sweep = nil
		sweep()
		return func(func(backends.Info, error) bool) {}
	}
	return s.Storage.List(ctx, prefix)
}

// TestSwept lets a prune that does not know of a session remove its set at the worst moment, between the session's listing of the set and its
// reading or during the listing, and delete the packs after the session has looked at everything.
func TestSwept(t *testing.T) {
	t.Parallel()
	base, c := newTestRepo(t)
	prune := enroll(t, base, "pruner", crypt.RolePrune, "")
	blobs := randomBlobs(3, 5000)
	store(t, openWriter(t, base, c), blobs...)
	refs := refsOf(t, base, "packs/")
	id := [16]byte{1}
	set := fmt.Sprintf("condemned/%x", id)
	put(t, prune, crypt.TypeCondemned, set, format.Condemned{ID: id, Packs: refs}, false)
	put(t, prune, crypt.TypeCondemnedLeases, set+".leases", format.CondemnedLeases{ID: id}, false)
	sweep := func(s *mem.Store) {
		put(t, prune2(prune, s), crypt.TypeCondemnedFinal, set+".final", format.CondemnedFinal{ID: id, Packs: refs}, false)
		remove(t, s, set+".leases")
		if err := s.Delete(t.Context(), set); err != nil {
			t.Fatal(err)
		}
	}
	check := func(s *mem.Store, view *fault.Store, hook func(fault.Op, string)) {
		t.Helper()
		view.SetHook(func(op fault.Op, name string) error {
			hook(op, name)
			if op == fault.List && name == "leases/" { // the session has read what it reads
				remove(t, s, "packs/")
			}
			return nil
		})
		if _, _, err := backup(t.Context(), openWriter(t, view, c), blobs); err != nil {
			t.Fatal(err)
		}
		readAll(t, s, blobs...)
	}
	s := base.Clone()
	var once sync.Once
	swept := false
	check(s, fault.New(s), func(o fault.Op, name string) {
		if o == fault.Get && name == set {
			once.Do(func() { sweep(s); swept = true })
		}
	})
	if !swept {
		t.Error("nobody read the set")
	}
	s = base.Clone()
	check(s, fault.New(&sweeping{s, func() { sweep(s) }}), func(fault.Op, string) {})

	// Sets that never stand still are an error, not a guess.
	s = base.Clone()
	view := fault.New(s)
	view.Add(fault.Rule{Op: fault.Get, Prefix: "condemned/", Sticky: true, Err: fs.ErrNotExist})
	if _, _, err := backup(t.Context(), openWriter(t, view, c), blobs); !errors.Is(err, ErrStorage) {
		t.Errorf("a set that is listed and never there: %v", err)
	}
}

// TestBadSegment damages or removes the only segment: the packs say themselves what is in them. The next session of their host names them anew.
func TestBadSegment(t *testing.T) {
	t.Parallel()
	base, c := newTestRepo(t)
	other := enroll(t, base, "host-b", crypt.RoleWriter, "")
	blobs := randomBlobs(3, 5000)
	store(t, openWriter(t, base, c), blobs...)
	for what, harm := range map[string]func(s *mem.Store, name string, b []byte){
		"flipped": func(s *mem.Store, name string, b []byte) { mustPut(t, s, name, flip(b)) },
		"cut":     func(s *mem.Store, name string, b []byte) { mustPut(t, s, name, b[:len(b)/2]) },
		"gone":    func(*mem.Store, string, []byte) {},
	} {
		s := base.Clone()
		for name := range allNames(t, s, "index/") {
			b := mustGet(t, s, name)
			remove(t, s, name)
			harm(s, name, b)
		}
		readAll(t, s, blobs...)
		if n := store(t, prune2(other, s.Clone()), blobs...).Stats.Blobs; n < 3 {
			t.Errorf("%s: another host counts on packs that no segment names", what)
		}
		if what == "gone" {
			continue // nothing says that a segment is missing
		}
		r := openWriter(t, s, c)
		if err := r.LoadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := store(t, r, blobs...).Stats.Blobs; n != 0 {
			t.Errorf("%s: %d blobs were stored again", what, n)
		}
		r = readAll(t, s, blobs...)
		if len(r.unnamed.packs) > 0 {
			t.Errorf("%s: %d packs are not named", what, len(r.unnamed.packs))
		}
	}
}

// prune2 is r for another storage.
func prune2(r *Repo, s backends.Storage) *Repo {
	n := newRepo(s, Options{})
	n.config, n.keys, n.trust, n.settings = r.config, r.keys, r.trust, r.settings
	return n
}

// TestAdoptSafety leaves packs without a segment, of which some are condemned, of another host, or broken: none is adopted.
func TestAdoptSafety(t *testing.T) {
	t.Parallel()
	base, c := newTestRepo(t)
	prune := enroll(t, base, "pruner", crypt.RolePrune, "")
	other := enroll(t, base, "host-b", crypt.RoleWriter, "")
	blobs := randomBlobs(3, 5000)
	leave := func(r *Repo) {
		s, err := r.Begin(t.Context(), SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.NewWorker()
		for _, b := range blobs {
			if err == nil {
				_, _, err = w.Store(b)
			}
		}
		if err == nil {
			err = s.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, f := range map[string]struct {
		by      *Repo
		spoil   func(s *mem.Store)
		adopted uint64
	}{
		"whole":     {nil, func(*mem.Store) {}, 1},
		"of others": {other, func(*mem.Store) {}, 0},
		"condemned": {nil, func(s *mem.Store) {
			put(t, prune2(prune, s), crypt.TypeCondemned, fmt.Sprintf("condemned/%x", [16]byte{2}), format.Condemned{ID: [16]byte{2}, Packs: refsOf(t, s, "packs/")}, false)
		}, 0},
		"final": {nil, func(s *mem.Store) {
			put(t, prune2(prune, s), crypt.TypeCondemnedFinal, fmt.Sprintf("condemned/%x.final", [16]byte{2}), format.CondemnedFinal{ID: [16]byte{2}, Packs: refsOf(t, s, "packs/")}, false)
		}, 0},
		"broken": {nil, func(s *mem.Store) {
			for name := range allNames(t, s, "packs/") {
				b, err := s.Get(t.Context(), name, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				b[100] ^= 1
				if err := s.Put(t.Context(), name, b, backends.PutOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}, 0},
	} {
		s := base.Clone()
		by := openWriter(t, s, c)
		if f.by != nil {
			by = prune2(f.by, s)
		}
		// An open session of our own makes us look at all packs.
		if _, err := openWriter(t, s, c).Begin(t.Context(), SessionOptions{}); err != nil {
			t.Fatal(err)
		}
		leave(by)
		f.spoil(s)
		snap, ses, err := backup(t.Context(), openWriter(t, s, c), blobs)
		if err != nil {
			t.Fatal(err)
		}
		if got := ses.StoredStats().Adopted; got != f.adopted || (snap.Stats.Blobs == 1) != (f.adopted > 0) {
			t.Errorf("%s: %d packs adopted, %d blobs stored", name, got, snap.Stats.Blobs)
		}
		readAll(t, s, blobs...)
	}
}

// TestAdoptDead ends the session of a crashed process once its lease is an hour old by the storage's clock, and removes the lease.
func TestAdoptDead(t *testing.T) {
	base, c := newTestRepo(t)
	now := time.Now()
	st := mem.New(func() time.Time { return now })
	for name := range allNames(t, base, "") {
		b, err := base.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Put(t.Context(), name, b, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openWriter(t, st, c).Begin(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	store(t, openWriter(t, st, c))
	if n := len(allNames(t, st, "leases/")); n != 1 {
		t.Errorf("%d leases while the first session may live", n)
	}
	now = now.Add(LeaseDead)
	store(t, openWriter(t, st, c))
	if left := allNames(t, st, "leases/"); len(left) != 0 {
		t.Errorf("leases left: %v", left)
	}
	w, err := s.NewWorker() // it was not dead, only slow
	if err != nil {
		t.Fatal(err)
	}
	root, _, err := w.StoreTree([]byte("late"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), record(root), &snapshot.Body{}, nil); !errors.Is(err, ErrFenced) {
		t.Errorf("a session that was judged dead commits: %v", err)
	}
	s.Close(t.Context())
}

func mustGet(t testing.TB, s backends.Storage, name string) []byte {
	t.Helper()
	b, err := s.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLeases(t *testing.T) {
	st, c := newTestRepo(t)
	r := openWriter(t, st, c)
	s, err := r.Begin(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if err := s.putLease(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	unknown := crypt.SessionID{0xaa}
	for _, name := range []string{format.LeaseName(unknown, 0), format.LeaseName(crypt.SessionID{0xbb}, 7)} {
		if err := st.Put(t.Context(), name, []byte("junk"), backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// A good lease under the name of another renewal.
	b, err := stored.Fetch(t.Context(), st, format.LeaseName(s.ID, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Put(t.Context(), format.LeaseName(s.ID, 2), b, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	// A lease that says another number than its name.
	put(t, r, crypt.TypeLease, format.LeaseName(s.ID, 3), format.Lease{Session: s.ID, Host: c.Identity.Host, Nonce: s.nonce[:], Renewal: 4}, false)
	if _, err := r.control().Lease(format.LeaseName(s.ID, 3), mustGet(t, st, format.LeaseName(s.ID, 3))); !errors.Is(err, ErrTampered) {
		t.Errorf("a lease of another number: %v", err)
	}
	if err := st.Delete(t.Context(), format.LeaseName(s.ID, 3)); err != nil {
		t.Fatal(err)
	}
	infos, _, err := stored.List(t.Context(), r.storage, "leases/")
	if err != nil {
		t.Fatal(err)
	}
	open, err := r.sessionsOf(t.Context(), infos)
	if err != nil {
		t.Fatal(err)
	}
	if l := open[unknown]; l == nil || l.Known || l.Ended {
		t.Errorf("an unreadable lease: %+v", l)
	}
	if l := open[s.ID]; len(open) != 3 || l == nil || !l.Known || l.Host != c.Identity.Host {
		t.Errorf("%d sessions, own %+v", len(open), l)
	}
	if n := problemsWith(t, r, "leases/", ErrDamaged); n != 3 {
		t.Errorf("%d problems", n)
	}
}

// segmentOf builds a segment of r's host that says what f makes of the one that was stored.
func segmentOf(t *testing.T, r *Repo, st backends.Storage, f func(*index.Segment)) string {
	t.Helper()
	var seg *index.Segment
	for name := range allNames(t, st, "index/") {
		s, err := r.control().Segment(name, mustGet(t, st, name))
		if err != nil {
			continue
		}
		if seg == nil || len(s.Entries) > len(seg.Entries) {
			seg = s
		}
	}
	nonce := [32]byte(crypt.Sum([]byte(r.keys.Identity.Host.String())))
	seg.Host, seg.Session, seg.Nonce = r.keys.Identity.Host, crypt.NewSessionID(r.keys.Identity.Host, nonce), nonce
	f(seg)
	body, err := seg.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	name, object, err := r.sealSigned(crypt.TypeIndex, "index/", body, false)
	if err == nil {
		err = r.put(t.Context(), name, object)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestSegments(t *testing.T) {
	t.Parallel()
	st, c := newTestRepo(t)
	other := enroll(t, st, "host-b", crypt.RoleWriter, "")
	prune := enroll(t, st, "pruner", crypt.RolePrune, "")
	blobs := randomBlobs(3, 5000)
	store(t, openWriter(t, st, c), blobs...)
	first := ""
	for name := range allNames(t, st, "index/") {
		first = name
	}
	firstID, err := crypt.ParseID(strings.TrimPrefix(first, "index/"))
	if err != nil {
		t.Fatal(err)
	}
	load := func(s backends.Storage) *Repo {
		r := openWriter(t, s, c)
		if err := r.LoadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		return r
	}

	// Another host speaks for our packs, a host ends our segment, a host lies about its session.
	for what, f := range map[string]func(*index.Segment){
		"packs of another host": func(*index.Segment) {},
		"supersedes": func(s *index.Segment) {
			s.Sessions, s.Packs, s.Entries, s.Supersedes = nil, nil, nil, []crypt.ID{firstID}
		},
		"session of another": func(s *index.Segment) { s.Sessions, s.Packs, s.Entries, s.Nonce = nil, nil, nil, [32]byte{1} },
	} {
		bad := st.Clone()
		name := segmentOf(t, prune2(other, bad), bad, f)
		r := load(bad)
		if problemsWith(t, r, name, ErrTampered) != 1 {
			t.Errorf("%s: %v", what, r.Problems())
		}
		if !r.Index().Has(crypt.Sum(blobs[0])) {
			t.Errorf("%s: our own segment is gone", what)
		}
	}

	// Prune may: with all companions there its segment takes the place of ours, otherwise both stand.
	good := st.Clone()
	segmentOf(t, prune2(prune, good), good, func(s *index.Segment) { s.Supersedes = []crypt.ID{firstID} })
	if r := load(good); len(r.Index().Segments()) != 1 || slices.Contains(r.Index().Segments(), firstID) || !r.Index().Has(crypt.Sum(blobs[0])) {
		t.Errorf("superseded: %v, problems %v", r.Index().Segments(), r.Problems())
	}
	readAll(t, good, blobs...)
	alone := st.Clone()
	segmentOf(t, prune2(prune, alone), alone, func(s *index.Segment) { s.Supersedes, s.Companions = []crypt.ID{firstID}, []crypt.ID{{9}} })
	if r := load(alone); !slices.Contains(r.Index().Segments(), firstID) {
		t.Error("a segment was superseded although a companion is missing")
	}
	// A lie about whose session a pack is must not stand before the truth: the liar's own session, our pack.
	lie := st.Clone()
	store(t, prune2(other, lie), []byte("something of its own"))
	var record []byte
	for name := range allNames(t, lie, "index/") {
		if s, err := other.parse(t, lie, name); err == nil && s.Host == other.keys.Identity.Host {
			record = s.Sessions[0]
		}
	}
	segmentOf(t, prune2(other, lie), lie, func(s *index.Segment) {
		for i := range s.Packs {
			s.Packs[i].Session = 0
		}
		s.Sessions = [][]byte{record}
	})
	readAll(t, lie, blobs...)

	// The index is what the packs' own tables say, which W alone opens.
	r := load(st)
	n := 0
	for _, prefix := range []string{"packs/", "meta/"} {
		infos, _, err := stored.List(t.Context(), st, prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range infos {
			id, _, _, err := format.ParsePackName(i.Name)
			if err != nil {
				t.Fatal(err)
			}
			_, table, err := r.ReadTable(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range table.Entries {
				n++
				p, ok := r.Index().Lookup(e.ID)
				if !ok || p.Pack.Name != id || p.Offset != e.Offset || p.Length != e.Length || p.Raw != e.Raw || p.Compression != e.Compression {
					t.Errorf("blob %v: the table says %+v, the index %+v", e.ID, e, p)
				}
			}
		}
	}
	if n != 4 {
		t.Errorf("%d entries", n)
	}
}

func (r *Repo) parse(t *testing.T, s backends.Storage, name string) (*index.Segment, error) {
	b, err := stored.Fetch(t.Context(), s, name)
	if err != nil {
		return nil, err
	}
	return r.control().Segment(name, b)
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	st, c := newTestRepo(t)
	lost := enroll(t, st, "stolen", crypt.RoleWriter|crypt.RolePrune, "")
	blobs := randomBlobs(3, 5000)
	before := store(t, prune2(lost, st), blobs...)
	store(t, openWriter(t, st, c), []byte("another"))
	m := format.Mark{Kind: format.MarkRevocation, Host: lost.keys.Identity.Host, Time: 5, Kept: []format.KeptSnapshot{{Session: before.ID(), Object: before.Object}}}
	if _, err := format.Parse[format.Mark](canon.Marshal(m)); err != nil {
		t.Fatal(err)
	}
	name := put(t, admin(t, st), crypt.TypeMark, "marks/", m, true)
	hash, err := crypt.ParseID(strings.TrimPrefix(name, "marks/"))
	if err != nil {
		t.Fatal(err)
	}
	nextSettings(t, st, func(s *format.Settings) { s.Revocations = [][]byte{hash[:]} })
	after := store(t, prune2(lost, st), []byte("by the thief"))

	r := openWriter(t, st, c)
	if !r.Trust().Revoked(lost.keys.Identity.Host) {
		t.Fatal("not revoked")
	}
	all, err := r.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(all, func(s *Snapshot) bool { return s.ID() == after.ID() }) || len(all) != 2 {
		t.Errorf("%d snapshots, want the one from before and ours", len(all))
	}
	if problemsWith(t, r, after.Name, ErrTampered) != 1 {
		t.Errorf("problems %v", r.Problems())
	}
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.Index().Has(crypt.Sum(blobs[0])) {
		t.Error("a revoked host's packs count for dedup")
	}
	readAll(t, st, append(blobs, []byte("by the thief"))...)
	if _, err := prune2(lost, st).Begin(t.Context(), SessionOptions{}); err != nil {
		t.Errorf("the thief's own program knows nothing: %v", err)
	}
	thief := *c
	thief.Identity = lost.keys.Identity
	if _, err := openWriter(t, st, &thief).Begin(t.Context(), SessionOptions{}); !errors.Is(err, ErrNeedHost) {
		t.Errorf("a revoked host begins a session: %v", err)
	}
	unmarked := st.Clone()
	// Its finals are half believed.
	put(t, prune2(lost, st), crypt.TypeCondemnedFinal, fmt.Sprintf("condemned/%x.final", [16]byte{1}),
		format.CondemnedFinal{ID: [16]byte{1}, Packs: refsOf(t, st, "packs/", "meta/")}, false)
	readAll(t, st, append(blobs, []byte("another"))...)
	// Without the mark any other host may be the revoked one.
	other := enroll(t, unmarked, "host-b", crypt.RoleWriter, "")
	if err := other.LoadIndex(t.Context()); err != nil || !other.Index().Has(crypt.Sum([]byte("another"))) {
		t.Errorf("another host's packs are not relied on: %v", err)
	}
	if err := unmarked.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	oc := *c
	oc.Identity = other.keys.Identity
	other = openWriter(t, unmarked, &oc)
	if problemsWith(t, other, "marks/", ErrTampered) != 1 {
		t.Errorf("problems %v", other.Problems())
	}
	if err := other.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if other.Index().Has(crypt.Sum([]byte("another"))) {
		t.Error("with an unknown revocation another host's packs are relied on")
	}
}

func TestDomains(t *testing.T) {
	t.Parallel()
	st, c := newTestRepo(t)
	nextSettings(t, st, func(s *format.Settings) { s.Domains = []string{"lab"} })
	lab1, lab2 := enroll(t, st, "lab1", crypt.RoleWriter, "lab"), enroll(t, st, "lab2", crypt.RoleWriter, "lab")
	lost1, lost2 := enroll(t, st, "lost1", crypt.RoleWriter, "unknown"), enroll(t, st, "lost2", crypt.RoleWriter, "unknown")
	shared := enroll(t, st, "host-b", crypt.RoleWriter, "")
	prune := enroll(t, st, "pruner", crypt.RoleWriter|crypt.RolePrune, "lab")
	for _, r := range []**Repo{&lab1, &lab2, &lost1, &lost2, &shared} { // so that they know each other
		c := *c
		c.Identity = (*r).keys.Identity
		*r = openWriter(t, st, &c)
	}
	store(t, openWriter(t, st, c), []byte("shared"))
	store(t, lab1, []byte("lab"))
	store(t, lost1, []byte("lost"))
	store(t, prune, []byte("pruned"))
	for _, x := range []struct {
		r    *Repo
		want string
	}{{shared, "shared pruned"}, {lab2, "lab pruned"}, {lost2, "pruned"}, {lost1, "lost pruned"}} {
		if err := x.r.LoadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, b := range []string{"shared", "lab", "lost", "pruned"} {
			if x.r.Index().Has(crypt.Sum([]byte(b))) {
				got = append(got, b)
			}
		}
		if strings.Join(got, " ") != x.want {
			t.Errorf("%s relies on %v, want %s", x.r.HostName(x.r.keys.Identity.Host), got, x.want)
		}
	}
	readAll(t, st, []byte("shared"), []byte("lab"), []byte("lost"), []byte("pruned"))
}

// TestSquatted has a hostile enrolled host take names before their owners do.
func TestSquatted(t *testing.T) {
	t.Parallel()
	st, c := newTestRepo(t)
	bad := enroll(t, st, "hostile", crypt.RoleWriter, "")
	r := openWriter(t, st, c)
	s, err := r.Begin(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	next := *bad.settings
	next.Generation, next.Previous, next.Parity = 2, make([]byte, 32), 9
	put(t, bad, crypt.TypeSettings, "settings/2", next, false)
	put(t, bad, crypt.TypeCondemnedFinal, fmt.Sprintf("condemned/%x.final", [16]byte{3}), format.CondemnedFinal{ID: [16]byte{3}}, false)
	squat := snapshot.Record{Session: s.ID, Host: bad.keys.Identity.Host, Nonce: s.nonce, Kind: snapshot.Void}
	b, err := squat.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	name := "snapshots/" + s.ID.String()
	_, object, err := bad.sealSigned(crypt.TypeSnapshot, name, b, false)
	if err != nil {
		t.Fatal(err)
	}
	for n, b := range map[string][]byte{name: object, "audit/" + strings.Repeat("ab", 16) + "/checkpoint/1": []byte("junk"), "snapshots/.foreign": nil} {
		if err := st.Put(t.Context(), n, b, backends.PutOptions{}); err != nil && format.KnownName(n) {
			t.Fatal(err)
		}
	}
	w, err := s.NewWorker()
	if err != nil {
		t.Fatal(err)
	}
	root, _, err := w.StoreTree([]byte("page"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), record(root), &snapshot.Body{}, nil); !errors.Is(err, ErrFenced) {
		t.Errorf("commit on a squatted name: %v", err)
	}
	s.Close(t.Context())
	if problemsWith(t, r, name, ErrTampered) != 1 {
		t.Errorf("problems %v", r.Problems())
	}
	fresh := openWriter(t, st, c)
	if fresh.Settings().Generation != 1 || problemsWith(t, fresh, "settings/2", ErrTampered) != 1 {
		t.Errorf("generation %d, %v", fresh.Settings().Generation, fresh.Problems())
	}
	store(t, fresh, []byte("goes on"))
	if all := snapshotsIn(t, st, c); len(all) != 1 {
		t.Errorf("%d snapshots", len(all))
	}
	// The next good generation steps over the squatted one.
	a := admin(t, st)
	first, err := stored.Fetch(t.Context(), st, "settings/1")
	if err != nil {
		t.Fatal(err)
	}
	sum := crypt.Sum(first)
	good := *a.settings
	good.Generation, good.Previous = 3, sum[:]
	put(t, a, crypt.TypeSettings, "settings/3", good, true)
	fresh = openWriter(t, st, c)
	if fresh.Settings().Generation != 3 || problemsWith(t, fresh, "settings/3", ErrTampered) != 0 {
		t.Errorf("generation %d, %v", fresh.Settings().Generation, fresh.Problems())
	}
	// One whose predecessor is not there is used and reported.
	if err := st.Delete(t.Context(), "settings/1"); err != nil {
		t.Fatal(err)
	}
	fresh = openWriter(t, st, c)
	if fresh.Settings().Generation != 3 || problemsWith(t, fresh, "settings/3", ErrTampered) != 1 {
		t.Errorf("generation %d, %v", fresh.Settings().Generation, fresh.Problems())
	}
}

// TestVerified has a reader report a pack and a blob as lost: the next backup stores them again.
func TestVerified(t *testing.T) {
	t.Parallel()
	st, c := newTestRepo(t)
	rd := enroll(t, st, "reader", crypt.RoleReader, "")
	blobs := randomBlobs(3, 5000)
	store(t, openWriter(t, st, c), blobs...)
	refs := refsOf(t, st, "packs/")
	host := rd.keys.Identity.Host
	for what, x := range map[string]struct {
		by     *Repo
		v      format.Verified
		blobs  uint64
		damage error
	}{
		"a lost pack":   {rd, format.Verified{Host: host, Lost: refs}, 3, nil},
		"a failed blob": {rd, format.Verified{Host: host, Failed: []format.FailedBlob{{ID: crypt.Sum(blobs[1]), Pack: refs[0].Name}}}, 1, nil},
		"all is well":   {rd, format.Verified{Host: host, Packs: refs}, 0, nil},
		"by a writer":   {openWriter(t, st, c), format.Verified{Host: c.Identity.Host, Lost: refs}, 0, ErrTampered},
		"for another":   {rd, format.Verified{Host: c.Identity.Host, Lost: refs}, 0, ErrTampered},
	} {
		s := st.Clone()
		name := put(t, prune2(x.by, s), crypt.TypeVerified, "verified/", x.v, false)
		r := openWriter(t, s, c)
		if snap := store(t, r, blobs...); snap.Stats.Blobs != x.blobs {
			t.Errorf("%s: %d blobs stored again, want %d", what, snap.Stats.Blobs, x.blobs)
		}
		if n := problemsWith(t, r, name, x.damage); (n == 0) != (x.damage == nil) {
			t.Errorf("%s: %v", what, r.Problems())
		}
		readAll(t, s, blobs...)
	}
}

func TestForgotten(t *testing.T) {
	st, c := newTestRepo(t)
	other := enroll(t, st, "host-b", crypt.RoleWriter, "")
	boss := enroll(t, st, "boss", crypt.RoleAdmin, "")
	snap := store(t, openWriter(t, st, c), []byte("a"))
	object, err := stored.Fetch(t.Context(), st, snap.Name)
	if err != nil {
		t.Fatal(err)
	}
	f := format.Forgotten{Session: snap.ID(), Object: snap.Object, Record: object, Host: c.Identity.Host}
	for what, x := range map[string]struct {
		by    *Repo
		allow bool
		want  int
	}{"admin": {boss, false, 0}, "own host": {openWriter(t, st, c), false, 1}, "own host, allowed": {openWriter(t, st, c), true, 0},
		"other host": {other, true, 1}} {
		s := st.Clone()
		if x.allow {
			nextSettings(t, s, func(v *format.Settings) { v.HostForget = true })
		}
		name := put(t, prune2(x.by, s), crypt.TypeForgotten, "forgotten/", f, false)
		r := openWriter(t, s, c)
		all, err := r.Snapshots(t.Context())
		if err != nil || len(all) != x.want || problemsWith(t, r, name, ErrTampered) != x.want {
			t.Errorf("forgotten by %s: %d snapshots, %v, %v", what, len(all), err, r.Problems())
		}
		// Its number is not given again, and what comes after it follows it only if it is there.
		if next := store(t, r, []byte("b")); next.Number != snap.Number+1 || len(next.Prev) != x.want {
			t.Errorf("forgotten by %s: after number %d comes %d, with %d before it", what, snap.Number, next.Number, len(next.Prev))
		}
		if all, err := r.Snapshots(t.Context()); err != nil || len(all) != x.want+1 {
			t.Errorf("forgotten by %s: the same process then lists %d snapshots, %v", what, len(all), err)
		}
	}
}

// TestReread deletes packs as a prune does that moved their blobs after the reader had read the index.
func TestReread(t *testing.T) {
	t.Parallel()
	base, c := newTestRepo(t)
	prune := enroll(t, base, "pruner", crypt.RoleWriter|crypt.RolePrune, "")
	st := fault.New(base)
	blobs := randomBlobs(3, 5000)
	store(t, openWriter(t, st, c), blobs...)
	r := reader(t, st)
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, err := r.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	old := refsOf(t, st, "packs/")
	id := [16]byte{4}
	put(t, prune, crypt.TypeCondemned, fmt.Sprintf("condemned/%x", id), format.Condemned{ID: id, Packs: old}, false)
	store(t, openWriter(t, st, c), blobs...) // the copies
	put(t, prune, crypt.TypeCondemnedFinal, fmt.Sprintf("condemned/%x.final", id), format.CondemnedFinal{ID: id, Packs: old}, false)
	for _, p := range old {
		if err := st.Delete(t.Context(), format.PackName(p.Name, p.Tree, p.Incarnation)); err != nil {
			t.Fatal(err)
		}
	}
	g, ctx := errgroup.WithContext(t.Context())
	for _, b := range blobs {
		g.Go(func() error {
			d, err := r.NewReader()
			if err != nil {
				return err
			}
			got, err := d.Get(ctx, crypt.Sum(b))
			if err == nil && !bytes.Equal(got, b) {
				err = errors.New("other bytes")
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	// A later snapshot's blob is found too; one that nobody stored is not looked for again and again.
	now := time.Now()
	r.now = func() time.Time { return now }
	for _, word := range []string{"later", "still later"} {
		now = now.Add(time.Hour)
		store(t, openWriter(t, st, c), []byte(word))
		if _, err := d.Get(t.Context(), crypt.Sum([]byte(word))); err != nil {
			t.Error(err)
		}
	}
	lists := st.Calls(fault.List)
	for range 3 {
		if _, err := d.Get(t.Context(), crypt.ID{1}); !errors.Is(err, ErrDamaged) {
			t.Errorf("a blob that nobody stored: %v", err)
		}
	}
	if n := st.Calls(fault.List) - lists; n != 0 {
		t.Errorf("%d listings for a blob that nobody stored, right after the last", n)
	}
	// Packs that are really gone: reported, and the index is read once for them.
	for _, p := range refsOf(t, st, "packs/") {
		if err := st.Delete(t.Context(), format.PackName(p.Name, p.Tree, p.Incarnation)); err != nil {
			t.Fatal(err)
		}
	}
	lists = st.Calls(fault.List)
	for range 5 {
		if _, err := d.Get(t.Context(), crypt.Sum(blobs[0])); !errors.Is(err, ErrDamaged) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a lost pack: %v", err)
		}
	}
	if n := st.Calls(fault.List) - lists; n != 6 { // condemned twice, verified, index, and packs and meta for what no segment names
		t.Errorf("%d listings for one lost pack", n)
	}
	// A storage that fails is not damage.
	st.Add(fault.Rule{Op: fault.Any, Sticky: true})
	if _, err := d.Get(t.Context(), crypt.Sum(blobs[0])); errors.Is(err, ErrDamaged) && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a failing storage: %v", err)
	}
}

// TestMend reads blobs of packs with damage that parity mends: flipped bytes, and sectors that cannot be read.
func TestMend(t *testing.T) {
	t.Parallel()
	base, c := newTestRepo(t)
	blobs := randomBlobs(20, 50_000)
	if _, _, err := backup(t.Context(), openWriter(t, base, c), blobs); err != nil {
		t.Fatal(err)
	}
	flipped := base.Clone()
	for name := range allNames(t, base, "packs/") {
		b, err := base.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5000 {
			b[60_000+i] ^= 0x55
		}
		if err := flipped.Put(t.Context(), name, b, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if r := readAll(t, flipped, blobs...); problemsWith(t, r, "packs/", ErrDamaged) != 1 {
		t.Errorf("problems %v", r.Problems())
	}
	readAll(t, badSectors{base, 60_000, 64_000}, blobs...)
}

// TestUnreadable lets the disk fail to read one object of each kind: everything that does not need it can be listed and read, and no session
// begins where it might hide whom to believe, or what is condemned.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	base, c := newTestRepo(t)
	nextSettings(t, base, func(v *format.Settings) { v.Parity = 1 })
	prune := enroll(t, base, "pruner", crypt.RolePrune, "")
	enroll(t, base, "host-b", crypt.RoleWriter, "")
	id := [16]byte{1}
	put(t, prune, crypt.TypeCondemned, fmt.Sprintf("condemned/%x", id), format.Condemned{ID: id, Packs: []format.PackRef{{Name: crypt.ID{1}}}}, false)
	blobs := randomBlobs(3, 5000)
	for range 2 {
		store(t, openWriter(t, base, c), blobs...)
	}
	for name := range allNames(t, base, "") {
		prefix, _, _ := strings.Cut(name, "/")
		refused, known := map[string]bool{"settings": true, "hosts": true, "condemned": true, "index": false, "snapshots": false, "leases": false, "packs": false, "meta": false}[prefix]
		own := strings.HasPrefix(name, fmt.Sprintf("hosts/%v/", c.Identity.Host)) || name == "settings/1"
		if !known || own {
			continue // a host whose certificate is gone has no snapshots; older settings are not read
		}
		st := fault.New(base.Clone(), fault.Rule{Op: fault.Get, Prefix: name, Sticky: true, Err: syscall.EIO})
		r := openReader(t, st)
		all, err := r.Snapshots(t.Context())
		if want := 2; err != nil || len(all) != want && (prefix != "snapshots" || len(all) != want-1) {
			t.Errorf("%s: %d snapshots, %v", name, len(all), err)
		}
		if prefix != "packs" && prefix != "meta" {
			readAll(t, st, blobs...)
			if _, _, err := backup(t.Context(), openWriter(t, st, c), blobs); (err != nil) != refused {
				t.Errorf("%s: a session began: %v", name, err)
			}
		}
	}
}

// badSectors cannot read some bytes of packs.
type badSectors struct {
	backends.Storage
	from, to int64
}

func (b badSectors) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if strings.HasPrefix(name, "packs/") && off < b.to && (n < 0 || off+n > b.from) {
		return nil, fmt.Errorf("reading %s: %w", name, syscall.EIO)
	}
	return b.Storage.Get(ctx, name, off, n)
}

// TestAdoptUnreadable leaves a pack that the disk cannot read behind a crashed session: the next one passes it over.
func TestAdoptUnreadable(t *testing.T) {
	t.Parallel()
	st, c := newTestRepo(t)
	s, err := openWriter(t, st, c).Begin(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.NewWorker()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Store([]byte("left behind")); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	r := openWriter(t, fault.New(st, fault.Rule{Op: fault.Get, Prefix: "packs/", Sticky: true, Err: syscall.EIO}), c)
	next, err := r.Begin(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	next.Close(t.Context())
	if problemsWith(t, r, "packs/", ErrStorage) != 1 || next.StoredStats().Adopted != 0 {
		t.Errorf("adopted %d, %v", next.StoredStats().Adopted, r.Problems())
	}
}

// TestRenewals lets Begin and Commit take long: the lease is renewed meanwhile.
func TestRenewals(t *testing.T) {
	base, c := newTestRepo(t)
	s, err := openWriter(t, base, c).Begin(t.Context(), SessionOptions{}) // the next session has something to adopt
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	for slow, want := range map[string]int{"get leases": 2, "put index": 2, "list forgotten": 2} {
		synctest.Test(t, func(t *testing.T) {
			st := fault.New(base.Clone())
			renewed := 0
			var mu sync.Mutex
			var slept atomic.Bool // no Once: who waits for a mutex stops the clock here
			st.SetHook(func(op fault.Op, name string) error {
				prefix, rest, _ := strings.Cut(name, "/")
				if op.String()+" "+prefix == slow && slept.CompareAndSwap(false, true) {
					time.Sleep(2*RenewEvery + time.Minute)
				}
				mu.Lock()
				defer mu.Unlock()
				if op == fault.Put && prefix == "leases" && strings.Contains(rest, ".") {
					renewed++
				}
				return nil
			})
			r := openWriter(t, st, c)
			r.now = func() time.Time { return time.Now().AddDate(30, 0, 0) } // here it is the year 2000, before the certificates
			if _, _, err := backup(t.Context(), r, randomBlobs(2, 5000)); err != nil {
				t.Fatal(err)
			}
			if renewed != want {
				t.Errorf("slow %s: %d renewals, want %d", slow, renewed, want)
			}
		})
	}
}

// TestCertificateBegins: a clock that is some hours slow hinders nobody, one from before the certificate does.
func TestCertificateBegins(t *testing.T) {
	st, c := newTestRepo(t)
	r := openWriter(t, st, c)
	begins := time.Unix(r.trust.Certificate(c.Identity.Host).Before, 0)
	for early, want := range map[time.Duration]error{0: nil, 23 * time.Hour: nil, 25 * time.Hour: ErrNeedHost} {
		r.now = func() time.Time { return begins.Add(-early) }
		s, err := r.Begin(t.Context(), SessionOptions{})
		if !errors.Is(err, want) {
			t.Errorf("%v early: %v", early, err)
		}
		if err == nil {
			s.Close(t.Context())
		}
	}
}
