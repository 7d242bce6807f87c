package term

import (
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Table is rows of cells under a header.
type Table struct {
	Header []string
	// Right lists the columns, from 0, whose cells stand at the right: numbers and sizes.
	Right []int
	Rows  [][]string
}

// Write lays the table out with two spaces between columns. Cells are cleaned, so a foreign name cannot break a row.
func (t *Table) Write(w io.Writer) error {
	right := make(map[int]bool, len(t.Right))
	for _, c := range t.Right {
		right[c] = true
	}
	width := make([]int, len(t.Header))
	rows := append([][]string{t.Header}, t.Rows...)
	for _, row := range rows {
		for c := range width {
			if c < len(row) {
				width[c] = max(width[c], Width(Clean(row[c])))
			}
		}
	}
	var laid strings.Builder
	tw := tabwriter.NewWriter(&laid, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for c := range width {
			cell := ""
			if c < len(row) {
				cell = Clean(row[c])
			}
			// tabwriter aligns all columns alike, so numbers are padded before.
			if right[c] {
				cell = strings.Repeat(" ", width[c]-Width(cell)) + cell
			}
			if c > 0 {
				cell = "\t" + cell
			}
			if _, err := io.WriteString(tw, cell); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(tw, "\n"); err != nil {
			return err
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(laid.String()) {
		if _, err := io.WriteString(w, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// Snapshot is what the list of snapshots shows of one. Empty texts and negative numbers are not known to the holder of
// this key, and shown as "-".
type Snapshot struct {
	Number  int64
	ID      string
	Host    string
	Type    string
	Sources []string
	Time    time.Time
	Size    int64 // bytes of the whole tree
	New     int64 // bytes this snapshot added to the repository
}

// SnapshotTable lays snapshots out for people, times in zone.
func SnapshotTable(list []Snapshot, zone *time.Location) *Table {
	t := &Table{Header: []string{"NUMBER", "ID", "HOST", "TYPE", "TIME", "SIZE", "NEW", "SOURCES"}, Right: []int{0, 5, 6}}
	text := func(s string) string {
		if s == "" {
			return "-"
		}
		return Name(s)
	}
	size := func(n int64) string {
		if n < 0 {
			return "-"
		}
		return Bytes(n)
	}
	for _, s := range list {
		sources := "-"
		if len(s.Sources) > 0 {
			sources = Names(s.Sources)
		}
		number := "-"
		if s.Number >= 0 {
			number = Count(s.Number)
		}
		t.Rows = append(t.Rows, []string{
			number, text(s.ID), text(s.Host), text(s.Type), Time(s.Time, zone), size(s.Size), size(s.New), sources,
		})
	}
	return t
}
