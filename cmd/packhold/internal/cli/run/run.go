// Package run is one run of the program: what it has from the system, the settings, where it prints, and the repository it opens.
package run

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/secret"
	"packhold/cmd/packhold/internal/cli/term"
)

// Run is one run of the program.
type Run struct {
	Env    *Env
	Out    *Output
	Where  string // what an error is about unless it says so itself: the command, later the repository
	Flags  config.Flags
	copied bool             // the repository is a replica: logs there are copies
	Found  *config.Settings // by settings

	CreateLocked bool // a bucket that Storage makes gets object lock, which it cannot have later
	// Cached says that the command may read small objects named by their hash from a folder of this machine. Who has to know what the storage holds does not.
	Cached bool
}

// New begins a run; stop ends its context with a cause.
func New(e *Env, stop context.CancelCauseFunc) *Run {
	screen := term.NewScreen(e.Stderr)
	screen.Terminal, screen.Width = e.Terminal, e.Width
	return &Run{Env: e, Where: "packhold", Out: &Output{Screen: screen, stdout: e.Stdout, stop: stop}}
}

// Values gives a command's body the flags. *cli.Context is one; the body knows nothing else of the framework.
type Values interface {
	IsSet(name string) bool
	String(name string) string
	Bool(name string) bool
	Int(name string) int
	StringSlice(name string) []string
}

// Body carries a command out. args are what follows the flags; there are none unless the command has an ArgsUsage.
type Body func(ctx context.Context, v Values, args []string) error

// Action makes a body the action of a command.
func (a *Run) Action(run Body) cli.ActionFunc {
	return func(c *cli.Context) error {
		a.Out.Quiet, a.Out.Verbose = c.Bool("quiet"), c.Bool("verbose")
		a.Out.JSON = c.Bool("json")
		a.Flags = config.Flags{Config: c.String("config"), Repository: c.String("repo"), CacheDir: c.String("cache-dir"),
			LimitUpload: c.String("limit-upload"), LimitDownload: c.String("limit-download")}
		a.Where = c.Command.HelpName
		return run(c.Context, c, c.Args().Slice())
	}
}

// Settings loads the configuration once.
func (a *Run) Settings() (*config.Settings, error) {
	if a.Found == nil {
		s, err := config.Load(a.Flags, a.Env.Getenv)
		if err != nil {
			return nil, SettingsError(err)
		}
		a.Found = s
	}
	return a.Found, nil
}

// SettingsError gives an error of config.Load its place.
func SettingsError(err error) error {
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
func (a *Run) finder(name string) *secret.Finder {
	return &secret.Finder{Name: name, Getenv: a.Env.Getenv, Ask: a.Env.Ask, Stderr: a.Env.Stderr}
}

// Passphrase finds the passphrase of the repository.
func (a *Run) Passphrase(ctx context.Context) (secret.Passphrase, error) {
	return a.finder("PACKHOLD_PASSPHRASE").Find(ctx, "passphrase")
}

// NewPassphrase finds the passphrase for a new key: of init by the name PACKHOLD_PASSPHRASE, of one that comes beside or
// after another by PACKHOLD_NEW_PASSPHRASE.
func (a *Run) NewPassphrase(ctx context.Context, name string) (secret.Passphrase, error) {
	return a.finder(name).FindNew(ctx, "passphrase", func(text string) { a.Out.Screen.Print(text) })
}

// FromFlag is for commands that can work on a replica in place of the repository; they call UseReplica first.
func FromFlag() cli.Flag {
	return &cli.StringFlag{Name: "from", Usage: "use the replica at `PLACE`, written like --repo", TakesFile: true}
}

// UseReplica makes the place that --from names the repository of this run.
func (a *Run) UseReplica(v Values) {
	if from := v.String("from"); from != "" {
		a.Flags.Repository, a.copied = from, true
	}
}

// KeyHintFlag is for commands that open a key slot.
func KeyHintFlag() cli.Flag {
	return &cli.StringFlag{Name: "key-hint", Usage: "try only the key slot whose `ID` begins so"}
}

// KeyFileFlag is for commands that need the passphrase.
func KeyFileFlag() cli.Flag {
	return &cli.StringFlag{Name: "key-file", Usage: "use the exported key in `FILE` in place of the repository's key slots", TakesFile: true}
}
