package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// restoreSummary runs a restore with --json and returns its exit code, its summary and standard error.
func (h home) restoreSummary(t *testing.T, args ...string) (int, line, string) {
	t.Helper()
	r := h.run(t, append([]string{"restore", "--json", "--backup-id", "1"}, args...)...)
	lines, err := parseLines(r.stdout)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if l.text("message_type") == "summary" {
			return r.code, l, r.stderr
		}
	}
	t.Fatalf("no summary\n%s%s", r.stdout, r.stderr)
	return 0, nil, ""
}

func (l line) number(name string) int64 {
	n, _ := l[name].(float64)
	return int64(n)
}

// leftovers are the temporary files of restores below a folder.
func leftovers(t *testing.T, dir string) (names []string) {
	t.Helper()
	for _, pattern := range []string{"*", "*/*", "*/*/*"} {
		list, err := filepath.Glob(filepath.Join(dir, filepath.Dir(pattern), ".packhold-partial-*"))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, list...)
	}
	return names
}

// half compares what a stopped restore left with what it was to be: files under their final names must be whole. It returns their size.
func half(t *testing.T, want map[string]string, dir string) (size int64) {
	t.Helper()
	got, err := describe(dir)
	if err != nil {
		t.Fatal(err)
	}
	for path, about := range got {
		if strings.Contains(filepath.Base(path), ".packhold-partial-") || !strings.Contains(about, " bytes ") {
			continue
		}
		sum := about[strings.LastIndex(about, " "):]
		if !strings.HasSuffix(want[path], sum) {
			t.Fatalf("%s is under its name and half written: %s, want %s", path, about, want[path])
		}
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}

// kill -9 at random moments of a restore: what has its final name is whole, the same command again fetches only the rest, and nothing is left behind.
func TestKillRestore(t *testing.T) {
	r := newSeed(t)
	kills := 10
	if soaking() {
		kills = 200
	}
	h := newHome(t)
	source := filepath.Join(t.TempDir(), "source")
	for i := range 60 {
		dir := filepath.Join(source, fmt.Sprint("d", i%3))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := writeRandom(filepath.Join(dir, fmt.Sprintf("%02d", i)), r.Uint64(), 1+r.Int64N(200_000)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"d0/large", "d2/large"} {
		if err := writeRandom(filepath.Join(source, name), r.Uint64(), 48<<20); err != nil {
			t.Fatal(err)
		}
	}
	h.must(t, "backup", "--quiet", "--source", source)
	want := mustDescribe(t, source)
	start := time.Now()
	dst := filepath.Join(t.TempDir(), "whole")
	_, whole, _ := h.restoreSummary(t, "--destination", dst)
	took := time.Since(start)
	total := whole.number("bytes")
	middle, adopted := 0, 0
	for round := 0; middle < kills; round++ {
		if round > 5*kills {
			t.Fatalf("only %d kills hit", middle)
		}
		dst := filepath.Join(t.TempDir(), "d")
		cmd := h.command("restore", "--quiet", "--backup-id", "1", "--destination", dst)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		for deadline := time.Now().Add(20 * time.Second); len(done) == 0 && time.Now().Before(deadline); {
			if _, err := os.Stat(dst); err == nil {
				break
			}
			time.Sleep(500 * time.Microsecond)
		}
		time.Sleep(time.Duration(r.Int64N(int64(took) / 2)))
		missed := len(done) > 0
		cmd.Process.Kill() // SIGKILL
		<-done
		if missed {
			continue
		}
		middle++
		have := half(t, want, dst)
		left := int64(0)
		for _, name := range leftovers(t, dst) {
			var s syscall.Stat_t
			if err := syscall.Stat(name, &s); err != nil {
				t.Fatal(err)
			}
			left += s.Blocks * 512
		}
		code, sum, stderr := h.restoreSummary(t, "--destination", dst, "--verify")
		if code != 0 {
			t.Fatalf("the second run: exit %d\n%s", code, stderr)
		}
		sameTree(t, want, dst)
		if names := leftovers(t, dst); len(names) > 0 {
			t.Fatalf("left behind: %q", names)
		}
		reused, written := sum.number("bytes_reused"), sum.number("bytes_written")
		// Blobs that were being written may be lost, a megabyte each on average, of two workers and of pages that the kernel had.
		if reused < have || reused < have+left-16<<20 || reused+written != total {
			t.Fatalf("%d of %d bytes complete, %d half-way; %d reused, %d written", have, total, left, reused, written)
		}
		if reused > have {
			adopted++
		}
		if err := os.RemoveAll(dst); err != nil {
			t.Fatal(err)
		}
	}
	if t.Logf("%d kills, %d half-written files taken over", middle, adopted); adopted == 0 {
		t.Error("no half-written file was ever taken over")
	}
}

// kill -9 in the middle of a restore in place: the file is mixed, as the manual says, it cannot be taken for complete, and the next run completes it.
func TestKillInPlace(t *testing.T) {
	r := newSeed(t)
	h := newHome(t)
	source := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(source, "image")
	if err := writeRandom(image, 1, 64<<20); err != nil {
		t.Fatal(err)
	}
	h.must(t, "backup", "--quiet", "--source", source)
	want := mustDescribe(t, source)
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	sumOf, err := hashFile(image)
	if err != nil {
		t.Fatal(err)
	}
	mixed := 0
	for round := 0; mixed < 3; round++ {
		if round > 20 {
			t.Fatalf("only %d kills hit", mixed)
		}
		dst := filepath.Join(t.TempDir(), "d")
		if err := os.Mkdir(dst, 0o755); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dst, "image")
		if err := writeRandom(file, 2, 64<<20); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
		cmd := h.command("restore", "--quiet", "--backup-id", "1", "--destination", dst, "--in-place")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		for deadline := time.Now().Add(20 * time.Second); len(done) == 0 && time.Now().Before(deadline); {
			if now, err := os.Stat(file); err == nil && now.Mode().Perm() == 0o600 { // the first change is near
				break
			}
			time.Sleep(200 * time.Microsecond)
		}
		time.Sleep(time.Duration(r.Int64N(int64(60 * time.Millisecond))))
		missed := len(done) > 0
		cmd.Process.Kill() // SIGKILL
		<-done
		now, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if sum, err := hashFile(file); err != nil {
			t.Fatal(err)
		} else if missed || sum == sumOf {
			continue // all of it was done
		}
		mixed++
		if now.ModTime().Equal(info.ModTime()) || now.Mode().Perm() != 0o600 {
			t.Fatalf("a half-changed file has mode %v and the snapshot's time", now.Mode())
		}
		code, sum, stderr := h.restoreSummary(t, "--destination", dst, "--in-place", "--overwrite", "if-changed", "--verify")
		if code != 0 || sum.number("bytes_reused")+sum.number("bytes_written") != 64<<20 {
			t.Fatalf("the second run: exit %d, %v\n%s", code, sum, stderr)
		}
		sameTree(t, want, dst)
		t.Logf("%d bytes were right already", sum.number("bytes_reused"))
	}
}

// A full destination: exit code 15, with what is missing; what is complete stays, and with room the same command goes on.
func TestRestoreNoSpace(t *testing.T) {
	needRoot(t)
	h := newHome(t)
	source := filepath.Join(t.TempDir(), "source")
	if err := os.MkdirAll(filepath.Join(source, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		if err := writeRandom(filepath.Join(source, fmt.Sprint("small", i)), uint64(i), 100_000); err != nil {
			t.Fatal(err)
		}
		if err := writeRandom(filepath.Join(source, "sub", fmt.Sprint("medium", i)), uint64(100+i), 3<<20); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeRandom(filepath.Join(source, "large"), 99, 30<<20); err != nil {
		t.Fatal(err)
	}
	h.must(t, "backup", "--quiet", "--source", source)
	want := mustDescribe(t, source)
	dst := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dst, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", dst, "tmpfs", 0, "size=16m"); err != nil {
		lacksMount(t, "tmpfs", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dst, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	code, sum, stderr := h.restoreSummary(t, "--destination", dst)
	if code != 15 || !strings.Contains(stderr, "missing") || !strings.Contains(stderr, "same command") {
		t.Fatalf("exit %d\n%s", code, stderr)
	}
	complete := half(t, want, dst)
	if names := leftovers(t, dst); len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
	missing := 0
	var names []string
	got := mustDescribe(t, dst)
	for path := range want {
		if got[path] == "" {
			missing++
			names = append(names, path)
		}
	}
	if int64(missing) != sum.number("missing") || sum.number("bytes_missing") != int64(8*100_000+24<<20+30<<20)-complete {
		t.Errorf("%d items of %d bytes are missing, it says %d of %d", missing, int64(8*100_000+24<<20+30<<20)-complete, sum.number("missing"), sum.number("bytes_missing"))
	}
	// Those that are missing are named, and no others. The second run leaves them as they are.
	lines, err := parseLines(h.run(t, "restore", "--json", "--backup-id", "1", "--destination", dst).stdout)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, l := range lines {
		if l.text("message_type") == "warning" {
			told = append(told, strings.TrimPrefix(l.text("item"), source+"/"))
		}
	}
	slices.Sort(names)
	if slices.Sort(told); !slices.Equal(told, names) {
		t.Errorf("told as missing %q, missing are %q", told, names)
	}
	if err := syscall.Mount("none", dst, "tmpfs", syscall.MS_REMOUNT, "size=128m"); err != nil {
		t.Fatal(err)
	}
	code, sum, stderr = h.restoreSummary(t, "--destination", dst)
	if code != 0 || sum.number("bytes_reused") < complete {
		t.Fatalf("with room: exit %d, %v\n%s", code, sum, stderr)
	}
	sameTree(t, want, dst)
}
