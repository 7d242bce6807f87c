package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/grammar"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/secret"
	"packhold/crypt"
)

// TestMain lets the test binary be the program packhold, for what can only be tried from a shell.
func TestMain(m *testing.M) {
	if os.Getenv("PACKHOLD_TEST_BINARY") != "" {
		os.Exit(Main(context.Background(), &run.Env{
			Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Now: time.Now, Zone: time.UTC,
		}, os.Args[1:]))
	}
	os.Exit(m.Run())
}

type result struct {
	code     int
	out, err string
}

// run calls Main with a home folder and variables as name, value.
func packhold(t *testing.T, home string, vars []string, args ...string) result {
	t.Helper()
	return runOver(t, nil, home, vars, args...)
}

// runOver is run with something between the program and its storage.
func runOver(t *testing.T, storage func(backends.Storage) backends.Storage, home string, vars []string, args ...string) result {
	t.Helper()
	var out, errs strings.Builder
	e := &run.Env{Storage: storage, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Now: time.Now, Zone: time.UTC, Getenv: func(name string) string {
		for i := 0; i < len(vars); i += 2 {
			if vars[i] == name {
				return vars[i+1]
			}
		}
		if name == "HOME" || name == "USERPROFILE" {
			return home
		}
		return ""
	}}
	code := Main(t.Context(), e, args)
	return result{code, out.String(), errs.String()}
}

// checkFour fails unless text ends in the four lines of an error with the word.
func checkFour(t *testing.T, text, word string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	lines = lines[max(len(lines)-4, 0):]
	for i, prefix := range []string{"error: ", " where: ", "effect: ", "  next: "} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], prefix) || len(lines[i]) == len(prefix) {
			t.Errorf("line %d does not begin with %q and a text:\n%s", i, prefix, text)
			return
		}
	}
	if !strings.HasSuffix(lines[0], "["+word+"]") {
		t.Errorf("the word is not %s:\n%s", word, text)
	}
}

func TestUsage(t *testing.T) {
	home := t.TempDir()
	for _, c := range []struct {
		args []string
		word string
		part string
	}{
		{nil, "usage.command", "no command"},
		{[]string{"conifg"}, "usage.command", "did you mean config?"},
		{[]string{"zzzzzz"}, "usage.command", "there is no command zzzzzz"},
		{[]string{"a\x1bb"}, "usage.command", `"a\x1bb"`},
		{[]string{"config"}, "usage.command", "validate, show, schema"},
		{[]string{"config", "shwo"}, "usage.command", "did you mean show?"},
		{[]string{"version", "--jsno"}, "usage.option", "did you mean --json?"},
		{[]string{"--jsno", "version"}, "usage.option", "did you mean --json?"},
		{[]string{"version", "-verbose"}, "usage.option", "did you mean --verbose?"},
		{[]string{"version", "-qx"}, "usage.option", "no option -x"},
		{[]string{"version", "-"}, "usage.argument", "found -"},
		{[]string{"version", "x"}, "usage.argument", "takes no argument"},
		{[]string{"version", "--", "--json"}, "usage.argument", "found --json"},
		{[]string{"version", "--repo"}, "usage.value", "needs a value"},
		{[]string{"version", "-r"}, "usage.value", "needs a value"},
		{[]string{"version", "--repo", "--quiet"}, "usage.value", "found --quiet"},
		{[]string{"version", "--json=perhaps"}, "usage.value", "perhaps"},
		{[]string{"version", "--=x"}, "usage.option", "no option"},
		{[]string{"completion"}, "usage.argument", "bash, zsh"},
		{[]string{"completion", "tcsh"}, "usage.argument", "tcsh"},
		{[]string{"completion", "bash", "zsh"}, "usage.argument", "zsh too"},
		{[]string{"config", "validate", "a", "b"}, "usage.argument", "b too"},
		{[]string{"version", "--passphrase", "hunter2"}, "usage.passphrase", "never"},
		{[]string{"version", "--password=hunter2"}, "usage.passphrase", "never"},
		{[]string{"--new_passphrase=hunter2"}, "usage.passphrase", "never"},
		{[]string{"version", "--passphrase-file=hunter2"}, "usage.passphrase", "never"},
		{[]string{"version", "--secret=hunter2"}, "usage.option", "--secret"},
		{[]string{"version", "-phunter2"}, "usage.option", "-p"},
	} {
		r := packhold(t, home, nil, c.args...)
		if r.code != 4 || r.out != "" || !strings.Contains(r.err, c.part) {
			t.Errorf("%q: code %d, out %q\n%s", c.args, r.code, r.out, r.err)
		}
		if strings.Contains(r.err, "hunter2") {
			t.Errorf("%q: the secret is repeated:\n%s", c.args, r.err)
		}
		checkFour(t, r.err, c.word)
	}
}

// Flags are taken before and behind the command, in every way to write them, by name or letter.
func TestArrange(t *testing.T) {
	a := newApp(&run.Env{}, nil)
	table := a.framework()
	for _, c := range []struct{ args, want string }{
		{"version", "packhold version --"},
		{"--json version -q", "packhold --json --quiet version --"},
		{"version -qv --repo /x", "packhold --quiet --verbose --repo=/x version --"},
		{"version -qr/x", "packhold --quiet --repo=/x version --"},
		{"version -qr /x", "packhold --quiet --repo=/x version --"},
		{"-r -x version", "packhold --repo=-x version --"},
		{"--repo=--json version", "packhold --repo=--json version --"},
		{"--repo= version", "packhold --repo= version --"},
		{"config --config f validate g --json", "packhold --config=f --json config validate -- g"},
		{"config-sample --stdout --json=false", "packhold --json=false config-sample --stdout --"},
		{"completion -- -q", "packhold completion -- -q"},
		{"-- version", "packhold version --"},
		{"completion help", "packhold completion -- help"},
	} {
		l, err := grammar.Arrange(table, strings.Fields(c.args))
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
			continue
		}
		if got := strings.Join(l.Arguments(), " "); got != c.want {
			t.Errorf("%s\nis read as %s\nwant       %s", c.args, got, c.want)
		}
	}
}

func TestHelp(t *testing.T) {
	for args, part := range map[string]string{
		"help": "Commands:", "--help": "config-sample", "-h version": "Usage: packhold version", "version --help": "Usage: packhold version",
		"help config": "validate  check", "help config show": "Usage: packhold config show", "config help": "schema", "config show -h": "masked", "help config-sample": "--stdout",
	} {
		r := packhold(t, t.TempDir(), nil, strings.Fields(args)...)
		if r.code != 0 || r.err != "" || !strings.Contains(r.out, part) || strings.Contains(r.out, "__complete") || strings.Contains(r.out, "(default: false)") {
			t.Errorf("%s: code %d\n%s%s", args, r.code, r.out, r.err)
		}
		for line := range strings.Lines(r.out) {
			if len(line) > grammar.MaxHelpWidth+1 || strings.HasSuffix(line, " \n") {
				t.Errorf("%s: line %q", args, line)
			}
		}
	}
}

func TestSetup(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, ".config", "packhold", "config.json")
	if runtime.GOOS == "windows" {
		path = filepath.Join(home, "AppData", "Roaming", "packhold", "config.json")
	}
	r := packhold(t, home, nil, "config-sample")
	if r.code != 0 || r.out != "" || !strings.Contains(r.err, path) || !strings.Contains(r.err, "packhold init") {
		t.Fatalf("%+v", r)
	}
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if r := packhold(t, home, nil, "config-sample"); r.code != 13 {
		t.Errorf("%+v", r)
	} else {
		checkFour(t, r.err, "config.exists")
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Error("the file is not as it was")
	}
	if r := packhold(t, home, nil, "config-sample", "--stdout"); r.code != 0 || r.out != string(before) || r.err != "" {
		t.Errorf("%+v", r)
	}
	if r := packhold(t, home, nil, "config", "validate"); r.code != 0 || !strings.Contains(r.err, "is valid, with 0 jobs") {
		t.Errorf("%+v", r)
	}
	if r := packhold(t, home, nil, "config", "validate", "--quiet"); r != (result{}) {
		t.Errorf("quiet: %+v", r)
	}
	other := filepath.Join(home, "other.json")
	if r := packhold(t, home, []string{"PACKHOLD_REPOSITORY", "/srv/repo"}, "config-sample", "--json", "--config", other); r.code != 0 || r.err != "" ||
		!strings.HasPrefix(r.out, `{"message_type":"config_sample","version":1,"path":`) {
		t.Errorf("%+v", r)
	}
	if r := packhold(t, home, []string{"PACKHOLD_CONFIG", other}, "config", "show"); r.code != 0 || !strings.Contains(r.out, filepath.FromSlash("/srv/repo")) || !strings.Contains(r.out, "environment PACKHOLD_CONFIG") {
		t.Errorf("%+v", r)
	}
	if r := packhold(t, home, nil, "config", "schema"); r.code != 0 || r.out != config.Schema() {
		t.Errorf("%+v", r)
	}
	if r := packhold(t, "", nil, "config-sample"); r.code != 4 {
		t.Errorf("%+v", r)
	} else {
		checkFour(t, r.err, "config.home")
	}
}

func TestConfigErrors(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, "c\n.json")
	if runtime.GOOS == "windows" {
		path = filepath.Join(home, "c.json")
	}
	for text, want := range map[string]struct{ word, part string }{
		"{\n  \"job\": []\n}": {"config.syntax", `:2:3`},
		`{"jobs": [{"source": "/a", "type": "\u001b[2Jfull"}]}`: {"config.syntax", "must be one of"},
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := packhold(t, home, nil, "config", "validate", path)
		if r.code != 4 || !strings.Contains(r.err, want.part) || strings.Contains(r.err, "\x1b") {
			t.Errorf("%s: %d\n%s", text, r.code, r.err)
		}
		checkFour(t, r.err, want.word)
	}
	r := packhold(t, home, nil, "--config", filepath.Join(home, "missing"), "config", "show", "--json")
	checkFour(t, r.err, "config.file")
	var line struct {
		Type    string `json:"message_type"`
		Version int    `json:"version"`
		Code    int    `json:"code"`
		Word    string `json:"word"`
		Next    string `json:"next"`
	}
	if err := json.Unmarshal([]byte(r.out), &line); err != nil || r.code != 4 || line.Type != "exit_error" || line.Version != 1 || line.Code != 4 || line.Word != "config.file" || line.Next == "" {
		t.Errorf("%+v, %v", r, err)
	}
	if r := packhold(t, home, []string{"PACKHOLD_REPOSITORY", "ftp://x"}, "config", "show"); r.code != 4 {
		t.Errorf("%+v", r)
	} else {
		checkFour(t, r.err, "config.setting")
	}
}

// With --json every line of every command is an object with type and version in front.
func TestJSON(t *testing.T) {
	home := t.TempDir()
	for _, args := range []string{"version", "config show", "config validate", "nonsense", "config show extra"} {
		r := packhold(t, home, nil, append(strings.Fields(args), "--json")...)
		n := 0
		for line := range strings.Lines(r.out) {
			n++
			var v map[string]any
			if err := json.Unmarshal([]byte(line), &v); err != nil || !strings.HasPrefix(line, `{"message_type":"`) || v["version"] != float64(1) {
				t.Errorf("%s: %v in %s", args, err, line)
			}
		}
		if n == 0 {
			t.Errorf("%s: no line", args)
		}
	}
	if r := packhold(t, home, nil, "version"); r.code != 0 || r.err != "" || !strings.Contains(r.out, runtime.Version()) || !strings.Contains(r.out, "FIPS 140-3 mode ") || !strings.Contains(r.out, "repository format 1\n") {
		t.Errorf("%+v", r)
	}
}

func testApp(out, errs io.Writer) (*app, *error) {
	stopped := new(error)
	return newApp(&run.Env{Stdout: out, Stderr: errs, Now: time.Now, Zone: time.UTC}, func(err error) { *stopped = err }), stopped
}

func TestWarn(t *testing.T) {
	var out, errs strings.Builder
	a, _ := testApp(&out, &errs)
	c := new(progress.Counter)
	work := func() error { c.Warn("/a\xff\x1b", "permission denied"); return nil }
	if err := a.Watch("saving", c, work); err != nil || out.String() != "" || errs.String() != "warning: \"/a\\xff\\x1b\": permission denied\n" {
		t.Errorf("%v, %q, %q", err, out.String(), errs.String())
	}
	errs.Reset()
	a.Out.JSON = true
	if err := a.Watch("saving", c, work); err != nil || errs.String() != "" ||
		out.String() != `{"message_type":"warning","version":1,"item":"/a�\u001b","item_raw":"L2H/Gw==","reason":"permission denied"}`+"\n" {
		t.Errorf("%v, %q, %q", err, out.String(), errs.String())
	}
	if c.Skipped() != 2 {
		t.Errorf("%d skipped", c.Skipped())
	}
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

// A reader of standard output that has gone ends the command quietly like SIGPIPE; any other trouble there is an error.
// Standard error may be lost without effect.
func TestLostOutput(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{{syscall.EPIPE, 141}, {syscall.ENOSPC, 15}, {errors.New("what"), 1}} {
		var errs strings.Builder
		e := &run.Env{Stdout: brokenWriter{c.err}, Stderr: &errs, Getenv: func(string) string { return "" }, Now: time.Now, Zone: time.UTC}
		if code := Main(t.Context(), e, []string{"version"}); code != c.code || (errs.String() == "") != (c.code == 141) {
			t.Errorf("%v: code %d, %q", c.err, code, errs.String())
		}
		a, stopped := testApp(brokenWriter{c.err}, io.Discard)
		a.Out.Data("x")
		if *stopped == nil {
			t.Errorf("%v: the command goes on", c.err)
		}
	}
	var out strings.Builder
	e := &run.Env{Stdout: &out, Stderr: brokenWriter{syscall.EPIPE}, Getenv: func(string) string { return "" }, Now: time.Now, Zone: time.UTC}
	if code := Main(t.Context(), e, []string{"version"}); code != 0 || out.String() == "" {
		t.Errorf("without standard error: code %d", code)
	}
}

// TestNextExists: what a failure tells the user to run is a command of this version.
func TestNextExists(t *testing.T) {
	a, _ := testApp(io.Discard, io.Discard)
	f := a.framework()
	for _, r := range rules() {
		for _, named := range regexp.MustCompile(`packhold ([a-z-]+)`).FindAllStringSubmatch(r.Next+" "+r.Effect, -1) {
			if f.Command(named[1]) == nil {
				t.Errorf("%s names packhold %s, which is no command", r.Word, named[1])
			}
		}
	}
}

func TestFinish(t *testing.T) {
	full := fmt.Errorf("storing pack: %w", backends.ErrNoSpace)
	for _, c := range []struct {
		err  error
		code fail.Code
		word string
	}{
		{full, 15, "storage.full"},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.EIO}, 14, "storage.io"},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, 15, "target.full"},
		{fmt.Errorf("x: %w", backends.ErrGone), 14, "storage.gone"},
		{fmt.Errorf("x: %w", crypt.ErrPassphrase), 12, "key.passphrase"},
		{fmt.Errorf("x: %w", crypt.ErrPolicy), 17, "key.policy"},
		{fmt.Errorf("x: %w", crypt.ErrFormat), 17, "format.unknown"},
		{fmt.Errorf("x: %w", crypt.ErrSignature), 22, "trust.signature"},
		{fmt.Errorf("x: %w", crypt.ErrOpen), 21, "damage.sealed"},
		{errors.Join(full, crypt.ErrSignature, crypt.ErrOpen), 22, "trust.signature"},
		{fmt.Errorf("x: %w", fs.ErrPermission), 16, "access.denied"},
		{fmt.Errorf("x: %w", fs.ErrExist), 13, "target.exists"},
		{fmt.Errorf("x: %w", fs.ErrNotExist), 4, "path.missing"},
		{secret.ErrNone, 12, "key.none"},
		{fmt.Errorf("%w: 3 bytes", secret.ErrShort), 4, "key.short"},
		{context.DeadlineExceeded, 14, "storage.timeout"},
		{errors.New("what"), 1, "internal.unclassified"},
	} {
		var errs strings.Builder
		a, _ := testApp(io.Discard, &errs)
		a.Where = "/backups"
		if code := a.finish(t.Context(), c.err); code != c.code || !strings.Contains(errs.String(), "\n where: /backups\n") {
			t.Errorf("%v: code %d\n%s", c.err, code, errs.String())
		}
		checkFour(t, errs.String(), c.word)
		if c.code == 15 && (!strings.Contains(errs.String(), "forget") || !strings.Contains(errs.String(), "prune")) {
			t.Errorf("the way out of a full storage is not named:\n%s", errs.String())
		}
	}
	// A signal goes before everything, unless the command had done its work.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(run.Interrupted(15))
	var errs strings.Builder
	a, _ := testApp(io.Discard, &errs)
	if code := a.finish(ctx, errors.Join(crypt.ErrSignature, context.Canceled)); code != 143 {
		t.Errorf("code %d", code)
	}
	checkFour(t, errs.String(), "interrupted.signal")
	if code := a.finish(ctx, nil); code != 0 {
		t.Errorf("code %d", code)
	}
}

func TestPassphrase(t *testing.T) {
	var errs strings.Builder
	a, _ := testApp(io.Discard, &errs)
	vars := map[string]string{}
	a.Env.Getenv = func(name string) string { return vars[name] }
	if _, err := a.Passphrase(t.Context()); !errors.Is(err, secret.ErrNone) {
		t.Error(err)
	}
	var prompts []string
	a.Env.Ask = func(_ context.Context, prompt string) ([]byte, error) {
		prompts = append(prompts, prompt)
		return []byte("12345678901234"), nil
	}
	p, err := a.NewPassphrase(t.Context(), "PACKHOLD_NEW_PASSPHRASE")
	if err != nil || string(p.Bytes()) != "12345678901234" || len(prompts) != 2 || !strings.Contains(errs.String(), "note: mostly runs") {
		t.Errorf("%v, %q, %q", err, prompts, errs.String())
	}
	vars["PACKHOLD_NEW_PASSPHRASE"] = "another passphrase"
	if p, err := a.NewPassphrase(t.Context(), "PACKHOLD_NEW_PASSPHRASE"); err != nil || string(p.Bytes()) != "another passphrase" {
		t.Error(err)
	}
}

func TestComplete(t *testing.T) {
	a := newApp(&run.Env{}, nil)
	table := a.framework()
	for _, c := range []struct{ before, current, want string }{
		{"", "conf", "config-sample config"},
		{"", "hel", "help"},
		{"", "__", ""},
		{"--repo /x", "versi", "version"},
		{"-q -r /x", "versi", "version"},
		{"--repo", "versi", ""},
		{"config", "", "validate show schema"},
		{"config show", "--j", "--json"},
		{"config-sample", "--s", "--stdout"},
		{"completion", "", "bash zsh fish powershell"},
		{"completion", "f", "fish"},
		{"nonsense", "", ""},
		{"version --", "--j", ""},
		{"version", "--repo=/", ""},
	} {
		var got []string
		for _, x := range grammar.Complete(table, strings.Fields(c.before), c.current, flagChoices) {
			got = append(got, x.Word)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s %s| becomes %q, want %q", c.before, c.current, got, c.want)
		}
	}
	for _, c := range []struct {
		before  string
		current string
		joined  string
		word    string
		split   bool
	}{
		{"backup --type =", "fu", "backup", "--type=fu", true},
		{"backup --type", "=", "backup", "--type=", true},
		{"backup --type = full", "x", "backup --type=full", "x", false},
		{"backup", "--type=fu", "backup", "--type=fu", false},
		{"a", "=", "a", "=", false},
	} {
		joined, word, split := grammar.JoinAssignments(strings.Fields(c.before), c.current)
		if strings.Join(joined, " ") != c.joined || word != c.word || split != c.split {
			t.Errorf("%s %s: %q %q %v", c.before, c.current, joined, word, split)
		}
	}
}

// Bash completes with the printed script, in a shell without the package bash-completion.
func TestBashCompletes(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil || runtime.GOOS == "windows" {
		t.Skip("there is no bash")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "packhold")); err != nil {
		t.Fatal(err)
	}
	const script = `source <(packhold completion bash) || exit
complete -p packhold >/dev/null || exit
try() { COMP_WORDS=(packhold "$@"); COMP_CWORD=$#; COMPREPLY=(); _packhold; echo "${COMPREPLY[*]}"; }
try conf
try config ""
try config show --js
try --repo "/a b" versi
try completion z
try "a'b\$(exit 1)" ""
`
	cmd := exec.Command(bash, "--noprofile", "--norc", "-c", script)
	cmd.Env = append(os.Environ(), "PACKHOLD_TEST_BINARY=1", "GORACE=atexit_sleep_ms=0", "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	want := "config-sample config\nvalidate show schema\n--json\nversion\nzsh\n\n"
	if err != nil || string(out) != want {
		t.Errorf("%v, got\n%s\nwant\n%s", err, out, want)
	}
}

// Every flag that is a list keeps spaces and commas, and no two flags of a command share a name.
func TestFlagTable(t *testing.T) {
	for _, args := range [][]string{{"completion", " a,b "}} {
		if r := packhold(t, t.TempDir(), nil, args...); !strings.Contains(r.err, `" a,b "`) {
			t.Errorf("%+v", r)
		}
	}
	global := make(map[string]bool)
	for _, f := range globalFlags() {
		for _, n := range f.Names() {
			if global[n] {
				t.Errorf("two global flags are called %s", n)
			}
			global[n] = true
		}
	}
	if !slices.Contains(grammar.CommandNames(newApp(&run.Env{}, nil).commands(), true), "config-sample") {
		t.Error("the requirement's first command is missing")
	}
}
