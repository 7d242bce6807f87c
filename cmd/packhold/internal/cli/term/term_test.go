package term

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestName(t *testing.T) {
	for _, plain := range []string{"a", "/usr/share/doc", "with space", "größe", "日本", "a\"b", "a\\b", "a'b", "\uFFFD"} {
		if got := Name(plain); got != plain || Clean(plain) != plain {
			t.Errorf("%q is shown as %s", plain, got)
		}
	}
	for in, want := range map[string]string{
		"": `""`, "a\nb": `"a\nb"`, "\x1b[2Jx": `"\x1b[2Jx"`, "\xff\xfe": `"\xff\xfe"`, "a\u202eb": `"a\u202eb"`, "\u200b": `"\u200b"`,
		" a": `" a"`, "a ": `"a "`, `"a"`: `"\"a\""`, "a\u00a0b": `"a\u00a0b"`, "\x00": `"\x00"`, "\x7f": `"\x7f"`, "\u009b": `"\u009b"`, "\u2028": `"\u2028"`,
	} {
		if got := Name(in); got != want {
			t.Errorf("%q is shown as %s", in, got)
		}
	}
	if got := Clean("bad \x1b name \xff\u202e end "); got != `bad \x1b name \xff\u202e end ` {
		t.Errorf("cleaned: %s", got)
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"", "a", "\"", "\xff", "\u202e", " x", "\ufeff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		shown := Name(s)
		if !harmless(shown) || !harmless(Clean(s)) {
			t.Fatalf("%q is shown with harm", s)
		}
		if back, err := strconv.Unquote(shown); shown != s && (err != nil || back != s) {
			t.Fatalf("%q is shown as %s, which means %q", s, shown, back)
		}
		if text, raw := RawName(s); !utf8.ValidString(text) || (raw == "") != utf8.ValidString(s) {
			t.Fatalf("%q is %q and %q", s, text, raw)
		}
	})
}

func TestUnits(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.00 KiB", 1536: "1.50 KiB", -1536: "-1.50 KiB", 10 << 10: "10.0 KiB", 1023 << 10: "1023 KiB",
		1<<20 - 1: "1.00 MiB", 1 << 20: "1.00 MiB", 99 << 20: "99.0 MiB", 100 << 20: "100 MiB", 1 << 40: "1.00 TiB", math.MaxInt64: "8.00 EiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 100000: "100,000"} {
		if got := Count(n); got != want {
			t.Errorf("%d is counted %q", n, got)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Second: "0.0 s", 0: "0.0 s", 440 * time.Millisecond: "0.4 s", 9949 * time.Millisecond: "9.9 s", 9950 * time.Millisecond: "10 s",
		59 * time.Second: "59 s", 59600 * time.Millisecond: "1:00", time.Hour - 1: "1:00:00", 25 * time.Hour: "1 d 01:00:00",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	for _, c := range []struct {
		part, whole int64
		want        string
	}{{0, 0, "100.0%"}, {0, 3, "0.0%"}, {1, 3, "33.3%"}, {2, 3, "66.6%"}, {9999, 10000, "99.9%"}, {3, 3, "100.0%"}, {4, 3, "100.0%"},
		{-1, 3, "0.0%"}, {math.MaxInt64 / 2, math.MaxInt64, "49.9%"}, {570, 1000, "57.0%"}} {
		if got := Percent(c.part, c.whole); got != c.want {
			t.Errorf("%d of %d is %s, want %s", c.part, c.whole, got, c.want)
		}
	}
	if got := Ratio(13, 4) + " " + Ratio(0, 1) + " " + Ratio(1, 0); got != "3.25x - -" {
		t.Error(got)
	}
	if got := Plural(1, "file") + " " + Plural(0, "file") + " " + Plural(2000, "file"); got != "1 file 0 files 2,000 files" {
		t.Error(got)
	}
	if got := Rate(-1) + " " + Rate(math.Inf(1)) + " " + Rate(2048); got != "0 B/s 4.00 EiB/s 2.00 KiB/s" {
		t.Error(got)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "500": 500, "64K": 65536, "64k": 65536, "64KiB": 65536, "64 kb": 65536, "32MiB": 32 << 20, "1.5G": 3 << 29, "7E": 7 << 60, "12B": 12,
		"9223372036854775807": math.MaxInt64, "0.5K": 512, "2.0": 2,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "K", "-1", "+1", "1e3", "0x10", "8E", "9223372036854775808", "1.5", "1..5", ".5K", "1.K", "1X", "1KK", "1iB", "1  K", "1K ", "inf", "NaN", "١"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("%q is taken for %d", s, got)
		}
	}
}

func TestParsePercent(t *testing.T) {
	for s, want := range map[string]float64{"10%": 0.1, "2.5%": 0.025, "100": 1, "0.1%": 0.001} {
		if got, err := ParsePercent(s); err != nil || math.Abs(got-want) > 1e-12 {
			t.Errorf("%q is %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "%", "0%", "101%", "-1%", "1e1%", "10%%", "nan"} {
		if got, err := ParsePercent(s); err == nil {
			t.Errorf("%q is taken for %v", s, got)
		}
	}
}

func TestFitAndNearest(t *testing.T) {
	for _, c := range []struct {
		in    string
		width int
		want  string
	}{{"abc", 3, "abc"}, {"abcdefghij", 9, "ab...ghij"}, {"abcdef", 5, "abcde"}, {"ab", 0, ""}, {"ab", -1, ""}, {"äöüäöüäöü", 8, "ä...üäöü"}} {
		if got := Fit(c.in, c.width); got != c.want {
			t.Errorf("%q in %d columns is %q", c.in, c.width, got)
		}
	}
	list := []string{"backup", "restore", "verify", "list"}
	for s, want := range map[string]string{"bakcup": "backup", "restroe": "restore", "verfy": "verify", "lst": "", "lits": "list", "xyz": "", "": "", strings.Repeat("a", 100): ""} {
		if s == "lst" {
			want = "list"
		}
		if got := Nearest(s, list); got != want {
			t.Errorf("near %q is %q, want %q", s, got, want)
		}
	}
}

func TestTables(t *testing.T) {
	var b strings.Builder
	list := SnapshotTable([]Snapshot{
		{1, "ab12", "web1", "full", []string{"/data", "/a\tb"}, time.Unix(0, 0), 1 << 30, 1 << 20},
		{1234, "cd34", "", "", nil, time.Unix(1e9, 0), -1, 512},
	}, time.UTC)
	if err := list.Write(&b); err != nil {
		t.Fatal(err)
	}
	want := "NUMBER  ID    HOST  TYPE  TIME                     SIZE       NEW  SOURCES\n" +
		"     1  ab12  web1  full  1970-01-01 00:00:00  1.00 GiB  1.00 MiB  /data, \"/a\\tb\"\n" +
		" 1,234  cd34  -     -     2001-09-09 01:46:40         -     512 B  -\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestScreen(t *testing.T) {
	var b strings.Builder
	s := NewScreen(&b)
	s.SetStatus("not shown")
	s.Print("one")
	s.Terminal, s.Width = true, func() int { return 10 }
	s.SetStatus("bar", "file\x1b")
	s.Print("two\n")
	s.SetStatus("012345678901")
	s.SetStatus()
	s.SetStatus()
	s.Print("three")
	clear2 := "\r\x1b[1A\x1b[J"
	want := "one\n" + "bar\nfile\\x1b" + clear2 + "two\n" + "bar\nfile\\x1b" + clear2 + "01...8901" + "\r\x1b[J" + "three\n"
	if b.String() != want {
		t.Errorf("got\n%q\nwant\n%q", b.String(), want)
	}
}
