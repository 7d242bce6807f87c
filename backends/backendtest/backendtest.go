// Package backendtest proves that a storage keeps the contract of backends.Storage.
package backendtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"packhold/backends"
)

// Run tests the storages that open returns, each an empty one of its own. It stores about 10 MiB and some hundred files,
// and where the storage supports RetainUntil leaves some behind that cannot be deleted for some hours.
func Run(t *testing.T, open func(t *testing.T) backends.Storage) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s backends.Storage)
	}{
		{"RoundTrip", roundTrip},
		{"Ranges", ranges},
		{"Missing", missing},
		{"Names", names},
		{"TooLarge", tooLarge},
		{"Ownership", ownership},
		{"Exclusive", exclusive},
		{"ExclusiveRace", exclusiveRace},
		{"ReplaceRace", replaceRace},
		{"List", list},
		{"ListStops", listStops},
		{"ListRace", listRace},
		{"Delete", deletion},
		{"DeleteRace", deleteRace},
		{"Times", times},
		{"Cancelled", cancelled},
		{"Retain", retain},
		{"Random", random},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// Clear deletes every file of s. Where files of a test are kept until a date, s is opened with a clock beyond it, so that their folder can be removed.
func Clear(t *testing.T, s backends.Storage) {
	t.Helper()
	for info, err := range s.List(context.Background(), "") {
		if err == nil {
			err = s.Delete(context.Background(), info.Name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

// filler returns n random bytes, the same for the same seed.
func filler(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	r := rand.NewChaCha8(key)
	b := make([]byte, n)
	_, _ = r.Read(b) // never fails
	return b
}

func put(t *testing.T, s backends.Storage, name string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, data, backends.PutOptions{}); err != nil {
		t.Fatalf("Put(%s): %v", name, err)
	}
}

// want fails unless the file holds data, by Get, Stat and List.
func want(t *testing.T, s backends.Storage, name string, data []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Errorf("Get(%s): %v", name, err)
	} else if !bytes.Equal(got, data) {
		t.Errorf("Get(%s): %d bytes that differ from the %d stored", name, len(got), len(data))
	}
	info, err := s.Stat(t.Context(), name)
	if err != nil || info.Name != name || info.Size != int64(len(data)) || info.ModTime.IsZero() {
		t.Errorf("Stat(%s): %+v, %v", name, info, err)
	}
	dir := name[:strings.LastIndexByte(name, '/')+1]
	listed := false
	for i, err := range s.List(t.Context(), dir) {
		if err != nil {
			t.Errorf("List(%q): %v", dir, err)
		} else if i.Name == name {
			if listed || i.Size != info.Size || !i.ModTime.Equal(info.ModTime) {
				t.Errorf("List(%q): %+v, already listed: %v, Stat said %+v", dir, i, listed, info)
			}
			listed = true
		}
	}
	if !listed {
		t.Errorf("List(%q) lacks %s", dir, name)
	}
}

// wantNone fails unless the file does not exist, by Get, Stat, Delete and List.
func wantNone(t *testing.T, s backends.Storage, name string) {
	t.Helper()
	if b, err := s.Get(t.Context(), name, 0, -1); !errors.Is(err, fs.ErrNotExist) || b != nil {
		t.Errorf("Get(%s): %d bytes, %v", name, len(b), err)
	}
	if _, err := s.Get(t.Context(), name, 5, 5); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get(%s, 5, 5): %v", name, err)
	}
	if info, err := s.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) || info != (backends.Info{}) {
		t.Errorf("Stat(%s): %+v, %v", name, info, err)
	}
	if err := s.Delete(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Delete(%s): %v", name, err)
	}
	for _, got := range listed(t, s, "") {
		if got == name {
			t.Errorf("%s is listed", name)
		}
	}
}

// listed returns the names below prefix, sorted.
func listed(t *testing.T, s backends.Storage, prefix string) []string {
	t.Helper()
	var got []string
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Errorf("List(%q): %v", prefix, err)
			continue
		}
		got = append(got, info.Name)
	}
	slices.Sort(got)
	return got
}

func wantListed(t *testing.T, s backends.Storage, prefix string, names ...string) {
	t.Helper()
	slices.Sort(names)
	if got := listed(t, s, prefix); !slices.Equal(got, names) {
		t.Errorf("List(%q): %q, want %q", prefix, got, names)
	}
}

func roundTrip(t *testing.T, s backends.Storage) {
	for i, size := range []int{0, 1, 4095, 4096, 4097, 1<<20 + 3} {
		name := fmt.Sprintf("packs/%02x/%064x", i, size)
		data := filler(uint64(i), size)
		put(t, s, name, data)
		want(t, s, name, data)
	}
	long := strings.Repeat("long/", (backends.MaxName-1)/5)
	for _, name := range []string{"config", "a/b/c/d/e/f/g/h", "with.dots.1", "with-dash_and_line", "0/x001/067.p/8", long + "x"} {
		put(t, s, name, []byte(name))
		want(t, s, name, []byte(name))
	}
	put(t, s, "nil", nil)
	want(t, s, "nil", []byte{})
}

func ranges(t *testing.T, s backends.Storage) {
	const size = 10_000
	data := filler(1, size)
	put(t, s, "d/file", data)
	for _, off := range []int64{0, 1, 4095, 4096, size - 1, size} {
		for _, n := range []int64{0, 1, 511, 4096, size - off, -1, math.MinInt64} {
			end := off + n
			if n < 0 {
				end = size
			}
			got, err := s.Get(t.Context(), "d/file", off, n)
			if end > size {
				if !errors.Is(err, io.ErrUnexpectedEOF) || got != nil {
					t.Errorf("Get(%d, %d): %d bytes, %v", off, n, len(got), err)
				}
			} else if err != nil || !bytes.Equal(got, data[off:end]) {
				t.Errorf("Get(%d, %d): %d bytes, %v", off, n, len(got), err)
			}
		}
	}
	for _, c := range [][2]int64{
		{0, size + 1}, {size, 1}, {size - 1, 2}, {size + 1, 0}, {size + 1, -1}, {size + 1, 1}, {math.MaxInt64, -1}, {math.MaxInt64, 0},
		{0, math.MaxInt64}, {1, math.MaxInt64}, {math.MaxInt64, math.MaxInt64},
	} {
		if got, err := s.Get(t.Context(), "d/file", c[0], c[1]); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, fs.ErrNotExist) || got != nil {
			t.Errorf("Get(%d, %d): %d bytes, %v", c[0], c[1], len(got), err)
		}
	}
	if _, err := s.Get(t.Context(), "d/file", -1, 1); err == nil {
		t.Error("a negative offset is accepted")
	}
	put(t, s, "d/empty", nil)
	for _, n := range []int64{0, -1} {
		if got, err := s.Get(t.Context(), "d/empty", 0, n); err != nil || len(got) != 0 {
			t.Errorf("Get(0, %d) of nothing: %d bytes, %v", n, len(got), err)
		}
	}
	for _, c := range [][2]int64{{0, 1}, {1, 0}, {1, -1}} {
		if _, err := s.Get(t.Context(), "d/empty", c[0], c[1]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Get(%d, %d) of nothing: %v", c[0], c[1], err)
		}
	}
}

func missing(t *testing.T, s backends.Storage) {
	wantNone(t, s, "nothing")
	wantNone(t, s, "no/directory/either")
	put(t, s, "dir/sub/file", []byte("x"))
	wantNone(t, s, "dir/sub/other")
	wantNone(t, s, "dir/sub") // a directory is no file
	wantNone(t, s, "dir")
	wantNone(t, s, "dir/sub/fil") // nor is a part of a name
	want(t, s, "dir/sub/file", []byte("x"))
}

func names(t *testing.T, s backends.Storage) {
	for _, name := range []string{
		"", ".", "..", "/", "/etc", "a/", "a//b", "../a", "a/../b", "a/./b", "A", "packs/AB", "\u00e9", "a b", `a\b`, "a:b", "a\x00b", "a\nb", "*", "a%2fb",
		".hidden", "a/.nfs1", "a.", "tmp", "tmp/a", "a.tmp", strings.Repeat("a", backends.MaxName+1),
	} {
		if err := s.Put(t.Context(), name, []byte("x"), backends.PutOptions{}); !errors.Is(err, backends.ErrInvalidName) {
			t.Errorf("Put(%q): %v", name, err)
		}
		if err := s.Put(t.Context(), name, []byte("x"), backends.PutOptions{IfAbsent: true}); !errors.Is(err, backends.ErrInvalidName) {
			t.Errorf("exclusive Put(%q): %v", name, err)
		}
		if _, err := s.Get(t.Context(), name, 0, -1); !errors.Is(err, backends.ErrInvalidName) {
			t.Errorf("Get(%q): %v", name, err)
		}
		if _, err := s.Stat(t.Context(), name); !errors.Is(err, backends.ErrInvalidName) {
			t.Errorf("Stat(%q): %v", name, err)
		}
		if err := s.Delete(t.Context(), name); !errors.Is(err, backends.ErrInvalidName) {
			t.Errorf("Delete(%q): %v", name, err)
		}
	}
	for _, prefix := range []string{"packs", "/", "/packs/", "../", "./", "A/", "a//", "tmp/", "a/../"} {
		count := 0
		for info, err := range s.List(t.Context(), prefix) {
			if count++; !errors.Is(err, backends.ErrInvalidName) {
				t.Errorf("List(%q): %+v, %v", prefix, info, err)
			}
		}
		if count != 1 {
			t.Errorf("List(%q) yields %d times", prefix, count)
		}
	}
	wantListed(t, s, "")
}

// huge returns one byte more than a file may have. Zeroed memory that nobody touches takes up none, but allocated again
// for each storage it would be zeroed in earnest.
var huge = sync.OnceValue(func() []byte { return make([]byte, backends.MaxObject+1) })

func tooLarge(t *testing.T, s backends.Storage) {
	if testing.Short() {
		t.Skip("needs 512 MiB of address space")
	}
	if err := s.Put(t.Context(), "huge", huge(), backends.PutOptions{}); err == nil {
		t.Error("a file beyond MaxObject is accepted")
	}
	wantNone(t, s, "huge")
}

func ownership(t *testing.T, s backends.Storage) {
	data := filler(1, 5000)
	kept := bytes.Clone(data)
	put(t, s, "a", data)
	clear(data)
	want(t, s, "a", kept)

	got, err := s.Get(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	clear(got)
	_ = append(got, "and what is behind"...)
	want(t, s, "a", kept)
	part, err := s.Get(t.Context(), "a", 10, 10)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(part, "behind the part"...)
	want(t, s, "a", kept)
}

func exclusive(t *testing.T, s backends.Storage) {
	only := backends.PutOptions{IfAbsent: true}
	for _, name := range []string{"top", "d/e/file"} {
		if err := s.Put(t.Context(), name, []byte("first"), only); err != nil {
			t.Fatal(err)
		}
		for _, again := range []string{"second", "first", ""} {
			if err := s.Put(t.Context(), name, []byte(again), only); !errors.Is(err, fs.ErrExist) {
				t.Errorf("exclusive Put of an existing name: %v", err)
			}
			want(t, s, name, []byte("first"))
		}
		put(t, s, name, []byte("replaced"))
		want(t, s, name, []byte("replaced"))
		if err := s.Put(t.Context(), name, []byte("third"), only); !errors.Is(err, fs.ErrExist) {
			t.Errorf("exclusive Put of a replaced name: %v", err)
		}
		if err := s.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), name, []byte("anew"), only); err != nil {
			t.Errorf("exclusive Put after Delete: %v", err)
		}
		want(t, s, name, []byte("anew"))
	}
	wantListed(t, s, "", "top", "d/e/file")
}

func exclusiveRace(t *testing.T, s backends.Storage) {
	const writers = 16
	for round := range 8 {
		name := fmt.Sprintf("race/%d/file", round) // a new directory each time
		var (
			wg    sync.WaitGroup
			errs  [writers]error
			start = make(chan struct{})
		)
		for i := range writers {
			data := bytes.Repeat([]byte{byte(i)}, 3000+i)
			wg.Go(func() {
				<-start
				errs[i] = s.Put(t.Context(), name, data, backends.PutOptions{IfAbsent: true})
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner < 0:
				winner = i
			case err == nil:
				t.Fatalf("writers %d and %d both created %s", winner, i, name)
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("writer %d: %v", i, err)
			}
		}
		if winner < 0 {
			t.Fatalf("nobody created %s", name)
		}
		want(t, s, name, bytes.Repeat([]byte{byte(winner)}, 3000+winner))
	}
}

// replaceRace: whoever reads while a file is replaced gets one of its contents, whole.
func replaceRace(t *testing.T, s backends.Storage) {
	const name = "d/file"
	content := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 20_000+1000*(i%7)) }
	put(t, s, name, content(0))
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				got, err := s.Get(t.Context(), name, 0, -1)
				if err != nil || len(got) == 0 || !bytes.Equal(got, content(int(got[0]))) {
					t.Errorf("read %d bytes that nobody stored, %v", len(got), err)
					return
				}
				if info, err := s.Stat(t.Context(), name); err != nil || info.Size < 20_000 {
					t.Errorf("Stat: %+v, %v", info, err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 40 {
		if err := s.Put(t.Context(), name, content(i), backends.PutOptions{}); err != nil {
			t.Errorf("Put: %v", err)
		}
	}
	close(done)
	wg.Wait()
	want(t, s, name, content(39))
	wantListed(t, s, "", name)
}

func list(t *testing.T, s backends.Storage) {
	wantListed(t, s, "")
	wantListed(t, s, "packs/")
	all := []string{
		"config", "leases/0a", "leases/0a.1", "leases/0b", "packs-old/x", "packs.d/x", "packs0", "q/a.b", "q/a/c", "q/a0", "q/a-/d",
	}
	for i := range 150 {
		all = append(all, fmt.Sprintf("packs/%02x/%040x", i%5, i))
	}
	for i, name := range all {
		put(t, s, name, make([]byte, i))
	}
	below := func(prefix string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(n string) bool { return !strings.HasPrefix(n, prefix) })
	}
	for _, prefix := range []string{"", "packs/", "packs/03/", "packs/ff/", "leases/", "q/", "q/a/", "q/a-/", "nothing/", "packs-old/"} {
		wantListed(t, s, prefix, below(prefix)...)
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Size != int64(slices.Index(all, info.Name)) || info.ModTime.IsZero() {
			t.Errorf("%+v, %v", info, err)
		}
	}
	// A sequence lists afresh each time.
	seq := s.List(t.Context(), "leases/")
	for n := 3; n <= 4; n++ {
		got := 0
		for range seq {
			got++
		}
		if got != n {
			t.Errorf("use %d of the sequence yields %d files", n-2, got)
		}
		put(t, s, "leases/0c", nil)
	}
}

func listStops(t *testing.T, s backends.Storage) {
	for i := range 10 {
		put(t, s, fmt.Sprintf("d/%d/f", i), nil)
	}
	got := 0
	for _, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Error(err)
		}
		if got++; got == 3 {
			break // a yield after this panics
		}
	}
	// Files may be deleted and stored while they are listed.
	seen := map[string]bool{}
	for info, err := range s.List(t.Context(), "d/") {
		if err != nil {
			t.Fatal(err)
		}
		seen[info.Name] = true
		if err := s.Delete(t.Context(), info.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		put(t, s, "e/"+info.Name, nil)
	}
	if len(seen) != 10 {
		t.Errorf("%d of 10 files were listed", len(seen))
	}
	wantListed(t, s, "d/")
}

// listRace: a listing shows every file that was stored before it began, and only names that were ever given.
func listRace(t *testing.T, s backends.Storage) {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		stored = map[string]bool{}
	)
	const writers, each = 4, 30
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("packs/%x/%d-%d", i%3, w, i)
				if err := s.Put(t.Context(), name, []byte(name), backends.PutOptions{IfAbsent: i%2 == 0}); err != nil {
					t.Errorf("Put: %v", err)
				}
				mu.Lock()
				stored[name] = true
				mu.Unlock()
			}
		})
	}
	for done := false; !done; {
		mu.Lock()
		before := make([]string, 0, len(stored))
		for name := range stored {
			before = append(before, name)
		}
		mu.Unlock()
		done = len(before) == writers*each || t.Failed()
		got := map[string]bool{}
		for info, err := range s.List(t.Context(), "") {
			if err != nil {
				t.Fatalf("List: %v", err)
			}
			var x, w, i int
			if _, err := fmt.Sscanf(info.Name, "packs/%x/%d-%d", &x, &w, &i); err != nil || info.Size != int64(len(info.Name)) {
				t.Errorf("listed %+v, which nobody stored", info)
			}
			if got[info.Name] {
				t.Errorf("%s is listed twice", info.Name)
			}
			got[info.Name] = true
		}
		for _, name := range before {
			if !got[name] {
				t.Errorf("%s was stored before the listing, which lacks it", name)
			}
		}
	}
	wg.Wait()
}

func deletion(t *testing.T, s backends.Storage) {
	put(t, s, "d/a", []byte("a"))
	put(t, s, "d/b", []byte("b"))
	if err := s.Delete(t.Context(), "d/a"); err != nil {
		t.Fatal(err)
	}
	wantNone(t, s, "d/a")
	wantListed(t, s, "d/", "d/b")
	want(t, s, "d/b", []byte("b"))
	if err := s.Delete(t.Context(), "d/b"); err != nil {
		t.Fatal(err)
	}
	wantListed(t, s, "d/")
	wantListed(t, s, "")
	put(t, s, "d/a", []byte("again"))
	want(t, s, "d/a", []byte("again"))
}

// deleteRace: every Delete of many either works or says that the file is gone, and at least one works.
func deleteRace(t *testing.T, s backends.Storage) {
	put(t, s, "d/a", []byte("a"))
	var (
		wg   sync.WaitGroup
		errs [8]error
	)
	for i := range errs {
		wg.Go(func() { errs[i] = s.Delete(t.Context(), "d/a") })
	}
	wg.Wait()
	worked := 0
	for _, err := range errs {
		if err == nil {
			worked++
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
	if worked == 0 {
		t.Error("no Delete of an existing file worked")
	}
	wantNone(t, s, "d/a")
}

// times: ModTime is set by Put, does not change after, and follows the order of Puts.
func times(t *testing.T, s backends.Storage) {
	var last time.Time
	for i := range 5 {
		name := fmt.Sprintf("d/%d", i)
		put(t, s, name, []byte("x"))
		info, err := s.Stat(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if info.ModTime.Before(last) {
			t.Errorf("file %d is dated %v, the one before it %v", i, info.ModTime, last)
		}
		last = info.ModTime
		if _, err := s.Get(t.Context(), name, 0, -1); err != nil {
			t.Fatal(err)
		}
		if again, err := s.Stat(t.Context(), name); err != nil || again != info {
			t.Errorf("%+v became %+v, %v", info, again, err)
		}
	}
	// Replacing counts as storing.
	time.Sleep(20 * time.Millisecond)
	put(t, s, "d/0", []byte("y"))
	if info, err := s.Stat(t.Context(), "d/0"); err != nil || info.ModTime.Before(last) {
		t.Errorf("a replaced file is dated %v, an older one %v, %v", info.ModTime, last, err)
	}
}

func cancelled(t *testing.T, s backends.Storage) {
	put(t, s, "d/a", []byte("a"))
	put(t, s, "d/b", []byte("b"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ifAbsent := range []bool{false, true} {
		if err := s.Put(ctx, "d/new", []byte("x"), backends.PutOptions{IfAbsent: ifAbsent}); !errors.Is(err, context.Canceled) {
			t.Errorf("Put: %v", err)
		}
	}
	if err := s.Put(ctx, "d/a", []byte("x"), backends.PutOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if _, err := s.Get(ctx, "d/a", 0, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("Get: %v", err)
	}
	if _, err := s.Stat(ctx, "d/a"); !errors.Is(err, context.Canceled) {
		t.Errorf("Stat: %v", err)
	}
	if err := s.Delete(ctx, "d/a"); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete: %v", err)
	}
	for _, prefix := range []string{"", "d/", "nothing/"} {
		count := 0
		for info, err := range s.List(ctx, prefix) {
			if count++; !errors.Is(err, context.Canceled) {
				t.Errorf("List(%q): %+v, %v", prefix, info, err)
			}
		}
		if count != 1 {
			t.Errorf("List(%q) yields %d times", prefix, count)
		}
	}
	want(t, s, "d/a", []byte("a"))
	wantListed(t, s, "", "d/a", "d/b")

	// Cancelled under way a listing must not look complete.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	for i := range 50 {
		put(t, s, fmt.Sprintf("e/%d", i), nil)
	}
	files, failed := 0, false
	for _, err := range s.List(ctx, "") {
		if err == nil {
			files++
			cancel()
		} else {
			failed = true
		}
	}
	if !failed && files != 52 {
		t.Errorf("a cancelled listing ended without error after %d of 52 files", files)
	}
}

func retain(t *testing.T, s backends.Storage) {
	until := time.Now().Add(time.Hour)
	for _, o := range []backends.PutOptions{{Extend: true}, {Extend: true, IfAbsent: true, RetainUntil: until}} {
		if err := s.Put(t.Context(), "kept/none", nil, o); !errors.Is(err, backends.ErrPermanent) {
			t.Errorf("Put with %+v: %v", o, err)
		}
	}
	err := s.Put(t.Context(), "kept/a", []byte("a"), backends.PutOptions{RetainUntil: until})
	if errors.Is(err, backends.ErrUnsupported) {
		wantNone(t, s, "kept/a")
		put(t, s, "kept/a", []byte("old"))
		for _, o := range []backends.PutOptions{{RetainUntil: until}, {RetainUntil: until, Extend: true}} {
			data := []byte("new")
			if o.Extend {
				data = nil
			}
			if err := s.Put(t.Context(), "kept/a", data, o); !errors.Is(err, backends.ErrUnsupported) {
				t.Errorf("retention of another file, with %+v: %v", o, err)
			}
		}
		if err := s.Put(t.Context(), "kept/none", nil, backends.PutOptions{RetainUntil: until, Extend: true}); !errors.Is(err, backends.ErrUnsupported) {
			t.Errorf("retention of a missing file: %v", err)
		}
		want(t, s, "kept/a", []byte("old"))
		wantKept(t, s, "kept/a", time.Time{})
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	want(t, s, "kept/a", []byte("a"))
	wantKept(t, s, "kept/a", until)
	wantListed(t, s, "", "kept/a") // nothing of the storage's own is shown

	// Exclusively, too; and whoever comes later is told that it exists.
	only := backends.PutOptions{IfAbsent: true, RetainUntil: until}
	if err := s.Put(t.Context(), "kept/b", []byte("b"), only); err != nil {
		t.Fatal(err)
	}
	wantKept(t, s, "kept/b", until)
	if err := s.Put(t.Context(), "kept/b", []byte("c"), only); !errors.Is(err, fs.ErrExist) {
		t.Errorf("exclusive Put of a kept name: %v", err)
	}
	want(t, s, "kept/b", []byte("b"))

	// Extended it is kept longer, never shorter. What was not kept before may be from now on.
	put(t, s, "kept/c", []byte("c"))
	wantKept(t, s, "kept/c", time.Time{})
	later := until.Add(time.Hour)
	extend := func(name string, until time.Time) error {
		return s.Put(t.Context(), name, nil, backends.PutOptions{Extend: true, RetainUntil: until})
	}
	for _, name := range []string{"kept/a", "kept/b", "kept/c"} {
		for _, date := range []time.Time{later, until, later, time.Now().Add(-time.Hour)} {
			if err := extend(name, date); err != nil {
				t.Errorf("keeping %s until %v: %v", name, date, err)
			}
			wantKept(t, s, name, later)
		}
		want(t, s, name, []byte(name[len("kept/"):]))
	}
	if err := extend("kept/none", later); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("retention of a missing file: %v", err)
	}
	if err := s.Put(t.Context(), "kept/a", []byte("x"), backends.PutOptions{RetainUntil: later, Extend: true}); !errors.Is(err, backends.ErrPermanent) {
		t.Errorf("an extension with bytes: %v", err)
	}

	// The same bytes again are no replacement; a later date counts, an earlier one does not.
	for _, date := range []time.Time{{}, until, later.Add(time.Hour)} {
		if err := s.Put(t.Context(), "kept/a", []byte("a"), backends.PutOptions{RetainUntil: date}); err != nil {
			t.Errorf("the same bytes again, until %v: %v", date, err)
		}
		want(t, s, "kept/a", []byte("a"))
	}
	if _, err := s.Stat(t.Context(), "kept/a"); err != nil {
		t.Error(err)
	}
	// Other bytes do not take the place of what is kept, or stand before it.
	if err := s.Put(t.Context(), "kept/b", []byte("other"), backends.PutOptions{}); err == nil {
		want(t, s, "kept/b", []byte("other"))
		if err := s.Delete(t.Context(), "kept/b"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Delete of what hides a kept file: %v", err)
		}
	} else {
		wantRefused(t, "replacing", err, later)
		want(t, s, "kept/b", []byte("b"))
	}
}

// wantKept fails unless a file is kept until a date, to a second, or with the zero time is not kept.
func wantKept(t *testing.T, s backends.Storage, name string, until time.Time) {
	t.Helper()
	info, err := s.Stat(t.Context(), name)
	if err != nil || info.RetainUntil.IsZero() != until.IsZero() || info.RetainUntil.Before(until) || info.RetainUntil.After(until.Add(time.Second)) {
		t.Errorf("%s is kept until %v, %v, want %v", name, info.RetainUntil, err, until)
	}
	if (info.Guard == backends.Unguarded) != until.IsZero() {
		t.Errorf("%s, kept until %v, is guarded by %v", name, until, info.Guard)
	}
	if !until.IsZero() {
		wantRefused(t, "Delete of "+name, s.Delete(t.Context(), name), until)
	}
}

// wantRefused fails unless err refuses because of a date.
func wantRefused(t *testing.T, what string, err error, until time.Time) {
	t.Helper()
	kept, ok := errors.AsType[*backends.KeptError](err)
	if !ok || !errors.Is(err, fs.ErrPermission) || kept.Until.Before(until) || kept.Until.After(until.Add(time.Second)) {
		t.Errorf("%s, kept until %v: %v", what, until, err)
	}
}

// random compares the storage with a map after every one of many random calls.
func random(t *testing.T, s backends.Storage) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	model := map[string][]byte{}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	for range 400 {
		name := fmt.Sprintf("%c/%c/%d", 'a'+r.IntN(2), 'a'+r.IntN(2), r.IntN(4))
		old, exists := model[name]
		switch r.IntN(5) {
		case 0, 1:
			data := filler(r.Uint64(), r.IntN(3000))
			ifAbsent := r.IntN(2) == 0
			err := s.Put(t.Context(), name, data, backends.PutOptions{IfAbsent: ifAbsent})
			if exists && ifAbsent {
				if !errors.Is(err, fs.ErrExist) {
					t.Fatalf("exclusive Put(%s): %v", name, err)
				}
			} else if err != nil {
				t.Fatal(err)
			} else {
				model[name] = data
			}
		case 2:
			err := s.Delete(t.Context(), name)
			if exists && err != nil || !exists && !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("Delete(%s), which exists %v: %v", name, exists, err)
			}
			delete(model, name)
		case 3:
			got, err := s.Get(t.Context(), name, 0, -1)
			if exists && (err != nil || !bytes.Equal(got, old)) || !exists && !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("Get(%s), which exists %v: %d bytes, %v", name, exists, len(got), err)
			}
		case 4:
			prefix := []string{"", "a/", "b/", "a/b/", "c/"}[r.IntN(5)]
			var names []string
			for name := range model {
				if strings.HasPrefix(name, prefix) {
					names = append(names, name)
				}
			}
			wantListed(t, s, prefix, names...)
		}
	}
}
