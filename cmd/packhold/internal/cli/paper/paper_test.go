package paper

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"rsc.io/qr"
)

func data(n int) []byte {
	r := rand.NewChaCha8([32]byte{7}) // seed 7, so that a failure can be repeated
	b := make([]byte, n)
	r.Read(b)
	return b
}

func text(t *testing.T, b []byte) string {
	t.Helper()
	var out strings.Builder
	if err := Write(&out, "key of /backups", b); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{1, lineBytes - 1, lineBytes, lineBytes + 1, codeBytes, codeBytes + 1, 5000, MaxData} {
		want := data(n)
		out := text(t, want)
		typed := "some words\n\n" + strings.NewReplacer("O", "0", "I", "1", "B", "8").Replace(strings.ToLower(out))
		for _, in := range []string{out, typed, strings.ReplaceAll(out, "\n", "\r\n")} {
			if got, err := Read(strings.NewReader(in)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		if codes := strings.Count(out, "code "); codes != (n+codeBytes-1)/codeBytes {
			t.Errorf("%d bytes make %d codes", n, codes)
		}
	}
	for _, n := range []int{0, MaxData + 1} {
		if err := Write(new(strings.Builder), "t", make([]byte, n)); err == nil {
			t.Errorf("%d bytes are written", n)
		}
	}
	if err := Write(new(strings.Builder), "t\n001", []byte{1}); err == nil {
		t.Error("a title of two lines is written")
	}
}

// Every letter mistyped, every line lost, doubled or exchanged is found, and a mistyped letter's line is named.
func TestMistakes(t *testing.T) {
	want := data(50)
	out, _, _ := strings.Cut(text(t, want), "\n\n")
	lines := strings.Split(out, "\n")
	if len(lines) != 5 {
		t.Fatalf("%d lines", len(lines))
	}
	try := func(what string, lines []string) string {
		got, err := Read(strings.NewReader(strings.Join(lines, "\n")))
		if err == nil && bytes.Equal(got, want) {
			return "" // a mistake that does not matter, such as a letter of the title
		}
		if err == nil {
			t.Fatalf("%s: taken for other bytes", what)
		}
		return err.Error()
	}
	for l := 1; l < len(lines); l++ {
		for i, c := range lines[l] {
			if i < 5 || c == ' ' {
				continue
			}
			other := "A"
			if c == 'A' {
				other = "Z"
			}
			changed := append([]string(nil), lines...)
			changed[l] = lines[l][:i] + other + lines[l][i+1:]
			if msg := try(changed[l], changed); msg == "" || l < 4 && !strings.Contains(msg, "line 00"+string(rune('0'+l))) {
				t.Errorf("%q: error %q", changed[l], msg)
			}
		}
		if try("lost", append(append([]string(nil), lines[:l]...), lines[l+1:]...)) == "" {
			t.Errorf("line %d is not missed", l)
		}
		if l+1 < len(lines) {
			swapped := append([]string(nil), lines...)
			swapped[l], swapped[l+1] = swapped[l+1], swapped[l]
			if try("exchanged", swapped) == "" {
				t.Errorf("line %d exchanged is not noticed", l)
			}
		}
	}
}

func FuzzRead(f *testing.F) {
	var out strings.Builder
	if err := Write(&out, "t", data(30)); err != nil {
		f.Fatal(err)
	}
	f.Add(out.String())
	f.Add("001\nend")
	f.Add("001  A\nend  001 A")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Read(strings.NewReader(s))
		if err != nil {
			return
		}
		again, err := Read(strings.NewReader(text(t, got)))
		if err != nil || !bytes.Equal(got, again) {
			t.Fatalf("%x comes back as %x, %v", got, again, err)
		}
	})
}

// The drawing holds the code's modules and nothing else, with a margin of four.
func TestHalfBlocks(t *testing.T) {
	code, err := qr.Encode("PACKHOLD1:1/1:ABCD", qr.M)
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSuffix(halfBlocks(code), "\n"), "\n")
	for y := -quiet; y < code.Size+quiet; y++ {
		row := []rune(rows[(y+quiet)/2])
		if len(row) != code.Size+2*quiet {
			t.Fatalf("row %d has %d columns", y, len(row))
		}
		for x := -quiet; x < code.Size+quiet; x++ {
			c := row[x+quiet]
			ink := c == '█' || c == '▀' && (y+quiet)%2 == 0 || c == '▄' && (y+quiet)%2 == 1
			if ink != code.Black(x, y) {
				t.Fatalf("module %d, %d is drawn wrong", x, y)
			}
		}
	}
}
