// Package audit keeps a tamper-evident log of what was done to a repository.
//
// Every host and machine has a log of its own, an RFC 6962 Merkle tree, so that no host waits for another. An append is two exclusive creates:
//
//	audit/<tag>/tile/data/<n>.p/<w>   the records of the incomplete tile, the new one last
//	audit/<tag>/checkpoint/<size>     the root with it, signed: the entry is in the log
//
// A complete tile drops the .p/<w>, and its leaf hashes are stored as tile/8/0/<n> too, 256 of those as a tile of the next level, and so on: with
// them a record that is lost does not hide whether the rest is whole. Everything is sealed under the control key and signed by the host.
//
// Every host has the control key. So users, origins, jobs, objects and reasons, which may hold names of files, are sealed once more, record by record,
// to the public read key: a host writes them and cannot read them back. Hashes are taken over the sealed form, and prove a log without any key.
//
// Life of an entry: Append seals and encodes it as one line of canonical JSON, puts it behind the lines that the incomplete tile holds, stores the tile,
// and then the checkpoint. Snapshots carry size and root of their host's log, so removing one of the two shows in the other. A host that
// finds its next name taken by bytes that are not its own (a cloned machine, a restored state, a squatter) starts a new log, whose first entry
// names the head of the old one; nothing is ever overwritten.
package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
	"packhold/repo/writeonce"
)

// Options shape a Log. The zero value is good, but remembers nothing.
type Options struct {
	// State is a file that remembers the head of this host's log, so that it is found without a listing, and a log that was
	// rolled back or removed is noticed. It belongs to one repository and host id: name it by both. "": find the log by a listing,
	// and believe what is there.
	State string

	// Restart starts a new log where State's was rolled back or is gone. It names the lost head, and Verify goes on reporting it.
	Restart bool

	// Copied says that logs which stand here may be copies, as at a replica: where State remembers none, a log is begun and none continued. What is appended
	// to a copy would contradict what its home appends.
	Copied bool

	Now    func() time.Time // nil: time.Now
	User   string           // of all entries, as are the next three
	Origin string           // terminal or address
	Job    string           // where the Event names none
	Tool   string           // program and version
}

// Log is this host's audit log. Its methods may be called concurrently. Several processes of a machine may share its State: they append to one
// log, or at worst to a few.
type Log struct {
	r    *repo.Repo
	o    Options
	host crypt.HostID

	mu       sync.Mutex // guards what follows
	at       position
	intents  map[uint64]string // tag of the log that an open intent is in
	keep     bool              // the storage refused a delete: no more are tried
	problems []repo.Problem
}

var _ repo.Journal = (*Log)(nil)

// position is where the next record goes.
type position struct {
	head      checkpoint // size 0: nothing is stored
	lines     [][]byte   // the records of the incomplete tile
	reason    string     // why the log continues another one; for its first record
	tileBytes int64      // size of the object that holds the last record, and its SHA-256
	tile      crypt.ID
	pending   []crypt.ID // SHA-256 of tiles beyond the head that an append of this machine may have stored
}

// Head returns the number of entries and the root hash: what a caller may keep elsewhere as an anchor, with Tag.
func (l *Log) Head() (size uint64, root [32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at.head.tree.size, l.at.head.tree.root()
}

// Tag names the log under audit/. It changes when the log is continued by a new one.
func (l *Log) Tag() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at.head.tag()
}

// Last returns the newest entry with its private texts closed. false: this process holds no entry.
func (l *Log) Last() (Record, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.at.lines) == 0 {
		return Record{}, false
	}
	r, err := ParseRecord(l.at.lines[len(l.at.lines)-1])
	return r, err == nil
}

// Problems returns what was wrong with the log so far and did not stop it: a damaged tile, a squatted name, a state file that cannot be
// written. In most cases a new log was started.
func (l *Log) Problems() []repo.Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.problems)
}

func (l *Log) problem(object string, err error) {
	for _, p := range l.problems {
		if p.Object == object {
			return
		}
	}
	l.problems = append(l.problems, repo.Problem{Object: object, Err: err})
}

// Append adds an entry and returns its number in the log. When it returns nil the entry is durable. After an error it may or may not be in the log,
// and whoever was about to destroy something must not. Before a destructive operation append it with Outcome Intent; its result names the
// intent's number in IntentSeq. It costs two Puts, and three where it completes a tile of 256.
func (l *Log) Append(ctx context.Context, e Event) (seq uint64, err error) {
	h, err := l.appendEvent(ctx, e)
	if err != nil {
		return 0, err
	}
	return h.Size - 1, nil
}

// Committing implements repo.Journal: an entry about the session that is about to commit, the last one of the size and root returned.
func (l *Log) Committing(ctx context.Context, rec *snapshot.Record) (size uint64, root [32]byte, err error) {
	session := crypt.SessionID(rec.Session).String()
	op := "backup"
	if rec.Kind == snapshot.Copied {
		op = "replicate"
	}
	h, err := l.appendEvent(ctx, Event{Op: op, Outcome: Committing, Object: "snapshots/" + session, Snapshot: session,
		Bytes: rec.Stats.BytesRead, Duration: l.o.Now().Sub(time.Unix(rec.Start.Sec, int64(rec.Start.Nsec)))})
	return h.Size, h.Root, err
}

func (l *Log) appendEvent(ctx context.Context, e Event) (Head, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.append(ctx, e)
	if err != nil {
		return Head{}, fmt.Errorf("appending to audit log: %w", err)
	}
	return h, nil
}

// maxAttempts bounds how often an append starts again because others took the name: each time a log moved on or a new one was begun.
const maxAttempts = 16

func (l *Log) append(ctx context.Context, e Event) (Head, error) {
	l.reload(ctx)
	for range maxAttempts {
		lines, err := l.records(e)
		if err != nil {
			return Head{}, err
		}
		ok, err := l.extend(ctx, lines)
		if err != nil {
			return Head{}, err
		}
		if !ok {
			continue
		}
		h := l.at.head.head()
		switch {
		case e.Outcome == Intent:
			l.intents[h.Size-1] = h.Tag
		case e.IntentSeq != 0:
			delete(l.intents, e.IntentSeq)
		}
		return h, nil
	}
	return Head{}, tampered("appending", "audit/", errors.New("every name it tries is taken"))
}

// records encodes what an append of e adds here: the event, and before the first one of a log its start.
func (l *Log) records(e Event) ([][]byte, error) {
	r := Record{Seq: l.at.head.tree.size, Time: l.o.Now(), Host: l.r.HostName(l.host), Origin: l.o.Origin, User: l.o.User, Tool: l.o.Tool, Event: e}
	var all []Record
	if r.Seq == 0 {
		start := r
		start.Event = Event{Op: LogStart, Outcome: Success, Reason: l.at.reason}
		if p := l.at.head.previous; p != nil {
			start.Object, start.Root = checkpointName(p.Tag, p.Size), fmt.Sprintf("%x", p.Root)
		}
		all = append(all, start)
		r.Seq++
	}
	if r.Job == "" {
		r.Job = l.o.Job
	}
	tag := l.at.head.tag()
	if intent := l.intents[e.IntentSeq]; e.IntentSeq != 0 && intent != tag {
		r.IntentLog = intent
	}
	keys := l.r.Settings().ReadKeys // by epoch, and never empty
	key, err := keys[len(keys)-1].Public()
	if err != nil {
		return nil, err
	}
	var lines [][]byte
	for _, r := range append(all, r) {
		if err := r.seal(l.r.Config().ID, tag, key); err != nil {
			return nil, err
		}
		lines = append(lines, r.encode())
	}
	return lines, nil
}

// extend tries to append lines, which end in the incomplete tile at the latest. It returns false where the name was taken: the position has
// changed, and the records must be made again.
func (l *Log) extend(ctx context.Context, lines [][]byte) (bool, error) {
	all := append(slices.Clip(l.at.lines), lines...)
	next := l.at.head.tree.clone()
	for _, h := range leaves(lines) {
		next.push(h)
	}
	if next.size > maxSize {
		return false, errors.New("the log is full")
	}
	name := tileName(l.at.head.tag(), dataTile(next.size))
	_, object, err := l.r.SealControl(crypt.TypeAuditTile, name, joinLines(all))
	if err != nil {
		return false, err
	}
	// Known before it is stored: whichever process finds it after a crash may finish it, and need not take it for a clone's.
	l.at.addPending(crypt.Sum(object))
	l.saveState()
	there, err := l.create(ctx, name, object)
	if err != nil {
		return false, err
	}
	if !bytes.Equal(there, object) {
		return false, l.taken(ctx, name, there)
	}
	ok, err := l.commit(ctx, all, next, object)
	if err == nil && !ok {
		// The checkpoint says that this size has other records: ours are nobody's.
		_ = l.r.Storage().Delete(ctx, name)
		l.restart("another writer went on with this log: a cloned machine, or a restored state")
	}
	return ok, err
}

// create stores an object exclusively and returns what is there then: these bytes, or another's. nil bytes mean that it is gone again.
func (l *Log) create(ctx context.Context, name string, object []byte) ([]byte, error) {
	err := l.r.Storage().Put(ctx, name, object, backends.PutOptions{IfAbsent: true})
	if err == nil {
		return object, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return nil, stored.Failed("storing", name, err)
	}
	// An answer that got lost on the way makes the second try fail: then the bytes there are these.
	there, err := get(ctx, l.r, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return there, err
}

// taken decides what to do about a tile name that holds other bytes.
func (l *Log) taken(ctx context.Context, name string, there []byte) error {
	if l.reload(ctx) {
		return nil // another process of this machine went on
	}
	want := dataTile(l.at.head.tree.size + 1)
	if l.at.head.tree.size == 0 {
		want = dataTile(2)
	}
	lines, err := openData(l.r, name, there, l.host, want.W)
	if err != nil {
		l.problem(name, err)
		l.restart("the next name held other bytes")
		return nil
	}
	old := len(l.at.lines)
	if !equalLines(lines[:old], l.at.lines) {
		l.problem(name, tampered("reading", name, errors.New("it contradicts the log")))
		l.restart("the next name held other records")
		return nil
	}
	next := l.at.head.tree.clone()
	for _, h := range leaves(lines[old:]) {
		next.push(h)
	}
	if !slices.Contains(l.at.pending, crypt.Sum(there)) {
		// Without a checkpoint it is what an interrupted append left, and is finished now. Should its writer still be alive, it will
		// find this checkpoint, which says what its own would say.
		cp := checkpointName(l.at.head.tag(), next.size)
		if _, err := l.r.Storage().Stat(ctx, cp); err == nil {
			l.restart("another writer went on with this log: a cloned machine, or a restored state")
			return nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return stored.Failed("reading", cp, err)
		}
	}
	ok, err := l.commit(ctx, lines, next, there)
	if err == nil && !ok {
		l.restart("the checkpoint of an interrupted entry was taken")
	}
	return err
}

func equalLines(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

// commit makes a stored data tile count: its hash tiles if it is complete, then the checkpoint. It returns false where another writer's stand
// there that say something else.
func (l *Log) commit(ctx context.Context, lines [][]byte, next tree, object []byte) (bool, error) {
	tag := l.at.head.tag()
	if next.size%tileWidth == 0 {
		if ok, err := l.putHashTiles(ctx, tag, dataTile(next.size).N, leaves(lines)); !ok {
			return false, err
		}
		lines = nil
	}
	c := l.at.head
	c.tree, c.time = next, l.o.Now()
	name := checkpointName(tag, next.size)
	_, sealed, err := l.r.SealControl(crypt.TypeAuditCheckpoint, name, c.encode())
	if err != nil {
		return false, err
	}
	// The entry is in the log once this is stored.
	there, err := l.create(ctx, name, sealed)
	if err != nil {
		return false, err
	}
	if !bytes.Equal(there, sealed) {
		other, err := openCheckpoint(l.r, name, there)
		if err != nil {
			l.problem(name, err)
			return false, nil
		}
		if other.tree.root() != next.root() {
			return false, nil
		}
		c = *other
	}
	l.at = position{head: c, lines: lines, tileBytes: int64(len(object)), tile: crypt.Sum(object)}
	l.saveState()
	l.keepTile(object)
	l.tidy(ctx)
	return true, nil
}

// putHashTiles stores the hash tiles that the n-th data tile completes. It returns false where one's name holds something else.
func (l *Log) putHashTiles(ctx context.Context, tag string, n int64, hashes []tlog.Hash) (bool, error) {
	for level := 0; ; level++ {
		t := tlog.Tile{H: tileHeight, L: level, N: n, W: tileWidth}
		name, body := tileName(tag, t), hashBody(hashes)
		_, object, err := l.r.SealControl(crypt.TypeAuditTile, name, body)
		if err != nil {
			return false, err
		}
		there, err := l.create(ctx, name, object)
		if err != nil {
			return false, err
		}
		if !bytes.Equal(there, object) {
			b, err := openTile(l.r, name, there, l.host)
			if err == nil && !bytes.Equal(b, body) {
				err = tampered("reading", name, errors.New("it contradicts the log"))
			}
			if err != nil {
				l.problem(name, err)
				return false, nil
			}
		}
		if (n+1)%tileWidth != 0 {
			return true, nil
		}
		// The tile above is complete too, once in 65,536 records: its hashes are the roots of the tiles of this level.
		n >>= tileHeight
		above := make([]tlog.Hash, tileWidth)
		for i := range above {
			name := tileName(tag, tlog.Tile{H: tileHeight, L: level, N: n<<tileHeight + int64(i), W: tileWidth})
			b, err := get(ctx, l.r, name)
			if err != nil {
				return false, err
			}
			if b, err = openTile(l.r, name, b, l.host); err != nil {
				return false, err
			}
			below, ok := parseHashBody(b)
			if !ok {
				return false, tampered("reading", name, errors.New("not a hash tile"))
			}
			above[i] = subtree(below)
		}
		hashes = above
	}
}

// restart begins a new log that continues the one at hand. Nothing is stored before the next append.
func (l *Log) restart(reason string) {
	previous := l.at.head.previous
	if l.at.head.tree.size > 0 {
		h := l.at.head.head()
		previous = &h
	} else if previous == nil {
		reason = ""
	}
	l.at = l.fresh(previous, reason)
}

// fresh is the position of a log that does not exist yet.
func (l *Log) fresh(previous *Head, reason string) position {
	now := l.o.Now()
	// The salt mixes host and time into the random bytes: a cloned machine repeats those.
	nonce := crypt.NewSalt([]byte(l.host.String() + now.String()))
	return position{head: checkpoint{repo: l.r.Config().ID, host: l.host, nonce: nonce, time: now, previous: previous}, reason: reason}
}

// reload follows the log when another process of this machine took it further, as the state file says. It returns whether the position changed.
// What it cannot read it leaves: the storage decides who is right.
func (l *Log) reload(ctx context.Context) bool {
	p, err := l.readState()
	if err != nil || p == nil {
		return false
	}
	same := p.head.tag() == l.at.head.tag()
	switch {
	case same && p.head.tree.size == l.at.head.tree.size:
		for _, id := range p.pending {
			l.at.addPending(id)
		}
		return false
	case same && p.head.tree.size < l.at.head.tree.size, !same && p.head.tree.size == 0:
		return false // it is behind
	}
	if err := l.loadTile(ctx, p); err != nil {
		return false
	}
	l.at = *p
	return true
}

// Superseded objects are removed every tidyEvery records: the incomplete tiles that a wider one holds, and checkpoints that are keepCheckpoints
// behind, except those of complete tiles. A checkpoint is what stops a stale clone from storing its own history under names
// that became free, so many stay; newer ones prove whatever older ones did.
const (
	tidyEvery       = 16
	keepCheckpoints = 2 * tileWidth
)

// tidy removes what is superseded, as far as the storage lets it. Nothing depends on it.
func (l *Log) tidy(ctx context.Context) {
	size := l.at.head.tree.size
	if size%tidyEvery != 0 || l.keep {
		return
	}
	tag := l.at.head.tag()
	var names []string
	for n := size - tidyEvery; n < size; n++ {
		if n%tileWidth != 0 {
			names = append(names, tileName(tag, dataTile(n)))
		}
		if n > keepCheckpoints && (n-keepCheckpoints)%tileWidth != 0 {
			names = append(names, checkpointName(tag, n-keepCheckpoints))
		}
	}
	if l.r.Keeper() != nil { // those are locked
		names = l.freed(ctx, tag, size)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, name := range names {
		g.Go(func() error {
			if err := l.r.Storage().Delete(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, backends.ErrKept) {
				return err
			}
			return nil
		})
	}
	l.keep = g.Wait() != nil
}

// freed lists what tidy would have removed when it was superseded, but for its lock, and what has had none since. As much as a listing tells: it is
// tried, and a lock that was extended holds.
func (l *Log) freed(ctx context.Context, tag string, size uint64) (names []string) {
	length := l.r.Keeper().Policy().Of("")
	now := l.o.Now()
	for info, err := range l.r.Storage().List(ctx, "audit/"+tag+"/") {
		if err != nil {
			return nil
		}
		path := strings.TrimPrefix(info.Name, "audit/"+tag+"/")
		superseded := false
		if t, ok := parseTilePath(path); ok {
			superseded = t.L < 0 && t.W < tileWidth && uint64(t.N)*tileWidth+uint64(t.W) < size
		} else if n, ok := strings.CutPrefix(path, "checkpoint/"); ok {
			at, err := parseSize(n)
			superseded = err == nil && at+keepCheckpoints < size && at%tileWidth != 0
		}
		if superseded && writeonce.Until(info.ModTime, length).Before(now) {
			names = append(names, info.Name)
		}
	}
	return names
}

// tampered says that err is no accident.
func tampered(op, object string, err error) error {
	return &repo.Error{Op: op, Object: object, Err: fmt.Errorf("%w: %w", repo.ErrTampered, err)}
}

// damaged says that err may be one.
func damaged(op, object string, err error) error {
	return &repo.Error{Op: op, Object: object, Err: fmt.Errorf("%w: %w", repo.ErrDamaged, err)}
}

// get reads a whole object.
func get(ctx context.Context, r *repo.Repo, name string) ([]byte, error) {
	info, err := r.Storage().Stat(ctx, name)
	if err != nil {
		return nil, stored.Failed("reading", name, err)
	}
	return getSized(ctx, r, name, info.Size)
}

// getSized reads a whole object whose size a listing told.
func getSized(ctx context.Context, r *repo.Repo, name string, size int64) ([]byte, error) {
	if size > crypt.MaxObject {
		return nil, damaged("reading", name, fmt.Errorf("%d bytes, the limit is %d", size, crypt.MaxObject))
	}
	b, err := r.Storage().Get(ctx, name, 0, size)
	if err != nil {
		return nil, stored.Failed("reading", name, err)
	}
	return b, nil
}

// openTile opens a tile of host's log and returns its body. Errors match repo.ErrDamaged or repo.ErrTampered.
func openTile(r *repo.Repo, name string, object []byte, host crypt.HostID) ([]byte, error) {
	s, err := r.OpenControl(crypt.TypeAuditTile, name, object)
	if err != nil {
		return nil, err
	}
	if s.Signer != host {
		return nil, tampered("reading", name, fmt.Errorf("host %v wrote into a log of host %v", s.Signer, host))
	}
	return s.Body, nil
}

// openData opens a data tile of n records.
func openData(r *repo.Repo, name string, object []byte, host crypt.HostID, n int) ([][]byte, error) {
	b, err := openTile(r, name, object, host)
	if err != nil {
		return nil, err
	}
	lines, err := splitLines(b, n)
	if err != nil {
		return nil, tampered("reading", name, err)
	}
	return lines, nil
}

// openCheckpoint opens a checkpoint and checks that it is what its name says, signed by the host whose log it is.
func openCheckpoint(r *repo.Repo, name string, object []byte) (*checkpoint, error) {
	s, err := r.OpenControl(crypt.TypeAuditCheckpoint, name, object)
	if err != nil {
		return nil, err
	}
	c, err := parseCheckpoint(s.Body)
	if err != nil {
		return nil, tampered("reading", name, err)
	}
	switch {
	case c.host != s.Signer:
		err = fmt.Errorf("host %v speaks for host %v", s.Signer, c.host)
	case c.repo != r.Config().ID, !strings.HasPrefix(name, "audit/"+c.tag()+"/"):
		err = fmt.Errorf("it is not of this log, or host %v does not own it", s.Signer)
	case name != checkpointName(c.tag(), c.tree.size) || c.tree.size == 0:
		err = fmt.Errorf("it speaks of %d entries", c.tree.size)
	}
	if err != nil {
		return nil, tampered("reading", name, err)
	}
	return c, nil
}
