package tests

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The limits of the room plan.
const (
	maxLines   = 3000 // of a package, tests left out
	maxMethods = 5    // of an interface
	maxParams  = 5    // of an exported function or method
)

// room is a package of the plan. Every package must be in it: a new one finds its level first.
type room struct {
	level int
	group string // packages of one group may import each other at the same level
}

// plan is the room plan. "*" stands for one path element.
var plan = map[string]room{
	"cmd/packhold":                {8, ""},
	"cmd/packhold/internal/cli":   {7, "cli"},
	"cmd/packhold/internal/cli/*": {7, "cli"},
	"cmd/packhold/internal/web":   {6, ""},
	"cmd/packhold/internal/job":   {6, ""},
	"repo/report":                 {5, ""},
	"repo/repair":                 {5, ""}, // stands on repo/check, which finds what it mends
	"repo/backup":                 {4, ""},
	"repo/restore":                {4, "restore"},
	"repo/restore/fetch":          {4, "restore"},
	"repo/check":                  {4, ""},
	"repo/gc":                     {4, ""},
	"repo/audit":                  {4, ""},
	"repo/replicate":              {4, ""},
	"repo/admin":                  {4, ""},
	"repo/lock":                   {4, ""},
	"repo/repotest":               {5, ""}, // makes repositories for tests
	"repo":                        {3, ""},
	"repo/compare":                {3, ""}, // compares a tree of the file system with nodes of a snapshot
	"index":                       {2, "control"},
	"repo/control":                {2, "control"}, // stands on the others of its group
	"repo/keyring":                {2, "control"},
	"repo/writeonce":              {2, ""},        // the storage that locks, by name: repo stands on it too
	"repo/stored":                 {2, "control"}, // objects and their errors, by name: repo stands on it too
	"repo/localfs":                {2, ""},
	"repo/snapfs":                 {2, ""},
	"repo/retain":                 {2, ""},
	"repo/canary":                 {2, ""},
	"repo/catalog":                {2, ""},
	"pack":                        {1, ""},
	"repo/snapshot":               {1, ""},
	"repo/format":                 {1, ""}, // with repo/snapshot the codecs that repo stands on: its only children below it
	"backends/mem":                {1, ""},
	"backends/local":              {1, ""},
	"backends/sftp":               {1, ""},
	"backends/s3":                 {1, ""},
	"backends/retry":              {1, ""},
	"backends/limit":              {1, ""},
	"backends/cache":              {1, ""},
	"backends/fault":              {1, ""},
	"backends/noreplace":          {0, ""},
	"backends/serve":              {1, ""}, // the other end of backends/sftp: no driver
	"backends/backendtest":        {1, ""},
	"crypt":                       {0, "crypt"},
	"crypt/canon":                 {0, "crypt"},
	"chunk":                       {0, ""},
	"backends":                    {0, ""},
	"repo/mount":                  {0, ""},
}

// drivers are known to cli alone.
var drivers = []string{"backends/mem", "backends/local", "backends/sftp", "backends/s3"}

// pure rooms do no input or output.
var pure = []string{"chunk", "crypt", "crypt/canon", "repo/keyring", "pack", "repo/format", "repo/snapshot", "repo/retain"}

// impure are the packages that do.
var impure = []string{"os", "os/exec", "os/signal", "os/user", "net", "net/http", "syscall", "io/ioutil", "golang.org/x/sys/unix", "golang.org/x/sys/windows"}

// topLevel is what may stand in the project's own folder.
var topLevel = []string{"cmd", "repo", "chunk", "index", "pack", "crypt", "backends", "tests", "go.mod", "go.sum", "Makefile", "README.md",
	"LICENSE", "CHANGELOG.md", "docs", ".ci", ".gitignore"}

// mayRun are the only packages that may be without a room: programs for measuring.
const mayRun = "tests/"

// fromInside is the one of them that uses the rooms: through the program it would take hours.
const fromInside = "tests/fill"

// goPackage is what go list tells of a package.
type goPackage struct {
	ImportPath, Dir, Name, Doc         string
	Imports, TestImports, XTestImports []string
	GoFiles, IgnoredGoFiles            []string
}

// packages lists the module's packages by their path below it, with the imports of every platform.
func packages(t *testing.T) map[string]*goPackage {
	t.Helper()
	all := make(map[string]*goPackage)
	for _, system := range []string{"linux", "windows", "darwin", "freebsd"} {
		cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Doc,Imports,TestImports,XTestImports,GoFiles,IgnoredGoFiles", "packhold/...")
		cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				t.Fatalf("go list: %v\n%s", err, exit.Stderr)
			}
			t.Fatal(err)
		}
		d := json.NewDecoder(strings.NewReader(string(out)))
		for {
			p := new(goPackage)
			if err := d.Decode(p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimPrefix(p.ImportPath, "packhold/")
			if have := all[name]; have != nil {
				have.Imports = append(have.Imports, p.Imports...)
				have.TestImports = append(have.TestImports, p.TestImports...)
				have.XTestImports = append(have.XTestImports, p.XTestImports...)
				continue
			}
			all[name] = p
		}
	}
	for _, p := range all {
		for _, list := range []*[]string{&p.Imports, &p.TestImports, &p.XTestImports} {
			slices.Sort(*list)
			*list = slices.Compact(*list)
		}
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

// roomOf finds a package's room.
func roomOf(name string) (room, bool) {
	if r, ok := plan[name]; ok {
		return r, true
	}
	r, ok := plan[path.Dir(name)+"/*"]
	return r, ok
}

func ours(imports []string) []string {
	var names []string
	for _, i := range imports {
		if name, ok := strings.CutPrefix(i, "packhold/"); ok {
			names = append(names, name)
		}
	}
	return names
}

// Imports point down only.
func TestLayers(t *testing.T) {
	for name, p := range packages(t) {
		if name == "tests" || strings.HasPrefix(name, mayRun) {
			for _, i := range ours(slices.Concat(p.Imports, p.TestImports, p.XTestImports)) {
				if !strings.HasPrefix(i, mayRun) && name != fromInside {
					t.Errorf("%s imports %s: it drives the program from outside only", name, i)
				}
			}
			continue
		}
		own, ok := roomOf(name)
		if !ok {
			t.Errorf("%s has no room in the plan", name)
			continue
		}
		for _, i := range ours(p.Imports) {
			below, ok := roomOf(i)
			switch {
			case !ok: // its own turn tells
			case below.level > own.level:
				t.Errorf("%s (level %d) imports %s (level %d): imports point down", name, own.level, i, below.level)
			case below.level == own.level && (own.group == "" || own.group != below.group):
				t.Errorf("%s imports %s beside it on level %d", name, i, own.level)
			}
			if slices.Contains(drivers, i) && own.group != "cli" {
				t.Errorf("%s imports the driver %s: only cli builds drivers", name, i)
			}
			if i == "backends/backendtest" {
				t.Errorf("%s imports %s outside its tests", name, i)
			}
		}
		for _, i := range p.Imports {
			if slices.Contains(pure, name) && slices.Contains(impure, i) {
				t.Errorf("%s imports %s: it is pure", name, i)
			}
			if strings.HasPrefix(i, "net/http") && name != "backends/s3" && name != "cmd/packhold/internal/web" && own.group != "cli" {
				t.Errorf("%s imports %s", name, i)
			}
		}
	}
}

// The rooms of the main job exist: a wrong name in the plan would leave a package unchecked.
func TestRoomsExist(t *testing.T) {
	all := packages(t)
	for _, name := range []string{"cmd/packhold", "cmd/packhold/internal/cli", "repo", "repo/admin", "repo/backup", "repo/restore", "repo/check",
		"repo/audit", "repo/format", "repo/snapshot", "repo/stored", "repo/localfs", "index", "pack", "crypt", "crypt/canon",
		"repo/keyring", "chunk", "backends", "backends/local", "backends/mem", "backends/fault", "backends/backendtest"} {
		if all[name] == nil {
			t.Errorf("there is no package %s", name)
		}
	}
}

func TestPackageDocs(t *testing.T) {
	for name, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no doc comment", name)
		}
	}
}

func TestPackageNames(t *testing.T) {
	for name := range packages(t) {
		for element := range strings.SplitSeq(name, "/") {
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "types", "misc", "shared", "base"}, element) {
				t.Errorf("%s is called %s, which says nothing", name, element)
			}
		}
	}
}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		ignored := name == ".git" || name == "build" || strings.HasSuffix(name, ".test") || strings.HasSuffix(name, ".out")
		if !ignored && !slices.Contains(topLevel, name) {
			t.Errorf("%s does not belong in the project's own folder", name)
		}
	}
}

// Sizes, shapes and forbidden declarations, in the files of every platform.
func TestShapes(t *testing.T) {
	for name, p := range packages(t) {
		if name == "tests" || strings.HasPrefix(name, mayRun) {
			continue
		}
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		lines := 0
		set := token.NewFileSet()
		interfaces := make(map[string]*ast.InterfaceType)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			n, err := countLines(file)
			if err != nil {
				t.Fatal(err)
			}
			lines += n
			f, err := parser.ParseFile(set, file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				checkFunction(t, set, name, d)
			}
			for _, i := range f.Imports {
				if s, err := strconv.Unquote(i.Path.Value); err == nil && s == "C" {
					t.Errorf("%s uses cgo", set.Position(i.Pos()))
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.TypeSpec:
					if i, ok := n.Type.(*ast.InterfaceType); ok {
						interfaces[n.Name.Name] = i
					}
				case *ast.CallExpr:
					checkExit(t, set, name, n)
				}
				return true
			})
		}
		if lines > maxLines {
			t.Errorf("%s has %d lines, the limit is %d", name, lines, maxLines)
		}
		for typeName, i := range interfaces {
			if n := methods(i, interfaces); n > maxMethods {
				t.Errorf("%s.%s has %d methods, the limit is %d", name, typeName, n, maxMethods)
			}
		}
	}
}

func countLines(file string) (n int, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		n++
	}
	return n, lines.Err()
}

func checkFunction(t *testing.T, set *token.FileSet, pkg string, d ast.Decl) {
	f, ok := d.(*ast.FuncDecl)
	if !ok {
		return
	}
	if f.Recv == nil && f.Name.Name == "init" {
		t.Errorf("%s: %s has an init function", set.Position(f.Pos()), pkg)
	}
	n := 0
	for _, p := range f.Type.Params.List {
		n += max(1, len(p.Names))
	}
	if f.Name.IsExported() && n > maxParams {
		t.Errorf("%s: %s has %d parameters, the limit is %d", set.Position(f.Pos()), f.Name.Name, n, maxParams)
	}
}

// checkExit reports a library that ends the program or prints.
func checkExit(t *testing.T, set *token.FileSet, pkg string, c *ast.CallExpr) {
	s, ok := c.Fun.(*ast.SelectorExpr)
	if !ok || strings.HasPrefix(pkg, "cmd/") || pkg == "backends/backendtest" { // which only tests import
		return
	}
	x, ok := s.X.(*ast.Ident)
	if !ok {
		return
	}
	switch call := fmt.Sprintf("%s.%s", x.Name, s.Sel.Name); call {
	case "os.Exit", "os.Getenv", "os.LookupEnv", "fmt.Print", "fmt.Println", "fmt.Printf",
		"log.Print", "log.Printf", "log.Println", "log.Fatal", "log.Fatalf":
		t.Errorf("%s: %s calls %s: only the command prints, exits and reads the environment", set.Position(c.Pos()), pkg, call)
	}
}

// methods counts an interface's methods, those of embedded interfaces of the same package included; one of another
// package counts as one.
func methods(i *ast.InterfaceType, known map[string]*ast.InterfaceType) (n int) {
	for _, m := range i.Methods.List {
		name, embedded := m.Type.(*ast.Ident)
		switch {
		case embedded && len(m.Names) == 0 && known[name.Name] != nil && known[name.Name] != i:
			n += methods(known[name.Name], known)
		default:
			n += max(1, len(m.Names))
		}
	}
	return n
}
