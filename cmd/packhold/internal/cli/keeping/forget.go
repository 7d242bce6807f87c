// Package keeping is the commands that say which snapshots stay: forget, holds, undelete.
package keeping

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/listing"
	"packhold/cmd/packhold/internal/cli/pruning"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/audit"
	"packhold/repo/gc"
	"packhold/repo/retain"
	"packhold/repo/snapshot"
)

type keeping struct{ *run.Run }

// counts and periods are the rules of a policy that have a number or a period, by the names of their flags.
func counts(p *retain.Policy) map[string]*int {
	return map[string]*int{"keep-last": &p.Last, "keep-hourly": &p.Hourly, "keep-daily": &p.Daily, "keep-weekly": &p.Weekly, "keep-monthly": &p.Monthly,
		"keep-yearly": &p.Yearly}
}

func periods(p *retain.Policy) map[string]*retain.Period {
	return map[string]*retain.Period{"keep-within": &p.Within, "keep-within-hourly": &p.WithinHourly, "keep-within-daily": &p.WithinDaily,
		"keep-within-weekly": &p.WithinWeekly, "keep-within-monthly": &p.WithinMonthly, "keep-within-yearly": &p.WithinYearly}
}

const nextForget = "packhold help forget"

// Forget is the command forget, for a run of the program.
func Forget(r *run.Run) *cli.Command {
	k := keeping{r}
	flags := []cli.Flag{
		&cli.StringFlag{Name: "keep-last", Usage: "keep the last `N` snapshots; all keeps every one, here and below"},
	}
	for _, unit := range []string{"hour", "day", "week", "month", "year"} {
		flags = append(flags, &cli.StringFlag{Name: "keep-" + adverb(unit), Usage: "keep the newest snapshot of each of the last `N` " + unit + "s that have one"})
	}
	flags = append(flags, &cli.StringFlag{Name: "keep-within", Usage: "keep what was stored in the last `PERIOD`, such as 30d or 1y6m, before the newest"})
	for _, unit := range []string{"hour", "day", "week", "month", "year"} {
		flags = append(flags, &cli.StringFlag{Name: "keep-within-" + adverb(unit), Usage: "keep the newest snapshot of each " + unit + " of the last `PERIOD`"})
	}
	flags = append(flags,
		&cli.StringSliceFlag{Name: "keep-tag", Usage: "keep those with the `TAG`, or with all of TAG,TAG; \"\" keeps those without tags; may be repeated"},
		&cli.BoolFlag{Name: "keep-class", Usage: "keep each as long as the retention says that it was made with, and those made without one"},
		&cli.StringFlag{Name: "group-by", Value: "host,sources", Usage: "what snapshots of a group have in common: a `LIST` of host, sources, tags, job. Hosts are always parted"},
		&cli.BoolFlag{Name: "allow-empty", Usage: "let a group lose all its snapshots"},
		&cli.StringFlag{Name: "reason", Usage: "`TEXT` to keep with what was forgotten; every host can read it"},
		&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "say what would be forgotten, and why the others stay"})
	flags = append(append(flags, &cli.BoolFlag{Name: "prune", Usage: "then free their room, as packhold prune does"}), pruning.Flags()...)
	flags = append(flags, listing.Flags()...)
	return &cli.Command{
		Name: "forget", Usage: "take snapshots out of the list, by name or by what is to be kept", ArgsUsage: "[SNAPSHOT...]",
		Description: "Their data stays until a prune, and packhold undelete brings them back until then.\n\n" +
			"A snapshot is kept if one of the rules keeps it. Rules count back from the newest snapshot of a group, by the storage's clock. What is held stays.",
		Flags:  append(flags, run.KeyHintFlag(), run.KeyFileFlag()),
		Action: k.Action(k.forget),
	}
}

func adverb(unit string) string {
	if unit == "day" {
		return "daily"
	}
	return unit + "ly"
}

// policyOf reads the rules from the flags. set says whether there are any.
func policyOf(v run.Values, zone *time.Location) (p retain.Policy, set bool, err error) {
	p.Zone, p.AllowEmpty = zone, v.Bool("allow-empty")
	for name, n := range counts(&p) {
		if !v.IsSet(name) {
			continue
		}
		set = true
		switch word := v.String(name); word {
		case "all", "unlimited":
			*n = retain.All
		default:
			if *n, err = strconv.Atoi(word); err != nil || *n < 0 {
				return p, set, fail.Usagef("count", nextForget, "--%s %s is neither a number nor all", name, term.Name(word))
			}
		}
	}
	for name, period := range periods(&p) {
		if v.IsSet(name) {
			set = true
			if *period, err = retain.ParsePeriod(v.String(name)); err != nil {
				return p, set, fail.Usagef("period", nextForget, "--%s: %v", name, err)
			}
		}
	}
	for _, list := range v.StringSlice("keep-tag") {
		set = true
		tags := []string{}
		if list != "" {
			tags = strings.Split(list, ",")
		}
		p.Tags = append(p.Tags, tags)
	}
	p.Class = v.Bool("keep-class")
	for _, word := range strings.Split(v.String("group-by"), ",") {
		switch word {
		case "host", "":
		case "sources":
			p.BySources = true
		case "tags":
			p.ByTags = true
		case "job":
			p.ByJob = true
		default:
			return p, set, fail.Usagef("group", nextForget, "--group-by %s is none of host, sources, tags, job", term.Name(word))
		}
	}
	return p, set || p.Class, nil
}

func (k keeping) forget(ctx context.Context, v run.Values, args []string) error {
	policy, byPolicy, err := policyOf(v, k.Env.Zone)
	if err == nil {
		err = listing.Check(v, nextForget)
	}
	switch {
	case err != nil:
		return err
	case byPolicy && len(args) > 0:
		return fail.Usagef("argument", nextForget, "it takes either snapshots or rules of what to keep")
	case !byPolicy && len(args) == 0:
		return fail.Usagef("argument", nextForget, "it needs snapshots, or a rule of what to keep, such as --keep-daily 7")
	}
	r, err := k.OpenRepository(ctx, v, run.AnyKey)
	if err != nil {
		return err
	}
	defer r.Close()
	rows, err := listing.Rows(ctx, r, v)
	if err != nil {
		return err
	}
	var list []*repo.Snapshot
	if byPolicy {
		list, err = k.plan(ctx, r, rows, policy)
	} else {
		list, err = k.named(r, rows, args)
	}
	if err != nil {
		return err
	}
	if v.Bool("dry-run") {
		return errors.Join(k.told(len(list), len(rows)-len(list), true), r.UnreadSnapshots())
	}
	n := 0
	if len(list) > 0 {
		err = k.audited(ctx, r, "forget", list, v.String("reason"), func() (err error) {
			n, err = gc.Forget(ctx, r.Repo, list, v.String("reason"))
			return err
		})
	}
	if err != nil {
		return k.partly(err, n, len(list))
	}
	if err := errors.Join(k.told(n, len(rows)-n, false), r.UnreadSnapshots()); err != nil || !v.Bool("prune") {
		return err
	}
	return pruning.Run(ctx, k.Run, v)
}

// named finds the snapshots that words name, each once.
func (k keeping) named(r *run.Repository, rows []listing.Row, words []string) ([]*repo.Snapshot, error) {
	all := make([]*repo.Snapshot, len(rows))
	for i, row := range rows {
		all[i] = row.Snapshot
	}
	var list []*repo.Snapshot
	for _, word := range words {
		s, err := repo.FindSnapshot(all, word)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(list, s) {
			list = append(list, s)
			if err := k.decision(listing.RowOf(r, s), retain.Decision{Snapshot: &retain.Snapshot{Stored: s.Stored}}, nil); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// plan applies the policy and shows what it says of every snapshot.
func (k keeping) plan(ctx context.Context, r *run.Repository, rows []listing.Row, policy retain.Policy) ([]*repo.Snapshot, error) {
	byID := make(map[crypt.SessionID]listing.Row, len(rows))
	var list []*repo.Snapshot
	for _, row := range rows {
		byID[row.ID()] = row
		list = append(list, row.Snapshot)
	}
	list, err := gc.Forgettable(r.Repo, list)
	if err != nil {
		return nil, err
	}
	m, err := gc.ReadMarks(ctx, r.Repo)
	if err != nil {
		return nil, err
	}
	for _, p := range m.Problems {
		k.Out.Warn(p.Object, p.Err.Error())
	}
	plan, err := gc.NewPlan(r.Repo, list, func(s *repo.Snapshot) *snapshot.Body { return byID[s.ID()].Body }, m, policy)
	if err != nil {
		return nil, err
	}
	for _, g := range plan.Groups {
		name := term.Name(r.HostName(g.Host))
		for _, part := range []struct {
			word string
			list []string
		}{{"sources", g.Sources}, {"tags", g.Tags}} {
			if len(part.list) > 0 {
				name += ", " + part.word + " " + term.Names(part.list)
			}
		}
		if g.Job != "" {
			name += ", job " + term.Name(g.Job)
		}
		if g.Burst > 0 {
			k.Out.Warn(name, fmt.Sprintf("%s were stored in one day, far more than before: look whether somebody wants the older ones to go", term.Plural(int64(g.Burst), "snapshot")))
		}
		t := &term.Table{Header: []string{"", "NUMBER", "ID", "STORED", "TYPE", "WHY"}, Right: []int{1}}
		for _, d := range g.Decisions {
			if off := d.ClockOff(); off > 0 {
				k.Out.Warn(d.ID.String(), fmt.Sprintf("its host's clock was %s ahead of the storage's", term.Duration(off)))
			}
			if err := k.decision(byID[d.ID], d, t); err != nil {
				return nil, err
			}
		}
		if !k.Out.JSON {
			k.Out.Data(name + "\n")
			if err := k.Out.Table(t); err != nil {
				return nil, err
			}
		}
	}
	return plan.Forget, nil
}

// decision shows what becomes of a snapshot: as JSON, or as a row of t if there is one.
func (k keeping) decision(row listing.Row, d retain.Decision, t *term.Table) error {
	if k.Out.JSON {
		return k.Out.Object("retention", struct {
			Number   uint64    `json:"number"`
			ID       string    `json:"id"`
			Host     string    `json:"host"`
			StoredAt time.Time `json:"stored_at"`
			Keep     bool      `json:"keep"`
			Reasons  []string  `json:"reasons"`
		}{row.Number, row.ID().String(), row.Host, d.Stored.UTC(), d.Keep, append([]string{}, d.Reasons...)})
	}
	if t != nil {
		word := "forget"
		if d.Keep {
			word = "keep"
		}
		t.Rows = append(t.Rows, []string{word, term.Count(int64(row.Number)), row.ID().String(), term.Time(d.Stored, k.Env.Zone), listing.TypeName(row.Type), strings.Join(d.Reasons, ", ")})
	}
	return nil
}

// told says what was done.
func (k keeping) told(forgotten, kept int, dry bool) error {
	if k.Out.JSON {
		return k.Out.Object("forgotten", struct {
			Forgotten int  `json:"forgotten"`
			Kept      int  `json:"kept"`
			DryRun    bool `json:"dry_run"`
		}{forgotten, kept, dry})
	}
	verb := "forgotten"
	if dry {
		verb = "would be forgotten"
	}
	k.Out.Say("%s %s, %d kept", term.Plural(int64(forgotten), "snapshot"), verb, kept)
	return nil
}

// partly tells how many were forgotten before an error.
func (k keeping) partly(err error, n, of int) error {
	if n == 0 {
		return err
	}
	effect := fmt.Sprintf("%d of %s were forgotten. Their data is still there.", n, term.Plural(int64(of), "snapshot"))
	next := "look at the storage, then run the command again"
	word, code := "forget.partly", fail.Unclassified
	if errors.Is(err, gc.ErrHeld) {
		word, code, next = "snapshot.held", fail.Usage, "packhold undelete, with the IDs that are named"
	}
	return errors.Join(&fail.Error{Code: code, Word: word, Problem: err.Error(), Where: k.Where, Effect: effect, Next: next, Cause: err}, err)
}

// audited runs do between an entry of the audit log about what is intended and one about what came of it. Without the first nothing is done.
func (k keeping) audited(ctx context.Context, r *run.Repository, op string, list []*repo.Snapshot, reason string, do func() error) error {
	l, err := r.Journal(ctx)
	if err != nil {
		return err
	}
	e := audit.Event{Op: op, Outcome: audit.Intent, Reason: reason}
	if len(list) == 1 {
		e.Object, e.Snapshot = list[0].Name, list[0].ID().String()
	} else {
		e.Object = term.Plural(int64(len(list)), "snapshot")
		var ids strings.Builder // random, so that their hash gives nothing away
		for _, s := range list {
			ids.WriteString(s.ID().String())
		}
		sum := sha256.Sum256([]byte(ids.String()))
		e.ParamsHash = hex.EncodeToString(sum[:])
	}
	seq, err := l.Append(ctx, e)
	if err != nil {
		return err
	}
	start := k.Env.Now()
	err = do()
	res := run.OutcomeOf(err, 0)
	e.Outcome, e.IntentSeq, e.Duration = res.Outcome, seq, k.Env.Now().Sub(start)
	if err != nil {
		e.Reason = res.Reason
	}
	done, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // it is done, whoever wants to stop now
	defer cancel()
	return errors.Join(err, r.Note(done, e))
}
