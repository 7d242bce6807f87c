package format

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

// SealSuccession makes roots/<sha256>: a header without epoch and salt, then in clear, because it is read before anything can be
// opened, the Signed of the old root over a Succession that the new root signed.
func SealSuccession(old, next *crypt.Root, time int64) (name string, object []byte, err error) {
	s := Succession{Old: old.Public(), New: next.Public(), Time: time}
	signed, err := crypt.ParseSigned(next.Sign(crypt.TypeRoots, successionSubject, canon.Marshal(s)))
	if err != nil {
		return "", nil, err
	}
	s.Sig = signed.Sig
	object = append(crypt.Header{Type: crypt.TypeRoots}.Append(nil), old.Sign(crypt.TypeRoots, "", canon.Marshal(s))...)
	return "roots/" + crypt.Sum(object).String(), object, nil
}

// ParseSuccession checks roots/<sha256> and both of its signatures: those that are not valid match crypt.ErrSignature. Whether the old root is one to
// believe is the caller's to know.
func ParseSuccession(repo crypt.RepoID, name string, object []byte) (*Succession, error) {
	if err := CheckName(crypt.TypeRoots, name, object); err != nil {
		return nil, err
	}
	h, err := crypt.ParseHeader(object)
	if err != nil {
		return nil, err
	}
	if h != (crypt.Header{Type: crypt.TypeRoots}) {
		return nil, errors.New("not the header of a succession")
	}
	signed, err := crypt.ParseSigned(object[crypt.HeaderSize:])
	if err != nil {
		return nil, err
	}
	s, err := Parse[Succession](signed.Body)
	if err != nil {
		return nil, err
	}
	unsigned := *s
	unsigned.Sig = nil
	if signed.Signer != (crypt.HostID{}) {
		return nil, crypt.ErrSignature
	}
	if err := crypt.Verify(s.Old, crypt.TypeRoots, repo, "", signed); err != nil {
		return nil, err
	}
	if err := crypt.Verify(s.New, crypt.TypeRoots, repo, successionSubject, &crypt.Signed{Body: canon.Marshal(unsigned), Sig: s.Sig}); err != nil {
		return nil, err
	}
	return s, nil
}
