package crypt

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"packhold/crypt/canon"
)

// Root is the root identity with its secret: it signs config, settings, slots, bundles, certificates and grants.
type Root struct {
	Repo RepoID
	key  ed25519.PrivateKey
}

// NewRoot draws the root identity of a new repository.
func NewRoot(repo RepoID) (*Root, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("making root identity: %w", err)
	}
	return &Root{Repo: repo, key: key}, nil
}

// NewRepoID draws the name of a new repository.
func NewRepoID() (id RepoID) {
	rand.Read(id[:])
	return id
}

// Public returns the root's public key.
func (r *Root) Public() ed25519.PublicKey { return r.key.Public().(ed25519.PublicKey) }

// Sign wraps body in a Signed by the root.
func (r *Root) Sign(t Type, about string, body []byte) []byte {
	return canon.Marshal(Signed{Body: body, Sig: Sign(r.key, t, r.Repo, about, body)})
}

// Bundle is the secrets of a repository as one key slot's holder gets them. A reader's bundle has no Root.
type Bundle struct {
	Generation uint64
	Slot       SlotID
	Writes     map[uint32]WriteSecret
	Chunker    [32]byte
	Read       map[uint32]*ReadPrivate
	Root       *Root     // nil for a reader
	Identity   *Identity // what the holder signs with where no host credential is at hand; nil for none
}

type writeForm struct {
	Epoch  uint32      `cbor:"1,keyasint"`
	Secret WriteSecret `cbor:"2,keyasint"`
}

type bundleForm struct {
	Generation uint64        `cbor:"1,keyasint"`
	Slot       SlotID        `cbor:"2,keyasint"`
	Writes     []writeForm   `cbor:"3,keyasint"`
	Chunker    [32]byte      `cbor:"4,keyasint"`
	Read       []ReadKeyForm `cbor:"5,keyasint"`
	Root       []byte        `cbor:"6,keyasint,omitempty"`
	Identity   []byte        `cbor:"7,keyasint,omitempty"`
}

// maxSealed caps a bundle or grant in bytes: its padded part of 1 MiB, which holds some 400 read keys or 25,000
// write secrets, and what stands around it.
const maxSealed = 1<<20 + 1<<12

// errEpochs is for lists of epochs that are not in strictly ascending order.
var errEpochs = fmt.Errorf("%w: epochs are not in ascending order", ErrOpen)

// writeForms lists write secrets by epoch, ascending.
func writeForms(ws map[uint32]WriteSecret) []writeForm {
	var l []writeForm
	for _, e := range slices.Sorted(maps.Keys(ws)) {
		l = append(l, writeForm{e, ws[e]})
	}
	return l
}

// writeSecrets is the inverse of writeForms.
func writeSecrets(l []writeForm) (map[uint32]WriteSecret, error) {
	ws := make(map[uint32]WriteSecret, len(l))
	for i, f := range l {
		if i > 0 && l[i-1].Epoch >= f.Epoch {
			return nil, errEpochs
		}
		ws[f.Epoch] = f.Secret
	}
	return ws, nil
}

// bundleInfo binds a bundle to its place: repo id | slot | generation.
func bundleInfo(repo RepoID, slot SlotID, generation uint64) []byte {
	b := append([]byte("packhold/1/bundle"), repo[:]...)
	b = append(b, slot[:]...)
	return binary.LittleEndian.AppendUint64(b, generation)
}

// sealSigned is what bundles and grants share: header | HPKE enc | nonce | padded Signed | tag. The header is part of the
// HPKE info, so it is authenticated, and its salt keeps a cloned machine from using one key for two plaintexts.
func (r *Root) sealSigned(pub hpke.PublicKey, h Header, info []byte, about string, body []byte) ([]byte, error) {
	signed := r.Sign(h.Type, about, body)
	if paddedSize(h.Type, len(signed)+4) > 1<<20 {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(signed), 1<<20-4)
	}
	plain := pad(h.Type, signed)
	h.Salt = drawSalt(info, plain)
	object := h.Append(nil)
	sealed, err := sealTo(pub, append(info, object...), plain)
	if err != nil {
		return nil, err
	}
	return append(object, sealed...), nil
}

// SealBundle seals b to the public key of its slot, signed by the root. The key must be from a slot that CheckSigned
// accepted: to whatever key is given, the secrets go.
func (r *Root) SealBundle(pub hpke.PublicKey, b *Bundle) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("sealing bundle: %w", err) }
	f := bundleForm{Generation: b.Generation, Slot: b.Slot, Writes: writeForms(b.Writes), Chunker: b.Chunker}
	if len(f.Writes) == 0 {
		return fail(errors.New("no write secret"))
	}
	for _, e := range slices.Sorted(maps.Keys(b.Read)) {
		k := b.Read[e]
		if k == nil || k.Epoch != e {
			return fail(fmt.Errorf("read key of epoch %d is missing or another's", e))
		}
		form, err := k.Form()
		if err != nil {
			return fail(err)
		}
		f.Read = append(f.Read, form)
	}
	if b.Root != nil {
		if b.Root.Repo != r.Repo || !b.Root.key.Equal(r.key) {
			return fail(errors.New("root of another repository"))
		}
		f.Root = b.Root.key.Seed()
	}
	if b.Identity != nil {
		id, err := b.Identity.Bytes()
		if err != nil {
			return fail(err)
		}
		f.Identity = id
	}
	object, err := r.sealSigned(pub, Header{Type: TypeBundle}, bundleInfo(r.Repo, b.Slot, b.Generation), b.Slot.String(), canon.Marshal(f))
	if err != nil {
		return fail(err)
	}
	return object, nil
}

// openSigned is the inverse of sealSigned.
func openSigned(priv hpke.PrivateKey, root ed25519.PublicKey, repo RepoID, t Type, info []byte, about string, object []byte) ([]byte, error) {
	if len(object) > maxSealed {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrOpen, len(object), maxSealed)
	}
	if _, err := openHeader(object, t); err != nil {
		return nil, err
	}
	plain, err := openFrom(priv, append(info, object[:HeaderSize]...), object[HeaderSize:])
	if err != nil {
		return nil, err
	}
	body, err := unpad(t, plain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOpen, err)
	}
	s, err := ParseSigned(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOpen, err)
	}
	if s.Signer != (HostID{}) {
		return nil, ErrSignature
	}
	return s.Body, Verify(root, t, repo, about, s)
}

// OpenBundle opens a bundle of the given generation. One that the slot's root did not sign is refused before use with
// ErrSignature; one of another slot, repository or generation matches ErrOpen.
func (o *OpenedSlot) OpenBundle(generation uint64, object []byte) (*Bundle, error) {
	fail := func(err error) (*Bundle, error) {
		return nil, fmt.Errorf("opening bundle of slot %v: %w", o.Slot.ID, err)
	}
	body, err := openSigned(o.Private, o.Root, o.Repo, TypeBundle, bundleInfo(o.Repo, o.Slot.ID, generation), o.Slot.ID.String(), object)
	if err != nil {
		return fail(err)
	}
	var f bundleForm
	if err := canon.Unmarshal(body, &f); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrOpen, err))
	}
	if f.Generation != generation || f.Slot != o.Slot.ID || len(f.Writes) == 0 {
		return fail(ErrOpen)
	}
	b := &Bundle{Generation: generation, Slot: f.Slot, Chunker: f.Chunker, Read: make(map[uint32]*ReadPrivate)}
	if b.Writes, err = writeSecrets(f.Writes); err != nil {
		return fail(err)
	}
	for i, k := range f.Read {
		if i > 0 && f.Read[i-1].Epoch >= k.Epoch {
			return fail(errEpochs)
		}
		if b.Read[k.Epoch], err = k.Private(); err != nil {
			return fail(err)
		}
	}
	if f.Root != nil {
		if len(f.Root) != ed25519.SeedSize {
			return fail(fmt.Errorf("%w: bad root key", ErrOpen))
		}
		b.Root = &Root{Repo: o.Repo, key: ed25519.NewKeyFromSeed(f.Root)}
		if !b.Root.Public().Equal(o.Root) {
			return fail(ErrSignature)
		}
	}
	if f.Identity != nil {
		if b.Identity, err = ParseIdentity(f.Identity); err != nil {
			return fail(err)
		}
	}
	return b, nil
}

// Grant is W of an epoch and of all earlier ones, with the chunker secret, for one host.
type Grant struct {
	Epoch   uint32
	Host    HostID
	Writes  map[uint32]WriteSecret
	Chunker [32]byte
}

type grantForm struct {
	Epoch   uint32      `cbor:"1,keyasint"`
	Host    HostID      `cbor:"2,keyasint"`
	Writes  []writeForm `cbor:"3,keyasint"`
	Chunker [32]byte    `cbor:"4,keyasint"`
}

func grantInfo(repo RepoID, host HostID, epoch uint32) []byte {
	b := append([]byte("packhold/1/grant"), repo[:]...)
	b = append(b, host[:]...)
	return binary.LittleEndian.AppendUint32(b, epoch)
}

// SealGrant seals g to the host that c certifies, signed by the root.
func (r *Root) SealGrant(c *Certificate, g *Grant) ([]byte, error) {
	pub, err := kem().NewPublicKey(c.HPKE)
	if err != nil {
		return nil, fmt.Errorf("sealing grant: %w", err)
	}
	if _, ok := g.Writes[g.Epoch]; !ok {
		return nil, fmt.Errorf("sealing grant: no write secret of epoch %d", g.Epoch)
	}
	f := grantForm{Epoch: g.Epoch, Host: c.Host, Writes: writeForms(g.Writes), Chunker: g.Chunker}
	object, err := r.sealSigned(pub, Header{Type: TypeGrant, Epoch: g.Epoch}, grantInfo(r.Repo, c.Host, g.Epoch), c.Host.String(), canon.Marshal(f))
	if err != nil {
		return nil, fmt.Errorf("sealing grant: %w", err)
	}
	return object, nil
}

// OpenGrant opens a grant of the given epoch that root signed for this host. Failures match ErrOpen, ErrSignature or ErrFormat.
func (id *Identity) OpenGrant(repo RepoID, root ed25519.PublicKey, epoch uint32, object []byte) (*Grant, error) {
	fail := func(err error) (*Grant, error) { return nil, fmt.Errorf("opening grant of host %v: %w", id.Host, err) }
	body, err := openSigned(id.HPKE, root, repo, TypeGrant, grantInfo(repo, id.Host, epoch), id.Host.String(), object)
	if err != nil {
		return fail(err)
	}
	var f grantForm
	if err := canon.Unmarshal(body, &f); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrOpen, err))
	}
	if f.Epoch != epoch || f.Host != id.Host {
		return fail(ErrOpen)
	}
	g := &Grant{Epoch: epoch, Host: id.Host, Chunker: f.Chunker}
	if g.Writes, err = writeSecrets(f.Writes); err != nil {
		return fail(err)
	}
	if _, ok := g.Writes[epoch]; !ok {
		return fail(ErrOpen)
	}
	return g, nil
}
