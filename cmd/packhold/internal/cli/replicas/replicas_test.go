package replicas

import (
	"errors"
	"testing"
	"time"

	"packhold/cmd/packhold/internal/cli/fail"
)

func TestWindowEnd(t *testing.T) {
	zone := time.FixedZone("", 3600)
	at := func(day, hour, minute int) time.Time { return time.Date(2026, 3, day, hour, minute, 0, 0, zone) }
	for _, c := range []struct {
		window string
		now    time.Time
		end    time.Time // zero: closed
	}{
		{"02:00-03:00", at(5, 2, 0), at(5, 3, 0)},
		{"02:00-03:00", at(5, 2, 59), at(5, 3, 0)},
		{"02:00-03:00", at(5, 3, 0), time.Time{}},
		{"02:00-03:00", at(5, 1, 59), time.Time{}},
		{"23:30-00:30", at(5, 23, 45), at(6, 0, 30)},
		{"23:30-00:30", at(5, 0, 15), at(5, 0, 30)},
		{"23:30-00:30", at(5, 0, 30), time.Time{}},
		{"22:00-06:00", at(1, 5, 0), at(1, 6, 0)},
	} {
		end, err := windowEnd(c.window, c.now)
		var f *fail.Error
		switch {
		case c.end.IsZero():
			if !errors.As(err, &f) || f.Word != "replicate.closed" || f.Code != fail.Usage {
				t.Errorf("%s at %v: %v", c.window, c.now, err)
			}
		case err != nil || !end.Equal(c.end):
			t.Errorf("%s at %v ends %v, %v; want %v", c.window, c.now, end, err, c.end)
		}
	}
	for _, word := range []string{"", "tea", "02:00", "02:00-02:00", "2-3", "25:00-26:00", "02:00-03:00-04:00"} {
		var f *fail.Error
		if _, err := windowEnd(word, at(5, 2, 0)); !errors.As(err, &f) || f.Word != "usage.window" {
			t.Errorf("%q: %v", word, err)
		}
	}
}
