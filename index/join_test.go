package index

import (
	"testing"

	"packhold/crypt"
)

// TestJoiner: packs keep their session and their entries, whatever numbers these had; what has no room goes into the next segment.
func TestJoiner(t *testing.T) {
	var j Joiner
	if j.Take() != nil {
		t.Error("nothing was added")
	}
	pack := func(b byte, session uint16) Pack {
		return Pack{PackID: PackID{Name: crypt.ID{b}}, Session: session}
	}
	sessions := map[byte]string{3: "one", 1: "two", 2: "one"}
	for _, b := range []byte{3, 1, 2} {
		if !j.Add(pack(b, 99), []byte(sessions[b]), []Entry{{ID: crypt.ID{b, 2}, Pack: 77}, {ID: crypt.ID{b, 1}, Pack: 78}}) {
			t.Fatal("there is room")
		}
	}
	s := j.Take()
	if len(s.Sessions) != 2 || len(s.Packs) != 3 || len(s.Entries) != 6 {
		t.Fatalf("%d sessions, %d packs, %d entries", len(s.Sessions), len(s.Packs), len(s.Entries))
	}
	for i, p := range s.Packs {
		if b := byte(i + 1); p.Name != (crypt.ID{b}) || string(s.Sessions[p.Session]) != sessions[b] {
			t.Errorf("pack %d is %v of session %s", i, p.Name, s.Sessions[p.Session])
		}
	}
	for i, e := range s.Entries {
		if e.ID[0] != byte(i/2+1) || e.ID[1] != byte(i%2+1) || e.Pack != uint32(i/2) {
			t.Errorf("entry %d: %v in pack %d", i, e.ID, e.Pack)
		}
	}
	if !j.Add(pack(1, 0), []byte("one"), make([]Entry, largeSegment+1)) {
		t.Error("a pack alone always has room")
	}
	if j.Add(pack(2, 0), []byte("one"), make([]Entry, 1)) {
		t.Error("a full segment took one more")
	}
	if s := j.Take(); len(s.Packs) != 1 || !j.Add(pack(2, 0), []byte("one"), nil) {
		t.Error("the next segment has no room")
	}
	for range MaxPacks {
		j.Add(pack(3, 0), []byte("one"), nil)
	}
	if s := j.Take(); len(s.Packs) != MaxPacks {
		t.Errorf("%d packs", len(s.Packs))
	}
}
