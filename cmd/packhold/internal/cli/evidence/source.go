// Package evidence is what proves that backups are good beyond what the repository says of itself.
package evidence

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/check"
)

// counted counts bytes for the screen. The total grows while the tree is walked.
type counted struct{ c *progress.Counter }

func (p counted) Total(int64)      {}
func (p counted) Done(bytes int64) { p.c.Done(0, bytes) }

// sourceSummary is the outcome in JSON.
type sourceSummary struct {
	Snapshots  int    `json:"snapshots"`
	Files      uint64 `json:"files"`
	Bytes      uint64 `json:"bytes_read"`
	Changed    int    `json:"changed"`
	Gone       int    `json:"gone"`
	Unreadable int    `json:"unreadable"`
	Rotten     int    `json:"rotten"`
	More       int    `json:"more,omitempty"` // differences that were not listed
}

// AgainstSource compares the files of this host with the newest snapshot of each of its sets of sources, or with those that words name.
func AgainstSource(ctx context.Context, a *run.Run, v run.Values, words []string) error {
	o := check.SourceOptions{Pick: maphash.String(maphash.MakeSeed(), "")}
	if s := v.String("sample"); s != "" {
		share, err := term.ParsePercent(s)
		if err != nil || share <= 0 {
			return fail.Usagef("sample", "packhold verify --against-source --sample 1%", "%s is no share of the files", term.Name(s))
		}
		o.Sample = share
	}
	r, err := a.OpenRepository(ctx, v, run.AnyKey) // this host's copy of the tree needs no passphrase, but it may be lost
	if err != nil {
		return err
	}
	defer r.Close()
	snaps, err := sources(ctx, r, words)
	if err != nil {
		return err
	}
	if r.CanRead() {
		if err := r.LoadIndex(ctx); err != nil {
			return err
		}
	}
	c := new(progress.Counter)
	o.Progress = counted{c}
	start := a.Env.Now()
	var sum sourceSummary
	for _, s := range snaps {
		if err := compareOne(ctx, a, r, s, o, c, &sum); err != nil {
			return err
		}
	}
	if a.Out.JSON {
		if err := a.Out.Object("summary", sum); err != nil {
			return err
		}
	}
	a.Out.Say("compared with %s: %s, %s read; %d changed, %d gone, %d unreadable, %d rotten", term.Plural(int64(sum.Snapshots), "snapshot"), term.Plural(int64(sum.Files), "file"),
		term.Bytes(int64(sum.Bytes)), sum.Changed, sum.Gone, sum.Unreadable, sum.Rotten)
	verdict := sourceVerdict(&sum)
	e := run.OutcomeOf(verdict, 0)
	e.Op, e.Bytes, e.Duration = "verify-source", sum.Bytes, a.Env.Now().Sub(start)
	return errors.Join(verdict, r.Note(ctx, e))
}

// sources finds the snapshots to compare with.
func sources(ctx context.Context, r *run.Repository, words []string) (snaps []*repo.Snapshot, err error) {
	all, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	if r.Keys().Local == nil {
		return nil, fail.Usagef("source", "packhold host enroll", "this machine is no host of the repository: it has no source to compare")
	}
	own := func(s *repo.Snapshot) bool {
		return crypt.HostID(s.Host) == r.Credential.Identity.Host && s.Origin == nil
	}
	for _, word := range words {
		s, err := repo.FindSnapshot(all, word)
		if err != nil {
			return nil, err
		}
		if !own(s) {
			return nil, fail.Usagef("snapshot", "packhold list", "snapshot %d is of another host", s.Number)
		}
		snaps = append(snaps, s)
	}
	if len(words) == 0 {
		newest := make(map[[32]byte]*repo.Snapshot)
		for _, s := range all {
			if own(s) {
				newest[s.Lineage] = s
			}
		}
		for _, s := range all {
			if newest[s.Lineage] == s {
				snaps = append(snaps, s)
			}
		}
	}
	if len(snaps) == 0 {
		return nil, fmt.Errorf("finding snapshots of this host: %w", repo.ErrNoSnapshot)
	}
	return snaps, nil
}

func compareOne(ctx context.Context, a *run.Run, r *run.Repository, s *repo.Snapshot, o check.SourceOptions, c *progress.Counter, sum *sourceSummary) error {
	body := r.BodyOf(s)
	if body == nil {
		return fmt.Errorf("opening snapshot %d, of which this machine kept no copy: %w", s.Number, repo.ErrNeedRead)
	}
	if o.Sources = body.Sources; len(o.Sources) == 0 {
		return nil // it came from a program
	}
	pages, done, err := backup.Pages(r.Repo, r.CacheDir, s)
	if err != nil {
		return err
	}
	defer done()
	o.Pages = pages
	var rep *check.SourceReport
	err = a.Watch("comparing", c, func() error {
		var err error
		rep, err = check.Source(ctx, s, o)
		return err
	})
	if err != nil {
		return err
	}
	sum.Snapshots++
	sum.Files, sum.Bytes, sum.More = sum.Files+rep.Files, sum.Bytes+rep.Bytes, sum.More+rep.More
	sum.Changed, sum.Gone = sum.Changed+rep.Counts[check.Changed], sum.Gone+rep.Counts[check.Gone]
	sum.Unreadable, sum.Rotten = sum.Unreadable+rep.Counts[check.Unreadable], sum.Rotten+rep.Counts[check.Rotten]
	for _, d := range rep.Differences {
		if err := tell(a, s, &d); err != nil {
			return err
		}
	}
	return nil
}

// tell prints one difference. It is what was asked for: data.
func tell(a *run.Run, s *repo.Snapshot, d *check.Difference) error {
	if a.Out.JSON {
		text, raw := term.RawName(d.Path)
		return a.Out.Object("difference", struct {
			Snapshot string `json:"snapshot"`
			Path     string `json:"path"`
			Raw      string `json:"path_raw,omitempty"`
			Change   string `json:"change"`
			What     string `json:"what"`
			Offset   int64  `json:"offset,omitempty"`
			Length   int64  `json:"length,omitempty"`
		}{s.ID().String(), text, raw, string(d.Change), d.What, d.Off, d.N})
	}
	a.Out.Data(fmt.Sprintf("%-10s  %s  (%s)\n", d.Change, term.Name(d.Path), term.Clean(d.What)))
	return nil
}

// sourceVerdict turns what was found into the exit code. That files change is what backups are for.
func sourceVerdict(sum *sourceSummary) error {
	var errs []error
	if sum.Rotten > 0 {
		errs = append(errs, &fail.Error{Code: fail.Differs, Word: "source.rot", Problem: term.Plural(int64(sum.Rotten), "file") + " of the source changed, and nothing tells that anybody wrote there",
			Where: "the files listed as rotten", Effect: "The snapshot has their bytes as they were. Incremental backups keep those, a full one would store what is there now. Nothing was changed.",
			Next: "check disk and memory of this machine; then packhold restore --in-place --include PATH --destination /"})
	}
	if sum.Unreadable > 0 {
		errs = append(errs, &fail.Error{Code: fail.Skipped, Word: "source.unreadable", Problem: term.Plural(int64(sum.Unreadable), "item") + " of the source cannot be read",
			Where: "the files listed as unreadable", Effect: "They were not compared. Nothing was changed.", Next: "mend permissions or disk, then run the same command again"})
	}
	return errors.Join(errs...)
}
