package repo

import (
	"fmt"
	"path/filepath"
	"testing"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo/stored"
)

// A host that comes new to a repository keeps a bounded part of its index in memory, whatever there is to read, and answers as one that read all.
func TestFold(t *testing.T) {
	t.Parallel()
	base, c := newTestRepo(t)
	var blobs [][]byte
	for i := range 8 { // eight segments of ten entries, and one page
		var some [][]byte
		for j := range 10 {
			some = append(some, fmt.Appendf(nil, "blob %d of session %d", j, i))
		}
		store(t, openWriter(t, base, c), some...)
		blobs = append(blobs, some...)
	}
	infos, _, err := stored.List(t.Context(), base, "index/")
	if err != nil || len(infos) != 8 {
		t.Fatalf("%d segments, %v", len(infos), err)
	}
	open := func(s backends.Storage, cache string, most int) *Repo {
		cred := *c
		r, err := Open(t.Context(), s, Access{Credential: &cred}, Options{CachePath: cache})
		if err != nil {
			t.Fatal(err)
		}
		r.tailMost = most
		if err := r.LoadIndex(t.Context()); err != nil {
			t.Fatal(err)
		}
		return r
	}
	has := func(r *Repo, want int) {
		t.Helper()
		n := 0
		for _, b := range blobs {
			if r.Index().Has(crypt.Sum(b)) {
				n++
			}
		}
		if n != want || r.Index().Has(crypt.Sum([]byte("never stored"))) {
			t.Errorf("%d blobs are there, want %d", n, want)
		}
	}
	for _, most := range []int{0, 11, 30, 87, 1000} {
		cache := filepath.Join(t.TempDir(), "index")
		r := open(base, cache, most)
		has(r, len(blobs))
		if n := r.Index().TailLen(); n > most || n != len(blobs)+1 && most == 1000 {
			t.Errorf("most %d: %d entries in memory", most, n)
		}
		// The next run adds what is new to the cache, and stores nothing twice.
		w := open(base.Clone(), cache, most)
		if snap := store(t, w, append(blobs, []byte("a new one"))...); snap.Stats.Blobs != 1 {
			t.Errorf("%d new blobs, want 1", snap.Stats.Blobs)
		}
	}

	// A cache that cannot be written costs memory only.
	has(open(base, filepath.Join(t.TempDir(), "missing", "index"), 0), len(blobs))

	// A bad segment is passed over, and a session counts on the others alone.
	damaged := base.Clone()
	if err := damaged.Put(t.Context(), infos[3].Name, []byte("rubbish"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	r := open(damaged, filepath.Join(t.TempDir(), "index"), 0)
	has(r, len(blobs)-10)
	if len(r.Problems()) != 1 {
		t.Errorf("problems: %v", r.Problems())
	}
}
