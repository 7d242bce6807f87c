package backendtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"packhold/backends"
)

// Put stores a file, or ends the test.
func Put(t testing.TB, s backends.Storage, name, data string) {
	t.Helper()
	if err := s.Put(t.Context(), name, []byte(data), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Names returns the names below prefix in the order they come, and the error that ends the listing.
func Names(t testing.TB, s backends.Storage, prefix string) (names []string, err error) {
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			return names, err
		}
		names = append(names, info.Name)
	}
	return names, nil
}

// Empty fails the test unless the folder dir holds nothing, or is not there.
func Empty(t testing.TB, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) != 0 {
		t.Errorf("in %s are left: %v, %v", path.Base(dir), left, err)
	}
}

// Alternate returns a storage that hands every call to the other of two than the call before: they keep the contract together, as two processes do.
func Alternate(a, b backends.Storage) backends.Storage {
	return &alternating{stores: [2]backends.Storage{a, b}}
}

type alternating struct {
	stores [2]backends.Storage
	calls  atomic.Uint32
}

func (a *alternating) next() backends.Storage { return a.stores[a.calls.Add(1)%2] }

func (a *alternating) Put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	return a.next().Put(ctx, name, data, opts)
}

func (a *alternating) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	return a.next().Get(ctx, name, off, n)
}

func (a *alternating) Stat(ctx context.Context, name string) (backends.Info, error) {
	return a.next().Stat(ctx, name)
}

func (a *alternating) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	return a.next().List(ctx, prefix)
}

func (a *alternating) Delete(ctx context.Context, name string) error {
	return a.next().Delete(ctx, name)
}

// Lasts is the law of durability: it returns nil if a power loss after the steps of log leaves name with its bytes, where the directories fresh may be lost
// as long as their parents are not synchronized. Steps are "write FILE", "syncfile FILE", "link FILE NAME", "rename FILE NAME", "mkdir DIR" and "syncdir DIR";
// others do not count.
func Lasts(log []string, name string, fresh []string) error {
	given := slices.IndexFunc(log, func(line string) bool {
		f := strings.Fields(line)
		return (f[0] == "link" || f[0] == "rename") && f[2] == name
	})
	if given < 0 {
		return errors.New("the name was never given")
	}
	temp := strings.Fields(log[given])[1]
	written, synced := -1, -1
	for i, line := range log {
		switch {
		case line == "write "+temp:
			written = i
		case line == "syncfile "+temp && i < given:
			synced = i
		}
	}
	syncedAfter := func(dir string, i int) bool { return slices.Contains(log[i+1:], "syncdir "+dir) }
	switch {
	case written > given:
		return errors.New("it was written to after it was given its name")
	case written < 0 || synced < written:
		return errors.New("the name was given to bytes that may be lost")
	case !syncedAfter(path.Dir(name), given):
		return errors.New("the name may be lost")
	}
	for _, d := range fresh {
		if !syncedAfter(path.Dir(d), slices.Index(log, "mkdir "+d)) {
			return fmt.Errorf("the directory %s may be lost", d)
		}
	}
	return nil
}
