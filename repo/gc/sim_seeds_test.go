package gc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/format"
	"packhold/repo/gc"
	"packhold/repo/replicate"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// shape is who meets in a seed, and how machines and storage behave.
type shape struct {
	writers, hosts, times int  // writers, of how many hosts, and how many backups each makes
	parent                bool // the first of them backs up files, whose parent snapshot is that of the start
	clones                bool // the first two are clones of one machine, made when their sessions began
	prunes, runs          int
	wise                  bool // the program's own prune
	old                   int  // snapshots at the start
	double                bool // everything they need is stored twice
	forgotten             bool // the first of them is forgotten
	forgets, undeletes    int
	holds, replicators    int
	home                  bool          // the source of the replication is pruned meanwhile
	blobs                 int           // there are
	hasty                 bool          // every session looks dead to whoever judges it
	pauses                int           // of 800 calls after how many time passes
	pause                 time.Duration // the longest
	skew                  time.Duration // of the clocks, at most
	faults                int           // of 1,000 calls how many fail
	crashes               int           // of 800 calls after how many a machine crashes
	far                   bool          // the storage is far away
}

// shapeOf draws the shape of a seed. Most are small: two or three processes meet in more ways in a hundred calls than ten do in a thousand.
func shapeOf(rng *rand.Rand, seed uint64) shape {
	sh := shape{writers: 1 + rng.IntN(2), hosts: 1 + rng.IntN(2), times: 1, prunes: 1 + rng.IntN(2), runs: 1 + rng.IntN(2), wise: true, old: 1, blobs: 3,
		hasty: rng.IntN(2) == 0, forgotten: true, crashes: 1, far: rng.IntN(8) == 0}
	if rng.IntN(3) == 0 {
		sh.pauses, sh.pause = 24, []time.Duration{61 * time.Minute, 10 * time.Hour, 240 * time.Hour}[rng.IntN(3)]
	}
	if rng.IntN(4) == 0 {
		sh.skew = []time.Duration{time.Minute, 10 * time.Hour}[rng.IntN(2)]
	}
	switch kind := seed % 16; kind {
	case 0, 1, 2: // small
		sh.old = 1 + rng.IntN(2)
	case 3: // what is needed is stored twice, and each copy is condemned by another prune
		sh.prunes, sh.double, sh.forgotten, sh.forgets, sh.wise = 2, true, false, rng.IntN(2), rng.IntN(2) == 0
		sh.writers, sh.holds = rng.IntN(2), rng.IntN(2)
	case 4: // a hold and a forget at once
		sh.writers, sh.holds, sh.forgets, sh.forgotten, sh.double = 0, 1, 1, false, rng.IntN(2) == 0
	case 5:
		sh.forgotten, sh.forgets, sh.old = false, 1, 1+rng.IntN(2)
	case 6, 7:
		sh.undeletes, sh.writers, sh.forgets = 1+rng.IntN(2), rng.IntN(2), rng.IntN(2)
	case 8, 9, 10:
		sh.replicators, sh.writers, sh.home, sh.old = 1+rng.IntN(2), rng.IntN(2), rng.IntN(2) == 0, rng.IntN(2)
		sh.forgotten, sh.pauses = sh.old > 0, 0
	case 11:
		sh.clones, sh.writers, sh.hosts, sh.forgets, sh.skew, sh.far = true, 2, 1, rng.IntN(2), 0, false
	case 12:
		sh.faults = 1 + rng.IntN(20)
		sh.undeletes, sh.holds, sh.forgets = rng.IntN(2), rng.IntN(2), rng.IntN(2)
	case 13: // a prune that condemns more than is wise
		sh.wise, sh.forgotten, sh.forgets, sh.old = false, rng.IntN(2) == 0, rng.IntN(2), 1+rng.IntN(2)
	case 14:
		sh.parent, sh.writers, sh.forgotten, sh.forgets = true, 1, rng.IntN(2) == 0, 1
	case 15: // everybody
		sh = shape{writers: 2, hosts: 2, times: 2, prunes: 1 + rng.IntN(2), runs: 3, wise: rng.IntN(2) == 0, old: 1, forgets: 2, undeletes: 1 + rng.IntN(2), holds: rng.IntN(2),
			replicators: rng.IntN(2), home: true, blobs: 6, hasty: rng.IntN(2) == 0, pauses: 24, pause: 61 * time.Minute, crashes: 1}
		if sh.replicators > 0 {
			sh.pauses = 0
		}
		if seed%256 == 255 {
			sh.writers, sh.times, sh.replicators = 8<<rng.IntN(4), 1, 0
			sh.hosts = sh.writers
		}
	}
	return sh
}

// simWorld is what every seed starts from.
type simWorld struct {
	base               *mem.Store
	cred               *crypt.Credential
	keys               *repo.Keys // of who has the passphrase
	pruner, replicator *crypt.Identity
	hosts              []*crypt.Identity // the first is that of the credential
	crowd              *mem.Store        // base with the certificates of all hosts
	files              string            // a directory with a file for each of three blobs
}

// mostHosts meet in a seed.
const mostHosts = 64

func newSimWorld(t *testing.T) *simWorld {
	t.Helper()
	cryptotest.SetGlobalRandom(t, 0)
	w := newWorld(t)
	sw := &simWorld{cred: w.cred, keys: w.boss.Keys(), files: t.TempDir()}
	sw.pruner = w.role("pruner", crypt.RoleWriter|crypt.RolePrune).Keys().Identity
	sw.replicator = w.role("replicator", crypt.RoleWriter|crypt.RolePrune).Keys().Identity
	sw.hosts = []*crypt.Identity{w.cred.Identity, w.role("host 1", crypt.RoleWriter).Keys().Identity}
	sw.base = w.store.Clone()
	for n := len(sw.hosts); n < mostHosts; n++ {
		sw.hosts = append(sw.hosts, w.certify(fmt.Sprint("host ", n), crypt.RoleWriter))
	}
	sw.crowd = w.store.Clone()
	for n := range 3 {
		if err := os.WriteFile(filepath.Join(sw.files, fmt.Sprint(n)), simBlob(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return sw
}

func simBlob(n int) []byte { return []byte(random(n, 2000+n)) }

// open opens a repository as a host, and with what the passphrase gives if all is set. Deriving that from the passphrase would take longer than a seed.
func (sw *simWorld) open(ctx context.Context, st backends.Storage, id *crypt.Identity, all bool, o repo.Options) (*repo.Repo, error) {
	c := *sw.cred
	if id != nil {
		c.Identity = id
	}
	r, err := repo.Open(ctx, st, repo.Access{Credential: &c}, o)
	if err == nil && all {
		k := r.Keys()
		k.Read, k.Reader, k.Admin = sw.keys.Read, sw.keys.Reader, sw.keys.Admin
	}
	return r, err
}

// outcome is what a seed did.
type outcome struct {
	done map[string]int
	log  []string // the calls in their order
}

// simulate runs one seed. It returns what went wrong.
func simulate(t *testing.T, sw *simWorld, seed uint64) (out outcome, err error) {
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(t *testing.T) {
		s := &sim{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), stage: new(stage), trees: make(map[crypt.ID][]crypt.ID),
			committed: make(map[crypt.SessionID]promised), held: make(map[crypt.SessionID]bool), done: make(map[string]int)}
		s.shape = shapeOf(s.rng, seed)
		err = s.run(t.Context(), sw)
		out = outcome{s.done, s.log}
	})
	return out, err
}

// run makes the actors, lets them meet, and then looks whether prune leaves anything behind.
func (s *sim) run(ctx context.Context, sw *simWorld) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bubble := time.Now()
	began := time.Date(2035, 1, 1, 0, 0, 0, 0, time.UTC)
	s.now = func() time.Time { return began.Add(time.Since(bubble)) }
	base := sw.base
	if s.shape.hosts > 2 {
		base = sw.crowd
	}
	fresh := func() (*mem.Store, error) {
		st := mem.New(s.now)
		for i, err := range base.List(ctx, "") {
			if err != nil {
				return nil, err
			}
			b, err := base.Get(ctx, i.Name, 0, -1)
			if err == nil {
				err = st.Put(ctx, i.Name, b, backends.PutOptions{})
			}
			if err != nil {
				return nil, err
			}
		}
		return st, nil
	}
	var err error
	if s.store, err = fresh(); err != nil {
		return err
	}
	for n := range s.shape.blobs {
		s.blobs = append(s.blobs, simBlob(n))
	}
	if s.check, err = sw.open(ctx, s.store, sw.pruner, true, repo.Options{Now: s.now}); err != nil {
		return err
	}
	var actors []*actor
	var on bool
	var failed error
	at := func(st *mem.Store, where string, n int) *staged {
		return &staged{Storage: st, stage: s.stage, actor: n, where: where, on: &on, hasty: s.shape.hasty, own: make(map[string]bool)}
	}
	add := func(name string, st *mem.Store, where string, id *crypt.Identity, all bool, times int, run func(ctx context.Context, a *actor) error) *actor {
		n := len(actors)
		a := &actor{name: name, st: at(st, where, n), rng: rand.New(rand.NewPCG(s.seed, uint64(n+2)))}
		now := s.now
		if k := int64(s.shape.skew); k > 0 {
			skew := time.Duration(s.rng.Int64N(2*k) - k)
			now = func() time.Time { return s.now().Add(skew) }
		}
		var err error
		if a.r, err = sw.open(ctx, a.st, id, all, repo.Options{Now: now, Far: s.shape.far, Flat: s.shape.far && s.rng.IntN(2) == 0}); err != nil {
			failed = err
		}
		a.run = func(ctx context.Context, a *actor) error {
			for range times {
				if err := run(ctx, a); err != nil {
					return fmt.Errorf("%s: %w", a.name, err)
				}
			}
			return nil
		}
		actors = append(actors, a)
		return a
	}
	for n := range max(s.shape.writers, 1) {
		f := s.backup
		if s.shape.parent && n == 0 {
			f = func(ctx context.Context, a *actor) error { return s.backupFiles(ctx, a, sw.files) }
		}
		a := add(fmt.Sprint("writer ", n), s.store, "", sw.hosts[n%max(s.shape.hosts, 1)], s.shape.parent && n == 0, s.shape.times, f)
		a.clone = s.shape.clones
	}
	idle := func(context.Context, *actor) error { return nil }
	if s.shape.writers == 0 {
		actors[0].run = idle // it makes what is there at the start
	}
	other := actors[0]
	if s.shape.double {
		other = add("another", s.store, "", sw.hosts[1], false, 1, idle)
	}
	for range s.shape.forgets {
		add("forgetter", s.store, "", nil, true, 1, s.forget)
	}
	for range s.shape.undeletes {
		add("undeleter", s.store, "", nil, true, 1, s.undelete)
	}
	for range s.shape.holds {
		add("holder", s.store, "", nil, true, 1, s.hold)
	}
	prune := s.prune
	if s.shape.wise {
		prune = s.pruneReal
	}
	for n := range s.shape.prunes {
		add(fmt.Sprint("prune ", n+1), s.store, "", sw.pruner, true, s.shape.runs, s.unharmed(prune))
	}
	if s.shape.replicators > 0 {
		home, err := fresh()
		if err != nil {
			return err
		}
		source := add("source's forgetter", home, "source: ", nil, true, 1, s.forget)
		for range 2 {
			if err := s.backup(ctx, source); err != nil {
				return err
			}
		}
		clear(s.committed) // not here
		if s.shape.home {
			sweep := s.prune
			if s.rng.IntN(2) == 0 {
				sweep = s.pruneReal
			}
			add("source's prune", home, "source: ", sw.pruner, true, 2, s.unharmed(sweep))
		} else {
			source.run = idle
		}
		for n := range s.shape.replicators {
			from, err := sw.open(ctx, at(home, "source: ", len(actors)), sw.replicator, false, repo.Options{Now: s.now})
			if err != nil {
				return err
			}
			add(fmt.Sprint("replicator ", n), s.store, "", sw.replicator, false, 1, func(ctx context.Context, a *actor) error { return s.replicate(ctx, a, from) })
		}
	}
	if failed != nil {
		return failed
	}
	if err := s.start(ctx, actors[0], other, sw.files); err != nil {
		return err
	}
	ended := make([]error, len(actors))
	var running sync.WaitGroup
	left := make(chan int, len(actors))
	on = true
	for i, a := range actors {
		running.Go(func() {
			if _, ended[i] = a.st.wait(ctx, "begin"); ended[i] == nil { // one at a time
				ended[i] = a.run(ctx, a)
			}
			left <- i
		})
	}
	err = s.schedule(ctx, len(actors), left)
	cancel()
	running.Wait()
	for i, e := range ended {
		if err == nil && e != nil && !errors.Is(e, context.Canceled) && !s.excused(actors[i], e) {
			err = fmt.Errorf("%s ended: %w", actors[i].name, e)
		}
	}
	if err == nil && s.seed/16%2 == 0 {
		err = s.quiet(context.WithoutCancel(ctx))
	}
	if err == nil && s.shape.clones {
		err = s.nonces(context.WithoutCancel(ctx))
	}
	return err
}

// excused reports whether an actor may end with an error.
func (s *sim) excused(a *actor, err error) bool {
	switch {
	case s.shape.faults > 0:
		return !errors.Is(err, repo.ErrTampered)
	case a.clone: // its lease was there already, in other bytes
		return errors.Is(err, os.ErrExist)
	}
	return false
}

// start makes the snapshots that are there at the start, and forgets one.
func (s *sim) start(ctx context.Context, a, other *actor, files string) error {
	clone := a.clone
	a.clone = false
	defer func() { a.clone = clone }()
	for range s.shape.old {
		var err error
		switch {
		case s.shape.parent:
			err = s.backupFiles(ctx, a, files)
		case s.shape.double:
			err = s.both(ctx, a, other)
		default:
			err = s.backup(ctx, a)
		}
		if err != nil {
			return err
		}
	}
	if s.shape.forgotten {
		boss := *a
		boss.r = s.check
		return s.forget(ctx, &boss)
	}
	return nil
}

// both makes two snapshots of the same blobs by sessions that do not see each other.
func (s *sim) both(ctx context.Context, a, other *actor) error {
	some := s.some(a.rng)
	first, err := a.r.Begin(ctx, repo.SessionOptions{})
	if err != nil {
		return err
	}
	defer first.Close(ctx)
	second, err := other.r.Begin(ctx, repo.SessionOptions{})
	if err != nil {
		return err
	}
	defer second.Close(ctx)
	for _, session := range []*repo.Session{first, second} {
		w, err := session.NewWorker()
		if err != nil {
			return err
		}
		root, err := s.put(w, some)
		if err != nil {
			return err
		}
		if session == second && s.rng.IntN(2) == 0 { // its packs stay, and nothing says what they are for
			return session.SaveSegments(ctx)
		}
		snap, err := session.Commit(ctx, &snapshot.Record{Type: snapshot.Full, Root: root, Lineage: [32]byte{1}}, &snapshot.Body{}, nil)
		if err != nil {
			return err
		}
		s.promise(snap.ID(), a, root, "backup")
	}
	return nil
}

// backupFiles backs up files, as the program does.
func (s *sim) backupFiles(ctx context.Context, a *actor, files string) error {
	res, err := backup.Run(ctx, a.r, backup.Options{Sources: []string{files}, Workers: 1, Now: a.r.Now})
	if err != nil {
		return err
	}
	s.promise(res.Snapshot.ID(), a, res.Snapshot.Root, "files")
	return nil
}

// unharmed is a prune that may find nothing safe to do.
func (s *sim) unharmed(prune func(context.Context, *actor) error) func(context.Context, *actor) error {
	return func(ctx context.Context, a *actor) error {
		err := prune(ctx, a)
		if errors.Is(err, repo.ErrDamaged) {
			// A snapshot that it read was forgotten, and swept by another run before it came to its tree. It removes nothing then; whether
			// something is lost indeed is looked at from outside.
			s.count("aborted")
			return nil
		}
		if stored.Missing(err) { // another run ended the set meanwhile: this one stops, and the next goes on
			s.count("overtaken")
			return nil
		}
		return err
	}
}

func (s *sim) replicate(ctx context.Context, a *actor, from *repo.Repo) error {
	_, err := replicate.Run(ctx, from, a.st, replicate.Options{
		Open:    func(context.Context) (*repo.Repo, error) { return a.r, nil },
		Journal: func(context.Context, *repo.Repo) (repo.Journal, error) { return nil, nil },
		Logs:    func(context.Context, *repo.Repo) ([]backends.Info, error) { return nil, nil },
	})
	if errors.Is(err, repo.ErrStorage) { // the source, or prune, was too quick for it
		s.count("replicator gave up")
		return nil
	}
	if err == nil {
		s.count("replicate")
	}
	return err
}

// schedule lets calls through until all actors have ended or crashed. The actor with the highest priority goes on; now and then priorities are drawn anew,
// so that others sleep for long, and sometimes one crashes, or time passes.
func (s *sim) schedule(ctx context.Context, n int, left <-chan int) error {
	priority := s.rng.Perm(n)
	crashed := make([]bool, n)
	over := make([]bool, n)
	idle, turn := 0, uint64(0)
	for {
		synctest.Wait()
		for len(left) > 0 {
			over[<-left] = true
		}
		all := true
		for i := range n {
			all = all && (over[i] || crashed[i])
		}
		if all {
			return s.whole(ctx, s.seed%8 == 0)
		}
		s.stage.mu.Lock()
		s.stage.calls = slices.DeleteFunc(s.stage.calls, func(c *call) bool { return c.gone })
		var open []*call // of the first actor
		for _, c := range s.stage.calls {
			switch {
			case crashed[c.actor] || len(open) > 0 && priority[c.actor] < priority[open[0].actor]:
				continue
			case len(open) > 0 && priority[c.actor] > priority[open[0].actor]:
				open = open[:0]
			}
			open = append(open, c)
		}
		var next *call
		if len(open) > 0 {
			slices.SortStableFunc(open, func(a, b *call) int { return strings.Compare(a.what, b.what) })
			next = open[s.rng.IntN(len(open))]
			s.stage.calls = slices.DeleteFunc(s.stage.calls, func(c *call) bool { return c == next })
		}
		s.stage.mu.Unlock()
		if next == nil {
			if idle++; idle > 1000 {
				return errors.New("nothing moves any more")
			}
			time.Sleep(time.Minute)
			continue
		}
		idle = 0
		if s.shape.faults > 0 && s.rng.IntN(1000) < s.shape.faults {
			next.fate = fate(1 + s.rng.IntN(2))
			s.count("fault")
		}
		s.note("%d %s %d", next.actor, next.what, next.fate)
		if s.shape.clones { // what a clone drew before is not drawn again by others
			turn++
			cryptotest.SetGlobalRandom(s.t, s.seed<<32+turn)
		}
		close(next.turn)
		synctest.Wait()
		if promises(next.what) {
			if err := s.whole(ctx, false); err != nil {
				return fmt.Errorf("after %q of actor %d: %w", next.what, next.actor, err)
			}
		}
		roll := s.rng.IntN(800)
		if roll < s.shape.crashes {
			crashed[s.rng.IntN(n)] = true
			s.count("crash")
			continue
		}
		if roll -= s.shape.crashes; roll < 50 {
			s.rng.Shuffle(n, func(i, j int) { priority[i], priority[j] = priority[j], priority[i] })
			continue
		}
		if roll -= 50; roll < s.shape.pauses {
			time.Sleep(61*time.Minute + time.Duration(s.rng.Int64N(int64(s.shape.pause))))
			s.count("pause")
		}
	}
}

// quiet is after everybody ended or crashed: two prunes, a day later and as much again, leave nothing that no snapshot needs.
func (s *sim) quiet(ctx context.Context) error {
	for range 2 {
		time.Sleep(24 * time.Hour)
		if _, err := gc.Prune(ctx, s.check, gc.PruneOptions{MaxRepack: -1}); err != nil {
			return fmt.Errorf("in the end: %w", err)
		}
	}
	if err := s.whole(ctx, false); err != nil {
		return fmt.Errorf("in the end: %w", err)
	}
	need, err := s.used(ctx, s.check)
	if err != nil {
		return err
	}
	garbage, err := listed(ctx, s.check)
	if err != nil {
		return err
	}
	for l, err := range s.check.Index().All() {
		if err != nil {
			return err
		}
		if need[l.ID] {
			delete(garbage, l.Pack.PackID)
		} else if _, there := garbage[l.Pack.PackID]; there {
			return fmt.Errorf("in the end nothing needs blob %v of pack %v", l.ID, l.Pack.Name)
		}
	}
	for p := range garbage {
		return fmt.Errorf("in the end nothing needs pack %v", p.Name)
	}
	return nil
}

// nonces looks for two plaintexts under one key and nonce: a key is that of a pack, or of an object by its salt, for one blob.
func (s *sim) nonces(ctx context.Context) error {
	type use struct {
		session string
		salt    [32]byte
		id      crypt.ID
		nonce   [12]byte
		how     uint8
	}
	sealed := make(map[use][]byte)
	for l, err := range s.check.Index().All() {
		if err != nil {
			return err
		}
		record, err := s.check.Index().Session(l.Pack.Session)
		if err != nil {
			return err
		}
		b, err := s.store.Get(ctx, format.PackName(l.Pack.Name, l.Pack.Tree(), l.Pack.Incarnation), int64(l.Offset), int64(l.Length))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		u := use{string(record), l.Pack.Salt, l.ID, [12]byte(b), uint8(l.Compression)}
		if other, ok := sealed[u]; ok && !bytes.Equal(other, b) {
			return fmt.Errorf("blob %v was sealed twice under one key and nonce", l.ID)
		}
		sealed[u] = b
	}
	salts := make(map[[32]byte]string)
	for i, err := range s.store.List(ctx, "") {
		if err != nil {
			return err
		}
		b, err := s.store.Get(ctx, i.Name, 0, -1)
		if err != nil {
			return err
		}
		h, err := crypt.ParseHeader(b)
		if err != nil || strings.HasPrefix(i.Name, "replica/") || h.Type == crypt.TypeDataPack || h.Type == crypt.TypeTreePack {
			continue
		}
		if other, ok := salts[h.Salt]; ok {
			return fmt.Errorf("%s and %s have one salt", other, i.Name)
		}
		salts[h.Salt] = i.Name
	}
	return nil
}

// soak asks for many more seeds.
var soak = os.Getenv("PACKHOLD_SOAK") != ""

// TestSimulation runs many seeds: 400, or 100,000 if PACKHOLD_SOAK is set, or those that PACKHOLD_SEEDS names.
func TestSimulation(t *testing.T) {
	sw := newSimWorld(t)
	seeds, least := 400, []string{"backup", "files", "forget", "undelete", "hold", "replicate", "fenced", "mark", "delete", "taken off",
		"crash", "pause", "real: removed", "real: repacked", "real: spared", "real: waiting", "real: fenced", "real: finished", "real: segments"}
	switch {
	case soak:
		seeds = 100_000
		least = append(least, "finalled by another")
	case testing.Short():
		seeds, least = 16, least[:1]
	}
	from := 0
	if text := os.Getenv("PACKHOLD_SEEDS"); text != "" { // the first one, and how many
		if _, err := fmt.Sscan(text, &from, &seeds); err != nil {
			t.Fatal(err)
		}
		least = nil
	}
	total := make(map[string]int)
	for n := range seeds {
		seed := uint64(from + n)
		if testing.Short() && seed%16 == 11 { // clones set the random bytes of the whole process back, which is a race by itself
			continue
		}
		out, err := simulate(t, sw, seed)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(out.log[max(0, len(out.log)-tailOfLog):], "\n"))
		}
		for what, n := range out.done {
			total[what] += n
		}
		if n%500 == 499 {
			t.Logf("%d seeds so far", n+1)
		}
	}
	t.Logf("%d seeds: %v", seeds, total)
	for _, what := range least {
		if total[what] == 0 {
			t.Errorf("%s never happened", what)
		}
	}
}

// TestSimulationReplays runs seeds twice: the same calls come in the same order.
func TestSimulationReplays(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs everything twice")
	}
	// The pack of the data and that of the trees are sealed at once, each with random bytes of the process: on one processor they draw them in one order.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	sw := newSimWorld(t)
	for seed := range uint64(32) {
		if shapeOf(rand.New(rand.NewPCG(seed, 1)), seed).far { // several packs are sealed at once there, and draw their random bytes in any order
			continue
		}
		first, err := simulate(t, sw, seed)
		again, err2 := simulate(t, sw, seed)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if !slices.Equal(first.log, again.log) {
			for i := range first.log {
				if i >= len(again.log) || first.log[i] != again.log[i] {
					t.Errorf("seed %d, call %d of %d: %q, and then %q", seed, i, len(first.log), first.log[i], again.log[min(i, len(again.log)-1)])
					break
				}
			}
		}
	}
}

// tailOfLog is how many of the last calls of a seed that failed are shown.
const tailOfLog = 400
