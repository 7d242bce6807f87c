package lock_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/audit"
	"packhold/repo/format"
	"packhold/repo/lock"
	"packhold/repo/repotest"
	"packhold/repo/snapshot"
)

const day = 24 * time.Hour

// place is a locked repository whose clock the test moves.
type place struct {
	now        time.Time
	mem        *mem.Store
	faults     *fault.Store
	credential *crypt.Credential
	cache      string
}

func newPlace(t *testing.T) *place {
	p := &place{now: time.Now(), cache: filepath.Join(t.TempDir(), "index")}
	p.mem = mem.New(func() time.Time { return p.now })
	p.faults = fault.New(p.mem)
	c, err := repotest.Copy(t.Context(), p.faults, repotest.Options{PackSize: format.MinPackSize, Lock: 30 * day})
	if err != nil {
		t.Fatal(err)
	}
	p.credential = c
	return p
}

func (p *place) open(t *testing.T) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), p.faults, repo.Access{Credential: p.credential}, repo.Options{Now: func() time.Time { return p.now }, CachePath: p.cache, LocksPath: p.cache + ".locks"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// backup stores blobs that are not there, and a snapshot that leans on all of them.
func backup(t *testing.T, r *repo.Repo, class string, blobs ...string) (*repo.Snapshot, error) {
	t.Helper()
	s, err := r.Begin(t.Context(), repo.SessionOptions{Retention: class})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	w, err := s.NewWorker()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if _, _, err := w.Store([]byte(b)); err != nil {
			t.Fatal(err)
		}
	}
	page, _, err := w.StoreTree([]byte("a tree page, as far as this room knows"))
	if err != nil {
		t.Fatal(err)
	}
	rec := &snapshot.Record{Root: page, Type: snapshot.Full, Start: snapshot.Time{Sec: 1e9}, Lineage: [32]byte{1}, Retention: class}
	snap, err := s.Commit(t.Context(), rec, &snapshot.Body{}, nil)
	if err == nil {
		err = r.SaveCache()
	}
	return snap, err
}

func mustBackup(t *testing.T, r *repo.Repo, class string, blobs ...string) *repo.Snapshot {
	t.Helper()
	snap, err := backup(t, r, class, blobs...)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// ends are the dates of all objects below the prefixes.
func (p *place) ends(t *testing.T, prefixes ...string) map[string]time.Time {
	t.Helper()
	all := make(map[string]time.Time)
	for _, prefix := range prefixes {
		for i, err := range p.mem.List(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			info, err := p.mem.Stat(t.Context(), i.Name)
			if err != nil {
				t.Fatal(err)
			}
			all[i.Name] = info.RetainUntil
		}
	}
	return all
}

// within fails unless every date is between the two, counted from now.
func (p *place) within(t *testing.T, what string, ends map[string]time.Time, least, most time.Duration) {
	t.Helper()
	if len(ends) == 0 {
		t.Errorf("%s: nothing is there", what)
	}
	for name, end := range ends {
		if left := end.Sub(p.now); left < least || left > most {
			t.Errorf("%s: %s is kept for %v, want %v to %v", what, name, left, least, most)
		}
	}
}

func look(t *testing.T, r *repo.Repo) *lock.Status {
	t.Helper()
	s, err := lock.Look(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLocked(t *testing.T) {
	p := newPlace(t)
	r := p.open(t)
	// What init stored lies open until the first extension.
	if s := look(t, r); s.Opened == 0 || s.Guard != backends.Unguarded || !s.Due(p.now) || !strings.HasPrefix(s.Open[0], "bundles/") {
		t.Errorf("%+v", s)
	}
	held, err := lock.Extend(t.Context(), r)
	if err != nil || held.Extended != held.Objects || held.Objects < 10 {
		t.Errorf("%+v, %v", held, err)
	}
	mustBackup(t, r, "", "one")
	mustBackup(t, r, "long", "two")
	names := 0
	for name, end := range p.ends(t, "") {
		names++
		locked := end.After(p.now)
		if locked != format.WriteOnce(name) {
			t.Errorf("%s is kept until %v", name, end)
		}
		err := p.mem.Delete(t.Context(), name)
		if _, kept := errors.AsType[*backends.KeptError](err); kept != locked {
			t.Errorf("deleting %s: %v", name, err)
		}
	}
	if names < 15 {
		t.Errorf("%d objects", names)
	}
	s := look(t, r)
	if s.Opened != 0 || s.Guard != backends.Governance || s.Due(p.now) || len(s.Classes) != 2 || s.Policy.Compliance || s.Gone != 0 {
		t.Errorf("%+v", s)
	}
	short, long := s.Classes[0], s.Classes[1]
	if short.Name != "" || short.Length != 30*day || short.Locked != short.Objects || short.First.Before(p.now.Add(30*day)) {
		t.Errorf("%+v", short)
	}
	// A data pack and the snapshot. Its tree page is the other's.
	if long.Name != "long" || long.Length != 300*day || long.Objects != 2 || long.Locked != 2 || long.First.Before(p.now.Add(300*day)) {
		t.Errorf("%+v", long)
	}
	// In time the locks end, unless they are extended.
	p.now = p.now.Add(20 * day)
	if s := look(t, r); s.Opened != 0 || !s.Due(p.now) {
		t.Errorf("%+v", s)
	}
	p.now = p.now.Add(20 * day)
	if s := look(t, r); s.Opened == 0 || s.Classes[1].Locked != 2 || !s.Due(p.now) {
		t.Errorf("%+v", s)
	}
	if held, err := lock.Extend(t.Context(), r); err != nil || held.Extended != held.Objects-4 { // the class's pack, snapshot and segment, and the tree page it leans on
		t.Errorf("%+v, %v", held, err)
	}
	if s := look(t, r); s.Opened != 0 || s.Due(p.now) {
		t.Errorf("%+v", s)
	}
	if held, err := lock.Extend(t.Context(), r); err != nil || held.Extended != 0 {
		t.Errorf("once more: %+v, %v", held, err)
	}
}

// TestLean: before a snapshot is there, all that it leans on stays as long as its class promises; that costs no request where it is known.
func TestLean(t *testing.T) {
	p := newPlace(t)
	r := p.open(t)
	if _, err := lock.Extend(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	mustBackup(t, r, "", "a", "b")
	p.within(t, "new", p.ends(t, "packs/", "meta/", "index/", "snapshots/"), 30*day, 38*day)

	// Later ones of the class ask nothing as long as enough is left, also in another run; then once for each pack.
	requests := func(class string) (stats, extensions int) {
		t.Helper()
		var count [2]atomic.Int32 // the hook is called concurrently
		length := 30 * day
		if class == "long" {
			length *= 10
		}
		p.faults.SetHook(func(op fault.Op, name string) error {
			if op == fault.Put && strings.HasPrefix(name, "snapshots/") {
				p.within(t, "when the snapshot comes", p.ends(t, "packs/", "meta/"), length, 376*day)
			}
			if !strings.HasPrefix(name, "packs/") && !strings.HasPrefix(name, "meta/") {
				return nil
			}
			switch op {
			case fault.Stat:
				count[0].Add(1)
			case fault.Put:
				count[1].Add(1)
			}
			return nil
		})
		defer p.faults.Clear()
		mustBackup(t, p.open(t), class, "a", "b")
		return int(count[0].Load()), int(count[1].Load())
	}
	p.now = p.now.Add(5 * day)
	if s, x := requests(""); s > 2 || x != 0 { // one of those that are known is asked for in any case, and now and then another one
		t.Errorf("%d packs were asked for and %d extended, none had to be", s, x)
	}
	p.now = p.now.Add(5 * day)
	if s, x := requests(""); s != 2 || x != 2 {
		t.Errorf("%d packs were asked for and %d extended, want 2", s, x)
	}
	p.within(t, "extended", p.ends(t, "packs/", "meta/"), 30*day, 38*day)
	if s, x := requests(""); s > 2 || x != 0 { // one of those that are known is asked for in any case, and now and then another one
		t.Errorf("%d packs were asked for and %d extended, none had to be", s, x)
	}
	// A class that promises more extends what another one stored.
	if s, x := requests("long"); s != 2 || x != 2 {
		t.Errorf("%d packs were asked for and %d extended, want 2", s, x)
	}
	p.within(t, "long", p.ends(t, "packs/", "meta/"), 300*day, 376*day)

	// What is remembered of another place, with a copy of this repository, is not believed.
	copied := newPlace(t)
	copied.now, copied.cache, copied.credential = p.now, p.cache, p.credential
	for i, err := range p.mem.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := p.mem.Get(t.Context(), i.Name, 0, -1)
		if err == nil {
			err = copied.mem.Put(t.Context(), i.Name, b, backends.PutOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mustBackup(t, copied.open(t), "", "a", "b")
	copied.within(t, "the copy's", copied.ends(t, "packs/", "meta/"), 30*day, 38*day)

	// A machine that knows nothing asks for each once, and extends none. So does one whose memory was written by somebody else.
	p.cache = filepath.Join(t.TempDir(), "index")
	if s, x := requests(""); s != 2 || x != 0 {
		t.Errorf("%d packs were asked for and %d extended, want 2 and none", s, x)
	}
	if s, x := requests(""); s > 2 || x != 0 { // one of those that are known is asked for in any case, and now and then another one
		t.Errorf("%d packs were asked for and %d extended, none had to be", s, x)
	}
}

// TestLeanFirst: as long as one pack cannot be kept for long enough there is no snapshot.
func TestLeanFirst(t *testing.T) {
	for what, c := range map[string]struct {
		rule fault.Rule
		want error
	}{
		"refused":      {fault.Rule{Op: fault.Put, Prefix: "packs/", Sticky: true, Err: fmt.Errorf("no: %w", fs.ErrPermission)}, fs.ErrPermission},
		"unreachable":  {fault.Rule{Op: fault.Stat, Prefix: "meta/", Sticky: true}, repo.ErrStorage},
		"clock":        {fault.Rule{Op: fault.Put, Prefix: "meta/", Sticky: true, Err: backends.ErrClock}, backends.ErrClock},
		"not there":    {fault.Rule{Op: fault.Stat, Prefix: "packs/", Sticky: true, Err: fs.ErrNotExist}, repo.ErrDamaged},
		"answers lost": {fault.Rule{Op: fault.Put, Prefix: "packs/", Effect: fault.After}, repo.ErrStorage},
	} {
		t.Run(what, func(t *testing.T) {
			p := newPlace(t)
			r := p.open(t)
			mustBackup(t, r, "", "a")
			p.now = p.now.Add(20 * day)
			p.faults.Add(c.rule)
			_, err := backup(t, r, "", "a")
			if !errors.Is(err, c.want) || c.want != fs.ErrNotExist && errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v, want %v", err, c.want)
			}
			p.faults.Clear()
			snaps, err := p.open(t).Snapshots(t.Context())
			if err != nil || len(snaps) != 1 {
				t.Errorf("%d snapshots, %v", len(snaps), err)
			}
			mustBackup(t, p.open(t), "", "a")
			p.within(t, "at last", p.ends(t, "packs/", "meta/"), 30*day, 38*day)
		})
	}
}

// TestLongSession: what a session stored at its beginning is kept for long enough at its end, too.
func TestLongSession(t *testing.T) {
	p := newPlace(t)
	r := p.open(t)
	s, err := r.Begin(t.Context(), repo.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	w, err := s.NewWorker()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Store([]byte("early")); err != nil {
		t.Fatal(err)
	}
	page, _, err := w.StoreTree([]byte("page"))
	if err == nil {
		err = s.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	p.now = p.now.Add(10 * day)
	rec := &snapshot.Record{Root: page, Type: snapshot.Full, Start: snapshot.Time{Sec: 1e9}, Lineage: [32]byte{1}}
	if _, err := s.Commit(t.Context(), rec, &snapshot.Body{}, nil); err != nil {
		t.Fatal(err)
	}
	p.within(t, "the session's own", p.ends(t, "packs/", "meta/"), 30*day, 38*day)
}

// TestNotLocked: without write-once nothing is asked for and nothing locked.
func TestNotLocked(t *testing.T) {
	st := fault.New(mem.New(time.Now))
	c, err := repotest.Copy(t.Context(), st, repotest.Options{PackSize: format.MinPackSize})
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), st, repo.Access{Credential: c}, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustBackup(t, r, "7y", "a")
	if _, err := lock.Extend(t.Context(), r); !errors.Is(err, lock.ErrNone) {
		t.Error(err)
	}
	s := look(t, r)
	if s.Policy.Length != 0 || s.Guard != backends.Unguarded || s.Opened < 10 || len(s.Classes) != 2 || s.Classes[1].Name != "7y" || s.Classes[1].Objects == 0 {
		t.Errorf("%+v", s)
	}
}

// TestUnsupported: a storage that cannot keep files gets no locked repository, and none is written to on one.
func TestUnsupported(t *testing.T) {
	plain := &without{mem.New(time.Now)}
	if _, err := repotest.Init(t.Context(), plain, repotest.Options{PackSize: format.MinPackSize, Lock: day}); !errors.Is(err, backends.ErrUnsupported) {
		t.Error(err)
	}
	for i := range plain.List(t.Context(), "") {
		t.Errorf("%s is left", i.Name)
	}
	newPlace(t) // one is made where that works, of which this is a copy
	c, err := repotest.Copy(t.Context(), plain, repotest.Options{PackSize: format.MinPackSize, Lock: 30 * day})
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), plain, repo.Access{Credential: c}, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Begin(t.Context(), repo.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	w, err := s.NewWorker()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = w.StoreTree([]byte("page")); err == nil {
		err = s.Flush()
	}
	if !errors.Is(err, backends.ErrUnsupported) {
		t.Errorf("stored without a lock: %v", err)
	}
	if _, err := lock.Extend(t.Context(), r); !errors.Is(err, backends.ErrUnsupported) {
		t.Errorf("extended without locks: %v", err)
	}
	// A copy may be kept there, and what is said of it. It lies open, which is told.
	s.Close(t.Context())
	if s, err = r.Begin(t.Context(), repo.SessionOptions{Purpose: "replicate"}); err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if w, err = s.NewWorker(); err != nil {
		t.Fatal(err)
	}
	page, _, err := w.StoreTree([]byte("page"))
	if err == nil {
		rec := &snapshot.Record{Root: page, Type: snapshot.Full, Start: snapshot.Time{Sec: 1e9}, Lineage: [32]byte{1}}
		_, err = s.Commit(t.Context(), rec, &snapshot.Body{}, nil)
	}
	if err != nil {
		t.Error(err)
	}
	if s := look(t, r); s.Guard != backends.Unguarded || !s.Due(time.Now()) || s.Opened == 0 {
		t.Errorf("%+v", s)
	}
}

// without is a storage that keeps no files.
type without struct{ *mem.Store }

func (w *without) Put(ctx context.Context, name string, data []byte, o backends.PutOptions) error {
	if !o.RetainUntil.IsZero() {
		return backends.ErrUnsupported
	}
	return w.Store.Put(ctx, name, data, o)
}

// TestAuditFreed: parts of an audit log that newer ones made superfluous become free, and are removed then; what is needed stays.
func TestAuditFreed(t *testing.T) {
	p := newPlace(t)
	r := p.open(t)
	log, err := audit.Open(t.Context(), r, audit.Options{State: filepath.Join(t.TempDir(), "state.json"), Now: func() time.Time { return p.now }, User: "u", Tool: "t"})
	if err != nil {
		t.Fatal(err)
	}
	events := func(n int) {
		t.Helper()
		for range n {
			if _, err := log.Append(t.Context(), audit.Event{Op: "test", Outcome: audit.Success}); err != nil {
				t.Fatal(err)
			}
		}
	}
	tiles := func() int {
		t.Helper()
		n := 0
		for name := range p.ends(t, "audit/") {
			if strings.Contains(name, ".p/") {
				n++
			}
		}
		return n
	}
	events(39) // with the first record, which says that the log begins, 40
	if n := tiles(); n != 39 {
		t.Errorf("%d tiles, all are locked: want 39", n)
	}
	p.now = p.now.Add(36 * day)
	if _, err := lock.Extend(t.Context(), r); err != nil { // of the newest tile only
		t.Fatal(err)
	}
	p.now = p.now.Add(2 * day)
	events(7)
	if n := tiles(); n != 46 {
		t.Errorf("%d tiles, want 46", n)
	}
	events(1) // at 48 the log is tidied
	if n := tiles(); n != 9 {
		t.Errorf("%d tiles, want the 8 new ones and the one that was the newest", n)
	}
	if s := look(t, r); s.Opened != 0 {
		t.Errorf("%d of the needed objects lie open: %q", s.Opened, s.Open)
	}
}
