package tests

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// passphrase is that of every repository here. It is longer than the program's minimum.
const passphrase = "correct horse battery staple"

// packhold is the path of the built program.
var packhold string

// TestMain builds the program once. PACKHOLD_BINARY names one that is built already.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "packhold-tests")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		// Other users must be able to run it, see TestUnreadableFile.
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		seeds.dir = dir
		if packhold = os.Getenv("PACKHOLD_BINARY"); packhold == "" {
			packhold = filepath.Join(dir, "bin", "packhold")
			build := exec.Command("go", "build", "-buildvcs=false", "-o", packhold, "packhold/cmd/packhold")
			build.Stderr = os.Stderr
			if err := build.Run(); err != nil {
				fmt.Fprintln(os.Stderr, "building packhold:", err)
				return 1
			}
		}
		return m.Run()
	}())
}

// home is a home folder with everything packhold keeps, the repository at its default place included.
type home string

func (h home) repository() string {
	return filepath.Join(string(h), ".local/share/packhold/repository")
}
func (h home) config() string { return filepath.Join(string(h), ".config/packhold") }
func (h home) cache() string  { return filepath.Join(string(h), ".cache/packhold") }
func (h home) state() string  { return filepath.Join(string(h), ".local/state/packhold") }

// environ is the whole environment of a run with the passphrase at hand.
func (h home) environ() []string {
	return append(h.unattended(), "PACKHOLD_PASSPHRASE="+passphrase)
}

// unattended is environ without the passphrase.
func (h home) unattended() []string {
	return []string{"HOME=" + string(h), "PATH=" + filepath.Dir(packhold) + string(os.PathListSeparator) + os.Getenv("PATH"),
		"TMPDIR=" + os.TempDir(), "LANG=C.UTF-8", "TZ=UTC"}
}

// command prepares a run of packhold with h as its home folder.
func (h home) command(args ...string) *exec.Cmd {
	cmd := exec.Command(packhold, args...)
	cmd.Env = h.environ()
	return cmd
}

// result is what a run left.
type result struct {
	code           int
	stdout, stderr string
}

// run runs packhold to its end. It fails the test only if it cannot be started, or ended by a crash of the runtime.
func (h home) run(t testing.TB, args ...string) result {
	t.Helper()
	return finish(t, h.command(args...))
}

// must runs packhold and fails the test unless it exits with 0. It returns standard output.
func (h home) must(t testing.TB, args ...string) string {
	t.Helper()
	r := h.run(t, args...)
	if r.code != 0 {
		t.Fatalf("packhold %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
	if problem := unseemly(r.stderr); problem != "" || r.code == 2 {
		t.Fatalf("packhold %s crashed: exit %d\n%s", strings.Join(cmd.Args[1:], " "), r.code, r.stderr)
	}
	return r
}

// soaking says that tests of crashes should take hours rather than a minute.
func soaking() bool { return os.Getenv("PACKHOLD_SOAK") != "" }

// unseemly tells of what no user should ever read.
func unseemly(stderr string) string {
	for _, sign := range []string{"panic:", "goroutine ", "runtime error", "fatal error:"} {
		if strings.Contains(stderr, sign) {
			return sign
		}
	}
	return ""
}

// seeds holds a home folder per set of init flags, made on first use: RSA keys and PBKDF2 cost too much for each test.
var seeds struct {
	mu   sync.Mutex // guards made
	dir  string
	made map[string]home
}

// newHome copies a home folder whose repository was just made, with these flags of init.
func newHome(t testing.TB, initFlags ...string) home {
	t.Helper()
	h := home(t.TempDir())
	if err := copyHome(h, initFlags...); err != nil {
		t.Fatal(err)
	}
	return h
}

func copyHome(to home, initFlags ...string) error {
	seed, err := seedHome(initFlags)
	if err != nil {
		return err
	}
	return copyTree(string(seed), string(to))
}

func seedHome(initFlags []string) (home, error) {
	seeds.mu.Lock()
	defer seeds.mu.Unlock()
	key := strings.Join(initFlags, " ")
	if h, ok := seeds.made[key]; ok {
		return h, nil
	}
	h := home(filepath.Join(seeds.dir, fmt.Sprint("seed", len(seeds.made))))
	if err := os.Mkdir(string(h), 0o700); err != nil {
		return "", err
	}
	if out, err := h.command(append([]string{"init", "--quiet"}, initFlags...)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("packhold init %s: %w\n%s", key, err, out)
	}
	if seeds.made == nil {
		seeds.made = make(map[string]home)
	}
	seeds.made[key] = h
	return h, nil
}

// copyTree copies folders and regular files, with their permissions, into the folder to, which may exist.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, info.Mode().Perm()|0o700)
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("copying %s: not a regular file", path)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, info.Mode().Perm())
	})
}
