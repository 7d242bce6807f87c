package cli

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/repo"
	"packhold/repo/snapshot"
)

func (a *app) listCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Aliases: []string{"snapshots"}, Usage: "list the snapshots",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "host", Usage: "only those of the host `NAME`"},
			&cli.StringFlag{Name: "type", Usage: "only those of `TYPE` full, incremental or differential"},
			&cli.StringSliceFlag{Name: "tag", Usage: "only those with the `TAG`; may be repeated"},
			&cli.StringFlag{Name: "source", Usage: "only those with the source `PATH`", TakesFile: true},
			&cli.StringFlag{Name: "job", Usage: "only those of the job `NAME`"},
			&cli.IntFlag{Name: "last", Usage: "only the last `N`"},
			&cli.BoolFlag{Name: "unlock", Usage: "take the passphrase, to show what other hosts backed up too"},
			run.FromFlag(), run.KeyHintFlag(), run.KeyFileFlag(),
		},
		Action: a.Action(a.list),
	}
}

func typeName(t snapshot.BackupType) string {
	switch t {
	case snapshot.Full:
		return "full"
	case snapshot.Incremental:
		return "incremental"
	case snapshot.Differential:
		return "differential"
	}
	return ""
}

func (a *app) list(ctx context.Context, v run.Values, _ []string) error {
	need := run.WriterKey
	if v.Bool("unlock") {
		need = run.ReaderKey
	}
	if t := v.String("type"); t != "" && !slices.Contains([]string{"full", "incremental", "differential"}, t) {
		return fail.Usagef("type", "packhold help list", "%s is none of full, incremental, differential", term.Name(t))
	}
	a.UseReplica(v)
	r, err := a.OpenRepository(ctx, v, need)
	if err != nil {
		return err
	}
	defer r.Close()
	all, err := r.Snapshots(ctx)
	if err != nil {
		return err
	}
	var rows []listed
	for _, s := range all {
		if row := (listed{s, r.BodyOf(s), r.HostName(s.Host)}); row.wanted(v) {
			rows = append(rows, row)
		}
	}
	if n := v.Int("last"); n > 0 && len(rows) > n {
		rows = rows[len(rows)-n:]
	}
	if err := a.rows(rows); err != nil {
		return err
	}
	unread := r.UnreadSnapshots()
	e := run.OutcomeOf(unread, 0)
	e.Op = "list"
	return errors.Join(unread, r.Note(ctx, e))
}

// rows prints the list.
func (a *app) rows(rows []listed) error {
	if a.Out.JSON {
		for _, row := range rows {
			if err := a.Out.Object("snapshot", row.json()); err != nil {
				return err
			}
		}
		return nil
	}
	if len(rows) == 0 {
		a.Out.Say("there are no snapshots")
		return nil
	}
	table := make([]term.Snapshot, len(rows))
	for i, row := range rows {
		table[i] = row.table()
	}
	return a.Out.Table(term.SnapshotTable(table, a.Env.Zone))
}

// listed is a line of the list.
type listed struct {
	*repo.Snapshot
	body *snapshot.Body // nil: closed
	host string
}

// wanted applies the filters. A snapshot whose body is closed has no known tags, sources and job.
func (l listed) wanted(v run.Values) bool {
	if h := v.String("host"); h != "" && h != l.host {
		return false
	}
	if t := v.String("type"); t != "" && t != typeName(l.Type) {
		return false
	}
	b := l.body
	if b == nil {
		b = new(snapshot.Body)
	}
	for _, t := range v.StringSlice("tag") {
		if !slices.Contains(b.Tags, t) {
			return false
		}
	}
	if s := v.String("source"); s != "" {
		if abs, err := filepath.Abs(s); err != nil || !slices.Contains(b.Sources, abs) {
			return false
		}
	}
	return v.String("job") == "" || v.String("job") == b.Job
}

func (l listed) table() term.Snapshot {
	t := term.Snapshot{Number: int64(l.Number), ID: l.ID().String(), Host: l.host, Type: typeName(l.Type), Time: l.StartTime(),
		Size: int64(l.Stats.BytesTotal), New: int64(l.Stats.BytesStored)}
	if l.body != nil {
		t.Sources = l.body.Sources
	}
	return t
}

// listedJSON is a snapshot as scripts see it.
type listedJSON struct {
	Number    uint64    `json:"number"`
	ID        string    `json:"id"`
	Host      string    `json:"host"`
	HostID    string    `json:"host_id"`
	Type      string    `json:"type"`
	Time      time.Time `json:"time"`
	End       time.Time `json:"end"`
	Parent    string    `json:"parent,omitempty"`
	Files     uint64    `json:"files"`
	Size      uint64    `json:"bytes"`
	New       uint64    `json:"bytes_new"`
	Stored    uint64    `json:"bytes_stored"`
	Skipped   uint64    `json:"skipped"`
	Validated bool      `json:"validated"`
	Closed    bool      `json:"closed"` // the fields below are for readers only
	Sources   []string  `json:"sources,omitempty"`
	Raw       []string  `json:"sources_raw,omitempty"`
	User      string    `json:"user,omitempty"`
	Job       string    `json:"job,omitempty"`
	Tags      []string  `json:"tags,omitempty"`
	Program   string    `json:"program,omitempty"`
}

func (l listed) json() listedJSON {
	j := listedJSON{Number: l.Number, ID: l.ID().String(), Host: l.host, HostID: repoHost(l.Host), Type: typeName(l.Type), Time: l.StartTime().UTC(),
		End: time.Unix(l.End.Sec, int64(l.End.Nsec)).UTC(), Files: l.Stats.Files, Size: l.Stats.BytesTotal, New: l.Stats.BytesNew,
		Stored: l.Stats.BytesStored, Skipped: l.Stats.Skipped, Validated: l.Validation == snapshot.ReadBack, Closed: l.body == nil}
	if l.Parent != [16]byte{} {
		j.Parent = repoHost(l.Parent)
	}
	if b := l.body; b != nil {
		j.User, j.Job, j.Tags, j.Program = b.User, b.Job, b.Tags, b.Program
		for _, s := range b.Sources {
			text, raw := term.RawName(s)
			j.Sources = append(j.Sources, text)
			if raw != "" {
				j.Raw = append(j.Raw, raw)
			}
		}
	}
	return j
}
