package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/pack"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/stored"
)

// packKey finds the key of a pack: its session's key, unwrapped once, then the pack's salt.
func (r *Repo) packKey(p *index.PackInfo) (*crypt.PackKey, error) {
	// A session's number means something in its index alone; and two segments may say that one pack is of different sessions, of which
	// one lies: what the liar's word leads to must not stand in the way of the other.
	x := r.index.Load()
	at := packKeyID{x, p.Name, p.Session}
	r.mu.Lock()
	k := r.packKeys[at]
	r.mu.Unlock()
	if k != nil {
		return k, nil
	}
	record, err := x.Session(p.Session)
	if err != nil {
		return nil, err
	}
	key, err := r.sessionKey(record)
	if err != nil {
		return nil, err
	}
	if k, err = key.PackKey(r.config.ID, p.Salt); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.packKeys) >= maxPackKeys { // they cost a microsecond to make again
		clear(r.packKeys)
	}
	r.packKeys[at] = k
	return k, nil
}

// packKeyID names a derived pack key.
type packKeyID struct {
	x       *index.Index
	name    crypt.ID
	session uint32
}

// maxPackKeys bounds the memory of derived keys: 10,000 of about 100 bytes.
const maxPackKeys = 10_000

// sessionKey unwraps the key of a session from its record. Unwrapping costs 6 ms of RSA, so keys are kept.
func (r *Repo) sessionKey(record []byte) (crypt.SessionKey, error) {
	rec, err := crypt.ParseSessionRecord(record)
	if err != nil {
		return crypt.SessionKey{}, err
	}
	r.mu.Lock()
	key, ok := r.sessions[rec.Session]
	r.mu.Unlock()
	if ok {
		return key, nil
	}
	if err := r.trust.CheckSession(rec); err != nil {
		return key, err
	}
	k := r.keys.Read[rec.Epoch]
	if k == nil {
		if r.CanRead() {
			return key, fmt.Errorf("session %v: read key of epoch %d: %w", rec.Session, rec.Epoch, keyring.ErrNoKey)
		}
		return key, ErrNeedRead
	}
	if key, err = k.Unwrap(r.config.ID, rec); err != nil {
		return key, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions[rec.Session] = key
	return key, nil
}

// Reader opens blobs. Each goroutine has its own.
type Reader struct {
	r     *Repo
	codec *pack.Codec
	buf   []byte
}

// NewReader returns a Reader, which needs the passphrase (ErrNeedRead) and LoadIndex to have run.
func (r *Repo) NewReader() (*Reader, error) {
	if !r.CanRead() {
		return nil, ErrNeedRead
	}
	c, err := pack.NewCodec(0)
	if err != nil {
		return nil, fmt.Errorf("making reader: %w", err)
	}
	return &Reader{r: r, codec: c}, nil
}

// Locate finds the best place of a blob. A blob without one is ErrDamaged.
func (r *Repo) Locate(id crypt.ID) (index.Place, error) {
	x := r.index.Load()
	p, ok := x.Lookup(id)
	if !ok {
		if err := x.Err(); err != nil {
			return p, err
		}
		return p, stored.Damaged("finding", "blob "+id.String(), errors.New("no index segment knows it"))
	}
	return p, nil
}

// Open opens the sealed bytes of blob id that were read from p, and checks that they hash to id. The result is the Reader's
// and valid until the next call. Failures match ErrDamaged.
func (d *Reader) Open(id crypt.ID, p index.Place, sealed []byte) ([]byte, error) {
	key, err := d.r.packKey(p.Pack)
	if err == nil {
		info := crypt.BlobInfo{ID: id, Raw: p.Raw, Compression: p.Compression, Tree: p.Pack.Tree()}
		var plain []byte
		if plain, err = d.codec.Open(d.buf[:0], key, info, sealed); err == nil {
			if cap(plain) > cap(d.buf) { // what fits is in buf, cut to the blob's size
				d.buf = plain[:0]
			}
			return plain, nil
		}
	}
	if errors.Is(err, ErrNeedRead) || errors.Is(err, keyring.ErrNoKey) {
		return nil, err
	}
	name := format.PackName(p.Pack.Name, p.Pack.Tree(), p.Pack.Incarnation)
	return nil, &Error{Op: "reading blob " + id.String() + " of", Object: name, Off: int64(p.Offset), N: int64(p.Length), Err: fmt.Errorf("%w: %w", ErrDamaged, err)}
}

// ReadPack reads n bytes from off of a pack. They are the caller's, who may give them to backends.Release.
func (r *Repo) ReadPack(ctx context.Context, p *index.PackInfo, off, n int64) ([]byte, error) {
	name := format.PackName(p.Name, p.Tree(), p.Incarnation)
	b, err := r.storage.Get(ctx, name, off, n)
	if err != nil {
		if stored.Missing(err) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, &Error{Op: "reading pack", Object: name, Off: off, N: n, Err: fmt.Errorf("%w: %w", ErrDamaged, err)}
		}
		return nil, stored.Failed("reading pack", name, err)
	}
	return b, nil
}

// Get reads one blob, from whichever copy opens; the last resort is the pack's own parity. Where a pack is missing that the index names,
// or no index segment knows the blob, condemned sets and index are read once more before that is believed: a prune may have moved the
// blob. The result is the Reader's and valid until the next call. A blob that no copy yields matches ErrDamaged; where the storage did not let
// a copy be read, its error comes instead.
func (d *Reader) Get(ctx context.Context, id crypt.ID) ([]byte, error) {
	loads := d.r.loadCount()
	t := d.try(ctx, id)
	if t.err != nil && t.gone() {
		again, err := d.r.reread(ctx, loads, t.missing)
		if err != nil {
			return nil, err
		}
		if again {
			t = d.try(ctx, id)
		}
		d.r.noteGone(t.missing)
	}
	if t.err == nil || ctx.Err() != nil {
		return t.plain, t.err
	}
	for _, p := range t.places {
		if plain, err := d.mend(ctx, id, p); err == nil {
			d.r.problem(format.PackName(p.Pack.Name, p.Pack.Tree(), p.Pack.Incarnation), fmt.Errorf("%w; its parity made it good for this read", t.err))
			return plain, nil
		} else if ctx.Err() != nil {
			return nil, err
		}
	}
	return nil, t.err
}

// attempt is one try of all places of a blob.
type attempt struct {
	plain   []byte
	err     error // the storage's before damage: what could not be read is not lost
	places  []index.Place
	missing []index.PackID
}

// gone reports whether a newer index may say more.
func (t *attempt) gone() bool { return len(t.places) == 0 || len(t.missing) > 0 }

func (d *Reader) try(ctx context.Context, id crypt.ID) (t attempt) {
	t.places = d.r.index.Load().Places(id)
	if len(t.places) == 0 {
		_, t.err = d.r.Locate(id)
		return t
	}
	for _, p := range t.places {
		sealed, err := d.r.ReadPack(ctx, p.Pack, int64(p.Offset), int64(p.Length))
		if err == nil {
			t.plain, err = d.Open(id, p, sealed)
			backends.Release(sealed)
			if err == nil {
				t.err = nil
				return t
			}
		}
		if errors.Is(err, ErrNeedRead) || ctx.Err() != nil {
			t.err = err
			return t
		}
		if stored.Missing(err) {
			t.missing = append(t.missing, p.Pack.PackID)
		}
		if t.err == nil || errors.Is(t.err, ErrDamaged) && !errors.Is(err, ErrDamaged) {
			t.err = err
		}
	}
	return t
}

func (r *Repo) loadCount() uint64 {
	r.loadMu.Lock()
	defer r.loadMu.Unlock()
	return r.loads
}

// rereadShare and rereadLeast bound what blobs that no segment knows cost: after the first, the index is read again for them in at most a tenth
// of the time.
const (
	rereadShare = 10
	rereadLeast = time.Second
)

// maxGone bounds the memory of packs known to be missing: 100,000 of about 50 bytes. Beyond it each costs a reading of the index.
const maxGone = 100_000

// reread reads the index again, unless that was done since it was read loads times, or would tell nothing new: all of the missing packs
// were looked for before. It reports whether there is a newer index than the caller knew.
func (r *Repo) reread(ctx context.Context, loads uint64, missing []index.PackID) (bool, error) {
	r.loadMu.Lock() // held over storage calls: other readers that miss something wait for the same answer
	defer r.loadMu.Unlock()
	if r.loads != loads {
		return true, nil
	}
	if len(missing) == 0 {
		if r.reloaded && r.now().Sub(r.loaded).Abs() < max(rereadShare*r.loading, rereadLeast) {
			return false, nil
		}
		r.reloaded = true
	} else if !slices.ContainsFunc(missing, func(p index.PackID) bool { _, known := r.gone[p]; return !known }) {
		return false, nil
	}
	return true, r.loadLocked(ctx)
}

// noteGone remembers packs that are missing although the index was read again.
func (r *Repo) noteGone(missing []index.PackID) {
	if len(missing) == 0 {
		return
	}
	r.loadMu.Lock()
	defer r.loadMu.Unlock()
	for _, p := range missing {
		if len(r.gone) < maxGone {
			r.gone[p] = struct{}{}
		}
	}
}

// mend reads a blob from its pack as the parity restores it in memory. Nothing is written.
func (d *Reader) mend(ctx context.Context, id crypt.ID, p index.Place) ([]byte, error) {
	if _, err := d.r.packKey(p.Pack); err != nil {
		return nil, err
	}
	name := format.PackName(p.Pack.Name, p.Pack.Tree(), p.Pack.Incarnation)
	file, err := stored.ReadBroken(ctx, d.r.storage, name, int64(p.Pack.Size))
	if err != nil {
		return nil, err
	}
	good, err := d.r.coder.Repair(file, p.Pack.Name, nil)
	if err != nil {
		return nil, err
	}
	if int64(p.Offset)+int64(p.Length) > int64(len(good)) {
		return nil, ErrDamaged
	}
	return d.Open(id, p, good[p.Offset:p.Offset+p.Length])
}
