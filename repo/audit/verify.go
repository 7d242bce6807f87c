package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/stored"
)

// VerifyOptions are the ways a caller shapes Verify. The zero value is good.
type VerifyOptions struct {
	// Known are heads that were seen earlier and kept elsewhere: by Log.Head, a state file, an export. What the repository shows must
	// continue them. Without any, removing the newest entries of a log shows only if a snapshot speaks of them.
	Known []Head

	// Superseded opens the incomplete tiles too that a wider one holds, and that their host has not removed yet. Nothing depends on them, so what is
	// wrong with them is a matter of its own (Report.Superseded).
	Superseded bool
}

// Summary is what Verify found of one log.
type Summary struct {
	Tag         string
	Host        crypt.HostID
	Name        string // of the host
	Revoked     bool   // the host was revoked: entries may be of whoever holds its key
	Size        uint64 // entries, by the newest valid checkpoint
	Root        [32]byte
	Time        time.Time // of the newest checkpoint, by the host's clock
	Checkpoints int       // valid ones that are present
	Uncommitted int       // entries behind the newest checkpoint: one append was interrupted, or its checkpoint removed
	Previous    *Head     // the log that this one continues
	Proved      bool      // every entry was read, and leads to the root
}

// Report is what Verify found.
type Report struct {
	Logs     []Summary // by tag
	Foreign  int       // names under audit/ that the format does not know
	Problems []repo.Problem

	Superseded []repo.Problem // of objects that are no longer needed
}

// Verify checks every log in the repository: that its checkpoints and tiles are its host's, that all of them and the snapshots of that host
// tell one history, and that nothing of it is missing. It needs no passphrase; with one it also opens the private texts of every record, at 0.2 ms each.
// Problems match repo.ErrTampered where an object is missing,
// contradicts another or is another host's, and repo.ErrDamaged where its bytes do not open; the error is about the storage.
// Memory: a checkpoint of 1 KB each, a tile, and 32 bytes for 256 records.
//
// Not noticed: a missing older checkpoint, since the newer ones prove all that it did.
func Verify(ctx context.Context, r *repo.Repo, o VerifyOptions) (*Report, error) {
	v := &verifier{r: r, logs: make(map[string]*verifiedLog)}
	if err := v.run(ctx, o); err != nil {
		return nil, fmt.Errorf("verifying audit logs: %w", err)
	}
	return &v.report, nil
}

type verifier struct {
	r      *repo.Repo
	logs   map[string]*verifiedLog
	report Report
}

// verifiedLog is a log on its way through Verify.
type verifiedLog struct {
	files    *logFiles
	points   []*checkpoint // valid ones, by size
	problems []repo.Problem
	roots    map[uint64]*proof // what others say of the log, by size; filled by readTiles
	summary  Summary
}

// proof is what the tiles say of a log at one size.
type proof struct {
	known    bool // the tiles reach that far
	root     tlog.Hash
	snapshot string // that the last record names
}

func (v *verifier) run(ctx context.Context, o VerifyOptions) error {
	// Snapshots first: the entries about them are stored before they are.
	snaps, err := v.r.Snapshots(ctx)
	if err != nil {
		return err
	}
	logs, foreign, err := listLogs(ctx, v.r, "audit/")
	if err != nil {
		return err
	}
	v.report.Foreign = foreign
	for tag, f := range logs {
		log := &verifiedLog{files: f}
		if err := log.readCheckpoints(ctx, v.r); err != nil {
			return err
		}
		v.logs[tag] = log
	}
	snaps = slices.DeleteFunc(snaps, func(s *repo.Snapshot) bool { return s.AuditSize == 0 || s.Origin != nil })
	tags := slices.Sorted(maps.Keys(v.logs))
	for _, tag := range tags {
		log := v.logs[tag]
		want := []uint64{}
		for _, s := range snaps {
			if crypt.HostID(s.Host) == log.summary.Host {
				want = append(want, s.AuditSize)
			}
		}
		for _, h := range o.Known {
			want = append(want, h.Size)
		}
		for _, other := range v.logs {
			if p := other.summary.Previous; p != nil && p.Tag == tag {
				want = append(want, p.Size)
			}
		}
		if err := log.read(ctx, v.r, want); err != nil {
			return err
		}
	}
	for _, tag := range tags {
		log := v.logs[tag]
		if o.Superseded {
			if err := v.readSuperseded(ctx, log); err != nil {
				return err
			}
		}
		v.report.Logs = append(v.report.Logs, log.summary)
		v.report.Problems = append(v.report.Problems, log.problems...)
		if p := log.summary.Previous; p != nil {
			v.judge(checkpointName(p.Tag, p.Size), *p, "the log "+tag+" continues it")
			if other := v.logs[p.Tag]; other != nil && other.summary.Size > 0 && other.summary.Host != log.summary.Host {
				v.problem(checkpointName(tag, log.summary.Size), tampered("reading", checkpointName(tag, log.summary.Size), errors.New("it continues a log of another host")))
			}
		}
	}
	for _, h := range o.Known {
		if h.Size > 0 {
			v.judge(checkpointName(h.Tag, h.Size), h, "it was seen earlier")
		}
	}
	for _, s := range snaps {
		v.judgeSnapshot(s)
	}
	return nil
}

func (v *verifier) problem(object string, err error) {
	v.report.Problems = append(v.report.Problems, repo.Problem{Object: object, Err: err})
}

// judge checks that a log once was what h says.
func (v *verifier) judge(object string, h Head, why string) {
	log := v.logs[h.Tag]
	if log == nil {
		v.problem(object, tampered("reading", object, fmt.Errorf("the log is gone, but %s", why)))
	} else if err := log.check(h.Size, h.Root); err != nil {
		v.problem(object, fmt.Errorf("%w, but %s", err, why))
	}
}

// check proves that the log at size had the given root.
func (log *verifiedLog) check(size uint64, root tlog.Hash) error {
	name := checkpointName(log.files.tag, size)
	p := log.roots[size]
	switch {
	case p == nil || !p.known:
		if len(log.problems) > 0 && !log.summary.Proved && size <= log.summary.Size {
			return damaged("reading", name, errors.New("what is left of the log does not prove its entries"))
		}
		return tampered("reading", name, fmt.Errorf("the log has %d entries", log.summary.Size))
	case p.root != root:
		return tampered("reading", name, errors.New("the log has other entries"))
	case size > log.summary.Size:
		return tampered("reading", name, errors.New("the checkpoint is gone"))
	}
	return nil
}

// judgeSnapshot finds the log that a snapshot speaks of. It is one of its host; which one the snapshot does not say.
func (v *verifier) judgeSnapshot(s *repo.Snapshot) {
	worst := tampered("reading", s.Name, fmt.Errorf("the log of its host that had %d entries is gone", s.AuditSize))
	for _, tag := range slices.Sorted(maps.Keys(v.logs)) {
		log := v.logs[tag]
		if log.summary.Host != crypt.HostID(s.Host) {
			continue
		}
		err := log.check(s.AuditSize, s.AuditRoot)
		if err == nil && log.roots[s.AuditSize].snapshot != s.ID().String() {
			err = tampered("reading", s.Name, fmt.Errorf("entry %d of log %s is not about it", s.AuditSize-1, tag))
		}
		if err == nil {
			return
		}
		if p := log.roots[s.AuditSize]; p != nil && p.known && p.root == s.AuditRoot || errors.Is(err, repo.ErrDamaged) {
			worst = &repo.Error{Op: "checking", Object: s.Name, Err: err}
		}
	}
	v.problem(s.Name, worst)
}

func (log *verifiedLog) problem(object string, err error) {
	log.problems = append(log.problems, repo.Problem{Object: object, Err: err})
}

// readCheckpoints reads all checkpoints. Those that an owner removed meanwhile do not matter.
func (log *verifiedLog) readCheckpoints(ctx context.Context, r *repo.Repo) error {
	found := make([]*checkpoint, len(log.files.checkpoints))
	errs := make([]error, len(found))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, s := range log.files.checkpoints {
		g.Go(func() error {
			found[i], errs[i] = readCheckpoint(gctx, r, s)
			if err := errs[i]; err != nil && !isProblem(err) && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	log.points, log.problems = nil, nil
	for i, c := range found {
		name := log.files.checkpoints[i].info.Name
		switch {
		case errs[i] == nil:
		case errors.Is(errs[i], fs.ErrNotExist):
			continue
		default:
			log.problem(name, errs[i])
			continue
		}
		if len(log.points) > 0 && !sameHead(log.points[0].previous, c.previous) {
			log.problem(name, tampered("reading", name, errors.New("the log continues another one than it said earlier")))
			continue
		}
		log.points = append(log.points, c)
	}
	log.summary = Summary{Tag: log.files.tag, Checkpoints: len(log.points), Root: tree{}.root()}
	if n := len(log.points); n > 0 {
		c := log.points[n-1]
		log.summary.Host, log.summary.Name, log.summary.Revoked = c.host, r.HostName(c.host), r.Trust().Revoked(c.host)
		log.summary.Size, log.summary.Root, log.summary.Time, log.summary.Previous = c.tree.size, c.tree.root(), c.time, c.previous
	}
	return nil
}

func sameHead(a, b *Head) bool { return a == b || a != nil && b != nil && *a == *b }

// read reads the tiles, and checks the checkpoints by them. want are the sizes at which others know a root.
func (log *verifiedLog) read(ctx context.Context, r *repo.Repo, want []uint64) error {
	log.roots = make(map[uint64]*proof)
	for _, n := range want {
		log.roots[n] = new(proof)
	}
	for _, c := range log.points {
		log.roots[c.tree.size] = new(proof)
	}
	if err := log.readTiles(ctx, r); err != nil {
		return err
	}
	for _, c := range log.points {
		if p := log.roots[c.tree.size]; p.known && p.root != c.tree.root() {
			name := checkpointName(log.files.tag, c.tree.size)
			log.problem(name, tampered("reading", name, errors.New("it contradicts the entries of the log")))
		}
	}
	if n := len(log.points); n > 0 {
		p := log.roots[log.summary.Size]
		log.summary.Proved = log.summary.Proved && p.known && p.root == log.summary.Root
	}
	return nil
}

// readTiles goes through the records from the first to the last, and fills roots.
func (log *verifiedLog) readTiles(ctx context.Context, r *repo.Repo) error {
	var (
		t     tree
		tops  []tlog.Hash // of complete tiles
		lines [][]byte    // of the last tile
		size  = log.summary.Size
	)
	log.summary.Proved = size > 0
	for t.size < size {
		n := int64(t.size / tileWidth)
		need := int(min(tileWidth, size-t.size))
		var hashes, listed []tlog.Hash
		var err error
		lines, err = log.readData(ctx, r, n, need)
		if err != nil {
			return err
		}
		if lines != nil {
			hashes = leaves(lines)
			log.checkRecords(r, n, lines)
		} else {
			log.summary.Proved = false
		}
		if need == tileWidth {
			if listed, err = log.readHashes(ctx, r, 0, n, hashes); err != nil {
				return err
			}
			if hashes == nil {
				hashes = listed
			}
			if hashes != nil {
				tops = append(tops, subtree(hashes))
			}
		}
		if hashes == nil {
			return nil // nothing can be said of what follows
		}
		log.push(&t, hashes, lines)
	}
	for level := 1; len(tops) >= tileWidth; level++ {
		var above []tlog.Hash
		for n := 0; (n+1)*tileWidth <= len(tops); n++ {
			below := tops[n*tileWidth : (n+1)*tileWidth]
			if _, err := log.readHashes(ctx, r, level, int64(n), below); err != nil {
				return err
			}
			above = append(above, subtree(below))
		}
		tops = above
	}
	if size%tileWidth == 0 {
		lines = nil
	}
	return log.readTail(ctx, r, t, lines)
}

// readSuperseded opens the incomplete tiles of log that a wider one holds.
func (v *verifier) readSuperseded(ctx context.Context, log *verifiedLog) error {
	for n, all := range log.files.data {
		need := min(tileWidth, int64(log.summary.Size)-n*tileWidth)
		for _, s := range all {
			if int64(s.n) >= need {
				break
			}
			_, err := readLines(ctx, v.r, s, log.summary.Host)
			switch {
			case isProblem(err):
				v.report.Superseded = append(v.report.Superseded, repo.Problem{Object: s.info.Name, Err: err})
			case err != nil && !errors.Is(err, fs.ErrNotExist): // its owner may remove it at any time
				return err
			}
		}
	}
	return nil
}

// push adds leaves, and notes the roots that are asked for. lines may be nil.
func (log *verifiedLog) push(t *tree, hashes []tlog.Hash, lines [][]byte) {
	for i, h := range hashes {
		t.push(h)
		if p := log.roots[t.size]; p != nil {
			p.known, p.root = true, t.root()
			if lines != nil {
				if rec, err := ParseRecord(lines[i]); err == nil {
					p.snapshot = rec.Snapshot
				}
			}
		}
	}
}

// retries is how often a log is listed again because its owner removed an incomplete tile that the listing showed, or stored a wider one that it
// passed over.
const retries = 3

// readData returns the first need records of a data tile, from its narrowest object that holds them. nil after a problem.
func (log *verifiedLog) readData(ctx context.Context, r *repo.Repo, n int64, need int) ([][]byte, error) {
	for try := 0; ; try++ {
		found := false
		for _, s := range log.files.data[n] {
			if s.n < uint64(need) {
				continue
			}
			lines, err := readLines(ctx, r, s, log.summary.Host)
			if err == nil {
				return lines[:need], nil
			}
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if !isProblem(err) {
				return nil, err
			}
			found = true
			log.problem(s.info.Name, err)
		}
		if found {
			return nil, nil
		}
		if try == retries {
			name := tileName(log.files.tag, tlog.Tile{H: tileHeight, L: -1, N: n, W: need})
			log.problem(name, tampered("reading", name, errors.New("the records are gone")))
			return nil, nil
		}
		logs, _, err := listLogs(ctx, r, "audit/"+log.files.tag+"/")
		if err != nil {
			return nil, err
		}
		log.files.data = nil
		if f := logs[log.files.tag]; f != nil {
			log.files.data = f.data
		}
	}
}

// isProblem reports whether err says something of an object, and not of the storage.
func isProblem(err error) bool {
	return errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrTampered)
}

// readObject reads an object whose size a listing told.
func readObject(ctx context.Context, r *repo.Repo, s part) ([]byte, error) {
	b, err := getSized(ctx, r, s.info.Name, s.info.Size)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = damaged("reading", s.info.Name, err)
	}
	return b, err
}

func readLines(ctx context.Context, r *repo.Repo, s part, host crypt.HostID) ([][]byte, error) {
	b, err := readObject(ctx, r, s)
	if err != nil {
		return nil, err
	}
	return openData(r, s.info.Name, b, host, int(s.n))
}

// readHashes reads a complete hash tile and compares it with hashes, if they are known. nil after a problem.
func (log *verifiedLog) readHashes(ctx context.Context, r *repo.Repo, level int, n int64, hashes []tlog.Hash) ([]tlog.Hash, error) {
	name := tileName(log.files.tag, tlog.Tile{H: tileHeight, L: level, N: n, W: tileWidth})
	b, err := get(ctx, r, name)
	if errors.Is(err, fs.ErrNotExist) {
		err = tampered("reading", name, errors.New("the hash tile is gone"))
	}
	if err == nil {
		b, err = openTile(r, name, b, log.summary.Host)
	}
	var listed []tlog.Hash
	if err == nil {
		var ok bool
		if listed, ok = parseHashBody(b); !ok || hashes != nil && !bytes.Equal(b, hashBody(hashes)) {
			err = tampered("reading", name, errors.New("it contradicts the records"))
		}
	}
	switch {
	case err == nil:
		return listed, nil
	case isProblem(err):
		log.problem(name, err)
		return nil, nil
	}
	return nil, err
}

// checkRecords checks the form and the numbers of the records of data tile n, that the first one starts the log as its checkpoints say, and that
// the private texts open for whoever can read. One problem a tile is enough.
func (log *verifiedLog) checkRecords(r *repo.Repo, n int64, lines [][]byte) {
	name := tileName(log.files.tag, tlog.Tile{H: tileHeight, L: -1, N: n, W: len(lines)})
	for i, line := range lines {
		rec, err := ParseRecord(line)
		switch {
		case errors.Is(err, crypt.ErrFormat):
			log.problem(name, &repo.Error{Op: "reading", Object: name, Err: err})
			return
		case err == nil && rec.Seq != uint64(n)*tileWidth+uint64(i):
			err = fmt.Errorf("entry %d has number %d", uint64(n)*tileWidth+uint64(i), rec.Seq)
		case err == nil && rec.Seq == 0:
			var object, root string
			if p := log.summary.Previous; p != nil {
				object, root = checkpointName(p.Tag, p.Size), fmt.Sprintf("%x", p.Root)
			}
			if rec.Op != LogStart || rec.Object != object || rec.Root != root {
				err = errors.New("its first entry is not how the log began")
			}
		}
		if err == nil {
			err = openRecord(r, log.files.tag, &rec)
		}
		switch {
		case errors.Is(err, keyring.ErrNoKey):
			log.problem(name, damaged("reading", name, err))
			return
		case err != nil:
			log.problem(name, tampered("reading", name, err))
			return
		}
	}
}

// openRecord opens the private texts of rec for whoever can read. keyring.ErrNoKey says that the key of its epoch is not among those of this process.
func openRecord(r *repo.Repo, tag string, rec *Record) error {
	if !rec.Closed || !r.CanRead() {
		return nil
	}
	key := r.Keys().Read[rec.readEpoch]
	if key == nil {
		return fmt.Errorf("entry %d: read key of epoch %d: %w", rec.Seq, rec.readEpoch, keyring.ErrNoKey)
	}
	if err := rec.open(r.Config().ID, tag, key); err != nil {
		return fmt.Errorf("private part of entry %d: %w", rec.Seq, err)
	}
	return nil
}

// readTail looks at data tiles that reach beyond the newest checkpoint. An interrupted append leaves one at most: more mean that checkpoints were
// removed. t is the tree at the checkpoint, lines the records of its incomplete tile.
func (log *verifiedLog) readTail(ctx context.Context, r *repo.Repo, t tree, lines [][]byte) error {
	size := log.summary.Size
	var tail []part // with the number of their last record
	for n, all := range log.files.data {
		for _, s := range all {
			if s.n += uint64(n) * tileWidth; s.n > size {
				tail = append(tail, s)
			}
		}
	}
	if len(tail) == 0 {
		return nil
	}
	slices.SortFunc(tail, func(a, b part) int { return cmp.Compare(a.n, b.n) })
	for i, s := range tail {
		if slices.ContainsFunc(log.files.checkpoints, func(c part) bool { return c.n == s.n }) {
			continue // invalid, and a problem already
		}
		name := checkpointName(log.files.tag, s.n)
		_, err := r.Storage().Stat(ctx, name)
		switch {
		case err == nil:
			return nil // the log goes on while it is read
		case !errors.Is(err, fs.ErrNotExist):
			return stored.Failed("reading", name, err)
		case i < len(tail)-1:
			log.problem(name, tampered("reading", name, errors.New("the checkpoint is gone, but there are entries behind it")))
			return nil
		}
	}
	s := tail[len(tail)-1]
	at, width := int64((s.n-1)/tileWidth), int((s.n-1)%tileWidth)+1
	b, err := readObject(ctx, r, s)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the log goes on, and its owner removes what is superseded
	}
	if err != nil && !isProblem(err) {
		return err
	}
	var signed *crypt.Signed
	if err == nil {
		signed, err = r.OpenControl(crypt.TypeAuditTile, s.info.Name, b)
	}
	host := log.summary.Host
	if err == nil && size == 0 {
		host = signed.Signer // the first append was interrupted: there is no checkpoint to say whose log it is
	}
	var more [][]byte
	if err == nil {
		more, err = openData(r, s.info.Name, b, host, width)
	}
	if err == nil && (uint64(at) != size/tileWidth || !equalLines(more[:len(lines)], lines)) {
		err = tampered("reading", s.info.Name, errors.New("it contradicts the log"))
	}
	if err != nil {
		log.problem(s.info.Name, err)
		return nil
	}
	log.checkRecords(r, at, more)
	more = more[len(lines):]
	log.summary.Uncommitted = len(more)
	log.push(&t, leaves(more), more)
	return nil
}

// Logs reads the newest valid checkpoint of every log in the repository, by tag: whose it is, and how long. It proves nothing.
func Logs(ctx context.Context, r *repo.Repo) ([]Summary, error) {
	all, err := summaries(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("listing audit logs: %w", err)
	}
	return all, nil
}

func summaries(ctx context.Context, r *repo.Repo) ([]Summary, error) {
	logs, _, err := listLogs(ctx, r, "audit/")
	if err != nil {
		return nil, err
	}
	var all []Summary
	for _, tag := range slices.Sorted(maps.Keys(logs)) {
		c, err := logs[tag].newest(ctx, r)
		if err != nil {
			return nil, err
		}
		if c != nil {
			all = append(all, Summary{Tag: tag, Host: c.host, Name: r.HostName(c.host), Revoked: r.Trust().Revoked(c.host), Size: c.tree.size,
				Root: c.tree.root(), Time: c.time, Checkpoints: len(logs[tag].checkpoints), Previous: c.previous})
		}
	}
	return all, nil
}

// Records yields the entries of the log called tag, from the first to the newest one with a checkpoint, and ends with an error if they do not make its root,
// or at the first one that cannot be read: an error matching repo.ErrDamaged, repo.ErrTampered or the storage's; fs.ErrNotExist where there is no such log.
// Without a passphrase, or without the read key of their epoch, records come Closed.
func Records(ctx context.Context, r *repo.Repo, tag string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if err := records(ctx, r, tag, yield); err != nil {
			yield(Record{}, fmt.Errorf("reading audit log %.32q: %w", tag, err))
		}
	}
}

func records(ctx context.Context, r *repo.Repo, tag string, yield func(Record, error) bool) error {
	prefix := "audit/" + tag + "/"
	if !format.KnownName(prefix + "checkpoint/1") {
		return fs.ErrNotExist
	}
	var t tree
	for try := 0; ; try++ {
		logs, _, err := listLogs(ctx, r, prefix)
		if err != nil {
			return err
		}
		f := logs[tag]
		if f == nil {
			return fs.ErrNotExist
		}
		c, err := f.newest(ctx, r)
		if err != nil {
			return err
		}
		if c == nil {
			return damaged("reading", prefix, errors.New("no checkpoint is valid"))
		}
		done, err := f.yieldRecords(ctx, r, c, &t, yield)
		if errors.Is(err, fs.ErrNotExist) && try < retries {
			continue // its owner removed an incomplete tile that a wider one holds
		}
		if err != nil || !done {
			return err
		}
		if t.root() != c.tree.root() {
			return tampered("reading", checkpointName(tag, c.tree.size), errors.New("it contradicts the entries of the log"))
		}
		return nil
	}
}

// yieldRecords yields the records from t on. It returns false when the caller wants no more.
func (f *logFiles) yieldRecords(ctx context.Context, r *repo.Repo, c *checkpoint, t *tree, yield func(Record, error) bool) (bool, error) {
	for t.size < c.tree.size {
		n, skip := int64(t.size/tileWidth), t.size%tileWidth
		need := min(tileWidth, c.tree.size-uint64(n)*tileWidth)
		i := slices.IndexFunc(f.data[n], func(s part) bool { return s.n >= need })
		if i < 0 {
			name := tileName(f.tag, tlog.Tile{H: tileHeight, L: -1, N: n, W: int(need)})
			return false, tampered("reading", name, fmt.Errorf("the records are gone: %w", fs.ErrNotExist))
		}
		s := f.data[n][i]
		lines, err := readLines(ctx, r, s, c.host)
		if err != nil {
			return false, err
		}
		for _, line := range lines[skip:need] {
			rec, err := ParseRecord(line)
			if err == nil && rec.Seq != t.size {
				err = fmt.Errorf("entry %d has number %d", t.size, rec.Seq)
			}
			if err == nil {
				if err = openRecord(r, f.tag, &rec); errors.Is(err, keyring.ErrNoKey) {
					err = nil
				}
			}
			if err != nil {
				return false, tampered("reading", s.info.Name, err)
			}
			t.push(rec.Leaf)
			if !yield(rec, nil) {
				return false, nil
			}
		}
	}
	return true, nil
}
