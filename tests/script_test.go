package tests

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScript runs testdata/script/*.txtar, one behaviour each. Beside the commands of testscript there are:
//
//	newrepo [INIT-FLAG...]       give the script a home folder whose repository was just made
//	exits N PROGRAM [ARG...]     run it; it must exit with N. 4 lines of error on stderr must then be well-formed
//	tree-equal A B               compare two trees: names, contents, and all metadata
//	bigfile FILE BYTES SEED      make a file of random bytes
//	flip FILE BIT...             invert bits of the one file that the pattern FILE matches, counted from its end if negative
//	substitute FILE HEX HEX      replace bytes in every file that the pattern matches
//	hides TEXT DIR...            no file or name below the folders holds TEXT: raw, in hex, or in base64
//	remember NAME DIR            keep a digest of a folder's names and contents
//	unchanged NAME DIR           compare with it
//	json TYPE [FIELD=REGEXP...]  standard output is JSON lines, one of this type, whose fields match
//	grab NAME REGEXP             set a variable to the first group of the match in standard output
//	unlock PATH                  take the immutable flag off all files there
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			h := home(filepath.Join(e.WorkDir, "home"))
			if err := os.Mkdir(string(h), 0o700); err != nil {
				return err
			}
			e.Defer(func() { unlockTree(e.WorkDir) })
			e.Vars = append(e.Vars, h.environ()...)
			e.Vars = append(e.Vars, "REPO="+h.repository(), "CONFIG="+h.config(), "CACHE="+h.cache(), "STATE="+h.state())
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("there is no condition %s", name)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"newrepo":    scriptNewRepo,
			"exits":      scriptExits,
			"tree-equal": scriptTreeEqual,
			"bigfile":    scriptBigFile,
			"flip":       scriptFlip,
			"substitute": scriptSubstitute,
			"hides":      scriptHides,
			"remember":   scriptRemember,
			"unchanged":  scriptUnchanged,
			"json":       scriptJSON,
			"grab":       scriptGrab,
			"unlock":     scriptUnlock,
		},
	})
}

// arguments checks the form of a script command.
func arguments(ts *testscript.TestScript, neg bool, args []string, least int, usage string) {
	if neg || len(args) < least {
		ts.Fatalf("usage: %s", usage)
	}
}

func scriptNewRepo(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 0, "newrepo [INIT-FLAG...]")
	ts.Check(copyHome(home(ts.Getenv("HOME")), args...))
}

// fourLines is the form of every error of the program.
var fourLines = regexp.MustCompile(`(?m)^error: .*\S  +\[[a-z0-9-]+\.[a-z0-9-]+\]\n where: .*\S\neffect: .*\S\n  next: .*\S$`)

func scriptUnlock(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "unlock PATH")
	unlockTree(ts.MkAbs(args[0]))
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "exits N PROGRAM [ARG...]")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	stderr := ts.ReadFile("stderr")
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if sign := unseemly(stderr); sign != "" {
		ts.Fatalf("standard error holds %q", sign)
	}
	if got != 0 && args[1] == "packhold" && !fourLines.MatchString(stderr) {
		ts.Fatalf("standard error is not the four lines of an error")
	}
}

func scriptTreeEqual(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, false, args, 2, "[!] tree-equal A B")
	want, err := describe(ts.MkAbs(args[0]))
	ts.Check(err)
	got, err := describe(ts.MkAbs(args[1]))
	ts.Check(err)
	d := differences(want, got)
	if neg && d == "" {
		ts.Fatalf("%s and %s are equal", args[0], args[1])
	}
	if !neg && d != "" {
		ts.Fatalf("%s differs from %s:\n%s", args[1], args[0], d)
	}
}

func scriptBigFile(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "bigfile FILE BYTES SEED")
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	seed, err := strconv.ParseUint(args[2], 10, 64)
	ts.Check(err)
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o755))
	ts.Check(writeRandom(ts.MkAbs(args[0]), seed, n))
}

// rewrite changes a file of the repository, which is read-only.
func rewrite(path string, change func(data []byte) ([]byte, error)) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if data, err = change(data); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

func scriptFlip(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "flip FILE BIT...")
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(files) != 1 {
		ts.Fatalf("%s matches %d files, want 1", args[0], len(files))
	}
	ts.Check(rewrite(files[0], func(data []byte) ([]byte, error) {
		for _, a := range args[1:] {
			bit, err := strconv.Atoi(a)
			if err != nil {
				return nil, err
			}
			if bit < 0 {
				bit += 8 * len(data)
			}
			if bit < 0 || bit >= 8*len(data) {
				return nil, fmt.Errorf("%s has no bit %s", files[0], a)
			}
			data[bit/8] ^= 1 << (bit % 8)
		}
		return data, nil
	}))
}

func scriptSubstitute(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "substitute FILE HEX HEX")
	from, err := hex.DecodeString(args[1])
	ts.Check(err)
	to, err := hex.DecodeString(args[2])
	ts.Check(err)
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(files) == 0 {
		ts.Fatalf("%s matches no file", args[0])
	}
	for _, file := range files {
		ts.Check(rewrite(file, func(data []byte) ([]byte, error) {
			if n := bytes.Count(data, from); n != 1 {
				return nil, fmt.Errorf("%s holds %s %d times, want once", file, args[1], n)
			}
			return bytes.Replace(data, from, to, 1), nil
		}))
	}
}

func scriptHides(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, false, args, 2, "[!] hides TEXT DIR...")
	needles := encodings(args[0])
	var found string
	for _, dir := range args[1:] {
		files := 0
		err := filepath.WalkDir(ts.MkAbs(dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			hay := []byte(d.Name())
			if d.Type().IsRegular() {
				files++
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				hay = append(append(hay, 0), data...)
			}
			for _, n := range needles {
				if bytes.Contains(hay, n) {
					found = path
				}
			}
			return nil
		})
		ts.Check(err)
		if files == 0 {
			ts.Fatalf("%s holds no file: nothing was searched", dir)
		}
	}
	if neg && found == "" {
		ts.Fatalf("%q is nowhere", args[0])
	}
	if !neg && found != "" {
		ts.Fatalf("%q can be read in %s", args[0], found)
	}
}

// encodings are the forms in which a careless program would keep a text: as it is, in hex, in UTF-16, and in base64 at
// each of its three alignments.
func encodings(text string) [][]byte {
	list := [][]byte{[]byte(text), []byte(hex.EncodeToString([]byte(text))), []byte(strings.ToUpper(hex.EncodeToString([]byte(text))))}
	var wide []byte
	for _, c := range []byte(text) {
		wide = append(wide, c, 0)
	}
	list = append(list, wide)
	for shift := range 3 {
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			coded := e.EncodeToString(append(make([]byte, shift), text...))
			// The first characters mix with what stands before the text, the last with what stands behind it.
			list = append(list, []byte(coded[(shift*8+5)/6:len(coded)-1]))
		}
	}
	return list
}

func scriptRemember(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "remember NAME DIR")
	digest, err := contents(ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Setenv("remembered_"+args[0], digest)
}

func scriptUnchanged(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, false, args, 2, "[!] unchanged NAME DIR")
	digest, err := contents(ts.MkAbs(args[1]))
	ts.Check(err)
	was := ts.Getenv("remembered_" + args[0])
	if was == "" {
		ts.Fatalf("nothing is remembered as %s", args[0])
	}
	if (was == digest) == neg {
		ts.Fatalf("%s: was\n%s\nis\n%s", args[1], was, digest)
	}
}

// contents lists the files below dir with the digests of their bytes.
func contents(dir string) (string, error) {
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		sum, err := hashFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		list = append(list, sum[:16]+" "+rel)
		return err
	})
	slices.Sort(list)
	return fmt.Sprintf("%d files: %s", len(list), strings.Join(list, ", ")), err
}

func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "json TYPE [FIELD=REGEXP...]")
	lines, err := parseLines(ts.ReadFile("stdout"))
	ts.Check(err)
	var problem string
	for _, l := range lines {
		if l.text("message_type") != args[0] {
			continue
		}
		problem = ""
		for _, a := range args[1:] {
			name, pattern, _ := strings.Cut(a, "=")
			re, err := regexp.Compile("^(?:" + pattern + ")$")
			ts.Check(err)
			value, ok := l[name]
			text := fmt.Sprint(value)
			if n, number := value.(float64); number {
				text = strconv.FormatFloat(n, 'f', -1, 64)
			}
			if !ok || !re.MatchString(text) {
				problem = fmt.Sprintf("field %s of %v does not match %s", name, l, pattern)
			}
		}
		if problem == "" {
			return
		}
	}
	if problem == "" {
		problem = "there is no line of type " + args[0]
	}
	ts.Fatalf("%s", problem)
}

func scriptGrab(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "grab NAME REGEXP")
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) != 2 {
		ts.Fatalf("standard output does not match %s", args[1])
	}
	ts.Setenv(args[0], m[1])
}

// hides must find what it looks for, in every form and at every alignment.
func TestEncodings(t *testing.T) {
	const secret = "CanaryBytes-5d1e"
	for shift := range 3 {
		text := []byte(strings.Repeat("~", shift) + secret + "???")
		for name, hay := range map[string][]byte{
			"raw":       text,
			"hex":       []byte(hex.EncodeToString(text)),
			"base64":    []byte(base64.StdEncoding.EncodeToString(text)),
			"base64url": []byte(base64.RawURLEncoding.EncodeToString(text)),
		} {
			if !slices.ContainsFunc(encodings(secret), func(n []byte) bool { return bytes.Contains(hay, n) }) {
				t.Errorf("%s at alignment %d is not found", name, shift)
			}
		}
	}
	if slices.ContainsFunc(encodings(secret), func(n []byte) bool { return bytes.Contains([]byte("CanaryBytes and others"), n) }) {
		t.Error("something else is found")
	}
}
