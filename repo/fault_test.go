package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/crypt"
	"packhold/repo/format"
	"packhold/repo/snapshot"
)

// kinds are what a storage fails with, and what the error must match.
var kinds = []struct{ inject, want error }{
	{backends.ErrNoSpace, backends.ErrNoSpace},
	{syscall.EIO, ErrStorage},
	{fs.ErrPermission, fs.ErrPermission},
}

// manner is how a call fails.
type manner struct {
	effect fault.Effect
	sticky bool
}

var manners = []manner{{fault.Before, false}, {fault.Before, true}, {fault.After, false}, {fault.Partial, false}}

func (m manner) String() string {
	return fmt.Sprintf("effect %d, sticky %v", m.effect, m.sticky)
}

// long makes the fault loops complete: PACKHOLD_LONG=1 go test.
var long = os.Getenv("PACKHOLD_LONG") != ""

// eachFault runs f with every n-th storage call failing, until a run has fewer calls. The first manner is tried at each n, the others at every
// third, or with long at each. With the race detector it is a sample.
func eachFault(t *testing.T, f func(t *testing.T, rule fault.Rule, want error) (calls int)) {
	t.Helper()
	runs := 0
	for i, m := range manners {
		first, step := 1, 1
		switch {
		case long:
		case race && i%2 == 1:
			continue
		case race:
			first, step = 1+3*i, 19+18*min(i, 1)
		case i > 0:
			first, step = i, 3
		}
		for n := first; ; n += step {
			k := kinds[(n+i)%len(kinds)]
			calls := f(t, fault.Rule{N: n, Sticky: m.sticky, Effect: m.effect, Err: k.inject}, k.want)
			if t.Failed() {
				t.Fatalf("with call %d failing by %v (%v)", n, k.inject, m)
			}
			runs++
			if calls < n {
				break
			}
		}
	}
	t.Logf("%d runs", runs)
}

func allCalls(s *fault.Store) int {
	n := 0
	for op := fault.Put; op <= fault.Delete; op++ {
		n += s.Calls(op)
	}
	return n
}

// backup is one session over blobs with three workers' worth of packs.
func backup(ctx context.Context, r *Repo, blobs [][]byte) (*Snapshot, *Session, error) {
	s, err := r.Begin(ctx, SessionOptions{Compression: "none"})
	if err != nil {
		return nil, nil, err
	}
	defer s.Close(ctx)
	w, err := s.NewWorker()
	if err != nil {
		return nil, s, err
	}
	for _, b := range blobs {
		if _, _, err := w.Store(b); err != nil {
			return nil, s, err
		}
	}
	root, _, err := w.StoreTree([]byte("the root page of a backup"))
	if err != nil {
		return nil, s, err
	}
	snap, err := s.Commit(ctx, record(root), &snapshot.Body{}, nil)
	return snap, s, err
}

// reader opens baseRepo or a clone for reading without the cost of a passphrase.
func reader(t testing.TB, s backends.Storage) *Repo {
	t.Helper()
	c := *baseCredential
	r := openWriter(t, s, &c)
	key, err := readKey()
	if err != nil {
		t.Fatal(err)
	}
	r.keys.Read = map[uint32]*crypt.ReadPrivate{1: key}
	return r
}

// readAll reads every blob and requires it to be exact.
func readAll(t testing.TB, s backends.Storage, blobs ...[]byte) *Repo {
	t.Helper()
	r := reader(t, s)
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, err := r.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if got, err := d.Get(t.Context(), crypt.Sum(b)); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("a blob of %d bytes is lost: %v", len(b), err)
		}
	}
	return r
}

func snapshotsIn(t *testing.T, s backends.Storage, c *crypt.Credential) []*Snapshot {
	t.Helper()
	all, err := openWriter(t, s, c).Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// placesOf counts the stored copies of each blob.
func placesOf(t *testing.T, r *Repo) map[crypt.ID]int {
	t.Helper()
	out := map[crypt.ID]int{}
	type place struct {
		id   crypt.ID
		pack crypt.ID
	}
	seen := map[place]bool{}
	for l, err := range r.Index().All() {
		if err != nil {
			t.Fatal(err)
		}
		if p := (place{l.ID, l.Pack.Name}); !seen[p] {
			seen[p] = true
			out[l.ID]++
		}
	}
	return out
}

func TestSessionFaults(t *testing.T) {
	t.Parallel()
	base, c := newTestRepo(t)
	old := randomBlobs(3, 3000)
	store(t, openWriter(t, base, c), old...)
	blobs := append(randomBlobs(6, 330_000), old[0]) // two packs
	lost := 0                                        // answers lost of commits that took place
	eachFault(t, func(t *testing.T, rule fault.Rule, want error) int {
		inner := base.Clone()
		st := fault.New(inner)
		r := openWriter(t, st, c)
		before := allCalls(st)
		st.Add(rule)
		snap, _, err := backup(t.Context(), r, blobs)
		calls := allCalls(st) - before
		st.Clear()
		if err != nil && !errors.Is(err, want) {
			t.Errorf("the error is %v", err)
		}
		all := snapshotsIn(t, inner, c)
		switch {
		case err == nil:
			if len(all) != 2 || all[1].Session != snap.Session {
				t.Errorf("success, and %d snapshots", len(all))
			}
			readAll(t, inner, append(blobs, old...)...)
		case len(all) == 2:
			var e *Error
			if !errors.As(err, &e) || !strings.HasPrefix(e.Object, "snapshots/") || rule.Effect != fault.After {
				t.Errorf("a snapshot in spite of %v", err)
			}
			lost++
			readAll(t, inner, append(blobs, old...)...)
		default:
			readAll(t, inner, old...)
		}
		if t.Failed() || err == nil {
			return calls
		}
		// The same process goes on: the Repo must not trust what the failed session claimed.
		if _, _, err := backup(t.Context(), r, blobs); err != nil {
			t.Errorf("the next run: %v", err)
		}
		readAll(t, inner, append(blobs, old...)...)
		return calls
	})
	if long && lost == 0 {
		t.Error("no commit's answer was lost")
	}
}

// TestSessionCrash kills a session after every storage call.
func TestSessionCrash(t *testing.T) {
	t.Parallel()
	base, c := newTestRepo(t)
	old := randomBlobs(3, 3000)
	store(t, openWriter(t, base, c), old...)
	blobs := append(randomBlobs(6, 330_000), old[0])
	adopted := uint64(0)
	step := int64(1)
	if race {
		step = 5
	}
	for n := int64(0); ; n += step {
		inner := base.Clone()
		st := fault.New(inner)
		r := openWriter(t, st, c)
		var made atomic.Int64
		st.SetHook(func(fault.Op, string) error {
			if made.Add(1) > n {
				return errors.New("the process is dead")
			}
			return nil
		})
		_, _, err := backup(t.Context(), r, blobs)
		all := snapshotsIn(t, inner, c)
		if (len(all) == 2) != (err == nil) {
			t.Fatalf("dead after call %d: %d snapshots, %v", n, len(all), err)
		}
		if err == nil {
			readAll(t, inner, append(blobs, old...)...)
			if made.Load() <= n {
				break
			}
			continue
		}
		readAll(t, inner, old...)
		_, s, err := backup(t.Context(), openWriter(t, inner, c), blobs)
		if err != nil {
			t.Fatalf("dead after call %d, the next run: %v", n, err)
		}
		adopted += s.StoredStats().Adopted
		rd := readAll(t, inner, append(blobs, old...)...)
		for id, n := range placesOf(t, rd) {
			if n != 1 {
				t.Errorf("blob %v was stored %d times", id, n)
			}
		}
		if t.Failed() {
			t.Fatalf("dead after call %d", n)
		}
	}
	if adopted == 0 {
		t.Error("no pack was ever adopted")
	}
}

// adminKeys are what the passphrase of baseRepo opens.
var adminKeys = sync.OnceValues(func() (*Keys, error) {
	s, err := baseRepo()
	if err != nil {
		return nil, err
	}
	r, err := Open(context.Background(), s, Access{Passphrase: []byte(passphrase)}, Options{})
	if err != nil {
		return nil, err
	}
	return r.keys, nil
})

// admin opens baseRepo or a clone as an administrator without the cost of a passphrase.
func admin(t testing.TB, s backends.Storage) *Repo {
	t.Helper()
	k, err := adminKeys()
	if err != nil {
		t.Fatal(err)
	}
	c := *baseCredential
	r := openWriter(t, s, &c)
	keys := *k
	r.keys = &keys
	return r
}

// TestMemoryBound stops all Puts of packs and looks at how much a session takes in before it waits: two packs, and of small ones more on a far storage.
func TestMemoryBound(t *testing.T) {
	t.Run("near", func(t *testing.T) { memoryBound(t, Options{}, 2) })
	t.Run("far", func(t *testing.T) { memoryBound(t, Options{Far: true}, maxFlushers+1) })
}

func memoryBound(t *testing.T, o Options, packs int64) {
	base, c := newTestRepo(t)
	st := fault.New(base)
	r, err := Open(t.Context(), st, Access{Credential: c}, o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Begin(t.Context(), SessionOptions{Compression: "none"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	st.SetHook(func(op fault.Op, name string) error {
		if op == fault.Put && strings.HasPrefix(name, "packs/") {
			<-ctx.Done()
			return context.Canceled
		}
		return nil
	})
	var taken atomic.Int64
	done := make(chan error, 3)
	blobs := randomBlobs(90, 100_000)
	for i := range 3 {
		go func() {
			w, err := s.NewWorker()
			for _, b := range blobs[30*i : 30*i+30] {
				if err == nil {
					_, _, err = w.Store(b)
				}
				if err == nil {
					taken.Add(int64(len(b)))
				}
			}
			done <- err
		}()
	}
	for last := int64(-1); taken.Load() != last; { // until nothing moves for a while
		last = taken.Load()
		time.Sleep(100 * time.Millisecond)
	}
	if got, limit := taken.Load(), packs*format.MinPackSize; got > limit || got < limit/2 {
		t.Errorf("%d bytes in memory, the limit is %d", got, limit)
	}
	cancel()
	var errs []error
	for range 3 {
		errs = append(errs, <-done)
	}
	if !slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, context.Canceled) }) {
		t.Errorf("workers end with %v", errs)
	}
	s.Close(t.Context())
}
