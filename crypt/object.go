package crypt

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// MaxObject caps the size of a sealed object that is not a pack, in bytes: a padded body of 64 MiB and what stands around it.
const MaxObject = 64<<20 + 1<<12

// MaxBody is the longest body that SealObject and SealBody take: with its length before it, it pads to 64 MiB.
const MaxBody = 64<<20 - 4

// WriteSecret is W, the secret of a write epoch. Whoever holds it can open which blobs, snapshots and hosts exist, and never what is in them.
type WriteSecret [32]byte

// purpose names the four keys that come from W.
func purpose(t Type) string {
	switch t {
	case TypeIndex:
		return "index"
	case TypeSnapshot:
		return "snapshot"
	case TypePackTable:
		return "table"
	}
	return "control"
}

// deriveKey is HKDF-SHA-256(secret, salt, "packhold/1/<purpose>" | repo id).
func deriveKey(secret, salt []byte, purpose string, repo RepoID) ([]byte, error) {
	return hkdf.Key(sha256.New, secret, salt, "packhold/1/"+purpose+string(repo[:]), 32)
}

// NewSalt makes the salt of an object: HMAC-SHA-256(32 random bytes, plain). Mixing the plaintext in means
// that a cloned machine, which repeats its random bytes, still never seals other bytes under the same key.
func NewSalt(plain []byte) [32]byte { return drawSalt(nil, plain) }

func drawSalt(place, plain []byte) [32]byte {
	var r [32]byte
	rand.Read(r[:])
	return mixSalt(r, place, plain)
}

// mixSalt is HMAC-SHA-256(random, u32 length of place | place | plain). The place, which is what the
// associated data will say, is mixed in too: under one key and nonce even equal plaintexts give GCM's
// authentication key away if their associated data differ. Without a place it is HMAC(random, plain).
// A reader never recomputes a salt.
func mixSalt(random [32]byte, place, plain []byte) (salt [32]byte) {
	m := hmac.New(sha256.New, random[:])
	if place != nil {
		m.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(place))))
		m.Write(place)
	}
	m.Write(plain)
	m.Sum(salt[:0])
	return salt
}

// objectAAD is repo id | format | type | name.
func objectAAD(repo RepoID, t Type, name string) []byte {
	a := append(make([]byte, 0, 18+len(name)), repo[:]...)
	a = append(a, Format, byte(t))
	return append(a, name...)
}

// paddedSize is what a plaintext of n bytes is padded to: a power of two, at least 256, so that sizes tell the storage next to
// nothing; for index segments a sixteenth of the power below (at most 1/16 wasted), because they can be large.
func paddedSize(t Type, n int) int {
	if n <= 256 {
		return 256
	}
	pow := 1 << bits.Len(uint(n-1))
	if t != TypeIndex && t != TypeAuditTile || n < 4096 {
		return pow
	}
	step := pow / 32
	return (n + step - 1) / step * step
}

// pad returns u32 length | body | zeros.
func pad(t Type, body []byte) []byte {
	p := make([]byte, paddedSize(t, len(body)+4))
	binary.LittleEndian.PutUint32(p, uint32(len(body)))
	copy(p[4:], body)
	return p
}

// unpad is the inverse of pad, and refuses anything that pad would not have made.
func unpad(t Type, p []byte) ([]byte, error) {
	if len(p) < 4 {
		return nil, errors.New("padding is broken")
	}
	n := int64(binary.LittleEndian.Uint32(p))
	if n > int64(len(p)-4) || paddedSize(t, int(n)+4) != len(p) {
		return nil, errors.New("padding is broken")
	}
	for _, c := range p[4+n:] {
		if c != 0 {
			return nil, errors.New("padding is broken")
		}
	}
	return p[4 : 4+n : 4+n], nil
}

// sealWith makes an object: header | nonce | ciphertext of the padded body | tag.
func sealWith(secret []byte, repo RepoID, epoch uint32, t Type, name, purpose string, body []byte) ([]byte, error) {
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(body), MaxBody)
	}
	plain := pad(t, body)
	place := binary.LittleEndian.AppendUint32(objectAAD(repo, t, name), epoch)
	h := Header{Type: t, Epoch: epoch, Salt: drawSalt(place, plain)}
	key, err := deriveKey(secret, h.Salt[:], purpose, repo)
	if err != nil {
		return nil, err
	}
	a, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	out := h.Append(make([]byte, 0, HeaderSize+len(plain)+Overhead))
	return a.Seal(out, nil, plain, append(objectAAD(repo, t, name), out[:HeaderSize]...)), nil
}

func openWith(secret []byte, repo RepoID, t Type, name, purpose string, object []byte) ([]byte, error) {
	if len(object) > MaxObject {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrOpen, len(object), MaxObject)
	}
	h, err := openHeader(object, t)
	if err != nil {
		return nil, err
	}
	key, err := deriveKey(secret, h.Salt[:], purpose, repo)
	if err != nil {
		return nil, err
	}
	a, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, nil, object[HeaderSize:], append(objectAAD(repo, t, name), object[:HeaderSize]...))
	if err != nil {
		return nil, ErrOpen
	}
	if plain, err = unpad(t, plain); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOpen, err)
	}
	return plain, nil
}

// openHeader parses the header of an object that must be of type t. Failures match ErrFormat or ErrOpen.
func openHeader(object []byte, t Type) (Header, error) {
	h, err := ParseHeader(object)
	if errors.Is(err, ErrFormat) {
		return h, err
	}
	if err != nil {
		return h, fmt.Errorf("%w: %w", ErrOpen, err)
	}
	if h.Type != t || h.Variant != 0 {
		return h, ErrOpen
	}
	return h, nil
}

// SealObject seals body as the object called name under the key that W gives for its type:
// header 48 | nonce 12 | padded body | tag 16, with AAD repo id | format | type | name | header.
// Objects named by their own hash pass "" for the name. The body is at most MaxBody bytes.
func (w WriteSecret) SealObject(repo RepoID, epoch uint32, t Type, name string, body []byte) ([]byte, error) {
	b, err := sealWith(w[:], repo, epoch, t, name, purpose(t), body)
	if err != nil {
		return nil, fmt.Errorf("sealing %v %s: %w", t, name, err)
	}
	return b, nil
}

// OpenObject returns the body that SealObject was given. Anything else matches ErrOpen or ErrFormat.
func (w WriteSecret) OpenObject(repo RepoID, t Type, name string, object []byte) ([]byte, error) {
	b, err := openWith(w[:], repo, t, name, purpose(t), object)
	if err != nil {
		return nil, fmt.Errorf("opening %v %s: %w", t, name, err)
	}
	return b, nil
}

// SealTable seals the table of a pack, plain already padded by its room: the salt stands in the pack's locator.
// AAD: repo id | format | type | pack header.
func (w WriteSecret) SealTable(repo RepoID, header Header, plain []byte) (salt [32]byte, sealed []byte, err error) {
	place := header.Append(objectAAD(repo, TypePackTable, ""))
	salt = drawSalt(place, plain)
	a, aad, err := w.table(repo, header, salt)
	if err != nil {
		return salt, nil, fmt.Errorf("sealing pack table: %w", err)
	}
	return salt, a.Seal(make([]byte, 0, len(plain)+Overhead), nil, plain, aad), nil
}

// OpenTable is the inverse of SealTable. A failure matches ErrOpen.
func (w WriteSecret) OpenTable(repo RepoID, header Header, salt [32]byte, sealed []byte) ([]byte, error) {
	a, aad, err := w.table(repo, header, salt)
	if err != nil {
		return nil, fmt.Errorf("opening pack table: %w: %w", ErrOpen, err)
	}
	plain, err := a.Open(nil, nil, sealed, aad)
	if err != nil {
		return nil, fmt.Errorf("opening pack table: %w", ErrOpen)
	}
	return plain, nil
}

// SealBody seals the part of a snapshot record that only readers may open, under the session key.
func (s SessionKey) SealBody(repo RepoID, session SessionID, body []byte) ([]byte, error) {
	b, err := sealWith(s[:], repo, 0, TypeSnapshotBody, session.String(), "body", body)
	if err != nil {
		return nil, fmt.Errorf("sealing snapshot body %v: %w", session, err)
	}
	return b, nil
}

// OpenBody is the inverse of SealBody. A failure matches ErrOpen.
func (s SessionKey) OpenBody(repo RepoID, session SessionID, object []byte) ([]byte, error) {
	b, err := openWith(s[:], repo, TypeSnapshotBody, session.String(), "body", object)
	if err != nil {
		return nil, fmt.Errorf("opening snapshot body %v: %w", session, err)
	}
	return b, nil
}

// LocalKey seals what a host keeps about its own backups on its own disk: the last tree, the bodies of its snapshots.
type LocalKey [32]byte

// Seal seals data for the given purpose, a file name or kind: salt 32 | nonce 12 | ciphertext | tag 16 under
// HKDF-SHA-256(local key, salt, "packhold/local/<purpose>"). Each call draws a fresh salt, and so a fresh key.
func (l LocalKey) Seal(purpose string, data []byte) ([]byte, error) {
	salt := NewSalt(data)
	a, err := l.aead(salt[:], purpose)
	if err != nil {
		return nil, fmt.Errorf("sealing local %s: %w", purpose, err)
	}
	return a.Seal(append(make([]byte, 0, 32+len(data)+Overhead), salt[:]...), nil, data, nil), nil
}

// Open is the inverse of Seal. A failure matches ErrOpen.
func (l LocalKey) Open(purpose string, b []byte) ([]byte, error) {
	if len(b) < 32+Overhead {
		return nil, fmt.Errorf("opening local %s: %w", purpose, ErrOpen)
	}
	a, err := l.aead(b[:32], purpose)
	if err != nil {
		return nil, fmt.Errorf("opening local %s: %w", purpose, err)
	}
	plain, err := a.Open(nil, nil, b[32:], nil)
	if err != nil {
		return nil, fmt.Errorf("opening local %s: %w", purpose, ErrOpen)
	}
	return plain, nil
}

func (l LocalKey) aead(salt []byte, purpose string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, l[:], salt, "packhold/local/"+purpose, 32)
	if err != nil {
		return nil, err
	}
	return newGCM(key)
}

func (w WriteSecret) table(repo RepoID, header Header, salt [32]byte) (cipher.AEAD, []byte, error) {
	if header.Type != TypeDataPack && header.Type != TypeTreePack {
		return nil, nil, fmt.Errorf("a %v has no table", header.Type)
	}
	key, err := deriveKey(w[:], salt[:], purpose(TypePackTable), repo)
	if err != nil {
		return nil, nil, err
	}
	a, err := newGCM(key)
	return a, header.Append(objectAAD(repo, TypePackTable, "")), err
}
