package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// TestSameFiles: sixteen hosts back up the same files at once. All of their snapshots are whole, and a prune brings what was stored down to once.
func TestSameFiles(t *testing.T) {
	size := int64(16 << 20)
	if soaking() {
		size = 1 << 30
	}
	if testing.Short() {
		size = 4 << 20
	}
	dir := filepath.Join(t.TempDir(), "repository")
	at := func(h home) remote { return remote{h, []string{"PACKHOLD_REPOSITORY=" + dir}} }
	boss := at(home(t.TempDir()))
	var flags []string
	if !soaking() {
		flags = []string{"--pack-size", "1M"}
	}
	boss.exits(t, 0, append([]string{"init", "--quiet"}, flags...)...)
	source := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range int64(4) {
		if err := writeRandom(filepath.Join(source, fmt.Sprint(i)), uint64(i), size/4); err != nil {
			t.Fatal(err)
		}
	}
	want := mustDescribe(t, source)
	hosts := make([]remote, 16)
	for i := range hosts {
		hosts[i] = at(home(t.TempDir()))
		hosts[i].exits(t, 0, "host", "enroll", "--quiet", "--name", fmt.Sprint("host-", i))
	}
	results := make([]result, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		cmd := h.command("backup", "--quiet", "--source", source)
		var errs strings.Builder
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			cmd.Wait()
			results[i] = result{code: cmd.ProcessState.ExitCode(), stderr: errs.String()}
		})
	}
	wg.Wait()
	for i, r := range results {
		if r.code != 0 {
			t.Errorf("host %d: exit %d\n%s", i, r.code, r.stderr)
		}
	}
	packs := func() int64 { return folderSize(t, filepath.Join(dir, "packs")) }
	stored := packs()
	boss.exits(t, 0, "verify", "--quiet", "--read-data")
	boss.exits(t, 0, "prune", "--quiet", "--max-unused", "0")
	left := packs()
	t.Logf("%d hosts, the same %.0f MiB: %.1f MiB stored, %.1f MiB after prune", len(hosts), float64(size)/(1<<20), float64(stored)/(1<<20), float64(left)/(1<<20))
	if most := size + size/10 + 4<<20; left > most {
		t.Errorf("%d bytes are left, want at most %d", left, most)
	}
	boss.exits(t, 0, "verify", "--quiet", "--read-data")
	out := boss.exits(t, 0, "list", "--json").stdout
	if strings.Count(out, `"message_type":"snapshot"`) != len(hosts) {
		t.Errorf("the list is\n%s", out)
	}
	one := regexp.MustCompile(`"id":"([0-9a-f]{32})"`).FindStringSubmatch(out) // backups of the same moment have the same number
	if one == nil {
		t.Fatalf("no snapshot has an ID\n%s", out)
	}
	for _, id := range []string{one[1], "latest"} {
		dst := filepath.Join(t.TempDir(), "restored")
		boss.exits(t, 0, "restore", "--quiet", "--backup-id", id, "--destination", dst)
		sameTree(t, want, dst)
	}
}
