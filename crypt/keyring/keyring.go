// Package keyring finds the keys of a repository among its objects.
//
// The objects come from whoever stores them, and any number of them may be junk: what is looked at, and what a passphrase is tried on, is bounded.
package keyring

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"packhold/crypt"
	"packhold/repo/format"
)

// Objects is a repository's storage.
type Objects interface {
	// List returns the names of the objects under prefix.
	List(ctx context.Context, prefix string) ([]string, error)

	// Fetch reads an object. bad says that it cannot be used, gone (fs.ErrNotExist) or damaged; err is the storage's.
	Fetch(ctx context.Context, name string) (object []byte, bad, err error)

	// Reject notes an object that is not used, and returns why in its own words. forged says that who stored it made it up.
	Reject(name string, why error, forged bool) error
}

// forged is for Objects.Reject.
const forged = true

// ErrNoKey is matched where a key is needed that is not there, or cannot be used.
var ErrNoKey = errors.New("no usable key")

// Ring is where keys are looked for, and who is believed.
type Ring struct {
	Objects Objects
	Repo    crypt.RepoID
	Root    ed25519.PublicKey // its key slots, bundles and grants count

	rejected error // why the first of the objects that cannot be used is not
}

// reject is Objects.Reject.
func (k *Ring) reject(name string, why error, forged bool) error {
	why = k.Objects.Reject(name, why, forged)
	if k.rejected == nil {
		k.rejected = why
	}
	return why
}

// The bounds of what is looked at.
const (
	maxSlots     = 1024
	maxSlotTries = 20  // without a hint: each wrong slot costs a key derivation, which a storage could make us pay for ever (restic #3776)
	maxBundles   = 100 // of one slot, the newest first
)

// Slot is a copy of a key slot that parses.
type Slot struct {
	*crypt.Slot
	Name   string // of its object
	Signed bool   // by the root
}

// Slots reads the key slots whose ids begin with hint: those that the root signed first, then copies of others, each in the order of their names.
// A bad copy is rejected and never hides a good one; a copy of another content than the signed one is left out. unread is why the storage
// gave no copy of some slot.
func (k *Ring) Slots(ctx context.Context, hint string) (found []Slot, unread, err error) {
	byID := make(map[string][]string) // id -> names
	for _, prefix := range slices.Backward(format.SlotPrefixes[:]) {
		names, err := k.Objects.List(ctx, prefix)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range names {
			if id := strings.TrimPrefix(name, prefix); strings.HasPrefix(id, hint) {
				byID[id] = append(byID[id], name)
			}
		}
	}
	ids := slices.Sorted(maps.Keys(byID))
	if len(ids) > maxSlots {
		k.reject("keys/", fmt.Errorf("%d key slots, only %d are looked at: name one by a hint", len(ids), maxSlots), forged)
		ids = ids[:maxSlots]
	}
	var signed, others []Slot
	for _, id := range ids {
		var bad []Slot
		var failed error
		before := len(signed)
		for _, name := range byID[id] {
			s, err := k.slot(ctx, name, id)
			switch {
			case ctx.Err() != nil:
				return nil, nil, ctx.Err()
			case err != nil: // the next copy may be on a good sector
				failed = err
			case s == nil:
			case s.CheckSigned(k.Root, k.Repo) != nil:
				bad = append(bad, Slot{s, name, false})
			case len(signed) == before:
				signed = append(signed, Slot{s, name, true})
			}
		}
		for _, s := range bad {
			k.reject(s.Name, fmt.Errorf("the root did not make this key slot: %w", crypt.ErrSignature), forged)
		}
		if len(signed) == before {
			others = append(others, bad...)
			if failed != nil {
				unread = failed
			}
		}
	}
	return append(signed, others...), unread, nil
}

// slot reads one copy; nil is one that cannot be used. An error is the storage's, and noted.
func (k *Ring) slot(ctx context.Context, name, id string) (*crypt.Slot, error) {
	object, bad, err := k.Objects.Fetch(ctx, name)
	if err != nil {
		k.reject(name, err, !forged)
		return nil, err
	}
	var s *crypt.Slot
	if bad == nil {
		if s, bad = crypt.ParseSlot(object); bad == nil && s.ID.String() != id {
			bad = crypt.ErrOpen
		}
	}
	if bad != nil {
		if !errors.Is(bad, fs.ErrNotExist) {
			k.reject(name, bad, !forged)
		}
		return nil, nil
	}
	return s, nil
}

// Opened is what a passphrase opened.
type Opened struct {
	Slot   crypt.SlotID // zero for an exported key
	Root   ed25519.PublicKey
	Bundle *crypt.Bundle
}

// Unlock opens a key slot whose id begins with hint by its passphrase, and the newest bundle for it. Of the reasons why none opens it returns the one
// that says most: a wrong passphrase (crypt.ErrPassphrase) says least. ErrNoKey is that there is no slot, or no bundle for it.
func (k *Ring) Unlock(ctx context.Context, passphrase []byte, hint string) (*Opened, error) {
	slots, worst, err := k.Slots(ctx, hint) // an unread slot may be the one that the passphrase opens
	if err != nil {
		return nil, err
	}
	for i, s := range slots {
		if i == maxSlotTries {
			worst = fmt.Errorf("%w: more than %d key slots, name one by a hint", ErrNoKey, maxSlotTries)
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !s.Signed && slots[0].Signed {
			break // junk says nothing about the passphrase
		}
		open, err := s.Open(passphrase, k.Repo)
		var b *crypt.Bundle
		switch {
		case errors.Is(err, crypt.ErrPassphrase):
		case err != nil:
			k.reject(s.Name, err, !forged)
		case !bytes.Equal(open.Root, k.Root):
			err = k.reject(s.Name, crypt.ErrSignature, forged)
		default:
			if b, err = k.bundle(ctx, open); err == nil {
				return &Opened{s.ID, open.Root, b}, nil
			}
			err = k.reject(s.Name, err, !forged)
		}
		if worst == nil || errors.Is(worst, crypt.ErrPassphrase) || errors.Is(err, crypt.ErrPolicy) {
			worst = err
		}
	}
	switch {
	case worst != nil:
		return nil, worst
	case k.rejected != nil: // slots there were, and none could be read
		return nil, fmt.Errorf("%w: %w", ErrNoKey, k.rejected)
	}
	return nil, ErrNoKey
}

// OpenPaper opens an exported key.
func (k *Ring) OpenPaper(passphrase, paper []byte) (*Opened, error) {
	b, root, err := crypt.OpenPaper(passphrase, k.Repo, paper)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(root, k.Root) {
		return nil, k.reject("key file", crypt.ErrSignature, forged)
	}
	return &Opened{Root: root, Bundle: b}, nil
}

// bundle opens the bundle of the highest generation that opens.
func (k *Ring) bundle(ctx context.Context, o *crypt.OpenedSlot) (*crypt.Bundle, error) {
	all, err := k.numbered(ctx, "bundles/", o.Slot.ID.String())
	if err != nil {
		return nil, err
	}
	last := fmt.Errorf("no bundle for key slot %v: %w", o.Slot.ID, ErrNoKey)
	for _, c := range all[:min(len(all), maxBundles)] {
		object, bad, err := k.fetchHashed(ctx, c.name)
		if err != nil {
			return nil, err // an older bundle is no answer to a storage that fails: it lacks the newest keys
		}
		if bad == nil {
			var b *crypt.Bundle
			if b, bad = o.OpenBundle(c.number, object); bad == nil {
				return b, nil
			}
		}
		last = k.reject(c.name, bad, !forged)
	}
	return nil, last
}

// numbered is an object <prefix><number>-<id>-<hash>.
type numbered struct {
	name   string
	number uint64
}

// numbered lists the objects of an id, by number, the highest first.
func (k *Ring) numbered(ctx context.Context, prefix, id string) (all []numbered, err error) {
	names, err := k.Objects.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		p := strings.SplitN(strings.TrimPrefix(name, prefix), "-", 3)
		if len(p) != 3 || p[1] != id {
			continue
		}
		if n, err := strconv.ParseUint(p[0], 10, 64); err == nil {
			all = append(all, numbered{name, n})
		}
	}
	slices.SortStableFunc(all, func(a, b numbered) int { return cmp.Compare(b.number, a.number) })
	return all, nil
}

// fetchHashed is Objects.Fetch of an object that is named by its hash.
func (k *Ring) fetchHashed(ctx context.Context, name string) (object []byte, bad, err error) {
	object, bad, err = k.Objects.Fetch(ctx, name)
	if bad == nil && err == nil && !strings.HasSuffix(name, crypt.Sum(object).String()) {
		bad = format.ErrName
	}
	return object, bad, err
}
