package index

import (
	"maps"
	"slices"
	"sync/atomic"

	"packhold/crypt"
)

// Exclude sets which packs do not count, in place of what an earlier call said: finals, condemned sets, packs gone or failed.
// It holds for the packs of segments added later too. Claims and answers given before stand.
func (x *Index) Exclude(packs map[PackID]Exclusion) {
	x.mu.Lock()
	defer x.mu.Unlock()
	before := len(x.excluded) > 0
	x.excluded = make(map[PackID]Exclusion, len(packs))
	for p, e := range packs {
		if e &= NoDedup | Final; e != 0 {
			x.excluded[p] = e
		}
	}
	for _, p := range *x.rows.Load() {
		setState(p.state, NoDedup|Final, x.excluded[p.PackID])
	}
	b := x.usableBase()
	if b == nil || len(x.excluded) == 0 && !before {
		return
	}
	for row := range b.packs {
		p, err := b.infoOnce(row)
		if err != nil {
			x.fail(err)
			return
		}
		setState(&b.about[row].state, NoDedup|Final, x.excluded[p.PackID])
	}
}

// ExcludeSessions sets for which writer sessions, by their record, packs do not count for deduplication (a revoked host's, those
// of another domain), in place of what an earlier call said; nil means none. absent is called for each session
// record there is, and for later ones as they come; it must not call x.
func (x *Index) ExcludeSessions(absent func(session []byte) bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	before := x.absent != nil
	x.absent = absent
	if absent == nil && !before {
		return
	}
	for i, r := range x.sessions {
		x.verdicts[i] = x.verdict(r)
	}
	for _, p := range *x.rows.Load() {
		setState(p.state, absentSession, x.verdicts[x.tailNumber(p.Session)])
	}
	b := x.usableBase()
	if b == nil {
		return
	}
	verdicts := make([]Exclusion, b.sessions)
	for i := range verdicts {
		r, err := b.session(uint32(i))
		if err != nil {
			x.fail(err)
			return
		}
		verdicts[i] = x.verdict(r)
	}
	for row := range b.packs {
		p, err := b.infoOnce(row)
		if err != nil {
			x.fail(err)
			return
		}
		setState(&b.about[row].state, absentSession, verdicts[p.Session])
	}
}

// ExcludeBlobs sets which copies of blobs were found lost: they count as absent for Has and Claim, and are the last choice of
// Lookup. It takes the place of what an earlier call said.
func (x *Index) ExcludeBlobs(lost map[crypt.ID][]PackID) {
	if len(lost) == 0 {
		x.lost.Store(nil)
		return
	}
	c := make(map[crypt.ID][]PackID, len(lost))
	for id, p := range lost {
		c[id] = slices.Clone(p)
	}
	x.lost.Store(&c)
}

// Retain forgets every segment that live does not hold: what the storage no longer lists counts for nothing.
// Packs of this session that no segment names yet stay.
func (x *Index) Retain(live map[crypt.ID]struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	tail := *x.rows.Load()
	maps.DeleteFunc(x.segments, func(name crypt.ID, rows []uint32) bool {
		if _, ok := live[name]; ok {
			return false
		}
		for _, row := range rows {
			setState(tail[row].state, dropped, dropped)
		}
		return true
	})
	if x.base == nil {
		return
	}
	for i, s := range x.base.segments {
		if _, ok := live[s.name]; ok {
			continue
		}
		x.base.drop(i)
	}
}

// verdict asks what ExcludeSessions was given. The caller holds mu.
func (x *Index) verdict(session []byte) Exclusion {
	if x.absent != nil && x.absent(session) {
		return absentSession
	}
	return 0
}

// setState replaces the bits of mask. The caller holds mu, so nobody else writes.
func setState(s *atomic.Uint32, mask, to Exclusion) {
	if old := s.Load(); Exclusion(old)&mask != to {
		s.Store(old&^uint32(mask) | uint32(to))
	}
}

// inBase reports whether the base may be asked for the entries of a segment. The caller holds mu.
func (x *Index) inBase(name crypt.ID) bool {
	b := x.usableBase()
	if b == nil {
		return false
	}
	i, ok := slices.BinarySearchFunc(b.segments, name, func(s segmentRef, n crypt.ID) int { return compareIDs(s.name, n) })
	return ok && !b.gone[i]
}

// drop excludes the rows of segment i. The caller holds Index.mu.
func (b *base) drop(i int) {
	b.gone[i] = true
	for row := b.starts[i]; row < b.starts[i+1]; row++ {
		setState(&b.about[row].state, dropped, dropped)
	}
}

// infoOnce is info without keeping the result: a walk over all packs should not fill memory.
func (b *base) infoOnce(row uint32) (*PackInfo, error) {
	if p := b.about[row].info.Load(); p != nil {
		return p, nil
	}
	return b.readInfo(row)
}
