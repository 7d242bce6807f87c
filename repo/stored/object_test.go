package stored

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
)

// large says of every file that it has 40 MiB, and counts the bytes that were asked for and not yet let go.
type large struct {
	backends.Storage
	mu        sync.Mutex
	now, most int64
}

const largeSize = 40 << 20

func (l *large) Stat(_ context.Context, name string) (backends.Info, error) {
	return backends.Info{Name: name, Size: largeSize}, nil
}

func (l *large) Get(_ context.Context, _ string, _, n int64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now += n
	l.most = max(l.most, l.now)
	return nil, nil
}

// TestEachBounded: what a storage claims objects to be must not cost more memory than one of the largest.
func TestEachBounded(t *testing.T) {
	var infos []backends.Info
	for i := range 24 {
		infos = append(infos, backends.Info{Name: fmt.Sprintf("forgotten/%064x", i)})
	}
	l := new(large)
	calls := 0
	err := Each(t.Context(), l, infos, func(i backends.Info, _ []byte, err error) error {
		if err != nil {
			return err
		}
		calls++
		l.mu.Lock()
		defer l.mu.Unlock()
		l.now -= largeSize
		return nil
	})
	if err != nil || calls != len(infos) {
		t.Fatalf("%d calls, %v", calls, err)
	}
	if l.most > crypt.MaxObject {
		t.Errorf("%d bytes at once", l.most)
	}
}

// TestFetchListed: a listing that is right saves a request, one that is wrong about the size costs one. An object that was mended since it was
// listed may be longer than it was: it comes whole.
func TestFetchListed(t *testing.T) {
	name := "forgotten/" + crypt.Sum([]byte("an object")).String()
	st := fault.New(mem.New(time.Now))
	if err := st.Put(t.Context(), name, []byte("an object"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		size        int64
		stats, gets int
		want        string
	}{{9, 0, 1, "an object"}, {20, 1, 2, "an object"}, {0, 1, 1, "an object"}, {4, 1, 2, "an object"}, {1 << 40, 1, 1, "an object"}} {
		stats, gets := st.Calls(fault.Stat), st.Calls(fault.Get)
		b := NewBudget()
		object, done, err := b.FetchListed(t.Context(), st, backends.Info{Name: name, Size: c.size})
		done()
		if err != nil || string(object) != c.want || st.Calls(fault.Stat)-stats != c.stats || st.Calls(fault.Get)-gets != c.gets {
			t.Errorf("listed with %d bytes: %q, %v, %d and %d calls", c.size, object, err, st.Calls(fault.Stat)-stats, st.Calls(fault.Get)-gets)
		}
		if !b.bytes.TryAcquire(b.most) {
			t.Errorf("listed with %d bytes: not all of the budget came back", c.size)
		}
	}
	if err := st.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	_, done, err := NewBudget().FetchListed(t.Context(), st, backends.Info{Name: name, Size: 9})
	if done(); !Missing(err) {
		t.Error(err)
	}
}

// TestCompare: every way in which a storage keeps other bytes than it was given is damage, in one window or in many, and a line that is cut is not.
func TestCompare(t *testing.T) {
	const name = "packs/5c/5c9e8a3cc2384d7c412aa49e1776246954131793bd7a43e1a172b0f25756dbc1"
	data := bytes.Repeat([]byte("0123456789abcdef"), 64)
	flipped := bytes.Clone(data)
	flipped[len(data)-1] ^= 1
	for _, window := range []int{len(data), len(data) - 1, 100, 16, 1} {
		for what, there := range map[string][]byte{
			"one byte less": data[:len(data)-1], "half": data[:len(data)/2], "a few bytes": data[:3], "nothing": {}, "one byte more": append(bytes.Clone(data), 0), "a bit": flipped,
		} {
			s := mem.New(time.Now)
			if err := Put(t.Context(), s, name, there, backends.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := Compare(t.Context(), s, name, data, window); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s, windows of %d: %v", what, window, err)
			}
		}
		s := fault.New(mem.New(time.Now), fault.Rule{Op: fault.Get, Sticky: true, Err: io.ErrUnexpectedEOF})
		if err := Put(t.Context(), s, name, data, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := Compare(t.Context(), s, name, data, window); errors.Is(err, ErrDamaged) || !errors.Is(err, ErrStorage) {
			t.Errorf("a cut line, windows of %d: %v", window, err)
		}
		s.Clear()
		if err := Compare(t.Context(), s, name, data, window); err != nil {
			t.Errorf("windows of %d: %v", window, err)
		}
	}
}

// TestCreateGone: a name that somebody else had for a moment was taken, as that of a session is which a cloned machine has ended.
func TestCreateGone(t *testing.T) {
	s := fault.New(mem.New(time.Now), fault.Rule{Op: fault.Put, Err: fs.ErrExist})
	if err := Create(t.Context(), s, "leases/06e57170e0b5bb6b9b90b148020dd8bf", []byte("x")); !Exists(err) || Missing(err) {
		t.Errorf("%v", err)
	}
}
