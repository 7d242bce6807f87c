package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"github.com/urfave/cli/v2"

	"packhold/backends"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/paper"
	"packhold/cmd/packhold/internal/cli/rekeying"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo/admin"
	"packhold/repo/audit"
)

func (a *app) keyCommand() *cli.Command {
	flags := func(more ...cli.Flag) []cli.Flag { return append(more, run.KeyHintFlag(), run.KeyFileFlag()) }
	label := &cli.StringFlag{Name: "label", Usage: "`TEXT` that says whose passphrase this is"}
	return &cli.Command{
		Name: "key", Usage: "manage the passphrases of the repository",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list the key slots", Flags: flags(), Action: a.Action(a.keyList)},
			{Name: "add", Usage: "add a passphrase (PACKHOLD_NEW_PASSPHRASE or a question)", Flags: flags(label), Action: a.Action(a.keyAdd)},
			{Name: "passwd", Usage: "change the passphrase (PACKHOLD_NEW_PASSPHRASE or a question)", Flags: flags(), Action: a.Action(a.keyPasswd)},
			{Name: "remove", Usage: "remove a key slot; the last one stays", ArgsUsage: "ID", Flags: flags(), Action: a.Action(a.keyRemove)},
			{Name: "export", Usage: "print the key, sealed under the passphrase, for paper", Flags: flags(
				&cli.StringFlag{Name: "output", Usage: "write it to `FILE` instead", TakesFile: true}), Action: a.Action(a.keyExport)},
			rekeying.KeyRotate(a.Run),
		},
	}
}

func (a *app) keyList(ctx context.Context, v run.Values, _ []string) error {
	r, err := a.OpenRepository(ctx, v, run.WriterKey)
	if err != nil {
		return err
	}
	defer r.Close()
	keys, err := r.ListKeys(ctx)
	if err != nil {
		return err
	}
	t := &term.Table{Header: []string{"ID", "ITERATIONS", "IN USE", "LABEL"}, Right: []int{1}}
	for _, k := range keys {
		if a.Out.JSON {
			line := struct {
				ID         string `json:"id"`
				Iterations uint64 `json:"iterations"`
				Current    bool   `json:"current"`
				Label      string `json:"label"`
				Raw        string `json:"label_raw,omitempty"`
			}{ID: k.ID.String(), Iterations: k.Iterations, Current: k.Current}
			line.Label, line.Raw = term.RawName(k.Label)
			if err := a.Out.Object("key", line); err != nil {
				return err
			}
			continue
		}
		use := ""
		if k.Current {
			use = "now"
		}
		t.Rows = append(t.Rows, []string{k.ID.String(), strconv.FormatUint(k.Iterations, 10), use, term.Name(k.Label)})
	}
	if a.Out.JSON {
		return nil
	}
	return a.Out.Table(t)
}

// changeKeys runs a change of the key slots between an intent and a result in the audit log.
func (a *app) changeKeys(ctx context.Context, v run.Values, op string, change func(r *run.Repository) (object string, err error)) error {
	r, err := a.OpenRepository(ctx, v, run.ReaderKey)
	if err != nil {
		return err
	}
	defer r.Close()
	log, err := r.Journal(ctx)
	if err != nil {
		return err
	}
	intent, err := log.Append(ctx, audit.Event{Op: op, Outcome: audit.Intent})
	if err != nil {
		return err
	}
	object, err := change(r)
	e := run.OutcomeOf(err, 0)
	e.Op, e.Object, e.IntentSeq = op, object, intent
	if rerr := r.Record(ctx, e); err == nil {
		err = rerr
	}
	if err != nil {
		return err
	}
	if a.Out.JSON {
		return a.Out.Object("key_changed", struct {
			ID string `json:"id"`
		}{object})
	}
	return nil
}

func (a *app) keyAdd(ctx context.Context, v run.Values, _ []string) error {
	return a.changeKeys(ctx, v, "key add", func(r *run.Repository) (string, error) {
		p, err := a.NewPassphrase(ctx, "PACKHOLD_NEW_PASSPHRASE")
		if err != nil {
			return "", err
		}
		defer p.Zero()
		label := v.String("label")
		if label == "" {
			label = run.UserName() + "@" + run.HostName()
		}
		id, err := admin.AddKey(ctx, r.Repo, p.Bytes(), label)
		if err != nil {
			return "", err
		}
		a.Out.Say("key slot %v added", id)
		return id.String(), nil
	})
}

func (a *app) keyPasswd(ctx context.Context, v run.Values, _ []string) error {
	return a.changeKeys(ctx, v, "key passwd", func(r *run.Repository) (string, error) {
		p, err := a.NewPassphrase(ctx, "PACKHOLD_NEW_PASSPHRASE")
		if err != nil {
			return "", err
		}
		defer p.Zero()
		old := r.Keys().Slot
		id, err := admin.ChangePassphrase(ctx, r.Repo, p.Bytes())
		if errors.Is(err, backends.ErrKept) {
			return id.String(), &fail.Error{Code: fail.Denied, Word: "access.immutable", Where: a.Where, Cause: err,
				Problem: "the new passphrase works, and so does the old one: " + err.Error(), Effect: "The key slot of the new one is " + id.String() + ".",
				Next: "after that date, with the new passphrase: packhold key remove " + old.String()}
		}
		if err != nil {
			return "", err
		}
		a.Out.Say("the passphrase is changed: its key slot is %v", id)
		a.Out.Say("Paper keys exported before still open with the passphrase they were exported under.")
		return id.String(), nil
	})
}

func (a *app) keyRemove(ctx context.Context, v run.Values, args []string) error {
	if len(args) != 1 {
		return fail.Usagef("argument", "packhold key list", "name one key slot by the beginning of its ID")
	}
	return a.changeKeys(ctx, v, "key remove", func(r *run.Repository) (string, error) {
		id, err := admin.RemoveKey(ctx, r.Repo, args[0])
		if err != nil {
			return id.String(), err
		}
		a.Out.Say("key slot %v removed", id)
		return id.String(), nil
	})
}

func (a *app) keyExport(ctx context.Context, v run.Values, _ []string) error {
	r, err := a.OpenRepository(ctx, v, run.ReaderKey)
	if err != nil {
		return err
	}
	defer r.Close()
	b, err := admin.ExportKey(r.Repo, r.Passphrase.Bytes())
	if err != nil {
		return err
	}
	if err := r.Record(ctx, audit.Event{Op: "key export", Outcome: audit.Success}); err != nil {
		return err
	}
	id := r.Config().ID
	title := "packhold key of repository " + hex.EncodeToString(id[:]) + ", to be opened with its passphrase; root " + hex.EncodeToString(r.Keys().Root)
	name := v.String("output")
	if name == "" {
		return paper.Write(a.Out, title, b)
	}
	if name, err = filepath.Abs(name); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = paper.Write(f, title, b); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		a.Out.Say("written to %s; it opens with the passphrase: packhold --repo ... restore --key-file FILE", term.Name(name))
	}
	return err
}
