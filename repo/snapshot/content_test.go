package snapshot

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"packhold/crypt"
)

func TestGoldenContent(t *testing.T) {
	extents := []Extent{{Data, 1, testID("1")}, {Hole, 1 << 40, crypt.ID{}}, {Zeros, 65536, crypt.ID{}}, {Data, MaxBlob, testID("2")}}
	plain, err := EncodeExtents(extents)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "extents", plain)
	deterministic(t, plain)
	if got, err := DecodeExtents(plain); err != nil || !reflect.DeepEqual(got, extents) {
		t.Errorf("decoded %v, %v", got, err)
	}
	xattrs := []XAttr{{"security.capability", []byte("\x01\x00\x00\x02")}, {"user.empty", nil}, {"user.long", bytes.Repeat([]byte("v"), 300)}}
	if plain, err = EncodeXAttrs(xattrs); err != nil {
		t.Fatal(err)
	}
	golden(t, "xattrs", plain)
	deterministic(t, plain)
	if got, err := DecodeXAttrs(plain); err != nil || !reflect.DeepEqual(got, xattrs) {
		t.Errorf("decoded %v, %v", got, err)
	}
}

func TestContentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if extents := genExtents(20).Draw(t, "extents"); extents != nil {
			plain, err := EncodeExtents(extents)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := DecodeExtents(plain); err != nil || !reflect.DeepEqual(got, extents) {
				t.Fatalf("decoded %v, %v; want %v", got, err, extents)
			}
		}
		if xattrs := genXAttrs.Draw(t, "xattrs"); xattrs != nil {
			plain, err := EncodeXAttrs(xattrs)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := DecodeXAttrs(plain); err != nil || !reflect.DeepEqual(got, xattrs) {
				t.Fatalf("decoded %v, %v; want %v", got, err, xattrs)
			}
		}
	})
}

func checkExtentBlob(t *testing.T, data []byte) {
	extents, err := DecodeExtents(data)
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Fatalf("%x: %v does not wrap ErrMalformed", data, err)
		}
		return
	}
	if again, err := EncodeExtents(extents); err != nil || !bytes.Equal(again, data) {
		t.Fatalf("accepted %x, encoded %x, %v", data, again, err)
	}
}

func checkXAttrBlob(t *testing.T, data []byte) {
	xattrs, err := DecodeXAttrs(data)
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Fatalf("%x: %v does not wrap ErrMalformed", data, err)
		}
		return
	}
	if again, err := EncodeXAttrs(xattrs); err != nil || !bytes.Equal(again, data) {
		t.Fatalf("accepted %x, encoded %x, %v", data, again, err)
	}
}

func FuzzExtents(f *testing.F) {
	plain, err := EncodeExtents([]Extent{{Data, 7, testID("1")}, {Hole, 300, crypt.ID{}}, {Zeros, 70000, crypt.ID{}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Fuzz(checkExtentBlob)
}

func FuzzXAttrs(f *testing.F) {
	plain, err := EncodeXAttrs([]XAttr{{"user.a", []byte("value")}, {"user.b", nil}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Fuzz(checkXAttrBlob)
}

func TestHostileContent(t *testing.T) {
	id := "5820" + strings.Repeat("11", 32)
	for _, c := range []string{
		"", "82", "8203", "820380", "820180", "820481820201", "82038182020100", "8203818202", "82038182021800",
		"82039f820201ff", "8203818201" + "01", "820381830201" + id, "8203818201" + "1a01000001" + id, "820381830101" + id + "00",
		"82038282021b8000000000000000820201", "82038282021b7fffffffffffffff820201", "82039affffffff820201",
		"820381830101" + "5820" + strings.Repeat("00", 32),
	} {
		data, err := hex.DecodeString(c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeExtents(data); !errors.Is(err, ErrMalformed) {
			t.Errorf("extents %s: %v, %v", c, got, err)
		}
	}
	for _, c := range []string{
		"", "8204", "820480", "820381820201", "8204818240" + "40", "820481824100" + "40", "82048182416140" + "00", "8204828241614082416140",
		"8204828241624082416140", "82048182614140", "82048182" + "590001" + "6140", "820481824161", "82049affffffff82416140", "82048182416160",
	} {
		data, err := hex.DecodeString(c)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeXAttrs(data); !errors.Is(err, ErrMalformed) {
			t.Errorf("xattrs %s: %v, %v", c, got, err)
		}
	}
	for _, c := range [][]Extent{nil, make([]Extent, 1), slices.Repeat([]Extent{{Hole, 1, crypt.ID{}}}, MaxBlobExtents+1)} {
		if _, err := EncodeExtents(c); !errors.Is(err, ErrMalformed) {
			t.Errorf("encoding %d extents: %v", len(c), err)
		}
	}
	for _, c := range [][]XAttr{nil, {{"", nil}}, {{"a", make([]byte, MaxBlob-1)}}, {{"a", make([]byte, MaxBlob)}}, {{"b", nil}, {"a", nil}}} {
		if _, err := EncodeXAttrs(c); !errors.Is(err, ErrMalformed) {
			t.Errorf("encoding %d attributes: %v", len(c), err)
		}
	}
	big := make([]byte, MaxBlob+1)
	if _, err := DecodeExtents(big); !errors.Is(err, ErrMalformed) {
		t.Errorf("extents over the limit: %v", err)
	}
	if _, err := DecodeXAttrs(big); !errors.Is(err, ErrMalformed) {
		t.Errorf("attributes over the limit: %v", err)
	}
}

// written returns a file of the extents.
func written(t *testing.T, s *store, extents []Extent) *Node {
	t.Helper()
	n := &Node{Name: "f", Type: File, Extents: []Extent{{}}, ExtentBlobs: []crypt.ID{{}}}
	w := NewExtentWriter(s.put)
	for _, e := range extents {
		n.Size += e.Length
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(n); err != nil {
		t.Fatal(err)
	}
	if err := n.Validate(); err != nil {
		t.Fatal(err)
	}
	return n
}

func manyExtents(n int) []Extent {
	extents := make([]Extent, n)
	for i := range extents {
		extents[i] = Extent{Data, uint64(i%1000 + 1), testID(fmt.Sprint(i))}
		if i%100 == 99 {
			extents[i] = Extent{Hole, 1 << 20, crypt.ID{}}
		}
	}
	return extents
}

func TestExtentWriter(t *testing.T) {
	ctx := context.Background()
	all := manyExtents(60000)
	for _, n := range []int{0, 1, MaxExtents, MaxExtents + 1, extentsLeast, len(all)} {
		s := newStore()
		file := written(t, s, all[:n])
		if (n <= MaxExtents) != (len(file.ExtentBlobs) == 0) {
			t.Errorf("%d extents: %d in the node, %d blobs", n, len(file.Extents), len(file.ExtentBlobs))
		}
		got, err := Extents(ctx, s, file)
		if err != nil || !slices.Equal(got, all[:n]) {
			t.Errorf("%d extents: %d read, %v", n, len(got), err)
		}
	}
	// Holes have no IDs to cut at.
	s := newStore()
	holes := written(t, s, slices.Repeat([]Extent{{Hole, 1, crypt.ID{}}}, MaxBlobExtents+1))
	if len(holes.ExtentBlobs) != 2 {
		t.Errorf("holes: %d blobs", len(holes.ExtentBlobs))
	}
	// Two extents more at the start rewrite the first blob.
	s = newStore()
	before := written(t, s, all)
	after := written(t, s, append([]Extent{{Data, 5, testID("new")}, {Zeros, 5, crypt.ID{}}}, all...))
	if k := len(before.ExtentBlobs); k < 4 || !slices.Equal(before.ExtentBlobs[k-2:], after.ExtentBlobs[len(after.ExtentBlobs)-2:]) {
		t.Errorf("blobs %v became %v", before.ExtentBlobs, after.ExtentBlobs)
	}

	errPut := errors.New("no space")
	w := NewExtentWriter(func([]byte) (crypt.ID, error) { return crypt.ID{}, errPut })
	for _, e := range all[:MaxExtents+1] {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(&Node{}); !errors.Is(err, errPut) {
		t.Errorf("put fails: %v", err)
	}
	w = NewExtentWriter(newStore().put)
	if err := w.Add(Extent{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("invalid extent: %v", err)
	}
	if err := w.Finish(&Node{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("after an invalid extent: %v", err)
	}
}

func TestExtentsRefuse(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	good := written(t, s, manyExtents(5000))
	text, _ := s.put([]byte("text"))
	leaf := s.page(&Page{})
	hole := func(n uint64) crypt.ID {
		plain, err := EncodeExtents([]Extent{{Hole, n, crypt.ID{}}})
		if err != nil {
			t.Fatal(err)
		}
		id, _ := s.put(plain)
		return id
	}
	wraps := []crypt.ID{hole(MaxFileSize), hole(MaxFileSize), hole(6)} // 2^64 + 4
	for _, c := range []struct {
		what   string
		change func(n *Node)
		want   error
	}{
		{"size less", func(n *Node) { n.Size-- }, ErrMalformed},
		{"size more", func(n *Node) { n.Size++ }, ErrMalformed},
		{"blob twice", func(n *Node) { n.ExtentBlobs = slices.Repeat(n.ExtentBlobs, 2) }, ErrMalformed},
		{"lost", func(n *Node) { n.ExtentBlobs = []crypt.ID{testID("lost")} }, errLost},
		{"text", func(n *Node) { n.ExtentBlobs = []crypt.ID{text} }, ErrMalformed},
		{"sum wraps", func(n *Node) { n.Size, n.ExtentBlobs = 4, wraps }, ErrMalformed},
		{"page", func(n *Node) { n.ExtentBlobs = []crypt.ID{leaf} }, ErrMalformed},
	} {
		n := good.Clone()
		c.change(n)
		if _, err := Extents(ctx, s, n); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	// More than memory should hold.
	if got, err := extentsUpTo(ctx, s, good, 5000); err != nil || len(got) != 5000 {
		t.Errorf("%d extents, %v", len(got), err)
	}
	if _, err := extentsUpTo(ctx, s, good, 4999); !errors.Is(err, errTooMany) {
		t.Errorf("too many extents: %v", err)
	}
}

func TestXAttrs(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	xattrs := []XAttr{{"user.big", make([]byte, 60000)}}
	plain, err := EncodeXAttrs(xattrs)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := s.put(plain)
	for _, n := range []*Node{{XAttrs: xattrs}, {XAttrBlob: id}} {
		if got, err := XAttrs(ctx, s, n); err != nil || !reflect.DeepEqual(got, xattrs) {
			t.Errorf("%v, %v", got, err)
		}
	}
	text, _ := s.put([]byte("text"))
	if _, err := XAttrs(ctx, s, &Node{XAttrBlob: text}); !errors.Is(err, ErrMalformed) {
		t.Errorf("text: %v", err)
	}
	if _, err := XAttrs(ctx, s, &Node{XAttrBlob: testID("lost")}); !errors.Is(err, errLost) {
		t.Errorf("lost: %v", err)
	}
}

func TestBlobs(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	all := manyExtents(3000)
	file := written(t, s, all)
	file.XAttrBlob = testID("xattrs")
	file.Streams = []Stream{{"s", []Extent{{Data, 1, testID("stream")}, {Zeros, 1, crypt.ID{}}}}}
	want := append([]crypt.ID{file.XAttrBlob}, file.ExtentBlobs...)
	for _, e := range all {
		if e.Kind == Data {
			want = append(want, e.ID)
		}
	}
	want = append(want, testID("stream"))
	collect := func(seq iter.Seq2[crypt.ID, error]) (ids []crypt.ID, errs int) {
		for id, err := range seq {
			if err != nil {
				errs++
			} else {
				ids = append(ids, id)
			}
		}
		return ids, errs
	}
	if got, errs := collect(Blobs(ctx, s, file)); errs != 0 || !slices.Equal(got, want) {
		t.Errorf("%d blobs and %d errors, want %d", len(got), errs, len(want))
	}
	file.ExtentBlobs = []crypt.ID{testID("lost")}
	if got, errs := collect(Blobs(ctx, s, file)); errs != 1 || !slices.Equal(got, []crypt.ID{testID("xattrs"), testID("lost"), testID("stream")}) {
		t.Errorf("extent blob lost: %v and %d errors", got, errs)
	}
	if got, errs := collect(Blobs(ctx, s, &Node{Name: "d", Type: Dir, Subtree: testID("d")})); errs != 0 || len(got) != 0 {
		t.Errorf("directory: %v and %d errors", got, errs)
	}
}
