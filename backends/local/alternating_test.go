package local

import (
	"context"
	"iter"
	"sync/atomic"

	"packhold/backends"
)

// alternating hands every call to the other of two stores than the call before.
type alternating struct {
	stores [2]*Store
	calls  atomic.Uint32
}

func (a *alternating) next() *Store { return a.stores[a.calls.Add(1)%2] }

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
