package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/backends/s3"
)

func TestConformance(t *testing.T) {
	addr := sharedServer(t).addr
	for what, change := range map[string]func(o *s3.Options){
		"Plain":     func(*s3.Options) {},
		"Prefix":    func(o *s3.Options) { o.Prefix = "/some/where/" },
		"Locked":    func(o *s3.Options) { o.CreateLocked = true },
		"Versioned": func(*s3.Options) {},
		"SHA256":    func(o *s3.Options) { o.Checksum, o.Connections = s3.SHA256, 1 },
	} {
		t.Run(what, func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backends.Storage {
				o := options(addr)
				change(&o)
				s := open(t, o)
				if what == "Versioned" {
					if err := client(t, addr).EnableVersioning(t.Context(), o.Bucket); err != nil {
						t.Fatal(err)
					}
				}
				if o.Prefix != "" {
					// Others' files beside the repository, and some whose keys only look like below it.
					for _, key := range []string{"a", "some/wherever/a", "some/x", "some/where/tmp/a", "some/where/A"} {
						foreign(t, addr, o.Bucket, key)
					}
				}
				return patient{s}
			})
		})
	}
}

// patient deletes again where versitygw answers 500, as it does when two requests delete versions of one object at once.
type patient struct{ *s3.Store }

func (p patient) Delete(ctx context.Context, name string) error {
	for try := 0; ; try++ {
		err := p.Store.Delete(ctx, name)
		if err == nil || try == 10 || !strings.Contains(err.Error(), "InternalError (500)") {
			return err
		}
	}
}

func foreign(t *testing.T, addr, bucket, key string) {
	t.Helper()
	if _, err := client(t, addr).PutObject(t.Context(), bucket, key, strings.NewReader("x"), 1, "", "", minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Of 32 writers of one name exactly one creates it, and its bytes are there.
func TestCreateRace(t *testing.T) {
	o := options(sharedServer(t).addr)
	o.Connections = 32
	s := open(t, o)
	for round := range 5 {
		const writers = 32
		name := fmt.Sprintf("snapshots/%d", round)
		var (
			wg    sync.WaitGroup
			errs  [writers]error
			begin = make(chan struct{})
			text  = func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 10_000*(i%3)+1) }
		)
		for i := range writers {
			wg.Go(func() {
				<-begin
				errs[i] = s.Put(t.Context(), name, text(i), backends.PutOptions{IfAbsent: true})
			})
		}
		close(begin)
		wg.Wait()
		winner := -1
		for i, err := range errs {
			if err == nil && winner >= 0 {
				t.Fatalf("writers %d and %d both created %s", winner, i, name)
			}
			if err == nil {
				winner = i
			} else if !errors.Is(err, fs.ErrExist) {
				t.Errorf("writer %d: %v", i, err)
			}
		}
		if winner < 0 {
			t.Fatalf("nobody created %s", name)
		}
		if got, err := s.Get(t.Context(), name, 0, -1); err != nil || !bytes.Equal(got, text(winner)) {
			t.Errorf("%s: %d bytes, not those of writer %d, %v", name, len(got), winner, err)
		}
	}
}

// versitygw refuses a file that exists before it has read the new one's bytes, and closes the connection.
func TestCreateLarge(t *testing.T) {
	s := open(t, options(sharedServer(t).addr))
	data := make([]byte, 16<<20)
	for i := range 12 {
		err := s.Put(t.Context(), "a", data[i:], backends.PutOptions{IfAbsent: true})
		if i == 0 && err != nil || i > 0 && !errors.Is(err, fs.ErrExist) {
			t.Errorf("exclusive Put %d: %v", i, err)
		}
	}
	if info, err := s.Stat(t.Context(), "a"); err != nil || info.Size != 16<<20 {
		t.Errorf("%+v, %v", info, err)
	}
}

// A listing of several pages is whole, also while others write beside it, and one of exactly a page's size ends.
func TestPages(t *testing.T) {
	addr := sharedServer(t).addr
	o := options(addr)
	o.Connections = 16
	s := open(t, o)
	want := map[string]int64{}
	names := make(chan string)
	var wg sync.WaitGroup
	for range o.Connections {
		wg.Go(func() {
			for name := range names {
				if err := s.Put(t.Context(), name, []byte(name), backends.PutOptions{}); err != nil {
					t.Errorf("Put(%s): %v", name, err)
				}
			}
		})
	}
	for i := range 2500 {
		name := fmt.Sprintf("packs/%02x/%d", i%7, i)
		if i < 1000 {
			name = fmt.Sprintf("index/%d", i)
		}
		want[name] = int64(len(name))
		names <- name
	}
	close(names)
	wg.Wait()
	foreign(t, addr, o.Bucket, "packs/FOREIGN")
	for prefix, count := range map[string]int{"": 2500, "packs/": 1500, "index/": 1000, "packs/03/": 214, "none/": 0} {
		got := map[string]int64{}
		for info, err := range s.List(t.Context(), prefix) {
			if err != nil {
				t.Fatalf("List(%q): %v", prefix, err)
			}
			if _, again := got[info.Name]; again || !strings.HasPrefix(info.Name, prefix) {
				t.Errorf("List(%q) yields %s, again %v", prefix, info.Name, again)
			}
			got[info.Name] = info.Size
		}
		if len(got) != count || count == 2500 && !maps.Equal(got, want) {
			t.Errorf("List(%q): %d files, want %d", prefix, len(got), count)
		}
	}
}

func TestObjectLock(t *testing.T) {
	t.Parallel()
	addr := sharedServer(t).addr
	for compliance, name := range map[bool]minio.RetentionMode{false: minio.Governance, true: minio.Compliance} {
		t.Run(string(name), func(t *testing.T) {
			t.Parallel()
			o := options(addr)
			o.CreateLocked = true
			s := open(t, o)
			a, err := s.Probe(t.Context())
			if err != nil || !a.Conditional || !a.ObjectLock || !a.Versioning {
				t.Fatalf("%+v, %v", a, err)
			}
			until := time.Now().Add(time.Hour)
			for i, put := range []backends.PutOptions{{RetainUntil: until, Compliance: compliance}, {RetainUntil: until, Compliance: compliance, IfAbsent: true}} {
				file := fmt.Sprintf("packs/%d", i)
				if err := s.Put(t.Context(), file, []byte("kept"), put); err != nil {
					t.Fatal(err)
				}
				kept, err := s.Stat(t.Context(), file)
				if err != nil || kept.RetainUntil.Before(until) || kept.RetainUntil.After(until.Add(time.Second)) || (kept.Guard == backends.Compliance) != compliance {
					t.Errorf("%+v, %v, want %v", kept, err, until)
				}
				info, err := client(t, addr).StatObject(t.Context(), o.Bucket, file, minio.StatObjectOptions{})
				if m := info.Metadata.Get("X-Amz-Object-Lock-Mode"); err != nil || m != string(name) {
					t.Errorf("mode %s, %v, want %s", m, err, name)
				}
				if err := s.Delete(t.Context(), file); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("Delete: %v", err)
				}
				// Replacing it adds a version, and both stay.
				if err := s.Put(t.Context(), file, []byte("newer"), backends.PutOptions{}); err != nil {
					t.Fatal(err)
				}
				if err := s.Delete(t.Context(), file); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("Delete of a newer version: %v", err)
				}
				if got, err := s.Get(t.Context(), file, 0, -1); err != nil || string(got) != "newer" {
					t.Errorf("after a refused Delete: %q, %v", got, err)
				}
				if err := s.Put(t.Context(), file, nil, backends.PutOptions{IfAbsent: true}); !errors.Is(err, fs.ErrExist) {
					t.Errorf("exclusive Put: %v", err)
				}
			}
			// Governance becomes compliance, without a later date too, and never the other way round.
			for _, o := range []backends.PutOptions{{Extend: true, RetainUntil: until, Compliance: true}, {Extend: true, RetainUntil: until.Add(time.Hour)}} {
				if err := s.Put(t.Context(), "packs/0", nil, o); err != nil {
					t.Fatal(err)
				}
				if info, err := s.Stat(t.Context(), "packs/0"); err != nil || info.Guard != backends.Compliance || info.RetainUntil.Before(o.RetainUntil) && o.RetainUntil != until {
					t.Errorf("after an extension with %+v: %+v, %v", o, info, err)
				}
			}
			// Free once its time is over.
			if err := s.Put(t.Context(), "short", []byte("x"), backends.PutOptions{RetainUntil: time.Now().Add(1200 * time.Millisecond)}); err != nil {
				t.Fatal(err)
			}
			if err := s.Delete(t.Context(), "short"); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("Delete: %v", err)
			}
			time.Sleep(2300 * time.Millisecond)
			if err := s.Delete(t.Context(), "short"); err != nil {
				t.Errorf("Delete after the retention: %v", err)
			}
		})
	}
	t.Run("None", func(t *testing.T) {
		// Told that there is a lock where there is none. (versitygw says so, but only after it has stored the file.)
		o := options(addr)
		o.Abilities = &s3.Abilities{Conditional: true, ObjectLock: true}
		s := open(t, o)
		err := s.Put(t.Context(), "a", []byte("x"), backends.PutOptions{RetainUntil: time.Now().Add(time.Hour)})
		if !errors.Is(err, backends.ErrUnsupported) {
			t.Errorf("Put: %v", err)
		}
	})
}

// In a bucket with versions Delete leaves nothing, not even the delete markers of others, and touches no other name.
func TestVersions(t *testing.T) {
	addr := sharedServer(t).addr
	o := options(addr)
	s := open(t, o)
	c := client(t, addr)
	if err := s.Put(t.Context(), "d/a", []byte("from before"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.EnableVersioning(t.Context(), o.Bucket); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d/a", "d/a.1", "d/ab"} {
		for range 3 {
			if err := s.Put(t.Context(), name, []byte(name), backends.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	versions := func(prefix string) (n int) {
		for v := range c.ListObjectsIter(t.Context(), o.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, WithVersions: true}) {
			if v.Err != nil {
				t.Fatal(v.Err)
			}
			n++
		}
		return n
	}
	if n := versions("d/a"); n != 10 {
		t.Fatalf("%d versions before, want 10", n)
	}
	if err := s.Delete(t.Context(), "d/a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "d/a", 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an older version came back: %v", err)
	}
	if n := versions("d/a"); n != 6 {
		t.Errorf("%d versions of the others, want 6", n)
	}
	// Someone else's plain DELETE hides a file: for us it does not exist.
	if err := c.RemoveObject(t.Context(), o.Bucket, "d/ab", minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "d/ab"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Delete of a hidden file: %v", err)
	}
	// Once it is there again it goes with all that is below it.
	if err := s.Put(t.Context(), "d/ab", []byte("again"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "d/ab"); err != nil {
		t.Error(err)
	}
	if n := versions("d/ab"); n != 0 {
		t.Errorf("%d versions or markers are left", n)
	}
}

// The versions of one file may take more than a page.
func TestManyVersions(t *testing.T) {
	addr := sharedServer(t).addr
	o := options(addr)
	o.CreateLocked = true
	s := open(t, o)
	for range 1100 {
		if err := s.Put(t.Context(), "d/a", nil, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "d/a"); err != nil {
		t.Fatal(err)
	}
	for v := range client(t, addr).ListObjectsIter(t.Context(), o.Bucket, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		t.Fatalf("%+v is left", v)
	}
}

func TestOpen(t *testing.T) {
	addr := sharedServer(t).addr
	made := options(addr)
	open(t, made)
	made.Create = false
	open(t, made)
	made.Create = true // there already
	open(t, made)

	for what, c := range map[string]struct {
		change func(o *s3.Options)
		want   error
		text   string
	}{
		"missing bucket": {func(o *s3.Options) { o.Bucket = "missing" }, fs.ErrNotExist, "NoSuchBucket"},
		"wrong key":      {func(o *s3.Options) { o.Credentials = []s3.Provider{s3.Static("nobody", "x", "")} }, fs.ErrPermission, "access key"},
		"wrong secret":   {func(o *s3.Options) { o.Credentials = []s3.Provider{s3.Static(accessKey, "x", "")} }, fs.ErrPermission, "SignatureDoesNotMatch"},
		"no credentials": {func(o *s3.Options) {
			o.Credentials = []s3.Provider{s3.Environment(func(string) string { return "" }), s3.SharedFile(filepath.Join(t.TempDir(), "none"), "")}
		}, fs.ErrPermission, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: not both set"},
		"no provider":     {func(o *s3.Options) { o.Credentials = nil }, nil, "no credentials"},
		"no bucket":       {func(o *s3.Options) { o.Bucket = "" }, nil, "Bucket name"},
		"bad bucket":      {func(o *s3.Options) { o.Bucket = "a/b" }, nil, "path separators"},
		"bad prefix":      {func(o *s3.Options) { o.Prefix = "a//b" }, nil, `the prefix "a//b"`},
		"prefix above":    {func(o *s3.Options) { o.Prefix = "a/../b" }, nil, `the prefix "a/../b"`},
		"URL as endpoint": {func(o *s3.Options) { o.Endpoint = "https://" + addr }, nil, "not a host"},
		"bad endpoint":    {func(o *s3.Options) { o.Endpoint = "a b" }, nil, "host name"},
		"bad CA":          {func(o *s3.Options) { o.PlainHTTP, o.CA = false, []byte("x") }, nil, "PEM"},
		"TLS to plain":    {func(o *s3.Options) { o.PlainHTTP = false }, nil, "TLS handshake"},
	} {
		o := made
		o.Create = false
		c.change(&o)
		s, err := s3.Open(t.Context(), o)
		if err == nil {
			_ = s.Close()
		}
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && (c.want != fs.ErrNotExist && errors.Is(err, fs.ErrNotExist) || errors.Is(err, backends.ErrGone) || strings.Contains(err.Error(), secretKey)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if _, err := s3.Open(ctx, made); !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Errorf("with a cancelled context: %v", err)
	}
}

// Several hosts may make the same bucket at once, and use it.
func TestCreateBucketRace(t *testing.T) {
	o := options(sharedServer(t).addr)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s, err := s3.Open(t.Context(), o)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.Put(t.Context(), fmt.Sprint("d/", i), nil, backends.PutOptions{IfAbsent: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := listed(t, open(t, o), "d/"); err != nil || len(got) != 8 {
		t.Errorf("%q, %v", got, err)
	}
}

// A bucket that vanishes while it is in use is ErrGone, whatever is asked.
func TestGone(t *testing.T) {
	addr := sharedServer(t).addr
	o := options(addr)
	o.Abilities = &s3.Abilities{Conditional: true}
	s := open(t, o)
	if err := client(t, addr).RemoveBucket(t.Context(), o.Bucket); err != nil {
		t.Fatal(err)
	}
	gone := func(what string, err error) {
		if !errors.Is(err, backends.ErrGone) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	gone("Put", s.Put(t.Context(), "a", nil, backends.PutOptions{}))
	gone("exclusive Put", s.Put(t.Context(), "a", nil, backends.PutOptions{IfAbsent: true}))
	_, err := s.Get(t.Context(), "a", 0, -1)
	gone("Get", err)
	_, err = s.Get(t.Context(), "a", 5, 5)
	gone("Get", err)
	_, err = s.Get(t.Context(), "a", 5, 0)
	gone("Get", err)
	_, err = s.Stat(t.Context(), "a")
	gone("Stat", err)
	gone("Delete", s.Delete(t.Context(), "a"))
	for _, err := range s.List(t.Context(), "") {
		gone("List", err)
	}
	_, err = s.Probe(t.Context())
	gone("Probe", err)
	_, err = s.RemoveStale(t.Context())
	gone("RemoveStale", err)
}

func TestProbe(t *testing.T) {
	p := plainProxy(t, sharedServer(t).addr)
	o := options(p.addr())
	o.Prefix = "repo"
	s := open(t, o)
	a, err := s.Probe(t.Context())
	if want := (s3.Abilities{Conditional: true}); err != nil || a.Conditional != want.Conditional || a.ObjectLock || a.Versioning {
		t.Errorf("%+v, %v", a, err)
	}
	if a.ClockSkew < -2*time.Second || a.ClockSkew > 2*time.Second {
		t.Errorf("the clock of this very machine is %v ahead", a.ClockSkew)
	}
	if left := objects(t, p.addr(), o.Bucket); len(left) > 0 {
		t.Errorf("the probe left %q", left)
	}
	for _, r := range p.requests() {
		if name, ok := strings.CutPrefix(r.URL.Path, "/"+o.Bucket+"/repo/"); ok && backends.ValidName(name) {
			t.Errorf("the probe touches %s, which may be the repository's", r.URL.Path)
		}
	}
	// What is remembered is not asked again, and serves another Store.
	o.Abilities = &a
	again := open(t, o)
	p.requests()
	for i, s := range []*s3.Store{s, again} {
		name := fmt.Sprint("a", i)
		if err := s.Put(t.Context(), name, nil, backends.PutOptions{IfAbsent: true}); err != nil {
			t.Error(err)
		}
		if n := len(p.requests()); n != 1 {
			t.Errorf("an exclusive Put took %d requests", n)
		}
	}

	for what, hook := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"ignored": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("If-None-Match") == "" {
				return false
			}
			broken.store(t, r.URL.Path, r)
			send(w, http.StatusOK, "", "ETag", `"x"`)
			return true
		},
		"not implemented": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("If-None-Match") == "" {
				return false
			}
			send(w, http.StatusNotImplemented, s3Error("NotImplemented"))
			return true
		},
		"refused but done": func(w http.ResponseWriter, r *http.Request) bool {
			// The header is obeyed after the bytes were replaced.
			if r.Header.Get("If-None-Match") == "" {
				return false
			}
			if key := r.URL.Path; !broken.first(key) {
				broken.store(t, key, r)
				send(w, http.StatusPreconditionFailed, s3Error("PreconditionFailed"))
				return true
			}
			return false
		},
		"racy": func(w http.ResponseWriter, r *http.Request) bool {
			// Everyone wins who comes within a moment of the first.
			if r.Header.Get("If-None-Match") == "" || broken.first(r.URL.Path) || broken.late(r.URL.Path) {
				return false
			}
			_, _ = io.Copy(io.Discard, r.Body)
			send(w, http.StatusOK, "", "ETag", `"x"`)
			return true
		},
	} {
		t.Run(what, func(t *testing.T) {
			o := options(p.addr())
			p.set(nil)
			s := open(t, o)
			broken.reset(o.Bucket, sharedServer(t).addr)
			p.set(hook)
			defer p.set(nil)
			a, err := s.Probe(t.Context())
			if err != nil || a.Conditional {
				t.Errorf("%+v, %v", a, err)
			}
			if err := s.Put(t.Context(), "a", nil, backends.PutOptions{IfAbsent: true}); !errors.Is(err, backends.ErrUnsupported) {
				t.Errorf("exclusive Put: %v", err)
			}
			p.set(nil)
			if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Stat: %v", err)
			}
			if left := objects(t, p.addr(), o.Bucket); len(left) > 0 {
				t.Errorf("the probe left %q", left)
			}
		})
	}
}

// brokenServer helps the hooks of TestProbe to break conditional writes.
type brokenServer struct {
	sync.Mutex
	bucket, addr string
	began        map[string]time.Time // by path
}

var broken brokenServer

func (b *brokenServer) reset(bucket, addr string) {
	b.Lock()
	defer b.Unlock()
	b.bucket, b.addr, b.began = bucket, addr, map[string]time.Time{}
}

// first reports whether path is asked for the first time.
func (b *brokenServer) first(path string) bool {
	b.Lock()
	defer b.Unlock()
	if _, ok := b.began[path]; ok {
		return false
	}
	b.began[path] = time.Now()
	return true
}

// late reports whether the first time was long ago. Writes one after another are told apart by it from those at once.
func (b *brokenServer) late(path string) bool {
	b.Lock()
	defer b.Unlock()
	return len(b.began) == 1
}

func (b *brokenServer) store(t *testing.T, path string, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	key := strings.TrimPrefix(path, "/"+b.bucket+"/")
	if _, err := client(t, b.addr).PutObject(t.Context(), b.bucket, key, bytes.NewReader(text), int64(len(text)), "", "", minio.PutObjectOptions{}); err != nil {
		t.Error(err)
	}
}

// objects lists the keys in a bucket.
func objects(t *testing.T, addr, bucket string) (keys []string) {
	t.Helper()
	for o := range client(t, addr).ListObjectsIter(t.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if !strings.HasSuffix(o.Key, "/") { // versitygw shows empty folders
			keys = append(keys, o.Key)
		}
	}
	return keys
}
