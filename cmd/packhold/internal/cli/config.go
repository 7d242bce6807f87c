package cli

import (
	"context"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/term"
)

func (a *app) configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "look at the configuration",
		Subcommands: []*cli.Command{
			{Name: "validate", Usage: "check the configuration file", ArgsUsage: "[FILE]", Action: a.action(a.configValidate)},
			{Name: "show", Usage: "print the settings in force and where each comes from; secrets are masked", Action: a.action(a.configShow)},
			{Name: "schema", Usage: "print the JSON Schema of the configuration file", Action: a.action(a.configSchema)},
		},
	}
}

func (a *app) configValidate(_ context.Context, _ values, args []string) error {
	if len(args) > 1 {
		return tooMany(a.where, args[1])
	}
	if len(args) == 1 {
		a.flags.Config = args[0]
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	switch {
	case a.out.json:
		line := struct {
			Path string `json:"path"` // empty if there is none
			Raw  string `json:"path_raw,omitempty"`
			Jobs int    `json:"jobs"`
		}{Jobs: len(s.File.Jobs)}
		line.Path, line.Raw = term.RawName(s.Path)
		return a.out.object("config_valid", line)
	case s.Path == "":
		a.out.say("there is no configuration file: the defaults are in force")
	default:
		a.out.say("%s is valid, with %s", term.Name(s.Path), term.Plural(int64(len(s.File.Jobs)), "job"))
	}
	return nil
}

func (a *app) configShow(_ context.Context, _ values, _ []string) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	t := &term.Table{Header: []string{"SETTING", "VALUE", "ORIGIN"}}
	for _, e := range s.Entries(a.env.Getenv) {
		if a.out.json {
			line := struct {
				Name   string `json:"name"`
				Value  string `json:"value"`
				Raw    string `json:"value_raw,omitempty"`
				Origin string `json:"origin"`
			}{Name: e.Name, Origin: string(e.Origin)}
			line.Value, line.Raw = term.RawName(e.Value)
			if err := a.out.object("setting", line); err != nil {
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
	if a.out.json {
		return nil
	}
	return a.out.table(t)
}

func (a *app) configSchema(context.Context, values, []string) error {
	a.out.data(config.Schema())
	return nil
}
