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
	infos, _, err := List(ctx, r.storage, "condemned/")
	if err != nil {
		return nil, err
	}
	sets := make(map[string][]PackRef)
	finals := make(map[string][]PackRef)
	abandoned := make(map[string]bool)
	for _, i := range infos {
		id, suffix, _ := strings.Cut(strings.TrimPrefix(i.Name, "condemned/"), ".")
		b, err := Fetch(ctx, r.storage, i.Name)
		var packs []PackRef
		if err == nil {
			packs, err = r.parseSet(i.Name, suffix, b)
		}
		switch {
		case err == nil && suffix == "":
			sets[id] = packs
		case err == nil && suffix == "final":
			finals[id] = packs
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

// parseSet opens one object of a condemned set and checks that it speaks of the set it is named for.
func (r *Repo) parseSet(name, suffix string, object []byte) (packs []PackRef, err error) {
	t := crypt.TypeCondemned
	switch suffix {
	case "leases":
		t = crypt.TypeCondemnedLeases
	case "final":
		t = crypt.TypeCondemnedFinal
	}
	s, err := r.openSigned(t, name, object)
	if err != nil {
		return nil, err
	}
	var id [16]byte
	switch suffix {
	case "leases":
		var v *CondemnedLeases
		if v, err = parseBody[CondemnedLeases](s.Body); err == nil {
			id = v.ID
		}
	case "final":
		var v *CondemnedFinal
		if v, err = parseBody[CondemnedFinal](s.Body); err == nil {
			id, packs = v.ID, v.Packs
		}
	default:
		var v *Condemned
		if v, err = parseBody[Condemned](s.Body); err == nil {
			id, packs = v.ID, v.Packs
		}
	}
	if err == nil && !strings.HasPrefix(name, fmt.Sprintf("condemned/%x", id)) {
		err = errors.New("it speaks of another set")
	}
	if err != nil {
		return nil, damaged("reading", name, err)
	}
	return packs, nil
}
