package verified

import (
	"fmt"
	"testing"

	"packhold/repo"
	"packhold/repo/check"
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
