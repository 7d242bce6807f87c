package repo

import (
	"bytes"
	"crypto/ed25519"
	"errors"

	"packhold/crypt"
	"packhold/crypt/canon"
)

func (s *Succession) validate() error {
	if len(s.Old) != ed25519.PublicKeySize || len(s.New) != ed25519.PublicKeySize || bytes.Equal(s.Old, s.New) ||
		len(s.Sig) != ed25519.SignatureSize {
		return errors.New("bad field")
	}
	return nil
}

// successionSubject sets the new root's signature, which says that it takes over, apart from the old one's.
const successionSubject = "successor"

// sealSuccession makes roots/<sha256>: a header without epoch and salt, then in clear, because it is read before anything can be
// opened, the Signed of the old root over a Succession that the new root signed.
func sealSuccession(old, next *crypt.Root, time int64) (name string, object []byte, err error) {
	s := Succession{Old: old.Public(), New: next.Public(), Time: time}
	signed, err := crypt.ParseSigned(next.Sign(crypt.TypeRoots, successionSubject, canon.Marshal(s)))
	if err != nil {
		return "", nil, err
	}
	s.Sig = signed.Sig
	object = append(crypt.Header{Type: crypt.TypeRoots}.Append(nil), old.Sign(crypt.TypeRoots, "", canon.Marshal(s))...)
	return "roots/" + crypt.Sum(object).String(), object, nil
}

// parseSuccession checks roots/<sha256> and both of its signatures. Whether the old root is one to believe is the caller's to know. Errors match
// ErrDamaged or ErrTampered.
func parseSuccession(repo crypt.RepoID, name string, object []byte) (*Succession, error) {
	fail := func(err error) (*Succession, error) { return nil, damaged("reading", name, err) }
	if name != "roots/"+crypt.Sum(object).String() {
		return fail(errors.New("the bytes do not match the name"))
	}
	h, err := crypt.ParseHeader(object)
	if err != nil {
		return fail(err)
	}
	if h != (crypt.Header{Type: crypt.TypeRoots}) {
		return fail(errors.New("not the header of a succession"))
	}
	signed, err := crypt.ParseSigned(object[crypt.HeaderSize:])
	if err != nil {
		return fail(err)
	}
	s, err := parseBody[Succession](signed.Body)
	if err != nil {
		return fail(err)
	}
	unsigned := *s
	unsigned.Sig = nil
	if signed.Signer != (crypt.HostID{}) {
		err = crypt.ErrSignature
	} else if err = crypt.Verify(s.Old, crypt.TypeRoots, repo, "", signed); err == nil {
		err = crypt.Verify(s.New, crypt.TypeRoots, repo, successionSubject, &crypt.Signed{Body: canon.Marshal(unsigned), Sig: s.Sig})
	}
	if err != nil {
		return nil, tampered("reading", name, err)
	}
	return s, nil
}
