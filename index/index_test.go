package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"packhold/crypt"

	"pgregory.net/rapid"
)

func testID(n int) crypt.ID {
	return crypt.Sum(binary.LittleEndian.AppendUint64([]byte("id"), uint64(n)))
}

func testKey(n byte) (k [32]byte) {
	k[0], k[31] = n, 1
	return k
}

func testPack(n int) Pack {
	kind := crypt.TypeDataPack
	if n%3 == 0 {
		kind = crypt.TypeTreePack
	}
	return Pack{PackID: PackID{testID(1_000_000 + n/2), uint32(n % 2)}, Kind: kind, Class: fmt.Sprint("class", n%2), Retention: fmt.Sprint("r", n%5),
		Size: 1 << 20, Salt: [32]byte(testID(2_000_000 + n)), Epoch: uint32(n), Trailer: fmt.Appendf(nil, "trailer %d", n)}
}

func testSession(n int) []byte { return bytes.Repeat([]byte{byte(n + 1)}, 20+n) }

// testSegment holds packs of the given numbers; pack n holds the blobs that blobs(n) returns.
func testSegment(packs []int, blobs func(pack int) []crypt.ID) *Segment {
	s := &Segment{Host: [16]byte{1}, Session: [16]byte{2}, Nonce: [32]byte{3}}
	for i, n := range packs {
		p := testPack(n)
		p.Session = uint16(slices.IndexFunc(s.Sessions, func(b []byte) bool { return bytes.Equal(b, testSession(n%4)) }))
		if p.Session == 1<<16-1 {
			p.Session = uint16(len(s.Sessions))
			s.Sessions = append(s.Sessions, testSession(n%4))
		}
		s.Packs = append(s.Packs, p)
		for _, e := range testEntries(n, blobs(n)) {
			e.Pack = uint32(i)
			s.Entries = append(s.Entries, e)
		}
	}
	s.Sort()
	return s
}

func testEntries(pack int, ids []crypt.ID) []Entry {
	var list []Entry
	for i, id := range ids {
		list = append(list, Entry{ID: id, Offset: uint32(48 + 100*i), Length: 28 + uint32(pack), Raw: uint32(1000 + i), Compression: crypt.Compression(i % 5)})
	}
	return list
}

// seen is a Place with nothing shared, for comparing.
type seen struct {
	pack                PackInfo
	session             string
	offset, length, raw uint32
	compression         crypt.Compression
}

func see(t interface{ Fatalf(string, ...any) }, x *Index, list []Place) []seen {
	var out []seen
	for _, p := range list {
		r, err := x.Session(p.Pack.Session)
		if err != nil {
			t.Fatalf("%v", err)
		}
		info := *p.Pack
		info.Session, info.state, info.used = 0, nil, nil
		out = append(out, seen{info, string(r), p.Offset, p.Length, p.Raw, p.Compression})
	}
	sortSeen(out)
	return out
}

// sortSeen orders by what tells places of one blob apart; those that differ in nothing else are equal.
func sortSeen(list []seen) {
	slices.SortFunc(list, func(a, b seen) int {
		return cmp.Or(a.pack.Compare(b.pack.PackID), cmp.Compare(a.offset, b.offset), cmp.Compare(a.raw, b.raw), cmp.Compare(a.length, b.length),
			cmp.Compare(a.compression, b.compression))
	})
}

// model is an Index as maps: the segments that the storage holds, and the packs of this session.
type model struct {
	storage  map[crypt.ID]*Segment
	own      []*Segment // of one pack each
	unsaved  map[PackID]bool
	excluded map[PackID]Exclusion
	absent   map[string]bool
	lost     map[crypt.ID][]PackID
	claims   map[crypt.ID]bool
}

// places returns the readable places of id and whether one of them is usable.
func (m *model) places(id crypt.ID) (list []seen, usable bool) {
	for _, s := range append(slices.Collect(maps.Values(m.storage)), m.own...) {
		for _, e := range s.Entries {
			if e.ID != id {
				continue
			}
			p := s.Packs[e.Pack]
			if m.excluded[p.PackID]&Final != 0 {
				continue
			}
			session := string(s.Sessions[p.Session])
			list = append(list, seen{PackInfo{PackID: p.PackID, Kind: p.Kind, Class: p.Class, Retention: p.Retention, Size: p.Size, Salt: p.Salt,
				Epoch: p.Epoch}, session, e.Offset, e.Length, e.Raw, e.Compression})
			if m.excluded[p.PackID] == 0 && !m.absent[session] && !slices.Contains(m.lost[id], p.PackID) {
				usable = true
			}
		}
	}
	sortSeen(list)
	return list, usable
}

const poolIDs, poolPacks = 16, 12

func drawBlobs(t *rapid.T) func(int) []crypt.ID {
	return func(int) []crypt.ID {
		var ids []crypt.ID
		for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, poolIDs-1), 0, 6, rapid.ID).Draw(t, "blobs") {
			ids = append(ids, testID(n))
		}
		return ids
	}
}

func drawPacks(t *rapid.T, least int) []int {
	return rapid.SliceOfNDistinct(rapid.IntRange(0, poolPacks-1), least, 5, rapid.ID).Draw(t, "packs")
}

// TestModel holds an Index against maps over random operations.
func TestModel(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		path := filepath.Join(dir, fmt.Sprint("cache", runs))
		mapped := rapid.Bool().Draw(t, "mapped")
		key := testKey(1)
		x, m := New(), &model{storage: map[crypt.ID]*Segment{}, unsaved: map[PackID]bool{}, claims: map[crypt.ID]bool{}}
		defer func() { x.Close() }()
		names := 0
		name := func() crypt.ID {
			names++
			return testID(5_000_000 + names)
		}
		exclude := func() {
			x.Exclude(m.excluded)
			if m.absent == nil {
				x.ExcludeSessions(nil)
			} else {
				absent := maps.Clone(m.absent)
				x.ExcludeSessions(func(r []byte) bool { return absent[string(r)] })
			}
			x.ExcludeBlobs(m.lost)
		}
		live := func() map[crypt.ID]struct{} {
			l := map[crypt.ID]struct{}{}
			for n := range m.storage {
				l[n] = struct{}{}
			}
			return l
		}
		t.Repeat(map[string]func(*rapid.T){
			"segment": func(t *rapid.T) {
				n, s := name(), testSegment(drawPacks(t, 0), drawBlobs(t))
				m.storage[n] = s
				for range rapid.IntRange(1, 2).Draw(t, "times") {
					if err := x.AddSegment(n, s); err != nil {
						t.Fatal(err)
					}
				}
			},
			"add": func(t *rapid.T) {
				n := drawPacks(t, 1)[0]
				p := testPack(n)
				entries := testEntries(n, drawBlobs(t)(n))
				err := x.Add(p, testSession(n%4), entries)
				if m.unsaved[p.PackID] != (err != nil) {
					t.Fatalf("added before: %v, error: %v", m.unsaved[p.PackID], err)
				}
				if err != nil {
					return
				}
				m.unsaved[p.PackID] = true
				s := &Segment{Sessions: [][]byte{testSession(n % 4)}, Packs: []Pack{p}, Entries: entries}
				s.Sort()
				m.own = append(m.own, s)
				for _, e := range entries {
					delete(m.claims, e.ID)
				}
			},
			"save": func(t *rapid.T) {
				most, packs, max := 0, 0, rapid.IntRange(1, 12).Draw(t, "max")
				for s := x.Unsaved(max); s != nil; s = x.Unsaved(max) {
					if len(s.Packs) > 1 {
						most = len(s.Entries)
					}
					packs += len(s.Packs)
					b, err := s.Marshal()
					if err != nil {
						t.Fatal(err)
					}
					n := name()
					if m.storage[n], err = ParseSegment(b); err != nil {
						t.Fatal(err)
					}
					if err := x.Saved(n, s); err != nil {
						t.Fatal(err)
					}
				}
				if most > max || packs != len(m.own) {
					t.Fatalf("%d packs of %d, %d entries of %d", packs, len(m.own), most, max)
				}
				m.own, m.unsaved = nil, map[PackID]bool{}
			},
			"claim": func(t *rapid.T) {
				id := testID(rapid.IntRange(0, poolIDs-1).Draw(t, "id"))
				_, usable := m.places(id)
				if got, want := x.Claim(id), !usable && !m.claims[id]; got != want {
					t.Fatalf("claim %v, want %v", got, want)
				} else if got {
					m.claims[id] = true
				}
			},
			"exclude": func(t *rapid.T) {
				m.excluded = map[PackID]Exclusion{}
				for _, n := range drawPacks(t, 0) {
					m.excluded[testPack(n).PackID] = Exclusion(rapid.IntRange(1, 3).Draw(t, "why"))
				}
				m.absent = nil
				if rapid.Bool().Draw(t, "absent") {
					m.absent = map[string]bool{string(testSession(rapid.IntRange(0, 3).Draw(t, "session"))): true}
				}
				m.lost = map[crypt.ID][]PackID{}
				for _, id := range drawBlobs(t)(0) {
					m.lost[id] = []PackID{testPack(drawPacks(t, 1)[0]).PackID}
				}
				exclude()
			},
			"retain": func(t *rapid.T) {
				for _, n := range slices.SortedFunc(maps.Keys(m.storage), compareIDs) {
					if rapid.IntRange(0, 4).Draw(t, "gone") == 0 {
						delete(m.storage, n)
					}
				}
				x.Retain(live())
			},
			"write": func(t *rapid.T) {
				if err := x.WriteCache(path, key); err != nil {
					t.Fatal(err)
				}
			},
			"reopen": func(t *rapid.T) {
				x.Close()
				x, _ = open(path, key, mapped)
				early := rapid.Bool().Draw(t, "exclude first")
				if early {
					exclude()
				}
				x.Retain(live())
				have := x.Segments()
				for n, s := range m.storage {
					if _, ok := slices.BinarySearchFunc(have, n, compareIDs); ok {
						continue
					}
					if err := x.AddSegment(n, s); err != nil {
						t.Fatal(err)
					}
				}
				if !early {
					exclude()
				}
				m.own, m.unsaved, m.claims = nil, map[PackID]bool{}, map[crypt.ID]bool{}
			},
			"": func(t *rapid.T) {
				if got, want := x.Segments(), slices.SortedFunc(maps.Keys(m.storage), compareIDs); !slices.Equal(got, want) {
					t.Fatalf("segments %v, want %v", got, want)
				}
				all := 0
				for n := range poolIDs {
					id := testID(n)
					want, usable := m.places(id)
					all += len(want)
					list := x.Places(id)
					if got := see(t, x, list); !slices.Equal(got, want) {
						t.Fatalf("blob %d: places %v, want %v", n, got, want)
					}
					if !slices.IsSortedFunc(list, func(a, b Place) int { return x.rank(&id, a.Pack) - x.rank(&id, b.Pack) }) {
						t.Fatalf("blob %d: the best place is not first", n)
					}
					if got := x.Has(id); got != usable {
						t.Fatalf("blob %d: has %v, want %v", n, got, usable)
					}
					p, ok := x.Lookup(id)
					if ok != (len(want) > 0) || ok && x.rank(&id, p.Pack) != x.rank(&id, list[0].Pack) {
						t.Fatalf("blob %d: lookup %v %v", n, p, ok)
					}
				}
				last, byID := crypt.ID{}, map[crypt.ID][]Place{}
				for l, err := range x.All() {
					if err != nil {
						t.Fatal(err)
					}
					if compareIDs(last, l.ID) > 0 {
						t.Fatal("All is out of order")
					}
					last = l.ID
					byID[l.ID] = append(byID[l.ID], l.Place)
					all--
				}
				for id, list := range byID {
					if want, _ := m.places(id); !slices.Equal(see(t, x, list), want) {
						t.Fatalf("All has other places of %v", id)
					}
				}
				packs := len(m.own)
				for _, s := range m.storage {
					packs += len(s.Packs)
				}
				for p, err := range x.Packs() {
					if err != nil {
						t.Fatal(err)
					}
					if want := m.excluded[p.PackID]; want&Final != p.Excluded()&Final || want&NoDedup != 0 && p.Excluded()&NoDedup == 0 {
						t.Fatalf("excluded %v, want %v", p.Excluded(), want)
					}
					packs--
				}
				if all != 0 || packs != 0 || x.Err() != nil {
					t.Fatalf("%d entries and %d packs are missing, %v", all, packs, x.Err())
				}
			},
		})
	})
}

// TestSameFile shows that the cache says what the segments say and nothing else: the order and the way they came do not show.
func TestSameFile(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 1))
	segments := map[crypt.ID]*Segment{}
	for n := range 6 {
		segments[testID(100+n)] = testSegment([]int{n, n + 5, n + 9}, func(int) []crypt.ID { return []crypt.ID{testID(n), testID(n + 1), testID(7)} })
	}
	var want []byte
	for try := range 12 {
		path := filepath.Join(dir, fmt.Sprint(try))
		x := New()
		names := slices.SortedFunc(maps.Keys(segments), compareIDs)
		rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, n := range names {
			if err := x.AddSegment(n, segments[n]); err != nil {
				t.Fatal(err)
			}
			x.Claim(testID(rng.IntN(50)))
			if rng.IntN(2) == 0 {
				if err := x.WriteCache(path, testKey(1)); err != nil {
					t.Fatal(err)
				}
				x.Close()
				var cold error
				if x, cold = open(path, testKey(1), try%2 == 0); cold != nil {
					t.Fatal(cold)
				}
			}
			x.Exclude(map[PackID]Exclusion{testPack(rng.IntN(10)).PackID: Final})
		}
		if err := x.WriteCache(path, testKey(1)); err != nil {
			t.Fatal(err)
		}
		x.Close()
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("try %d made another file", try)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Fatalf("left %v", left)
	}
}

// TestClaimOnce lets goroutines claim the same blobs while others look up, load segments, exclude and write the cache.
func TestClaimOnce(t *testing.T) {
	const workers, blobs, perPack = 8, 4000, 50
	path := filepath.Join(t.TempDir(), "cache")
	x := New()
	known := testSegment([]int{0}, func(int) []crypt.ID { return []crypt.ID{testID(0), testID(1), testID(2)} })
	if err := x.AddSegment(testID(-1), known); err != nil {
		t.Fatal(err)
	}
	if err := x.WriteCache(path, testKey(1)); err != nil {
		t.Fatal(err)
	}
	x, cold := Open(path, testKey(1))
	if cold != nil {
		t.Fatal(cold)
	}
	defer x.Close()
	var won [blobs]atomic.Int32
	var packs atomic.Int32
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 2))
			var open []crypt.ID
			flush := func() {
				n := 1000 + int(packs.Add(1))
				if err := x.Add(testPack(n), testSession(w), testEntries(n, open)); err != nil {
					t.Error(err)
				}
				for _, id := range open {
					if !x.Has(id) {
						t.Error("a stored blob is absent")
					}
				}
				open = nil
			}
			for _, n := range rng.Perm(blobs) {
				if x.Claim(testID(n)) {
					won[n].Add(1)
					if open = append(open, testID(n)); len(open) == perPack {
						flush()
					}
				}
			}
			flush()
		})
	}
	wg.Go(func() {
		for n := range 20 {
			s := testSegment([]int{n + 100}, func(int) []crypt.ID { return []crypt.ID{testID(1_000_000 + n)} })
			if err := x.AddSegment(testID(-2-n), s); err != nil {
				t.Error(err)
			}
			x.Exclude(map[PackID]Exclusion{testPack(n + 101).PackID: NoDedup})
			for _, err := range x.All() {
				if err != nil {
					t.Error(err)
				}
			}
			if seg := x.Unsaved(1000); seg != nil {
				if _, err := seg.Marshal(); err != nil {
					t.Error(err)
				}
				if err := x.Saved(testID(-100-n), seg); err != nil {
					t.Error(err)
				}
			}
			if err := x.WriteCache(path, testKey(1)); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	for n := range won {
		want := int32(1)
		if n < 3 {
			want = 0
		}
		if got := won[n].Load(); got != want {
			t.Fatalf("blob %d: %d claims won, want %d", n, got, want)
		}
	}
}

// TestDuplicateBlob refuses a pack that would make a segment nobody can parse.
func TestDuplicateBlob(t *testing.T) {
	x := New()
	if err := x.Add(testPack(1), testSession(1), testEntries(1, []crypt.ID{testID(1), testID(2), testID(1)})); err == nil {
		t.Fatal("a blob stands twice in a pack")
	}
}

// TestUsed: what Has and Claim rely on is known, from the tail and from the cache file, and nothing else is.
func TestUsed(t *testing.T) {
	blob := func(pack, n int) crypt.ID { return testID(100*pack + n) }
	blobs := func(pack int) []crypt.ID { return []crypt.ID{blob(pack, 0), blob(pack, 1), testID(7)} } // the last is in all of them
	x := New()
	if err := x.AddSegment(testID(1), testSegment([]int{0, 2, 4, 6, 8, 10}, blobs)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cache")
	if err := x.WriteCache(path, testKey(1)); err != nil {
		t.Fatal(err)
	}
	cached, err := Open(path, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cached.Close()
	for what, x := range map[string]*Index{"tail": x, "base": cached} {
		want := func(packs ...int) {
			t.Helper()
			var got, wanted []PackID
			for p, err := range x.Used() {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, p.PackID)
			}
			for _, n := range packs {
				wanted = append(wanted, testPack(n).PackID)
			}
			slices.SortFunc(got, PackID.Compare)
			slices.SortFunc(wanted, PackID.Compare)
			if !slices.Equal(got, wanted) {
				t.Errorf("%s: %d packs are used, want %v", what, len(got), packs)
			}
		}
		want()
		x.Exclude(map[PackID]Exclusion{testPack(4).PackID: NoDedup})
		x.ExcludeBlobs(map[crypt.ID][]PackID{blob(6, 0): {testPack(6).PackID}})
		if !x.Has(blob(0, 1)) || x.Claim(blob(2, 0)) || x.Has(blob(4, 0)) || x.Has(blob(6, 0)) || !x.Claim(testID(9)) {
			t.Error(what)
		}
		x.Lookup(blob(8, 0))
		want(0, 2)
		if !x.Has(testID(7)) { // in several: one is enough
			t.Error(what)
		}
		n := 0
		for range x.Used() {
			n++
		}
		if n > 3 {
			t.Errorf("%s: %d packs for one blob more", what, n)
		}
		x.ForgetUsed()
		want()
		if err := x.Add(testPack(12), testSession(1), testEntries(12, []crypt.ID{testID(9)})); err != nil {
			t.Fatal(err)
		}
		want(12)
		x.Has(blob(10, 1))
		want(10, 12)
	}
	cached.fail(errDamaged)
	for _, err := range cached.Used() {
		if err == nil {
			t.Error("a cache that failed says what is used")
		}
	}
}
