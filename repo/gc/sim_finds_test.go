package gc_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// step is a step of docs/protocol/prune_protocol.py as it stands in the program, and the program without it.
type step struct {
	name, file, with, without string
}

// steps are left out by building the test with other sources: the program itself cannot leave any out. left("x") is there in that build alone.
var steps = []step{
	{"fence", "repo/gc/prune.go", "		if err := p.r.Fence(ctx, l); err != nil {", `		if left("fence") {
			continue
		}
		if err := p.r.Fence(ctx, l); err != nil {`},
	{"exclusive", "repo/session.go", "	if err := stored.CreateWith(ctx, s.storage, name,", `	create := stored.CreateWith
	if left("exclusive") {
		create = stored.Put
	}
	if err := create(ctx, s.storage, name,`},
	{"recheck", "repo/gc/prune.go", "	if final.Packs, err = p.spare(", `	if left("recheck") {
		final.Packs = t.packs
	} else if final.Packs, err = p.spare(`},
	{"newonly", "repo/gc/prune.go", "	v, err := p.look(ctx, id)", `	if left("newonly") {
		clear(p.use.blobs)
	}
	v, err := p.look(ctx, id)`},
	{"unforget", "repo/gc/undelete.go", "	snap, err := s.Commit(ctx, rec, body, j)", `	if left("unforget") {
		infos, _, err := stored.List(ctx, r.Storage(), "forgotten/")
		for _, i := range infos {
			if err == nil {
				err = stored.Remove(ctx, r.Storage(), i.Name)
			}
		}
		return f.Snapshot, err
	}
	snap, err := s.Commit(ctx, rec, body, j)`},
	{"holdblind", "repo/gc/look.go", "		if len(marks.Held(p.r, f.Snapshot)) > 0 {", `		if !left("holdblind") && len(marks.Held(p.r, f.Snapshot)) > 0 {`},
	{"forgetfinals", "repo/condemned.go", "		case err == nil && suffix == \"final\":", `		case err == nil && suffix == "final" && left("forgetfinals"):
			final[id] = true
		case err == nil && suffix == "final":`},
	{"removesnapshot", "repo/gc/forget.go", "			if err == nil {\n				done.Add(1)", `			if err == nil && left("removesnapshot") {
				err = stored.Remove(gctx, r.Storage(), s.Name)
			}
			if err == nil {
				done.Add(1)`},
	{"samename", "repo/replicate/packs.go", "h.dead[id] != 0; id.Incarnation++", `h.dead[id] != 0 && !left("samename"); id.Incarnation++`},
	{"copiedlive", "repo/gc/look.go", "	p.res.Snapshots = len(snaps)\n", `	if left("copiedlive") {
		snaps = slices.DeleteFunc(snaps, func(s *repo.Snapshot) bool { return strings.HasPrefix(s.Name, "copied/") })
	}
	p.res.Snapshots = len(snaps)
`},
}

// quick are the steps whose absence few seeds find; the others take hundreds.
var quick = []string{"exclusive", "recheck", "newonly", "copiedlive"}

// leftOut builds this test with all steps made optional.
func leftOut(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := make(map[string]string)
	write := func(path, text string) {
		at := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, path)] = at
	}
	sources := make(map[string]string)
	for _, s := range steps {
		if sources[s.file] == "" {
			b, err := os.ReadFile(filepath.Join(root, s.file))
			if err != nil {
				t.Fatal(err)
			}
			sources[s.file] = string(b)
		}
		if n := strings.Count(sources[s.file], s.with); n != 1 {
			t.Fatalf("%s: %q is there %d times, where the step %q was", s.file, s.with, n, s.name)
		}
		sources[s.file] = strings.Replace(sources[s.file], s.with, s.without, 1)
		pkg := filepath.Dir(s.file)
		write(filepath.Join(pkg, "left.go"), "package "+filepath.Base(pkg)+"\n\nimport \"os\"\n\nfunc left(step string) bool { return os.Getenv(\"PACKHOLD_LEFT_OUT\") == step }\n")
	}
	for path, text := range sources {
		write(path, text)
	}
	overlay := filepath.Join(dir, "overlay.json")
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err == nil {
		err = os.WriteFile(overlay, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "gc.test")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", overlay, "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	return bin
}

// TestSimulationFinds leaves out one step of the protocol after the other, and the simulation must find what goes wrong.
func TestSimulationFinds(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the test anew")
	}
	bin := leftOut(t)
	failed := regexp.MustCompile(`seed (\d+): ([^\n]*)`)
	for _, s := range steps {
		if !soak && !slices.Contains(quick, s.name) {
			continue
		}
		cmd := exec.CommandContext(t.Context(), bin, "-test.run", "^TestSimulation$", "-test.timeout", "1h")
		cmd.Env = append(os.Environ(), "PACKHOLD_LEFT_OUT="+s.name, "PACKHOLD_SEEDS=0 4000")
		out, _ := cmd.CombinedOutput()
		if hit := failed.FindStringSubmatch(string(out)); hit == nil {
			t.Errorf("without %q nothing goes wrong", s.name)
		} else {
			t.Logf("without %q: seed %s: %s", s.name, hit[1], hit[2])
		}
	}
}
