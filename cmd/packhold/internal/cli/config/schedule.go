package config

import (
	"fmt"
	"strconv"
	"strings"

	"packhold/cmd/packhold/internal/cli/term"
)

// cronFields are the five fields of crontab(5) with their bounds and names. Day of week 7 is Sunday, like 0.
var cronFields = [5]struct {
	name     string
	low, top int
	names    string // three letters each, from low on
}{
	{"minute", 0, 59, ""},
	{"hour", 0, 23, ""},
	{"day of month", 1, 31, ""},
	{"month", 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"},
	{"day of week", 0, 7, "sunmontuewedthufrisat"},
}

// CheckSchedule reports whether s is a schedule: five crontab fields of *, numbers, names, ranges, steps and lists, or one
// of @hourly, @daily, @weekly, @monthly and @yearly.
func CheckSchedule(s string) error {
	switch s {
	case "@hourly", "@daily", "@weekly", "@monthly", "@yearly":
		return nil
	}
	fields := strings.Fields(s)
	if len(fields) != len(cronFields) {
		return fmt.Errorf("schedule %s has %s, not the five of minute, hour, day of month, month, day of week", strconv.Quote(s), term.Plural(int64(len(fields)), "field"))
	}
	for i, field := range fields {
		f := &cronFields[i]
		number := func(text string) (int, bool) {
			if n, err := strconv.ParseUint(text, 10, 8); err == nil {
				return int(n), int(n) >= f.low && int(n) <= f.top
			}
			at := strings.Index(f.names, strings.ToLower(text))
			return f.low + at/3, len(text) == 3 && at >= 0 && at%3 == 0
		}
		for part := range strings.SplitSeq(field, ",") {
			span, step, stepped := strings.Cut(part, "/")
			ok := span == "*"
			if !ok {
				from, to, ranged := strings.Cut(span, "-")
				low, good := number(from)
				if ok = good && (ranged || !stepped); ranged {
					top, good := number(to)
					ok = ok && good && low <= top
				}
			}
			if n, err := strconv.ParseUint(step, 10, 8); stepped && (err != nil || n == 0) {
				ok = false
			}
			if !ok {
				return fmt.Errorf("schedule %s: %s cannot be %s (%d to %d)", strconv.Quote(s), f.name, strconv.Quote(part), f.low, f.top)
			}
		}
	}
	return nil
}
