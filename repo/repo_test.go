package repo

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/repo/format"
	"packhold/repo/snapshot"
)

// passphrase of all test repositories.
const passphrase = "correct horse battery"

// readKey is one read key for all tests, with the RSA key of crypt's vectors: making one takes seconds.
var readKey = sync.OnceValues(func() (*crypt.ReadPrivate, error) {
	b, err := os.ReadFile("../crypt/testdata/test-rsa.pem")
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	return crypt.ReadKeyForm{Epoch: 1, Wrap: crypt.WrapRSAHPKE, RSA: block.Bytes, HPKE: bytes.Repeat([]byte{0x52}, 32)}.Private()
})

// baseRepo is one empty repository, which tests clone.
var baseRepo = sync.OnceValues(func() (*mem.Store, error) {
	var err error
	s := mem.New(time.Now)
	baseCredential, err = MakeRepo(context.Background(), s)
	return s, err
})

var baseCredential *crypt.Credential // of baseRepo, once it was called

// newTestRepo makes a repository in memory and returns its storage and the credential of its first host.
func newTestRepo(t testing.TB) (*mem.Store, *crypt.Credential) {
	t.Helper()
	s, err := baseRepo()
	if err != nil {
		t.Fatal(err)
	}
	c := *baseCredential
	return s.Clone(), &c
}

func openWriter(t testing.TB, s backends.Storage, c *crypt.Credential) *Repo {
	t.Helper()
	r, err := Open(t.Context(), s, Access{Credential: c}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func openReader(t testing.TB, s backends.Storage) *Repo {
	t.Helper()
	r, err := Open(t.Context(), s, Access{Passphrase: []byte(passphrase)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// store commits a snapshot whose blobs are the given ones.
func store(t testing.TB, r *Repo, blobs ...[]byte) *Snapshot {
	t.Helper()
	s, err := r.Begin(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.NewWorker()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if _, _, err := w.Store(b); err != nil {
			t.Fatal(err)
		}
	}
	root, _, err := w.StoreTree([]byte("a tree page, as far as this room knows"))
	if err != nil {
		t.Fatal(err)
	}
	snap, err := s.Commit(t.Context(), record(root), &snapshot.Body{Sources: []string{"/secret"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Close(t.Context())
	return snap
}

func record(root crypt.ID) *snapshot.Record {
	return &snapshot.Record{Root: root, Type: snapshot.Full, Start: snapshot.Time{Sec: 1e9}, Lineage: [32]byte{1}}
}

func randomBlobs(n, size int) [][]byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	out := make([][]byte, n)
	for i := range out {
		out[i] = make([]byte, size)
		for j := range out[i] {
			out[i][j] = byte(r.Uint32())
		}
	}
	return out
}

func TestStoreAndRead(t *testing.T) {
	t.Parallel()
	st, c := newTestRepo(t)
	blobs := randomBlobs(40, 100_000)
	w := openWriter(t, st, c)
	store(t, w, blobs...)
	second := store(t, openWriter(t, st, c), blobs...)
	if second.Stats.Blobs != 0 {
		t.Errorf("second session stored %d blobs again", second.Stats.Blobs)
	}
	if second.Number != 2 || len(second.Prev) != 1 {
		t.Errorf("second snapshot is number %d with %d predecessors", second.Number, len(second.Prev))
	}
	r := openReader(t, st)
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, err := r.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		got, err := d.Get(t.Context(), crypt.Sum(b))
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("blob differs: %v", err)
		}
	}
	all, err := r.Snapshots(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%d snapshots, %v", len(all), err)
	}
	body, err := r.OpenBody(all[0])
	if err != nil || body.Sources[0] != "/secret" {
		t.Fatalf("body %v, %v", body, err)
	}
	if p := r.Problems(); len(p) > 0 {
		t.Errorf("problems in a healthy repository: %v", p)
	}
	if _, err := w.NewReader(); !errors.Is(err, ErrNeedRead) {
		t.Errorf("a writer credential reads: %v", err)
	}
	if _, err := openWriter(t, st, c).OpenBody(all[0]); !errors.Is(err, ErrNeedRead) {
		t.Errorf("a writer credential reads a body: %v", err)
	}
}

func allNames(t testing.TB, s backends.Storage, prefix string) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	for i, err := range s.List(context.Background(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		if !format.KnownName(i.Name) {
			t.Errorf("%q is not a name of the format", i.Name)
		}
		out[i.Name] = i.Size
	}
	return out
}

// TestAdopt kills a session after its packs are stored: the next one finds them.
func TestAdopt(t *testing.T) {
	t.Parallel()
	st, c := newTestRepo(t)
	blobs := randomBlobs(30, 100_000)
	w := openWriter(t, st, c)
	s, err := w.Begin(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.NewWorker()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if _, _, err := k.Store(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(); err != nil { // and no segment
		t.Fatal(err)
	}
	snap := store(t, openWriter(t, st, c), blobs...)
	if snap.Stats.Blobs != 1 {
		t.Errorf("%d blobs stored again", snap.Stats.Blobs-1)
	}
}

// TestFenced ends a session by another's hand: its commit must fail, and a new session succeeds.
func TestFenced(t *testing.T) {
	st, c := newTestRepo(t)
	w := openWriter(t, st, c)
	s, err := w.Begin(t.Context(), SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.NewWorker()
	if err != nil {
		t.Fatal(err)
	}
	root, _, err := k.StoreTree([]byte("page"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.putVoid(t.Context(), s.ID, s.nonce); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), record(root), &snapshot.Body{}, nil); !errors.Is(err, ErrFenced) {
		t.Fatalf("fenced session: %v", err)
	}
	store(t, openWriter(t, st, c))
	all, err := openReader(t, st).Snapshots(t.Context())
	if err != nil || len(all) != 1 {
		t.Errorf("%d snapshots, %v", len(all), err)
	}
}
