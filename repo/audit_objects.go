package repo

import "packhold/crypt"

// SealControl makes a control object that is stored under name: body signed by this process's host and sealed under the control key of
// the current write epoch. The type must not be one that is named by its own hash. ErrNeedHost says that no host signs here.
func (r *Repo) SealControl(t crypt.Type, name string, body []byte) ([]byte, error) {
	_, object, err := r.sealSigned(t, name, body, false)
	return object, err
}

// OpenControl opens what SealControl made, and checks that its signer is certified for such objects. Revocation is the caller's to judge.
// Errors match ErrDamaged or ErrTampered.
func (r *Repo) OpenControl(t crypt.Type, name string, object []byte) (*crypt.Signed, error) {
	return r.openSigned(t, name, object)
}
