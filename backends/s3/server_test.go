package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"packhold/backends/backendtest"
	"packhold/backends/s3"
)

// The keys of the servers' only user.
const (
	accessKey = "packhold"
	secretKey = "packhold-secret"
)

// program finds versitygw. Without it the test is skipped, or failed where the variable CI says that nothing may be missing.
func program(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("versitygw"); err == nil {
		return path
	}
	if out, err := exec.Command("go", "env", "GOPATH").Output(); err == nil {
		path := filepath.Join(strings.TrimSpace(string(out)), "bin", "versitygw")
		if runtime.GOOS == "windows" {
			path += ".exe"
		}
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	backendtest.Lacks(t, "versitygw, the S3 server of the tests, is missing; tests/setup.sh installs it")
	return ""
}

// server is a running versitygw.
type server struct {
	addr string // host:port
	args []string
	cmd  *exec.Cmd
	log  *os.File
}

// start starts a server on files in dir, with further options. It knows versioning and object lock.
func start(t *testing.T, dir string, options ...string) *server {
	t.Helper()
	path := program(t)
	for _, sub := range []string{"data", "versions"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.args = append([]string{path, "--access", accessKey, "--secret", secretKey, "--port", s.addr, "--quiet", "--keep-alive", "--health", "/health"}, options...)
	s.args = append(s.args, "posix", "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "data"))
	if s.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	s.run(t)
	return s
}

func (s *server) run(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = append(os.Environ(), "GODEBUG=") // what the tests run with is not for the server
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(s.log.Name())
			s.stop()
			t.Fatalf("versitygw does not answer: %v\n%s", err, text)
		}
	}
}

// stop kills the server.
func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// shared is the server that most tests use, each with a bucket of its own.
var shared struct {
	sync.Mutex
	dir string
	*server
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.server != nil {
		shared.stop()
		_ = shared.log.Close()
	}
	_ = os.RemoveAll(shared.dir)
	os.Exit(code)
}

func sharedServer(t *testing.T) *server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		program(t) // before a folder is made
		dir, err := os.MkdirTemp("", "packhold-s3-")
		if err != nil {
			t.Fatal(err)
		}
		shared.dir = dir
		shared.server = start(t, dir)
	}
	return shared.server
}

// own starts a server for one test.
func own(t *testing.T, options ...string) *server {
	t.Helper()
	s := start(t, t.TempDir(), options...)
	t.Cleanup(func() {
		s.stop()
		_ = s.log.Close()
	})
	return s
}

var buckets atomic.Int64

// bucketName returns a name nobody used.
func bucketName() string { return fmt.Sprintf("bucket-%d", buckets.Add(1)) }

// options are those of a new bucket at addr.
func options(addr string) s3.Options {
	return s3.Options{
		Endpoint: addr, PlainHTTP: true, Bucket: bucketName(), Create: true, Credentials: []s3.Provider{s3.Static(accessKey, secretKey, "")},
	}
}

func open(t *testing.T, o s3.Options) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// client returns an S3 client without packhold, to look behind it.
func client(t *testing.T, addr string) *minio.Core {
	t.Helper()
	c, err := minio.NewCore(addr, &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// proxy stands before a server and spoils what it is told to.
type proxy struct {
	*httptest.Server
	forward *httputil.ReverseProxy

	mu   sync.Mutex // guards what is below
	hook func(w http.ResponseWriter, r *http.Request) (done bool)
	seen []*http.Request // without bodies
}

func newProxy(t *testing.T, addr string) *proxy {
	t.Helper()
	p := &proxy{}
	target := &url.URL{Scheme: "http", Host: addr}
	p.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		Transport:    &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) },
	}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.Config.ErrorLog = nil
	t.Cleanup(p.Close)
	return p
}

func plainProxy(t *testing.T, addr string) *proxy {
	t.Helper()
	p := newProxy(t, addr)
	p.Start()
	return p
}

func (p *proxy) addr() string { return p.Listener.Addr().String() }

func (p *proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, r.Clone(context.WithoutCancel(r.Context())))
	hook := p.hook
	p.mu.Unlock()
	if hook != nil && hook(w, r) {
		return
	}
	p.forward.ServeHTTP(w, r)
}

// set makes every request go through hook, which returns false to forward it. Nil removes it.
func (p *proxy) set(hook func(w http.ResponseWriter, r *http.Request) (done bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = hook
}

// requests returns what came since the last call.
func (p *proxy) requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = nil
	return seen
}

// behind lets the server do its work, and returns its answer.
func (p *proxy) behind(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.forward.ServeHTTP(w, r)
	return w
}

// drop ends the connection without an answer.
func drop() { panic(http.ErrAbortHandler) }

// send answers with a body under the headers given as pairs.
func send(w http.ResponseWriter, status int, body string, headers ...string) {
	for i := 0; i < len(headers); i += 2 {
		w.Header().Set(headers[i], headers[i+1])
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// s3Error is the body of an error.
func s3Error(code string) string {
	return `<?xml version="1.0" encoding="UTF-8"?><Error><Code>` + code + `</Code><Message>made up</Message><RequestId>1</RequestId></Error>`
}

func isList(r *http.Request) bool { return r.URL.Query().Get("list-type") == "2" }

// quickly fails unless f ends soon after its context does.
func quickly(t *testing.T, what string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := f(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: %v", what, err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("%s took %v", what, took)
	}
}
