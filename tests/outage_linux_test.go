package tests

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long packhold waits for a storage that does not answer, see docs/storage.md.
const patience = 15 * time.Minute

// TestOutage has the storage go away in the middle of a backup, a verify and a restore, of 2 seconds, and of PACKHOLD_OUTAGE beside it (5m in CI). A
// shorter outage than packhold's patience is survived; a longer one ends with exit 14 and loses nothing, and what runs after it succeeds.
func TestOutage(t *testing.T) {
	lengths := []time.Duration{2 * time.Second}
	if s := os.Getenv("PACKHOLD_OUTAGE"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		lengths = append(lengths, d)
	}
	for _, length := range lengths {
		t.Run(length.String(), func(t *testing.T) {
			t.Parallel()
			t.Run("S3", func(t *testing.T) {
				t.Parallel()
				s := startS3(t)
				outage(t, length, s.addr, func(addr string) remote { return s.at(t, addr, "bucket/outage") })
			})
			t.Run("SFTP", func(t *testing.T) {
				t.Parallel()
				s := startSSH(t)
				place := filepath.Join(t.TempDir(), "repository")
				outage(t, length, s.addr, func(addr string) remote { return s.at(t, addr, place) })
			})
		})
	}
}

// job is a run of packhold that an outage hits.
type job struct {
	what   string
	line   *cuttable
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan struct{} // closed when it has
	when   time.Time     // it ended
}

const (
	outageFiles = 16
	outageFile  = 2 << 20
	outageRate  = "4M" // a second, so that each job has some seconds to be hit in
)

// outage runs all jobs at once on one server, each over a line of its own, so that one outage hits them all.
func outage(t *testing.T, length time.Duration, server string, at func(addr string) remote) {
	source := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	fill := func(seed int) {
		t.Helper()
		for i := range outageFiles {
			if err := writeRandom(filepath.Join(source, fmt.Sprintf("%c%d", 'a'+seed, i)), uint64(100*seed+i), outageFile); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(0)
	host := at(server) // undisturbed
	host.exits(t, 0, "init", "--quiet", "--pack-size", "2M")
	host.exits(t, 0, "backup", "--quiet", "--source", source)
	first := mustDescribe(t, source)
	fill(1)
	second := mustDescribe(t, source)
	dst := filepath.Join(t.TempDir(), "restored")

	var jobs []*job
	for _, args := range [][]string{
		{"backup", "--source", source, "--limit-upload", outageRate},
		{"verify", "--read-data", "--limit-download", outageRate},
		{"restore", "--backup-id", "1", "--destination", dst, "--limit-download", outageRate},
		// Interrupted:
		{"verify", "--read-data", "--limit-download", outageRate},
		{"backup", "--source", source, "--limit-upload", outageRate},
	} {
		j := &job{what: args[0], line: newLine(t, server), ended: make(chan struct{})}
		r := at(j.line.addr)
		if j.what == "backup" { // by the host that has the credential
			env := r.env
			r = host
			r.env = env
		}
		j.cmd = r.command(append(args, "--quiet")...)
		j.cmd.Stderr = &j.stderr
		jobs = append(jobs, j)
	}
	for _, j := range jobs {
		if err := j.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			j.cmd.Wait()
			j.when = time.Now()
			close(j.ended)
		}()
		t.Cleanup(func() { j.cmd.Process.Kill() })
	}
	var wg sync.WaitGroup
	for _, j := range jobs {
		wg.Go(func() { j.line.cutAfter(outageFiles * outageFile / 4) })
	}
	wg.Wait()
	began := time.Now()
	t.Logf("all lines are cut")
	over := time.After(length)

	// What waits for the storage can be stopped.
	time.Sleep(time.Second)
	for _, j := range jobs[3:] {
		sent := time.Now()
		if err := j.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		<-j.ended
		took := j.when.Sub(sent)
		t.Logf("%s, interrupted during the outage, ended after %v", j.what, took)
		if took > stopLimit || j.cmd.ProcessState.ExitCode() != 130 {
			t.Errorf("%s, interrupted during the outage, ended after %v with %v\n%s", j.what, took, j.cmd.ProcessState, &j.stderr)
		}
	}
	jobs = jobs[:3]

	<-over
	for _, j := range jobs {
		select {
		case <-j.ended:
			after := j.when.Sub(began)
			if length < patience || after < patience-time.Second {
				t.Errorf("%s ended after %v of the outage, with %v\n%s", j.what, after, j.cmd.ProcessState, &j.stderr)
			}
		default:
			if length > patience {
				t.Errorf("%s still waits after %v\n%s", j.what, length, &j.stderr)
			}
		}
		j.line.mend(t)
	}
	mended := time.Now()
	want := 0
	if length > patience {
		want = 14
	}
	for _, j := range jobs {
		<-j.ended
		if code := j.cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("%s: exit %d, want %d\n%s", j.what, code, want, &j.stderr)
		}
		if !strings.Contains(j.stderr.String(), "tried again in") {
			t.Errorf("%s does not say what it waits for:\n%s", j.what, &j.stderr)
		}
		t.Logf("%s ended %v after the end of the outage, and said %d lines", j.what, j.when.Sub(mended).Round(time.Millisecond), strings.Count(j.stderr.String(), "\n"))
	}
	if t.Failed() {
		return
	}

	// Nothing is lost, and all of it works again.
	if length > patience {
		host.exits(t, 0, "backup", "--quiet", "--source", source)
		host.exits(t, 0, "restore", "--quiet", "--backup-id", "1", "--destination", dst)
	}
	sameTree(t, first, dst)
	dst = filepath.Join(t.TempDir(), "restored")
	host.exits(t, 0, "restore", "--quiet", "--destination", dst)
	sameTree(t, second, dst)
	host.exits(t, 0, "verify", "--quiet", "--read-data")
	if out := host.exits(t, 0, "list", "--json").stdout; strings.Count(out, `"message_type":"snapshot"`) != 2 {
		t.Errorf("the list is\n%s", out)
	}
}

// cutAfter cuts the line when so many bytes have gone over it since it was made.
func (c *cuttable) cutAfter(n int64) {
	for c.passed.Load() < n {
		time.Sleep(time.Millisecond)
	}
	c.cut()
}
