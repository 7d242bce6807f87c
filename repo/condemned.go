package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"packhold/crypt"
	"packhold/index"
)

// readCondemned reads the condemned sets and finals: what counts as absent, and what is gone for ever.
//
// A final binds whatever else is true. A set whose final is there condemns only what the final names. An invalid .leases or
// .final abandons its set; an invalid set condemns nothing. All three are reported.
func (r *Repo) readCondemned(ctx context.Context) (map[index.PackID]index.Exclusion, error) {
	infos, _, err := list(ctx, r.storage, "condemned/")
	if err != nil {
		return nil, err
	}
	sets := make(map[string][]PackRef)
	finals := make(map[string][]PackRef)
	abandoned := make(map[string]bool)
	for _, i := range infos {
		id, suffix, _ := strings.Cut(strings.TrimPrefix(i.Name, "condemned/"), ".")
		err := r.readSet(ctx, i.Name, suffix, func(packs []PackRef) {
			if suffix == "" {
				sets[id] = packs
			} else if suffix == "final" {
				finals[id] = packs
			}
		})
		switch {
		case isMissing(err): // swept between the listing and now
		case errors.Is(err, ErrDamaged) || errors.Is(err, ErrTampered):
			r.problem(i.Name, err)
			if suffix != "" {
				abandoned[id] = true
			}
		case err != nil:
			return nil, err
		}
	}
	out := make(map[index.PackID]index.Exclusion)
	add := func(packs []PackRef, e index.Exclusion) {
		for _, p := range packs {
			out[index.PackID{Name: p.Name, Incarnation: p.Incarnation}] |= e
		}
	}
	for id, packs := range sets {
		if _, final := finals[id]; !final && !abandoned[id] {
			add(packs, index.NoDedup)
		}
	}
	for id, packs := range finals {
		if !abandoned[id] {
			add(packs, index.Final)
		}
	}
	return out, nil
}

// readSet reads one object of a condemned set and checks that it speaks of the set it is named for.
func (r *Repo) readSet(ctx context.Context, name, suffix string, take func([]PackRef)) error {
	t := crypt.TypeCondemned
	switch suffix {
	case "leases":
		t = crypt.TypeCondemnedLeases
	case "final":
		t = crypt.TypeCondemnedFinal
	}
	s, err := r.getSigned(ctx, t, name)
	if err != nil {
		return err
	}
	var id [16]byte
	var packs []PackRef
	switch suffix {
	case "leases":
		v, perr := parseBody[CondemnedLeases](s.Body)
		if err = perr; err == nil {
			id = v.ID
		}
	case "final":
		v, perr := parseBody[CondemnedFinal](s.Body)
		if err = perr; err == nil {
			id, packs = v.ID, v.Packs
		}
	default:
		v, perr := parseBody[Condemned](s.Body)
		if err = perr; err == nil {
			id, packs = v.ID, v.Packs
		}
	}
	if err == nil && !strings.HasPrefix(name, fmt.Sprintf("condemned/%x", id)) {
		err = errors.New("it speaks of another set")
	}
	if err != nil {
		return damaged("reading", name, err)
	}
	take(packs)
	return nil
}
