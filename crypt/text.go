package crypt

import (
	"encoding/binary"
	"fmt"
)

// textInfo binds a sealed text to its place: "packhold/1/text" | repo id | read key epoch u32 | about.
func textInfo(repo RepoID, epoch uint32, about string) []byte {
	b := append([]byte("packhold/1/text"), repo[:]...)
	b = binary.LittleEndian.AppendUint32(b, epoch)
	return append(b, about...)
}

// SealText seals a short text that only holders of the private read key may open: the words of a mark, the user of an audit record. about says
// what it belongs to. The result is HPKE enc 1,153 | nonce 12 | ciphertext | tag 16, under the HPKE half of the read key alone.
func (k *ReadPublic) SealText(repo RepoID, about string, text []byte) ([]byte, error) {
	b, err := sealTo(k.HPKE, textInfo(repo, k.Epoch, about), text)
	if err != nil {
		return nil, fmt.Errorf("sealing text: %w", err)
	}
	return b, nil
}

// OpenText is the inverse of SealText. Failures match ErrOpen.
func (k *ReadPrivate) OpenText(repo RepoID, about string, sealed []byte) ([]byte, error) {
	b, err := openFrom(k.HPKE, textInfo(repo, k.Epoch, about), sealed)
	if err != nil {
		return nil, fmt.Errorf("opening text: %w", err)
	}
	return b, nil
}
