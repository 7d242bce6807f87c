package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Difference is what an Update changed.
type Difference struct {
	Added   int      // rows that the catalog did not have yet
	Removed int      // rows of what the repository has no longer
	Wrong   []string // rows that said something else than the repository, the first 100 of them
	Wrongs  int      // all of these
}

// maxWrong bounds the list of wrong rows.
const maxWrong = 100

// Update brings a catalog up to date in one transaction. It is used by one goroutine.
type Update struct {
	tx    *sql.Tx
	diff  Difference
	seen  map[string]map[string]bool // per table: ids that the repository has
	known map[string]*sql.Stmt
}

// Update begins one. End ends it.
func (c *Catalog) Update(ctx context.Context) (*Update, error) {
	tx, err := c.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("updating catalog: %w", err)
	}
	return &Update{tx: tx, seen: make(map[string]map[string]bool), known: make(map[string]*sql.Stmt)}, nil
}

// End commits the update where keep is true, and undoes it otherwise.
func (u *Update) End(keep bool) (Difference, error) {
	if !keep {
		return u.diff, u.tx.Rollback()
	}
	if err := u.tx.Commit(); err != nil {
		return u.diff, fmt.Errorf("updating catalog: %w", err)
	}
	return u.diff, nil
}

func (u *Update) statement(ctx context.Context, text string) (*sql.Stmt, error) {
	s := u.known[text]
	if s == nil {
		var err error
		if s, err = u.tx.PrepareContext(ctx, text); err != nil {
			return nil, err
		}
		u.known[text] = s
	}
	return s, nil
}

func (u *Update) exec(ctx context.Context, text string, values ...any) (int64, error) {
	s, err := u.statement(ctx, text)
	if err != nil {
		return 0, err
	}
	res, err := s.ExecContext(ctx, values...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// column is a name and a value.
type column struct {
	name  string
	value any
}

// put makes the row with the first column's value what columns say, and counts what it was before.
func (u *Update) put(ctx context.Context, table string, columns []column) error {
	id := columns[0].value.(string)
	if u.seen[table] == nil {
		u.seen[table] = make(map[string]bool)
	}
	u.seen[table][id] = true
	var names, same, marks []string
	var values []any
	for _, c := range columns {
		names, same, marks, values = append(names, c.name), append(same, c.name+" IS ?"), append(marks, "?"), append(values, c.value)
	}
	s, err := u.statement(ctx, "SELECT count(*) FROM "+table+" WHERE "+strings.Join(same, " AND "))
	if err != nil {
		return err
	}
	n := 0
	if err := s.QueryRowContext(ctx, values...).Scan(&n); err != nil || n == 1 {
		return err
	}
	before, err := u.exec(ctx, "DELETE FROM "+table+" WHERE id = ?", id)
	if err != nil {
		return err
	}
	if before > 0 {
		u.wrong(table + " " + id)
	} else {
		u.diff.Added++
	}
	_, err = u.exec(ctx, "INSERT INTO "+table+" ("+strings.Join(names, ", ")+") VALUES ("+strings.Join(marks, ", ")+")", values...)
	return err
}

func (u *Update) wrong(row string) {
	if u.diff.Wrongs++; len(u.diff.Wrong) < maxWrong {
		u.diff.Wrong = append(u.diff.Wrong, row)
	}
}

// Snapshot makes a snapshot's row what it should be.
func (u *Update) Snapshot(ctx context.Context, s Snapshot) error {
	err := u.put(ctx, "snapshots", []column{{"id", s.ID}, {"number", int64(s.Number)}, {"host", s.Host}, {"host_name", s.HostName}, {"type", s.Type},
		{"started", nanos(s.Start)}, {"ended", nanos(s.End)}, {"files", int64(s.Files)}, {"bytes", int64(s.Bytes)}, {"bytes_new", int64(s.New)},
		{"bytes_stored", int64(s.Stored)}, {"skipped", int64(s.Skipped)}, {"retention", s.Retention}, {"root", s.Root}, {"object", s.Object}})
	if err != nil {
		return fmt.Errorf("updating catalog: snapshot %s: %w", s.ID, err)
	}
	return nil
}

// Run makes the row of an entry of a log what it should be.
func (u *Update) Run(ctx context.Context, r Run) error {
	id := fmt.Sprintf("%s/%d", r.Log, r.Seq)
	err := u.put(ctx, "runs", []column{{"id", id}, {"log", r.Log}, {"seq", int64(r.Seq)}, {"time", nanos(r.Time)}, {"host_name", r.HostName}, {"op", r.Op},
		{"outcome", r.Outcome}, {"snapshot", r.Snapshot}, {"bytes", int64(r.Bytes)}, {"duration_ms", r.Duration.Milliseconds()}})
	if err != nil {
		return fmt.Errorf("updating catalog: run %s: %w", id, err)
	}
	return nil
}

// nanos holds the years 1678 to 2262; what is beyond is the nearest of them.
func nanos(t time.Time) int64 {
	switch {
	case t.Year() < 1679:
		return -1 << 63
	case t.Year() > 2261:
		return 1<<63 - 1
	}
	return t.UnixNano()
}

// Dir makes the rows of a directory, which is named by what is in it, what they should be. Entries are in the order of their names' bytes.
func (u *Update) Dir(ctx context.Context, id string, entries []Entry) error {
	if err := u.dir(ctx, id, entries); err != nil {
		return fmt.Errorf("updating catalog: directory %s: %w", id, err)
	}
	return nil
}

func (u *Update) dir(ctx context.Context, id string, entries []Entry) error {
	if u.seen["entries"] == nil {
		u.seen["entries"] = make(map[string]bool)
	}
	u.seen["entries"][id] = true
	s, err := u.statement(ctx, "SELECT name, kind, size, mtime, child FROM entries WHERE dir = ? ORDER BY name")
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(ctx, id)
	if err != nil {
		return err
	}
	defer rows.Close()
	type row struct {
		name              string
		kind, size, mtime int64
		child             string
	}
	var have, want []row
	for rows.Next() {
		var r row
		var name []byte
		if err := rows.Scan(&name, &r.kind, &r.size, &r.mtime, &r.child); err != nil {
			return err
		}
		r.name = string(name)
		have = append(have, r)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, e := range entries {
		want = append(want, row{e.Name, int64(e.Kind), int64(e.Size), nanos(e.MTime), e.Child})
	}
	if slices.Equal(have, want) {
		return nil
	}
	if len(have) > 0 {
		u.wrong("directory " + id)
		if _, err := u.exec(ctx, "DELETE FROM entries WHERE dir = ?", id); err != nil {
			return err
		}
	} else {
		u.diff.Added += len(want)
	}
	for _, r := range want {
		if _, err := u.exec(ctx, "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", id, []byte(r.name), r.kind, r.size, r.mtime, r.child); err != nil {
			return err
		}
	}
	return nil
}

// Prune removes the rows of a table ("snapshots", "runs", "packs", "entries") that this update was not told of.
func (u *Update) Prune(ctx context.Context, table string) error {
	if err := u.prune(ctx, table); err != nil {
		return fmt.Errorf("updating catalog: %s: %w", table, err)
	}
	return nil
}

func (u *Update) prune(ctx context.Context, table string) error {
	key := "id"
	if table == "entries" {
		key = "dir"
	}
	rows, err := u.tx.QueryContext(ctx, "SELECT DISTINCT "+key+" FROM "+table)
	if err != nil {
		return err
	}
	defer rows.Close()
	var gone []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		if !u.seen[table][id] {
			gone = append(gone, id)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, id := range gone {
		n, err := u.exec(ctx, "DELETE FROM "+table+" WHERE "+key+" = ?", id)
		if err != nil {
			return err
		}
		u.diff.Removed += int(n)
	}
	return nil
}

// Wrong returns how many rows said something else than the repository so far.
func (u *Update) Wrong() int { return u.diff.Wrongs }
