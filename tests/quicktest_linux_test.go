package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// quickTest is the requirement's Setup and Quick Test as printed, with the program's name in place of the script's.
const quickTest = `set -e
packhold config-sample
packhold init
mkdir -p /tmp/test_data
echo "test" > /tmp/test_data/file.txt
packhold backup --source /tmp/test_data --type full
packhold restore --backup-id 1 --destination /tmp/restored
packhold list
packhold verify
`

func TestQuickTest(t *testing.T) {
	folder := "/tmp"
	script := quickTest
	for _, name := range []string{"/tmp/test_data", "/tmp/restored"} {
		if _, err := os.Lstat(name); !os.IsNotExist(err) {
			folder = t.TempDir()
			t.Logf("%s is there already: %s stands for /tmp", name, folder)
			script = strings.ReplaceAll(quickTest, "/tmp/", folder+"/")
			break
		}
	}
	t.Cleanup(func() {
		os.RemoveAll(filepath.Join(folder, "test_data"))
		os.RemoveAll(filepath.Join(folder, "restored"))
	})
	h := home(t.TempDir())
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = h.environ()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(folder, "restored", "file.txt"))
	if err != nil || string(b) != "test\n" {
		t.Fatalf("file.txt: %q, %v\n%s", b, err, out)
	}
	sameTree(t, mustDescribe(t, filepath.Join(folder, "test_data")), filepath.Join(folder, "restored"))
	if _, err := os.Stat(h.repository()); err != nil {
		t.Errorf("the default repository: %v", err)
	}
}
