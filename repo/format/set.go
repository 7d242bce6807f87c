package format

import (
	"bytes"
	"errors"
	"fmt"

	"packhold/crypt"
)

// Set is set/<id> on a removable medium: what its source had when it was written, and what of that the medium carries. Signed by the prune role, about
// the id.
type Set struct {
	ID        [16]byte       `cbor:"1,keyasint"`
	Time      int64          `cbor:"2,keyasint"`
	Packs     []SetPack      `cbor:"3,keyasint"` // all that the source's index named, by name
	Snapshots []KeptSnapshot `cbor:"4,keyasint"` // whose records are here, by session
}

// SetPack is a pack in a Set.
type SetPack struct {
	_           struct{} `cbor:",toarray"`
	Name        crypt.ID
	Tree        bool
	Incarnation uint32 // under which the medium has it
	Size        uint64
	Class       string // retention class
	Carried     bool   // the medium has it; otherwise the replica has, by its receipt
}

// Receipt is receipt/<id> on a removable medium: what a replica has after it took a set in. Signed by the prune role, about the id.
type Receipt struct {
	ID       [16]byte          `cbor:"1,keyasint"`
	Time     int64             `cbor:"2,keyasint"`
	Packs    []crypt.ID        `cbor:"3,keyasint"`
	Sessions []crypt.SessionID `cbor:"4,keyasint"` // of snapshots, forgotten ones too
}

func (s *Set) validate() error {
	for _, p := range s.Packs {
		if p.Size == 0 || p.Size > MaxPackFile || len(p.Class) > maxClass {
			return fmt.Errorf("pack of %d bytes, class of %d bytes", p.Size, len(p.Class))
		}
	}
	return errors.Join(
		ascending(s.Packs, func(a, b SetPack) int { return bytes.Compare(a.Name[:], b.Name[:]) }),
		ascending(s.Snapshots, func(a, b KeptSnapshot) int { return bytes.Compare(a.Session[:], b.Session[:]) }))
}

func (r *Receipt) validate() error {
	return errors.Join(
		ascending(r.Packs, func(a, b crypt.ID) int { return bytes.Compare(a[:], b[:]) }),
		ascending(r.Sessions, func(a, b crypt.SessionID) int { return bytes.Compare(a[:], b[:]) }))
}
