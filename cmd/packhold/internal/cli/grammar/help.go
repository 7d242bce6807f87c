package grammar

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// MaxHelpWidth is where help is wrapped at the latest: longer lines are hard to read.
const MaxHelpWidth = 100

// Help lays out the help of a command, or of the program for nil, for a number of columns, 0 meaning unknown.
func Help(f *cli.App, c *cli.Command, columns int) string {
	if columns < 40 || columns > MaxHelpWidth {
		columns = MaxHelpWidth
	}
	var b strings.Builder
	if c == nil {
		b.WriteString("packhold: encrypted, deduplicating backups\n\nUsage: packhold [options] COMMAND [options]\n")
		b.WriteString("Setup: packhold config-sample, packhold init, packhold backup --source /data --type full\n")
		section(&b, "Commands", commandHelp(f.Commands), columns)
		section(&b, "Options of every command", flagHelp(f.Flags), columns)
		b.WriteString("\nMore on a command: packhold help COMMAND\n")
		return b.String()
	}
	fmt.Fprintf(&b, "%s: %s\n\nUsage: %s", c.HelpName, c.Usage, c.HelpName)
	if len(c.Flags) > 0 {
		b.WriteString(" [options]")
	}
	switch {
	case len(c.Subcommands) > 0:
		b.WriteString(" COMMAND")
	case c.ArgsUsage != "":
		b.WriteString(" " + c.ArgsUsage)
	}
	b.WriteString("\n")
	if len(c.Aliases) > 0 {
		b.WriteString("Also called: " + strings.Join(c.Aliases, ", ") + "\n")
	}
	if c.Description != "" {
		b.WriteString("\n")
		for line := range strings.SplitSeq(c.Description, "\n") {
			if len(line) <= columns { // keeps the spaces of what is laid out by hand
				b.WriteString(line + "\n")
				continue
			}
			b.WriteString(strings.Join(wrap(line, columns), "\n") + "\n")
		}
	}
	section(&b, "Commands", commandHelp(c.Subcommands), columns)
	section(&b, "Options", flagHelp(c.Flags), columns)
	b.WriteString("\nOptions of every command: packhold help\n")
	return b.String()
}

// helpLine is a name and what it is.
type helpLine struct{ name, about string }

func commandHelp(list []*cli.Command) []helpLine {
	var lines []helpLine
	for _, c := range list {
		if !c.Hidden {
			lines = append(lines, helpLine{strings.Join(c.Names(), ", "), c.Usage})
		}
	}
	return lines
}

// flagHelp takes names, placeholder and default from the framework, which writes them as "names<tab>usage (default: x)".
func flagHelp(list []cli.Flag) []helpLine {
	var lines []helpLine
	for _, f := range list {
		name, about, _ := strings.Cut(f.String(), "\t")
		about = strings.TrimSuffix(strings.TrimSpace(about), "(default: false)")
		lines = append(lines, helpLine{strings.TrimSpace(name), strings.TrimSpace(about)})
	}
	return lines
}

// maxNameColumn is the width beyond which a name gets a line of its own.
const maxNameColumn = 30

func section(b *strings.Builder, title string, lines []helpLine, columns int) {
	if len(lines) == 0 {
		return
	}
	b.WriteString("\n" + title + ":\n")
	indent := 0
	for _, l := range lines {
		if n := len(l.name) + 4; n <= maxNameColumn {
			indent = max(indent, n)
		}
	}
	indent = max(indent, 8)
	for _, l := range lines {
		head := "  " + l.name
		if len(head)+2 > indent {
			b.WriteString(head + "\n")
			head = ""
		}
		for _, row := range wrap(l.about, columns-indent) {
			fmt.Fprintf(b, "%-*s%s\n", indent, head, row)
			head = ""
		}
	}
}

// wrap breaks text at spaces into rows of at most width bytes, a longer word keeping a row for itself. It has one row at
// least.
func wrap(text string, width int) []string {
	rows := []string{""}
	for word := range strings.FieldsSeq(text) {
		last := &rows[len(rows)-1]
		switch {
		case *last == "":
			*last = word
		case len(*last)+1+len(word) <= width:
			*last += " " + word
		default:
			rows = append(rows, word)
		}
	}
	return rows
}
