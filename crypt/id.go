package crypt

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// ID names a blob: the SHA-256 of its plaintext. It is seen only inside sealed tables, indexes and trees,
// because a bare hash would tell the storage which known files are stored.
type ID [sha256.Size]byte

// Sum returns the ID of plain. It is the pre-backup checksum: it is taken before anything else touches the bytes.
func Sum(plain []byte) ID { return sha256.Sum256(plain) }

// IsZero reports whether id is the zero ID, which names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the 64 lower-case hexadecimal digits of id.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID is the inverse of String: ParseID(id.String()) == id. Upper-case digits are refused, names have one form.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("parsing ID: %d characters, want %d", len(s), 2*len(id))
	}
	for i := range s {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ID{}, fmt.Errorf("parsing ID: character %q is not a lower-case hexadecimal digit", c)
		}
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("parsing ID: %w", err)
	}
	return id, nil
}
