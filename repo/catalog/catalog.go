// Package catalog keeps a local database of what a repository holds.
//
// It is derived: everything in it can be made again from the repository, and nothing that a command answers rests on it alone. So whatever is wrong
// with its file costs time at most. Names of files are in it only where somebody with a reader's key asked for them.
package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite", without cgo
)

// ErrUnusable is matched by errors about a file that is no catalog of this repository, or a broken one. Remove makes room for a new one.
var ErrUnusable = errors.New("the catalog cannot be used")

// Version is that of the schema. A catalog of another version is unusable, and made again.
const Version = 1

// application marks the file as ours: "phld".
const application = 0x70686c64

// schema: times are nanoseconds since 1970 UTC, ids hexadecimal. Tables are STRICT, so that a value of a wrong type is refused.
const schema = `
CREATE TABLE about (id TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE snapshots (id TEXT PRIMARY KEY, number INTEGER NOT NULL, host TEXT NOT NULL, host_name TEXT NOT NULL, type TEXT NOT NULL, started INTEGER NOT NULL,
	ended INTEGER NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL, bytes_new INTEGER NOT NULL, bytes_stored INTEGER NOT NULL, skipped INTEGER NOT NULL,
	retention TEXT NOT NULL, root TEXT NOT NULL, object TEXT NOT NULL) STRICT;
CREATE TABLE runs (id TEXT PRIMARY KEY, log TEXT NOT NULL, seq INTEGER NOT NULL, time INTEGER NOT NULL, host_name TEXT NOT NULL, op TEXT NOT NULL, outcome TEXT NOT NULL,
	snapshot TEXT NOT NULL, bytes INTEGER NOT NULL, duration_ms INTEGER NOT NULL) STRICT;
CREATE TABLE packs (id TEXT PRIMARY KEY, size INTEGER NOT NULL, scrubbed INTEGER NOT NULL, opened INTEGER NOT NULL, good INTEGER NOT NULL) STRICT;
CREATE TABLE entries (dir TEXT NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, child TEXT NOT NULL,
	PRIMARY KEY (dir, name)) STRICT, WITHOUT ROWID;
CREATE VIEW versions AS WITH RECURSIVE below (snapshot, path, kind, size, mtime, child) AS (
	SELECT s.id, CAST('/' || CAST(e.name AS TEXT) AS TEXT), e.kind, e.size, e.mtime, e.child FROM snapshots s JOIN entries e ON e.dir = s.root
	UNION ALL SELECT b.snapshot, b.path || '/' || CAST(e.name AS TEXT), e.kind, e.size, e.mtime, e.child FROM below b JOIN entries e ON e.dir = b.child)
	SELECT snapshot, path, kind, size, mtime FROM below;
`

// Catalog is an open database. Several processes may have one open. Its methods may be called concurrently.
type Catalog struct {
	db   *sql.DB
	path string
}

// Open opens the catalog of a repository, and makes an empty one where there is no file. Errors match ErrUnusable where the file is not a catalog of this
// repository.
func Open(ctx context.Context, path, repository string) (*Catalog, error) {
	c, err := open(ctx, path, repository)
	if err != nil {
		return nil, fmt.Errorf("opening catalog: %w", err)
	}
	return c, nil
}

func open(ctx context.Context, path, repository string) (_ *Catalog, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// The file is made here, since the database would make it readable for all. Anything but a file could hang whoever opens it.
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is no file", ErrUnusable, path)
	}
	slashed := filepath.ToSlash(path)
	if !strings.HasPrefix(slashed, "/") { // C:/...
		slashed = "/" + slashed
	}
	u := url.URL{Scheme: "file", Path: slashed, RawQuery: "_pragma=busy_timeout(2000)&_pragma=trusted_schema(0)&_pragma=cell_size_check(1)&_txlock=immediate"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	c := &Catalog{db: db, path: path}
	if err := c.begin(ctx, repository); err != nil {
		db.Close()
		if ctx.Err() == nil && !busy(err) {
			err = fmt.Errorf("%w: %w", ErrUnusable, err)
		}
		return nil, err
	}
	return c, nil
}

// busy reports whether another process kept the database for longer than we wait.
func busy(err error) bool {
	var coded interface{ Code() int }
	return errors.As(err, &coded) && coded.Code()&0xff == 5 // SQLITE_BUSY
}

// begin makes the schema in an empty database, and refuses one that is not ours.
func (c *Catalog) begin(ctx context.Context, repository string) error {
	tx, err := c.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var tables, id, version int
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	if tables == 0 {
		if _, err := tx.ExecContext(ctx, schema+fmt.Sprintf("PRAGMA application_id=%d; PRAGMA user_version=%d;", application, Version)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO about VALUES ('repository', ?)", repository); err != nil {
			return err
		}
		return tx.Commit()
	}
	if err := tx.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return err
	}
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if id != application || version != Version {
		return fmt.Errorf("it is no catalog of version %d", Version)
	}
	have := ""
	if err := tx.QueryRowContext(ctx, "SELECT value FROM about WHERE id = 'repository'").Scan(&have); err != nil {
		return err
	}
	if have != repository {
		return fmt.Errorf("it is the catalog of repository %q", have)
	}
	return nil
}

// Close lets the file go.
func (c *Catalog) Close() error { return c.db.Close() }

// Remove removes the file at path and what the database keeps beside it. One that is not there is no error; a folder in its place is, unless it is empty.
func Remove(path string) error {
	for _, suffix := range []string{"-journal", "-wal", "-shm", ""} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing catalog: %w", err)
		}
	}
	return nil
}

// Check lets the database look at every page, index and constraint of its file. Damage matches ErrUnusable.
func (c *Catalog) Check(ctx context.Context) error {
	rows, err := c.db.QueryContext(ctx, "PRAGMA integrity_check(10)")
	if err != nil {
		return fmt.Errorf("checking catalog: %w: %w", ErrUnusable, err)
	}
	defer rows.Close()
	var found []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return fmt.Errorf("checking catalog: %w: %w", ErrUnusable, err)
		}
		found = append(found, strings.Fields(line)...)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("checking catalog: %w: %w", ErrUnusable, err)
	}
	if text := strings.Join(found, " "); text != "ok" {
		return fmt.Errorf("checking catalog: %w: %s", ErrUnusable, text)
	}
	return nil
}

// Snapshot is one row of a snapshot.
type Snapshot struct {
	ID, Host, HostName, Type           string
	Number                             uint64
	Start, End                         time.Time
	Files, Bytes, New, Stored, Skipped uint64
	Retention, Root, Object            string
}

// Run is one entry of an audit log.
type Run struct {
	Log                             string // its tag
	Seq                             uint64
	Time                            time.Time
	HostName, Op, Outcome, Snapshot string
	Bytes                           uint64
	Duration                        time.Duration
}

// Entry is one name in a directory.
type Entry struct {
	Name  string
	Kind  int
	Size  uint64
	MTime time.Time
	Child string // id of the directory below, "" of what is none
}

// Counts are rows.
type Counts struct{ Snapshots, Runs, Packs, Entries int }

// Count counts the rows.
func (c *Catalog) Count(ctx context.Context) (n Counts, err error) {
	err = c.db.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM snapshots), (SELECT count(*) FROM runs), (SELECT count(*) FROM packs), (SELECT count(*) FROM entries)").
		Scan(&n.Snapshots, &n.Runs, &n.Packs, &n.Entries)
	if err != nil {
		return n, fmt.Errorf("counting rows of catalog: %w: %w", ErrUnusable, err)
	}
	return n, nil
}
