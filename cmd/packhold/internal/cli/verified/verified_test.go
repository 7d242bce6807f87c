package verified

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/repo"
	"packhold/repo/check"
	"packhold/repo/format"
)

// TestReason has a problem's reason tell where in the object it is, and never the object's name again.
func TestReason(t *testing.T) {
	damaged := fmt.Errorf("%w: why", repo.ErrDamaged)
	for want, p := range map[string]check.Problem{
		"damaged: why":                            {Object: "x", Err: damaged},
		"bytes 5-6: damaged: why":                 {Object: "x", Off: 5, N: 2, Err: damaged},
		"checking: damaged: why":                  {Object: "x", Err: &repo.Error{Op: "checking", Object: "x", Err: damaged}},
		"bytes 5-6: reading blob b: damaged: why": {Object: "x", Off: 5, N: 2, Err: &repo.Error{Op: "reading blob b of", Object: "x", Off: 5, N: 2, Err: damaged}},
		"bytes 7-8: reading pack: damaged: why":   {Object: "x", Err: &repo.Error{Op: "reading pack", Object: "x", Off: 7, N: 2, Err: damaged}},
		"reading y: damaged: why":                 {Object: "x", Err: &repo.Error{Op: "reading", Object: "y", Err: damaged}},
		"bytes 0-0: finding blob b: damaged: why": {Object: "x", N: 1, Err: &repo.Error{Op: "finding", Object: "blob b", Err: damaged}},
	} {
		if got := Reason(p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestNext: nobody is told to run what has just been run.
func TestNext(t *testing.T) {
	const deeper, mend = "packhold verify --read-data", "copy the repository"
	damaged := fmt.Errorf("%w: why", repo.ErrDamaged)
	for _, c := range []struct {
		name string
		rep  check.Report
		want string
	}{
		{"structure, mendable", check.Report{Snapshots: 1, Problems: []check.Problem{{Err: damaged, Mendable: true}}}, deeper},
		{"data, mendable", check.Report{Snapshots: 1, Whole: true, Problems: []check.Problem{{Err: damaged, Mendable: true}}}, mend},
		{"checksums, mendable", check.Report{Whole: true, Problems: []check.Problem{{Err: damaged, Mendable: true}}}, mend},
		{"structure, lost", check.Report{Snapshots: 1, Problems: []check.Problem{{Err: damaged}}}, deeper},
		{"checksums, lost", check.Report{Whole: true, Problems: []check.Problem{{Err: damaged}}}, deeper}, // which alone names files and tells backups
		{"data, lost", check.Report{Snapshots: 1, Whole: true, Problems: []check.Problem{{Err: damaged}}}, "from a copy of the repository"},
		{"data, lost packs", check.Report{Snapshots: 1, Whole: true, Problems: []check.Problem{{Err: damaged}}, Lost: []format.PackRef{{}}}, "packhold backup"},
	} {
		var f *fail.Error
		if !errors.As(Verdict(&c.rep, "place", false), &f) {
			t.Fatal(c.name)
		}
		if !strings.Contains(f.Next, c.want) || c.want != deeper && strings.Contains(f.Next, deeper) {
			t.Errorf("%s: next is %q, want %q", c.name, f.Next, c.want)
		}
	}
}
