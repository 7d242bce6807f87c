package tests

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// describe returns a line about every file below dir: type, permissions, owner, modification time, link count, content
// and extended attributes, by its path. The root itself is ".".
func describe(dir string) (map[string]string, error) {
	lines := make(map[string]string)
	first := make(map[string]string) // the first path of a hard-linked file
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		about := fmt.Sprintf("%v %v", info.Mode(), info.ModTime().UTC().Format(time.RFC3339Nano))
		system, group, err := describeSystem(path, info)
		if err != nil {
			return err
		}
		about += system
		if group != "" && !d.IsDir() {
			if first[group] == "" {
				first[group] = rel
			}
			about += " linked with " + first[group]
		}
		switch {
		case d.Type().IsRegular():
			sum, err := hashFile(path)
			if err != nil {
				return err
			}
			about += fmt.Sprintf(" %d bytes %s", info.Size(), sum)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			about += " -> " + target
		}
		lines[rel] = about
		return nil
	})
	return lines, err
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// differences tells how two descriptions differ, "" if they do not.
func differences(want, got map[string]string) string {
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(want)) {
		switch {
		case got[path] == "":
			fmt.Fprintf(&b, "%s is missing\n", path)
		case got[path] != want[path]:
			fmt.Fprintf(&b, "%s: got  %s\n%s  want %s\n", path, got[path], strings.Repeat(" ", len(path)), want[path])
		}
	}
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if want[path] == "" {
			fmt.Fprintf(&b, "%s is too many\n", path)
		}
	}
	return b.String()
}

// sameTree fails the test unless the trees are equal in everything that describe knows.
func sameTree(t testing.TB, want map[string]string, dir string) {
	t.Helper()
	got, err := describe(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := differences(want, got); d != "" {
		t.Fatalf("%s differs from what was backed up:\n%s", dir, d)
	}
}

func mustDescribe(t testing.TB, dir string) map[string]string {
	t.Helper()
	lines, err := describe(dir)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// writeRandom makes a file of n incompressible bytes that the seed decides.
func writeRandom(path string, seed uint64, n int64) error {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rand.NewChaCha8(key), n); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// folderSize adds up the sizes of all files below the folders, missing ones being empty.
func folderSize(t testing.TB, dirs ...string) (n int64) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return ignoreMissing(err)
			}
			info, err := d.Info()
			if err != nil {
				return ignoreMissing(err)
			}
			n += info.Size()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// line is a JSON line of packhold.
type line map[string]any

// text returns a field as a string, "" if it has none.
func (l line) text(name string) string {
	s, _ := l[name].(string)
	return s
}

// parseLines reads JSON lines. Each must be an object that begins with message_type and version.
func parseLines(stdout string) ([]line, error) {
	var lines []line
	for text := range strings.Lines(stdout) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			return nil, fmt.Errorf("%q is no JSON object: %w", text, err)
		}
		if !strings.HasPrefix(text, `{"message_type":"`) || l.text("message_type") == "" {
			return nil, fmt.Errorf("%q does not begin with message_type", text)
		}
		if v, ok := l["version"].(float64); !ok || v < 1 {
			return nil, fmt.Errorf("%q has no version", text)
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// snapshotIDs lists the snapshots' IDs in the order of the list.
func (h home) snapshotIDs(t testing.TB) []string {
	t.Helper()
	lines, err := parseLines(h.must(t, "list", "--json"))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, l := range lines {
		if l.text("message_type") == "snapshot" {
			ids = append(ids, l.text("id"))
		}
	}
	return ids
}

// restoreAndCompare restores a snapshot and fails the test unless it is bit-exact.
func (h home) restoreAndCompare(t testing.TB, id string, want map[string]string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	h.must(t, "restore", "--quiet", "--backup-id", id, "--destination", dir)
	sameTree(t, want, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}
