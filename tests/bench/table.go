//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// cell is what several rounds of one step come to.
type cell struct {
	wall, cpu       time.Duration // medians
	rss, anon, repo int64         // the largest
	problem         bool
}

// table writes the measurements in Markdown: a line per corpus and step, with packhold's time in parts of the others'.
func table(b *strings.Builder, rows []row, o options) {
	at := func(corpus, step, tool string) (c cell, ok bool) {
		var wall, cpu []time.Duration
		for _, r := range rows {
			if r.corpus == corpus && r.step == step && r.tool == tool {
				wall, cpu = append(wall, r.wall), append(cpu, r.cpu)
				c.rss, c.anon, c.repo = max(c.rss, r.rss), max(c.anon, r.anon), max(c.repo, r.repo)
				c.problem = c.problem || r.problem != ""
			}
		}
		if len(wall) == 0 {
			return c, false
		}
		c.wall, c.cpu = median(wall), median(cpu)
		return c, true
	}
	b.WriteString("\n| corpus | step |")
	for _, t := range o.tools {
		fmt.Fprintf(b, " %s wall s | cpu s | RSS MiB | anon MiB | repo MiB |", t)
	}
	peers := slices.DeleteFunc(slices.Clone(o.tools), func(t string) bool { return t == "packhold" })
	for _, p := range peers {
		fmt.Fprintf(b, " packhold/%s |", p)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("--:|", 5*len(o.tools)+len(peers)) + "\n")
	for _, corpus := range o.corpora {
		for _, step := range slices.Insert(allSteps(), 0, "first*") {
			line := fmt.Sprintf("| %s | %s |", corpus, step)
			any := false
			for _, t := range o.tools {
				c, ok := at(corpus, step, t)
				if !ok {
					line += strings.Repeat(" |", 5)
					continue
				}
				any = true
				mark := ""
				if c.problem {
					mark = " (wrong)"
				}
				line += fmt.Sprintf(" %.2f%s | %.2f | %d | %d | %d |", c.wall.Seconds(), mark, c.cpu.Seconds(), c.rss>>20, c.anon>>20, c.repo>>20)
			}
			for _, p := range peers {
				mine, ok := at(corpus, step, "packhold")
				base := step
				if step == "first*" {
					base = "first"
				}
				theirs, theirsOK := at(corpus, base, p)
				if !ok || !theirsOK {
					line += " |"
					continue
				}
				line += fmt.Sprintf(" %.2f |", mine.wall.Seconds()/theirs.wall.Seconds())
			}
			if any {
				b.WriteString(line + "\n")
			}
		}
	}
	b.WriteString("\nwall: median of the rounds; the ratios are of wall times, below 1 packhold is faster. first*: with --no-validate, beside the peers' first.\n" +
		"RSS counts mapped files too; anon is anonymous memory, sampled every 20 ms. Repositories on tmpfs, sources in the page cache.\n")
}

func median(list []time.Duration) time.Duration {
	slices.Sort(list)
	n := len(list)
	return (list[(n-1)/2] + list[n/2]) / 2
}
