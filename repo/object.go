package repo

import (
	"packhold/crypt"
	"packhold/index"
	"packhold/repo/control"
	"packhold/repo/format"
	"packhold/repo/snapshot"
)

// SealControl makes an object: body signed by this process's host and sealed under the control key of the current write epoch. Of an object that
// is named by its hash, name is the part before, and the full name is returned. ErrNeedHost says that no host signs here.
func (r *Repo) SealControl(t crypt.Type, name string, body []byte) (full string, object []byte, err error) {
	if r.keys.Identity == nil {
		return "", nil, ErrNeedHost
	}
	return r.SealAs(r.keys.Identity, t, name, body)
}

// SealAs is SealControl for another signer.
func (r *Repo) SealAs(id *crypt.Identity, t crypt.Type, name string, body []byte) (full string, object []byte, err error) {
	r.surveys.Storing(t)
	return r.control().Seal(id, t, name, body)
}

// OpenControl opens an object, checks that its name and its signer's role fit, and returns the body. Revocation is the caller's to judge.
// Errors match ErrDamaged or ErrTampered, or are the disk's (stored.Unreadable) where it cannot read a certificate.
func (r *Repo) OpenControl(t crypt.Type, name string, object []byte) (*crypt.Signed, error) {
	return r.control().Open(t, name, object)
}

// SnapshotObject opens and checks the object of one session; a void may also be the prune role's. Errors match ErrDamaged or ErrTampered.
func (r *Repo) SnapshotObject(name string, object []byte) (*snapshot.Record, error) {
	return r.control().Snapshot(name, object)
}

// ForgottenObject opens an entry and checks that its signer may forget that snapshot. Errors match ErrDamaged or ErrTampered.
func (r *Repo) ForgottenObject(name string, object []byte) (*format.Forgotten, error) {
	return r.control().Forgotten(name, object)
}

// MarkObject opens a mark, says who signed it (zero: the root), and checks that its signer may make one of its kind; that a writer speaks of its
// own snapshots is for the caller to check. Errors match ErrDamaged or ErrTampered.
func (r *Repo) MarkObject(name string, object []byte) (m *format.Mark, signer crypt.HostID, err error) {
	return r.control().Mark(name, object)
}

// SetObject opens an object of a condemned set, by the suffix of its name: "", "leases" or "final". Errors match ErrDamaged or ErrTampered.
func (r *Repo) SetObject(name, suffix string, object []byte) (control.SetPart, error) {
	return r.control().Set(name, suffix, object)
}

// SegmentObject opens and checks an index segment. Errors match ErrDamaged or ErrTampered.
func (r *Repo) SegmentObject(name string, object []byte) (*index.Segment, error) {
	return r.control().Segment(name, object)
}

// CheckObject checks everything that can be known of an object that is neither a pack nor of an audit log, from its bytes: its name,
// its seal, its signature and the signer's role, its form. Errors match ErrDamaged or ErrTampered.
func (r *Repo) CheckObject(name string, b []byte) error { return r.control().Check(name, b) }

// control opens objects with what is known so far.
func (r *Repo) control() *control.Objects {
	o := &control.Objects{Config: r.config, Trust: r.trust, Ring: r.ring, Kept: r.kept, Unsure: r.unsure}
	if r.settings != nil {
		o.Epoch, o.HostForget = r.settings.WriteEpoch, r.settings.HostForget
	}
	if r.keys != nil {
		o.Writes = r.keys.Writes
	}
	return o
}
