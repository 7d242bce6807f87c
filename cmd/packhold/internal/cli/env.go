// Package cli is the program packhold as its user meets it: commands, flags, what is printed, asked and returned.
package cli

import (
	"context"
	"errors"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/run"
)

// Main runs the command line args, which does not begin with the program's name, and returns the exit code. A ctx that is
// cancelled with run.Interrupted as its cause makes it return 128+N. It may be called concurrently.
func Main(ctx context.Context, e *run.Env, args []string) int {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := newApp(e, cancel)
	err := a.run(ctx, args)
	return int(a.finish(ctx, err))
}

// finish shows err, if there is one, and returns the code to exit with.
func (a *app) finish(ctx context.Context, err error) fail.Code {
	if lost := a.Out.Lost(); lost != nil {
		err = lost // nothing else can be believed by whoever reads standard output
	}
	if err == nil {
		return fail.Done
	}
	f := a.classify(ctx, err)
	// A reader that has seen enough, as head has, is no news.
	if f.Code != fail.Signal(run.SigPipe) {
		a.Out.Failure(f)
	}
	return f.Code
}

// classify makes the failure to show from an error, filling in what the room that made it did not know.
func (a *app) classify(ctx context.Context, err error) *fail.Error {
	var by run.Interrupted
	if errors.As(context.Cause(ctx), &by) || errors.As(err, &by) {
		f := &fail.Error{
			Code: fail.Signal(int(by)), Word: "interrupted.signal", Problem: by.Error(), Cause: err,
			Effect: "The command stopped before its end; what it had committed stays.", Next: "run the command again: it goes on from what is stored",
		}
		f.Where = a.Where
		return f
	}
	f := *fail.Classify(err, rules())
	if f.Where == "" {
		f.Where = a.Where
	}
	if f.Effect == "" {
		f.Effect = "The command did not do what it was asked."
	}
	if f.Next == "" {
		f.Next = "run it again; if it fails the same way, report it with what packhold version prints"
	}
	return &f
}
