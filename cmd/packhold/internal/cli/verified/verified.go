// Package verified tells what a verification found: in lines, in JSON, and as an exit code.
package verified

import (
	"errors"
	"fmt"
	"strings"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo"
	"packhold/repo/check"
)

// codeOf is what a problem means to the user.
func codeOf(p check.Problem) fail.Code {
	switch {
	case errors.Is(p.Err, repo.ErrTampered):
		return fail.Tampered
	case p.Mendable:
		return fail.Repairable
	}
	return fail.Lost
}

// Verdict turns the worst of what was found into the exit code. Nil: nothing. noted says that the repository remembers what is lost.
func Verdict(rep *check.Report, where string, noted bool) error {
	if len(rep.Problems) == 0 {
		return nil
	}
	var codes []fail.Code
	files := make(map[check.File]bool)
	for _, p := range rep.Problems {
		codes = append(codes, codeOf(p))
		for _, f := range p.Files {
			files[f] = true
		}
	}
	const nothing = "Nothing was changed."
	f := &fail.Error{Code: fail.Worst(codes...), Where: where, Problem: fmt.Sprintf("%s found", term.Plural(int64(rep.Count), "problem")),
		Effect: nothing, Next: "packhold verify --read-data tells how far it goes"}
	switch f.Code {
	case fail.Repairable:
		f.Word, f.Effect = "damage.repairable", "Everything can still be restored. "+nothing
		if rep.Whole {
			f.Next = "check the disk of the storage; if it fails, copy the repository to another one: a copy is as good"
		}
	case fail.Lost:
		f.Word, f.Effect = "damage.lost", "What the list names"
		if len(files) > 0 {
			f.Effect = term.Plural(int64(len(files)), "listed file")
		}
		f.Effect += " cannot be restored completely; everything else can. "
		if noted {
			f.Effect += "What is lost was noted in the repository, for backups to store it again."
		} else {
			f.Effect += nothing
		}
		f.Next = "packhold verify --read-data, which tells backups what to store again"
		if rep.Whole && rep.Snapshots > 0 { // it was just run
			f.Next = "put the objects listed back from a copy of the repository; without one, choose other snapshots: packhold list"
		}
		if len(rep.Lost)+len(rep.Failed) > 0 {
			f.Next = "packhold backup stores what is lost again, as far as the files are still there; or put the packs back from a copy of the repository"
		}
	case fail.Tampered:
		f.Word, f.Effect = "trust.tampered", "The objects listed are not used. "+nothing
		f.Next = "find out who could write to the storage"
	}
	return f
}

// Problem is a problem as JSON has it.
func Problem(p check.Problem) any {
	type file struct {
		Snapshot string `json:"snapshot"`
		Path     string `json:"path"`
		Raw      string `json:"path_raw,omitempty"`
	}
	var files []file
	for _, f := range p.Files {
		text, raw := term.RawName(f.Path)
		files = append(files, file{f.Snapshot.String(), text, raw})
	}
	return struct {
		Code   int      `json:"code"`
		Object string   `json:"object"`
		Offset int64    `json:"offset"`
		Length int64    `json:"length"`
		Error  string   `json:"error"`
		Packs  []string `json:"packs,omitempty"`
		Files  []file   `json:"files,omitempty"`
	}{int(codeOf(p)), p.Object, p.Off, p.N, p.Err.Error(), p.Packs, files}
}

// Reason is a problem without the name of its object, which stands before it.
func Reason(p check.Problem) string {
	reason, off, n := p.Err.Error(), p.Off, p.N
	if e, ok := p.Err.(*repo.Error); ok && e.Object == p.Object {
		reason = strings.TrimSuffix(e.Op, " of") + ": " + e.Err.Error()
		if n == 0 {
			off, n = e.Off, e.N
		}
	}
	if n > 0 {
		reason = fmt.Sprintf("bytes %d-%d: %s", off, off+n-1, reason)
	}
	return reason
}

// Object is the summary as JSON has it.
func Object(rep *check.Report) any {
	return struct {
		Snapshots uint64 `json:"snapshots"`
		Files     uint64 `json:"files"`
		Packs     uint64 `json:"packs"`
		Read      uint64 `json:"packs_read"`
		Earlier   uint64 `json:"packs_read_earlier,omitempty"`
		Blobs     uint64 `json:"blobs_read"`
		Bytes     uint64 `json:"bytes_read"`
		Orphans   int    `json:"orphan_packs"`
		Foreign   int    `json:"foreign_files"`
		Problems  int    `json:"problems"`
	}{rep.Snapshots, rep.Files, rep.Packs, rep.Read, rep.Earlier, rep.Blobs, rep.Bytes, rep.Orphans, rep.Foreign, rep.Count}
}

// Lines is the summary for people, and what only some of them want to know.
func Lines(rep *check.Report) (lines, details []string) {
	lines = append(lines, fmt.Sprintf("checked: %s, %s, %s, %d of them read (%s), %s opened", term.Plural(int64(rep.Snapshots), "snapshot"),
		term.Plural(int64(rep.Files), "file"), term.Plural(int64(rep.Packs), "pack"), rep.Read, term.Bytes(int64(rep.Bytes)), term.Plural(int64(rep.Blobs), "blob")))
	if rep.Earlier > 0 {
		lines = append(lines, term.Plural(int64(rep.Earlier), "pack")+" were read and found good before this check was interrupted, as this machine's catalog says")
	}
	if rep.Orphans > 0 {
		details = append(details, term.Plural(int64(rep.Orphans), "pack")+" of an unfinished session: the next backup of its host adopts them")
	}
	if rep.Foreign > 0 {
		details = append(details, term.Plural(int64(rep.Foreign), "file")+" not of this format, left alone")
	}
	if len(rep.Problems) == 0 {
		lines = append(lines, "no damage found")
	}
	return lines, details
}
