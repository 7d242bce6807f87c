package keeping

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/listing"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/gc"
)

// Undelete is the command undelete, for a run of the program.
func Undelete(r *run.Run) *cli.Command {
	k := keeping{r}
	return &cli.Command{
		Name: "undelete", Usage: "bring forgotten snapshots back, as long as their data is there", ArgsUsage: "[SNAPSHOT...]",
		Description: "Each comes back as a new snapshot with the same files, and a number of its own.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "list", Usage: "list the forgotten snapshots"},
			run.KeyHintFlag(), run.KeyFileFlag(),
		},
		Action: k.Action(k.undelete),
	}
}

func (k keeping) undelete(ctx context.Context, v run.Values, args []string) error {
	need := run.ReaderKey
	switch {
	case v.Bool("list") && len(args) > 0:
		return fail.Usagef("argument", "packhold help undelete", "--list takes no snapshots")
	case v.Bool("list"):
		need = run.AnyKey
	case len(args) == 0:
		return fail.Usagef("argument", "packhold undelete --list", "it needs the snapshots to bring back")
	}
	r, err := k.OpenRepository(ctx, v, need)
	if err != nil {
		return err
	}
	defer r.Close()
	gone, err := gc.ReadForgotten(ctx, r.Repo)
	if err != nil {
		return err
	}
	if v.Bool("list") {
		if err := k.forgottenRows(r, gone); err != nil {
			return err
		}
		e := run.OutcomeOf(nil, 0)
		e.Op = "undelete"
		return r.Note(ctx, e)
	}
	all := make([]*repo.Snapshot, len(gone))
	for i, f := range gone {
		all[i] = f.Snapshot
	}
	var list []*gc.Forgotten
	for _, word := range args {
		s, err := repo.FindSnapshot(all, word)
		if err != nil {
			return err
		}
		for _, f := range gone {
			if f.Snapshot == s {
				list = append(list, f)
			}
		}
	}
	j, err := r.Journal(ctx)
	if err != nil {
		return err
	}
	for _, f := range list {
		var back *repo.Snapshot
		err := k.audited(ctx, r, "undelete", []*repo.Snapshot{f.Snapshot}, "", func() (err error) {
			back, err = gc.Undelete(ctx, r.Repo, f, j)
			return err
		})
		if err != nil {
			return err
		}
		if err := r.KeepBody(back); err != nil {
			k.Out.Warn("cache", err.Error())
		}
		if k.Out.JSON {
			if err := k.Out.Object("snapshot", listing.RowOf(r, back).JSON()); err != nil {
				return err
			}
			continue
		}
		k.Out.Say("snapshot %d is back as %d, %v", f.Number, back.Number, back.ID())
	}
	return nil
}

// forgottenRows prints the forgotten snapshots.
func (k keeping) forgottenRows(r *run.Repository, gone []*gc.Forgotten) error {
	t := &term.Table{Header: []string{"NUMBER", "ID", "HOST", "TYPE", "TIME", "FORGOTTEN", "BY", "WHY"}, Right: []int{0}}
	for _, f := range gone {
		row := listing.RowOf(r, f.Snapshot)
		by := "root"
		if f.By != (crypt.HostID{}) {
			by = r.HostName(f.By)
		}
		if k.Out.JSON {
			if err := k.Out.Object("forgotten_snapshot", struct {
				listing.JSON
				Forgotten time.Time `json:"forgotten_at"`
				By        string    `json:"forgotten_by"`
				Reason    string    `json:"reason,omitempty"`
			}{row.JSON(), f.When, by, f.Reason}); err != nil {
				return err
			}
			continue
		}
		t.Rows = append(t.Rows, []string{term.Count(int64(f.Number)), f.ID().String(), term.Name(row.Host), listing.TypeName(f.Type), term.Time(f.StartTime(), k.Env.Zone),
			term.Time(f.When, k.Env.Zone), term.Name(by), f.Reason})
	}
	switch {
	case k.Out.JSON:
		return nil
	case len(gone) == 0:
		k.Out.Say("no snapshot was forgotten")
		return nil
	}
	return k.Out.Table(t)
}
