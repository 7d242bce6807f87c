// Package keyring finds the keys of a repository among its objects.
//
// The objects come from whoever stores them, and any number of them may be junk: what is looked at, and what a passphrase is tried on, is bounded.
package keyring

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
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

// Ring is where keys are looked for, and whose count: those that a believed root signed. It is not for concurrent use.
type Ring struct {
	objects     Objects
	repo        crypt.RepoID
	successions []*format.Succession
	roots       []ed25519.PublicKey // believed: the pinned one first

	rejected error // why the first of the objects that cannot be used is not
}

// The bounds of what is looked at.
const (
	maxRoots     = 1000
	maxSlots     = 1024
	maxSlotTries = 20  // without a hint: each wrong slot costs a key derivation, which a storage could make us pay for ever (restic #3776)
	maxBundles   = 100 // of one slot, the newest first
	maxGrants    = 100 // of one host, the newest first
)

// Open reads the successions of roots among o, and believes pinned and its successors.
func Open(ctx context.Context, o Objects, repo crypt.RepoID, pinned ed25519.PublicKey) (*Ring, error) {
	k := &Ring{objects: o, repo: repo}
	names, err := o.List(ctx, "roots/")
	if err != nil {
		return nil, err
	}
	if len(names) > maxRoots {
		o.Reject("roots/", fmt.Errorf("%d successions, only %d are looked at", len(names), maxRoots), forged)
		names = names[:maxRoots]
	}
	for _, name := range names {
		object, bad, err := o.Fetch(ctx, name)
		if err != nil {
			return nil, err // who does not know the newest root takes what it signed for forged
		}
		var s *format.Succession
		if bad == nil {
			s, bad = format.ParseSuccession(repo, name, object)
		}
		switch {
		case bad == nil:
			k.successions = append(k.successions, s)
		case !errors.Is(bad, fs.ErrNotExist):
			o.Reject(name, bad, errors.Is(bad, crypt.ErrSignature))
		}
	}
	k.Pin(pinned)
	return k, nil
}

// Pin believes root and its successors alone: the new root of every succession whose old root is believed. Their predecessors are not: what they
// could sign must not outlive them where somebody pinned a later one.
func (k *Ring) Pin(root ed25519.PublicKey) { k.roots = k.line(root) }

// line is root and its successors.
func (k *Ring) line(root ed25519.PublicKey) []ed25519.PublicKey {
	line := []ed25519.PublicKey{root}
	for i := 0; i < len(line); i++ {
		for _, s := range k.successions {
			if line[i].Equal(ed25519.PublicKey(s.Old)) && !among(line, s.New) {
				line = append(line, s.New)
			}
		}
	}
	return line
}

func among(roots []ed25519.PublicKey, root ed25519.PublicKey) bool {
	return slices.ContainsFunc(roots, func(r ed25519.PublicKey) bool { return r.Equal(root) })
}

// Roots returns the believed roots: the pinned one, then its successors.
func (k *Ring) Roots() []ed25519.PublicKey { return k.roots }

// Believes reports whether root is the pinned one or a successor of it.
func (k *Ring) Believes(root ed25519.PublicKey) bool { return among(k.roots, root) }

// reject is Objects.Reject.
func (k *Ring) reject(name string, why error, forged bool) error {
	why = k.objects.Reject(name, why, forged)
	if k.rejected == nil {
		k.rejected = why
	}
	return why
}

// Slot is a copy of a key slot that parses.
type Slot struct {
	*crypt.Slot
	Name   string // of its object
	Signed bool   // by a believed root
}

// Slots reads the key slots whose ids begin with hint: those that a believed root signed first, then copies of others, each in the order of their names.
// Of each slot the copies are read until one is good: a bad copy is rejected and never hides a good one. unread is why the storage gave no copy of
// some slot.
func (k *Ring) Slots(ctx context.Context, hint string) (found []Slot, unread, err error) {
	byID := make(map[string][]string) // id -> names
	for _, prefix := range slices.Backward(format.SlotPrefixes[:]) {
		names, err := k.objects.List(ctx, prefix)
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
			case k.CheckSlot(s) != nil:
				bad = append(bad, Slot{s, name, false})
			default:
				signed = append(signed, Slot{s, name, true})
			}
			if len(signed) > before {
				break
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

// CheckSlot verifies that a believed root made s. A failure matches crypt.ErrSignature.
func (k *Ring) CheckSlot(s *crypt.Slot) error {
	return signed(k.roots, func(root ed25519.PublicKey) error { return s.CheckSigned(root, k.repo) })
}

// slot reads one copy; nil is one that cannot be used. An error is the storage's, and noted.
func (k *Ring) slot(ctx context.Context, name, id string) (*crypt.Slot, error) {
	object, bad, err := k.objects.Fetch(ctx, name)
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
	Slot   crypt.SlotID      // zero for an exported key
	Root   ed25519.PublicKey // that the passphrase vouches for: believed, and for whoever has no credential the one to Pin
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
		open, err := s.Open(passphrase, k.repo)
		var b *crypt.Bundle
		switch {
		case errors.Is(err, crypt.ErrPassphrase):
		case err != nil:
			k.reject(s.Name, err, !forged)
		case !k.Believes(open.Root):
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
	b, root, err := crypt.OpenPaper(passphrase, k.repo, paper)
	if err != nil {
		return nil, err
	}
	if !k.Believes(root) {
		return nil, k.reject("key file", crypt.ErrSignature, forged)
	}
	return &Opened{Root: root, Bundle: b}, nil
}

// bundle opens the bundle of the highest generation that opens, signed by the root in the slot or a successor of it. Who made it may not have known the
// holder's identity, which is theirs alone: then it is that of the highest generation that has one.
func (k *Ring) bundle(ctx context.Context, o *crypt.OpenedSlot) (*crypt.Bundle, error) {
	all, err := k.numbered(ctx, "bundles/", o.Slot.ID.String())
	if err != nil {
		return nil, err
	}
	roots := k.line(o.Root)
	var newest *crypt.Bundle
	last := fmt.Errorf("no bundle for key slot %v: %w", o.Slot.ID, ErrNoKey)
	for _, c := range all[:min(len(all), maxBundles)] {
		object, bad, err := k.fetchHashed(ctx, c.name)
		if err != nil {
			return nil, err // an older bundle is no answer to a storage that fails: it lacks the newest keys
		}
		var b *crypt.Bundle
		if bad == nil {
			bad = signed(roots, func(root ed25519.PublicKey) (err error) {
				by := *o
				by.Root = root
				b, err = by.OpenBundle(c.number, object)
				return err
			})
		}
		if bad != nil {
			last = k.reject(c.name, bad, errors.Is(bad, crypt.ErrSignature))
			continue
		}
		if newest == nil {
			newest = b
		}
		if newest.Identity = b.Identity; newest.Identity != nil {
			return newest, nil
		}
	}
	if newest == nil {
		return nil, last
	}
	return newest, nil
}

// signed opens what one of the roots signed. What none signed matches crypt.ErrSignature.
func signed(roots []ed25519.PublicKey, open func(root ed25519.PublicKey) error) (err error) {
	for _, root := range roots {
		if err = open(root); !errors.Is(err, crypt.ErrSignature) {
			break
		}
	}
	return err
}

// Grant opens the newest grant for id, unless held has the write secret of its epoch already: then, and where there is none, it is nil.
// What contradicts held or chunker is rejected: neither ever changes.
func (k *Ring) Grant(ctx context.Context, id *crypt.Identity, held map[uint32]crypt.WriteSecret, chunker [32]byte) (*crypt.Grant, error) {
	all, err := k.numbered(ctx, "grants/", id.Host.String())
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(c numbered) bool { return c.number > math.MaxUint32 })
	for _, c := range all[:min(len(all), maxGrants)] {
		if _, ok := held[uint32(c.number)]; ok {
			break // a grant has the secrets of all earlier epochs
		}
		object, bad, err := k.fetchHashed(ctx, c.name)
		if err != nil {
			return nil, err // an older grant is no answer to a storage that fails
		}
		var g *crypt.Grant
		if bad == nil {
			bad = signed(k.roots, func(root ed25519.PublicKey) (err error) {
				g, err = id.OpenGrant(k.repo, root, uint32(c.number), object)
				return err
			})
		}
		if bad == nil && contradicts(g, held, chunker) {
			bad = fmt.Errorf("other secrets than this host has: %w", crypt.ErrSignature)
		}
		if bad == nil {
			return g, nil
		}
		k.reject(c.name, bad, errors.Is(bad, crypt.ErrSignature))
	}
	return nil, nil
}

func contradicts(g *crypt.Grant, held map[uint32]crypt.WriteSecret, chunker [32]byte) bool {
	for epoch, w := range g.Writes {
		if h, ok := held[epoch]; ok && h != w {
			return true
		}
	}
	return g.Chunker != chunker
}

// numbered is an object <prefix><number>-<id>-<hash>.
type numbered struct {
	name   string
	number uint64
}

// numbered lists the objects of an id, by number, the highest first.
func (k *Ring) numbered(ctx context.Context, prefix, id string) (all []numbered, err error) {
	names, err := k.objects.List(ctx, prefix)
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
	object, bad, err = k.objects.Fetch(ctx, name)
	if bad == nil && err == nil && !strings.HasSuffix(name, crypt.Sum(object).String()) {
		bad = format.ErrName
	}
	return object, bad, err
}
