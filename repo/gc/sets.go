package gc

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/control"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// set is what is stored of one condemned set.
type set struct {
	id       [16]byte
	at       time.Time // when it was published, by the storage's clock
	packs    []format.PackRef
	leases   bool // sessions is known
	sessions []crypt.SessionID
	final    bool // packs are those of the final
	there    bool // condemned/<id> can be read
	bad      bool // a part of it is no valid one: the set is abandoned, and nothing is removed because of it
}

// unfinished reports whether a sweep of the set is still to be made.
func (t *set) unfinished() bool { return t.there && !t.final && !t.bad }

func setName(id [16]byte, suffix string) string {
	return "condemned/" + hex.EncodeToString(id[:]) + suffix
}

// setTries is how often the sets are listed: another prune stores and removes a few in minutes.
const setTries = 10

// readSets reads all sets. Since a prune removes sets whose finals are there, and a listing takes time, it lists until two listings agree. What cannot be
// read for another reason than being invalid is an error: it may be a final.
func readSets(ctx context.Context, r *repo.Repo) ([]*set, error) {
	var before []backends.Info
	for try := 0; ; try++ {
		infos, _, err := stored.List(ctx, r.Storage(), "condemned/")
		if err != nil {
			return nil, err
		}
		same := func(a, b backends.Info) bool { return a.Name == b.Name }
		if try > 0 && slices.EqualFunc(before, infos, same) {
			break
		}
		if before = infos; try == setTries {
			return nil, stored.Failed("listing", "condemned/", errors.New("sets come and go faster than they are listed"))
		}
	}
	byID := make(map[[16]byte]*set)
	err := stored.Each(ctx, r.Storage(), before, func(i backends.Info, object []byte, err error) error {
		base, suffix, _ := strings.Cut(strings.TrimPrefix(i.Name, "condemned/"), ".")
		var id [16]byte
		if _, err := hex.Decode(id[:], []byte(base)); err != nil {
			return stored.Damaged("listing", i.Name, err)
		}
		t := byID[id]
		if t == nil {
			t = &set{id: id}
			byID[id] = t
		}
		var part control.SetPart
		if err == nil {
			part, err = r.SetObject(i.Name, suffix, object)
		}
		switch {
		case stored.Missing(err) && suffix != "final": // its final is there, or the next look finds it
			return nil
		case stored.Isolated(err):
			t.bad = true
			return nil
		case err != nil:
			return unsafe("reading a set", err)
		}
		if r.Trust().Revoked(part.Signer) {
			t.bad = true
		}
		switch suffix {
		case "leases":
			t.leases, t.sessions = true, part.Sessions
		case "final":
			t.final, t.packs = true, part.Packs
		default:
			t.there, t.at = true, i.ModTime
			if !t.final {
				t.packs = part.Packs
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var all []*set
	for _, t := range byID {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *set) int { return bytes.Compare(a.id[:], b.id[:]) })
	return all, nil
}
