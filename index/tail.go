package index

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"packhold/crypt"
)

const (
	shardBits   = 6 // shards by the top bits of the ID, so that the shards in order are the tail in order
	shardCount  = 1 << shardBits
	chunkSize   = 256       // records allocated at once
	minSlots    = 64        // of a shard's hash table
	claimed     = 1<<32 - 1 // the row of a record that only says: this session stores the blob
	maxTailRows = claimed
)

// record is an entry of the tail, or a claim. It holds no pointer, so the garbage collector does not look inside.
type record struct {
	id          crypt.ID
	row         uint32 // of the pack in Index.rows, or claimed
	offset      uint32
	length      uint32
	raw         uint32
	next        uint32 // number + 1 of the next record with the same ID, or 0
	compression crypt.Compression
}

// shard holds the records of the IDs that start with the same shardBits bits: a hash table with linear probing of
// (upper 32 bits of the hash, number + 1 of the first record), over records that never move. A blob costs
// 56 bytes and 11 to 21 for its slot.
type shard struct {
	mu     sync.RWMutex
	slots  []uint64
	ids    int // slots in use
	count  uint32
	chunks [][]record
	_      [24]byte // two shards share no cache line
}

// tail is the part of the index in memory. The hash is seeded, so that crafted IDs cannot make it slow.
type tail struct {
	seed   maphash.Seed
	count  atomic.Int64 // records and claims
	shards [shardCount]shard
}

func (t *tail) shard(id *crypt.ID) *shard { return &t.shards[id[0]>>(8-shardBits)] }

func (t *tail) tag(id *crypt.ID) uint32 { return uint32(maphash.Bytes(t.seed, id[:]) >> 32) }

func (s *shard) record(number uint32) *record { return &s.chunks[number/chunkSize][number%chunkSize] }

// slot returns the place of id in slots: where it is, or where it would go. There must be a free slot.
func (s *shard) slot(id *crypt.ID, tag uint32) int {
	mask := uint32(len(s.slots) - 1)
	for i := tag & mask; ; i = (i + 1) & mask {
		v := s.slots[i]
		if v == 0 || uint32(v>>32) == tag && s.record(uint32(v)-1).id == *id {
			return int(i)
		}
	}
}

// first returns the first record of id, or nil. The caller holds mu.
func (s *shard) first(id *crypt.ID, tag uint32) *record {
	if len(s.slots) == 0 {
		return nil
	}
	if v := s.slots[s.slot(id, tag)]; v != 0 {
		return s.record(uint32(v) - 1)
	}
	return nil
}

func (s *shard) following(r *record) *record {
	if r.next == 0 {
		return nil
	}
	return s.record(r.next - 1)
}

// insert puts r before the other records of its ID. The caller holds mu for writing.
func (s *shard) insert(r record, tag uint32) {
	if s.ids >= len(s.slots)/4*3 {
		s.grow()
	}
	if s.count%chunkSize == 0 {
		s.chunks = append(s.chunks, make([]record, chunkSize))
	}
	i := s.slot(&r.id, tag)
	if s.slots[i] == 0 {
		s.ids++
	}
	r.next = uint32(s.slots[i])
	*s.record(s.count) = r
	s.count++
	s.slots[i] = uint64(tag)<<32 | uint64(s.count)
}

// grow doubles the table. Slots hold all bits of the hash that tables of up to 2^32 slots use, so records are not touched.
func (s *shard) grow() {
	old := s.slots
	s.slots = make([]uint64, max(minSlots, 2*len(old)))
	mask := uint32(len(s.slots) - 1)
	for _, v := range old {
		if v == 0 {
			continue
		}
		i := uint32(v>>32) & mask
		for s.slots[i] != 0 {
			i = (i + 1) & mask
		}
		s.slots[i] = v
	}
}

// sorted returns copies of the records of shard n that keep allows, by ID; records of one ID stand newest first.
func (t *tail) sorted(n int, keep func(row uint32) bool) []record {
	s := &t.shards[n]
	s.mu.RLock()
	list := make([]record, 0, s.count)
	for i := range s.count {
		if r := s.record(i); r.row != claimed && keep(r.row) {
			list = append(list, *r)
		}
	}
	s.mu.RUnlock()
	sortRecords(list)
	return list
}
