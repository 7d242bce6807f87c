package run

import (
	"context"
	"fmt"
	"io"
	"time"

	"packhold/backends"
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

// SigPipe is the number of SIGPIPE on every Unix.
const SigPipe = 13
