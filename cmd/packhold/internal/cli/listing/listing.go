// Package listing is snapshots as the command line picks and shows them.
package listing

import (
	"context"
	"encoding/hex"
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

// Flags are the filters.
func Flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "host", Usage: "only those of the host `NAME`"},
		&cli.StringFlag{Name: "type", Usage: "only those of `TYPE` full, incremental or differential"},
		&cli.StringSliceFlag{Name: "tag", Usage: "only those with the `TAG`; may be repeated"},
		&cli.StringFlag{Name: "source", Usage: "only those with the source `PATH`", TakesFile: true},
		&cli.StringFlag{Name: "job", Usage: "only those of the job `NAME`"},
	}
}

// Check refuses a filter that can match nothing. next is what to run instead.
func Check(v run.Values, next string) error {
	if t := v.String("type"); t != "" && !slices.Contains([]string{"full", "incremental", "differential"}, t) {
		return fail.Usagef("type", next, "%s is none of full, incremental, differential", term.Name(t))
	}
	return nil
}

// Row is a snapshot and what this process can tell of it.
type Row struct {
	*repo.Snapshot
	Body *snapshot.Body // nil: closed
	Host string         // name of the host that signed it
}

// RowOf makes the row of a snapshot.
func RowOf(r *run.Repository, s *repo.Snapshot) Row {
	return Row{s, r.BodyOf(s), r.HostName(s.Host)}
}

// Rows lists the snapshots that the filters let through, in the order of their numbers.
func Rows(ctx context.Context, r *run.Repository, v run.Values) ([]Row, error) {
	all, err := r.RecentSnapshots(ctx)
	if err != nil {
		return nil, err
	}
	return Pick(r, all, v), nil
}

// Pick makes the rows of those snapshots of all that the filters let through.
func Pick(r *run.Repository, all []*repo.Snapshot, v run.Values) (rows []Row) {
	for _, s := range all {
		if row := RowOf(r, s); row.wanted(v) {
			rows = append(rows, row)
		}
	}
	return rows
}

// TypeName is the word for a type of backup.
func TypeName(t snapshot.BackupType) string {
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

// wanted applies the filters. A snapshot whose body is closed has no known tags, sources and job.
func (l Row) wanted(v run.Values) bool {
	if h := v.String("host"); h != "" && h != l.Host {
		return false
	}
	if t := v.String("type"); t != "" && t != TypeName(l.Type) {
		return false
	}
	b := l.Body
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

// Table is the row of a table.
func (l Row) Table() term.Snapshot {
	t := term.Snapshot{Number: int64(l.Number), ID: l.ID().String(), Host: l.Host, Type: TypeName(l.Type), Time: l.StartTime(),
		Size: int64(l.Stats.BytesTotal), New: int64(l.Stats.BytesStored)}
	if l.Body != nil {
		t.Sources = l.Body.Sources
	}
	return t
}

// JSON is a snapshot as scripts see it.
type JSON struct {
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
	Retention string    `json:"retention,omitempty"`
	Origin    string    `json:"origin,omitempty"` // the ID of what it is a copy of
	Closed    bool      `json:"closed"`           // the fields below are for readers only
	Sources   []string  `json:"sources,omitempty"`
	Raw       []string  `json:"sources_raw,omitempty"`
	User      string    `json:"user,omitempty"`
	Job       string    `json:"job,omitempty"`
	Tags      []string  `json:"tags,omitempty"`
	Program   string    `json:"program,omitempty"`
}

// JSON is the row as scripts see it.
func (l Row) JSON() JSON {
	j := JSON{Number: l.Number, ID: l.ID().String(), Host: l.Host, HostID: hex.EncodeToString(l.Snapshot.Host[:]), Type: TypeName(l.Type), Time: l.StartTime().UTC(),
		End: time.Unix(l.End.Sec, int64(l.End.Nsec)).UTC(), Files: l.Stats.Files, Size: l.Stats.BytesTotal, New: l.Stats.BytesNew,
		Stored: l.Stats.BytesStored, Skipped: l.Stats.Skipped, Validated: l.Validation != snapshot.NotValidated, Closed: l.Body == nil}
	j.Retention = l.Retention
	if l.Origin != nil {
		j.Origin = hex.EncodeToString(l.Origin.Session[:])
	}
	if l.Parent != [16]byte{} {
		j.Parent = hex.EncodeToString(l.Parent[:])
	}
	if b := l.Body; b != nil {
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
