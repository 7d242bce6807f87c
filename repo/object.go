package repo

import (
	"fmt"

	"packhold/crypt"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/stored"
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
	epoch := r.settings.WriteEpoch
	w, ok := r.keys.Writes[epoch]
	if !ok {
		return "", nil, fmt.Errorf("sealing %s: write secret of epoch %d: %w", name, epoch, keyring.ErrNoKey)
	}
	signed := id.SignBody(t, r.config.ID, format.Subject(t, name), body)
	return format.Sealer{Repo: r.config.ID, Epoch: epoch, Write: w}.Seal(t, name, signed)
}

// OpenControl opens an object, checks that its name and its signer's role fit, and returns the body. Revocation is the caller's to judge.
// Errors match ErrDamaged or ErrTampered, or are the disk's (stored.Unreadable) where it cannot read a certificate.
func (r *Repo) OpenControl(t crypt.Type, name string, object []byte) (*crypt.Signed, error) {
	s, err := r.unseal(t, name, object)
	if err != nil {
		return nil, stored.Damaged("reading", name, err)
	}
	err = r.trust.Check(t, format.Subject(t, name), s)
	switch {
	case err == nil:
		return s, nil
	case r.unsure != nil && s.Signer != (crypt.HostID{}) && r.trust.Certificate(s.Signer) == nil:
		return nil, stored.Failed("reading", name, fmt.Errorf("nobody can tell who signed it: %w", r.unsure)) // its certificate may be what the disk cannot read
	}
	return nil, stored.Tampered("reading", name, err)
}

// unseal is OpenControl without the signature.
func (r *Repo) unseal(t crypt.Type, name string, object []byte) (*crypt.Signed, error) {
	if err := format.CheckName(t, name, object); err != nil {
		return nil, err
	}
	h, err := crypt.ParseHeader(object)
	if err != nil {
		return nil, err
	}
	w, ok := r.keys.Writes[h.Epoch]
	if !ok {
		return nil, fmt.Errorf("write secret of epoch %d: %w", h.Epoch, keyring.ErrNoKey)
	}
	body, err := w.OpenObject(r.config.ID, t, format.Subject(t, name), object)
	if err != nil {
		return nil, err
	}
	return crypt.ParseSigned(body)
}

// openBody is OpenControl for the objects whose body is a B.
func openBody[B format.Body](r *Repo, t crypt.Type, name string, object []byte) (v *B, signer crypt.HostID, err error) {
	s, err := r.OpenControl(t, name, object)
	if err != nil {
		return nil, signer, err
	}
	if v, err = format.Parse[B](s.Body); err != nil {
		return nil, signer, stored.Damaged("reading", name, err)
	}
	return v, s.Signer, nil
}
