package tests

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stopLimit is how long Ctrl-C may take.
const stopLimit = 2 * time.Second

// endless is a stream that never ends.
type endless struct{ r *rand.ChaCha8 }

func (e endless) Read(p []byte) (int, error) { return e.r.Read(p) }

// Ctrl-C stops a backup within 2 seconds with exit code 130 and leaves no snapshot; the next one works.
func TestInterrupt(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeRandom(filepath.Join(source, "big.bin"), 1, 512<<20); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
	}{
		{"files", []string{"backup", "--source", source}},
		{"stream", []string{"backup", "--stdin"}},
		{"command", []string{"backup", "--stdin-from-command", "--", "cat", "/dev/zero"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHome(t, "--pack-size", "2M")
			cmd := h.command(c.args...)
			if c.name == "stream" {
				cmd.Stdin = endless{rand.NewChaCha8([32]byte{})}
				cmd.WaitDelay = stopLimit // the copying to it ends by a broken pipe
			}
			started := func() bool { return folderSize(t, filepath.Join(h.repository(), "packs")) > 0 }
			if c.name == "command" { // zeros are never stored
				begun := time.Now()
				started = func() bool { return time.Since(begun) > time.Second }
			}
			interrupt(t, cmd, started)
			if ids := h.snapshotIDs(t); len(ids) != 0 {
				t.Errorf("an interrupted backup left %d snapshots", len(ids))
			}
			small := t.TempDir()
			if err := writeRandom(filepath.Join(small, "file"), 2, 1<<20); err != nil {
				t.Fatal(err)
			}
			h.must(t, "backup", "--quiet", "--source", small)
			h.must(t, "verify", "--quiet")
		})
	}
}

// interrupt starts cmd, sends SIGINT once started, and checks how it ends.
func interrupt(t *testing.T, cmd *exec.Cmd, started func() bool) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	for deadline := time.Now().Add(30 * time.Second); !started(); time.Sleep(time.Millisecond) {
		select {
		case <-done:
			t.Fatalf("it ended before it could be interrupted: %v\n%s", cmd.ProcessState, &stderr)
		default:
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			t.Fatal("it never began")
		}
	}
	sent := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		cmd.Process.Kill()
		t.Fatal("it does not stop")
	}
	took := time.Since(sent)
	t.Logf("stopped after %v", took)
	if took > stopLimit {
		t.Errorf("it stopped after %v, the limit is %v", took, stopLimit)
	}
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130\n%s", code, &stderr)
	}
	if sign := unseemly(stderr.String()); sign != "" {
		t.Errorf("standard error holds %q:\n%s", sign, &stderr)
	}
	// The program that ends at once at the end of its patience cannot say so; one that stops by itself does.
	if took < stopLimit/2 && !strings.Contains(stderr.String(), "error: interrupted") {
		t.Errorf("it does not say that it was interrupted:\n%s", &stderr)
	}
}
