package tests

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A full storage stops the backup with exit code 15, loses nothing and leaves no snapshot; with room again it goes on.
func TestNoSpace(t *testing.T) {
	needRoot(t)
	h := home(t.TempDir())
	small := filepath.Dir(h.repository())
	if err := os.MkdirAll(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", small, "tmpfs", 0, "size=24m"); err != nil {
		lacksMount(t, "tmpfs", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := copyHome(h, "--pack-size", "2M"); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeRandom(filepath.Join(source, "first.bin"), 1, 3<<20); err != nil {
		t.Fatal(err)
	}
	first := mustDescribe(t, source)
	h.must(t, "backup", "--quiet", "--source", source)

	if err := writeRandom(filepath.Join(source, "second.bin"), 2, 48<<20); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second run meets what the first left
		res := h.run(t, "backup", "--quiet", "--source", source)
		if res.code != 15 {
			t.Fatalf("exit code %d, want 15\n%s", res.code, res.stderr)
		}
		_, next, _ := strings.Cut(res.stderr, "\n  next: ")
		if !strings.Contains(next, "forget") || !strings.Contains(next, "prune") {
			t.Errorf("the next step names neither forget nor prune:\n%s", res.stderr)
		}
		ids := h.snapshotIDs(t)
		if len(ids) != 1 {
			t.Fatalf("%d snapshots, want 1", len(ids))
		}
		h.restoreAndCompare(t, ids[0], first)
	}

	if err := syscall.Mount("none", small, "tmpfs", syscall.MS_REMOUNT, "size=256m"); err != nil {
		t.Fatal(err)
	}
	h.must(t, "backup", "--quiet", "--source", source)
	ids := h.snapshotIDs(t)
	if len(ids) != 2 {
		t.Fatalf("%d snapshots, want 2", len(ids))
	}
	h.restoreAndCompare(t, ids[0], first)
	h.restoreAndCompare(t, ids[1], mustDescribe(t, source))
	h.must(t, "verify", "--quiet", "--read-data")
}
