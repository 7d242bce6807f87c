package s3_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"packhold/backends"
	"packhold/backends/s3"
)

// works stores, reads, lists and deletes.
func works(t *testing.T, s *s3.Store) {
	t.Helper()
	name, data := "packs/ab/x", bytes.Repeat([]byte("packhold"), 100_000)
	if err := s.Put(t.Context(), name, data, backends.PutOptions{IfAbsent: true}); err != nil {
		t.Error(err)
		return
	}
	if err := s.Put(t.Context(), name, data, backends.PutOptions{IfAbsent: true}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("again: %v", err)
	}
	if got, err := s.Get(t.Context(), name, 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := listed(t, s, "packs/"); err != nil || len(got) != 1 || got[0] != name {
		t.Errorf("listed %q, %v", got, err)
	}
	if err := s.Delete(t.Context(), name); err != nil {
		t.Error(err)
	}
	if _, err := s.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deleted: %v", err)
	}
}

// authority is a certificate authority of its own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	_, a.key, a.pem, _ = a.issue(t, a.cert)
	return a
}

// issue returns a certificate as the template says, and its key, also in PEM form.
func (a *authority) issue(t *testing.T, template *x509.Certificate) (der []byte, key *ecdsa.PrivateKey, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, signer); err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func (a *authority) server(t *testing.T, names ...string) (certPEM, keyPEM []byte) {
	t.Helper()
	_, _, certPEM, keyPEM = a.issue(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return certPEM, keyPEM
}

// A server with a certificate of one's own authority is trusted if its certificate is given, and only then.
func TestTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	cert, key := ca.server(t)
	dir := t.TempDir()
	for name, text := range map[string][]byte{"cert": cert, "key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := options(own(t, "--cert", filepath.Join(dir, "cert"), "--key", filepath.Join(dir, "key")).addr)
	o.PlainHTTP = false
	for what, pem := range map[string][]byte{"no CA": nil, "another CA": other.pem} {
		o.CA = pem
		_, err := s3.Open(t.Context(), o)
		want(t, what, err)
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok || !strings.Contains(err.Error(), "certificate is not trusted") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, change := range map[string]func(o *s3.Options){
		"CA":      func(o *s3.Options) { o.CA = ca.pem },
		"CAs":     func(o *s3.Options) { o.CA = append(bytes.Clone(other.pem), ca.pem...) },
		"SHA-256": func(o *s3.Options) { o.CA, o.Checksum = ca.pem, s3.SHA256 },
	} {
		t.Run(what, func(t *testing.T) {
			change(&o)
			works(t, open(t, o))
		})
	}
}

// The bucket stands in the path or in the host's name. An HTTP proxy finds the host.
func TestAddressing(t *testing.T) {
	p := plainProxy(t, own(t, "--virtual-domain", "s3.test").addr)
	for what, c := range map[string]struct {
		addressing s3.Addressing
		bucket     string
		host       string
	}{
		"auto":         {s3.Auto, "bucket-a", "s3.test"},
		"path":         {s3.PathStyle, "bucket-b", "s3.test"},
		"virtual host": {s3.VirtualHost, "bucket-c", "bucket-c.s3.test"},
	} {
		t.Run(what, func(t *testing.T) {
			o := options("s3.test")
			o.Bucket, o.Addressing, o.Prefix = c.bucket, c.addressing, "a/b"
			o.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: p.addr()})
			s := open(t, o)
			p.requests()
			works(t, s)
			for _, r := range p.requests() {
				path := "/" + c.bucket
				if c.addressing == s3.VirtualHost {
					path = ""
				}
				if r.Host != c.host || !strings.HasPrefix(r.URL.Path, path+"/a/b/") && r.URL.Path != path+"/" {
					t.Errorf("%s to host %s", r.URL.Path, r.Host)
				}
			}
		})
	}
}

// The server says which region it is in.
func TestRegion(t *testing.T) {
	addr := own(t, "--region", "eu-test-1").addr
	for _, region := range []string{"", "eu-test-1", "us-west-2"} {
		o := options(addr)
		o.Region = region
		s := open(t, o)
		if got := s.Region(); got != "eu-test-1" {
			t.Errorf("region %q, for %q", got, region)
		}
		works(t, s)
	}
}

// The settings {"type": "s3", "bucket": "my-backups"} and credentials in the environment are enough for Amazon: its endpoint, the region it names,
// the bucket in the host's name. Amazon is played by versitygw behind a proxy, which first tells that the bucket is elsewhere.
func TestAmazon(t *testing.T) {
	const home = "s3.dualstack.eu-central-1.amazonaws.com"
	ca := newAuthority(t)
	cert, key := ca.server(t, "my-backups.s3.dualstack.us-east-1.amazonaws.com", "my-backups."+home, home)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	front := newProxy(t, own(t, "--virtual-domain", home, "--region", "eu-central-1").addr)
	front.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	front.StartTLS()
	front.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.Host, home) {
			return false
		}
		send(w, http.StatusBadRequest, strings.Replace(s3Error("AuthorizationHeaderMalformed"), "<RequestId>", "<Region>eu-central-1</Region><RequestId>", 1))
		return true
	})
	// tunnel is an HTTP proxy that leads every host to front.
	tunnel, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Value
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := tunnel.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				req, err := http.ReadRequest(r)
				if err != nil || req.Method != http.MethodConnect {
					return
				}
				asked.Store(req.Host)
				to, err := net.Dial("tcp", front.addr())
				if err != nil {
					return
				}
				defer to.Close()
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
				go func() { _, _ = r.WriteTo(to) }()
				_, _ = bufio.NewReader(to).WriteTo(conn)
			}()
		}
	}()
	t.Cleanup(func() {
		_ = tunnel.Close()
		<-done
	})
	env := map[string]string{"AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": secretKey}
	s := open(t, s3.Options{
		Bucket: "my-backups", Create: true, Credentials: []s3.Provider{s3.Environment(func(k string) string { return env[k] })},
		CA: ca.pem, Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: tunnel.Addr().String()}),
	})
	if got := s.Region(); got != "eu-central-1" {
		t.Errorf("region %s", got)
	}
	works(t, s)
	if got := asked.Load(); got != "my-backups."+home+":443" {
		t.Errorf("asked for %v", got)
	}
}

// instance plays the metadata service of a machine. Its credentials expire after the given time; the first ones are those withdrawn.
func instance(t *testing.T, lasts time.Duration, fetched *atomic.Int64, withdrawn ...string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
			send(w, 200, "token")
		case r.Header.Get("X-aws-ec2-metadata-token") != "token":
			send(w, 401, "")
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/":
			send(w, 200, "role")
		case r.URL.Path == "/latest/meta-data/iam/security-credentials/role":
			id := accessKey
			if fetched.Add(1) <= int64(len(withdrawn)) {
				id = withdrawn[fetched.Load()-1]
			}
			send(w, 200, fmt.Sprintf(`{"Code": "Success", "AccessKeyId": %q, "SecretAccessKey": %q, "Expiration": %q}`, id, secretKey, time.Now().Add(lasts).UTC().Format(time.RFC3339Nano)))
		default:
			send(w, 404, "")
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func none(string) string { return "" }

func TestCredentials(t *testing.T) {
	addr := sharedServer(t).addr
	file := filepath.Join(t.TempDir(), "credentials")
	text := fmt.Sprintf("[default]\naws_access_key_id = nobody\naws_secret_access_key = x\n[backup]\naws_access_key_id = %s\naws_secret_access_key = %s\n",
		accessKey, secretKey)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// What the process has in its environment is nobody's business.
	t.Setenv("AWS_ACCESS_KEY_ID", "nobody")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
	t.Setenv("AWS_PROFILE", "other")
	env := func(values map[string]string) s3.Provider {
		return s3.Environment(func(name string) string { return values[name] })
	}
	var fetched atomic.Int64
	good := env(map[string]string{"AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": secretKey})
	for what, c := range map[string]struct {
		providers []s3.Provider
		ok        bool
	}{
		"environment":                 {[]s3.Provider{good}, true},
		"profile":                     {[]s3.Provider{s3.SharedFile(file, "backup")}, true},
		"default profile":             {[]s3.Provider{s3.SharedFile(file, "")}, false},
		"missing profile":             {[]s3.Provider{s3.SharedFile(file, "none")}, false},
		"instance":                    {[]s3.Provider{s3.Instance(none, instance(t, time.Hour, &fetched))}, true},
		"nothing, nothing, instance":  {[]s3.Provider{env(nil), s3.SharedFile(file+"x", ""), s3.Instance(none, instance(t, time.Hour, &fetched))}, true},
		"half an environment, static": {[]s3.Provider{env(map[string]string{"AWS_ACCESS_KEY_ID": "a"}), s3.Static(accessKey, secretKey, "")}, true},
		"first wins":                  {[]s3.Provider{s3.Static("nobody", "x", ""), good}, false},
		"empty":                       {[]s3.Provider{s3.Static("", "", "")}, false},
	} {
		o := options(addr)
		o.Credentials = c.providers
		s, err := s3.Open(t.Context(), o)
		if c.ok && err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if !c.ok {
			want(t, what, err, "fs.ErrPermission")
		}
		if err == nil {
			_ = s.Close()
		}
	}
}

// Credentials of an instance are fetched anew before they expire. For those that the storage says have expired see TestD5Renewed.
func TestRefresh(t *testing.T) {
	t.Parallel()
	p := plainProxy(t, sharedServer(t).addr)
	o := options(p.addr())
	var fetched atomic.Int64
	o.Credentials = []s3.Provider{s3.Instance(none, instance(t, 500*time.Millisecond, &fetched))}
	s := open(t, o)
	for end := time.Now().Add(1200 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := s.Put(t.Context(), "a", nil, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := fetched.Load(); n < 2 || n > 6 {
		t.Errorf("fetched %d times in 1.2 s, valid for 0.5 s", n)
	}
}

// A server that dies and comes back: errors between, and everything stored is there.
func TestRestart(t *testing.T) {
	t.Parallel()
	server := own(t)
	o := options(server.addr)
	o.Abilities = &s3.Abilities{Conditional: true}
	s := open(t, o)
	for i := range 20 {
		if err := s.Put(t.Context(), fmt.Sprintf("d/%d", i), []byte{byte(i)}, backends.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
	}
	server.stop()
	want(t, "Put", s.Put(t.Context(), "d/new", nil, backends.PutOptions{}))
	want(t, "exclusive Put", s.Put(t.Context(), "d/new", nil, backends.PutOptions{IfAbsent: true}))
	_, err := s.Get(t.Context(), "d/1", 0, -1)
	want(t, "Get", err)
	_, err = s.Stat(t.Context(), "d/1")
	want(t, "Stat", err)
	want(t, "Delete", s.Delete(t.Context(), "d/1"))
	_, err = listed(t, s, "")
	want(t, "List", err)
	_, err = s3.Open(t.Context(), o)
	want(t, "Open", err)
	server.run(t)
	if got, err := listed(t, s, "d/"); err != nil || len(got) != 20 {
		t.Errorf("after it came back: %d files, %v", len(got), err)
	}
	if got, err := s.Get(t.Context(), "d/7", 0, -1); err != nil || len(got) != 1 || got[0] != 7 {
		t.Errorf("after it came back: %v, %v", got, err)
	}
}

// What is left behind for more than a day goes, and nothing else.
func TestRemoveStale(t *testing.T) {
	server := own(t)
	o := options(server.addr)
	o.Prefix = "repo"
	s := open(t, o)
	c := client(t, server.addr)
	begin := func(key string) (folder string) {
		t.Helper()
		id, err := c.NewMultipartUpload(t.Context(), o.Bucket, key, minio.PutObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.PutObjectPart(t.Context(), o.Bucket, key, id, 1, strings.NewReader("x"), 1, minio.PutObjectPartOptions{}); err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(filepath.Dir(server.log.Name()), "data")
		err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && d.Name() == id {
				folder = path
			}
			return err
		})
		if err != nil || folder == "" {
			t.Fatalf("the upload's folder is not found: %v", err)
		}
		return folder
	}
	old := time.Now().Add(-25 * time.Hour)
	var aged []string
	for i := range 3 {
		aged = append(aged, begin(fmt.Sprintf("repo/packs/old%d", i)))
	}
	aged = append(aged, begin("elsewhere/old"))
	begin("repo/packs/new")
	for _, key := range []string{"repo/tmp/probe-old", "repo/tmp/probe-new", "repo/tmp/other", "repo/a"} {
		foreign(t, server.addr, o.Bucket, key)
		if !strings.HasSuffix(key, "new") {
			aged = append(aged, filepath.Join(filepath.Dir(server.log.Name()), "data", o.Bucket, filepath.FromSlash(key)))
		}
	}
	for _, path := range aged {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{4, 0} {
		if got, err := s.RemoveStale(t.Context()); err != nil || got != n {
			t.Errorf("%d removed, want %d, %v", got, n, err)
		}
	}
	left, err := c.ListMultipartUploads(t.Context(), o.Bucket, "", "", "", "", 100)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, u := range left.Uploads {
		keys = append(keys, u.Key)
	}
	if got := strings.Join(keys, " "); got != "elsewhere/old repo/packs/new" {
		t.Errorf("uploads left: %s", got)
	}
	if got := strings.Join(objects(t, server.addr, o.Bucket), " "); got != "repo/a repo/tmp/other repo/tmp/probe-new" {
		t.Errorf("objects left: %s", got)
	}
}

// A line that is slow, and alive, is no reason to give up.
func TestSlow(t *testing.T) {
	t.Parallel()
	p := plainProxy(t, sharedServer(t).addr)
	o := options(p.addr())
	o.Stall = time.Second
	s := open(t, o)
	p.set(func(_ http.ResponseWriter, r *http.Request) bool {
		r.Body = slowBody{r.Body}
		return false
	})
	began := time.Now()
	if err := s.Put(t.Context(), "d/slow", make([]byte, 64<<20), backends.PutOptions{}); err != nil {
		t.Errorf("%v, after %v", err, time.Since(began))
	}
	if took := time.Since(began); took < 2*o.Stall {
		t.Errorf("the upload took %v only", took)
	}
}

// slowBody gives 25 MB/s, in small pieces: the sockets' buffers hold several MiB.
type slowBody struct {
	rc interface {
		Read([]byte) (int, error)
		Close() error
	}
}

func (s slowBody) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return s.rc.Read(p[:min(len(p), 32<<10)])
}

func (s slowBody) Close() error { return s.rc.Close() }

// hangs makes every call while the server does not answer.
func hangs(t *testing.T, patient, hasty *s3.Store) {
	t.Helper()
	for what, call := range map[string]func(ctx context.Context, s *s3.Store) error{
		"Put": func(ctx context.Context, s *s3.Store) error {
			return s.Put(ctx, "d/b", make([]byte, 4<<20), backends.PutOptions{})
		},
		"exclusive Put": func(ctx context.Context, s *s3.Store) error {
			return s.Put(ctx, "d/b", nil, backends.PutOptions{IfAbsent: true})
		},
		"Get": func(ctx context.Context, s *s3.Store) error {
			_, err := s.Get(ctx, "d/a", 0, -1)
			return err
		},
		"Stat": func(ctx context.Context, s *s3.Store) error {
			_, err := s.Stat(ctx, "d/a")
			return err
		},
		"Delete": func(ctx context.Context, s *s3.Store) error { return s.Delete(ctx, "d/a") },
		"List": func(ctx context.Context, s *s3.Store) (last error) {
			for _, err := range s.List(ctx, "") {
				last = err
			}
			return last
		},
		"Probe": func(ctx context.Context, s *s3.Store) error {
			_, err := s.Probe(ctx)
			return err
		},
		"RemoveStale": func(ctx context.Context, s *s3.Store) error {
			_, err := s.RemoveStale(ctx)
			return err
		},
	} {
		quickly(t, what, func(ctx context.Context) error { return call(ctx, patient) })
		began := time.Now()
		want(t, what, call(t.Context(), hasty))
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: it took %v to give up", what, took)
		}
	}
}
