package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/keyring"
	"packhold/repo/format"
)

// maxList caps how many names a listing may have: a hostile storage must not cost more than 512 MiB of memory, at 128 bytes a name.
// It is 128 TiB of 32 MiB packs.
const maxList = 4 << 20

// List returns the known names under prefix, sorted, and how many foreign ones were left out.
func List(ctx context.Context, s backends.Storage, prefix string) (infos []backends.Info, foreign int, err error) {
	for info, err := range s.List(ctx, prefix) {
		if err != nil {
			return nil, 0, storageErr("listing", prefix, err)
		}
		if !format.KnownName(info.Name) || !strings.HasPrefix(info.Name, prefix) {
			if foreign++; foreign > backends.MaxListed {
				return nil, 0, tampered("listing", prefix, fmt.Errorf("more than %d foreign names", backends.MaxListed))
			}
			continue
		}
		if len(infos) >= maxList {
			return nil, 0, tampered("listing", prefix, fmt.Errorf("more than %d names", maxList))
		}
		infos = append(infos, info)
	}
	sort.Slice(infos, func(i, j int) bool { return infos[i].Name < infos[j].Name })
	// A retried listing may repeat a name.
	out := infos[:0]
	for i, f := range infos {
		if i == 0 || f.Name != infos[i-1].Name {
			out = append(out, f)
		}
	}
	return out, foreign, nil
}

// Stat describes an object. A missing one is fs.ErrNotExist.
func Stat(ctx context.Context, s backends.Storage, name string) (backends.Info, error) {
	info, err := s.Stat(ctx, name)
	return info, storageErr("reading", name, err)
}

// Fetch reads a whole object that is not a pack. One that is longer than its kind ever is matches ErrDamaged, and is not read.
func Fetch(ctx context.Context, s backends.Storage, name string) ([]byte, error) {
	info, err := Stat(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if limit := format.MaxSize(name); info.Size > limit {
		return nil, damaged("reading", name, fmt.Errorf("%d bytes, the limit is %d", info.Size, limit))
	}
	b, err := s.Get(ctx, name, 0, info.Size)
	return b, storageErr("reading", name, err)
}

// fetchers is how many small objects are fetched at once: enough to hide the round trips of a network.
const fetchers = 8

// fetchEach reads the objects, several at once, and calls f for each, one call at a time, in any order. An error of f ends it.
func (r *Repo) fetchEach(ctx context.Context, infos []backends.Info, f func(i backends.Info, object []byte, err error) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	var mu sync.Mutex // one call of f at a time
	for _, i := range infos {
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			b, err := Fetch(gctx, r.storage, i.Name)
			mu.Lock()
			defer mu.Unlock()
			return f(i, b, err)
		})
	}
	return g.Wait()
}

// isolated reports whether err concerns one object alone, which is left out and reported: nothing else is ever skipped.
func isolated(err error) bool { return errors.Is(err, ErrDamaged) || errors.Is(err, ErrTampered) }

// SealControl makes an object: body signed by this process's host and sealed under the control key of the current write epoch. Of an object that
// is named by its hash, name is the part before, and the full name is returned. ErrNeedHost says that no host signs here.
func (r *Repo) SealControl(t crypt.Type, name string, body []byte) (full string, object []byte, err error) {
	id := r.keys.Identity
	if id == nil {
		return "", nil, ErrNeedHost
	}
	epoch := r.settings.WriteEpoch
	w, ok := r.keys.Writes[epoch]
	if !ok {
		return "", nil, fmt.Errorf("sealing %s: write secret of epoch %d: %w", name, epoch, keyring.ErrNoKey)
	}
	signed := id.SignBody(t, r.config.ID, format.Subject(t, name), body)
	return format.Sealer{Repo: r.config.ID, Epoch: epoch, Write: w}.Seal(t, name, signed)
}

// OpenControl opens an object, checks that its name and its signer's role fit, and returns the body. Revocation is the caller's to judge.
// Errors match ErrDamaged or ErrTampered.
func (r *Repo) OpenControl(t crypt.Type, name string, object []byte) (*crypt.Signed, error) {
	s, err := r.unseal(t, name, object)
	if err != nil {
		return nil, damaged("reading", name, err)
	}
	if err := r.trust.Check(t, format.Subject(t, name), s); err != nil {
		return nil, tampered("reading", name, err)
	}
	return s, nil
}

// unseal is OpenControl without the signature.
func (r *Repo) unseal(t crypt.Type, name string, object []byte) (*crypt.Signed, error) {
	if err := format.CheckName(t, name, object); err != nil {
		return nil, err
	}
	h, err := crypt.ParseHeader(object)
	if err != nil {
		return nil, err
	}
	w, ok := r.keys.Writes[h.Epoch]
	if !ok {
		return nil, fmt.Errorf("write secret of epoch %d: %w", h.Epoch, keyring.ErrNoKey)
	}
	body, err := w.OpenObject(r.config.ID, t, format.Subject(t, name), object)
	if err != nil {
		return nil, err
	}
	return crypt.ParseSigned(body)
}

// openBody is OpenControl for the objects whose body is a B.
func openBody[B format.Body](r *Repo, t crypt.Type, name string, object []byte) (v *B, signer crypt.HostID, err error) {
	s, err := r.OpenControl(t, name, object)
	if err != nil {
		return nil, signer, err
	}
	if v, err = format.Parse[B](s.Body); err != nil {
		return nil, signer, damaged("reading", name, err)
	}
	return v, s.Signer, nil
}

// Put stores an object under a name that nobody else has. Content-named objects may be there already.
func Put(ctx context.Context, s backends.Storage, name string, object []byte, opts backends.PutOptions) error {
	return storageErr("storing", name, s.Put(ctx, name, object, opts))
}

// Create stores an object exclusively, or reports fs.ErrExist. Finding the very bytes there is success: the answer to an earlier try of this
// call was lost. No other call can have made them, since every object has a random salt.
func Create(ctx context.Context, s backends.Storage, name string, object []byte) error {
	err := Put(ctx, s, name, object, backends.PutOptions{IfAbsent: true})
	if !exists(err) {
		return err
	}
	there, gerr := Fetch(ctx, s, name)
	switch {
	case gerr == nil && bytes.Equal(there, object):
		return nil
	case gerr != nil && !isolated(gerr):
		return gerr
	}
	return err
}

// Remove deletes an object; that it is gone already is no error.
func Remove(ctx context.Context, s backends.Storage, name string) error {
	if err := s.Delete(ctx, name); err != nil && !isMissing(err) {
		return storageErr("removing", name, err)
	}
	return nil
}

// exists reports whether err says that an exclusive create lost.
func exists(err error) bool { return errors.Is(err, fs.ErrExist) }
