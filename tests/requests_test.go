package tests

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// counted is a way to an S3 server that counts requests by what they do.
type counted struct {
	*httptest.Server

	mu    sync.Mutex // guards kinds
	kinds map[string]int
}

func newCounted(t *testing.T, addr string) *counted {
	t.Helper()
	c := &counted{kinds: make(map[string]int)}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: addr})
		r.Out.Host = r.In.Host // it is signed
	}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := r.Method
		if r.URL.Query().Has("list-type") {
			kind = "LIST"
		}
		c.mu.Lock()
		c.kinds[kind]++
		c.mu.Unlock()
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(c.Close)
	return c
}

// take returns how many requests came since the last call, and which.
func (c *counted) take() (n int, kinds string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.kinds {
		n += k
	}
	kinds = fmt.Sprint(c.kinds)
	c.kinds = make(map[string]int)
	return n, kinds
}

// TestRequests holds how many requests a far storage is asked: each costs a round trip there. Whoever needs one more finds another to save, or says
// here why not.
func TestRequests(t *testing.T) {
	s := startS3(t)
	c := newCounted(t, s.addr)
	r := s.remote(t, "bucket/counted")
	r.env[2] = "PACKHOLD_REPOSITORY=s3:http://" + strings.TrimPrefix(c.URL, "http://") + "/bucket/counted"
	source := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	const packs = 4 // of data, beside one of trees
	if err := writeRandom(filepath.Join(source, "one"), 1, 7<<20); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(source, fmt.Sprint("small", i)), []byte(strings.Repeat(fmt.Sprint(i, " "), 100)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.exits(t, 0, "init", "--quiet", "--pack-size", "2M")
	dst := filepath.Join(t.TempDir(), "restored")
	for _, step := range []struct {
		what string
		most int
		args []string
	}{
		// Listing, config, settings, two certificates; lease, condemned sets, listing; packs of data and of trees, index segment, log entry (2),
		// record, lease removed, log entry (2). A backup that takes longer than a second lists once more, and reads the log's last tile.
		{"the first backup", 16 + packs + 2, []string{"backup", "--quiet", "--source", source}},
		// The certificates are known, no packs and no segment are stored; but there is a record to read.
		{"nothing changed", 13 + 2, []string{"backup", "--quiet", "--source", source}},
		// Listing, config, settings, two records, log entry (2).
		{"a list", 7 + 2, []string{"list"}},
		// Listing, config, key, bundle, settings, two certificates; two records; condemned sets, listing, segment; trees and data; log entry (2).
		{"a restore", 15 + packs + 3, []string{"restore", "--quiet", "--destination", dst}},
	} {
		if step.what == "a restore" {
			if err := os.RemoveAll(filepath.Join(string(r.home), ".cache")); err != nil {
				t.Fatal(err)
			}
		}
		c.take()
		r.exits(t, 0, step.args...)
		n, kinds := c.take()
		t.Logf("%s: %d requests, %s", step.what, n, kinds)
		if n > step.most {
			t.Errorf("%s: %d requests, at most %d are known to be needed: %s", step.what, n, step.most, kinds)
		}
	}
	sameTree(t, mustDescribe(t, source), dst)
}
