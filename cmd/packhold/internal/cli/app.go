package cli

import (
	"context"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/catalogs"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/grammar"
	"packhold/cmd/packhold/internal/cli/keeping"
	"packhold/cmd/packhold/internal/cli/locking"
	"packhold/cmd/packhold/internal/cli/pins"
	"packhold/cmd/packhold/internal/cli/pruning"
	"packhold/cmd/packhold/internal/cli/replicas"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/serving"
)

// app is one run of the program, with its commands.
type app struct{ *run.Run }

func newApp(e *run.Env, stop context.CancelCauseFunc) *app { return &app{run.New(e, stop)} }

// commands are all commands, in the order of the help. A new one is a file of its own and a line here.
func (a *app) commands() []*cli.Command {
	return []*cli.Command{
		a.configSampleCommand(),
		a.configCommand(),
		a.initCommand(),
		a.backupCommand(),
		a.listCommand(),
		a.restoreCommand(),
		keeping.Forget(a.Run),
		keeping.Undelete(a.Run),
		keeping.Holds(a.Run),
		pruning.Command(a.Run),
		a.verifyCommand(),
		catalogs.Command(a.Run),
		pins.Command(a.Run),
		a.statsCommand(),
		a.keyCommand(),
		a.hostCommand(),
		replicas.Command(a.Run),
		replicas.ExportCommand(a.Run),
		replicas.ImportCommand(a.Run),
		serving.Command(a.Run),
		a.storageCommand(),
		locking.Command(a.Run),
		a.versionCommand(),
		a.completionCommand(),
		a.completeCommand(),
	}
}

// globalFlags may stand before or after the command.
func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "repo", Aliases: []string{"r"}, Usage: "repository: `PLACE` is a path, sftp://... or s3://... (PACKHOLD_REPOSITORY)", TakesFile: true},
		&cli.StringFlag{Name: "config", Usage: "configuration `FILE` (PACKHOLD_CONFIG)", TakesFile: true},
		&cli.StringFlag{Name: "cache-dir", Usage: "`FOLDER` for the cache (PACKHOLD_CACHE_DIR)", TakesFile: true},
		&cli.StringFlag{Name: "limit-upload", Usage: "send at most `RATE` bytes a second to the repository, as 2M"},
		&cli.StringFlag{Name: "limit-download", Usage: "take at most `RATE` bytes a second from it"},
		&cli.BoolFlag{Name: "json", Usage: "print JSON lines"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print data, warnings and errors only"},
		&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "print more of what is done"},
		&cli.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "print help"},
	}
}

// framework builds the framework's view of the program. Nothing of it prints, exits or reads the environment: help,
// completion, suggestions and errors are ours.
func (a *app) framework() *cli.App {
	usage := func(_ *cli.Context, err error, _ bool) error {
		return fail.Usagef("value", "packhold help", "%v", err)
	}
	f := &cli.App{
		Name: "packhold", HelpName: "packhold",
		Flags: globalFlags(), Commands: a.commands(),
		HideHelp: true, HideVersion: true, DisableSliceFlagSeparator: true,
		Writer: a.Out, ErrWriter: a.Env.Stderr, Reader: a.Env.Stdin,
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usage,
	}
	var prepare func(list []*cli.Command, parent string)
	prepare = func(list []*cli.Command, parent string) {
		for _, c := range list {
			c.HelpName = parent + " " + c.Name
			c.HideHelp = true
			c.OnUsageError = usage
			for _, flag := range c.Flags {
				if list, ok := flag.(*cli.StringSliceFlag); ok {
					list.KeepSpace = true // a path may begin or end with a space
				}
			}
			prepare(c.Subcommands, c.HelpName)
		}
	}
	prepare(f.Commands, "packhold")
	for _, c := range f.Commands {
		c.HelpName = c.Name // App.Setup puts the program's name before it
	}
	f.Setup()
	return f
}

func (a *app) run(ctx context.Context, args []string) error {
	f := a.framework()
	a.Out.JSON = grammar.WantsJSON(args)
	line, err := grammar.Arrange(f, args)
	if err != nil {
		return err
	}
	switch {
	case line.Help:
		a.Out.Data(grammar.Help(f, line.Command, a.Out.Screen.Columns()))
		return nil
	case line.Command == nil:
		a.Out.Screen.Print(grammar.Help(f, nil, a.Out.Screen.Columns()))
		return fail.Usagef("command", "packhold help COMMAND", "no command is given")
	}
	return f.RunContext(ctx, line.Arguments())
}
