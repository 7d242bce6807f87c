package snapshot

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"packhold/crypt"
)

var update = flag.Bool("update", false, "write testdata/*.hex anew; only before format 1 is released")

// golden compares data with the committed bytes of format 1.
func golden(t *testing.T, name string, data []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".hex")
	if *update {
		var b strings.Builder
		for line := range slices.Chunk(data, 32) {
			fmt.Fprintf(&b, "%x\n", line)
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want) {
		t.Errorf("%s: got\n%x\nwant\n%x", name, data, want)
	}
}

// deterministic fails unless an independent decoder and encoder of RFC 8949 give the same bytes.
func deterministic(t interface{ Fatalf(string, ...any) }, data []byte) {
	dec, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden}.DecMode()
	if err != nil {
		t.Fatalf("%v", err)
	}
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatalf("%v", err)
	}
	var v any
	if err := dec.Unmarshal(data, &v); err != nil {
		t.Fatalf("not CBOR: %v", err)
	}
	again, err := enc.Marshal(v)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if !bytes.Equal(again, data) {
		t.Fatalf("not core deterministic: %x, want %x", data, again)
	}
}

func testID(s string) crypt.ID { return crypt.Sum([]byte(s)) }

// fullNodes has every field, at small and at large values, in valid nodes.
func fullNodes() []Node {
	return []Node{
		{Name: "\xff\xfe not utf-8", Type: File, Size: 3, Inline: []byte("abc"), Streams: []Stream{
			{Name: "Zone.Identifier", Extents: []Extent{{Data, 5, testID("zone")}, {Zeros, 9, crypt.ID{}}}}, {Name: "empty"}}},
		{Name: "bits", Type: BlockDevice, Mode: 0o660, Rdev: 8<<32 | 17, Flags: 0x10, Links: 1},
		{Name: "dir", Type: Dir, Mode: 0o7777, UID: 1000, GID: math.MaxUint32, User: "user", Group: "group",
			MTime: Time{1700000000, 123456789}, CTime: Time{-1, 999999999}, BTime: Time{math.MinInt64, 0}, ATime: Time{math.MaxInt64, 1},
			Inode: math.MaxUint64, Device: 24, Links: 1, Subtree: testID("subtree"),
			XAttrs: []XAttr{{"security.selinux", []byte("label\x00")}, {"user.empty", nil}}},
		{Name: "empty", Type: File},
		{Name: "file", Type: File, Mode: 0o644, Size: 70000 + 1<<40 + 256, MTime: Time{1, 0}, Links: 2, Inode: 23, Device: 1,
			Extents: []Extent{{Data, 70000, testID("data")}, {Hole, 1 << 40, crypt.ID{}}, {Zeros, 256, crypt.ID{}}}},
		{Name: "huge", Type: File, Size: math.MaxInt64, ExtentBlobs: []crypt.ID{testID("e1"), testID("e2")}, XAttrBlob: testID("x")},
		{Name: "link", Type: Symlink, Mode: 0o777, Target: "../\xff"},
		{Name: "null", Type: CharDevice}, // 0:0, the whiteout of an overlay
		{Name: "pipe", Type: FIFO, UID: 23, GID: 24},
		{Name: "socket", Type: Socket, UID: 255, GID: 256},
	}
}

func TestGoldenPages(t *testing.T) {
	nodes := fullNodes()
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	for name, p := range map[string]*Page{
		"page-empty": {Nodes: []Node{}},
		"page-leaf":  {Nodes: nodes},
		"page-branch": {Children: []Child{
			{"a", testID("1"), 1}, {"b\xff", testID("2"), 2048}, {"c", testID("3"), 1 << 40}}},
	} {
		plain, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, plain)
		deterministic(t, plain)
		got, err := DecodePage(plain)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, p) {
			t.Errorf("%s: decoded %+v, want %+v", name, got, p)
		}
	}
}

// genBytes draws a string of 1 to most bytes without '/' and NUL.
func genBytes(most int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		b := rapid.SliceOfN(rapid.ByteRange(1, 255), 1, most).Draw(t, "bytes")
		s := strings.ReplaceAll(string(b), "/", "_")
		if s == "." || s == ".." {
			s = "dots"
		}
		return s
	})
}

var genID = rapid.Custom(func(t *rapid.T) crypt.ID {
	return crypt.Sum(binary8(rapid.Uint64().Draw(t, "id")))
})

func binary8(v uint64) []byte { return fmt.Appendf(nil, "%d", v) }

var genTime = rapid.Custom(func(t *rapid.T) Time {
	return Time{rapid.Int64().Draw(t, "sec"), rapid.Uint32Range(0, 999999999).Draw(t, "nsec")}
})

var genExtent = rapid.Custom(func(t *rapid.T) Extent {
	e := Extent{Kind: ExtentKind(rapid.IntRange(1, 3).Draw(t, "kind"))}
	if e.Kind == Data {
		e.ID = genID.Draw(t, "id")
		e.Length = rapid.Uint64Range(1, MaxBlob).Draw(t, "length")
	} else {
		e.Length = rapid.Uint64Range(1, 1<<50).Draw(t, "length")
	}
	return e
})

func genExtents(most int) *rapid.Generator[[]Extent] {
	return rapid.Custom(func(t *rapid.T) []Extent {
		return orNil(rapid.SliceOfN(genExtent, 0, most).Draw(t, "extents"))
	})
}

func orNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

var genXAttrs = rapid.Custom(func(t *rapid.T) []XAttr {
	list := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) XAttr {
		return XAttr{genBytes(20).Draw(t, "name"), orNil(rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "value"))}
	}), 0, 5, func(x XAttr) string { return x.Name }).Draw(t, "xattrs")
	slices.SortFunc(list, func(a, b XAttr) int { return strings.Compare(a.Name, b.Name) })
	return orNil(list)
})

// genNode draws valid nodes of every type.
var genNode = rapid.Custom(func(t *rapid.T) Node {
	some := func(name string) bool { return rapid.Bool().Draw(t, name) }
	n := Node{Name: genBytes(40).Draw(t, "name"), Type: Type(rapid.IntRange(1, 7).Draw(t, "type")),
		Mode: rapid.Uint32Range(0, MaxMode).Draw(t, "mode"), MTime: genTime.Draw(t, "mtime")}
	if some("owner") {
		n.UID, n.GID = rapid.Uint32().Draw(t, "uid"), rapid.Uint32().Draw(t, "gid")
		n.User, n.Group = genBytes(9).Draw(t, "user"), genBytes(9).Draw(t, "group")
	}
	if some("times") {
		n.CTime, n.BTime, n.ATime = genTime.Draw(t, "ctime"), genTime.Draw(t, "btime"), genTime.Draw(t, "atime")
	}
	if some("inode") {
		n.Inode, n.Device, n.Links = rapid.Uint64().Draw(t, "inode"), rapid.Uint32().Draw(t, "device"), rapid.Uint32Range(0, 1).Draw(t, "links")
		n.Flags = rapid.Uint32().Draw(t, "flags")
	}
	if some("xattrs") {
		n.XAttrs = genXAttrs.Draw(t, "list")
	} else if some("xattr blob") {
		n.XAttrBlob = genID.Draw(t, "blob")
	}
	if some("streams") {
		n.Streams = []Stream{{genBytes(9).Draw(t, "stream"), genExtents(2).Draw(t, "extents")}}
	}
	switch n.Type {
	case File:
		switch rapid.IntRange(0, 2).Draw(t, "content") {
		case 0:
			n.Inline = orNil(rapid.SliceOfN(rapid.Byte(), 0, MaxInline).Draw(t, "inline"))
			n.Size = uint64(len(n.Inline))
		case 1:
			n.Extents = genExtents(6).Draw(t, "extents")
			for _, e := range n.Extents {
				n.Size += e.Length
			}
		case 2:
			n.ExtentBlobs = rapid.SliceOfN(genID, 1, 4).Draw(t, "blobs")
			n.Size = rapid.Uint64Range(1, MaxFileSize).Draw(t, "size")
		}
	case Dir:
		n.Subtree = genID.Draw(t, "subtree")
	case Symlink:
		n.Target = genBytes(30).Draw(t, "target")
	case CharDevice, BlockDevice:
		n.Rdev = rapid.Uint64().Draw(t, "rdev")
	}
	return n
})

func genNodes(most int) *rapid.Generator[[]Node] {
	return rapid.Custom(func(t *rapid.T) []Node {
		nodes := rapid.SliceOfNDistinct(genNode, 0, most, func(n Node) string { return n.Name }).Draw(t, "nodes")
		slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
		return nodes
	})
}

func TestPageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Page{Nodes: genNodes(12).Draw(t, "nodes")}
		if len(p.Nodes) == 0 {
			p.Nodes = []Node{}
		}
		plain, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		deterministic(t, plain)
		got, err := DecodePage(plain)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, p) {
			t.Fatalf("decoded %+v, want %+v", got, p)
		}
		for i := range got.Nodes {
			if c := got.Nodes[i].Clone(); !reflect.DeepEqual(*c, got.Nodes[i]) {
				t.Fatalf("clone %+v, want %+v", *c, got.Nodes[i])
			}
		}
	})
}

// Every page with one bit flipped or cut short is refused, or is another page in its own one encoding.
func TestPageOneEncoding(t *testing.T) {
	plain, err := (&Page{Nodes: slices.SortedFunc(slices.Values(fullNodes()), func(a, b Node) int { return strings.Compare(a.Name, b.Name) })}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range plain {
		if _, err := decodePage(plain[:i]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("cut at %d: %v", i, err)
		}
		for bit := range 8 {
			other := bytes.Clone(plain)
			other[i] ^= 1 << bit
			checkPage(t, other)
		}
	}
}

// checkPage holds the law of every accepted page. It reports whether data is one.
func checkPage(t *testing.T, data []byte) bool {
	p, err := decodePage(data)
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Fatalf("%x: %v does not wrap ErrMalformed", data, err)
		}
		return false
	}
	if again := p.encode(); !bytes.Equal(again, data) {
		t.Fatalf("accepted %x, encoded %x", data, again)
	}
	if p, err = DecodePage(data); err == nil {
		again, err := p.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted %x, encoded %x, %v", data, again, err)
		}
	}
	return true
}

func FuzzPage(f *testing.F) {
	for _, p := range []*Page{
		{},
		{Nodes: slices.SortedFunc(slices.Values(fullNodes()), func(a, b Node) int { return strings.Compare(a.Name, b.Name) })},
		{Children: []Child{{"a", testID("1"), 1}, {"b", testID("2"), 300}}},
	} {
		plain, err := p.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkPage(t, data) })
}

func TestHostilePages(t *testing.T) {
	id := "5820" + strings.Repeat("11", 32)
	zero := "5820" + strings.Repeat("00", 32)
	for _, c := range []struct{ what, page, want string }{
		{"nothing", "", "truncated"},
		{"wrong top", "a0", "major type"},
		{"array of one", "8101", "items"},
		{"array of three", "83018000", "items"},
		{"unknown tag", "820380", "tag"},
		{"tag zero", "820080", "tag"},
		{"trailing byte", "82018000", "after the end"},
		{"long tag", "82180180", "shortest"},
		{"long array", "8201980100", "shortest"},
		{"array of 8-byte length", "82019b0000000000000000", "shortest"},
		{"indefinite array", "82019fff", "indefinite"},
		{"indefinite page", "9f0180ff", "indefinite"},
		{"reserved head", "82011c", "major type"},
		{"reserved length", "82019c", "indefinite"},
		{"2^63 nodes", "82019b8000000000000000", "items"},
		{"2049 nodes", "8201990801" + strings.Repeat("a0", 2049), "items"},
		{"more nodes than bytes", "820118ff", "major type"},
		{"255 nodes in 1 byte", "820198ffa0", "items"},
		{"node not a map", "82018180", "major type"},
		{"map of 26", "820181b81a", "items"},
		{"key zero", "820181a10000", "out of order"},
		{"key unknown", "820181a1181a01", "unknown key"},
		{"key long", "820181a1180141", "shortest"},
		{"key negative", "820181a12001", "major type"},
		{"key text", "820181a1616101", "major type"},
		{"keys descending", "820181a202010141" + "61", "out of order"},
		{"keys twice", "820181a2014161014162", "out of order"},
		{"name text", "820181a10161" + "61", "major type"},
		{"name stored empty", "820181a10140", "items"},
		{"name too long for the page", "820181a1015903e861", "items"},
		{"name 2^64-1", "820181a1015bffffffffffffffff61", "items"},
		{"type stored zero", "820181a2014161" + "0200", "integer 0"},
		{"type 256", "820181a2014161" + "02190100", "integer 256"},
		{"mode over 32 bits", "820181a2014161" + "031b0000000100000000", "integer"},
		{"uid float", "820181a2014161" + "04f93c00", "major type"},
		{"uid tag", "820181a2014161" + "04c001", "major type"},
		{"uid null", "820181a2014161" + "04f6", "major type"},
		{"time zero", "820181a2014161" + "09820000", "absent"},
		{"time of one", "820181a2014161" + "098101", "items"},
		{"nanoseconds 10^9", "820181a2014161" + "0982011a3b9aca00", "nanosecond"},
		{"seconds 2^63", "820181a2014161" + "09821b800000000000000000", "range"},
		{"seconds -2^63-1", "820181a2014161" + "09823b800000000000000000", "range"},
		{"nanoseconds negative", "820181a2014161" + "09820120", "major type"},
		{"inline stored empty", "820181a2014161" + "1540", "items"},
		{"extents stored empty", "820181a2014161" + "1680", "items"},
		{"extent kind 0", "820181a2014161" + "1681820001", "kind"},
		{"extent kind 4", "820181a2014161" + "1681820401", "kind"},
		{"extent kind 257", "820181a2014161" + "1681" + "8219010101", "kind"},
		{"hole with ID", "820181a2014161" + "16818302" + "01" + id, "kind"},
		{"data without ID", "820181a2014161" + "1681820101", "kind"},
		{"extent of zero bytes", "820181a2014161" + "1681820200", "integer 0"},
		{"1025 extents", "820181a2014161" + "16990401" + strings.Repeat("820201", 1025), "items"},
		{"xattrs stored empty", "820181a2014161" + "1380", "items"},
		{"4097 xattrs", "820181a2014161" + "13991001" + strings.Repeat("824161"+"40", 4097), "items"},
		{"ID of 31 bytes", "820181a2014161" + "14581f" + strings.Repeat("11", 31), "ID of 31"},
		{"ID of 33 bytes", "820181a2014161" + "145821" + strings.Repeat("11", 33), "ID of 33"},
		{"xattr blob zero", "820181a2014161" + "14" + zero, "zero ID"},
		{"subtree zero", "820181a2014161" + "1818" + zero, "zero ID"},
		{"extent blobs stored empty", "820181a2014161" + "1780", "items"},
		{"16385 extent blobs", "820181a2014161" + "17994001" + strings.Repeat("00", 20000), "items"},
		{"streams stored empty", "820181a2014161" + "181980", "items"},
		{"65 streams", "820181a2014161" + "18199841" + strings.Repeat("80", 65), "items"},
		{"equal names", "820182a1014161" + "a1014161", "out of order"},
		{"descending names", "820182a1014162" + "a1014161", "out of order"},
		{"branch without children", "820280", "items"},
		{"child of two", "82028182416" + "101", "items"},
		{"child without name", "8202818340" + id + "01", "items"},
		{"child named ..", "82028183422e2e" + id + "01", "name"},
		{"child with zero ID", "820281834161" + zero + "01", "zero ID"},
		{"child without nodes", "820281834161" + id + "00", "integer 0"},
		{"children out of order", "820282834162" + id + "01834161" + id + "01", "out of order"},
		{"children twice", "820282834161" + id + "01834161" + id + "01", "out of order"},
		{"counts overflow", "820282834161" + id + "1bffffffffffffffff834162" + id + "01", "overflow"},
	} {
		data, err := hex.DecodeString(c.page)
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		_, err = decodePage(data)
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
	if _, err := decodePage(make([]byte, MaxPage+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("page over the limit: %v", err)
	}
	// All 25 keys: no valid node, but the law holds.
	n := fullNodes()[2]
	n.Size, n.Target, n.Rdev, n.Flags, n.XAttrBlob, n.Inline = 1, "t", 1, 1, testID("x"), []byte("i")
	n.Extents, n.ExtentBlobs, n.Streams = []Extent{{Hole, 1, crypt.ID{}}}, []crypt.ID{testID("e")}, []Stream{{"s", nil}}
	plain := (&Page{Nodes: []Node{n}}).encode()
	deterministic(t, plain)
	if !checkPage(t, plain) {
		t.Error("a node of 25 keys is refused by decodePage")
	}
	if _, err := DecodePage(plain); !errors.Is(err, ErrMalformed) {
		t.Errorf("a node of 25 keys: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for _, n := range fullNodes() {
		if err := n.Validate(); err != nil {
			t.Errorf("%q: %v", n.Name, err)
		}
	}
	id := testID("x")
	file := func(size uint64, e ...Extent) Node { return Node{Name: "f", Type: File, Size: size, Extents: e} }
	holes := func(n int) []Extent { return slices.Repeat([]Extent{{Hole, 1, crypt.ID{}}}, n) }
	ids := func(n int) []crypt.ID { return slices.Repeat([]crypt.ID{id}, n) }
	name := func(s string) Node { return Node{Name: s, Type: FIFO} }
	for _, c := range []struct {
		what string
		n    Node
		ok   bool
	}{
		{"empty name", name(""), false},
		{"dot", name("."), false},
		{"dots", name(".."), false},
		{"three dots", name("..."), true},
		{"slash", name("a/b"), false},
		{"NUL", name("a\x00"), false},
		{"backslash", name(`C:\a`), true},
		{"longest name", name(strings.Repeat("n", MaxName)), true},
		{"name too long", name(strings.Repeat("n", MaxName+1)), false},
		{"type 0", Node{Name: "a"}, false},
		{"type 8", Node{Name: "a", Type: 8}, false},
		{"mode", Node{Name: "a", Type: FIFO, Mode: 0o10000}, false},
		{"user too long", Node{Name: "a", Type: FIFO, User: strings.Repeat("u", MaxOwner+1)}, false},
		{"user NUL", Node{Name: "a", Type: FIFO, User: "\x00"}, false},
		{"group too long", Node{Name: "a", Type: FIFO, Group: strings.Repeat("u", MaxOwner+1)}, false},
		{"nanoseconds", Node{Name: "a", Type: FIFO, ATime: Time{0, 1e9}}, false},
		{"directory without subtree", Node{Name: "a", Type: Dir}, false},
		{"directory with size", Node{Name: "a", Type: Dir, Subtree: id, Size: 1}, false},
		{"directory with 2 links", Node{Name: "a", Type: Dir, Subtree: id, Links: 2}, false},
		{"file with subtree", Node{Name: "a", Type: File, Subtree: id}, false},
		{"pipe with inline", Node{Name: "a", Type: FIFO, Inline: []byte("x")}, false},
		{"pipe with extents", Node{Name: "a", Type: FIFO, Extents: holes(1)}, false},
		{"pipe with blobs", Node{Name: "a", Type: FIFO, ExtentBlobs: ids(1)}, false},
		{"link without target", Node{Name: "a", Type: Symlink}, false},
		{"file with target", Node{Name: "a", Type: File, Target: "t"}, false},
		{"target NUL", Node{Name: "a", Type: Symlink, Target: "t\x00"}, false},
		{"longest target", Node{Name: "a", Type: Symlink, Target: strings.Repeat("t", MaxTarget)}, true},
		{"target too long", Node{Name: "a", Type: Symlink, Target: strings.Repeat("t", MaxTarget+1)}, false},
		{"pipe with device number", Node{Name: "a", Type: FIFO, Rdev: 1}, false},
		{"size without content", file(1), false},
		{"size short", file(1, Extent{Hole, 2, crypt.ID{}}), false},
		{"size long", file(3, Extent{Hole, 2, crypt.ID{}}), false},
		{"inline size", Node{Name: "a", Type: File, Size: 2, Inline: []byte("x")}, false},
		{"longest inline", Node{Name: "a", Type: File, Size: MaxInline, Inline: make([]byte, MaxInline)}, true},
		{"inline too long", Node{Name: "a", Type: File, Size: MaxInline + 1, Inline: make([]byte, MaxInline+1)}, false},
		{"inline and extents", Node{Name: "a", Type: File, Size: 2, Inline: []byte("x"), Extents: holes(1)}, false},
		{"extents and blobs", Node{Name: "a", Type: File, Size: 1, ExtentBlobs: ids(1), Extents: holes(1)}, false},
		{"blobs without size", Node{Name: "a", Type: File, ExtentBlobs: ids(1)}, false},
		{"blob zero", Node{Name: "a", Type: File, Size: 1, ExtentBlobs: make([]crypt.ID, 1)}, false},
		{"most blobs", Node{Name: "a", Type: File, Size: 1, ExtentBlobs: ids(MaxExtentBlobs)}, true},
		{"too many blobs", Node{Name: "a", Type: File, Size: 1, ExtentBlobs: ids(MaxExtentBlobs + 1)}, false},
		{"most extents", file(MaxExtents, holes(MaxExtents)...), true},
		{"too many extents", file(MaxExtents+1, holes(MaxExtents+1)...), false},
		{"largest size", file(MaxFileSize, Extent{Hole, MaxFileSize, crypt.ID{}}), true},
		{"size over", file(MaxFileSize+1, Extent{Hole, MaxFileSize + 1, crypt.ID{}}), false},
		{"sum overflows", file(0, Extent{Hole, 1 << 63, crypt.ID{}}, Extent{Hole, 1 << 63, crypt.ID{}}), false},
		{"sum wraps to the size", file(1, Extent{Hole, math.MaxUint64, crypt.ID{}}, Extent{Hole, 2, crypt.ID{}}), false},
		{"size over with blobs", Node{Name: "a", Type: File, Size: 1 << 63, ExtentBlobs: ids(1)}, false},
		{"largest data", file(MaxBlob, Extent{Data, MaxBlob, id}), true},
		{"data over", file(MaxBlob+1, Extent{Data, MaxBlob + 1, id}), false},
		{"data without ID", file(1, Extent{Data, 1, crypt.ID{}}), false},
		{"hole with ID", file(1, Extent{Hole, 1, id}), false},
		{"empty extent", file(0, Extent{Hole, 0, crypt.ID{}}), false},
		{"extent kind", file(1, Extent{4, 1, crypt.ID{}}), false},
		{"xattrs twice", Node{Name: "a", Type: FIFO, XAttrs: []XAttr{{"u", nil}}, XAttrBlob: id}, false},
		{"xattr order", Node{Name: "a", Type: FIFO, XAttrs: []XAttr{{"u", nil}, {"u", nil}}}, false},
		{"xattr name", Node{Name: "a", Type: FIFO, XAttrs: []XAttr{{"", nil}}}, false},
		{"xattr NUL", Node{Name: "a", Type: FIFO, XAttrs: []XAttr{{"\x00", nil}}}, false},
		{"most xattr bytes", Node{Name: "a", Type: FIFO, XAttrs: []XAttr{{"u", make([]byte, MaxXAttrInline-1)}}}, true},
		{"too many xattr bytes", Node{Name: "a", Type: FIFO, XAttrs: []XAttr{{"u", make([]byte, MaxXAttrInline)}}}, false},
		{"stream order", Node{Name: "a", Type: FIFO, Streams: []Stream{{"b", nil}, {"a", nil}}}, false},
		{"stream name", Node{Name: "a", Type: FIFO, Streams: []Stream{{"", nil}}}, false},
		{"stream extent", Node{Name: "a", Type: FIFO, Streams: []Stream{{"s", []Extent{{Data, 1, crypt.ID{}}}}}}, false},
		{"too many extents in streams", Node{Name: "a", Type: FIFO, Streams: []Stream{{"s", holes(MaxExtents)}, {"t", holes(1)}}}, false},
		{"too many streams", Node{Name: "a", Type: FIFO, Streams: make([]Stream, MaxStreams+1)}, false},
	} {
		err := c.n.Validate()
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ok %v", c.what, err, c.ok)
		}
	}
}

// The largest valid node is what a page may exceed 1 MiB by.
func TestLargestNode(t *testing.T) {
	n := Node{Name: strings.Repeat("n", MaxName), Type: File, Mode: MaxMode, UID: math.MaxUint32, GID: math.MaxUint32,
		User: strings.Repeat("u", MaxOwner), Group: strings.Repeat("g", MaxOwner), Size: MaxFileSize,
		MTime: Time{math.MaxInt64, 999999999}, CTime: Time{math.MaxInt64, 999999999}, BTime: Time{math.MaxInt64, 999999999},
		ATime: Time{math.MaxInt64, 999999999}, Inode: math.MaxUint64, Device: math.MaxUint32, Links: math.MaxUint32, Flags: math.MaxUint32,
		ExtentBlobs: slices.Repeat([]crypt.ID{testID("e")}, MaxExtentBlobs)}
	bytesLeft := MaxXAttrInline
	for i := 1; bytesLeft > 2; i++ { // most attributes for the bytes: the shortest names
		name := string([]byte{byte(i>>8 + 1), byte(i&0xff | 1)})
		if len(n.XAttrs) > 0 && name <= n.XAttrs[len(n.XAttrs)-1].Name {
			continue
		}
		n.XAttrs = append(n.XAttrs, XAttr{Name: name})
		bytesLeft -= 2
	}
	for i := range MaxStreams {
		n.Streams = append(n.Streams, Stream{fmt.Sprintf("%03d", i) + strings.Repeat("s", MaxStreamName-3),
			slices.Repeat([]Extent{{Data, MaxBlob, testID("d")}}, MaxExtents/MaxStreams)})
	}
	if err := n.Validate(); err != nil {
		t.Fatal(err)
	}
	if size := len(appendNode(nil, &n)); size > 700<<10 || pageBytes-1+size+maxPageHead > MaxPage {
		t.Errorf("%d bytes, more than a page leaves room for", size)
	}
}

// typicalNodes is a directory of small files, each a blob.
func typicalNodes(n int) []Node {
	nodes := make([]Node, n)
	for i := range nodes {
		nodes[i] = Node{Name: fmt.Sprintf("document-%06d.txt", i), Type: File, Mode: 0o644, UID: 1000, GID: 1000, User: "user", Group: "users",
			Size: 3000 + uint64(i%1000), MTime: Time{1700000000 + int64(i), 123456789}, CTime: Time{1700000000 + int64(i), 223456789},
			BTime: Time{1700000000 + int64(i), 3456789}, Inode: 1234567 + uint64(i), Device: 1, Links: 1,
			Extents: []Extent{{Data, 3000 + uint64(i%1000), testID(fmt.Sprint(i))}}}
	}
	return nodes
}

func BenchmarkDecodePage(b *testing.B) {
	nodes := typicalNodes(600)
	plain, err := (&Page{Nodes: nodes}).Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(plain)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodePage(plain); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(nodes)), "ns/node")
}

func BenchmarkDirWriter(b *testing.B) {
	nodes := typicalNodes(10000)
	b.ReportAllocs()
	for b.Loop() {
		w := NewDirWriter(func([]byte) (crypt.ID, error) { return crypt.ID{1}, nil })
		for i := range nodes {
			if err := w.Add(&nodes[i]); err != nil {
				b.Fatal(err)
			}
		}
		if _, _, err := w.Finish(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(nodes)), "ns/node")
}
