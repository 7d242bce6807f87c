package repo

import (
	"context"
	"errors"
	"slices"
	"strings"

	"packhold/backends"
	"packhold/index"
	"packhold/repo/control"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// exclusions is what the condemned sets and finals say.
type exclusions struct {
	packs map[index.PackID]index.Exclusion

	// blind says that a final cannot be read and its set is gone: nobody knows which packs it took.
	blind bool
}

// condemnedTries is how often condemned sets are listed. A prune stores and removes a few in minutes, and reading them takes seconds: two are the rule.
const condemnedTries = 10

// readCondemned reads the condemned sets and finals: what counts as absent, and what is gone for ever.
//
// A valid final binds whatever else is true, and its set condemns only what the final names. An invalid .leases or .final abandons its set:
// nothing is deleted because of it. But an invalid final may also be a good one that was damaged after its packs were deleted, so the packs
// of its set are not relied on either: that costs storing a blob twice, the other mistake costs the blob. For the same reason what a revoked host
// signed is half believed: its packs are not relied on, and may be read as long as they are there.
//
// A set that a prune removes once its final is there must not be taken for none: a listing may be older than the final, or, since it takes time,
// show neither. So there are two listings or more, until one shows nothing unread. A set that this one lacks was either gone when it
// began, and then it shows the final, which is never removed; or it was there during the one before, which showed it, and it was read.
// The last one is a survey where there are any, which then tells of segments and packs too: a listing goes by names, so what it shows of condemned/ is
// no younger than what it shows of index/.
func (r *Repo) readCondemned(ctx context.Context) (_ *exclusions, last *stored.Survey, err error) {
	sets := make(map[string][]format.PackRef)
	out := &exclusions{packs: make(map[index.PackID]index.Exclusion)}
	add := func(packs []format.PackRef, e index.Exclusion) {
		for _, p := range packs {
			out.packs[index.PackID{Name: p.Name, Incarnation: p.Incarnation}] |= e
		}
	}
	final := make(map[string]bool) // there is a final; whether it can be read
	read := make(map[string]bool)
	collect := func(i backends.Info, object []byte, err error) error {
		id, suffix, _ := strings.Cut(strings.TrimPrefix(i.Name, "condemned/"), ".")
		var part control.SetPart
		if err == nil {
			part, err = r.control().Set(i.Name, suffix, object)
		}
		switch {
		case err == nil && suffix == "":
			sets[id] = part.Packs
		case err == nil && suffix == "final":
			final[id] = true
			if r.trust.Revoked(part.Signer) {
				add(part.Packs, index.NoDedup)
			} else {
				add(part.Packs, index.Final)
			}
		case err == nil:
		case stored.Missing(err):
			return nil
		case stored.Isolated(err), stored.Unreadable(err) && !r.inSession():
			r.problem(i.Name, err)
			if suffix == "final" {
				final[id] = false
			}
		default:
			return err
		}
		read[i.Name] = true
		return nil
	}
	for try := 0; ; try++ {
		if try > 0 {
			if last, err = r.surveys.All(ctx); err != nil {
				return nil, nil, err
			}
		}
		infos, err := last.List(ctx, r.storage, "condemned/")
		if err != nil {
			return nil, nil, err
		}
		infos = slices.DeleteFunc(infos, func(i backends.Info) bool { return read[i.Name] })
		if len(infos) == 0 && try > 0 {
			break
		}
		if try == condemnedTries && len(infos) > 0 {
			return nil, nil, stored.Failed("reading", infos[0].Name, errors.New("condemned sets come and go faster than they are read"))
		}
		if err := stored.Each(ctx, r.storage, infos, collect); err != nil {
			return nil, nil, err
		}
	}
	for id, packs := range sets {
		if !final[id] {
			add(packs, index.NoDedup)
		}
	}
	for id, ok := range final {
		if _, set := sets[id]; !ok && !set {
			out.blind = true
		}
	}
	if last == nil { // what the index is read from, all at once
		last, err = r.surveys.Parts(ctx, "verified/", "index/", "packs/", "leases/", "snapshots/", "forgotten/")
	}
	return out, last, err
}
