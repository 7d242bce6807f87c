package check

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"packhold/crypt"
	"packhold/index"
	"packhold/repo/format"
)

// maxFailed bounds the size of what is noted: 200,000 copies of blobs are 16 MB. Where more failed their packs count as lost.
const maxFailed = 200_000

func refOf(p *index.PackInfo) format.PackRef {
	return format.PackRef{Name: p.Name, Tree: p.Tree(), Incarnation: p.Incarnation}
}

// lostPack notes that nothing should rely on a pack. What can be read of it still is.
func (c *checker) lostPack(p *index.PackInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lostPacks[refOf(p)] = true
}

// lostBlob notes that no copy of a blob can be read.
func (c *checker) lostBlob(id crypt.ID) {
	places := c.r.Index().Places(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bad[id] = true
	for _, p := range places {
		c.failed[format.FailedBlob{ID: id, Pack: p.Pack.Name}] = refOf(p.Pack)
	}
}

// sumLost completes the report.
func (c *checker) sumLost() {
	many := len(c.failed) > maxFailed
	for f, p := range c.failed {
		// An entry has no room for an incarnation.
		if many || p.Incarnation != 0 {
			c.lostPacks[p] = true
			delete(c.failed, f)
		}
	}
	c.rep.Lost = slices.SortedFunc(maps.Keys(c.lostPacks), format.PackRef.Compare)
	c.rep.Failed = slices.SortedFunc(maps.Keys(c.failed), func(a, b format.FailedBlob) int {
		return cmp.Or(bytes.Compare(a.ID[:], b.ID[:]), bytes.Compare(a.Pack[:], b.Pack[:]))
	})
}
