package gc

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/stored"
)

// Segments with fewer than smallSegment entries are put together once there are manySmall of them, so that a host which comes new does not read one for each
// backup ever made.
const (
	smallSegment = 10_000
	manySmall    = 16
)

// merger puts segments together.
type merger struct {
	p   *pruner
	s   *repo.Session
	old []crypt.ID // whose place is taken
	new []crypt.ID

	join  index.Joiner
	packs map[index.PackID]crypt.ID // that the new segments name, and the hash of what they say of it
}

// compact writes segments in place of those that name packs which are gone, and of small ones. The last of the new ones says so, and counts only where the
// others are there; then the old ones go. Segments of open sessions stay as they are: they are being read back.
func (p *pruner) compact(ctx context.Context, s *repo.Session) error {
	sets, err := readSets(ctx, p.r)
	if err != nil {
		return err
	}
	gone := make(map[index.PackID]bool)
	for _, t := range sets {
		if t.final && !t.bad {
			for _, ref := range t.packs {
				gone[index.PackID{Name: ref.Name, Incarnation: ref.Incarnation}] = true
			}
		}
	}
	infos, _, err := stored.List(ctx, p.r.Storage(), "index/")
	if err != nil {
		return err
	}
	leases, err := p.r.Leases(ctx) // after the segments: the lease of whoever stored one was there before it
	if err != nil {
		return err
	}
	var stale, small []backends.Info
	for _, i := range infos {
		seg, err := p.segment(ctx, i.Name)
		if err != nil {
			return err
		}
		var l *repo.Lease
		if seg != nil {
			l = leases[crypt.SessionID(seg.Session)]
		}
		switch {
		case seg == nil, l != nil && !l.Ended:
		case slices.ContainsFunc(seg.Packs, func(k index.Pack) bool { return gone[k.PackID] }):
			stale = append(stale, i)
		case len(seg.Entries) < smallSegment:
			small = append(small, i)
		}
	}
	if len(stale) > 0 || len(small) >= manySmall {
		stale = append(stale, small...)
	}
	if len(stale) == 0 {
		return nil
	}
	m := &merger{p: p, s: s, packs: make(map[index.PackID]crypt.ID)}
	for _, i := range stale[:min(len(stale), index.MaxNames)] {
		seg, err := p.segment(ctx, i.Name)
		if err != nil {
			return err
		}
		if seg == nil {
			continue
		}
		if err := m.add(ctx, i.Name, seg, gone); err != nil {
			return err
		}
	}
	if err := m.finish(ctx); err != nil {
		return err
	}
	p.res.Segments = len(m.old)
	for _, id := range m.old {
		err := p.r.Storage().Delete(ctx, "index/"+id.String())
		if err != nil && !stored.Missing(err) && !errors.Is(err, fs.ErrPermission) { // it says nothing new, so it may stay
			return stored.Failed("removing", "index/"+id.String(), err)
		}
	}
	return nil
}

// segment reads one segment; nil is one that cannot be used, or that is gone.
func (p *pruner) segment(ctx context.Context, name string) (*index.Segment, error) {
	object, err := stored.Fetch(ctx, p.r.Storage(), name)
	var seg *index.Segment
	if err == nil {
		seg, err = p.r.SegmentObject(name, object)
	}
	if stored.Missing(err) || stored.Isolated(err) {
		return nil, nil
	}
	return seg, err
}

// add takes over what a segment says of packs that are not gone. One that says something else of a pack than another did stays beside the new ones, with
// all that is in it: a host may say of another's pack what is not so, and must not take the place of what its owner says.
func (m *merger) add(ctx context.Context, name string, old *index.Segment, gone map[index.PackID]bool) error {
	id, err := crypt.ParseID(strings.TrimPrefix(name, "index/"))
	if err != nil {
		return stored.Damaged("reading", name, err)
	}
	entries := make([][]index.Entry, len(old.Packs))
	for _, e := range old.Entries {
		entries[e.Pack] = append(entries[e.Pack], e)
	}
	said := make([]crypt.ID, len(old.Packs))
	for n, k := range old.Packs {
		if said[n], err = saidOf(k, old.Sessions[k.Session], entries[n]); err != nil {
			return err
		}
		if have, named := m.packs[k.PackID]; named && have != said[n] && !gone[k.PackID] {
			return nil
		}
	}
	m.old = append(m.old, id)
	for n, k := range old.Packs {
		if _, named := m.packs[k.PackID]; named || gone[k.PackID] {
			continue
		}
		m.packs[k.PackID] = said[n]
		for !m.join.Add(k, old.Sessions[k.Session], entries[n]) {
			if err := m.put(ctx, m.join.Take()); err != nil {
				return err
			}
		}
	}
	return nil
}

// saidOf hashes what a segment says of a pack: that of one with nothing else in it.
func saidOf(k index.Pack, session []byte, entries []index.Entry) (crypt.ID, error) {
	k.Session = 0
	one := index.Segment{Sessions: [][]byte{session}, Packs: []index.Pack{k}, Entries: slices.Clone(entries)}
	for i := range one.Entries {
		one.Entries[i].Pack = 0
	}
	b, err := one.Marshal()
	return crypt.Sum(b), err
}

// put stores a new segment.
func (m *merger) put(ctx context.Context, seg *index.Segment) error {
	id, err := m.s.PutSegment(ctx, seg)
	m.new = append(m.new, id)
	return err
}

// finish stores the last segment, which takes the place of the old ones.
func (m *merger) finish(ctx context.Context) error {
	last := cmp.Or(m.join.Take(), new(index.Segment))
	byName := func(a, b crypt.ID) int { return slices.Compare(a[:], b[:]) }
	slices.SortFunc(m.old, byName)
	last.Supersedes, last.Companions = m.old, slices.SortedFunc(slices.Values(m.new), byName)
	return m.put(ctx, last)
}
