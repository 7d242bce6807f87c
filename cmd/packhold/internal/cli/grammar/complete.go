package grammar

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// Candidate is a word that a shell may offer, and what it means.
type Candidate struct{ Word, About string }

// Complete returns what current may become behind the words before it. choices gives the fixed set of words that a flag, or for "" the
// argument of a command, takes.
func Complete(table *cli.App, before []string, current string, choices func(command, flag string) []string) []Candidate {
	before, current, split := JoinAssignments(before, current)
	l := &Line{table: table}
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
	var list []Candidate
	switch {
	case pending != nil:
		list = words(choices("", pending.Names()[0]), "")
	case !l.optionsEnded && strings.HasPrefix(current, "--") && assigned:
		flag, _ := l.find(name[2:])
		if flag == nil {
			return nil
		}
		if split { // the shell replaces only what stands behind the sign
			return starting(words(choices("", flag.Names()[0]), ""), value)
		}
		list = words(choices("", flag.Names()[0]), name+"=")
	case !l.optionsEnded && strings.HasPrefix(current, "-"):
		list = l.flagCandidates()
	case !l.commandsEnded:
		commands := table.Commands
		if l.Command != nil {
			commands = l.Command.Subcommands
		}
		for _, c := range commands {
			if !c.Hidden {
				list = append(list, Candidate{c.Name, c.Usage})
			}
		}
		if l.Command == nil {
			list = append(list, Candidate{"help", "print help on a command"})
		}
	default:
		list = words(choices(l.Command.Name, ""), "")
	}
	return starting(list, current)
}

// JoinAssignments puts together what bash takes apart: it hands --type=full over as --type, = and full.
func JoinAssignments(before []string, current string) (joined []string, word string, split bool) {
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
func (l *Line) awaits(word string) cli.Flag {
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

func (l *Line) flagCandidates() []Candidate {
	var list []Candidate
	flags := l.table.Flags
	if l.Command != nil {
		flags = slices.Concat(l.Command.Flags, flags)
	}
	for _, f := range flags {
		about := ""
		if d, ok := f.(cli.DocGenerationFlag); ok {
			about = strings.ReplaceAll(d.GetUsage(), "`", "")
		}
		list = append(list, Candidate{"--" + f.Names()[0], about})
	}
	return list
}

func words(list []string, prefix string) []Candidate {
	var out []Candidate
	for _, w := range list {
		out = append(out, Candidate{Word: prefix + w})
	}
	return out
}

func starting(list []Candidate, prefix string) []Candidate {
	return slices.DeleteFunc(list, func(c Candidate) bool { return !strings.HasPrefix(c.Word, prefix) })
}
