package audit

import (
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// csvHeader: the first four columns are those that an auditor's sheet has.
const csvHeader = "TIMESTAMP,OPERATION,USER,STATUS,SEQ,HOST,SOURCE,JOB,OBJECT,SNAPSHOT,BYTES,DURATION_MS,REASON,APPROVER,LEAF_HASH,CLOSED"

// WriteCSV writes records as RFC 4180 text in UTF-8 with a header line. Times are UTC; STATUS is SUCCESS, PARTIAL, FAILED, DENIED or, for what was only
// announced, STARTED; CLOSED is YES where USER, SOURCE, JOB, OBJECT, REASON and APPROVER are sealed and so empty. Cells that a spreadsheet would run as a formula get an apostrophe before them, control characters are shown as U+FFFD.
// It stops at the first error of records.
func WriteCSV(w io.Writer, records iter.Seq2[Record, error]) error {
	if err := writeCSV(w, records); err != nil {
		return fmt.Errorf("writing audit records: %w", err)
	}
	return nil
}

func writeCSV(w io.Writer, records iter.Seq2[Record, error]) error {
	c := csv.NewWriter(w)
	c.UseCRLF = true
	if err := c.Write(strings.Split(csvHeader, ",")); err != nil {
		return err
	}
	for r, err := range records {
		if err != nil {
			c.Flush()
			return err
		}
		row := []string{r.Time.UTC().Format(timeLayout), strings.ToUpper(r.Op), r.User, status(r.Outcome), strconv.FormatUint(r.Seq, 10), r.Host, r.Origin, r.Job,
			r.Object, r.Snapshot, strconv.FormatUint(r.Bytes, 10), strconv.FormatInt(r.Duration.Milliseconds(), 10), r.Reason, r.Approver,
			hex.EncodeToString(r.Leaf[:]), ""}
		if r.Closed {
			row[len(row)-1] = "YES"
		}
		for i := range row {
			row[i] = cell(row[i])
		}
		if err := c.Write(row); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

func status(outcome string) string {
	switch outcome {
	case Intent, Committing:
		return "STARTED"
	}
	return strings.ToUpper(outcome)
}

// cell makes s harmless. Spreadsheets take these first characters, and their full-width forms, for the beginning of a formula.
func cell(s string) string {
	first, _ := utf8.DecodeRuneInString(strings.TrimLeft(s, " \u00a0"))
	quote := s != "" && (strings.ContainsRune("=+-@＝＋－＠", first) || unicode.IsControl(first))
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return utf8.RuneError
		}
		return c
	}, s)
	if quote {
		return "'" + s
	}
	return s
}
