package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/backends/retry"
	"packhold/backends/s3"
)

// soon is how a Store is wrapped where a test has no time to wait.
var soon = retry.Options{First: 5 * time.Millisecond, Most: 100 * time.Millisecond, GiveUp: 30 * time.Second}

// TestFaults has real lines to a real server fail.
func TestFaults(t *testing.T) {
	backendtest.Faults(t, backendtest.Server{Addr: sharedServer(t).addr, Connections: 4, Open: func(t *testing.T, addr, place string) backends.Storage {
		o := options(addr)
		o.Bucket, o.Stall, o.Connections = place, backendtest.Stall, 4
		o.Abilities = &s3.Abilities{Conditional: true}
		return retry.New(open(t, o), soon)
	}})
}

// patiently wraps a Store by retries that take no time, and notes the waits.
func patiently(s *s3.Store, waits *[]time.Duration) *retry.Store {
	now := time.Now()
	return retry.New(s, retry.Options{Now: func() time.Time { return now }, Sleep: func(_ context.Context, d time.Duration) error {
		*waits = append(*waits, d)
		now = now.Add(d)
		return nil
	}})
}

// TestD3Busy: a server that asks to be left alone is asked again when it said, or after ever longer waits; and not at all if that is too late.
func TestD3Busy(t *testing.T) {
	t.Parallel()
	s, p, data := spoiled(t)
	for _, c := range []struct {
		status int
		after  string
		times  int64 // that it answers so
		least  time.Duration
		fails  bool
	}{
		{503, "", 4, 100 * time.Millisecond, false},
		{500, "", 4, 100 * time.Millisecond, false},
		{502, "", 4, 100 * time.Millisecond, false},
		{503, "1", 3, time.Second, false},
		{429, "60", 3, time.Minute, false},
		{503, "1200", 3, 0, true},
		{503, "", 1 << 30, 100 * time.Millisecond, true},
	} {
		for _, method := range []string{http.MethodPut, http.MethodGet, http.MethodHead} {
			var asked atomic.Int64
			p.set(func(w http.ResponseWriter, r *http.Request) bool {
				return r.Method == method && asked.Add(1) <= c.times && answer(method, c.status, s3Error("SlowDown"), "Retry-After", c.after)(w, r)
			})
			var waits []time.Duration
			x := patiently(s, &waits)
			var err error
			switch method {
			case http.MethodPut:
				err = x.Put(t.Context(), "d/busy", data, backends.PutOptions{})
			case http.MethodGet:
				_, err = x.Get(t.Context(), "d/a", 0, -1)
			case http.MethodHead:
				_, err = x.Stat(t.Context(), "d/a")
			}
			what := fmt.Sprintf("%s, %d times %d, Retry-After %q", method, c.times, c.status, c.after)
			if (err != nil) != c.fails || c.fails && !strings.Contains(err.Error(), "given up after") || errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v", what, err)
			}
			if !c.fails && (int64(len(waits)) != c.times || slices.Min(waits) < c.least) || c.after == "1200" && len(waits) > 0 {
				t.Errorf("%s: waits %v", what, waits)
			}
		}
	}
}

// TestD5Renewed: keys that the storage takes no longer are fetched anew, and the call made again; if there are no others it is refused at once.
func TestD5Renewed(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"ExpiredToken", "InvalidAccessKeyId", "InvalidTokenId", "InvalidToken"} {
		p := plainProxy(t, sharedServer(t).addr)
		o := options(p.addr())
		open(t, o)
		var fetched, refused atomic.Int64
		o.Credentials = []s3.Provider{s3.Instance(none, instance(t, time.Hour, &fetched, "withdrawn"))}
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case !strings.Contains(r.Header.Get("Authorization"), "Credential=withdrawn/"):
				return false
			case isList(r): // good when the Store is opened
				send(w, 200, listPage("", false), "Content-Type", "application/xml")
			default:
				refused.Add(1)
				send(w, http.StatusForbidden, s3Error(code))
			}
			return true
		})
		s := open(t, o)
		var waits []time.Duration
		x := patiently(s, &waits)
		if err := x.Put(t.Context(), "a", []byte("x"), backends.PutOptions{}); err != nil || len(waits) != 1 || refused.Load() != 1 || fetched.Load() != 2 {
			t.Errorf("%s: %v after waits %v, fetched %d times", code, err, waits, fetched.Load())
		}
		// Those of the environment are what they are.
		o.Credentials = []s3.Provider{s3.Static(accessKey, secretKey, "")}
		p.set(nil)
		s = open(t, o)
		p.set(answer(http.MethodGet, http.StatusForbidden, s3Error(code)))
		waits = nil
		_, err := patiently(s, &waits).Get(t.Context(), "a", 0, -1)
		if want(t, code, err, "fs.ErrPermission"); len(waits) > 0 || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: %v after waits %v", code, err, waits)
		}
	}
}

// TestD12Changed: a server that suddenly has a certificate of somebody else is not talked to, and not tried again.
func TestD12Changed(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	certify := func(a *authority) {
		cert, key := a.server(t)
		for name, text := range map[string][]byte{"cert": cert, "key": key} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	certify(ours)
	server := own(t, "--cert", filepath.Join(dir, "cert"), "--key", filepath.Join(dir, "key"))
	o := options(server.addr)
	o.PlainHTTP, o.CA, o.Abilities = false, ours.pem, &s3.Abilities{Conditional: true}
	s := open(t, o)
	if err := s.Put(t.Context(), "a", []byte("x"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	server.stop()
	certify(theirs)
	server.run(t)
	var waits []time.Duration
	x := patiently(s, &waits)
	// The first call may find a dead connection.
	_, err := x.Get(t.Context(), "a", 0, -1)
	if !errors.Is(err, backends.ErrPermanent) || !strings.Contains(err.Error(), "certificate is not trusted") || len(waits) > 1 {
		t.Errorf("%v after waits %v", err, waits)
	}
	waits = nil
	if err := x.Put(t.Context(), "b", nil, backends.PutOptions{IfAbsent: true}); !errors.Is(err, backends.ErrPermanent) || len(waits) > 0 {
		t.Errorf("%v after waits %v", err, waits)
	}
}

// TestD16Redirect: an answer that points to another host leads nowhere: the signature of a request is for one host.
func TestD16Redirect(t *testing.T) {
	t.Parallel()
	s, p, data := spoiled(t)
	var asked atomic.Int64
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		send(w, 200, "stolen", "ETag", `"x"`)
	}))
	t.Cleanup(thief.Close)
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, method := range []string{http.MethodPut, http.MethodGet, http.MethodHead, http.MethodDelete} {
			p.set(answer(method, status, s3Error("TemporaryRedirect"), "Location", thief.URL+"/b/a"))
			_, get := s.Get(t.Context(), "d/a", 0, -1)
			_, stat := s.Stat(t.Context(), "d/a")
			_, list := listed(t, s, "")
			err := map[string]error{http.MethodPut: s.Put(t.Context(), "d/b", data, backends.PutOptions{}), http.MethodGet: errors.Join(get, list), http.MethodHead: stat,
				http.MethodDelete: s.Delete(t.Context(), "d/a")}[method]
			if err == nil || errors.Is(err, fs.ErrNotExist) || asked.Load() > 0 {
				t.Errorf("%s, %d: %v, the other host was asked %d times", method, status, err, asked.Load())
			}
			p.set(nil)
			if err := s.Put(t.Context(), "d/a", data, backends.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestD16IPv6: an endpoint may be an address of the sixth version.
func TestD16IPv6(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("this machine has no IPv6: %v", err) // no set-up brings it
	}
	t.Cleanup(func() { _ = l.Close() })
	to := sharedServer(t).addr
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = conn.Close()
				return
			}
			go func() { _, _ = io.Copy(server, conn); _ = server.Close() }()
			go func() { _, _ = io.Copy(conn, server); _ = conn.Close() }()
		}
	}()
	works(t, open(t, options(l.Addr().String())))
}
