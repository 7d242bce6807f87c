//go:build unix

package sftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"packhold/backends"
	"packhold/backends/backendtest"
)

func TestUnknownHost(t *testing.T) {
	t.Parallel()
	d := startSSHD(t)
	o := d.options(t.TempDir())
	fingerprint := ssh.FingerprintSHA256(d.hostKey)
	missing, empty := filepath.Join(d.dir, "missing"), filepath.Join(d.dir, "empty")
	writeFile(t, empty, "")
	for what, files := range map[string][]string{"missing file": {missing}, "empty file": {empty}, "no file": nil} {
		o.KnownHosts = files
		_, err := Open(t.Context(), o)
		if !errors.Is(err, ErrUnknownHost) || errors.Is(err, ErrHostKeyChanged) || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), fingerprint) {
			t.Fatalf("%s: %v", what, err)
		}
		// What the error says to add makes it known.
		_, line, _ := strings.Cut(err.Error(), "add this line to ")
		if _, line, _ = strings.Cut(line, ": "); len(files) > 0 {
			writeFile(t, files[0], line+"\n")
			s, err := Open(t.Context(), o)
			if err != nil {
				t.Fatalf("%s: after adding %q: %v", what, line, err)
			}
			s.Close()
		}
	}
}

func TestHostKeyChanged(t *testing.T) {
	t.Parallel()
	d := startSSHD(t)
	_, other := writeKey(t, filepath.Join(t.TempDir(), "other"), "")
	known := filepath.Join(d.dir, "changed")
	o := d.options(t.TempDir())
	o.KnownHosts = []string{known}
	for what, text := range map[string]string{
		"changed": knownhosts.Line([]string{d.address()}, other),
		"hashed":  knownhosts.Line([]string{knownhosts.HashHostname(knownhosts.Normalize(d.address()))}, other),
		"revoked": "@revoked * " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(d.hostKey))) + "\n" + knownhosts.Line([]string{d.address()}, d.hostKey),
	} {
		writeFile(t, known, text+"\n")
		_, err := Open(t.Context(), o)
		if !errors.Is(err, ErrHostKeyChanged) || errors.Is(err, ErrUnknownHost) {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for _, want := range []string{ssh.FingerprintSHA256(d.hostKey), ssh.FingerprintSHA256(other), known} {
			if what == "revoked" && want == ssh.FingerprintSHA256(other) {
				continue
			}
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is not in %v", what, want, err)
			}
		}
	}
	// Several keys are known, of other kinds too, and one of them is right.
	writeFile(t, known, knownhosts.Line([]string{d.address()}, other)+"\n"+knownhosts.Line([]string{d.address()}, d.hostKey)+"\n")
	openTest(t, o)
}

// TestHostKeyKinds: of a server with several keys, the one is asked for that is known.
func TestHostKeyKinds(t *testing.T) {
	t.Parallel()
	d := startSSHD(t)
	h, err := readKnownHosts([]string{filepath.Join(d.dir, "known")})
	if err != nil {
		t.Fatal(err)
	}
	if got := h.algorithms(d.address()); got[0] != ssh.KeyAlgoED25519 || len(got) < 5 || slices.ContainsFunc(got, func(a string) bool { return strings.Contains(a, "-cert-") }) {
		t.Errorf("%q", got)
	}
	if got := h.algorithms("other.example:22"); len(got) < 5 {
		t.Errorf("%q", got)
	}
}

func TestHostKeyAlias(t *testing.T) {
	t.Parallel()
	d := startSSHD(t)
	o := d.options(t.TempDir())
	o.HostKeyAlias = "the-server"
	if _, err := Open(t.Context(), o); !errors.Is(err, ErrUnknownHost) {
		t.Errorf("an alias nobody knows: %v", err)
	}
	writeFile(t, o.KnownHosts[0], knownhosts.Line([]string{"the-server"}, d.hostKey)+"\n")
	openTest(t, o)
}

func TestKeys(t *testing.T) {
	t.Parallel()
	d := startSSHD(t)
	file := func(name string) string { return filepath.Join(d.dir, name) }
	socket := startAgent(t, file("id"), file("wrong"))
	encrypted := startAgent(t) // filled below
	o := d.options(t.TempDir())
	try := func(change func(*Options)) error {
		o := o
		change(&o)
		s, err := Open(t.Context(), o)
		if err == nil {
			s.Close()
		}
		return err
	}
	asked := 0
	passphrase := func(answer string, err error) func(context.Context, string) ([]byte, error) {
		return func(_ context.Context, name string) ([]byte, error) {
			asked++
			if name != file("encrypted") {
				t.Errorf("asked for the passphrase of %s", name)
			}
			return []byte(answer), err
		}
	}
	errAsk := errors.New("nobody there")
	for _, c := range []struct {
		what   string
		change func(*Options)
		asked  int
		err    error    // nil: works
		says   []string // in the error
	}{
		{"right key", func(o *Options) {}, 0, nil, nil},
		{"wrong key", func(o *Options) { o.KeyFiles = []string{file("wrong")} }, 0, fs.ErrPermission, []string{"offered: " + file("wrong")}},
		{"no key", func(o *Options) { o.KeyFiles = nil }, 0, fs.ErrPermission, []string{"none was offered"}},
		{"missing key", func(o *Options) { o.KeyFiles = []string{file("missing")} }, 0, fs.ErrPermission, []string{file("missing")}},
		{"no key at all", func(o *Options) { o.KeyFiles = []string{file("known")} }, 0, fs.ErrPermission, []string{file("known"), "no key found"}},
		{"wrong, missing and right key", func(o *Options) { o.KeyFiles = []string{file("missing"), file("wrong"), file("id")} }, 0, nil, nil},
		{"agent", func(o *Options) { o.KeyFiles, o.AgentSocket = nil, socket }, 0, nil, nil},
		{"agent, only keys that are named", func(o *Options) { o.KeyFiles, o.AgentSocket, o.IdentitiesOnly = []string{file("wrong")}, socket, true }, 0, fs.ErrPermission, nil},
		{"agent that is gone", func(o *Options) { o.KeyFiles, o.AgentSocket = nil, file("socket") }, 0, fs.ErrPermission, []string{"agent does not answer"}},
		{"agent that is gone, and a key", func(o *Options) { o.AgentSocket = file("socket") }, 0, nil, nil},
		{"encrypted key", func(o *Options) {
			o.KeyFiles, o.Passphrase = []string{file("encrypted")}, passphrase("open sesame", nil)
		}, 1, nil, nil},
		{"encrypted key, wrong passphrase", func(o *Options) {
			o.KeyFiles, o.Passphrase = []string{file("encrypted")}, passphrase("abracadabra", nil)
		}, 1, fs.ErrPermission, []string{"decrypting " + file("encrypted")}},
		{"encrypted key, nobody to ask", func(o *Options) { o.KeyFiles = []string{file("encrypted")} }, 0, fs.ErrPermission, []string{file("encrypted") + " is encrypted"}},
		{"encrypted key, failing to ask", func(o *Options) { o.KeyFiles, o.Passphrase = []string{file("encrypted")}, passphrase("", errAsk) }, 1, errAsk, nil},
		{"encrypted key behind a right one", func(o *Options) {
			o.KeyFiles, o.Passphrase = []string{file("id"), file("encrypted")}, passphrase("", errAsk)
		}, 0, nil, nil},
		{"encrypted key that the agent has", func(o *Options) {
			addToAgent(t, encrypted, file("encrypted"), "open sesame")
			o.KeyFiles, o.AgentSocket, o.Passphrase = []string{file("encrypted")}, encrypted, passphrase("", errAsk)
		}, 0, nil, nil},
		{"wrong user", func(o *Options) { o.User = "nobody-by-this-name" }, 0, fs.ErrPermission, []string{"nobody-by-this-name"}},
	} {
		asked = 0
		err := try(c.change)
		if c.err == nil && err != nil || c.err != nil && !errors.Is(err, c.err) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q is not in %v", c.what, text, err)
			}
		}
		if asked != c.asked {
			t.Errorf("%s: asked %d times", c.what, asked)
		}
	}
}

// TestPassphraseOnce: it is asked for once, though there are several connections, and typing it may take longer than connecting.
func TestPassphraseOnce(t *testing.T) {
	t.Parallel()
	d := startSSHD(t)
	o := d.options(t.TempDir())
	var asked atomic.Int32
	o.KeyFiles = []string{filepath.Join(d.dir, "encrypted")}
	o.DialTimeout = time.Second
	o.Passphrase = func(context.Context, string) ([]byte, error) {
		asked.Add(1)
		time.Sleep(1500 * time.Millisecond)
		return []byte("open sesame"), nil
	}
	s := openTest(t, o)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() { backendtest.Put(t, s, fmt.Sprint("f", i), strings.Repeat("x", partSize)) })
	}
	wg.Wait()
	if n := len(s.pool.links); asked.Load() != 1 || n < 2 {
		t.Errorf("asked %d times for %d connections", asked.Load(), n)
	}
}

// TestCertificate: a key is offered with the certificate beside it.
func TestCertificate(t *testing.T) {
	t.Parallel()
	d := startSSHD(t)
	o := d.options(t.TempDir())
	keygen := program(t, "ssh-keygen")
	writeKey(t, filepath.Join(d.dir, "ca"), "")
	writeFile(t, filepath.Join(d.dir, "authorized"), "cert-authority "+readFile(t, filepath.Join(d.dir, "ca.pub")))
	if _, err := Open(t.Context(), o); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("without certificate: %v", err)
	}
	run(t, keygen, "-q", "-s", filepath.Join(d.dir, "ca"), "-I", "test", "-n", d.user, filepath.Join(d.dir, "id.pub"))
	openTest(t, o)
}

func TestConfigAlias(t *testing.T) {
	t.Parallel()
	d := startSSHD(t)
	text := fmt.Sprintf(`
Host vault
  HostName 127.0.0.1
  Port %d
  User %s
  IdentityFile %s/id
  UserKnownHostsFile %s/known
`, d.port, d.user, d.dir, d.dir)
	o, err := Options{Host: "vault", Path: t.TempDir()}.WithConfig([]byte(text), "/home/someone")
	if err != nil {
		t.Fatal(err)
	}
	backendtest.Put(t, openTest(t, o), "a", "x")
}

// TestSSHCommand: OpenSSH's own client as the transport.
func TestSSHCommand(t *testing.T) {
	t.Parallel()
	d := startSSHD(t)
	argv := []string{
		program(t, "ssh"), "-F", "none", "-i", filepath.Join(d.dir, "id"), "-o", "UserKnownHostsFile=" + filepath.Join(d.dir, "known"), "-o", "BatchMode=yes",
		"-p", fmt.Sprint(d.port), "-l", d.user, "-s", "127.0.0.1", "sftp",
	}
	s := openTest(t, Options{Command: argv, Path: t.TempDir()})
	data := strings.Repeat("x", 2*partSize)
	backendtest.Put(t, s, "a", data)
	wantFile(t, s, "a", data)
	name := d.cmd.Path
	d.stop(t)
	d.start(t, name)
	wantFile(t, s, "a", data)
	argv[4] = filepath.Join(d.dir, "wrong")
	if _, err := Open(t.Context(), Options{Command: argv}); err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("with a wrong key: %v", err)
	}
}

// TestCloseWhileDialing: closing does not wait for a connection that may never come.
func TestCloseWhileDialing(t *testing.T) {
	t.Parallel()
	lock := filepath.Join(t.TempDir(), "lock")
	s, err := Open(t.Context(), Options{Command: []string{"sh", "-c", "mkdir " + lock + " && exec " + openSSHServer(t)[0] + "; exec sleep 60"}, Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { _ = s.Put(t.Context(), fmt.Sprint("f", i), make([]byte, 4*partSize), backends.PutOptions{}) })
	}
	time.Sleep(50 * time.Millisecond)
	within(t, 4*time.Second, "closing", func() { s.Close() })
	wg.Wait()
}

// TestReconnect: the server is killed with everything under way, and started again.
func TestReconnect(t *testing.T) {
	d := startSSHD(t)
	name := d.cmd.Path
	dir := t.TempDir()
	s := openTest(t, d.options(dir))
	data := strings.Repeat("0123456789abcdef", partSize/2)
	backendtest.Put(t, s, "packs/a", data)
	for round := range 3 {
		var wg sync.WaitGroup
		for i := range 6 {
			name := fmt.Sprintf("packs/%d-%d", round, i)
			wg.Go(func() {
				for try := 0; ; try++ {
					err := s.Put(t.Context(), name, []byte(data), backends.PutOptions{IfAbsent: i%2 == 0})
					if err == nil || errors.Is(err, fs.ErrExist) {
						break // its own, whose answer got lost
					}
					if try > 200 || errors.Is(err, fs.ErrNotExist) || errors.Is(err, backends.ErrGone) || errors.Is(err, fs.ErrPermission) {
						t.Errorf("Put: %v", err)
						break
					}
					time.Sleep(50 * time.Millisecond) // as a wrapper does while the server is down
				}
			})
		}
		time.Sleep(time.Duration(20+40*round) * time.Millisecond)
		d.stop(t)
		time.Sleep(100 * time.Millisecond)
		d.start(t, name)
		wg.Wait()
	}
	// Every call finds dead connections first.
	for _, c := range []struct {
		what string
		call func() error
	}{
		{"List", func() error {
			names, err := backendtest.Names(t, s, "")
			if len(names) != 19 {
				t.Errorf("%q", names)
			}
			return err
		}},
		{"Get", func() error { _, err := s.Get(t.Context(), "packs/a", 5, 100); return err }},
		{"Stat", func() error { _, err := s.Stat(t.Context(), "packs/a"); return err }},
		{"Put", func() error { return s.Put(t.Context(), "b", nil, backends.PutOptions{}) }},
		{"exclusive Put", func() error { return s.Put(t.Context(), "c", nil, backends.PutOptions{IfAbsent: true}) }},
		{"Delete", func() error { return s.Delete(t.Context(), "packs/0-0") }},
	} {
		d.stop(t)
		d.start(t, name)
		if err := c.call(); err != nil {
			t.Errorf("%s on a connection that died: %v", c.what, err)
		}
	}
	wantFile(t, s, "packs/2-5", data)
	d.stop(t)
	if err := s.Put(t.Context(), "d", nil, backends.PutOptions{}); err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, backends.ErrGone) {
		t.Errorf("without a server: %v", err)
	}
	if !isRefused(t, s) {
		t.Error("an error without a server does not say so")
	}
}

func isRefused(t *testing.T, s *Store) bool {
	_, err := s.Stat(t.Context(), "a")
	return errors.Is(err, syscall.ECONNREFUSED)
}

// TestNothingLeft: a closed Store leaves no goroutine and no process, whatever became of its connections.
func TestNothingLeft(t *testing.T) {
	d := startSSHD(t)
	before := runtime.NumGoroutine()
	for _, o := range []Options{d.options(t.TempDir()), {Command: openSSHServer(t), Path: t.TempDir()}, {Command: []string{"sh", "-c", "exec sleep 60"}, DialTimeout: 50 * time.Millisecond}} {
		for _, cut := range []bool{false, true} {
			s, err := Open(t.Context(), o)
			if err != nil {
				continue // the one that never answers
			}
			backendtest.Put(t, s, "d/a", "x")
			wantFile(t, s, "d/a", "x")
			for range s.List(t.Context(), "") {
				break
			}
			if cut {
				s.pool.links[0].kill()
				wantFile(t, s, "d/a", "x")
				s.pool.links[0].kill()
			}
			s.Close()
		}
	}
	for try := 0; runtime.NumGoroutine() > before; try++ {
		if try > 100 {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines became %d:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
		time.Sleep(20 * time.Millisecond)
	}
	children, _ := filepath.Glob("/proc/self/task/*/children")
	for _, file := range children {
		list, _ := os.ReadFile(file) // a thread may have ended since
		for _, pid := range strings.Fields(string(list)) {
			if pid != fmt.Sprint(d.cmd.Process.Pid) {
				t.Errorf("process %s is left", pid)
			}
		}
	}
}

// TestHang: a server that answers nothing does not outlive the context of a call, nor hold up the closing.
func TestHang(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("finds the server's processes in /proc")
	}
	d := startSSHD(t)
	s, err := Open(t.Context(), d.options(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 8*partSize)
	backendtest.Put(t, s, "d/a", string(data))
	d.signal(t, syscall.SIGSTOP)
	var wg sync.WaitGroup
	for what, call := range map[string]func(ctx context.Context) error{
		"Get":  func(ctx context.Context) error { _, err := s.Get(ctx, "d/a", 0, -1); return err },
		"Stat": func(ctx context.Context) error { _, err := s.Stat(ctx, "d/a"); return err },
		"List": func(ctx context.Context) error {
			for _, err := range s.List(ctx, "") {
				return err
			}
			return nil
		},
		"Put":    func(ctx context.Context) error { return s.Put(ctx, "d/b", data, backends.PutOptions{}) },
		"create": func(ctx context.Context) error { return s.Put(ctx, "d/c", nil, backends.PutOptions{IfAbsent: true}) },
		"Delete": func(ctx context.Context) error { return s.Delete(ctx, "d/a") },
	} {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			within(t, 1500*time.Millisecond, what, func() {
				if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %v", what, err)
				}
			})
		})
	}
	wg.Wait()
	within(t, 4*time.Second, "closing", func() { s.Close() })
	d.signal(t, syscall.SIGCONT)
	s = openTest(t, d.options(s.root))
	wantFile(t, s, "d/a", string(data))
}

// TestDeadLink: a link is given up that is silent, and so is a server that is alive but answers no call; the call is made again.
func TestDeadLink(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("finds the server's processes in /proc")
	}
	d := startSSHD(t)
	main := d.cmd.Process.Pid
	for _, c := range []struct {
		what string
		stop func(pids []int) []int
		keep time.Duration
	}{
		{"everything", func(pids []int) []int { return pids }, 200 * time.Millisecond},
		{"SFTP alone", func(pids []int) []int { return pids[len(pids)-1:] }, 100 * time.Millisecond},
	} {
		t.Run(c.what, func(t *testing.T) {
			o := d.options(t.TempDir())
			o.KeepAlive, o.Connections = c.keep, 1
			s := openTest(t, o)
			backendtest.Put(t, s, "a", "x")
			var sessions []int
			for _, pid := range d.processes(t) {
				if pid != main { // which goes on accepting connections
					sessions = append(sessions, pid)
				}
			}
			slices.Sort(sessions)
			for _, pid := range c.stop(sessions) {
				if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			within(t, 4*time.Second, "noticing", func() { wantFile(t, s, "a", "x") })
			for _, pid := range sessions {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		})
	}
	t.Run("nothing", func(t *testing.T) { // and a link that is only idle stays
		for _, o := range []Options{d.options(t.TempDir()), {Command: openSSHServer(t), Path: t.TempDir()}} {
			o.KeepAlive = 100 * time.Millisecond
			s := openTest(t, o)
			backendtest.Put(t, s, "a", "x")
			before := s.pool.links[0]
			time.Sleep(600 * time.Millisecond)
			wantFile(t, s, "a", "x")
			if before.isDead() || s.pool.links[0] != before {
				t.Error("an idle connection was given up")
			}
		}
	})
}

// TestRefusedConnections: a server that allows one connection is served with it.
func TestRefusedConnections(t *testing.T) {
	t.Parallel()
	lock := filepath.Join(t.TempDir(), "lock")
	s := openTest(t, Options{Command: []string{"sh", "-c", "mkdir " + lock + " && exec " + openSSHServer(t)[0]}, Path: t.TempDir(), Connections: 4})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { backendtest.Put(t, s, fmt.Sprint("f", i), strings.Repeat("x", 2*partSize)) })
	}
	wg.Wait()
	if got, err := backendtest.Names(t, s, ""); err != nil || len(got) != 8 {
		t.Errorf("%q, %v", got, err)
	}
}

// TestKilledWriter: what a writer that died in the middle of a Put left behind is no file, and is removed when it is old.
func TestKilledWriter(t *testing.T) {
	t.Parallel()
	argv := openSSHServer(t)
	dir := t.TempDir()
	s, err := Open(t.Context(), Options{Command: argv, Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	backendtest.Put(t, s, "a", "x")
	err = s.pool.do(t.Context(), 1, func(_ context.Context, l *link) error {
		_, f, err := s.createTemp(l)
		if err == nil {
			_, err = f.WriteAt([]byte("half"), 0)
		}
		l.kill()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	left, err := os.ReadDir(filepath.Join(dir, tempDir))
	if err != nil || len(left) != 1 {
		t.Fatalf("%v, %v", left, err)
	}
	s = openTest(t, Options{Command: argv, Path: dir, RemoveStale: true})
	if got, err := backendtest.Names(t, s, ""); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("%q, %v", got, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, tempDir)); err != nil || len(left) != 1 {
		t.Errorf("a fresh one is removed: %v, %v", left, err)
	}
	then := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, tempDir, left[0].Name()), then, then); err != nil {
		t.Fatal(err)
	}
	openTest(t, Options{Command: argv, Path: dir, RemoveStale: true})
	backendtest.Empty(t, filepath.Join(dir, tempDir))
}

// TestCancelledWhileWriting: a Put cancelled before its file has a name leaves nothing, and its connection lives if the server does.
func TestCancelledWhileWriting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openTest(t, Options{Command: openSSHServer(t), Path: dir, Connections: 1})
	backendtest.Put(t, s, "a", "x")
	before := s.pool.links[0]
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	time.AfterFunc(3*time.Millisecond, func() { cancel(why) })
	err := s.Put(ctx, "b", make([]byte, 64*partSize), backends.PutOptions{})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Error(err)
	}
	if _, err := s.Stat(t.Context(), "b"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if before.isDead() {
		t.Error("the connection was cut")
	}
	s.Close()
	backendtest.Empty(t, filepath.Join(dir, tempDir))
}

// cutter cuts the connection before or after the n-th packet has been sent.
type cutter struct {
	transport
	n     int
	after bool
	done  *bool // it did
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) < 5 || b[4] == 0 || *c.done {
		return c.out.Write(b)
	}
	if c.n--; c.n >= 0 {
		return c.out.Write(b)
	}
	*c.done = true
	if c.after {
		_, _ = c.out.Write(b)
		time.Sleep(10 * time.Millisecond) // the server comes to it, and its answer is lost or comes late
	}
	c.kill()
	return 0, io.ErrClosedPipe
}

func (c *cutter) Close() error { return c.out.Close() }

// TestEachRequestLost cuts the connection at every request of every call, before and after the server got it: the call works all the same.
func TestEachRequestLost(t *testing.T) {
	t.Parallel()
	argv := openSSHServer(t)
	for _, c := range []struct {
		what     string
		call     func(s *Store) error
		requests int      // at least
		left     []string // files, after
	}{
		{"exclusive Put", func(s *Store) error {
			err := s.Put(t.Context(), "d/new", []byte("x"), backends.PutOptions{IfAbsent: true})
			if errors.Is(err, fs.ErrExist) {
				err = nil // its own
			}
			return err
		}, 9, []string{"d/new", "d/old"}},
		{"Put", func(s *Store) error { return s.Put(t.Context(), "d/old", []byte("x"), backends.PutOptions{}) }, 8, []string{"d/old"}},
		{"Get", func(s *Store) error {
			b, err := s.Get(t.Context(), "d/old", 0, -1)
			if err == nil && string(b) != "old" {
				err = fmt.Errorf("got %q", b)
			}
			return err
		}, 6, []string{"d/old"}},
		{"Stat", func(s *Store) error { _, err := s.Stat(t.Context(), "d/old"); return err }, 2, []string{"d/old"}},
		{"Stat of nothing", func(s *Store) error {
			if _, err := s.Stat(t.Context(), "d/none"); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("not absent: %w", err)
			}
			return nil
		}, 3, []string{"d/old"}},
		{"Delete", func(s *Store) error { return s.Delete(t.Context(), "d/old") }, 3, nil},
		{"List", func(s *Store) error {
			names, err := backendtest.Names(t, s, "")
			if err == nil && !slices.Equal(names, []string{"d/old"}) {
				err = fmt.Errorf("listed %q", names)
			}
			return err
		}, 9, []string{"d/old"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			for n := 0; ; n++ {
				cuts := 0
				for _, after := range []bool{false, true} {
					dir := t.TempDir()
					if err := os.Mkdir(filepath.Join(dir, "d"), 0o700); err != nil {
						t.Fatal(err)
					}
					writeFile(t, filepath.Join(dir, "d/old"), "old")
					done := false
					s := &Store{root: dir, dirs: map[string]bool{}, pool: newPool(1, func(ctx context.Context) (*link, error) {
						tr, err := runCommand(argv)
						if err != nil {
							return nil, err
						}
						tr.out = &cutter{transport: tr, n: n + 1, after: after, done: &done} // the first packet begins the session
						return newLink(ctx, tr, time.Minute)
					})}
					if err := c.call(s); err != nil {
						t.Errorf("request %d, after: %v: %v", n, after, err)
					}
					s.Close()
					got := []string{}
					for _, name := range []string{"d/new", "d/old"} {
						if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
							got = append(got, name)
						}
					}
					if !slices.Equal(got, c.left) && len(got)+len(c.left) > 0 {
						t.Errorf("request %d, after: %v: left %q", n, after, got)
					}
					if left, _ := os.ReadDir(filepath.Join(dir, tempDir)); len(left) > 1 {
						t.Errorf("request %d, after: %v: %v", n, after, left)
					}
					if done {
						cuts++
					}
				}
				if cuts == 0 {
					if n < c.requests {
						t.Errorf("%d requests were cut, of %d at least", n, c.requests)
					}
					break
				}
			}
		})
	}
}

// misspelling garbles requests for hard links, as if the server could not do them.
type misspelling struct{ io.WriteCloser }

func (m misspelling) Write(b []byte) (int, error) {
	if _, err := m.WriteCloser.Write(bytes.Replace(b, []byte(extHardlink), []byte("hardlimp@openssh.com"), 1)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// TestLinksFail: a server that offers hard links on a file system without them has no exclusive create, and its rename is not trusted.
func TestLinksFail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := &Store{root: dir, dirs: map[string]bool{}, pool: newPool(1, func(ctx context.Context) (*link, error) {
		tr, err := runCommand(openSSHServer(t))
		if err != nil {
			return nil, err
		}
		tr.out = misspelling{tr.out}
		return newLink(ctx, tr, time.Minute)
	})}
	if err := s.Put(t.Context(), "d/a", []byte("x"), backends.PutOptions{IfAbsent: true}); !errors.Is(err, backends.ErrUnsupported) {
		t.Error(err)
	}
	backendtest.Put(t, s, "d/a", "x")
	if err := s.Put(t.Context(), "d/a", []byte("y"), backends.PutOptions{IfAbsent: true}); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	wantFile(t, s, "d/a", "x")
	s.Close()
	backendtest.Empty(t, filepath.Join(dir, tempDir))
}

// TestMeter: names are counted in packets however they are cut.
func TestMeter(t *testing.T) {
	packet := func(kind byte, count uint32, rest int) string {
		b := []byte{0, 0, 0, 0, kind, 0, 0, 0, 7, byte(count >> 24), byte(count >> 16), byte(count >> 8), byte(count)}
		b = append(b, make([]byte, rest)...)
		b[3], b[2] = byte(len(b)-4), byte((len(b)-4)>>8)
		return string(b)
	}
	stream := packet(104, 5, 700) + packet(103, 99, 40) + packet(104, 1, 0) + "\x00\x00\x00\x01\x68" + "\x00\x00\x00\x05\x65abcd" + "\x00\x00\x00\x00" + packet(104, 3, 1)
	for step := 1; step < 40; step++ {
		m := &meter{r: strings.NewReader(stream)}
		over := 0
		defer m.watch(8, func() { over++ })()
		defer m.watch(9, func() { t.Error("called too early") })()
		b := make([]byte, step)
		for {
			if _, err := m.Read(b); err == io.EOF {
				break
			}
		}
		if m.names != 9 || over != 1 {
			t.Errorf("in steps of %d: %d names, over %d times", step, m.names, over)
		}
	}
}

// TestEndlessDirectory: a server that makes up names for ever fills no memory.
func TestEndlessDirectory(t *testing.T) {
	ours, theirs := net.Pipe()
	go endless(theirs)
	l, err := newLink(t.Context(), transport{in: ours, out: ours, kill: func() { ours.Close() }, wait: func() error { return nil }}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := l.readDir(t.Context(), "d", 10_000); !errors.Is(err, errTooMany) || entries != nil {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	if l.isDead() {
		t.Error("the connection did not survive")
	}
	l.close()
}

// TestShortAnswers: a server may send less than it was asked for. A failure to read is what a bad sector looks like.
func TestShortAnswers(t *testing.T) {
	ours, theirs := net.Pipe()
	go endless(theirs)
	s := &Store{root: ".", dirs: map[string]bool{}, pool: newPool(1, func(ctx context.Context) (*link, error) {
		return newLink(ctx, transport{in: ours, out: ours, kill: func() { ours.Close() }, wait: func() error { return nil }}, time.Minute)
	})}
	defer s.Close()
	b, err := s.Get(t.Context(), "f", 3, endlessBad-3)
	if err != nil || len(b) != endlessBad-3 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	for i := range b {
		if b[i] != byte((i+3)*7>>3) {
			t.Fatalf("byte %d is wrong", i)
		}
	}
	if _, err := s.Get(t.Context(), "f", 0, -1); !errors.Is(err, syscall.EIO) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a bad sector: %v", err)
	}
	got, bad, err := backends.GetBroken(t.Context(), s, "f", endlessSize, endlessSize)
	if err != nil || len(got) != endlessSize || bad == 0 || bad > endlessSize-endlessBad+4096 {
		t.Errorf("%d bytes, %d bad, %v", len(got), bad, err)
	}
}

const (
	endlessSize = 80_000
	endlessBad  = 70_000 // from here on nothing can be read
)

// endless serves one regular file, in answers of 1,000 bytes at most, and directories with names that never end, a hundred at a time.
func endless(conn net.Conn) {
	defer conn.Close()
	send := func(b string) { _, _ = io.WriteString(conn, string([]byte{0, 0, byte(len(b) >> 8), byte(len(b))})+b) }
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		body := make([]byte, int(head[2])<<8|int(head[3]))
		if _, err := io.ReadFull(conn, body); err != nil {
			return
		}
		id := string(body[1:min(5, len(body))])
		switch body[0] {
		case 3: // open
			send("\x66" + id + "\x00\x00\x00\x01h")
		case 5: // read
			off, n := int(binary.BigEndian.Uint64([]byte(body[10:]))), int(binary.BigEndian.Uint32([]byte(body[18:])))
			if off >= endlessBad {
				send("\x65" + id + "\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00")
				break
			}
			b := make([]byte, min(n, 1000, endlessBad-off))
			for i := range b {
				b[i] = byte((off + i) * 7 >> 3)
			}
			send("\x67" + id + string(binary.BigEndian.AppendUint32(nil, uint32(len(b)))) + string(b))
		case 7, 8, 17: // lstat, fstat, stat
			send("\x69" + id + "\x00\x00\x00\x05\x00\x00\x00\x00" + string(binary.BigEndian.AppendUint32(nil, endlessSize)) + "\x00\x00\x81\x00")
		case 1: // init
			send("\x02\x00\x00\x00\x03")
		case 11: // opendir
			send("\x66" + id + "\x00\x00\x00\x01h")
		case 12: // readdir
			send("\x68" + id + "\x00\x00\x00\x64" + strings.Repeat("\x00\x00\x00\x01n\x00\x00\x00\x00\x00\x00\x00\x00", 100))
		default:
			send("\x65" + id + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
		}
	}
}

// FuzzReplies: whatever a server answers, calls end, with an error or with what the server said.
func FuzzReplies(f *testing.F) {
	status := func(id byte, code byte) string {
		return "\x00\x00\x00\x09\x65\x00\x00\x00" + string(id) + "\x00\x00\x00" + string(code)
	}
	attrs := func(id byte, kind string) string {
		return "\x00\x00\x00\x15\x69\x00\x00\x00" + string(id) + "\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00" + kind
	}
	f.Add([]byte(status(1, 2) + status(2, 2) + status(3, 2)))
	f.Add([]byte(status(1, 0) + status(2, 0) + status(3, 0))) // "ok" is no answer to most requests
	f.Add([]byte(attrs(1, "\x81\x00") + "\x00\x00\x00\x0a\x66\x00\x00\x00\x02\x00\x00\x00\x01h" + "\x00\x00\x00\x0c\x67\x00\x00\x00\x03\x00\x00\x00\x03abc" + attrs(4, "\x81\x00")))
	f.Add([]byte(attrs(1, "\x41\xc0") + attrs(2, "\xa1\xff") + "\x00\x00\x00\x01\x65"))
	f.Add([]byte("\x00\x00\x00\x0a\x66\x00\x00\x00\x01\x00\x00\x00\x01h" + "\x00\x00\x00\x16\x68\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x01n\x00\x00\x00\x00\x00\x00\x00\x00" + status(3, 1) + status(4, 0)))
	f.Fuzz(func(t *testing.T, replies []byte) {
		for call := range 4 {
			p := newPool(1, func(ctx context.Context) (*link, error) {
				in := io.MultiReader(strings.NewReader("\x00\x00\x00\x05\x02\x00\x00\x00\x03"), strings.NewReader(string(replies)))
				return newLink(ctx, transport{in: in, out: nowhere{}, kill: func() {}, wait: func() error { return nil }}, time.Minute)
			})
			s := &Store{root: ".", pool: p, dirs: map[string]bool{}}
			switch call {
			case 0:
				if b, err := s.Get(t.Context(), "a", 0, -1); err == nil && len(b) > len(replies) {
					t.Errorf("%d bytes of %d", len(b), len(replies))
				}
			case 1:
				_, _ = s.Stat(t.Context(), "a")
			case 2:
				for info, err := range s.List(t.Context(), "") {
					if err == nil && (!backends.ValidName(info.Name) || info.Size < 0) {
						t.Errorf("listed %+v", info)
					}
				}
			case 3:
				_ = s.Put(t.Context(), "a", []byte("x"), backends.PutOptions{IfAbsent: true})
			}
			s.Close()
		}
	})
}

// TestSaysNothing: "ok" is no answer to a question about a file, and pkg/sftp makes a FileInfo of nothing of it.
func TestSaysNothing(t *testing.T) {
	in := strings.NewReader("\x00\x00\x00\x05\x02\x00\x00\x00\x03" + "\x00\x00\x00\x09\x65\x00\x00\x00\x01\x00\x00\x00\x00")
	l, err := newLink(t.Context(), transport{in: io.MultiReader(in, silence{t.Context().Done()}), out: nowhere{}, kill: func() {}, wait: func() error { return nil }}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{root: ".", dirs: map[string]bool{}}
	if err := s.present(l); err == nil || !strings.Contains(err.Error(), "says nothing") {
		t.Errorf("%v", err)
	}
}

// silence says nothing until done.
type silence struct{ done <-chan struct{} }

func (s silence) Read([]byte) (int, error) {
	<-s.done
	return 0, io.EOF
}

type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) Close() error                { return nil }

// startAgent serves an SSH agent with keys from files on a socket.
func startAgent(t *testing.T, files ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		os.RemoveAll(dir)
	})
	keyring := agent.NewKeyring()
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_ = agent.ServeAgent(keyring, conn)
			})
		}
	})
	for _, file := range files {
		addToAgent(t, socket, file, "")
	}
	return socket
}

func addToAgent(t *testing.T, socket, file, passphrase string) {
	t.Helper()
	text := []byte(readFile(t, file))
	key, err := ssh.ParseRawPrivateKey(text)
	if passphrase != "" {
		key, err = ssh.ParseRawPrivateKeyWithPassphrase(text, []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := agent.NewClient(conn).Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
}
