package tests

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// s3Server is a versitygw with one user, on files in dir.
type s3Server struct {
	addr string
	data string // the folder with its buckets
	args []string
	cmd  *exec.Cmd
}

const s3Key, s3Secret = "packhold", "packhold-secret"

// startS3 starts a server until the test ends. Without the program the test is skipped, or failed where CI says that nothing may be missing.
func startS3(t *testing.T) *s3Server {
	t.Helper()
	path, err := exec.LookPath("versitygw")
	if err != nil {
		out, _ := exec.Command("go", "env", "GOPATH").Output()
		path = filepath.Join(strings.TrimSpace(string(out)), "bin", "versitygw")
		if runtime.GOOS == "windows" {
			path += ".exe"
		}
	}
	if _, err := os.Stat(path); err != nil {
		lacks(t, "versitygw, the S3 server of the tests, is missing; tests/setup.sh installs it")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, sub := range []string{"data", "versions"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s := &s3Server{addr: l.Addr().String(), data: filepath.Join(dir, "data")}
	l.Close()
	s.args = []string{path, "--access", s3Key, "--secret", s3Secret, "--port", s.addr, "--quiet", "--keep-alive", "posix", "--versioning-dir", filepath.Join(dir, "versions"),
		filepath.Join(dir, "data")}
	s.run(t)
	t.Cleanup(s.stop)
	return s
}

// run starts the server, again after stop.
func (s *s3Server) run(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", s.addr); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal("versitygw does not answer")
		}
	}
}

func (s *s3Server) stop() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// remote is a home folder whose repository is elsewhere.
type remote struct {
	home
	env []string
}

func (r remote) command(args ...string) *exec.Cmd {
	cmd := r.home.command(args...)
	cmd.Env = append(cmd.Env, r.env...)
	return cmd
}

// exits runs packhold and fails the test unless it ends with the code.
func (r remote) exits(t *testing.T, code int, args ...string) result {
	t.Helper()
	res := finish(t, r.command(args...))
	if res.code != code {
		t.Fatalf("packhold %s: exit %d, want %d\n%s%s", strings.Join(args, " "), res.code, code, res.stdout, res.stderr)
	}
	return res
}

func (s *s3Server) remote(t *testing.T, place string) remote {
	t.Helper()
	return s.at(t, s.addr, place)
}

// at is remote over a line to the server.
func (s *s3Server) at(t *testing.T, addr, place string) remote {
	t.Helper()
	return remote{home(t.TempDir()), []string{"AWS_ACCESS_KEY_ID=" + s3Key, "AWS_SECRET_ACCESS_KEY=" + s3Secret, "PACKHOLD_REPOSITORY=s3:http://" + addr + "/" + place}}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// mainJob does what people do with a repository that is new.
func mainJob(t *testing.T, r remote) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeRandom(filepath.Join(source, "one"), 1, 6<<20); err != nil {
		t.Fatal(err)
	}
	r.exits(t, 10, "list")
	r.exits(t, 0, "init", "--quiet", "--pack-size", "2M")
	r.exits(t, 13, "init")
	r.exits(t, 0, "backup", "--quiet", "--source", source)
	first := mustDescribe(t, source)
	if err := writeRandom(filepath.Join(source, "two"), 2, 3<<20); err != nil {
		t.Fatal(err)
	}
	r.exits(t, 0, "backup", "--quiet", "--source", source)
	second := mustDescribe(t, source)
	if out := r.exits(t, 0, "list", "--json").stdout; strings.Count(out, `"message_type":"snapshot"`) != 2 {
		t.Errorf("the list is\n%s", out)
	}
	for id, want := range map[string]map[string]string{"1": first, "latest": second} {
		dst := filepath.Join(t.TempDir(), "restored")
		r.exits(t, 0, "restore", "--quiet", "--backup-id", id, "--destination", dst)
		sameTree(t, want, dst)
	}
	r.exits(t, 0, "verify", "--quiet", "--read-data")
	r.exits(t, 0, "verify", "--quiet", "--checksums")
	r.exits(t, 0, "stats")
	// Another machine, with the passphrase alone.
	other := remote{home(t.TempDir()), r.env}
	if ssh := filepath.Join(string(r.home), ".ssh"); isDir(ssh) {
		if err := copyTree(ssh, filepath.Join(string(other.home), ".ssh")); err != nil {
			t.Fatal(err)
		}
	}
	dst := filepath.Join(t.TempDir(), "restored")
	other.exits(t, 0, "restore", "--quiet", "--destination", dst)
	sameTree(t, second, dst)
}

func TestS3(t *testing.T) {
	s := startS3(t)
	mainJob(t, s.remote(t, "bucket/a/prefix"))
	mainJob(t, s.remote(t, "bucket/another"))

	// As the configuration file says it.
	r := s.remote(t, "")
	r.env = r.env[:2]
	config := filepath.Join(string(r.home), "config.json")
	text := `{"storage": {"type": "s3", "bucket": "configured", "endpoint": "` + s.addr + `", "plain_http": true, "addressing": "path", "connections": 3}}`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r.env = append(r.env, "PACKHOLD_CONFIG="+config)
	mainJob(t, r)

	if out := r.exits(t, 0, "storage", "test").stdout; strings.Count(out, "yes") < 9 {
		t.Errorf("the storage can do\n%s", out)
	}

	// What can be wrong with it.
	wrong := s.remote(t, "bucket/a/prefix")
	wrong.env[1] = "AWS_SECRET_ACCESS_KEY=wrong"
	wrong.exits(t, 16, "list")
	wrong.env = append(wrong.env[:0:0], wrong.env[2])
	wrong.env = append(wrong.env, "AWS_EC2_METADATA_DISABLED=true")
	wrong.exits(t, 16, "list")
	s.remote(t, "no-such-bucket").exits(t, 10, "list")
	gone := s.remote(t, "bucket/a/prefix")
	s.stop()
	gone.exits(t, 14, "list")
	s.run(t)
}
