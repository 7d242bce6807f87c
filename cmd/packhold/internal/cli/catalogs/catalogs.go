// Package catalogs is the command db-verify, with what other commands tell the catalog.
package catalogs

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/listing"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo"
	"packhold/repo/audit"
	"packhold/repo/catalog"
	"packhold/repo/format"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// Command is db-verify.
func Command(a *run.Run) *cli.Command {
	return &cli.Command{
		Name: "db-verify", Usage: "check this machine's catalog, and compare it with the repository",
		Description: "The catalog is a database of snapshots, runs and checks of packs in the state folder. Everything in it can be made again from the repository, and no " +
			"command's result rests on it. What it does not know yet is added; where it says something else than the repository nothing is changed without --rebuild.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "rebuild", Usage: "make the catalog anew from the repository; when packs were checked without keys is forgotten"},
			&cli.BoolFlag{Name: "files", Usage: "also keep the names of all files in it, readable on this machine; takes the passphrase"},
			run.KeyHintFlag(), run.KeyFileFlag(),
		},
		Action: a.Action(func(ctx context.Context, v run.Values, _ []string) error { return dbVerify(ctx, a, v) }),
	}
}

// summary is the outcome in JSON.
type summary struct {
	Snapshots int      `json:"snapshots"`
	Runs      int      `json:"runs"`
	Packs     int      `json:"packs"`
	Entries   int      `json:"entries"`
	Added     int      `json:"added"`
	Removed   int      `json:"removed"`
	Wrong     int      `json:"wrong"`
	Rows      []string `json:"wrong_rows,omitempty"`
	Rebuilt   bool     `json:"rebuilt"`
}

func dbVerify(ctx context.Context, a *run.Run, v run.Values) error {
	need := run.WriterKey
	if v.Bool("files") {
		need = run.ReaderKey
	}
	r, err := a.OpenRepository(ctx, v, need)
	if err != nil {
		return err
	}
	defer r.Close()
	s := summary{Rebuilt: v.Bool("rebuild")}
	if s.Rebuilt {
		if err := catalog.Remove(r.CatalogPath()); err != nil {
			return &fail.Error{Code: fail.Usage, Word: "catalog.place", Problem: err.Error(), Where: term.Name(r.CatalogPath()), Effect: "Nothing was changed.",
				Next: "remove what is there, then: packhold db-verify", Cause: err}
		}
	} else if _, err := os.Lstat(r.CatalogPath()); errors.Is(err, fs.ErrNotExist) {
		a.Out.Say("there was no catalog on this machine: it is made now")
	}
	verdict, err := verify(ctx, a, r, v.Bool("files"), &s)
	if errors.Is(err, catalog.ErrUnusable) {
		verdict = &fail.Error{Code: fail.Repairable, Word: "catalog.damaged", Problem: err.Error(), Where: term.Name(r.CatalogPath()),
			Effect: "The repository is not concerned: no backup and no restore needs the catalog. Nothing was changed.", Next: "packhold db-verify --rebuild", Cause: err}
	} else if err != nil {
		return err
	}
	unread := r.UnreadSnapshots()
	e := run.OutcomeOf(errors.Join(verdict, unread), 0)
	e.Op = "db-verify"
	return errors.Join(verdict, unread, r.Note(ctx, e))
}

// verify opens, checks and fills the catalog. The first error is what was found, the second that it could not be looked at.
func verify(ctx context.Context, a *run.Run, r *run.Repository, files bool, s *summary) (verdict, err error) {
	c, err := catalog.Open(ctx, r.CatalogPath(), repository(r))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.Check(ctx); err != nil {
		return nil, err
	}
	n, err := c.Count(ctx)
	if err != nil {
		return nil, err
	}
	u, err := c.Update(ctx)
	if err != nil {
		return nil, err
	}
	f := filler{a: a, r: r, u: u}
	err = f.fill(ctx, files || n.Entries > 0 && r.CanRead())
	d, ended := u.End(err == nil && f.u.Wrong() == 0)
	if err = errors.Join(err, ended); err != nil {
		return nil, err
	}
	if n, err = c.Count(ctx); err != nil {
		return nil, err
	}
	s.Snapshots, s.Runs, s.Packs, s.Entries, s.Added, s.Removed, s.Wrong, s.Rows = n.Snapshots, n.Runs, n.Packs, n.Entries, d.Added, d.Removed, d.Wrongs, d.Wrong
	if d.Wrongs > 0 {
		s.Added, s.Removed = 0, 0
		verdict = &fail.Error{Code: fail.Repairable, Word: "catalog.differs", Problem: term.Plural(int64(d.Wrongs), "row") + " of the catalog differ from the repository",
			Where: term.Name(r.CatalogPath()), Effect: "The repository is not concerned: no backup and no restore needs the catalog. Nothing was changed.", Next: "packhold db-verify --rebuild"}
	}
	if a.Out.JSON {
		return verdict, a.Out.Object("summary", s)
	}
	for _, row := range d.Wrong {
		a.Out.Warn("catalog", row+" differs from the repository")
	}
	a.Out.Say("catalog: %s, %s, checks of %s, %s", term.Plural(int64(n.Snapshots), "snapshot"), term.Plural(int64(n.Runs), "run"), term.Plural(int64(n.Packs), "pack"),
		term.Plural(int64(n.Entries), "file name"))
	a.Out.Say("added: %s; removed: %s", term.Plural(int64(s.Added), "row"), term.Plural(int64(s.Removed), "row"))
	return verdict, nil
}

func repository(r *run.Repository) string {
	id := r.Config().ID
	return hex.EncodeToString(id[:])
}

// filler tells an update all that the repository says.
type filler struct {
	a *run.Run
	r *run.Repository
	u *catalog.Update
}

func (f *filler) fill(ctx context.Context, files bool) error {
	snaps, err := f.r.Snapshots(ctx)
	if err != nil {
		return err
	}
	for _, s := range snaps {
		if err := f.u.Snapshot(ctx, rowOf(f.r, s)); err != nil {
			return err
		}
	}
	if err := f.u.Prune(ctx, "snapshots"); err != nil {
		return err
	}
	if err := f.runs(ctx); err != nil {
		return err
	}
	if err := f.checks(ctx); err != nil {
		return err
	}
	if !files {
		return nil
	}
	return f.files(ctx, snaps)
}

// damaged tells of what keeps the catalog from being complete: that is verify's business. Anything else is returned.
func (f *filler) damaged(object string, err error) error {
	if errors.Is(err, repo.ErrTampered) || errors.Is(err, repo.ErrDamaged) || errors.Is(err, snapshot.ErrMalformed) || errors.Is(err, fs.ErrNotExist) || stored.Unreadable(err) {
		f.a.Out.Warn(object, err.Error()+"; see packhold verify")
		return nil
	}
	return err
}

// runs reads the audit logs.
func (f *filler) runs(ctx context.Context) error {
	logs, err := audit.Logs(ctx, f.r.Repo)
	if err != nil {
		return f.damaged("audit/", err)
	}
	whole := true
	for _, l := range logs {
		for rec, err := range audit.Records(ctx, f.r.Repo, l.Tag) {
			if err != nil {
				if err := f.damaged("audit/"+l.Tag, err); err != nil {
					return err
				}
				whole = false
				break
			}
			if err := f.u.Run(ctx, runOf(l.Tag, rec)); err != nil {
				return err
			}
		}
	}
	if !whole {
		return nil
	}
	return f.u.Prune(ctx, "runs")
}

// checks takes over what readers verified, and forgets packs that are gone.
func (f *filler) checks(ctx context.Context) error {
	sizes := make(map[string]int64)
	for _, prefix := range []string{"packs/", "meta/"} {
		infos, _, err := stored.List(ctx, f.r.Store, prefix)
		if err != nil {
			return err
		}
		for _, i := range infos {
			sizes[i.Name] = i.Size
			f.u.Keep(i.Name)
		}
	}
	var last error
	err := f.r.EachVerified(ctx, func(v *format.Verified) {
		for _, p := range v.Packs {
			name := format.PackName(p.Name, p.Tree, p.Incarnation)
			if size, ok := sizes[name]; ok && last == nil {
				t := time.Unix(v.Time, 0)
				last = f.u.Checked(ctx, catalog.Check{Name: name, Size: size, Scrubbed: t, Opened: t, Good: true})
			}
		}
	})
	if err = errors.Join(err, last); err != nil {
		return err
	}
	return f.u.Prune(ctx, "packs")
}

// files walks the trees of all snapshots; directories that several share once.
func (f *filler) files(ctx context.Context, snaps []*repo.Snapshot) error {
	if err := f.r.LoadIndex(ctx); err != nil {
		return err
	}
	d, err := f.r.NewReader()
	if err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, s := range snaps {
		if seen[s.Root.String()] {
			continue
		}
		if err := f.tree(ctx, d, s, seen); err != nil {
			return err
		}
	}
	return f.u.Prune(ctx, "entries")
}

// open is a directory whose entries are being read.
type open struct {
	id      string
	entries []catalog.Entry
	bad     bool // some are missing: better none of it is kept than a part that looks whole
}

func (f *filler) tree(ctx context.Context, d *repo.Reader, s *repo.Snapshot, seen map[string]bool) error {
	root := s.Root.String()
	seen[root] = true
	stack := []*open{{id: root}} // the root has no entry of its own
	finish := func(depth int) error {
		for len(stack) > depth {
			o := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if o.bad {
				continue
			}
			if err := f.u.Dir(ctx, o.id, o.entries); err != nil {
				return err
			}
		}
		return nil
	}
	for e, err := range snapshot.Walk(ctx, d, s.Root, snapshot.WalkOptions{}) {
		if err != nil {
			if err := f.damaged(s.Name, err); err != nil {
				return err
			}
			for _, o := range stack { // the one it is about among them
				o.bad = true
			}
			continue
		}
		if err := finish(e.Depth); err != nil {
			return err
		}
		n := e.Node
		child := ""
		if n.Type == snapshot.Dir {
			child = n.Subtree.String()
		}
		o := stack[e.Depth-1]
		o.entries = append(o.entries, catalog.Entry{Name: strings.Clone(n.Name), Kind: int(n.Type), Size: n.Size, MTime: time.Unix(n.MTime.Sec, int64(n.MTime.Nsec)), Child: child})
		if n.Type != snapshot.Dir {
			continue
		}
		if seen[child] {
			e.SkipDir()
			continue
		}
		seen[child] = true
		stack = append(stack, &open{id: child})
	}
	return finish(0)
}

func rowOf(r *run.Repository, s *repo.Snapshot) catalog.Snapshot {
	return catalog.Snapshot{ID: s.ID().String(), Number: s.Number, Host: hex.EncodeToString(s.Host[:]), HostName: r.HostName(s.Host), Type: listing.TypeName(s.Type),
		Start: s.StartTime(), End: time.Unix(s.End.Sec, int64(s.End.Nsec)), Files: s.Stats.Files, Bytes: s.Stats.BytesTotal, New: s.Stats.BytesNew,
		Stored: s.Stats.BytesStored, Skipped: s.Stats.Skipped, Retention: s.Retention, Root: s.Root.String(), Object: s.Object.String()}
}

func runOf(tag string, rec audit.Record) catalog.Run {
	return catalog.Run{Log: tag, Seq: rec.Seq, Time: rec.Time, HostName: rec.Host, Op: rec.Op, Outcome: rec.Outcome, Snapshot: rec.Snapshot,
		Bytes: rec.Bytes, Duration: rec.Duration}
}

// Committed tells the catalog of a snapshot that was just stored. That it cannot take it changes nothing: db-verify finds out.
func Committed(ctx context.Context, a *run.Run, r *run.Repository, s *repo.Snapshot) {
	if err := committed(ctx, r, s); err != nil {
		a.Out.Detail("%s: %v; packhold db-verify looks after it", term.Name(r.CatalogPath()), err)
	}
}

func committed(ctx context.Context, r *run.Repository, s *repo.Snapshot) error {
	c, err := catalog.Open(ctx, r.CatalogPath(), repository(r))
	if err != nil {
		return err
	}
	defer c.Close()
	u, err := c.Update(ctx)
	if err != nil {
		return err
	}
	err = u.Snapshot(ctx, rowOf(r, s))
	if l, lerr := r.Journal(ctx); err == nil && lerr == nil {
		if rec, ok := l.Last(); ok {
			err = u.Run(ctx, runOf(l.Tag(), rec))
		}
	}
	_, ended := u.End(err == nil)
	return errors.Join(err, ended)
}
