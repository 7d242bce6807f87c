package noreplace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestRename(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"a": "new", "taken": "old"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	is := func(name, want string) {
		t.Helper()
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Fatalf("%s holds %q, %v, want %q", name, got, err, want)
		}
	}
	if err := Rename(root, "a", "taken"); !errors.Is(err, fs.ErrExist) && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("a taken name: %v", err)
	}
	is("a", "new")
	is("taken", "old")
	err = Rename(root, "a", "d/b")
	if errors.Is(err, errors.ErrUnsupported) {
		is("a", "new")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	is("d/b", "new")
}
