package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
	"packhold/repo/writeonce"
)

// ErrShorter says that a policy would promise less than the one in force.
var ErrShorter = errors.New("write-once is made stricter only")

// SetLock makes settings that lock as p says, for every host that opens the repository from then on; r itself goes on as before. No length gets shorter and
// no mode weaker (ErrShorter): what was promised stays true for who relied on it. A storage that cannot lock is backends.ErrUnsupported. What is there
// already is locked by the next lock.Extend. repo.ErrExists says that other settings were made meanwhile.
func SetLock(ctx context.Context, r *repo.Repo, p writeonce.Policy) error {
	a, err := rootOf(r)
	if err == nil {
		err = a.setLock(ctx, r, p)
	}
	if err != nil {
		return fmt.Errorf("changing write-once: %w", err)
	}
	return nil
}

func (a *root) setLock(ctx context.Context, r *repo.Repo, p writeonce.Policy) error {
	old := writeonce.PolicyOf(a.settings)
	if p.Length < old.Length || p.Length < time.Second || old.Compliance && !p.Compliance {
		return ErrShorter
	}
	for class, length := range old.Classes {
		if p.Of(class) < length {
			return fmt.Errorf("%w: class %s is kept for %v", ErrShorter, class, length)
		}
	}
	if err := writeonce.Check(ctx, a.storage, p, a.now); err != nil {
		return err
	}
	name := format.SettingsName(a.settings.Generation)
	before, err := stored.Fetch(ctx, a.storage, name)
	if err != nil {
		return err
	}
	sum := crypt.Sum(before)
	next := *a.settings
	next.Generation++
	next.Previous, next.Time = sum[:], a.now.Unix()
	p.Settle(&next)
	body := canon.Marshal(&next)
	if _, err := format.Parse[format.Settings](body); err != nil {
		return err
	}
	name, object, err := a.seal(crypt.TypeSettings, format.SettingsName(next.Generation), body)
	if err != nil {
		return err
	}
	if err := stored.Create(ctx, a.storage, name, object); stored.Exists(err) {
		return fmt.Errorf("%w: somebody else changed the settings", repo.ErrExists)
	} else if err != nil {
		return err
	}
	return nil
}
