// Package replicas is the commands that copy a repository to another place: replicate, export, import.
package replicas

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/locking"
	"packhold/cmd/packhold/internal/cli/place"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo"
	"packhold/repo/audit"
	"packhold/repo/replicate"
	"packhold/repo/snapshot"
)

// Command is the command, for a run of the program.
func Command(r *run.Run) *cli.Command {
	return &cli.Command{
		Name: "replicate", Usage: "copy the repository to another place, or from one",
		Description: "Packs are copied as they are and checked against their names; no file is opened, and no passphrase is needed. It takes the credential that " +
			"\"packhold host enroll --replicator\" makes. What the other place has already is not copied again, so an interrupted run goes on where it stopped. " +
			"The copy is a repository like its home: --repo PLACE works with every command, restore --from PLACE and verify --from PLACE too.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "copy the repository to `PLACE`, written like --repo", TakesFile: true},
			&cli.StringFlag{Name: "from", Usage: "copy `PLACE` to the repository: for a vault that fetches, so that nobody else need reach it", TakesFile: true},
			&cli.BoolFlag{Name: "mirror", Usage: "forget in the copy what its home forgot"},
			&cli.StringFlag{Name: "window", Usage: "reach out to the other place between two times of day only, as `02:00-03:00`"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be copied"},
		},
		Action: r.Action(func(ctx context.Context, v run.Values, _ []string) error { return (&command{r, v}).run(ctx) }),
	}
}

type command struct {
	*run.Run
	v run.Values
}

// counted shows the bytes of packs.
type counted struct{ c *progress.Counter }

func (p counted) Total(bytes int64) { p.c.Total(0, bytes) }
func (p counted) Done(bytes int64)  { p.c.Done(0, bytes) }

// ends are the two ends of a replication.
func (c *command) ends() (home, copied *run.Run, err error) {
	to, from := c.v.String("to"), c.v.String("from")
	switch {
	case to != "" && from != "":
		return nil, nil, fail.Usagef("replicate", "packhold help replicate", "--to and --from are both given: the other end is the repository")
	case to != "":
		return c.Run, c.At(to), nil
	case from != "":
		return c.At(from), c.Run, nil
	}
	return nil, nil, fail.Usagef("replicate", "packhold help replicate", "neither --to nor --from says where the copy is")
}

func (c *command) run(ctx context.Context) error {
	home, copied, err := c.ends()
	if err != nil {
		return err
	}
	now := c.Env.Now()
	o := replicate.Options{Mirror: c.v.Bool("mirror"), DryRun: c.v.Bool("dry-run"), Logs: audit.Files}
	word := c.v.String("window")
	var end time.Time
	if word != "" {
		if end, err = windowEnd(word, now.In(c.Env.Zone)); err != nil {
			return err
		}
		// No pack is begun so late that it could not end, and what was done is written down inside the window too.
		o.Until = end.Add(-min(end.Sub(now)/10, 30*time.Second))
		var stop context.CancelFunc
		ctx, stop = context.WithDeadlineCause(ctx, end, errWindow)
		defer stop()
	}
	src, err := home.OpenRepository(ctx, c.v, run.ReplicatorKey)
	if err != nil {
		return c.windowed(ctx, err)
	}
	defer src.Close()
	copied.CreateLocked = src.Keeper() != nil
	there, err := copied.Storage(ctx, !o.DryRun, true)
	if err != nil {
		if !o.DryRun || !errors.Is(err, repo.ErrNoRepository) {
			return c.windowed(ctx, err)
		}
		return fail.Usagef("replicate", "leave --dry-run out to make it", "there is nothing at %s yet: all of the repository would be copied", term.Name(copied.Where))
	}
	c.Where = copied.Where
	res, err := c.copy(ctx, src, copied, there, o)
	if err != nil {
		return c.windowed(ctx, err)
	}
	_ = src.SaveCache() // it costs time only
	what := did
	if o.DryRun {
		what = plan
	}
	return c.report(res, copied.Where, what)
}

// copy runs the replication and writes down what it did, in the copy.
func (c *command) copy(ctx context.Context, src *run.Repository, copied *run.Run, there *place.Place, o replicate.Options) (res *replicate.Result, err error) {
	var dst *run.Repository
	defer func() {
		if dst == nil {
			there.Close()
		} else {
			dst.Close()
		}
	}()
	o.Open = func(ctx context.Context) (*repo.Repo, error) {
		r, err := copied.OpenIn(ctx, c.v, there, run.ReplicatorKey)
		if err != nil {
			return nil, err
		}
		dst = r
		return r.Repo, nil
	}
	o.Journal = func(ctx context.Context, _ *repo.Repo) (repo.Journal, error) { return dst.Journal(ctx) }
	o.Body = func() *snapshot.Body {
		return &snapshot.Body{Hostname: run.HostName(), User: run.UserName(), Program: run.Program()}
	}
	start := c.Env.Now()
	counter := new(progress.Counter)
	o.Progress = counted{counter}
	err = c.Watch("copying", counter, func() error {
		var err error
		res, err = replicate.Run(ctx, src.Repo, there, o)
		return err
	})
	if dst == nil || o.DryRun {
		return res, err
	}
	if err == nil {
		err = locking.Keep(ctx, c.Run, dst) // the keys, and what was there before, too
	}
	_ = dst.SaveCache() // it costs time only
	e := run.OutcomeOf(err, len(res.Problems))
	e.Op, e.Object, e.Bytes, e.Duration = "replicate", src.Where(), uint64(res.Bytes), c.Env.Now().Sub(start)
	switch {
	case err != nil:
	case res.Stopped:
		e.Outcome, e.Reason = audit.Partial, "stopped at the end of its window"
	default:
		e.Reason = fmt.Sprintf("%d snapshots copied, %d missing", len(res.Snapshots), res.Missing)
	}
	if word := c.v.String("window"); word != "" {
		e.Reason = strings.TrimPrefix(e.Reason+"; window "+word, "; ")
	}
	return res, errors.Join(err, dst.Note(ctx, e))
}

func (c *command) report(res *replicate.Result, where string, what kind) error {
	for _, p := range res.Problems {
		c.Out.Warn(p.Object, "not copied: "+p.Err.Error())
	}
	for _, name := range res.Mended {
		c.Out.Warn(name, "damaged at the source; the copy is mended")
	}
	if res.KnownLost > 0 {
		c.Out.Warn("packs/", term.Plural(int64(res.KnownLost), "pack")+" that a verification found lost could not be copied")
	}
	if c.Out.JSON {
		type newest struct {
			ID    string    `json:"id"`
			Start time.Time `json:"start"`
		}
		line := struct {
			Place     string  `json:"place"`
			DryRun    bool    `json:"dry_run"`
			Snapshots int     `json:"snapshots"`
			Packs     int     `json:"packs"`
			Bytes     int64   `json:"bytes"`
			Found     int     `json:"packs_found"`
			Objects   int     `json:"objects"`
			Forgotten int     `json:"forgotten"`
			Mended    int     `json:"packs_mended"`
			Lost      int     `json:"packs_known_lost"`
			Problems  int     `json:"problems"`
			Missing   int     `json:"snapshots_missing"`
			Behind    float64 `json:"behind_seconds"`
			Stopped   bool    `json:"stopped"`
			Newest    *newest `json:"newest,omitempty"`
		}{where, what == plan, len(res.Snapshots), res.Packs, res.Bytes, res.Found, res.Objects, res.Forgotten, len(res.Mended), res.KnownLost, len(res.Problems), res.Missing, res.Behind.Seconds(), res.Stopped, nil}
		if res.Newest != nil {
			line.Newest = &newest{res.Newest.ID().String(), res.Newest.StartTime().UTC()}
		}
		if err := c.Out.Object(map[kind]string{did: "replicated", plan: "replicated", wrote: "exported"}[what], line); err != nil {
			return err
		}
	} else {
		c.Out.Say("%s", what.summary(res))
		if res.Found > 0 {
			c.Out.Say("%s had been copied before", term.Plural(int64(res.Found), "pack"))
		}
		if res.Forgotten > 0 {
			c.Out.Say("%s forgotten as at home", term.Plural(int64(res.Forgotten), "snapshot"))
		}
		c.Out.Say("%s", what.state(res, where, c.Env.Zone))
	}
	switch {
	case res.Stopped:
		return &fail.Error{Code: fail.Skipped, Word: "replicate.window", Problem: "the window ended before all was copied", Where: where,
			Effect: "The copied packs stay; no snapshot was added to the copy.", Next: "run it again in the next window: it goes on where it stopped"}
	case len(res.Problems)+len(res.Mended) > 0:
		return &fail.Error{Code: worst(res), Word: "replicate.damage", Problem: fmt.Sprintf("the source is damaged: %s mended on the way, %s could not be used", term.Plural(int64(len(res.Mended)), "pack"), term.Plural(int64(len(res.Problems)), "other object")),
			Where: where, Effect: what.damage(), Next: "packhold verify --read-data, at the source"}
	case res.KnownLost > 0:
		return &fail.Error{Code: fail.Skipped, Word: "replicate.lost", Problem: "packs that are lost at the source are lost in the copy too", Where: where,
			Effect: "Everything else was copied.", Next: "back up the files again: the next backup stores what is lost"}
	}
	return nil
}

// worst is the code for objects of the source that cannot be used.
func worst(res *replicate.Result) fail.Code {
	code := fail.Repairable
	for _, p := range res.Problems {
		if errors.Is(p.Err, repo.ErrTampered) {
			code = fail.Tampered
		}
	}
	return code
}

// lag says how far the copy is behind.
func lag(res *replicate.Result, where string, zone *time.Location) string {
	switch {
	case res.Newest == nil:
		return fmt.Sprintf("%s has no snapshot", term.Name(where))
	case res.Missing == 0:
		return fmt.Sprintf("%s has every snapshot, the newest of %s", term.Name(where), term.Time(res.Newest.StartTime(), zone))
	}
	return fmt.Sprintf("%s is %s behind: its newest is of %s", term.Name(where), term.Plural(int64(res.Missing), "snapshot"), term.Time(res.Newest.StartTime(), zone))
}

// errWindow is why a run ends at the end of its window.
var errWindow = errors.New("the window ended")

// windowed tells an error that the end of the window caused as what it is.
func (c *command) windowed(ctx context.Context, err error) error {
	if !errors.Is(context.Cause(ctx), errWindow) {
		return err
	}
	return &fail.Error{Code: fail.Skipped, Word: "replicate.window", Problem: "the window ended before all was copied", Where: c.Where, Cause: err,
		Effect: "The copied packs stay; no snapshot was added to the copy.", Next: "run it again in the next window: it goes on where it stopped"}
}

// windowEnd is when the window that now is in ends. Outside of it nothing may be reached.
func windowEnd(word string, now time.Time) (time.Time, error) {
	from, to, ok := strings.Cut(word, "-")
	a, err1 := time.Parse("15:04", from)
	b, err2 := time.Parse("15:04", to)
	if !ok || err1 != nil || err2 != nil || a.Equal(b) {
		return time.Time{}, fail.Usagef("window", "packhold help replicate", "--window %s is no pair of times such as 02:00-03:00", term.Name(word))
	}
	at := func(day int, t time.Time) time.Time {
		return time.Date(now.Year(), now.Month(), now.Day()+day, t.Hour(), t.Minute(), 0, 0, now.Location())
	}
	for _, day := range []int{-1, 0} { // one that began yesterday may last beyond midnight
		start, end := at(day, a), at(day, b)
		if b.Before(a) {
			end = at(day+1, b)
		}
		if !now.Before(start) && now.Before(end) {
			return end, nil
		}
	}
	return time.Time{}, &fail.Error{Code: fail.Usage, Word: "replicate.closed", Problem: "it is " + now.Format("15:04") + ", outside the window " + word, Where: "command line",
		Effect: "The other place was not reached, and nothing was changed.", Next: "run it between these times, from a timer"}
}
