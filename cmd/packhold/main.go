// Command packhold backs up into an encrypted, deduplicating repository, restores from it and proves that it is whole.
package main

import (
	"context"
	"os"
	"os/user"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/term"

	"packhold/cmd/packhold/internal/cli"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/secret"
)

func main() { os.Exit(execute()) }

// gcPercent is how much garbage may gather before it is collected, as a share of what is in use. Most of what is in use is a few large
// buffers without pointers, which cost nothing to mark: collecting ten times as often as by default takes 1 % of the time, and saves half of the
// memory. ballast is never touched, so it takes address space only; counted as in use, it keeps commands that use little from collecting all the time.
const (
	gcPercent = 10
	ballast   = 64 << 20
)

func execute() int {
	_ = noCoreDumps() // lowering a limit of one's own cannot fail where it exists
	if os.Getenv("GOGC") == "" {
		defer runtime.KeepAlive(make([]byte, ballast))
		debug.SetGCPercent(gcPercent)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	e := &run.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv:   getenv,
		Terminal: redrawable(os.Stderr),
		Width:    width,
		Now:      time.Now, Zone: time.Local,
		Status: watchSignals(cancel),
	}
	// Whoever sees neither input nor messages of this process on a terminal is not there to be asked.
	if isTerminal(os.Stdin) || isTerminal(os.Stderr) {
		e.Ask = secret.Terminal
	}
	return cli.Main(ctx, e, os.Args[1:])
}

// getenv is os.Getenv, but knows the home folder of a service that was started without HOME.
func getenv(name string) string {
	value := os.Getenv(name)
	if value == "" && name == "HOME" {
		if u, err := user.Current(); err == nil {
			return u.HomeDir
		}
	}
	return value
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

func width() int {
	columns, _, err := term.GetSize(int(os.Stderr.Fd()))
	if err != nil {
		return 0
	}
	return columns
}
