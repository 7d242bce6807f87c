package fail

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	last := Code(-1)
	for _, r := range Table() {
		if r.Code <= last {
			t.Errorf("code %d does not follow %d", r.Code, last)
		}
		last = r.Code
		if r.Meaning == "" || r.Code.Meaning() != r.Meaning {
			t.Errorf("code %d means %q in the table and %q alone", r.Code, r.Meaning, r.Code.Meaning())
		}
	}
	if got := Signal(2); got != 130 || got.Meaning() != "ended by signal 2" {
		t.Errorf("signal 2: %d, %s", got, got.Meaning())
	}
	if got := Code(99).Meaning(); got != Unclassified.Meaning() {
		t.Errorf("code 99 means %q", got)
	}
}

// The order is the manual's: signal > 22 > 21 > 23 > 10..17 > 26 > 25 > 20 > 24 > 3. What it leaves open, 4 and 1, stands
// behind 10..17: nothing was done there either.
func TestWorst(t *testing.T) {
	order := []Code{130, 22, 21, 23, 10, 11, 12, 13, 14, 15, 16, 17, 4, 1, 26, 25, 20, 24, 3, 0}
	for i, high := range order {
		for _, low := range order[i:] {
			if got := Worst(low, high); got != high {
				t.Errorf("worst of %d and %d is %d", low, high, got)
			}
			if got := Worst(high, low); got != high {
				t.Errorf("worst of %d and %d is %d", high, low, got)
			}
		}
	}
	if got := Worst(); got != Done {
		t.Errorf("worst of nothing is %d", got)
	}
}

func TestLines(t *testing.T) {
	e := &Error{Code: Lost, Word: "damage.lost", Problem: "pack is\ndamaged\x1b[2J", Where: "a\u202eb", Effect: "3 files\xff", Next: "packhold verify"}
	want := `error: pack is\ndamaged\x1b[2J                 [damage.lost]` + "\n" +
		` where: a\u202eb` + "\n" +
		`effect: 3 files\xff` + "\n" +
		`  next: packhold verify`
	if got := e.Lines(60); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, width := range []int{0, 10, 45, 46, 47} {
		first, _, _ := strings.Cut(e.Lines(width), "\n")
		if !strings.HasSuffix(first, "  [damage.lost]") || width == 47 && len(first) != 47 {
			t.Errorf("width %d: %q", width, first)
		}
	}
}

func TestClassify(t *testing.T) {
	var (
		full  = errors.New("full")
		forge = errors.New("forged")
	)
	rules := []Rule{
		{Is: full, Code: NoSpace, Word: "full.a"},
		{Is: full, Code: NoSpace, Word: "full.b"},
		{Is: forge, Code: Tampered, Word: "forge"},
		{Is: fs.ErrExist, Code: Exists, Word: "exists", Explain: "it is there"},
	}
	skipped := &Error{Code: Skipped, Word: "skipped", Problem: "2 items skipped"}
	lost := &Error{Code: Lost, Word: "lost", Problem: "gone"}
	for _, c := range []struct {
		err  error
		word string
		code Code
		text string
	}{
		{full, "full.a", 15, "full"},
		{fmt.Errorf("putting x: %w", full), "full.a", 15, "putting x: full"},
		{errors.Join(full, forge), "forge", 22, "full\nforged"},
		{errors.Join(forge, full), "forge", 22, "forged\nfull"},
		{fmt.Errorf("x: %w", fs.ErrExist), "exists", 13, "it is there"},
		{fmt.Errorf("x: %w", lost), "lost", 21, "gone"},
		{errors.Join(skipped, lost), "lost", 21, "gone"},
		{errors.Join(skipped, full), "full.a", 15, "2 items skipped\nfull"},
		{fmt.Errorf("a: %w, b: %w", lost, full), "lost", 21, "gone"},
		{&Error{Code: Denied, Word: "w", Problem: "p", Cause: full}, "full.a", 15, "p"},
		{errors.New("what"), "internal.unclassified", 1, "what"},
	} {
		got := Classify(c.err, rules)
		if got.Word != c.word || got.Code != c.code || got.Problem != c.text {
			t.Errorf("%v: got %d %s %q", c.err, got.Code, got.Word, got.Problem)
		}
	}
	if Classify(nil, rules) != nil {
		t.Error("no error is a failure")
	}
}
