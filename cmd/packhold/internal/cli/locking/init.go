// Package locking makes repositories write-once: it reads what init is asked for, and is the command lock.
package locking

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/backends"
	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo/format"
	"packhold/repo/lock"
	"packhold/repo/retain"
	"packhold/repo/writeonce"
)

// Flags are what init takes.
func Flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "immutable", Usage: "keep everything write-once for `PERIOD`, such as 30d; CLASS=PERIOD for backups of a retention class; may be repeated"},
		&cli.StringFlag{Name: "immutable-mode", Value: "governance", Usage: "`MODE` of object lock: governance, which an administrator can end, or compliance, which nobody can"},
		&cli.StringFlag{Name: "yes-compliance", Usage: "name `BUCKET` here to confirm compliance mode without being asked"},
	}
}

const help = "packhold help init"

// leastLock is the shortest lock: shorter ones end before anybody has noticed anything.
const leastLock = 24 * time.Hour

// Length is how many days a period has at most, whenever it begins. Ten years are format.MaxLock.
func Length(text string) (time.Duration, error) {
	p, err := retain.ParsePeriod(text)
	if err != nil {
		return 0, err
	}
	end := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) // what lies before it has leap years and long months first
	d := end.Sub(p.Before(end))
	switch {
	case d < leastLock:
		return 0, fmt.Errorf("%s is shorter than a day", term.Name(text))
	case d > format.MaxLock*time.Second:
		return 0, fmt.Errorf("%s is longer than 10 years, and nobody could take it back", term.Name(text))
	}
	return d, nil
}

// Policy reads the flags of init. A Length of 0 is no lock.
func Policy(v run.Values) (p writeonce.Policy, err error) { return policy(v, writeonce.Policy{}) }

// policy reads the flags, which change old.
func policy(v run.Values, old writeonce.Policy) (p writeonce.Policy, err error) {
	for _, text := range v.StringSlice("immutable") {
		class, period, of := strings.Cut(text, "=")
		if !of {
			class, period = "", text
		}
		length, err := Length(period)
		if err == nil && of {
			_, err = retain.ParsePeriod(class)
		}
		if err != nil {
			return p, fail.Usagef("value", help, "--immutable: %v", err)
		}
		_, twice := p.Classes[class]
		switch {
		case twice || !of && p.Length != 0:
			return p, fail.Usagef("value", help, "--immutable says twice for how long")
		case !of:
			p.Length = length
			continue
		case p.Classes == nil:
			p.Classes = make(map[string]time.Duration)
		}
		p.Classes[class] = length
	}
	if p.Length == 0 {
		p.Length = old.Length
	}
	for class, length := range old.Classes {
		if _, given := p.Classes[class]; !given {
			if p.Classes == nil {
				p.Classes = make(map[string]time.Duration)
			}
			p.Classes[class] = length
		}
	}
	if p.Length == 0 && len(p.Classes) > 0 {
		return p, fail.Usagef("value", help, "--immutable says for how long a class is kept, and not for how long everything else is: add --immutable 30d")
	}
	switch mode := v.String("immutable-mode"); {
	case p.Length == 0 && (v.IsSet("immutable-mode") || v.IsSet("yes-compliance")):
		return p, fail.Usagef("flag", help, "--immutable-mode and --yes-compliance need --immutable")
	case mode == "compliance" || old.Compliance && !v.IsSet("immutable-mode"):
		p.Compliance = true
	case mode != "governance":
		return p, fail.Usagef("value", help, "mode %s is neither governance nor compliance", term.Name(mode))
	case v.IsSet("yes-compliance"):
		return p, fail.Usagef("flag", help, "--yes-compliance needs --immutable-mode compliance")
	}
	return p, nil
}

// Confirm lets the user say that compliance mode is meant, before a bucket is made or touched.
func Confirm(ctx context.Context, a *run.Run, v run.Values, p writeonce.Policy, l config.Location) error {
	if !p.Compliance {
		return nil
	}
	if l.Type != "s3" {
		return fail.Usagef("lock", help, "compliance mode is one of object lock, which only S3 has: %s is a %s repository", term.Name(l.String()), l.Type)
	}
	bucket := l.Storage.Bucket
	typed := v.String("yes-compliance")
	if !v.IsSet("yes-compliance") {
		if a.Env.Ask == nil {
			return fail.Usagef("lock", "if that is meant: --yes-compliance "+bucket, "in compliance mode nobody can delete anything early, and there is no terminal to ask whether that is meant")
		}
		longest := p.Length
		for _, d := range p.Classes {
			longest = max(longest, d)
		}
		a.Out.Screen.Print(fmt.Sprintf("Compliance mode: what is stored in bucket %s from now on cannot be deleted by anybody for up to %s,\n"+
			"not by you, the owner of the account or the provider's support, and is paid for until then.", term.Name(bucket), days(writeonce.Until(time.Time{}, longest).Sub(time.Time{}))))
		answer, err := a.Env.Ask(ctx, "Type the name of the bucket to confirm: ")
		if err != nil {
			return err
		}
		typed = string(answer)
	}
	if typed != bucket {
		return fail.Usagef("lock", help, "that is not the name of the bucket, %s: nothing was confirmed", term.Name(bucket))
	}
	return nil
}

// Check says that a place cannot keep what p asks for, and what to do about it.
func Check(ctx context.Context, a *run.Run, s backends.Storage, p writeonce.Policy, l config.Location) error {
	if p.Length == 0 {
		return nil
	}
	err := writeonce.Check(ctx, s, p, a.Env.Now())
	if !errors.Is(err, backends.ErrUnsupported) {
		return err
	}
	f := &fail.Error{Code: fail.Usage, Word: "lock.unsupported", Where: a.Where, Cause: err, Effect: "No repository was made."}
	switch l.Type {
	case "s3":
		f.Problem = "the bucket " + term.Name(l.Storage.Bucket) + " has no object lock, or these credentials may not use it"
		f.Next = "name a bucket that does not exist, which packhold makes with object lock, or: aws s3api create-bucket --object-lock-enabled-for-bucket --bucket NAME"
	case "sftp":
		f.Problem = "SFTP has no way to keep files until a date"
		f.Next = "leave --immutable out, and let the server refuse to delete: packhold help serve"
	default:
		f.Problem = "the file system has no extended attributes, where the date of each file would stand"
		f.Next = "take a folder on ext4, xfs, btrfs or ZFS, or leave --immutable out"
	}
	return f
}

// Made locks what init stored and says what was reached.
func Made(ctx context.Context, a *run.Run, r *run.Repository) (level backends.Guard, err error) {
	p := writeonce.PolicyOf(r.Settings())
	if p.Length == 0 {
		return backends.Unguarded, nil
	}
	if _, err := lock.Extend(ctx, r.Repo); err != nil {
		return level, err
	}
	s, err := lock.Look(ctx, r.Repo)
	if err != nil {
		return level, err
	}
	a.Out.Say("write-once for %s, by %s", days(p.Length), s.Guard.Text())
	for _, c := range classes(p) {
		a.Out.Say("  backups with --retention %s: for %s", c, days(p.Of(c)))
	}
	if s.Guard == backends.Mode {
		a.Out.Say("Only packhold itself heeds it here: who may write to the folder may delete it. As root, on ext4, xfs or btrfs, it is the immutable flag.")
	}
	a.Out.Say("Locks end unless they are extended: run packhold lock extend every week.")
	return s.Guard, nil
}

// days writes a length.
func days(d time.Duration) string {
	if d%(24*time.Hour) != 0 {
		return fmt.Sprintf("%.1f days", d.Hours()/24)
	}
	return term.Plural(int64(d/(24*time.Hour)), "day")
}
