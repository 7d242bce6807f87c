package repair_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/chunk"
	"packhold/crypt"
	"packhold/pack"
	"packhold/repo"
	"packhold/repo/admin"
	"packhold/repo/backup"
	"packhold/repo/check"
	"packhold/repo/format"
	"packhold/repo/repair"
	"packhold/repo/snapshot"
)

const passphrase = "correct horse battery"

// made is a repository with two snapshots whose keeper may prune; each test works on a clone. Its sources are in dir.
var made struct {
	once       sync.Once
	s          *mem.Store
	credential *crypt.Credential
	dir        string
	err        error
}

// ahead is how much later it is than it seems, in nanoseconds: sessions that were killed have to be silent for an hour.
var ahead atomic.Int64

func later() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }

func TestMain(m *testing.M) {
	code := m.Run()
	if made.dir != "" {
		os.RemoveAll(made.dir)
	}
	os.Exit(code)
}

func makeOne() error {
	key, err := crypt.NewReadKey(1)
	if err != nil {
		return err
	}
	s := mem.New(later)
	ctx, now := context.Background(), time.Now()
	if made.credential, err = admin.Init(ctx, s, admin.InitOptions{Passphrase: []byte(passphrase), Iterations: crypt.MinIterations,
		Config: format.Config{Profile: format.Standard, Chunker: chunk.DefaultParams()}, Parity: 2, PackSize: format.MinPackSize,
		Compression: "fastest", HostName: "host-a", Label: "first", ReadKey: key, Now: now}); err != nil {
		return err
	}
	if made.dir, err = os.MkdirTemp("", "repair-test"); err != nil {
		return err
	}
	noise := rand.NewChaCha8([32]byte{7})
	for i := range 2 {
		b := make([]byte, 700<<10)
		noise.Read(b)
		if err := os.WriteFile(filepath.Join(made.dir, fmt.Sprint("f", i)), b, 0o600); err != nil {
			return err
		}
		r, err := repo.Open(ctx, s, repo.Access{Credential: made.credential}, repo.Options{Now: later})
		if err != nil {
			return err
		}
		if _, err := backup.Run(ctx, r, backup.Options{Sources: []string{made.dir}, Type: snapshot.Full}); err != nil {
			return err
		}
	}
	r, err := repo.Open(ctx, s, repo.Access{Passphrase: []byte(passphrase)}, repo.Options{Now: later})
	if err != nil {
		return err
	}
	made.s = s
	return admin.Empower(ctx, r, crypt.RolePrune)
}

func clone(t *testing.T) *mem.Store {
	t.Helper()
	made.once.Do(func() { made.err = makeOne() })
	if made.err != nil {
		t.Fatal(made.err)
	}
	return made.s.Clone()
}

func open(t *testing.T, s backends.Storage) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), s, repo.Access{Passphrase: []byte(passphrase)}, repo.Options{Now: later})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func verify(t *testing.T, s backends.Storage) *check.Report {
	t.Helper()
	rep, err := check.Run(t.Context(), open(t, s), check.Options{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// planned opens and checks everything, and plans what to do about it.
func planned(t *testing.T, s backends.Storage, o repair.Options) (*repo.Repo, *repair.Plan) {
	t.Helper()
	r := open(t, s)
	rep, err := check.Run(t.Context(), r, check.Options{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	p, err := repair.Make(t.Context(), r, rep, o)
	if err != nil {
		t.Fatal(err)
	}
	return r, p
}

// mend checks, plans and applies, in a second round where the first one mended what says whom to believe.
func mend(t *testing.T, s backends.Storage, o repair.Options) (*repair.Plan, *repair.Done) {
	t.Helper()
	all, sum := new(repair.Plan), new(repair.Done)
	for {
		r, p := planned(t, s, o)
		d, err := p.Apply(t.Context(), r, o)
		if err != nil {
			t.Fatal(err)
		}
		all.Steps, all.Left = append(all.Steps, p.Steps...), append(all.Left, p.Left...)
		sum.Mended, sum.Left = append(sum.Mended, d.Mended...), append(sum.Left, d.Left...)
		sum.Kept += d.Kept
		if !p.First || len(d.Mended) == 0 {
			return all, sum
		}
	}
}

// objects are all objects that say something for good: leases and the voids of sessions come and go.
func objects(t *testing.T, s backends.Storage) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for i, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		all[i.Name] = string(read(t, s, i.Name))
	}
	return all
}

func read(t *testing.T, s backends.Storage, name string) []byte {
	t.Helper()
	b, err := s.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, s backends.Storage, name string, b []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, b, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, s backends.Storage, name string) {
	t.Helper()
	if err := s.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

func under(t *testing.T, s backends.Storage, prefixes ...string) []string {
	t.Helper()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(objects(t, s))), func(name string) bool {
		return !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
	})
}

// clean fails unless nothing is wrong.
func clean(t *testing.T, s backends.Storage) {
	t.Helper()
	if rep := verify(t, s); len(rep.Problems) > 0 {
		t.Errorf("after the repair: %v", rep.Problems)
	}
}

// same fails unless every object of was stands in s with the same bytes.
func same(t *testing.T, s backends.Storage, was map[string]string) {
	t.Helper()
	is := objects(t, s)
	for name, b := range was {
		if is[name] != b {
			t.Errorf("%s is not what it was", name)
		}
	}
}

// TestHealthy: where nothing is wrong nothing is stored, removed or replaced.
func TestHealthy(t *testing.T) {
	s := clone(t)
	was := objects(t, s)
	p, d := mend(t, s, repair.Options{})
	if len(p.Steps)+len(p.Left)+len(d.Mended) > 0 {
		t.Errorf("plan %+v, done %+v", p, d)
	}
	if !maps.Equal(was, objects(t, s)) {
		t.Error("the repository is another one")
	}
}

// TestParity: bytes of packs within the parity come back as they were, trailers too, and no other pack is written.
func TestParity(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"flip":     func(b []byte) []byte { b[5000] ^= 1; return b },
		"trailers": func(b []byte) []byte { clear(b[len(b)-4096:]); return b },
		"table":    func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"longer":   func(b []byte) []byte { return append(b, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			s := clone(t)
			was := objects(t, s)
			for _, prefix := range []string{"packs/", "meta/"} {
				name := under(t, s, prefix)[0]
				write(t, s, name, damage(read(t, s, name)))
			}
			p, d := mend(t, s, repair.Options{})
			if len(p.Steps) != 2 || len(d.Mended) != 2 || len(d.Left) > 0 {
				t.Errorf("plan %+v, done %+v", p, d)
			}
			same(t, s, was)
			clean(t, s)
		})
	}
}

// TestTrailerFromIndex: a pack that lost both of its trailers is mended with the one in the index.
func TestTrailerFromIndex(t *testing.T) {
	s := clone(t)
	was := objects(t, s)
	name := under(t, s, "packs/")[0]
	b := read(t, s, name)
	for i := 0; i+8 <= len(b); i += 4096 {
		if string(b[i:i+8]) == "PACKTRLR" {
			clear(b[i : i+4096])
		}
	}
	write(t, s, name, b)
	mend(t, s, repair.Options{})
	same(t, s, was)
	clean(t, s)
}

// TestIndex: whatever is lost of the index comes back from the packs.
func TestIndex(t *testing.T) {
	for n := range 4 {
		for _, how := range []string{"lost", "damaged"} {
			t.Run(fmt.Sprint(n, how), func(t *testing.T) {
				s := clone(t)
				was := objects(t, s)
				for i, name := range under(t, s, "index/") {
					if n&(1<<i) == 0 {
						continue
					}
					delete(was, name)
					if how == "lost" {
						remove(t, s, name)
					} else {
						b := read(t, s, name)
						b[len(b)/2] ^= 4
						write(t, s, name, b)
					}
				}
				_, d := mend(t, s, repair.Options{})
				if len(d.Left) > 0 || (n > 0) != (len(d.Mended) > 0) {
					t.Errorf("done %+v", d)
				}
				same(t, s, was)
				clean(t, s)
				if rep := verify(t, s); rep.Orphans > 0 {
					t.Errorf("%d packs have no name", rep.Orphans)
				}
			})
		}
	}
}

// TestCopies: the config and the key slots are made three again from any one that is left.
func TestCopies(t *testing.T) {
	s := clone(t)
	slot := under(t, s, "keys/")[0]
	for good := range 3 {
		for _, names := range [][]string{format.ConfigNames[:], {"replica/2/" + slot, "replica/1/" + slot, slot}} {
			s := clone(t)
			was := objects(t, s)
			for i, name := range names {
				if i == good {
					continue
				}
				if i&1 == 0 {
					remove(t, s, name)
				} else {
					write(t, s, name, []byte("no"))
				}
			}
			_, d := mend(t, s, repair.Options{})
			if len(d.Mended) == 0 || len(d.Left) > 0 {
				t.Errorf("%v but %d: done %+v", names, good, d)
			}
			same(t, s, was)
			clean(t, s)
		}
	}
}

// TestReplica: what cannot be mended here comes from a copy.
func TestReplica(t *testing.T) {
	s, from := clone(t), clone(t)
	was := objects(t, s)
	packs := under(t, s, "packs/", "meta/")
	for i, name := range packs {
		if i&1 == 0 {
			remove(t, s, name)
		} else {
			b := read(t, s, name)
			clear(b[:len(b)/2])
			write(t, s, name, b)
		}
	}
	bundle := under(t, s, "hosts/")[0]
	write(t, s, bundle, []byte("no"))
	// A pack of the replica is damaged too, within its parity.
	b := read(t, from, packs[0])
	b[9000] ^= 1
	write(t, from, packs[0], b)
	_, d := mend(t, s, repair.Options{From: from})
	if len(d.Left) > 0 {
		t.Errorf("left: %v", d.Left)
	}
	same(t, s, was)
	clean(t, s)
}

// TestBeyond: what parity cannot mend stays as it is and is told, and the next backup of the source stores it again.
func TestBeyond(t *testing.T) {
	s := clone(t)
	for _, name := range under(t, s, "packs/") {
		b := read(t, s, name)
		clear(b[:len(b)/2])
		write(t, s, name, b)
	}
	was := objects(t, s)
	p, d := mend(t, s, repair.Options{})
	if len(p.Left) == 0 || len(p.Steps)+len(d.Mended) > 0 {
		t.Errorf("plan %+v, done %+v", p, d)
	}
	if !maps.Equal(was, objects(t, s)) {
		t.Error("a plan with nothing to do changed something")
	}
	r := open(t, s)
	rep, err := check.Run(t.Context(), r, check.Options{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := check.Note(t.Context(), r, rep); err != nil {
		t.Fatal(err)
	}
	w, err := repo.Open(t.Context(), s, repo.Access{Credential: made.credential}, repo.Options{Now: later})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Run(t.Context(), w, backup.Options{Sources: []string{made.dir}, Type: snapshot.Incremental}); err != nil {
		t.Fatal(err)
	}
	p, d = mend(t, s, repair.Options{})
	if len(d.Mended) == 0 || len(d.Left) > 0 {
		t.Errorf("after the backup: plan %+v, done %+v", p, d)
	}
	clean(t, s)
}

// spoilGap damages a pack beyond its parity where no blob is: the zeros behind the blobs and the parity.
func spoilGap(b []byte, tr *pack.Trailer, table *pack.Table) []byte {
	last := table.Entries[len(table.Entries)-1]
	for i := int(last.Offset + last.Length); i < tr.TableOffset(); i++ {
		b[i] = 1
	}
	for i := range tr.Parity {
		b[tr.ShardOffset(tr.Data+i)] ^= 1
	}
	return b
}

// TestBlobs: packs beyond mending whose blobs can still be read, or are elsewhere too, go once these are copied.
func TestBlobs(t *testing.T) {
	for _, how := range []string{"read", "elsewhere"} {
		t.Run(how, func(t *testing.T) {
			s := clone(t)
			r := open(t, s)
			for _, name := range under(t, s, "packs/", "meta/") {
				b := read(t, s, name)
				tr, table, err := r.ReadTable(t.Context(), backends.Info{Name: name, Size: int64(len(b))})
				if err != nil {
					t.Fatal(err)
				}
				if how == "elsewhere" {
					if strings.HasPrefix(name, "packs/") {
						remove(t, s, name)
					}
					continue
				}
				write(t, s, name, spoilGap(b, tr, table))
			}
			if how == "elsewhere" {
				w, err := repo.Open(t.Context(), s, repo.Access{Credential: made.credential}, repo.Options{Now: later})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := backup.Run(t.Context(), w, backup.Options{Sources: []string{made.dir}, Type: snapshot.Full}); err != nil {
					t.Fatal(err)
				}
			}
			snaps := len(under(t, s, "snapshots/"))
			_, d := mend(t, s, repair.Options{})
			if len(d.Left) > 0 {
				t.Errorf("done %+v", d)
			}
			clean(t, s)
			if is := len(under(t, s, "snapshots/")); is < snaps {
				t.Errorf("%d snapshots, there were %d", is, snaps)
			}
		})
	}
}

// keeping is a storage that does not let its packs be replaced or removed, and writes down which it was asked for.
type keeping struct {
	backends.Storage
	locked bool
	mu     sync.Mutex
	packs  map[string]bool // that were read or written
}

func (k *keeping) note(name string) bool {
	if !strings.HasPrefix(name, "packs/") && !strings.HasPrefix(name, "meta/") {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.packs[name] = true
	return true
}

func (k *keeping) Put(ctx context.Context, name string, data []byte, o backends.PutOptions) error {
	if k.note(name) && k.locked && !o.IfAbsent {
		if _, err := k.Storage.Stat(ctx, name); err == nil {
			return &backends.KeptError{Until: time.Now().Add(time.Hour)}
		}
	}
	return k.Storage.Put(ctx, name, data, o)
}

func (k *keeping) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	k.note(name)
	return k.Storage.Get(ctx, name, off, n)
}

func (k *keeping) Delete(ctx context.Context, name string) error {
	if k.note(name) && k.locked {
		return &backends.KeptError{Until: time.Now().Add(time.Hour)}
	}
	return k.Storage.Delete(ctx, name)
}

// TestTouchesThat: the repair of one bad pack reads and writes no other one.
func TestTouchesThat(t *testing.T) {
	s := clone(t)
	bad := under(t, s, "packs/")[0]
	b := read(t, s, bad)
	b[7000] ^= 1
	write(t, s, bad, b)
	k := &keeping{Storage: s, packs: make(map[string]bool)}
	r := open(t, k)
	rep, err := check.Run(t.Context(), r, check.Options{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	clear(k.packs)
	p, err := repair.Make(t.Context(), r, rep, repair.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Apply(t.Context(), r, repair.Options{}); err != nil {
		t.Fatal(err)
	}
	if len(k.packs) != 1 || !k.packs[bad] {
		t.Errorf("touched %v", k.packs)
	}
	clean(t, s)
}

// TestKept: a pack that its lock keeps as it is gets a whole one beside it, once.
func TestKept(t *testing.T) {
	s := clone(t)
	k := &keeping{Storage: s, locked: true, packs: make(map[string]bool)}
	bad := under(t, s, "packs/")[0]
	good := read(t, s, bad)
	b := bytes.Clone(good)
	b[7000] ^= 1
	write(t, s, bad, b)
	_, d := mend(t, k, repair.Options{})
	if len(d.Mended) != 1 || d.Kept != 1 || len(d.Left) > 0 {
		t.Errorf("done %+v", d)
	}
	if !bytes.Equal(read(t, s, bad+".1"), good) || !bytes.Equal(read(t, s, bad), b) {
		t.Error("it does not stand beside it")
	}
	// The next run lets go of the bad one, which stays as long as its lock says.
	_, d = mend(t, k, repair.Options{})
	if len(d.Mended) != 1 || len(d.Left) > 0 {
		t.Errorf("again: %+v", d)
	}
	if !bytes.Equal(read(t, s, bad), b) {
		t.Error("the locked pack is gone")
	}
	clean(t, k)
	was := objects(t, s)
	if p, _ := mend(t, k, repair.Options{}); len(p.Steps)+len(p.Left) > 0 || !maps.Equal(was, objects(t, s)) {
		t.Errorf("the third run: %+v", p)
	}
}

// TestLossList: of a pack that is beyond mending exactly those blobs are noted as lost whose bytes are hit.
func TestLossList(t *testing.T) {
	start := clone(t)
	r := open(t, start)
	rng := rand.New(rand.NewPCG(5, 5))
	for round := range 10 {
		s := start.Clone()
		want := make(map[format.FailedBlob]bool)
		for _, name := range under(t, s, "packs/") {
			b := read(t, s, name)
			tr, table, err := r.ReadTable(t.Context(), backends.Info{Name: name, Size: int64(len(b))})
			if err != nil {
				t.Fatal(err)
			}
			room := tr.TableOffset() - 48
			from := 48 + rng.IntN(room/2)
			to := from + 4*tr.ShardSize + rng.IntN(room/2-4*tr.ShardSize) // more shards than two
			for i := from; i < to; i++ {
				b[i] ^= byte(1 + rng.IntN(255))
			}
			write(t, s, name, b)
			for _, e := range table.Entries {
				if int(e.Offset) < to && int(e.Offset+e.Length) > from {
					want[format.FailedBlob{ID: e.ID, Pack: tr.Name()}] = true
				}
			}
		}
		rep := verify(t, s)
		got := make(map[format.FailedBlob]bool)
		for _, f := range rep.Failed {
			got[f] = true
		}
		if !maps.Equal(got, want) {
			t.Errorf("round %d: %d blobs are noted, %d are lost", round, len(got), len(want))
		}
		before := objects(t, s)
		if _, d := mend(t, s, repair.Options{}); len(d.Mended) > 0 || !maps.Equal(before, objects(t, s)) {
			t.Errorf("round %d: a false repair: %+v", round, d)
		}
	}
}

// damaged makes the n-th damaged state, all of which can be mended with the replica.
func damaged(t *testing.T, n int) *mem.Store {
	t.Helper()
	s := clone(t)
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	pick := func(prefix string) string {
		all := under(t, s, prefix)
		return all[rng.IntN(len(all))]
	}
	spoil := func(name string) {
		b := read(t, s, name)
		b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		write(t, s, name, b)
	}
	for _, prefix := range []string{"packs/", "meta/", "index/", "packs/", "hosts/", "replica/1/keys/"} {
		if rng.IntN(2) == 0 {
			spoil(pick(prefix))
		}
	}
	switch rng.IntN(4) {
	case 0:
		for _, name := range under(t, s, "index/") {
			remove(t, s, name)
		}
	case 1:
		remove(t, s, pick("packs/"))
	case 2:
		remove(t, s, "config")
	case 3:
		spoil(pick("meta/"))
	}
	return s
}

// TestKilled kills a repair at every call on the storage, from many damaged states: what was restorable stays so, and the next run finishes.
func TestKilled(t *testing.T) {
	states, step := 20, 11 // all calls of 20 states take two minutes of a processor: make soak
	switch {
	case os.Getenv("PACKHOLD_SOAK") != "":
		states, step = 60, 1
	case testing.Short():
		states, step = 4, 13
	}
	clone(t)
	calls := 0
	for n := range states + 1 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var start *mem.Store
			var o repair.Options
			if n < states {
				start, o.From = damaged(t, n), clone(t)
			} else { // and one whose packs go
				start = clone(t)
				r := open(t, start)
				for _, name := range under(t, start, "packs/", "meta/") {
					b := read(t, start, name)
					tr, table, err := r.ReadTable(t.Context(), backends.Info{Name: name, Size: int64(len(b))})
					if err != nil {
						t.Fatal(err)
					}
					write(t, start, name, spoilGap(b, tr, table))
				}
			}
			before := lost(verify(t, start))
			for at := 1 + n%step; ; at += step {
				s := start.Clone()
				dying := &mortal{Storage: s, left: at}
				if !killed(t, dying, o) {
					clean(t, s)
					break
				}
				calls++
				if o.From == nil {
					ahead.Add(int64(2 * time.Hour))
				}
				if after := verify(t, s); lost(after) > before {
					t.Fatalf("killed at call %d: %v", at, after.Problems)
				}
				if _, d := mend(t, s, o); len(d.Left) > 0 {
					t.Fatalf("killed at call %d, left: %v", at, d.Left)
				}
				clean(t, s)
			}
		})
	}
	t.Logf("%d states, killed at %d calls", states, calls)
}

// killed repairs until the storage's user is killed, and reports whether that was so. Only what a plan does counts calls.
func killed(t *testing.T, s *mortal, o repair.Options) bool {
	for {
		r, p := planned(t, s, o)
		s.armed = true
		d, err := p.Apply(t.Context(), r, o)
		s.armed = false
		switch {
		case s.dead:
			return true
		case err != nil:
			t.Fatal(err)
		case !p.First || len(d.Mended) == 0:
			return false
		}
	}
}

func lost(rep *check.Report) (n int) {
	for _, p := range rep.Problems {
		if !p.Mendable {
			n++
		}
	}
	return n
}

var errDead = errors.New("killed")

// mortal is a storage whose user is killed at a call, which is half done where it stores: before it, or after it without an answer.
type mortal struct {
	backends.Storage
	mu          sync.Mutex
	armed, dead bool
	left, spent int
}

func (m *mortal) dies() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead || !m.armed {
		return m.dead
	}
	m.spent++
	m.dead = m.spent >= m.left
	return m.dead
}

func (m *mortal) Put(ctx context.Context, name string, data []byte, o backends.PutOptions) error {
	if m.dies() {
		m.mu.Lock()
		last := m.spent == m.left && m.left%2 == 0
		m.spent++
		m.mu.Unlock()
		if last {
			m.Storage.Put(ctx, name, data, o)
		}
		return errDead
	}
	return m.Storage.Put(ctx, name, data, o)
}

func (m *mortal) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if m.dies() {
		return nil, errDead
	}
	return m.Storage.Get(ctx, name, off, n)
}

func (m *mortal) Stat(ctx context.Context, name string) (backends.Info, error) {
	if m.dies() {
		return backends.Info{}, errDead
	}
	return m.Storage.Stat(ctx, name)
}

func (m *mortal) Delete(ctx context.Context, name string) error {
	if m.dies() {
		return errDead
	}
	return m.Storage.Delete(ctx, name)
}

// TestStorageFails: an error of the storage ends the repair, and is never taken for damage.
func TestStorageFails(t *testing.T) {
	s := damaged(t, 1)
	r := open(t, s)
	rep, err := check.Run(t.Context(), r, check.Options{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the line is cut")
	f := fault.New(clone(t), fault.Rule{Err: broken})
	if _, err := repair.Make(t.Context(), r, rep, repair.Options{From: f}); !errors.Is(err, broken) {
		t.Errorf("planning with a replica that is away: %v", err)
	}
	if !bytes.Equal(read(t, s, "settings/1"), read(t, clone(t), "settings/1")) {
		t.Error("something was changed")
	}
}
