package tests

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sshServer is OpenSSH's server with keys of its own, behind a line that can be cut.
type sshServer struct {
	dir    string // of the keys
	addr   string // of the server
	line   *cuttable
	user   string
	stderr strings.Builder
}

// openSSH finds a program of OpenSSH, or skips the test, or fails it where CI says that nothing may be missing.
func openSSH(t *testing.T, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name, "/usr/lib/openssh/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	lacks(t, "%s is missing; tests/setup.sh installs it", name)
	return ""
}

func startSSH(t *testing.T) *sshServer {
	t.Helper()
	sshd, keygen := openSSH(t, "sshd"), openSSH(t, "ssh-keygen")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := &sshServer{dir: t.TempDir(), user: me.Username}
	for _, name := range []string{"host", "id", "wrong"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	_, port, _ := net.SplitHostPort(s.addr)
	l.Close()
	config := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %[2]s/host\nAuthorizedKeysFile %[2]s/id.pub\nPidFile none\nStrictModes no\nUsePAM no\n"+
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\nSubsystem sftp internal-sftp\n", port, s.dir)
	if err := os.WriteFile(filepath.Join(s.dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(s.dir, "config"))
	cmd.Stderr = &s.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("sshd said:\n%s", &s.stderr)
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", s.addr); err == nil {
			conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("sshd does not answer")
		}
	}
	s.line = newLine(t, s.addr)
	return s
}

// remote is a home folder of somebody who may log in, with a repository at path on the server.
func (s *sshServer) remote(t *testing.T, path string) remote {
	t.Helper()
	return s.at(t, s.line.addr, path)
}

// at is remote over another line, on which the server has the same key.
func (s *sshServer) at(t *testing.T, addr, path string) remote {
	t.Helper()
	h := home(t.TempDir())
	s.admit(t, h)
	if err := os.WriteFile(filepath.Join(string(h), ".ssh/config"), []byte("Host 127.0.0.1\n  HostKeyAlias server\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return remote{h, []string{"PACKHOLD_REPOSITORY=sftp://" + s.user + "@" + addr + path}}
}

// url is what stands before the absolute path of a repository on the server.
func (s *sshServer) url() string {
	return "sftp://" + s.user + "@" + s.line.addr
}

// admit gives a home folder the key that may log in, and the server's own.
func (s *sshServer) admit(t *testing.T, h home) {
	t.Helper()
	dir := filepath.Join(string(h), ".ssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(s.dir, "id"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "id_ed25519"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	s.know(t, h, "host.pub")
}

// know writes known_hosts with the key in a file of the server's.
func (s *sshServer) know(t *testing.T, h home, file string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(s.line.addr)
	if err := os.WriteFile(filepath.Join(string(h), ".ssh/known_hosts"), fmt.Appendf(nil, "[127.0.0.1]:%s,server %s", port, b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// cuttable passes connections on to a server until it is cut, and again once it is mended.
type cuttable struct {
	addr, to string

	mu    sync.Mutex // guards what follows
	l     net.Listener
	conns map[net.Conn]bool

	passed atomic.Int64 // bytes, both ways
}

func newLine(t *testing.T, to string) *cuttable {
	t.Helper()
	c := &cuttable{addr: "127.0.0.1:0", to: to, conns: make(map[net.Conn]bool)}
	c.mend(t)
	t.Cleanup(c.cut)
	return c
}

func (c *cuttable) mend(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.l, c.addr = l, l.Addr().String()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.pass(conn)
		}
	}()
}

func (c *cuttable) pass(from net.Conn) {
	to, err := net.Dial("tcp", c.to)
	if err != nil {
		from.Close()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns[from], c.conns[to] = true, true
	for _, p := range [][2]net.Conn{{from, to}, {to, from}} {
		go func() {
			io.Copy(counting{p[0], &c.passed}, p[1])
			p[0].Close()
			p[1].Close()
		}()
	}
}

// counting counts what is written.
type counting struct {
	io.Writer
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *cuttable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.l.Close()
	for conn := range c.conns {
		conn.Close()
	}
	clear(c.conns)
}

func TestSFTP(t *testing.T) {
	s := startSSH(t)
	mainJob(t, s.remote(t, filepath.Join(t.TempDir(), "repository")))

	// As the configuration file says it, by an alias of the user's own ssh.
	r := s.remote(t, "")
	_, port, _ := net.SplitHostPort(s.line.addr)
	ssh := fmt.Sprintf("Host vault\n  HostName 127.0.0.1\n  Port %s\n  User %s\n  IdentityFile %s/id\n", port, s.user, s.dir)
	if err := os.WriteFile(filepath.Join(string(r.home), ".ssh/config"), []byte(ssh), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, storage := range []string{
		`{"type": "sftp", "host": "vault", "path": "%s", "connections": 2}`,
		`{"type": "sftp", "host": "by command", "path": "%s", "command": ["` + openSSH(t, "sftp-server") + `"]}`,
	} {
		config := filepath.Join(string(r.home), fmt.Sprint(i, ".json"))
		text := `{"storage": ` + fmt.Sprintf(storage, filepath.Join(t.TempDir(), "repository")) + `}`
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r.env = []string{"PACKHOLD_CONFIG=" + config}
		mainJob(t, r)
	}

	// Whom to believe.
	where := filepath.Join(t.TempDir(), "repository")
	u := s.remote(t, where)
	u.exits(t, 0, "init", "--quiet")
	if err := os.Remove(filepath.Join(string(u.home), ".ssh/known_hosts")); err != nil {
		t.Fatal(err)
	}
	if res := u.exits(t, 14, "list"); !strings.Contains(res.stderr, "host.unknown") || !strings.Contains(res.stderr, "SHA256:") {
		t.Errorf("an unknown host:\n%s", res.stderr)
	}
	s.know(t, u.home, "wrong.pub")
	if res := u.exits(t, 14, "list"); !strings.Contains(res.stderr, "host.changed") || strings.Count(res.stderr, "SHA256:") != 2 {
		t.Errorf("a host with another key:\n%s", res.stderr)
	}
	s.know(t, u.home, "host.pub")
	key, err := os.ReadFile(filepath.Join(s.dir, "wrong"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(string(u.home), ".ssh/id_ed25519"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	u.exits(t, 16, "list")
	s.remote(t, "/nowhere/at/all").exits(t, 10, "list")
	gone := s.remote(t, where)
	s.line.cut()
	gone.exits(t, 14, "list")
	s.line.mend(t)
}
