package retain

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Period is a length of calendar time: months are as long as they are.
type Period struct{ Years, Months, Days, Hours int }

// Before returns the time that lies p before t, by the calendar of t's zone. Where the month that it leads to has no such day, its last day
// counts: one month before March 31 is February 28, not March 3, which would keep less than a month.
func (p Period) Before(t time.Time) time.Time {
	year, month, day := t.Date()
	first := time.Date(year-p.Years, month-time.Month(p.Months), 1, 0, 0, 0, 0, t.Location())
	year, month, _ = first.Date()
	last := time.Date(year, month+1, 0, 0, 0, 0, 0, t.Location()).Day()
	hour, minute, second := t.Clock()
	return time.Date(year, month, min(day, last)-p.Days, hour, minute, second, t.Nanosecond(), t.Location()).Add(-time.Duration(p.Hours) * time.Hour)
}

// String is the inverse of ParsePeriod up to the writing of weeks as days.
func (p Period) String() string {
	var b strings.Builder
	for _, part := range []struct {
		n    int
		unit string
	}{{p.Years, "y"}, {p.Months, "m"}, {p.Days, "d"}, {p.Hours, "h"}} {
		if part.n != 0 {
			fmt.Fprintf(&b, "%d%s", part.n, part.unit)
		}
	}
	return b.String()
}

// ParsePeriod reads whole numbers with the units y, m (months), w, d and h, in that order, each at most once and together
// more than nothing: 7y, 30d, 1y6m, 2w, 36h. No number exceeds 9999.
func ParsePeriod(s string) (Period, error) {
	bad := func() (Period, error) {
		return Period{}, fmt.Errorf("%q is not a period; write it as 36h, 30d, 4w, 6m, 7y or 1y6m", s)
	}
	var p Period
	units, rest := "ymwdh", s
	for rest != "" {
		end := 0
		for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
			end++
		}
		if end == 0 || end > 4 || end == len(rest) {
			return bad()
		}
		n, err := strconv.Atoi(rest[:end])
		at := strings.IndexByte(units, rest[end])
		if err != nil || at < 0 {
			return bad()
		}
		switch units[at] {
		case 'y':
			p.Years = n
		case 'm':
			p.Months = n
		case 'w':
			p.Days = 7 * n
		case 'd':
			p.Days += n
		case 'h':
			p.Hours = n
		}
		units, rest = units[at+1:], rest[end+1:]
	}
	if p == (Period{}) {
		return bad()
	}
	return p, nil
}
