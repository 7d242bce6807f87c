package crypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sync"
)

// RepoID names a repository: 16 random bytes, made at init and bound into every key derivation and every AAD.
type RepoID [16]byte

// Overhead is how many bytes sealing adds: the random nonce of 12 and the tag of 16.
const Overhead = 28

// ErrOpen is matched by every failure to open sealed bytes: a wrong key, changed bytes, or right bytes in a wrong role.
// The three cannot be told apart on purpose.
var ErrOpen = errors.New("sealed bytes do not open")

// Compression says how a blob was compressed: the algorithm and its level together, because the blob key binds both.
// The numbers are part of format 1.
type Compression uint8

// The ways a blob can be compressed. Levels are those of klauspost/compress/zstd.
const (
	Uncompressed Compression = iota
	ZstdFastest
	ZstdDefault
	ZstdBetter
	ZstdBest
)

// BlobInfo is what the associated data of a sealed blob says of it.
type BlobInfo struct {
	ID          ID
	Raw         uint32 // bytes of the plaintext
	Compression Compression
	Tree        bool // a tree page, in a tree pack
}

// SessionKey is the secret of one writer session, from which all its pack and body keys come.
type SessionKey [32]byte

// PackKey seals and opens the blobs of one pack. It may be used concurrently.
type PackKey struct {
	repo RepoID
	macs sync.Pool // of HMACs under the pack key: one that is Reset costs a third of a new one
}

// PackKey derives the key of the pack with the given salt:
// HKDF-SHA-256(session key, salt, "packhold/1/pack" | repo id).
func (s SessionKey) PackKey(repo RepoID, salt [32]byte) (*PackKey, error) {
	k, err := hkdf.Key(sha256.New, s[:], salt[:], "packhold/1/pack"+string(repo[:]), 32)
	if err != nil {
		return nil, fmt.Errorf("deriving pack key: %w", err)
	}
	p := &PackKey{repo: repo}
	p.macs.New = func() any { return hmac.New(sha256.New, k) }
	return p, nil
}

// aad is repo id 16 | format 1 | type 1 | blob ID 32 | raw length u32 | compression 1.
func (k *PackKey) aad(b BlobInfo) [55]byte {
	var a [55]byte
	copy(a[:], k.repo[:])
	a[16] = Format
	a[17] = byte(TypeDataPack)
	if b.Tree {
		a[17] = byte(TypeTreePack)
	}
	copy(a[18:], b.ID[:])
	binary.LittleEndian.PutUint32(a[50:], b.Raw)
	a[54] = byte(b.Compression)
	return a
}

// blobKey is HMAC-SHA-256(pack key, blob ID | compression). The key binds the plaintext's hash and the encoder's
// setting, and the encoder is deterministic, so even a cloned machine that repeats its random nonces never seals
// two different plaintexts under one (key, nonce).
func (k *PackKey) blobKey(b BlobInfo) []byte {
	var in [33]byte
	copy(in[:], b.ID[:])
	in[32] = byte(b.Compression)
	m := k.macs.Get().(hash.Hash)
	defer k.macs.Put(m)
	m.Reset()
	m.Write(in[:])
	return m.Sum(make([]byte, 0, 32))
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Seal appends the sealed form of data, Overhead bytes longer, to dst. data is the blob after compression and
// must not overlap dst's free room. Nothing is allocated for the result where dst has that room.
func (k *PackKey) Seal(dst []byte, b BlobInfo, data []byte) ([]byte, error) {
	a, err := newGCM(k.blobKey(b))
	if err != nil {
		return dst, fmt.Errorf("sealing blob %v: %w", b.ID, err)
	}
	aad := k.aad(b)
	return a.Seal(dst, nil, data, aad[:]), nil
}

// Open appends the bytes that Seal was given to dst. A failure matches ErrOpen.
// Whether the bytes are those of the blob is the caller's to check after decompression: Sum(plain) == b.ID.
func (k *PackKey) Open(dst []byte, b BlobInfo, sealed []byte) ([]byte, error) {
	a, err := newGCM(k.blobKey(b))
	if err != nil {
		return dst, fmt.Errorf("opening blob %v: %w", b.ID, err)
	}
	aad := k.aad(b)
	out, err := a.Open(dst, nil, sealed, aad[:])
	if err != nil {
		return dst, fmt.Errorf("opening blob %v: %w", b.ID, ErrOpen)
	}
	return out, nil
}
