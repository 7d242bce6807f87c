// Package fetch reads ranges of packs for restores, of far storages larger ones.
package fetch

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"

	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/snapshot"
)

// Tree pages lie side by side in tree packs, about in the order in which a walk asks for them, and most are far smaller than what a request costs.
const (
	nearSpan = 256 << 10
	farSpan  = 1 << 20
	maxSpans = 32 // kept: 8 MiB, 32 from far storages, more only where pages are larger
)

// Pages reads tree pages and other metadata blobs through a few kept spans of the tree packs. Calls must not overlap.
type Pages struct {
	Fetched uint64                      // bytes so far
	Again   func(context.Context) error // reads the index again, once; nil: not possible, or was done

	r     *repo.Repo
	d     *repo.Reader
	size  int64  // bytes fetched at least, a power of two
	spans []span // the last used first
}

var _ snapshot.Getter = (*Pages)(nil)

// NewPages returns one that reads with d, which nobody else may use meanwhile.
func NewPages(r *repo.Repo, d *repo.Reader, far bool) *Pages {
	p := &Pages{r: r, d: d, size: nearSpan, Again: r.LoadIndex}
	if far {
		p.size = farSpan
	}
	return p
}

// Damage reports whether err says that the repository does not hold, or no longer yields, what is asked for. Everything else stops a restore.
func Damage(err error) bool {
	return errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrTampered) || errors.Is(err, snapshot.ErrMalformed) ||
		errors.Is(err, io.ErrUnexpectedEOF)
}

// Gone reports damage that prune explains: the pack was there when the index was read.
func Gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

type span struct {
	pack *index.PackInfo
	off  int64
	data []byte
}

// Get implements snapshot.Getter. The bytes are valid until the next call.
func (p *Pages) Get(ctx context.Context, id crypt.ID) ([]byte, error) {
	b, err := p.get(ctx, id)
	if err != nil && p.Again != nil && Damage(err) && (Gone(err) || !p.r.Index().Has(id)) {
		again := p.Again
		p.Again = nil
		if err := again(ctx); err != nil {
			return nil, err
		}
		p.spans = nil
		b, err = p.get(ctx, id)
	}
	return b, err
}

func (p *Pages) get(ctx context.Context, id crypt.ID) ([]byte, error) {
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
func (p *Pages) find(ctx context.Context, at index.Place) []byte {
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
	p.Fetched += uint64(len(data))
	if len(p.spans) == maxSpans {
		p.spans = p.spans[:maxSpans-1]
	}
	p.spans = slices.Insert(p.spans, 0, span{at.Pack, start, data})
	return data[from-start:][:n]
}
