// Package stored reads and writes the named objects of a repository, and says of each failure which object it is about.
package stored

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo/format"
)

// maxList caps how many names a listing may have: a hostile storage must not cost more than 512 MiB of memory, at 128 bytes a name.
// It is 128 TiB of 32 MiB packs.
const maxList = 4 << 20

// List returns the known names under prefix, sorted, and how many foreign ones were left out.
func List(ctx context.Context, s backends.Storage, prefix string) (infos []backends.Info, foreign int, err error) {
	for info, err := range s.List(ctx, prefix) {
		if err != nil {
			return nil, 0, Failed("listing", prefix, err)
		}
		if !format.KnownName(info.Name) || !strings.HasPrefix(info.Name, prefix) {
			if foreign++; foreign > backends.MaxListed {
				return nil, 0, Tampered("listing", prefix, fmt.Errorf("more than %d foreign names", backends.MaxListed))
			}
			continue
		}
		if len(infos) >= maxList {
			return nil, 0, Tampered("listing", prefix, fmt.Errorf("more than %d names", maxList))
		}
		infos = append(infos, info)
	}
	sort.Slice(infos, func(i, j int) bool { return infos[i].Name < infos[j].Name })
	// A retried listing may repeat a name.
	out := infos[:0]
	for i, f := range infos {
		if i == 0 || f.Name != infos[i-1].Name {
			out = append(out, f)
		}
	}
	return out, foreign, nil
}

// Stat describes an object. A missing one is fs.ErrNotExist.
func Stat(ctx context.Context, s backends.Storage, name string) (backends.Info, error) {
	info, err := s.Stat(ctx, name)
	return info, Failed("reading", name, err)
}

// Fetch reads a whole object that is not a pack. One that is longer than its kind ever is matches ErrDamaged, and is not read.
func Fetch(ctx context.Context, s backends.Storage, name string) ([]byte, error) {
	object, done, err := NewBudget().Fetch(ctx, s, name)
	done()
	return object, err
}

// budget is how many bytes of small objects are in memory at once: the largest one, which takes as much again to open and to decode.
// A hostile storage must not cost more than 512 MiB.
const budget = crypt.MaxObject

// Budget bounds the memory of objects that are fetched at once. Its methods may be called concurrently.
type Budget struct {
	bytes *semaphore.Weighted
	most  int64
}

// NewBudget returns one that nobody uses yet.
func NewBudget() Budget { return NewBudgetOf(budget) }

// NewBudgetOf returns one of another number of bytes. An object that is larger is fetched alone.
func NewBudgetOf(bytes int64) Budget { return Budget{semaphore.NewWeighted(bytes), bytes} }

// Fetch is stored.Fetch that waits until there is room. The object counts until done is called, which always is to be.
func (b Budget) Fetch(ctx context.Context, s backends.Storage, name string) (object []byte, done func(), err error) {
	info, err := Stat(ctx, s, name)
	if err != nil {
		return nil, func() {}, err
	}
	if limit := format.MaxSize(name); info.Size > limit {
		return nil, func() {}, Damaged("reading", name, fmt.Errorf("%d bytes, the limit is %d", info.Size, limit))
	}
	n := min(info.Size, b.most)
	if err := b.bytes.Acquire(ctx, n); err != nil {
		return nil, func() {}, err
	}
	object, err = s.Get(ctx, name, 0, info.Size)
	return object, func() { b.bytes.Release(n) }, Failed("reading", name, err)
}

// FetchListed is Fetch of an object that a listing described just now, which saves asking for its size. Where the listing was wrong it asks. What is
// named by its hash may be replaced while its bytes do not match (a mend), by something longer too; everything else stays as it was listed.
func (b Budget) FetchListed(ctx context.Context, s backends.Storage, i backends.Info) (object []byte, done func(), err error) {
	if i.Size <= 0 || i.Size > min(format.MaxSize(i.Name), b.most) {
		return b.Fetch(ctx, s, i.Name)
	}
	if err := b.bytes.Acquire(ctx, i.Size); err != nil {
		return nil, func() {}, err
	}
	object, err = s.Get(ctx, i.Name, 0, i.Size)
	if errors.Is(err, io.ErrUnexpectedEOF) || err == nil && !matches(i.Name, object) {
		b.bytes.Release(i.Size)
		return b.Fetch(ctx, s, i.Name)
	}
	return object, func() { b.bytes.Release(i.Size) }, Failed("reading", i.Name, err)
}

// matches reports whether bytes may belong to a name: where a hash is its last part, it must be theirs.
func matches(name string, object []byte) bool {
	const digits = 2 * len(crypt.ID{})
	if len(name) < digits {
		return true
	}
	id, err := crypt.ParseID(name[len(name)-digits:])
	return err != nil || crypt.Sum(object) == id
}

// fetchers is how many small objects are fetched at once: enough to hide the round trips of a network.
const fetchers = 8

// Each reads the objects of s, several at once within a Budget, and calls f for each, one call at a time, in any order. An error of f ends it.
func Each(ctx context.Context, s backends.Storage, infos []backends.Info, f func(i backends.Info, object []byte, err error) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	room := NewBudget()
	var mu sync.Mutex // one call of f at a time
	for _, i := range infos {
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			b, done, err := room.FetchListed(gctx, s, i)
			defer done()
			mu.Lock()
			defer mu.Unlock()
			return f(i, b, err)
		})
	}
	return g.Wait()
}

// Put stores an object under a name that nobody else has. Content-named objects may be there already.
func Put(ctx context.Context, s backends.Storage, name string, object []byte, opts backends.PutOptions) error {
	return Failed("storing", name, s.Put(ctx, name, object, opts))
}

// Create stores an object exclusively, or reports fs.ErrExist. Finding the very bytes there is success: the answer to an earlier try of this
// call was lost. No other call can have made them, since every object has a random salt.
func Create(ctx context.Context, s backends.Storage, name string, object []byte) error {
	return CreateWith(ctx, s, name, object, backends.PutOptions{})
}

// CreateWith is Create with further options.
func CreateWith(ctx context.Context, s backends.Storage, name string, object []byte, opts backends.PutOptions) error {
	opts.IfAbsent = true
	err := Put(ctx, s, name, object, opts)
	if !Exists(err) {
		return err
	}
	there, gerr := Fetch(ctx, s, name)
	switch {
	case gerr == nil && bytes.Equal(there, object):
		return nil
	case gerr != nil && !Isolated(gerr) && !Missing(gerr): // one that is gone already was somebody's
		return gerr
	}
	return err
}

// Remove deletes an object; that it is gone already is no error.
func Remove(ctx context.Context, s backends.Storage, name string) error {
	if err := s.Delete(ctx, name); err != nil && !Missing(err) {
		return Failed("removing", name, err)
	}
	return nil
}

// NearWindow is how much is read back at once from a storage that is near: it stays in a core's cache. From a far one everything is, in one round trip.
const NearWindow = 1 << 20

// Compare is the post-backup validation: what was stored is read back and must equal what was meant, byte by byte. The digests of data were
// computed from these very bytes, so equal bytes have equal digests, and comparing costs a quarter of hashing. It reads window bytes at once.
func Compare(ctx context.Context, s backends.Storage, name string, data []byte, window int) error {
	if len(data) <= window { // one answer says whether there is more
		b, err := s.Get(ctx, name, 0, -1)
		if err != nil {
			return Failed("reading back", name, err)
		}
		defer backends.Release(b)
		if !bytes.Equal(b, data) {
			return Damaged("reading back", name, fmt.Errorf("the storage returns other bytes than were stored: %d, of %d", len(b), len(data)))
		}
		return nil
	}
	for off := 0; off < len(data); off += window {
		n := min(window, len(data)-off)
		b, err := s.Get(ctx, name, int64(off), int64(n))
		if errors.Is(err, io.ErrUnexpectedEOF) {
			if info, serr := s.Stat(ctx, name); serr == nil && info.Size != int64(len(data)) { // a line that was cut gives this error too
				return Damaged("reading back", name, fmt.Errorf("%d bytes, %d were stored", info.Size, len(data)))
			}
		}
		if err != nil {
			return Failed("reading back", name, err)
		}
		same := bytes.Equal(b, data[off:off+n])
		backends.Release(b)
		if !same {
			return &Error{Op: "reading back", Object: name, Off: int64(off), N: int64(n),
				Err: fmt.Errorf("%w: the storage returns other bytes than were stored", ErrDamaged)}
		}
	}
	info, err := s.Stat(ctx, name)
	if err != nil {
		return Failed("reading back", name, err)
	}
	if info.Size != int64(len(data)) {
		return Damaged("reading back", name, fmt.Errorf("%d bytes, %d were stored", info.Size, len(data)))
	}
	return nil
}

// Gate is a lock that is held over calls of the storage. It waits at a channel, not at a mutex, so that a simulation, which decides when those calls go
// on, can tell that everybody waits. Its zero value is no lock.
type Gate struct{ held chan struct{} }

// NewGate returns a Gate that nobody holds.
func NewGate() Gate { return Gate{make(chan struct{}, 1)} }

// Lock waits until nobody else holds g.
func (g Gate) Lock() { g.held <- struct{}{} }

// Unlock lets the next one in.
func (g Gate) Unlock() { <-g.held }
