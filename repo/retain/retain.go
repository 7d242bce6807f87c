// Package retain says which snapshots a policy keeps.
package retain

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"packhold/crypt"
)

// Snapshot is what a policy looks at.
type Snapshot struct {
	ID      crypt.SessionID
	Number  uint64       // orders snapshots of one time
	Host    crypt.HostID // who signed it
	Stored  time.Time    // by the storage's clock
	Claimed time.Time    // when its host says that it was finished
	Class   string       // how long it is to be kept, as it was made: a Period, or ""
	Aside   bool         // it pushes out no other: it is suspect, or older than it looks
	Held    []string     // why it stays whatever the policy says; shown as it is

	Closed  bool // what follows is not known: the body needs the passphrase
	Sources []string
	Tags    []string
	Job     string
}

// All is a count without an end.
const All = -1

// Policy says what is kept; the rest may go. The zero Policy keeps nothing, and Apply refuses it. A snapshot is kept if any rule keeps it.
//
// The rules with a count keep the newest snapshot of each of the last so many hours, days, weeks from Monday, months and years that have one. Where there
// are fewer, the oldest snapshot is kept too, so that the time covered grows until it is as long as asked for. Those with a period do the same for all
// hours, days and so on not longer ago than that. Everything counts back from the newest snapshot of the group, never from now: when backups stop,
// nothing goes.
type Policy struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int // 0: no such rule; All: no end

	Within                                                               Period // zero: no such rule
	WithinHourly, WithinDaily, WithinWeekly, WithinMonthly, WithinYearly Period

	Tags  [][]string // those that have all tags of one of the lists; an empty list: those that have none
	Class bool       // as long as their class says, and those without one

	// What snapshots must have in common to push each other out, beside the host that signed them: nobody pushes out another's.
	BySources, ByTags, ByJob bool

	Zone       *time.Location // whose hours and days count; nil: UTC
	AllowEmpty bool           // a group may lose all its snapshots
}

// Errors of Apply.
var (
	ErrNoPolicy = errors.New("no rule says what to keep")
	ErrCount    = errors.New("not a count")
	ErrClosed   = errors.New("its sources, tags and job are closed: the passphrase opens them")
	ErrEmpty    = errors.New("the policy would keep no snapshot")
)

// Group is the snapshots that one application of the policy looks at.
type Group struct {
	Host      crypt.HostID
	Sources   []string // with BySources, as the others
	Tags      []string // sorted
	Job       string
	Decisions []Decision // the newest first, as they were stored

	// Burst is how many were stored in the day before the newest, where that is far more than was usual; otherwise 0. Who took over a
	// host can push out its good snapshots by many bad ones, as far as the policy counts snapshots and not time.
	Burst int
}

// Decision is what becomes of one snapshot.
type Decision struct {
	*Snapshot
	Keep    bool
	Reasons []string // why it is kept; none otherwise

	plain bool // the first view has a reason; those of others would only repeat it
}

// Tolerance is how far a host's clock may be behind the storage's. A snapshot that its host says is older was written with a wrong or lying
// clock, or the storage is a copy, whose times are those of copying.
const Tolerance = 24 * time.Hour

// ClockOff returns how far the host's clock was ahead (more than an hour) or behind (more than Tolerance, negative), otherwise 0.
func (s *Snapshot) ClockOff() time.Duration {
	if d := s.Claimed.Sub(s.Stored); d > time.Hour || d < -Tolerance {
		return d
	}
	return 0
}

// Apply decides about every snapshot. Groups come by host, sources, tags and job. Errors are ErrNoPolicy, ErrCount, ErrClosed if a rule or
// the grouping needs what is closed, and ErrEmpty, which names the groups.
//
// A snapshot counts at the time when the storage stored it. A host can claim any time for its snapshots, but not make them stored in the past. Where
// some claim to be much older, the policy is applied a second time with the claimed times, and where some stand aside, once more without
// these: what any of them keeps is kept. So nothing that a host invents makes fewer snapshots stay, and a copied repository
// does not look as if all its snapshots were of one day.
func (p *Policy) Apply(list []Snapshot) ([]Group, error) {
	rules, err := p.rules()
	if err != nil {
		return nil, fmt.Errorf("applying policy: %w", err)
	}
	groups, err := p.groups(list)
	if err != nil {
		return nil, fmt.Errorf("applying policy: %w", err)
	}
	zone := p.Zone
	if zone == nil {
		zone = time.UTC
	}
	var empty []string
	for i := range groups {
		g := &groups[i]
		for _, v := range views(g.Decisions, zone) {
			for _, r := range rules {
				r.apply(v)
			}
		}
		kept := false
		for j := range g.Decisions {
			d := &g.Decisions[j]
			if !d.Closed {
				p.byTags(d)
			}
			d.Reasons = append(d.Reasons, d.Held...)
			d.Keep = len(d.Reasons) > 0
			kept = kept || d.Keep
		}
		g.Burst = burst(g.Decisions)
		if !kept {
			empty = append(empty, g.String())
		}
	}
	if len(empty) > 0 && !p.AllowEmpty {
		return nil, fmt.Errorf("applying policy: %w of %s", ErrEmpty, strings.Join(empty, "; "))
	}
	return groups, nil
}

// String names the group.
func (g *Group) String() string {
	s := "host " + g.Host.String()
	if len(g.Sources) > 0 {
		s += fmt.Sprintf(", sources %q", g.Sources)
	}
	if len(g.Tags) > 0 {
		s += fmt.Sprintf(", tags %q", g.Tags)
	}
	if g.Job != "" {
		s += fmt.Sprintf(", job %q", g.Job)
	}
	return s
}

// groups parts the snapshots, each part ordered by when they were stored.
func (p *Policy) groups(list []Snapshot) ([]Group, error) {
	byKey := make(map[string]*Group)
	for i := range list {
		s := &list[i]
		if s.Closed && (p.BySources || p.ByTags || p.ByJob || len(p.Tags) > 0) {
			return nil, fmt.Errorf("snapshot %v: %w", s.ID, ErrClosed)
		}
		g := Group{Host: s.Host}
		if p.BySources {
			g.Sources = sorted(s.Sources)
		}
		if p.ByTags {
			g.Tags = sorted(s.Tags)
		}
		if p.ByJob {
			g.Job = s.Job
		}
		key := g.String()
		if byKey[key] == nil {
			byKey[key] = &g
		}
		byKey[key].Decisions = append(byKey[key].Decisions, Decision{Snapshot: s})
	}
	groups := make([]Group, 0, len(byKey))
	for _, g := range byKey {
		slices.SortFunc(g.Decisions, func(a, b Decision) int { return newestFirst(a.Snapshot, b.Snapshot, a.Stored, b.Stored) })
		groups = append(groups, *g)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(bytes.Compare(a.Host[:], b.Host[:]), slices.Compare(a.Sources, b.Sources), slices.Compare(a.Tags, b.Tags), cmp.Compare(a.Job, b.Job))
	})
	return groups, nil
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

func newestFirst(a, b *Snapshot, at, bt time.Time) int {
	return cmp.Or(bt.Compare(at), cmp.Compare(b.Number, a.Number), bytes.Compare(b.ID[:], a.ID[:]))
}

// view is one way to look at a group: some of its snapshots, the newest first by one clock.
type view struct {
	list []dated
	note string // what the reasons say of it
}

type dated struct {
	*Decision
	at time.Time
}

func views(all []Decision, zone *time.Location) []view {
	var out []view
	add := func(note string, take func(s *Snapshot) bool, at func(s *Snapshot) time.Time) {
		v := view{note: note}
		for i := range all {
			if s := all[i].Snapshot; take(s) {
				v.list = append(v.list, dated{&all[i], at(s).In(zone)})
			}
		}
		slices.SortStableFunc(v.list, func(a, b dated) int { return newestFirst(a.Snapshot, b.Snapshot, a.at, b.at) })
		out = append(out, v)
	}
	every := func(*Snapshot) bool { return true }
	others := func(s *Snapshot) bool { return !s.Aside }
	stored := func(s *Snapshot) time.Time { return s.Stored }
	claimed := func(s *Snapshot) time.Time {
		if s.ClockOff() < 0 {
			return s.Claimed
		}
		return s.Stored
	}
	old := slices.ContainsFunc(all, func(d Decision) bool { return d.ClockOff() < 0 })
	aside := slices.ContainsFunc(all, func(d Decision) bool { return d.Aside })
	add("", every, stored)
	if old {
		add(" by its host's clock", every, claimed)
	}
	if aside {
		add(" without suspect or undeleted ones", others, stored)
	}
	if old && aside {
		add(" without suspect or undeleted ones, by its host's clock", others, claimed)
	}
	return out
}

// rule keeps the newest snapshot of each bucket of a view.
type rule struct {
	name   string
	n      int                      // of at most so many buckets; All: of any number
	within Period                   // not longer ago than this, if it is not zero
	bucket func(t time.Time) string // nil: each snapshot is one
	class  bool                     // within is that of each snapshot's own class
}

func hour(t time.Time) string  { return t.Format("2006-01-02 15h -0700") } // the hour that comes twice in autumn is two
func day(t time.Time) string   { return t.Format("2006-01-02") }
func month(t time.Time) string { return t.Format("2006-01") }
func year(t time.Time) string  { return t.Format("2006") }
func week(t time.Time) string {
	y, w := t.ISOWeek()
	return fmt.Sprintf("%d-W%02d", y, w)
}

func (p *Policy) rules() ([]rule, error) {
	var rules []rule
	for _, r := range []struct {
		rule
		within Period
	}{
		{rule{name: "last", n: p.Last}, Period{}},
		{rule{name: "hourly", n: p.Hourly, bucket: hour}, p.WithinHourly},
		{rule{name: "daily", n: p.Daily, bucket: day}, p.WithinDaily},
		{rule{name: "weekly", n: p.Weekly, bucket: week}, p.WithinWeekly},
		{rule{name: "monthly", n: p.Monthly, bucket: month}, p.WithinMonthly},
		{rule{name: "yearly", n: p.Yearly, bucket: year}, p.WithinYearly},
		{rule{}, p.Within},
	} {
		if r.n < All {
			return nil, fmt.Errorf("%w: %s %d", ErrCount, r.name, r.n)
		}
		if r.n != 0 {
			rules = append(rules, r.rule)
		}
		if r.within != (Period{}) {
			name := strings.TrimSpace(r.name + " within " + r.within.String())
			rules = append(rules, rule{name: name, n: All, within: r.within, bucket: r.bucket})
		}
	}
	if p.Class {
		rules = append(rules, rule{name: "class", n: All, class: true})
	}
	if len(rules) == 0 && len(p.Tags) == 0 {
		return nil, ErrNoPolicy
	}
	return rules, nil
}

// apply gives the snapshots of v that r keeps a reason more.
func (r *rule) apply(v view) {
	left, last := r.n, ""
	for i, d := range v.list {
		oldest := i == len(v.list)-1
		within, reason := r.within, r.name
		if r.class {
			within, reason = ofClass(d.Class)
		}
		if within != (Period{}) && d.at.Before(within.Before(v.list[0].at)) {
			continue
		}
		if r.bucket != nil {
			b := r.bucket(d.at)
			switch {
			case b != last:
				reason += " " + b
			case oldest:
				reason += " (the oldest)"
			default:
				continue
			}
			last = b
		}
		if left == 0 {
			return
		}
		if left > 0 {
			left--
		}
		if v.note == "" {
			d.plain = true
		}
		if reason += v.note; (v.note == "" || !d.plain) && !slices.Contains(d.Reasons, reason) {
			d.Reasons = append(d.Reasons, reason)
		}
	}
}

// ofClass reads how long a snapshot is to be kept. The zero Period is for ever: where the word is unknown, nobody can say when it may go.
func ofClass(class string) (within Period, reason string) {
	if class == "" {
		return Period{}, "no class"
	}
	within, err := ParsePeriod(class)
	if err != nil {
		return Period{}, fmt.Sprintf("class %q is no period", class)
	}
	return within, "class " + class
}

// byTags gives d the reasons that its tags are.
func (p *Policy) byTags(d *Decision) {
	for _, want := range p.Tags {
		switch {
		case len(want) == 0 && len(d.Tags) == 0:
			d.Reasons = append(d.Reasons, "no tags")
		case len(want) > 0 && !slices.ContainsFunc(want, func(t string) bool { return !slices.Contains(d.Tags, t) }):
			d.Reasons = append(d.Reasons, "tag "+strings.Join(want, ","))
		}
	}
}

// burstLeast is how many snapshots in a day are nothing to speak of in any case: one an hour is common.
const burstLeast = 24

// burst counts the snapshots of the last day if they are more than burstLeast and more than ten times as many a day as in the 30 days before.
func burst(list []Decision) int {
	if len(list) == 0 {
		return 0
	}
	newest, n, before := list[0].Stored, 0, 0
	for _, d := range list {
		switch age := newest.Sub(d.Stored); {
		case age < 24*time.Hour:
			n++
		case age < 31*24*time.Hour:
			before++
		}
	}
	if before == 0 || n <= burstLeast || n*30 <= 10*before { // without a before nothing is unusual
		return 0
	}
	return n
}
