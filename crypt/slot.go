package crypt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"

	"packhold/crypt/canon"
)

// Bounds of the passphrase derivation. The floor is the requirement's, the default OWASP's figure for
// PBKDF2-HMAC-SHA-256, and the ceiling keeps a hostile slot from costing more than about two seconds.
const (
	MinIterations     = 100_000
	DefaultIterations = 600_000
	MaxIterations     = 10_000_000
	MinPassphrase     = 14 // bytes
)

// ErrPassphrase is matched when a slot does not open with the passphrase given.
var ErrPassphrase = errors.New("wrong passphrase")

// SlotID names a key slot: 16 random bytes.
type SlotID [16]byte

// String returns 32 lower-case hexadecimal digits.
func (s SlotID) String() string { return hex.EncodeToString(s[:]) }

// kdfPBKDF2 is the one key derivation of format 1: PBKDF2-HMAC-SHA-256.
const kdfPBKDF2 = 1

// slotForm is a key slot as stored: CBOR in a Signed by the root, after the clear header.
type slotForm struct {
	ID         SlotID `cbor:"1,keyasint"`
	KDF        uint8  `cbor:"2,keyasint"`
	Iterations uint64 `cbor:"3,keyasint"`
	Salt       []byte `cbor:"4,keyasint"`
	Commit     []byte `cbor:"5,keyasint"`
	Public     []byte `cbor:"6,keyasint"` // HPKE public key that bundles are sealed to
	Sealed     []byte `cbor:"7,keyasint"` // payload under the KEK
	Label      []byte `cbor:"8,keyasint"` // label and creation time, sealed under the control key
	Epoch      uint32 `cbor:"9,keyasint"` // W epoch of the label
}

// slotPayload is what the passphrase protects: enough to open a bundle, and to know whose bundles to believe.
type slotPayload struct {
	Private []byte `cbor:"1,keyasint"`
	Root    []byte `cbor:"2,keyasint"`
	Repo    RepoID `cbor:"3,keyasint"`
}

// Slot is a parsed key slot. Its signature is not yet checked: the root that must have made it
// is known only once the slot is open.
type Slot struct {
	ID     SlotID
	Public hpke.PublicKey
	form   slotForm
	signed Signed
}

// OpenedSlot is a slot opened by its passphrase.
type OpenedSlot struct {
	Slot    *Slot
	Private hpke.PrivateKey
	Root    ed25519.PublicKey
	Repo    RepoID
}

// slotAAD binds the payload to the slot's parameters, so that none can be changed or moved to another slot.
func slotAAD(repo RepoID, f *slotForm) []byte {
	c := *f
	c.Commit, c.Sealed, c.Label = nil, nil, nil
	return append(objectAAD(repo, TypeKeySlot, f.ID.String()), canon.Marshal(c)...)
}

// checkKDF refuses parameters outside the bounds.
func checkKDF(f *slotForm) error {
	if f.KDF != kdfPBKDF2 || len(f.Salt) != 32 || f.Iterations < MinIterations || f.Iterations > MaxIterations {
		return fmt.Errorf("key derivation %d with %d iterations and a salt of %d bytes (accepted: 1, %d to %d, 32): %w",
			f.KDF, f.Iterations, len(f.Salt), MinIterations, MaxIterations, ErrPolicy)
	}
	return nil
}

// stretch derives the KEK's two uses. The parameters are checked before anything is computed.
func stretch(passphrase []byte, f *slotForm) (seal, commit []byte, err error) {
	if err := checkKDF(f); err != nil {
		return nil, nil, err
	}
	kek, err := pbkdf2.Key(sha256.New, string(passphrase), f.Salt, int(f.Iterations), 32)
	if err != nil {
		return nil, nil, err
	}
	if commit, err = hkdf.Key(sha256.New, kek, nil, "commit", 32); err != nil {
		return nil, nil, err
	}
	seal, err = hkdf.Key(sha256.New, kek, nil, "seal", 32)
	return seal, commit, err
}

// NewSlot makes a key slot for passphrase. Parameters come from iterations (0: the default) and never from an older slot.
// The label (who holds the passphrase, at most 1,024 bytes) is sealed under w. It returns the slot's object and its
// public half. Iterations or a passphrase outside the bounds match ErrPolicy.
func (r *Root) NewSlot(passphrase []byte, iterations int, label string, w WriteSecret, epoch uint32) (object []byte, slot *Slot, err error) {
	fail := func(err error) ([]byte, *Slot, error) { return nil, nil, fmt.Errorf("making key slot: %w", err) }
	if len(passphrase) < MinPassphrase {
		return fail(fmt.Errorf("passphrase of %d bytes, at least %d: %w", len(passphrase), MinPassphrase, ErrPolicy))
	}
	if len(label) > maxLabel {
		return fail(fmt.Errorf("label of %d bytes, the limit is %d", len(label), maxLabel))
	}
	if iterations == 0 {
		iterations = DefaultIterations
	}
	priv, err := kem().GenerateKey()
	if err != nil {
		return fail(err)
	}
	secret, err := priv.Bytes()
	if err != nil {
		return fail(err)
	}
	f := slotForm{KDF: kdfPBKDF2, Iterations: uint64(iterations), Public: priv.PublicKey().Bytes(), Epoch: epoch}
	rand.Read(f.ID[:])
	payload := canon.Marshal(slotPayload{Private: secret, Root: r.Public(), Repo: r.Repo})
	salt := drawSalt(slotAAD(r.Repo, &f), payload)
	f.Salt = salt[:]
	seal, commit, err := stretch(passphrase, &f)
	if err != nil {
		return fail(err)
	}
	a, err := newGCM(seal)
	if err != nil {
		return fail(err)
	}
	f.Commit = commit
	f.Sealed = a.Seal(nil, nil, payload, slotAAD(r.Repo, &f))
	if f.Label, err = w.SealObject(r.Repo, epoch, TypeKeySlot, f.ID.String(), []byte(label)); err != nil {
		return fail(err)
	}
	h := Header{Type: TypeKeySlot, Salt: salt}
	object = append(h.Append(nil), r.Sign(TypeKeySlot, f.ID.String(), canon.Marshal(f))...)
	if slot, err = ParseSlot(object); err != nil {
		return fail(err)
	}
	return object, slot, nil
}

// Caps in bytes. The parts of a slot add up to about 4 KiB.
const (
	maxSlot  = 16 << 10
	maxLabel = 1024
)

// ParseSlot decodes a key slot. What the slot asks for (Iterations) is judged when it is opened, its signature by CheckSigned.
func ParseSlot(object []byte) (*Slot, error) {
	fail := func(err error) (*Slot, error) { return nil, fmt.Errorf("parsing key slot: %w", err) }
	if len(object) > maxSlot {
		return fail(fmt.Errorf("%d bytes, the limit is %d", len(object), maxSlot))
	}
	h, err := ParseHeader(object)
	if err != nil {
		return fail(err)
	}
	if h.Type != TypeKeySlot || h.Variant != 0 || h.Epoch != 0 {
		return fail(errors.New("not a key slot"))
	}
	signed, err := ParseSigned(object[HeaderSize:])
	if err != nil {
		return fail(err)
	}
	s := &Slot{signed: *signed}
	if err := canon.Unmarshal(signed.Body, &s.form); err != nil {
		return fail(err)
	}
	// The header stands in clear and unsigned; this leaves it no byte of its own.
	if len(s.form.Salt) != 32 {
		return fail(fmt.Errorf("salt of %d bytes, want 32: %w", len(s.form.Salt), ErrPolicy))
	}
	if h.Salt != [32]byte(s.form.Salt) {
		return fail(errors.New("header and slot have different salts"))
	}
	s.ID = s.form.ID
	if s.Public, err = kem().NewPublicKey(s.form.Public); err != nil {
		return fail(err)
	}
	return s, nil
}

// Iterations returns the PBKDF2 iterations the slot asks for.
func (s *Slot) Iterations() uint64 { return s.form.Iterations }

// Label opens the slot's label with the write secret of its epoch.
func (s *Slot) Label(repo RepoID, ws map[uint32]WriteSecret) (string, error) {
	w, ok := ws[s.form.Epoch]
	if !ok {
		return "", fmt.Errorf("opening label of key slot %v: %w", s.ID, ErrOpen)
	}
	b, err := w.OpenObject(repo, TypeKeySlot, s.ID.String(), s.form.Label)
	return string(b), err
}

// CheckSigned verifies that the root made this slot.
func (s *Slot) CheckSigned(root ed25519.PublicKey, repo RepoID) error {
	if s.signed.Signer != (HostID{}) {
		return fmt.Errorf("verifying key slot %v: %w", s.ID, ErrSignature)
	}
	return Verify(root, TypeKeySlot, repo, s.ID.String(), &s.signed)
}

// Open opens the slot: ErrPassphrase for a wrong passphrase, ErrPolicy for parameters outside the bounds (told before
// anything is computed), ErrOpen or ErrSignature for a slot that the passphrase fits and that was tampered with.
func (s *Slot) Open(passphrase []byte, repo RepoID) (*OpenedSlot, error) {
	fail := func(err error) (*OpenedSlot, error) { return nil, fmt.Errorf("opening key slot %v: %w", s.ID, err) }
	if err := checkKDF(&s.form); err != nil {
		return fail(err)
	}
	if len(passphrase) < MinPassphrase { // no slot was ever made with it, and Go's FIPS mode refuses to stretch it
		return fail(ErrPassphrase)
	}
	seal, commit, err := stretch(passphrase, &s.form)
	if err != nil {
		return fail(err)
	}
	// The commitment is compared first: GCM alone would let one slot be made to open under many passphrases.
	if subtle.ConstantTimeCompare(commit, s.form.Commit) != 1 {
		return fail(ErrPassphrase)
	}
	a, err := newGCM(seal)
	if err != nil {
		return fail(err)
	}
	plain, err := a.Open(nil, nil, s.form.Sealed, slotAAD(repo, &s.form))
	if err != nil {
		return fail(ErrOpen)
	}
	var p slotPayload
	if err := canon.Unmarshal(plain, &p); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrOpen, err))
	}
	if p.Repo != repo || len(p.Root) != ed25519.PublicKeySize {
		return fail(ErrOpen)
	}
	priv, err := kem().NewPrivateKey(p.Private)
	if err != nil || !bytes.Equal(priv.PublicKey().Bytes(), s.form.Public) {
		return fail(ErrOpen)
	}
	if err := s.CheckSigned(p.Root, repo); err != nil {
		return fail(err)
	}
	return &OpenedSlot{Slot: s, Private: priv, Root: p.Root, Repo: repo}, nil
}
