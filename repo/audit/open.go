package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// ErrRolledBack says that the repository lacks entries that this machine wrote. Only a person can know whether that was meant.
var ErrRolledBack = errors.New("the repository was rolled back, or its log removed")

// Open finds this host's log, or prepares one that the first Append makes; it stores nothing. With a state file it costs one Get.
//
// Errors match repo.ErrNeedHost; repo.ErrTampered if the state file knows entries that the repository no longer holds (Options.Restart
// goes on in spite of it); repo.ErrForeign if the state file is of another repository or host; or are the storage's. A damaged log is no error:
// a new one continues it, and Problems tells.
func Open(ctx context.Context, r *repo.Repo, o Options) (*Log, error) {
	l, err := open(ctx, r, o)
	if err != nil {
		return nil, fmt.Errorf("opening audit log: %w", err)
	}
	return l, nil
}

func open(ctx context.Context, r *repo.Repo, o Options) (*Log, error) {
	id := r.Keys().Identity
	if id == nil {
		return nil, repo.ErrNeedHost
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{r: r, o: o, host: id.Host, intents: make(map[uint64]string)}
	p, err := l.readState()
	switch {
	case errors.Is(err, repo.ErrDamaged):
		l.problem(o.State, err)
	case err != nil:
		return nil, err
	case p != nil:
		return l, l.resume(ctx, p)
	}
	if o.Copied {
		l.at = l.fresh(nil, "")
		return l, nil
	}
	return l, l.find(ctx)
}

// resume goes on where the state file says.
func (l *Log) resume(ctx context.Context, p *position) error {
	l.at = *p
	if p.head.tree.size == 0 {
		return nil
	}
	name := tileName(p.head.tag(), dataTile(p.head.tree.size))
	switch err := l.loadTile(ctx, &l.at); {
	case err == nil:
		return nil
	case errors.Is(err, repo.ErrDamaged):
		l.problem(name, err)
		l.restart("its last tile is damaged")
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// An owner that knows more removes this tile in time.
	logs, _, err := listLogs(ctx, l.r, "audit/"+p.head.tag()+"/")
	if err != nil {
		return err
	}
	if f := logs[p.head.tag()]; f != nil {
		c, err := f.newest(ctx, l.r)
		if err != nil {
			return err
		}
		if c != nil && c.tree.size > p.head.tree.size {
			l.restart("another writer went on with this log: a cloned machine, or a restored state")
			return nil
		}
	}
	if !l.o.Restart {
		return tampered("reading", name, fmt.Errorf("the log had %d entries, of which the last is gone: %w", p.head.tree.size, ErrRolledBack))
	}
	l.restart(ErrRolledBack.Error())
	return nil
}

// loadTile reads the object that holds the last record of p, which must be the very bytes p knows, and takes the records of the incomplete tile
// from it. Other bytes match repo.ErrDamaged.
func (l *Log) loadTile(ctx context.Context, p *position) error {
	if p.head.tree.size == 0 {
		return nil
	}
	t := dataTile(p.head.tree.size)
	name := tileName(p.head.tag(), t)
	b := l.keptTile(p, name)
	var err error
	if b == nil {
		b, err = getSized(ctx, l.r, name, p.tileBytes)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged("reading", name, err)
	}
	if err != nil {
		return err
	}
	if crypt.Sum(b) != p.tile {
		return damaged("reading", name, errors.New("other bytes than were stored"))
	}
	return p.take(l.r, name, b, t)
}

// take takes the records of the incomplete tile from its object, after checking them against the head.
func (p *position) take(r *repo.Repo, name string, object []byte, t tlog.Tile) error {
	lines, err := openData(r, name, object, p.head.host, t.W)
	if err != nil {
		return err
	}
	var sub tree
	for _, h := range leaves(lines) {
		sub.push(h)
	}
	// The edge over this tile is the end of the whole edge; a complete tile has been merged into it further.
	if t.W < tileWidth {
		edge := p.head.tree.edge
		if !slices.Equal(edge[len(edge)-len(sub.edge):], sub.edge) {
			return tampered("reading", name, errors.New("its records do not make the root of the checkpoint"))
		}
		p.lines = lines
	}
	p.tileBytes, p.tile = int64(len(object)), crypt.Sum(object)
	return nil
}

// find looks for the newest log of this host in the repository.
func (l *Log) find(ctx context.Context) error {
	logs, _, err := listLogs(ctx, l.r, "audit/")
	if err != nil {
		return err
	}
	var best *checkpoint
	for _, f := range logs {
		c, err := f.newest(ctx, l.r)
		if err != nil {
			return err
		}
		if c != nil && c.host == l.host && (best == nil || c.time.After(best.time)) {
			best = c
		}
	}
	if best == nil {
		l.at = l.fresh(nil, "")
		return nil
	}
	l.at = position{head: *best}
	t := dataTile(best.tree.size)
	name := tileName(best.tag(), t)
	b, err := get(ctx, l.r, name)
	if err == nil {
		err = l.at.take(l.r, name, b, t)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = tampered("reading", name, err)
	}
	if isProblem(err) {
		l.problem(name, err)
		l.restart("its last tile is damaged or gone")
		return nil
	}
	return err
}

// logFiles is what a listing shows of one log.
type logFiles struct {
	tag         string
	checkpoints []part           // sorted by size
	data        map[int64][]part // data tiles by number, sorted by width
	hashes      []part           // complete hash tiles, by how many records they and those before cover
}

// part is one object of a log: a checkpoint of size n, or a tile of width n.
type part struct {
	n    uint64
	info backends.Info
}

// maxNames caps a listing of the logs: a hostile storage must not cost unbounded memory. It is room for 20 years of 200 hosts with an entry every quarter of an hour.
const maxNames = 1 << 21

// listLogs lists the logs under prefix, by tag. foreign counts names that the format does not know.
func listLogs(ctx context.Context, r *repo.Repo, prefix string) (logs map[string]*logFiles, foreign int, err error) {
	logs = make(map[string]*logFiles)
	names := 0
	for info, err := range r.Storage().List(ctx, prefix) {
		if err != nil {
			return nil, 0, stored.Failed("listing", prefix, err)
		}
		if names++; names > maxNames {
			return nil, 0, tampered("listing", prefix, fmt.Errorf("more than %d names", maxNames))
		}
		parts := strings.SplitN(info.Name, "/", 3)
		if !strings.HasPrefix(info.Name, prefix) || !format.KnownName(info.Name) {
			foreign++
			continue
		}
		f := logs[parts[1]]
		if f == nil {
			f = &logFiles{tag: parts[1], data: make(map[int64][]part)}
		}
		if !f.add(parts[2], info) {
			foreign++
			continue
		}
		logs[parts[1]] = f
	}
	order := func(a, b part) int { return cmp.Compare(a.n, b.n) }
	for _, f := range logs {
		slices.SortFunc(f.checkpoints, order)
		// A retried listing may repeat a name.
		f.checkpoints = slices.CompactFunc(f.checkpoints, func(a, b part) bool { return a.n == b.n })
		for n, d := range f.data {
			slices.SortFunc(d, order)
			f.data[n] = slices.CompactFunc(d, func(a, b part) bool { return a.n == b.n })
		}
	}
	return logs, foreign, nil
}

// add sorts one name in.
func (f *logFiles) add(path string, info backends.Info) bool {
	if size, ok := strings.CutPrefix(path, "checkpoint/"); ok {
		n, err := parseSize(size)
		if err != nil || n == 0 {
			return false
		}
		f.checkpoints = append(f.checkpoints, part{n, info})
		return true
	}
	t, ok := parseTilePath(path)
	switch {
	case !ok:
	case t.L >= 0:
		f.hashes = append(f.hashes, part{uint64(t.N+1) << (tileHeight * (t.L + 1)), info})
	default:
		f.data[t.N] = append(f.data[t.N], part{uint64(t.W), info})
	}
	return ok
}

// newest returns the valid checkpoint of the greatest size, nil if there is none. An invalid one is passed over: Verify reports it.
func (f *logFiles) newest(ctx context.Context, r *repo.Repo) (*checkpoint, error) {
	for _, s := range slices.Backward(f.checkpoints) {
		c, err := readCheckpoint(ctx, r, s)
		switch {
		case err == nil:
			return c, nil
		case isProblem(err), errors.Is(err, fs.ErrNotExist):
		default:
			return nil, err
		}
	}
	return nil, nil
}

func readCheckpoint(ctx context.Context, r *repo.Repo, s part) (*checkpoint, error) {
	b, err := getSized(ctx, r, s.info.Name, s.info.Size)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = damaged("reading", s.info.Name, err)
	}
	if err != nil {
		return nil, err
	}
	return openCheckpoint(r, s.info.Name, b)
}
