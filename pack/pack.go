// Package pack lays sealed blobs out in pack files and finds them again.
//
// It owns compression, layout, shard digests and parity, and does no I/O of its own. A pack is, in this order
// (integers little-endian; repo/FORMAT.md is the full text):
//
//	header 48 | sealed blobs | zeros | sealed table | locator 64    the protected part: k data shards of S bytes
//	trailer                                                         a multiple of 4 KiB
//	m parity shards of S bytes
//	trailer                                                         the same bytes again
//
// A pack is named by the SHA-256 of its trailer, which holds the digests of all shards: the name commits to every byte
// of the file, so a scrub needs no key and a false repair is impossible.
package pack

import (
	"errors"
	"fmt"

	"packhold/crypt"
)

// The limits of format 1, enforced on everything that is read.
const (
	MaxRaw        = 16 << 20  // bytes of one blob's plaintext
	MaxFile       = 256 << 20 // bytes of a pack file
	MaxParity     = 16        // parity shards
	MaxTable      = 32 << 20  // bytes of a sealed table, some 800,000 blobs
	MaxSession    = 16 << 10  // bytes of a session record
	MaxTrailer    = 8192      // bytes of a trailer: reading this much from the end of a file is enough to parse it
	DefaultTarget = 32 << 20  // bytes of a protected part
)

// The shard hashes, which are the variants of a pack header.
const (
	ShardBLAKE3 uint8 = 1
	ShardSHA256 uint8 = 2
)

const (
	block       = 4096 // everything but the blobs is laid out in sectors of disks
	locatorSize = 64
	minShard    = block
	maxShards   = 128 // data shards, because a shard is at least 1/64 of the length and less than 1/64 of it doubled
	// minLength is the unpadded length of the smallest pack: a blob of one byte, and a table of one block.
	minLength = crypt.HeaderSize + crypt.Overhead + 1 + block + locatorSize
)

// Entry is the place of a blob in its pack.
type Entry struct {
	ID          crypt.ID
	Compression crypt.Compression
	Offset      uint32 // from the start of the file
	Length      uint32 // sealed bytes
	Raw         uint32 // plaintext bytes
}

// Info is what the blob's associated data says, in a pack of the given type.
func (e Entry) Info(kind crypt.Type) crypt.BlobInfo {
	return crypt.BlobInfo{ID: e.ID, Raw: e.Raw, Compression: e.Compression, Tree: kind == crypt.TypeTreePack}
}

// check refuses an entry that no Builder writes.
func (e Entry) check() error {
	switch {
	case e.ID.IsZero():
		return errors.New("blob has the zero ID")
	case e.Raw == 0 || e.Raw > MaxRaw:
		return fmt.Errorf("blob %v has %d bytes, allowed are 1 to %d", e.ID, e.Raw, MaxRaw)
	case e.Compression > crypt.ZstdBest:
		return fmt.Errorf("blob %v has unknown compression %d", e.ID, e.Compression)
	case e.Compression == crypt.Uncompressed && e.Length != e.Raw+crypt.Overhead,
		e.Compression != crypt.Uncompressed && (e.Length <= crypt.Overhead || e.Length >= e.Raw+crypt.Overhead):
		return fmt.Errorf("blob %v of %d bytes cannot take %d sealed bytes", e.ID, e.Raw, e.Length)
	}
	return nil
}

// checkHeader refuses the header of anything but a pack.
func checkHeader(h crypt.Header) error {
	if h.Type != crypt.TypeDataPack && h.Type != crypt.TypeTreePack {
		return fmt.Errorf("a %v is not a pack", h.Type)
	}
	if h.Variant != ShardBLAKE3 && h.Variant != ShardSHA256 {
		return fmt.Errorf("unknown shard hash %d", h.Variant)
	}
	return nil
}

// geometry returns the number of data shards and their size for an unpadded length of the protected part: the size is
// the largest power of two of at most a 64th, but a sector at least, so one bad sector is one bad shard and padding
// costs at most a 64th.
func geometry(length int) (shards, size int) {
	size = minShard
	for size*2 <= length/64 {
		size *= 2
	}
	return (length + size - 1) / size, size
}

// roundUp returns the smallest multiple of block that is at least n.
func roundUp(n int) int { return (n + block - 1) &^ (block - 1) }

// BufferSize is the memory that a pack of the given target and parity can take: all of it, with parity and trailers.
// It is what a Builder wants of its buffer.
func BufferSize(target, parity int) int {
	if target <= 0 {
		target = DefaultTarget
	}
	k, s := geometry(max(target, minLength))
	return (k+max(parity, 0))*s + 2*MaxTrailer
}
