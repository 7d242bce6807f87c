package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"packhold/crypt"
)

// writeTestCache writes a cache of n blobs in some packs, every 8th of them in two, and returns its bytes.
func writeTestCache(t testing.TB, path string, key [32]byte, first, n int) []byte {
	x := New()
	for seg := range 2 {
		s := testSegment([]int{4 * seg, 4*seg + 1, 4*seg + 2}, func(pack int) []crypt.ID {
			var ids []crypt.ID
			for i := range n {
				if i%6 == seg*3+pack%4 || i%8 == 0 && pack%4 == 1 {
					ids = append(ids, testID(first+i))
				}
			}
			return ids
		})
		if err := x.AddSegment(testID(7_000_000+first+seg), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.WriteCache(path, key); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answer is everything that an index says of the blobs first to first+n.
func answer(t testing.TB, x *Index, first, n int) string {
	var b []byte
	for i := range n {
		id := testID(first + i)
		b = fmt.Append(b, i, x.Has(id))
		for _, p := range x.Places(id) {
			r, err := x.Session(p.Pack.Session)
			info := *p.Pack
			info.state, info.used = nil, nil
			b = fmt.Append(b, info, r, p.Offset, p.Length, p.Raw, p.Compression, err)
		}
	}
	for l, err := range x.All() {
		b = fmt.Append(b, l.ID, l.Offset, l.Pack != nil, err)
	}
	for p, err := range x.Packs() {
		b = fmt.Append(b, p == nil, err)
	}
	return string(b)
}

// TestCacheDamage flips every bit, and cuts at every length: the index says the same or reports the damage.
func TestCacheDamage(t *testing.T) {
	const n = 5
	path := filepath.Join(t.TempDir(), "cache")
	x := New()
	for seg := range 2 {
		s := testSegment([]int{seg}, func(int) []crypt.ID { return []crypt.ID{testID(seg), testID(seg + 1), testID(4)} })
		if err := x.AddSegment(testID(10+seg), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.WriteCache(path, testKey(1)); err != nil {
		t.Fatal(err)
	}
	x, cold := Open(path, testKey(1))
	if cold != nil {
		t.Fatal(cold)
	}
	want := answer(t, x, 0, n+2)
	if x.Close(); x.Err() != nil || len(x.Segments()) != 2 {
		t.Fatal(x.Err(), x.Segments())
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	same, failed := 0, 0
	try := func(what string, at int, mapped bool) {
		x, cold := open(path, testKey(1), mapped)
		t.Cleanup(func() { x.Close() })
		if cold != nil {
			if len(x.Segments()) != 0 || x.BaseLen() != 0 || x.Has(testID(1)) {
				t.Fatalf("%s %d: cold, and not empty", what, at)
			}
			return
		}
		// Whatever is said before the damage shows must be right too.
		if x.Has(testID(n)) || x.Has(testID(n+1)) || !x.Has(testID(0)) && x.Err() == nil {
			t.Fatalf("%s %d: a wrong answer", what, at)
		}
		got := answer(t, x, 0, n+2)
		if x.Err() == nil {
			if same++; got != want {
				t.Fatalf("%s %d: says something else without an error", what, at)
			}
		} else if failed++; len(x.Segments()) != 0 || x.Has(testID(1)) {
			t.Fatalf("%s %d: failed, and still used", what, at)
		}
	}
	try("bit", -1, true)
	try("bit", -1, false)
	for i := range 8 * len(good) {
		if _, err := f.WriteAt([]byte{good[i/8] ^ 1<<(i%8)}, int64(i/8)); err != nil {
			t.Fatal(err)
		}
		try("bit", i, i%8 != 3)
		if _, err := f.WriteAt(good[i/8:i/8+1], int64(i/8)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(int64(len(good) + 1)); err != nil {
		t.Fatal(err)
	}
	try("cut to", len(good)+1, true)
	for i := len(good) - 1; i >= 0; i-- {
		if err := f.Truncate(int64(i)); err != nil {
			t.Fatal(err)
		}
		try("cut to", i, i%2 == 0)
	}
	if same-2 > 8*8 || failed < 8*6*rowSize/2 {
		t.Fatalf("of %d bits %d changes went unnoticed, %d were found late; only the 8 bytes of the fan-out need no check", 8*len(good), same-2, failed)
	}
}

// TestCacheOfAnother refuses a cache of another repository and a swapped head.
func TestCacheOfAnother(t *testing.T) {
	dir := t.TempDir()
	a := writeTestCache(t, filepath.Join(dir, "a"), testKey(1), 0, 40)
	b := writeTestCache(t, filepath.Join(dir, "b"), testKey(2), 0, 40)
	if len(a) != len(b) {
		t.Fatalf("%d and %d bytes", len(a), len(b))
	}
	for name, c := range map[string][]byte{"whole": b, "head": append(bytes.Clone(b[:headSize]), a[headSize:]...),
		"version": append([]byte("PKHINDEX\x02"), a[9:]...)} {
		path := filepath.Join(dir, "c")
		if err := os.WriteFile(path, c, 0o600); err != nil {
			t.Fatal(err)
		}
		if x, cold := Open(path, testKey(1)); cold == nil || x.Has(testID(1)) {
			t.Errorf("%s: opened", name)
		}
	}
	if x, cold := Open(filepath.Join(dir, "none"), testKey(1)); !errors.Is(cold, fs.ErrNotExist) || x.Has(testID(1)) || !x.Claim(testID(1)) {
		t.Errorf("a missing cache: %v", cold)
	}
	if _, cold := Open(dir, testKey(1)); cold == nil {
		t.Error("a folder opened as a cache")
	}
}

// TestCacheChangesWhileOpen lets another program cut the file or write another cache into it after lookups have touched every part.
func TestCacheChangesWhileOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be cut there")
	}
	const n = 3000
	dir := t.TempDir()
	path := filepath.Join(dir, "cache")
	good := writeTestCache(t, path, testKey(1), 0, n)
	other := writeTestCache(t, filepath.Join(dir, "other"), testKey(1), n, n)
	key2 := writeTestCache(t, filepath.Join(dir, "key2"), testKey(2), 0, n)
	if len(other) != len(good) || len(key2) != len(good) {
		t.Fatalf("%d, %d and %d bytes", len(good), len(other), len(key2))
	}
	for name, change := range map[string]func() error{
		"cut to nothing":  func() error { return os.Truncate(path, 0) },
		"cut in the half": func() error { return os.Truncate(path, int64(len(good)/2)) },
		"of other blobs":  func() error { return os.WriteFile(path, other, 0o600) },
		"of another key":  func() error { return os.WriteFile(path, key2, 0o600) },
		"zeros":           func() error { return os.WriteFile(path, make([]byte, len(good)), 0o600) },
	} {
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		x, cold := Open(path, testKey(1))
		if cold != nil {
			t.Fatal(cold)
		}
		for i := range n {
			if !x.Has(testID(i)) || x.Has(testID(n+i)) {
				t.Fatalf("%s: blob %d before the change", name, i)
			}
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if x.Has(testID(n + i)) {
				t.Fatalf("%s: has a blob that is not there", name)
			}
			if !x.Has(testID(i)) && x.Err() == nil {
				t.Fatalf("%s: lacks a blob without an error", name)
			}
		}
		if x.Err() == nil {
			t.Errorf("%s: unnoticed", name)
		}
		// The storage brings everything back.
		s := testSegment([]int{1}, func(int) []crypt.ID { return []crypt.ID{testID(0)} })
		if err := x.AddSegment(testID(7_000_000), s); err != nil {
			t.Fatal(err)
		}
		if !x.Has(testID(0)) || !slices.Equal(x.Segments(), []crypt.ID{testID(7_000_000)}) {
			t.Errorf("%s: a segment did not come back", name)
		}
		if err := x.WriteCache(path, testKey(1)); err != nil {
			t.Fatal(err)
		}
		x.Close()
		if x, cold := Open(path, testKey(1)); cold != nil || x.BaseLen() != 1 {
			t.Errorf("%s: the new cache: %v", name, cold)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	x, _ := Open(path, testKey(1))
	defer x.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if !x.Has(testID(1)) || x.Err() != nil {
		t.Error("a removed file is still there for who has it open")
	}
}

// TestWriteCacheFails leaves the old cache and no temporary file.
func TestWriteCacheFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cache")
	good := writeTestCache(t, path, testKey(1), 0, 100)
	bad := bytes.Clone(good)
	bad[headSize+5] ^= 1
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	x, cold := Open(path, testKey(1))
	if cold != nil {
		t.Fatal(cold)
	}
	defer x.Close()
	if err := x.WriteCache(path, testKey(1)); err == nil || x.Err() == nil {
		t.Fatalf("a damaged base was written on: %v, %v", err, x.Err())
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("left %v", list)
	}
	if err := x.WriteCache(filepath.Join(dir, "no", "folder"), testKey(1)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("wrote into nothing: %v", err)
	}
}

// TestManyPlaces holds one blob in hundreds of packs, and blobs whose IDs begin alike, through base and tail.
func TestManyPlaces(t *testing.T) {
	const packs = 400
	var packList []int
	for n := range packs {
		packList = append(packList, n)
	}
	alike := func(n int) (id crypt.ID) {
		binary.BigEndian.PutUint64(id[24:], uint64(n))
		return id
	}
	s := testSegment(packList, func(pack int) []crypt.ID { return []crypt.ID{testID(1), alike(pack * 2)} })
	path := filepath.Join(t.TempDir(), "cache")
	x := New()
	if err := x.AddSegment(testID(2), s); err != nil {
		t.Fatal(err)
	}
	check := func() {
		if got := len(x.Places(testID(1))); got != packs {
			t.Fatalf("%d places, want %d", got, packs)
		}
		for n := range 2 * packs {
			if x.Has(alike(n)) != (n%2 == 0) {
				t.Fatalf("blob %d", n)
			}
		}
		all := map[PackID]Exclusion{}
		for n := range packs - 1 {
			all[testPack(n).PackID] = NoDedup
		}
		x.Exclude(all)
		if p, ok := x.Lookup(testID(1)); !ok || p.Pack.PackID != testPack(packs-1).PackID || !x.Has(testID(1)) {
			t.Fatalf("lookup found %v", p.Pack)
		}
	}
	check()
	if err := x.WriteCache(path, testKey(1)); err != nil {
		t.Fatal(err)
	}
	var cold error
	if x, cold = Open(path, testKey(1)); cold != nil {
		t.Fatal(cold)
	}
	defer x.Close()
	check()
}

// FuzzCache opens arbitrary files, with a head made valid so that what lies behind it is reached.
func FuzzCache(f *testing.F) {
	path := filepath.Join(f.TempDir(), "cache")
	f.Add(writeTestCache(f, path, testKey(1), 0, 5), true)
	f.Add(writeTestCache(f, path, testKey(1), 0, 40), false)
	f.Fuzz(func(t *testing.T, b []byte, mapped bool) {
		var h head
		if len(b) >= headSize && h.parse(b[:headSize], int64(len(b))) == nil {
			copy(b[headSize-macSize:], headMAC(testKey(1), b[:headSize], b[h.metaAt:]))
		}
		path := filepath.Join(t.TempDir(), "cache")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		x, cold := open(path, testKey(1), mapped)
		t.Cleanup(func() { x.Close() })
		answer(t, x, 0, 10)
		x.ExcludeSessions(func([]byte) bool { return true })
		if err := x.WriteCache(path, testKey(1)); err != nil && x.Err() == nil {
			t.Fatalf("%v, opened %v", err, cold)
		}
	})
}

// BenchmarkTail measures 1,000,000 blobs that one session stores, in packs of 50, and the cache made of them.
func BenchmarkTail(b *testing.B) {
	const blobs, perPack = 1_000_000, 50
	ids := make([]crypt.ID, blobs)
	for n := range ids {
		ids[n] = testID(n)
	}
	entries := testEntries(1, make([]crypt.ID, perPack))
	pack := testPack(1)
	session := testSession(1)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var x *Index
	b.Run("claim+add", func(b *testing.B) {
		for b.Loop() {
			x = New()
			for n := 0; n < blobs; n += perPack {
				for i := range entries {
					entries[i].ID = ids[n+i]
					if !x.Claim(ids[n+i]) {
						b.Fatal("claimed")
					}
				}
				pack.Name = ids[n]
				if err := x.Add(pack, session, entries); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/blobs, "ns/blob")
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.Run("has", func(b *testing.B) {
		n := 0
		for b.Loop() {
			if n = (n + 7919) % blobs; !x.Has(ids[n]) {
				b.Fatal("absent")
			}
		}
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/blobs, "heap-B/blob")
	})
	path := filepath.Join(b.TempDir(), "cache")
	for i, s := 0, x.Unsaved(200_000); s != nil; i, s = i+1, x.Unsaved(200_000) {
		if err := x.Saved(testID(i), s); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			if err := x.WriteCache(path, testKey(1)); err != nil {
				b.Fatal(err)
			}
		}
	})
	y, cold := Open(path, testKey(1))
	if cold != nil {
		b.Fatal(cold)
	}
	defer y.Close()
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			n := 0
			for _, err := range y.All() {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n != blobs {
				b.Fatal(n)
			}
		}
	})
}

// What killed writers left beside a cache goes when the next one is written, and what a writer may still be at work on stays.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "index")
	for name, age := range map[string]time.Duration{"index.1.tmp": 48 * time.Hour, "index.2.tmp": time.Hour, "other.3.tmp": 48 * time.Hour, "index.4": 48 * time.Hour} {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(at, when, when); err != nil {
			t.Fatal(err)
		}
	}
	writeTestCache(t, path, testKey(1), 0, 100)
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	if want := []string{"index", "index.2.tmp", "index.4", "other.3.tmp"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}
