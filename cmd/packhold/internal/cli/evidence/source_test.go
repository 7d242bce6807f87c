package evidence

import (
	"testing"

	"packhold/cmd/packhold/internal/cli/fail"
)

func TestSourceVerdict(t *testing.T) {
	for _, c := range []struct {
		sum  sourceSummary
		code fail.Code
	}{
		{sourceSummary{Changed: 3, Gone: 2}, fail.Done},
		{sourceSummary{Changed: 3, Unreadable: 1}, fail.Skipped},
		{sourceSummary{Rotten: 1, Unreadable: 1}, fail.Differs},
	} {
		code := fail.Done
		if f := fail.Classify(sourceVerdict(&c.sum), nil); f != nil {
			code = f.Code
		}
		if code != c.code {
			t.Errorf("%+v: exit %d, want %d", c.sum, code, c.code)
		}
	}
}
