package snapshot

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"packhold/crypt"
)

func testID16(s string) (b [16]byte) {
	id := testID(s)
	copy(b[:], id[:])
	return b
}

func fullRecord() *Record {
	return &Record{
		Session: testID16("session"), Host: testID16("host"), Nonce: testID("nonce"), Kind: Snapshot, Number: 42,
		Start: Time{1700000000, 1}, End: Time{1700000100, 999999999}, Type: Incremental,
		Root: testID("root"), Lineage: testID("lineage"), Parent: testID16("parent"),
		Stats:     Stats{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 24, math.MaxUint64},
		Retention: "yearly\xff", Prev: []Ref{{testID16("p"), testID("po")}},
		Seen:      []SeenRef{{testID16("h"), testID16("s"), testID("so")}, {testID16("h2"), testID16("s2"), testID("so2")}},
		AuditSize: 1000, AuditRoot: testID("audit"), Origin: &Origin{testID16("repository"), testID16("origin")},
		Validation: ReadBack, Body: []byte("sealed"),
	}
}

func fullBody() *Body {
	return &Body{Sources: []string{"/home", "/srv/\xff"}, Hostname: "host", User: "user", Job: "nightly", Tags: []string{"a", "b"},
		Excludes: []string{"*.o", "/home/*/.cache"}, Skipped: []SkippedItem{{"/home/x\xfe", "permission denied"}}, SkippedMore: 3,
		Program: "packhold 0.1"}
}

func smallRecords() []*Record {
	s, h, n := testID16("session"), testID16("host"), testID("nonce")
	return []*Record{
		{Session: s, Host: h, Nonce: n, Kind: Snapshot, Type: Full, Root: testID("root")},
		{Session: s, Host: h, Nonce: n, Kind: Copied, Copied: []crypt.ID{testID("1"), testID("2")}, Validation: ReadBack},
		{Session: s, Host: h, Nonce: n, Kind: Void},
		{Session: s, Host: h, Kind: Void, Start: Time{-5, 0}},
	}
}

func TestGoldenRecords(t *testing.T) {
	for name, r := range map[string]*Record{"record": fullRecord(), "record-copied": smallRecords()[1], "record-void": smallRecords()[2]} {
		data, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, data)
		deterministic(t, data)
		if got, err := ParseRecord(data); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: parsed %+v, %v; want %+v", name, got, err, r)
		}
	}
	data, err := fullBody().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "body", data)
	deterministic(t, data)
	if got, err := ParseBody(data); err != nil || !reflect.DeepEqual(got, fullBody()) {
		t.Errorf("parsed %+v, %v", got, err)
	}
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := fullRecord()
		v := reflect.ValueOf(&r.Stats).Elem()
		for i := range v.NumField() {
			v.Field(i).SetUint(rapid.Uint64().Draw(t, "count"))
		}
		r.Number, r.AuditSize = rapid.Uint64().Draw(t, "number"), rapid.Uint64().Draw(t, "audit")
		r.Start = Time{rapid.Int64Range(minYear1, maxYear9999).Draw(t, "sec"), rapid.Uint32Range(0, 999999999).Draw(t, "nsec")}
		r.Body = orNil(rapid.SliceOf(rapid.Byte()).Draw(t, "body"))
		r.Retention = string(rapid.SliceOf(rapid.Byte()).Draw(t, "retention"))
		if rapid.Bool().Draw(t, "bare") {
			r.Prev, r.Seen, r.Origin, r.Parent, r.Lineage = nil, nil, nil, [16]byte{}, [32]byte{}
		}
		data, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		deterministic(t, data)
		if got, err := ParseRecord(data); err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("parsed %+v, %v; want %+v", got, err, r)
		}
		texts := rapid.SliceOfN(genBytes(20), 0, 4)
		b := &Body{Sources: orNil(texts.Draw(t, "sources")), Tags: orNil(texts.Draw(t, "tags")), Excludes: orNil(texts.Draw(t, "excludes")),
			User: genBytes(5).Draw(t, "user"), SkippedMore: rapid.Uint64().Draw(t, "more")}
		for range rapid.IntRange(0, 3).Draw(t, "skipped") {
			b.Skip(genBytes(9).Draw(t, "path"), genBytes(9).Draw(t, "reason"))
		}
		if data, err = b.Marshal(); err != nil {
			t.Fatal(err)
		}
		deterministic(t, data)
		b.skippedBytes = 0
		if got, err := ParseBody(data); err != nil || !reflect.DeepEqual(got, b) {
			t.Fatalf("parsed %+v, %v; want %+v", got, err, b)
		}
	})
}

// Every record or body with one bit flipped, cut short or longer is refused, or is another one in its own encoding.
func TestRecordOneEncoding(t *testing.T) {
	for _, r := range append(smallRecords(), fullRecord()) {
		data, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		eachDamage(data, func(bad []byte) { checkRecord(t, bad) })
	}
	data, err := fullBody().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	eachDamage(data, func(bad []byte) { checkBody(t, bad) })
}

func eachDamage(data []byte, f func([]byte)) {
	for i := range data {
		f(data[:i])
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			f(bad)
		}
	}
	f(append(bytes.Clone(data), 0))
}

func checkRecord(t *testing.T, data []byte) {
	r, err := ParseRecord(data)
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Fatalf("%x: %v does not wrap ErrMalformed", data, err)
		}
		return
	}
	if again, err := r.Marshal(); err != nil || !bytes.Equal(again, data) {
		t.Fatalf("accepted %x, encoded %x, %v", data, again, err)
	}
}

func checkBody(t *testing.T, data []byte) {
	b, err := ParseBody(data)
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Fatalf("%x: %v does not wrap ErrMalformed", data, err)
		}
		return
	}
	if again, err := b.Marshal(); err != nil || !bytes.Equal(again, data) {
		t.Fatalf("accepted %x, encoded %x, %v", data, again, err)
	}
}

func FuzzRecord(f *testing.F) {
	for _, r := range append(smallRecords(), fullRecord()) {
		data, err := r.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(checkRecord)
}

func FuzzBody(f *testing.F) {
	for _, b := range []*Body{{}, fullBody()} {
		data, err := b.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(checkBody)
}

func TestHostileRecords(t *testing.T) {
	nested := strings.Repeat("81", 100) + "00"
	for _, c := range []string{
		"", "00", "80", "f6", "a0", "bf", "bfff", "a1181e01", "a12001", "a1616101", "a0" + "00", "a1f501", "a1fb3ff000000000000001",
		"a201000100", "a10e9affffffff", "a10e9b7fffffffffffffff", "a1159b7fffffffffffffff", "a1155bffffffffffffffff", "ba00ffffff",
		"a10e" + nested, "c1a0", "a106c10a", "a1058100", "a10d6161", "a105fb4045000000000000",
	} {
		data, err := hex.DecodeString(c)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := ParseRecord(data); !errors.Is(err, ErrMalformed) {
			t.Errorf("record %s: %+v, %v", c, r, err)
		}
		if b, err := ParseBody(data); c != "a0" && !errors.Is(err, ErrMalformed) {
			t.Errorf("body %s: %+v, %v", c, b, err)
		}
	}
	if _, err := ParseRecord(make([]byte, MaxRecord+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("record over the limit: %v", err)
	}
	if _, err := ParseBody(make([]byte, MaxBody+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("body over the limit: %v", err)
	}
	// Known fields in another form than the one that is written.
	data, err := smallRecords()[2].Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if data[0] != 0xa4 || !bytes.HasSuffix(data, []byte{4, 3}) {
		t.Fatalf("unexpected form %x", data)
	}
	for what, bad := range map[string][]byte{
		"stored zero":        append(append([]byte{0xa5}, data[1:]...), 5, 0),
		"unknown key":        append(append([]byte{0xa5}, data[1:]...), 0x18, 30, 1),
		"key twice":          append(append([]byte{0xa5}, data[1:]...), 4, 3),
		"unsorted":           append([]byte{0xa4, 4, 3}, data[1:len(data)-2]...),
		"long integer":       append(bytes.Clone(data[:len(data)-1]), 0x18, 3),
		"float":              append(bytes.Clone(data[:len(data)-1]), 0xf9, 0x42, 0x00),
		"session of 15":      bytes.Replace(append([]byte{0xa4, 1, 0x4f}, data[3:]...), data[3:19], data[3:18], 1),
		"session of 17":      bytes.Replace(append([]byte{0xa4, 1, 0x51}, data[3:]...), data[3:19], append(bytes.Clone(data[3:19]), 1), 1),
		"retention as text":  append(append([]byte{0xa5}, data[1:]...), 13, 0x61, 'r'),
		"empty list":         append(append([]byte{0xa5}, data[1:]...), 14, 0x80),
		"null":               append(append([]byte{0xa5}, data[1:]...), 18, 0xf6),
		"session as numbers": append(append([]byte{0xa4, 1, 0x90}, bytes.Repeat([]byte{1}, 16)...), data[19:]...),
	} {
		if r, err := ParseRecord(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
	}
}

func TestRecordValidate(t *testing.T) {
	for i, r := range append(smallRecords(), fullRecord()) {
		if err := r.Validate(); err != nil {
			t.Errorf("record %d: %v", i, err)
		}
	}
	for what, change := range map[string]func(r *Record){
		"session":        func(r *Record) { r.Session = [16]byte{} },
		"host":           func(r *Record) { r.Host = [16]byte{} },
		"nonce":          func(r *Record) { r.Nonce = [32]byte{} },
		"kind 0":         func(r *Record) { r.Kind = 0 },
		"kind 4":         func(r *Record) { r.Kind = 4 },
		"kind copied":    func(r *Record) { r.Kind = Copied },
		"kind void":      func(r *Record) { r.Kind = Void },
		"void with body": func(r *Record) { *r = *smallRecords()[2]; r.Body = []byte("b") },
		"void with root": func(r *Record) { *r = *smallRecords()[2]; r.Root = testID("r") },
		"void, parent":   func(r *Record) { *r = *smallRecords()[2]; r.Parent = testID16("p") },
		"copied nothing": func(r *Record) { *r = *smallRecords()[1]; r.Copied = nil },
		"copied zero":    func(r *Record) { *r = *smallRecords()[1]; r.Copied[0] = crypt.ID{} },
		"copied many":    func(r *Record) { *r = *smallRecords()[1]; r.Copied = make([]crypt.ID, MaxCopied+1) },
		"type 0":         func(r *Record) { r.Type = 0 },
		"type 4":         func(r *Record) { r.Type = 4 },
		"root":           func(r *Record) { r.Root = crypt.ID{} },
		"own parent":     func(r *Record) { r.Parent = r.Session },
		"year 0":         func(r *Record) { r.Start = Time{minYear1 - 1, 0} },
		"year 10000":     func(r *Record) { r.End = Time{maxYear9999 + 1, 0} },
		"nanoseconds":    func(r *Record) { r.End.Nsec = 1e9 },
		"retention":      func(r *Record) { r.Retention = strings.Repeat("r", MaxText+1) },
		"prev many":      func(r *Record) { r.Prev = make([]Ref, MaxPrev+1) },
		"prev zero":      func(r *Record) { r.Prev = make([]Ref, 1) },
		"seen many":      func(r *Record) { r.Seen = make([]SeenRef, MaxSeen+1) },
		"seen zero":      func(r *Record) { r.Seen = make([]SeenRef, 1) },
		"copied":         func(r *Record) { r.Copied = []crypt.ID{testID("1")} },
		"validation":     func(r *Record) { r.Validation = Confirmed + 1 },
		"origin":         func(r *Record) { r.Origin = &Origin{} },
		"body too long":  func(r *Record) { r.Body = make([]byte, MaxRecord) },
	} {
		r := fullRecord()
		change(r)
		if _, err := r.Marshal(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, change := range map[string]func(b *Body){
		"host":          func(b *Body) { b.Hostname = strings.Repeat("h", MaxText+1) },
		"program":       func(b *Body) { b.Program = strings.Repeat("h", MaxText+1) },
		"empty source":  func(b *Body) { b.Sources[0] = "" },
		"NUL in source": func(b *Body) { b.Sources[0] = "\x00" },
		"long source":   func(b *Body) { b.Sources[0] = strings.Repeat("s", MaxPattern+1) },
		"many sources":  func(b *Body) { b.Sources = make([]string, MaxSources+1) },
		"many tags":     func(b *Body) { b.Tags = make([]string, MaxTags+1) },
		"many excludes": func(b *Body) { b.Excludes = make([]string, MaxExcludes+1) },
		"many skipped":  func(b *Body) { b.Skipped = make([]SkippedItem, MaxSkipped+1) },
		"long path":     func(b *Body) { b.Skipped[0].Path = strings.Repeat("p", MaxPath+1) },
		"long reason":   func(b *Body) { b.Skipped[0].Reason = strings.Repeat("p", MaxReason+1) },
		"too long": func(b *Body) {
			b.Excludes = []string{}
			for range 200 {
				b.Excludes = append(b.Excludes, strings.Repeat("e", MaxPattern))
			}
		},
	} {
		b := fullBody()
		change(b)
		if _, err := b.Marshal(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSkip(t *testing.T) {
	var b Body
	for range MaxSkipped + 5 {
		b.Skip("/path", "reason")
		if len(b.Skipped) == MaxSkipped/2 {
			b.skippedBytes = 0 // as after ParseBody
		}
	}
	if len(b.Skipped) != MaxSkipped || b.SkippedMore != 5 {
		t.Errorf("%d items and %d more", len(b.Skipped), b.SkippedMore)
	}
	b = Body{}
	for range 5000 {
		b.Skip(strings.Repeat("p", 4000), strings.Repeat("r", 2*MaxReason))
	}
	size := 0
	for _, s := range b.Skipped {
		size += len(s.Path) + len(s.Reason)
	}
	if size > MaxSkippedBytes || size < MaxSkippedBytes-6000 || uint64(len(b.Skipped))+b.SkippedMore != 5000 || len(b.Skipped[0].Reason) != MaxReason {
		t.Errorf("%d bytes of %d items and %d more", size, len(b.Skipped), b.SkippedMore)
	}
	if data, err := b.Marshal(); err != nil {
		t.Error(err)
	} else if _, err := ParseBody(data); err != nil {
		t.Error(err)
	}
}
