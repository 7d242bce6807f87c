package index

import (
	"bytes"
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"

	"packhold/crypt"
	"packhold/crypt/canon"
)

// goldenSegment is what testdata/segment.hex holds; the format text explains its bytes.
func goldenSegment() *Segment {
	id := func(b byte) (id crypt.ID) {
		copy(id[:], bytes.Repeat([]byte{b}, len(id)))
		return id
	}
	return &Segment{
		Host:     [16]byte{0x10, 15: 0x11},
		Session:  [16]byte{0x20, 15: 0x21},
		Nonce:    [32]byte{0x30, 31: 0x31},
		Sessions: [][]byte{[]byte("session one"), []byte("session two")},
		Packs: []Pack{
			{PackID: PackID{Name: id(0xa0)}, Kind: crypt.TypeDataPack, Class: "STANDARD", Retention: "short", Session: 1, Size: 300000,
				Salt: id(0xb0), Epoch: 1, Trailer: []byte("trailer one")},
			{PackID: PackID{Name: id(0xa0), Incarnation: 70000}, Kind: crypt.TypeTreePack, Session: 0, Size: MaxPackSize, Salt: id(0xb1), Epoch: 2,
				Trailer: []byte("trailer two")},
		},
		Entries: []Entry{
			{ID: id(0x01), Pack: 0, Offset: 48, Length: 28, Raw: 0},
			{ID: id(0x01), Pack: 1, Offset: 49, Length: MaxPackSize - 49, Raw: MaxRaw, Compression: crypt.ZstdBest},
			{ID: id(0xff), Pack: 0, Offset: 76, Length: 1028, Raw: 4096, Compression: crypt.ZstdFastest},
		},
		Supersedes: []crypt.ID{id(0xc0), id(0xc1)},
		Companions: []crypt.ID{id(0xd0)},
	}
}

func TestSegmentVector(t *testing.T) {
	text, err := os.ReadFile("testdata/segment.hex")
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	got, err := goldenSegment().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("encodes as\n%x", got)
	}
	s, err := ParseSegment(want)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s, goldenSegment()) {
		t.Fatalf("decodes as %+v", s)
	}
}

func TestSegmentSort(t *testing.T) {
	s, want := goldenSegment(), goldenSegment()
	s.Packs[0], s.Packs[1] = s.Packs[1], s.Packs[0]
	for i := range s.Entries {
		s.Entries[i].Pack = 1 - s.Entries[i].Pack
	}
	s.Entries[0], s.Entries[2] = s.Entries[2], s.Entries[0]
	s.Supersedes[0], s.Supersedes[1] = s.Supersedes[1], s.Supersedes[0]
	if _, err := s.Marshal(); err == nil {
		t.Fatal("an unsorted segment was encoded")
	}
	if s.Sort(); !reflect.DeepEqual(s, want) {
		t.Fatalf("sorted to %+v", s)
	}
}

// TestSegmentRefused breaks one rule at a time, in a segment that is fine otherwise.
func TestSegmentRefused(t *testing.T) {
	for name, change := range map[string]func(s *Segment){
		"session twice":         func(s *Segment) { s.Sessions[1] = s.Sessions[0] },
		"session empty":         func(s *Segment) { s.Sessions[1] = nil },
		"session long":          func(s *Segment) { s.Sessions[1] = make([]byte, MaxRecord+1) },
		"session missing":       func(s *Segment) { s.Packs[0].Session = 2 },
		"pack twice":            func(s *Segment) { s.Packs[1].PackID = s.Packs[0].PackID },
		"packs unordered":       func(s *Segment) { s.Packs[0].Incarnation = 70001 },
		"kind 0":                func(s *Segment) { s.Packs[0].Kind = 0 },
		"kind of another type":  func(s *Segment) { s.Packs[0].Kind = crypt.TypeSettings },
		"class long":            func(s *Segment) { s.Packs[0].Class = strings.Repeat("x", MaxClass+1) },
		"class not UTF-8":       func(s *Segment) { s.Packs[0].Class = "\xff" },
		"retention long":        func(s *Segment) { s.Packs[0].Retention = strings.Repeat("x", MaxClass+1) },
		"retention not UTF-8":   func(s *Segment) { s.Packs[0].Retention = "\xff" },
		"pack small":            func(s *Segment) { s.Packs[0].Size = 47 },
		"pack large":            func(s *Segment) { s.Packs[1].Size++ },
		"pack past its end":     func(s *Segment) { s.Packs[1].Size-- },
		"no trailer":            func(s *Segment) { s.Packs[0].Trailer = nil },
		"trailer long":          func(s *Segment) { s.Packs[0].Trailer = make([]byte, MaxRecord+1) },
		"entry twice":           func(s *Segment) { s.Entries[1].Pack = 0 },
		"entries unordered":     func(s *Segment) { s.Entries[2].ID = crypt.ID{} },
		"pack number":           func(s *Segment) { s.Entries[2].Pack = 2 },
		"pack number wraps":     func(s *Segment) { s.Entries[2].Pack = 1<<32 - 1 },
		"offset in the header":  func(s *Segment) { s.Entries[0].Offset = 47 },
		"length under overhead": func(s *Segment) { s.Entries[0].Length = 27 },
		"end wraps":             func(s *Segment) { s.Entries[2].Offset = 1<<32 - 1; s.Entries[2].Length = 1000 },
		"raw":                   func(s *Segment) { s.Entries[1].Raw++ },
		"compression":           func(s *Segment) { s.Entries[1].Compression++ },
		"superseded twice":      func(s *Segment) { s.Supersedes[1] = s.Supersedes[0] },
		"companions unordered":  func(s *Segment) { s.Companions = []crypt.ID{{2}, {1}} },
		"too many names":        func(s *Segment) { s.Companions = make([]crypt.ID, MaxNames+1) },
		"too many entries":      func(s *Segment) { s.Entries = make([]Entry, MaxEntries+1) },
	} {
		s := goldenSegment()
		change(s)
		if _, err := s.Marshal(); err == nil {
			t.Errorf("%s: encoded", name)
		}
		if err := New().AddSegment(testID(1), s); err == nil {
			t.Errorf("%s: added", name)
		}
		if strings.HasPrefix(name, "too many") {
			continue // the encoding alone would take long
		}
		// The same bytes from a writer that does not check.
		w := rawWire(s)
		if _, err := ParseSegment(canon.Marshal(&w)); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

func rawWire(s *Segment) wireSegment {
	w := wireSegment{Host: s.Host, Session: s.Session, Nonce: s.Nonce, Sessions: s.Sessions}
	for _, p := range s.Packs {
		w.Packs = append(w.Packs, wirePack{Name: p.Name, Incarnation: p.Incarnation, Kind: uint8(p.Kind), Class: p.Class, Retention: p.Retention,
			Session: p.Session, Size: p.Size, Salt: p.Salt, Epoch: p.Epoch, Trailer: p.Trailer})
	}
	for i := range s.Entries {
		w.Entries = s.Entries[i].append(w.Entries)
	}
	for _, n := range s.Supersedes {
		w.Supersedes = append(w.Supersedes, n)
	}
	for _, n := range s.Companions {
		w.Companions = append(w.Companions, n)
	}
	return w
}

// TestSegmentCanonical refuses other encodings of the same content.
func TestSegmentCanonical(t *testing.T) {
	b, err := goldenSegment().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	swap := func(old, new string) []byte { return bytes.Replace(b, []byte(old), []byte(new), 1) }
	for name, c := range map[string][]byte{
		"trailing byte":     append(bytes.Clone(b), 0),
		"empty":             {},
		"not a map":         {0x80},
		"empty map":         {0xa0},
		"long map head":     append([]byte{0xb8, 8}, b[1:]...),
		"indefinite map":    append(append([]byte{0xbf}, b[1:]...), 0xff),
		"long text head":    swap("\x68STANDARD", "\x78\x08STANDARD"),
		"bytes for text":    swap("\x68STANDARD", "\x48STANDARD"),
		"host of 17 bytes":  swap("\x01\x50\x10", "\x01\x51\x10\x00"),
		"host of 15 bytes":  swap("\x01\x50\x10\x00", "\x01\x4f\x10"),
		"wide number":       swap("\x1a\x00\x04\x93\xe0", "\x1b\x00\x00\x00\x00\x00\x04\x93\xe0"),
		"unknown key":       append(append([]byte{0xa9}, b[1:]...), 9, 0),
		"null companions":   append(bytes.Clone(b[:len(b)-35]), 0xf6),
		"entry cut":         swap("\x58\x93"+string(bytes.Repeat([]byte{1}, 32)), "\x58\x92"+string(bytes.Repeat([]byte{1}, 31))),
		"a tag around it":   append([]byte{0xd9, 0xd9, 0xf7}, b...),
		"sessions as a map": swap("\x04\x82\x4bsession one", "\x04\xa1\x4bsession one"),
	} {
		if bytes.Equal(c, b) {
			t.Errorf("%s: the test changed nothing", name)
		}
		if _, err := ParseSegment(c); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
	for i := range 8 * len(b) {
		c := bytes.Clone(b)
		c[i/8] ^= 1 << (i % 8)
		if s, err := ParseSegment(c); err == nil {
			if again, err := s.Marshal(); err != nil || !bytes.Equal(again, c) {
				t.Fatalf("bit %d: encodes to other bytes, %v", i, err)
			}
		}
		if i < len(b) {
			if _, err := ParseSegment(b[:i]); err == nil {
				t.Fatalf("parsed %d bytes of %d", i, len(b))
			}
		}
	}
}

func FuzzSegment(f *testing.F) {
	b, err := goldenSegment().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	b, err = (&Segment{}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSegment(b)
		if err != nil {
			return
		}
		again, err := s.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("encodes to other bytes, %v", err)
		}
		x := New()
		if err := x.AddSegment(testID(1), s); err != nil {
			t.Fatal(err)
		}
		for _, e := range s.Entries {
			if !x.Has(e.ID) {
				t.Fatal("an entry is absent")
			}
		}
	})
}
