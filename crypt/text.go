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
// what it belongs to. The result is salt 32 | HPKE enc 1,153 | nonce 12 | ciphertext | tag 16, under the HPKE half of the read key alone. The salt
// (NewSalt of the text) ends the info, so that a cloned machine, which repeats its random bytes, seals another text under another key.
func (k *ReadPublic) SealText(repo RepoID, about string, text []byte) ([]byte, error) {
	salt := NewSalt(text)
	b, err := sealTo(k.HPKE, append(textInfo(repo, k.Epoch, about), salt[:]...), text)
	if err != nil {
		return nil, fmt.Errorf("sealing text: %w", err)
	}
	return append(salt[:], b...), nil
}

// OpenText is the inverse of SealText. Failures match ErrOpen.
func (k *ReadPrivate) OpenText(repo RepoID, about string, sealed []byte) ([]byte, error) {
	if len(sealed) < 32 {
		return nil, fmt.Errorf("opening text: %w", ErrOpen)
	}
	b, err := openFrom(k.HPKE, append(textInfo(repo, k.Epoch, about), sealed[:32]...), sealed[32:])
	if err != nil {
		return nil, fmt.Errorf("opening text: %w", err)
	}
	return b, nil
}
