package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Check is what is known of one pack: when every byte was compared with its checksum, and when every blob was opened.
type Check struct {
	Name             string
	Size             int64
	Scrubbed, Opened time.Time // zero: never, as far as this machine knows
	Good             bool
}

// Checked notes that packs were checked. A zero time leaves what is known.
func (u *Update) Checked(ctx context.Context, c Check) error {
	if u.seen["packs"] == nil {
		u.seen["packs"] = make(map[string]bool)
	}
	u.seen["packs"][c.Name] = true
	_, err := u.exec(ctx, `INSERT INTO packs VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO UPDATE SET size = ?2, scrubbed = max(scrubbed, ?3), opened = max(opened, ?4),
		good = CASE WHEN max(?3, ?4) >= max(scrubbed, opened) THEN ?5 ELSE good END`, c.Name, c.Size, since(c.Scrubbed), since(c.Opened), c.Good)
	if err != nil {
		return fmt.Errorf("updating catalog: pack %s: %w", c.Name, err)
	}
	return nil
}

// Keep says that a pack is still there, for Prune.
func (u *Update) Keep(name string) {
	if u.seen["packs"] == nil {
		u.seen["packs"] = make(map[string]bool)
	}
	u.seen["packs"][name] = true
}

// since is 0 for never.
func since(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return nanos(t)
}

func at(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// Ledger returns what is known of all packs, by name.
func (c *Catalog) Ledger(ctx context.Context) (map[string]Check, error) {
	rows, err := c.db.QueryContext(ctx, "SELECT id, size, scrubbed, opened, good FROM packs")
	if err != nil {
		return nil, fmt.Errorf("reading catalog: %w: %w", ErrUnusable, err)
	}
	defer rows.Close()
	all := make(map[string]Check)
	for rows.Next() {
		var k Check
		var scrubbed, opened int64
		if err := rows.Scan(&k.Name, &k.Size, &scrubbed, &opened, &k.Good); err != nil {
			return nil, fmt.Errorf("reading catalog: %w: %w", ErrUnusable, err)
		}
		k.Scrubbed, k.Opened = at(scrubbed), at(opened)
		all[k.Name] = k
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading catalog: %w: %w", ErrUnusable, err)
	}
	return all, nil
}

// Unfinished returns when a check that was not finished began, by its name; zero where there is none.
func (c *Catalog) Unfinished(ctx context.Context, what string) (time.Time, error) {
	text := ""
	err := c.db.QueryRowContext(ctx, "SELECT value FROM about WHERE id = ?", "unfinished "+what).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	if err == nil {
		var n int64
		if n, err = strconv.ParseInt(text, 10, 64); err == nil {
			return at(n), nil
		}
	}
	return time.Time{}, fmt.Errorf("reading catalog: %w: %w", ErrUnusable, err)
}

// SetUnfinished notes when a check began that is not finished; zero: it is.
func (c *Catalog) SetUnfinished(ctx context.Context, what string, began time.Time) error {
	var err error
	if began.IsZero() {
		_, err = c.db.ExecContext(ctx, "DELETE FROM about WHERE id = ?", "unfinished "+what)
	} else {
		_, err = c.db.ExecContext(ctx, "INSERT OR REPLACE INTO about VALUES (?, ?)", "unfinished "+what, strconv.FormatInt(nanos(began), 10))
	}
	if err != nil {
		return fmt.Errorf("updating catalog: %w", err)
	}
	return nil
}
