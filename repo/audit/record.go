package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/tlog"

	"packhold/crypt"
)

// Limits of records.
const (
	MaxText   = 1024     // bytes of a text; a longer one is cut and ends in an ellipsis
	MaxRecord = 96 << 10 // bytes of an encoded record: 15 texts whose every byte is escaped to six, and numbers

	// maxNumber is the greatest number of a record: above it JSON readers that use IEEE doubles lose digits (RFC 8785).
	maxNumber = 1<<53 - 1
	// maxSize is the greatest number of records of a log.
	maxSize = maxNumber
)

// timeLayout is RFC 3339 in UTC with all nine digits of nanoseconds, so that a time has one form.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// The outcomes of an Event.
const (
	Intent     = "intent"     // about to do something that destroys: appended before it
	Committing = "committing" // a backup is complete but for its snapshot record
	Success    = "success"
	Partial    = "partial" // done, with skipped items
	Failed     = "failed"
	Denied     = "denied"
)

// LogStart is the Op of the first record of every log. Where the log continues another one its Object is the name of that one's checkpoint, its
// Root that one's root in hexadecimal digits, and its Reason says why.
const LogStart = "log-start"

// Event is what a caller tells the log. Texts are UTF-8 of at most MaxText bytes; what is longer or invalid is stored cut or mended,
// because an entry must never fail for its wording. Numbers are at most 2^53-1.
type Event struct {
	Op         string        // the command: "backup", "restore", "forget"
	Outcome    string        // one of the constants
	Object     string        // what it was done to
	Job        string        // "" for that of Options
	Snapshot   string        // its ID
	Reason     string        // why, or the error
	Approver   string        // who allowed it
	Auth       string        // how the user proved who they are
	ParamsHash string        // hexadecimal SHA-256 of the parameters
	Bytes      uint64        // moved or freed
	Duration   time.Duration // stored in milliseconds
	IntentSeq  uint64        // for a result: what Append returned for the intent; 0 for none
}

// Record is one entry of a log.
type Record struct {
	Seq       uint64    // its place in the log, from 0
	Time      time.Time // by the host's clock
	Host      string    // name in the host's certificate
	Origin    string    // terminal or address the command came from
	User      string
	Tool      string // program and version
	IntentLog string // tag of the log that IntentSeq counts in; "" for this one
	Root      string // see LogStart
	Event

	Leaf tlog.Hash // RFC 6962 leaf hash of the stored record; not part of it
}

// recordForm is how a record is decoded. Its encoding is written by hand: RFC 8785 leaves no choice, encoding/json does.
type recordForm struct {
	Approver   string `json:"approver"`
	Auth       string `json:"auth"`
	Bytes      uint64 `json:"bytes"`
	Duration   uint64 `json:"duration_ms"`
	Host       string `json:"host"`
	IntentLog  string `json:"intent_log"`
	IntentSeq  uint64 `json:"intent_seq"`
	Job        string `json:"job"`
	Object     string `json:"object"`
	Op         string `json:"op"`
	Origin     string `json:"origin"`
	Outcome    string `json:"outcome"`
	ParamsHash string `json:"params_hash"`
	Reason     string `json:"reason"`
	Root       string `json:"root"`
	Seq        uint64 `json:"seq"`
	Snapshot   string `json:"snapshot"`
	Time       string `json:"time"`
	Tool       string `json:"tool_version"`
	User       string `json:"user"`
	V          uint64 `json:"v"`
}

// recordVersion is "v" of the records of format 1.
const recordVersion = 1

// encode returns the canonical JSON of r (RFC 8785): one line without its end. ParseRecord is its inverse for records whose texts fit.
func (r *Record) encode() []byte {
	b := []byte{'{'}
	key := func(name string) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, '"', ':')
	}
	text := func(name, s string) {
		if s != "" {
			key(name)
			b = appendText(b, fit(s))
		}
	}
	number := func(name string, v uint64) {
		key(name)
		b = fmt.Appendf(b, "%d", min(v, maxNumber))
	}
	some := func(name string, v uint64) {
		if v != 0 {
			number(name, v)
		}
	}
	text("approver", r.Approver)
	text("auth", r.Auth)
	some("bytes", r.Bytes)
	some("duration_ms", uint64(max(r.Duration, 0)/time.Millisecond))
	text("host", r.Host)
	text("intent_log", r.IntentLog)
	some("intent_seq", r.IntentSeq)
	text("job", r.Job)
	text("object", r.Object)
	text("op", r.Op)
	text("origin", r.Origin)
	text("outcome", r.Outcome)
	text("params_hash", r.ParamsHash)
	text("reason", r.Reason)
	text("root", r.Root)
	number("seq", r.Seq)
	text("snapshot", r.Snapshot)
	text("time", r.Time.UTC().Format(timeLayout))
	text("tool_version", r.Tool)
	text("user", r.User)
	number("v", recordVersion)
	return append(b, '}')
}

// fit returns s as valid UTF-8 of at most MaxText bytes.
func fit(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= MaxText {
		return s
	}
	const more = "…"
	n := MaxText - len(more)
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + more
}

// appendText appends the JSON string of valid UTF-8 as RFC 8785, section 3.2.2.2 writes it.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= 0x20:
			b = append(b, c)
		case c == '\b':
			b = append(b, `\b`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\f':
			b = append(b, `\f`...)
		case c == '\r':
			b = append(b, `\r`...)
		default:
			b = fmt.Appendf(b, `\u%04x`, c)
		}
	}
	return append(b, '"')
}

// ParseRecord decodes one stored record and computes its leaf hash. It refuses every form but the canonical one. The error for a record of a
// later version matches crypt.ErrFormat.
func ParseRecord(line []byte) (Record, error) {
	r, err := parseRecord(line)
	if err != nil {
		return Record{}, fmt.Errorf("parsing audit record: %w", err)
	}
	return r, nil
}

func parseRecord(line []byte) (r Record, err error) {
	if len(line) > MaxRecord {
		return r, fmt.Errorf("%d bytes, the limit is %d", len(line), MaxRecord)
	}
	var f recordForm
	if err := json.Unmarshal(line, &f); err != nil {
		// A later version may have given a key another type.
		var later struct{ V uint64 }
		if json.Unmarshal(line, &later) != nil {
			return r, err
		}
		f.V = later.V
	}
	if f.V > recordVersion {
		return r, fmt.Errorf("%w: version %d, this program knows %d", crypt.ErrFormat, f.V, recordVersion)
	}
	at, err := time.Parse(timeLayout, f.Time)
	if err != nil {
		return r, err
	}
	if f.Duration > uint64(1<<63-1)/uint64(time.Millisecond) {
		return r, errors.New("duration out of range")
	}
	r = Record{Seq: f.Seq, Time: at, Host: f.Host, Origin: f.Origin, User: f.User, Tool: f.Tool, IntentLog: f.IntentLog, Root: f.Root, Event: Event{
		Op: f.Op, Outcome: f.Outcome, Object: f.Object, Job: f.Job, Snapshot: f.Snapshot, Reason: f.Reason, Approver: f.Approver, Auth: f.Auth,
		ParamsHash: f.ParamsHash, Bytes: f.Bytes, Duration: time.Duration(f.Duration) * time.Millisecond, IntentSeq: f.IntentSeq}}
	// Unknown and double keys, other orders and other spellings all show here.
	if !bytes.Equal(r.encode(), line) {
		return Record{}, errors.New("not in canonical form")
	}
	r.Leaf = tlog.RecordHash(line)
	return r, nil
}

// joinLines is the body of a data tile: each record and a line feed.
func joinLines(lines [][]byte) []byte {
	n := 0
	for _, line := range lines {
		n += len(line) + 1
	}
	b := make([]byte, 0, n)
	for _, line := range lines {
		b = append(append(b, line...), '\n')
	}
	return b
}

// splitLines is the inverse of joinLines for a body of n records. It does not parse them.
func splitLines(body []byte, n int) ([][]byte, error) {
	lines := make([][]byte, 0, n)
	for len(body) > 0 {
		line, rest, ok := bytes.Cut(body, []byte{'\n'})
		if !ok || len(line) == 0 || len(line) > MaxRecord || len(lines) == n {
			return nil, errors.New("records are not one on a line")
		}
		lines, body = append(lines, line), rest
	}
	if len(lines) != n {
		return nil, fmt.Errorf("%d records, want %d", len(lines), n)
	}
	return lines, nil
}
