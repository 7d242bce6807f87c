package format

import (
	"errors"
	"strings"

	"packhold/crypt"
)

// Subject is what the signature and AAD of an object speak of: its name below the prefix, and nothing for objects that are
// named by their own hash.
func Subject(t crypt.Type, name string) string {
	switch t {
	case crypt.TypeIndex, crypt.TypeForgotten, crypt.TypeMark, crypt.TypeVerified, crypt.TypeGroup, crypt.TypeRoots:
		return ""
	case crypt.TypeHost:
		return strings.SplitN(strings.TrimPrefix(name, "hosts/"), "-", 2)[0]
	}
	_, rest, _ := strings.Cut(name, "/")
	return rest
}

// hashed reports whether the name of an object ends with the SHA-256 of its bytes.
func hashed(t crypt.Type, subject string) bool { return subject == "" || t == crypt.TypeHost }

// Sealer seals objects under the control key of a write epoch.
type Sealer struct {
	Repo  crypt.RepoID
	Epoch uint32
	Write crypt.WriteSecret // of the epoch
}

// Seal makes an object of signed, which its signer made for Subject(t, name). Of an object that is named by its hash, name is the
// part before, and the full name is returned.
func (s Sealer) Seal(t crypt.Type, name string, signed []byte) (full string, object []byte, err error) {
	subject := Subject(t, name)
	object, err = s.Write.SealObject(s.Repo, s.Epoch, t, subject, signed)
	if err != nil {
		return "", nil, err
	}
	if hashed(t, subject) {
		name += crypt.Sum(object).String()
	}
	return name, object, nil
}

// CheckName refuses the bytes of an object that is named by its hash, if they are not those of its name.
func CheckName(t crypt.Type, name string, object []byte) error {
	if hashed(t, Subject(t, name)) && !strings.HasSuffix(name, crypt.Sum(object).String()) {
		return ErrName
	}
	return nil
}

// ErrName is matched by the error for bytes that do not hash to the name of their object.
var ErrName = errors.New("the bytes do not match the name")
