// Package grammar is the grammar of the command line: it puts lines in order, completes them and explains them.
package grammar

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/term"
)

// Line is a command line put in order: the framework stops reading flags at the first argument, users do not.
type Line struct {
	Command       *cli.Command // nil if none is named
	path          []string     // the command's name and its parents', without the program's
	globals, own  []string     // flags as --name=value or --name
	args          []string
	Help          bool // asked for
	table         *cli.App
	optionsEnded  bool // by --
	commandsEnded bool // the command has no subcommands
}

// Arguments returns the line as the framework takes it, the program's name first.
func (l *Line) Arguments() []string {
	all := append([]string{"packhold"}, l.globals...)
	all = append(all, l.path...)
	all = append(all, l.own...)
	return append(append(all, "--"), l.args...)
}

// Arrange reads args with the table of commands and flags. It accepts --name value, --name=value, -n value, -nvalue and
// several letters of flags without value in one; global flags anywhere; and takes everything behind -- as arguments.
func Arrange(table *cli.App, args []string) (*Line, error) {
	l := &Line{table: table}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		var err error
		switch {
		case l.optionsEnded || arg == "-" || !strings.HasPrefix(arg, "-"):
			err = l.word(arg)
		case arg == "--":
			l.optionsEnded = true
		case strings.HasPrefix(arg, "--"):
			args, err = l.long(arg[2:], args)
		default:
			args, err = l.short(arg[1:], args)
		}
		if err != nil {
			return nil, err
		}
	}
	switch c := l.Command; {
	case l.Help || c == nil:
	case len(c.Subcommands) > 0:
		return nil, fail.Usagef("command", l.helpCommand(), "%s needs one of: %s", l.named(), strings.Join(CommandNames(c.Subcommands, false), ", "))
	case len(l.args) > 0 && c.ArgsUsage == "":
		return nil, fail.Usagef("argument", l.helpCommand(), "%s takes no argument, found %s", l.named(), term.Name(l.args[0]))
	}
	return l, nil
}

// word takes what is no flag: the name of a command, or an argument.
func (l *Line) word(arg string) error {
	if l.commandsEnded {
		l.args = append(l.args, arg)
		return nil
	}
	list := l.table.Commands
	if l.Command != nil {
		list = l.Command.Subcommands
	}
	if arg == "help" {
		l.Help = true
		return nil
	}
	for _, c := range list {
		if c.HasName(arg) {
			l.Command, l.path = c, append(l.path, c.Name)
			l.commandsEnded = len(c.Subcommands) == 0
			return nil
		}
	}
	problem := "there is no command " + term.Name(strings.Join(append(slices.Clone(l.path), arg), " "))
	if near := term.Nearest(arg, CommandNames(list, true)); near != "" {
		problem += "; did you mean " + near + "?"
	}
	return fail.Usagef("command", "packhold help", "%s", problem)
}

// long takes --name, --name=value or --name value, the latter from rest. It returns what is left of rest.
func (l *Line) long(text string, rest []string) ([]string, error) {
	name, value, given := strings.Cut(text, "=")
	flag, global := l.find(name)
	if flag == nil || len(name) < 2 {
		return nil, l.unknown("--"+name, name)
	}
	if !given {
		if isBool(flag) {
			l.add(flag, global, "")
			return rest, nil
		}
		var err error
		if value, rest, err = l.value("--"+name, rest); err != nil {
			return nil, err
		}
	}
	l.add(flag, global, "="+value)
	return rest, nil
}

// short takes the letters behind one dash.
func (l *Line) short(letters string, rest []string) ([]string, error) {
	for i, r := range letters {
		name := string(r)
		flag, global := l.find(name)
		if flag == nil {
			return nil, l.unknown("-"+name, letters)
		}
		if isBool(flag) {
			l.add(flag, global, "")
			continue
		}
		if value := letters[i+len(name):]; value != "" {
			l.add(flag, global, "="+value)
			return rest, nil
		}
		value, rest, err := l.value("-"+name, rest)
		if err != nil {
			return nil, err
		}
		l.add(flag, global, "="+value)
		return rest, nil
	}
	return rest, nil
}

// value takes the value of a flag from rest. What is itself a known flag is a forgotten value, not a value.
func (l *Line) value(flag string, rest []string) (string, []string, error) {
	next := "packhold help " + strings.Join(l.path, " ")
	if len(rest) == 0 {
		return "", nil, fail.Usagef("value", strings.TrimSpace(next), "%s needs a value", flag)
	}
	if name, ok := strings.CutPrefix(rest[0], "--"); ok {
		name, _, _ = strings.Cut(name, "=")
		if known, _ := l.find(name); known != nil || name == "" {
			return "", nil, fail.Usagef("value", "if that is the value, write it as "+flag+"="+term.Name(rest[0]),
				"%s needs a value, found %s", flag, term.Name("--"+name))
		}
	}
	return rest[0], rest[1:], nil
}

func (l *Line) add(flag cli.Flag, global bool, value string) {
	name := flag.Names()[0]
	if name == "help" {
		l.Help = true
		return
	}
	if global {
		l.globals = append(l.globals, "--"+name+value)
	} else {
		l.own = append(l.own, "--"+name+value)
	}
}

// find looks a flag up by any of its names: the command's first, so that it may give a letter a meaning of its own.
func (l *Line) find(name string) (flag cli.Flag, global bool) {
	if l.Command != nil {
		for _, f := range l.Command.Flags {
			if slices.Contains(f.Names(), name) {
				return f, false
			}
		}
	}
	for _, f := range l.table.Flags {
		if slices.Contains(f.Names(), name) {
			return f, true
		}
	}
	return nil, false
}

// unknown makes the error for a flag that does not exist. typed is its name, or all letters behind a single dash. Neither
// a flag's value nor letters that resemble no name are repeated: they may be a secret.
func (l *Line) unknown(flag, typed string) error {
	name := strings.ReplaceAll(strings.ToLower(typed), "_", "-")
	if bare := strings.TrimPrefix(name, "new-"); strings.HasPrefix(bare, "passphrase") || strings.HasPrefix(bare, "password") {
		return fail.Usagef("passphrase", "set PACKHOLD_PASSPHRASE_FILE or PACKHOLD_PASSPHRASE_COMMAND, or type it when asked; if a passphrase was on the command line, change it",
			"a passphrase is never taken from the command line, where every user of the machine can read it")
	}
	var names []string
	flags := l.table.Flags
	if l.Command != nil {
		flags = slices.Concat(l.Command.Flags, flags)
	}
	for _, f := range flags {
		for _, n := range f.Names() {
			if len(n) > 1 {
				names = append(names, n)
			}
		}
	}
	problem := l.named() + " has no option " + term.Name(flag)
	if l.Command == nil {
		problem = "there is no global option " + term.Name(flag) + "; options of a command stand behind it"
	}
	if near := term.Nearest(name, names); near != "" {
		problem += "; did you mean --" + near + "?"
	}
	return fail.Usagef("option", l.helpCommand(), "%s", problem)
}

// helpCommand is what to run to learn about the command that is named so far.
func (l *Line) helpCommand() string {
	return strings.Join(append([]string{"packhold", "help"}, l.path...), " ")
}

func (l *Line) named() string {
	return strings.Join(append([]string{"packhold"}, l.path...), " ")
}

// CommandNames returns the names, and if asked the aliases, of the commands that are not hidden.
func CommandNames(list []*cli.Command, aliases bool) []string {
	var names []string
	for _, c := range list {
		if c.Hidden {
			continue
		}
		names = append(names, c.Name)
		if aliases {
			names = append(names, c.Aliases...)
		}
	}
	return names
}

func isBool(f cli.Flag) bool {
	_, ok := f.(*cli.BoolFlag)
	return ok
}

// WantsJSON reports whether --json is on the line: an error in the line itself must already be in the right form.
func WantsJSON(args []string) bool {
	for _, arg := range args {
		if arg == "--" {
			break
		}
		if arg == "--json" || arg == "--json=true" {
			return true
		}
	}
	return false
}
