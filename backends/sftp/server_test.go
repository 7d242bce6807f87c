//go:build unix

package sftp

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"packhold/backends/backendtest"
)

// serverVariable makes the test binary an SFTP server on its standard input and output, with the extensions that it lists.
const serverVariable = "PACKHOLD_TEST_SFTP_EXTENSIONS"

func TestMain(m *testing.M) {
	if extensions, ok := os.LookupEnv(serverVariable); ok {
		if err := serve(strings.Fields(extensions)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func serve(extensions []string) error {
	if err := sftp.SetSFTPExtensions(extensions...); err != nil {
		return err
	}
	s, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{os.Stdin, os.Stdout})
	if err != nil {
		return err
	}
	if err := s.Serve(); err != io.EOF {
		return err
	}
	return nil
}

// goServer is a command that runs pkg/sftp's own server, which knows no fsync.
func goServer(t *testing.T, extensions string) []string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"env", "GORACE=atexit_sleep_ms=0", serverVariable + "=" + extensions, program}
}

// program finds a program of OpenSSH. CI must have them all.
func program(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	backendtest.Lacks(t, "none of %q is installed; tests/setup.sh does it", names)
	return ""
}

// openSSHServer is a command that runs OpenSSH's sftp-server.
func openSSHServer(t *testing.T, args ...string) []string {
	t.Helper()
	return append([]string{program(t, "/usr/lib/openssh/sftp-server", "/usr/libexec/sftp-server", "/usr/lib/ssh/sftp-server", "/usr/libexec/openssh/sftp-server")}, args...)
}

// writeKey makes a key pair in files and returns the private one's name.
func writeKey(t *testing.T, file, passphrase string) (string, ssh.PublicKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "test")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, string(pem.EncodeToMemory(block)))
	writeFile(t, file+".pub", string(ssh.MarshalAuthorizedKey(key)))
	return file, key
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sshd is OpenSSH's server with its own keys, on a port of its own.
type sshd struct {
	dir     string
	port    int
	hostKey ssh.PublicKey
	user    string
	cmd     *exec.Cmd
	log     *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// taken are the ports given to servers, which run at the same time.
var taken struct {
	sync.Mutex
	ports map[int]bool
}

func freePort(t *testing.T) int {
	t.Helper()
	taken.Lock()
	defer taken.Unlock()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if taken.ports == nil {
			taken.ports = map[int]bool{}
		}
		if !taken.ports[port] {
			taken.ports[port] = true
			return port
		}
	}
}

func startSSHD(t *testing.T) *sshd {
	t.Helper()
	name := program(t, "sshd", "/usr/sbin/sshd")
	d := &sshd{dir: t.TempDir(), user: os.Getenv("USER"), log: new(lockedBuffer)}
	if os.Geteuid() == 0 {
		d.user = "root"
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where it locks itself in before a login
			t.Fatal(err)
		}
	}
	_, d.hostKey = writeKey(t, filepath.Join(d.dir, "host"), "")
	_, client := writeKey(t, filepath.Join(d.dir, "id"), "")
	_, encrypted := writeKey(t, filepath.Join(d.dir, "encrypted"), "open sesame")
	writeKey(t, filepath.Join(d.dir, "wrong"), "")
	writeFile(t, filepath.Join(d.dir, "authorized"), string(ssh.MarshalAuthorizedKey(client))+string(ssh.MarshalAuthorizedKey(encrypted)))
	d.port = freePort(t)
	writeFile(t, filepath.Join(d.dir, "config"), fmt.Sprintf(`
Port %d
ListenAddress 127.0.0.1
HostKey %[2]s/host
AuthorizedKeysFile %[2]s/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100
Subsystem sftp internal-sftp
`, d.port, d.dir))
	writeFile(t, filepath.Join(d.dir, "known"), knownhosts.Line([]string{d.address()}, d.hostKey)+"\n")
	t.Cleanup(func() {
		d.stop(t)
		if t.Failed() {
			t.Logf("sshd said:\n%s", d.log)
		}
	})
	d.start(t, name)
	return d
}

func (d *sshd) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(d.port)) }

func (d *sshd) start(t *testing.T, name string) {
	t.Helper()
	d.cmd = exec.Command(name, "-D", "-e", "-f", filepath.Join(d.dir, "config"))
	d.cmd.Stderr = d.log
	d.cmd.WaitDelay = time.Second
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		conn, err := net.Dial("tcp", d.address())
		if err == nil {
			conn.Close()
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("sshd does not answer:\n%s", d.log)
}

// processes are those of the server, its sessions included.
func (d *sshd) processes(t *testing.T) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	parent := map[int]int{}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // gone since
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		parent[pid], _ = strconv.Atoi(fields[1])
	}
	list := []int{d.cmd.Process.Pid}
	for i := 0; i < len(list); i++ {
		for pid, p := range parent {
			if p == list[i] {
				list = append(list, pid)
			}
		}
	}
	return list
}

func (d *sshd) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	// Stopped first, so that none forks while they are counted.
	var list []int
	for {
		now := d.processes(t)
		if len(now) == len(list) {
			break
		}
		list = now
		for _, pid := range list {
			_ = syscall.Kill(pid, syscall.SIGSTOP)
		}
	}
	for _, pid := range list {
		_ = syscall.Kill(pid, s)
	}
}

// stop kills the server and its sessions, as a crash of its machine does.
func (d *sshd) stop(t *testing.T) {
	t.Helper()
	if d.cmd == nil {
		return
	}
	d.signal(t, syscall.SIGKILL)
	_ = d.cmd.Wait()
	d.cmd = nil
}

// options are those of a Store in dir.
func (d *sshd) options(dir string) Options {
	return Options{
		Host: "127.0.0.1", Port: d.port, User: d.user, Path: dir,
		KeyFiles: []string{filepath.Join(d.dir, "id")}, KnownHosts: []string{filepath.Join(d.dir, "known")},
	}
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
