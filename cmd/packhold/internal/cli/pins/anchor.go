package pins

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo/audit"
)

// Command is anchor: pins to carry to a machine that has none.
func Command(a *run.Run) *cli.Command {
	keys := []cli.Flag{run.FromFlag(), run.KeyHintFlag(), run.KeyFileFlag()}
	return &cli.Command{
		Name: "anchor", Usage: "keep elsewhere what the repository holds, to notice a rollback on a new machine",
		Subcommands: []*cli.Command{
			{Name: "export", Usage: "print the newest snapshots and the ends of the audit logs", Flags: keys, Action: a.Action(func(ctx context.Context, v run.Values, _ []string) error {
				return export(ctx, a, v)
			})},
			{Name: "check", Usage: "compare the repository with what anchor export printed, and remember it on this machine", ArgsUsage: "FILE", Flags: keys,
				Action: a.Action(func(ctx context.Context, v run.Values, args []string) error { return check(ctx, a, v, args) })},
		},
	}
}

// anchor is what export prints. It holds no secret: hosts, numbers and hashes.
type anchor struct {
	file
	Logs []logHead `json:"logs"`
}

type logHead struct {
	Tag  string `json:"log"`
	Size uint64 `json:"size"`
	Root string `json:"root"`
}

// maxAnchor bounds the file, in bytes.
const maxAnchor = 64 << 20

func export(ctx context.Context, a *run.Run, v run.Values) error {
	a.UseReplica(v)
	r, err := a.OpenRepository(ctx, v, run.WriterKey)
	if err != nil {
		return err
	}
	defer r.Close()
	all, err := r.Snapshots(ctx)
	if err != nil {
		return err
	}
	// What is printed must not bless a rollback that this machine can tell.
	if err := errors.Join(Check(ctx, a, r, all), r.UnreadSnapshots()); err != nil {
		return err
	}
	e := run.OutcomeOf(nil, 0)
	e.Op = "anchor-export"
	if err := r.Note(ctx, e); err != nil {
		return err
	}
	logs, err := audit.Logs(ctx, r.Repo)
	if err != nil {
		return err
	}
	out := anchor{file: file{1, repository(r), heads(all)}, Logs: []logHead{}}
	for _, l := range logs {
		out.Logs = append(out.Logs, logHead{l.Tag, l.Size, hex.EncodeToString(l.Root[:])})
	}
	if a.Out.JSON {
		return a.Out.Object("anchor", out)
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	a.Out.Data(string(b) + "\n")
	return nil
}

func check(ctx context.Context, a *run.Run, v run.Values, args []string) error {
	if len(args) != 1 {
		return fail.Usagef("argument", "packhold anchor check FILE", "one file is checked, as packhold anchor export printed it")
	}
	want, err := parse(args[0])
	if err != nil {
		return err
	}
	a.UseReplica(v)
	r, err := a.OpenRepository(ctx, v, run.WriterKey)
	if err != nil {
		return err
	}
	defer r.Close()
	if want.Repository != repository(r) {
		return fail.Usagef("anchor", "packhold anchor check FILE, with the file of this repository", "%s is about another repository, %s", term.Name(args[0]), term.Name(want.Repository))
	}
	all, err := r.Snapshots(ctx)
	if err != nil {
		return err
	}
	const next = "find out who could write to the storage, and when; the repository is older than the file, or parts of it are hidden"
	gone, err := missing(ctx, r, want.Pins, all)
	if err != nil {
		return err
	}
	bad := verdict(a, r, gone, "the anchor", next)
	o := audit.VerifyOptions{}
	tags := make(map[string]bool)
	for _, l := range want.Logs {
		root, err := hex.DecodeString(l.Root)
		if err != nil || len(root) != 32 {
			return fail.Usagef("anchor", "packhold anchor export", "%s: log %s has no root", term.Name(args[0]), term.Name(l.Tag))
		}
		o.Known = append(o.Known, audit.Head{Tag: l.Tag, Size: l.Size, Root: [32]byte(root)})
		tags[l.Tag] = true
	}
	logs, err := audit.Verify(ctx, r.Repo, o)
	if err != nil {
		return err
	}
	if len(logs.Problems) > 0 {
		for _, p := range logs.Problems {
			a.Out.Warn(p.Object, p.Err.Error())
		}
		bad = errors.Join(bad, &fail.Error{Code: fail.Tampered, Word: "trust.logs", Problem: term.Plural(int64(len(logs.Problems)), "problem") + " of the audit logs", Where: a.Where,
			Effect: "What was done to the repository since is not known. Nothing was changed.", Next: next})
	}
	if bad == nil {
		bad = Check(ctx, a, r, all)
	}
	if bad == nil {
		a.Out.Say("the repository continues the anchor: %s and %s are there, and all that came after them", term.Plural(int64(len(want.Pins)), "snapshot"),
			term.Plural(int64(len(want.Logs)), "log"))
	}
	e := run.OutcomeOf(bad, 0)
	e.Op = "anchor-check"
	return errors.Join(bad, r.Note(ctx, e))
}

// parse reads an anchor, bare or as a JSON line.
func parse(path string) (*anchor, error) {
	f, err := os.Open(path)
	var b []byte
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(f, maxAnchor))
		f.Close()
	}
	out := new(anchor)
	if err == nil {
		err = json.Unmarshal(b, out)
	}
	if err == nil && (out.Version != 1 || len(out.Pins) > maxPins || len(out.Logs) > maxPins) {
		err = errors.New("it is no anchor of version 1")
	}
	for _, p := range out.Pins {
		if err == nil {
			_, err = p.ref()
		}
	}
	if err != nil {
		return nil, fail.Usagef("anchor", "packhold anchor export > FILE, on a machine that you trust", "%s cannot be used: %v", term.Name(path), err)
	}
	return out, nil
}
