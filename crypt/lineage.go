package crypt

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Lineage names the backups of the same sources by one host, without telling what they are: HMAC-SHA-256(lineage key,
// host id | count u32 | each source: length u32, bytes), with the key HKDF-SHA-256(chunker secret, "packhold/1/lineage" | repo id). The chunker secret
// never changes, so rotating other keys keeps parents.
func Lineage(chunker [32]byte, repo RepoID, host HostID, sources []string) ([32]byte, error) {
	key, err := hkdf.Key(sha256.New, chunker[:], nil, "packhold/1/lineage"+string(repo[:]), 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("naming lineage: %w", err)
	}
	m := hmac.New(sha256.New, key)
	m.Write(host[:])
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(sources)))
	m.Write(n[:])
	for _, s := range sources {
		binary.LittleEndian.PutUint32(n[:], uint32(len(s)))
		m.Write(n[:])
		m.Write([]byte(s))
	}
	return [32]byte(m.Sum(nil)), nil
}
