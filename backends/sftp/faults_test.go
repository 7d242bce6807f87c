//go:build unix

package sftp

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/backends/retry"
)

// soon is how a Store is wrapped where a test has no time to wait.
var soon = retry.Options{First: 5 * time.Millisecond, Most: 100 * time.Millisecond, GiveUp: 30 * time.Second}

// TestFaults has real lines to a real server fail.
func TestFaults(t *testing.T) {
	d := startSSHD(t)
	root := t.TempDir()
	writeFile(t, filepath.Join(d.dir, "alias"), knownhosts.Line([]string{"the-server"}, d.hostKey)+"\n")
	backendtest.Faults(t, backendtest.Server{Addr: d.address(), Connections: 4, Open: func(t *testing.T, addr, place string) backends.Storage {
		o := d.options(filepath.Join(root, place))
		_, text, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		o.Port, o.Create, o.HostKeyAlias, o.KnownHosts = port, true, "the-server", []string{filepath.Join(d.dir, "alias")}
		o.KeepAlive, o.DialTimeout, o.Connections = backendtest.Stall/4, 2*backendtest.Stall, 4
		return retry.New(openTest(t, o), soon)
	}})
}

// TestD12Changed: a server that suddenly has another host key is not talked to, and not tried again.
func TestD12Changed(t *testing.T) {
	t.Parallel()
	d := startSSHD(t)
	name := d.cmd.Path
	s := openTest(t, d.options(t.TempDir()))
	backendtest.Put(t, s, "a", "x")
	d.stop(t)
	_, other := writeKey(t, filepath.Join(d.dir, "host"), "")
	d.start(t, name)
	waits := 0
	o := soon
	o.Waiting = func(string, error, time.Duration) { waits++ }
	x := retry.New(s, o)
	_, err := x.Get(t.Context(), "a", 0, -1)
	if !errors.Is(err, ErrHostKeyChanged) || !errors.Is(err, backends.ErrPermanent) || waits > 0 {
		t.Errorf("%v after %d waits", err, waits)
	}
	for _, key := range []ssh.PublicKey{d.hostKey, other} {
		if err == nil || !strings.Contains(err.Error(), ssh.FingerprintSHA256(key)) {
			t.Errorf("%v does not name %s", err, ssh.FingerprintSHA256(key))
		}
	}
	if err := x.Put(t.Context(), "b", nil, backends.PutOptions{IfAbsent: true}); !errors.Is(err, ErrHostKeyChanged) || waits > 0 {
		t.Errorf("%v after %d waits", err, waits)
	}
}

// TestRclone: rclone says that it made a hard link, and makes none. That is found out, and everything else works.
func TestRclone(t *testing.T) {
	t.Parallel()
	s := openTest(t, Options{Command: []string{program(t, "rclone"), "--config", "", "serve", "sftp", "--stdio", t.TempDir()}})
	backendtest.Put(t, s, "d/a", "x")
	wantFile(t, s, "d/a", "x")
	if got, err := backendtest.Names(t, s, ""); err != nil || len(got) != 1 || got[0] != "d/a" {
		t.Errorf("%q, %v", got, err)
	}
	if err := s.Put(t.Context(), "d/b", []byte("x"), backends.PutOptions{IfAbsent: true}); !errors.Is(err, backends.ErrUnsupported) {
		t.Errorf("an exclusive Put: %v", err)
	}
	if err := s.Delete(t.Context(), "d/a"); err != nil {
		t.Error(err)
	}
}

// looksFirst is a server whose rename looks whether the target is there, and renames a moment later.
type looksFirst struct {
	sftp.FileCmder
	mu   sync.Mutex // guards what is below
	seen map[string]bool
}

func (l *looksFirst) Filecmd(r *sftp.Request) error {
	if r.Method != "Rename" {
		return l.FileCmder.Filecmd(r)
	}
	l.mu.Lock()
	there := l.seen[r.Target]
	l.mu.Unlock()
	if there {
		return fs.ErrExist
	}
	time.Sleep(5 * time.Millisecond)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[r.Target] = true
	return l.FileCmder.(sftp.PosixRenameFileCmder).PosixRename(r)
}

// TestRenameThatLooks: a rename that refuses an existing target, but not one that comes at the same time, is no exclusive create.
func TestRenameThatLooks(t *testing.T) {
	for _, racy := range []bool{false, true} {
		handlers := sftp.InMemHandler()
		if racy {
			handlers.FileCmd = &looksFirst{FileCmder: handlers.FileCmd, seen: map[string]bool{}}
		}
		var wg sync.WaitGroup
		s := &Store{root: "/", dirs: map[string]bool{}, pool: newPool(1, func(ctx context.Context) (*link, error) {
			ours, theirs := net.Pipe()
			server := sftp.NewRequestServer(theirs, handlers)
			wg.Go(func() { _ = server.Serve() })
			return newLink(ctx, transport{in: ours, out: ours, kill: func() { ours.Close() }, wait: func() error { return nil }}, time.Minute)
		})}
		err := s.pool.do(t.Context(), smallCall, func(ctx context.Context, l *link) error {
			refuses, err := s.renameRefuses(ctx, l)
			if refuses == racy {
				t.Errorf("looks first %v: rename is said to refuse: %v", racy, refuses)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		s.Close()
		wg.Wait()
	}
}
