//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be a process under watchSignals.
func TestMain(m *testing.M) {
	if mode := os.Getenv("PACKHOLD_TEST_SIGNALS"); mode != "" {
		watched(mode)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// watched tells on standard output what arrives. In the mode "hang" it does not stop when it should.
func watched(mode string) {
	ctx, cancel := context.WithCancelCause(context.Background())
	asked := watchSignals(cancel)
	fmt.Println("ready")
	for {
		select {
		case <-asked:
			fmt.Println("asked")
		case <-ctx.Done():
			fmt.Println(context.Cause(ctx))
			if mode == "hang" {
				time.Sleep(time.Minute)
			}
			return
		}
	}
}

type process struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Reader
}

func start(t *testing.T, mode string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "PACKHOLD_TEST_SIGNALS="+mode, "GORACE=atexit_sleep_ms=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	p := &process{t, cmd, bufio.NewReader(out)}
	p.expect("ready")
	return p
}

func (p *process) expect(want string) {
	p.t.Helper()
	if line, err := p.out.ReadString('\n'); err != nil || strings.TrimSpace(line) != want {
		p.t.Fatalf("got %q, %v; want %q", line, err, want)
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// ends returns the exit code and how long the process took to end.
func (p *process) ends() (int, time.Duration) {
	began := time.Now()
	io.Copy(io.Discard, p.out)
	p.cmd.Wait() // its error is the exit code below
	return p.cmd.ProcessState.ExitCode(), time.Since(began)
}

func TestFirstSignalCancels(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if signal.Ignored(s) {
			t.Logf("%v is ignored by whoever runs this test, as nohup has it; so it stays ignored", s)
			continue
		}
		p := start(t, "stop")
		p.signal(s)
		p.expect(fmt.Sprintf("interrupted by signal %d", s))
		if code, _ := p.ends(); code != 0 {
			t.Errorf("%v: code %d", s, code)
		}
	}
}

func TestSecondSignalEnds(t *testing.T) {
	p := start(t, "hang")
	p.signal(syscall.SIGINT)
	p.expect("interrupted by signal 2")
	p.signal(syscall.SIGTERM)
	if code, took := p.ends(); code != 143 || took > time.Second {
		t.Errorf("code %d after %v", code, took)
	}
}

func TestGraceEnds(t *testing.T) {
	p := start(t, "hang")
	p.signal(syscall.SIGTERM)
	p.expect("interrupted by signal 15")
	if code, took := p.ends(); code != 143 || took > 4*time.Second || took < time.Second {
		t.Errorf("code %d after %v", code, took)
	}
}

func TestStatusAndPipeDoNotEnd(t *testing.T) {
	p := start(t, "stop")
	p.signal(syscall.SIGPIPE)
	p.signal(syscall.SIGUSR1)
	p.expect("asked")
	p.signal(syscall.SIGUSR1)
	p.expect("asked")
	p.signal(syscall.SIGTERM)
	p.expect("interrupted by signal 15")
}
