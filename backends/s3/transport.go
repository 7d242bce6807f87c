package s3

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// call holds what the answer to one request said and minio-go does not report.
type call struct {
	status int
	header http.Header
	sent   time.Time
	got    time.Time
	keys   keyring // that signed it
}

type callKey struct{}

// withCall returns a context whose requests fill in what is returned with it. The last one counts.
func withCall(ctx context.Context) (context.Context, *call) {
	c := new(call)
	return context.WithValue(ctx, callKey{}, c), c
}

// recorder fills in the call of a request's context, and keeps what the newest answer said about the server's clock.
type recorder struct {
	inner *http.Transport
	skew  atomic.Int64 // time.Duration
}

// RoundTrip implements http.RoundTripper.
func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	c, _ := req.Context().Value(callKey{}).(*call)
	if c == nil {
		c = new(call)
	}
	*c = call{sent: time.Now(), header: http.Header{}, keys: signedBy(req.Header)}
	resp, err := r.inner.RoundTrip(req)
	if err == nil {
		c.got, c.status, c.header = time.Now(), resp.StatusCode, resp.Header
		if skew, ok := c.skew(); ok {
			r.skew.Store(int64(skew))
		}
	}
	return resp, err
}

// skew returns by how much the server's clock is ahead, to about a second, and false if the answer has no date.
func (c *call) skew() (time.Duration, bool) {
	date, err := http.ParseTime(c.header.Get("Date"))
	if err != nil {
		return 0, false
	}
	// The header has whole seconds, cut off, of some moment between the two.
	return date.Add(time.Second / 2).Sub(c.sent.Add(c.got.Sub(c.sent) / 2)), true
}

// dialer makes connections that fail when nothing moves on them.
type dialer struct {
	stall time.Duration
	wrap  func(net.Conn) net.Conn // nil: as they are
}

func (d dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := netDialer(d.stall).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn = &watched{Conn: conn, stall: d.stall}
	if d.wrap != nil {
		conn = d.wrap(conn)
	}
	return conn, nil
}

// watched is a connection with a deadline that every read and write moves. A write moves that of a pending read too: net/http waits for the answer
// all the time an upload takes.
type watched struct {
	net.Conn
	stall time.Duration
}

// Read implements net.Conn.
func (w *watched) Read(p []byte) (int, error) {
	if err := w.SetReadDeadline(time.Now().Add(w.stall)); err != nil {
		return 0, err
	}
	return w.Conn.Read(p)
}

// Write implements net.Conn. It sends at most so much at a time that a line of 1 kB/s is not taken for a dead one.
func (w *watched) Write(p []byte) (n int, err error) {
	const most = 64 << 10
	for {
		if err := w.SetDeadline(time.Now().Add(w.stall)); err != nil {
			return n, err
		}
		part := p[n:min(len(p), n+most)]
		m, err := w.Conn.Write(part)
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}
