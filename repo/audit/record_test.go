package audit

import (
	"bytes"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"packhold/crypt"
)

func goldenRecord() Record {
	return Record{Seq: 7, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Host: "höst", Origin: "192.0.2.1", User: "root", Tool: "packhold 1.0",
		IntentLog: strings.Repeat("0a", 16), Root: "00", Event: Event{Op: "forget", Outcome: Success, Object: "a\"b\\c\n\x01\u2028<&>\x7f", Job: "nightly",
			Snapshot: "000102030405060708090a0b0c0d0e0f", Reason: "policy", Approver: "second", Auth: "passphrase", ParamsHash: "ff", Bytes: 1 << 40,
			Duration: 1500 * time.Millisecond, IntentSeq: 6}}
}

const goldenLine = `{"approver":"second","auth":"passphrase","bytes":1099511627776,"duration_ms":1500,"host":"höst",` +
	`"intent_log":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a","intent_seq":6,"job":"nightly","object":"a\"b\\c\n\u0001` + "\u2028<&>\x7f" + `","op":"forget",` +
	`"origin":"192.0.2.1","outcome":"success","params_hash":"ff","reason":"policy","root":"00","seq":7,` +
	`"snapshot":"000102030405060708090a0b0c0d0e0f","time":"2026-01-02T03:04:05.000000006Z","tool_version":"packhold 1.0","user":"root","v":1}`

// The leaf hash is SHA-256 of a zero byte and the line, computed by another program.
const goldenLeaf = "d01a577d5f13eed4bd92e5964eff9663f9ab8ad55052e5ec04978e3c13974cef"

func TestGoldenRecord(t *testing.T) {
	r := goldenRecord()
	if got := string(r.encode()); got != goldenLine {
		t.Errorf("record is\n%s\nwant\n%s", got, goldenLine)
	}
	got, err := ParseRecord([]byte(goldenLine))
	if err != nil {
		t.Fatal(err)
	}
	if hexOf(got.Leaf) != goldenLeaf {
		t.Errorf("leaf hash %x", got.Leaf)
	}
	r.Leaf = got.Leaf
	if got != r {
		t.Errorf("parsed as %+v", got)
	}
	if least := (&Record{Time: time.Unix(0, 0)}).encode(); string(least) != `{"seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}` {
		t.Errorf("least record %s", least)
	}
}

func hexOf(h [32]byte) string { return crypt.ID(h).String() }

func TestRecordLimits(t *testing.T) {
	long := strings.Repeat("\x01", 4*MaxText)
	r := Record{Time: time.Unix(1, 0), Seq: maxNumber, Host: long, Origin: long, User: long, Tool: long, IntentLog: long, Root: long, Event: Event{Op: long, Outcome: long,
		Object: long, Job: long, Snapshot: long, Reason: long, Approver: long, Auth: long, ParamsHash: long, Bytes: 1 << 63, Duration: 1<<63 - 1, IntentSeq: 1 << 60}}
	line := r.encode()
	if len(line) > MaxRecord {
		t.Errorf("the greatest record is %d bytes", len(line))
	}
	got, err := ParseRecord(line)
	if err != nil || got.Bytes != maxNumber || len(got.User) != MaxText || !strings.HasSuffix(got.User, "…") {
		t.Errorf("the greatest record: %v", err)
	}
	for _, s := range []string{strings.Repeat("ä", MaxText), "\xff\xfe", strings.Repeat("€", 341) + "x", strings.Repeat("€", 341) + "xx", "a\xc3"} {
		r := Record{Time: time.Unix(1, 0), User: s}
		if got, err := ParseRecord(r.encode()); err != nil || len(got.User) > MaxText {
			t.Errorf("text %.20q: %d bytes, %v", s, len(got.User), err)
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
		"wrong type":      `{"seq":"0","time":"1970-01-01T00:00:00.000000000Z","v":1}`,
		"record too long": `{"op":"` + strings.Repeat("a", MaxRecord) + `","seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`,
	} {
		if r, err := ParseRecord([]byte(line)); err == nil {
			t.Errorf("%s: %+v", what, r)
		}
	}
	for _, later := range []string{`{"v":2,"new":[]}`, `{"user":{"id":1},"v":3}`} {
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
	var list iter.Seq2[Record, error] = func(yield func(Record, error) bool) {
		_ = yield(r, nil) && yield(evil, nil)
	}
	var b bytes.Buffer
	if err := WriteCSV(&b, list); err != nil {
		t.Fatal(err)
	}
	zero := strings.Repeat("0", 64)
	want := csvHeader + "\r\n" +
		"2026-01-02T03:04:05.000000006Z,FORGET,root,SUCCESS,7,höst,192.0.2.1,nightly,\"a\"\"b\\c\uFFFD\uFFFD\u2028<&>\uFFFD\",000102030405060708090a0b0c0d0e0f,1099511627776,1500,policy,second," + zero + "\r\n" +
		"2026-01-02T03:04:05.000000006Z,VERIFY,'=1+2,STARTED,0,'+1,'-1,'@x,'\uFFFDx,'\uFFFD\uFFFDx,0,0,\"a,\"\"b\"\" ＝\",' =cmd|' /C calc'!A0," + zero + "\r\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	bad := errors.New("unreadable")
	if err := WriteCSV(&b, func(yield func(Record, error) bool) { yield(Record{}, bad) }); !errors.Is(err, bad) {
		t.Errorf("error of the records: %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(goldenLine))
	f.Add([]byte(`{"seq":0,"time":"1970-01-01T00:00:00.000000000Z","v":1}`))
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if r, err := ParseRecord(line); err == nil && (!bytes.Equal(r.encode(), line) || r.Leaf != tlog.RecordHash(line)) {
			t.Errorf("%q is encoded as %q", line, r.encode())
		}
		// Every text can be told of.
		r := Record{Time: time.Unix(1, 0), User: string(line), Event: Event{Reason: string(line)}}
		again, err := ParseRecord(r.encode())
		if err != nil || again.User != fit(string(line)) {
			t.Errorf("text %q: %q, %v", line, again.User, err)
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
