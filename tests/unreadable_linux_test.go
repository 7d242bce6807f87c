package tests

import (
	"bytes"
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
	// It is listed for whoever has the passphrase, and for nobody else.
	searched := 0
	err := filepath.WalkDir(string(h), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if searched++; bytes.Contains(b, []byte("closed.txt")) {
			t.Errorf("%s holds the name of a skipped file", path)
		}
		return err
	})
	if err != nil || searched < 10 {
		t.Errorf("%d files searched, %v", searched, err)
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

// giveAway makes a tree nobody's, and lets others reach it: the folders of the test above it are their owner's alone.
func giveAway(dir string) error {
	for up := filepath.Dir(dir); up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o755); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
}

// Whoever is not root gets the bytes of everything and the privileges of nothing: no devices, no set-id bits of files that would be root's.
func TestRestoreWithoutPrivilege(t *testing.T) {
	needRoot(t)
	h := newHome(t)
	source := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	tool := filepath.Join(source, "tool")
	if err := os.WriteFile(tool, []byte("tool"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tool, 0o755|os.ModeSetuid|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mknod(filepath.Join(source, "null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		lacks(t, "no device can be made: %v", err)
	}
	if err := os.WriteFile(filepath.Join(source, "fine"), []byte("fine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(source, "fine"), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	h.must(t, "backup", "--quiet", "--source", source)
	out := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{string(h), out} {
		if err := giveAway(dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, flags := range [][]string{nil, {"--in-place"}, {"--no-owner"}} {
		cmd := h.command(append([]string{"restore", "--quiet", "--backup-id", "1", "--destination", out}, flags...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		res := finish(t, cmd)
		if res.code != 3 || !strings.Contains(res.stderr, "null") || !fourLines.MatchString(res.stderr) {
			t.Errorf("%q: exit %d, want 3\n%s", flags, res.code, res.stderr)
		}
		info, err := os.Stat(filepath.Join(out, "tool"))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			t.Errorf("%q: the tool of root is nobody's, with %v", flags, info.Mode())
		}
		if b, err := os.ReadFile(filepath.Join(out, "fine")); err != nil || string(b) != "fine" {
			t.Errorf("%q: fine: %q, %v", flags, b, err)
		}
		if _, err := os.Lstat(filepath.Join(out, "null")); !os.IsNotExist(err) {
			t.Errorf("%q: a device without privilege: %v", flags, err)
		}
	}
}
