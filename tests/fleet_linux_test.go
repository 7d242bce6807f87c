package tests

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	fleetHosts = 16
	fleetFile  = 150_000 // bytes, on average
	fleetPool  = 10      // contents that all hosts have in common: what one host's forgotten snapshots leave behind is what another begins to need
)

// fleet is a repository with hosts that back up at once, each a process with a home folder of its own, while others forget, prune, restore and verify.
type fleet struct {
	t       *testing.T
	folder  string                            // of the repository, on this machine
	at      func(t *testing.T, h home) remote // gives a home folder access to it
	boss    remote                            // whoever has the passphrase
	sources []string                          // what each host backs up
	stop    time.Time

	mu        sync.Mutex                   // guards what follows
	rng       *rand.Rand                   //
	want      map[string]map[string]string // what a snapshot with this tag restores to
	committed map[string]bool              // tags of backups that said so
	did       map[string]int               // how often what was done
}

// TestFleet: sixteen hosts back up for half a minute, for ten by `make soak`, on each kind of storage. Some are killed, some suspended; administrators
// forget and prune all the time, two at once, others restore and verify. Every snapshot that was committed and not forgotten restores to the very bytes, nobody ever reads
// others, and no garbage is left.
func TestFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes more than half a minute")
	}
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "repository")
		runFleet(t, dir, func(_ *testing.T, h home) remote { return remote{h, []string{"PACKHOLD_REPOSITORY=" + dir}} })
	})
	t.Run("sftp", func(t *testing.T) {
		t.Parallel()
		s := startSSH(t)
		dir := filepath.Join(t.TempDir(), "repository")
		runFleet(t, dir, func(t *testing.T, h home) remote {
			s.admit(t, h)
			return remote{h, []string{"PACKHOLD_REPOSITORY=" + s.url() + dir}}
		})
	})
	t.Run("s3", func(t *testing.T) {
		t.Parallel()
		s := startS3(t)
		runFleet(t, filepath.Join(s.data, "bucket/fleet"), func(t *testing.T, h home) remote {
			return remote{h, s.remote(t, "bucket/fleet").env}
		})
	})
}

func runFleet(t *testing.T, folder string, at func(*testing.T, home) remote) {
	f := &fleet{t: t, folder: folder, at: at, rng: newSeed(t), want: make(map[string]map[string]string), committed: make(map[string]bool), did: make(map[string]int)}
	f.boss = at(t, home(t.TempDir()))
	f.boss.exits(t, 0, "init", "--quiet", "--pack-size", "1M")
	hosts := make([]remote, fleetHosts)
	var wg sync.WaitGroup
	for i := range hosts {
		hosts[i] = at(t, home(t.TempDir()))
		f.sources = append(f.sources, filepath.Join(t.TempDir(), "source"))
		wg.Go(func() { f.run(hosts[i].command("host", "enroll", "--quiet", "--name", fmt.Sprintf("host-%02d", i)), 0) })
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	length := 30 * time.Second
	if soaking() {
		length = 10 * time.Minute
	}
	f.stop = time.Now().Add(length)
	for i, h := range hosts {
		wg.Go(func() { f.writer(h, i) })
	}
	second := at(t, home(t.TempDir()))
	wg.Go(func() { f.pruner(f.boss) })
	third, fourth, fifth := at(t, home(t.TempDir())), at(t, home(t.TempDir())), at(t, home(t.TempDir()))
	wg.Go(func() { f.pruner(second) })
	wg.Go(func() { f.forgetter(third) })
	wg.Go(func() { f.reader(fourth) })
	wg.Go(func() { f.verifier(fifth) })
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}

	// When all stand still. Whoever was killed has an open session, whose packs stay until it was silent for an hour of the storage's time.
	f.boss.exits(t, 0, "verify", "--quiet", "--read-data")
	f.prune()
	f.age(2 * time.Hour)
	f.prune()
	f.prune()
	if left := f.prune("--dry-run"); left.Removed+left.Waiting+left.Deferred != 0 || left.Unused != 0 {
		t.Errorf("garbage is left: %+v", left)
	}
	f.prune() // the leases of the last one that did anything
	f.stored()
	if out := f.boss.exits(t, 0, "verify", "--read-data", "--json").stdout; !strings.Contains(out, `"orphan_packs":0,`) || !strings.Contains(out, `"foreign_files":0,`) {
		t.Errorf("verify says\n%s", out)
	}
	f.whole()
	t.Log(f.did)
	d := f.did
	if d["backup"] == 0 || d["forget"] == 0 || d["prune"] == 0 || d["verify"] == 0 || d["killed"]+d["suspended"] == 0 || d["restore"]+d["restore refused"] == 0 {
		t.Error("nobody did some of this")
	}
}

func (f *fleet) draw(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rng.IntN(n)
}

func (f *fleet) count(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.did[what]++
}

// run ends the test unless the command exits with one of the codes. It may be called by any goroutine, unlike the like of it.
func (f *fleet) run(cmd *exec.Cmd, codes ...int) result {
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		f.t.Error(err)
		return result{code: -1}
	}
	r := result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
	if problem := unseemly(r.stderr); problem != "" || !slices.Contains(codes, r.code) {
		f.t.Errorf("packhold %s: exit %d, want %v\n%s%s", strings.Join(cmd.Args[1:], " "), r.code, codes, r.stdout, r.stderr)
	}
	return r
}

// on reports whether the test goes on.
func (f *fleet) on() bool { return time.Now().Before(f.stop) && !f.t.Failed() }

// writer backs up, without the passphrase, until the time is over, and then once more.
func (f *fleet) writer(h remote, host int) {
	for gen, last := 0, false; !last; gen++ {
		last = !f.on()
		tag := fmt.Sprintf("h%02dg%d", host, gen)
		want, err := f.change(f.sources[host], tag)
		if err != nil {
			f.t.Error(err)
			return
		}
		f.mu.Lock()
		f.want[tag] = want
		f.mu.Unlock()
		cmd := h.command("backup", "--quiet", "--tag", tag, "--source", f.sources[host])
		cmd.Env = append(h.home.unattended(), h.env...)
		fate, after := f.draw(8), time.Duration(f.draw(400))*time.Millisecond
		if last || fate > 1 {
			f.run(cmd, 0)
			f.count("backup")
		} else if f.disturb(cmd, fate == 0, after) {
			continue
		}
		f.mu.Lock()
		f.committed[tag] = true
		f.mu.Unlock()
		time.Sleep(time.Duration(f.draw(1000)) * time.Millisecond) // otherwise two processors do little but back up
	}
}

// disturb runs a backup that is killed or suspended at some moment, if it has not ended by then. It returns whether it was killed.
func (f *fleet) disturb(cmd *exec.Cmd, kill bool, after time.Duration) bool {
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		f.t.Error(err)
		return false
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ended := false
	select {
	case <-done:
		ended = true
	case <-time.After(after):
		if kill {
			cmd.Process.Kill()
		} else {
			cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(500+f.draw(3000)) * time.Millisecond)
			cmd.Process.Signal(syscall.SIGCONT)
			f.count("suspended")
		}
		<-done
	}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); kill && !ended && status.Signaled() {
		f.count("killed")
		return true
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		f.t.Errorf("a backup that was disturbed: exit %d\n%s", code, &errs)
	}
	return false
}

// change makes a source anew: what all have in common, what nobody else has, and what most files are, unchanged. It describes it.
func (f *fleet) change(dir, tag string) (map[string]string, error) {
	if err := os.MkdirAll(filepath.Join(dir, "common"), 0o755); err != nil {
		return nil, err
	}
	f.mu.Lock()
	own, kept := f.rng.Uint64(), f.rng.IntN(3) == 0
	common := f.rng.Perm(fleetPool)[:3]
	size := int64(f.rng.IntN(2 * fleetFile))
	f.mu.Unlock()
	if err := os.WriteFile(filepath.Join(dir, "tag"), []byte(tag), 0o600); err != nil {
		return nil, err
	}
	if !kept {
		if err := writeRandom(filepath.Join(dir, "own"), own, size); err != nil {
			return nil, err
		}
	}
	for i, content := range common {
		if err := writeRandom(filepath.Join(dir, "common", fmt.Sprint(i)), uint64(content), fleetFile*int64(content+1)/fleetPool*2); err != nil {
			return nil, err
		}
	}
	return describe(dir)
}

// pruner prunes, and forgets. A second one may be at work at the same moment.
func (f *fleet) pruner(r remote) {
	for f.on() {
		switch f.draw(3) {
		case 0:
			f.run(r.command("prune", "--quiet", "--max-unused", "0"), 0, 11)
		case 1:
			f.run(r.command("prune", "--quiet", "--anyway"), 0, 11)
		default:
			f.run(r.command("forget", "--quiet", "--keep-last", "1", "--prune"), 0, 11)
		}
		f.count("prune")
	}
}

// forgetter only forgets, at any moment of a prune.
func (f *fleet) forgetter(r remote) {
	for f.on() {
		f.run(r.command("forget", "--quiet", "--keep-last", fmt.Sprint(1+f.draw(2))), 0)
		f.count("forget")
		time.Sleep(time.Second)
	}
}

// reader restores snapshots, which may be forgotten and pruned meanwhile: then it must say so, and what was restored must never be anything else.
func (f *fleet) reader(r remote) {
	for n := 0; f.on(); n++ {
		list := f.list(r)
		if len(list) == 0 {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s := list[f.draw(len(list))]
		dst := filepath.Join(string(r.home), fmt.Sprint("restored", n))
		res := f.run(r.command("restore", "--quiet", "--backup-id", s.ID, "--destination", dst), 0, 4, 21) // 4: there is no such snapshot
		if res.code == 0 {
			f.same(s, dst)
			f.count("restore")
		} else {
			f.count("restore refused")
			if slices.ContainsFunc(f.list(r), func(o fleetSnapshot) bool { return o.ID == s.ID }) {
				f.t.Errorf("snapshot %s is listed, and was not restored: exit %d\n%s", s.ID, res.code, res.stderr)
			}
		}
		os.RemoveAll(dst)
	}
}

// verifier has nothing to find.
func (f *fleet) verifier(r remote) {
	for n := 0; f.on(); n++ {
		args := []string{"verify", "--quiet"}
		if n%2 == 1 {
			args = append(args, "--read-data")
		}
		f.run(r.command(args...), 0)
		f.count("verify")
	}
}

type fleetSnapshot struct {
	Type string `json:"message_type"`
	ID   string
	Tags []string
}

// list returns the snapshots.
func (f *fleet) list(r remote) []fleetSnapshot { return f.snapshots(r, "list", "--unlock", "--json") }

func (f *fleet) snapshots(r remote, args ...string) (all []fleetSnapshot) {
	for line := range strings.Lines(f.run(r.command(args...), 0).stdout) {
		var s fleetSnapshot
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			f.t.Error(err)
		}
		if s.Type == "snapshot" || s.Type == "forgotten_snapshot" {
			all = append(all, s)
		}
	}
	return all
}

// same compares what was restored with what its host had.
func (f *fleet) same(s fleetSnapshot, dir string) {
	f.mu.Lock()
	want := f.want[strings.Join(s.Tags, "")]
	f.mu.Unlock()
	got, err := describe(dir)
	if err != nil {
		f.t.Error(err)
	} else if d := differences(want, got); d != "" || want == nil {
		f.t.Errorf("snapshot %s with the tags %v differs from what was backed up:\n%s", s.ID, s.Tags, d)
	}
}

// whole restores every snapshot, and looks for those that were committed: in the list, or among those that were forgotten.
func (f *fleet) whole() {
	list := f.list(f.boss)
	here := make(map[string]bool)
	var wg sync.WaitGroup
	slots := make(chan bool, 4)
	for i, s := range list {
		here[strings.Join(s.Tags, "")] = true
		wg.Go(func() {
			slots <- true
			defer func() { <-slots }()
			dst := filepath.Join(string(f.boss.home), fmt.Sprint("restored", i))
			f.run(f.boss.command("restore", "--quiet", "--backup-id", s.ID, "--destination", dst), 0)
			f.same(s, dst)
			os.RemoveAll(dst)
		})
	}
	wg.Wait()
	f.did["snapshots at the end"] = len(list)
	if len(list) < fleetHosts {
		f.t.Errorf("%d snapshots are left: each of %d hosts has one that nobody forgot", len(list), fleetHosts)
	}
	for _, s := range f.snapshots(f.boss, "undelete", "--list", "--json") {
		here[strings.Join(s.Tags, "")] = true
	}
	for _, tag := range slices.Sorted(maps.Keys(f.committed)) {
		if !here[tag] {
			f.t.Errorf("the snapshot with the tag %s was committed, and is neither listed nor forgotten", tag)
		}
	}
}

// age sets the storage's clock forward, as far as leases are concerned.
func (f *fleet) age(d time.Duration) {
	f.t.Helper()
	leases := filepath.Join(f.folder, "leases")
	list, err := os.ReadDir(leases)
	if err != nil {
		f.t.Fatal(err)
	}
	then := time.Now().Add(-d)
	for _, e := range list {
		if err := os.Chtimes(filepath.Join(leases, e.Name()), then, then); err != nil {
			f.t.Fatal(err)
		}
	}
}

type fleetPruned struct {
	Removed  int   `json:"removed"`
	Waiting  int   `json:"waiting_sessions"`
	Fenced   int   `json:"fenced_sessions"`
	Deferred int   `json:"deferred"`
	Unused   int64 `json:"unused_bytes"`
}

func (f *fleet) prune(flags ...string) (p fleetPruned) {
	f.t.Helper()
	out := f.boss.exits(f.t, 0, append([]string{"prune", "--json", "--max-unused", "0"}, flags...)...).stdout
	for line := range strings.Lines(out) {
		if strings.Contains(line, `"message_type":"pruned"`) { // before it come lines about progress
			if err := json.Unmarshal([]byte(line), &p); err != nil {
				f.t.Fatal(err)
			}
			f.t.Log(line)
		}
	}
	return p
}

// stored fails if more is there than a repository with no open session has: a set that nobody carried out, a lease of a session that has ended.
func (f *fleet) stored() {
	for folder, fine := range map[string]func(name string) bool{
		"condemned": func(name string) bool { return strings.HasSuffix(name, ".final") },
		"leases":    func(string) bool { return false },
	} {
		err := filepath.WalkDir(filepath.Join(f.folder, folder), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !strings.HasPrefix(d.Name(), ".") && !fine(d.Name()) {
				f.t.Errorf("%s/%s is left", folder, d.Name())
			}
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			f.t.Error(err)
		}
	}
}
