package snapshot

import (
	"encoding/binary"
	"fmt"
	"math"

	"packhold/crypt"
)

// The part of CBOR that pages use: unsigned and negative integers, byte strings, arrays, maps.
// Written by hand because a tree of millions of nodes is read and written at every backup.
const (
	majorUint  = 0
	majorNeg   = 1
	majorBytes = 2
	majorArray = 4
	majorMap   = 5
)

// appendHead appends the shortest head of a data item.
func appendHead(b []byte, major byte, arg uint64) []byte {
	m := major << 5
	switch {
	case arg < 24:
		return append(b, m|byte(arg))
	case arg <= math.MaxUint8:
		return append(b, m|24, byte(arg))
	case arg <= math.MaxUint16:
		return append(b, m|25, byte(arg>>8), byte(arg))
	case arg <= math.MaxUint32:
		return append(b, m|26, byte(arg>>24), byte(arg>>16), byte(arg>>8), byte(arg))
	}
	return binary.BigEndian.AppendUint64(append(b, m|27), arg)
}

func appendInt(b []byte, v int64) []byte {
	if v < 0 {
		return appendHead(b, majorNeg, uint64(^v))
	}
	return appendHead(b, majorUint, uint64(v))
}

func appendString(b []byte, s string) []byte {
	return append(appendHead(b, majorBytes, uint64(len(s))), s...)
}

func appendBytes(b, s []byte) []byte {
	return append(appendHead(b, majorBytes, uint64(len(s))), s...)
}

func appendID(b []byte, id *crypt.ID) []byte {
	return append(append(b, majorBytes<<5|24, byte(len(id))), id[:]...)
}

// decoder reads a plaintext from its start. After its first error, which sticks, nothing is left to read and every read
// returns zero; so callers check err where a loop or an allocation follows.
type decoder struct {
	s       string // strings alias it
	off     int
	err     error
	extents slab[Extent]
	xattrs  slab[XAttr]
	bytes   slab[byte]
}

// slab hands out slices of few large allocations.
type slab[T any] struct{ free []T }

// take returns n zero elements with no room behind them. A new allocation has room for more.
func (s *slab[T]) take(n, more int) []T {
	if n > len(s.free) {
		s.free = make([]T, max(n, more))
	}
	r := s.free[:n:n]
	s.free = s.free[n:]
	return r
}

// fail sets the first error and leaves nothing to read.
func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = malformed("at byte %d: %w", d.off, fmt.Errorf(format, args...))
	}
	d.s, d.off = "", 0
}

// rest returns how many bytes are left.
func (d *decoder) rest() int { return len(d.s) - d.off }

// head reads the head of an item of the given major type and returns its argument.
func (d *decoder) head(major byte) uint64 {
	if d.off < len(d.s) {
		if v := d.s[d.off] ^ major<<5; v < 24 {
			d.off++
			return uint64(v)
		}
	}
	return d.longHead(major)
}

// longHead reads a head with an argument of 1, 2, 4 or 8 bytes, which must be the fewest that hold it.
func (d *decoder) longHead(major byte) uint64 {
	s := d.s[d.off:]
	if s == "" {
		d.fail("truncated")
		return 0
	}
	var v, least uint64
	n := 2
	switch c := s[0] ^ major<<5; {
	case c > 31:
		d.fail("major type %d, want %d", s[0]>>5, major)
		return 0
	case c > 27:
		d.fail("indefinite length or reserved head")
		return 0
	case c == 24 && len(s) >= 2:
		v, least = uint64(s[1]), 24
	case c == 25 && len(s) >= 3:
		v, least, n = uint64(s[1])<<8|uint64(s[2]), 1<<8, 3
	case c == 26 && len(s) >= 5:
		v, least, n = uint64(bigEndian32(s[1:5])), 1<<16, 5
	case c == 27 && len(s) >= 9:
		v, least, n = uint64(bigEndian32(s[1:5]))<<32|uint64(bigEndian32(s[5:9])), 1<<32, 9
	default:
		d.fail("truncated")
		return 0
	}
	if v < least {
		d.fail("integer not in its shortest form")
		return 0
	}
	d.off += n
	return v
}

func bigEndian32(s string) uint32 {
	return uint32(s[0])<<24 | uint32(s[1])<<16 | uint32(s[2])<<8 | uint32(s[3])
}

// nonzero reads an unsigned integer from 1 to most: absence, not a stored zero, means zero.
func (d *decoder) nonzero(most uint64) uint64 {
	v := d.head(majorUint)
	if v == 0 || v > most {
		d.fail("integer %d, want 1 to %d", v, most)
		return 0
	}
	return v
}

func (d *decoder) uint32() uint32 { return uint32(d.nonzero(math.MaxUint32)) }

func (d *decoder) int() int64 {
	if d.err == nil && d.off < len(d.s) && d.s[d.off]>>5 == majorNeg {
		v := d.head(majorNeg)
		if v > math.MaxInt64 {
			d.fail("integer out of range")
			return 0
		}
		return ^int64(v)
	}
	v := d.head(majorUint)
	if v > math.MaxInt64 {
		d.fail("integer out of range")
		return 0
	}
	return int64(v)
}

// array reads the head of an array of low to high items. Every item takes a byte at least, so a count that the
// remaining bytes cannot hold is refused before anything is allocated for it.
func (d *decoder) array(low, high int) int { return d.items(majorArray, low, high) }

func (d *decoder) items(major byte, low, high int) int {
	n := d.head(major)
	if n < uint64(low) || n > uint64(high) || n > uint64(d.rest()) {
		d.fail("%d items, want %d to %d within %d bytes", n, low, high, d.rest())
		return 0
	}
	return int(n)
}

// string reads a byte string of at least low bytes. It aliases d.s.
func (d *decoder) string(low int) string {
	n := d.items(majorBytes, low, len(d.s))
	s := d.s[d.off : d.off+n]
	d.off += n
	return s
}

// copied reads a byte string as bytes that may be changed; nil if it is empty.
func (d *decoder) copied(low int) []byte {
	s := d.string(low)
	if s == "" {
		return nil
	}
	const more = 16 << 10 // room for a hundred inline files
	b := d.bytes.take(len(s), min(more, len(s)+d.rest()))
	copy(b, s)
	return b
}

func (d *decoder) id(id *crypt.ID) {
	if d.rest() >= 2+len(id) && d.s[d.off] == majorBytes<<5|24 && int(d.s[d.off+1]) == len(id) { // all but hostile ones
		copy(id[:], d.s[d.off+2:])
		d.off += 2 + len(id)
		return
	}
	s := d.string(0)
	if len(s) != len(id) {
		d.fail("ID of %d bytes", len(s))
		return
	}
	copy(id[:], s)
}

// nonzeroID reads an ID that would be absent if it were zero.
func (d *decoder) nonzeroID(id *crypt.ID) {
	if d.id(id); id.IsZero() {
		d.fail("zero ID")
	}
}

// end fails unless everything is read.
func (d *decoder) end() error {
	if d.err == nil && d.rest() > 0 {
		d.fail("%d bytes after the end", d.rest())
	}
	return d.err
}

// MarshalCBOR returns t as a CBOR array of seconds and nanoseconds.
func (t Time) MarshalCBOR() ([]byte, error) {
	if !t.valid() {
		return nil, malformed("nanosecond %d", t.Nsec)
	}
	return appendTime(nil, t), nil
}

// UnmarshalCBOR is the inverse of MarshalCBOR.
func (t *Time) UnmarshalCBOR(data []byte) error {
	d := decoder{s: string(data)}
	*t = d.time()
	return d.end()
}

func appendTime(b []byte, t Time) []byte {
	b = appendInt(append(b, majorArray<<5|2), t.Sec)
	return appendHead(b, majorUint, uint64(t.Nsec))
}

func (d *decoder) time() Time {
	// Times from 1970-01-02 to 2106 with both numbers in 4 bytes, that is nearly all: [1a s s s s, 1a n n n n].
	if s := d.s[d.off:]; len(s) >= 11 && s[0] == majorArray<<5|2 && s[1] == 26 && s[6] == 26 {
		sec, nsec := bigEndian32(s[2:6]), bigEndian32(s[7:11])
		if sec > math.MaxUint16 && nsec > math.MaxUint16 && nsec < 1e9 {
			d.off += 11
			return Time{int64(sec), nsec}
		}
	}
	d.array(2, 2)
	sec := d.int()
	nsec := d.head(majorUint)
	if nsec >= 1e9 {
		d.fail("nanosecond %d", nsec)
	}
	if sec == 0 && nsec == 0 {
		d.fail("a time that is not recorded must be absent")
	}
	return Time{sec, uint32(nsec)}
}
