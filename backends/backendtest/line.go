package backendtest

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// How a Line fails.
type lineFault int

const (
	// resets ends the connection on both sides at once.
	resets lineFault = iota
	// hangs passes nothing any more on the connection, and leaves it open.
	hangs
	// deaf loses what the server says from then on, while the server goes on hearing, and ends the connection when the client waits: the server did its
	// work, and its answer got lost.
	deaf
)

func (f lineFault) String() string { return [...]string{"resets", "hangs", "deaf"}[f] }

// patience is how long a deaf line waits for more from the client, which has sent everything then.
const patience = 50 * time.Millisecond

// line passes TCP connections on to a server, and fails as it is told to.
type line struct {
	addr, to string
	wg       sync.WaitGroup

	mu       sync.Mutex // guards what is below
	l        net.Listener
	wires    map[*wire]bool
	passed   [2]int64 // bytes to the server and from it
	armed    bool
	fault    lineFault
	way      int   // 0: the fault strikes by bytes to the server, 1: by bytes from it
	at       int64 // when this many more have passed that way
	struck   int
	held     int          // how many of the next connections nobody answers
	rate     int64        // bytes a second, each way; 0: as fast as it goes
	every    func() int64 // arms the line again after each strike; nil: one strike only
	accepted int
	most     int // connections at a time
}

// wire is one connection, from the client and to the server.
type wire struct {
	ends    [2]net.Conn
	hung    chan struct{} // closed when nothing passes any more
	mute    bool          // guarded by line.mu: what the server says is lost
	silence *time.Timer
}

// newLine returns a Line to a server that works until it is told not to.
func newLine(t *testing.T, to string) *line {
	t.Helper()
	l := &line{addr: "127.0.0.1:0", to: to, wires: map[*wire]bool{}}
	l.listen(t)
	t.Cleanup(func() {
		l.refuse()
		l.wg.Wait()
	})
	return l
}

// listen lets connections come, again after refuse.
func (l *line) listen(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.l, l.addr = listener, listener.Addr().String()
	l.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			l.take(conn)
		}
	})
}

func (l *line) take(client net.Conn) {
	server, err := net.Dial("tcp", l.to)
	if err != nil {
		reset(client)
		return
	}
	w := &wire{ends: [2]net.Conn{client, server}, hung: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wires[w] = true
	l.most = max(l.most, len(l.wires))
	if l.accepted++; l.held > 0 {
		l.held--
		close(w.hung)
		return
	}
	l.wg.Go(func() { l.pass(w, 0) })
	l.wg.Go(func() { l.pass(w, 1) })
}

// pass carries bytes one way.
func (l *line) pass(w *wire, way int) {
	buf := make([]byte, 32<<10)
	for {
		b := buf
		l.mu.Lock()
		rate := l.rate
		l.mu.Unlock()
		if rate > 0 {
			b = b[:max(512, min(int64(len(b)), rate/100))]
		}
		n, err := w.ends[way].Read(b)
		select {
		case <-w.hung:
			return
		default:
		}
		if n > 0 {
			if rate > 0 {
				time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
			}
			keep, ended := l.strike(w, way, n)
			if keep > 0 {
				if _, err := w.ends[1-way].Write(b[:keep]); err != nil {
					l.cut(w)
					return
				}
			}
			if ended {
				return
			}
		}
		if err != nil {
			if err == io.EOF && way == 1 {
				_ = w.ends[0].Close()
			}
			l.cut(w)
			return
		}
	}
}

// strike counts bytes that came, lets the fault strike if it is its time, and returns how many of them pass. It ends the way where nothing may pass later.
func (l *line) strike(w *wire, way, n int) (keep int, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.passed[way] += int64(n)
	if w.mute {
		if way == 1 {
			return 0, false
		}
		w.silence.Reset(patience)
		return n, false
	}
	if !l.armed || l.way != way {
		return n, false
	}
	if l.at > int64(n) {
		l.at -= int64(n)
		return n, false
	}
	keep = int(l.at)
	l.armed = false
	l.struck++
	if l.every != nil {
		l.armed, l.at = true, l.every()
	}
	switch l.fault {
	case resets:
		// The bytes before it arrive: a reset would overtake them.
		time.AfterFunc(patience/5, func() { l.cut(w) })
		return keep, true
	case hangs:
		close(w.hung)
		return keep, true
	}
	w.mute = true
	w.silence = time.AfterFunc(patience, func() { l.cut(w) })
	if way == 0 {
		return n, false
	}
	return keep, false
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// cut ends a connection by a reset.
func (l *line) cut(w *wire) {
	l.mu.Lock()
	delete(l.wires, w)
	l.mu.Unlock()
	for _, end := range w.ends {
		reset(end)
	}
}

// drop ends all connections.
func (l *line) drop() {
	l.mu.Lock()
	var all []*wire
	for w := range l.wires {
		all = append(all, w)
	}
	l.mu.Unlock()
	for _, w := range all {
		l.cut(w)
	}
}

// refuse ends all connections and lets none come.
func (l *line) refuse() {
	l.mu.Lock()
	_ = l.l.Close()
	l.mu.Unlock()
	l.drop()
}

// arm has the fault strike once, when at more bytes have passed the way.
func (l *line) arm(f lineFault, way int, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed, l.fault, l.way, l.at = true, f, way, at
}

// disarm makes the line work, and reports how often it struck since the last time.
func (l *line) disarm() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	struck := l.struck
	l.armed, l.every, l.struck = false, nil, 0
	return struck
}

// bytes returns how many passed to the server and from it.
func (l *line) bytes() [2]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.passed
}
