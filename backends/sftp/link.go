package sftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
)

const (
	// cancelGrace is how long a call whose context has ended may take to come to its own end, before the connection is cut under it.
	cancelGrace = 400 * time.Millisecond

	// closeGrace is how long a connection may take to end in good order.
	closeGrace = time.Second

	// maxBehind is how many handles a link may be closing at a time.
	maxBehind = 16
)

// errLost says that the connection has ended, so that it is not known what became of a request.
var errLost = errors.New("connection lost")

func isLost(err error) bool {
	return errors.Is(err, errLost) || errors.Is(err, sftp.ErrSSHFxConnectionLost)
}

// transport carries the bytes of one session.
type transport struct {
	in   io.Reader
	out  io.WriteCloser
	kill func()       // ends everything at once, whatever hangs; may be called more than once and concurrently
	wait func() error // after kill: joins what was started, and says why the transport ended if it knows

	// received is when bytes of any kind came last. Nil: only the session's own bytes are seen.
	received func() time.Time

	// ping waits for any answer of the server. Nil: the session has to ask itself.
	ping func() error
}

// link is one session, shared by the calls under way on it.
type link struct {
	client *sftp.Client
	meter  *meter
	writer *writer
	t      transport
	dead   chan struct{}  // closed when the session has ended
	tasks  sync.WaitGroup // the link's own goroutines
	killed atomic.Bool

	behind     sync.WaitGroup // requests nobody waits for
	behindRoom chan struct{}

	load  int          // guarded by the pool: the weight of the calls under way
	since atomic.Int64 // when load was 0 last, in nanoseconds; 0 while it is
}

// newLink begins a session. It owns t from then on. A context that ends makes it fail with any error.
func newLink(ctx context.Context, t transport, keepAlive time.Duration) (*link, error) {
	m := &meter{r: t.in}
	m.last.Store(time.Now().UnixNano())
	if t.received == nil {
		t.received = m.received
	}
	stop := context.AfterFunc(ctx, t.kill)
	w := &writer{WriteCloser: t.out}
	client, err := sftp.NewClientPipe(m, w, sftp.UseConcurrentWrites(true))
	if !stop() && err == nil {
		err = errLost
	}
	if err != nil {
		t.kill()
		if client != nil {
			_ = client.Close()
		}
		return nil, errors.Join(fmt.Errorf("beginning a session: %w", err), t.wait())
	}
	l := &link{client: client, meter: m, writer: w, t: t, dead: make(chan struct{}), behindRoom: make(chan struct{}, maxBehind)}
	l.tasks.Go(func() {
		_ = client.Wait()
		close(l.dead)
	})
	l.tasks.Go(func() { l.watch(keepAlive) })
	return l, nil
}

// kill makes everything under way on the link fail.
func (l *link) kill() {
	if !l.killed.Swap(true) {
		l.t.kill()
	}
}

// isDead reports whether calls on the link can but fail.
func (l *link) isDead() bool {
	if l.killed.Load() {
		return true // though the session may take a moment to end
	}
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// close ends the session, on which no call may be under way, and joins everything. It takes a second at most longer than a dead transport's end.
func (l *link) close() error {
	timer := time.AfterFunc(closeGrace, l.kill)
	l.behind.Wait()
	_ = l.client.Close() // waits for the receiver
	timer.Stop()
	l.kill()
	err := l.t.wait()
	l.tasks.Wait()
	return err
}

// watch notices that the peer is dead or answers no calls, and cuts the connection then.
func (l *link) watch(keepAlive time.Duration) {
	tick := time.NewTicker(keepAlive / 2)
	defer tick.Stop()
	var pong chan struct{} // not nil while a ping is under way
	for {
		select {
		case <-l.dead:
			if pong != nil {
				<-pong
			}
			return
		case <-pong:
			pong = nil
		case <-tick.C:
			silence := time.Since(l.t.received())
			busy := l.since.Load()
			switch {
			case pong != nil && silence >= 3*keepAlive:
				l.kill()
			case busy != 0 && time.Since(time.Unix(0, max(busy, l.meter.last.Load()))) >= 8*keepAlive:
				// A server that works long at one request, as at an fsync, is not asked for signs of life where it could not answer before it is done.
				l.kill()
			case pong == nil && silence >= keepAlive && (busy == 0 || l.t.ping != nil):
				pong = make(chan struct{})
				go func(pong chan struct{}) { // joined above
					defer close(pong)
					if l.t.ping != nil {
						_ = l.t.ping()
					} else {
						_, _ = l.client.RealPath(".")
					}
				}(pong)
			}
		}
	}
}

// later runs a request that nobody waits for, as closing what was only read: it saves a round trip. The link's close joins it.
func (l *link) later(request func()) {
	l.behindRoom <- struct{}{}
	l.behind.Go(func() {
		defer func() { <-l.behindRoom }()
		request()
	})
}

// run makes a call on the link, which its context ends within cancelGrace: pkg/sftp itself knows no contexts.
func (l *link) run(ctx context.Context, call func(ctx context.Context, l *link) error) error {
	done := make(chan struct{})
	defer close(done)
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(cancelGrace)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
			l.kill()
		}
	})
	defer stop()
	err := call(ctx, l)
	if isLost(err) {
		l.kill()
	}
	return err
}

// ctxError is the error of a call whose context is done.
func ctxError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil || errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// writer makes errors of writing known as those of a lost connection. (Those of the ssh package are io.EOF, which must not end a listing.) It also tells
// when a request to describe a file has been sent.
type writer struct {
	io.WriteCloser

	mu      sync.Mutex // guards expects
	expects []expected
}

type expected struct {
	path string
	sent chan struct{} // closed then
}

const (
	typeLstat   = 7
	lstatHeader = 4 + 1 + 4 + 4 // length, type, request, length of the path
)

// expect returns a channel that is closed when a request to describe path is sent, or fails to be.
func (w *writer) expect(path string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	sent := make(chan struct{})
	w.expects = append(w.expects, expected{path, sent})
	return sent
}

func (w *writer) Write(b []byte) (int, error) {
	n, err := w.WriteCloser.Write(b)
	if err != nil || len(b) > lstatHeader && b[4] == typeLstat { // such a request is written whole
		w.mu.Lock()
		w.expects = slices.DeleteFunc(w.expects, func(e expected) bool {
			is := err != nil || e.path == string(b[lstatHeader:])
			if is {
				close(e.sent)
			}
			return is
		})
		w.mu.Unlock()
	}
	if err != nil {
		err = fmt.Errorf("%w: %v", errLost, err)
	}
	return n, err
}

// Of an answer that lists names: its length, type, request, and how many follow.
const (
	typeName   = 104
	nameHeader = 4 + 1 + 4 + 4
)

// meter reads what the server sends and counts, in the packets that pass, the names in listings of directories: pkg/sftp holds all of a directory's
// in memory, however many a server makes up.
type meter struct {
	r    io.Reader
	last atomic.Int64 // when bytes came last, in nanoseconds

	head []byte // of the packet that comes; used by Read alone
	left int64  // of its bytes, behind head

	mu       sync.Mutex // guards what is below
	names    int64
	watchers map[*nameWatch]bool
}

type nameWatch struct {
	limit int64
	over  func()
}

// watch calls over when more than n names have come from now on, those of other listings included. The caller must call stop.
func (m *meter) watch(n int64, over func()) (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.watchers == nil {
		m.watchers = map[*nameWatch]bool{}
	}
	w := &nameWatch{limit: m.names + n, over: over}
	m.watchers[w] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, w)
	}
}

func (m *meter) received() time.Time { return time.Unix(0, m.last.Load()) }

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.r.Read(b)
	if n > 0 {
		m.last.Store(time.Now().UnixNano())
		m.count(b[:n])
	}
	return n, err
}

func (m *meter) count(b []byte) {
	for len(b) > 0 {
		if m.left > 0 {
			n := min(int64(len(b)), m.left)
			b, m.left = b[n:], m.left-n
			continue
		}
		m.head = append(m.head, b[0])
		b = b[1:]
		if len(m.head) < 5 {
			if len(m.head) == 4 && binary.BigEndian.Uint32(m.head) == 0 {
				m.head = m.head[:0] // refused by pkg/sftp
			}
			continue
		}
		length := int64(binary.BigEndian.Uint32(m.head)) + 4
		if m.head[4] == typeName && length >= nameHeader {
			if len(m.head) < nameHeader {
				continue
			}
			m.listed(max(1, int64(binary.BigEndian.Uint32(m.head[9:])))) // an answer without names is no end either
		}
		m.left = length - int64(len(m.head))
		m.head = m.head[:0]
	}
}

func (m *meter) listed(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names += n
	for w := range m.watchers {
		if m.names > w.limit {
			w.over()
			delete(m.watchers, w)
		}
	}
}
