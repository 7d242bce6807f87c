package pack

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"packhold/crypt"
)

// TestFiller has four workers fill packs that are freed only when as many as may be in memory are on their way: each blob is in one pack, and there
// are never more packs.
func TestFiller(t *testing.T) {
	const packs, workers, each = 3, 4, 60
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	var inMemory, most atomic.Int64
	begin := func(buf []byte) (*Builder, error) {
		most.Store(max(most.Load(), inMemory.Add(1)))
		return NewBuilder(buf, k.options(100_000, 0))
	}
	type onItsWay struct {
		b    *Builder
		free func()
	}
	way := make(chan onItsWay, packs)
	f := NewFiller(t.Context(), packs, BufferSize(100_000, 0), begin, func(b *Builder, free func()) { way <- onItsWay{b, free} })
	seen := map[crypt.ID]bool{}
	stored := make(chan struct{})
	go func() {
		defer close(stored)
		var batch []onItsWay
		for p := range way {
			file, err := p.b.Finish(new(Coder), k.sealer())
			if err != nil {
				t.Error(err)
				return
			}
			for _, e := range file.Entries {
				if seen[e.ID] {
					t.Errorf("blob %v is in two packs", e.ID)
				}
				seen[e.ID] = true
			}
			if batch = append(batch, p); len(batch) == packs {
				for _, p := range batch {
					inMemory.Add(-1)
					p.free()
				}
				batch = nil
			}
		}
	}()
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			c := mustCodec(t, None)
			for i := range each {
				plain := random(uint64(w*each+i), 10_000)
				data, how := c.Compress(plain)
				if err := f.Add(c, &Blob{ID: crypt.Sum(plain), Plain: plain, Data: data, Compression: how}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	f.Finish()
	f.Finish() // does nothing
	close(way)
	<-stored
	if len(seen) != workers*each || most.Load() != packs {
		t.Errorf("%d blobs of %d, %d packs in memory", len(seen), workers*each, most.Load())
	}
}

// TestFillerEnds ends the context of a Filler whose packs are all on their way: who waits for one is told why.
func TestFillerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeys(t, crypt.TypeTreePack, ShardBLAKE3)
		why := errors.New("the reason")
		ctx, cancel := context.WithCancelCause(t.Context())
		begin := func(buf []byte) (*Builder, error) { return NewBuilder(buf, k.options(20_000, 0)) }
		f := NewFiller(ctx, 1, BufferSize(20_000, 0), begin, func(*Builder, func()) {})
		c := mustCodec(t, None)
		blob := func(seed uint64) *Blob {
			plain := random(seed, 15_000)
			return &Blob{ID: crypt.Sum(plain), Plain: plain, Data: plain}
		}
		if err := f.Add(c, blob(1)); err != nil {
			t.Fatal(err)
		}
		end := make(chan error)
		go func() { end <- f.Add(c, blob(2)) }()
		synctest.Wait()
		cancel(why)
		if err := <-end; !errors.Is(err, why) {
			t.Errorf("waiting: %v", err)
		}
		if err := f.Add(c, blob(3)); !errors.Is(err, why) {
			t.Errorf("afterwards: %v", err)
		}
	})
}
