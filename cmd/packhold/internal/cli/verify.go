package cli

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/locking"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/cmd/packhold/internal/cli/verified"
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
			run.FromFlag(), run.KeyHintFlag(), run.KeyFileFlag(),
		},
		Action: a.Action(a.verify),
	}
}

// checkProgress counts bytes for the screen.
type checkProgress struct{ c *progress.Counter }

func (p checkProgress) Total(bytes int64) { p.c.Total(0, bytes) }
func (p checkProgress) Done(bytes int64)  { p.c.Done(0, bytes) }

func (a *app) verify(ctx context.Context, v run.Values, _ []string) error {
	a.UseReplica(v)
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
	need := run.AnyKey
	if o.ReadData {
		need = run.ReaderKey
	}
	r, err := a.OpenRepository(ctx, v, need)
	if err != nil {
		return err
	}
	defer r.Passphrase.Zero()
	defer r.Store.Close()
	if !r.CanRead() {
		a.Out.Say("without the passphrase the trees stay closed: objects, index and packs are checked")
	}
	start := a.Env.Now()
	var rep *check.Report
	err = a.Watch("verifying", c, func() error {
		var err error
		if rep, err = check.Run(ctx, r.Repo, o); err != nil {
			return err
		}
		return verifyLogs(ctx, r, rep, audit.VerifyOptions{Superseded: o.ReadData})
	})
	if err != nil {
		return err
	}
	_ = r.SaveCache() // it costs time only
	noted := false
	if len(rep.Lost)+len(rep.Failed) > 0 && r.CanRead() {
		if err := check.Note(ctx, r.Repo, rep); err != nil {
			a.Out.Warn("verified/", err.Error()+": backups go on to count on what is lost")
		} else {
			noted = true
		}
	}
	verdict := a.verdict(rep, noted)
	if verdict == nil && o.ReadData {
		verdict = locking.Remind(ctx, a.Run, r)
	}
	e := audit.Event{Op: "verify", Outcome: audit.Success, Bytes: rep.Bytes, Duration: a.Env.Now().Sub(start)}
	if verdict != nil {
		e.Outcome, e.Reason = audit.Failed, verdict.Error()
	}
	if r.Keys().Identity != nil {
		if err := r.Note(ctx, e); verdict == nil { // the verdict tells of a bad log too
			return err
		}
	}
	return verdict
}

// verifyLogs checks the audit logs, this machine's against what it remembers of its own.
func verifyLogs(ctx context.Context, r *run.Repository, rep *check.Report, o audit.VerifyOptions) error {
	if r.Keys().Identity != nil {
		l, err := r.Journal(ctx)
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
	for _, p := range logs.Superseded {
		rep.Add(check.Problem{Object: p.Object, Err: p.Err, Mendable: true})
	}
	return nil
}

func (a *app) scrub(ctx context.Context, c *progress.Counter, o check.Options) error {
	st, err := a.Storage(ctx, false, false)
	if err != nil {
		return err
	}
	defer st.Close()
	if _, err := repo.ReadConfig(ctx, st, repo.Options{}); err != nil {
		return err
	}
	var rep *check.Report
	err = a.Watch("scrubbing", c, func() error {
		var err error
		rep, err = check.Scrub(ctx, st, o)
		return err
	})
	if err != nil {
		return err
	}
	return a.verdict(rep, false)
}

// verdict prints what was found and turns it into the exit code. noted says that the repository remembers what is lost.
func (a *app) verdict(rep *check.Report, noted bool) error {
	for _, p := range rep.Problems {
		if a.Out.JSON {
			a.Out.Object("problem", verified.Problem(p)) // an error is kept by Write
			continue
		}
		a.Out.Warn(p.Object, verified.Reason(p))
		for _, f := range p.Files {
			a.Out.Screen.Print(fmt.Sprintf("  snapshot %d: %s", f.Number, term.Name(f.Path)))
		}
	}
	if a.Out.JSON {
		if err := a.Out.Object("summary", verified.Object(rep)); err != nil {
			return err
		}
	}
	lines, details := verified.Lines(rep)
	for _, l := range lines {
		a.Out.Say("%s", l)
	}
	for _, l := range details {
		a.Out.Detail("%s", l)
	}
	return verified.Verdict(rep, a.Where, noted)
}
