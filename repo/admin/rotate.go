package admin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/stored"
)

// RotateKeys begins a new epoch of the read key and of the write secret, and returns its number: what is stored from then on opens with neither of the old ones.
// Every host that was not revoked is granted the secret, and every key slot gets both; who holds them needs to do nothing. What was stored before stays readable.
// Keys that were exported before lack the new ones.
//
// It may be interrupted anywhere and run again. r knows the new keys after it, or should not be used any more where it failed. ErrChanged: open again.
func RotateKeys(ctx context.Context, r *repo.Repo) (epoch uint32, err error) {
	a, err := rootOf(r)
	if err == nil {
		epoch, err = a.rotateKeys(ctx, r, crypt.NewReadKey)
	}
	if err != nil {
		return 0, fmt.Errorf("rotating keys: %w", err)
	}
	return epoch, nil
}

func (a *root) rotateKeys(ctx context.Context, r *repo.Repo, makeKey func(epoch uint32) (*crypt.ReadPrivate, error)) (uint32, error) {
	if err := sure(r); err != nil {
		return 0, err
	}
	if len(a.keys.Read) == 0 {
		return 0, repo.ErrNeedRead
	}
	if err := a.nextSettings(ctx, r, func(*format.Settings) {}); err != nil {
		return 0, err
	}
	return a.rotate(ctx, r, makeKey)
}

// sure refuses to rotate keys where a revocation cannot be read: its host would be granted the new secret.
func sure(r *repo.Repo) error {
	for _, p := range r.Problems() {
		for _, h := range r.Settings().Revocations {
			if p.Object == "marks/"+crypt.ID(h).String() {
				return p.Err
			}
		}
	}
	return nil
}

// rotate begins an epoch of the write secret, and of the read key where makeKey is not nil. The caller has just stored the settings in force: their generation is
// this run's alone, because generations are created exclusively. So the number of the epoch, and of the bundles, is this run's too, and higher than those of
// every run that began before and may still be at work or have been killed: hosts and key holders take the highest that opens, so what such a run stored, or will
// store, misleads nobody. Grants and bundles hold the secrets of all earlier epochs, so one that is never announced harms nobody either.
//
// The settings that announce the epoch come last.
func (a *root) rotate(ctx context.Context, r *repo.Repo, makeKey func(epoch uint32) (*crypt.ReadPrivate, error)) (uint32, error) {
	generation := a.settings.Generation
	read := a.settings.ReadKeys
	if generation > math.MaxUint32 || generation <= uint64(a.settings.WriteEpoch) || generation <= uint64(read[len(read)-1].Epoch) {
		return 0, fmt.Errorf("settings of generation %d, write epoch %d: %w", generation, a.settings.WriteEpoch, crypt.ErrPolicy)
	}
	epoch := uint32(generation)
	keys := *a.keys
	keys.Writes, keys.Read = maps.Clone(a.keys.Writes), maps.Clone(a.keys.Read)
	keys.Writes[epoch] = crypt.WriteSecret(crypt.NewSecret())
	if makeKey != nil {
		k, err := makeKey(epoch)
		if err != nil {
			return 0, err
		}
		form, err := k.Public().Form()
		if err != nil {
			return 0, err
		}
		keys.Read[epoch], read = k, append(slices.Clone(read), form)
	}
	if err := a.grantAll(ctx, r, epoch, keys.Writes); err != nil {
		return 0, err
	}
	if err := a.bundleAll(ctx, r, &keys); err != nil {
		return 0, err
	}
	if err := a.nextSettings(ctx, r, func(s *format.Settings) { s.WriteEpoch, s.ReadKeys = epoch, read }); err != nil {
		return 0, err
	}
	*r.Keys(), *r.Settings() = keys, *a.settings
	return epoch, nil
}

// grantAll grants writes to all hosts that were not revoked. Certificates are listed now, because hosts may have been enrolled since r was opened.
func (a *root) grantAll(ctx context.Context, r *repo.Repo, epoch uint32, writes map[uint32]crypt.WriteSecret) error {
	infos, _, err := stored.List(ctx, a.storage, "hosts/")
	if err != nil {
		return err
	}
	newest := make(map[crypt.HostID]*crypt.Certificate)
	err = stored.Each(ctx, a.storage, infos, func(i backends.Info, object []byte, err error) error {
		var s *crypt.Signed
		if err == nil {
			s, err = r.OpenControl(crypt.TypeHost, i.Name, object)
		}
		var c *crypt.Certificate
		if err == nil {
			c, err = crypt.ParseCertificate(s.Body)
		}
		switch {
		case stored.Missing(err), errors.Is(err, repo.ErrDamaged), errors.Is(err, repo.ErrTampered):
			return nil // no host by it; reported when the repository was opened
		case err != nil:
			return err
		}
		if have := newest[c.Host]; have == nil || have.Serial < c.Serial {
			newest[c.Host] = c
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id, c := range newest {
		if r.Trust().Revoked(id) {
			continue
		}
		if err := a.putGrant(ctx, c, epoch, writes); err != nil {
			return err
		}
	}
	return nil
}

// bundleAll seals keys to every key slot. That of another holder goes without an identity, which is theirs alone: they keep the one of their older bundle.
func (a *root) bundleAll(ctx context.Context, r *repo.Repo, keys *repo.Keys) error {
	slots, err := r.ListKeys(ctx)
	if err != nil {
		return err
	}
	for _, s := range slots {
		slot, err := a.slot(ctx, r, s.ID)
		if err != nil {
			return err
		}
		var holder *crypt.Identity
		if s.ID == keys.Slot {
			holder = keys.Reader
		}
		b := bundle(keys, a.settings.Generation, holder)
		b.Slot = s.ID
		sealed, err := keys.Admin.SealBundle(slot.Public, b)
		if err != nil {
			return err
		}
		if err := stored.Put(ctx, a.storage, bundleName(b, sealed), sealed, backends.PutOptions{}); err != nil {
			return err
		}
	}
	return nil
}

func bundleName(b *crypt.Bundle, sealed []byte) string {
	return fmt.Sprintf("bundles/%d-%v-%v", b.Generation, b.Slot, crypt.Sum(sealed))
}

// slot reads a key slot whose signature is good, since secrets go to its key.
func (a *root) slot(ctx context.Context, r *repo.Repo, id crypt.SlotID) (*crypt.Slot, error) {
	err := fmt.Errorf("key slot %v: %w", id, keyring.ErrNoKey)
	for _, prefix := range format.SlotPrefixes {
		name := prefix + id.String()
		object, ferr := stored.Fetch(ctx, a.storage, name)
		if ferr == nil {
			ferr = r.CheckObject(name, object)
		}
		if ferr == nil {
			return crypt.ParseSlot(object)
		}
		if !stored.Missing(ferr) {
			err = ferr
		}
	}
	return nil, err
}
