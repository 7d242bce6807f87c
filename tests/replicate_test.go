package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReplicateRemote: copies over a line that is cut for two seconds in the middle, by a program that is killed in the middle; what arrives is whole, and a
// vault that fetches has the same.
func TestReplicateRemote(t *testing.T) {
	ssh := startSSH(t)
	s3 := startS3(t)
	t.Run("sftp", func(t *testing.T) {
		where := filepath.Join(t.TempDir(), "copy")
		replicateRemote(t, ssh.remote(t, ""), ssh.url()+where, ssh.line)
	})
	t.Run("s3", func(t *testing.T) {
		line := newLine(t, s3.addr)
		replicateRemote(t, s3.remote(t, ""), "s3:http://"+line.addr+"/copies/one", line)
	})
}

func replicateRemote(t *testing.T, r remote, to string, line *cuttable) {
	t.Helper()
	if len(r.env) > 0 {
		r.env = r.env[:len(r.env)-1] // the repository is a folder here
	}
	source := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeRandom(filepath.Join(source, "one"), 1, 24<<20); err != nil {
		t.Fatal(err)
	}
	r.exits(t, 0, "init", "--quiet", "--pack-size", "2M")
	r.exits(t, 0, "backup", "--quiet", "--source", source)
	r.exits(t, 0, "host", "enroll", "--replicator", "--quiet")
	want := mustDescribe(t, source)

	// Killed in the middle.
	cmd := r.command("replicate", "--to", to, "--limit-upload", "8M")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start := line.passed.Load()
	for line.passed.Load() < start+8<<20 {
		time.Sleep(10 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the run that was killed came to its end")
	}
	if out := r.exits(t, 0, "list", "--json", "--from", to).stdout; strings.Contains(out, `"message_type":"snapshot"`) {
		t.Errorf("a copy that is not whole has a snapshot:\n%s", out)
	}

	// Cut for two seconds in the middle of the next one, which finds what the first had copied.
	cmd = r.command("replicate", "--json", "--to", to, "--limit-upload", "8M")
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start = line.passed.Load()
	for line.passed.Load() < start+4<<20 {
		time.Sleep(10 * time.Millisecond)
	}
	line.cut()
	time.Sleep(2 * time.Second)
	line.mend(t)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), `"snapshots":1,`) || strings.Contains(out.String(), `"packs_found":0,`) {
		t.Errorf("the run after the killed one says\n%s", out.String())
	}
	r.exits(t, 0, "verify", "--quiet", "--read-data", "--from", to)
	dst := filepath.Join(t.TempDir(), "restored")
	r.exits(t, 0, "restore", "--quiet", "--from", to, "--destination", dst)
	sameTree(t, want, dst)

	// A vault fetches from there what its home no longer has.
	vault := r
	vault.env = append(append([]string{}, r.env...), "PACKHOLD_REPOSITORY="+filepath.Join(t.TempDir(), "vault"))
	vault.exits(t, 0, "replicate", "--quiet", "--from", to)
	vault.exits(t, 0, "verify", "--quiet", "--read-data")
}
