// Package control opens, checks and seals the control objects of a repository, from their bytes.
package control

import (
	"errors"
	"fmt"

	"packhold/crypt"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/stored"
)

// Objects is what that needs: whom to believe, and the secrets that open things. Its methods may be called concurrently.
type Objects struct {
	Config *format.Config
	Writes map[uint32]crypt.WriteSecret
	Trust  *crypt.Trust
	Ring   *keyring.Ring

	Epoch      uint32 // of the write secret to seal with
	HostForget bool   // a host may forget its own snapshots

	Kept   map[crypt.SessionID]crypt.ID // snapshots of revoked hosts that stay valid, by their objects
	Unsure error                        // the disk cannot read what says whom to believe
}

// ErrForeign says that something is of another repository than the one that is open.
var ErrForeign = errors.New("another repository than the one this host knows")

// ErrNotKept says that a snapshot does not count because an administrator said so.
var ErrNotKept = errors.New("its host was revoked, and the revocation does not name it among the snapshots that stay valid")

// Seal makes an object: body signed by id and sealed under the write secret of Epoch. Of an object that is named by its hash, name is the part before,
// and the full name is returned.
func (o *Objects) Seal(id *crypt.Identity, t crypt.Type, name string, body []byte) (full string, object []byte, err error) {
	epoch := o.Epoch
	w, ok := o.Writes[epoch]
	if !ok {
		return "", nil, fmt.Errorf("sealing %s: write secret of epoch %d: %w", name, epoch, keyring.ErrNoKey)
	}
	signed := id.SignBody(t, o.Config.ID, format.Subject(t, name), body)
	return format.Sealer{Repo: o.Config.ID, Epoch: epoch, Write: w}.Seal(t, name, signed)
}

// Open opens an object, checks that its name and its signer's role fit, and returns the body. Revocation is the caller's to judge.
// Errors match ErrDamaged or ErrTampered, or are the disk's (stored.Unreadable) where it cannot read a certificate.
func (o *Objects) Open(t crypt.Type, name string, object []byte) (*crypt.Signed, error) {
	s, err := o.unseal(t, name, object)
	if err != nil {
		return nil, stored.Damaged("reading", name, err)
	}
	err = o.Trust.Check(t, format.Subject(t, name), s)
	switch {
	case err == nil:
		return s, nil
	case o.Unsure != nil && s.Signer != (crypt.HostID{}) && o.Trust.Certificate(s.Signer) == nil:
		return nil, stored.Failed("reading", name, fmt.Errorf("nobody can tell who signed it: %w", o.Unsure)) // its certificate may be what the disk cannot read
	}
	return nil, stored.Tampered("reading", name, err)
}

// unseal is Open without the signature.
func (o *Objects) unseal(t crypt.Type, name string, object []byte) (*crypt.Signed, error) {
	if err := format.CheckName(t, name, object); err != nil {
		return nil, err
	}
	h, err := crypt.ParseHeader(object)
	if err != nil {
		return nil, err
	}
	w, ok := o.Writes[h.Epoch]
	if !ok {
		return nil, fmt.Errorf("write secret of epoch %d: %w", h.Epoch, keyring.ErrNoKey)
	}
	body, err := w.OpenObject(o.Config.ID, t, format.Subject(t, name), object)
	if err != nil {
		return nil, err
	}
	return crypt.ParseSigned(body)
}

// openBody is Open for the objects whose body is a B.
func openBody[B format.Body](o *Objects, t crypt.Type, name string, object []byte) (v *B, signer crypt.HostID, err error) {
	s, err := o.Open(t, name, object)
	if err != nil {
		return nil, signer, err
	}
	if v, err = format.Parse[B](s.Body); err != nil {
		return nil, signer, stored.Damaged("reading", name, err)
	}
	return v, s.Signer, nil
}
