package pack

import (
	"errors"
	"fmt"
	"sync"

	"packhold/crypt"

	"github.com/klauspost/reedsolomon"
)

// Coder computes parity and mends packs with it. The zero value is ready; it keeps the code's matrices, some 30 KiB for
// each number of shards met. It may be used concurrently; each call works on the calling goroutine only.
type Coder struct {
	mu    sync.Mutex
	codes map[[2]int]reedsolomon.Encoder
}

// code returns the Reed-Solomon code over GF(2^8) with the library's default (Vandermonde) matrix, part of format 1.
func (c *Coder) code(k, m int) (reedsolomon.Encoder, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.codes[[2]int{k, m}]; ok {
		return e, nil
	}
	// One goroutine: the other processors are busy with the next pack. No cache of inverted matrices: it never shrinks.
	e, err := reedsolomon.New(k, m, reedsolomon.WithMaxGoroutines(1), reedsolomon.WithInversionCache(false))
	if err != nil {
		return nil, err
	}
	if c.codes == nil {
		c.codes = map[[2]int]reedsolomon.Encoder{}
	}
	c.codes[[2]int{k, m}] = e
	return e, nil
}

// shards cuts a file into its k+m shards.
func (t *Trailer) shards(file []byte) [][]byte {
	s := make([][]byte, t.Data+t.Parity)
	for i := range s {
		off := t.ShardOffset(i)
		s[i] = file[off : off+t.ShardSize : off+t.ShardSize]
	}
	return s
}

// encode fills in the parity shards of file.
func (c *Coder) encode(t *Trailer, file []byte) error {
	if t.Parity == 0 {
		return nil
	}
	e, err := c.code(t.Data, t.Parity)
	if err != nil {
		return err
	}
	return e.Encode(t.shards(file))
}

// ErrBeyondParity is matched by the error for a pack that has more bad shards than parity shards.
var ErrBeyondParity = errors.New("damage is beyond the parity")

// ErrNoTrailer is matched by the error for a pack of which no whole trailer is known.
var ErrNoTrailer = errors.New("no whole trailer of the pack is known")

// Repair returns the pack of the given name from what is left of it in file, which it does not change. known is its
// trailer from elsewhere, for a pack that lost both copies, or nil. The result is the very file that was stored: its
// trailer hashes to name and every shard to the trailer's digest, or there is no result but an error that matches
// ErrBeyondParity or ErrNoTrailer. It needs the memory of a second file.
func (c *Coder) Repair(file []byte, name crypt.ID, known *Trailer) ([]byte, error) {
	out, err := c.repair(file, name, known)
	if err != nil {
		return nil, fmt.Errorf("repairing pack %v: %w", name, err)
	}
	return out, nil
}

func (c *Coder) repair(file []byte, name crypt.ID, known *Trailer) ([]byte, error) {
	r, err := Verify(file, name, known)
	if err != nil {
		return nil, err
	}
	t := r.Trailer
	if t == nil {
		return nil, ErrNoTrailer
	}
	if !r.Mendable() {
		return nil, fmt.Errorf("%d of %d shards fail, parity mends %d at most: %w", len(r.Bad), t.Data+t.Parity, t.Parity, ErrBeyondParity)
	}
	out := make([]byte, t.FileSize())
	copy(out, file)
	for _, off := range t.TrailerOffsets() {
		t.Append(out[:off])
	}
	if len(r.Bad) > 0 {
		e, err := c.code(t.Data, t.Parity)
		if err != nil {
			return nil, err
		}
		s := t.shards(out)
		for _, i := range r.Bad {
			s[i] = s[i][:0] // says that it is missing, and the memory to make it in
		}
		if err := e.Reconstruct(s); err != nil {
			return nil, err
		}
	}
	// The proof that nothing false leaves: all of the result, against the name.
	r, err = Verify(out, name, nil)
	if err != nil {
		return nil, err
	}
	if !r.OK() {
		return nil, fmt.Errorf("rebuilt shards fail their digests: %w", ErrBeyondParity)
	}
	return out, nil
}
