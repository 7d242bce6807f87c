package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"packhold/crypt"
	"packhold/repo"
)

// maxState caps the state file, in bytes, and maxPending the tiles it names.
const (
	maxState   = 64 << 10
	maxPending = 16
)

// stateForm is the file that remembers a host's log. It holds no record and no secret.
type stateForm struct {
	Version    int      `json:"v"`
	Repo       string   `json:"repository"`
	Host       string   `json:"host"`
	Checkpoint string   `json:"checkpoint"` // its text; of size 0 before the first entry
	Reason     string   `json:"reason,omitempty"`
	TileBytes  int64    `json:"tile_bytes"` // size of the object with the last records, and its SHA-256
	Tile       string   `json:"tile"`
	Pending    []string `json:"pending,omitempty"` // SHA-256 of tiles that may be stored beyond the checkpoint
}

// stateBytes encodes p.
func stateBytes(p *position) ([]byte, error) {
	f := stateForm{Version: 1, Repo: hex.EncodeToString(p.head.repo[:]), Host: p.head.host.String(), Checkpoint: string(p.head.encode()),
		Reason: p.reason, TileBytes: p.tileBytes, Tile: p.tile.String()}
	for _, id := range p.pending {
		f.Pending = append(f.Pending, id.String())
	}
	return json.MarshalIndent(f, "", "  ")
}

// parseState is the inverse of stateBytes. The records of the incomplete tile are not in it.
func parseState(b []byte) (*position, error) {
	var f stateForm
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	if f.Version != 1 || len(f.Pending) > maxPending || f.TileBytes < 0 || f.TileBytes > crypt.MaxObject {
		return nil, errors.New("not a state file of this version")
	}
	c, err := parseCheckpoint([]byte(f.Checkpoint))
	if err != nil {
		return nil, err
	}
	p := &position{head: *c, reason: f.Reason, tileBytes: f.TileBytes}
	if hex.EncodeToString(c.repo[:]) != f.Repo || c.host.String() != f.Host {
		return nil, errors.New("its parts are of different logs")
	}
	if p.tile, err = crypt.ParseID(f.Tile); err != nil {
		return nil, err
	}
	for _, s := range f.Pending {
		id, err := crypt.ParseID(s)
		if err != nil {
			return nil, err
		}
		p.pending = append(p.pending, id)
	}
	return p, nil
}

// readState reads the state file: nil where there is none. One of another repository or host is an error matching repo.ErrForeign,
// a broken one an error matching repo.ErrDamaged.
func (l *Log) readState() (*position, error) {
	if l.o.State == "" {
		return nil, nil
	}
	f, err := os.Open(l.o.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, maxState+1)
	n := 0
	for n < len(b) {
		m, err := f.Read(b[n:])
		n += m
		if err != nil {
			break
		}
	}
	p, err := parseState(b[:n])
	if err != nil {
		return nil, &repo.Error{Op: "reading audit state", Object: l.o.State, Err: fmt.Errorf("%w: %w", repo.ErrDamaged, err)}
	}
	if p.head.repo != l.r.Config().ID || p.head.host != l.host {
		return nil, &repo.Error{Op: "reading audit state", Object: l.o.State, Err: repo.ErrForeign}
	}
	return p, nil
}

// saveState replaces the state file. A failure is a problem, not an error: the entry is safe in the repository, and what is lost is
// that a later rollback shows at once.
func (l *Log) saveState() {
	if l.o.State == "" {
		return
	}
	b, err := stateBytes(&l.at)
	if err == nil {
		err = replaceFile(l.o.State, b)
	}
	if err != nil {
		l.problem(l.o.State, fmt.Errorf("writing audit state: %w", err))
	}
}

// replaceFile writes a file that only its owner may read, whole or not at all.
func replaceFile(name string, b []byte) error {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".audit-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// addPending notes a tile that is about to be stored. A process that dies afterwards, or another one of this machine, knows it again.
func (p *position) addPending(id crypt.ID) {
	if slices.Contains(p.pending, id) {
		return
	}
	if len(p.pending) == maxPending {
		p.pending = p.pending[1:]
	}
	p.pending = append(p.pending, id)
}

// keepTile writes the object with the last records beside the state file, so that it need not be read again. What it costs to lose it is a request.
func (l *Log) keepTile(object []byte) {
	if l.o.State != "" {
		_ = os.WriteFile(l.o.State+".tile", object, 0o600)
	}
}

// keptTile returns that object: the bytes have the hash that the state names, and the storage listed the object with this size just now. nil: read it.
// A log that was rolled back lacks the name.
func (l *Log) keptTile(p *position, name string) []byte {
	if size, ok := l.r.Listed(name); l.o.State == "" || !ok || size != p.tileBytes {
		return nil
	}
	f, err := os.Open(l.o.State + ".tile")
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, p.tileBytes+1))
	if err != nil || crypt.Sum(b) != p.tile {
		return nil
	}
	return b
}
