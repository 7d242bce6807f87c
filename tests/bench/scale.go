//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"packhold/tests/cgroup"
)

const (
	smallFiles  = 1000 // of the tree that is backed up into repositories of different sizes
	memoryLimit = 256 << 20
)

// scaleOptions are the flags of `bench scale`.
type scaleOptions struct {
	packhold, files, work, out, plot string
	most, blobs, rounds              int
	beside                           bool
}

// point is what was measured at one size.
type point struct {
	n                           int
	first, again, limited       row // backups of n files: the first, two with nothing changed, the latter in the group
	small                       row // of smallFiles files that did not change, in a repository with n files more
	beside                      int
	cold, warm                  row // of n files that did not change, beside the most blobs, in the group: without and with a cache of the index
	open                        float64
	has, hasCPU, lookup, lookCP float64 // ns
}

// runScale measures how cost grows with the number of files and of blobs: `bench scale`.
func runScale(ctx context.Context, args []string) error {
	var o scaleOptions
	f := flag.NewFlagSet("bench scale", flag.ExitOnError)
	f.StringVar(&o.packhold, "packhold", "build/packhold", "the built program")
	f.StringVar(&o.files, "files", "/dev/shm/packhold-scale", "folder of the files, on tmpfs; removed")
	f.StringVar(&o.work, "work", filepath.Join(os.TempDir(), "packhold-scale"), "folder of the repository, on disk; removed")
	f.StringVar(&o.out, "out", "build/scale.md", "file for the table")
	f.StringVar(&o.plot, "plot", "docs/scale.svg", "file for the plot")
	f.IntVar(&o.most, "most", 1_000_000, "most files; each takes 6 KiB of tmpfs")
	f.IntVar(&o.blobs, "blobs", 10_000_000, "most blobs of the index alone")
	f.BoolVar(&o.beside, "beside", true, "store the most blobs beside the most files too")
	f.IntVar(&o.rounds, "rounds", 3, "rounds; the median counts")
	f.Parse(args)
	var err error
	if o.packhold, err = filepath.Abs(o.packhold); err != nil {
		return err
	}
	group, err := cgroup.New(memoryLimit)
	if err != nil {
		return fmt.Errorf("making a group of 256 MiB: %w", err)
	}
	defer group.Remove()
	defer os.RemoveAll(o.files)
	defer os.RemoveAll(o.work)
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	var points []point
	made := 0
	for n := 10_000; n <= max(o.most, o.blobs); n *= 10 {
		p := point{n: n}
		if n <= o.most {
			if err := extend(filepath.Join(o.files, "many"), made, n); err != nil {
				return err
			}
			made = n
			if err := measureFiles(ctx, o, group, &p); err != nil {
				return fmt.Errorf("%d files: %w", n, err)
			}
		}
		if n <= o.blobs {
			if err := measureIndex(ctx, o, &p); err != nil {
				return fmt.Errorf("%d blobs: %w", n, err)
			}
		}
		points = append(points, p)
		// After each size, so that a run that is cut short leaves what it measured.
		table := scaleTable(points)
		fmt.Print(table)
		if err := errors.Join(os.WriteFile(o.out, []byte(table), 0o644), os.WriteFile(o.plot, scalePlot(points), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// extend makes files from to n of a tree, 1,000 to a folder. Each holds more bytes than fit into a tree page, so that each is a
// blob, and no two are equal.
func extend(dir string, from, n int) error {
	pad := strings.Repeat("packhold ", 20)
	for i := from; i < n; i++ {
		folder := filepath.Join(dir, strconv.Itoa(i/1000))
		if i%1000 == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(folder, strconv.Itoa(i)), []byte(strconv.Itoa(i)+pad), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func measureFiles(ctx context.Context, o scaleOptions, group *cgroup.Group, p *point) error {
	if err := os.RemoveAll(o.work); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(o.work, "tmp"), 0o700); err != nil {
		return err
	}
	t, err := newTool("packhold", o.packhold)
	if err != nil {
		return err
	}
	if out, err := t.command(o.work, o.work, t.init).CombinedOutput(); err != nil {
		return fmt.Errorf("init: %w\n%s", err, out)
	}
	back := func(in string, limited bool) (row, error) {
		if err := ctx.Err(); err != nil {
			return row{}, err
		}
		cmd := t.command(o.work, in, t.backup(0))
		if limited {
			inside := group.Command(cmd.Path, cmd.Args[1:]...)
			inside.Dir, inside.Env = cmd.Dir, cmd.Env
			cmd = inside
		}
		r, err := timed(cmd)
		if killed, kerr := group.Killed(); err == nil && (kerr != nil || killed > 0) {
			err = fmt.Errorf("%d killed for want of memory: %w", killed, kerr)
		}
		return r, err
	}
	middle := func(in string, limited bool) (row, error) {
		var rows []row
		for range o.rounds {
			r, err := back(in, limited)
			if err != nil {
				return r, err
			}
			rows = append(rows, r)
		}
		slices.SortFunc(rows, func(a, b row) int { return int(a.wall - b.wall) })
		m := rows[len(rows)/2]
		for _, r := range rows {
			m.anon = max(m.anon, r.anon)
			m.cpu = min(m.cpu, r.cpu) // others cost it caches, never save it work
		}
		return m, nil
	}
	many, few := filepath.Join(o.files, "many"), filepath.Join(o.files, "few")
	if err := extend(few, 0, smallFiles); err != nil {
		return err
	}
	if p.first, err = back(many, false); err != nil {
		return err
	}
	if p.again, err = middle(many, false); err != nil {
		return err
	}
	if p.limited, err = middle(many, true); err != nil {
		return err
	}
	if _, err = back(few, false); err != nil {
		return err
	}
	if p.small, err = middle(few, false); err != nil || !o.beside || p.n < o.most {
		return err
	}
	p.beside = o.blobs
	if err := fill(ctx, o.work, o.blobs); err != nil {
		return err
	}
	caches, err := filepath.Glob(filepath.Join(o.work, "cache", "*", "index"))
	if err != nil || len(caches) != 1 {
		return fmt.Errorf("caches %q: %w", caches, err)
	}
	if err := os.Remove(caches[0]); err != nil {
		return err
	}
	if p.cold, err = back(many, true); err != nil {
		return err
	}
	p.warm, err = middle(many, true)
	return err
}

// fill stores n small blobs in the repository of the tool at dir, as its host.
func fill(ctx context.Context, dir string, n int) error {
	files, err := filepath.Glob(filepath.Join(dir, "conf", "*", "writer.json"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("credentials %q: %w", files, err)
	}
	out, err := exec.CommandContext(ctx, "go", "run", "packhold/tests/fill", filepath.Join(dir, "repo"), files[0], strconv.Itoa(n)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("filling: %w\n%s", err, out)
	}
	return nil
}

// measureIndex runs the benchmark of package index with this many blobs.
func measureIndex(ctx context.Context, o scaleOptions, p *point) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "BenchmarkCache/(open|has|lookup)", "-cpu", "1",
		"-count", strconv.Itoa(o.rounds), "packhold/index")
	cmd.Env = append(os.Environ(), "PACKHOLD_SCALE_BLOBS="+strconv.Itoa(p.n))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w\n%s%s", err, out, &errs)
	}
	figures := map[string][]float64{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "BenchmarkCache/") {
			continue
		}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return fmt.Errorf("%q: %w", line, err)
			}
			key := f[0] + " " + f[i+1]
			figures[key] = append(figures[key], v)
		}
	}
	for key, to := range map[string]*float64{"open ns/op": &p.open, "has/present ns/op": &p.has, "has/present cpu-ns/op": &p.hasCPU,
		"lookup/present ns/op": &p.lookup, "lookup/present cpu-ns/op": &p.lookCP} {
		list := figures["BenchmarkCache/"+key]
		if len(list) == 0 {
			return fmt.Errorf("no %s in\n%s", key, out)
		}
		slices.Sort(list)
		*to = list[len(list)/2]
	}
	return nil
}

func scaleTable(points []point) string {
	var b strings.Builder
	for _, l := range machine() {
		fmt.Fprintf(&b, "- %s\n", l)
	}
	b.WriteString("\n| N | first s | anon MiB | again s | cpu s | cpu us/file | anon MiB | in 256 MiB: again s | anon MiB | 1,000 files beside N: again s | cpu s | open ms | has M/s | cpu | lookup M/s | cpu |\n")
	b.WriteString("|--:|" + strings.Repeat("--:|", 15) + "\n")
	rate := func(ns float64) string {
		if ns == 0 {
			return ""
		}
		return fmt.Sprintf("%.2f", 1e3/ns)
	}
	seconds := func(d time.Duration) string {
		if d == 0 {
			return ""
		}
		return fmt.Sprintf("%.2f", d.Seconds())
	}
	for _, p := range points {
		each, first, anon, limited := "", "", "", ""
		if p.again.wall > 0 {
			each = fmt.Sprintf("%.1f", float64(p.again.cpu.Microseconds())/float64(p.n))
			first = strconv.FormatInt(p.first.anon>>20, 10)
			anon, limited = strconv.FormatInt(p.again.anon>>20, 10), strconv.FormatInt(p.limited.anon>>20, 10)
		}
		open := ""
		if p.open > 0 {
			open = fmt.Sprintf("%.2f", p.open/1e6)
		}
		cells := []string{strconv.Itoa(p.n), seconds(p.first.wall), first, seconds(p.again.wall), seconds(p.again.cpu), each, anon,
			seconds(p.limited.wall), limited, seconds(p.small.wall), seconds(p.small.cpu), open, rate(p.has), rate(p.hasCPU), rate(p.lookup), rate(p.lookCP)}
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	for _, p := range points {
		if p.warm.wall > 0 {
			fmt.Fprintf(&b, "\n%d files, nothing changed, in a repository with %d blobs more, in 256 MiB: %s s and %.0f MiB of anonymous memory; at first, without a cache of the index, %s s and %.0f MiB.\n",
				p.n, p.beside, seconds(p.warm.wall), mib(p.warm.anon), seconds(p.cold.wall), mib(p.cold.anon))
		}
	}
	return b.String()
}
