package cli

import (
	"context"
	_ "embed"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
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
		Action: a.action(a.completion),
	}
}

func (a *app) completion(_ context.Context, _ values, args []string) error {
	const next = "packhold help completion"
	if len(args) > 1 {
		return tooMany(a.where, args[1])
	}
	if len(args) == 0 {
		return fail.Usagef("argument", next, "%s needs one of: %s", a.where, strings.Join(shells(), ", "))
	}
	switch args[0] {
	case "bash":
		a.out.data(bashScript)
	case "zsh":
		a.out.data(zshScript)
	case "fish":
		a.out.data(fishScript)
	case "powershell":
		a.out.data(powershellScript)
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
		Action: a.action(func(_ context.Context, v values, args []string) error {
			for _, c := range complete(a.framework(), args, v.String("current")) {
				text := c.word
				if c.about != "" {
					text += "\t" + c.about
				}
				a.out.data(text + "\n")
			}
			return nil
		}),
	}
}

type candidate struct{ word, about string }

// complete returns what current may become behind the words before it.
func complete(table *cli.App, before []string, current string) []candidate {
	before, current, split := joinAssignments(before, current)
	l := &commandLine{table: table}
	var pending cli.Flag // waits for its value
	for _, word := range before {
		switch {
		case pending != nil:
			pending = nil
		case l.optionsEnded || word == "-" || !strings.HasPrefix(word, "-"):
			if l.word(word) != nil {
				return nil // an unknown command has no flags
			}
		case word == "--":
			l.optionsEnded = true
		default:
			pending = l.awaits(word)
		}
	}
	name, value, assigned := strings.Cut(current, "=")
	var list []candidate
	switch {
	case pending != nil:
		list = words(flagChoices(pending), "")
	case !l.optionsEnded && strings.HasPrefix(current, "--") && assigned:
		flag, _ := l.find(name[2:])
		if flag == nil {
			return nil
		}
		if split { // the shell replaces only what stands behind the sign
			return starting(words(flagChoices(flag), ""), value)
		}
		list = words(flagChoices(flag), name+"=")
	case !l.optionsEnded && strings.HasPrefix(current, "-"):
		list = l.flagCandidates()
	case !l.commandsEnded:
		commands := table.Commands
		if l.command != nil {
			commands = l.command.Subcommands
		}
		for _, c := range commands {
			if !c.Hidden {
				list = append(list, candidate{c.Name, c.Usage})
			}
		}
		if l.command == nil {
			list = append(list, candidate{"help", "print help on a command"})
		}
	case l.command.Name == "completion":
		list = words(shells(), "")
	}
	return starting(list, current)
}

// joinAssignments puts together what bash takes apart: it hands --type=full over as --type, = and full.
func joinAssignments(before []string, current string) (joined []string, word string, split bool) {
	all := append(slices.Clone(before), current)
	for i := 0; i < len(all); i++ {
		last := len(joined) - 1
		if all[i] != "=" || last < 0 || !strings.HasPrefix(joined[last], "--") || len(joined[last]) == 2 {
			joined = append(joined, all[i])
			continue
		}
		joined[last] += "="
		split = i == len(all)-1
		if !split {
			i++
			joined[last] += all[i]
			split = i == len(all)-1
		}
	}
	last := len(joined) - 1
	return joined[:last], joined[last], split
}

// awaits returns the flag of a complete word if its value must be the next word.
func (l *commandLine) awaits(word string) cli.Flag {
	if name, ok := strings.CutPrefix(word, "--"); ok {
		if flag, _ := l.find(name); flag != nil && !isBool(flag) {
			return flag
		}
		return nil
	}
	for i, r := range word[1:] {
		if flag, _ := l.find(string(r)); flag != nil && !isBool(flag) {
			if 1+i+len(string(r)) == len(word) {
				return flag
			}
			return nil
		}
	}
	return nil
}

func (l *commandLine) flagCandidates() []candidate {
	var list []candidate
	flags := l.table.Flags
	if l.command != nil {
		flags = slices.Concat(l.command.Flags, flags)
	}
	for _, f := range flags {
		about := ""
		if d, ok := f.(cli.DocGenerationFlag); ok {
			about = strings.ReplaceAll(d.GetUsage(), "`", "")
		}
		list = append(list, candidate{"--" + f.Names()[0], about})
	}
	return list
}

// flagChoices returns the values of a flag that has a fixed set of them.
func flagChoices(f cli.Flag) []string {
	switch f.Names()[0] {
	case "type":
		return config.BackupTypes()
	case "compression":
		return config.Compressions()
	}
	return nil
}

func words(list []string, prefix string) []candidate {
	var out []candidate
	for _, w := range list {
		out = append(out, candidate{word: prefix + w})
	}
	return out
}

func starting(list []candidate, prefix string) []candidate {
	return slices.DeleteFunc(list, func(c candidate) bool { return !strings.HasPrefix(c.word, prefix) })
}
