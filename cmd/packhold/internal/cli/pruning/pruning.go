// Package pruning is the command prune: it frees what no snapshot needs.
package pruning

import (
	"context"
	"errors"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/backends"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/locking"
	"packhold/cmd/packhold/internal/cli/place"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/repo/admin"
	"packhold/repo/audit"
	"packhold/repo/gc"
	"packhold/repo/stored"
)

// Flags are those of a prune, for forget --prune too.
func Flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "max-unused", Value: "5%", Usage: "let `PERCENT` of the bytes in packs stay although nothing needs them; the less, the more is copied"},
		&cli.StringFlag{Name: "max-repack", Value: "unlimited", Usage: "copy at most `SIZE` bytes out of packs of which little is needed"},
	}
}

// Command is the command, for a run of the program.
func Command(r *run.Run) *cli.Command {
	return &cli.Command{
		Name: "prune", Usage: "free the room of what no snapshot needs",
		Description: "Hosts may go on backing up meanwhile; nothing is locked. What a running backup may count on stays until that backup has ended: then the next prune " +
			"removes it. It takes the passphrase, because only its holder can read what the snapshots need.",
		Flags: append(Flags(),
			&cli.BoolFlag{Name: "anyway", Usage: "also where another prune seems to be at work; two are safe, and a waste"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would be freed"},
			run.KeyHintFlag(), run.KeyFileFlag()),
		Action: r.Action(func(ctx context.Context, v run.Values, _ []string) error { return Run(ctx, r, v) }),
	}
}

// counted shows the bytes that are copied.
type counted struct{ c *progress.Counter }

func (p counted) Total(bytes int64) { p.c.Total(0, bytes) }
func (p counted) Done(bytes int64)  { p.c.Done(0, bytes) }

// options reads the flags.
func options(v run.Values) (o gc.PruneOptions, err error) {
	const next = "packhold help prune"
	o.DryRun, o.Anyway, o.MaxRepack = v.Bool("dry-run"), v.Bool("anyway"), -1
	if word := v.String("max-unused"); word == "0" || word == "0%" {
		o.MaxUnused = 0
	} else if o.MaxUnused, err = term.ParsePercent(word); err != nil {
		return o, fail.Usagef("share", next, "--max-unused %s is no share such as 5%%", term.Name(v.String("max-unused")))
	}
	if word := v.String("max-repack"); word != "unlimited" {
		if o.MaxRepack, err = term.ParseSize(word); err != nil {
			return o, fail.Usagef("size", next, "--max-repack %s is no size", term.Name(word))
		}
	}
	return o, nil
}

// Run prunes as the flags say, for whoever has the passphrase.
func Run(ctx context.Context, r *run.Run, v run.Values) error {
	o, err := options(v)
	if err != nil {
		return err
	}
	rep, err := r.OpenRepository(ctx, v, run.HolderKey)
	if err != nil {
		return err
	}
	defer rep.Close()
	if !o.DryRun { // all that keeps prune and backups apart rests on it
		if err := place.Exclusive(ctx, rep.Store); errors.Is(err, backends.ErrUnsupported) {
			return &fail.Error{Code: fail.Usage, Word: "prune.exclusive", Problem: "the storage does not create files exclusively: " + err.Error(), Where: r.Where,
				Effect: "Nothing was deleted.", Next: "packhold storage test", Cause: err}
		} else if err != nil {
			return stored.Failed("testing", "probe/", err)
		}
	}
	if id := rep.Keys().Identity; !o.DryRun && id != nil && rep.Trust().Roles(id.Host)&crypt.RolePrune == 0 {
		if err := admin.Empower(ctx, rep.Repo, crypt.RolePrune); err != nil {
			return err
		}
	}
	intent, start := uint64(0), r.Env.Now()
	o.Intent = func(ctx context.Context, plan *gc.Pruned) error {
		log, err := rep.Journal(ctx)
		if err != nil {
			return err
		}
		intent, err = log.Append(ctx, audit.Event{Op: "prune", Outcome: audit.Intent, Bytes: uint64(plan.RemovedBytes), Object: term.Plural(int64(plan.Removed), "pack")})
		return err
	}
	c := new(progress.Counter)
	o.Progress = counted{c}
	var res *gc.Pruned
	err = r.Watch("pruning", c, func() error {
		var err error
		res, err = gc.Prune(ctx, rep.Repo, o)
		return err
	})
	_ = rep.SaveCache() // it costs time only
	if intent > 0 {
		e := run.OutcomeOf(err, 0)
		e.Op, e.IntentSeq, e.Bytes, e.Object, e.Duration = "prune", intent, uint64(res.RemovedBytes), term.Plural(int64(res.Removed), "pack"), r.Env.Now().Sub(start)
		done, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // it is done, whoever wants to stop now
		err = errors.Join(err, rep.Note(done, e))
		cancel()
	}
	if err != nil {
		return err
	}
	if !o.DryRun {
		if err := locking.Keep(ctx, r, rep); err != nil {
			return err
		}
	}
	return report(r, res, o.DryRun)
}

func report(r *run.Run, res *gc.Pruned, dry bool) error {
	if r.Out.JSON {
		return r.Out.Object("pruned", struct {
			DryRun        bool  `json:"dry_run"`
			Snapshots     int   `json:"snapshots"`
			Packs         int   `json:"packs"`
			Bytes         int64 `json:"bytes"`
			Unused        int64 `json:"unused_bytes"`
			Removed       int   `json:"removed"`
			RemovedBytes  int64 `json:"removed_bytes"`
			Repacked      int   `json:"repacked"`
			RepackedBytes int64 `json:"repacked_bytes"`
			Spared        int   `json:"spared"`
			Deferred      int   `json:"deferred"`
			Waiting       int   `json:"waiting_sessions"`
			Fenced        int   `json:"fenced_sessions"`
			Finished      int   `json:"finished_sets"`
			Segments      int   `json:"index_segments"`
		}{dry, res.Snapshots, res.Packs, res.Bytes, res.Unused, res.Removed, res.RemovedBytes, res.Repacked, res.RepackedBytes, res.Spared, res.Deferred, res.Waiting, res.Fenced, res.Finished, res.Segments})
	}
	say := r.Out.Say
	say("%s, %s in %s, of which nothing needs %s", term.Plural(int64(res.Snapshots), "snapshot"), term.Bytes(res.Bytes), term.Plural(int64(res.Packs), "pack"), term.Bytes(res.Unused))
	verb, copied := "removed", "were copied first"
	if dry {
		verb, copied = "would be removed", "would be copied first"
	}
	say("%s %s, %s", term.Plural(int64(res.Removed), "pack"), verb, term.Bytes(res.RemovedBytes))
	if res.Repacked > 0 {
		say("%s out of %s %s", term.Bytes(res.RepackedBytes), term.Plural(int64(res.Repacked), "pack"), copied)
	}
	for _, row := range []struct {
		n          int
		what, text string
	}{
		{res.Waiting, "session", "may still count on what was condemned: the next prune removes it when it has ended"},
		{res.Deferred, "pack", "kept until a date: a later prune tries again"},
		{res.Spared, "pack", "turned out to be needed meanwhile"},
		{res.Fenced, "session", "silent for an hour, ended"},
	} {
		if row.n > 0 {
			say("%s: %s", term.Plural(int64(row.n), row.what), row.text)
		}
	}
	return nil
}
