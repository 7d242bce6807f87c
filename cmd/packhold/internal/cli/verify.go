package cli

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/catalogs"
	"packhold/cmd/packhold/internal/cli/evidence"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/locking"
	"packhold/cmd/packhold/internal/cli/mending"
	"packhold/cmd/packhold/internal/cli/pins"
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
		Name: "verify", Aliases: []string{"check"}, Usage: "check that the repository is whole", ArgsUsage: "[SNAPSHOT...]",
		Description: "With snapshots named, their trees alone are walked, and --read-data reads the packs that they need. --limit-download keeps a check from taking all of a disk or line.",
		Flags: append(mending.Flags(),
			&cli.BoolFlag{Name: "checksums", Usage: "check every byte of every pack against its name; needs no key"},
			&cli.BoolFlag{Name: "read-data", Usage: "open and hash every blob"},
			&cli.StringFlag{Name: "subset", Usage: "read only `PERCENT` of the packs, drawn anew each time; with --checksums or --read-data"},
			&cli.StringFlag{Name: "oldest", Usage: "read only `PERCENT` of the packs, those that this machine did not read for longest; with --checksums or --read-data"},
			&cli.BoolFlag{Name: "against-source", Usage: "compare this host's files, byte by byte, with the newest snapshot of them, and tell bit rot from changes; nothing else is checked"},
			&cli.StringFlag{Name: "sample", Usage: "with --against-source: compare only `PERCENT` of the files, drawn anew each time"},
			&cli.BoolFlag{Name: "resume", Usage: "go on with the --checksums or --read-data that was interrupted last on this machine"},
			run.FromFlag(), run.KeyHintFlag(), run.KeyFileFlag(),
		),
		Action: a.Action(a.verify),
	}
}

// checkProgress counts bytes for the screen.
type checkProgress struct{ c *progress.Counter }

func (p checkProgress) Total(bytes int64) { p.c.Total(0, bytes) }
func (p checkProgress) Done(bytes int64)  { p.c.Done(0, bytes) }

// verifyOptions are what the flags say.
func verifyOptions(v run.Values, args []string) (o check.Options, err error) {
	o = check.Options{ReadData: v.Bool("read-data"), Pick: maphash.String(maphash.MakeSeed(), "")}
	reads := o.ReadData || v.Bool("checksums")
	given := 0
	for _, name := range []string{"subset", "oldest"} {
		s := v.String(name)
		if s == "" {
			continue
		}
		next := "packhold verify --read-data --" + name + " 10%"
		share, err := term.ParsePercent(s)
		if err != nil || share <= 0 {
			return o, fail.Usagef(name, next, "%s is no share of the packs", term.Name(s))
		}
		if !reads {
			return o, fail.Usagef(name, next, "--%s needs --checksums or --read-data", name)
		}
		o.Subset, o.Oldest = share, name == "oldest"
		given++
	}
	if resume := v.Bool("resume"); given > 1 || resume && (given > 0 || len(args) > 0) {
		return o, fail.Usagef("share", "packhold help verify", "--subset, --oldest, and --resume, which reads all that is left, exclude each other")
	} else if resume && !reads {
		return o, fail.Usagef("resume", "packhold verify --checksums --resume", "--resume needs --checksums or --read-data")
	}
	if len(args) > 0 && v.Bool("checksums") && !o.ReadData {
		return o, fail.Usagef("snapshot", "packhold verify --read-data "+term.Name(args[0]), "--checksums has no key that tells which packs a snapshot needs")
	}
	return o, nil
}

func (a *app) verify(ctx context.Context, v run.Values, args []string) error {
	if repairs, err := mending.Asked(v, args); repairs {
		return mending.Run(ctx, a.Run, v)
	} else if err != nil {
		return err
	}
	a.UseReplica(v)
	if v.Bool("against-source") {
		if v.Bool("checksums") || v.Bool("read-data") {
			return fail.Usagef("against-source", "packhold help verify", "--against-source reads the source, not the repository: --checksums and --read-data are runs of their own")
		}
		return evidence.AgainstSource(ctx, a.Run, v, args)
	}
	if v.IsSet("sample") {
		return fail.Usagef("sample", "packhold verify --against-source --sample 1%", "--sample needs --against-source")
	}
	o, err := verifyOptions(v, args)
	if err != nil {
		return err
	}
	c := new(progress.Counter)
	o.Progress = checkProgress{c}
	if v.Bool("checksums") && !o.ReadData {
		return a.scrub(ctx, v, c, o)
	}
	need := run.AnyKey
	if o.ReadData || len(args) > 0 {
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
	if o.Only, err = chosen(ctx, r, args); err != nil {
		return err
	}
	start := a.Env.Now()
	var ledger *catalogs.Ledger
	if o.ReadData {
		ledger = catalogs.OpenLedger(ctx, a.Run, r, r.Config().ID, &o)
		ledger.Prepare(ctx, &o, v.Bool("resume"))
	}
	var rep *check.Report
	err = a.Watch("verifying", c, func() error {
		var err error
		if rep, err = check.Run(ctx, r.Repo, o); err != nil {
			return err
		}
		return verifyLogs(ctx, r, rep, audit.VerifyOptions{Superseded: o.ReadData})
	})
	if ledger != nil {
		ledger.Close(ctx, err == nil)
	}
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
	if v.String("from") == "" && r.CanRead() { // what a replica has says nothing of this repository
		if err := check.NoteVerified(ctx, r.Repo, rep); err != nil {
			a.Out.Detail("verified/: %v", err) // a storage may be read-only, and the result is the same
		}
	}
	verdict := a.verdict(rep, noted)
	if verdict == nil && o.ReadData {
		verdict = locking.Remind(ctx, a.Run, r)
	}
	hidden, err := a.hidden(ctx, r)
	if err != nil {
		return err
	}
	verdict = errors.Join(verdict, hidden)
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

// hidden looks for snapshots that were there before.
func (a *app) hidden(ctx context.Context, r *run.Repository) (verdict, err error) {
	all, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	return pins.Check(ctx, a.Run, r, all), nil
}

// chosen finds the snapshots that were named; nil: all are meant.
func chosen(ctx context.Context, r *run.Repository, words []string) (only []*repo.Snapshot, err error) {
	if len(words) == 0 {
		return nil, nil
	}
	all, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	for _, word := range words {
		s, err := repo.FindSnapshot(all, word)
		if err != nil {
			return nil, err
		}
		only = append(only, s)
	}
	return only, nil
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

func (a *app) scrub(ctx context.Context, v run.Values, c *progress.Counter, o check.Options) error {
	st, err := a.Storage(ctx, false, false)
	if err != nil {
		return err
	}
	defer st.Close()
	cfg, err := repo.ReadConfig(ctx, st, repo.Options{})
	if err != nil {
		return err
	}
	ledger := catalogs.OpenLedger(ctx, a.Run, a.Folders(cfg.ID), cfg.ID, &o)
	ledger.Prepare(ctx, &o, v.Bool("resume"))
	var rep *check.Report
	err = a.Watch("scrubbing", c, func() error {
		var err error
		rep, err = check.Scrub(ctx, st, o)
		return err
	})
	ledger.Close(ctx, err == nil)
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
		for _, pack := range p.Packs {
			a.Out.Screen.Print("  should be in " + pack)
		}
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
