package tests

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"packhold/tests/cgroup"
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
		large, small = 16<<30, 300_000
	}
	source := filepath.Join(dir, "source")
	if err := writeMixed(filepath.Join(source, "large.bin"), large); err != nil {
		t.Fatal(err)
	}
	if err := writeSmall(filepath.Join(source, "small"), small); err != nil {
		t.Fatal(err)
	}
	runIn(t, group, h, "backup", "--quiet", "--source", source)

	if err := os.WriteFile(filepath.Join(source, "small", "new"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeRandom(filepath.Join(source, "changed.bin"), 3, 8<<20); err != nil {
		t.Fatal(err)
	}
	runIn(t, group, h, "backup", "--quiet", "--source", source)
	ids := h.snapshotIDs(t)
	if len(ids) != 2 {
		t.Fatalf("%d snapshots, want 2", len(ids))
	}
	runIn(t, group, h, "verify", "--quiet", "--read-data")

	restored := filepath.Join(dir, "restored")
	runIn(t, group, h, "restore", "--quiet", "--backup-id", ids[1], "--destination", restored)
	sameTree(t, mustDescribe(t, source), restored)

	runIn(t, group, h, "host", "enroll", "--replicator", "--quiet")
	runIn(t, group, h, "replicate", "--quiet", "--to", filepath.Join(dir, "copy"))
	runIn(t, group, h, "export", "--quiet", "--to", filepath.Join(dir, "medium"))
	runIn(t, group, h, "forget", "--quiet", ids[0])
	runIn(t, group, h, "prune", "--quiet", "--max-unused", "0%")
	runIn(t, group, h, "verify", "--quiet", "--read-data")
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
		if err := unix.Statfs(parent, &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
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
	lacks(t, "the temporary folder, /var/tmp and the working folder are all in memory")
	return ""
}

// newMemoryGroup makes a group with the limit. Where the system has a memory controller and does not let root use it, the test fails if
// CI is set: it proves nothing if nobody notices that it did not run.
func newMemoryGroup(t *testing.T) *cgroup.Group {
	t.Helper()
	g, err := cgroup.New(memoryLimit)
	if err == nil {
		t.Cleanup(func() {
			if err := g.Remove(); err != nil {
				t.Error(err)
			}
		})
		return g
	}
	if !errors.Is(err, cgroup.ErrNone) {
		lacks(t, "no memory cgroup, although there is a controller: %v", err)
	}
	t.Skip("no memory cgroup: ", err)
	return nil
}

// anonymous runs a program and tells how much anonymous memory it had at its largest, and how it ended. What its parent had, which the system's own count of
// the resident memory begins with, is no part of it.
func anonymous(t *testing.T, cmd *exec.Cmd) (most int64, err error) {
	t.Helper()
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
				most = max(most, cgroup.Anonymous(cmd.Process.Pid))
			}
		}
	}()
	err = cmd.Wait()
	close(done)
	if most = <-peak; most == 0 {
		t.Errorf("%s: no sample of its memory", cmd)
	}
	return most, err
}

// runIn runs packhold inside the group.
func runIn(t *testing.T, g *cgroup.Group, h home, args ...string) {
	t.Helper()
	cmd := g.Command(packhold, args...)
	cmd.Env = h.environ()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	most, err := anonymous(t, cmd)
	t.Logf("%-7s %5.1f s  %4d MiB anonymous", args[0], time.Since(start).Seconds(), most>>20)
	if killed, kerr := g.Killed(); kerr != nil || killed > 0 {
		t.Fatalf("packhold %s: %d processes killed for want of memory (%v), %v\n%s", args[0], killed, kerr, err, &out)
	}
	if err != nil {
		t.Fatalf("packhold %s: %v\n%s", args[0], err, &out)
	}
	if most > memoryBudget {
		t.Errorf("packhold %s: %d MiB of anonymous memory, want at most %d", args[0], most>>20, memoryBudget>>20)
	}
}

// The limit holds: a program that takes more than it is killed, and the group says so.
func TestMemoryGroup(t *testing.T) {
	needRoot(t)
	g := newMemoryGroup(t)
	err := g.Command("dd", "if=/dev/zero", "of=/dev/null", "bs=400M", "count=1").Run()
	if err == nil {
		t.Error("it ended well")
	}
	killed, kerr := g.Killed()
	if kerr != nil || killed == 0 {
		t.Fatalf("%d processes killed (%v), the command: %v", killed, kerr, err)
	}
}
