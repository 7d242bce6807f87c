package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/snapshot"
)

func snapshots(t *testing.T, r *repo.Repo) int {
	t.Helper()
	all, err := r.Snapshots(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// variety makes a tree with a bit of everything that has a path of its own through the code, and returns its files.
func variety(t *testing.T, dir string) map[string]string {
	t.Helper()
	want := map[string]string{}
	add := func(name string, data []byte) {
		write(t, filepath.Join(dir, name), data)
		want[filepath.Join(dir, name)] = string(data)
	}
	add("empty", nil)
	add("inline", []byte("hello"))
	add("a/small", random(1, 5000))
	add("a/b/medium", random(2, 200_000))
	add("a/large", random(3, 3<<19))
	add("other/large", random(6, 1<<20+9))
	add("mixed", append(append(random(4, 100_000), make([]byte, 200_000)...), random(5, 900_000)...))
	for i := range 40 {
		add(filepath.Join("many", strings.Repeat("x", i+1)), random(byte(10+i), 300+i*50))
	}
	if err := os.Link(filepath.Join(dir, "a/small"), filepath.Join(dir, "linked")); err != nil {
		t.Fatal(err)
	}
	want[filepath.Join(dir, "linked")] = want[filepath.Join(dir, "a/small")]
	return want
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc")
	}
	return len(list)
}

// settled fails unless the numbers of goroutines and descriptors come back to what they were.
func settled(t *testing.T, goroutines, files int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= goroutines && openFiles(t) <= files {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Fatalf("%d goroutines, there were %d; %d descriptors, there were %d\n%s", runtime.NumGoroutine(), goroutines, openFiles(t), files, buf[:runtime.Stack(buf, true)])
}

func TestFaults(t *testing.T) {
	base, c := newRepo(t)
	src := t.TempDir()
	want := variety(t, src)
	access := repo.Access{Credential: c}
	counter := fault.New(base.Clone())
	r := open(t, counter, access)
	before := counter.Calls(fault.Any)
	clean := run(t, r, backup.Options{Sources: []string{src}})
	calls := counter.Calls(fault.Any) - before
	if calls < 20 {
		t.Fatalf("only %d calls", calls)
	}
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for n := 1; n <= calls; n++ {
		for i, effect := range []fault.Effect{fault.Before, fault.After} {
			if n < calls-3 && n%12 != 3*i { // what ends the backup has most to lose
				continue
			}
			bad := syscall.ENOSPC
			if n%2 == 0 {
				bad = syscall.EIO
			}
			st := fault.New(base.Clone())
			r := open(t, st, access)
			st.Add(fault.Rule{N: n, Effect: effect, Err: bad})
			res, err := backup.Run(t.Context(), r, backup.Options{Sources: []string{src}, Type: snapshot.Incremental})
			st.Clear()
			after := open(t, st, access)
			if err != nil {
				if !errors.Is(err, bad) || res != nil {
					t.Errorf("call %d: error %v, want %v", n, err, bad)
				}
				if k := snapshots(t, after); k != 0 && !(effect == fault.After && k == 1) { // the answer to the commit itself may get lost
					t.Errorf("call %d: %d snapshots after an error", n, k)
				}
			} else if effect == fault.Before && res.Snapshot == nil {
				t.Errorf("call %d: neither error nor snapshot", n)
			}
			again := run(t, after, backup.Options{Sources: []string{src}})
			if n%12 == 0 {
				compare(t, tree(t, st, again.Snapshot), want)
			}
			// What the failed run stored in packs is found again: at most the packs that were open are stored twice.
			if again.Stored.BytesNew > clean.Stored.BytesNew {
				t.Errorf("call %d: %d bytes stored, at first %d", n, again.Stored.BytesNew, clean.Stored.BytesNew)
			}
		}
	}
	settled(t, goroutines, files)
}

func TestCancel(t *testing.T) {
	st, c := newRepo(t)
	src := t.TempDir()
	want := variety(t, src)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	done := 0
	for range 20 {
		store := fault.New(st.Clone())
		r := open(t, store, repo.Access{Credential: c})
		ctx, cancel := context.WithCancel(t.Context())
		after := rnd.IntN(130)
		p := &hook{}
		var mu sync.Mutex
		tick := func() {
			mu.Lock()
			defer mu.Unlock()
			if after--; after == 0 {
				cancel()
			}
		}
		p.start = func(string) { tick() }
		p.done = tick
		store.SetHook(func(fault.Op, string) error { tick(); return nil })
		res, err := backup.Run(ctx, r, backup.Options{Sources: []string{src}, Type: snapshot.Incremental, Progress: p, CacheDir: t.TempDir()})
		ended := ctx.Err() != nil
		cancel()
		store.Clear()
		switch {
		case err == nil:
			done++
			compare(t, tree(t, store, res.Snapshot), want)
		case !ended || !errors.Is(err, context.Canceled):
			t.Errorf("error %v, cancelled: %v", err, ended)
		case snapshots(t, open(t, store, repo.Access{Credential: c})) != 0:
			// The commit's answer may come after the end of the context; then it is there, and whole.
			all, _ := open(t, store, repo.Access{Credential: c}).Snapshots(t.Context())
			compare(t, tree(t, store, all[0]), want)
		}
		settled(t, goroutines, files)
	}
	if done == 20 {
		t.Error("no run was cancelled")
	}
}

func TestFenced(t *testing.T) {
	inner, c := newRepo(t)
	src := t.TempDir()
	want := variety(t, src)
	st := fault.New(inner)
	r := open(t, st, repo.Access{Credential: c})
	var once sync.Once
	st.SetHook(func(op fault.Op, name string) (err error) {
		if op == fault.Put && strings.HasPrefix(name, "snapshots/") {
			once.Do(func() {
				err = inner.Put(context.Background(), name, []byte("void"), backends.PutOptions{IfAbsent: true})
			})
		}
		return err
	})
	res := run(t, r, backup.Options{Sources: []string{src}})
	compare(t, tree(t, st, res.Snapshot), want)
	if n := snapshots(t, r); n != 1 {
		t.Errorf("%d snapshots", n)
	}
	st.SetHook(func(op fault.Op, name string) error {
		if op == fault.Put && strings.HasPrefix(name, "snapshots/") {
			inner.Put(context.Background(), name, []byte("void"), backends.PutOptions{IfAbsent: true})
		}
		return nil
	})
	if _, err := backup.Run(t.Context(), open(t, st, repo.Access{Credential: c}), backup.Options{Sources: []string{src}}); !errors.Is(err, repo.ErrFenced) {
		t.Errorf("error %v, want ErrFenced", err)
	}
}

type failing struct {
	data []byte
	err  error
}

func (f *failing) Read(p []byte) (int, error) {
	if len(f.data) == 0 {
		return 0, f.err
	}
	n := copy(p, f.data)
	f.data = f.data[n:]
	return n, nil
}

func TestStdin(t *testing.T) {
	st, c := newRepo(t)
	access := repo.Access{Credential: c}
	for _, data := range [][]byte{[]byte("x"), random(1, 3<<20), append(make([]byte, 1<<20), random(2, 70_000)...)} {
		o := backup.Options{Stdin: bytes.NewReader(data), StdinName: "dump.sql", DryRun: true}
		if res := run(t, open(t, st, access), o); res.Stats.BytesTotal != uint64(len(data)) || res.Snapshot != nil {
			t.Errorf("dry run: %+v", res)
		}
		o.Stdin, o.DryRun = bytes.NewReader(data), false
		res := run(t, open(t, st, access), o)
		compare(t, tree(t, st, res.Snapshot), map[string]string{"/dump.sql": string(data)})
		if s := res.Stats; s.Files != 1 || s.New != 1 || s.Dirs != 0 || s.BytesTotal != uint64(len(data)) || s.BytesRead != s.BytesTotal {
			t.Errorf("stats %+v", s)
		}
	}
	before := snapshots(t, open(t, st, access))
	goroutines := runtime.NumGoroutine()
	broken := errors.New("producer failed")
	_, err := backup.Run(t.Context(), open(t, st, access), backup.Options{Stdin: &failing{random(3, 2<<20), broken}, StdinName: "x"})
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want the producer's", err)
	}
	if _, err = backup.Run(t.Context(), open(t, st, access), backup.Options{Stdin: strings.NewReader(""), StdinName: "x"}); !errors.Is(err, backup.ErrNoSource) {
		t.Errorf("empty stream: %v", err)
	}
	if _, err = backup.Run(t.Context(), open(t, st, access), backup.Options{Stdin: strings.NewReader("x"), StdinName: "a/b"}); err == nil {
		t.Error("a stream was named a/b")
	}
	// A stream that blocks for ever does not keep a cancelled backup.
	rd, wr := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	go wr.Write([]byte("some"))
	start := time.Now()
	if _, err = backup.Run(ctx, open(t, st, access), backup.Options{Stdin: rd, StdinName: "x"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("blocked stream: %v", err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("cancelling took %v", d)
	}
	wr.Close()
	settled(t, goroutines, 1<<20)
	if n := snapshots(t, open(t, st, access)); n != before {
		t.Errorf("%d snapshots, there were %d", n, before)
	}
}

func TestDryRun(t *testing.T) {
	inner, c := newRepo(t)
	src, cache := t.TempDir(), t.TempDir()
	variety(t, src)
	st := fault.New(inner)
	access := repo.Access{Credential: c}
	o := backup.Options{Sources: []string{src}, CacheDir: cache}
	for round := range 2 {
		puts, deletes := st.Calls(fault.Put), st.Calls(fault.Delete)
		files, _ := filepath.Glob(cache + "/*/*")
		o.DryRun = true
		dry := run(t, open(t, st, access), o)
		if st.Calls(fault.Put) != puts || st.Calls(fault.Delete) != deletes || dry.Snapshot != nil {
			t.Error("a dry run wrote to the repository")
		}
		if now, _ := filepath.Glob(cache + "/*/*"); len(now) != len(files) {
			t.Errorf("a dry run changed the cache: %q, was %q", now, files)
		}
		o.DryRun = false
		res := run(t, open(t, st, access), o)
		stats := res.Stats
		stats.Blobs, stats.BytesNew, stats.BytesStored = 0, 0, 0
		if dry.Stats != stats {
			t.Errorf("round %d: dry run says\n%+v, real run\n%+v", round, dry.Stats, stats)
		}
		write(t, filepath.Join(src, "a/small"), random(77, 6000)) // two names of one file
		write(t, filepath.Join(src, "more"), random(78, 10))
	}
}

// hook is a Progress for tests.
type hook struct {
	start   func(path string)
	done    func()
	mu      sync.Mutex // guards what follows
	files   int64
	bytes   int64
	unread  int64
	skipped []string
}

func (h *hook) Expect(int64, int64) {}

func (h *hook) Start(path string) {
	if h.start != nil {
		h.start(path)
	}
}

func (h *hook) Done(files, bytes, unread int64) {
	h.mu.Lock()
	h.files, h.bytes, h.unread = h.files+files, h.bytes+bytes, h.unread+unread
	h.mu.Unlock()
	if h.done != nil {
		h.done()
	}
}

func (h *hook) Skipped(path string, reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.skipped = append(h.skipped, path)
}
