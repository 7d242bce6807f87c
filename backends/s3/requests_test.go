package s3_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"packhold/backends"
	"packhold/backends/s3"
)

// A receipt says which checksum the server reported of what it stored, and only that.
func TestReceipt(t *testing.T) {
	t.Parallel()
	s, p, data := spoiled(t)
	put := func(s *s3.Store) (said backends.Receipt, err error) {
		return said, s.Put(t.Context(), "d/receipt", data, backends.PutOptions{Receipt: &said})
	}
	if said, err := put(s); err != nil || said.Checksum != "CRC-32C" {
		t.Errorf("%+v, %v", said, err)
	}
	if got, err := s.Get(t.Context(), "d/receipt", 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for want, change := range map[string]func(o *s3.Options){
		"SHA-256": func(o *s3.Options) { o.Checksum = s3.SHA256 },
		"":        func(o *s3.Options) { o.NoReceipts = true },
	} {
		o := options(p.addr())
		change(&o)
		if said, err := put(open(t, o)); err != nil || said.Checksum != want {
			t.Errorf("want %q: %+v, %v", want, said, err)
		}
	}
	// A server that says nothing of the bytes has confirmed nothing, and one that names another checksum has stored other bytes.
	p.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		rec := httptest.NewRecorder()
		p.forward.ServeHTTP(rec, r)
		for name, values := range rec.Header() {
			if name != "X-Amz-Checksum-Crc32c" {
				w.Header()[name] = values
			}
		}
		w.WriteHeader(rec.Code)
		return true
	})
	if said, err := put(s); err != nil || said.Checksum != "" {
		t.Errorf("without a checksum: %+v, %v", said, err)
	}
	p.set(answer(http.MethodPut, 200, "", "ETag", `"x"`, "x-amz-checksum-crc32c", "AAAAAA=="))
	if said, err := put(s); err == nil || said.Checksum != "" {
		t.Errorf("another checksum: %+v, %v", said, err)
	}
}

// The page that Open reads serves the first listing of everything that follows at once, unless this Store changed something.
func TestFirstPage(t *testing.T) {
	t.Parallel()
	_, p, data := spoiled(t)
	o := options(p.addr())
	o.Abilities = &s3.Abilities{Conditional: true}
	if err := open(t, o).Put(t.Context(), "d/a", data, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	lists := func() (n int) {
		for _, r := range p.requests() {
			if r.URL.Query().Has("list-type") {
				n++
			}
		}
		return n
	}
	show := func(s *s3.Store, prefix string, want int) {
		t.Helper()
		if names, err := listed(t, s, prefix); err != nil || len(names) != want {
			t.Errorf("%q lists %q, %v", prefix, names, err)
		}
	}
	lists()
	s := open(t, o)
	show(s, "d/", 1) // another listing
	show(s, "", 1)
	if n := lists(); n != 2 {
		t.Errorf("%d listings, want the one of Open and one of d/", n)
	}
	show(s, "", 1)
	if n := lists(); n != 1 {
		t.Errorf("%d listings, want a new one", n)
	}
	s = open(t, o)
	if err := s.Put(t.Context(), "d/b", data, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	show(s, "", 2)
	s = open(t, o)
	if err := s.Delete(t.Context(), "d/b"); err != nil {
		t.Fatal(err)
	}
	show(s, "", 1)
	s = open(t, o)
	time.Sleep(1100 * time.Millisecond)
	lists()
	show(s, "", 1)
	if n := lists(); n != 1 {
		t.Errorf("%d listings after a second", n)
	}
}

// What a Store created in a bucket without versions it deletes in one request, and with nothing left behind even where the bucket has got versions since.
func TestDeleteOwn(t *testing.T) {
	t.Parallel()
	_, p, _ := spoiled(t)
	o := options(p.addr())
	o.Abilities = &s3.Abilities{Conditional: true}
	s := open(t, o)
	c := client(t, p.addr())
	create := func(name string) {
		t.Helper()
		if err := s.Put(t.Context(), name, []byte(name), backends.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
	}
	create("leases/a")
	create("leases/b")
	p.requests()
	if err := s.Delete(t.Context(), "leases/a"); err != nil {
		t.Fatal(err)
	}
	if n := len(p.requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
	if err := s.Delete(t.Context(), "leases/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("again: %v", err)
	}
	if err := c.EnableVersioning(t.Context(), o.Bucket); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "leases/b"); err != nil {
		t.Fatal(err)
	}
	create("leases/c") // has a version
	if err := s.Delete(t.Context(), "leases/c"); err != nil {
		t.Fatal(err)
	}
	for v := range c.ListObjectsIter(t.Context(), o.Bucket, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		t.Errorf("left: %+v", v)
	}
}
