package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// ErrChanged says that another administrator changed the settings since the repository was opened: open it again, and look again.
var ErrChanged = errors.New("another administrator changed the repository's settings meanwhile")

// maxJunk is how many names after the newest settings may hold what are no settings.
const maxJunk = 100

// nextSettings stores the settings of the next generation, as change makes them. A generation is created exclusively, so of two administrators who go on from
// the same one only one can: the other gets ErrChanged. What holds its name without being settings is passed over, as readers do.
//
// They are sealed under the write secret that was in force before, also where they begin another epoch: a host that was not granted the new secret, because it was revoked
// or because somebody keeps the grant from it, learns that it may not go on.
func (a *root) nextSettings(ctx context.Context, r *repo.Repo, change func(*format.Settings)) error {
	before, err := stored.Fetch(ctx, a.storage, format.SettingsName(a.settings.Generation))
	if err != nil {
		return err
	}
	sum := crypt.Sum(before)
	next := *a.settings
	next.Previous, next.Time = sum[:], a.now.Unix()
	change(&next)
	for range maxJunk {
		next.Generation++
		body := canon.Marshal(&next)
		if _, err := format.Parse[format.Settings](body); err != nil {
			return err
		}
		name, object, err := a.seal(crypt.TypeSettings, format.SettingsName(next.Generation), body)
		if err != nil {
			return err
		}
		if err = stored.Create(ctx, a.storage, name, object); err == nil {
			a.settings = &next
			return nil
		}
		if !stored.Exists(err) {
			return err
		}
		if valid, err := a.valid(ctx, r, name); err != nil {
			return err
		} else if valid {
			return ErrChanged
		}
	}
	return fmt.Errorf("%w: the names of the next %d generations of settings are taken by something else", repo.ErrTampered, maxJunk)
}

// valid reports whether there is a generation of settings of that name. They can be opened, because they are sealed under a write secret that the generation
// before them knew.
func (a *root) valid(ctx context.Context, r *repo.Repo, name string) (bool, error) {
	object, err := stored.Fetch(ctx, a.storage, name)
	switch {
	case stored.Missing(err), stored.Isolated(err):
		return false, nil
	case err != nil:
		return false, err
	}
	err = r.CheckObject(name, object)
	if errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrTampered) {
		return false, nil
	}
	return err == nil, err
}

// unchanged is ErrChanged if somebody else stored settings since r was opened. It closes what adding a slot or a host does: who rotates keys stores settings first
// and lists slots and hosts then, so either it sees the new one, or this sees the settings.
func (a *root) unchanged(ctx context.Context, r *repo.Repo) error {
	infos, _, err := stored.List(ctx, a.storage, "settings/")
	if err != nil {
		return err
	}
	for _, i := range infos {
		g, err := strconv.ParseUint(strings.TrimPrefix(i.Name, "settings/"), 10, 64)
		if err != nil || g <= a.settings.Generation {
			continue
		}
		if valid, err := a.valid(ctx, r, i.Name); err != nil {
			return err
		} else if valid {
			return ErrChanged
		}
	}
	return nil
}
