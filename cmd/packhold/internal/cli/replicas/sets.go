package replicas

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo/audit"
	"packhold/repo/format"
	"packhold/repo/replicate"
)

// ExportCommand is the command export, for a run of the program.
func ExportCommand(r *run.Run) *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write what a replica lacks to a removable medium, as a signed set",
		Description: "For a vault that no network reaches: carry the medium there, run \"packhold import --from DIR\", and carry it back. Import leaves a receipt on " +
			"the medium, and the next export writes only what came after. Like replicate it takes the credential that \"packhold host enroll --replicator\" makes.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "`DIR` on the medium", TakesFile: true},
			&cli.BoolFlag{Name: "full", Usage: "write everything, whatever the receipts on the medium say"},
		},
		Action: r.Action(func(ctx context.Context, v run.Values, _ []string) error { return (&command{r, v}).export(ctx) }),
	}
}

// ImportCommand is the command import, for a run of the program.
func ImportCommand(r *run.Run) *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "take the sets of a removable medium into the repository",
		Description: "The repository is made if there is none. What is there already is not written again.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "`DIR` on the medium", TakesFile: true},
			&cli.BoolFlag{Name: "mirror", Usage: "forget what its home forgot"},
		},
		Action: r.Action(func(ctx context.Context, v run.Values, _ []string) error { return (&command{r, v}).bring(ctx) }),
	}
}

func (c *command) export(ctx context.Context) error {
	to := c.v.String("to")
	if to == "" {
		return fail.Usagef("export", "packhold export --to DIR", "--to does not say where the medium is")
	}
	src, err := c.OpenRepository(ctx, c.v, run.ReplicatorKey)
	if err != nil {
		return err
	}
	defer src.Close()
	medium := c.At(to)
	st, err := medium.Storage(ctx, true, true)
	if err != nil {
		return err
	}
	defer st.Close()
	c.Where = medium.Where
	counter := new(progress.Counter)
	var res *replicate.Result
	err = c.Watch("exporting", counter, func() error {
		var err error
		res, _, err = replicate.Export(ctx, src.Repo, st, replicate.Options{Logs: audit.Files, Progress: counted{counter}}, c.v.Bool("full"))
		return err
	})
	if err != nil {
		return err
	}
	_ = src.SaveCache() // it costs time only
	return c.report(res, medium.Where, wrote)
}

func (c *command) bring(ctx context.Context) error {
	from := c.v.String("from")
	if from == "" {
		return fail.Usagef("import", "packhold import --from DIR", "--from does not say where the medium is")
	}
	medium := c.At(from)
	src, err := medium.OpenRepository(ctx, c.v, run.ReplicatorKey)
	if err != nil {
		c.Where = medium.Where
		return err
	}
	defer src.Close()
	sets, problems, err := replicate.Sets(ctx, src.Repo)
	if err != nil {
		return err
	}
	if len(sets) == 0 && len(problems) == 0 {
		return &fail.Error{Code: fail.Usage, Word: "import.none", Problem: "there is no set here", Where: src.Where(), Effect: "Nothing was changed.", Next: "packhold export --to DIR, where the repository is"}
	}
	all := &replicate.Result{Problems: problems}
	for _, set := range sets {
		res, err := c.take(ctx, src, set)
		if err != nil {
			return err
		}
		add(all, res)
	}
	where := c.Where
	if err := c.receipt(ctx, src); err != nil {
		c.Out.Warn("receipt/", err.Error()+": the next export will write more than it had to")
	}
	return c.report(all, where, did)
}

// take takes one set in.
func (c *command) take(ctx context.Context, src *run.Repository, set *format.Set) (*replicate.Result, error) {
	there, err := c.Storage(ctx, true, true)
	if err != nil {
		return nil, err
	}
	return c.copy(ctx, src, c.Run, there, replicate.Options{Set: set, Mirror: c.v.Bool("mirror"), Logs: audit.Files})
}

// receipt leaves a receipt on the medium.
func (c *command) receipt(ctx context.Context, src *run.Repository) error {
	there, err := c.Storage(ctx, false, false)
	if err != nil {
		return err
	}
	dst, err := c.OpenIn(ctx, c.v, there, run.ReplicatorKey)
	if err != nil {
		return errors.Join(err, there.Close())
	}
	defer dst.Close()
	return replicate.WriteReceipt(ctx, dst.Repo, src.Storage())
}

// add sums up what the sets of a medium brought. How far the replica is behind the last of them says.
func add(all, res *replicate.Result) {
	all.Snapshots, all.Mended, all.Problems = append(all.Snapshots, res.Snapshots...), append(all.Mended, res.Mended...), append(all.Problems, res.Problems...)
	all.Packs, all.Bytes, all.Found, all.Objects, all.Forgotten = all.Packs+res.Packs, all.Bytes+res.Bytes, all.Found+res.Found, all.Objects+res.Objects, all.Forgotten+res.Forgotten
	all.Behind, all.Missing = res.Behind, res.Missing
	if res.Newest != nil {
		all.Newest = res.Newest
	}
}

// kind is what a report is about.
type kind int

const (
	did kind = iota
	plan
	wrote
)

// summary is the first line of a report.
func (k kind) summary(res *replicate.Result) string {
	word := [...]string{"copied", "to copy:", "exported"}[k]
	return fmt.Sprintf("%s %s in %s, %s", word, term.Plural(int64(len(res.Snapshots)), "snapshot"), term.Plural(int64(res.Packs), "pack"), term.Bytes(res.Bytes))
}

// state is its last: how far the copy is behind.
func (k kind) state(res *replicate.Result, where string, zone *time.Location) string {
	if k == wrote {
		return fmt.Sprintf("bring %s to the replica: packhold import --from DIR", term.Name(where))
	}
	return lag(res, where, zone)
}

// damage is the effect where the source is damaged.
func (k kind) damage() string {
	if k == wrote {
		return "The set has all snapshots. The source was not changed."
	}
	return "The copy has all snapshots. The source was not changed."
}
