package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/localfs"
	"packhold/repo/restore"
)

func (a *app) restoreCommand() *cli.Command {
	return &cli.Command{
		Name: "restore", Usage: "restore a snapshot",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "backup-id", Aliases: []string{"id"}, Value: "latest", Usage: "`SNAPSHOT`: a number, the beginning of an ID, or latest"},
			&cli.StringFlag{Name: "destination", Aliases: []string{"d", "target"}, Usage: "`DIR` that becomes the source (default ./restore-SNAPSHOT)", TakesFile: true},
			&cli.StringSliceFlag{Name: "include", Usage: "restore only what matches `PATTERN`; may be repeated"},
			&cli.StringSliceFlag{Name: "exclude", Aliases: []string{"e"}, Usage: "leave out what matches `PATTERN`; may be repeated"},
			&cli.StringFlag{Name: "overwrite", Value: "always", Usage: "`WHEN` to replace existing files: always, if-changed, if-newer or never"},
			&cli.BoolFlag{Name: "full-path", Usage: "put everything below the destination under its full path"},
			&cli.BoolFlag{Name: "numeric-owner", Usage: "set owners by number, not by name"},
			&cli.BoolFlag{Name: "verify", Usage: "read everything that was restored again and compare"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would be done, and change nothing"},
			keyHintFlag(), keyFileFlag(),
		},
		Action: a.action(a.restore),
	}
}

func (a *app) restore(ctx context.Context, v values, _ []string) error {
	o, err := a.restoreOptions(v)
	if err != nil {
		return err
	}
	r, err := a.openRepository(ctx, v, readerKey)
	if err != nil {
		return err
	}
	defer r.close()
	all, err := r.Snapshots(ctx)
	if err != nil {
		return err
	}
	snap, err := repo.FindSnapshot(all, v.String("backup-id"))
	if err != nil {
		return err
	}
	dst := v.String("destination")
	if dst == "" {
		dst = fmt.Sprintf("restore-%d", snap.Number)
		a.out.say("restoring snapshot %d to ./%s", snap.Number, dst)
	}
	if dst, err = filepath.Abs(dst); err != nil {
		return err
	}
	o.Forbidden = []string{a.found.Repository.Path, a.found.Folders.Cache, a.found.Folders.Config, a.found.Folders.State}
	c := new(progress.Counter)
	c.Total(int64(snap.Stats.Files+snap.Stats.Dirs+snap.Stats.Others), int64(snap.Stats.BytesTotal))
	o.Progress = restoreProgress{c, a.out}
	start := a.env.Now()
	var res *restore.Result
	err = a.watch("restoring", c, func() error {
		var err error
		res, err = restore.Run(ctx, r.Repo, snap, dst, *o)
		return err
	})
	took := a.env.Now().Sub(start)
	var verdict error
	if res != nil {
		verdict = a.restoreVerdict(res, dst)
	}
	if !o.DryRun && res != nil {
		e := outcomeOf(err, int(res.ProblemCount+res.LostCount+res.UnsafeCount+res.MismatchCount))
		e.Op, e.Snapshot, e.Bytes, e.Duration = "restore", snap.ID().String(), res.Bytes, took
		// Whoever read the bytes must be in the log, also when the restore failed or was interrupted.
		noted, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		rerr := r.record(noted, e)
		cancel()
		if err == nil && verdict == nil {
			err = rerr
		}
	}
	if err != nil {
		return errors.Join(err, verdict)
	}
	if err := a.restoreSummary(o, res, dst, took); err != nil {
		return err
	}
	return verdict
}

func (a *app) restoreOptions(v values) (*restore.Options, error) {
	o := &restore.Options{FullPath: v.Bool("full-path"), Verify: v.Bool("verify"), DryRun: v.Bool("dry-run"),
		Apply: localfs.ApplyOptions{Owners: new(localfs.Owners), NumericOwner: v.Bool("numeric-owner")}}
	switch w := v.String("overwrite"); w {
	case "always":
		o.Overwrite = restore.Always
	case "if-changed":
		o.Overwrite = restore.IfChanged
	case "if-newer":
		o.Overwrite = restore.IfNewer
	case "never":
		o.Overwrite = restore.Never
	default:
		return nil, fail.Usagef("overwrite", "packhold help restore", "%s is none of always, if-changed, if-newer, never", term.Name(w))
	}
	patterns := func(list []string) (restore.Match, error) {
		if len(list) == 0 {
			return nil, nil
		}
		x, err := backup.NewExcludes(list)
		if err != nil {
			return nil, fail.Usagef("pattern", "packhold help restore", "%v", err)
		}
		return x.Match, nil
	}
	var err error
	if o.Include, err = patterns(v.StringSlice("include")); err != nil {
		return nil, err
	}
	if o.Exclude, err = patterns(v.StringSlice("exclude")); err != nil {
		return nil, err
	}
	o.Descend = descend(v.StringSlice("include"))
	return o, nil
}

// descend says which directories can hold what the patterns pick: known only where all are plain absolute paths.
func descend(patterns []string) func(dir string) bool {
	if len(patterns) == 0 {
		return nil
	}
	for _, p := range patterns {
		if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, `*?[{\`) {
			return nil
		}
	}
	return func(dir string) bool {
		for _, p := range patterns {
			if strings.HasPrefix(filepath.ToSlash(filepath.Clean(p))+"/", strings.TrimSuffix(dir, "/")+"/") {
				return true
			}
		}
		return false
	}
}

// restoreProgress counts for the screen and prints what goes wrong.
type restoreProgress struct {
	c   *progress.Counter
	out *output
}

func (p restoreProgress) Done(entries, bytes int64)        { p.c.Done(entries, bytes) }
func (p restoreProgress) Deleted(path string)              { p.out.detail("deleted: %s", term.Name(path)) }
func (p restoreProgress) Failed(path string, reason error) { p.c.Warn(path, reason.Error()) }
func (p restoreProgress) Verified(int64, int64)            {}
func (p restoreProgress) Mended(path string, reason error) {
	p.out.warn(path, "damaged, and made good by another copy or by parity: "+reason.Error())
}

// restoreVerdict turns what is not as it should be into the exit code.
func (a *app) restoreVerdict(res *restore.Result, dst string) error {
	where := term.Name(dst)
	plural := func(n uint64, what string) string { return term.Plural(int64(n), what) }
	var errs []error
	add := func(code fail.Code, word, problem, effect, next string) {
		errs = append(errs, &fail.Error{Code: code, Word: word, Problem: problem, Where: where, Effect: effect, Next: next})
	}
	if res.LostCount > 0 {
		for _, l := range res.Lost {
			for _, g := range l.Ranges {
				a.out.detail("%s: bytes %d to %d are lost: %v", term.Name(l.Path), g.Off, g.Off+g.N-1, l.Err)
			}
		}
		add(fail.Lost, "damage.lost", plural(res.LostCount, "item")+" of the snapshot cannot be restored", "They are not in the destination; everything else is.",
			"packhold verify --read-data; then back up the files again, or restore the packs from a copy of the repository")
	}
	if res.MismatchCount > 0 {
		for _, m := range res.Mismatch {
			a.out.warn(m.Path, fmt.Sprintf("%s differs at %d: want %s, got %s", m.What, m.Off, m.Want, m.Got))
		}
		add(fail.Differs, "restore.differs", plural(res.MismatchCount, "difference")+" between what was restored and what was read again",
			"The files listed are not as in the snapshot.", "check the destination's disk and whether somebody writes there; restore again")
	}
	if res.UnsafeCount > 0 {
		add(fail.UnsafePaths, "restore.unsafe", plural(res.UnsafeCount, "unsafe path")+" refused", "What is listed was left out; everything else is restored.",
			"restore into an empty folder that only you can write to; if it is so already, distrust the snapshot")
	}
	if res.ProblemCount > 0 {
		add(fail.Skipped, "restore.partial", plural(res.ProblemCount, "item")+" could not be restored completely", "Everything else is restored.",
			"see the list above; owners, devices and attributes need root")
	}
	if res.Mended > 0 {
		add(fail.Repairable, "damage.mended", plural(res.Mended, "damaged blob")+" of the repository made good for this restore",
			"Everything was restored. The repository is still damaged.", "packhold verify --read-data")
	}
	return errors.Join(errs...)
}

func (a *app) restoreSummary(o *restore.Options, res *restore.Result, dst string, took time.Duration) error {
	if a.out.json {
		text, raw := term.RawName(dst)
		return a.out.object("summary", struct {
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
			Privileged  uint64  `json:"privileged"`
			Fetched     uint64  `json:"bytes_fetched"`
			Lost        uint64  `json:"lost"`
			Problems    uint64  `json:"problems"`
			Unsafe      uint64  `json:"unsafe"`
			Mismatch    uint64  `json:"mismatches"`
			Verified    uint64  `json:"verified"`
			Seconds     float64 `json:"seconds"`
		}{o.DryRun, text, raw, res.Files, res.Dirs, res.Symlinks, res.Links, res.Specials, res.Bytes, res.Kept, res.Privileged, res.Fetched,
			res.LostCount, res.ProblemCount, res.UnsafeCount, res.MismatchCount, res.Verified, took.Seconds()})
	}
	verb := "restored"
	if o.DryRun {
		verb = "to restore"
	}
	a.out.say("%s: %s, %s, %s, %s, %s in %s", verb, term.Plural(int64(res.Files), "file"), term.Plural(int64(res.Dirs), "folder"),
		term.Plural(int64(res.Symlinks+res.Links), "link"), term.Plural(int64(res.Specials), "special file"), term.Bytes(int64(res.Bytes)), term.Duration(took))
	if res.Kept > 0 {
		a.out.say("kept as they were: %s", term.Plural(int64(res.Kept), "item"))
	}
	if res.Privileged > 0 && !o.DryRun {
		a.out.say("with privileges (set-id, devices, capabilities): %s", term.Plural(int64(res.Privileged), "file"))
	}
	if o.Verify && res.MismatchCount == 0 && !o.DryRun {
		a.out.say("verified: %s read again, all equal", term.Plural(int64(res.Verified), "item"))
	}
	return nil
}
