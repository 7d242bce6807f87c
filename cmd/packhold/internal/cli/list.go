package cli

import (
	"context"
	"errors"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/listing"
	"packhold/cmd/packhold/internal/cli/pins"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
)

func (a *app) listCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Aliases: []string{"snapshots"}, Usage: "list the snapshots",
		Flags: append(listing.Flags(),
			&cli.IntFlag{Name: "last", Usage: "only the last `N`"},
			&cli.BoolFlag{Name: "unlock", Usage: "take the passphrase, to show what other hosts backed up too"},
			run.FromFlag(), run.KeyHintFlag(), run.KeyFileFlag()),
		Action: a.Action(a.list),
	}
}

func (a *app) list(ctx context.Context, v run.Values, _ []string) error {
	need := run.WriterKey
	if v.Bool("unlock") {
		need = run.ReaderKey
	}
	if err := listing.Check(v, "packhold help list"); err != nil {
		return err
	}
	a.UseReplica(v)
	a.Cached = true
	r, err := a.OpenRepository(ctx, v, need)
	if err != nil {
		return err
	}
	defer r.Close()
	all, err := r.RecentSnapshots(ctx)
	if err != nil {
		return err
	}
	rows := listing.Pick(r, all, v)
	if n := v.Int("last"); n > 0 && len(rows) > n {
		rows = rows[len(rows)-n:]
	}
	if err := a.rows(rows); err != nil {
		return err
	}
	unread := errors.Join(r.UnreadSnapshots(), pins.Check(ctx, a.Run, r, all))
	e := run.OutcomeOf(unread, 0)
	e.Op = "list"
	return errors.Join(unread, r.Note(ctx, e))
}

// rows prints the list.
func (a *app) rows(rows []listing.Row) error {
	if a.Out.JSON {
		for _, row := range rows {
			if err := a.Out.Object("snapshot", row.JSON()); err != nil {
				return err
			}
		}
		return nil
	}
	if len(rows) == 0 {
		a.Out.Say("there are no snapshots")
		return nil
	}
	table := make([]term.Snapshot, len(rows))
	for i, row := range rows {
		table[i] = row.Table()
	}
	return a.Out.Table(term.SnapshotTable(table, a.Env.Zone))
}
