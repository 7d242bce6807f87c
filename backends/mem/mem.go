// Package mem keeps a repository's files in memory, for tests and simulations.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"packhold/backends"
)

// Store is a backends.Storage in memory, with RetainUntil. A listing shows one moment, sorted by name.
type Store struct {
	now func() time.Time

	mu    sync.Mutex // guards files; the bytes of a file are never changed
	files map[string]file
}

type file struct {
	data   []byte
	stored time.Time
	retain time.Time
	guard  backends.Guard
}

var _ backends.Storage = (*Store)(nil)

// New returns an empty Store whose clock is now. Concurrent calls of the Store's methods call it one at a time.
func New(now func() time.Time) *Store {
	return &Store{now: now, files: map[string]file{}}
}

// Clone returns an independent Store with the same files and the same clock.
func (s *Store) Clone() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Store{now: s.now, files: maps.Clone(s.files)}
}

// Put implements backends.Storage. A file that is kept is not replaced by other bytes.
func (s *Store) Put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	err := check(ctx, name)
	if err == nil {
		err = opts.CheckExtend(data)
	}
	if err == nil && len(data) > backends.MaxObject {
		err = fmt.Errorf("the limit is %d bytes: %w", backends.MaxObject, backends.ErrPermanent)
	}
	if err != nil {
		return fmt.Errorf("storing %q (%d bytes): %w", name, len(data), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, exists := s.files[name]
	if exists && opts.IfAbsent {
		return fmt.Errorf("storing %q: %w", name, fs.ErrExist)
	}
	if opts.Extend && !exists {
		return fmt.Errorf("keeping %q: %w", name, fs.ErrNotExist)
	}
	f := old
	if !opts.Extend && !(exists && bytes.Equal(old.data, data)) {
		if s.now().Before(old.retain) {
			return fmt.Errorf("storing %q: %w", name, &backends.KeptError{Until: old.retain})
		}
		f = file{data: bytes.Clone(data)}
	}
	if !opts.Extend {
		f.stored = s.now()
	}
	if !opts.RetainUntil.IsZero() {
		f.guard = max(f.guard, backends.Governance)
		if opts.Compliance {
			f.guard = backends.Compliance
		}
	}
	if opts.RetainUntil.After(f.retain) {
		f.retain = opts.RetainUntil
	}
	s.files[name] = f
	return nil
}

// Get implements backends.Storage.
func (s *Store) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	f, err := s.find(ctx, name)
	if err == nil {
		n, err = backends.Span(int64(len(f.data)), off, n)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	return append(make([]byte, 0, n), f.data[off:off+n]...), nil
}

// Stat implements backends.Storage.
func (s *Store) Stat(ctx context.Context, name string) (backends.Info, error) {
	f, err := s.find(ctx, name)
	if err != nil {
		return backends.Info{}, fmt.Errorf("looking for %q: %w", name, err)
	}
	info := f.info(name)
	info.RetainUntil, info.Guard = f.retain, f.guard
	return info, nil
}

// List implements backends.Storage.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		if err := backends.CheckPrefix(prefix); err != nil {
			yield(backends.Info{}, fmt.Errorf("listing: %w", err))
			return
		}
		for _, info := range s.snapshot(prefix) {
			if ctx.Err() != nil {
				break
			}
			if !yield(info, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(backends.Info{}, fmt.Errorf("listing %q: %w", prefix, err))
		}
	}
}

// Delete implements backends.Storage.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := check(ctx, name); err != nil {
		return fmt.Errorf("deleting %q: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.files[name]
	if !ok {
		return fmt.Errorf("deleting %q: %w", name, fs.ErrNotExist)
	}
	if s.now().Before(f.retain) {
		return fmt.Errorf("deleting %q: %w", name, &backends.KeptError{Until: f.retain})
	}
	delete(s.files, name)
	return nil
}

func (s *Store) find(ctx context.Context, name string) (file, error) {
	if err := check(ctx, name); err != nil {
		return file{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.files[name]
	if !ok {
		return file{}, fs.ErrNotExist
	}
	return f, nil
}

func (s *Store) snapshot(prefix string) []backends.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []backends.Info
	for name, f := range s.files {
		if strings.HasPrefix(name, prefix) {
			list = append(list, f.info(name))
		}
	}
	slices.SortFunc(list, func(a, b backends.Info) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (f file) info(name string) backends.Info {
	return backends.Info{Name: name, Size: int64(len(f.data)), ModTime: f.stored}
}

func check(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return backends.CheckName(name)
}
