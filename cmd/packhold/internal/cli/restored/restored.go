// Package restored tells what a restore did: in lines, in JSON, and as an exit code.
package restored

import (
	"errors"
	"fmt"
	"time"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo/restore"
)

// Verdict turns what is not as it should be into the exit code. Nil: nothing.
func Verdict(res *restore.Result, dst string) error {
	where := term.Name(dst)
	plural := func(n uint64, what string) string { return term.Plural(int64(n), what) }
	var errs []error
	add := func(code fail.Code, word, problem, effect, next string) {
		errs = append(errs, &fail.Error{Code: code, Word: word, Problem: problem, Where: where, Effect: effect, Next: next})
	}
	if res.LostCount > 0 {
		add(fail.Lost, "damage.lost", plural(res.LostCount, "item")+" of the snapshot cannot be restored", "They are not in the destination; everything else is.",
			"packhold verify --read-data; then back up the files again, or restore the packs from a copy of the repository")
	}
	if res.MismatchCount > 0 {
		add(fail.Differs, "restore.differs", plural(res.MismatchCount, "difference")+" between what was restored and what was read again",
			"The files listed are not as in the snapshot.", "check the destination's disk and whether somebody writes there; restore again")
	}
	if res.UnsafeCount > 0 {
		add(fail.UnsafePaths, "restore.unsafe", plural(res.UnsafeCount, "unsafe path")+" refused", "What is listed was left out; everything else is restored.",
			"restore into an empty folder that only you can write to; if it is so already, distrust the snapshot")
	}
	if res.Missing > 0 {
		add(fail.NoSpace, "target.full", fmt.Sprintf("no space left in the destination: %s of %s are missing", plural(res.Missing, "item"), term.Bytes(int64(res.MissingBytes))),
			"What is complete stays; the items listed above are missing. No half-written file has its name.",
			"make room for "+term.Bytes(int64(res.MissingBytes))+", then run the same command again: what is there is not fetched again")
	}
	if n := res.ProblemCount - min(res.ProblemCount, res.Missing); n > 0 {
		add(fail.Skipped, "restore.partial", plural(n, "item")+" could not be restored completely", "Everything else is restored.",
			"see the list above; owners, devices and attributes need root")
	}
	if res.Mended > 0 {
		add(fail.Repairable, "damage.mended", plural(res.Mended, "damaged blob")+" of the repository made good for this restore",
			"Everything was restored. The repository is still damaged.", "packhold verify --read-data")
	}
	return errors.Join(errs...)
}

// Object is the summary as JSON has it.
func Object(o *restore.Options, res *restore.Result, dst string, took time.Duration) any {
	text, raw := term.RawName(dst)
	return struct {
		DryRun      bool    `json:"dry_run,omitempty"`
		Destination string  `json:"destination"`
		Raw         string  `json:"destination_raw,omitempty"`
		Files       uint64  `json:"files"`
		Dirs        uint64  `json:"dirs"`
		Symlinks    uint64  `json:"symlinks"`
		Links       uint64  `json:"hard_links"`
		Specials    uint64  `json:"specials"`
		Bytes       uint64  `json:"bytes"`
		Kept        uint64  `json:"kept"`
		Deleted     uint64  `json:"deleted"`
		Leftovers   uint64  `json:"leftovers"`
		Privileged  uint64  `json:"privileged"`
		Fetched     uint64  `json:"bytes_fetched"`
		Written     uint64  `json:"bytes_written"`
		Reused      uint64  `json:"bytes_reused"`
		Missing     uint64  `json:"missing"`
		MissingSize uint64  `json:"bytes_missing"`
		Lost        uint64  `json:"lost"`
		Problems    uint64  `json:"problems"`
		Unsafe      uint64  `json:"unsafe"`
		Mismatch    uint64  `json:"mismatches"`
		Verified    uint64  `json:"verified"`
		Seconds     float64 `json:"seconds"`
	}{o.DryRun, text, raw, res.Files, res.Dirs, res.Symlinks, res.Links, res.Specials, res.Bytes, res.Kept, res.Deleted, res.Leftovers, res.Privileged, res.Fetched,
		res.Written, res.Reused, res.Missing, res.MissingBytes, res.LostCount, res.ProblemCount, res.UnsafeCount, res.MismatchCount, res.Verified, took.Seconds()}
}

// Lines is the summary for people.
func Lines(o *restore.Options, res *restore.Result, took time.Duration) []string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	verb := "restored"
	if o.DryRun {
		verb = "to restore"
	}
	say("%s: %s, %s, %s, %s, %s in %s", verb, term.Plural(int64(res.Files), "file"), term.Plural(int64(res.Dirs), "folder"),
		term.Plural(int64(res.Symlinks+res.Links), "link"), term.Plural(int64(res.Specials), "special file"), term.Bytes(int64(res.Bytes)), term.Duration(took))
	bytes := func(n uint64) string { return term.Bytes(int64(n)) }
	if o.DryRun {
		say("to fetch: %s; to write: %s; there already: %s", bytes(res.Fetched), bytes(res.Written), bytes(res.Reused))
	} else {
		say("fetched: %s; written: %s; there already: %s", bytes(res.Fetched), bytes(res.Written), bytes(res.Reused))
	}
	if res.Kept > 0 {
		say("kept as they were: %s", term.Plural(int64(res.Kept), "item"))
	}
	if res.Deleted > 0 && o.DryRun {
		say("to delete: %s", term.Plural(int64(res.Deleted), "item"))
	} else if res.Deleted > 0 {
		say("deleted: %s", term.Plural(int64(res.Deleted), "item"))
	}
	if res.Privileged > 0 && !o.DryRun {
		say("with privileges (set-id, devices, capabilities): %s", term.Plural(int64(res.Privileged), "file"))
	}
	if o.Verify && res.MismatchCount == 0 && !o.DryRun {
		say("verified: %s read again, all equal", term.Plural(int64(res.Verified), "item"))
	}
	return lines
}
