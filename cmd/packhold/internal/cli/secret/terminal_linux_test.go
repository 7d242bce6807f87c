package secret

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"packhold/backends/backendtest"
)

// TestMain lets the test binary be a process that asks on its terminal, twice, and is interrupted the second time.
func TestMain(m *testing.M) {
	if os.Getenv("PACKHOLD_TEST_ASK") == "" {
		os.Exit(m.Run())
	}
	b, err := Terminal(context.Background(), "first: ")
	fmt.Printf("%q %v\n", b, err)
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(100*time.Millisecond, func() { cancel(errors.New("interrupted")) })
	b, err = Terminal(ctx, "second: ")
	fmt.Printf("%q %v\n", b, err)
	os.Exit(0)
}

// openPTY returns both ends of a new terminal.
func openPTY(t *testing.T) (control, terminal *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		backendtest.Lacks(t, "there are no pseudo terminals: %v", err)
	}
	t.Cleanup(func() { control.Close() })
	if err := unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return control, terminal
}

func TestTerminal(t *testing.T) {
	control, terminal := openPTY(t)
	before, err := term.GetState(int(terminal.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "PACKHOLD_TEST_ASK=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stdin, cmd.Stdout = terminal, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer kill.Stop()
	// What is typed before the echo is off would show, so it waits for that, as a person waits for the prompt.
	seen := readUntil(t, control, "first: ")
	for echo := true; echo; time.Sleep(time.Millisecond) {
		state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		echo = state.Lflag&unix.ECHO != 0
	}
	if _, err := control.WriteString("häns\n"); err != nil {
		t.Fatal(err)
	}
	seen += readUntil(t, control, "second: ")
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := "\"häns\" <nil>\n\"\" interrupted\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if strings.Contains(seen, "h") {
		t.Errorf("the passphrase shows: %q", seen)
	}
	if after, err := term.GetState(int(terminal.Fd())); err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %+v, %v; before %+v", after, err, before)
	}
}

func readUntil(t *testing.T, f *os.File, end string) string {
	t.Helper()
	var seen strings.Builder
	buf := make([]byte, 256)
	for !strings.Contains(seen.String(), end) {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, seen.String())
		}
		seen.Write(buf[:n])
	}
	return seen.String()
}
