package keeping

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/gc"
	"packhold/repo/retain"
)

// Holds is the command holds, for a run of the program.
func Holds(r *run.Run) *cli.Command {
	k := keeping{r}
	keys := []cli.Flag{run.KeyHintFlag(), run.KeyFileFlag()}
	return &cli.Command{
		Name: "holds", Usage: "keep snapshots from being forgotten",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list the snapshots that are held or pinned", Flags: keys, Action: k.Action(k.holdsList)},
			{Name: "add", Usage: "keep snapshots until a day, or until the hold is removed", ArgsUsage: "SNAPSHOT...", Flags: append([]cli.Flag{
				&cli.StringFlag{Name: "until", Usage: "end after `WHEN`: a day as 2027-01-31, or a period from now as 7y (default: never)"},
				&cli.StringFlag{Name: "reason", Usage: "`TEXT` that only holders of a passphrase can read"},
			}, keys...), Action: k.Action(k.holdsAdd)},
			{Name: "remove", Usage: "remove the holds of snapshots", ArgsUsage: "SNAPSHOT...", Flags: keys, Action: k.Action(k.holdsRemove)},
		},
	}
}

// until reads the end of a hold. A day counts wholly.
func (k keeping) until(word string) (time.Time, error) {
	now := k.Env.Now()
	if word == "" {
		return time.Time{}, nil
	}
	if day, err := time.ParseInLocation("2006-01-02", word, k.Env.Zone); err == nil {
		end := day.AddDate(0, 0, 1)
		if !end.After(now) {
			return end, fail.Usagef("time", "packhold help holds add", "--until %s is over", word)
		}
		return end, nil
	}
	p, err := retain.ParsePeriod(word)
	if err != nil {
		return time.Time{}, fail.Usagef("time", "packhold help holds add", "--until %s is neither a day, such as 2027-01-31, nor a period, such as 7y", term.Name(word))
	}
	return now.In(k.Env.Zone).AddDate(p.Years, p.Months, p.Days).Add(time.Duration(p.Hours) * time.Hour), nil
}

func (k keeping) holdsAdd(ctx context.Context, v run.Values, args []string) error {
	until, err := k.until(v.String("until"))
	if err != nil {
		return err
	}
	return k.holds(ctx, v, args, "holds add", func(r *run.Repository, s *repo.Snapshot) error {
		if err := gc.AddHold(ctx, r.Repo, s, until, v.String("reason")); err != nil {
			return err
		}
		k.Out.Say("snapshot %d is held", s.Number)
		return nil
	})
}

func (k keeping) holdsRemove(ctx context.Context, v run.Values, args []string) error {
	return k.holds(ctx, v, args, "holds remove", func(r *run.Repository, s *repo.Snapshot) error {
		n, err := gc.RemoveHolds(ctx, r.Repo, s)
		if err != nil {
			return err
		}
		k.Out.Say("snapshot %d: %s removed", s.Number, term.Plural(int64(n), "hold"))
		return nil
	})
}

// holds does something about the holds of the snapshots that args name.
func (k keeping) holds(ctx context.Context, v run.Values, args []string, op string, do func(r *run.Repository, s *repo.Snapshot) error) error {
	if len(args) == 0 {
		return fail.Usagef("argument", "packhold list", "it needs the snapshots")
	}
	r, err := k.OpenRepository(ctx, v, run.AnyKey)
	if err != nil {
		return err
	}
	defer r.Close()
	all, err := r.Snapshots(ctx)
	if err != nil {
		return err
	}
	var list []*repo.Snapshot
	for _, word := range args {
		s, err := repo.FindSnapshot(all, word)
		if err != nil {
			return err
		}
		list = append(list, s)
	}
	for _, s := range list {
		err := k.audited(ctx, r, op, []*repo.Snapshot{s}, v.String("reason"), func() error { return do(r, s) })
		if err != nil {
			return err
		}
	}
	if k.Out.JSON {
		return k.showHolds(ctx, r, list)
	}
	return nil
}

func (k keeping) holdsList(ctx context.Context, v run.Values, _ []string) error {
	r, err := k.OpenRepository(ctx, v, run.AnyKey)
	if err != nil {
		return err
	}
	defer r.Close()
	all, err := r.Snapshots(ctx)
	if err != nil {
		return err
	}
	if err := k.showHolds(ctx, r, all); err != nil {
		return err
	}
	e := run.OutcomeOf(nil, 0)
	e.Op = "holds list"
	return r.Note(ctx, e)
}

// showHolds prints the holds and pins of the snapshots of list.
func (k keeping) showHolds(ctx context.Context, r *run.Repository, list []*repo.Snapshot) error {
	m, err := gc.ReadMarks(ctx, r.Repo)
	if err != nil {
		return err
	}
	for _, p := range m.Problems {
		k.Out.Warn(p.Object, p.Err.Error())
	}
	t := &term.Table{Header: []string{"NUMBER", "ID", "KIND", "UNTIL", "SINCE", "BY", "WHY"}, Right: []int{0}}
	for _, s := range list {
		for _, h := range m.Held(r.Repo, s) {
			kind, by, until := "hold", "root", "-"
			if h.Kind == format.MarkPin {
				kind = "pin"
			}
			if h.Signer != (crypt.HostID{}) {
				by = r.HostName(h.Signer)
			}
			reason, err := gc.Reason(r.Repo, &h)
			if err != nil {
				reason = "(closed)"
			}
			var end *time.Time
			if h.Until != 0 {
				at := time.Unix(h.Until, 0).UTC()
				end, until = &at, term.Time(at, k.Env.Zone)
			}
			since := time.Unix(h.Time, 0).UTC()
			if k.Out.JSON {
				if err := k.Out.Object("hold", struct {
					Number uint64     `json:"number"`
					ID     string     `json:"id"`
					Kind   string     `json:"kind"`
					Until  *time.Time `json:"until,omitempty"`
					Since  time.Time  `json:"since"`
					By     string     `json:"by"`
					Closed bool       `json:"closed"`
					Reason string     `json:"reason,omitempty"`
				}{s.Number, s.ID().String(), kind, end, since, by, err != nil, reason}); err != nil {
					return err
				}
				continue
			}
			t.Rows = append(t.Rows, []string{term.Count(int64(s.Number)), s.ID().String(), kind, until, term.Time(since, k.Env.Zone), term.Name(by), reason})
		}
	}
	switch {
	case k.Out.JSON:
		return nil
	case len(t.Rows) == 0:
		k.Out.Say("no snapshot is held")
		return nil
	}
	return k.Out.Table(t)
}
