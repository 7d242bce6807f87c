package fail

import (
	"errors"
	"fmt"
	"strings"

	"packhold/cmd/packhold/internal/cli/term"
)

// Error is a failure ready to be shown. Its texts are single lines without trailing period; names in them are quoted with
// term.Name by whoever builds them, and Lines escapes what is left of control characters.
type Error struct {
	Code    Code
	Word    string // area.what, stable, for searching the manual: "damage.lost"
	Problem string
	Where   string // a place: a file, an object's address, a flag
	Effect  string // what can and cannot be done now, and what was changed
	Next    string // the command to run next
	Cause   error  // what it was made from, or nil
}

// Error returns the problem alone.
func (e *Error) Error() string { return e.Problem }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Usagef is an error of the command line: exit code 4, nothing done.
func Usagef(word, next, format string, args ...any) *Error {
	return &Error{
		Code: Usage, Word: "usage." + word, Problem: fmt.Sprintf(format, args...), Where: "command line",
		Effect: "Nothing was done.", Next: next,
	}
}

// Lines returns the four lines of the error, without a final newline. The code word stands at column width, or two
// spaces behind the text where that is longer or width is 0.
func (e *Error) Lines(width int) string {
	first := "error: " + term.Clean(e.Problem)
	word := "[" + e.Word + "]"
	gap := max(2, width-term.Width(first)-len(word))
	return first + strings.Repeat(" ", gap) + word +
		"\n where: " + term.Clean(e.Where) +
		"\neffect: " + term.Clean(e.Effect) +
		"\n  next: " + term.Clean(e.Next)
}

// Rule turns the errors that match Is into a failure.
type Rule struct {
	Is      error
	Code    Code
	Word    string
	Effect  string
	Next    string
	Explain string // replaces the error's own text, if not empty
}

// Classify finds out what err is. An Error inside err is taken, the most urgent if there are several, unless a rule that
// matches is more urgent; otherwise the most urgent of the rules that match. Among equals the first rule counts.
// What nothing matches is Unclassified. It never returns nil for an err that is not nil, and nil for nil.
func Classify(err error, rules []Rule) *Error {
	if err == nil {
		return nil
	}
	best := worstError(err)
	for _, r := range rules {
		if !errors.Is(err, r.Is) || best != nil && r.Code.rank() >= best.Code.rank() {
			continue
		}
		best = &Error{Code: r.Code, Word: r.Word, Problem: r.Explain, Effect: r.Effect, Next: r.Next, Cause: err}
		if r.Explain == "" {
			best.Problem = err.Error()
		}
	}
	if best == nil {
		best = &Error{Code: Unclassified, Word: "internal.unclassified", Problem: err.Error(), Cause: err}
	}
	return best
}

// worstError finds the most urgent Error in the tree of err, or nil.
func worstError(err error) *Error {
	if e, ok := err.(*Error); ok {
		return e
	}
	switch u := err.(type) {
	case interface{ Unwrap() error }:
		if inner := u.Unwrap(); inner != nil {
			return worstError(inner)
		}
	case interface{ Unwrap() []error }:
		var best *Error
		for _, inner := range u.Unwrap() {
			if e := worstError(inner); e != nil && (best == nil || e.Code.rank() < best.Code.rank()) {
				best = e
			}
		}
		return best
	}
	return nil
}
