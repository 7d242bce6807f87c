//go:build linux

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// hostsOptions are the flags of `bench hosts`.
type hostsOptions struct {
	packhold, work, out string
	mib, rounds         int
	numbers             []int
}

// hostsPassphrase is that of the repositories of `bench hosts`.
const hostsPassphrase = "correct horse battery staple"

// runHosts measures how much several hosts store in a second, all at once, each in a process of its own with files of its own: `bench hosts`. A second column
// is about files that all hosts have.
func runHosts(ctx context.Context, args []string) error {
	var o hostsOptions
	var numbers string
	f := flag.NewFlagSet("bench hosts", flag.ExitOnError)
	f.StringVar(&o.packhold, "packhold", "build/packhold", "the built program")
	f.StringVar(&o.work, "work", "/dev/shm/packhold-hosts", "folder of files, repositories and hosts, on tmpfs; removed")
	f.StringVar(&o.out, "out", "build/bench-hosts.md", "file for the table")
	f.StringVar(&numbers, "hosts", "1,2,4,8,16", "numbers of hosts, separated by commas")
	f.IntVar(&o.mib, "mib", 1024, "MiB of random bytes that all hosts back up together")
	f.IntVar(&o.rounds, "rounds", 3, "rounds; the median counts")
	f.Parse(args)
	for _, word := range strings.Split(numbers, ",") {
		n, err := strconv.Atoi(word)
		if err != nil {
			return err
		}
		o.numbers = append(o.numbers, n)
	}
	var err error
	if o.packhold, err = filepath.Abs(o.packhold); err != nil {
		return err
	}
	var text strings.Builder
	text.WriteString("| hosts | own files MiB/s | same files MiB/s | stored MiB of the same |\n|--:|--:|--:|--:|\n")
	for _, n := range o.numbers {
		var own, same []float64
		var stored int64
		for range o.rounds {
			mibs, _, err := hostsAtOnce(ctx, o, n, false)
			if err != nil {
				return err
			}
			own = append(own, mibs)
			if mibs, stored, err = hostsAtOnce(ctx, o, n, true); err != nil {
				return err
			}
			same = append(same, mibs)
		}
		slices.Sort(own)
		slices.Sort(same)
		fmt.Fprintf(os.Stderr, "%d hosts: own files %.0f MiB/s, the same %.0f MiB/s\n", n, own, same)
		fmt.Fprintf(&text, "| %d | %.0f | %.0f | %d |\n", n, own[len(own)/2], same[len(same)/2], stored>>20)
	}
	fmt.Print(text.String())
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(o.out, []byte(text.String()), 0o644)
}

// hostsAtOnce has n hosts back up into a new repository, and returns how many MiB a second they have read in all, and how many bytes the packs take.
func hostsAtOnce(ctx context.Context, o hostsOptions, n int, same bool) (mibs float64, stored int64, err error) {
	if err := os.RemoveAll(o.work); err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(o.work)
	repository := filepath.Join(o.work, "repository")
	run := func(host int, args ...string) *exec.Cmd {
		home := filepath.Join(o.work, fmt.Sprint("home", host))
		cmd := exec.CommandContext(ctx, o.packhold, args...)
		cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "PACKHOLD_PASSPHRASE=" + hostsPassphrase, "PACKHOLD_REPOSITORY=" + repository}
		return cmd
	}
	if err := os.MkdirAll(o.work, 0o700); err != nil {
		return 0, 0, err
	}
	if out, err := run(-1, "init", "--quiet").CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("init: %w\n%s", err, out)
	}
	each := o.mib << 20 / n
	for host := range n {
		if out, err := run(host, "host", "enroll", "--quiet", "--name", fmt.Sprint("host-", host)).CombinedOutput(); err != nil {
			return 0, 0, fmt.Errorf("enrolling: %w\n%s", err, out)
		}
		if host > 0 && same {
			continue
		}
		if err := randomFile(filepath.Join(o.work, fmt.Sprint("source", host)), uint64(host), int64(each)); err != nil {
			return 0, 0, err
		}
	}
	errs := make([]error, n)
	start := time.Now()
	var wg sync.WaitGroup
	for host := range n {
		source := host
		if same {
			source = 0
		}
		wg.Go(func() {
			out, err := run(host, "backup", "--quiet", "--source", filepath.Join(o.work, fmt.Sprint("source", source))).CombinedOutput()
			if err != nil {
				errs[host] = fmt.Errorf("host %d: %w\n%s", host, err, out)
			}
		})
	}
	wg.Wait()
	wall := time.Since(start)
	for _, err := range errs {
		if err != nil {
			return 0, 0, err
		}
	}
	return float64(each*n>>20) / wall.Seconds(), allocated(filepath.Join(repository, "packs")), nil
}

// randomFile makes a folder with one file of n bytes that the seed decides.
func randomFile(dir string, seed uint64, n int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}), n); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
