//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// tool is how a backup program is called. dir is the folder that everything of it stands below.
type tool struct {
	name    string
	program string
	env     func(dir string) []string
	init    []string
	backup  func(n int) []string // in the source folder; n counts from 1
	list    []string
	restore func(n int, dst string) []string // n is the number of backups so far
	inside  bool                             // restore runs in its destination
	check   []string
}

// newTool returns the tool of that name.
func newTool(name, packhold string) (tool, error) {
	t := tool{name: name, program: name}
	switch name {
	case "restic":
		t.env = func(dir string) []string {
			return []string{"RESTIC_PASSWORD=a passphrase for the bench", "RESTIC_REPOSITORY=" + dir + "/repo", "RESTIC_CACHE_DIR=" + dir + "/cache", "RESTIC_PROGRESS_FPS=0.01"}
		}
		t.init = []string{"init", "-q"}
		t.backup = func(int) []string { return []string{"backup", "-q", "."} }
		t.list = []string{"snapshots"}
		t.restore = func(_ int, dst string) []string { return []string{"restore", "-q", "latest", "--target", dst} }
		t.check = []string{"check", "-q", "--read-data"}
	case "borg":
		t.env = func(dir string) []string {
			return []string{"BORG_PASSPHRASE=a passphrase for the bench", "BORG_REPO=" + dir + "/repo", "BORG_BASE_DIR=" + dir + "/base"}
		}
		archive := func(n int) string { return "::a" + strconv.Itoa(n) }
		t.init = []string{"init", "-e", "repokey"}
		t.backup = func(n int) []string { return []string{"create", "-C", "zstd,1", archive(n), "."} }
		t.list = []string{"list"}
		t.restore = func(n int, _ string) []string { return []string{"extract", archive(n)} }
		t.inside = true
		t.check = []string{"check", "--verify-data"}
	case "packhold":
		t.program = packhold
		t.env = func(dir string) []string {
			return []string{"PACKHOLD_PASSPHRASE=a passphrase for the bench", "PACKHOLD_REPOSITORY=" + dir + "/repo",
				"PACKHOLD_CACHE_DIR=" + dir + "/cache", "PACKHOLD_CONFIG_DIR=" + dir + "/conf", "PACKHOLD_STATE_DIR=" + dir + "/state"}
		}
		t.init = []string{"init", "--quiet"}
		t.backup = func(int) []string { return []string{"backup", "--quiet", "--source", "."} }
		t.list = []string{"list"}
		t.restore = func(_ int, dst string) []string {
			return []string{"restore", "--quiet", "--backup-id", "latest", "--destination", dst}
		}
		t.check = []string{"verify", "--quiet", "--read-data"}
	default:
		return t, fmt.Errorf("there is no tool %s", name)
	}
	if _, err := exec.LookPath(t.program); err != nil {
		return t, err
	}
	return t, nil
}

func (t tool) version() string {
	arg := "version"
	if t.name == "borg" {
		arg = "--version"
	}
	out, err := exec.Command(t.program, arg).Output()
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitN(strings.TrimSpace(string(out)), "\n", 3)
	return strings.Join(lines[:min(2, len(lines))], ", ")
}

// command prepares a call in the folder in. Nothing of the caller's settings reaches it.
func (t tool) command(dir, in string, args []string) *exec.Cmd {
	cmd := exec.Command(t.program, args...)
	cmd.Dir = in
	cmd.Env = append([]string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "TMPDIR=" + filepath.Join(dir, "tmp")}, t.env(dir)...)
	return cmd
}
