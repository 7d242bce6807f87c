package tests

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// newSeed returns a seed for a test and prints it; PACKHOLD_SEED repeats a run as far as the machine's timing allows.
func newSeed(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("PACKHOLD_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("PACKHOLD_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// entries counts the files directly in a folder of the repository.
func entries(h home, folder string) int {
	list, err := os.ReadDir(filepath.Join(h.repository(), folder))
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range list {
		if e.Name()[0] != '.' { // a temporary file of a Put that has not ended
			n++
		}
	}
	return n
}

// packBytes is what data and trees occupy.
func packBytes(t *testing.T, h home) int64 {
	return folderSize(t, filepath.Join(h.repository(), "packs"), filepath.Join(h.repository(), "meta"))
}

const (
	killPackSize = 2 << 20
	killFiles    = 12
	killFileSize = 4 << 20
	killChain    = 5 // kills per repository
)

// kill -9 at random moments of a backup: what is listed restores bit-exact, and the next backup succeeds and stores again
// no more than what was in open packs.
func TestKill(t *testing.T) {
	r := newSeed(t)
	kills := 30
	if soaking() {
		kills = 200
	}
	var between, before, after int
	var h home
	var expected map[string]map[string]string // snapshot ID to the tree it must restore to
	var source string
	slow := time.Duration(0) // first Put to commit, undisturbed
	whole := time.Duration(0)
	data := int64(killFiles * killFileSize)
	most := int64(0) // stored for one set of new files, over a kill

	for round := 0; between+before+after < kills; round++ {
		if round > 3*kills {
			t.Fatalf("only %d kills hit in %d backups", between+before+after, round)
		}
		if round%killChain == 0 {
			h = newHome(t, "--pack-size", "2M")
			source = filepath.Join(t.TempDir(), "source")
			if err := os.Mkdir(source, 0o755); err != nil {
				t.Fatal(err)
			}
			expected = make(map[string]map[string]string)
		}
		// New bytes in every file: each backup has as much to store as the one that was timed.
		for i := range killFiles {
			if err := writeRandom(filepath.Join(source, fmt.Sprintf("%02d.bin", i)), r.Uint64(), killFileSize); err != nil {
				t.Fatal(err)
			}
		}
		if slow == 0 {
			whole, slow = timeBackup(t, h, source)
			for _, id := range h.snapshotIDs(t) {
				expected[id] = mustDescribe(t, source)
			}
			t.Logf("undisturbed: %v in all, %v of it between first Put and commit", whole, slow)
			continue
		}
		want := mustDescribe(t, source)
		stored := packBytes(t, h)
		leases, commits := entries(h, "leases"), entries(h, "snapshots")

		cmd := h.command("backup", "--quiet", "--source", source)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		// One in ten anywhere in the life of the process, the others behind the first Put.
		if r.IntN(10) == 0 {
			time.Sleep(time.Duration(r.Int64N(int64(whole))))
		} else {
			for deadline := time.Now().Add(20 * time.Second); entries(h, "leases") == leases && time.Now().Before(deadline) && len(done) == 0; {
				time.Sleep(500 * time.Microsecond)
			}
			time.Sleep(time.Duration(r.Int64N(int64(slow))))
		}
		missed := len(done) > 0
		cmd.Process.Kill() // SIGKILL
		<-done
		switch {
		case missed: // it had ended: no kill
		case entries(h, "snapshots") > commits:
			after++
		case entries(h, "leases") > leases:
			between++
		default:
			before++
		}

		for _, id := range h.snapshotIDs(t) {
			if expected[id] == nil {
				expected[id] = want // killed behind its commit
			}
			h.restoreAndCompare(t, id, expected[id])
		}
		for id := range expected {
			if !contains(h.snapshotIDs(t), id) {
				t.Fatalf("snapshot %s is lost", id)
			}
		}
		h.must(t, "backup", "--quiet", "--source", source)
		ids := h.snapshotIDs(t)
		newest := ids[len(ids)-1]
		if expected[newest] != nil {
			t.Fatalf("the backup after the kill made no snapshot")
		}
		expected[newest] = want
		h.restoreAndCompare(t, newest, want)
		// Of the bytes that came in once, only open packs may have been stored twice: one that fills and those on their
		// way to the storage, for data and for trees. The rest is seals, tables and parity.
		open := int64(2*(2+max(3, runtime.GOMAXPROCS(0)))) * killPackSize
		grown := packBytes(t, h) - stored
		most = max(most, grown)
		if grown > data+data/10+open {
			t.Fatalf("%d bytes came in and %d were stored: more again than the open packs", data, grown)
		}
		if (round+1)%killChain == 0 {
			h.must(t, "verify", "--quiet", "--read-data")
		}
	}
	t.Logf("%.1f MiB came in between two snapshots, at most %.1f MiB were stored", float64(data)/(1<<20), float64(most)/(1<<20))
	t.Logf("kills: %d before the first Put, %d between it and the commit, %d behind the commit", before, between, after)
	if 4*between < 3*kills {
		t.Errorf("only %d of %d kills were between the first Put and the commit", between, kills)
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// timeBackup runs an undisturbed backup and returns how long it took, and how long from its first Put to its commit.
func timeBackup(t *testing.T, h home, source string) (whole, working time.Duration) {
	t.Helper()
	leases, commits := entries(h, "leases"), entries(h, "snapshots")
	cmd := h.command("backup", "--quiet", "--source", source)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var first, commit time.Time
	for len(done) == 0 {
		now := time.Now()
		if first.IsZero() && entries(h, "leases") > leases {
			first = now
		}
		if commit.IsZero() && entries(h, "snapshots") > commits {
			commit = now
		}
		time.Sleep(200 * time.Microsecond)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if first.IsZero() {
		t.Fatal("the backup put no lease")
	}
	if commit.IsZero() {
		commit = time.Now()
	}
	return time.Since(start), commit.Sub(first)
}
