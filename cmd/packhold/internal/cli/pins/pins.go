// Package pins remembers the newest snapshots of every host, so that a storage that hides some of them or shows older ones is found out.
//
// What follows a snapshot names it, so hiding one in the middle shows to everybody. Hiding the newest ones shows only to who remembers them.
package pins

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/snapshot"
)

// pin is a snapshot that was seen.
type pin struct {
	Host   string `json:"host"`
	ID     string `json:"id"`
	Object string `json:"sha256"` // of its stored record
	Number uint64 `json:"number"`
}

// file is how pins are kept.
type file struct {
	Version    int    `json:"v"`
	Repository string `json:"repository"`
	Pins       []pin  `json:"pins"`
}

// maxPins bounds a file that somebody hands in.
const maxPins = 100_000

func (p pin) ref() (snapshot.Ref, error) {
	var ref snapshot.Ref
	id, err := hex.DecodeString(p.ID)
	if err == nil && len(id) != len(ref.Session) {
		err = errors.New("it is not 16 bytes long")
	}
	if err != nil {
		return ref, fmt.Errorf("id %q: %w", p.ID, err)
	}
	copy(ref.Session[:], id)
	ref.Object, err = crypt.ParseID(p.Object)
	return ref, err
}

// heads are the snapshots that no other of their host follows.
func heads(all []*repo.Snapshot) (pins []pin) {
	type of struct{ host, session [16]byte }
	followed := make(map[of]bool)
	for _, s := range all {
		for _, p := range s.Prev {
			followed[of{s.Host, p.Session}] = true
		}
	}
	for _, s := range all {
		if !followed[of{s.Host, s.Session}] {
			pins = append(pins, pinOf(s))
		}
	}
	slices.SortFunc(pins, func(a, b pin) int { return cmp.Or(strings.Compare(a.Host, b.Host), strings.Compare(a.ID, b.ID)) })
	return pins
}

func pinOf(s *repo.Snapshot) pin {
	return pin{Host: crypt.HostID(s.Host).String(), ID: s.ID().String(), Object: s.Object.String(), Number: s.Number}
}

// missing returns what is wrong with pins: each must be listed, or forgotten by somebody who may. What all lacks is asked for in the storage, which may be newer.
func missing(ctx context.Context, r *run.Repository, pins []pin, all []*repo.Snapshot) (gone []pin, err error) {
	listed := make(map[pin]bool)
	for _, s := range all {
		listed[pinOf(s)] = true
	}
	witness := new(repo.Snapshot)
	byName := make(map[string]pin)
	for _, p := range pins {
		if listed[p] {
			continue
		}
		ref, err := p.ref()
		if err != nil {
			return nil, err
		}
		witness.Prev = append(witness.Prev, ref)
		byName["snapshots/"+p.ID] = p
	}
	if len(witness.Prev) == 0 {
		return nil, nil
	}
	problems, err := r.Missing(ctx, append(slices.Clip(all), witness))
	if err != nil {
		return nil, err
	}
	for _, p := range problems {
		if pin, ok := byName[p.Object]; ok {
			gone = append(gone, pin)
		}
	}
	return gone, nil
}

// verdict is the failure for snapshots that are gone, each of which is told first. next is what to do where that was meant.
func verdict(a *run.Run, r *run.Repository, gone []pin, source, next string) error {
	if len(gone) == 0 {
		return nil
	}
	for _, p := range gone {
		host := p.Host
		if b, err := hex.DecodeString(p.Host); err == nil && len(b) == 16 {
			host = r.HostName([16]byte(b))
		}
		a.Out.Warn("snapshots/"+p.ID, fmt.Sprintf("snapshot %d of %s was there, as %s says: it is gone or another one now, and nobody forgot it", p.Number, term.Name(host), source))
	}
	return &fail.Error{Code: fail.Tampered, Word: "trust.hidden", Problem: term.Plural(int64(len(gone)), "snapshot") + " that this machine knows of " + source + " are hidden, replaced or rolled back", Where: a.Where,
		Effect: "Other snapshots can be restored, but may not be the newest. Nothing was changed.", Next: next}
}

// Check compares the snapshots of all with those that were seen before in this place, and remembers them. What is wrong is told, and is exit 22.
func Check(ctx context.Context, a *run.Run, r *run.Repository, all []*repo.Snapshot) error {
	known, err := read(r)
	if err != nil {
		return err
	}
	gone, err := missing(ctx, r, known, all)
	if err != nil {
		return err
	}
	if len(gone) > 0 {
		return verdict(a, r, gone, "pins",
			"find out who could write to the storage; if an older copy was put there on purpose remove "+term.Name(r.PinsPath())+" and run packhold verify")
	}
	// A list that lacks what cannot be read at the moment, or what was committed since, must not make this machine forget.
	pins := heads(all)
	seen := make(map[string]bool)
	for _, s := range all {
		seen[s.ID().String()] = true
	}
	forgotten := 0
	for _, p := range known {
		if !seen[p.ID] {
			forgotten++
		}
	}
	if forgotten > 0 && len(r.Problems()) > 0 || slices.Equal(pins, known) {
		return nil
	}
	write(a, r, pins)
	return nil
}

// Committed remembers a snapshot that this machine just stored, in place of those of its host that it follows.
func Committed(a *run.Run, r *run.Repository, s *repo.Snapshot) {
	known, err := read(r)
	if err != nil {
		return // the next Check tells
	}
	mine := pinOf(s)
	known = slices.DeleteFunc(known, func(p pin) bool {
		return p.Host == mine.Host && slices.ContainsFunc(s.Prev, func(ref snapshot.Ref) bool { return crypt.SessionID(ref.Session).String() == p.ID })
	})
	known = append(known, mine)
	slices.SortFunc(known, func(a, b pin) int { return cmp.Or(strings.Compare(a.Host, b.Host), strings.Compare(a.ID, b.ID)) })
	write(a, r, known)
}

// write keeps pins. A machine that cannot notices less, and says so.
func write(a *run.Run, r *run.Repository, pins []pin) {
	b, err := json.MarshalIndent(file{1, repository(r), pins}, "", "  ")
	if err == nil {
		err = run.WriteFile(r.PinsPath(), append(b, '\n'))
	}
	if err != nil {
		a.Out.Detail("pins: %v: snapshots that are hidden later will not be missed", err)
	}
}

// read returns the pins of this place, none where nothing was seen yet.
func read(r *run.Repository) ([]pin, error) {
	b, err := os.ReadFile(r.PinsPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var f file
	if err == nil {
		if err = json.Unmarshal(b, &f); err == nil && (f.Version != 1 || f.Repository != repository(r) || len(f.Pins) > maxPins) {
			err = errors.New("these are not pins of this repository")
		}
		for _, p := range f.Pins {
			if err == nil {
				_, err = p.ref()
			}
		}
	}
	if err != nil {
		return nil, &fail.Error{Code: fail.Tampered, Word: "trust.pins", Problem: "what this machine remembers of the repository cannot be read: " + err.Error(), Where: term.Name(r.PinsPath()),
			Effect: "A rollback would not be noticed. Nothing was changed.", Next: "packhold anchor check FILE, if there is one; then remove the file and run packhold verify", Cause: err}
	}
	return f.Pins, nil
}

func repository(r *run.Repository) string {
	id := r.Config().ID
	return hex.EncodeToString(id[:])
}
