package gc_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/repo/format"
	"packhold/repo/repotest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/gc"
	"packhold/repo/snapshot"
)

// copies is how often a test is made whose outcome without its law depends on which of two places of a blob comes first.
const copies = 6

// readable fails unless every listed snapshot can be read to its last blob.
func (w *world) readable() {
	w.t.Helper()
	r := w.again(w.boss)
	if err := r.LoadIndex(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	d, err := r.NewReader()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range w.snapshots() {
		ids := make(map[crypt.ID]bool)
		if err := blobsOf(w.t.Context(), r, s.Root, ids); err != nil {
			w.t.Errorf("snapshot %v: %v", s.ID(), err)
			continue
		}
		for id := range ids {
			if _, err := d.Get(w.t.Context(), id); err != nil {
				w.t.Errorf("snapshot %v, blob %v: %v", s.ID(), id, err)
				return
			}
		}
	}
}

// segments reads all index segments.
func (w *world) segments() (names []string, all []*index.Segment) {
	w.t.Helper()
	r := w.again(w.boss) // that knows all hosts
	for i, err := range w.store.List(w.t.Context(), "index/") {
		if err != nil {
			w.t.Fatal(err)
		}
		object, err := w.store.Get(w.t.Context(), i.Name, 0, -1)
		if err != nil {
			w.t.Fatal(err)
		}
		seg, err := r.SegmentObject(i.Name, object)
		if err != nil {
			w.t.Fatal(err)
		}
		names, all = append(names, i.Name), append(all, seg)
	}
	return names, all
}

// claim stores a segment in which a host says of a pack what is not so. It ends its session, and describes the pack as one of its own, under a read key of
// epoch if that is not 0. Its name comes before that of another segment, if that is
// not "".
func (w *world) claim(r *repo.Repo, p index.Pack, entries []index.Entry, epoch uint32, before string) {
	w.t.Helper()
	keys := r.Settings().ReadKeys
	read, err := keys[len(keys)-1].Public()
	if err != nil {
		w.t.Fatal(err)
	}
	if epoch != 0 {
		read.Epoch = epoch
	}
	id := r.Keys().Identity
	_, rec, err := crypt.NewSession(r.Config().ID, id, read)
	if err != nil {
		w.t.Fatal(err)
	}
	p.Session = 0
	seg := &index.Segment{Host: id.Host, Session: rec.Session, Nonce: [32]byte(rec.Nonce), Sessions: [][]byte{rec.Bytes()}, Packs: []index.Pack{p}, Entries: slices.Clone(entries)}
	for i := range seg.Entries {
		seg.Entries[i].Pack = 0
	}
	seg.Sort()
	body, err := seg.Marshal()
	if err != nil {
		w.t.Fatal(err)
	}
	for {
		name, object, err := r.SealControl(crypt.TypeIndex, "index/", body)
		if err != nil {
			w.t.Fatal(err)
		}
		if before != "" && name > before {
			continue
		}
		if err := w.store.Put(w.t.Context(), name, object, backends.PutOptions{}); err != nil {
			w.t.Fatal(err)
		}
		break
	}
	void, err := (&snapshot.Record{Session: rec.Session, Host: id.Host, Nonce: [32]byte(rec.Nonce), Kind: snapshot.Void}).Marshal()
	if err != nil {
		w.t.Fatal(err)
	}
	name := "snapshots/" + rec.Session.String()
	_, object, err := r.SealControl(crypt.TypeSnapshot, name, void)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.store.Put(w.t.Context(), name, object, backends.PutOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// lie has a host claim every blob that is not in one of its own packs: each is said to be in a pack of that host, where it is not.
func (w *world) lie(r *repo.Repo, epoch uint32) {
	w.t.Helper()
	w.backup(r, map[string]string{"own": random(4711, 200_000)}, backup.Options{})
	var own index.Pack
	var entries []index.Entry
	_, all := w.segments()
	for _, seg := range all {
		for _, p := range seg.Packs {
			if seg.Host == r.Keys().Identity.Host && p.Kind == crypt.TypeDataPack {
				own = p
			}
		}
		if seg.Host != r.Keys().Identity.Host {
			for _, e := range seg.Entries {
				if seg.Packs[e.Pack].Kind == crypt.TypeDataPack {
					entries = append(entries, index.Entry{ID: e.ID, Offset: 48, Length: min(e.Length, 100), Raw: e.Raw, Compression: e.Compression})
				}
			}
		}
	}
	slices.SortFunc(entries, func(a, b index.Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	entries = slices.CompactFunc(entries, func(a, b index.Entry) bool { return a.ID == b.ID })
	w.claim(r, own, entries, epoch, "")
}

// TestCompactKeepsWhatOthersSay: a host that describes another's pack must not take the place of what its owner says of it.
func TestCompactKeepsWhatOthersSay(t *testing.T) {
	w := newWorld(t)
	thief := w.role("thief", crypt.RoleWriter)
	for i := range 20 {
		s := w.backup(w.host(), some(i*7), backup.Options{})
		if i == 3 {
			w.forget(s)
		}
	}
	names, all := w.segments()
	for _, seg := range all {
		for n, p := range seg.Packs {
			e := slices.IndexFunc(seg.Entries, func(e index.Entry) bool { return int(e.Pack) == n })
			w.claim(thief, p, seg.Entries[e:e+1], 0, slices.Min(names))
		}
	}
	if res := w.prune(gc.PruneOptions{}); res.Segments < 20 {
		t.Errorf("%+v", res)
	}
	w.readable()
}

// TestRepackCountsOnNothing: what a prune copies out of a pack that goes is not believed to be elsewhere because somebody says so.
func TestRepackCountsOnNothing(t *testing.T) {
	files := make(map[string]string)
	for i := range 20 {
		files[fmt.Sprint(i)] = random(i, 30_000)
	}
	base := newWorld(t)
	thief := base.role("thief", crypt.RoleWriter)
	all := base.backup(base.host(), files, backup.Options{})
	base.backup(base.host(), map[string]string{"3": files["3"], "17": files["17"]}, backup.Options{})
	base.forget(all)
	base.lie(thief, 0)
	for range copies {
		w := *base
		w.store = base.store.Clone()
		if res := w.prune(gc.PruneOptions{MaxRepack: -1, MaxUnused: 0.1}); res.Repacked > 1 {
			t.Errorf("%+v", res)
		}
		w.readable()
	}
}

// TestSecondLookOpensCopies: that a blob is elsewhere is not believed at the second look either, whoever says so.
func TestSecondLookOpensCopies(t *testing.T) {
	w := newWorld(t)
	thief := w.role("thief", crypt.RoleWriter)
	blobs := [][]byte{[]byte(random(1, 50_000)), []byte(random(2, 50_000))}
	commit := func(s *repo.Session) *repo.Snapshot {
		t.Helper()
		wk, err := s.NewWorker()
		if err != nil {
			t.Fatal(err)
		}
		root, err := tree(wk, blobs)
		if err != nil {
			t.Fatal(err)
		}
		snap, err := s.Commit(t.Context(), &snapshot.Record{Root: root, Type: snapshot.Full, Start: snapshot.Time{Sec: 1e9}, Lineage: [32]byte{1}}, &snapshot.Body{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Close(t.Context())
		return snap
	}
	begin := func() *repo.Session {
		t.Helper()
		s, err := w.host().Begin(t.Context(), repo.SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	w.forget(commit(begin()))
	s := begin()
	w.lie(thief, 0)
	if res := w.prune(gc.PruneOptions{}); res.Waiting != 1 {
		t.Errorf("%+v", res)
	}
	commit(s)
	w.readable()
	w.prune(gc.PruneOptions{})
	w.readable()
}

// TestUnknownReadKey: a place of a blob under a read key that nobody has hides no other one.
func TestUnknownReadKey(t *testing.T) {
	base := newWorld(t)
	thief := base.role("thief", crypt.RoleWriter)
	a := base.backup(base.host(), some(1), backup.Options{})
	base.backup(base.host(), some(2), backup.Options{})
	base.lie(thief, 77)
	for range copies {
		w := *base
		w.store = base.store.Clone()
		w.readable()
		w.forget(a)
		w.prune(gc.PruneOptions{MaxRepack: -1})
		w.readable()
	}
}

// TestRepackOverlaps: entries of a pack that overlap, as no writer makes them, stop no prune.
func TestRepackOverlaps(t *testing.T) {
	files := make(map[string]string)
	for i := range 20 {
		files[fmt.Sprint(i)] = random(i, 30_000)
	}
	base := newWorld(t)
	thief := base.role("thief", crypt.RoleWriter)
	all := base.backup(base.host(), files, backup.Options{})
	kept := map[string]string{"3": files["3"], "17": files["17"], "5": files["5"]}
	base.backup(base.host(), kept, backup.Options{})
	base.forget(all)
	_, segs := base.segments()
	for _, seg := range segs {
		for n, p := range seg.Packs {
			var wrong []index.Entry
			for _, e := range seg.Entries {
				if int(e.Pack) == n && p.Kind == crypt.TypeDataPack {
					e.Offset, e.Length = 48+uint32(len(wrong)), 50_000-1000*uint32(len(wrong))
					wrong = append(wrong, e)
				}
			}
			if len(wrong) > 0 {
				base.claim(thief, p, wrong, 0, "")
			}
		}
	}
	for range copies {
		w := *base
		w.store = base.store.Clone()
		w.prune(gc.PruneOptions{MaxRepack: -1})
		w.readable()
	}
}

// TestManyProblems: that more objects are damaged than are told hides no snapshot that cannot be read.
func TestManyProblems(t *testing.T) {
	w := newWorld(t)
	a := w.backup(w.host(), some(1), backup.Options{})
	junk := []byte("junk")
	for i := range 10_001 {
		if err := w.store.Put(t.Context(), "verified/"+crypt.Sum([]byte(fmt.Sprint(i))).String(), junk, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.store.Put(t.Context(), a.Name, junk, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	before := w.packs()
	if _, err := gc.Prune(t.Context(), w.holder(w.store), gc.PruneOptions{}); !errors.Is(err, gc.ErrUnsafe) {
		t.Error(err)
	}
	if !slices.Equal(before, w.packs()) {
		t.Error("packs were removed")
	}
}

// TestUnknownLease: a lease that nobody can read, or that somebody took away, delays a prune by an hour, and not for ever.
func TestUnknownLease(t *testing.T) {
	for _, gone := range []bool{false, true} {
		w := newWorld(t)
		now := time.Now()
		w.store = mem.New(func() time.Time { return now })
		c, err := repotest.Copy(t.Context(), w.store, repotest.Options{Parity: 2, PackSize: format.MinPackSize})
		if err != nil {
			t.Fatal(err)
		}
		w.cred = c
		w.boss = w.open(w.store, repo.Access{Credential: c, Passphrase: []byte(repotest.Passphrase)})
		w.forget(w.backup(w.host(), some(1), backup.Options{}))
		lease := format.LeaseName(crypt.SessionID{1, 2, 3}, 0)
		if err := w.store.Put(t.Context(), lease, []byte("junk"), backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if res := w.prune(gc.PruneOptions{}); res.Waiting != 1 || res.Removed != 0 {
			t.Errorf("%+v", res)
		}
		if gone {
			if err := w.store.Delete(t.Context(), lease); err != nil {
				t.Fatal(err)
			}
		}
		now = now.Add(2 * time.Hour)
		if res := w.prune(gc.PruneOptions{}); res.Fenced != 1 || res.Removed == 0 {
			t.Errorf("%+v", res)
		}
		if _, err := w.host().Snapshots(t.Context()); err != nil {
			t.Error(err)
		}
		if res := w.prune(gc.PruneOptions{}); res.Waiting != 0 {
			t.Errorf("%+v", res)
		}
	}
}

// TestHoldAfterTheEndOfTime: whoever took holds back in the last second there is cannot keep others from holding.
func TestHoldAfterTheEndOfTime(t *testing.T) {
	w := newWorld(t)
	a := w.backup(w.host(), some(1), backup.Options{})
	operator := w.role("operator", crypt.RoleOperator)
	w.signed(operator, crypt.TypeMark, "marks/", format.Mark{Kind: format.MarkHold, Session: a.Session, Remove: true, Time: math.MaxInt64})
	r := w.again(w.boss)
	err := gc.AddHold(t.Context(), r, a, time.Time{}, "")
	m, rerr := gc.ReadMarks(t.Context(), r)
	if rerr != nil {
		t.Fatal(rerr)
	}
	if err == nil && len(m.Held(r, a)) == 0 {
		t.Error("the hold was told to be good, and keeps nothing")
	}
}

// TestForgottenReadTwice: what takes a snapshot out of the list is read twice, by who wants to know what is listed and by who wants to know what of the
// forgotten is held. If it can be read only the first time, a held snapshot must not fall between.
func TestForgottenReadTwice(t *testing.T) {
	w := newWorld(t)
	a := w.backup(w.host(), some(1), backup.Options{})
	w.forget(a)
	w.signed(w.holder(w.store), crypt.TypeMark, "marks/", format.Mark{Kind: format.MarkHold, Session: a.Session, Time: time.Now().Unix()})
	st := fault.New(w.store)
	n := 0
	st.SetHook(func(op fault.Op, name string) error {
		if op == fault.Get && strings.HasPrefix(name, "forgotten/") {
			if n++; n > 1 {
				return syscall.EIO
			}
		}
		return nil
	})
	before := w.packs()
	if _, err := gc.Prune(t.Context(), w.holder(st), gc.PruneOptions{}); !errors.Is(err, gc.ErrUnsafe) || !slices.Equal(before, w.packs()) {
		t.Errorf("a held snapshot was pruned: %v", err)
	}
}

// TestListedAndGone: nobody removes a snapshot or a mark, nor the lease of an open session, so one that is listed and then is not there is a fault, and may
// be needed.
func TestListedAndGone(t *testing.T) {
	for _, prefix := range []string{"snapshots/", "marks/", "leases/"} {
		w := newWorld(t)
		a := w.backup(w.host(), some(1), backup.Options{})
		if prefix == "leases/" {
			w.forget(a)
			s, err := w.host().Begin(t.Context(), repo.SessionOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(t.Context())
			prefix += s.ID.String()
		}
		if prefix == "marks/" {
			w.forget(a)
			w.signed(w.holder(w.store), crypt.TypeMark, "marks/", format.Mark{Kind: format.MarkHold, Session: a.Session, Time: time.Now().Unix()})
		}
		st := fault.New(w.store)
		st.SetHook(func(op fault.Op, name string) error {
			if op == fault.Get && strings.HasPrefix(name, prefix) {
				return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
			}
			return nil
		})
		before := w.packs()
		res, err := gc.Prune(t.Context(), w.holder(st), gc.PruneOptions{})
		if !errors.Is(err, gc.ErrUnsafe) && !errors.Is(err, gc.ErrUnsure) && res.Waiting == 0 || !slices.Equal(before, w.packs()) {
			t.Errorf("%s: it was pruned: %v", prefix, err)
		}
	}
}

// TestHoldOfRevoked: what somebody held stays held when he leaves, until another takes it back; what he took back since does not count.
func TestHoldOfRevoked(t *testing.T) {
	w := newWorld(t)
	a := w.backup(w.host(), some(1), backup.Options{})
	operator := w.role("operator", crypt.RoleOperator)
	if err := gc.AddHold(t.Context(), operator, a, time.Time{}, ""); err != nil {
		t.Fatal(err)
	}
	r := w.again(w.boss)
	r.Trust().Revoke(operator.Keys().Identity.Host)
	if _, err := gc.Forget(t.Context(), r, []*repo.Snapshot{a}, ""); !errors.Is(err, gc.ErrHeld) {
		t.Error(err)
	}
	w.signed(operator, crypt.TypeMark, "marks/", format.Mark{Kind: format.MarkHold, Session: a.Session, Remove: true, Time: math.MaxInt64})
	if _, err := gc.Forget(t.Context(), r, []*repo.Snapshot{a}, ""); !errors.Is(err, gc.ErrHeld) {
		t.Error(err)
	}
	if n, err := gc.RemoveHolds(t.Context(), r, a); n != 1 || err != nil {
		t.Error(n, err)
	}
	if err := gc.AddHold(t.Context(), r, a, time.Time{}, ""); err != nil {
		t.Error(err)
	}
	if _, err := gc.Forget(t.Context(), r, []*repo.Snapshot{a}, ""); !errors.Is(err, gc.ErrHeld) {
		t.Error(err)
	}
	if n, err := gc.RemoveHolds(t.Context(), r, a); n != 1 || err != nil {
		t.Error(n, err)
	}
	if n, err := gc.Forget(t.Context(), r, []*repo.Snapshot{a}, ""); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// TestNoSession: every session leaves something under snapshots/ or its lease. Where neither is left, and packs are, somebody took the folder away.
func TestNoSession(t *testing.T) {
	w := newWorld(t)
	w.backup(w.host(), some(1), backup.Options{})
	for i, err := range w.store.List(t.Context(), "snapshots/") {
		if err == nil {
			err = w.store.Delete(t.Context(), i.Name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	before := w.packs()
	if _, err := gc.Prune(t.Context(), w.holder(w.store), gc.PruneOptions{}); !errors.Is(err, gc.ErrUnsafe) || !slices.Equal(before, w.packs()) {
		t.Errorf("everything was pruned: %v", err)
	}
}
