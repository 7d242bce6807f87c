package tests

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// documents are the texts for users, below the top of the project. FORMAT.md is for programmers and shows no commands.
func documents(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("../docs/*.md")
	if err != nil || len(docs) == 0 {
		t.Fatalf("docs/ holds no text: %v", err)
	}
	return append(docs, "../README.md", "../CHANGELOG.md")
}

// fence is a block of code in a document. Its info string says what becomes of it:
//
//	sh run [exit=N] [nopass] [home=NAME]   a shell runs it; it must exit with N, 0 if nothing is said
//
// nopass takes the passphrase out of the environment; NAME is the machine it runs on, each with a home folder of its own. A
// comment <!-- run --> in the line before the fence does what run does.
type fence struct {
	line    int
	info    []string
	text    string
	marked  bool
	exit    int
	nopass  bool
	machine string
}

// fences finds the blocks of code of a document.
func fences(t *testing.T, doc string) []fence {
	t.Helper()
	data, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	var all []fence
	var open *fence
	before := ""
	for i, line := range strings.Split(string(data), "\n") {
		rest, ok := strings.CutPrefix(line, "```")
		switch {
		case open != nil && ok:
			all, open = append(all, *open), nil
		case open != nil:
			open.text += line + "\n"
		case ok:
			open = &fence{line: i + 2, info: strings.Fields(rest), machine: "first", marked: strings.TrimSpace(before) == "<!-- run -->"}
			for _, word := range open.info[min(1, len(open.info)):] {
				name, value, _ := strings.Cut(word, "=")
				switch name {
				case "run":
					open.marked = true
				case "nopass":
					open.nopass = true
				case "home":
					open.machine = value
				case "exit":
					if open.exit, err = strconv.Atoi(value); err != nil {
						t.Fatalf("%s:%d: %v", doc, i+1, err)
					}
				default:
					t.Fatalf("%s:%d: a fence knows no %q", doc, i+1, word)
				}
			}
		}
		before = line
	}
	if open != nil {
		t.Fatalf("%s:%d: the fence is not closed", doc, open.line)
	}
	return all
}

// The servers of the documents. The test starts others in their place.
const (
	s3Example  = "s3.example.com:9000"
	sshExample = "sftp://backup@vault.example.com"
)

// outside are the absolute paths that the documents use. They are moved below the folder of the test.
var outside = regexp.MustCompile(`(^|[\s"'=:])/(critical|data|mnt|srv|tmp)\b`)

// TestDocumentedCommands runs the blocks of shell commands of every document, one after the other, as a new user would, in
// an empty home folder. PACKHOLD_PASSPHRASE answers what a terminal would ask.
func TestDocumentedCommands(t *testing.T) {
	for _, doc := range documents(t) {
		var blocks []fence
		for _, f := range fences(t, doc) {
			if len(f.info) > 0 && f.info[0] == "sh" && f.marked {
				blocks = append(blocks, f)
			}
		}
		if len(blocks) == 0 {
			continue
		}
		t.Run(filepath.Base(doc), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			t.Cleanup(func() { unlockTree(dir) })
			for name, text := range map[string]string{"data/report.txt": "numbers\n", "data/music/song.txt": "la\n", "data/cache/page.tmp": "x\n"} {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range []string{"critical", "mnt", "srv", "tmp", "work"} {
				if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			uses := func(what string) bool {
				return slices.ContainsFunc(blocks, func(f fence) bool { return strings.Contains(f.text, what) })
			}
			var servers, keys []string
			admit := func(home) {}
			if uses("s3:http://" + s3Example) {
				s := startS3(t)
				servers = append(servers, s3Example, s.addr)
				keys = []string{"AWS_ACCESS_KEY_ID=" + s3Key, "AWS_SECRET_ACCESS_KEY=" + s3Secret}
			}
			if uses(sshExample) {
				s := startSSH(t)
				servers = append(servers, sshExample, s.url()+dir)
				admit = func(h home) { s.admit(t, h) }
			}
			moved := strings.NewReplacer(servers...)
			exports := make(map[string]string) // by machine: what earlier blocks exported, as their reader's shell still has it
			for _, f := range blocks {
				h := home(filepath.Join(dir, "home", f.machine))
				if err := os.MkdirAll(string(h), 0o700); err != nil {
					t.Fatal(err)
				}
				admit(h)
				script := moved.Replace(outside.ReplaceAllString(f.text, "${1}"+dir+"/$2"))
				cmd := exec.Command("sh", "-eu", "-c", exports[f.machine]+script)
				cmd.Dir = filepath.Join(dir, "work")
				cmd.Env = append(h.environ(), "TMPDIR="+filepath.Join(dir, "tmp"))
				if f.nopass {
					cmd.Env = append(h.unattended(), "TMPDIR="+filepath.Join(dir, "tmp"))
				}
				cmd.Env = append(cmd.Env, keys...)
				out, err := cmd.CombinedOutput()
				if cmd.ProcessState == nil {
					t.Fatal(err)
				}
				if problem := unseemly(string(out)); problem != "" || cmd.ProcessState.ExitCode() != f.exit {
					t.Fatalf("%s:%d: exit %d, want %d %s\n%s\n%s", doc, f.line, cmd.ProcessState.ExitCode(), f.exit, problem, f.text, out)
				}
				for line := range strings.Lines(script) {
					if strings.HasPrefix(line, "export ") {
						exports[f.machine] += line
					}
				}
			}
		})
	}
}

// TestShellBlocks refuses shell commands that no test runs, but for those that build or install something.
func TestShellBlocks(t *testing.T) {
	may := regexp.MustCompile(`^(#|$|make |go |git |sudo |systemctl |systemd-creds |install |GOFIPS140=\S+ go |crontab |rsync )`)
	for _, doc := range documents(t) {
		for _, f := range fences(t, doc) {
			if len(f.info) == 0 || f.info[0] != "sh" || f.marked {
				continue
			}
			for line := range strings.Lines(f.text) {
				if !may.MatchString(strings.TrimSpace(line)) {
					t.Errorf("%s:%d: no test runs %q", doc, f.line, strings.TrimSpace(line))
				}
			}
		}
	}
}

// helpTexts holds what packhold help says of commands.
var helpTexts sync.Map

func helpOf(t *testing.T, words ...string) string {
	t.Helper()
	key := strings.Join(words, " ")
	if text, ok := helpTexts.Load(key); ok {
		return text.(string)
	}
	r := home(t.TempDir()).run(t, append([]string{"help"}, words...)...)
	text := r.stdout
	if r.code != 0 {
		text = ""
	}
	helpTexts.Store(key, text)
	return text
}

// TestDocumentedFlags checks every call of packhold in a document, in blocks of any kind and in the text: the command exists, and so
// do its flags.
func TestDocumentedFlags(t *testing.T) {
	call := regexp.MustCompile("(?m)(?:^[ \t]*|[/;|&(`] ?)packhold (?:-|[a-z])(?:[^;|&>`\"#)\n\\\\]|\\\\\n)*")
	flag := regexp.MustCompile(`(^|\s)(--?[a-z][a-z-]*)`)
	checked := 0
	for _, doc := range documents(t) {
		data, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		var pieces []string
		for _, f := range fences(t, doc) {
			if f.exit != 4 { // 4 shows a mistake
				pieces = append(pieces, call.FindAllString(f.text, -1)...)
			}
		}
		for _, inline := range regexp.MustCompile("`[^`\n]*`").FindAllString(string(data), -1) {
			pieces = append(pieces, call.FindAllString(inline, -1)...)
		}
		for _, piece := range pieces {
			piece = strings.ReplaceAll(piece, "\\\n", " ")
			_, line, _ := strings.Cut(piece, "packhold ")
			line, _, _ = strings.Cut(line, " -- ")
			var words []string
			skip := false
			for _, w := range strings.Fields(line) {
				switch {
				case skip:
					skip = false
				case w == "--repo" || w == "--config" || w == "--cache-dir":
					skip = true // the value of a global flag before the command
				case strings.HasPrefix(w, "-"):
				default:
					words = append(words, w)
				}
				if len(words) == 2 {
					break
				}
			}
			if len(words) == 0 || words[0] == "help" {
				continue
			}
			help := ""
			if len(words) == 2 {
				help = helpOf(t, words...)
			}
			if help == "" || !strings.HasPrefix(help, "packhold "+words[0]+" "+words[len(words)-1]) {
				help = helpOf(t, words[0])
			}
			if help == "" {
				t.Errorf("%s: there is no command in %q", doc, piece)
				continue
			}
			for _, m := range flag.FindAllStringSubmatch(line, -1) {
				if !strings.Contains(help, m[2]) && !strings.Contains(helpOf(t), m[2]) {
					t.Errorf("%s: %q: no option %s", doc, piece, m[2])
				}
			}
			checked++
		}
	}
	if checked < 20 {
		t.Errorf("only %d calls were found: the search is broken", checked)
	}
}

// TestLinks looks for the files that the documents link to.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)`)
	for _, doc := range append(documents(t), "../repo/FORMAT.md") {
		data, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(data), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", doc, m[1], err)
			}
		}
	}
}

// TestVectorsListed checks that the test vectors FORMAT.md lists are there.
func TestVectorsListed(t *testing.T) {
	data, err := os.ReadFile("../repo/FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(data), "Test vectors\n")
	if !ok {
		t.Fatal("FORMAT.md has no section of test vectors")
	}
	n := 0
	for _, m := range regexp.MustCompile("`([a-z/]+/[^`]+)`").FindAllStringSubmatch(section, -1) {
		found, err := filepath.Glob(filepath.Join("..", m[1]))
		if err != nil || len(found) == 0 {
			t.Errorf("%s: no such file", m[1])
		}
		n++
	}
	if n < 5 {
		t.Errorf("only %d paths were found", n)
	}
}

// TestExitCodes compares docs/exit-codes.md with the program's table, which is read from its source: nothing here may
// import it.
func TestExitCodes(t *testing.T) {
	want := exitCodes(t)
	data, err := os.ReadFile("../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([0-9N+]+) \| ([^|]+) \|`).FindAllStringSubmatch(string(data), -1) {
		got = append(got, m[1]+" "+strings.TrimSpace(m[2]))
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/exit-codes.md says\n%s\nthe program\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// exitCodes reads the constants of type Code and the rows that Table returns.
func exitCodes(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../cmd/packhold/internal/cli/fail/code.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]string)
	var rows []string
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			if len(n.Names) == 1 && len(n.Values) == 1 {
				if v, ok := n.Values[0].(*ast.BasicLit); ok {
					values[n.Names[0].Name] = v.Value
				}
			}
		case *ast.CompositeLit:
			if len(n.Elts) != 2 {
				return true
			}
			name, ok := n.Elts[0].(*ast.Ident)
			text, ok2 := n.Elts[1].(*ast.BasicLit)
			if !ok || !ok2 {
				return true
			}
			meaning, err := strconv.Unquote(text.Value)
			if err != nil {
				t.Fatal(err)
			}
			code := values[name.Name]
			if code == "128" {
				code, meaning = "128+N", strings.TrimPrefix(meaning, "128+N: ")
			}
			rows = append(rows, fmt.Sprint(code, " ", meaning))
		}
		return true
	})
	if len(rows) < 15 {
		t.Fatalf("only %d exit codes were found", len(rows))
	}
	return rows
}

// TestFaultsDocument: the tests, and the scripts, that docs/faults.md names are there.
func TestFaultsDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/faults.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]+): ((?:Test|Fuzz)[A-Za-z0-9]+)([A-Za-z0-9/-]*)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 50 {
		t.Errorf("it names %d tests only", len(named))
	}
	for _, n := range named {
		if script, ok := strings.CutPrefix(n[3], "/"); ok && n[2] == "TestScript" {
			if _, err := os.Stat("testdata/script/" + script + ".txtar"); err != nil {
				t.Error(err)
			}
		}
		files, err := filepath.Glob(filepath.Join("..", n[1], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, file := range files {
			code, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(code), "\nfunc "+n[2]+"(")
		}
		if !found {
			t.Errorf("there is no %s in %s", n[2], n[1])
		}
	}
}
