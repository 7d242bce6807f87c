package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"packhold/crypt"

	"github.com/zeebo/blake3"
)

const (
	trailerMagic = "PACKTRLR"
	footerMagic  = "PACKTAIL"
	// trailerFixed is magic 8 | format, kind, shard hash, 0 | k u16 | m u16 | S u32 | file size u64 | header | locator.
	trailerFixed = 28 + crypt.HeaderSize + locatorSize
	footerSize   = 64 // magic 8 | trailer length u32 | zeros
)

// Trailer is the map of a pack, without its secrets: geometry and digests. Its fields are exactly what an index must
// carry for Append to give the pack's trailer again, bit by bit, should a pack lose both copies.
type Trailer struct {
	Header    crypt.Header
	Data      int        // data shards, k
	Parity    int        // parity shards, m
	ShardSize int        // bytes of a shard, S
	TableSalt [32]byte   // of the sealed table
	TableSize int        // bytes of the sealed table
	Digests   [][32]byte // k of data shards, then m of parity shards
}

// Validate refuses what no pack can have. The other methods, but Append and Name, want a valid Trailer.
func (t *Trailer) Validate() error {
	if err := t.validate(); err != nil {
		return fmt.Errorf("checking pack trailer: %w", err)
	}
	return nil
}

func (t *Trailer) validate() error {
	if err := checkHeader(t.Header); err != nil {
		return err
	}
	k, m, s := t.Data, t.Parity, t.ShardSize
	switch {
	case m < 0 || m > MaxParity:
		return fmt.Errorf("%d parity shards, allowed are 0 to %d", m, MaxParity)
	case s < minShard || s > MaxFile/64 || s&(s-1) != 0:
		return fmt.Errorf("shards of %d bytes", s)
	case k < 2 || k > maxShards || k < 64 && s > minShard:
		return fmt.Errorf("%d data shards of %d bytes", k, s)
	case len(t.Digests) != k+m:
		return fmt.Errorf("%d digests for %d shards", len(t.Digests), k+m)
	case t.FileSize() > MaxFile:
		return fmt.Errorf("file of %d bytes, at most %d are allowed", t.FileSize(), MaxFile)
	case t.TableSize < block || t.TableSize > MaxTable || t.TableSize%block != 0,
		t.TableOffset() < crypt.HeaderSize+crypt.Overhead+1:
		return fmt.Errorf("table of %d bytes in a protected part of %d", t.TableSize, k*s)
	}
	return nil
}

// size is the trailer's length.
func (t *Trailer) size() int { return trailerSize(len(t.Digests)) }

func trailerSize(shards int) int { return roundUp(trailerFixed + 32*shards + footerSize) }

// FileSize is the length of the whole pack.
func (t *Trailer) FileSize() int {
	return (t.Data+t.Parity)*t.ShardSize + 2*t.size()
}

// TableOffset is where the sealed table starts: the blobs end there or before.
func (t *Trailer) TableOffset() int {
	return t.Data*t.ShardSize - locatorSize - t.TableSize
}

// ShardOffset is where shard i starts: of 0..Data-1 the data shards, from Data on the parity shards.
func (t *Trailer) ShardOffset(i int) int {
	if i < t.Data {
		return i * t.ShardSize
	}
	return i*t.ShardSize + t.size()
}

// TrailerOffsets is where the two copies of the trailer start.
func (t *Trailer) TrailerOffsets() [2]int {
	return [2]int{t.Data * t.ShardSize, t.FileSize() - t.size()}
}

// Name is the pack's name: the SHA-256 of the trailer.
func (t *Trailer) Name() crypt.ID { return crypt.Sum(t.Append(nil)) }

// CheckShard reports whether b is shard i.
func (t *Trailer) CheckShard(i int, b []byte) bool {
	return i >= 0 && i < len(t.Digests) && len(b) == t.ShardSize && t.digest(b) == t.Digests[i]
}

func (t *Trailer) digest(shard []byte) [32]byte {
	if t.Header.Variant == ShardSHA256 {
		return sha256.Sum256(shard)
	}
	return blake3.Sum256(shard)
}

// appendLocator appends table salt 32 | sealed table length u32 | zeros 28.
func (t *Trailer) appendLocator(dst []byte) []byte {
	dst = append(dst, t.TableSalt[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(t.TableSize))
	return append(dst, make([]byte, locatorSize-36)...)
}

// Append appends the trailer's bytes to dst.
func (t *Trailer) Append(dst []byte) []byte {
	start, size := len(dst), t.size()
	dst = append(dst, trailerMagic...)
	dst = append(dst, crypt.Format, byte(t.Header.Type), t.Header.Variant, 0)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(t.Data))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(t.Parity))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(t.ShardSize))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(t.FileSize()))
	dst = t.Header.Append(dst)
	dst = t.appendLocator(dst)
	for _, d := range t.Digests {
		dst = append(dst, d[:]...)
	}
	dst = append(dst, make([]byte, size-footerSize-(len(dst)-start))...)
	dst = append(dst, footerMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(size))
	return append(dst, make([]byte, footerSize-12)...)
}

// ParseTrailer reads the trailer that ends with tail; what stands before it is not looked at, so the last MaxTrailer
// bytes of a file always do. It accepts exactly what Append gives: ParseTrailer(t.Append(nil)) is t. Only the pack's
// name says whether these are the right bytes: compare Name. An unknown format matches crypt.ErrFormat.
func ParseTrailer(tail []byte) (*Trailer, error) {
	t, err := parseTail(tail)
	if err != nil {
		return nil, fmt.Errorf("parsing pack trailer: %w", err)
	}
	return t, nil
}

func parseTail(tail []byte) (*Trailer, error) {
	if len(tail) < block {
		return nil, fmt.Errorf("%d bytes, want %d at least", len(tail), block)
	}
	foot := tail[len(tail)-footerSize:]
	if string(foot[:8]) != footerMagic {
		return nil, errors.New("no footer")
	}
	n := binary.LittleEndian.Uint32(foot[8:])
	if n > MaxTrailer || int(n) > len(tail) || n < block {
		return nil, fmt.Errorf("trailer of %d bytes", n)
	}
	return parseTrailer(tail[len(tail)-int(n):])
}

// parseTrailer reads the trailer at the start of b.
func parseTrailer(b []byte) (*Trailer, error) {
	if len(b) < block || string(b[:8]) != trailerMagic {
		return nil, errors.New("no trailer")
	}
	if b[8] != crypt.Format {
		return nil, fmt.Errorf("%w %d, this program knows %d", crypt.ErrFormat, b[8], crypt.Format)
	}
	h, err := crypt.ParseHeader(b[28:])
	if err != nil {
		return nil, err
	}
	t := &Trailer{Header: h,
		Data:      int(binary.LittleEndian.Uint16(b[12:])),
		Parity:    int(binary.LittleEndian.Uint16(b[14:])),
		ShardSize: int(min(binary.LittleEndian.Uint32(b[16:]), MaxFile)),
		TableSalt: [32]byte(b[28+crypt.HeaderSize:]),
		TableSize: int(min(binary.LittleEndian.Uint32(b[28+crypt.HeaderSize+32:]), MaxFile)),
	}
	if t.Data > maxShards || t.Parity > MaxParity || len(b) < trailerSize(t.Data+t.Parity) {
		return nil, fmt.Errorf("%d data and %d parity shards", t.Data, t.Parity)
	}
	t.Digests = make([][32]byte, t.Data+t.Parity)
	for i := range t.Digests {
		t.Digests[i] = [32]byte(b[trailerFixed+32*i:])
	}
	if err := t.validate(); err != nil {
		return nil, err
	}
	// One encoding: whatever was not looked at above (copies of fields, file size, zeros, footer) is compared here.
	if string(t.Append(nil)) != string(b[:t.size()]) {
		return nil, errors.New("not in its one form")
	}
	return t, nil
}
