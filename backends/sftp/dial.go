package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// dialer opens connections as its options say.
type dialer struct {
	o    Options
	keys *keys
}

func (d *dialer) dial(ctx context.Context) (*link, error) {
	limit := newDeadline(ctx, d.o.DialTimeout)
	defer limit.end()
	var (
		t   transport
		err error
	)
	what := "connecting to " + d.o.Host
	if len(d.o.Command) > 0 {
		what = fmt.Sprintf("running %q", d.o.Command[0])
		t, err = runCommand(d.o.Command)
	} else {
		t, err = d.connect(limit)
	}
	var l *link
	if err == nil {
		l, err = newLink(limit.ctx, t, d.o.KeepAlive)
	}
	switch {
	case err == nil:
		return l, nil
	case ctx.Err() != nil:
		err = ctxError(ctx)
	case limit.ctx.Err() != nil:
		// Never with the error of a context: that of the caller has not ended.
		err = fmt.Errorf("no answer within %v (%v)", d.o.DialTimeout, err)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist):
		err = fmt.Errorf("%v", err) // a missing command, say, which tells nothing about any file in the storage
	}
	return nil, fmt.Errorf("%s: %w", what, err)
}

// deadline is a context that ends after some time, which can be stopped while someone types.
type deadline struct {
	ctx    context.Context
	cancel context.CancelFunc
	timer  *time.Timer
	d      time.Duration
}

func newDeadline(ctx context.Context, d time.Duration) *deadline {
	ctx, cancel := context.WithCancel(ctx)
	return &deadline{ctx: ctx, cancel: cancel, timer: time.AfterFunc(d, cancel), d: d}
}

func (d *deadline) pause()  { d.timer.Stop() }
func (d *deadline) resume() { d.timer.Reset(d.d) }
func (d *deadline) end()    { d.timer.Stop(); d.cancel() }

// connect logs in to the server and asks for SFTP.
func (d *dialer) connect(limit *deadline) (t transport, err error) {
	address := net.JoinHostPort(d.o.Host, strconv.Itoa(d.o.Port))
	hosts, err := readKnownHosts(d.o.KnownHosts)
	if err != nil {
		return t, err
	}
	known := address
	if d.o.HostKeyAlias != "" {
		known = net.JoinHostPort(d.o.HostKeyAlias, strconv.Itoa(defaultPort))
	}
	check := &hostCheck{hosts: hosts, address: known}
	raw, err := (&net.Dialer{}).DialContext(limit.ctx, "tcp", address)
	if err != nil {
		return t, err
	}
	if d.o.Conn != nil {
		raw = d.o.Conn(raw)
	}
	conn := &countingConn{Conn: raw}
	conn.last.Store(time.Now().UnixNano())
	stop := context.AfterFunc(limit.ctx, func() { _ = conn.Close() })
	defer stop()
	login := d.keys.login(limit)
	defer login.end()
	sshConn, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User:              d.o.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeysCallback(login.signers)},
		HostKeyCallback:   check.callback,
		HostKeyAlgorithms: hosts.algorithms(known),
	})
	if err != nil {
		_ = conn.Close()
		switch {
		case check.err != nil: // said clearer than through the handshake
			err = check.err
		case login.failed != nil:
			err = login.failed
		case strings.Contains(err.Error(), "unable to authenticate") || strings.Contains(err.Error(), "Too many authentication failures"):
			err = fmt.Errorf("the server accepts none of the keys of user %q: %w (%s)", d.o.User, fs.ErrPermission, login)
		}
		return t, err
	}
	client := ssh.NewClient(sshConn, channels, requests)
	t, err = subsystem(client)
	if err != nil {
		return t, errors.Join(err, client.Close())
	}
	t.received = func() time.Time { return time.Unix(0, conn.last.Load()) }
	t.kill = func() { _ = conn.Close() }
	return t, nil
}

// subsystem opens the SFTP session of a connection.
func subsystem(client *ssh.Client) (t transport, err error) {
	session, err := client.NewSession()
	if err != nil {
		return t, fmt.Errorf("opening a session: %w", err)
	}
	in, err := session.StdoutPipe()
	if err != nil {
		return t, err
	}
	out, err := session.StdinPipe()
	if err != nil {
		return t, err
	}
	stderr, err := session.StderrPipe()
	if err != nil {
		return t, err
	}
	if err := session.RequestSubsystem("sftp"); err != nil {
		return t, fmt.Errorf("asking for SFTP, which the server may not offer: %w", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, stderr) }) // or it would fill up and block
	return transport{
		in:  in,
		out: out,
		ping: func() error {
			_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
			return err
		},
		wait: func() error {
			_ = client.Wait()
			wg.Wait()
			return nil
		},
	}, nil
}

// countingConn notes when bytes come.
type countingConn struct {
	net.Conn
	last atomic.Int64 // in nanoseconds
}

func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.last.Store(time.Now().UnixNano())
	}
	return n, err
}

// runCommand starts a command that speaks SFTP.
func runCommand(argv []string) (t transport, err error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.WaitDelay = closeGrace // for its children that hold the pipes
	said := new(tail)
	cmd.Stderr = said
	out, err := cmd.StdinPipe()
	if err != nil {
		return t, err
	}
	in, err := cmd.StdoutPipe()
	if err != nil {
		return t, errors.Join(err, out.Close())
	}
	if err := cmd.Start(); err != nil {
		return t, errors.Join(err, out.Close(), in.Close())
	}
	var once sync.Once
	var ended error
	return transport{
		in:  in,
		out: out,
		kill: func() {
			_ = out.Close()
			_ = cmd.Process.Kill()
			_ = in.Close() // whoever else holds its other end
		},
		wait: func() error {
			once.Do(func() {
				ended = cmd.Wait()
				if text := said.String(); text != "" {
					ended = fmt.Errorf("the command said %q", text)
				}
			})
			return ended
		},
	}, nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex // guards text
	text []byte
}

const maxTail = 1000

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if len(t.text) > maxTail {
		t.text = append(t.text[:0], t.text[len(t.text)-maxTail:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
