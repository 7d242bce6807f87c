package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"packhold/repo"
	"packhold/repo/writeonce"
)

// ErrShorter says that a policy would promise less than the one in force.
var ErrShorter = errors.New("write-once is made stricter only")

// SetLock makes settings that lock as p says, for every host that opens the repository from then on; r itself goes on as before. No length gets shorter and
// no mode weaker (ErrShorter): what was promised stays true for who relied on it. A storage that cannot lock is backends.ErrUnsupported. What is there
// already is locked by the next lock.Extend. ErrChanged says that other settings were made meanwhile.
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
	return a.nextSettings(ctx, r, p.Settle)
}
