package canon

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"testing"
)

type inner struct {
	_ struct{} `cbor:",toarray"`
	A uint32
	B []byte
}

type outer struct {
	Num    uint64           `cbor:"1,keyasint"`
	ID     [4]byte          `cbor:"2,keyasint"`
	Bytes  []byte           `cbor:"3,keyasint,omitempty"`
	Text   string           `cbor:"4,keyasint,omitempty"`
	List   []inner          `cbor:"5,keyasint,omitempty"`
	Map    map[uint32]int64 `cbor:"6,keyasint,omitempty"`
	Signed int64            `cbor:"-1,keyasint,omitempty"`
	Any    bool             `cbor:"30,keyasint,omitempty"`
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	v := outer{Num: 1 << 40, ID: [4]byte{1, 2, 3, 4}, Bytes: []byte{5}, Text: "é", List: []inner{{A: 7, B: []byte{}}, {B: []byte("b")}},
		Map: map[uint32]int64{300: -1, 2: 1 << 40, 0: 0}, Signed: -5, Any: true}
	b := Marshal(v)
	// Keys are sorted by their encoded bytes: 1 to 6, then 30 (two bytes), then -1.
	const want = "a8" + "011b0000010000000000" + "024401020304" + "034105" + "0462c3a9" + "0582" + "820740" + "82004162" +
		"06a3" + "0000" + "021b0000010000000000" + "19012c20" + "181ef5" + "2024"
	if hex.EncodeToString(b) != want {
		t.Errorf("Marshal = %x, want %s", b, want)
	}
	var got outer
	if err := Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(Marshal(got), b) {
		t.Error("Marshal(Unmarshal(b)) is not b")
	}
	for range 50 { // maps come in any order
		if !bytes.Equal(Marshal(v), b) {
			t.Fatal("one value has two encodings")
		}
	}
}

func TestRefused(t *testing.T) {
	const good = "a201050244" + "00000000"
	if err := Unmarshal(unhex(t, good), new(outer)); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		hex  string
		want error // nil: any
	}{
		"nothing":               {"", io.ErrUnexpectedEOF},
		"cut":                   {"a20105024400", io.ErrUnexpectedEOF},
		"trailing byte":         {good + "00", nil},
		"unknown key":           {"a3010502440000000007" + "00", nil},
		"double key":            {"a30105010502440000" + "0000", nil},
		"text key":              {"a361310501050244" + "00000000", nil},
		"keys out of order":     {"a2024400000000" + "0105", ErrForm},
		"missing key":           {"a10105", ErrForm},
		"number in two bytes":   {"a2011805" + "024400000000", ErrForm},
		"number in nine bytes":  {"a2011b0000000000000005" + "024400000000", ErrForm},
		"length in two bytes":   {"a20105025804" + "00000000", ErrForm},
		"key in two bytes":      {"a218010502" + "4400000000", ErrForm},
		"map in two bytes":      {"b80201050244" + "00000000", ErrForm},
		"short array":           {"a201050243" + "000000", ErrForm},
		"long array":            {"a201050245" + "0000000000", ErrForm},
		"array of numbers":      {"a201050284" + "00000000", ErrForm},
		"null for a number":     {"a201f60244" + "00000000", ErrForm},
		"undefined":             {"a201f70244" + "00000000", ErrForm},
		"float for a number":    {"a201f945000244" + "00000000", nil},
		"null for bytes":        {"a30105024400000000" + "03f6", ErrForm},
		"empty bytes":           {"a30105024400000000" + "0340", ErrForm},
		"empty text":            {"a30105024400000000" + "0460", ErrForm},
		"text not UTF-8":        {"a30105024400000000" + "0461ff", nil},
		"bytes for text":        {"a30105024400000000" + "044161", nil},
		"text for bytes":        {"a30105024400000000" + "036161", nil},
		"false":                 {"a30105024400000000" + "181ef4", ErrForm},
		"indefinite map":        {"bf01050244" + "00000000ff", nil},
		"indefinite bytes":      {"a30105024400000000" + "035f4105ff", nil},
		"indefinite list":       {"a30105024400000000" + "059fff", nil},
		"tag":                   {"c0" + good, nil},
		"tag of self":           {"d9d9f7" + good, nil},
		"bignum":                {"a201c241050244" + "00000000", nil},
		"short element":         {"a30105024400000000" + "05818107", nil},
		"long element":          {"a30105024400000000" + "058183074000", nil},
		"map keys out of order": {"a30105024400000000" + "06a202000100", ErrForm},
		"map key twice":         {"a30105024400000000" + "06a201000101", nil},
		"a list":                {"80", nil},
		"null":                  {"f6", ErrForm},
		"number over 2^64":      {"a2013bffffffffffffffff0244" + "00000000", nil},
		"list of 2^63":          {"a30105024400000000" + "059b8000000000000000", nil},
		"list of 2^32":          {"a30105024400000000" + "059b0000000100000000", nil},
		"bytes of 2^62":         {"a30105024400000000" + "035b4000000000000000", nil},
		"map of 2^40":           {"bb0000010000000000", nil},
	} {
		err := Unmarshal(unhex(t, c.hex), new(outer))
		if err == nil || c.want != nil && !errors.Is(err, c.want) || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestBytes has strings that are no text: MarshalBytes stores them as byte strings, and that is their one form.
func TestBytes(t *testing.T) {
	v := outer{Num: 5, Text: "\xff\x00", Bytes: []byte{1}}
	b := MarshalBytes(v)
	const want = "a4" + "0105" + "024400000000" + "034101" + "0442ff00"
	if hex.EncodeToString(b) != want {
		t.Errorf("MarshalBytes = %x, want %s", b, want)
	}
	var got outer
	if err := UnmarshalBytes(b, &got); err != nil || got.Text != v.Text || !bytes.Equal(MarshalBytes(got), b) {
		t.Errorf("%+v, %v", got, err)
	}
	for what, h := range map[string]string{
		"text":          "a3" + "0105" + "024400000000" + "046161",
		"unknown key":   "a3" + "0105" + "024400000000" + "0700",
		"double key":    "a3" + "0105" + "0105" + "024400000000",
		"trailing byte": want + "00",
		"tag":           "c0" + want,
		"long length":   "a3" + "0105" + "024400000000" + "04580161",
	} {
		if err := UnmarshalBytes(unhex(t, h), new(outer)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	type lists struct {
		L []uint8  `cbor:"1,keyasint"`
		S []string `cbor:"2,keyasint,omitempty"`
	}
	for n, ok := range map[int]bool{maxBytesList: true, maxBytesList + 1: false} {
		if err := UnmarshalBytes(MarshalBytes(lists{S: make([]string, n)}), new(lists)); (err == nil) != ok {
			t.Errorf("a list of %d: %v", n, err)
		}
	}
}

func TestDepth(t *testing.T) {
	deep := bytes.Repeat([]byte{0x81}, 1<<16)
	var v any
	if err := Unmarshal(append(deep, 0), &v); err == nil {
		t.Error("a value 65,536 deep was accepted")
	}
	if err := Unmarshal(append(deep[:MaxDepth+1:MaxDepth+1], 0), &v); err == nil {
		t.Error("a value one level too deep was accepted")
	}
	if err := Unmarshal(append(deep[:MaxDepth-1:MaxDepth-1], 0), &v); err != nil {
		t.Errorf("a value %d deep: %v", MaxDepth-1, err)
	}
}

func TestMarshalPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a channel was encoded")
		}
	}()
	Marshal(make(chan int))
}

func FuzzCanon(f *testing.F) {
	f.Add(Marshal(outer{Num: 5, Bytes: []byte{1}, Text: "t", List: []inner{{A: 1, B: []byte{2}}}, Map: map[uint32]int64{1: 2}, Signed: -1}))
	f.Add(unhex(f, "a20105024400000000"))
	f.Add([]byte{0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		var v outer
		if Unmarshal(b, &v) == nil && !bytes.Equal(Marshal(v), b) {
			t.Errorf("%x is encoded as %x", b, Marshal(v))
		}
		var i inner
		if Unmarshal(b, &i) == nil && !bytes.Equal(Marshal(i), b) {
			t.Errorf("%x is encoded as %x", b, Marshal(i))
		}
		var s outer
		if UnmarshalBytes(b, &s) == nil && !bytes.Equal(MarshalBytes(s), b) {
			t.Errorf("%x is encoded as %x", b, MarshalBytes(s))
		}
	})
}
