package index

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/bits"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"packhold/crypt"
)

// The cache file: a local form of the segments it covers, and of nothing else, so it is the same file whoever made it.
//
//	head 128: "PKHINDEX" | version u32 | fan-out bits u32 | entries u64 | packs u32 | sessions u32 | segments u32 | classes u32 |
//	          length of meta u64 | length of session records u64 | zeros | HMAC-SHA-256(key, head without its last 32 bytes | meta) 32
//	entries:  ascending by ID, then row: ID 32 | row u32 | offset u32 | sealed length u32 | raw length u32 | compression u8 | check u32
//	fan-out:  2^bits + 1 u32: how many entries have smaller top bits
//	packs:    by segment, then PackID: name 32 | salt 32 | size u64 | incarnation u32 | epoch u32 | session u32 | class u32 |
//	          retention class u32 | kind u8 | zeros 3 | check u32
//	sessions: SHA-256 of the record 32 | offset among the records u64 | length u32 | check u32
//	session records
//	meta:     per segment, ascending: name 32 | packs u32; per class: length u8 | bytes
//
// check = CRC-32C of the bytes before it XOR seed XOR number * stride. The seed comes from key and segments. So bytes that
// are damaged, of another cache, or of another place are noticed at every touch and not only at the first: another program may
// write into the file while it is mapped. An answer that a blob is absent rests on its two checked neighbours,
// therefore the fan-out is a hint that needs no check.
const (
	cacheMagic   = "PKHINDEX"
	cacheVersion = 1
	headSize     = 128
	macSize      = 32
	rowSize      = 49 + 4
	packRowSize  = 32 + 32 + 8 + 5*4 + 4 + 4
	sessionSize  = 32 + 8 + 4 + 4
	maxFanBits   = 18         // 1 MiB, which stays in a core's cache; rows are guessed to within three at 10,000,000
	guesses      = 4          // of a place, before halving
	window       = 8          // rows looked at for one guess
	maxMeta      = 256 << 20  // bytes: names of 7,000,000 segments
	entriesPer   = 16         // a bucket of the fan-out, on average
	checkStride  = 0x9E3779B1 // odd, so that no two places have the same mask
)

var errDamaged = errors.New("damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the check of the item with the given number, of bytes b.
func sum(seed, number uint32, b []byte) uint32 {
	return crc32.Update(0, castagnoli, b) ^ seed ^ number*checkStride
}

// checked tells whether the last 4 bytes of b are the check of those before them.
func checked(seed, number uint32, b []byte) bool {
	n := len(b) - 4
	return binary.LittleEndian.Uint32(b[n:]) == sum(seed, number, b[:n])
}

// Seeds differ by section, so that no row passes as one of another kind.
const (
	entrySeed = iota
	packSeed
	sessionSeed
	seedCount
)

func seeds(key [32]byte, segments []segmentRef) (out [seedCount]uint32) {
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte("packhold/1/index-cache-seed"))
	for _, s := range segments {
		m.Write(s.name[:])
	}
	h := m.Sum(nil)
	for i := range out {
		out[i] = binary.LittleEndian.Uint32(h[4*i:])
	}
	return out
}

func headMAC(key [32]byte, head, meta []byte) []byte {
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte("packhold/1/index-cache"))
	m.Write(head[:headSize-macSize])
	m.Write(meta)
	return m.Sum(nil)
}

type segmentRef struct {
	name  crypt.ID
	packs uint32
}

// head is the part of the cache file that is read and verified at opening.
type head struct {
	fanBits      uint32
	entries      uint64
	packs        uint32
	sessions     uint32
	segments     uint32
	classes      uint32
	metaLength   uint64
	recordLength uint64

	// Where the sections start and the file ends; the entries follow the head.
	fanAt, packsAt, sessionsAt, recordsAt, metaAt, end int64
}

func (h *head) marshal() []byte {
	b := make([]byte, 0, headSize)
	b = append(b, cacheMagic...)
	for _, v := range []uint32{cacheVersion, h.fanBits} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = binary.LittleEndian.AppendUint64(b, h.entries)
	for _, v := range []uint32{h.packs, h.sessions, h.segments, h.classes} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = binary.LittleEndian.AppendUint64(b, h.metaLength)
	b = binary.LittleEndian.AppendUint64(b, h.recordLength)
	return b[:headSize]
}

// parse reads b, of headSize bytes, and computes where the sections are in a file of the given size.
func (h *head) parse(b []byte, size int64) error {
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	if string(b[:8]) != cacheMagic || u32(b[8:]) != cacheVersion {
		return errors.New("not a cache of this version")
	}
	h.fanBits, h.entries = u32(b[12:]), u64(b[16:])
	h.packs, h.sessions, h.segments, h.classes = u32(b[24:]), u32(b[28:]), u32(b[32:]), u32(b[36:])
	h.metaLength, h.recordLength = u64(b[40:]), u64(b[48:])
	// With these bounds no sum below wraps.
	if h.fanBits > maxFanBits || h.entries >= 1<<32 || h.metaLength > min(maxMeta, uint64(size)) || h.recordLength > uint64(size) {
		return errDamaged
	}
	h.layout()
	if h.end != size {
		return fmt.Errorf("%d bytes, want %d", size, h.end)
	}
	return nil
}

func (h *head) layout() {
	h.fanAt = headSize + int64(h.entries)*rowSize
	h.packsAt = h.fanAt + 4*(1<<h.fanBits+1)
	h.sessionsAt = h.packsAt + int64(h.packs)*packRowSize
	h.recordsAt = h.sessionsAt + int64(h.sessions)*sessionSize
	h.metaAt = h.recordsAt + int64(h.recordLength)
	h.end = h.metaAt + int64(h.metaLength)
}

// base is an opened cache file. Its methods may be called concurrently. They return an error, and never a wrong answer, where
// the file is not what was written.
type base struct {
	head
	src      *source
	seeds    [seedCount]uint32
	segments []segmentRef // ascending
	starts   []uint32     // first row of each segment, and the number of rows
	classes  []string
	scratch  sync.Pool   // of *[rowSize]byte
	gone     []bool      // by segment: Retain forgot it; guarded by Index.mu
	about    []aboutPack // by row
}

// aboutPack is what is known of a pack: together, because a question asks for both, and each is most often out of the core's cache.
type aboutPack struct {
	info  atomic.Pointer[PackInfo] // nil until it was asked for
	state atomic.Uint32
	used  atomic.Bool // see Index.Used
}

func openBase(path string, key [32]byte, mapped bool) (b *base, err error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	src, err := newSource(f, mapped)
	if err != nil {
		f.Close()
		return nil, err
	}
	b = &base{src: src}
	if err := b.open(key); err != nil {
		src.close()
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return b, nil
}

func (b *base) open(key [32]byte) (err error) {
	defer b.src.guard(debug.SetPanicOnFault(true), &err)
	raw := make([]byte, headSize)
	if err := b.src.read(raw, 0); err != nil {
		return err
	}
	if err := b.head.parse(raw, b.src.size); err != nil {
		return err
	}
	meta := make([]byte, b.metaLength)
	if err := b.src.read(meta, b.metaAt); err != nil {
		return err
	}
	if !hmac.Equal(raw[headSize-macSize:], headMAC(key, raw, meta)) {
		return errors.New("of another repository or damaged")
	}
	if uint64(b.head.segments)*36+uint64(b.head.classes) > uint64(len(meta)) {
		return errDamaged
	}
	rows := uint64(0)
	b.segments = make([]segmentRef, b.head.segments)
	b.starts = make([]uint32, 1, b.head.segments+1)
	for i := range b.segments {
		b.segments[i] = segmentRef{crypt.ID(meta[:32]), binary.LittleEndian.Uint32(meta[32:])}
		if rows += uint64(b.segments[i].packs); rows > uint64(b.packs) {
			return errDamaged
		}
		b.starts = append(b.starts, uint32(rows))
		meta = meta[36:]
	}
	b.classes = make([]string, 0, b.head.classes)
	for range b.head.classes {
		if len(meta) == 0 || len(meta)-1 < int(meta[0]) {
			return errDamaged
		}
		n := 1 + int(meta[0])
		b.classes = append(b.classes, string(meta[1:n]))
		meta = meta[n:]
	}
	if rows != uint64(b.packs) || len(meta) != 0 {
		return errDamaged
	}
	b.seeds = seeds(key, b.segments)
	b.gone = make([]bool, len(b.segments))
	b.about = make([]aboutPack, b.packs)
	return nil
}

// baseEntry is a checked entry of the base.
type baseEntry struct {
	Entry        // Pack is the row
	number int64 // its place among the entries
}

// at returns the checked entry with the given number, of 0 <= number < entries. The caller must have deferred guard.
// It checks and parses a copy, because the file may change between the two.
func (b *base) at(number int64) (baseEntry, error) {
	raw, ok := b.scratch.Get().(*[rowSize]byte)
	if !ok {
		raw = new([rowSize]byte)
	}
	if err := b.src.read(raw[:], headSize+number*rowSize); err != nil {
		return baseEntry{}, err
	}
	e, err := b.parseRow(raw[:], number)
	b.scratch.Put(raw)
	return e, err
}

func (b *base) parseRow(raw []byte, number int64) (baseEntry, error) {
	if !checked(b.seeds[entrySeed], uint32(number), raw) {
		return baseEntry{}, fmt.Errorf("entry %d: %w", number, errDamaged)
	}
	e := baseEntry{parseEntry(raw), number}
	if e.Pack >= b.packs {
		return baseEntry{}, fmt.Errorf("entry %d: %w", number, errDamaged)
	}
	return e, nil
}

// first returns the first entry of id.
func (b *base) first(id *crypt.ID) (e baseEntry, found bool, err error) {
	if b.entries == 0 {
		return baseEntry{}, false, nil
	}
	defer b.src.guard(debug.SetPanicOnFault(true), &err)
	if id[7] == 0 {
		b.src.sample()
	}
	var buf [window * rowSize]byte
	fan, err := b.src.view(b.fanAt+4*int64(top(id, b.fanBits)), 8, buf[:])
	if err != nil {
		return baseEntry{}, false, err
	}
	lo, hi := int64(binary.LittleEndian.Uint32(fan)), int64(binary.LittleEndian.Uint32(fan[4:]))
	if lo > hi || hi > int64(b.entries) {
		return baseEntry{}, false, errDamaged
	}
	// IDs are hashes, so the place can be guessed from the value, to within a few rows. A window of rows around it is read, not
	// row after row by what the last one said: the processor then waits for memory once, and not once per row.
	// After some guesses halving bounds the cost for IDs that somebody chose.
	key := binary.BigEndian.Uint64(id[:])
	guess := lo
	if lo < hi {
		frac, _ := bits.Mul64(key<<b.fanBits, uint64(hi-lo))
		guess = lo + int64(frac)
	}
	for step := 0; lo < hi; step++ {
		if step >= guesses || guess < lo || guess >= hi {
			guess = lo + (hi-lo)/2
		}
		from := max(lo, guess-window/2)
		to := min(hi, from+window)
		raw, err := b.src.view(headSize+from*rowSize, int(to-from)*rowSize, buf[:])
		if err != nil {
			return baseEntry{}, false, err
		}
		less := 0
		for at := 0; at < len(raw); at += rowSize {
			v := binary.BigEndian.Uint64(raw[at:])
			_, below := bits.Sub64(v, key, 0)
			less += int(below)
			if v == key && bytes.Compare(raw[at:at+32], id[:]) < 0 {
				less++
			}
		}
		switch {
		case less == 0 && from > lo:
			hi = from
			between, _ := bits.Mul64(binary.BigEndian.Uint64(raw)-key, b.entries)
			guess = max(lo, hi-1-int64(between))
		case int64(less) == to-from && to < hi:
			lo = to
			between, _ := bits.Mul64(key-binary.BigEndian.Uint64(raw[len(raw)-rowSize:]), b.entries)
			guess = min(hi-1, lo+int64(between))
		default:
			lo = from + int64(less)
			hi = lo
		}
	}
	if lo > 0 {
		before, err := b.at(lo - 1)
		if err != nil {
			return baseEntry{}, false, err
		}
		if compareIDs(before.ID, *id) >= 0 {
			return baseEntry{}, false, errDamaged
		}
	}
	if lo == int64(b.entries) {
		return baseEntry{}, false, nil
	}
	if e, err = b.at(lo); err != nil {
		return baseEntry{}, false, err
	}
	c := compareIDs(e.ID, *id)
	if c < 0 {
		return baseEntry{}, false, errDamaged
	}
	return e, c == 0, nil
}

// following returns the entry after e if it has the same ID.
func (b *base) following(e baseEntry) (next baseEntry, found bool, err error) {
	if e.number+1 >= int64(b.entries) {
		return baseEntry{}, false, nil
	}
	defer b.src.guard(debug.SetPanicOnFault(true), &err)
	next, err = b.at(e.number + 1)
	return next, err == nil && next.ID == e.ID, err
}

// top returns the n upper bits of id.
func top(id *crypt.ID, n uint32) uint32 {
	return uint32(uint64(binary.BigEndian.Uint32(id[:])) >> (32 - n))
}

// fanBits says how many bits the fan-out of n entries uses.
func fanBits(n uint64) uint32 { return uint32(min(bits.Len64(n/entriesPer), maxFanBits)) }

// info returns what is known of the pack in the given row.
func (b *base) info(row uint32) (*PackInfo, error) {
	if p := b.about[row].info.Load(); p != nil {
		return p, nil
	}
	p, err := b.readInfo(row)
	if err != nil {
		return nil, err
	}
	if !b.about[row].info.CompareAndSwap(nil, p) {
		p = b.about[row].info.Load()
	}
	return p, nil
}

func (b *base) readInfo(row uint32) (p *PackInfo, err error) {
	defer b.src.guard(debug.SetPanicOnFault(true), &err)
	var raw [packRowSize]byte
	if err := b.src.read(raw[:], b.packsAt+int64(row)*packRowSize); err != nil {
		return nil, err
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(raw[at:]) }
	session, class, retention := u32(80), u32(84), u32(88)
	if !checked(b.seeds[packSeed], row, raw[:]) || session >= b.sessions ||
		uint64(class) >= uint64(len(b.classes)) || uint64(retention) >= uint64(len(b.classes)) {
		return nil, fmt.Errorf("pack %d: %w", row, errDamaged)
	}
	return &PackInfo{PackID: PackID{crypt.ID(raw[:32]), u32(72)}, Salt: [32]byte(raw[32:]), Size: binary.LittleEndian.Uint64(raw[64:]),
		Epoch: u32(76), Session: session, Class: b.classes[class], Retention: b.classes[retention], Kind: crypt.Type(raw[92]),
		state: &b.about[row].state, used: &b.about[row].used}, nil
}

// sessionRow returns the hash of session record n and where it lies.
func (b *base) sessionRow(n uint32) (hash [32]byte, at int64, length int, err error) {
	defer b.src.guard(debug.SetPanicOnFault(true), &err)
	var raw [sessionSize]byte
	if err := b.src.read(raw[:], b.sessionsAt+int64(n)*sessionSize); err != nil {
		return hash, 0, 0, err
	}
	offset, size := binary.LittleEndian.Uint64(raw[32:]), binary.LittleEndian.Uint32(raw[40:])
	if !checked(b.seeds[sessionSeed], n, raw[:]) || size > MaxRecord || offset > b.recordLength || uint64(size) > b.recordLength-offset {
		return hash, 0, 0, fmt.Errorf("session %d: %w", n, errDamaged)
	}
	return [32]byte(raw[:32]), b.recordsAt + int64(offset), int(size), nil
}

// session returns a copy of session record n.
func (b *base) session(n uint32) (record []byte, err error) {
	hash, at, length, err := b.sessionRow(n)
	if err != nil {
		return nil, err
	}
	defer b.src.guard(debug.SetPanicOnFault(true), &err)
	record = make([]byte, length)
	if err := b.src.read(record, at); err != nil {
		return nil, err
	}
	if sha256.Sum256(record) != hash {
		return nil, fmt.Errorf("session %d: %w", n, errDamaged)
	}
	return record, nil
}

// cursor reads the entries of a base in order.
type cursor struct {
	base *base // nil for no entries
	next int64
	buf  []byte // unchecked rows from next on
	room []byte
}

const cursorRows = 1024

// peek returns the next entry, without passing over it; step passes over it.
func (c *cursor) peek() (e baseEntry, ok bool, err error) {
	if c.base == nil || c.next >= int64(c.base.entries) {
		return baseEntry{}, false, nil
	}
	if len(c.buf) == 0 {
		if err := c.fill(); err != nil {
			return baseEntry{}, false, err
		}
	}
	e, err = c.base.parseRow(c.buf[:rowSize], c.next)
	return e, err == nil, err
}

func (c *cursor) step() {
	c.buf = c.buf[rowSize:]
	c.next++
}

func (c *cursor) fill() error {
	b := c.base
	if c.room == nil {
		c.room = make([]byte, cursorRows*rowSize)
	}
	buf := c.room[:min(cursorRows, int64(b.entries)-c.next)*rowSize]
	if err := b.src.readThrough(buf, headSize+c.next*rowSize); err != nil {
		return err
	}
	c.buf = buf
	return nil
}
