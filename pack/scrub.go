package pack

import (
	"bytes"
	"fmt"
	"io"

	"packhold/crypt"
)

// Report says what of a pack is whole.
type Report struct {
	Trailer  *Trailer // nil where no whole one is known; then nothing else is
	Size     int64    // of the file as it is; Trailer.FileSize() says what it should be
	Trailers [2]bool  // which copies in the file are whole
	Bad      []int    // numbers of the shards that fail, ascending; parity shards from Trailer.Data on
}

// OK reports whether every byte of the file is as it was stored, and there is none too many.
func (r *Report) OK() bool {
	return r.Trailer != nil && r.Size == int64(r.Trailer.FileSize()) && r.Trailers == [2]bool{true, true} && len(r.Bad) == 0
}

// Mendable reports whether Repair can give the file back; a file that is OK is.
func (r *Report) Mendable() bool { return r.Trailer != nil && len(r.Bad) <= r.Trailer.Parity }

// Range is the part of the file that shard i takes.
func (r *Report) Range(i int) (off, n int64) {
	return int64(r.Trailer.ShardOffset(i)), int64(r.Trailer.ShardSize)
}

// read returns up to n bytes of a file at off, fewer only at its end. They are valid until the next call.
type read func(off int64, n int) ([]byte, error)

// Verify checks a whole pack in memory against its name, without any key. known is its trailer from elsewhere, for a pack
// that lost both copies, or nil. Damage is in the Report; the error is for a known trailer of another pack.
func Verify(file []byte, name crypt.ID, known *Trailer) (*Report, error) {
	return scrub(func(off int64, n int) ([]byte, error) {
		if off >= int64(len(file)) {
			return nil, nil
		}
		return file[off:min(int64(len(file)), off+int64(n))], nil
	}, int64(len(file)), name, known)
}

// Scrub is Verify for a file of the given size that is read shard by shard, in order after a look at its end. An error
// of r other than io.EOF ends it; a caller to whom unreadable sectors are damage hands in a reader that fills them with zeros.
func Scrub(r io.ReaderAt, size int64, name crypt.ID, known *Trailer) (*Report, error) {
	var buf []byte
	return scrub(func(off int64, n int) ([]byte, error) {
		n = int(min(int64(n), max(size-off, 0)))
		if cap(buf) < n {
			buf = make([]byte, n)
		}
		got, err := r.ReadAt(buf[:n], off)
		if err == io.EOF || got == n {
			err = nil // a file shorter than was said has bad shards, not an error
		}
		return buf[:got], err
	}, size, name, known)
}

func scrub(get read, size int64, name crypt.ID, known *Trailer) (*Report, error) {
	rep := &Report{Size: size}
	t := known
	if t != nil {
		if err := t.Validate(); err != nil {
			return nil, fmt.Errorf("scrubbing pack %v: %w", name, err)
		}
		if t.Name() != name {
			return nil, fmt.Errorf("scrubbing pack %v: the trailer given is that of %v", name, t.Name())
		}
	} else {
		var err error
		if t, err = findTrailer(get, size, name); err != nil {
			return nil, fmt.Errorf("scrubbing pack %v: %w", name, err)
		}
		if t == nil {
			return rep, nil
		}
	}
	rep.Trailer = t
	want := t.Append(nil)
	copyAt := func(i int) error {
		b, err := get(int64(t.TrailerOffsets()[i]), len(want))
		rep.Trailers[i] = err == nil && bytes.Equal(b, want)
		return err
	}
	for i := range t.Data + t.Parity {
		if i == t.Data {
			if err := copyAt(0); err != nil {
				return nil, fmt.Errorf("scrubbing pack %v: %w", name, err)
			}
		}
		b, err := get(int64(t.ShardOffset(i)), t.ShardSize)
		if err != nil {
			return nil, fmt.Errorf("scrubbing pack %v: %w", name, err)
		}
		if !t.CheckShard(i, b) {
			rep.Bad = append(rep.Bad, i)
		}
	}
	if t.Parity == 0 {
		if err := copyAt(0); err != nil {
			return nil, fmt.Errorf("scrubbing pack %v: %w", name, err)
		}
	}
	if err := copyAt(1); err != nil {
		return nil, fmt.Errorf("scrubbing pack %v: %w", name, err)
	}
	return rep, nil
}

// findTrailer returns the trailer that hashes to name: the one at the end, else, in a file that was cut, grew, or has a
// bad end, one at any multiple of block, for there all trailers begin. It returns nil where there is none.
func findTrailer(get read, size int64, name crypt.ID) (*Trailer, error) {
	n := min(size, MaxTrailer)
	b, err := get(size-n, int(n))
	if err != nil {
		return nil, err
	}
	if t, err := parseTail(b); err == nil && t.Name() == name {
		return t, nil
	}
	const step = 1 << 20
	for off := int64(0); off < min(size, MaxFile); off += step {
		b, err := get(off, step+MaxTrailer)
		if err != nil {
			return nil, err
		}
		for i := 0; i < step && i < len(b); i += block {
			if t, err := parseTrailer(b[i:]); err == nil && t.Name() == name {
				return t, nil
			}
		}
	}
	return nil, nil
}
