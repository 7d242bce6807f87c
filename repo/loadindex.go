package repo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// LoadIndex reads what the storage says of packs: first the condemned sets and finals, then the index segments, as far as the
// cache does not hold them. It is called before anything looks up blobs. A Reader that misses a pack calls it again by itself.
// It may be called concurrently with everything else.
func (r *Repo) LoadIndex(ctx context.Context) error {
	r.loadMu.Lock() // held over storage calls: whoever else wants the index waits for this reading of it
	defer r.loadMu.Unlock()
	return r.loadLocked(ctx)
}

// LoadListed is LoadIndex that also looks packs up in the storage's listing: where a blob has several copies, one that is there is then
// preferred. It is for operations that read much.
func (r *Repo) LoadListed(ctx context.Context) error {
	r.loadMu.Lock()
	defer r.loadMu.Unlock()
	r.listPacks = true
	return r.loadLocked(ctx)
}

func (r *Repo) loadLocked(ctx context.Context) error {
	began := r.now()
	if err := r.loadIndex(ctx); err != nil {
		return fmt.Errorf("reading index: %w", err)
	}
	r.loads++
	r.loaded = r.now()
	r.loading = r.loaded.Sub(began)
	return nil
}

// freshIndex returns the index to add to: the one there is, unless it failed or holds what a session without a commit claimed.
func (r *Repo) freshIndex() *index.Index {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.index.Load()
	switch {
	case x == nil || r.stale || r.active && len(r.unnamed.packs) > 0: // what no segment names is a session's to adopt
		x = index.New()
		if r.cache != "" {
			x, _ = index.Open(r.cache, r.cacheKey()) // a cold cache costs time, nothing else
		}
	case x.Err() != nil: // the cache failed while in use
		x = index.New()
	}
	r.stale = false
	return x
}

func (r *Repo) inSession() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.active
}

func (r *Repo) loadIndex(ctx context.Context) error {
	excluded, all, err := r.readCondemned(ctx)
	if err != nil {
		return err
	}
	lost, err := r.readVerified(ctx, all, excluded.packs)
	if err != nil {
		return err
	}
	r.dead, r.blind = maps.Clone(excluded.packs), excluded.blind
	infos, err := all.List(ctx, r.storage, "index/")
	if err != nil {
		return err
	}
	live := make(map[crypt.ID]struct{}, len(infos))
	sizes := make(map[crypt.ID]int64, len(infos))
	for _, i := range infos {
		id, err := crypt.ParseID(strings.TrimPrefix(i.Name, "index/"))
		if err != nil {
			return stored.Damaged("listing", i.Name, err)
		}
		live[id] = struct{}{}
		sizes[id] = i.Size
	}
	l := loader{r: r, x: r.freshIndex(), sizes: sizes, room: stored.NewBudgetOf(segmentsBudget), without: make(map[crypt.ID]bool), fold: r.cache != ""}
	l.fold = l.fold && l.x != r.index.Load() // nobody uses it yet
	if r.unnamed.x != l.x {
		r.unnamed = unnamed{packs: make(map[crypt.ID]index.PackID)}
	}
	for name, p := range r.unnamed.packs {
		live[name] = struct{}{}
		l.without[name] = true
		excluded.packs[p] |= index.NoDedup
	}
	l.exclude = func(x *index.Index) { // before segments are added, so that nobody relies on what is condemned, not even for an instant
		x.Exclude(excluded.packs)
		x.ExcludeSessions(r.absentFor(r.alone))
		x.ExcludeBlobs(lost)
	}
	l.exclude(l.x)
	if err := l.read(ctx, live); err != nil {
		return err
	}
	x := l.x
	r.unnamed.x = x
	// Old segments go last: a concurrent lookup sees a pack that moved from one to another twice rather than never.
	x.DropSuperseded(live, l.news)
	x.Retain(live)
	r.badIndex = l.bad
	// A session adopts what is its own host's, and counts on nothing else that no segment names. That something was missed, so that the index
	// is read again, may be for a segment that is gone.
	if (l.bad || r.loads > 0) && !r.inSession() {
		if err := r.addUnnamed(ctx, x, excluded.packs); err != nil {
			return err
		}
	}
	if excluded.blind || r.listPacks {
		if err := r.excludeUnlisted(ctx, all, x, excluded.packs); err != nil {
			return err
		}
	}
	if err := x.Err(); err != nil {
		return err
	}
	r.index.Store(x)
	return nil
}

// readVerified reads what readers found lost: packs, which it adds to excluded, and copies of blobs. Both count as absent for dedup, so
// that the next backup stores them again.
func (r *Repo) readVerified(ctx context.Context, all *stored.Survey, excluded map[index.PackID]index.Exclusion) (map[crypt.ID][]index.PackID, error) {
	lost := make(map[crypt.ID][]index.PackID)
	return lost, r.eachVerified(ctx, all, func(v *format.Verified) {
		for _, p := range v.Lost {
			excluded[index.PackID{Name: p.Name, Incarnation: p.Incarnation}] |= index.NoDedup
		}
		for _, f := range v.Failed {
			lost[f.ID] = append(lost[f.ID], index.PackID{Name: f.Pack})
		}
	})
}

// EachVerified calls f, one call at a time, with what readers found that counts.
func (r *Repo) EachVerified(ctx context.Context, f func(*format.Verified)) error {
	return r.eachVerified(ctx, nil, f)
}

func (r *Repo) eachVerified(ctx context.Context, all *stored.Survey, f func(*format.Verified)) error {
	infos, err := all.List(ctx, r.storage, "verified/")
	if err != nil {
		return err
	}
	return stored.Each(ctx, r.storage, infos, func(i backends.Info, object []byte, err error) error {
		var v *format.Verified
		if err == nil {
			v, err = r.control().Verified(i.Name, object)
		}
		switch {
		case stored.Missing(err):
			return nil
		case stored.Isolated(err), stored.Unreadable(err):
			r.problem(i.Name, err)
			return nil
		case err != nil:
			return err
		case !r.trust.Revoked(v.Host):
			f(v)
		}
		return nil
	})
}

// tailMost is how many entries of segments stay in memory, at under 100 bytes each. More go to the cache file, so that a host that comes new to a
// large repository needs no more memory than one that knows it. Each time the file is written anew: 10,000,000 entries in large segments took 15 s, and
// 13 s with four times as many in memory.
const tailMost = 1 << 18

// segmentsBudget is how many bytes of segments are read at once: they take three times as much while they are opened and decoded.
const segmentsBudget = 16 << 20

// loader adds segments to an index.
type loader struct {
	r     *Repo
	x     *index.Index
	fold  bool               // the cache may be written, and x be another
	sizes map[crypt.ID]int64 // of the segments, as they were listed
	room  stored.Budget

	exclude func(*index.Index) // says what does not count

	mu      sync.Mutex        // guards what follows
	without map[crypt.ID]bool // names that bring nothing: they cannot be used, are gone, or are no segments
	news    []index.Superseding
	bad     bool // some segment is
}

// read adds the segments of live that x lacks.
func (l *loader) read(ctx context.Context, live map[crypt.ID]struct{}) error {
	for {
		todo := maps.Clone(live)
		for _, id := range l.x.Segments() {
			delete(todo, id)
		}
		for id := range l.without {
			delete(todo, id)
		}
		if len(todo) == 0 {
			return nil
		}
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(4)
		for _, id := range slices.SortedFunc(maps.Keys(todo), func(a, b crypt.ID) int { return slices.Compare(a[:], b[:]) }) {
			if l.full() {
				break
			}
			g.Go(func() error { return l.load(gctx, id) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if l.full() {
			l.toCache()
		}
	}
}

func (l *loader) full() bool { return l.fold && l.x.TailLen() > l.r.tailMost }

// toCache moves what x has in memory to the cache file. It happens once more only where that worked: a full disk costs memory then.
func (l *loader) toCache() {
	l.fold = false
	if l.x.WriteCache(l.r.cache, l.r.cacheKey()) != nil {
		return
	}
	next, cold := index.Open(l.r.cache, l.r.cacheKey())
	had, has := l.x.Segments(), next.Segments()
	if cold != nil || !slices.Equal(had, has) { // another process may have put its own there
		next.Close()
		return
	}
	l.x.Close()
	l.exclude(next)
	l.x, l.fold = next, true
}

// load adds one segment. A bad one is isolated and reported; the others still count.
func (l *loader) load(ctx context.Context, id crypt.ID) error {
	name := "index/" + id.String()
	b, done, err := l.room.FetchListed(ctx, l.r.storage, backends.Info{Name: name, Size: l.sizes[id]})
	defer done()
	var seg *index.Segment
	if err == nil {
		seg, err = l.r.control().Segment(name, b)
	}
	if err == nil {
		if err = l.x.AddSegment(id, seg); err != nil {
			err = stored.Damaged("reading", name, err)
		}
	}
	switch {
	case stored.Isolated(err), stored.Unreadable(err):
		l.r.problem(name, err)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.bad, l.without[id] = true, true
		return nil
	case stored.Missing(err): // compacted between the listing and now: what replaced it was listed, or the reader that misses it looks again
		l.mu.Lock()
		defer l.mu.Unlock()
		l.without[id] = true
		return nil
	case err != nil:
		return err
	}
	// A revoked host's segments may still be read, since every blob is checked by its ID, but take nothing away.
	if len(seg.Supersedes) > 0 && !l.r.trust.Revoked(crypt.HostID(seg.Host)) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.news = append(l.news, index.Superseding{By: id, Supersedes: seg.Supersedes, Companions: seg.Companions})
	}
	return nil
}

// excludeUnlisted makes packs that the storage does not list, or lists with another size, count as absent for dedup. It is for the day when a
// final is lost, and for backups, which so store again what was lost. A listing that lags costs storing twice, nothing else.
func (r *Repo) excludeUnlisted(ctx context.Context, all *stored.Survey, x *index.Index, excluded map[index.PackID]index.Exclusion) error {
	listed, err := all.Packs(ctx, r.storage)
	if err != nil {
		return err
	}
	lost := false
	for p, err := range x.Packs() {
		if err != nil {
			return err
		}
		if size, ok := listed.Size(p.Name, p.Incarnation); !ok || uint64(size) != p.Size {
			excluded[p.PackID] |= index.NoDedup
			lost = true
		}
	}
	if lost {
		x.Exclude(excluded)
	}
	return nil
}

// cacheKey authenticates this repository's cache on this machine. Without a credential it comes from the chunker secret, which every
// holder of a passphrase has.
func (r *Repo) cacheKey() [32]byte {
	secret := r.keys.Chunker
	if r.keys.Local != nil {
		secret = *r.keys.Local
	}
	return crypt.Sum(append(append([]byte("packhold/local/index"), secret[:]...), r.config.ID[:]...))
}

// absentFor tells whether packs of a session do not count for dedup: those of a revoked host, of one that has no certificate, and
// those of another dedup domain; with alone all but those of that session.
func (r *Repo) absentFor(alone crypt.SessionID) func(record []byte) bool {
	return func(record []byte) bool {
		rec, err := crypt.ParseSessionRecord(record)
		if err != nil || r.trust.Revoked(rec.Host) || alone != (crypt.SessionID{}) && rec.Session != alone {
			return true
		}
		if r.keys.Identity == nil || rec.Host == r.keys.Identity.Host {
			return false
		}
		return r.unknownRevocation || !r.trust.SameDomain(r.keys.Identity.Host, rec.Host, r.settings.Domains)
	}
}

// Index returns the loaded index; nil before LoadIndex.
func (r *Repo) Index() *index.Index { return r.index.Load() }

// SaveCache writes the index cache, so that the next run need not read the segments. A failure costs time only: the caller
// may tell, and goes on.
func (r *Repo) SaveCache() error {
	if r.keeper != nil {
		_ = r.keeper.Save()
	}
	x := r.index.Load()
	if r.cache == "" || x == nil || x.TailLen() == 0 {
		return nil
	}
	return x.WriteCache(r.cache, r.cacheKey())
}
