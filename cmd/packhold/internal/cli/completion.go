package cli

import (
	"context"
	_ "embed"
	"strings"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/grammar"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
)

// The scripts ask the program itself, by the hidden command below, so that they never grow old. They need no other
// package, such as bash-completion.
var (
	//go:embed completion/packhold.bash
	bashScript string
	//go:embed completion/packhold.zsh
	zshScript string
	//go:embed completion/packhold.fish
	fishScript string
	//go:embed completion/packhold.ps1
	powershellScript string
)

func shells() []string { return []string{"bash", "zsh", "fish", "powershell"} }

func (a *app) completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print a script that makes a shell complete packhold's command lines", ArgsUsage: strings.Join(shells(), "|"),
		Description: "bash:        source <(packhold completion bash)\n" +
			"zsh:         source <(packhold completion zsh)\n" +
			"fish:        packhold completion fish | source\n" +
			"powershell:  packhold completion powershell | Out-String | Invoke-Expression",
		Action: a.Action(a.completion),
	}
}

func (a *app) completion(_ context.Context, _ run.Values, args []string) error {
	const next = "packhold help completion"
	if len(args) > 1 {
		return tooMany(a.Where, args[1])
	}
	if len(args) == 0 {
		return fail.Usagef("argument", next, "%s needs one of: %s", a.Where, strings.Join(shells(), ", "))
	}
	switch args[0] {
	case "bash":
		a.Out.Data(bashScript)
	case "zsh":
		a.Out.Data(zshScript)
	case "fish":
		a.Out.Data(fishScript)
	case "powershell":
		a.Out.Data(powershellScript)
	default:
		return fail.Usagef("argument", next, "there is no script for %s, only for %s", term.Name(args[0]), strings.Join(shells(), ", "))
	}
	return nil
}

// tooMany is the error for an argument that a command has no place for.
func tooMany(command, arg string) error {
	return fail.Usagef("argument", strings.Replace(command, "packhold", "packhold help", 1), "%s takes one argument, found %s too", command, term.Name(arg))
}

// completeCommand answers the scripts: a candidate a line, with a description behind a tab. No lines mean that the shell
// should complete file names.
func (a *app) completeCommand() *cli.Command {
	return &cli.Command{
		Name: "__complete", Hidden: true, Usage: "complete a command line", ArgsUsage: "[WORD...]",
		Flags: []cli.Flag{&cli.StringFlag{Name: "current", Usage: "the `WORD` being typed"}},
		Action: a.Action(func(_ context.Context, v run.Values, args []string) error {
			for _, c := range grammar.Complete(a.framework(), args, v.String("current"), flagChoices) {
				text := c.Word
				if c.About != "" {
					text += "\t" + c.About
				}
				a.Out.Data(text + "\n")
			}
			return nil
		}),
	}
}

// flagChoices returns the words that a command's argument (for the flag "") or a flag takes, if they are a fixed set.
func flagChoices(command, flag string) []string {
	if flag == "" && command == "completion" {
		return shells()
	}
	switch flag {
	case "type":
		return config.BackupTypes()
	case "compression":
		return config.Compressions()
	}
	return nil
}
