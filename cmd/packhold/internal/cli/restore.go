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
	"packhold/cmd/packhold/internal/cli/owners"
	"packhold/cmd/packhold/internal/cli/pick"
	"packhold/cmd/packhold/internal/cli/pins"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/restored"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo"
	"packhold/repo/localfs"
	"packhold/repo/restore"
)

func (a *app) restoreCommand() *cli.Command {
	return &cli.Command{
		Name: "restore", Usage: "restore a snapshot",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "backup-id", Aliases: []string{"id"}, Value: "latest", Usage: "`SNAPSHOT`: a number, the beginning of an ID, or latest; with :/PATH behind it only what is there"},
			&cli.StringFlag{Name: "destination", Aliases: []string{"d", "target"}, Usage: "`DIR` that becomes the source (default ./restore-SNAPSHOT)", TakesFile: true},
			&cli.StringSliceFlag{Name: "include", Aliases: []string{"i"}, Usage: "restore only what matches `PATTERN`; may be repeated"},
			&cli.StringSliceFlag{Name: "exclude", Aliases: []string{"e"}, Usage: "leave out what matches `PATTERN`; may be repeated"},
			&cli.StringFlag{Name: "overwrite", Value: "always", Usage: "`WHEN` to replace existing files: always (what differs), if-changed (trust size and time), if-newer or never"},
			&cli.BoolFlag{Name: "in-place", Usage: "rewrite only the blocks that differ, in the existing files themselves; a crash leaves them mixed"},
			&cli.BoolFlag{Name: "delete", Usage: "remove what restored folders hold and the snapshot does not"},
			&cli.BoolFlag{Name: "delete-anywhere", Usage: "let --delete work in / and in home folders too"},
			&cli.BoolFlag{Name: "sparse", Usage: "make runs of zeros holes, also where there were none"},
			&cli.BoolFlag{Name: "full-path", Usage: "put everything below the destination under its full path"},
			&cli.BoolFlag{Name: "numeric-owner", Usage: "set owners by number, not by name"},
			&cli.BoolFlag{Name: "no-owner", Usage: "set no owners"},
			&cli.StringFlag{Name: "owner", Usage: "`USER[:GROUP]` that everything belongs to"},
			&cli.StringSliceFlag{Name: "map-user", Usage: "`OLD:NEW`: what belonged to one user belongs to another; may be repeated"},
			&cli.StringSliceFlag{Name: "map-group", Usage: "`OLD:NEW`, as --map-user; may be repeated"},
			&cli.BoolFlag{Name: "verify", Usage: "read everything that was restored again and compare"},
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would be done, and change nothing"},
			run.FromFlag(), run.KeyHintFlag(), run.KeyFileFlag(),
		},
		Action: a.Action(a.restore),
	}
}

func (a *app) restore(ctx context.Context, v run.Values, _ []string) error {
	o, err := a.restoreOptions(v)
	if err != nil {
		return err
	}
	a.UseReplica(v)
	a.Cached = true
	r, err := a.OpenRepository(ctx, v, run.ReaderKey)
	if err != nil {
		return err
	}
	defer r.Close()
	all, err := r.RecentSnapshots(ctx)
	if err != nil {
		return err
	}
	hidden := pins.Check(ctx, a.Run, r, all)
	word, path, _ := strings.Cut(v.String("backup-id"), ":")
	if word == "latest" {
		if err := r.UnreadSnapshots(); err != nil {
			return err
		}
	}
	snap, err := repo.FindSnapshot(all, word)
	if err != nil {
		return errors.Join(err, hidden)
	}
	if o.Path = path; path != "" && o.FullPath {
		if o.Include != nil {
			return fail.Usagef("options", "packhold help restore", "--full-path takes either a path behind the snapshot or --include")
		}
		o.Include, o.Descend = pick.Path(path)
		o.Path = ""
	}
	dst := v.String("destination")
	if dst == "" {
		dst = fmt.Sprintf("restore-%d", snap.Number)
		a.Out.Say("restoring snapshot %d to ./%s", snap.Number, dst)
	}
	if dst, err = filepath.Abs(dst); err != nil {
		return err
	}
	o.Forbidden = []string{a.Found.Repository.Path, a.Found.Folders.Cache, a.Found.Folders.Config, a.Found.Folders.State}
	if o.Delete {
		if err := a.mayDelete(r, snap, dst, v.Bool("delete-anywhere")); err != nil {
			return err
		}
		if o.Keep, err = pick.Kept(snap.Body); err != nil {
			return err
		}
	}
	o.Far = r.Store.Far
	c := new(progress.Counter)
	c.Total(int64(snap.Stats.Files+snap.Stats.Dirs+snap.Stats.Others), int64(snap.Stats.BytesTotal))
	o.Progress = restoreProgress{c, a.Out, o.DryRun}
	start := a.Env.Now()
	var res *restore.Result
	err = a.Watch("restoring", c, func() error {
		var err error
		res, err = restore.Run(ctx, r.Repo, snap, dst, *o)
		return err
	})
	took := a.Env.Now().Sub(start)
	var verdict, noted error
	if res != nil {
		a.restoreDetails(res)
		verdict = restored.Verdict(res, dst)
	}
	if !o.DryRun && res != nil {
		e := run.OutcomeOf(err, int(res.ProblemCount+res.LostCount+res.UnsafeCount+res.MismatchCount))
		e.Op, e.Snapshot, e.Bytes, e.Duration = "restore", snap.ID().String(), res.Bytes, took
		// Whoever read the bytes must be in the log, also when the restore failed or was interrupted.
		logging, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		noted = r.Note(logging, e)
		cancel()
	}
	if err != nil && !errors.Is(err, restore.ErrFull) {
		return errors.Join(err, verdict, noted, hidden)
	}
	if a.Out.JSON {
		if err := a.Out.Object("summary", restored.Object(o, res, dst, took)); err != nil {
			return err
		}
	}
	for _, line := range restored.Lines(o, res, took) {
		a.Out.Say("%s", line)
	}
	if verdict == nil && o.Include != nil && res.Files+res.Dirs+res.Symlinks+res.Links+res.Specials+res.Kept == 0 {
		return fail.Usagef("include", "packhold help restore", "nothing in snapshot %d matches --include", snap.Number)
	}
	return errors.Join(verdict, noted, hidden)
}

// mayDelete refuses to remove files where a mistake would hit everything, and for a snapshot that does not say all that it lacks.
func (a *app) mayDelete(r *run.Repository, snap *repo.Snapshot, dst string, anywhere bool) error {
	if snap.Body == nil {
		var err error
		if snap.Body, err = r.OpenBody(snap); err != nil {
			return err
		}
	}
	if snap.Body.SkippedMore > 0 {
		return fail.Usagef("delete", "restore without --delete", "snapshot %d lacks more items than it names, so that --delete might remove them", snap.Number)
	}
	if anywhere {
		return nil
	}
	for _, place := range []string{string(filepath.Separator), a.Env.Getenv("HOME"), a.Env.Getenv("USERPROFILE")} {
		if place == "" {
			continue
		}
		in, err := localfs.Within(place, []string{dst})
		if err != nil {
			return err
		}
		if in != "" {
			return fail.Usagef("delete", "packhold restore --delete --dry-run lists what would go; then add --delete-anywhere, or choose another destination",
				"--delete in %s would remove everything there that the snapshot does not hold", term.Name(in))
		}
	}
	return nil
}

func (a *app) restoreOptions(v run.Values) (*restore.Options, error) {
	o := &restore.Options{FullPath: v.Bool("full-path"), Verify: v.Bool("verify"), DryRun: v.Bool("dry-run"),
		InPlace: v.Bool("in-place"), Delete: v.Bool("delete"), Sparse: v.Bool("sparse"),
		Apply: localfs.ApplyOptions{Owners: new(localfs.Owners), NumericOwner: v.Bool("numeric-owner"), NoOwner: v.Bool("no-owner")}}
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
	var err error
	if o.Include, err = pick.Match(v.StringSlice("include")); err == nil {
		o.Exclude, err = pick.Match(v.StringSlice("exclude"))
	}
	if err != nil {
		return nil, fail.Usagef("pattern", "packhold help restore", "%v", err)
	}
	o.Descend = pick.Descend(v.StringSlice("include"))
	o.Owner, err = owners.Compile(owners.Rules{Owner: v.String("owner"), Users: v.StringSlice("map-user"), Groups: v.StringSlice("map-group"),
		Numeric: v.Bool("numeric-owner")})
	if err == nil && o.Owner != nil && o.Apply.NoOwner {
		err = errors.New("--no-owner contradicts --owner, --map-user and --map-group")
	}
	if err != nil {
		return nil, fail.Usagef("owner", "packhold help restore", "%v", err)
	}
	return o, nil
}

// restoreProgress counts for the screen and prints what goes wrong.
type restoreProgress struct {
	c   *progress.Counter
	out *run.Output
	dry bool
}

func (p restoreProgress) Done(entries, bytes int64) { p.c.Done(entries, bytes) }
func (p restoreProgress) Deleted(path string) {
	switch {
	case p.out.JSON:
		text, raw := term.RawName(path)
		p.out.Object("deleted", struct {
			Item string `json:"item"`
			Raw  string `json:"item_raw,omitempty"`
		}{text, raw}) // an error is kept by Write
	case p.dry:
		p.out.Say("to delete: %s", term.Name(path))
	default:
		p.out.Detail("deleted: %s", term.Name(path))
	}
}
func (p restoreProgress) Failed(path string, reason error) { p.c.Warn(path, reason.Error()) }
func (p restoreProgress) Verified(int64, int64)            {}
func (p restoreProgress) Mended(path string, reason error) {
	p.out.Warn(path, "damaged, and made good by another copy or by parity: "+reason.Error())
}

// restoreDetails names what is lost or differs.
func (a *app) restoreDetails(res *restore.Result) {
	for _, l := range res.Lost {
		for _, g := range l.Ranges {
			a.Out.Detail("%s: bytes %d to %d are lost: %v", term.Name(l.Path), g.Off, g.Off+g.N-1, l.Err)
		}
	}
	for _, m := range res.Mismatch {
		a.Out.Warn(m.Path, fmt.Sprintf("%s differs at %d: want %s, got %s", m.What, m.Off, m.Want, m.Got))
	}
}
