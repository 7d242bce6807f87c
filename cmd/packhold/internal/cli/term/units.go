package term

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bytes returns n with a binary unit and three significant digits or so: "0 B", "1023 B", "1.50 KiB", "23.4 MiB", "512 GiB".
func Bytes(n int64) string {
	if n > -1024 && n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, i := float64(n), -1
	// 1023.5 would print as "1024 KiB": it belongs to the next unit.
	for math.Abs(v) >= 1023.5 && i < len(unitLetters)-1 {
		v /= 1024
		i++
	}
	digits := 2
	switch a := math.Abs(v); {
	case a >= 99.95:
		digits = 0
	case a >= 9.995:
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + " " + unitLetters[i:i+1] + "iB"
}

const unitLetters = "KMGTPE"

// Rate returns bytes per second.
func Rate(bytesPerSecond float64) string {
	return Bytes(int64(min(max(bytesPerSecond, 0), math.MaxInt64/2))) + "/s"
}

// Count returns n with commas between groups of three digits.
func Count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// Plural returns "1 file", "2 files", "1,234 files" for the noun "file".
func Plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Count(n) + " " + noun + "s"
}

// Percent returns part of whole as "42.3%"; it rounds down, so that only all of it is "100.0%". Nothing of nothing is all.
func Percent(part, whole int64) string {
	if whole <= 0 || part >= whole {
		return "100.0%"
	}
	part = max(part, 0)
	for part > math.MaxInt64/1000 { // a tenth of a percent does not need the low bits of petabytes
		part, whole = part>>10, whole>>10
	}
	tenths := part * 1000 / whole
	return fmt.Sprintf("%d.%d%%", tenths/10, tenths%10)
}

// Ratio returns before/after as "3.25x", and "-" if that has no meaning.
func Ratio(before, after int64) string {
	if before <= 0 || after <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2fx", float64(before)/float64(after))
}

// Duration returns d as a stopwatch shows it: "0.4 s", "12 s", "3:05", "1:02:03", "2 d 03:04:05".
func Duration(d time.Duration) string {
	d = max(d, 0)
	if d < 9950*time.Millisecond {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d d %02d:%02d:%02d", s/86400, s/3600%24, s/60%60, s%60)
}

// Time returns t to the second in the given zone, without naming it: tables say the zone once.
func Time(t time.Time, zone *time.Location) string { return t.In(zone).Format("2006-01-02 15:04:05") }

// ParseSize reads a number of bytes: digits, or digits with a fraction, and an optional unit K, M, G, T, P or E (each 1024
// times the one before), which may be followed by "iB" or "B"; case does not matter and one space may stand before the
// unit. 64K, 64KiB, 64 kb are all 65536: backup programs mean powers of two. Negative, fractional bytes and anything
// above the largest int64 are errors.
func ParseSize(s string) (int64, error) {
	bad := func(why string) (int64, error) {
		return 0, fmt.Errorf("%s is not a size (%s); write it as 500, 64K, 32MiB or 1.5G", Name(s), why)
	}
	end := len(s)
	for end > 0 && (s[end-1] < '0' || s[end-1] > '9') {
		end--
	}
	number, unit := s[:end], strings.ToUpper(strings.TrimPrefix(s[end:], " "))
	unit = strings.TrimSuffix(strings.TrimSuffix(unit, "B"), "I")
	shift := 0
	if unit != "" {
		i := strings.Index(unitLetters, unit)
		if i < 0 || len(unit) != 1 {
			return bad("unknown unit")
		}
		shift = 10 * (i + 1)
	} else if strings.HasSuffix(strings.ToUpper(s), "IB") {
		return bad("unknown unit")
	}
	if !decimal(number) {
		return bad("not a number")
	}
	if !strings.Contains(number, ".") {
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n > math.MaxInt64>>shift {
			return bad("too large")
		}
		return n << shift, nil
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return bad("not a number")
	}
	v = math.Ldexp(v, shift)
	if v >= math.MaxInt64 {
		return bad("too large")
	}
	if v != math.Floor(v) && shift == 0 {
		return bad("a part of a byte")
	}
	return int64(v), nil
}

// ParsePercent reads "10%", "2.5%" or "10" and returns the share of one, 0.1 for 10%. It is above 0 and at most 1.
func ParsePercent(s string) (float64, error) {
	number := strings.TrimSuffix(s, "%")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !decimal(number) || v <= 0 || v > 100 {
		return 0, fmt.Errorf("%s is not a percentage above 0 and up to 100; write it as 10%% or 2.5%%", Name(s))
	}
	return v / 100, nil
}

// decimal reports whether s is digits with at most one point between them: no sign, exponent, hexadecimal or "inf".
func decimal(s string) bool {
	whole, fraction, pointed := strings.Cut(s, ".")
	return digits(whole) && (!pointed || digits(fraction))
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
