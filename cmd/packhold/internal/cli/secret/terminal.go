package secret

import (
	"context"
	"io"
	"os"
	"runtime"

	"golang.org/x/term"
)

// Terminal asks on the controlling terminal with echo off, wherever standard input and output go. When ctx is done it
// restores the terminal and returns its cause at once; the read that waits for a key then ends with the process, since
// nothing can interrupt it.
func Terminal(ctx context.Context, prompt string) ([]byte, error) {
	in, out := "/dev/tty", "/dev/tty"
	if runtime.GOOS == "windows" {
		in, out = "CONIN$", "CONOUT$"
	}
	r, err := os.OpenFile(in, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	w, err := os.OpenFile(out, os.O_RDWR, 0)
	if err != nil {
		r.Close()
		return nil, err
	}
	defer w.Close()
	fd := int(r.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		r.Close()
		return nil, err
	}
	if _, err := io.WriteString(w, prompt); err != nil {
		r.Close()
		return nil, err
	}
	type answer struct {
		b   []byte
		err error
	}
	done := make(chan answer, 1)
	go func() {
		b, err := term.ReadPassword(fd)
		r.Close()
		done <- answer{b, err}
	}()
	select {
	case a := <-done:
		_, err := io.WriteString(w, "\n")
		if a.err == nil && err != nil {
			return nil, err
		}
		return a.b, a.err
	case <-ctx.Done():
		if err := term.Restore(fd, before); err != nil {
			return nil, err
		}
		io.WriteString(w, "\n") // the screen is tidy or it is not; the answer is the same
		return nil, context.Cause(ctx)
	}
}
