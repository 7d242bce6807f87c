package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/grammar"
	"packhold/cmd/packhold/internal/cli/secret"
	"packhold/cmd/packhold/internal/cli/serving"
	"packhold/cmd/packhold/internal/cli/term"
)

// app is one run of the program.
type app struct {
	env   *Env
	out   *output
	where string // what an error is about unless it says so itself: the command, later the repository
	flags config.Flags
	found *config.Settings // by settings
}

func newApp(e *Env, stop context.CancelCauseFunc) *app {
	screen := term.NewScreen(e.Stderr)
	screen.Terminal, screen.Width = e.Terminal, e.Width
	return &app{env: e, where: "packhold", out: &output{screen: screen, stdout: e.Stdout, stop: stop}}
}

// values gives a command's body the flags. *cli.Context is one; the body knows nothing else of the framework.
type values interface {
	IsSet(name string) bool
	String(name string) string
	Bool(name string) bool
	Int(name string) int
	StringSlice(name string) []string
}

// body carries a command out. args are what follows the flags; there are none unless the command has an ArgsUsage.
type body func(ctx context.Context, v values, args []string) error

// action makes a body the action of a command.
func (a *app) action(run body) cli.ActionFunc {
	return func(c *cli.Context) error {
		a.out.quiet, a.out.verbose = c.Bool("quiet"), c.Bool("verbose")
		a.out.json = c.Bool("json")
		a.flags = config.Flags{Config: c.String("config"), Repository: c.String("repo"), CacheDir: c.String("cache-dir"),
			LimitUpload: c.String("limit-upload"), LimitDownload: c.String("limit-download")}
		a.where = c.Command.HelpName
		return run(c.Context, c, c.Args().Slice())
	}
}

// commands are all commands, in the order of the help. A new one is a file of its own and a line here.
func (a *app) commands() []*cli.Command {
	return []*cli.Command{
		a.configSampleCommand(),
		a.configCommand(),
		a.initCommand(),
		a.backupCommand(),
		a.listCommand(),
		a.restoreCommand(),
		a.verifyCommand(),
		a.statsCommand(),
		a.keyCommand(),
		a.hostCommand(),
		a.serveCommand(),
		a.storageCommand(),
		a.versionCommand(),
		a.completionCommand(),
		a.completeCommand(),
	}
}

func (a *app) serveCommand() *cli.Command {
	c := serving.Command()
	c.Action = a.action(func(ctx context.Context, v values, args []string) error {
		return serving.Run(ctx, v, args, a.env.Stdin, a.env.Stdout)
	})
	return c
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
		Writer: a.out, ErrWriter: a.env.Stderr, Reader: a.env.Stdin,
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
	a.out.json = grammar.WantsJSON(args)
	line, err := grammar.Arrange(f, args)
	if err != nil {
		return err
	}
	switch {
	case line.Help:
		a.out.data(grammar.Help(f, line.Command, a.out.screen.Columns()))
		return nil
	case line.Command == nil:
		a.out.screen.Print(grammar.Help(f, nil, a.out.screen.Columns()))
		return fail.Usagef("command", "packhold help COMMAND", "no command is given")
	}
	return f.RunContext(ctx, line.Arguments())
}

// settings loads the configuration once.
func (a *app) settings() (*config.Settings, error) {
	if a.found == nil {
		s, err := config.Load(a.flags, a.env.Getenv)
		if err != nil {
			return nil, settingsError(err)
		}
		a.found = s
	}
	return a.found, nil
}

// settingsError gives an error of config.Load its place.
func settingsError(err error) error {
	if errors.Is(err, config.ErrNoHome) {
		return err // a rule knows it
	}
	f := &fail.Error{Code: fail.Usage, Word: "config.setting", Problem: err.Error(), Effect: "Nothing was done.", Cause: err,
		Next: "packhold config show"}
	var file *config.FileError
	var problem *config.Problem
	switch {
	case errors.As(err, &problem) && errors.As(err, &file):
		f.Word, f.Where = "config.syntax", fmt.Sprintf("%s:%d:%d", term.Name(file.Path), problem.Line, problem.Column)
		f.Problem = problem.Text
		if problem.Meant != "" {
			f.Problem += "; did you mean " + problem.Meant + "?"
		}
		f.Next = "correct the file, then: packhold config validate"
	case errors.As(err, &file):
		f.Word, f.Where, f.Problem = "config.file", term.Name(file.Path), "the configuration cannot be read: "+cause(file.Err)
		f.Next = "packhold config-sample writes a new one; or correct --config, PACKHOLD_CONFIG or the file's permissions"
	}
	return f
}

// cause returns the innermost text of a file system error: the operation and path are told elsewhere.
func cause(err error) string {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err.Error()
}

// finder looks for the passphrase in the variables that begin with name.
func (a *app) finder(name string) *secret.Finder {
	return &secret.Finder{Name: name, Getenv: a.env.Getenv, Ask: a.env.Ask, Stderr: a.env.Stderr}
}

// passphrase finds the passphrase of the repository.
func (a *app) passphrase(ctx context.Context) (secret.Passphrase, error) {
	return a.finder("PACKHOLD_PASSPHRASE").Find(ctx, "passphrase")
}

// newPassphrase finds the passphrase for a new key: of init by the name PACKHOLD_PASSPHRASE, of one that comes beside or
// after another by PACKHOLD_NEW_PASSPHRASE.
func (a *app) newPassphrase(ctx context.Context, name string) (secret.Passphrase, error) {
	return a.finder(name).FindNew(ctx, "passphrase", func(text string) { a.out.screen.Print(text) })
}
