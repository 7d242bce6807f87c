package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/index"
	"packhold/pack"
	"packhold/repo/format"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
	"packhold/repo/writeonce"
)

// Renewal of leases: every RenewEvery, and after LeaseDead of storage time without one a session may be judged dead.
// A wrong judgement costs the session its commit, never a blob.
const (
	RenewEvery = 5 * time.Minute
	LeaseDead  = 60 * time.Minute
)

// treePackSize is the target of tree packs: small, because readers fetch them first and the memory of an open one is not worth more.
const treePackSize = 4 << 20

// clockSkew is how far a host's clock may be behind that of who made its certificate: time zones mixed up, no more.
const clockSkew = 24 * time.Hour

// segmentEvery is how often a long session stores an index segment, so that a crash makes others wait or store again little.
const segmentEvery = 10 * time.Minute

// openPacks bounds the memory of data packs: the one that fills, and those that are being stored meanwhile. maxFlushers is how many these are at most, on
// storages where a round trip is what storing waits for: one of the default size, three of 16 MiB.
const (
	openPacks   = 64 << 20
	maxFlushers = 4
)

// SessionOptions shape a writer session.
type SessionOptions struct {
	Purpose     string // "backup" unless given
	Compression string // "" for that of the settings
	NoValidate  bool   // do not make sure that the storage has what was meant: by the checksum it reports, or by reading it back
	Retention   string // class of the packs, which the settings may lock longer than others

	// Alone is for who copies what is to go elsewhere: nothing that another session stored is relied on, since nobody opened it.
	Alone bool
}

// Session is one writer session: from its lease to its commit. Store, Has and Stats may be called concurrently.
//
// The order of its calls is the safety of the repository (prune_protocol in the design): lease, condemned sets, index, packs and
// segments, commit by exclusive create.
type Session struct {
	ID      crypt.SessionID
	Started time.Time

	r       *Repo
	storage backends.Storage  // of r, for what the session's class keeps
	keeper  *writeonce.Keeper // nil: nothing is locked; otherwise it is storage
	x       *index.Index      // what the session knows to be stored, and what it claimed
	o       SessionOptions
	pace    *pack.Pace
	key     crypt.SessionKey
	record  []byte
	nonce   [32]byte
	target  int
	parity  int
	variant uint8

	data, tree *pack.Filler
	flush      *errgroup.Group
	ctx        context.Context // cancelled by the first failure
	cancel     context.CancelCauseFunc

	segmentMu sync.Mutex // guards segmentAt, and the storing of segments
	segmentAt time.Time

	blobs, bytesNew, bytesStored atomic.Uint64
	packs, packBytes             atomic.Uint64
	adopted                      atomic.Uint64
	renewals                     atomic.Uint32
	confirmed                    atomic.Bool // the storage reported checksums of what it stored
	ended                        bool
}

// errActive is for a second session of one Repo: they would take each other's claims for stored blobs.
var errActive = errors.New("another session of this Repo is open")

// Begin opens a session: its lease is stored before anything is read, so that a prune that starts later waits for it. A Repo has one
// session at a time, and every session ends with Close, after Commit too.
func (r *Repo) Begin(ctx context.Context, o SessionOptions) (*Session, error) {
	s, err := r.begin(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("beginning session: %w", err)
	}
	return s, nil
}

func (r *Repo) begin(ctx context.Context, o SessionOptions) (*Session, error) {
	if r.keys.Identity == nil {
		return nil, ErrNeedHost
	}
	cert := r.trust.Certificate(r.keys.Identity.Host)
	if r.trust.Revoked(r.keys.Identity.Host) {
		return nil, ErrRevoked
	}
	if cert == nil || cert.Roles&(crypt.RoleWriter|crypt.RolePrune) == 0 {
		return nil, ErrNeedHost
	}
	if r.unsure != nil {
		return nil, r.unsure
	}
	if r.now().Add(clockSkew).Unix() < cert.Before {
		return nil, fmt.Errorf("%w: its certificate begins %v", ErrNeedHost, time.Unix(cert.Before, 0).UTC())
	}
	if cert.After != 0 && r.now().Unix() > cert.After {
		return nil, fmt.Errorf("%w: its certificate ended %v", ErrNeedHost, time.Unix(cert.After, 0).UTC())
	}
	if o.Purpose == "" {
		o.Purpose = "backup"
	}
	if o.Compression == "" {
		o.Compression = r.settings.Compression
	}
	pace, err := pack.NewPace(o.Compression, r.now)
	if err != nil {
		return nil, err
	}
	read, err := r.settings.ReadKeys[len(r.settings.ReadKeys)-1].Public()
	if err != nil {
		return nil, err
	}
	key, rec, err := crypt.NewSession(r.config.ID, r.keys.Identity, read)
	if err != nil {
		return nil, err
	}
	s := &Session{ID: rec.Session, Started: r.now(), r: r, o: o, pace: pace, key: key, record: rec.Bytes(), nonce: [32]byte(rec.Nonce),
		target: int(r.settings.PackSize), parity: int(r.settings.Parity), variant: pack.ShardBLAKE3}
	s.storage = r.storage
	if r.keeper != nil {
		s.keeper = r.keeper.Class(o.Retention)
		if o.Purpose == "backup" { // others copy what is promised elsewhere
			s.keeper = s.keeper.Strict()
		}
		s.storage = s.keeper
	}
	if r.config.Profile == format.FIPS {
		s.variant = pack.ShardSHA256
	}
	r.mu.Lock()
	if r.active {
		r.mu.Unlock()
		return nil, errActive
	}
	r.active = true
	r.sessions[s.ID] = key
	r.mu.Unlock()
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.flush = new(errgroup.Group)
	flushers := 1
	if r.surveys.Far() {
		flushers = min(max(openPacks/s.target-1, 1), maxFlushers)
	}
	s.flush.SetLimit(flushers)
	s.data = s.filler(crypt.TypeDataPack, s.target, flushers+1)
	s.data.Pace = pace
	s.tree = s.filler(crypt.TypeTreePack, min(s.target, treePackSize), 2)
	s.segmentAt = s.Started
	if err := s.start(ctx); err != nil {
		s.Close(ctx)
		return nil, err
	}
	return s, nil
}

// start makes the calls whose order is the safety of the repository: the lease, then condemned sets and finals, then the index, then
// packs that no index names.
func (s *Session) start(ctx context.Context) error {
	if err := s.putLease(ctx, 0); err != nil {
		return err
	}
	// With a listing of the packs: what the storage lost is stored again by the next backup, whatever its type.
	s.r.loadMu.Lock()
	if s.o.Alone {
		s.r.alone = s.ID
	}
	s.r.loadMu.Unlock()
	if err := s.r.LoadListed(ctx); err != nil {
		return err
	}
	s.x = s.r.index.Load()
	s.x.ForgetUsed()
	return s.Alive(ctx, s.adopt)
}

// putLease stores the lease or its n-th renewal.
func (s *Session) putLease(ctx context.Context, n uint32) error {
	name := format.LeaseName(s.ID, n)
	l := format.Lease{Session: s.ID, Host: s.r.keys.Identity.Host, Nonce: s.nonce[:], Time: s.r.now().Unix(), Renewal: n, Purpose: s.o.Purpose}
	_, object, err := s.r.SealControl(crypt.TypeLease, name, canon.Marshal(l))
	if err != nil {
		return err
	}
	var said backends.Receipt
	err = stored.CreateWith(ctx, s.r.storage, name, object, backends.PutOptions{Receipt: &said})
	if said.Checksum != "" { // as it will of the record, which says so before it is stored
		s.confirmed.Store(true)
	}
	return err
}

// KeepAlive renews the lease until ctx ends or a renewal fails. It runs beside the work, in the caller's group; Begin and Commit renew by themselves.
func (s *Session) KeepAlive(ctx context.Context) error {
	t := time.NewTicker(RenewEvery)
	defer t.Stop()
	for n := s.renewals.Load() + 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		s.renewals.Store(n) // before the call: it may have its effect without an answer
		if err := s.putLease(ctx, n); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("renewing lease: %w", err)
		}
	}
}

// Alive runs f, which may take long, beside KeepAlive.
func (s *Session) Alive(ctx context.Context, f func(ctx context.Context) error) error {
	g, gctx := errgroup.WithContext(ctx)
	working, done := context.WithCancel(gctx)
	g.Go(func() error { return s.KeepAlive(working) })
	g.Go(func() error {
		defer done()
		return f(gctx)
	})
	return g.Wait()
}

// Has reports whether blob id is stored, as this session may count on it.
func (s *Session) Has(id crypt.ID) bool { return s.x.Has(id) }

// Repo returns the repository the session writes to.
func (s *Session) Repo() *Repo { return s.r }

// Worker stores blobs. Each goroutine has its own.
type Worker struct {
	s     *Session
	codec *pack.Codec
}

// NewWorker returns a worker of the session.
func (s *Session) NewWorker() (*Worker, error) {
	c, err := pack.NewCodec(s.pace.Level())
	if err != nil {
		return nil, fmt.Errorf("making worker: %w", err)
	}
	return &Worker{s: s, codec: c}, nil
}

// Fallbacks is how many blobs were stored uncompressed because the encoder's result did not decode.
func (w *Worker) Fallbacks() int { return w.codec.Fallbacks() }

// Store stores plain as a data blob unless it is there, and returns its ID and whether it was new. SHA-256 comes before anything else
// touches the bytes. A failure fails the session.
func (w *Worker) Store(plain []byte) (crypt.ID, bool, error) { return w.store(w.s.data, plain) }

// StoreTree is Store for a tree page.
func (w *Worker) StoreTree(plain []byte) (crypt.ID, bool, error) { return w.store(w.s.tree, plain) }

func (w *Worker) store(f *pack.Filler, plain []byte) (crypt.ID, bool, error) {
	id := crypt.Sum(plain)
	s := w.s
	if !s.x.Claim(id) {
		return id, false, nil
	}
	w.codec.SetLevel(s.pace.Level())
	data, comp := w.codec.Compress(plain)
	b := &pack.Blob{ID: id, Plain: plain, Data: data, Compression: comp}
	if err := f.Add(w.codec, b); err != nil {
		err = fmt.Errorf("storing blob %v: %w", id, err)
		s.cancel(err)
		return id, false, err
	}
	s.blobs.Add(1)
	s.bytesNew.Add(uint64(len(plain)))
	s.bytesStored.Add(uint64(len(b.Data)) + crypt.Overhead)
	return id, true, nil
}

// filler fills packs of a kind, of which at most n are in memory.
func (s *Session) filler(kind crypt.Type, target, n int) *pack.Filler {
	begin := func(buf []byte) (*pack.Builder, error) {
		h := crypt.Header{Type: kind, Variant: s.variant, Epoch: s.r.settings.WriteEpoch, Salt: crypt.NewSalt(nil)}
		key, err := s.key.PackKey(s.r.config.ID, h.Salt)
		if err != nil {
			return nil, err
		}
		return pack.NewBuilder(buf, pack.Options{Header: h, Key: key, Target: target, Parity: s.parity, Session: s.record})
	}
	full := func(b *pack.Builder, free func()) {
		s.flush.Go(func() error {
			err := s.finishPack(b)
			if err != nil {
				s.cancel(err)
			}
			free()
			return err
		})
	}
	return pack.NewFiller(s.ctx, n, pack.BufferSize(target, s.parity), begin, full)
}

// finishPack completes a pack, stores it, reads it back, and adds it to the index.
func (s *Session) finishPack(p *pack.Builder) error {
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	r := s.r
	id := r.keys.Identity
	f, err := p.Finish(r.coder, pack.TableSealer{
		Sign: func(digest [32]byte) ([64]byte, error) {
			return [64]byte(crypt.Sign(id.Sign, crypt.TypePackTable, r.config.ID, s.ID.String(), digest[:])), nil
		},
		Seal: func(plain []byte) ([32]byte, []byte, error) {
			return r.keys.Writes[p.Header().Epoch].SealTable(r.config.ID, p.Header(), plain)
		},
	})
	if err != nil {
		return err
	}
	tree := f.Trailer.Header.Type == crypt.TypeTreePack
	name := format.PackName(f.Name, tree, 0)
	if err := s.put(s.ctx, name, f.Data); err != nil {
		return err
	}
	s.packs.Add(1)
	s.packBytes.Add(uint64(len(f.Data)))
	if err := s.addPack(f.Trailer, f.Name, f.Entries, s.record); err != nil {
		return err
	}
	if r.now().Sub(s.segmentTime()) >= segmentEvery {
		return s.putSegments(s.ctx)
	}
	return nil
}

// put stores an object and makes sure that the storage has the very bytes: it reports a checksum of them, or they are read back.
func (s *Session) put(ctx context.Context, name string, object []byte) error {
	if s.o.NoValidate {
		return stored.Put(ctx, s.storage, name, object, backends.PutOptions{})
	}
	var said backends.Receipt
	if err := stored.Put(ctx, s.storage, name, object, backends.PutOptions{Receipt: &said}); err != nil {
		return err
	}
	if said.Checksum != "" {
		s.confirmed.Store(true)
		return nil
	}
	return s.fenced(s.r.surveys.Compare(ctx, name, object))
}

// lean makes sure that what the snapshot will lean on stays as long as its class promises, before anybody sees the snapshot. What the session itself
// stored counts too: it may have taken long.
func (s *Session) lean(ctx context.Context) error {
	if s.keeper == nil {
		return nil
	}
	_, err := s.keeper.Hold(ctx, func(yield func(writeonce.Object, error) bool) {
		for p, err := range s.x.Used() {
			o := writeonce.Object{Class: s.o.Retention}
			if err == nil {
				o.Name = format.PackName(p.Name, p.Tree(), p.Incarnation)
			}
			if !yield(o, err) {
				return
			}
		}
	})
	if err = s.fenced(err); errors.Is(err, ErrFenced) {
		return err
	}
	if stored.Missing(err) { // it was there when the session began
		return stored.Damaged("extending the lock of a pack in", "packs/", fmt.Errorf("%v", err))
	}
	return stored.Failed("extending the lock of a pack in", "packs/", err)
}

// fenced is ErrFenced where err says that what the session stored just now is gone, because a prune judged it dead.
func (s *Session) fenced(err error) error {
	if stored.Missing(err) {
		if _, gone := stored.Stat(s.ctx, s.r.storage, "snapshots/"+s.ID.String()); gone == nil {
			return ErrFenced
		}
	}
	return err
}

// addPack makes the blobs of a stored pack known.
func (s *Session) addPack(t *pack.Trailer, name crypt.ID, entries []pack.Entry, record []byte) error {
	p := packOf(t, name)
	p.Retention = s.o.Retention
	return s.x.Add(p, record, entriesOf(entries))
}

func packOf(t *pack.Trailer, name crypt.ID) index.Pack {
	return index.Pack{PackID: index.PackID{Name: name}, Kind: t.Header.Type, Size: uint64(t.FileSize()),
		Salt: t.Header.Salt, Epoch: t.Header.Epoch, Trailer: t.Compact(nil)}
}

func entriesOf(entries []pack.Entry) []index.Entry {
	list := make([]index.Entry, len(entries))
	for i, e := range entries {
		list[i] = index.Entry{ID: e.ID, Offset: e.Offset, Length: e.Length, Raw: e.Raw, Compression: e.Compression}
	}
	return list
}

func (s *Session) segmentTime() time.Time {
	s.segmentMu.Lock()
	defer s.segmentMu.Unlock()
	return s.segmentAt
}

// segmentEntries is how many blobs a segment holds at most: 100,000 are 5 MB.
const segmentEntries = 100_000

// putSegments stores index segments for all packs that are stored and not yet named by one.
func (s *Session) putSegments(ctx context.Context) error {
	s.segmentMu.Lock()
	defer s.segmentMu.Unlock()
	s.segmentAt = s.r.now()
	for {
		seg := s.x.Unsaved(segmentEntries)
		if seg == nil {
			return nil
		}
		id, err := s.PutSegment(ctx, seg)
		if err != nil {
			return err
		}
		if err := s.x.Saved(id, seg); err != nil {
			return err
		}
	}
}

// PutSegment stores an index segment of this session. Whoever calls it sees to it that what it says is so.
func (s *Session) PutSegment(ctx context.Context, seg *index.Segment) (id crypt.ID, err error) {
	seg.Host, seg.Session, seg.Nonce = s.r.keys.Identity.Host, s.ID, s.nonce
	body, err := seg.Marshal()
	if err != nil {
		return id, err
	}
	name, object, err := s.r.SealControl(crypt.TypeIndex, "index/", body)
	if err != nil {
		return id, err
	}
	if err := s.put(ctx, name, object); err != nil {
		return id, err
	}
	return crypt.ParseID(strings.TrimPrefix(name, "index/"))
}

// Journal is the audit log, as a commit needs it: the entry is durable before the snapshot is, so the log may name a change
// that did not happen, and never misses one that did.
type Journal interface {
	// Committing appends an entry about the session that is about to commit and returns the log's size and root with it.
	Committing(ctx context.Context, rec *snapshot.Record) (size uint64, root [32]byte, err error)
}

// Commit makes a snapshot of what the session stored, or, with the Kind Copied, makes the records in rec.Copied count: open packs, index segments, audit entry, and then the record, by exclusive create.
// Of a snapshot rec.Start, Type, Root, Lineage, Parent, Retention and the file counts of Stats are the caller's, the rest is filled in.
// ErrFenced says that the session was declared dead: the caller begins a new one and trusts nothing it remembers. After any other error
// of the storage the snapshot may nevertheless be there, if the call whose answer was lost was the last one; Close settles that.
func (s *Session) Commit(ctx context.Context, rec *snapshot.Record, body *snapshot.Body, j Journal) (*Snapshot, error) {
	if s.ended {
		return nil, fmt.Errorf("committing session %v: it has ended", s.ID)
	}
	snap, err := s.commit(ctx, rec, body, j)
	if err != nil {
		return nil, fmt.Errorf("committing session %v: %w", s.ID, err)
	}
	return snap, nil
}

// Flush stores the open packs and waits until all are stored.
func (s *Session) Flush() error {
	s.data.Finish()
	s.tree.Finish()
	if err := s.flush.Wait(); err != nil {
		if cause := context.Cause(s.ctx); cause != nil {
			return cause
		}
		return err
	}
	return context.Cause(s.ctx)
}

func (s *Session) commit(ctx context.Context, rec *snapshot.Record, body *snapshot.Body, j Journal) (*Snapshot, error) {
	var object []byte
	err := s.Alive(ctx, func(ctx context.Context) (err error) {
		object, err = s.create(ctx, rec, body, j)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.end(true)
	for n := range s.renewals.Load() + 1 { // nothing depends on it
		_ = s.r.storage.Delete(ctx, format.LeaseName(s.ID, n))
	}
	return &Snapshot{Record: *rec, Name: "snapshots/" + s.ID.String(), Object: crypt.Sum(object)}, nil
}

// create stores what is open, and then creates and returns the object that makes the snapshot.
func (s *Session) create(ctx context.Context, rec *snapshot.Record, body *snapshot.Body, j Journal) ([]byte, error) {
	r := s.r
	if err := s.Flush(); err != nil {
		return nil, err
	}
	s.data.Drop()
	s.tree.Drop()
	if err := s.putSegments(ctx); err != nil {
		return nil, err
	}
	if err := s.lean(ctx); err != nil {
		return nil, err
	}
	plain, err := body.Marshal()
	if err != nil {
		return nil, err
	}
	sealed, err := s.key.SealBody(r.config.ID, s.ID, plain)
	if err != nil {
		return nil, err
	}
	by := r.surveys.Recent()
	if by == nil {
		if by, err = r.surveys.All(ctx); err == nil && by == nil {
			by, err = r.surveys.Parts(ctx, "snapshots/", "forgotten/")
		}
		if err != nil {
			return nil, fmt.Errorf("reading snapshots: %w", err)
		}
	}
	all, gone, unread, err := r.snapshots(ctx, by)
	if err != nil {
		return nil, fmt.Errorf("reading snapshots: %w", err)
	}
	rec.Session, rec.Host, rec.Nonce = s.ID, r.keys.Identity.Host, s.nonce
	if rec.Kind == 0 {
		rec.Kind = snapshot.Snapshot
	}
	rec.Body = canon.Marshal(format.SealedBody{Session: s.record, Sealed: sealed})
	earlier := make([]snapshot.Stored, len(all))
	for i, a := range all {
		earlier[i] = snapshot.Stored{Record: &a.Record, Object: a.Object}
	}
	for _, a := range gone {
		earlier = append(earlier, snapshot.Stored{Record: &a.Record, Object: a.Object, Forgotten: true})
	}
	rec.Number, rec.Prev, rec.Seen = snapshot.Links(earlier, rec.Host)
	rec.Number += uint64(unread)
	if rec.Kind == snapshot.Snapshot {
		rec.Stats.Blobs, rec.Stats.BytesNew, rec.Stats.BytesStored = s.blobs.Load(), s.bytesNew.Load(), s.bytesStored.Load()
	}
	if !s.o.NoValidate {
		rec.Validation = snapshot.ReadBack
		if s.confirmed.Load() {
			rec.Validation = snapshot.Confirmed
		}
	}
	if j != nil {
		if rec.AuditSize, rec.AuditRoot, err = j.Committing(ctx, rec); err != nil {
			return nil, err
		}
	}
	end := r.now()
	rec.End = snapshot.Time{Sec: end.Unix(), Nsec: uint32(end.Nanosecond())}
	b, err := rec.Marshal()
	if err != nil {
		return nil, err
	}
	name := "snapshots/" + s.ID.String()
	_, object, err := r.SealControl(crypt.TypeSnapshot, name, b)
	if err != nil {
		return nil, err
	}
	// The commit. Whoever else creates this name first, a prune that judged this session dead, has decided.
	var said backends.Receipt
	if err := stored.CreateWith(ctx, s.storage, name, object, backends.PutOptions{Receipt: &said}); stored.Exists(err) {
		r.reportInvalid(ctx, name)
		return nil, ErrFenced
	} else if err != nil {
		return nil, err
	}
	if !s.o.NoValidate && said.Checksum == "" {
		// From here on it counts, so that it could not be read again is no failure: that it is not what was meant is.
		if err := r.surveys.Compare(ctx, name, object); stored.Isolated(err) || stored.Missing(err) {
			return nil, err
		}
	}
	return object, nil
}

// reportInvalid makes an object that took a commit's name a Problem if it is no commit and no void.
func (r *Repo) reportInvalid(ctx context.Context, name string) {
	b, err := stored.Fetch(ctx, r.storage, name)
	if err == nil {
		_, err = r.SnapshotObject(name, b)
	}
	if stored.Isolated(err) {
		r.problem(name, err)
	}
}

// end frees the Repo for the next session. One that did not commit leaves claims of blobs that it never stored: the next session
// reads the index anew.
func (s *Session) end(committed bool) {
	s.ended = true
	s.r.loadMu.Lock()
	s.r.alone = crypt.SessionID{}
	s.r.loadMu.Unlock()
	s.cancel(context.Canceled)
	s.flush.Wait()
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.active = false
	s.r.stale = s.r.stale || !committed
}

// Close ends a session that has not committed: it waits for what is under way, and creates the session's void, so that no prune need wait for
// it, and no commit whose answer was lost can still come to be. The lease stays as a sign that there may be packs to adopt. After Commit it does
// nothing. No other method may be running or be called later.
func (s *Session) Close(ctx context.Context) {
	if s.ended {
		return
	}
	s.end(false)
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer stop()
	// Best effort: without the void a prune judges the session dead in an hour.
	_ = s.r.putVoid(ctx, s.ID, s.nonce)
}

// putVoid ends a session of this host without a snapshot.
func (r *Repo) putVoid(ctx context.Context, id crypt.SessionID, nonce [32]byte) error {
	return r.putVoidOf(ctx, id, r.keys.Identity.Host, nonce)
}

func (r *Repo) putVoidOf(ctx context.Context, id crypt.SessionID, host crypt.HostID, nonce [32]byte) error {
	rec := snapshot.Record{Session: id, Host: host, Nonce: nonce, Kind: snapshot.Void}
	b, err := rec.Marshal()
	if err != nil {
		return err
	}
	name := "snapshots/" + id.String()
	_, object, err := r.SealControl(crypt.TypeSnapshot, name, b)
	if err != nil {
		return err
	}
	if err := stored.Create(ctx, r.storage, name, object); err != nil && !stored.Exists(err) {
		return err
	}
	return nil
}

// dropLeases removes the leases of ended sessions of this host. Nothing depends on it.
func (r *Repo) dropLeases(ctx context.Context, ended ...crypt.SessionID) {
	infos, _, err := stored.List(ctx, r.storage, "leases/")
	if err != nil {
		return
	}
	for _, i := range infos {
		for _, id := range ended {
			if strings.HasPrefix(i.Name, "leases/"+id.String()) {
				_ = r.storage.Delete(ctx, i.Name)
			}
		}
	}
}

// StoredStats returns what the session stored so far: new blobs, their bytes before and after compression, packs and their bytes, and packs adopted.
func (s *Session) StoredStats() Stored {
	return Stored{Blobs: s.blobs.Load(), BytesNew: s.bytesNew.Load(), BytesStored: s.bytesStored.Load(),
		Packs: s.packs.Load(), PackBytes: s.packBytes.Load(), Adopted: s.adopted.Load()}
}

// Stored counts what a session stored.
type Stored struct {
	Blobs, BytesNew, BytesStored uint64
	Packs, PackBytes             uint64
	Adopted                      uint64 // packs of a crashed session, found again
}
