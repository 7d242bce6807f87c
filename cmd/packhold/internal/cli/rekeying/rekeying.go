// Package rekeying is the commands after which everybody has other keys: host revoke, key rotate.
package rekeying

import (
	"context"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/admin"
	"packhold/repo/audit"
)

// HostRevoke is host revoke, for a run of the program.
func HostRevoke(r *run.Run) *cli.Command {
	return &cli.Command{
		Name: "revoke", Usage: "take a host's credential back: it cannot back up any more, and what it stores does not count", ArgsUsage: "HOST",
		Description: "HOST is a name, or the beginning of an ID that packhold host list shows. The snapshots that the host made stay, but for those that --since names. All other " +
			"hosts get a new write secret by themselves. A revoked host cannot be taken in again; its machine can be enrolled as another one.\n\n" +
			"It may be interrupted and run again.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "since", Usage: "snapshots of the host that were stored at `WHEN` or later do not count any more: a day as 2027-01-31, or a time as 2027-01-31T15:04:05Z"},
			&cli.BoolFlag{Name: "yes", Usage: "do not ask"},
			run.KeyHintFlag(), run.KeyFileFlag(),
		},
		Action: r.Action(func(ctx context.Context, v run.Values, args []string) error { return revoke(ctx, r, v, args) }),
	}
}

const helpRevoke = "packhold help host revoke"

// since reads the beginning of what does not count; the zero time is no such.
func since(a *run.Run, word string) (time.Time, error) {
	if word == "" {
		return time.Time{}, nil
	}
	if t, err := time.ParseInLocation("2006-01-02", word, a.Env.Zone); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, word)
	if err != nil {
		return t, fail.Usagef("time", helpRevoke, "--since %s is neither a day, such as 2027-01-31, nor a time, such as 2027-01-31T15:04:05Z", term.Name(word))
	}
	return t, nil
}

// find finds the host that word names.
func find(r *run.Repository, word string) (*crypt.Certificate, error) {
	var found []*crypt.Certificate
	for _, c := range r.Trust().Certificates() {
		if c.Name == word || len(word) >= 4 && strings.HasPrefix(c.Host.String(), word) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return nil, fail.Usagef("host", "packhold host list", "no host is called %s", term.Name(word))
	case 1:
		return found[0], nil
	}
	return nil, fail.Usagef("host", "name it by its ID: packhold host list", "%d hosts are called %s", len(found), term.Name(word))
}

func revoke(ctx context.Context, a *run.Run, v run.Values, args []string) error {
	if len(args) != 1 {
		return fail.Usagef("argument", "packhold host list", "it needs the name or ID of one host")
	}
	begin, err := since(a, v.String("since"))
	if err != nil {
		return err
	}
	if !v.Bool("yes") && a.Env.Ask == nil {
		return fail.Usagef("flag", "if that is meant: --yes", "a revocation cannot be taken back, and there is no terminal to ask whether it is meant")
	}
	r, err := a.OpenRepository(ctx, v, run.HolderKey)
	if err != nil {
		return err
	}
	defer r.Close()
	host, err := find(r, args[0])
	if err != nil {
		return err
	}
	if !v.Bool("yes") {
		a.Out.Screen.Print("Host " + host.Host.String() + ", " + term.Name(host.Name) + ", will never back up again. That cannot be taken back.")
		answer, err := a.Env.Ask(ctx, "Type its name to confirm: ")
		if err != nil {
			return err
		}
		if string(answer) != host.Name {
			return fail.Usagef("confirm", helpRevoke, "that is not its name, %s: nothing was confirmed", term.Name(host.Name))
		}
	}
	keep := func(s *repo.Snapshot) bool { return begin.IsZero() || s.Stored.Before(begin) }
	var done *admin.Revocation
	err = audited(ctx, r, audit.Event{Op: "host revoke", Object: host.Host.String()}, func() (err error) {
		done, err = admin.RevokeHost(ctx, r.Repo, host.Host, keep)
		return err
	})
	if err != nil {
		return err
	}
	if a.Out.JSON {
		line := struct {
			ID      string `json:"id"`
			Name    string `json:"name"`
			Raw     string `json:"name_raw,omitempty"`
			Before  bool   `json:"revoked_before"`
			Kept    int    `json:"kept"`
			Dropped int    `json:"dropped"`
			Epoch   uint32 `json:"write_epoch"`
		}{ID: host.Host.String(), Before: done.Before, Kept: done.Kept, Dropped: done.Dropped, Epoch: done.Epoch}
		line.Name, line.Raw = term.RawName(host.Name)
		return a.Out.Object("host_revoked", line)
	}
	if done.Before {
		a.Out.Say("host %s had been revoked before; the other hosts have a new write secret", term.Name(host.Name))
		return nil
	}
	a.Out.Say("host %s is revoked: %s of it stay valid, %s not", term.Name(host.Name), term.Plural(int64(done.Kept), "snapshot"), term.Count(int64(done.Dropped)))
	a.Out.Say("Take its access to the storage away too: it could still fill it, or delete.")
	return nil
}

// KeyRotate is key rotate, for a run of the program.
func KeyRotate(r *run.Run) *cli.Command {
	return &cli.Command{
		Name: "rotate", Usage: "make new keys for all that is stored from now on",
		Description: "Every passphrase opens the new keys too, and every host that was not revoked gets its part by itself: nobody needs to do anything. What was stored before stays " +
			"readable, with the keys of that time, which everybody keeps. Paper keys lack the new ones: export them again.\n\nIt may be interrupted and run again.",
		Flags:  []cli.Flag{run.KeyHintFlag(), run.KeyFileFlag()},
		Action: r.Action(func(ctx context.Context, v run.Values, _ []string) error { return rotate(ctx, r, v) }),
	}
}

func rotate(ctx context.Context, a *run.Run, v run.Values) error {
	r, err := a.OpenRepository(ctx, v, run.HolderKey)
	if err != nil {
		return err
	}
	defer r.Close()
	var epoch uint32
	err = audited(ctx, r, audit.Event{Op: "key rotate"}, func() (err error) {
		epoch, err = admin.RotateKeys(ctx, r.Repo)
		return err
	})
	if err != nil {
		return err
	}
	if a.Out.JSON {
		return a.Out.Object("keys_rotated", struct {
			Epoch uint32 `json:"epoch"`
		}{epoch})
	}
	a.Out.Say("new keys are in use, of epoch %d", epoch)
	a.Out.Say("Export paper keys again: those from before open only what was stored before.")
	return nil
}

// audited does something between an intent and a result in the log.
func audited(ctx context.Context, r *run.Repository, e audit.Event, do func() error) error {
	log, err := r.Journal(ctx)
	if err != nil {
		return err
	}
	e.Outcome = audit.Intent
	intent, err := log.Append(ctx, e)
	if err != nil {
		return err
	}
	err = do()
	result := run.OutcomeOf(err, 0)
	result.Op, result.Object, result.IntentSeq = e.Op, e.Object, intent
	if rerr := r.Record(ctx, result); err == nil {
		err = rerr
	}
	return err
}
