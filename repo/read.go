package repo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"packhold/crypt"
	"packhold/index"
	"packhold/pack"
)

// packKey finds the key of a pack: its session's key, unwrapped once, then the pack's salt.
func (r *Repo) packKey(p *index.PackInfo) (*crypt.PackKey, error) {
	r.mu.Lock()
	k := r.packKeys[p.Name]
	r.mu.Unlock()
	if k != nil {
		return k, nil
	}
	record, err := r.index.Session(p.Session)
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
	r.packKeys[p.Name] = k
	return k, nil
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
			return key, fmt.Errorf("session %v: read key of epoch %d: %w", rec.Session, rec.Epoch, ErrNoKey)
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
	p, ok := r.index.Lookup(id)
	if !ok {
		if err := r.index.Err(); err != nil {
			return p, err
		}
		return p, damaged("finding", "blob "+id.String(), errors.New("no index segment knows it"))
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
			d.buf = plain[:0]
			return plain, nil
		}
	}
	if errors.Is(err, ErrNeedRead) || errors.Is(err, ErrNoKey) {
		return nil, err
	}
	name := PackName(p.Pack.Name, p.Pack.Tree(), p.Pack.Incarnation)
	return nil, &Error{Op: "reading blob " + id.String() + " of", Object: name, Off: int64(p.Offset), N: int64(p.Length), Err: fmt.Errorf("%w: %w", ErrDamaged, err)}
}

// ReadPack reads n bytes from off of a pack.
func (r *Repo) ReadPack(ctx context.Context, p *index.PackInfo, off, n int64) ([]byte, error) {
	name := PackName(p.Name, p.Tree(), p.Incarnation)
	b, err := r.storage.Get(ctx, name, off, n)
	if err != nil {
		if isMissing(err) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, &Error{Op: "reading pack", Object: name, Off: off, N: n, Err: fmt.Errorf("%w: %w", ErrDamaged, err)}
		}
		return nil, storageErr("reading pack", name, err)
	}
	return b, nil
}

// Get reads one blob, from whichever copy opens; the last resort is the pack's own parity. The result is the
// Reader's and valid until the next call. A blob that no copy yields matches ErrDamaged.
func (d *Reader) Get(ctx context.Context, id crypt.ID) ([]byte, error) {
	var first error
	places := d.r.index.Places(id)
	for _, p := range places {
		sealed, err := d.r.ReadPack(ctx, p.Pack, int64(p.Offset), int64(p.Length))
		if err == nil {
			var plain []byte
			if plain, err = d.Open(id, p, sealed); err == nil {
				return plain, nil
			}
		}
		if !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		if first == nil {
			first = err
		}
	}
	for _, p := range places {
		if plain, err := d.mend(ctx, id, p); err == nil {
			d.r.problem(PackName(p.Pack.Name, p.Pack.Tree(), p.Pack.Incarnation), fmt.Errorf("%w; its parity made it good for this read", first))
			return plain, nil
		} else if ctx.Err() != nil {
			return nil, err
		}
	}
	if first == nil {
		_, first = d.r.Locate(id)
	}
	return nil, first
}

// mend reads a blob from its pack as the parity restores it in memory. Nothing is written.
func (d *Reader) mend(ctx context.Context, id crypt.ID, p index.Place) ([]byte, error) {
	file, err := d.r.ReadPack(ctx, p.Pack, 0, -1)
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
