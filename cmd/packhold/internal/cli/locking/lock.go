package locking

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/backends"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo/admin"
	"packhold/repo/audit"
	"packhold/repo/lock"
	"packhold/repo/writeonce"
)

func classes(p writeonce.Policy) []string { return slices.Sorted(maps.Keys(p.Classes)) }

// Command is the command lock.
func Command(a *run.Run) *cli.Command {
	keys := []cli.Flag{run.KeyHintFlag(), run.KeyFileFlag()}
	set := append(Flags(), keys...)
	return &cli.Command{
		Name: "lock", Usage: "look at the locks of a write-once repository, and extend them",
		Subcommands: []*cli.Command{
			{Name: "status", Usage: "say what is locked until when, and what lies open", Flags: keys,
				Action: a.Action(func(ctx context.Context, v run.Values, _ []string) error { return status(ctx, a, v) })},
			{Name: "extend", Usage: "extend the locks of everything that the repository still needs", Flags: keys,
				Action: a.Action(func(ctx context.Context, v run.Values, _ []string) error { return extend(ctx, a, v) })},
			{Name: "set", Usage: "make the repository write-once, or for longer than before; needs an administrator's passphrase", Flags: set,
				Action: a.Action(func(ctx context.Context, v run.Values, _ []string) error { return change(ctx, a, v) })},
		},
	}
}

func status(ctx context.Context, a *run.Run, v run.Values) error {
	r, err := a.OpenRepository(ctx, v, run.WriterKey)
	if err != nil {
		return err
	}
	defer r.Close()
	s, err := lock.Look(ctx, r.Repo)
	if err != nil {
		return err
	}
	now := a.Env.Now()
	if err := show(a, s); err != nil {
		return err
	}
	return due(a, s, now)
}

// show prints a Status.
func show(a *run.Run, s *lock.Status) error {
	if a.Out.JSON {
		return showJSON(a, s)
	}
	level := "level: " + s.Guard.String()
	if s.Guard.String() != "none" {
		level += " (" + s.Guard.Text() + ")"
	}
	a.Out.Data(level + "\n")
	if s.Policy.Length == 0 {
		a.Out.Data("this repository is not write-once\n")
		return nil
	}
	t := &term.Table{Header: []string{"CLASS", "FOR", "OBJECTS", "SIZE", "LOCKED", "OPEN", "FIRST ENDS", "LAST ENDS"}, Right: []int{2, 3, 4, 5}}
	date := func(d time.Time) string {
		if d.IsZero() {
			return "-"
		}
		return term.Time(d, a.Env.Zone)
	}
	for _, c := range s.Classes {
		name := "-"
		if c.Name != "" {
			name = term.Name(c.Name)
		}
		t.Rows = append(t.Rows, []string{name, days(c.Length), term.Count(int64(c.Objects)), term.Bytes(c.Bytes), term.Count(int64(c.Locked)),
			term.Count(int64(c.Objects - c.Locked)), date(c.First), date(c.Last)})
	}
	if err := a.Out.Table(t); err != nil {
		return err
	}
	most := 10
	if a.Out.Verbose {
		most = len(s.Open)
	}
	for _, name := range s.Open[:min(most, len(s.Open))] {
		a.Out.Data("open: " + name + "\n")
	}
	if more := s.Opened - min(most, len(s.Open)); more > 0 {
		a.Out.Data("open: and " + term.Count(int64(more)) + " more\n")
	}
	return nil
}

// jsonTime is a time as JSON has it, nil for none.
func jsonTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func showJSON(a *run.Run, s *lock.Status) error {
	for _, c := range s.Classes {
		if err := a.Out.Object("lock_class", struct {
			Class   string     `json:"class"`
			Seconds int64      `json:"seconds"`
			Objects int        `json:"objects"`
			Bytes   int64      `json:"bytes"`
			Locked  int        `json:"locked"`
			Open    int        `json:"open"`
			First   *time.Time `json:"first_ends,omitempty"`
			Last    *time.Time `json:"last_ends,omitempty"`
		}{c.Name, int64(c.Length / time.Second), c.Objects, c.Bytes, c.Locked, c.Objects - c.Locked, jsonTime(c.First), jsonTime(c.Last)}); err != nil {
			return err
		}
	}
	for _, name := range s.Open {
		if err := a.Out.Object("lock_open", struct {
			Object string `json:"object"`
		}{name}); err != nil {
			return err
		}
	}
	return a.Out.Object("lock_status", struct {
		Level      string `json:"level"`
		Seconds    int64  `json:"seconds"`
		Compliance bool   `json:"compliance"`
		Open       int    `json:"open"`
		Missing    int    `json:"missing"`
		Due        bool   `json:"due"`
	}{s.Guard.String(), int64(s.Policy.Length / time.Second), s.Policy.Compliance, s.Opened, s.Gone, s.Policy.Length > 0 && s.Due(a.Env.Now())})
}

// due is the failure to tell after a status: nil where nothing has to be done.
func due(a *run.Run, s *lock.Status, now time.Time) error {
	if s.Gone > 0 {
		return &fail.Error{Code: fail.Lost, Word: "damage.lost", Where: a.Where, Problem: term.Plural(int64(s.Gone), "object") + " that the repository needs is not there",
			Effect: "Nothing was changed.", Next: "packhold verify"}
	}
	if s.Policy.Length == 0 || !s.Due(now) {
		return nil
	}
	f := &fail.Error{Code: fail.Repairable, Word: "lock.due", Where: a.Where, Effect: "Whoever may delete in the storage can delete them. Nothing was changed.", Next: "packhold lock extend"}
	if s.Opened > 0 {
		f.Problem = term.Plural(int64(s.Opened), "object") + " of the repository should be locked and lie open"
		if s.Opened == 1 {
			f.Problem = "1 object of the repository should be locked and lies open"
		}
		return f
	}
	f.Problem, f.Effect = "locks end soon that have not been extended for long", "Everything is locked still. Nothing was changed."
	return f
}

func extend(ctx context.Context, a *run.Run, v run.Values) error {
	r, err := a.OpenRepository(ctx, v, run.WriterKey)
	if err != nil {
		return err
	}
	defer r.Close()
	held, err := lock.Extend(ctx, r.Repo)
	if r.Keeper() != nil {
		_ = r.SaveCache()
		e := run.OutcomeOf(err, held.Gone)
		e.Op = "lock extend"
		if rerr := r.Record(ctx, e); err == nil {
			err = rerr
		}
	}
	if err != nil {
		return err
	}
	if a.Out.JSON {
		err = a.Out.Object("lock_extended", struct {
			Objects  int `json:"objects"`
			Extended int `json:"extended"`
			Missing  int `json:"missing"`
		}{held.Objects, held.Extended, held.Gone})
	}
	a.Out.Say("%s looked at, the locks of %s extended", term.Plural(int64(held.Objects), "object"), term.Count(int64(held.Extended)))
	if err == nil && held.Gone > 0 {
		err = &fail.Error{Code: fail.Lost, Word: "damage.lost", Where: a.Where, Problem: term.Plural(int64(held.Gone), "object") + " that the repository needs is not there",
			Effect: "The locks of the others are extended.", Next: "packhold verify"}
	}
	return err
}

// Keep extends the locks of a write-once repository beside something else that was done. Where its place cannot lock files, as that of a copy, it warns.
func Keep(ctx context.Context, a *run.Run, r *run.Repository) error {
	_, err := lock.Keep(ctx, r.Repo)
	switch {
	case errors.Is(err, lock.ErrNone):
		return nil
	case errors.Is(err, backends.ErrUnsupported):
		a.Out.Warn(r.Where(), "the repository is write-once, and this place cannot lock files: nothing here is locked")
		return nil
	}
	return err
}

// Remind is for who reads all of a repository: the failure that lock status would tell, nil where nothing has to be done.
func Remind(ctx context.Context, a *run.Run, r *run.Repository) error {
	if r.Keeper() == nil {
		return nil
	}
	s, err := lock.Look(ctx, r.Repo)
	if err != nil {
		return err
	}
	if s.Guard == backends.Unguarded { // as in a copy at a place that cannot
		a.Out.Warn(r.Where(), "the repository is write-once, and nothing here is locked")
		return nil
	}
	return due(a, s, a.Env.Now())
}

// change is lock set.
func change(ctx context.Context, a *run.Run, v run.Values) error {
	if len(v.StringSlice("immutable")) == 0 && !v.IsSet("immutable-mode") {
		return fail.Usagef("flag", "packhold help lock set", "say for how long: --immutable 30d")
	}
	settings, err := a.Settings()
	if err != nil {
		return err
	}
	r, err := a.OpenRepository(ctx, v, run.ReaderKey)
	if err != nil {
		return err
	}
	defer r.Close()
	old := writeonce.PolicyOf(r.Settings())
	p, err := policy(v, old)
	if err != nil {
		return err
	}
	if !old.Compliance {
		if err := Confirm(ctx, a, v, p, settings.Repository); err != nil {
			return err
		}
	}
	if err := Check(ctx, a, r.Store, p, settings.Repository); err != nil {
		return err
	}
	e := audit.Event{Op: "lock set", Outcome: audit.Intent}
	log, err := r.Journal(ctx)
	if err != nil {
		return err
	}
	intent, err := log.Append(ctx, e)
	if err != nil {
		return err
	}
	err = admin.SetLock(ctx, r.Repo, p)
	e = run.OutcomeOf(err, 0)
	e.Op, e.IntentSeq = "lock set", intent
	if rerr := r.Record(ctx, e); err == nil {
		err = rerr
	}
	if err != nil {
		return err
	}
	if a.Out.JSON {
		return a.Out.Object("lock_changed", struct {
			Seconds    int64 `json:"seconds"`
			Compliance bool  `json:"compliance"`
		}{int64(p.Length / time.Second), p.Compliance})
	}
	a.Out.Say("write-once for %s from now on", days(p.Length))
	for _, c := range classes(p) {
		a.Out.Say("  backups with --retention %s: for %s", c, days(p.Of(c)))
	}
	a.Out.Say("What is there already is locked by: packhold lock extend")
	return nil
}
