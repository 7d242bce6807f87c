package cli

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo"
	"packhold/repo/audit"
	"packhold/repo/check"
)

func (a *app) verifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Aliases: []string{"check"}, Usage: "check that the repository is whole",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "checksums", Usage: "check every byte of every pack against its name; needs no key"},
			&cli.BoolFlag{Name: "read-data", Usage: "open and hash every blob"},
			&cli.StringFlag{Name: "subset", Usage: "read only `PERCENT` of the packs, drawn anew each time; with --checksums or --read-data"},
			keyHintFlag(), keyFileFlag(),
		},
		Action: a.action(a.verify),
	}
}

// checkProgress counts bytes for the screen.
type checkProgress struct{ c *progress.Counter }

func (p checkProgress) Total(bytes int64) { p.c.Total(0, bytes) }
func (p checkProgress) Done(bytes int64)  { p.c.Done(0, bytes) }

func (a *app) verify(ctx context.Context, v values, _ []string) error {
	c := new(progress.Counter)
	o := check.Options{ReadData: v.Bool("read-data"), Progress: checkProgress{c}, Pick: maphash.String(maphash.MakeSeed(), "")}
	if s := v.String("subset"); s != "" {
		share, err := term.ParsePercent(s)
		if err != nil || share <= 0 {
			return fail.Usagef("subset", "packhold verify --read-data --subset 10%", "%s is no share of the packs", term.Name(s))
		}
		if !o.ReadData && !v.Bool("checksums") {
			return fail.Usagef("subset", "packhold verify --read-data --subset "+s, "--subset needs --checksums or --read-data")
		}
		o.Subset = share
	}
	if v.Bool("checksums") && !o.ReadData {
		return a.scrub(ctx, c, o)
	}
	need := anyKey
	if o.ReadData {
		need = readerKey
	}
	r, err := a.openRepository(ctx, v, need)
	if err != nil {
		return err
	}
	defer r.store.Close()
	if !r.CanRead() {
		a.out.say("without the passphrase the trees stay closed: objects, index and packs are checked")
	}
	start := a.env.Now()
	var rep *check.Report
	err = a.watch("verifying", c, func() error {
		var err error
		if rep, err = check.Run(ctx, r.Repo, o); err != nil {
			return err
		}
		return r.verifyLogs(ctx, rep)
	})
	if err != nil {
		return err
	}
	_ = r.SaveCache() // it costs time only
	if len(rep.Lost)+len(rep.Failed) > 0 && r.CanRead() {
		if err := check.Note(ctx, r.Repo, rep); err != nil {
			a.out.warn("verified/", err.Error()+": backups go on to count on what is lost")
		}
	}
	verdict := a.verdict(rep)
	e := audit.Event{Op: "verify", Outcome: audit.Success, Bytes: rep.Bytes, Duration: a.env.Now().Sub(start)}
	if verdict != nil {
		e.Outcome, e.Reason = audit.Failed, verdict.Error()
	}
	if r.Keys().Identity != nil {
		if err := r.note(ctx, e); verdict == nil { // the verdict tells of a bad log too
			return err
		}
	}
	return verdict
}

// verifyLogs checks the audit logs, this machine's against what it remembers of its own.
func (r *repository) verifyLogs(ctx context.Context, rep *check.Report) error {
	var o audit.VerifyOptions
	if r.Keys().Identity != nil {
		l, err := r.journal(ctx)
		switch {
		case err == nil:
			size, root := l.Head()
			o.Known = []audit.Head{{Tag: l.Tag(), Size: size, Root: root}}
		case errors.Is(err, repo.ErrTampered) || errors.Is(err, repo.ErrDamaged):
			rep.Add(check.Problem{Object: "audit/", Err: err})
		default:
			return err
		}
	}
	logs, err := audit.Verify(ctx, r.Repo, o)
	if err != nil {
		return err
	}
	for _, p := range logs.Problems {
		rep.Add(check.Problem{Object: p.Object, Err: p.Err})
	}
	return nil
}

func (a *app) scrub(ctx context.Context, c *progress.Counter, o check.Options) error {
	st, err := a.storage(false, false)
	if err != nil {
		return err
	}
	defer st.Close()
	if _, err := repo.ReadConfig(ctx, st); err != nil {
		return err
	}
	var rep *check.Report
	err = a.watch("scrubbing", c, func() error {
		var err error
		rep, err = check.Scrub(ctx, st, o)
		return err
	})
	if err != nil {
		return err
	}
	return a.verdict(rep)
}

// verdict prints what was found and turns it into the exit code.
func (a *app) verdict(rep *check.Report) error {
	var codes []fail.Code
	files := make(map[check.File]bool)
	for _, p := range rep.Problems {
		code := fail.Lost
		switch {
		case errors.Is(p.Err, repo.ErrTampered):
			code = fail.Tampered
		case p.Mendable:
			code = fail.Repairable
		}
		codes = append(codes, code)
		for _, f := range p.Files {
			files[f] = true
		}
		a.problem(p, code)
	}
	if a.out.json {
		err := a.out.object("summary", struct {
			Snapshots uint64 `json:"snapshots"`
			Files     uint64 `json:"files"`
			Packs     uint64 `json:"packs"`
			Read      uint64 `json:"packs_read"`
			Blobs     uint64 `json:"blobs_read"`
			Bytes     uint64 `json:"bytes_read"`
			Orphans   int    `json:"orphan_packs"`
			Foreign   int    `json:"foreign_files"`
			Problems  int    `json:"problems"`
		}{rep.Snapshots, rep.Files, rep.Packs, rep.Read, rep.Blobs, rep.Bytes, rep.Orphans, rep.Foreign, rep.Count})
		if err != nil {
			return err
		}
	} else {
		a.out.say("checked: %s, %s, %s, %d of them read (%s), %s opened", term.Plural(int64(rep.Snapshots), "snapshot"), term.Plural(int64(rep.Files), "file"),
			term.Plural(int64(rep.Packs), "pack"), rep.Read, term.Bytes(int64(rep.Bytes)), term.Plural(int64(rep.Blobs), "blob"))
		if rep.Orphans > 0 {
			a.out.detail("%s of an unfinished session: the next backup of its host adopts them", term.Plural(int64(rep.Orphans), "pack"))
		}
		if rep.Foreign > 0 {
			a.out.detail("%s not of this format, left alone", term.Plural(int64(rep.Foreign), "file"))
		}
	}
	if len(codes) == 0 {
		a.out.say("no damage found")
		return nil
	}
	f := &fail.Error{Code: fail.Worst(codes...), Where: a.where, Problem: fmt.Sprintf("%s found", term.Plural(int64(rep.Count), "problem")),
		Effect: "Nothing was changed.", Next: "packhold verify --read-data tells how far it goes"}
	switch f.Code {
	case fail.Repairable:
		f.Word, f.Effect = "damage.repairable", "Everything can still be restored. Nothing was changed."
	case fail.Lost:
		f.Word = "damage.lost"
		f.Effect = "What the list names cannot be restored completely; everything else can. Nothing was changed."
		if len(files) > 0 {
			f.Effect = fmt.Sprintf("%s cannot be restored completely; everything else can. Nothing was changed.", term.Plural(int64(len(files)), "listed file"))
		}
		f.Next = "packhold verify --read-data, which tells backups what to store again"
		if len(rep.Lost)+len(rep.Failed) > 0 {
			f.Next = "packhold backup stores what is lost again, as far as the files are still there; or put the packs back from a copy of the repository"
		}
	case fail.Tampered:
		f.Word, f.Effect = "trust.tampered", "The objects listed are not used. Nothing was changed."
		f.Next = "find out who could write to the storage"
	}
	return f
}

func (a *app) problem(p check.Problem, code fail.Code) {
	if a.out.json {
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
		a.out.object("problem", struct {
			Code   int    `json:"code"`
			Object string `json:"object"`
			Offset int64  `json:"offset"`
			Length int64  `json:"length"`
			Error  string `json:"error"`
			Files  []file `json:"files,omitempty"`
		}{int(code), p.Object, p.Off, p.N, p.Err.Error(), files}) // an error is kept by Write
		return
	}
	a.out.warn(p.Object, reasonOf(p))
	for _, f := range p.Files {
		a.out.screen.Print(fmt.Sprintf("  snapshot %d: %s", f.Number, term.Name(f.Path)))
	}
}

// reasonOf is a problem without the name of its object, which stands before it.
func reasonOf(p check.Problem) string {
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
