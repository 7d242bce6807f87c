// Package cli is the program packhold as its user meets it: commands, flags, what is printed, asked and returned.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"packhold/backends"
	"packhold/cmd/packhold/internal/cli/fail"
)

// Env is everything that a run takes from the system around it.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(name string) string
	// Terminal says that Stderr is a terminal whose lines can be redrawn.
	Terminal bool
	// Width returns the columns of that terminal, 0 if unknown. It may be nil.
	Width func() int
	// Ask prompts for a passphrase on the terminal and returns it without echo. Nil if there is no terminal.
	Ask func(ctx context.Context, prompt string) ([]byte, error)
	// Now is the clock, Zone the user's time zone.
	Now  func() time.Time
	Zone *time.Location
	// Status delivers the user's wish for a line of progress at once, such as SIGUSR1. It may be nil.
	Status <-chan struct{}
	// Storage puts itself between the program and the storage of the repository. It may be nil.
	Storage func(backends.Storage) backends.Storage
}

// Interrupted is the cause of a context that a signal of this number ended.
type Interrupted int

// Error returns "interrupted by signal N".
func (i Interrupted) Error() string { return fmt.Sprintf("interrupted by signal %d", int(i)) }

// sigPipe is the number of SIGPIPE on every Unix.
const sigPipe = 13

// Main runs the command line args, which does not begin with the program's name, and returns the exit code. A ctx that is
// cancelled with Interrupted as its cause makes it return 128+N. It may be called concurrently.
func Main(ctx context.Context, e *Env, args []string) int {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := newApp(e, cancel)
	err := a.run(ctx, args)
	return int(a.finish(ctx, err))
}

// finish shows err, if there is one, and returns the code to exit with.
func (a *app) finish(ctx context.Context, err error) fail.Code {
	if lost := a.out.stdoutError(); lost != nil {
		err = lost // nothing else can be believed by whoever reads standard output
	}
	if err == nil {
		return fail.Done
	}
	f := a.classify(ctx, err)
	// A reader that has seen enough, as head has, is no news.
	if f.Code != fail.Signal(sigPipe) {
		a.out.failure(f)
	}
	return f.Code
}

// classify makes the failure to show from an error, filling in what the room that made it did not know.
func (a *app) classify(ctx context.Context, err error) *fail.Error {
	var by Interrupted
	if errors.As(context.Cause(ctx), &by) || errors.As(err, &by) {
		f := &fail.Error{
			Code: fail.Signal(int(by)), Word: "interrupted.signal", Problem: by.Error(), Cause: err,
			Effect: "The command stopped before its end; what it had committed stays.", Next: "run the command again: it goes on from what is stored",
		}
		f.Where = a.where
		return f
	}
	f := *fail.Classify(err, rules())
	if f.Where == "" {
		f.Where = a.where
	}
	if f.Effect == "" {
		f.Effect = "The command did not do what it was asked."
	}
	if f.Next == "" {
		f.Next = "run it again; if it fails the same way, report it with what packhold version prints"
	}
	return &f
}
