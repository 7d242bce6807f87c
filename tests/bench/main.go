//go:build linux

// Command bench measures packhold beside restic and borg on the same files and prints a table.
//
// For each corpus and tool, one tool's repository at a time and on tmpfs, with the files in the page cache, it runs
//
//	first    a backup into an empty repository; packhold once more with --no-validate, as first*
//	again    a backup with nothing changed
//	delta    image only: a backup of image2 at the same path
//	list     the list of snapshots
//	restore  the last snapshot into an empty folder, compared with the source afterwards
//	check    everything stored is read and verified
//
// With the word scale as first argument it measures packhold alone against the number of files and blobs, and draws the plot; with remote,
// packhold beside restic against an S3 and an SFTP server on the loopback, with round trips added, and counts the requests of both.
// With hosts it measures what several hosts store in a second, all at once.
//
// Every tool runs with its defaults but for borg's compression, which is zstd,1: its default lz4 compresses less than the others.
package main

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

//go:embed corpora.py
var corporaScript string

// options are the flags.
type options struct {
	packhold, data, work, out string
	corpora, tools, steps     []string
	rounds                    int
	scale                     float64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	word := ""
	if len(os.Args) > 1 {
		word = os.Args[1]
	}
	var err error
	switch word {
	case "scale":
		err = runScale(ctx, os.Args[2:])
	case "remote":
		err = runRemote(ctx, os.Args[2:])
	case "hosts":
		err = runHosts(ctx, os.Args[2:])
	case "pipe-sftp":
		err = pipeSFTP(os.Args[2])
	default:
		err = run(ctx, parse())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() options {
	var o options
	list := func(name, value, usage string) *string {
		return flag.String(name, value, usage+", separated by commas")
	}
	flag.StringVar(&o.packhold, "packhold", "build/packhold", "the built program")
	flag.StringVar(&o.data, "data", filepath.Join(os.TempDir(), "packhold-bench"), "folder of the corpora, kept for the next run")
	flag.StringVar(&o.work, "work", "/dev/shm/packhold-bench", "folder of the repositories, on tmpfs; removed")
	flag.StringVar(&o.out, "out", "build/bench.md", "file for the table")
	corpora := list("corpora", "random,system,image,tiny", "corpora")
	tools := list("tools", "restic,borg,packhold", "tools")
	steps := list("steps", strings.Join(allSteps(), ","), "steps; first always runs")
	flag.IntVar(&o.rounds, "rounds", 1, "rounds; the table shows the median, and the order of the tools rotates")
	flag.Float64Var(&o.scale, "scale", 1, "size of the corpora, 1 being the full one")
	flag.Parse()
	o.corpora, o.tools, o.steps = strings.Split(*corpora, ","), strings.Split(*tools, ","), strings.Split(*steps, ",")
	return o
}

func allSteps() []string { return []string{"first", "again", "delta", "list", "restore", "check"} }

func run(ctx context.Context, o options) error {
	var err error
	if o.packhold, err = filepath.Abs(o.packhold); err != nil {
		return err
	}
	o.data = filepath.Join(o.data, "scale-"+strconv.FormatFloat(o.scale, 'g', -1, 64))
	if err := os.MkdirAll(o.data, 0o755); err != nil {
		return err
	}
	var report strings.Builder
	both := func(format string, args ...any) {
		fmt.Printf(format, args...)
		fmt.Fprintf(&report, format, args...)
	}
	both("# Bench\n\n")
	for _, l := range machine() {
		both("- %s\n", l)
	}
	tools := make(map[string]tool)
	for _, name := range o.tools {
		t, err := newTool(name, o.packhold)
		if err != nil {
			return err
		}
		tools[name] = t
		both("- %s: %s\n", name, t.version())
	}
	for _, c := range o.corpora {
		if !slices.Contains([]string{"random", "system", "image", "tiny"}, c) {
			return fmt.Errorf("there is no corpus %s", c)
		}
		if err := makeCorpus(ctx, o, c); err != nil {
			return err
		}
		names := []string{c}
		if c == "image" {
			names = append(names, "image2")
		}
		for _, name := range names {
			d, err := digest(filepath.Join(o.data, name))
			if err != nil {
				return err
			}
			both("- corpus %s: %s\n", name, d)
		}
	}
	both("\n")

	var rows []row
	defer os.RemoveAll(o.work)
	for round := range o.rounds {
		for _, c := range o.corpora {
			turn := round % len(o.tools)
			for _, name := range slices.Concat(o.tools[turn:], o.tools[:turn]) {
				r, err := measure(ctx, o, tools[name], c)
				rows = append(rows, r...)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", name, c, err)
				}
			}
		}
	}
	table(&report, rows, o)
	fmt.Print(report.String()[strings.Index(report.String(), "\n| "):])
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(o.out, []byte(report.String()), 0o644); err != nil {
		return err
	}
	fmt.Println("written to", o.out)
	for _, r := range rows {
		if r.problem != "" {
			return fmt.Errorf("%s, %s, %s: %s", r.corpus, r.tool, r.step, r.problem)
		}
	}
	return nil
}

// makeCorpus runs the script that makes it, unless it is there.
func makeCorpus(ctx context.Context, o options, name string) error {
	fmt.Fprintf(os.Stderr, "making %s\n", name)
	cmd := exec.CommandContext(ctx, "python3", "-", o.data, name, strconv.FormatFloat(o.scale, 'g', -1, 64))
	cmd.Stdin = strings.NewReader(corporaScript)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("making corpus %s: %w", name, err)
	}
	return nil
}
