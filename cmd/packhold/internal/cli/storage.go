package cli

import (
	"context"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/place"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
)

func (a *app) storageCommand() *cli.Command {
	return &cli.Command{
		Name: "storage", Usage: "look at the place of the repository",
		Subcommands: []*cli.Command{
			{Name: "test", Usage: "find out what the place can do, with small files of its own", Action: a.Action(a.storageTest)},
		},
	}
}

func (a *app) storageTest(ctx context.Context, _ run.Values, _ []string) error {
	s, err := a.Settings()
	if err != nil {
		return err
	}
	a.Where = s.Repository.String()
	place.Forget(a.PlaceOptions(s), s.Repository) // what is remembered is tried anew
	st, err := a.Storage(ctx, false, false)
	if err != nil {
		return err
	}
	defer st.Close()
	list, err := place.Test(ctx, st, a.Env.Now)
	if err != nil {
		return err
	}
	t := &term.Table{Header: []string{"WHAT", "CAN", "DETAIL"}}
	lacking := 0
	for _, f := range list {
		if a.Out.JSON {
			if err := a.Out.Object("finding", struct {
				What   string `json:"what"`
				OK     bool   `json:"ok"`
				Needed bool   `json:"needed"`
				Detail string `json:"detail"`
			}{f.What, f.OK, f.Needed, f.Detail}); err != nil {
				return err
			}
		}
		if f.Needed && !f.OK {
			lacking++
		}
		detail := f.Detail
		if detail != "" {
			detail = term.Name(detail)
		}
		t.Rows = append(t.Rows, []string{f.What, map[bool]string{true: "yes", false: "no"}[f.OK], detail})
	}
	if !a.Out.JSON {
		if err := a.Out.Table(t); err != nil {
			return err
		}
	}
	if lacking > 0 {
		return &fail.Error{Code: fail.Usage, Word: "storage.unfit", Where: a.Where, Problem: "no repository can be kept here: " + term.Plural(int64(lacking), "ability") + " it needs is missing",
			Effect: "Nothing was changed.", Next: "choose another place; docs/storage.md says what one must be able to do"}
	}
	return nil
}
