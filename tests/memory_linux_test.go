package tests

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	memoryLimit  = 256 << 20 // of the cgroup: program, page cache and kernel together
	memoryBudget = 200 << 20 // anonymous: what the program itself takes
)

// A backup of large and of many small files, an incremental one, a check of all data and a restore run in 256 MiB.
func TestMemory(t *testing.T) {
	needRoot(t)
	group := newMemoryGroup(t)
	dir := diskFolder(t)
	h := home(filepath.Join(dir, "home"))
	if err := os.Mkdir(string(h), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := copyHome(h); err != nil {
		t.Fatal(err)
	}
	large, small := int64(400<<20), 16_000
	if soaking() {
		large, small = 16<<30, 1_000_000
	}
	source := filepath.Join(dir, "source")
	if err := writeMixed(filepath.Join(source, "large.bin"), large); err != nil {
		t.Fatal(err)
	}
	if err := writeSmall(filepath.Join(source, "small"), small); err != nil {
		t.Fatal(err)
	}
	group.run(t, h, "backup", "--quiet", "--source", source)

	if err := os.WriteFile(filepath.Join(source, "small", "new"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeRandom(filepath.Join(source, "changed.bin"), 3, 8<<20); err != nil {
		t.Fatal(err)
	}
	group.run(t, h, "backup", "--quiet", "--source", source)
	ids := h.snapshotIDs(t)
	if len(ids) != 2 {
		t.Fatalf("%d snapshots, want 2", len(ids))
	}
	group.run(t, h, "verify", "--quiet", "--read-data")

	restored := filepath.Join(dir, "restored")
	group.run(t, h, "restore", "--quiet", "--backup-id", ids[1], "--destination", restored)
	sameTree(t, mustDescribe(t, source), restored)
}

// writeMixed writes a file whose mebibytes are by turns random and text that compresses.
func writeMixed(path string, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := rand.NewChaCha8([32]byte{1})
	block := make([]byte, 1<<20)
	for n := int64(0); n < size; n += int64(len(block)) {
		r.Read(block)
		if n>>20%2 == 1 {
			for i := range block {
				block[i] = "abcdefgh etaoin\n"[block[i]>>4]
			}
		}
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return f.Close()
}

// writeSmall writes n files of 1 to 16 KiB, 500 to a folder.
func writeSmall(dir string, n int) error {
	r := rand.NewChaCha8([32]byte{2})
	draw := rand.New(r)
	buf := make([]byte, 16<<10)
	for i := range n {
		folder := filepath.Join(dir, strconv.Itoa(i/500))
		if i%500 == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		data := buf[:1<<10+draw.IntN(15<<10)]
		r.Read(data[:1<<10]) // the rest is that of the file before
		if err := os.WriteFile(filepath.Join(folder, strconv.Itoa(i)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// diskFolder returns a folder that is not in memory: what is written to tmpfs would count for the group's memory and stay.
func diskFolder(t *testing.T) string {
	t.Helper()
	for _, parent := range []string{os.TempDir(), "/var/tmp", "."} {
		var fs unix.Statfs_t
		if err := unix.Statfs(parent, &fs); err != nil || fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC {
			continue
		}
		dir, err := os.MkdirTemp(parent, "packhold-memory")
		if err != nil {
			t.Fatal(err)
		}
		if dir, err = filepath.Abs(dir); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	t.Skip("the temporary folder, /var/tmp and the working folder are all in memory")
	return ""
}

// memoryGroup is a cgroup with a limit.
type memoryGroup struct {
	dir    string
	events string // the file with the line "oom_kill N"
}

// newMemoryGroup makes one, of version 2 if its memory controller is there, otherwise of version 1. Where the system has a memory
// controller and does not let root use it, the test fails if CI is set: it proves nothing if nobody notices that it did not run.
func newMemoryGroup(t *testing.T) memoryGroup {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skip("no cgroups: ", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var problems []error
	for _, version := range []string{"cgroup2", "cgroup"} {
		for line := range strings.Lines(string(mounts)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[2] != version || version == "cgroup" && !hasField(f[3], "memory") {
				continue
			}
			g, err := makeMemoryGroup(f[1], ownGroup(string(own), version), version)
			if err == nil {
				t.Cleanup(func() {
					if err := os.Remove(g.dir); err != nil {
						t.Error(err)
					}
				})
				return g
			}
			problems = append(problems, err)
		}
	}
	problem := errors.Join(problems...)
	if problem != nil && !errors.Is(problem, errNoController) && os.Getenv("CI") != "" {
		t.Fatal("no memory cgroup, although there is a controller: ", problem)
	}
	t.Skip("no memory cgroup: ", problem)
	return memoryGroup{}
}

var errNoController = errors.New("no memory controller")

// ownGroup is this process's group in a hierarchy.
func ownGroup(own, version string) string {
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && (version == "cgroup2" && f[1] == "" || version == "cgroup" && hasField(f[1], "memory")) {
			return f[2]
		}
	}
	return "/"
}

func hasField(list, field string) bool {
	for f := range strings.SplitSeq(list, ",") {
		if f == field {
			return true
		}
	}
	return false
}

// makeMemoryGroup makes a group below this process's own, or below the next ancestor that may have one.
func makeMemoryGroup(mount, own, version string) (memoryGroup, error) {
	controllers, err := os.ReadFile(filepath.Join(mount, "cgroup.controllers"))
	if version == "cgroup2" && (err != nil || !hasField(strings.Join(strings.Fields(string(controllers)), ","), "memory")) {
		return memoryGroup{}, errNoController
	}
	var last error
	for parent := filepath.Join(mount, own); strings.HasPrefix(parent, mount); parent = filepath.Dir(parent) {
		if version == "cgroup2" {
			// This fails where processes are directly in parent, which is why ancestors are tried.
			if err := writeControl(parent, "cgroup.subtree_control", "+memory"); err != nil {
				last = err
				continue
			}
		}
		dir, err := os.MkdirTemp(parent, "packhold-test-")
		if err != nil {
			last = err
			continue
		}
		limit := strconv.Itoa(memoryLimit)
		g := memoryGroup{dir, filepath.Join(dir, "memory.events")}
		if version == "cgroup2" {
			err = errors.Join(writeControl(dir, "memory.max", limit), ignoreMissing(writeControl(dir, "memory.swap.max", "0")))
		} else {
			g.events = filepath.Join(dir, "memory.oom_control")
			err = errors.Join(writeControl(dir, "memory.limit_in_bytes", limit),
				ignoreMissing(writeControl(dir, "memory.memsw.limit_in_bytes", limit)))
		}
		if err == nil {
			return g, nil
		}
		last = errors.Join(err, os.Remove(dir))
	}
	return memoryGroup{}, last
}

// writeControl writes to a file of a cgroup that is there.
func writeControl(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// killed is how many processes of the group the kernel has killed for want of memory.
func (g memoryGroup) killed() (int, error) {
	b, err := os.ReadFile(g.events)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("%s: no line oom_kill in %q", g.events, b)
}

// run runs packhold inside the group from its first instruction on.
func (g memoryGroup) run(t *testing.T, h home, args ...string) {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(g.dir, "cgroup.procs"), packhold}, args...)...)
	cmd.Env = h.environ()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done, peak := make(chan struct{}), make(chan int64)
	go func() {
		most := int64(0)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				peak <- most
				return
			case <-tick.C:
				most = max(most, anonymous(cmd.Process.Pid))
			}
		}
	}()
	err := cmd.Wait()
	close(done)
	most := <-peak
	t.Logf("%-7s %5.1f s  %4d MiB anonymous", args[0], time.Since(start).Seconds(), most>>20)
	if killed, kerr := g.killed(); kerr != nil || killed > 0 {
		t.Fatalf("packhold %s: %d processes killed for want of memory (%v), %v\n%s", args[0], killed, kerr, err, &out)
	}
	if err != nil {
		t.Fatalf("packhold %s: %v\n%s", args[0], err, &out)
	}
	if most == 0 {
		t.Errorf("packhold %s: no sample of its memory", args[0])
	}
	if most > memoryBudget {
		t.Errorf("packhold %s: %d MiB of anonymous memory, want at most %d", args[0], most>>20, memoryBudget>>20)
	}
}

// anonymous returns RssAnon of a process in bytes, 0 if it has ended.
func anonymous(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "RssAnon:")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return 0
	}
	return n << 10
}

// The limit holds: a program that takes more than it is killed, and the group says so.
func TestMemoryGroup(t *testing.T) {
	needRoot(t)
	g := newMemoryGroup(t)
	greedy := `echo $$ >"$0" && exec dd if=/dev/zero of=/dev/null bs=400M count=1`
	err := exec.Command("sh", "-c", greedy, filepath.Join(g.dir, "cgroup.procs")).Run()
	if err == nil {
		t.Error("it ended well")
	}
	killed, kerr := g.killed()
	if kerr != nil || killed == 0 {
		t.Fatalf("%d processes killed (%v), the command: %v", killed, kerr, err)
	}
}
