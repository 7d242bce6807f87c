package s3_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/s3"
)

// sentinels are what callers act on.
var sentinels = map[string]error{
	"fs.ErrNotExist": fs.ErrNotExist, "fs.ErrExist": fs.ErrExist, "fs.ErrPermission": fs.ErrPermission, "io.ErrUnexpectedEOF": io.ErrUnexpectedEOF,
	"ErrGone": backends.ErrGone, "ErrNoSpace": backends.ErrNoSpace, "ErrUnsupported": backends.ErrUnsupported, "ErrCold": s3.ErrCold, "ErrClock": backends.ErrClock,
	"context.Canceled": context.Canceled, "context.DeadlineExceeded": context.DeadlineExceeded,
}

// want fails unless err is an error that matches the sentinels named, and no other.
func want(t *testing.T, what string, err error, names ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
	}
	for name, sentinel := range sentinels {
		if errors.Is(err, sentinel) != slices.Contains(names, name) {
			t.Errorf("%s: is it %s? %v", what, name, err)
		}
	}
}

// spoiled returns a Store with the file d/a of some bytes, behind a proxy.
func spoiled(t *testing.T) (*s3.Store, *proxy, []byte) {
	t.Helper()
	p := plainProxy(t, sharedServer(t).addr)
	o := options(p.addr())
	o.Abilities = &s3.Abilities{Conditional: true}
	s := open(t, o)
	data := make([]byte, 100_000)
	for i := range data {
		data[i] = byte(i * i >> 4)
	}
	if err := s.Put(t.Context(), "d/a", data, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	return s, p, data
}

// answer makes every request with the method get the same answer.
func answer(method string, status int, body string, headers ...string) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != method {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		send(w, status, body, headers...)
		return true
	}
}

const htmlPage = "<html><body>Welcome to the hotel's network</body></html>"

// Errors and nonsense as answers, whatever is asked.
func TestAnswers(t *testing.T) {
	t.Parallel()
	s, p, data := spoiled(t)
	for what, c := range map[string]struct {
		status int
		body   string
		want   []string
	}{
		"internal error":     {500, s3Error("InternalError"), nil},
		"slow down":          {503, s3Error("SlowDown"), nil},
		"gateway":            {502, htmlPage, nil},
		"teapot":             {418, "", nil},
		"redirect":           {301, s3Error("PermanentRedirect"), nil},
		"denied":             {403, s3Error("AccessDenied"), []string{"fs.ErrPermission"}},
		"denied by a proxy":  {403, htmlPage, []string{"fs.ErrPermission"}},
		"clock":              {403, s3Error("RequestTimeTooSkewed"), []string{"ErrClock"}},
		"cold":               {403, s3Error("InvalidObjectState"), []string{"fs.ErrPermission", "ErrCold"}},
		"quota":              {403, s3Error("QuotaExceeded"), []string{"ErrNoSpace"}},
		"full":               {507, s3Error("InsufficientStorage"), []string{"ErrNoSpace"}},
		"full without words": {507, "", []string{"ErrNoSpace"}},
		"too large":          {413, htmlPage, []string{"ErrNoSpace"}},
		"bucket gone":        {404, s3Error("NoSuchBucket"), []string{"ErrGone"}},
		"not implemented":    {501, s3Error("NotImplemented"), []string{"ErrUnsupported"}},
		"expired token":      {400, s3Error("ExpiredToken"), []string{"fs.ErrPermission"}},
		"error as success":   {200, s3Error("InternalError"), nil},
		"page as success":    {200, htmlPage, nil},
		"nothing as success": {200, "", nil},
		"other success":      {202, "", nil},
	} {
		wanted := func(of string, err error) {
			want(t, what+": "+of, err, c.want...)
			if err != nil && strings.Contains(err.Error(), secretKey) {
				t.Errorf("%s: the error shows the secret key", what)
			}
		}
		p.set(answer(http.MethodPut, c.status, c.body))
		wanted("Put", s.Put(t.Context(), "d/b", data, backends.PutOptions{}))
		wanted("exclusive Put", s.Put(t.Context(), "d/b", data, backends.PutOptions{IfAbsent: true}))
		p.set(answer(http.MethodGet, c.status, c.body))
		got, err := s.Get(t.Context(), "d/a", 0, -1)
		wanted("Get", err)
		part, err := s.Get(t.Context(), "d/a", 0, 5)
		wanted("Get of a part", err)
		if got != nil || part != nil {
			t.Errorf("%s: Get returns bytes", what)
		}
		files := 0
		var listErr error
		for _, err := range s.List(t.Context(), "") {
			if files++; err != nil {
				listErr = err
			}
		}
		if wanted("List", listErr); files != 1 {
			t.Errorf("%s: List yields %d times", what, files)
		}
		// HEAD has no body to say what is wrong: some are plain errors then. None is a statement about the file.
		p.set(answer(http.MethodHead, c.status, ""))
		_, err = s.Stat(t.Context(), "d/a")
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, backends.ErrGone) {
			t.Errorf("%s: Stat: %v", what, err)
		}
		err = s.Delete(t.Context(), "d/a")
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, backends.ErrGone) {
			t.Errorf("%s: Delete: %v", what, err)
		}
		p.set(answer(http.MethodDelete, c.status, c.body))
		wanted("Delete", s.Delete(t.Context(), "d/a"))
	}
	p.set(nil)
	if _, err := s.Stat(t.Context(), "d/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was never stored: %v", err)
	}
	if got, err := s.Get(t.Context(), "d/a", 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after all: %d bytes, %v", len(got), err)
	}
}

// "Not found" counts only if S3 says it, of the file.
func TestNotFound(t *testing.T) {
	s, p, _ := spoiled(t)
	for what, hook := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"a page": func(w http.ResponseWriter, r *http.Request) bool {
			if isList(r) {
				return false
			}
			send(w, 404, htmlPage)
			return true
		},
		"a page for all": func(w http.ResponseWriter, r *http.Request) bool {
			send(w, 404, htmlPage)
			return true
		},
		"another error": func(w http.ResponseWriter, r *http.Request) bool {
			if isList(r) {
				return false
			}
			send(w, 404, s3Error("NoSuchUpload"))
			return true
		},
	} {
		p.set(hook)
		_, err := s.Get(t.Context(), "d/a", 0, -1)
		want(t, what+": Get", err)
		_, err = s.Stat(t.Context(), "d/a")
		want(t, what+": Stat", err)
		want(t, what+": Delete", s.Delete(t.Context(), "d/a"))
		_, err = s.Get(t.Context(), "d/none", 0, -1)
		if errors.Is(err, fs.ErrNotExist) != (what == "a page") {
			t.Errorf("%s: Get of a missing file: %v", what, err)
		}
		want(t, what+": Put", s.Put(t.Context(), "d/b", nil, backends.PutOptions{}))
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	s, p, _ := spoiled(t)
	now := time.Now().UTC().Truncate(time.Second)
	for value, after := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, "1200": 20 * time.Minute, now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat): 0, "": -1, "soon": -1, "-5": -1, "99999999999999999999": -1,
	} {
		p.set(answer(http.MethodPut, 503, s3Error("SlowDown"), "Retry-After", value, "Date", now.Format(http.TimeFormat)))
		err := s.Put(t.Context(), "d/b", nil, backends.PutOptions{})
		want(t, value, err)
		var busy interface{ RetryAfter() time.Duration }
		got := time.Duration(-1)
		if errors.As(err, &busy) {
			got = busy.RetryAfter()
		}
		if got != after {
			t.Errorf("Retry-After %q: %v, want %v", value, got, after)
		}
	}
}

// A body that is cut, or is not what was asked for, is an error, and never says that the file is short.
func TestSpoiledGet(t *testing.T) {
	s, p, data := spoiled(t)
	// respond lets change spoil the server's answer, then sends it.
	respond := func(change func(w *httptest.ResponseRecorder)) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || isList(r) {
				return false
			}
			got := p.behind(r)
			change(got)
			for k, v := range got.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(got.Code)
			_ = http.NewResponseController(w).Flush() // or a missing length is filled in
			_, _ = w.Write(got.Body.Bytes())
			if l, _ := strconv.Atoi(w.Header().Get("Content-Length")); l > got.Body.Len() {
				drop()
			}
			return true
		}
	}
	for what, change := range map[string]func(w *httptest.ResponseRecorder){
		"half":          func(w *httptest.ResponseRecorder) { w.Body.Truncate(w.Body.Len() / 2) },
		"but a byte":    func(w *httptest.ResponseRecorder) { w.Body.Truncate(w.Body.Len() - 1) },
		"nothing":       func(w *httptest.ResponseRecorder) { w.Body.Reset() },
		"vast":          func(w *httptest.ResponseRecorder) { w.Header().Set("Content-Length", "1099511627776") },
		"no length":     func(w *httptest.ResponseRecorder) { w.Header().Del("Content-Length") },
		"XML as itself": func(w *httptest.ResponseRecorder) { *w = *httptest.NewRecorder(); w.WriteString(s3Error("SlowDown")) },
	} {
		p.set(respond(change))
		for _, c := range [][2]int64{{0, -1}, {0, 1000}, {7, 50_000}, {10, -1}} {
			began := time.Now()
			got, err := s.Get(t.Context(), "d/a", c[0], c[1])
			want(t, fmt.Sprint(what, c), err)
			if got != nil || time.Since(began) > 5*time.Second {
				t.Errorf("%s: %d bytes, after %v", what, len(got), time.Since(began))
			}
		}
	}
	length := func(w *httptest.ResponseRecorder) { w.Header().Set("Content-Length", strconv.Itoa(w.Body.Len())) }
	for what, change := range map[string]func(w *httptest.ResponseRecorder){
		"a shorter part": func(w *httptest.ResponseRecorder) { w.Body.Truncate(w.Body.Len() - 1); length(w) },
		"a longer part":  func(w *httptest.ResponseRecorder) { w.Body.WriteByte(0); length(w) },
		"another part":   func(w *httptest.ResponseRecorder) { w.Header().Set("Content-Range", "bytes 8-50007/100000") },
		"no range":       func(w *httptest.ResponseRecorder) { w.Header().Del("Content-Range") },
		"a bad range":    func(w *httptest.ResponseRecorder) { w.Header().Set("Content-Range", "bytes 7-50006/*") },
		"all": func(w *httptest.ResponseRecorder) {
			w.Code = 200
			w.Header().Del("Content-Range")
			w.Body = bytes.NewBuffer(bytes.Clone(data))
			length(w)
		},
		"a smaller file's": func(w *httptest.ResponseRecorder) { w.Header().Set("Content-Range", "bytes 7-50006/50000") },
		"200":              func(w *httptest.ResponseRecorder) { w.Code = 200 },
	} {
		p.set(respond(change))
		if got, err := s.Get(t.Context(), "d/a", 7, 50_000); got != nil || err == nil {
			t.Errorf("%s: %d bytes", what, len(got))
		} else {
			want(t, what, err)
		}
	}
	// A range that ends before what was asked for, by a server that says so: the file is short.
	p.set(nil)
	if _, err := s.Get(t.Context(), "d/a", 99_000, 2000); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("beyond the end: %v", err)
	}
	p.set(answer(http.MethodGet, 416, s3Error("InvalidRange")))
	_, err := s.Get(t.Context(), "d/a", 7, 50_000)
	want(t, "a range refused though it is there", err)
}

func TestSpoiledPut(t *testing.T) {
	t.Parallel()
	s, p, data := spoiled(t)
	isPut := func(r *http.Request) bool { return r.Method == http.MethodPut }

	t.Run("cut on the way", func(t *testing.T) {
		for _, n := range []int64{0, 1, 50_000, 99_999} {
			p.set(func(_ http.ResponseWriter, r *http.Request) bool {
				if !isPut(r) {
					return false
				}
				// The server gets a part, and no more.
				r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, n), broke{}))
				return false
			})
			want(t, "Put", s.Put(t.Context(), "cut", data, backends.PutOptions{IfAbsent: true}))
			p.set(nil)
			if _, err := s.Stat(t.Context(), "cut"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after %d bytes: %v", n, err)
			}
		}
	})
	t.Run("answer lost", func(t *testing.T) {
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			if isPut(r) {
				p.behind(r)
				drop()
			}
			return false
		})
		p.requests()
		want(t, "Put", s.Put(t.Context(), "lost", data, backends.PutOptions{IfAbsent: true}), "fs.ErrExist") // its own
		want(t, "plain Put", s.Put(t.Context(), "plain", data, backends.PutOptions{}))
		if n := count(p.requests(), http.MethodPut); n != 2 {
			t.Errorf("%d PUTs: a call is repeated without its caller", n)
		}
		p.set(nil)
		want(t, "again", s.Put(t.Context(), "lost", data, backends.PutOptions{IfAbsent: true}), "fs.ErrExist")
		for _, name := range []string{"lost", "plain"} {
			if got, err := s.Get(t.Context(), name, 0, -1); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
	})
	t.Run("bytes changed on the way", func(t *testing.T) {
		for _, checksum := range []s3.Checksum{s3.CRC32C, s3.SHA256} {
			o := options(p.addr())
			o.Checksum = checksum
			p.set(nil)
			s := open(t, o)
			p.set(func(_ http.ResponseWriter, r *http.Request) bool {
				if isPut(r) {
					r.Body = io.NopCloser(&flipper{r: r.Body, at: 70_000})
				}
				return false
			})
			want(t, "Put", s.Put(t.Context(), "flipped", data, backends.PutOptions{}))
			p.set(nil)
			if _, err := s.Stat(t.Context(), "flipped"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a file of other bytes: %v", err)
			}
		}
	})
	t.Run("other bytes stored", func(t *testing.T) {
		p.set(answer(http.MethodPut, 200, "", "ETag", `"x"`, "x-amz-checksum-crc32c", "AAAAAA=="))
		want(t, "Put", s.Put(t.Context(), "other", data, backends.PutOptions{}))
	})
	t.Run("conflict", func(t *testing.T) {
		var tries atomic.Int64
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			return isPut(r) && tries.Add(1) <= 3 && answer(http.MethodPut, 409, s3Error("ConditionalRequestConflict"))(w, r)
		})
		if err := s.Put(t.Context(), "conflict", data, backends.PutOptions{IfAbsent: true}); err != nil || tries.Load() != 4 {
			t.Errorf("%v, after %d tries", err, tries.Load())
		}
		p.set(answer(http.MethodPut, 409, s3Error("ConditionalRequestConflict")))
		want(t, "for ever, of a file", s.Put(t.Context(), "conflict", nil, backends.PutOptions{IfAbsent: true}), "fs.ErrExist")
		want(t, "for ever, of none", s.Put(t.Context(), "none", nil, backends.PutOptions{IfAbsent: true}))
		quickly(t, "conflict", func(ctx context.Context) error {
			return s.Put(ctx, "none", nil, backends.PutOptions{IfAbsent: true})
		})
	})
	t.Run("deleted, answer lost", func(t *testing.T) {
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodDelete {
				p.behind(r)
				drop()
			}
			return false
		})
		want(t, "Delete", s.Delete(t.Context(), "d/a"))
		p.set(nil)
		want(t, "again", s.Delete(t.Context(), "d/a"), "fs.ErrNotExist")
	})
}

// broke is a connection that breaks.
type broke struct{}

func (broke) Read([]byte) (int, error) { return 0, errors.New("broken") }

// flipper changes one bit.
type flipper struct {
	r   io.Reader
	off int
	at  int
}

func (f *flipper) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if i := f.at - f.off; i >= 0 && i < n {
		p[i] ^= 1
	}
	f.off += n
	return n, err
}

func count(requests []*http.Request, method string) (n int) {
	for _, r := range requests {
		if r.Method == method {
			n++
		}
	}
	return n
}

// A Put that has returned reads its bytes no more.
func TestDetached(t *testing.T) {
	t.Parallel()
	s, p, _ := spoiled(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		close(arrived)
		<-release
		drop()
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	data := make([]byte, 64<<20) // more than fits between two sockets
	err := s.Put(ctx, "d/b", data, backends.PutOptions{})
	want(t, "Put", err, "context.Canceled")
	for i := range data {
		data[i] = 1 // the race detector watches
	}
	close(release)
}

// listed collects a listing.
func listed(t *testing.T, s *s3.Store, prefix string) (names []string, err error) {
	t.Helper()
	for info, e := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Errorf("List goes on after an error: %+v, %v", info, e)
		}
		if err = e; err == nil {
			names = append(names, info.Name)
		}
	}
	slices.Sort(names)
	return names, err
}

// listPage is the answer to a listing.
func listPage(token string, truncated bool, keys ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>%v</IsTruncated>`, truncated)
	if token != "" {
		fmt.Fprintf(&b, "<NextContinuationToken>%s</NextContinuationToken>", token)
	}
	for _, key := range keys {
		fmt.Fprintf(&b, "<Contents><Key>%s</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><Size>3</Size></Contents>", key)
	}
	return b.String() + "</ListBucketResult>"
}

// A listing that goes round, ends in the middle or says what was not asked is an error, and ends.
func TestSpoiledList(t *testing.T) {
	s, p, _ := spoiled(t)
	var asked atomic.Int64
	n := func() string { return strconv.FormatInt(asked.Load(), 10) }
	for what, page := range map[string]func(r *http.Request) string{
		"error": func(*http.Request) string { return s3Error("InternalError") },
		"page":  func(*http.Request) string { return htmlPage },
		"empty": func(*http.Request) string { return "" },
		"cut": func(*http.Request) string {
			return strings.TrimSuffix(listPage("", false, "a", "b"), "</ListBucketResult>")
		},
		"more, but how":       func(*http.Request) string { return listPage("", true, "a") },
		"same token":          func(*http.Request) string { return listPage("t", true, "a"+n()) },
		"same token, the end": func(*http.Request) string { return listPage("t", false, "a"+n()) },
		"two tokens in turn":  func(*http.Request) string { return listPage(fmt.Sprint(asked.Load()%2), true, "a"+n()) },
		"same keys":           func(*http.Request) string { return listPage(n(), true, "a", "b") },
		"same keys later":     func(*http.Request) string { return listPage(n(), true, fmt.Sprint(asked.Load()%100)) },
		"nothing, for ever":   func(*http.Request) string { return listPage(n(), true) },
		"wrong count": func(*http.Request) string {
			return strings.Replace(listPage("", false, "a"), "<IsTruncated>", "<KeyCount>2</KeyCount><IsTruncated>", 1)
		},
		"negative size": func(*http.Request) string { return strings.Replace(listPage("", false, "a"), "<Size>3", "<Size>-3", 1) },
		"no date": func(*http.Request) string {
			return strings.Replace(listPage("", false, "a"), "LastModified", "Modified", 2)
		},
		"no size": func(*http.Request) string {
			return strings.Replace(listPage("", false, "a"), "<Size>3</Size>", "<Size>many</Size>", 1)
		},
		"bad escape": func(*http.Request) string {
			return strings.Replace(listPage("", false, "a%zz"), "<IsTruncated>", "<EncodingType>url</EncodingType><IsTruncated>", 1)
		},
		"huge": func(*http.Request) string { return listPage("", false) + strings.Repeat(" ", 17<<20) },
	} {
		asked.Store(0)
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			if !isList(r) {
				return false
			}
			asked.Add(1)
			send(w, 200, page(r), "Content-Type", "application/xml")
			return true
		})
		_, err := listed(t, s, "")
		want(t, what, err)
		if asked.Load() > 1100 {
			t.Errorf("%s: it took %d requests", what, asked.Load())
		}
		p.requests()
	}
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		send(w, 200, listPage("", false, "packs/a", "index/a"))
		return true
	})
	_, err := listed(t, s, "packs/")
	want(t, "keys elsewhere", err)
}

// What is odd and right is listed whole.
func TestOddList(t *testing.T) {
	t.Parallel()
	addr := sharedServer(t).addr
	p := plainProxy(t, addr)
	o := options(p.addr())
	s := open(t, o)
	var names []string
	for i := range 1200 {
		names = append(names, fmt.Sprintf("d/%04d", i))
	}
	var wg sync.WaitGroup
	for part := range slices.Chunk(names, 300) {
		wg.Go(func() {
			for _, name := range part {
				if err := s.Put(t.Context(), name, nil, backends.PutOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, key := range []string{"a b", "x+y", "ü", "UP", ".hidden", "100%", "tmp/x", "d/a&b", "d/<x>"} {
		foreign(t, addr, o.Bucket, key)
	}
	check := func(what string, want []string) {
		if got, err := listed(t, s, ""); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d files, want %d, %v", what, len(got), len(want), err)
		}
	}
	check("as it is", names)
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		// The flag and the token get lost.
		if !isList(r) {
			return false
		}
		got := p.behind(r)
		text := strings.Replace(got.Body.String(), "<IsTruncated>true</IsTruncated>", "", 1)
		if before, rest, ok := strings.Cut(text, "<NextContinuationToken>"); ok {
			_, after, _ := strings.Cut(rest, "</NextContinuationToken>")
			text = before + after
		}
		send(w, got.Code, text)
		return true
	})
	check("full pages without flag", names)

	var pages atomic.Int64
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		// One key at a time, unsorted, some twice, and empty pages between.
		i := pages.Add(1) - 1
		switch {
		case i%3 == 2:
			send(w, 200, listPage(fmt.Sprint(i), true))
		case i < 20:
			send(w, 200, listPage(fmt.Sprint(i), true, names[19-i], names[100]))
		default:
			send(w, 200, listPage("", false, names[40]))
		}
		return true
	})
	got, err := listed(t, s, "")
	if got = slices.Compact(got); err != nil || len(got) != 16 {
		t.Errorf("odd pages: %q, %v", got, err)
	}
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("continuation-token") == "" {
			return false
		}
		send(w, 500, s3Error("InternalError"))
		return true
	})
	got, err = listed(t, s, "")
	if want(t, "second page", err); len(got) == 0 || len(got) > 1000 {
		t.Errorf("%d files before the error", len(got))
	}
}

// Every PUT carries a checksum that fits its bytes, the storage class of its prefix, and a condition only where one is meant. There are no multipart uploads.
func TestHeaders(t *testing.T) {
	for _, checksum := range []s3.Checksum{s3.CRC32C, s3.SHA256} {
		p := plainProxy(t, sharedServer(t).addr)
		o := options(p.addr())
		o.Checksum = checksum
		o.Classes = map[string]string{"packs/": "GLACIER_IR", "packs/hot/": "", "": "STANDARD"}
		s := open(t, o)
		var mu sync.Mutex
		bad := map[string]int{}
		p.set(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost || r.URL.Query().Has("uploadId") {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			if r.Method != http.MethodPut {
				return false
			}
			text, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(text))
			sum, header := binary.BigEndian.AppendUint32(nil, crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli))), "X-Amz-Checksum-Crc32c"
			if checksum == s3.SHA256 {
				full := sha256.Sum256(text)
				sum, header = full[:], "X-Amz-Checksum-Sha256"
			}
			mu.Lock()
			defer mu.Unlock()
			if got := r.Header.Get(header); got != base64.StdEncoding.EncodeToString(sum) || !strings.Contains(r.Header.Get("Authorization"), strings.ToLower(header)) {
				bad["checksum "+r.URL.Path]++
			}
			name := strings.TrimPrefix(r.URL.Path, "/"+o.Bucket+"/")
			class := "STANDARD"
			switch {
			case strings.HasPrefix(name, "packs/hot/"):
				class = ""
			case strings.HasPrefix(name, "packs/"):
				class = "GLACIER_IR"
			}
			if got := r.Header.Get("X-Amz-Storage-Class"); got != class {
				bad["class "+r.URL.Path+" "+got]++
			}
			wantCondition := ""
			if strings.Contains(name, "once") || strings.HasPrefix(name, "tmp/") {
				wantCondition = "*"
			}
			if got := r.Header.Get("If-None-Match"); got != wantCondition {
				bad["condition "+r.URL.Path+" "+got]++
			}
			return false
		})
		big := make([]byte, 24<<20) // minio-go would send 16 MiB and more in parts
		for _, c := range []struct {
			name string
			data []byte
			put  backends.PutOptions
		}{
			{"packs/big", big, backends.PutOptions{}}, {"packs/once", big[:5], backends.PutOptions{IfAbsent: true}}, {"packs/hot/a", big[:9], backends.PutOptions{}},
			{"meta/a", nil, backends.PutOptions{}}, {"index/once", nil, backends.PutOptions{IfAbsent: true}},
		} {
			p.requests()
			if err := s.Put(t.Context(), c.name, c.data, c.put); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			if n := count(p.requests(), http.MethodPut); n == 0 {
				t.Errorf("%s: no PUT", c.name)
			}
		}
		mu.Lock()
		for what := range bad {
			t.Errorf("%v: bad %s", checksum, what)
		}
		mu.Unlock()
	}
}

// Delete in a bucket with versions removes nothing on the word of a listing that is none, and ends.
func TestSpoiledVersions(t *testing.T) {
	p := plainProxy(t, sharedServer(t).addr)
	o := options(p.addr())
	o.CreateLocked, o.Abilities = true, &s3.Abilities{Conditional: true, ObjectLock: true, Versioning: true}
	s := open(t, o)
	for range 3 {
		if err := s.Put(t.Context(), "d/a", []byte("x"), backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	const more = `<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>d/a</NextKeyMarker><NextVersionIdMarker>x</NextVersionIdMarker></ListVersionsResult>`
	for what, c := range map[string]struct {
		status int
		body   string
		want   []string
	}{
		"error as success": {200, s3Error("SlowDown"), nil},
		"page":             {200, htmlPage, nil},
		"cut":              {200, "<ListVersionsResult>", nil},
		"for ever":         {200, more, nil},
		"denied":           {403, s3Error("AccessDenied"), []string{"fs.ErrPermission"}},
		"error":            {500, s3Error("InternalError"), nil},
	} {
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Query().Has("versions") && answer(http.MethodGet, c.status, c.body)(w, r)
		})
		want(t, what, s.Delete(t.Context(), "d/a"), c.want...)
		if got, err := s.Get(t.Context(), "d/a", 0, -1); err != nil || string(got) != "x" {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	var pages atomic.Int64
	p.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Has("versions") {
			pages.Add(1)
		}
		return false
	})
	if err := s.Delete(t.Context(), "d/a"); err != nil || pages.Load() != 1 {
		t.Errorf("%v, %d pages", err, pages.Load())
	}
	if _, err := s.Get(t.Context(), "d/a", 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Delete: %v", err)
	}
}

// A lock counts only if a Delete was refused because of it.
func TestProbeLock(t *testing.T) {
	p := plainProxy(t, sharedServer(t).addr)
	asksLock := func(r *http.Request) bool { return r.URL.Query().Has("object-lock") }
	const enabled = `<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>`
	for what, c := range map[string]struct {
		locked bool // the bucket
		hook   func(w http.ResponseWriter, r *http.Request) bool
		want   bool
		fails  bool
	}{
		"locked":     {true, nil, true, false},
		"not locked": {false, nil, false, false},
		"claimed only": {false, func(w http.ResponseWriter, r *http.Request) bool {
			return asksLock(r) && answer(http.MethodGet, 200, enabled)(w, r)
		}, false, false},
		"ignored": {true, func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Query().Has("versionId") && answer(http.MethodDelete, 204, "")(w, r)
		}, false, false},
		"off": {true, func(w http.ResponseWriter, r *http.Request) bool {
			return asksLock(r) && answer(http.MethodGet, 200, strings.Replace(enabled, ">Enabled<", "><", 1))(w, r)
		}, false, false},
		"unknown question": {true, func(w http.ResponseWriter, r *http.Request) bool {
			return asksLock(r) && answer(http.MethodGet, 501, s3Error("NotImplemented"))(w, r)
		}, false, false},
		"secret": {true, func(w http.ResponseWriter, r *http.Request) bool {
			return asksLock(r) && answer(http.MethodGet, 403, s3Error("AccessDenied"))(w, r)
		}, false, false},
		"error": {true, func(w http.ResponseWriter, r *http.Request) bool {
			return asksLock(r) && answer(http.MethodGet, 500, s3Error("InternalError"))(w, r)
		}, false, true},
		"error of Delete": {true, func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Query().Has("versionId") && answer(http.MethodDelete, 500, s3Error("InternalError"))(w, r)
		}, false, true},
	} {
		p.set(nil)
		o := options(p.addr())
		o.CreateLocked = c.locked
		s := open(t, o)
		p.set(c.hook)
		a, err := s.Probe(t.Context())
		if c.fails {
			want(t, what, err)
			continue
		}
		if err != nil || a.ObjectLock != c.want || a.Versioning != c.locked {
			t.Errorf("%s: %+v, %v", what, a, err)
		}
		if until := time.Now().Add(time.Hour); !c.want {
			want(t, what+": Put", s.Put(t.Context(), "a", nil, backends.PutOptions{RetainUntil: until}), "ErrUnsupported")
			want(t, what+": Extend", s.Put(t.Context(), "a", nil, backends.PutOptions{RetainUntil: until, Extend: true}), "ErrUnsupported")
			p.set(nil)
			if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}

// TestClock: a date is not computed with a clock that is far from the server's, which every answer tells.
func TestClock(t *testing.T) {
	p := plainProxy(t, sharedServer(t).addr)
	o := options(p.addr())
	o.CreateLocked, o.Abilities = true, &s3.Abilities{Conditional: true, ObjectLock: true}
	s := open(t, o)
	until := time.Now().Add(2 * time.Second)
	for _, c := range []struct {
		off  time.Duration
		fine bool
	}{{backends.MaxSkew + 10*time.Second, false}, {-backends.MaxSkew - 10*time.Second, false}, {backends.MaxSkew - 10*time.Second, true}, {-400 * 24 * time.Hour, false}} {
		p.set(answer(http.MethodGet, 404, s3Error("NoSuchKey"), "Date", time.Now().Add(c.off).UTC().Format(http.TimeFormat)))
		_, _ = s.Get(t.Context(), "a", 0, -1)
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			if !c.fine {
				t.Errorf("with a clock off by %v the server is asked: %s %s", c.off, r.Method, r.URL)
			}
			return false
		})
		for _, put := range []backends.PutOptions{{RetainUntil: until}, {RetainUntil: until, Extend: true}} {
			// What asks the server first learns its time again.
			if err := s.Put(t.Context(), "a", nil, put); c.fine {
				if err != nil {
					t.Errorf("a clock off by %v: %v", c.off, err)
				}
			} else {
				want(t, fmt.Sprintf("a clock off by %v", c.off), err, "ErrClock")
			}
		}
		p.set(nil)
		if err := s.Put(t.Context(), "free", nil, backends.PutOptions{}); err != nil {
			t.Errorf("without a date, with a clock off by %v: %v", c.off, err)
		}
	}
}

func TestSpoiledRemoveStale(t *testing.T) {
	s, p, _ := spoiled(t)
	const upload = `<Upload><Key>d/a</Key><UploadId>u</UploadId><Initiated>2020-01-02T03:04:05Z</Initiated></Upload>`
	const more = `<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>` + upload + `</ListMultipartUploadsResult>`
	for what, c := range map[string]struct {
		status, abort int
		body          string
		want          int // removed, -1 for an error
	}{
		"no such thing":   {501, 204, s3Error("NotImplemented"), 0},
		"denied":          {403, 204, s3Error("AccessDenied"), 0},
		"error":           {500, 204, s3Error("InternalError"), -1},
		"page":            {200, 204, htmlPage, 0},
		"aborted":         {200, 204, strings.Replace(more, "true", "false", 1), 1},
		"already aborted": {200, 404, strings.Replace(more, "true", "false", 1), -1},
		"not to abort":    {200, 403, strings.Replace(more, "true", "false", 1), 0},
		"error of abort":  {200, 500, strings.Replace(more, "true", "false", 1), -1},
		"repeated":        {200, 204, more, -1},
	} {
		p.set(func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.Method == http.MethodDelete && r.URL.Query().Get("uploadId") == "u":
				send(w, c.abort, "")
			case r.URL.Query().Has("uploads"):
				send(w, c.status, c.body)
			default:
				return false
			}
			return true
		})
		n, err := s.RemoveStale(t.Context())
		if c.want < 0 && err == nil || c.want >= 0 && (err != nil || n != c.want) {
			t.Errorf("%s: %d, %v", what, n, err)
		}
	}
	p.set(nil)
	if _, err := s.Stat(t.Context(), "d/a"); err != nil {
		t.Error(err)
	}
}
