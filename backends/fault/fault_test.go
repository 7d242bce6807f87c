package fault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/backends/fault"
	"packhold/backends/local"
	"packhold/backends/mem"
)

func TestOverMem(t *testing.T) {
	backendtest.Run(t, func(*testing.T) backends.Storage { return fault.New(mem.New(time.Now)) })
}

func TestOverLocal(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backends.Storage {
		later := func() time.Time { return time.Now().AddDate(1, 0, 0) }
		dir := t.TempDir()
		s, err := local.Open(dir, local.Options{NoSync: true})
		future, err2 := local.Open(dir, local.Options{NoSync: true, Now: later})
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			backendtest.Clear(t, future)
			s.Close()
			future.Close()
		})
		return fault.New(s)
	})
}

var content = []byte("0123456789")

// filled returns a storage with the files d/0 to d/3, each holding content.
func filled(t *testing.T) *mem.Store {
	t.Helper()
	s := mem.New(time.Now)
	for i := range 4 {
		if err := s.Put(context.Background(), fmt.Sprintf("d/%d", i), content, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func list(s backends.Storage) (names []string, err error) {
	for info, err := range s.List(context.Background(), "") {
		if err != nil {
			return names, err
		}
		names = append(names, info.Name)
	}
	return names, nil
}

// TestEffects runs every method under every effect and looks at the answer and at what is stored after.
func TestEffects(t *testing.T) {
	ctx := context.Background()
	mine := errors.New("mine")
	all := []string{"d/0", "d/1", "d/2", "d/3"}
	flipped := append([]byte{'0' ^ 4}, content[1:]...)
	for _, c := range []struct {
		effect  fault.Effect
		fails   []fault.Op // with the injected error
		put     []byte     // what a Put leaves, nil if nothing
		get     []byte
		list    []string
		deletes bool
	}{
		{fault.Before, []fault.Op{fault.Put, fault.Get, fault.Stat, fault.List, fault.Delete}, nil, nil, nil, false},
		{fault.After, []fault.Op{fault.Put, fault.Get, fault.Stat, fault.List, fault.Delete}, content, nil, all, true},
		{fault.Partial, []fault.Op{fault.Put, fault.Get, fault.Stat, fault.List, fault.Delete}, content[:5], nil, all[:2], false},
		{fault.Short, nil, content[:5], content[:5], all[:2], true},
		{fault.Garble, nil, flipped, flipped, all, true},
		{fault.Duplicate, nil, content, content, []string{"d/0", "d/0", "d/1", "d/1", "d/2", "d/2", "d/3", "d/3"}, true},
	} {
		t.Run(fmt.Sprint(c.effect), func(t *testing.T) {
			for _, op := range []fault.Op{fault.Put, fault.Get, fault.Stat, fault.List, fault.Delete} {
				inner := filled(t)
				s := fault.New(inner, fault.Rule{Op: op, Effect: c.effect, Err: mine, Bit: 82})
				var err error
				switch op {
				case fault.Put:
					err = s.Put(ctx, "new", content, backends.PutOptions{IfAbsent: true})
					left, getErr := inner.Get(ctx, "new", 0, -1)
					if c.put == nil && !errors.Is(getErr, fs.ErrNotExist) || !bytes.Equal(left, c.put) {
						t.Errorf("put left %q, %v", left, getErr)
					}
				case fault.Get:
					var data []byte
					data, err = s.Get(ctx, "d/0", 0, -1)
					if !bytes.Equal(data, c.get) {
						t.Errorf("get returned %q", data)
					}
					if stored, _ := inner.Get(ctx, "d/0", 0, -1); !bytes.Equal(stored, content) {
						t.Errorf("get changed the file to %q", stored)
					}
				case fault.Stat:
					_, err = s.Stat(ctx, "d/0")
				case fault.List:
					var names []string
					names, err = list(s)
					if !slices.Equal(names, c.list) {
						t.Errorf("listed %q", names)
					}
				case fault.Delete:
					err = s.Delete(ctx, "d/0")
					if _, statErr := inner.Stat(ctx, "d/0"); errors.Is(statErr, fs.ErrNotExist) != c.deletes {
						t.Errorf("after delete: %v", statErr)
					}
				}
				if fails := slices.Contains(c.fails, op); fails && err != mine || !fails && err != nil {
					t.Errorf("%v: %v", op, err)
				}
				// The fault is transient.
				if _, err := s.Stat(ctx, "d/1"); err != nil && op != fault.Stat {
					t.Error(err)
				}
				if names, err := list(s); err != nil || op == fault.List && len(names) != 4 {
					t.Errorf("%q, %v", names, err)
				}
				s.Clear()
			}
		})
	}
}

func TestCounting(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		rule fault.Rule
		want []int // which of the calls below fail, from 0
	}{
		{fault.Rule{}, []int{0}},
		{fault.Rule{N: 1}, []int{0}},
		{fault.Rule{N: 3}, []int{2}},
		{fault.Rule{N: 3, Sticky: true}, []int{2, 3, 4, 5}},
		{fault.Rule{Op: fault.Stat, N: 2}, []int{3}},
		{fault.Rule{Op: fault.Stat, Sticky: true}, []int{1, 3, 5}},
		{fault.Rule{Prefix: "d/1"}, []int{3}},
		{fault.Rule{Op: fault.Get, Prefix: "d/1"}, []int{4}},
		{fault.Rule{N: 7}, nil},
		{fault.Rule{Op: fault.Delete}, nil},
	} {
		s := fault.New(filled(t), c.rule)
		var failed []int
		for i := range 6 {
			name := fmt.Sprintf("d/%d", i/3)
			var err error
			if i%2 == 0 {
				_, err = s.Get(ctx, name, 0, 1)
			} else {
				_, err = s.Stat(ctx, name)
			}
			if errors.Is(err, fault.ErrInjected) {
				failed = append(failed, i)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(failed, c.want) {
			t.Errorf("%+v hit calls %v, want %v", c.rule, failed, c.want)
		}
		if s.Calls(fault.Any) != 6 || s.Calls(fault.Get) != 3 || s.Calls(fault.Stat) != 3 || s.Calls(fault.Put) != 0 {
			t.Errorf("counted %d calls, %d gets, %d stats", s.Calls(fault.Any), s.Calls(fault.Get), s.Calls(fault.Stat))
		}
	}
}

func TestFirstRuleCounts(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	s := fault.New(filled(t), fault.Rule{Err: first})
	s.Add(fault.Rule{Err: second, Sticky: true})
	for i, want := range []error{first, second, second} {
		if _, err := s.Stat(context.Background(), "d/0"); err != want {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

func TestHook(t *testing.T) {
	ctx := context.Background()
	s := fault.New(filled(t))
	var seen []string
	s.SetHook(func(op fault.Op, name string) error {
		seen = append(seen, op.String()+" "+name)
		if op == fault.Delete {
			return syscall.EIO
		}
		return nil
	})
	if err := s.Delete(ctx, "d/0"); err != syscall.EIO {
		t.Error(err)
	}
	if err := s.Put(ctx, "x", nil, backends.PutOptions{}); err != nil {
		t.Error(err)
	}
	if names, err := list(s); err != nil || len(names) != 5 {
		t.Errorf("%q, %v", names, err)
	}
	if want := []string{"delete d/0", "put x", "list "}; !slices.Equal(seen, want) {
		t.Errorf("the hook saw %q", seen)
	}
	s.SetHook(nil)
	if err := s.Delete(ctx, "d/0"); err != nil {
		t.Error(err)
	}
}

// TestConcurrent: of many concurrent calls a rule hits exactly one.
func TestConcurrent(t *testing.T) {
	s := fault.New(filled(t), fault.Rule{N: 10})
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed int
	)
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if _, err := s.Get(context.Background(), "d/0", 0, -1); err != nil {
					mu.Lock()
					failed++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if failed != 1 || s.Calls(fault.Get) != 400 {
		t.Errorf("%d of %d calls failed", failed, s.Calls(fault.Get))
	}
}
