package retain

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"packhold/crypt"
)

// made returns snapshots of one host that were stored at these times, numbered from 1.
func made(times ...time.Time) []Snapshot {
	list := make([]Snapshot, len(times))
	for i, t := range times {
		list[i] = Snapshot{ID: crypt.SessionID{1, byte(i >> 8), byte(i)}, Number: uint64(i + 1), Host: crypt.HostID{7}, Stored: t, Claimed: t}
	}
	return list
}

// at reads times as 2026-01-02 15:04, a day alone as noon.
func at(t *testing.T, zone *time.Location, words ...string) (times []time.Time) {
	t.Helper()
	for _, w := range words {
		if len(w) == len("2006-01-02") {
			w += " 12:00"
		}
		v, err := time.ParseInLocation("2006-01-02 15:04", w, zone)
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, v)
	}
	return times
}

// kept applies p and returns the numbers that stay, ascending.
func kept(t testing.TB, p Policy, list []Snapshot) []int {
	t.Helper()
	p.AllowEmpty = true
	groups, err := p.Apply(list)
	if err != nil {
		t.Fatal(err)
	}
	out := []int{}
	for _, g := range groups {
		for _, d := range g.Decisions {
			if d.Keep != (len(d.Reasons) > 0) {
				t.Fatalf("kept %v for %q", d.Keep, d.Reasons)
			}
			if d.Keep {
				out = append(out, int(d.Number))
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestPolicy(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	kathmandu, err := time.LoadLocation("Asia/Kathmandu") // 5:45 from UTC
	if err != nil {
		t.Fatal(err)
	}
	utc := time.UTC
	daily := at(t, utc, "2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05", "2026-01-06", "2026-01-07", "2026-01-08", "2026-01-09", "2026-01-10")
	for _, c := range []struct {
		name  string
		p     Policy
		times []time.Time
		want  []int
	}{
		{"last", Policy{Last: 3}, daily, []int{8, 9, 10}},
		{"more than there are", Policy{Last: 30}, daily, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{"all", Policy{Last: All}, daily, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{"daily", Policy{Daily: 4}, daily, []int{7, 8, 9, 10}},
		{"the newest of a day", Policy{Daily: 2}, at(t, utc, "2026-01-01 10:00", "2026-01-02 01:00", "2026-01-02 02:00", "2026-01-03 01:00", "2026-01-03 23:59"), []int{3, 5}},
		{"days without one do not count", Policy{Daily: 3}, at(t, utc, "2025-01-01", "2025-06-01", "2025-12-01", "2026-01-01"), []int{2, 3, 4}},
		{"fewer than asked for: the oldest too", Policy{Daily: 3}, at(t, utc, "2026-01-02 01:00", "2026-01-02 02:00", "2026-01-03 01:00", "2026-01-03 02:00"), []int{1, 2, 4}},
		{"monthly and the oldest", Policy{Monthly: 4}, at(t, utc, "2024-01-02 13:42", "2024-01-03 01:04", "2024-01-04 20:09", "2024-01-04 20:20"), []int{1, 4}},
		{"as many as asked for: not the oldest", Policy{Monthly: 1}, at(t, utc, "2024-01-02 13:42", "2024-01-03 01:04", "2024-01-04 20:09", "2024-01-04 20:20"), []int{4}},
		{"weeks begin on Monday", Policy{Weekly: 2}, at(t, utc, "2026-01-02", "2026-01-04", "2026-01-05", "2026-01-11", "2026-01-12"), []int{4, 5}},
		{"a week belongs to one year", Policy{Weekly: 9}, at(t, utc, "2025-12-29", "2025-12-31", "2026-01-01", "2026-01-04"), []int{1, 4}},
		{"years", Policy{Yearly: 2}, at(t, utc, "2023-05-01", "2024-01-01", "2024-12-31", "2025-01-01"), []int{3, 4}},
		{"hours", Policy{Hourly: 2}, at(t, utc, "2026-01-01 10:10", "2026-01-01 10:50", "2026-01-01 11:00", "2026-01-01 11:59"), []int{2, 4}},
		{"rules add up", Policy{Last: 1, Daily: 2, Monthly: 2}, append(at(t, utc, "2025-12-30", "2025-12-31"), daily...), []int{2, 11, 12}},
		{"within", Policy{Within: Period{Days: 3}}, daily, []int{7, 8, 9, 10}},
		{"within counts from the newest, not from now", Policy{Within: Period{Hours: 1}}, at(t, utc, "1999-01-01"), []int{1}},
		{"daily within", Policy{WithinDaily: Period{Days: 2}}, at(t, utc, "2026-01-01", "2026-01-08 10:00", "2026-01-08 11:00", "2026-01-09 10:00", "2026-01-09 11:00", "2026-01-10 10:00"), []int{3, 5, 6}},
		{"daily within, all of it within", Policy{WithinDaily: Period{Years: 1}}, at(t, utc, "2026-01-08 10:00", "2026-01-08 11:00", "2026-01-09 10:00"), []int{1, 2, 3}},
		{"yearly within", Policy{WithinYearly: Period{Years: 2}}, at(t, utc, "2020-01-01", "2024-02-01", "2024-03-01", "2025-01-01", "2025-06-01"), []int{3, 5}},
		{"a month before the 31st", Policy{Within: Period{Months: 1}}, at(t, utc, "2026-02-27", "2026-02-28", "2026-03-01", "2026-03-31"), []int{2, 3, 4}},
		{"a year before a leap day", Policy{Within: Period{Years: 1}}, at(t, utc, "2023-02-27", "2023-02-28", "2024-02-29"), []int{2, 3}},
		// 2026-10-25, 3:00 becomes 2:00 in Berlin: the hour from 2 comes twice.
		{"the hour that comes twice", Policy{Hourly: 9, Zone: berlin}, at(t, utc, "2026-10-25 00:10", "2026-10-25 00:20", "2026-10-25 01:10", "2026-10-25 01:20"), []int{1, 2, 4}},
		{"a day of 25 hours", Policy{Daily: 1, Zone: berlin}, at(t, utc, "2026-10-24 22:00", "2026-10-25 22:59"), []int{2}},
		{"the next day", Policy{Daily: 2, Zone: berlin}, at(t, utc, "2026-10-24 21:59", "2026-10-24 22:00", "2026-10-25 23:00"), []int{2, 3}},
		{"a day of 23 hours", Policy{WithinDaily: Period{Days: 1}, Zone: berlin}, at(t, berlin, "2026-03-28 12:00", "2026-03-29 12:00"), []int{1, 2}},
		{"one day before is 23 hours before", Policy{Within: Period{Days: 1}, Zone: berlin}, at(t, berlin, "2026-03-28 11:59", "2026-03-29 12:00"), []int{2}},
		{"24 hours before", Policy{Within: Period{Hours: 24}, Zone: berlin}, at(t, berlin, "2026-03-28 10:59", "2026-03-28 11:00", "2026-03-29 12:00"), []int{2, 3}},
		{"a zone of three quarters", Policy{Daily: 2, Zone: kathmandu}, at(t, utc, "2026-01-01 18:14", "2026-01-01 18:15", "2026-01-02 18:15"), []int{2, 3}},
		{"one time", Policy{Last: 2}, at(t, utc, "2026-01-01", "2026-01-01", "2026-01-01"), []int{2, 3}},
		{"nothing", Policy{Last: 2}, nil, []int{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := made(c.times...)
			if got := kept(t, c.p, list); !slices.Equal(got, c.want) {
				t.Errorf("kept %v, want %v", got, c.want)
			}
			slices.Reverse(list) // the order of the list says nothing
			if got := kept(t, c.p, list); !slices.Equal(got, c.want) {
				t.Errorf("reversed: kept %v, want %v", got, c.want)
			}
		})
	}
}

// TestWhatElse is about what is no time: classes, tags, holds, hosts, groups.
func TestWhatElse(t *testing.T) {
	days := at(t, time.UTC, "2026-01-01", "2026-02-01", "2026-03-01", "2026-03-02")
	with := func(change func(i int, s *Snapshot)) []Snapshot {
		list := made(days...)
		for i := range list {
			change(i+1, &list[i])
		}
		return list
	}
	for _, c := range []struct {
		name string
		p    Policy
		list []Snapshot
		want []int
	}{
		{"classes", Policy{Class: true}, with(func(i int, s *Snapshot) { s.Class = [...]string{1: "30d", 2: "90d", 3: "1y", 4: "7y"}[i] }), []int{2, 3, 4}},
		{"without a class, and with an unknown one", Policy{Class: true}, with(func(i int, s *Snapshot) { s.Class = [...]string{1: "", 2: "gold", 3: "1h", 4: "1h"}[i] }), []int{1, 2, 4}},
		{"classes are not looked at", Policy{Last: 1}, with(func(i int, s *Snapshot) { s.Class = "7y" }), []int{4}},
		{"tags", Policy{Tags: [][]string{{"a", "b"}, {"c"}}}, with(func(i int, s *Snapshot) { s.Tags = [...][]string{1: {"b", "a"}, 2: {"a"}, 3: {"c"}, 4: nil}[i] }), []int{1, 3}},
		{"no tags", Policy{Tags: [][]string{{}}}, with(func(i int, s *Snapshot) { s.Tags = [...][]string{1: {"a"}, 2: nil, 3: {"b"}, 4: {"b"}}[i] }), []int{2}},
		{"held", Policy{Last: 1}, with(func(i int, s *Snapshot) { s.Held = [...][]string{1: {"hold"}, 2: nil, 3: {"pin"}, 4: {"hold"}}[i] }), []int{1, 3, 4}},
		{"hosts never push out each other's", Policy{Last: 1}, with(func(i int, s *Snapshot) { s.Host[0] = byte(i % 2) }), []int{3, 4}},
		{"sources", Policy{Last: 1, BySources: true}, with(func(i int, s *Snapshot) {
			s.Sources = [...][]string{1: {"/a", "/b"}, 2: {"/b", "/a"}, 3: {"/a"}, 4: {"/a,/b"}}[i]
		}), []int{2, 3, 4}},
		{"sources are not asked for", Policy{Last: 1}, with(func(i int, s *Snapshot) { s.Sources = []string{fmt.Sprint(i)} }), []int{4}},
		{"tags part", Policy{Last: 1, ByTags: true}, with(func(i int, s *Snapshot) { s.Tags = [...][]string{1: {"x"}, 2: {"x", "x"}, 3: nil, 4: {"y"}}[i] }), []int{2, 3, 4}},
		{"jobs part", Policy{Last: 1, ByJob: true}, with(func(i int, s *Snapshot) { s.Job = [...]string{1: "x", 2: "x", 3: "", 4: "y"}[i] }), []int{2, 3, 4}},
		{"those aside push out nothing", Policy{Last: 1, Monthly: 2}, with(func(i int, s *Snapshot) { s.Aside = i >= 3 }), []int{1, 2, 4}}, // all: last 4, monthly 4 and 2; without these: last 2, monthly 2 and 1
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := kept(t, c.p, c.list); !slices.Equal(got, c.want) {
				t.Errorf("kept %v, want %v", got, c.want)
			}
		})
	}
}

// TestInventedTimes is restic's issue 22057: a host that was taken over stores empty snapshots with the times of the good ones.
func TestInventedTimes(t *testing.T) {
	var times []time.Time
	for i := range 30 {
		times = append(times, time.Date(2026, 1, 1+i, 2, 0, 0, 0, time.UTC))
	}
	good := made(times...)
	var bad []Snapshot
	for i := range 30 {
		s := Snapshot{ID: crypt.SessionID{2, byte(i)}, Number: uint64(1000 + i), Host: good[0].Host, Stored: times[29].Add(time.Minute * time.Duration(i+1)),
			Claimed: times[i].Add(21 * time.Hour)}
		bad = append(bad, s)
	}
	p := Policy{Daily: 7, Weekly: 4, WithinMonthly: Period{Years: 1}}
	want := kept(t, p, good)
	got := kept(t, p, append(slices.Clone(good), bad...))
	for _, n := range want {
		// What was stored on the day of the attack is another matter: there the newest counts, as always.
		if n != 30 && !slices.Contains(got, n) {
			t.Errorf("snapshot %d was pushed out", n)
		}
	}
	if n := len(got); n <= len(want) {
		t.Errorf("%d kept of all, %d of the good ones", n, len(want))
	}
	// A hostile host's far future does not make all others old.
	future := good[29]
	future.ID[0], future.Number, future.Stored, future.Claimed = 3, 99, times[29].Add(time.Hour), times[29].AddDate(50, 0, 0)
	if got := kept(t, Policy{Within: Period{Days: 3}}, append(slices.Clone(good), future)); !slices.Equal(got, []int{28, 29, 30, 99}) {
		t.Errorf("beside one of the future: kept %v", got)
	}
	if d := future.ClockOff(); d < 49*365*24*time.Hour {
		t.Errorf("the clock of the future is off by %v", d)
	}
}

// TestCopiedRepository is about a storage whose times are those of copying.
func TestCopiedRepository(t *testing.T) {
	var times []time.Time
	for i := range 40 {
		times = append(times, time.Date(2026, 1, 1+i, 2, 0, 0, 0, time.UTC))
	}
	want := kept(t, Policy{Daily: 7, Monthly: 2}, made(times...))
	copied := made(times...)
	for i := range copied {
		copied[len(copied)-1-i].Stored = times[39].AddDate(0, 0, 5).Add(time.Duration(i) * time.Second)
	}
	got := kept(t, Policy{Daily: 7, Monthly: 2}, copied)
	for _, n := range want {
		if !slices.Contains(got, n) {
			t.Errorf("snapshot %d goes since it was copied", n)
		}
	}
	if len(got) > len(want)+3 { // the newest as stored, and the oldest for daily and monthly
		t.Errorf("kept %v, want hardly more than %v", got, want)
	}
}

func TestRefused(t *testing.T) {
	list := made(at(t, time.UTC, "2026-01-01", "2026-01-02")...)
	closed := slices.Clone(list)
	closed[1].Closed = true
	for _, c := range []struct {
		name string
		p    Policy
		list []Snapshot
		want error
	}{
		{"nothing asked for", Policy{}, list, ErrNoPolicy},
		{"nothing asked for, and it may be empty", Policy{AllowEmpty: true, BySources: true}, list, ErrNoPolicy},
		{"less than nothing", Policy{Daily: -2}, list, ErrCount},
		{"a tag that none has", Policy{Tags: [][]string{{"typo"}}}, list, ErrEmpty},
		{"closed sources", Policy{Last: 1, BySources: true}, closed, ErrClosed},
		{"closed tags", Policy{Last: 1, ByTags: true}, closed, ErrClosed},
		{"closed jobs", Policy{Last: 1, ByJob: true}, closed, ErrClosed},
		{"a rule about closed tags", Policy{Tags: [][]string{{"a"}}}, closed, ErrClosed},
	} {
		if _, err := c.p.Apply(c.list); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if got := kept(t, Policy{Last: 1}, closed); !slices.Equal(got, []int{2}) {
		t.Errorf("of a closed one kept %v", got)
	}
	other := slices.Clone(list)
	other[0].Host, other[0].Held = crypt.HostID{9}, []string{"hold"}
	_, err := (&Policy{Tags: [][]string{{"typo"}}}).Apply(other)
	if !errors.Is(err, ErrEmpty) || strings.Contains(err.Error(), crypt.HostID{9}.String()) || !strings.Contains(err.Error(), list[1].Host.String()) {
		t.Errorf("one group of two would be empty: %v", err)
	}
}

func TestReasons(t *testing.T) {
	list := made(at(t, time.UTC, "2026-01-01 10:00", "2026-01-01 11:00", "2026-01-02 11:00")...)
	list[1].Tags, list[1].Class, list[1].Held = []string{"gold"}, "30d", []string{"hold: lawsuit"}
	list[0].Aside = true
	p := Policy{Last: 1, Hourly: 1, Daily: 1, Weekly: 1, Monthly: 1, Yearly: 1, Within: Period{Days: 1}, WithinHourly: Period{Days: 1}, Tags: [][]string{{"gold"}}, Class: true}
	groups, err := p.Apply(list)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range groups[0].Decisions {
		got = append(got, fmt.Sprintf("%d %s", d.Number, strings.Join(d.Reasons, " | ")))
	}
	want := []string{
		"3 last | hourly 2026-01-02 11h +0000 | hourly within 1d 2026-01-02 11h +0000 | daily 2026-01-02 | weekly 2026-W01 | monthly 2026-01 | yearly 2026 | within 1d | no class",
		"2 hourly within 1d 2026-01-01 11h +0000 | within 1d | class 30d | tag gold | hold: lawsuit",
		"1 no class",
	}
	if !slices.Equal(got, want) {
		t.Errorf("reasons\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestBurst(t *testing.T) {
	var times []time.Time
	for i := range 30 {
		times = append(times, time.Date(2026, 1, 1+i, 2, 0, 0, 0, time.UTC))
	}
	for i := range 40 {
		times = append(times, times[29].Add(time.Duration(i+1)*time.Minute))
	}
	for _, c := range []struct {
		name  string
		times []time.Time
		want  int
	}{{"one a day", times[:30], 0}, {"a few more", times[:35], 0}, {"many", times, 41}, {"from the first day on", times[30:], 0}} {
		groups, err := (&Policy{Last: 1}).Apply(made(c.times...))
		if err != nil || groups[0].Burst != c.want {
			t.Errorf("%s: %d, %v, want %d", c.name, groups[0].Burst, err, c.want)
		}
	}
}

func TestPeriod(t *testing.T) {
	for s, want := range map[string]Period{"30d": {Days: 30}, "7y": {Years: 7}, "1y6m": {Years: 1, Months: 6}, "2w3d": {Days: 17}, "36h": {Hours: 36}} {
		got, err := ParsePeriod(s)
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v", s, got, err)
		}
		if back, err := ParsePeriod(got.String()); err != nil || back != got {
			t.Errorf("%q comes back as %+v, %v", s, back, err)
		}
	}
	for _, s := range []string{"", "30", "d", "0d", "-1d", "1d1y", "1d1d", "99999d", "1 d", "1x", "30D", "٣d"} {
		if got, err := ParsePeriod(s); err == nil {
			t.Errorf("%q is taken for %+v", s, got)
		}
	}
	start := time.Date(2026, 3, 31, 12, 0, 0, 5, time.UTC)
	for p, want := range map[Period]time.Time{
		{Years: 1, Hours: 13}:  time.Date(2025, 3, 30, 23, 0, 0, 5, time.UTC),
		{Months: 1}:            time.Date(2026, 2, 28, 12, 0, 0, 5, time.UTC),
		{Months: 15}:           time.Date(2024, 12, 31, 12, 0, 0, 5, time.UTC),
		{Months: 1, Days: 1}:   time.Date(2026, 2, 27, 12, 0, 0, 5, time.UTC),
		{Years: 9999, Days: 1}: time.Date(-7973, 3, 30, 12, 0, 0, 5, time.UTC),
		{}:                     start,
	} {
		if got := p.Before(start); !got.Equal(want) {
			t.Errorf("%v before is %v, want %v", p, got, want)
		}
	}
}

func FuzzPeriod(f *testing.F) {
	for _, s := range []string{"30d", "1y6m", "2w3d", "", "0d", "9999y9999m9999w9999d9999h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePeriod(s)
		if err != nil {
			return
		}
		if p.Days <= 9999 { // weeks are written as days
			if back, err := ParsePeriod(p.String()); err != nil || back != p {
				t.Fatalf("%q is %+v, which comes back as %+v, %v", s, p, back, err)
			}
		}
		now := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
		if !p.Before(now).Before(now) {
			t.Fatalf("%q before is not before", s)
		}
	})
}

// drawn makes a list of up to 40 snapshots of two hosts, and a policy with zone.
func drawn(t *rapid.T) ([]Snapshot, Policy) {
	n := rapid.IntRange(0, 40).Draw(t, "snapshots")
	span := rapid.SampledFrom([]int{3, 100, 3000, 20000}).Draw(t, "hours")
	list := make([]Snapshot, n)
	for i := range list {
		stored := time.Date(2026, 10, 30, 0, 30, 0, 0, time.UTC).Add(-time.Duration(rapid.IntRange(0, span).Draw(t, "age")) * time.Hour)
		list[i] = Snapshot{ID: crypt.SessionID{byte(i + 1)}, Number: uint64(i + 1), Host: crypt.HostID{byte(rapid.IntRange(1, 2).Draw(t, "host"))}, Stored: stored, Claimed: stored,
			Class: rapid.SampledFrom([]string{"", "30d", "90d", "x"}).Draw(t, "class"), Aside: rapid.IntRange(0, 9).Draw(t, "aside") == 0,
			Tags: rapid.SampledFrom([][]string{nil, {"a"}, {"a", "b"}}).Draw(t, "tags"), Job: rapid.SampledFrom([]string{"", "j"}).Draw(t, "job")}
		if rapid.IntRange(0, 3).Draw(t, "lies") == 0 {
			list[i].Claimed = stored.Add(time.Duration(rapid.IntRange(-20000, 2000).Draw(t, "off")) * time.Hour)
		}
		if rapid.IntRange(0, 9).Draw(t, "held") == 0 {
			list[i].Held = []string{"hold"}
		}
	}
	return list, drawnPolicy(t)
}

func drawnPolicy(t *rapid.T) Policy {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	count := rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3, 7, All})
	period := rapid.SampledFrom([]Period{{}, {}, {}, {Hours: 5}, {Days: 7}, {Months: 2}, {Years: 1}})
	return Policy{Last: count.Draw(t, "last"), Hourly: count.Draw(t, "hourly"), Daily: count.Draw(t, "daily"), Weekly: count.Draw(t, "weekly"), Monthly: count.Draw(t, "monthly"),
		Yearly: count.Draw(t, "yearly"), Within: period.Draw(t, "within"), WithinHourly: period.Draw(t, "within hourly"), WithinDaily: period.Draw(t, "within daily"),
		WithinWeekly: period.Draw(t, "within weekly"), WithinMonthly: period.Draw(t, "within monthly"), WithinYearly: period.Draw(t, "within yearly"),
		Tags: rapid.SampledFrom([][][]string{nil, nil, {{"a"}}, {{"a", "b"}, {}}}).Draw(t, "tags"), Class: rapid.Bool().Draw(t, "class"),
		ByTags: rapid.Bool().Draw(t, "by tags"), ByJob: rapid.Bool().Draw(t, "by job"), Zone: rapid.SampledFrom([]*time.Location{nil, berlin}).Draw(t, "zone")}
}

// decided is kept for policies that may be none.
func decided(t *rapid.T, p Policy, list []Snapshot) (keep map[crypt.SessionID]bool, ok bool) {
	p.AllowEmpty = true
	groups, err := p.Apply(list)
	if errors.Is(err, ErrNoPolicy) {
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	keep = make(map[crypt.SessionID]bool)
	n := 0
	for _, g := range groups {
		for _, d := range g.Decisions {
			n++
			if d.Keep {
				keep[d.ID] = true
			}
		}
	}
	if n != len(list) {
		t.Fatalf("%d decisions about %d snapshots", n, len(list))
	}
	return keep, true
}

func within(t *rapid.T, what string, less, more map[crypt.SessionID]bool) {
	for id := range less {
		if !more[id] {
			t.Fatalf("%s: %v goes", what, id)
		}
	}
}

func longer(a, b Period) Period {
	now := time.Date(2026, 10, 30, 0, 30, 0, 0, time.UTC)
	if a == (Period{}) || b != (Period{}) && b.Before(now).Before(a.Before(now)) {
		return b
	}
	return a
}

func more(a, b int) int {
	if a == All || b == All {
		return All
	}
	return max(a, b)
}

// TestMoreKeepsMore: a policy that asks for more of anything keeps all that the other keeps.
func TestMoreKeepsMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list, p := drawn(t)
		q := drawnPolicy(t)
		r := Policy{Last: more(p.Last, q.Last), Hourly: more(p.Hourly, q.Hourly), Daily: more(p.Daily, q.Daily), Weekly: more(p.Weekly, q.Weekly),
			Monthly: more(p.Monthly, q.Monthly), Yearly: more(p.Yearly, q.Yearly), Within: longer(p.Within, q.Within), WithinHourly: longer(p.WithinHourly, q.WithinHourly),
			WithinDaily: longer(p.WithinDaily, q.WithinDaily), WithinWeekly: longer(p.WithinWeekly, q.WithinWeekly), WithinMonthly: longer(p.WithinMonthly, q.WithinMonthly),
			WithinYearly: longer(p.WithinYearly, q.WithinYearly), Tags: append(slices.Clone(p.Tags), q.Tags...), Class: p.Class || q.Class,
			ByTags: p.ByTags, ByJob: p.ByJob, Zone: p.Zone}
		less, ok := decided(t, p, list)
		if !ok {
			return
		}
		greater, _ := decided(t, r, list)
		within(t, "more is asked for", less, greater)
		held := slices.Clone(list)
		for i := range held {
			if rapid.Bool().Draw(t, "hold") {
				held[i].Held = []string{"hold"}
			}
		}
		greater, _ = decided(t, p, held)
		within(t, "more is held", less, greater)
	})
}

// TestTwiceIsOnce: what a policy kept it keeps.
func TestTwiceIsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list, p := drawn(t)
		first, ok := decided(t, p, list)
		if !ok {
			return
		}
		left := slices.DeleteFunc(slices.Clone(list), func(s Snapshot) bool { return !first[s.ID] })
		second, _ := decided(t, p, left)
		within(t, "the second time", first, second)
	})
}

// TestCounts: last n keeps min(n, len), and n days keep at most n + 1.
func TestCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list, _ := drawn(t)
		for i := range list {
			list[i].Host, list[i].Aside, list[i].Held, list[i].Claimed = crypt.HostID{1}, false, nil, list[i].Stored
		}
		n := rapid.IntRange(1, 50).Draw(t, "n")
		if k, _ := decided(t, Policy{Last: n}, list); len(k) != min(n, len(list)) {
			t.Fatalf("last %d of %d keeps %d", n, len(list), len(k))
		}
		if k, _ := decided(t, Policy{Daily: n}, list); len(k) > n+1 || len(k) < min(1, len(list)) {
			t.Fatalf("daily %d of %d keeps %d", n, len(list), len(k))
		}
	})
}

// TestLiesKeepMore: whatever hosts claim, nothing goes that would stay if they had told the truth.
func TestLiesKeepMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list, p := drawn(t)
		honest := slices.Clone(list)
		for i := range honest {
			honest[i].Claimed = honest[i].Stored
		}
		less, ok := decided(t, p, honest)
		if !ok {
			return
		}
		greater, _ := decided(t, p, list)
		within(t, "hosts lie", less, greater)
	})
}

// TestAnyOrder: the order of the list says nothing.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list, p := drawn(t)
		one, ok := decided(t, p, list)
		if !ok {
			return
		}
		two, _ := decided(t, p, rapid.Permutation(list).Draw(t, "order"))
		within(t, "in another order", one, two)
		within(t, "in the first order", two, one)
	})
}
