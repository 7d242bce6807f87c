//go:build !386 && !arm

package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// On a file system that takes two names of a snapshot for one, the first stays as it is, the second is told, and nothing else suffers.
func TestCaseFolding(t *testing.T) {
	needRoot(t)
	for _, tool := range []string{"mkntfs", "lowntfs-3g"} {
		if _, err := lookTool(tool); err != nil {
			t.Fatalf("%v; tests/setup.sh installs it", err)
		}
	}
	image, folding := filepath.Join(t.TempDir(), "ntfs"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 128<<20); err != nil {
		t.Fatal(err)
	}
	runTool(t, "mkntfs", "-q", "-F", "-Q", image)
	if out, err := tool("lowntfs-3g", "-o", "ignore_case", image, folding); err != nil {
		lacksMount(t, "fuse", fmt.Errorf("%w %s", err, out))
	}
	t.Cleanup(func() { runTool(t, "umount", folding) })

	h, source := newHome(t), t.TempDir()
	files := map[string]string{}
	add := func(name, content string) {
		path := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		files[name] = content
	}
	add("Small", "the first")
	add("sMALL", "the second")
	add("Large", strings.Repeat("the first of many bytes\n", 200_000))
	add("lARGE", strings.Repeat("the second of many bytes\n", 200_000))
	add("Dir/only here", "a")
	add("Dir/Both", "b")
	add("dIR/only there", "c")
	add("dIR/bOTH", "d")
	add("plain", "no other has this name")
	h.must(t, "backup", "--quiet", "--source", source)

	collides := []string{"Small", "sMALL", "Large", "lARGE", "Dir", "dIR"}
	for _, flags := range [][]string{nil, nil, {"--in-place"}, {"--delete"}, {"--overwrite", "if-changed"}} {
		dst := filepath.Join(folding, "out")
		r := h.run(t, append([]string{"restore", "--no-owner", "--destination", dst}, flags...)...)
		if r.code != 3 {
			t.Fatalf("%q: exit %d\n%s", flags, r.code, r.stderr)
		}
		told := 0
		for _, name := range collides {
			if strings.Contains(r.stderr, "/"+name+": ") {
				told++
			}
		}
		if told < 3 {
			t.Errorf("%q: of three names that collide %d are told:\n%s", flags, told, r.stderr)
		}
		for _, pair := range [][]string{{"Small", "sMALL"}, {"Large", "lARGE"}, {"plain"}} {
			b, err := os.ReadFile(filepath.Join(dst, pair[0]))
			if err != nil || !slices.ContainsFunc(pair, func(name string) bool { return files[name] == string(b) }) {
				t.Errorf("%q: %q holds none of them: %d bytes, %v", flags, pair, len(b), err)
			}
		}
		got, err := os.ReadDir(filepath.Join(dst, "dir"))
		if err != nil || len(got) != 2 {
			t.Errorf("%q: the directory holds %v, %v: of one of the two, whole, is wanted", flags, got, err)
		}
		list, err := os.ReadDir(dst)
		if err != nil || len(list) != 4 {
			t.Errorf("%q: %v, %v", flags, list, err)
		}
	}
}
