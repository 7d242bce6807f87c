package audit

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/chunk"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/admin"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/snapshot"
)

const passphrase = "correct horse battery"

type base struct {
	storage *mem.Store
	read    *crypt.ReadPrivate
	a, b    *crypt.Credential
}

// bases is one repository with two hosts for all tests, which take copies. Its RSA key protects nothing: drawing one takes seconds.
var bases = sync.OnceValues(func() (*base, error) {
	pemBytes, err := os.ReadFile("../../crypt/testdata/test-rsa.pem")
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(pemBytes)
	key, err := crypt.ReadKeyForm{Epoch: 1, Wrap: crypt.WrapRSAHPKE, RSA: block.Bytes, HPKE: bytes.Repeat([]byte{1}, 32)}.Private()
	if err != nil {
		return nil, err
	}
	s := mem.New(time.Now)
	ctx := context.Background()
	a, err := admin.Init(ctx, s, admin.InitOptions{Passphrase: []byte(passphrase), Iterations: crypt.MinIterations,
		Config: format.Config{Profile: format.Standard, Chunker: chunk.DefaultParams()}, Parity: 2, PackSize: format.MinPackSize,
		Compression: "fastest", HostName: "host-a", Label: "first", ReadKey: key, Now: time.Unix(1e9, 0)})
	if err != nil {
		return nil, err
	}
	r, err := repo.Open(ctx, s, repo.Access{Passphrase: []byte(passphrase)}, repo.Options{})
	if err != nil {
		return nil, err
	}
	b, err := admin.EnrollHost(ctx, r, "host-b", crypt.RoleWriter)
	return &base{s, key, a, b}, err
})

// fixture is a repository of one test.
type fixture struct {
	t     testing.TB
	mem   *mem.Store
	fault *fault.Store // in front of mem
	key   *crypt.ReadPrivate
	a, b  *repo.Repo
	state string
	clock time.Time
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	b, err := bases()
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, mem: b.storage.Clone(), key: b.read, state: filepath.Join(t.TempDir(), "state", "audit.json"), clock: time.Unix(1.7e9, 123)}
	f.fault = fault.New(f.mem)
	f.a, f.b = f.repo(b.a), f.repo(b.b)
	return f
}

func (f *fixture) repo(c *crypt.Credential) *repo.Repo {
	f.t.Helper()
	r, err := repo.Open(f.t.Context(), f.fault, repo.Access{Credential: c}, repo.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// reader is host b with what a passphrase gives, whose stretching takes long.
func (f *fixture) reader(keys ...*crypt.ReadPrivate) *repo.Repo {
	f.t.Helper()
	b, err := bases()
	if err != nil {
		f.t.Fatal(err)
	}
	r := f.repo(b.b)
	r.Keys().Read = map[uint32]*crypt.ReadPrivate{}
	for _, k := range keys {
		r.Keys().Read[k.Epoch] = k
	}
	return r
}

// records reads a log.
func (f *fixture) records(r *repo.Repo, tag string) []Record {
	f.t.Helper()
	var all []Record
	for rec, err := range Records(f.t.Context(), r, tag) {
		if err != nil {
			f.t.Fatal(err)
		}
		all = append(all, rec)
	}
	return all
}

func (f *fixture) now() time.Time {
	f.clock = f.clock.Add(time.Second)
	return f.clock
}

func (f *fixture) options(state string) Options {
	return Options{State: state, Now: f.now, User: "root", Origin: "tty1", Tool: "packhold 1"}
}

// open opens host a's log.
func (f *fixture) open(state string) *Log {
	f.t.Helper()
	l, err := Open(f.t.Context(), f.a, f.options(state))
	if err != nil {
		f.t.Fatal(err)
	}
	return l
}

func (f *fixture) append(l *Log) uint64 {
	f.t.Helper()
	seq, err := l.Append(f.t.Context(), Event{Op: "list", Outcome: Success, Object: fmt.Sprint("object ", f.clock.Unix())})
	if err != nil {
		f.t.Fatal(err)
	}
	return seq
}

func (f *fixture) verify(known ...Head) *Report {
	f.t.Helper()
	rep, err := Verify(f.t.Context(), f.a, VerifyOptions{Known: known})
	if err != nil {
		f.t.Fatal(err)
	}
	return rep
}

// clean verifies and wants no problem and so many logs, all proved.
func (f *fixture) clean(logs int, known ...Head) *Report {
	f.t.Helper()
	rep := f.verify(known...)
	if len(rep.Problems) > 0 || len(rep.Logs) != logs || rep.Foreign > 0 {
		f.t.Fatalf("%d logs, %d foreign, want %d and 0; problems: %v", len(rep.Logs), rep.Foreign, logs, rep.Problems)
	}
	for _, s := range rep.Logs {
		if !s.Proved && s.Size > 0 {
			f.t.Fatalf("log %s is not proved", s.Tag)
		}
	}
	return rep
}

// names lists the objects of the logs.
func (f *fixture) names() []string {
	f.t.Helper()
	var names []string
	for i, err := range f.mem.List(f.t.Context(), "audit/") {
		if err != nil {
			f.t.Fatal(err)
		}
		if !format.KnownName(i.Name) {
			f.t.Errorf("%q is not a name of the format", i.Name)
		}
		names = append(names, i.Name)
	}
	return names
}

func (f *fixture) read(name string) []byte {
	f.t.Helper()
	b, err := f.mem.Get(f.t.Context(), name, 0, -1)
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

func (f *fixture) put(name string, b []byte) {
	f.t.Helper()
	if err := f.mem.Put(f.t.Context(), name, b, backends.PutOptions{}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) remove(names ...string) {
	f.t.Helper()
	for _, name := range names {
		if err := f.mem.Delete(f.t.Context(), name); err != nil {
			f.t.Fatal(err)
		}
	}
}

// problem returns the problem about an object.
func problem(rep *Report, object string) error {
	for _, p := range rep.Problems {
		if p.Object == object {
			return p.Err
		}
	}
	return nil
}

func head(l *Log) Head {
	size, root := l.Head()
	return Head{l.Tag(), size, root}
}

// grow appends many entries at once, which no caller can: storing each would take too long.
func (f *fixture) grow(l *Log, size uint64) {
	f.t.Helper()
	for {
		at := l.at.head.tree.size
		if at == size {
			return
		}
		n := min(size-at, tileWidth-at%tileWidth)
		lines, err := l.records(Event{Op: "list", Outcome: Success})
		if err != nil {
			f.t.Fatal(err)
		}
		for i := uint64(len(lines)); i < n; i++ {
			r := Record{Seq: at + i, Time: f.clock, Event: Event{Op: "list", Outcome: Success}}
			lines = append(lines, r.encode())
		}
		if ok, err := l.extend(f.t.Context(), lines); err != nil || !ok {
			f.t.Fatal(ok, err)
		}
	}
}

// TestSizes opens, appends one entry, and checks the root against tlog's own, from nothing to 600 entries.
func TestSizes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.clean(0)
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var list []tlog.Hash
		for _, i := range indexes {
			list = append(list, hashes[i])
		}
		return list, nil
	})
	var read uint64 // records in hashes
	tag := ""
	var l *Log
	most := uint64(600)
	if raceEnabled {
		most = 260
	}
	for n := uint64(2); n <= most; n++ {
		if n == 20 && raceEnabled {
			n = 244
			f.grow(l, n-1)
		}
		if at := (n + 6) % tileWidth; at < 12 || n < 20 || n > most-10 {
			if n%3 == 0 || l != nil && l.o.State == "" { // without a state file the log is found by a listing
				if err := os.Remove(f.state); err != nil {
					t.Fatal(err)
				}
			}
			l = f.open(f.state)
		} else {
			l.o.State = "" // its writes take longer than all the rest
		}
		if seq := f.append(l); seq != n-1 {
			t.Fatalf("entry %d has number %d", n-1, seq)
		}
		size, root := l.Head()
		if size != n || tag != "" && tag != l.Tag() || len(l.Problems()) > 0 {
			t.Fatalf("size %d, want %d; log %s after %s; %v", size, n, l.Tag(), tag, l.Problems())
		}
		tag = l.Tag()
		if n < 10 || n%tileWidth < 2 || n%tileWidth > 254 || n%199 == 0 || n == most {
			for rec, err := range Records(t.Context(), f.a, tag) {
				if err != nil {
					t.Fatal(err)
				}
				if rec.Seq < read {
					continue
				}
				read++
				h, err := tlog.StoredHashesForRecordHash(int64(rec.Seq), rec.Leaf, reader)
				if err != nil {
					t.Fatal(err)
				}
				hashes = append(hashes, h...)
			}
			if want, err := tlog.TreeHash(int64(n), reader); err != nil || want != root || read != n {
				t.Fatalf("root %x of %d entries, %d read, want %x, %v", root, n, read, want, err)
			}
			rep := f.clean(1)
			if s := rep.Logs[0]; s.Size != n || s.Root != root || s.Uncommitted != 0 || s.Name != "host-a" || s.Previous != nil {
				t.Fatalf("summary of %d entries: %+v", n, s)
			}
		}
	}
	// Superseded objects went: at most 16 incomplete tiles, and 512 checkpoints and some.
	partial, checkpoints := 0, 0
	for _, name := range f.names() {
		if strings.Contains(name, ".p/") {
			partial++
		}
		if strings.Contains(name, "/checkpoint/") {
			checkpoints++
		}
	}
	if partial > tidyEvery || checkpoints > keepCheckpoints+tidyEvery+2 {
		t.Errorf("%d incomplete tiles and %d checkpoints stay", partial, checkpoints)
	}
}

// TestLevels makes the first tile of level 1.
func TestLevels(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if raceEnabled {
		t.Skip("one goroutine, 65,536 entries")
	}
	l := f.open("")
	f.grow(l, tileWidth*tileWidth+3)
	f.append(l)
	// Its bytes under a name of level 0, and one missing: these are all the problems there are.
	name := tileName(l.Tag(), tlog.Tile{H: tileHeight, L: 1, N: 0, W: tileWidth})
	low := tileName(l.Tag(), tlog.Tile{H: tileHeight, L: 0, N: 100, W: tileWidth})
	f.put(low, f.read(name))
	f.remove(name)
	rep := f.verify(head(l))
	if len(rep.Problems) != 2 || !errors.Is(problem(rep, name), repo.ErrTampered) || !errors.Is(problem(rep, low), repo.ErrDamaged) || !rep.Logs[0].Proved {
		t.Errorf("missing tile of level 1: %+v", rep)
	}
}

// TestAppendOnly refuses every delete.
func TestAppendOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.fault.Add(fault.Rule{Op: fault.Delete, Sticky: true, Err: os.ErrPermission})
	l := f.open(f.state)
	for range 40 {
		f.append(l)
	}
	if n := f.fault.Calls(fault.Delete); n > tidyEvery {
		t.Errorf("%d deletes were tried", n)
	}
	f.clean(1, head(l))
}

// TestCost counts calls of the storage.
func TestCost(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.append(f.open(f.state))
	count := func() (n [6]int) {
		for op := fault.Any; op <= fault.Delete; op++ {
			n[op] = f.fault.Calls(op)
		}
		return n
	}
	for i := 3; i <= tileWidth+3; i++ {
		if i == 2*tidyEvery {
			f.grow(f.open(f.state), 15*tidyEvery)
			i = 15*tidyEvery + 1
		}
		before := count()
		l := f.open(f.state)
		opened := count()
		f.append(l)
		after := count()
		if opened[fault.Any]-before[fault.Any] != 1 || opened[fault.Get]-before[fault.Get] != 1 {
			t.Fatalf("opening at %d: %v after %v", i, opened, before)
		}
		puts, deletes := 2, 0
		if i == tileWidth {
			puts = 3 // the hash tile
		}
		if i%tidyEvery == 0 {
			deletes = tidyEvery
		}
		if n := after[fault.Put] - opened[fault.Put]; n != puts {
			t.Fatalf("append %d: %d puts", i, n)
		}
		if n := after[fault.Any] - opened[fault.Any]; n > puts+deletes {
			t.Fatalf("append %d: %d calls", i, n)
		}
	}
}

// TestEveryObject deletes, flips, cuts and swaps every object of a log.
func TestEveryObject(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l := f.open("")
	f.grow(l, tileWidth)
	for range 20 {
		f.append(l)
	}
	size, _ := l.Head()
	f.clean(1, head(l))
	newest := checkpointName(l.Tag(), size)
	last := tileName(l.Tag(), dataTile(size))
	names := f.names()
	kinds := map[string]int{}
	for i, name := range names {
		if raceEnabled && i%4 != 0 {
			continue
		}
		// Superseded objects prove nothing that newer ones do not, and are not needed.
		old := strings.Contains(name, ".p/") && name != last
		checkpoint := strings.Contains(name, "/checkpoint/")
		good := f.read(name)

		f.remove(name)
		rep := f.verify()
		switch {
		case old, checkpoint && name != newest:
			kinds["superseded"]++
			if len(rep.Problems) > 0 {
				t.Errorf("removing superseded %s: %v", name, rep.Problems)
			}
		case name == newest:
			// Alone it looks like an interrupted append; whoever has seen the head knows better.
			kinds["newest"]++
			if len(rep.Problems) > 0 || rep.Logs[0].Uncommitted != 1 || rep.Logs[0].Size != size-1 {
				t.Errorf("removing the newest checkpoint: %+v", rep)
			}
			if err := problem(f.verify(head(l)), name); !errors.Is(err, repo.ErrTampered) {
				t.Errorf("removing the newest checkpoint, whose head is known: %v", err)
			}
		default:
			kinds["needed"]++
			if err := problem(rep, name); !errors.Is(err, repo.ErrTampered) {
				t.Errorf("removing %s: %v", name, rep.Problems)
			}
		}
		change := func(what string, b []byte) {
			f.put(name, b)
			rep := f.verify()
			if err := problem(rep, name); old != (err == nil) || err != nil && !errors.Is(err, repo.ErrDamaged) {
				t.Errorf("%s of %s: %v", what, name, rep.Problems)
			}
		}
		bad := slices.Clone(good)
		bad[(i*7919)%len(bad)] ^= 1 << (i % 8)
		change("bit flip", bad)
		change("truncation", good[:len(good)-1-i%len(good)])
		if i > 0 {
			change("older object in place", f.read(names[i-1]))
		}
		f.put(name, good)
	}
	f.clean(1, head(l))
	if !raceEnabled && (kinds["needed"] != 3 || kinds["newest"] != 1 || kinds["superseded"] < 20) {
		t.Errorf("objects seen: %v", kinds)
	}
	// Lost records of a complete tile: its hash tile still proves the rest.
	name := tileName(l.Tag(), dataTile(tileWidth))
	f.remove(name)
	rep := f.verify(head(l))
	if len(rep.Problems) != 1 || rep.Logs[0].Proved {
		t.Errorf("one lost data tile: %v", rep.Problems)
	}
}

// TestTruncation cuts the end of a log off, consistently.
func TestTruncation(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l := f.open(f.state)
	for range 10 {
		f.append(l)
	}
	size, _ := l.Head()
	for n := size; n > size-3; n-- {
		f.remove(checkpointName(l.Tag(), n), tileName(l.Tag(), dataTile(n)))
	}
	f.clean(1) // the documented limit: nothing left speaks of what is gone
	if rep := f.verify(head(l)); len(rep.Problems) != 1 || !errors.Is(rep.Problems[0].Err, repo.ErrTampered) {
		t.Errorf("with the known head: %v", rep.Problems)
	}
	if _, err := Open(t.Context(), f.a, f.options(f.state)); !errors.Is(err, repo.ErrTampered) {
		t.Errorf("with the state: %v", err)
	}
	old := head(l)
	o := f.options(f.state)
	o.Restart = true
	l, err := Open(t.Context(), f.a, o)
	if err != nil {
		t.Fatal(err)
	}
	f.append(l)
	if rep := f.verify(); len(rep.Problems) != 1 || !errors.Is(problem(rep, checkpointName(old.Tag, old.Size)), repo.ErrTampered) {
		t.Errorf("after a new start: %v", rep.Problems)
	}
	// Several checkpoints gone, and their tiles left.
	f = newFixture(t)
	l = f.open("")
	for range 10 {
		f.append(l)
	}
	f.remove(checkpointName(l.Tag(), 11), checkpointName(l.Tag(), 10))
	if rep := f.verify(); !errors.Is(problem(rep, checkpointName(l.Tag(), 10)), repo.ErrTampered) {
		t.Errorf("checkpoints removed: %v", rep.Problems)
	}
	// The whole log gone.
	f = newFixture(t)
	l = f.open(f.state)
	f.append(l)
	f.remove(f.names()...)
	if _, err := Open(t.Context(), f.a, f.options(f.state)); !errors.Is(err, repo.ErrTampered) {
		t.Errorf("log removed: %v", err)
	}
	if rep := f.verify(head(l)); len(rep.Problems) != 1 || !errors.Is(rep.Problems[0].Err, repo.ErrTampered) {
		t.Errorf("log removed: %v", rep.Problems)
	}
}

// TestDamagedTail flips a bit of the tile that the next append needs: a new log goes on.
func TestDamagedTail(t *testing.T) {
	t.Parallel()
	for _, state := range []bool{true, false} {
		f := newFixture(t)
		path := f.state
		if !state {
			path = ""
		}
		l := f.open(path)
		f.append(l)
		name := tileName(l.Tag(), dataTile(2))
		b := f.read(name)
		b[100] ^= 1
		f.put(name, b)
		l2 := f.open(path)
		if p := l2.Problems(); len(p) != 1 || p[0].Object != name {
			t.Fatalf("problems %v", p)
		}
		f.append(l2)
		rep := f.verify()
		if l2.Tag() == l.Tag() || len(rep.Logs) != 2 || !errors.Is(problem(rep, name), repo.ErrDamaged) {
			t.Errorf("%+v", rep)
		}
	}
}

// TestClone appends from two copies of one state.
func TestClone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l := f.open(f.state)
	for range 3 {
		f.append(l)
	}
	b, err := os.ReadFile(f.state)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy.json")
	if err := os.WriteFile(copied, b, 0o600); err != nil {
		t.Fatal(err)
	}
	clone, live := f.open(copied), f.open(copied)
	fork := head(clone)
	f.append(l)
	f.append(clone)
	if clone.Tag() == l.Tag() {
		t.Error("two machines write one log")
	}
	for range 600 { // until the names that the third one thinks are next have become free again
		f.append(l)
		if size, _ := l.Head(); size == 40 {
			break
		}
	}
	live.o.State = "" // it does not see the clone's state
	f.append(live)
	rep := f.clean(3, head(l), head(clone), head(live), fork)
	for _, s := range rep.Logs {
		if s.Tag != l.Tag() && (s.Previous == nil || *s.Previous != fork || s.Size != 2) {
			t.Errorf("log of a clone: %+v", s)
		}
	}
	for rec, err := range Records(t.Context(), f.a, clone.Tag()) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Seq == 0 && (rec.Op != LogStart || rec.Object != checkpointName(fork.Tag, fork.Size) || rec.Root != fmt.Sprintf("%x", fork.Root) || rec.Reason == "") {
			t.Errorf("first entry %+v", rec)
		}
	}
	// A machine that was away while the log went on opens.
	if err := os.WriteFile(copied, b, 0o600); err != nil {
		t.Fatal(err)
	}
	late := f.open(copied)
	f.append(late)
	f.clean(4, head(l), head(late))
	// The old log's end is missed by the new ones.
	f.remove(checkpointName(fork.Tag, fork.Size))
	f.clean(4)
	for _, name := range f.names() {
		if strings.HasPrefix(name, "audit/"+fork.Tag) {
			f.remove(name)
		}
	}
	if rep := f.verify(); len(rep.Problems) != 3 || !errors.Is(rep.Problems[0].Err, repo.ErrTampered) {
		t.Errorf("the log they continue is gone: %v", rep.Problems)
	}
}

// TestProcesses appends from several processes of one machine, one after the other and at once.
func TestProcesses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	one, two := f.open(f.state), f.open(f.state)
	for range 5 {
		f.append(one)
		f.append(two)
	}
	if rep := f.clean(1); rep.Logs[0].Size != 11 {
		t.Errorf("%d entries", rep.Logs[0].Size)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		o := f.options(f.state)
		o.Now = time.Now
		l, err := Open(t.Context(), f.a, o)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			wg.Go(func() {
				for range 5 {
					if _, err := l.Append(t.Context(), Event{Op: "list", Job: fmt.Sprint(i)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	rep := f.verify()
	if len(rep.Problems) > 0 {
		t.Error(rep.Problems)
	}
	total := 0
	for _, s := range rep.Logs {
		for rec, err := range Records(t.Context(), f.a, s.Tag) {
			if err != nil {
				t.Error(err)
			}
			if rec.Op == "list" {
				total++
			}
		}
	}
	if total != 10+40 {
		t.Errorf("%d entries in %d logs, want 50", total, len(rep.Logs))
	}
}

// TestSquat has another host take the next names.
func TestSquat(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"tile", "checkpoint", "noise"} {
		f := newFixture(t)
		l := f.open(f.state)
		f.append(l)
		old := head(l)
		name := tileName(l.Tag(), dataTile(3))
		var object []byte
		var err error
		switch what {
		case "tile":
			_, object, err = f.b.SealControl(crypt.TypeAuditTile, name, joinLines(append(slices.Clone(l.at.lines), []byte("{}"))))
		case "checkpoint":
			name = checkpointName(l.Tag(), 3)
			c := l.at.head
			c.tree = c.tree.clone()
			c.tree.push(tlog.Hash{})
			_, object, err = f.b.SealControl(crypt.TypeAuditCheckpoint, name, c.encode())
		case "noise":
			object = []byte("nothing")
		}
		if err != nil {
			t.Fatal(err)
		}
		f.put(name, object)
		f.append(l)
		if p := l.Problems(); len(p) != 1 || p[0].Object != name {
			t.Errorf("%s: problems %v", what, p)
		}
		if l.Tag() == old.Tag || l.at.head.previous == nil || *l.at.head.previous != old {
			t.Errorf("%s: no new log continues the old one", what)
		}
		rep := f.verify(old, head(l))
		if len(rep.Problems) != 1 || problem(rep, name) == nil || len(rep.Logs) != 2 {
			t.Errorf("%s: %v", what, rep.Problems)
		}
		if what != "noise" && !errors.Is(problem(rep, name), repo.ErrTampered) {
			t.Errorf("%s: %v", what, problem(rep, name))
		}
	}
	// A host that makes a checkpoint of its own under another's tag does not own it.
	f := newFixture(t)
	l := f.open("")
	f.append(l)
	lb, err := Open(t.Context(), f.b, f.options(""))
	if err != nil {
		t.Fatal(err)
	}
	f.append(lb)
	f.clean(2)
	name := checkpointName(l.Tag(), 2)
	_, object, err := f.b.SealControl(crypt.TypeAuditCheckpoint, name, lb.at.head.encode())
	if err != nil {
		t.Fatal(err)
	}
	f.put(name, object)
	if err := problem(f.verify(), name); !errors.Is(err, repo.ErrTampered) {
		t.Errorf("another host's checkpoint: %v", err)
	}
}

// TestInterrupted lets every call of every kind of append fail, before and after its effect, and appends again in the same and in a new process.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, size := range []uint64{0, 5, tileWidth - 1} {
		for _, effect := range []fault.Effect{fault.Before, fault.After} {
			for n := 1; ; n++ {
				for _, again := range []string{"same", "state", "listing"} {
					f := newFixture(t)
					l := f.open(f.state)
					f.grow(l, size)
					before := head(l)
					f.fault.Add(fault.Rule{Op: fault.Put, N: n, Effect: effect})
					_, err := l.Append(t.Context(), Event{Op: "forget", Outcome: Intent})
					f.fault.Clear()
					if err == nil {
						goto done
					}
					f.verifyInterrupted(size)
					switch again {
					case "state":
						l = f.open(f.state)
					case "listing":
						l = f.open("")
					}
					f.append(l)
					want := 1
					if size == 0 && again == "listing" && n == 1 && effect == fault.After {
						want = 2 // a first tile without a checkpoint is nobody's
					}
					if size == 0 && again == "listing" && n == 2 && effect == fault.Before {
						want = 2
					}
					f.clean(want, before, head(l))
				}
			}
		done:
		}
	}
}

func (f *fixture) verifyInterrupted(size uint64) {
	f.t.Helper()
	if rep := f.verify(); len(rep.Problems) > 0 {
		f.t.Errorf("after an interrupted append at %d: %v", size, rep.Problems)
	}
}

// TestOpen is about state files that do not fit.
func TestOpen(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l := f.open(f.state)
	f.append(l)
	if info, err := os.Stat(f.state); err != nil || info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		t.Errorf("state file: %v, %v", info.Mode(), err)
	}
	if _, err := Open(t.Context(), f.b, f.options(f.state)); !errors.Is(err, repo.ErrForeign) {
		t.Errorf("state of another host: %v", err)
	}
	if err := os.WriteFile(f.state, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l2 := f.open(f.state)
	if len(l2.Problems()) != 1 || l2.Tag() != l.Tag() {
		t.Errorf("broken state file: log %s, %v", l2.Tag(), l2.Problems())
	}
	f.append(l2)
	if l3 := f.open(f.state); len(l3.Problems()) != 0 || head(l3) != head(l2) {
		t.Errorf("mended state file: %v", l3.Problems())
	}
	reader, err := repo.Open(t.Context(), f.mem, repo.Access{Passphrase: []byte(passphrase)}, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := f.options("")
	l4, err := Open(t.Context(), reader, o) // an administrator has an identity, and so a log, of their own
	if err != nil {
		t.Fatal(err)
	}
	f.append(l4)
	f.clean(2)
	if all := f.records(reader, l4.Tag()); len(all) != 2 || all[0].Closed || all[0].User != "root" || all[1].Closed || all[1].Origin != "tty1" {
		t.Errorf("with the passphrase: %+v", all)
	}
	reader.Keys().Identity = nil
	if _, err := Open(t.Context(), reader, o); !errors.Is(err, repo.ErrNeedHost) {
		t.Errorf("no identity: %v", err)
	}
	f.fault.Add(fault.Rule{Op: fault.Get, Sticky: true})
	if _, err := Open(t.Context(), f.a, f.options(f.state)); !errors.Is(err, fault.ErrInjected) {
		t.Errorf("storage out of reach: %v", err)
	}
	if _, err := Verify(t.Context(), f.a, VerifyOptions{}); !errors.Is(err, fault.ErrInjected) {
		t.Errorf("storage out of reach: %v", err)
	}
	// A state file that cannot be written costs a warning.
	f.fault.Clear()
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l5 := f.open("")
	l5.o.State = filepath.Join(dir, "state.json")
	f.append(l5)
	if len(l5.Problems()) != 1 {
		t.Errorf("state that cannot be written: %v", l5.Problems())
	}
}

// TestSnapshots ties snapshots and logs together.
func TestSnapshots(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l := f.open(f.state)
	commit := func() *repo.Snapshot {
		s, err := f.a.Begin(t.Context(), repo.SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.NewWorker()
		if err != nil {
			t.Fatal(err)
		}
		root, _, err := w.StoreTree([]byte("a page"))
		if err != nil {
			t.Fatal(err)
		}
		snap, err := s.Commit(t.Context(), &snapshot.Record{Root: root, Type: snapshot.Full, Start: snapshot.Time{Sec: f.clock.Unix() - 5}, Lineage: [32]byte{1}},
			&snapshot.Body{}, l)
		if err != nil {
			t.Fatal(err)
		}
		return snap
	}
	first := commit()
	f.append(l)
	second := commit()
	size, root := l.Head()
	if first.AuditSize != 2 || second.AuditSize != 4 || size != 4 || second.AuditRoot != root {
		t.Fatalf("sizes %d %d, log %d", first.AuditSize, second.AuditSize, size)
	}
	f.clean(1)
	i := 0
	for rec, err := range Records(t.Context(), f.a, l.Tag()) {
		if err != nil {
			t.Fatal(err)
		}
		if i++; i == 2 && (rec.Op != "backup" || rec.Outcome != Committing || rec.Snapshot != first.ID().String() || rec.Duration < 5*time.Second) {
			t.Errorf("entry about a commit: %+v", rec)
		}
	}
	// The end of the log is removed, consistently: the snapshot knows.
	cp, tile := checkpointName(l.Tag(), 4), tileName(l.Tag(), dataTile(4))
	cpBytes, tileBytes := f.read(cp), f.read(tile)
	f.remove(cp)
	if rep := f.verify(); len(rep.Problems) != 1 || !errors.Is(problem(rep, second.Name), repo.ErrTampered) {
		t.Errorf("checkpoint removed: %v", rep.Problems)
	}
	f.remove(tile)
	if rep := f.verify(); len(rep.Problems) != 1 || !errors.Is(problem(rep, second.Name), repo.ErrTampered) {
		t.Errorf("end removed: %v", rep.Problems)
	}
	f.put(cp, cpBytes)
	f.put(tile, tileBytes)
	f.clean(1)
	f.put(tile, tileBytes[:50])
	if rep := f.verify(); !errors.Is(problem(rep, tile), repo.ErrDamaged) || !errors.Is(problem(rep, second.Name), repo.ErrDamaged) || len(rep.Problems) != 3 {
		t.Errorf("end damaged: %v", rep.Problems)
	}
	f.put(tile, tileBytes)
	// Another log cannot stand in.
	names := f.names()
	var objects [][]byte
	for _, name := range names {
		objects = append(objects, f.read(name))
	}
	f.remove(names...)
	l = f.open("")
	for range 5 {
		f.append(l)
	}
	if rep := f.verify(); len(rep.Problems) != 2 {
		t.Errorf("another log in place: %v", rep.Problems)
	}
	for i, name := range names {
		f.put(name, objects[i])
	}
	f.clean(2)
}

// TestIntent follows an intent into a new log.
func TestIntent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l := f.open("")
	seq, err := l.Append(t.Context(), Event{Op: "forget", Outcome: Intent, Snapshot: "1"})
	if err != nil || seq != 1 {
		t.Fatal(seq, err)
	}
	old := l.Tag()
	f.put(tileName(old, dataTile(3)), []byte("noise"))
	result, err := l.Append(t.Context(), Event{Op: "forget", Outcome: Success, Snapshot: "1", IntentSeq: seq})
	if err != nil {
		t.Fatal(err)
	}
	for rec, err := range Records(t.Context(), f.a, l.Tag()) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Seq == result && (rec.IntentSeq != seq || rec.IntentLog != old) {
			t.Errorf("result %+v", rec)
		}
	}
	seq, err = l.Append(t.Context(), Event{Op: "prune", Outcome: Intent})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = l.Append(t.Context(), Event{Op: "prune", Outcome: Failed, IntentSeq: seq}); err != nil {
		t.Fatal(err)
	}
	for rec, err := range Records(t.Context(), f.a, l.Tag()) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Op == "prune" && rec.IntentLog != "" {
			t.Errorf("result %+v", rec)
		}
	}
	logs, err := Logs(t.Context(), f.a)
	if err != nil || len(logs) != 2 {
		t.Errorf("%v, %v", logs, err)
	}
}

// TestWhileAppending verifies a log that grows.
func TestWhileAppending(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	o := f.options("")
	o.Now = time.Now
	l, err := Open(t.Context(), f.a, o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for range 100 {
			if _, err := l.Append(t.Context(), Event{Op: "list"}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
		}
		if rep := f.verify(); len(rep.Problems) > 0 {
			t.Fatal(rep.Problems)
		}
	}
}

// TestNothingShows opens every object of the logs as another host can, and looks for what is private.
func TestNothingShows(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const canary = "canary"
	o := f.options(f.state)
	o.User, o.Origin, o.Job = canary+"-user", canary+"-origin", canary+"-job"
	l, err := Open(t.Context(), f.a, o)
	if err != nil {
		t.Fatal(err)
	}
	event := Event{Op: "forget-op", Outcome: Failed, Object: canary + "-object", Reason: canary + "-reason", Approver: canary + "-approver"}
	add := func() {
		if _, err := l.Append(t.Context(), event); err != nil {
			t.Fatal(err)
		}
	}
	add()
	f.put(tileName(l.Tag(), dataTile(3)), []byte("noise")) // so that a log continues another one
	old := l.Tag()
	add()
	f.grow(l, tileWidth-1)
	add()
	add()
	f.remove(tileName(old, dataTile(3)))

	kinds := map[string]int{}
	look := func(name, where string, b []byte) {
		if bytes.Contains(bytes.ToLower(b), []byte(canary)) {
			t.Errorf("%s of %s shows what is private", where, name)
		}
	}
	for _, name := range f.names() {
		b := f.read(name)
		look(name, "the object", b)
		kind, typ := "tile", crypt.TypeAuditTile
		if strings.Contains(name, "/checkpoint/") {
			kind, typ = "checkpoint", crypt.TypeAuditCheckpoint
		}
		s, err := f.b.OpenControl(typ, name, b)
		if err != nil {
			t.Fatal(err)
		}
		look(name, "the body", s.Body)
		if strings.Contains(name, "/tile/data/") {
			kind = "data"
			if !bytes.Contains(s.Body, []byte("forget-op")) {
				t.Errorf("%s: what is public does not show", name)
			}
			for _, line := range bytes.Split(bytes.TrimSuffix(s.Body, []byte("\n")), []byte("\n")) {
				rec, err := ParseRecord(line)
				if err != nil {
					t.Fatal(err)
				}
				look(name, "a sealed part", []byte(rec.private))
			}
		}
		kinds[kind]++
	}
	if kinds["data"] < 4 || kinds["tile"] != 1 || kinds["checkpoint"] < 4 {
		t.Errorf("objects seen: %v", kinds)
	}
	if b, err := os.ReadFile(f.state); err != nil {
		t.Error(err)
	} else {
		look(f.state, "the file", b)
	}
	// The host that wrote it reads as little as others, whoever has the passphrase all of it.
	for _, tag := range []string{old, l.Tag()} {
		for _, rec := range slices.Concat(f.records(f.a, tag), f.records(f.b, tag)) {
			if event := rec.Op == "forget-op"; rec.User != "" || rec.Origin != "" || rec.Job != "" || rec.Approver != "" || rec.Seq > 0 && (rec.Object != "" || rec.Reason != "") ||
				event && !rec.Closed {
				t.Errorf("without a passphrase: %+v", rec)
			}
		}
		n := 0
		for _, rec := range f.records(f.reader(f.key), tag) {
			if rec.Closed {
				t.Errorf("with the passphrase: %+v", rec)
			}
			if rec.Op != event.Op {
				continue
			}
			n++
			if rec.User != o.User || rec.Origin != o.Origin || rec.Job != o.Job || rec.Object != event.Object || rec.Reason != event.Reason || rec.Approver != event.Approver {
				t.Errorf("with the passphrase: %+v", rec)
			}
		}
		if n == 0 {
			t.Errorf("log %s has no entry to look at", tag)
		}
	}
	f.clean(2)
}

// TestReadKeys rotates the read key, and has hosts seal to the wrong key, the wrong place, and nobody.
func TestReadKeys(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	second := testReadKey(t, 2, 2)
	second.RSA = f.key.RSA // drawing one takes seconds
	form, err := second.Public().Form()
	if err != nil {
		t.Fatal(err)
	}
	l := f.open("")
	f.append(l)
	f.a.Settings().ReadKeys = append(f.a.Settings().ReadKeys, form)
	f.append(l)
	check := func(what string, r *repo.Repo, closed []bool, want error) {
		t.Helper()
		for i, rec := range f.records(r, l.Tag()) {
			if rec.Closed != closed[i] || (rec.User == "root") == closed[i] {
				t.Errorf("%s: entry %+v", what, rec)
			}
		}
		rep, err := Verify(t.Context(), r, VerifyOptions{})
		if err != nil || !rep.Logs[0].Proved {
			t.Fatal(rep, err)
		}
		if n := len(rep.Problems); want == nil && n > 0 || want != nil && (n != 1 || !errors.Is(rep.Problems[0].Err, want) || !errors.Is(rep.Problems[0].Err, keyring.ErrNoKey)) {
			t.Errorf("%s: %v", what, rep.Problems)
		}
	}
	check("no key", f.a, []bool{true, true, true}, nil)
	check("both keys", f.reader(f.key, second), []bool{false, false, false}, nil)
	check("the old key", f.reader(f.key), []bool{false, false, true}, repo.ErrDamaged)
	check("the new key", f.reader(second), []bool{true, true, false}, repo.ErrDamaged)

	key, err := f.a.Settings().ReadKeys[0].Public()
	if err != nil {
		t.Fatal(err)
	}
	for what, seal := range map[string]func(r *Record, tag string) error{
		"another log": func(r *Record, tag string) error { return r.seal(f.a.Config().ID, strings.Repeat("0", 32), key) },
		"another number": func(r *Record, tag string) error {
			s := *r
			s.Seq++
			err := s.seal(f.a.Config().ID, tag, key)
			r.private = s.private
			r.readEpoch = 1
			return err
		},
		"another key": func(r *Record, tag string) error {
			r.readEpoch = 1
			err := r.seal(f.a.Config().ID, tag, second.Public())
			r.readEpoch = 1
			return err
		},
		"no text": func(r *Record, tag string) error {
			b, err := key.SealText(f.a.Config().ID, privateAbout(tag, r.Seq), []byte("root"))
			r.private, r.readEpoch = string(b), 1
			return err
		},
		"noise": func(r *Record, tag string) error { r.private, r.readEpoch = "noise", 1; return nil },
	} {
		f := newFixture(t)
		l := f.open("")
		f.append(l)
		r := Record{Seq: 2, Time: f.now(), User: "root", Event: Event{Op: "list"}}
		if err := seal(&r, l.Tag()); err != nil {
			t.Fatal(err)
		}
		if ok, err := l.extend(t.Context(), [][]byte{r.encode()}); err != nil || !ok {
			t.Fatal(ok, err)
		}
		f.append(l)
		f.clean(1) // nobody without a passphrase can tell
		rep, err := Verify(t.Context(), f.reader(f.key), VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Problems) != 1 || !errors.Is(rep.Problems[0].Err, repo.ErrTampered) || rep.Problems[0].Object != tileName(l.Tag(), dataTile(4)) || !rep.Logs[0].Proved {
			t.Errorf("sealed to %s: %v", what, rep.Problems)
		}
		n := 0
		for rec, err := range Records(t.Context(), f.reader(f.key), l.Tag()) {
			if n++; n == 3 && !errors.Is(err, repo.ErrTampered) || n < 3 && err != nil {
				t.Errorf("sealed to %s: %+v, %v", what, rec, err)
			}
		}
		if n != 3 {
			t.Errorf("sealed to %s: %d entries", what, n)
		}
	}
}

// TestTileBytes measures what entries of usual texts take.
func TestTileBytes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	l := f.open("")
	lines, err := l.records(Event{Op: "backup", Outcome: Success, Object: "snapshots/" + strings.Repeat("0", 32), Snapshot: strings.Repeat("0", 32), Job: "nightly",
		Bytes: 1 << 40, Duration: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	n := len(lines[1])
	t.Logf("%d bytes an entry, %d a tile", n, n*tileWidth)
	if n > 2<<10 {
		t.Errorf("an entry takes %d bytes", n)
	}
}

// tileGets counts the reads of tiles.
type tileGets struct {
	backends.Storage
	n int
}

func (g *tileGets) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if strings.Contains(name, "/tile/") {
		g.n++
	}
	return g.Storage.Get(ctx, name, off, n)
}

// TestKeptTile: where the storage was listed just now, the last tile comes from this machine if it is the very one that the state names, and only then.
func TestKeptTile(t *testing.T) {
	t.Parallel()
	b, err := bases()
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	f.append(f.open(f.state))
	name := ""
	for info, err := range f.mem.List(t.Context(), "audit/") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(info.Name, "/tile/") {
			name = info.Name
		}
	}
	kept := f.state + ".tile"
	good, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		spoil func(s *mem.Store) error
		gets  int
		lost  bool
	}{
		{"as it was", func(*mem.Store) error { return nil }, 0, false},
		{"other bytes here", func(*mem.Store) error { return os.WriteFile(kept, good[1:], 0o600) }, 1, false},
		{"longer here", func(*mem.Store) error { return os.WriteFile(kept, append(bytes.Clone(good), 0), 0o600) }, 1, false},
		{"nothing here", func(*mem.Store) error { return os.Remove(kept) }, 1, false},
		{"gone there", func(s *mem.Store) error { return s.Delete(t.Context(), name) }, 1, true},
		{"cut there", func(s *mem.Store) error { return s.Put(t.Context(), name, good[1:], backends.PutOptions{}) }, 1, false},
	} {
		s := f.mem.Clone()
		if err := errors.Join(os.WriteFile(kept, good, 0o600), c.spoil(s)); err != nil {
			t.Fatal(err)
		}
		g := &tileGets{Storage: s}
		r, err := repo.Open(t.Context(), g, repo.Access{Credential: b.a}, repo.Options{Far: true, Flat: true})
		if err != nil {
			t.Fatal(err)
		}
		l, err := Open(t.Context(), r, f.options(f.state))
		if errors.Is(err, ErrRolledBack) != c.lost || err != nil && !c.lost {
			t.Fatalf("%s: %v", c.what, err)
		}
		if g.n != c.gets {
			t.Errorf("%s: %d reads, want %d", c.what, g.n, c.gets)
		}
		if l != nil && err == nil {
			if cut := len(l.Problems()) > 0; cut != (c.what == "cut there") {
				t.Errorf("%s: %v", c.what, l.Problems())
			}
		}
	}
}
