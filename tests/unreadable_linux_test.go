package tests

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is the user that owns nothing, on every Linux.
const nobody = 65534

// A file that may not be read is named, everything else is saved, and the exit code is 3. Root may read everything, so
// root has another user try.
func TestUnreadableFile(t *testing.T) {
	h := newHome(t)
	source := filepath.Join(t.TempDir(), "source")
	for name, mode := range map[string]os.FileMode{"fine.txt": 0o644, "closed.txt": 0o000} {
		if err := os.MkdirAll(source, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(source, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	cmd := h.command("backup", "--source", source)
	if os.Geteuid() == 0 {
		for _, dir := range []string{string(h), source} {
			if err := giveAway(dir); err != nil {
				t.Fatal(err)
			}
			// The folders of the test above them are the owner's alone.
			for up := filepath.Dir(dir); up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
				if err := os.Chmod(up, 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.Chown(filepath.Join(source, "closed.txt"), 0, 0); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	res := finish(t, cmd)
	if res.code != 3 {
		t.Fatalf("exit code %d, want 3\n%s", res.code, res.stderr)
	}
	if !strings.Contains(res.stderr, "closed.txt") || !fourLines.MatchString(res.stderr) {
		t.Errorf("the file is not named:\n%s", res.stderr)
	}
	out := filepath.Join(t.TempDir(), "out")
	if res := h.run(t, "restore", "--quiet", "--backup-id", "latest", "--destination", out); res.code != 0 {
		t.Fatalf("restore: exit %d\n%s", res.code, res.stderr)
	}
	if b, err := os.ReadFile(filepath.Join(out, "fine.txt")); err != nil || string(b) != "fine.txt" {
		t.Errorf("fine.txt: %q, %v", b, err)
	}
	if _, err := os.Lstat(filepath.Join(out, "closed.txt")); !os.IsNotExist(err) {
		t.Errorf("closed.txt was restored though it could not be read: %v", err)
	}
}

func giveAway(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
}
