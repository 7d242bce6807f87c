package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Group is a memory cgroup with a limit.
type Group struct {
	dir    string
	events string // the file with the line "oom_kill N"
}

// ErrNone says that the system has no memory controller to use.
var ErrNone = errors.New("no memory controller")

// New makes a group with a limit in bytes, of version 2 if its memory controller is there, otherwise of version 1. It needs root.
func New(limit int64) (*Group, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, errors.Join(ErrNone, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, version := range []string{"cgroup2", "cgroup"} {
		for line := range strings.Lines(string(mounts)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[2] != version || version == "cgroup" && !hasField(f[3], "memory") {
				continue
			}
			g, err := create(f[1], ownGroup(string(own), version), version, limit)
			if err == nil {
				return g, nil
			}
			if !errors.Is(err, ErrNone) {
				problems = append(problems, err)
			}
		}
	}
	if len(problems) == 0 {
		return nil, ErrNone
	}
	return nil, errors.Join(problems...)
}

// ownGroup is this process's group in a hierarchy.
func ownGroup(own, version string) string {
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && (version == "cgroup2" && f[1] == "" || version == "cgroup" && hasField(f[1], "memory")) {
			return f[2]
		}
	}
	return "/"
}

func hasField(list, field string) bool {
	for f := range strings.SplitSeq(list, ",") {
		if f == field {
			return true
		}
	}
	return false
}

// create makes a group below this process's own, or below the next ancestor that may have one.
func create(mount, own, version string, limit int64) (*Group, error) {
	controllers, err := os.ReadFile(filepath.Join(mount, "cgroup.controllers"))
	if version == "cgroup2" && (err != nil || !hasField(strings.Join(strings.Fields(string(controllers)), ","), "memory")) {
		return nil, ErrNone
	}
	var last error
	for parent := filepath.Join(mount, own); strings.HasPrefix(parent, mount); parent = filepath.Dir(parent) {
		if version == "cgroup2" {
			// This fails where processes are directly in parent, which is why ancestors are tried.
			if err := writeControl(parent, "cgroup.subtree_control", "+memory"); err != nil {
				last = err
				continue
			}
		}
		dir, err := os.MkdirTemp(parent, "packhold-test-")
		if err != nil {
			last = err
			continue
		}
		bytes := strconv.FormatInt(limit, 10)
		g := &Group{dir, filepath.Join(dir, "memory.events")}
		if version == "cgroup2" {
			err = errors.Join(writeControl(dir, "memory.max", bytes), unlessMissing(writeControl(dir, "memory.swap.max", "0")))
		} else {
			g.events = filepath.Join(dir, "memory.oom_control")
			err = errors.Join(writeControl(dir, "memory.limit_in_bytes", bytes),
				unlessMissing(writeControl(dir, "memory.memsw.limit_in_bytes", bytes)))
		}
		if err == nil {
			return g, nil
		}
		last = errors.Join(err, os.Remove(dir))
	}
	return nil, last
}

// writeControl writes to a file of a cgroup that is there.
func writeControl(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Killed is how many processes of the group the kernel has killed for want of memory.
func (g *Group) Killed() (int, error) {
	b, err := os.ReadFile(g.events)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("%s: no line oom_kill in %q", g.events, b)
}

// Remove removes the group, which must have no process left.
func (g *Group) Remove() error { return os.Remove(g.dir) }

// Command prepares a program that runs inside the group from its first instruction on. Its process is the program's own.
func (g *Group) Command(program string, args ...string) *exec.Cmd {
	enter := []string{"-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(g.dir, "cgroup.procs"), program}
	return exec.Command("sh", append(enter, args...)...)
}

// unlessMissing leaves out that a file is not there: kernels without swap accounting lack its limit.
func unlessMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Anonymous returns RssAnon of a process in bytes, 0 if it has ended.
func Anonymous(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "RssAnon:")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return 0
	}
	return n << 10
}
