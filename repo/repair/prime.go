package repair

import (
	"context"
	"errors"
	"fmt"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// ErrOther says that a place is no copy of the repository that is to be mended.
var ErrOther = errors.New("it has nothing in common with the repository")

// Prime puts back what nobody can open a repository without, where no copy of it is left in s: the config, and key slots with their bundles. With plan it
// only says what it would do. It replaces nothing that may be of use, and takes nothing from a place that shares no object with s (ErrOther).
//
// Nothing is opened here, so nothing is believed: whoever opens the repository then checks that the config is the one that the passphrase or a credential knows.
func Prime(ctx context.Context, s, from backends.Storage, plan bool) ([]Step, error) {
	steps, err := prime(ctx, s, from, plan)
	if err != nil {
		return steps, fmt.Errorf("putting config and keys back: %w", err)
	}
	return steps, nil
}

func prime(ctx context.Context, s, from backends.Storage, plan bool) (steps []Step, err error) {
	put := func(names []string, b []byte) error {
		for _, name := range names {
			steps = append(steps, Step{Object: name, How: Replica})
			if plan {
				continue
			}
			if err := stored.Put(ctx, s, name, b, backends.PutOptions{}); err != nil {
				return err
			}
		}
		return nil
	}
	config, err := anyConfig(ctx, s)
	if err != nil {
		return nil, err
	}
	slots, err := slotsOf(ctx, s)
	if err != nil {
		return nil, err
	}
	if config != nil && len(slots) > 0 {
		return nil, nil
	}
	theirs, err := anyConfig(ctx, from)
	if err != nil || theirs == nil {
		return nil, err
	}
	if err := related(ctx, s, from, config, theirs); err != nil {
		return nil, err
	}
	if len(slots) == 0 {
		if slots, err = slotsOf(ctx, from); err != nil {
			return nil, err
		}
		bundles, _, err := stored.List(ctx, from, "bundles/")
		if err != nil {
			return nil, err
		}
		for _, i := range bundles {
			if _, err := stored.Stat(ctx, s, i.Name); err == nil {
				continue
			}
			b, err := stored.Fetch(ctx, from, i.Name)
			if unmendable(err) || err == nil && !matches(i.Name, b) {
				continue
			}
			if err == nil {
				err = put([]string{i.Name}, b)
			}
			if err != nil {
				return nil, err
			}
		}
		for id, b := range slots { // the slot itself last, as where it was made
			if err := put(copies("keys/"+id), b); err != nil {
				return nil, err
			}
		}
	}
	if config == nil { // what makes it a repository comes last
		names := format.ConfigNames
		for i := len(names) - 1; i >= 0; i-- {
			if err := put(names[i:i+1], theirs); err != nil {
				return nil, err
			}
		}
	}
	return steps, nil
}

// anyConfig reads a config that parses, nil if there is none.
func anyConfig(ctx context.Context, s backends.Storage) ([]byte, error) {
	for _, name := range format.ConfigNames {
		b, err := stored.Fetch(ctx, s, name)
		if err == nil {
			_, err = format.ParseConfig(b)
			if err == nil {
				return b, nil
			}
			if errors.Is(err, crypt.ErrFormat) {
				return nil, stored.Damaged("reading", name, err)
			}
			continue
		}
		if !unmendable(err) {
			return nil, err
		}
	}
	return nil, nil
}

// slotsOf reads the key slots that parse, by their ids.
func slotsOf(ctx context.Context, s backends.Storage) (map[string][]byte, error) {
	all := make(map[string][]byte)
	for _, prefix := range format.SlotPrefixes {
		infos, _, err := stored.List(ctx, s, prefix)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			b, err := stored.Fetch(ctx, s, i.Name)
			if err == nil {
				_, err = crypt.ParseSlot(b)
				if err != nil {
					continue
				}
				all[i.Name[len(prefix):]] = b
			} else if !unmendable(err) {
				return nil, err
			}
		}
	}
	return all, nil
}

// related makes sure that both are of one repository: by their configs, or, where one has none, by an object that both have under a name that is random
// or a hash.
func related(ctx context.Context, s, from backends.Storage, ours, theirs []byte) error {
	if ours != nil {
		if string(ours) == string(theirs) {
			return nil
		}
		return ErrOther
	}
	for _, prefix := range []string{"hosts/", "keys/", "bundles/", "packs/", "meta/"} {
		here, _, err := stored.List(ctx, s, prefix)
		if err != nil {
			return err
		}
		there, _, err := stored.List(ctx, from, prefix)
		if err != nil {
			return err
		}
		have := make(map[string]bool)
		for _, i := range here {
			have[i.Name] = true
		}
		for _, i := range there {
			if have[i.Name] {
				return nil
			}
		}
	}
	return ErrOther
}
