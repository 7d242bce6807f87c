package audit

import (
	"bytes"
	"crypto/hpke"
	"encoding/base64"
	"errors"
	"iter"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"packhold/crypt"
)

func goldenRecord() Record {
	return Record{Seq: 7, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Host: "höst", Origin: "192.0.2.1", User: "root", Tool: "packhold 1.0",
		IntentLog: strings.Repeat("0a", 16), Event: Event{Op: "forget", Outcome: Success, Object: "a\"b\\c\n\x01\u2028<&>\x7f", Job: "nightly",
			Snapshot: "000102030405060708090a0b0c0d0e0f", Reason: "policy", Approver: "second", Auth: "passphrase", ParamsHash: "ff", Bytes: 1 << 40,
			Duration: 1500 * time.Millisecond, IntentSeq: 6}}
}

// The golden record around its private part.
const (
	goldenHead = `{"auth":"passphrase","bytes":1099511627776,"duration_ms":1500,"host":"höst",` +
		`"intent_log":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a","intent_seq":6,"op":"forget","outcome":"success","params_hash":"ff",`
	goldenTail = `"seq":7,"snapshot":"000102030405060708090a0b0c0d0e0f","time":"2026-01-02T03:04:05.000000006Z","tool_version":"packhold 1.0","v":1}`

	// 124 bytes and four blanks.
	goldenPrivate = `{"approver":"second","job":"nightly","object":"a\"b\\c\n\u0001` + "\u2028<&>\x7f" + `",` + `"origin":"192.0.2.1","reason":"policy","user":"root"}    `
	goldenTag     = "efcec99cdbe5d3f2275baa1f929ea750"

	goldenStart = `{"object":"audit/x","op":"log-start","reason":"policy","root":"00","seq":0,"time":"2026-01-02T03:04:05.000000006Z","v":1}`
)

// The leaf hashes are SHA-256 of a zero byte and the line, computed by another program.
const (
	goldenLeaf      = "bd97b0983513d3f1a7c9655d1827422d0d9dd3d3d2b761d987e01d4acd058dea"
	goldenStartLeaf = "8f5f4dc35fa2e38aa4c611bd08a8580f69c1cd4417ca34a1810263a075657c94"
)

// testReadKey is the HPKE half of a read key, of seed bytes that are all c: private parts need no more.
func testReadKey(t testing.TB, epoch uint32, c byte) *crypt.ReadPrivate {
	t.Helper()
	k, err := hpke.MLKEM768P256().NewPrivateKey(bytes.Repeat([]byte{c}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return &crypt.ReadPrivate{Epoch: epoch, HPKE: k}
}

func public(k *crypt.ReadPrivate) *crypt.ReadPublic {
	return &crypt.ReadPublic{Epoch: k.Epoch, HPKE: k.HPKE.PublicKey()}
}

var goldenRepo = goldenCheckpoint().repo

func TestGoldenRecord(t *testing.T) {
	key := testReadKey(t, 3, 0x52)
	want := goldenRecord()
	if got := string(want.privateText()); got != goldenPrivate || len(got) != privateBlock {
		t.Errorf("private part is\n%s\nwant\n%s", got, goldenPrivate)
	}
	// What is stored, with a sealed part that once was drawn, and is opened for ever.
	line, err := os.ReadFile("testdata/record.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRecord(line)
	if err != nil {
		t.Fatal(err)
	}
	if hexOf(got.Leaf) != goldenLeaf {
		t.Errorf("leaf hash %x", got.Leaf)
	}
	sealed := base64.StdEncoding.EncodeToString([]byte(got.private))
	if whole := goldenHead + `"private":"` + sealed + `","read_epoch":3,` + goldenTail; string(line) != whole {
		t.Errorf("record is\n%s\nwant\n%s", line, whole)
	}
	closed := want
	closed.Origin, closed.User, closed.Object, closed.Job, closed.Reason, closed.Approver = "", "", "", "", "", ""
	closed.Leaf, closed.Closed, closed.private, closed.readEpoch = got.Leaf, true, got.private, 3
	if got != closed {
		t.Errorf("parsed as %+v", got)
	}
	if err := got.open(goldenRepo, goldenTag, key); err != nil {
		t.Fatal(err)
	}
	want.Leaf, want.private, want.readEpoch = got.Leaf, got.private, 3
	if got != want {
		t.Errorf("opened as %+v", got)
	}

	start := Record{Time: want.Time, Root: "00", Event: Event{Op: LogStart, Object: "audit/x", Reason: "policy"}}
	if got := string(start.encode()); got != goldenStart {
		t.Errorf("start is\n%s\nwant\n%s", got, goldenStart)
	}
	if got, err := ParseRecord([]byte(goldenStart)); err != nil || got.Closed || hexOf(got.Leaf) != goldenStartLeaf || got.Object != "audit/x" || got.Reason != "policy" {
		t.Errorf("start parsed as %+v, %v", got, err)
	}
	least := Record{Time: time.Unix(0, 0)}
	if err := least.seal(goldenRepo, goldenTag, public(key)); err != nil {
		t.Fatal(err)
	}
	if got := least.encode(); string(got) != `{"seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}` {
		t.Errorf("least record %s", got)
	}
}

// TestPrivate opens private parts at places, with keys and of contents that are not theirs.
func TestPrivate(t *testing.T) {
	key := testReadKey(t, 3, 1)
	parse := func(r Record) Record {
		t.Helper()
		got, err := ParseRecord(r.encode())
		if err != nil || !got.Closed {
			t.Fatal(got, err)
		}
		return got
	}
	good := goldenRecord()
	if err := good.seal(goldenRepo, goldenTag, public(key)); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"second", "nightly", "192.0.2.1", "policy", "root", "object"} {
		if bytes.Contains(good.encode(), []byte(word)) || strings.Contains(good.private, word) {
			t.Errorf("%q is in clear", word)
		}
	}
	closed := parse(good)
	if again := closed; again.open(goldenRepo, goldenTag, key) != nil || again.User != "root" || again.Closed {
		t.Errorf("opened as %+v", again)
	}
	other := goldenRepo
	other[0] ^= 1
	moved, cut, epoch := closed, closed, closed
	moved.Seq++
	cut.private = cut.private[:40]
	epoch.readEpoch = 4
	for what, f := range map[string]func() (Record, error){
		"another repository": func() (Record, error) { r := closed; return r, r.open(other, goldenTag, key) },
		"another log":        func() (Record, error) { r := closed; return r, r.open(goldenRepo, strings.Repeat("0", 32), key) },
		"another number":     func() (Record, error) { r := parse(moved); return r, r.open(goldenRepo, goldenTag, key) },
		"another key":        func() (Record, error) { r := closed; return r, r.open(goldenRepo, goldenTag, testReadKey(t, 3, 2)) },
		"another epoch": func() (Record, error) {
			r := parse(epoch)
			return r, r.open(goldenRepo, goldenTag, testReadKey(t, 4, 1))
		},
		"a short one": func() (Record, error) { r := parse(cut); return r, r.open(goldenRepo, goldenTag, key) },
	} {
		if r, err := f(); !errors.Is(err, crypt.ErrOpen) || !r.Closed || r.User != "" {
			t.Errorf("%s: %v, %+v", what, err, r)
		}
	}
	pad := func(s string) string { return s + strings.Repeat(" ", -len(s)&(privateBlock-1)) }
	for what, text := range map[string]string{
		"nothing":      "",
		"blanks":       pad(" "),
		"empty":        pad("{}"),
		"empty text":   pad(`{"user":""}`),
		"no padding":   `{"user":"root"}`,
		"more padding": pad(`{"user":"root"}`) + strings.Repeat(" ", privateBlock),
		"line feed":    pad(`{"user":"root"}`)[1:] + "\n",
		"order":        pad(`{"user":"root","job":"a"}`),
		"unknown":      pad(`{"user":"root","x":"a"}`),
		"double":       pad(`{"user":"root","user":"root"}`),
		"public":       pad(`{"op":"list","user":"root"}`),
		"upper case":   pad(`{"USER":"root"}`),
		"escape":       pad(`{"user":"\u0072oot"}`),
		"wrong type":   pad(`{"user":1}`),
		"too long":     pad(`{"user":"` + strings.Repeat("a", MaxText+1) + `"}`),
	} {
		b, err := public(key).SealText(goldenRepo, privateAbout(goldenTag, 7), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		bad := closed
		bad.private = string(b)
		bad = parse(bad)
		if err := bad.open(goldenRepo, goldenTag, key); err == nil || !bad.Closed || bad.User != "" {
			t.Errorf("%s: %v, %+v", what, err, bad)
		}
	}
	// The first record of a log hides its user, and nothing of the log that it continues.
	start := Record{Time: good.Time, User: "root", Root: "00", Event: Event{Op: LogStart, Object: "audit/x", Reason: "policy"}}
	if err := start.seal(goldenRepo, goldenTag, public(key)); err != nil {
		t.Fatal(err)
	}
	first := parse(start)
	if first.Object != "audit/x" || first.Reason != "policy" || first.Root != "00" || first.User != "" {
		t.Errorf("first record %+v", first)
	}
	if err := first.open(goldenRepo, goldenTag, key); err != nil || first.User != "root" || first.Object != "audit/x" {
		t.Errorf("first record %+v, %v", first, err)
	}
	b, err := public(key).SealText(goldenRepo, privateAbout(goldenTag, 0), []byte(pad(`{"object":"x","user":"root"}`)))
	if err != nil {
		t.Fatal(err)
	}
	start.private = string(b)
	if first = parse(start); first.open(goldenRepo, goldenTag, key) == nil {
		t.Errorf("first record with a private object: %+v", first)
	}
	// Whoever cannot open it learns no lengths from it but that it is long.
	sizes := map[int]bool{}
	for n := range 100 {
		r := Record{Seq: 1, User: strings.Repeat("u", n+1)}
		if err := r.seal(goldenRepo, goldenTag, public(key)); err != nil {
			t.Fatal(err)
		}
		sizes[len(r.private)] = true
	}
	if len(sizes) != 1 {
		t.Errorf("users of 1 to 100 bytes take %v", sizes)
	}
}

func hexOf(h [32]byte) string { return crypt.ID(h).String() }

func TestRecordLimits(t *testing.T) {
	long := strings.Repeat("\x01", 4*MaxText)
	r := Record{Time: time.Unix(1, 0), Seq: maxNumber, Host: long, Origin: long, User: long, Tool: long, IntentLog: long, Root: long, Event: Event{Op: long, Outcome: long,
		Object: long, Job: long, Snapshot: long, Reason: long, Approver: long, Auth: long, ParamsHash: long, Bytes: 1 << 63, Duration: 1<<63 - 1, IntentSeq: 1 << 60}}
	key := testReadKey(t, 1<<32-1, 1)
	for _, r.Seq = range []uint64{0, maxNumber} {
		if err := r.seal(goldenRepo, goldenTag, public(key)); err != nil {
			t.Fatal(err)
		}
		line := r.encode()
		if len(line) > MaxRecord || len(line) < MaxRecord*8/10 {
			t.Errorf("the greatest record is %d bytes", len(line))
		}
		got, err := ParseRecord(line)
		if err == nil {
			err = got.open(goldenRepo, goldenTag, key)
		}
		if err != nil || got.Bytes != maxNumber || len(got.User) != MaxText || !strings.HasSuffix(got.User, "…") || got.Object != got.User || got.Reason != got.User {
			t.Errorf("the greatest record: %v", err)
		}
	}
	if MaxRecord*tileWidth > crypt.MaxBody/2 {
		t.Error("a tile may be too long")
	}
	for _, s := range []string{strings.Repeat("ä", MaxText), "\xff\xfe", strings.Repeat("€", 341) + "x", strings.Repeat("€", 341) + "xx", "a\xc3"} {
		r := Record{Time: time.Unix(1, 0), Tool: s}
		if got, err := ParseRecord(r.encode()); err != nil || len(got.Tool) > MaxText {
			t.Errorf("text %.20q: %d bytes, %v", s, len(got.Tool), err)
		}
	}
	if r := (Record{Time: time.Unix(1, 0), Event: Event{Duration: -5}}); bytes.Contains(r.encode(), []byte("duration")) {
		t.Error("negative duration")
	}
}

func TestRecordRefused(t *testing.T) {
	for what, line := range map[string]string{
		"nothing":         ``,
		"no version":      `{"seq":0,"time":"1970-01-01T00:00:00.000000000Z"}`,
		"blank":           `{"seq":0, "time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"order":           `{"time":"1970-01-01T00:00:00.000000000Z","seq":0,"v":1}`,
		"unknown":         `{"seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1,"x":1}`,
		"double":          `{"seq":0,"seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"upper case":      `{"SEQ":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"short time":      `{"seq":0,"time":"1970-01-01T00:00:00Z","v":1}`,
		"zone":            `{"seq":0,"time":"1970-01-01T00:00:00.000000000+00:00","v":1}`,
		"empty text":      `{"op":"","seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"escape":          `{"op":"\u0061","seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"solidus":         `{"op":"\/","seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"surrogate":       `{"op":"\ud800","seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"not UTF-8":       "{\"op\":\"\xff\",\"seq\":0,\"time\":\"1970-01-01T00:00:00.000000000Z\",\"v\":1}",
		"exponent":        `{"bytes":1e3,"seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"number too big":  `{"bytes":9007199254740992,"seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"negative":        `{"bytes":-1,"seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"duration":        `{"duration_ms":9007199254740991,"seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"trailing":        `{"seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}{}`,
		"a list":          `[]`,
		"text too long":   `{"op":"` + strings.Repeat("a", MaxText+1) + `","seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"clear user":      `{"seq":1,"time":"1970-01-01T00:00:00.000000000Z","user":"root","v":1}`,
		"clear object":    `{"object":"x","seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"clear reason":    `{"reason":"x","seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"late root":       `{"root":"x","seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"empty private":   `{"private":"","read_epoch":1,"seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"no epoch":        `{"private":"AAAA","seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"epoch alone":     `{"read_epoch":1,"seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"great epoch":     `{"private":"AAAA","read_epoch":4294967296,"seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"no base64":       `{"private":"AAA*","read_epoch":1,"seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"base64 bits":     `{"private":"AAB=","read_epoch":1,"seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"base64 lines":    `{"private":"AAAA\nAAAA","read_epoch":1,"seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"no padding":      `{"private":"AAA","read_epoch":1,"seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"wrong type":      `{"seq":"0","time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"record too long": `{"op":"` + strings.Repeat("a", MaxRecord) + `","seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
	} {
		if r, err := ParseRecord([]byte(line)); err == nil {
			t.Errorf("%s: %+v", what, r)
		}
	}
	for _, later := range []string{`{"v":2,"new":[]}`, `{"private":{"id":1},"v":3}`} {
		if _, err := ParseRecord([]byte(later)); !errors.Is(err, crypt.ErrFormat) {
			t.Errorf("later version: %v", err)
		}
	}
}

func goldenCheckpoint() *checkpoint {
	c := &checkpoint{time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), previous: &Head{Tag: strings.Repeat("0b", 16), Size: 9, Root: [32]byte{9}}}
	for i := range c.repo {
		c.repo[i], c.host[i], c.nonce[i] = byte(i), byte(0x10+i), byte(0x20+i)
	}
	for _, s := range []string{"a", "b", "c"} {
		c.tree.push(tlog.RecordHash([]byte(s)))
	}
	return c
}

const goldenCheckpointText = `packhold/1/audit/000102030405060708090a0b0c0d0e0f/efcec99cdbe5d3f2275baa1f929ea750
3
NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=
edge sTeYX/SE+2ANuTEHx3sDZcgNePW0Kd7Q/Zc2HQd5mes= WX/LMSgtNGVMIA00GPylcFxkjr8ybsc9jd7xGEH4dtg=
host 101112131415161718191a1b1c1d1e1f
nonce 202122232425262728292a2b2c2d2e2f00000000000000000000000000000000
previous 0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b 9 CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
time 2026-01-02T03:04:05.000000006Z
`

func TestGoldenCheckpoint(t *testing.T) {
	c := goldenCheckpoint()
	if got := string(c.encode()); got != goldenCheckpointText {
		t.Errorf("checkpoint is\n%s\nwant\n%s", got, goldenCheckpointText)
	}
	got, err := parseCheckpoint([]byte(goldenCheckpointText))
	if err != nil || got.head() != c.head() || *got.previous != *c.previous || got.host != c.host || !got.time.Equal(c.time) {
		t.Errorf("parsed as %+v, %v", got, err)
	}
	// The first lines are what tlog reads.
	lines := strings.SplitAfterN(goldenCheckpointText, "\n", 4)
	tree, err := tlog.ParseTree([]byte("go.sum database tree\n" + lines[1] + lines[2]))
	if err != nil || tree.N != 3 || tree.Hash != c.tree.root() {
		t.Errorf("tlog reads %v, %v", tree, err)
	}
	lines2 := strings.Split(goldenCheckpointText, "\n")
	for i := range lines2 {
		for _, with := range []string{"", "x", lines2[i] + " ", strings.ToUpper(lines2[i])} {
			if with == lines2[i] {
				continue
			}
			bad := append([]string(nil), lines2...)
			bad[i] = with
			if _, err := parseCheckpoint([]byte(strings.Join(bad, "\n"))); err == nil {
				t.Errorf("line %d as %q is accepted", i, with)
			}
		}
	}
}

func TestNames(t *testing.T) {
	tag := strings.Repeat("0", 32)
	for size, want := range map[uint64]string{1: "tile/data/000.p/1", 255: "tile/data/000.p/255", 256: "tile/data/000", 257: "tile/data/001.p/1",
		256 * 1000: "tile/data/999", 256*1234567 + 3: "tile/data/x001/x234/567.p/3"} {
		name := tileName(tag, dataTile(size))
		if name != "audit/"+tag+"/"+want {
			t.Errorf("%d is in %s", size, name)
		}
		if got, ok := parseTilePath(want); !ok || uint64(got.N)*tileWidth+uint64(got.W) != size {
			t.Errorf("%s is %v", want, got)
		}
	}
	if got, ok := parseTilePath("tile/8/1/000"); !ok || got.L != 1 || got.W != 256 {
		t.Errorf("hash tile %v", got)
	}
	for _, path := range []string{"tile/8/data/000", "tile/8/0/000.p/3", "tile/data/0", "tile/data/000.p/256", "tile/data/000.p/0", "tile/7/0/000", "tile/8/00/000",
		"tile/data/000.p/01", "tile/8/", "tile/data/", "tile/data/x000/000", "tile/data/-1"} {
		if got, ok := parseTilePath(path); ok {
			t.Errorf("%s is %v", path, got)
		}
	}
}

func TestWriteCSV(t *testing.T) {
	r := goldenRecord()
	evil := Record{Time: r.Time, User: "=1+2", Host: "+1", Origin: "-1", Event: Event{Op: "verify", Outcome: Intent, Job: "@x", Object: "\tx", Snapshot: "\r\nx", Reason: `a,"b" ＝`,
		Approver: " =cmd|' /C calc'!A0"}}
	closed := Record{Time: r.Time, Seq: 8, Closed: true, Event: Event{Op: "list", Outcome: Success}}
	var list iter.Seq2[Record, error] = func(yield func(Record, error) bool) {
		_ = yield(r, nil) && yield(evil, nil) && yield(closed, nil)
	}
	var b bytes.Buffer
	if err := WriteCSV(&b, list); err != nil {
		t.Fatal(err)
	}
	zero := strings.Repeat("0", 64)
	want := csvHeader + "\r\n" +
		"2026-01-02T03:04:05.000000006Z,FORGET,root,SUCCESS,7,höst,192.0.2.1,nightly,\"a\"\"b\\c\uFFFD\uFFFD\u2028<&>\uFFFD\",000102030405060708090a0b0c0d0e0f,1099511627776,1500,policy,second," + zero + ",\r\n" +
		"2026-01-02T03:04:05.000000006Z,VERIFY,'=1+2,STARTED,0,'+1,'-1,'@x,'\uFFFDx,'\uFFFD\uFFFDx,0,0,\"a,\"\"b\"\" ＝\",' =cmd|' /C calc'!A0," + zero + ",\r\n" +
		"2026-01-02T03:04:05.000000006Z,LIST,,SUCCESS,8,,,,,,0,0,,," + zero + ",YES\r\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	bad := errors.New("unreadable")
	if err := WriteCSV(&b, func(yield func(Record, error) bool) { yield(Record{}, bad) }); !errors.Is(err, bad) {
		t.Errorf("error of the records: %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(goldenHead + `"private":"AAAA","read_epoch":3,` + goldenTail))
	f.Add([]byte(goldenStart))
	f.Add([]byte(goldenPrivate))
	f.Add([]byte(`{"seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`))
	f.Add([]byte(`{"v":2}`))
	key := testReadKey(f, 3, 1)
	f.Fuzz(func(t *testing.T, line []byte) {
		if r, err := ParseRecord(line); err == nil && (!bytes.Equal(r.encode(), line) || r.Leaf != tlog.RecordHash(line)) {
			t.Errorf("%q is encoded as %q", line, r.encode())
		}
		// Every text can be told of, in the public part and in the private one.
		r := Record{Seq: 1, Time: time.Unix(1, 0), User: string(line), Tool: string(line), Event: Event{Reason: string(line)}}
		want := fit(string(line))
		if err := r.seal(goldenRepo, goldenTag, public(key)); err != nil {
			t.Fatal(err)
		}
		again, err := ParseRecord(r.encode())
		if err == nil && again.Closed {
			err = again.open(goldenRepo, goldenTag, key)
		}
		if err != nil || again.User != want || again.Reason != want || again.Tool != want {
			t.Errorf("text %q: %+v, %v", line, again, err)
		}
		// A private part is told in one way.
		r = Record{Seq: 1}
		b, err := public(key).SealText(goldenRepo, privateAbout(goldenTag, 1), line)
		if err != nil {
			t.Fatal(err)
		}
		r.private = string(b)
		if err := r.open(goldenRepo, goldenTag, key); err == nil && !bytes.Equal(r.privateText(), line) {
			t.Errorf("private part %q is told as %q", line, r.privateText())
		}
		if lines, err := splitLines(line, bytes.Count(line, []byte{'\n'})); err == nil && !bytes.Equal(joinLines(lines), line) {
			t.Errorf("lines %q", line)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	f.Add([]byte(goldenCheckpointText))
	c := goldenCheckpoint()
	c.previous = nil
	f.Add(c.encode())
	f.Add([]byte(strings.Repeat("\n", 8)))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := parseCheckpoint(text); err == nil && !bytes.Equal(c.encode(), text) {
			t.Errorf("%q is encoded as %q", text, c.encode())
		}
	})
}

func FuzzState(f *testing.F) {
	p := position{head: *goldenCheckpoint(), reason: "a reason", tileBytes: 5, pending: []crypt.ID{{1}}}
	b, err := stateBytes(&p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseState(b)
		if err != nil {
			return
		}
		again, err := stateBytes(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseState(again); err != nil {
			t.Errorf("%q: %v", again, err)
		}
	})
}
