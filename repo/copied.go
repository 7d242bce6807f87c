package repo

import (
	"errors"

	"packhold/crypt"
	"packhold/repo/snapshot"
)

// sealCopied makes copied/<sha256> of a snapshot's object: the object, verbatim, and the session that it is the snapshot of, 16 bytes, without
// which it cannot be opened. It is named by the SHA-256 of both.
func sealCopied(session crypt.SessionID, object []byte) (name string, copied []byte) {
	copied = append(append(make([]byte, 0, len(object)+len(session)), object...), session[:]...)
	return "copied/" + crypt.Sum(copied).String(), copied
}

// parseCopied opens copied/<sha256> and checks the record as the one of its home. Errors match ErrDamaged or ErrTampered.
func (r *Repo) parseCopied(name string, copied []byte) (*snapshot.Record, error) {
	n := len(copied) - len(crypt.SessionID{})
	if n < 0 || name != "copied/"+crypt.Sum(copied).String() {
		return nil, damaged("reading", name, errors.New("the bytes do not match the name"))
	}
	session := crypt.SessionID(copied[n:])
	rec, err := r.SnapshotObject("snapshots/"+session.String(), copied[:n])
	if err != nil {
		return nil, err
	}
	if rec.Kind != snapshot.Snapshot {
		return nil, damaged("reading", name, errors.New("not the record of a snapshot"))
	}
	return rec, nil
}
