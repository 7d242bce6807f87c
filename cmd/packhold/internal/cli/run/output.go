package run

// The rules of output:
//
//   - Data that was asked for goes to standard output: tables, file contents, schemas, scripts. Everything else a person
//     reads goes to standard error: progress, summaries, warnings, errors, prompts (prompts straight to the terminal).
//   - With --json standard output is JSON lines and nothing else: objects with message_type first and "version":1 second.
//     Readers ignore fields and types that they do not know; a change of meaning raises the version. Warnings are JSON
//     then, what say prints is left out, and a failure is shown in both forms: exit_error on standard output, and the
//     four lines on standard error for whoever reads the log.
//   - --quiet leaves out progress and what say prints. Data, warnings and errors stay.
//   - Names from outside are passed through term.Name for people. In JSON they are UTF-8 with U+FFFD for invalid bytes,
//     and then a second field with the suffix _raw holds the bytes in base64 (term.RawName).
//   - Sizes are in powers of two for people and in bytes in JSON; times are local for people and RFC 3339 in JSON.
//   - There is no colour. Status lines are redrawn only on a terminal.
//   - When standard output cannot be written the command stops: with 128+SIGPIPE if its reader has gone. A standard error
//     that cannot be written changes nothing.
//   - Nothing secret is printed, and no stack trace.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/term"
)

// jsonVersion is the version of all JSON lines.
const jsonVersion = 1

// Output is where a command prints. Its methods may be called concurrently.
type Output struct {
	Screen               *term.Screen // standard error
	JSON, Quiet, Verbose bool         // set before the command's body runs

	mu     sync.Mutex // guards what follows and the order of writes to stdout
	stdout io.Writer
	lost   error // the first error of stdout
	stop   context.CancelCauseFunc
}

// Write writes data to standard output. After the first error it drops everything, and the command's context is done.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lost != nil {
		return 0, o.lost
	}
	n, err := o.stdout.Write(p)
	if err != nil {
		if o.lost = fmt.Errorf("writing to standard output: %w", err); errors.Is(err, syscall.EPIPE) {
			o.lost = Interrupted(SigPipe)
		}
		o.stop(o.lost)
		return n, o.lost
	}
	return n, nil
}

// Lost returns the first error of standard output.
func (o *Output) Lost() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lost
}

// Data writes a text that was asked for to standard output. Errors are kept for finish.
func (o *Output) Data(text string) { io.WriteString(o, text) }

// Table writes a table to standard output. Errors are kept for finish.
func (o *Output) Table(t *term.Table) error { return t.Write(o) }

// Object writes v, which marshals to a JSON object, as one line of the given type.
func (o *Output) Object(messageType string, v any) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"message_type":%q,"version":%d`, messageType, jsonVersion)
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing %s as JSON: %w", messageType, err)
	}
	fields := bytes.TrimSpace(body.Bytes())
	if len(fields) < 2 || fields[0] != '{' {
		panic("cli: a JSON line is made from something that is no object")
	}
	if len(fields) > 2 {
		b.WriteByte(',')
	}
	b.Write(fields[1:])
	b.WriteByte('\n')
	_, err := o.Write(b.Bytes())
	return err
}

// Say prints a line about what was done.
func (o *Output) Say(format string, args ...any) {
	if !o.Quiet && !o.JSON {
		o.Screen.Print(fmt.Sprintf(format, args...))
	}
}

// Detail prints a line that only -v asks for.
func (o *Output) Detail(format string, args ...any) {
	if o.Verbose {
		o.Say(format, args...)
	}
}

// Warn tells of an item that was skipped, or of something to look at.
func (o *Output) Warn(item, reason string) {
	if !o.JSON {
		o.Screen.Print("warning: " + term.Name(item) + ": " + term.Clean(reason))
		return
	}
	line := struct {
		Item   string `json:"item"`
		Raw    string `json:"item_raw,omitempty"`
		Reason string `json:"reason"`
	}{Reason: reason}
	line.Item, line.Raw = term.RawName(item)
	o.Object("warning", line) // an error is kept by Write
}

// maxErrorWidth is the column of the code word: wider lines are hard to read.
const maxErrorWidth = 100

// Failure prints the four lines of a failure.
func (o *Output) Failure(f *fail.Error) {
	width := maxErrorWidth
	if columns := o.Screen.Columns(); columns > 0 {
		width = min(width, columns)
	}
	o.Screen.Print(f.Lines(width))
	if o.JSON {
		o.Object("exit_error", struct {
			Code   int    `json:"code"`
			Word   string `json:"word"`
			Error  string `json:"error"`
			Where  string `json:"where"`
			Effect string `json:"effect"`
			Next   string `json:"next"`
		}{int(f.Code), f.Word, f.Problem, f.Where, f.Effect, f.Next}) // an error is kept by Write, and nobody is left to tell
	}
}

// Watch runs work and shows its progress as the flags and the terminal have it. Warnings of c are printed.
func (a *Run) Watch(action string, c *progress.Counter, work func() error) error {
	o := progress.Options{Action: action, Screen: a.Out.Screen, Asked: a.Env.Status, Now: a.Env.Now,
		Names: a.Out.Verbose || a.Out.Screen.Terminal}
	switch {
	case a.Out.Quiet:
		o.Mode = progress.Quiet
	case a.Out.JSON:
		o.Mode = progress.JSON
		o.Emit = func(s progress.Status) { a.Out.Object("status", s) } // an error is kept by Write
	case a.Out.Screen.Terminal:
		o.Mode = progress.Bar
	}
	c.OnWarn = a.Out.Warn
	return progress.Watch(c, o, work)
}
