// Package fault makes the calls of a storage fail on purpose, for tests.
package fault

import (
	"context"
	"errors"
	"iter"
	"strings"
	"sync"

	"packhold/backends"
)

// ErrInjected is the error of a Rule that names none.
var ErrInjected = errors.New("injected fault")

// Op is a method of backends.Storage.
type Op uint8

// Any stands for all of them.
const (
	Any Op = iota
	Put
	Get
	Stat
	List
	Delete
	opCount
)

func (op Op) String() string {
	names := [opCount]string{"any", "put", "get", "stat", "list", "delete"}
	if op >= opCount {
		return "invalid"
	}
	return names[op]
}

// Effect is what becomes of a call that a Rule hits.
type Effect uint8

const (
	// Before returns the error without calling the storage.
	Before Effect = iota

	// After calls the storage, and returns the error in place of its answer: the answer got lost. A listing yields all
	// its files first.
	After

	// Partial does half, then returns the error: Put leaves the first half of the bytes under the name, as a storage
	// without atomic writes does, List yields the first half of its files. Other methods do as in Before.
	Partial

	// Short does half and reports success, which breaks the contract: Get returns the first half of the bytes, List yields
	// the first half of its files, Put leaves the first half of the bytes. Other methods are not affected.
	Short

	// Garble inverts the bit Rule.Bit, modulo their number, of the bytes that Get returns or Put stores, and reports
	// success. Other methods are not affected.
	Garble

	// Duplicate yields every file of a listing twice. Other methods are not affected.
	Duplicate
)

// Rule says which calls are hit, and how. Of several rules that match a call the first one counts.
type Rule struct {
	Op     Op     // Any matches all methods
	Prefix string // of the name, or of the prefix listed
	N      int    // which of the matching calls since the rule was added is hit, counted from 1; 0 means 1
	Sticky bool   // all later matching calls are hit, too
	Effect Effect
	Err    error // nil is ErrInjected
	Bit    int   // for Garble
}

// Store is a backends.Storage that hands every call to another, except for what its rules and its hook say. With calls
// made one after another everything it does is determined by them.
type Store struct {
	inner backends.Storage

	mu    sync.Mutex // guards what is below
	rules []*rule
	hook  func(op Op, name string) error
	calls [opCount]int
}

type rule struct {
	Rule
	matched int
}

var _ backends.Storage = (*Store)(nil)

// New returns a Store over inner.
func New(inner backends.Storage, rules ...Rule) *Store {
	s := &Store{inner: inner}
	s.Add(rules...)
	return s
}

// Add adds rules behind those there are.
func (s *Store) Add(rules ...Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rules {
		s.rules = append(s.rules, &rule{Rule: r})
	}
}

// Clear removes all rules and the hook. The counts stay.
func (s *Store) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules, s.hook = nil, nil
}

// SetHook makes every call first call hook, whose error fails it without effect. Concurrent calls call it concurrently.
// Nil removes it.
func (s *Store) SetHook(hook func(op Op, name string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// Calls returns how many calls of op were made, whatever became of them.
func (s *Store) Calls(op Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[op]
}

// Put implements backends.Storage.
func (s *Store) Put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	hit, err := s.call(Put, name)
	if err != nil {
		return err
	}
	failing := false
	if hit != nil {
		switch hit.Effect {
		case Before:
			return hit.err()
		case After:
			failing = true
		case Partial:
			data, failing = data[:len(data)/2], true
		case Short:
			data = data[:len(data)/2]
		case Garble:
			data = garbled(data, hit.Bit)
		}
	}
	if err := s.inner.Put(ctx, name, data, opts); err != nil && !failing {
		return err
	}
	if failing {
		return hit.err()
	}
	return nil
}

// Get implements backends.Storage.
func (s *Store) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	hit, err := s.call(Get, name)
	if err != nil {
		return nil, err
	}
	if hit != nil && (hit.Effect == Before || hit.Effect == Partial) {
		return nil, hit.err()
	}
	data, err := s.inner.Get(ctx, name, off, n)
	switch {
	case hit != nil && hit.Effect == After:
		return nil, hit.err()
	case err != nil:
		return nil, err
	case hit != nil && hit.Effect == Short:
		return data[:len(data)/2], nil
	case hit != nil && hit.Effect == Garble:
		return garbled(data, hit.Bit), nil
	}
	return data, nil
}

// Stat implements backends.Storage.
func (s *Store) Stat(ctx context.Context, name string) (backends.Info, error) {
	hit, err := s.call(Stat, name)
	if err != nil {
		return backends.Info{}, err
	}
	if hit != nil && (hit.Effect == Before || hit.Effect == Partial) {
		return backends.Info{}, hit.err()
	}
	info, err := s.inner.Stat(ctx, name)
	if hit != nil && hit.Effect == After {
		return backends.Info{}, hit.err()
	}
	return info, err
}

// List implements backends.Storage. The call counts when its sequence is used, and each time.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		hit, err := s.call(List, prefix)
		if err == nil && hit != nil && hit.Effect == Before {
			err = hit.err()
		}
		if err != nil {
			yield(backends.Info{}, err)
			return
		}
		if hit == nil {
			s.inner.List(ctx, prefix)(yield)
			return
		}
		var infos []backends.Info
		for info, listErr := range s.inner.List(ctx, prefix) {
			if listErr != nil {
				err = listErr
				break
			}
			infos = append(infos, info)
			if hit.Effect == Duplicate {
				infos = append(infos, info)
			}
		}
		switch hit.Effect {
		case After:
			err = hit.err()
		case Partial:
			infos, err = infos[:len(infos)/2], hit.err()
		case Short:
			infos = infos[:len(infos)/2]
		}
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
		if err != nil {
			yield(backends.Info{}, err)
		}
	}
}

// Delete implements backends.Storage.
func (s *Store) Delete(ctx context.Context, name string) error {
	hit, err := s.call(Delete, name)
	if err != nil {
		return err
	}
	if hit != nil && (hit.Effect == Before || hit.Effect == Partial) {
		return hit.err()
	}
	err = s.inner.Delete(ctx, name)
	if hit != nil && hit.Effect == After {
		return hit.err()
	}
	return err
}

// call counts a call, asks the hook and returns the rule that hits the call, if any.
func (s *Store) call(op Op, name string) (*Rule, error) {
	s.mu.Lock()
	s.calls[op]++
	s.calls[Any]++
	var hit *Rule
	for _, r := range s.rules {
		if r.Op != Any && r.Op != op || !strings.HasPrefix(name, r.Prefix) {
			continue
		}
		r.matched++
		if first := max(r.N, 1); hit == nil && (r.matched == first || r.Sticky && r.matched > first) {
			hit = &r.Rule
		}
	}
	hook := s.hook
	s.mu.Unlock()
	if hook != nil {
		if err := hook(op, name); err != nil {
			return nil, err
		}
	}
	return hit, nil
}

func (r *Rule) err() error {
	if r.Err == nil {
		return ErrInjected
	}
	return r.Err
}

func garbled(data []byte, bit int) []byte {
	if len(data) == 0 {
		return data
	}
	data = append([]byte(nil), data...)
	bit = int(uint(bit) % (8 * uint(len(data))))
	data[bit/8] ^= 1 << (bit % 8)
	return data
}
