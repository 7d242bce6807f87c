package pack

import (
	"errors"
	"fmt"
	"sync"

	"packhold/crypt"
)

// ErrFull is matched by the error for a blob that has no room in this pack: the caller finishes it and opens another.
var ErrFull = errors.New("pack is full")

// Blob is a blob on its way into a pack.
type Blob struct {
	ID          crypt.ID
	Plain       []byte            // 1 to MaxRaw bytes
	Data        []byte            // Plain after compression
	Compression crypt.Compression // how Data was made
}

// Options say what pack a Builder builds.
type Options struct {
	Header  crypt.Header   // type and variant say what is stored and how shards are hashed
	Key     *crypt.PackKey // seals the blobs
	Target  int            // largest unpadded protected part, DefaultTarget if 0; a larger blob has a pack of its own
	Parity  int            // parity shards, 0 to MaxParity
	Session []byte         // session record, at most MaxSession bytes, not looked into
}

// TableSealer makes the two parts of a pack that need other keys than the pack's own.
type TableSealer struct {
	Sign func(digest [32]byte) ([64]byte, error)                      // the host's signature over SignedDigest
	Seal func(plain []byte) (salt [32]byte, sealed []byte, err error) // crypt.Overhead bytes longer
}

// File is a finished pack.
type File struct {
	Name    crypt.ID // a pack's name is a SHA-256 too
	Data    []byte   // the file, in the Builder's buffer
	Trailer *Trailer
	Entries []Entry // in order of offset
}

// Builder is an open pack, which any number of workers fill at once: a worker takes a place under a short lock and seals
// straight into it. Add, Len and Count may be called concurrently.
type Builder struct {
	o       Options
	tree    bool
	pending sync.WaitGroup // places taken and not yet sealed and checked

	mu      sync.Mutex // guards all below; bytes of buf belong to whoever took the place
	buf     []byte
	end     int // of the blobs
	entries []Entry
	ids     map[crypt.ID]struct{}
	closed  bool
	broken  error // a place that holds no blob
}

// NewBuilder opens a pack in buf, which needs no clearing and is the caller's again when File.Data is no longer needed.
// Where cap(buf) is less than BufferSize(o.Target, o.Parity) the Builder makes memory of its own.
func NewBuilder(buf []byte, o Options) (*Builder, error) {
	if o.Target == 0 {
		o.Target = DefaultTarget
	}
	if err := checkHeader(o.Header); err != nil {
		return nil, fmt.Errorf("opening pack: %w", err)
	}
	switch {
	case o.Key == nil:
		return nil, errors.New("opening pack: no key")
	case o.Parity < 0 || o.Parity > MaxParity:
		return nil, fmt.Errorf("opening pack: %d parity shards, allowed are 0 to %d", o.Parity, MaxParity)
	case o.Target < 0 || o.Target > MaxFile || BufferSize(o.Target, o.Parity) > MaxFile:
		return nil, fmt.Errorf("opening pack: target of %d bytes makes files over %d", o.Target, MaxFile)
	case len(o.Session) > MaxSession:
		return nil, fmt.Errorf("opening pack: session record of %d bytes, at most %d are allowed", len(o.Session), MaxSession)
	}
	b := &Builder{o: o, tree: o.Header.Type == crypt.TypeTreePack, ids: map[crypt.ID]struct{}{}}
	b.begin(buf, o.Target)
	return b, nil
}

// begin makes sure of memory for a pack of the given unpadded length, and writes its header.
func (b *Builder) begin(buf []byte, length int) {
	n := BufferSize(length, b.o.Parity)
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	b.buf = buf[:n]
	b.end = len(b.o.Header.Append(b.buf[:0]))
}

// length is the unpadded length of the protected part with n blobs that end at end.
func (b *Builder) length(n, end int) int {
	return end + tableSize(len(b.o.Session), n) + locatorSize
}

// Header is what the pack begins with.
func (b *Builder) Header() crypt.Header { return b.o.Header }

// Len is the unpadded length of the protected part so far.
func (b *Builder) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.length(len(b.entries), b.end)
}

// Count is the number of blobs so far.
func (b *Builder) Count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.entries)
}

// slot is a place in a pack.
type slot struct {
	b     *Builder
	index int
	info  crypt.BlobInfo
	room  []byte // the place, without capacity beyond it
}

// reserve takes the place of a blob. Each slot must be released.
func (b *Builder) reserve(blob *Blob) (slot, error) {
	e := Entry{ID: blob.ID, Compression: blob.Compression, Raw: uint32(min(len(blob.Plain), MaxRaw+1)),
		Length: uint32(min(len(blob.Data), MaxRaw+1) + crypt.Overhead)}
	if err := e.check(); err != nil {
		return slot{}, fmt.Errorf("adding to pack: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return slot{}, fmt.Errorf("adding to pack: %w", ErrFull)
	}
	if _, ok := b.ids[e.ID]; ok {
		return slot{}, fmt.Errorf("adding to pack: blob %v is in it already", e.ID)
	}
	end := b.end + int(e.Length)
	length := b.length(len(b.entries)+1, end)
	switch {
	case len(b.entries) == 0 && length > b.o.Target:
		// No place is taken yet, so the memory may still be changed. A blob of MaxRaw keeps far below MaxFile.
		b.begin(b.buf, length)
	case length > b.o.Target, tableSize(len(b.o.Session), len(b.entries)+1) > MaxTable:
		return slot{}, fmt.Errorf("adding to pack: %w", ErrFull)
	}
	e.Offset = uint32(b.end)
	s := slot{b: b, index: len(b.entries), info: e.Info(b.o.Header.Type), room: b.buf[b.end:end:end]}
	b.end = end
	b.entries = append(b.entries, e)
	b.ids[e.ID] = struct{}{}
	b.pending.Add(1)
	return s, nil
}

// release says that the place holds what its entry says, or why not.
func (s slot) release(err error) {
	if err != nil {
		s.b.mu.Lock()
		s.b.broken = err
		s.b.mu.Unlock()
	}
	s.b.pending.Done()
}

// seal fills the place.
func (s slot) seal(data []byte) error {
	out, err := s.b.o.Key.Seal(s.room[:0], s.info, data)
	if err != nil {
		return err
	}
	if len(out) != len(s.room) || &out[0] != &s.room[0] {
		return fmt.Errorf("sealing blob %v: not sealed in its place", s.info.ID)
	}
	return nil
}

// discard makes the place a blob that nobody wants, so that offsets keep following from lengths: as many bytes as fit,
// repeating the hash of the ID it was meant for.
func (s slot) discard(c *Codec) error {
	h := crypt.Sum(s.info.ID[:])
	plain := make([]byte, len(s.room)-crypt.Overhead)
	for i := range plain {
		plain[i] = h[i%len(h)]
	}
	b := s.b
	e := Entry{ID: crypt.Sum(plain), Raw: uint32(len(plain)), Length: uint32(len(s.room))}
	b.mu.Lock()
	_, twice := b.ids[e.ID]
	e.Offset = b.entries[s.index].Offset
	b.entries[s.index] = e
	delete(b.ids, s.info.ID)
	b.ids[e.ID] = struct{}{}
	b.mu.Unlock()
	if twice {
		return fmt.Errorf("discarding blob %v: %v is in the pack already", s.info.ID, e.ID)
	}
	s.info = e.Info(b.o.Header.Type)
	if err := s.seal(plain); err != nil {
		return err
	}
	return c.Check(b.o.Key, s.info, s.room, plain)
}

// Add seals blob into the pack, and opens, decompresses and compares what it sealed (two encoder bugs of a peer were
// found that way). A compressed blob that does not come back is stored uncompressed and counted in c, whose own worker
// calls this; blob then says so. After ErrFull the caller adds the same blob, as it then is, to the next pack.
func (b *Builder) Add(c *Codec, blob *Blob) error {
	for {
		s, err := b.reserve(blob)
		if err != nil {
			return err
		}
		if err = s.seal(blob.Data); err != nil {
			s.release(err)
			return err
		}
		bad := c.Check(b.o.Key, s.info, s.room, blob.Plain)
		if bad == nil {
			s.release(nil)
			return nil
		}
		err = s.discard(c)
		s.release(err)
		if err != nil {
			return err
		}
		if blob.Compression == crypt.Uncompressed {
			return fmt.Errorf("adding to pack: %w (%w)", ErrSelfCheck, bad)
		}
		c.fallbacks++
		blob.Data, blob.Compression = blob.Plain, crypt.Uncompressed
	}
}

// Finish closes the pack, waits for the workers that still seal into it, and adds the table, digests, parity and
// trailers. It is called once; blobs that come later get ErrFull. A pack without blobs is an error.
func (b *Builder) Finish(c *Coder, ts TableSealer) (*File, error) {
	b.mu.Lock()
	again := b.closed
	b.closed = true
	b.mu.Unlock()
	if again {
		return nil, errors.New("finishing pack: it was finished before")
	}
	b.pending.Wait() // no Add follows: reserve looks at closed under the lock
	if b.broken != nil {
		return nil, fmt.Errorf("finishing pack: %w", b.broken)
	}
	if len(b.entries) == 0 {
		return nil, errors.New("finishing pack: no blobs")
	}
	f, err := b.finish(c, ts)
	if err != nil {
		return nil, fmt.Errorf("finishing pack: %w", err)
	}
	return f, nil
}

func (b *Builder) finish(c *Coder, ts TableSealer) (*File, error) {
	sig, err := ts.Sign(SignedDigest(b.o.Header, b.o.Session, b.entries))
	if err != nil {
		return nil, err
	}
	plain := appendTable(nil, b.o.Session, b.entries, sig)
	salt, sealed, err := ts.Seal(plain)
	if err != nil {
		return nil, err
	}
	if len(sealed) != len(plain)+crypt.Overhead {
		return nil, fmt.Errorf("sealed table has %d bytes, want %d", len(sealed), len(plain)+crypt.Overhead)
	}
	k, size := geometry(b.length(len(b.entries), b.end))
	t := &Trailer{Header: b.o.Header, Data: k, Parity: b.o.Parity, ShardSize: size,
		TableSalt: salt, TableSize: len(sealed), Digests: make([][32]byte, k+b.o.Parity)}
	data := b.buf[:t.FileSize()]
	table := t.TableOffset()
	clear(data[b.end:table]) // the buffer may hold bytes of an earlier pack
	copy(data[table:], sealed)
	t.appendLocator(data[:table+len(sealed)])
	if err := c.encode(t, data); err != nil {
		return nil, err
	}
	for i := range t.Digests {
		off := t.ShardOffset(i)
		t.Digests[i] = t.digest(data[off : off+size])
	}
	if err := t.Validate(); err != nil {
		return nil, err
	}
	for _, off := range t.TrailerOffsets() {
		t.Append(data[:off])
	}
	return &File{Name: t.Name(), Data: data, Trailer: t, Entries: b.entries}, nil
}
