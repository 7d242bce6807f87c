// Package fail is a failure as the user meets it: an exit code and four lines that say what, where, with what effect, and
// what to do next.
package fail

import "fmt"

// Code is an exit code of the program. Scripts branch on these numbers, so they never change.
type Code int

// The exit codes. 128+N means ended by signal N; see Signal.
const (
	Done         Code = 0
	Unclassified Code = 1
	Crash        Code = 2 // the Go runtime's own, never returned by this program's code
	Skipped      Code = 3
	Usage        Code = 4
	NoRepository Code = 10
	Busy         Code = 11
	Passphrase   Code = 12
	Exists       Code = 13
	Unreachable  Code = 14
	NoSpace      Code = 15
	Denied       Code = 16
	Policy       Code = 17
	Repairable   Code = 20
	Lost         Code = 21
	Tampered     Code = 22
	Differs      Code = 23
	UnsafePaths  Code = 24
	Alarm        Code = 25
	Clock        Code = 26

	signalBase Code = 128
)

// Signal is the exit code of a run that signal number n ended.
func Signal(n int) Code { return signalBase + Code(n) }

// Row is one line of the table of exit codes.
type Row struct {
	Code    Code
	Meaning string
}

// Table returns every exit code with its meaning, in the order of the numbers. The 128+N of signals is its last row, with
// the code 128.
func Table() []Row {
	return []Row{
		{Done, "done"},
		{Unclassified, "failed, not classified"},
		{Crash, "crash of the Go runtime"},
		{Skipped, "done, with skipped items"},
		{Usage, "usage, configuration, or refused by a safety rule"},
		{NoRepository, "no repository"},
		{Busy, "busy"},
		{Passphrase, "wrong passphrase or no usable key"},
		{Exists, "target exists"},
		{Unreachable, "storage unreachable after retries"},
		{NoSpace, "no space or quota"},
		{Denied, "denied, or immutable until a date"},
		{Policy, "version, cipher or key derivation outside policy"},
		{Repairable, "damage, all of it repairable or repaired"},
		{Lost, "damage, data lost"},
		{Tampered, "tampering, rollback or replay suspected"},
		{Differs, "restored data differs"},
		{UnsafePaths, "unsafe paths refused"},
		{Alarm, "canary or mass-change alarm"},
		{Clock, "clock out of bounds"},
		{signalBase, "128+N: ended by signal N"},
	}
}

// Meaning returns what c tells, in a few words.
func (c Code) Meaning() string {
	if c > signalBase {
		return fmt.Sprintf("ended by signal %d", c-signalBase)
	}
	for _, r := range Table() {
		if r.Code == c {
			return r.Meaning
		}
	}
	return Unclassified.Meaning()
}

// rank orders codes by what a user must hear of first: a signal, then tampering, lost data, differing data, whatever kept
// the work from being done, and last what was done with reservations. Lower is more urgent.
func (c Code) rank() int {
	switch {
	case c > signalBase:
		return 0
	case c == Tampered:
		return 1
	case c == Lost:
		return 2
	case c == Differs:
		return 3
	case c >= NoRepository && c <= Policy:
		return int(c) // 10..17
	case c == Usage:
		return 18
	case c == Clock:
		return 20
	case c == Alarm:
		return 21
	case c == Repairable:
		return 22
	case c == UnsafePaths:
		return 23
	case c == Skipped:
		return 24
	case c == Done:
		return 25
	}
	return 19 // unclassified: the work was not done either, but nothing more is known
}

// Worst returns the code that the program exits with when all of codes apply, and Done for none.
func Worst(codes ...Code) Code {
	worst := Done
	for _, c := range codes {
		if c.rank() < worst.rank() {
			worst = c
		}
	}
	return worst
}
