package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
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
		if !KnownName(info.Name) || !strings.HasPrefix(info.Name, prefix) {
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

// Caps of objects by their kind, bytes: what is longer is damaged and not read at all.
const (
	maxSmall  = 16 << 10         // leases, certificates, key slots: real ones take 1 to 5 KiB
	maxSecret = 1<<20 + 4<<10    // bundles and grants
	maxGroup  = 256<<20 + 32<<20 // parity shards and the sealed part
	maxOther  = crypt.MaxObject  // everything else that is no pack
)

func sizeLimit(name string) int64 {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "replica/1/"), "replica/2/")
	prefix, _, _ := strings.Cut(name, "/")
	switch prefix {
	case "config":
		return maxConfig
	case "keys", "hosts", "leases", "roots":
		return maxSmall
	case "bundles", "grants":
		return maxSecret
	case "group":
		return maxGroup
	}
	return maxOther
}

// Fetch reads a whole object that is not a pack. One that is longer than its kind ever is matches ErrDamaged, and is not read.
func Fetch(ctx context.Context, s backends.Storage, name string) ([]byte, error) {
	info, err := s.Stat(ctx, name)
	if err != nil {
		return nil, storageErr("reading", name, err)
	}
	if limit := sizeLimit(name); info.Size > limit {
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

// subjectOf is what the signature and AAD of an object speak of: its name below the prefix, and nothing for objects that are
// named by their own hash.
func subjectOf(t crypt.Type, name string) string {
	switch t {
	case crypt.TypeIndex, crypt.TypeForgotten, crypt.TypeMark, crypt.TypeVerified, crypt.TypeGroup, crypt.TypeRoots:
		return ""
	case crypt.TypeHost:
		return strings.SplitN(strings.TrimPrefix(name, "hosts/"), "-", 2)[0]
	}
	_, rest, _ := strings.Cut(name, "/")
	return rest
}

// sealSigned makes an object: body signed by this process's host (or the root), sealed under the current W.
// For content-named objects name is the prefix, and the full name is returned.
func (r *Repo) sealSigned(t crypt.Type, name string, body []byte, asRoot bool) (string, []byte, error) {
	subject := subjectOf(t, name)
	var signed []byte
	switch {
	case asRoot && r.keys.Admin != nil:
		signed = r.keys.Admin.Sign(t, subject, body)
	case asRoot:
		return "", nil, ErrNeedAdmin
	case r.keys.Identity == nil:
		return "", nil, ErrNeedHost
	default:
		id := r.keys.Identity
		signed = id.SignBody(t, r.config.ID, subject, body)
	}
	epoch := r.settings.WriteEpoch
	w, ok := r.keys.Writes[epoch]
	if !ok {
		return "", nil, fmt.Errorf("sealing %s: write secret of epoch %d: %w", name, epoch, ErrNoKey)
	}
	object, err := w.SealObject(r.config.ID, epoch, t, subject, signed)
	if err != nil {
		return "", nil, err
	}
	if subject == "" || t == crypt.TypeHost {
		sum := crypt.Sum(object)
		name += sum.String()
	}
	return name, object, nil
}

// openSigned opens an object, checks that its name and its signer's role fit, and returns the body.
func (r *Repo) openSigned(t crypt.Type, name string, object []byte) (*crypt.Signed, error) {
	s, err := r.unseal(t, name, object)
	if err != nil {
		return nil, err
	}
	if err := r.trust.Check(t, subjectOf(t, name), s); err != nil {
		return nil, tampered("reading", name, err)
	}
	return s, nil
}

// unseal is openSigned without the signature.
func (r *Repo) unseal(t crypt.Type, name string, object []byte) (*crypt.Signed, error) {
	subject := subjectOf(t, name)
	if subject == "" || t == crypt.TypeHost {
		sum := sha256.Sum256(object)
		if !strings.HasSuffix(name, crypt.ID(sum).String()) {
			return nil, damaged("reading", name, errors.New("the bytes do not match the name"))
		}
	}
	h, err := crypt.ParseHeader(object)
	if err != nil {
		return nil, damaged("reading", name, err)
	}
	w, ok := r.keys.Writes[h.Epoch]
	if !ok {
		return nil, damaged("reading", name, fmt.Errorf("write secret of epoch %d: %w", h.Epoch, ErrNoKey))
	}
	body, err := w.OpenObject(r.config.ID, t, subject, object)
	if err != nil {
		return nil, damaged("reading", name, err)
	}
	s, err := crypt.ParseSigned(body)
	if err != nil {
		return nil, damaged("reading", name, err)
	}
	return s, nil
}

// put stores an object under a name that nobody else has. Content-named objects may be there already.
func (r *Repo) put(ctx context.Context, name string, object []byte, opts backends.PutOptions) error {
	return storageErr("storing", name, r.storage.Put(ctx, name, object, opts))
}

// putExclusive creates name, or reports fs.ErrExist. Finding the very bytes there is success: the answer to an earlier try of this
// call was lost. No other call can have made them, since every object has a random salt.
func (r *Repo) putExclusive(ctx context.Context, name string, object []byte) error {
	err := r.put(ctx, name, object, backends.PutOptions{IfAbsent: true})
	if !exists(err) {
		return err
	}
	there, gerr := Fetch(ctx, r.storage, name)
	switch {
	case gerr == nil && bytes.Equal(there, object):
		return nil
	case gerr != nil && !isolated(gerr):
		return gerr
	}
	return err
}

// exists reports whether err says that an exclusive create lost.
func exists(err error) bool { return errors.Is(err, fs.ErrExist) }
