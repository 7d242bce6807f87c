// Package index maps blob IDs to their places in packs.
//
// An Index is a base, the sorted cache file of the segments that earlier runs read, and a tail, the segments and packs that were
// added since, in memory. The truth is in the storage: the caller lists the segments there, calls Retain with their names,
// adds the ones that Segments lacks, and says with Exclude which packs no longer count. Only then are Has and Claim to be trusted.
package index

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"packhold/crypt"
)

// Exclusion says what a pack no longer counts for.
type Exclusion uint8

const (
	// NoDedup is for packs that may be read but must not be relied on: those of condemned sets, of other dedup domains, and
	// those a reader found damaged. Has and Claim treat their blobs as absent.
	NoDedup Exclusion = 1 << iota
	// Final is for packs that a final names: they are gone for ever and their entries do not exist.
	Final
	absentSession // by ExcludeSessions: as NoDedup
	dropped       // by Retain: as Final
)

// PackInfo is what the index keeps of a pack: not the trailer, which is in the segment.
// It is shared and must not be changed.
type PackInfo struct {
	PackID
	Kind      crypt.Type // TypeDataPack or TypeTreePack
	Class     string
	Retention string
	Session   uint32 // for Index.Session
	Size      uint64
	Salt      [32]byte
	Epoch     uint32
	state     *atomic.Uint32
	used      *atomic.Bool
}

// Tree reports whether p holds tree pages.
func (p *PackInfo) Tree() bool { return p.Kind == crypt.TypeTreePack }

// Excluded returns the exclusions of p at this moment: a sum of NoDedup and Final, or 0.
func (p *PackInfo) Excluded() Exclusion {
	s, x := Exclusion(p.state.Load()), Exclusion(0)
	if s&(NoDedup|absentSession) != 0 {
		x |= NoDedup
	}
	if s&(Final|dropped) != 0 {
		x |= Final
	}
	return x
}

// Place is where a blob lies: Length sealed bytes from Offset of Pack.
type Place struct {
	Pack        *PackInfo
	Offset      uint32
	Length      uint32
	Raw         uint32
	Compression crypt.Compression
}

// Located is a blob and one of its places.
type Located struct {
	ID crypt.ID
	Place
}

// Index finds blobs. All methods may be called concurrently, except Close, which must be the last call.
type Index struct {
	base   *base // nil if there is none
	failed atomic.Pointer[error]
	tail   tail
	rows   atomic.Pointer[[]*PackInfo]           // of the tail; only ever appended to, under mu
	lost   atomic.Pointer[map[crypt.ID][]PackID] // see ExcludeBlobs; nil if empty

	mu       sync.Mutex            // guards what follows, and every change of rows and of a pack's state
	segments map[crypt.ID][]uint32 // of the tail: rows, in the order of the segment's packs
	sessions [][]byte              // of the tail
	verdicts []Exclusion           // of ExcludeSessions on them
	session  map[[32]byte]uint32   // number of a session of the tail, by hash
	own      map[PackID]uint32     // rows of packs that Add brought and no segment names yet
	unsaved  []ownPack
	excluded map[PackID]Exclusion
	absent   func(session []byte) bool
}

// ownPack is a pack that Add brought and Unsaved has not given out yet.
type ownPack struct {
	Pack
	row     uint32
	entries int
}

// New returns an empty Index without a cache file.
func New() *Index {
	x := &Index{segments: map[crypt.ID][]uint32{}, session: map[[32]byte]uint32{}, own: map[PackID]uint32{}}
	x.tail.seed = maphash.MakeSeed()
	x.rows.Store(new([]*PackInfo))
	return x
}

// Open returns an Index over the cache file that WriteCache made at path under the same key. The key is local to this machine
// and repository, so a cache of another repository is refused. It reads the head only, which takes milliseconds. The Index is never nil:
// where the file is missing (fs.ErrNotExist), damaged or foreign, it is empty and cold says why.
func Open(path string, key [32]byte) (x *Index, cold error) { return open(path, key, true) }

func open(path string, key [32]byte, mapped bool) (*Index, error) {
	x := New()
	b, err := openBase(path, key, mapped)
	if err != nil {
		return x, fmt.Errorf("opening index cache: %w", err)
	}
	x.base = b
	return x, nil
}

// Close releases the cache file.
func (x *Index) Close() error {
	if x.base == nil {
		return nil
	}
	return x.base.src.close()
}

// Err returns what was found wrong with the cache file since Open, or nil. From then on the base is not used: Segments
// no longer lists its segments and their blobs count as absent, until AddSegment brings them again from the storage. An answer given before was right.
// A caller that a Lookup tells "absent" must ask Err before it believes it.
func (x *Index) Err() error {
	if p := x.failed.Load(); p != nil {
		return *p
	}
	return nil
}

func (x *Index) fail(err error) {
	err = fmt.Errorf("reading index cache: %w", err)
	x.failed.CompareAndSwap(nil, &err)
}

// usableBase returns the base if it may be asked, otherwise nil.
func (x *Index) usableBase() *base {
	if x.base == nil || x.failed.Load() != nil {
		return nil
	}
	return x.base
}

// Segments returns the names of the segments whose entries x holds, ascending.
func (x *Index) Segments() []crypt.ID {
	x.mu.Lock()
	defer x.mu.Unlock()
	names := slices.Collect(maps.Keys(x.segments))
	if b := x.usableBase(); b != nil {
		for i, s := range b.segments {
			if !b.gone[i] {
				names = append(names, s.name)
			}
		}
	}
	slices.SortFunc(names, compareIDs)
	return slices.Compact(names)
}

// TailLen returns how many entries and claims are in memory. Each takes under 100 bytes: a caller that loads many segments
// writes the cache and opens it again whenever this reaches its budget.
func (x *Index) TailLen() int { return int(x.tail.count.Load()) }

// BaseLen returns how many entries the cache file holds.
func (x *Index) BaseLen() int {
	if b := x.usableBase(); b != nil {
		return int(b.entries)
	}
	return 0
}

// AddSegment adds the content of a segment that the storage holds under name. A segment that is there already is passed over.
// Claims of its blobs stay: whoever claimed one stores it.
func (x *Index) AddSegment(name crypt.ID, s *Segment) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("adding segment %v: %w", name, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, ok := x.segments[name]; ok || x.inBase(name) {
		return nil
	}
	rows := make([]uint32, len(s.Packs))
	refs := make([]uint32, len(s.Sessions))
	for i, r := range s.Sessions {
		refs[i] = x.sessionRef(r)
	}
	for i := range s.Packs {
		row, err := x.addRow(&s.Packs[i], refs[s.Packs[i].Session])
		if err != nil {
			return fmt.Errorf("adding segment %v: %w", name, err)
		}
		rows[i] = row
	}
	x.segments[name] = rows
	for from := 0; from < len(s.Entries); {
		sh := x.tail.shard(&s.Entries[from].ID)
		sh.mu.Lock()
		to := from
		for ; to < len(s.Entries) && x.tail.shard(&s.Entries[to].ID) == sh; to++ {
			e := &s.Entries[to]
			sh.insert(e.record(rows[e.Pack]), x.tail.tag(&e.ID))
		}
		sh.mu.Unlock()
		from = to
	}
	x.tail.count.Add(int64(len(s.Entries)))
	return nil
}

func (e *Entry) record(row uint32) record {
	return record{id: e.ID, row: row, offset: e.Offset, length: e.Length, raw: e.Raw, compression: e.Compression}
}

// sessionRef returns the number of a session record, which it keeps. The caller holds mu.
func (x *Index) sessionRef(record []byte) uint32 {
	hash := sha256.Sum256(record)
	n, ok := x.session[hash]
	if !ok {
		n = uint32(len(x.sessions))
		if x.base != nil {
			n += x.base.sessions
		}
		x.sessions = append(x.sessions, bytes.Clone(record))
		x.verdicts = append(x.verdicts, x.verdict(record))
		x.session[hash] = n
	}
	return n
}

// addRow makes a row for p, excluded as its name and session are. The caller holds mu.
func (x *Index) addRow(p *Pack, session uint32) (uint32, error) {
	rows := *x.rows.Load()
	if uint64(len(rows)) >= maxTailRows {
		return 0, errors.New("too many packs")
	}
	info := &PackInfo{PackID: p.PackID, Kind: p.Kind, Class: p.Class, Retention: p.Retention, Session: session, Size: p.Size,
		Salt: p.Salt, Epoch: p.Epoch, state: new(atomic.Uint32), used: new(atomic.Bool)}
	info.state.Store(uint32(x.excluded[p.PackID] | x.verdicts[x.tailNumber(session)]))
	// Readers hold older, shorter slices of the same array and never look behind their end.
	rows = append(rows, info)
	x.rows.Store(&rows)
	return uint32(len(rows) - 1), nil
}

// tailNumber turns the number of a session into its place in sessions: those of the base come first.
func (x *Index) tailNumber(session uint32) uint32 {
	if x.base != nil {
		return session - x.base.sessions
	}
	return session
}

// Session returns the session record with the number in a PackInfo. Equal records usually have one number, not always.
func (x *Index) Session(number uint32) ([]byte, error) {
	if x.base != nil && number < x.base.sessions {
		r, err := x.base.session(number)
		if err != nil {
			x.fail(err)
			return nil, x.Err()
		}
		return r, nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	n := x.tailNumber(number)
	if uint64(n) >= uint64(len(x.sessions)) {
		return nil, fmt.Errorf("reading session %d: there is none", number)
	}
	return bytes.Clone(x.sessions[n]), nil
}

// Add adds a pack that this session stored, with its session record; it settles the claims of its blobs. p.Session and the
// entries' Pack are not looked at. No blob may stand twice in a pack.
func (x *Index) Add(p Pack, session []byte, entries []Entry) error {
	if err := x.add(p, session, entries); err != nil {
		return fmt.Errorf("adding pack %v: %w", p.Name, err)
	}
	return nil
}

func (x *Index) add(p Pack, session []byte, entries []Entry) error {
	if err := p.check(); err != nil {
		return err
	}
	if len(session) == 0 || len(session) > MaxRecord || len(entries) > MaxEntries {
		return fmt.Errorf("session record of %d bytes, %d entries", len(session), len(entries))
	}
	for i := range entries {
		if err := entries[i].check(p.Size); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, ok := x.own[p.PackID]; ok {
		return errors.New("it was added before")
	}
	row, err := x.addRow(&p, x.sessionRef(session))
	if err != nil {
		return err
	}
	for i := range entries {
		if err := x.addEntry(&entries[i], row); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	(*x.rows.Load())[row].used.Store(true)
	x.own[p.PackID] = row
	x.unsaved = append(x.unsaved, ownPack{p, row, len(entries)})
	return nil
}

func (x *Index) addEntry(e *Entry, row uint32) error {
	tag := x.tail.tag(&e.ID)
	s := x.tail.shard(&e.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	var claim *record
	for r := s.first(&e.ID, tag); r != nil; r = s.following(r) {
		switch r.row {
		case row:
			return fmt.Errorf("blob %v stands twice", e.ID)
		case claimed:
			claim = r
		}
	}
	r := e.record(row)
	if claim != nil {
		r.next = claim.next
		*claim = r
		return nil
	}
	s.insert(r, tag)
	x.tail.count.Add(1)
	return nil
}

// Unsaved returns a segment with packs that Add brought and no earlier call returned: as many as fit with maxEntries
// entries, but at least one pack. It returns nil when there are none left. Host, Session and Nonce are the caller's to fill in, who then
// stores the segment and calls Saved.
func (x *Index) Unsaved(maxEntries int) *Segment {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.unsaved) == 0 {
		return nil
	}
	seg := &Segment{}
	number := map[uint32]uint32{} // pack numbers by row
	sessions := map[uint32]uint16{}
	rows := *x.rows.Load()
	entries, size := 0, 0
	for _, p := range x.unsaved {
		entries += p.entries
		size += p.entries*entrySize + len(p.Trailer) + MaxRecord
		if n := len(seg.Packs); n > 0 && (entries > min(maxEntries, MaxEntries) || size > MaxSegment || n == MaxPacks) {
			break
		}
		ref := rows[p.row].Session
		if _, ok := sessions[ref]; !ok {
			sessions[ref] = uint16(len(seg.Sessions))
			seg.Sessions = append(seg.Sessions, x.sessions[x.tailNumber(ref)])
		}
		p.Session = sessions[ref]
		number[p.row] = uint32(len(seg.Packs))
		seg.Packs = append(seg.Packs, p.Pack)
	}
	x.unsaved = slices.Delete(x.unsaved, 0, len(seg.Packs))
	for n := range shardCount {
		for _, r := range x.tail.sorted(n, func(row uint32) bool { _, ok := number[row]; return ok }) {
			seg.Entries = append(seg.Entries, Entry{r.id, number[r.row], r.offset, r.length, r.raw, r.compression})
		}
	}
	seg.Sort()
	return seg
}

// Saved tells that a segment made by Unsaved is stored under name: from now on Segments and WriteCache know it.
func (x *Index) Saved(name crypt.ID, s *Segment) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	rows := make([]uint32, len(s.Packs))
	for i := range s.Packs {
		row, ok := x.own[s.Packs[i].PackID]
		if !ok {
			return fmt.Errorf("noting segment %v: pack %v was not added", name, s.Packs[i].Name)
		}
		rows[i] = row
	}
	for i := range s.Packs {
		delete(x.own, s.Packs[i].PackID)
	}
	x.segments[name] = rows
	return nil
}

// Has reports whether the blob is present in a pack that counts for deduplication.
func (x *Index) Has(id crypt.ID) bool {
	if x.baseHas(&id) {
		return true
	}
	if x.tail.count.Load() == 0 {
		return false
	}
	s := x.tail.shard(&id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	usable, _ := x.tailHas(s, &id, x.tail.tag(&id))
	return usable
}

// Claim reports whether the caller is to store the blob: true for exactly one caller, and for none if Has(id).
// A claim ends when Add brings the blob. There is no way back: a session that cannot store what it claimed fails.
func (x *Index) Claim(id crypt.ID) (mine bool) {
	if x.baseHas(&id) {
		return false
	}
	tag := x.tail.tag(&id)
	s := x.tail.shard(&id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if usable, taken := x.tailHas(s, &id, tag); usable || taken {
		return false
	}
	s.insert(record{id: id, row: claimed}, tag)
	x.tail.count.Add(1)
	return true
}

func (x *Index) baseHas(id *crypt.ID) bool {
	b := x.usableBase()
	if b == nil {
		return false
	}
	e, found, err := b.first(id)
	for ; found && err == nil; e, found, err = b.following(e) {
		if b.about[e.Pack].state.Load() != 0 {
			continue
		}
		if len(x.lostIn(id)) > 0 {
			p, err := b.info(e.Pack)
			if err != nil {
				x.fail(err)
				return false
			}
			if x.isLost(id, p.PackID) {
				continue
			}
		}
		use(&b.about[e.Pack].used)
		return true
	}
	if err != nil {
		x.fail(err)
	}
	return false
}

// tailHas reports whether the tail has a usable place of id, and whether it is claimed. The caller holds s.mu.
func (x *Index) tailHas(s *shard, id *crypt.ID, tag uint32) (usable, taken bool) {
	rows := *x.rows.Load()
	for r := s.first(id, tag); r != nil; r = s.following(r) {
		if r.row == claimed {
			taken = true
		} else if p := rows[r.row]; p.state.Load() == 0 && !x.isLost(id, p.PackID) {
			use(p.used)
			return true, taken
		}
	}
	return false, taken
}

// lostIn returns the packs whose copy of the blob was found lost.
func (x *Index) lostIn(id *crypt.ID) []PackID {
	if l := x.lost.Load(); l != nil {
		return (*l)[*id]
	}
	return nil
}

func (x *Index) isLost(id *crypt.ID, p PackID) bool { return slices.Contains(x.lostIn(id), p) }

// Lookup returns the best place of a blob: one that counts for deduplication if there is any, otherwise one that may still be
// readable. After false, ask Err.
func (x *Index) Lookup(id crypt.ID) (Place, bool) {
	best, rank := Place{}, noRank
	x.each(&id, func(p Place, state uint32) bool {
		if r := x.rankIn(&id, p.Pack, state); r < rank {
			best, rank = p, r
		}
		return rank > 0
	})
	return best, rank < noRank
}

// Places returns every place of a blob that is not gone for good, the best first. After none, ask Err.
func (x *Index) Places(id crypt.ID) []Place {
	var list []Place
	x.each(&id, func(p Place, _ uint32) bool {
		list = append(list, p)
		return true
	})
	slices.SortStableFunc(list, func(a, b Place) int { return cmp.Compare(x.rank(&id, a.Pack), x.rank(&id, b.Pack)) })
	return list
}

const noRank = 3

// rank orders places: 0 counts for deduplication, 1 is excluded, 2 was found lost.
func (x *Index) rank(id *crypt.ID, p *PackInfo) int { return x.rankIn(id, p, p.state.Load()) }

func (x *Index) rankIn(id *crypt.ID, p *PackInfo, state uint32) int {
	switch lost := x.lostIn(id); {
	case len(lost) > 0 && slices.Contains(lost, p.PackID):
		return 2
	case state != 0:
		return 1
	}
	return 0
}

func readable(state uint32) bool { return Exclusion(state)&(Final|dropped) == 0 }

// each calls f with the places of id, and the state of each one's pack, until f returns false. With the state, f need not touch
// the PackInfo, which is seldom in a core's cache.
func (x *Index) each(id *crypt.ID, f func(p Place, state uint32) bool) {
	if b := x.usableBase(); b != nil {
		e, found, err := b.first(id)
		for ; found && err == nil; e, found, err = b.following(e) {
			state := b.about[e.Pack].state.Load()
			if !readable(state) {
				continue
			}
			p, err := b.info(e.Pack)
			if err != nil {
				x.fail(err)
				break
			}
			if !f(Place{p, e.Offset, e.Length, e.Raw, e.Compression}, state) {
				return
			}
		}
		if err != nil {
			x.fail(err)
		}
	}
	if x.tail.count.Load() == 0 {
		return
	}
	s := x.tail.shard(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	rows := *x.rows.Load()
	for r := s.first(id, x.tail.tag(id)); r != nil; r = s.following(r) {
		if r.row == claimed {
			continue
		}
		state := rows[r.row].state.Load()
		if readable(state) && !f(Place{rows[r.row], r.offset, r.length, r.raw, r.compression}, state) {
			return
		}
	}
}

// All yields every entry that is not gone for good, by ID, in bounded memory. A blob in several packs comes several times, and so
// does a pack that two segments name. Entries added meanwhile may be missing. It ends with an error where the cache file fails.
func (x *Index) All() iter.Seq2[Located, error] {
	return func(yield func(Located, error) bool) {
		c := cursor{base: x.usableBase()}
		for n := range shardCount {
			list := x.tail.sorted(n, func(uint32) bool { return true })
			for {
				e, ok, err := c.peek()
				if err != nil {
					x.fail(err)
					yield(Located{}, x.Err())
					return
				}
				ok = ok && int(e.ID[0]>>(8-shardBits)) <= n
				var l Located
				switch {
				case ok && (len(list) == 0 || compareIDs(e.ID, list[0].id) <= 0):
					c.step()
					if !readable(c.base.about[e.Pack].state.Load()) {
						continue
					}
					p, err := c.base.info(e.Pack)
					if err != nil {
						x.fail(err)
						yield(Located{}, x.Err())
						return
					}
					l = Located{e.ID, Place{p, e.Offset, e.Length, e.Raw, e.Compression}}
				case len(list) > 0:
					r := list[0]
					list = list[1:]
					p := (*x.rows.Load())[r.row]
					if !readable(p.state.Load()) {
						continue
					}
					l = Located{r.id, Place{p, r.offset, r.length, r.raw, r.compression}}
				}
				if l.Pack == nil {
					break
				}
				if !yield(l, nil) {
					return
				}
			}
		}
	}
}

// Packs yields every pack of the segments that x holds and of this session, final ones too. A pack that two segments name comes twice.
func (x *Index) Packs() iter.Seq2[*PackInfo, error] {
	return func(yield func(*PackInfo, error) bool) {
		if b := x.usableBase(); b != nil {
			for row := range b.packs {
				if Exclusion(b.about[row].state.Load())&dropped != 0 {
					continue
				}
				p, err := b.infoOnce(row)
				if err != nil {
					x.fail(err)
					yield(nil, x.Err())
					return
				}
				if !yield(p, nil) {
					return
				}
			}
		}
		for _, p := range *x.rows.Load() {
			if Exclusion(p.state.Load())&dropped == 0 && !yield(p, nil) {
				return
			}
		}
	}
}

// use notes that a pack is relied on. Reading first keeps the line of a pack that many ask for in every core's cache.
func use(p *atomic.Bool) {
	if !p.Load() {
		p.Store(true)
	}
}

// Used yields the packs that an answer of Has or Claim relied on since ForgetUsed, and those that Add brought: what a snapshot made of these answers
// leans on. Of a blob in several packs it is the one that the answer was about. It ends with an error where the cache file failed meanwhile.
func (x *Index) Used() iter.Seq2[*PackInfo, error] {
	return func(yield func(*PackInfo, error) bool) {
		if err := x.Err(); err != nil {
			yield(nil, err)
			return
		}
		for p, err := range x.Packs() {
			if err != nil || p.used.Load() {
				if !yield(p, err) {
					return
				}
			}
		}
	}
}

// ForgetUsed makes Used begin anew.
func (x *Index) ForgetUsed() {
	if b := x.usableBase(); b != nil {
		for row := range b.about {
			b.about[row].used.Store(false)
		}
	}
	for _, p := range *x.rows.Load() {
		p.used.Store(false)
	}
}

func sortRecords(list []record) {
	slices.SortFunc(list, func(a, b record) int {
		return cmp.Or(bytes.Compare(a.id[:], b.id[:]), cmp.Compare(a.row, b.row))
	})
}
