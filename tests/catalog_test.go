package tests

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // to damage a catalog with
)

// catalogFile finds the catalog of a home folder.
func catalogFile(t *testing.T, h home) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(h.state(), "*", "catalog-*.db"))
	if err != nil || len(found) != 1 {
		t.Fatalf("catalogs %v, %v", found, err)
	}
	return found[0]
}

// Whatever becomes of the catalog, every command says and does what it did with a good one; only db-verify tells, and mends it.
func TestCatalogIsDisposable(t *testing.T) {
	h := newHome(t)
	source := filepath.Join(t.TempDir(), "source")
	if err := os.MkdirAll(source, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeRandom(filepath.Join(source, "file"), 1, 100_000); err != nil {
		t.Fatal(err)
	}
	want := mustDescribe(t, source)
	h.must(t, "backup", "--source", source)
	good, err := os.ReadFile(catalogFile(t, h))
	if err != nil {
		t.Fatal(err)
	}
	other := newHome(t, "--parity", "3")
	other.must(t, "backup", "--source", source)
	foreign, err := os.ReadFile(catalogFile(t, other))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(good, foreign) {
		t.Fatal("two repositories have one catalog")
	}
	path := catalogFile(t, h)
	file := func(b []byte) func() error { return func() error { return os.WriteFile(path, b, 0o600) } }
	flipped := func(step int) []byte {
		b := bytes.Clone(good)
		for i := step / 2; i < len(b); i += step {
			b[i] ^= 0xff
		}
		return b
	}
	snapshots := 1
	for _, c := range []struct {
		name string
		do   func() error
		code int // of db-verify afterwards
	}{
		{"gone", func() error { return nil }, 0},
		{"empty", file(nil), 0}, // the database takes an empty file for a new one
		{"cut", file(good[:len(good)/2]), 20},
		{"cut in its head", file(good[:50]), 20},
		{"of another repository", file(foreign), 20},
		{"text", file([]byte("what is this?")), 20},
		{"zeros", file(make([]byte, len(good))), 20},
		{"flipped all over", file(flipped(97)), 20},
		{"flipped head", file(append(append(bytes.Clone(good[:16]), flipped(1)[16:100]...), good[100:]...)), 20},
		{"a folder", func() error { return os.Mkdir(path, 0o700) }, 20},
		{"unreadable link", func() error { return os.Symlink("nowhere", path) }, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := c.do(); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"list"}, {"verify"}, {"verify", "--checksums"}, {"verify", "--read-data"}, {"stats"}, {"backup", "--source", source}, {"prune"},
				{"verify", "--checksums", "--subset", "50%"}} {
				if r := h.run(t, args...); r.code != 0 || bytes.Contains([]byte(r.stderr), []byte("warning")) {
					t.Errorf("%v: exit %d\n%s", args, r.code, r.stderr)
				}
			}
			snapshots++
			if ids := h.snapshotIDs(t); len(ids) != snapshots {
				t.Errorf("%d snapshots are listed, not %d", len(ids), snapshots)
			}
			h.restoreAndCompare(t, "latest", want)
			if r := h.run(t, "db-verify"); r.code != c.code {
				t.Errorf("db-verify: exit %d, not %d\n%s", r.code, c.code, r.stderr)
			}
			h.must(t, "db-verify", "--rebuild")
			h.must(t, "db-verify")
			lines, err := parseLines(h.must(t, "db-verify", "--json"))
			if err != nil || fmt.Sprint(lines[len(lines)-1]["snapshots"]) != fmt.Sprint(snapshots) {
				t.Errorf("the catalog has %v, %v", lines, err)
			}
		})
	}
}

// A check that was interrupted is gone on with: what it had read is passed over, unless it was bad.
func TestVerifyResume(t *testing.T) {
	h := newHome(t)
	for i := range 3 {
		source := t.TempDir()
		if err := writeRandom(filepath.Join(source, "file"), uint64(i), 50_000); err != nil {
			t.Fatal(err)
		}
		h.must(t, "backup", "--source", source)
	}
	for _, kind := range []string{"checksums", "read-data"} {
		h.must(t, "verify", "--"+kind)
		// The catalog as a run leaves it that was killed: six packs, one of them not read since it began, one of them bad.
		change(t, h, "INSERT INTO about SELECT 'unfinished "+kind+"', CAST(min(scrubbed) AS TEXT) FROM packs")
		change(t, h, "UPDATE packs SET scrubbed = scrubbed - 1000000000000, opened = opened - 1000000000000 WHERE id IN (SELECT id FROM packs ORDER BY id LIMIT 1)")
		change(t, h, "UPDATE packs SET good = 0 WHERE id IN (SELECT id FROM packs ORDER BY id DESC LIMIT 1)")
		for _, want := range [][2]string{{"2", "4"}, {"6", "<nil>"}} { // the second run finds nothing unfinished
			lines, err := parseLines(h.must(t, "verify", "--"+kind, "--resume", "--json"))
			if err != nil {
				t.Fatal(err)
			}
			sum := lines[len(lines)-1]
			if got := [2]string{fmt.Sprint(sum["packs_read"]), fmt.Sprint(sum["packs_read_earlier"])}; got != want {
				t.Errorf("%s: read now and earlier %v, want %v", kind, got, want)
			}
		}
	}
}

// change runs a statement on the catalog.
func change(t *testing.T, h home, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", catalogFile(t, h))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec(statement)
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// A whole database that tells something else than the repository is told apart from one that is behind.
func TestCatalogThatLies(t *testing.T) {
	h := newHome(t)
	source := t.TempDir()
	h.must(t, "backup", "--source", source)
	h.must(t, "db-verify")
	for _, c := range []struct {
		sql  string
		code int
	}{
		{"UPDATE snapshots SET bytes = bytes + 1", 20},
		{"UPDATE runs SET outcome = 'failed' WHERE op = 'backup'", 20},
		{"DELETE FROM snapshots", 0},
		{"INSERT INTO packs VALUES ('packs/00/none', 1, 2, 3, 1)", 0},
		{"DROP TABLE snapshots", 20},
		{"PRAGMA user_version = 77", 20},
	} {
		change(t, h, c.sql)
		if r := h.run(t, "db-verify"); r.code != c.code {
			t.Errorf("%s: exit %d, not %d\n%s", c.sql, r.code, c.code, r.stderr)
		}
		if r := h.run(t, "db-verify"); r.code != c.code { // looking changes nothing
			t.Errorf("%s: a second look: exit %d, not %d\n%s", c.sql, r.code, c.code, r.stderr)
		}
		h.must(t, "db-verify", "--rebuild")
		h.must(t, "db-verify")
	}
}
