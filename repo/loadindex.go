package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"packhold/crypt"
	"packhold/index"
	"packhold/pack"
)

// LoadIndex reads what the storage says of packs: first the condemned sets and finals, then the index segments, as far as the
// cache does not hold them. It is called before anything looks up blobs, and again where a pack that should be there is missing.
// It must not run beside lookups.
func (r *Repo) LoadIndex(ctx context.Context) error {
	if err := r.loadIndex(ctx); err != nil {
		return fmt.Errorf("reading index: %w", err)
	}
	return nil
}

func (r *Repo) loadIndex(ctx context.Context) error {
	excluded, err := r.readCondemned(ctx)
	if err != nil {
		return err
	}
	infos, _, err := List(ctx, r.storage, "index/")
	if err != nil {
		return err
	}
	live := make(map[crypt.ID]struct{}, len(infos))
	for _, i := range infos {
		id, err := crypt.ParseID(strings.TrimPrefix(i.Name, "index/"))
		if err != nil {
			return damaged("listing", i.Name, err)
		}
		live[id] = struct{}{}
	}
	if r.index == nil {
		r.index = index.New()
		if r.cache != "" {
			r.index, _ = index.Open(r.cache, r.cacheKey()) // a cold cache costs time, nothing else
		}
	}
	if r.index.Err() != nil { // the cache failed while in use
		r.index = index.New()
	}
	x := r.index
	x.Retain(live)
	x.Exclude(excluded)
	x.ExcludeSessions(r.absentSession)
	have := make(map[crypt.ID]struct{})
	for _, id := range x.Segments() {
		have[id] = struct{}{}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for id := range live {
		if _, ok := have[id]; ok {
			continue
		}
		g.Go(func() error { return r.loadSegment(gctx, id) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return x.Err()
}

// cacheKey authenticates this repository's cache on this machine. Without a credential it comes from the chunker secret, which every
// holder of a passphrase has.
func (r *Repo) cacheKey() [32]byte {
	secret := r.keys.Chunker
	if r.keys.Local != nil {
		secret = *r.keys.Local
	}
	return crypt.Sum(append(append([]byte("packhold/local/index"), secret[:]...), r.config.ID[:]...))
}

// absentSession reports whether packs of a session do not count for dedup: those of a revoked host.
func (r *Repo) absentSession(record []byte) bool {
	rec, err := crypt.ParseSessionRecord(record)
	return err != nil || r.trust.Revoked(rec.Host)
}

// loadSegment adds one segment. A bad one is isolated and reported; the others still count.
func (r *Repo) loadSegment(ctx context.Context, id crypt.ID) error {
	name := "index/" + id.String()
	err := r.readSegment(ctx, name, id)
	switch {
	case errors.Is(err, ErrDamaged) || errors.Is(err, ErrTampered):
		r.problem(name, err)
		return nil
	case isMissing(err): // compacted between the listing and now: what replaced it was listed or will be
		return nil
	}
	return err
}

func (r *Repo) readSegment(ctx context.Context, name string, id crypt.ID) error {
	seg, err := r.Segment(ctx, name)
	if err != nil {
		return err
	}
	if err := r.index.AddSegment(id, seg); err != nil {
		return damaged("reading", name, err)
	}
	return nil
}

// Segment reads and checks one index segment: its signer is the host of its session, and speaks only for packs of its own sessions
// unless it has the prune role. Errors match ErrDamaged, ErrTampered, or are the storage's.
func (r *Repo) Segment(ctx context.Context, name string) (*index.Segment, error) {
	b, err := Fetch(ctx, r.storage, name)
	if err != nil {
		return nil, err
	}
	return r.parseSegment(name, b)
}

func (r *Repo) parseSegment(name string, object []byte) (*index.Segment, error) {
	s, err := r.openSigned(crypt.TypeIndex, name, object)
	if err != nil {
		return nil, err
	}
	seg, err := index.ParseSegment(s.Body)
	if err != nil {
		return nil, damaged("reading", name, err)
	}
	if crypt.HostID(seg.Host) != s.Signer || crypt.NewSessionID(s.Signer, seg.Nonce) != crypt.SessionID(seg.Session) {
		return nil, tampered("reading", name, errors.New("its session is not its signer's"))
	}
	cert := r.trust.Certificate(s.Signer)
	prune := cert != nil && cert.Roles&crypt.RolePrune != 0
	if len(seg.Supersedes) > 0 && !prune {
		return nil, tampered("reading", name, errors.New("only the prune role supersedes segments"))
	}
	for _, b := range seg.Sessions {
		rec, err := crypt.ParseSessionRecord(b)
		if err == nil {
			err = r.trust.CheckSession(rec)
		}
		if err == nil && rec.Host != s.Signer && !prune {
			err = fmt.Errorf("it speaks for packs of host %v", rec.Host)
		}
		if err != nil {
			return nil, tampered("reading", name, err)
		}
	}
	for i := range seg.Packs {
		p := &seg.Packs[i]
		t, err := pack.ParseCompact(p.Trailer)
		if err != nil {
			return nil, damaged("reading", name, err)
		}
		if t.Name() != p.Name || t.Header.Type != p.Kind || t.Header.Salt != p.Salt || t.Header.Epoch != p.Epoch || uint64(t.FileSize()) != p.Size {
			return nil, damaged("reading", name, fmt.Errorf("what it says of pack %v is not what the pack's trailer says", p.Name))
		}
	}
	return seg, nil
}

// Index returns the loaded index; nil before LoadIndex.
func (r *Repo) Index() *index.Index { return r.index }

// SaveCache writes the index cache, so that the next run need not read the segments. A failure costs time only: the caller
// may tell, and goes on.
func (r *Repo) SaveCache() error {
	if r.cache == "" || r.index == nil || r.index.TailLen() == 0 {
		return nil
	}
	return r.index.WriteCache(r.cache, r.cacheKey())
}
