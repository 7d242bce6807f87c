// Package mending is verify --repair: it makes damaged objects whole again.
package mending

import (
	"context"
	"errors"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/backends"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/progress"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/cmd/packhold/internal/cli/verified"
	"packhold/crypt"
	"packhold/repo/admin"
	"packhold/repo/check"
	"packhold/repo/repair"
)

// Flags are those that verify has for it; --from is verify's own.
func Flags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "repair", Usage: "read everything, then mend what is damaged: from parity, from the packs' own tables, and, with --from, from a replica"},
		&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "with --repair: print the plan, and change nothing"},
		&cli.BoolFlag{Name: "yes", Usage: "with --repair: carry the plan out without asking"},
	}
}

// rounds is how often a repository is opened again: once after its config and keys are there, once after what says whom to believe, and once to mend.
const rounds = 4

// mending is one run.
type mending struct {
	*run.Run
	v      run.Values
	from   backends.Storage // nil: there is no replica
	agreed bool
	mended int
	left   []repair.Left
}

// counted shows the bytes that are read.
type counted struct{ c *progress.Counter }

func (p counted) Total(bytes int64) { p.c.Total(0, bytes) }
func (p counted) Done(bytes int64)  { p.c.Done(0, bytes) }

// errPlanned ends a dry run, and one whose plan was turned down.
var errPlanned = errors.New("only planned")

// Asked reports whether verify is to repair. It is a run of its own, with no other flags of verify.
func Asked(v run.Values, args []string) (bool, error) {
	const next = "packhold help verify"
	if !v.Bool("repair") {
		for _, name := range []string{"dry-run", "yes"} {
			if v.IsSet(name) {
				return false, fail.Usagef(name, next, "--%s needs --repair", name)
			}
		}
		return false, nil
	}
	for _, name := range []string{"checksums", "subset", "oldest", "against-source", "sample", "resume"} {
		if v.IsSet(name) {
			return false, fail.Usagef(name, next, "--repair reads everything: --%s is for a check", name)
		}
	}
	if len(args) > 0 {
		return false, fail.Usagef("snapshot", next, "--repair mends the repository: it takes no snapshot")
	}
	return true, nil
}

// Run repairs as the flags say.
func Run(ctx context.Context, r *run.Run, v run.Values) error {
	m := &mending{Run: r, v: v}
	if !v.Bool("dry-run") && !v.Bool("yes") && r.Env.Ask == nil {
		return fail.Usagef("flag", "packhold verify --repair --dry-run prints the plan; packhold verify --repair --yes carries it out", "there is no terminal to ask whether the repair is meant")
	}
	if place := v.String("from"); place != "" {
		from, err := r.At(place).Storage(ctx, false, false)
		if err != nil {
			return err
		}
		defer from.Close()
		m.from = from
	}
	return m.run(ctx)
}

func (m *mending) run(ctx context.Context) error {
	if err := m.prime(ctx); err != nil {
		if errors.Is(err, errPlanned) {
			return m.planned(fail.Repairable)
		}
		return err
	}
	for range rounds {
		rep, err := m.round(ctx)
		switch {
		case errors.Is(err, errPlanned):
			return m.planned(codeOf(rep, m.left))
		case err != nil:
			return err
		case rep != nil:
			return m.verdict(rep)
		}
	}
	return &fail.Error{Code: fail.Lost, Word: "damage.again", Problem: "new damage shows each time that some is mended", Where: m.Where,
		Effect: "What was mended stays mended.", Next: "check the disk of the storage, then run it again"}
}

// prime puts config and keys back where a replica has them and nothing of them is left.
func (m *mending) prime(ctx context.Context) error {
	if m.from == nil {
		return nil
	}
	st, err := m.Storage(ctx, false, true)
	if err != nil {
		return err
	}
	defer st.Close()
	steps, err := repair.Prime(ctx, st, m.from, true)
	if err != nil || len(steps) == 0 {
		return m.other(err)
	}
	if err := m.agree(ctx, steps); err != nil {
		return err
	}
	steps, err = repair.Prime(ctx, st, m.from, false)
	m.mended += len(steps)
	return err
}

func (m *mending) other(err error) error {
	if !errors.Is(err, repair.ErrOther) {
		return err
	}
	return &fail.Error{Code: fail.Usage, Word: "repair.other", Problem: "the place given with --from is no copy of this repository", Where: term.Name(m.v.String("from")),
		Effect: "Nothing was changed.", Next: "check both paths: packhold config show", Cause: err}
}

// round opens the repository, checks it, and mends it. Without a report another round is to follow.
func (m *mending) round(ctx context.Context) (*check.Report, error) {
	r, err := m.OpenRepository(ctx, m.v, run.HolderKey)
	if err != nil {
		return nil, err
	}
	defer r.Passphrase.Zero()
	defer r.Store.Close()
	rep, err := m.check(ctx, r, true)
	if err != nil {
		return nil, err
	}
	o := repair.Options{From: m.from}
	plan, err := repair.Make(ctx, r.Repo, rep, o)
	if err != nil {
		return nil, err
	}
	if len(plan.Steps) == 0 {
		m.left = plan.Left
		return rep, m.note(ctx, r, rep)
	}
	m.left = plan.Left
	if err := m.agree(ctx, plan.Steps); err != nil {
		return rep, err
	}
	if id := r.Keys().Identity; !plan.First && id != nil && r.Trust().Roles(id.Host)&crypt.RolePrune == 0 {
		if err := admin.Empower(ctx, r.Repo, crypt.RolePrune); err != nil {
			return nil, err
		}
	}
	start := m.Env.Now()
	done, err := plan.Apply(ctx, r.Repo, o)
	m.mended += len(done.Mended)
	for _, s := range done.Mended {
		if m.Out.JSON {
			m.Out.Object("repaired", step(s)) // an error is kept by Write
		} else {
			m.Out.Say("%s: repaired, %s", s.Object, text(s))
		}
	}
	for _, l := range done.Left {
		m.Out.Warn(l.Object, "not repaired: "+l.Why.Error())
	}
	e := run.OutcomeOf(err, len(done.Left))
	e.Op, e.Object, e.Duration = "repair", term.Plural(int64(len(done.Mended)), "object"), m.Env.Now().Sub(start)
	if !plan.First || err != nil { // with a certificate that was missing, the log may not open yet
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // it is done, whoever wants to stop now
		err = errors.Join(err, r.Note(late, e))
		cancel()
	}
	if err != nil || len(done.Mended) > 0 {
		return nil, err
	}
	return rep, m.note(ctx, r, rep)
}

// note makes backups store again what stays lost.
func (m *mending) note(ctx context.Context, r *run.Repository, rep *check.Report) error {
	if m.v.Bool("dry-run") || len(rep.Lost)+len(rep.Failed) == 0 {
		return nil
	}
	return check.Note(ctx, r.Repo, rep)
}

func (m *mending) check(ctx context.Context, r *run.Repository, data bool) (rep *check.Report, err error) {
	c := new(progress.Counter)
	err = m.Watch("verifying", c, func() error {
		rep, err = check.Run(ctx, r.Repo, check.Options{ReadData: data, Progress: counted{c}})
		return err
	})
	return rep, err
}

// step is a step as JSON has it.
func step(s repair.Step) any {
	return struct {
		Object string `json:"object"`
		How    string `json:"how"`
		Packs  int    `json:"packs,omitempty"`
	}{s.Object, s.How.String(), len(s.Packs)}
}

// text says how a step mends.
func text(s repair.Step) string {
	switch s.How {
	case repair.Parity:
		return "from its own parity"
	case repair.Replica:
		return "from the replica"
	case repair.Copy:
		return "from another copy of it"
	case repair.Tables:
		return "from what " + term.Plural(int64(len(s.Packs)), "pack") + " without a name in the index say of themselves"
	}
	if s.How == repair.Blobs {
		return "removed: what is needed of it is whole in other packs"
	}
	return "removed: what it said is of no use any more"
}

// agree prints the plan, and asks whether it is meant.
func (m *mending) agree(ctx context.Context, steps []repair.Step) error {
	for _, s := range steps {
		if m.Out.JSON {
			m.Out.Object("plan", step(s)) // an error is kept by Write
		} else {
			m.Out.Say("plan: %s: %s", s.Object, text(s))
		}
	}
	switch {
	case m.v.Bool("dry-run"):
		return errPlanned
	case m.v.Bool("yes") || m.agreed:
		return nil
	}
	answer, err := m.Env.Ask(ctx, "Type yes to carry it out: ")
	if err != nil {
		return err
	}
	if string(answer) != "yes" {
		return errPlanned
	}
	m.agreed = true
	return nil
}

// codeOf is what a plan leaves.
func codeOf(rep *check.Report, left []repair.Left) fail.Code {
	for _, l := range left {
		for _, p := range rep.Problems {
			if p.Object == l.Object && !p.Mendable {
				return fail.Lost
			}
		}
	}
	return fail.Repairable
}

func (m *mending) planned(code fail.Code) error {
	f := &fail.Error{Code: code, Word: "damage.repairable", Problem: "the repository is damaged, and the plan above mends it", Where: m.Where, Effect: "Nothing was changed.",
		Next: "packhold verify --repair --yes"}
	if code == fail.Lost {
		f.Word, f.Problem = "damage.lost", term.Plural(int64(len(m.left)), "damaged object")+" cannot be mended with what is there"
		f.Next = "packhold verify --repair --from REPLICA; without a replica: packhold verify --repair, then back up again"
	}
	for _, l := range m.left {
		m.Out.Warn(l.Object, "cannot be mended: "+l.Why.Error())
	}
	return f
}

// verdict tells how it ended: rep was made after the last repair.
func (m *mending) verdict(rep *check.Report) error {
	if len(rep.Problems) == 0 && m.mended == 0 {
		m.Out.Say("no damage found; nothing was changed")
		return nil
	}
	if len(rep.Problems) == 0 {
		return &fail.Error{Code: fail.Repairable, Word: "damage.repaired", Problem: term.Plural(int64(m.mended), "object") + " had to be repaired", Where: m.Where,
			Effect: "Everything was repaired, read again, and is whole.", Next: "check the disk of the storage; what fails once fails again"}
	}
	for _, p := range rep.Problems {
		m.Out.Warn(p.Object, verified.Reason(p))
		for _, f := range p.Files {
			m.Out.Screen.Print("  snapshot " + term.Count(int64(f.Number)) + ": " + term.Name(f.Path))
		}
	}
	err := verified.Verdict(rep, m.Where, len(rep.Lost)+len(rep.Failed) > 0 && !m.v.Bool("dry-run"))
	var f *fail.Error
	if m.mended > 0 && errors.As(err, &f) {
		f.Problem += ", after " + term.Plural(int64(m.mended), "object") + " had been repaired"
	}
	return err
}
