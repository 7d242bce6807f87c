//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"packhold/tests/cgroup"
)

// sampleEvery is how often anonymous memory is looked at.
const sampleEvery = 20 * time.Millisecond

// row is one measured step.
type row struct {
	corpus, tool, step string
	wall, cpu          time.Duration
	rss, anon          int64 // peaks in bytes; anonymous memory is sampled
	repo               int64 // bytes allocated
	problem            string
}

// measure runs the steps of one tool on one corpus in a new repository.
func measure(ctx context.Context, o options, t tool, corpus string) (rows []row, err error) {
	fresh := func() (string, error) {
		dir := filepath.Join(o.work, t.name)
		if err := os.RemoveAll(o.work); err != nil {
			return "", err
		}
		if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o700); err != nil {
			return "", err
		}
		if out, err := t.command(dir, dir, t.init).CombinedOutput(); err != nil {
			return "", fmt.Errorf("init: %w\n%s", err, out)
		}
		return dir, nil
	}
	src := filepath.Join(o.data, "source")
	step := func(dir, in, name string, args []string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := timed(t.command(dir, in, args))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.corpus, r.tool, r.step = corpus, t.name, name
		r.repo = allocated(filepath.Join(dir, "repo"))
		rows = append(rows, r)
		return nil
	}
	show := func() {
		r := rows[len(rows)-1]
		fmt.Fprintf(os.Stderr, "%-7s %-9s %-8s %8.2f s  cpu %7.2f s  rss %5d MiB  anon %5d MiB  repo %6d MiB  %s\n", r.corpus, r.tool, r.step,
			r.wall.Seconds(), r.cpu.Seconds(), r.rss>>20, r.anon>>20, r.repo>>20, r.problem)
	}

	leave, err := enter(filepath.Join(o.data, corpus), src)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, leave()) }()
	if t.name == "packhold" && slices.Contains(o.steps, "first") {
		dir, err := fresh()
		if err != nil {
			return rows, err
		}
		if err := step(dir, src, "first*", append(t.backup(1), "--no-validate")); err != nil {
			return rows, err
		}
		show()
	}
	dir, err := fresh()
	if err != nil {
		return rows, err
	}
	backups := 0
	back := func(name string) error {
		backups++
		return step(dir, src, name, t.backup(backups))
	}
	if err := back("first"); err != nil {
		return rows, err
	}
	show()
	for _, name := range allSteps()[1:] {
		if !slices.Contains(o.steps, name) || name == "delta" && corpus != "image" {
			continue
		}
		switch name {
		case "again":
			err = back(name)
		case "delta":
			if err = leave(); err != nil {
				return rows, err
			}
			if leave, err = enter(filepath.Join(o.data, "image2"), src); err != nil {
				leave = func() error { return nil }
				return rows, err
			}
			err = back(name)
		case "list":
			err = step(dir, dir, name, t.list)
		case "restore":
			dst := filepath.Join(dir, "restored")
			in := dir
			if t.inside {
				in = dst
				err = os.Mkdir(dst, 0o755)
			}
			if err == nil {
				err = step(dir, in, name, t.restore(backups, dst))
			}
			if err == nil {
				if out, derr := exec.CommandContext(ctx, "diff", "-rq", "--no-dereference", src, dst).CombinedOutput(); derr != nil {
					rows[len(rows)-1].problem = "restored differently: " + strings.SplitN(string(out), "\n", 2)[0]
				}
				err = os.RemoveAll(dst)
			}
		case "check":
			err = step(dir, dir, name, t.check)
		}
		if err != nil {
			return rows, err
		}
		show()
	}
	return rows, os.RemoveAll(o.work)
}

// enter makes corpus appear at src, where every tool sees the same path, and reads it into the page cache. leave undoes it.
func enter(corpus, src string) (leave func() error, err error) {
	if err := os.MkdirAll(src, 0o755); err != nil {
		return nil, err
	}
	if err := syscall.Mount(corpus, src, "", syscall.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("binding %s to %s, which needs root: %w", corpus, src, err)
	}
	leave = func() error {
		if err := syscall.Unmount(src, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting %s: %w", src, err)
		}
		return nil
	}
	err = filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(io.Discard, f)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, leave())
	}
	return leave, nil
}

// timed runs cmd and measures it and its children.
func timed(cmd *exec.Cmd) (row, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return row{}, err
	}
	stop, peak := make(chan struct{}), make(chan int64)
	go func() {
		var most int64
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			most = max(most, cgroup.Anonymous(cmd.Process.Pid))
			select {
			case <-tick.C:
			case <-stop:
				peak <- most
				return
			}
		}
	}()
	err := cmd.Wait()
	r := row{wall: time.Since(start)}
	close(stop)
	r.anon = <-peak
	use := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	r.rss = int64(use.Maxrss) << 10 // KiB on Linux
	if err != nil {
		return r, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out.Bytes()[max(0, out.Len()-2000):])
	}
	return r, nil
}

// allocated adds up the blocks of everything below dir.
func allocated(dir string) (n int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // a temporary file that went away
		}
		if info, err := d.Info(); err == nil {
			n += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return n
}

// digest says which bytes a figure belongs to: SHA-256 over names, modes, sizes and contents.
func digest(dir string) (string, error) {
	h := sha256.New()
	files, total := 0, int64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files++
		fmt.Fprintf(h, "%q %v %d\n", rel, info.Mode(), info.Size())
		if !info.Mode().IsRegular() {
			return nil
		}
		total += info.Size()
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(h, f)
		return err
	})
	return fmt.Sprintf("%x, %d files, %.2f GiB", h.Sum(nil)[:8], files, float64(total)/(1<<30)), err
}

// machine describes where the figures come from.
func machine() []string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(b), "model name"); ok {
			name, _, _ := strings.Cut(rest, "\n")
			model = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	kernel := ""
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = strings.TrimSpace(string(b))
	}
	return []string{fmt.Sprintf("%d processors, %s, Linux %s, %s", runtime.NumCPU(), model, kernel, runtime.Version())}
}
