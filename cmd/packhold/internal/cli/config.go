package cli

import (
	"context"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
)

func (a *app) configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "look at the configuration",
		Subcommands: []*cli.Command{
			{Name: "validate", Usage: "check the configuration file", ArgsUsage: "[FILE]", Action: a.Action(a.configValidate)},
			{Name: "show", Usage: "print the settings in force and where each comes from; secrets are masked", Action: a.Action(a.configShow)},
			{Name: "schema", Usage: "print the JSON Schema of the configuration file", Action: a.Action(a.configSchema)},
		},
	}
}

func (a *app) configValidate(_ context.Context, _ run.Values, args []string) error {
	if len(args) > 1 {
		return tooMany(a.Where, args[1])
	}
	if len(args) == 1 {
		a.Flags.Config = args[0]
	}
	s, err := a.Settings()
	if err != nil {
		return err
	}
	switch {
	case a.Out.JSON:
		line := struct {
			Path string `json:"path"` // empty if there is none
			Raw  string `json:"path_raw,omitempty"`
			Jobs int    `json:"jobs"`
		}{Jobs: len(s.File.Jobs)}
		line.Path, line.Raw = term.RawName(s.Path)
		return a.Out.Object("config_valid", line)
	case s.Path == "":
		a.Out.Say("there is no configuration file: the defaults are in force")
	default:
		a.Out.Say("%s is valid, with %s", term.Name(s.Path), term.Plural(int64(len(s.File.Jobs)), "job"))
	}
	return nil
}

func (a *app) configShow(_ context.Context, _ run.Values, _ []string) error {
	s, err := a.Settings()
	if err != nil {
		return err
	}
	t := &term.Table{Header: []string{"SETTING", "VALUE", "ORIGIN"}}
	for _, e := range s.Entries(a.Env.Getenv) {
		if a.Out.JSON {
			line := struct {
				Name   string `json:"name"`
				Value  string `json:"value"`
				Raw    string `json:"value_raw,omitempty"`
				Origin string `json:"origin"`
			}{Name: e.Name, Origin: string(e.Origin)}
			line.Value, line.Raw = term.RawName(e.Value)
			if err := a.Out.Object("setting", line); err != nil {
				return err
			}
			continue
		}
		shown := "-"
		if e.Value != "" {
			shown = term.Name(e.Value)
		}
		t.Rows = append(t.Rows, []string{e.Name, shown, string(e.Origin)})
	}
	if a.Out.JSON {
		return nil
	}
	return a.Out.Table(t)
}

func (a *app) configSchema(context.Context, run.Values, []string) error {
	a.Out.Data(config.Schema())
	return nil
}
