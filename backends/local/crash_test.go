package local

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/backup"
	verify "packhold/repo/check"
	"packhold/repo/format"
	"packhold/repo/gc"
	"packhold/repo/repotest"
)

// The crash model: what a whole life of a repository does to its disk is taped, and played back up to a point where the power fails. What no fsync
// made durable by then is there, or not, or torn, in any combination. The repository is opened in each such state.

// event is a change of the disk, or an fsync. Names are relative to the repository's folder; a file is known by the name it was created with.
type event struct {
	kind string // create, write, syncfile, link, rename, mkdir, syncdir, remove
	name string
	to   string
	data []byte
}

// tape holds the events in the order in which they were done.
type tape struct {
	base string

	mu     sync.Mutex // held while an event is done, so that the order is the true one
	events []event
}

func (p *tape) do(e event, f func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := f(); err != nil {
		return err
	}
	e.data = slices.Clone(e.data)
	p.events = append(p.events, e)
	return nil
}

func (p *tape) rel(name string) string {
	name, err := filepath.Rel(p.base, name)
	if err != nil {
		panic(err)
	}
	return filepath.ToSlash(name)
}

func (p *tape) ops() ops {
	o := systemOps(true)
	system := o
	o.create = func(root *os.Root, name string) (f *os.File, err error) {
		err = p.do(event{kind: "create", name: name}, func() error { f, err = system.create(root, name); return err })
		return f, err
	}
	o.write = func(f *os.File, data []byte) error {
		return p.do(event{kind: "write", name: p.rel(f.Name()), data: data}, func() error { return system.write(f, data) })
	}
	o.syncFile = func(f *os.File) error {
		return p.do(event{kind: "syncfile", name: p.rel(f.Name())}, func() error { return nil })
	}
	o.link = func(root *os.Root, from, to string) error {
		return p.do(event{kind: "link", name: from, to: to}, func() error { return system.link(root, from, to) })
	}
	o.rename = func(root *os.Root, from, to string) error {
		return p.do(event{kind: "rename", name: from, to: to}, func() error { return system.rename(root, from, to) })
	}
	o.mkdir = func(root *os.Root, name string) error {
		return p.do(event{kind: "mkdir", name: name}, func() error { return system.mkdir(root, name) })
	}
	o.syncDir = func(d *os.File) error {
		return p.do(event{kind: "syncdir", name: p.rel(d.Name())}, func() error { return nil })
	}
	o.remove = func(root *os.Root, name string) error {
		return p.do(event{kind: "remove", name: name}, func() error { return system.remove(root, name) })
	}
	return o
}

// durable says which of the first k events outlast a power loss right after them, where the events that ignored picks were never done.
func (p *tape) durable(k int, ignored func(event) bool) []bool {
	out := make([]bool, k)
	synced := make(map[string]bool) // files, and directories with "/" behind
	for i := k - 1; i >= 0; i-- {
		switch e := p.events[i]; e.kind {
		case "syncfile":
			if !ignored(e) {
				synced[e.name] = true
			}
		case "syncdir":
			if !ignored(e) {
				synced[e.name+"/"] = true
			}
		case "write":
			out[i] = synced[e.name]
		case "link", "rename":
			out[i] = synced[path.Dir(e.to)+"/"]
		default:
			out[i] = synced[path.Dir(e.name)+"/"]
		}
	}
	return out
}

// crash returns the files of a state that a power loss after the first k events can leave.
func (p *tape) crash(k int, r *rand.Rand, ignored func(event) bool) map[string][]byte {
	stays := p.durable(k, ignored)
	chance := []float64{0, 0.5, 0.9, 1}[r.IntN(4)] // for what is not durable
	data, names, lost := make(map[string][]byte), make(map[string]string), make(map[string]bool)
	for i, e := range p.events[:k] {
		if e.kind == "write" {
			data[e.name] = append(data[e.name], e.data...)
			if !stays[i] && r.Float64() >= chance {
				data[e.name] = torn(data[e.name], r)
			}
			continue
		}
		stay := stays[i] || r.Float64() < chance
		switch e.kind {
		case "create":
			if stay {
				names[e.name] = e.name
			}
		case "link", "rename":
			if stay {
				names[e.to] = e.name
				if e.kind == "rename" {
					delete(names, e.name)
				}
			}
		case "remove":
			if stay {
				delete(names, e.name)
			}
		case "mkdir":
			lost[e.name] = !stay
		}
	}
	files := make(map[string][]byte)
	for name, file := range names {
		if path.Dir(name) != tempDir && !slices.ContainsFunc(backends.Parents(path.Dir(name)), func(d string) bool { return lost[d] }) {
			files[name] = data[file]
		}
	}
	return files
}

// torn is what may be left of data that was not synchronized: nothing, a part, or all with sectors that were not written.
func torn(data []byte, r *rand.Rand) []byte {
	const sector = 512
	switch r.IntN(3) {
	case 0:
		return nil
	case 1:
		return data[:r.IntN(len(data)/sector+1)*sector]
	}
	data = slices.Clone(data)
	for i := 0; i < len(data); i += sector {
		if r.IntN(2) == 0 {
			clear(data[i:min(i+sector, len(data))])
		}
	}
	return data
}

// life is a taped one.
type life struct {
	*tape
	cred     *crypt.Credential
	source   string
	ready    int // events until the repository was there
	promised []promise
}

// promise is a snapshot that was reported after the event from, and forgotten by the event to.
type promise struct {
	id       string
	from, to int
}

// openRepo opens s as a host whose user knows the passphrase; with no credential as whoever prunes.
func openRepo(ctx context.Context, s backends.Storage, c *crypt.Credential) (*repo.Repo, error) {
	return repo.Open(ctx, s, repo.Access{Credential: c, Passphrase: []byte(repotest.Passphrase)}, repo.Options{})
}

func writeSource(dir string, seed uint64) error {
	b := make([]byte, 40_000)
	c := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = c.Read(b) // never fails
	return os.WriteFile(filepath.Join(dir, fmt.Sprint("file", seed)), b, 0o600)
}

// live tapes backups, a forget and a prune.
func live(t *testing.T) *life {
	t.Helper()
	l := &life{tape: &tape{base: t.TempDir()}, source: t.TempDir()}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := open(l.base, Options{}, l.ops())
	must(err)
	defer s.Close()
	l.cred, err = repotest.Copy(ctx, s, repotest.Options{Parity: 2, PackSize: format.MinPackSize})
	must(err)
	l.ready = len(l.events)
	var first *repo.Snapshot
	for seed := range uint64(4) {
		must(writeSource(l.source, seed))
		if seed > 0 {
			must(os.Remove(filepath.Join(l.source, fmt.Sprint("file", seed-1))))
		}
		r, err := openRepo(ctx, s, l.cred)
		must(err)
		res, err := backup.Run(ctx, r, backup.Options{Sources: []string{l.source}})
		must(err)
		l.promised = append(l.promised, promise{res.Snapshot.ID().String(), len(l.events), math.MaxInt})
		if seed == 0 {
			first = res.Snapshot
		}
		if seed == 2 {
			l.promised[0].to = len(l.events)
			r, err = openRepo(ctx, s, nil)
			must(err)
			_, err = gc.Forget(ctx, r, []*repo.Snapshot{first}, "test")
			must(err)
			pruned, err := gc.Prune(ctx, r, gc.PruneOptions{})
			must(err)
			if pruned.Removed == 0 {
				t.Fatal("the prune removed nothing")
			}
		}
	}
	return l
}

// violated says what is wrong with the repository in a state after k events, or nothing; with next also after the next backup and prune.
func (l *life) violated(ctx context.Context, k int, files map[string][]byte, next bool) error {
	s := mem.New(time.Now)
	for name, b := range files {
		if err := s.Put(ctx, name, b, backends.PutOptions{}); err != nil {
			return err
		}
	}
	if err := l.whole(ctx, s, k); err != nil || !next {
		return err
	}
	r, err := repo.Open(ctx, s, repo.Access{Credential: l.cred}, repo.Options{})
	if err != nil {
		return err
	}
	if _, err = backup.Run(ctx, r, backup.Options{Sources: []string{l.source}}); err != nil {
		return fmt.Errorf("the next backup: %w", err)
	}
	if r, err = openRepo(ctx, s, nil); err != nil {
		return err
	}
	if _, err = gc.Prune(ctx, r, gc.PruneOptions{Anyway: true}); err != nil {
		return fmt.Errorf("the next prune: %w", err)
	}
	if err := l.whole(ctx, s, k); err != nil {
		return fmt.Errorf("after the next prune: %w", err)
	}
	return nil
}

// whole opens and hashes every blob of s, which holds every snapshot that was promised by then.
func (l *life) whole(ctx context.Context, s backends.Storage, k int) error {
	r, err := openRepo(ctx, s, l.cred)
	if err != nil {
		return err
	}
	list, err := r.Snapshots(ctx)
	if err != nil {
		return err
	}
	for _, p := range l.promised {
		if p.from <= k && k <= p.to && !slices.ContainsFunc(list, func(s *repo.Snapshot) bool { return s.ID().String() == p.id }) {
			return fmt.Errorf("snapshot %s was reported and is not there", p.id)
		}
	}
	rep, err := verify.Run(ctx, r, verify.Options{ReadData: true})
	if err != nil {
		return err
	}
	if len(rep.Problems) > 0 {
		return fmt.Errorf("verify says: %v", rep.Problems)
	}
	return nil
}

func digest(files map[string][]byte) [32]byte {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%q %d\n%s", name, len(files[name]), files[name])
	}
	return [32]byte(h.Sum(nil))
}

// TestPowerLoss: whatever a power loss leaves, each snapshot that was reported is there to its last byte, verify finds no damage, and the next backup
// and prune work, which is tried from every eighth state, and in a soak from all.
func TestPowerLoss(t *testing.T) {
	n, soak := 5000, os.Getenv("PACKHOLD_SOAK") != ""
	switch {
	case soak:
		n = 200_000
	case testing.Short():
		n = 100
	}
	l := live(t)
	seen := make(map[[32]byte]bool)
	r := rand.New(rand.NewPCG(6, 1))
	for i := range n {
		k := l.ready + i%(len(l.events)-l.ready+1)
		files := l.crash(k, r, func(event) bool { return false })
		// What was promised belongs to a state: the same files may come before and after a report.
		d := digest(files)
		for j, p := range l.promised {
			if p.from <= k && k <= p.to {
				d[j] ^= 1
			}
		}
		if seen[d] {
			continue
		}
		seen[d] = true
		if err := l.violated(t.Context(), k, files, soak || len(seen)%8 == 1); err != nil {
			t.Fatalf("state %d, after %d of %d events: %v", i, k, len(l.events), err)
		}
	}
	t.Logf("%d states, %d of them different, of %d events", n, len(seen), len(l.events)-l.ready)
}

// TestPowerLossNeedsFsync: the model notices when an fsync is left out, of files and of each kind of directory.
func TestPowerLossNeedsFsync(t *testing.T) {
	l := live(t)
	for name, ignored := range map[string]func(e event) bool{
		"files":     func(e event) bool { return e.kind == "syncfile" },
		"root":      func(e event) bool { return e.kind == "syncdir" && e.name == "." },
		"packs":     func(e event) bool { return e.kind == "syncdir" && strings.HasPrefix(e.name, "packs") },
		"snapshots": func(e event) bool { return e.kind == "syncdir" && strings.HasPrefix(e.name, "snapshots") },
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(6, 2))
			for range 300 {
				k := l.ready + r.IntN(len(l.events)-l.ready+1)
				if err := l.violated(t.Context(), k, l.crash(k, r, ignored), false); err != nil {
					t.Log(err)
					return
				}
			}
			t.Error("nothing was noticed")
		})
	}
}
