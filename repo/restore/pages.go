package restore

import (
	"context"
	"slices"

	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/snapshot"
)

// Tree pages lie side by side in tree packs, about in the order in which a walk asks for them, and most are far smaller than what a request costs.
const (
	spanSize = 256 << 10
	maxSpans = 32 // kept: 8 MiB, 32 from far storages, more only where pages are larger
)

// pageReader reads tree pages and other metadata blobs through a few kept spans of the tree packs. Calls must not overlap.
type pageReader struct {
	r       *repo.Repo
	d       *repo.Reader
	size    int64  // bytes fetched at least, a power of two
	spans   []span // the last used first
	fetched uint64
	again   func(context.Context) error // reads the index again; nil: not possible, or was done
}

var _ snapshot.Getter = (*pageReader)(nil)

type span struct {
	pack *index.PackInfo
	off  int64
	data []byte
}

// Get implements snapshot.Getter. The bytes are valid until the next call.
func (p *pageReader) Get(ctx context.Context, id crypt.ID) ([]byte, error) {
	b, err := p.get(ctx, id)
	if err != nil && p.again != nil && isDamage(err) && (isGone(err) || !p.r.Index().Has(id)) {
		again := p.again
		p.again = nil
		if err := again(ctx); err != nil {
			return nil, err
		}
		p.spans = nil
		b, err = p.get(ctx, id)
	}
	return b, err
}

func (p *pageReader) get(ctx context.Context, id crypt.ID) ([]byte, error) {
	at, err := p.r.Locate(id)
	if err != nil {
		return nil, err
	}
	if sealed := p.find(ctx, at); sealed != nil {
		if plain, err := p.d.Open(id, at, sealed); err == nil {
			return plain, nil
		}
	}
	return p.d.Get(ctx, id) // the best place is not good: other copies, parity, or the error
}

// find returns the sealed bytes of a blob, nil where they cannot be read.
func (p *pageReader) find(ctx context.Context, at index.Place) []byte {
	from, n := int64(at.Offset), int64(at.Length)
	for i, s := range p.spans {
		if s.pack == at.Pack && s.off <= from && from+n <= s.off+int64(len(s.data)) {
			if i > 0 {
				copy(p.spans[1:i+1], p.spans[:i])
				p.spans[0] = s
			}
			return s.data[from-s.off:][:n]
		}
	}
	start := from &^ (p.size - 1)
	end := min(max((from+n+p.size-1)&^(p.size-1), from+n), int64(at.Pack.Size))
	if end < from+n {
		return nil
	}
	data, err := p.r.ReadPack(ctx, at.Pack, start, end-start)
	if err != nil {
		return nil
	}
	p.fetched += uint64(len(data))
	if len(p.spans) == maxSpans {
		p.spans = p.spans[:maxSpans-1]
	}
	p.spans = slices.Insert(p.spans, 0, span{at.Pack, start, data})
	return data[from-start:][:n]
}
