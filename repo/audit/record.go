package audit

import (
	"bytes"
	"encoding/base64"
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
	MaxText   = 1024      // bytes of a text; a longer one is cut and ends in an ellipsis
	MaxRecord = 112 << 10 // bytes of an encoded record: 14 texts whose every byte is escaped to six, six of them in base64 besides, and numbers

	// privateBlock is what the private part is padded to a multiple of, in bytes, so that its length does not tell a user by the length of the name.
	privateBlock = 128

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

// LogStart is the Op of the first record of every log, which only the log itself makes. Where the log continues another one its Object is the name of
// that one's checkpoint, its Root that one's root in hexadecimal digits, and its Reason says why: these three are never sealed.
const LogStart = "log-start"

// Event is what a caller tells the log. Texts are UTF-8 of at most MaxText bytes; what is longer or invalid is stored cut or mended,
// because an entry must never fail for its wording. Numbers are at most 2^53-1.
//
// Object, Job, Reason and Approver are private: only a passphrase opens them. All hosts of the repository can read the rest.
type Event struct {
	Op         string        // the command: "backup", "restore", "forget"; never an argument of it
	Outcome    string        // one of the constants
	Object     string        // what it was done to
	Job        string        // "" for that of Options
	Snapshot   string        // its ID
	Reason     string        // why, or the error
	Approver   string        // who allowed it
	Auth       string        // how the user proved who they are: the kind, and no name
	ParamsHash string        // hexadecimal SHA-256 of the parameters, mixed with something secret where they could be guessed
	Bytes      uint64        // moved or freed
	Duration   time.Duration // stored in milliseconds
	IntentSeq  uint64        // for a result: what Append returned for the intent; 0 for none
}

// Record is one entry of a log. Origin and User are private as some texts of the Event are.
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

	Leaf   tlog.Hash // RFC 6962 leaf hash of the stored record; not part of it
	Closed bool      // there are private texts, and they are missing here

	private   string // the private texts as they are stored: sealed to the read key of readEpoch
	readEpoch uint32
}

// recordForm is how a record is decoded. Its encoding is written by hand: RFC 8785 leaves no choice, encoding/json does.
type recordForm struct {
	Auth       string `json:"auth"`
	Bytes      uint64 `json:"bytes"`
	Duration   uint64 `json:"duration_ms"`
	Host       string `json:"host"`
	IntentLog  string `json:"intent_log"`
	IntentSeq  uint64 `json:"intent_seq"`
	Object     string `json:"object"`
	Op         string `json:"op"`
	Outcome    string `json:"outcome"`
	ParamsHash string `json:"params_hash"`
	Private    string `json:"private"`
	ReadEpoch  uint32 `json:"read_epoch"`
	Reason     string `json:"reason"`
	Root       string `json:"root"`
	Seq        uint64 `json:"seq"`
	Snapshot   string `json:"snapshot"`
	Time       string `json:"time"`
	Tool       string `json:"tool_version"`
	V          uint64 `json:"v"`
}

// privateForm is recordForm for the private texts.
type privateForm struct {
	Approver string `json:"approver"`
	Job      string `json:"job"`
	Object   string `json:"object"`
	Origin   string `json:"origin"`
	Reason   string `json:"reason"`
	User     string `json:"user"`
}

// recordVersion is "v" of the records of format 1.
const recordVersion = 1

// jsonObject is a JSON object that is being written, key by key in the order of RFC 8785.
type jsonObject []byte

func (o *jsonObject) key(name string) {
	c := byte(',')
	if len(*o) == 0 {
		c = '{'
	}
	*o = append(append(append(*o, c, '"'), name...), '"', ':')
}

// text writes a text that is not empty.
func (o *jsonObject) text(name, s string) {
	if s != "" {
		o.key(name)
		*o = appendText(*o, fit(s))
	}
}

func (o *jsonObject) number(name string, v uint64) {
	o.key(name)
	*o = fmt.Appendf(*o, "%d", min(v, maxNumber))
}

// some writes a number that is not 0.
func (o *jsonObject) some(name string, v uint64) {
	if v != 0 {
		o.number(name, v)
	}
}

// encode returns the canonical JSON of r (RFC 8785) with its private part as seal left it: one line without its end. ParseRecord is its inverse for
// records whose texts fit.
func (r *Record) encode() []byte {
	var o jsonObject
	o.text("auth", r.Auth)
	o.some("bytes", r.Bytes)
	o.some("duration_ms", uint64(max(r.Duration, 0)/time.Millisecond))
	o.text("host", r.Host)
	o.text("intent_log", r.IntentLog)
	o.some("intent_seq", r.IntentSeq)
	start := r.Seq == 0 // what a log's first record says of logs is public: Verify needs it
	if start {
		o.text("object", r.Object)
	}
	o.text("op", r.Op)
	o.text("outcome", r.Outcome)
	o.text("params_hash", r.ParamsHash)
	if r.private != "" {
		o.key("private")
		o = append(base64.StdEncoding.AppendEncode(append(o, '"'), []byte(r.private)), '"')
		o.number("read_epoch", uint64(r.readEpoch))
	}
	if start {
		o.text("reason", r.Reason)
		o.text("root", r.Root)
	}
	o.number("seq", r.Seq)
	o.text("snapshot", r.Snapshot)
	o.text("time", r.Time.UTC().Format(timeLayout))
	o.text("tool_version", r.Tool)
	o.number("v", recordVersion)
	return append(o, '}')
}

// privateText returns the private part of r before it is sealed: canonical JSON and padding. It is empty if there is nothing to hide.
func (r *Record) privateText() []byte {
	var o jsonObject
	o.text("approver", r.Approver)
	o.text("job", r.Job)
	start := r.Seq == 0
	if !start {
		o.text("object", r.Object)
	}
	o.text("origin", r.Origin)
	if !start {
		o.text("reason", r.Reason)
	}
	o.text("user", r.User)
	if len(o) == 0 {
		return nil
	}
	o = append(o, '}')
	return append(o, bytes.Repeat([]byte{' '}, -len(o)&(privateBlock-1))...)
}

// privateAbout says where a private part belongs: it opens at no other place.
func privateAbout(tag string, seq uint64) string { return fmt.Sprintf("audit/%s/%d", tag, seq) }

// seal seals the private texts of r, which is to be stored in the log called tag.
func (r *Record) seal(repo crypt.RepoID, tag string, key *crypt.ReadPublic) error {
	text := r.privateText()
	if text == nil {
		return nil
	}
	b, err := key.SealText(repo, privateAbout(tag, r.Seq), text)
	if err != nil {
		return err
	}
	r.private, r.readEpoch = string(b), key.Epoch
	return nil
}

// open is the inverse of seal for a parsed record. On errors r stays Closed: crypt.ErrOpen is matched where the private part is not this record's.
func (r *Record) open(repo crypt.RepoID, tag string, key *crypt.ReadPrivate) error {
	text, err := key.OpenText(repo, privateAbout(tag, r.Seq), []byte(r.private))
	if err != nil {
		return err
	}
	var f privateForm
	if err := json.Unmarshal(text, &f); err != nil {
		return err
	}
	o := *r
	o.Approver, o.Job, o.Origin, o.User, o.Closed = f.Approver, f.Job, f.Origin, f.User, false
	if o.Seq != 0 {
		o.Object, o.Reason = f.Object, f.Reason
	}
	if !bytes.Equal(o.privateText(), text) {
		return errors.New("not in canonical form")
	}
	*r = o
	return nil
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

// ParseRecord decodes one stored record and computes its leaf hash. The private texts stay closed. It refuses every form but the canonical one. The error for a record of a
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
	sealed, err := base64.StdEncoding.DecodeString(f.Private)
	if err != nil {
		return r, fmt.Errorf("private part: %w", err)
	}
	r = Record{Seq: f.Seq, Time: at, Host: f.Host, Tool: f.Tool, IntentLog: f.IntentLog, Root: f.Root, Closed: f.Private != "", private: string(sealed),
		readEpoch: f.ReadEpoch, Event: Event{Op: f.Op, Outcome: f.Outcome, Object: f.Object, Snapshot: f.Snapshot, Reason: f.Reason, Auth: f.Auth,
			ParamsHash: f.ParamsHash, Bytes: f.Bytes, Duration: time.Duration(f.Duration) * time.Millisecond, IntentSeq: f.IntentSeq}}
	// Unknown and double keys, other orders and other spellings all show here, and clear texts where they must be sealed.
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
