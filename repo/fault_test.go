package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
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

// eachFault runs f with every manner of failing at every n-th storage call, until a run has fewer calls.
func eachFault(t *testing.T, f func(t *testing.T, rule fault.Rule, want error) (calls int)) {
	t.Helper()
	runs := 0
	for i, m := range manners {
		for n := 1; ; n++ {
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

// readAll reads every blob and requires it to be exact.
func readAll(t *testing.T, s backends.Storage, blobs ...[]byte) *Repo {
	t.Helper()
	r := openReader(t, s)
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
	base, c := newTestRepo(t)
	old := randomBlobs(3, 3000)
	store(t, openWriter(t, base, c), old...)
	blobs := append(randomBlobs(5, 400_000), old[0]) // three packs
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
	if lost == 0 {
		t.Error("no commit's answer was lost")
	}
}

// TestSessionCrash kills a session after every storage call.
func TestSessionCrash(t *testing.T) {
	base, c := newTestRepo(t)
	old := randomBlobs(3, 3000)
	store(t, openWriter(t, base, c), old...)
	blobs := append(randomBlobs(5, 400_000), old[0])
	adopted := uint64(0)
	for n := int64(0); ; n++ {
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

func TestInitFaults(t *testing.T) {
	o, err := initOptions()
	if err != nil {
		t.Fatal(err)
	}
	eachFault(t, func(t *testing.T, rule fault.Rule, want error) int {
		inner := mem.New(time.Now)
		st := fault.New(inner, rule)
		c, err := Init(t.Context(), st, o)
		calls := allCalls(st)
		if err != nil && !errors.Is(err, want) {
			t.Errorf("the error is %v", err)
		}
		if err == nil {
			openWriter(t, inner, c)
		}
		again, err2 := Init(t.Context(), inner, o)
		switch {
		case err2 == nil && err == nil:
			t.Error("a repository was made over another")
		case err2 == nil:
			store(t, openWriter(t, inner, again), []byte("blob"))
			if p := openReader(t, inner).Problems(); len(p) > 0 {
				t.Errorf("remains: %v", p)
			}
		case errors.Is(err2, ErrExists): // the first run's answer was lost, or its last Put left a broken config beside good ones
			if err != nil && rule.Effect == fault.Before && !rule.Sticky && calls != rule.N {
				t.Errorf("a repository in spite of %v", err)
			}
			openReader(t, inner)
		default:
			t.Errorf("the second init: %v", err2)
		}
		return calls
	})
}

func TestKeyFaults(t *testing.T) {
	base, _ := newTestRepo(t)
	const second = "another long passphrase"
	opens := func(s backends.Storage, word string) (*Repo, error) {
		r, err := Open(t.Context(), s, Access{Passphrase: []byte(word)}, Options{})
		if err != nil && !errors.Is(err, crypt.ErrPassphrase) {
			t.Errorf("opening by %q: %v", word, err)
		}
		if r != nil {
			r.iterations = crypt.MinIterations
		}
		return r, err
	}
	for name, f := range map[string]func(r *Repo) error{
		"add":    func(r *Repo) error { _, err := r.AddKey(t.Context(), []byte(second), "second"); return err },
		"change": func(r *Repo) error { _, err := r.ChangePassphrase(t.Context(), []byte(second)); return err },
		"enroll": func(r *Repo) error { _, err := r.EnrollHost(t.Context(), "host-b"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			eachFault(t, func(t *testing.T, rule fault.Rule, want error) int {
				inner := base.Clone()
				st := fault.New(inner)
				r, err := opens(st, passphrase)
				if err != nil {
					t.Fatal(err)
				}
				before := allCalls(st)
				st.Add(rule)
				err = f(r)
				calls := allCalls(st) - before
				st.Clear()
				if err != nil && !errors.Is(err, want) {
					t.Errorf("the error is %v", err)
				}
				_, errOld := opens(inner, passphrase)
				rNew, errNew := opens(inner, second)
				switch {
				case errOld != nil && errNew != nil:
					t.Error("no passphrase works any more")
				case err == nil && name != "enroll" && errNew != nil:
					t.Error("success, and the new passphrase does not work")
				case err == nil && name == "change" && errOld == nil:
					t.Error("success, and the old passphrase still works")
				case name != "change" && errOld != nil:
					t.Error("the old passphrase stopped working")
				}
				if err == nil || t.Failed() {
					return calls
				}
				if errOld != nil {
					r = rNew
				}
				if err := f(r); err != nil {
					t.Errorf("again: %v", err)
				}
				if _, err := opens(inner, second); name != "enroll" && err != nil {
					t.Errorf("again: the new passphrase: %v", err)
				}
				return calls
			})
		})
	}
}

// TestMemoryBound stops all Puts of packs and looks at how much a session takes in before it waits.
func TestMemoryBound(t *testing.T) {
	base, c := newTestRepo(t)
	st := fault.New(base)
	s, err := openWriter(t, st, c).Begin(t.Context(), SessionOptions{Compression: "none"})
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
	if got, limit := taken.Load(), int64((flushers+1)*MinPackSize); got > limit || got < limit/2 {
		t.Errorf("%d bytes in memory, the limit is %d", got, limit)
	}
	if cap(s.data.buffers) != flushers+1 || cap(s.tree.buffers) != 2 {
		t.Errorf("%d and %d buffers", cap(s.data.buffers), cap(s.tree.buffers))
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
