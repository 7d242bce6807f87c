package format

import "packhold/crypt"

// JoinCopied makes copied/<sha256> of a snapshot's object: the object, verbatim, and the session that it is the snapshot of, 16 bytes, without
// which it cannot be opened. It is named by the SHA-256 of both.
func JoinCopied(session crypt.SessionID, object []byte) (name string, copied []byte) {
	copied = append(append(make([]byte, 0, len(object)+len(session)), object...), session[:]...)
	return "copied/" + crypt.Sum(copied).String(), copied
}

// SplitCopied is the inverse of JoinCopied. Bytes that do not match the name are ErrName.
func SplitCopied(name string, copied []byte) (session crypt.SessionID, object []byte, err error) {
	n := len(copied) - len(session)
	if n < 0 || name != "copied/"+crypt.Sum(copied).String() {
		return session, nil, ErrName
	}
	return crypt.SessionID(copied[n:]), copied[:n], nil
}
