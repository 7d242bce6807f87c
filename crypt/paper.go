package crypt

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"

	"packhold/crypt/canon"
)

// NewSecret draws 32 random bytes: a write secret, a chunker secret, a local key.
func NewSecret() (s [32]byte) {
	rand.Read(s[:])
	return s
}

// maxPaper caps an exported key in bytes: some 100 read keys.
const maxPaper = 64 << 10

// primeSize is the length of each of an RSA key's two primes in bytes.
const primeSize = rsaBits / 8 / 2

// A paper key is everything that a key slot and its bundle hold, sealed by the passphrase, in about 560 bytes per read key: small enough
// to print. RSA keys are kept as their primes, from which the rest follows.
type paperForm struct {
	KDF        uint8  `cbor:"1,keyasint"`
	Iterations uint64 `cbor:"2,keyasint"`
	Salt       []byte `cbor:"3,keyasint"`
	Commit     []byte `cbor:"4,keyasint"`
	Sealed     []byte `cbor:"5,keyasint"`
	Repo       RepoID `cbor:"6,keyasint"`
}

type paperRead struct {
	_     struct{} `cbor:",toarray"`
	Epoch uint32
	P, Q  []byte
	HPKE  []byte
}

type paperPayload struct {
	Public   []byte      `cbor:"1,keyasint"` // the root's
	Root     []byte      `cbor:"2,keyasint,omitempty"`
	Writes   []writeForm `cbor:"3,keyasint"`
	Chunker  [32]byte    `cbor:"4,keyasint"`
	Read     []paperRead `cbor:"5,keyasint"`
	Identity []byte      `cbor:"6,keyasint,omitempty"`
}

// aad binds the payload to its parameters.
func (f *paperForm) aad() []byte {
	c := *f
	c.Commit, c.Sealed = nil, nil
	return append([]byte("packhold/1/paper"), canon.Marshal(c)...)
}

func (f *paperForm) stretch(passphrase []byte) (seal, commit []byte, err error) {
	return stretch(passphrase, &slotForm{KDF: f.KDF, Iterations: f.Iterations, Salt: f.Salt})
}

// SealPaper seals b under passphrase, outside of any repository, stretched with DefaultIterations. root is the public key
// whose objects the holder may believe. The generation and the slot of b are left out.
func SealPaper(passphrase []byte, repo RepoID, root ed25519.PublicKey, b *Bundle) ([]byte, error) {
	return sealPaper(passphrase, &paperForm{KDF: kdfPBKDF2, Iterations: DefaultIterations, Repo: repo}, root, b)
}

func sealPaper(passphrase []byte, f *paperForm, root ed25519.PublicKey, b *Bundle) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("exporting key: %w", err) }
	if len(passphrase) < MinPassphrase {
		return fail(fmt.Errorf("passphrase of %d bytes, at least %d: %w", len(passphrase), MinPassphrase, ErrPolicy))
	}
	p := paperPayload{Public: root, Writes: writeForms(b.Writes), Chunker: b.Chunker}
	if b.Root != nil {
		if b.Root.Repo != f.Repo || !b.Root.Public().Equal(root) {
			return fail(errors.New("root of another repository"))
		}
		p.Root = b.Root.key.Seed()
	}
	for _, e := range slices.Sorted(maps.Keys(b.Read)) {
		k := b.Read[e]
		if k == nil || k.Epoch != e {
			return fail(fmt.Errorf("read key of epoch %d is missing or another's", e))
		}
		if err := checkRSA(&k.RSA.PublicKey); err != nil || len(k.RSA.Primes) != 2 {
			return fail(fmt.Errorf("read key of epoch %d is not exportable: %w", e, ErrPolicy))
		}
		h, err := k.HPKE.Bytes()
		if err != nil {
			return fail(err)
		}
		p.Read = append(p.Read, paperRead{Epoch: e, P: k.RSA.Primes[0].Bytes(), Q: k.RSA.Primes[1].Bytes(), HPKE: h})
	}
	if b.Identity != nil {
		id, err := b.Identity.Bytes()
		if err != nil {
			return fail(err)
		}
		p.Identity = id
	}
	payload := canon.Marshal(p)
	salt := drawSalt(f.aad(), payload)
	f.Salt = salt[:]
	seal, commit, err := f.stretch(passphrase)
	if err != nil {
		return fail(err)
	}
	a, err := newGCM(seal)
	if err != nil {
		return fail(err)
	}
	f.Commit = commit
	f.Sealed = a.Seal(nil, nil, payload, f.aad())
	object := canon.Marshal(f)
	if len(object) > maxPaper {
		return fail(fmt.Errorf("%d bytes, the limit is %d", len(object), maxPaper))
	}
	return object, nil
}

// OpenPaper is the inverse of SealPaper: ErrPassphrase, ErrPolicy or ErrOpen as for key slots.
func OpenPaper(passphrase []byte, repo RepoID, object []byte) (*Bundle, ed25519.PublicKey, error) {
	fail := func(err error) (*Bundle, ed25519.PublicKey, error) {
		return nil, nil, fmt.Errorf("opening exported key: %w", err)
	}
	var f paperForm
	if len(object) > maxPaper {
		return fail(fmt.Errorf("%d bytes, the limit is %d", len(object), maxPaper))
	}
	if err := canon.Unmarshal(object, &f); err != nil {
		return fail(err)
	}
	if f.Repo != repo {
		return fail(fmt.Errorf("it is for repository %x: %w", f.Repo, ErrOpen))
	}
	if len(passphrase) < MinPassphrase && checkKDF(&slotForm{KDF: f.KDF, Iterations: f.Iterations, Salt: f.Salt}) == nil {
		return fail(ErrPassphrase) // as for key slots
	}
	seal, commit, err := f.stretch(passphrase)
	if err != nil {
		return fail(err)
	}
	b, root, err := f.open(seal, commit)
	if err != nil {
		return fail(err)
	}
	return b, root, nil
}

// open opens the payload with what stretch gave.
func (f *paperForm) open(seal, commit []byte) (*Bundle, ed25519.PublicKey, error) {
	fail := func(err error) (*Bundle, ed25519.PublicKey, error) { return nil, nil, err }
	if subtle.ConstantTimeCompare(commit, f.Commit) != 1 {
		return fail(ErrPassphrase)
	}
	a, err := newGCM(seal)
	if err != nil {
		return fail(err)
	}
	plain, err := a.Open(nil, nil, f.Sealed, f.aad())
	if err != nil {
		return fail(ErrOpen)
	}
	var p paperPayload
	if err := canon.Unmarshal(plain, &p); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrOpen, err))
	}
	if len(p.Public) != ed25519.PublicKeySize {
		return fail(ErrOpen)
	}
	b := &Bundle{Chunker: p.Chunker, Read: make(map[uint32]*ReadPrivate)}
	if b.Writes, err = writeSecrets(p.Writes); err != nil {
		return fail(err)
	}
	for i, k := range p.Read {
		if i > 0 && p.Read[i-1].Epoch >= k.Epoch {
			return fail(errEpochs)
		}
		key, err := rsaFromPrimes(k.P, k.Q)
		if err != nil {
			return fail(err)
		}
		h, err := kem().NewPrivateKey(k.HPKE)
		if err != nil {
			return fail(err)
		}
		b.Read[k.Epoch] = &ReadPrivate{Epoch: k.Epoch, RSA: key, HPKE: h}
	}
	if p.Root != nil {
		if len(p.Root) != ed25519.SeedSize {
			return fail(ErrOpen)
		}
		b.Root = &Root{Repo: f.Repo, key: ed25519.NewKeyFromSeed(p.Root)}
		if !b.Root.Public().Equal(ed25519.PublicKey(p.Public)) {
			return fail(ErrSignature)
		}
	}
	if p.Identity != nil {
		if b.Identity, err = ParseIdentity(p.Identity); err != nil {
			return fail(err)
		}
	}
	return b, p.Public, nil
}

// rsaFromPrimes rebuilds an RSA-4096 key with the exponent 65537 from its two primes.
func rsaFromPrimes(pb, qb []byte) (*rsa.PrivateKey, error) {
	if len(pb) != primeSize || len(qb) != primeSize {
		return nil, ErrOpen
	}
	p, q := new(big.Int).SetBytes(pb), new(big.Int).SetBytes(qb)
	one := big.NewInt(1)
	if p.Cmp(one) <= 0 || q.Cmp(one) <= 0 {
		return nil, ErrOpen
	}
	k := &rsa.PrivateKey{Primes: []*big.Int{p, q}}
	k.N, k.E = new(big.Int).Mul(p, q), 65537
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	if k.D = new(big.Int).ModInverse(big.NewInt(65537), phi); k.D == nil {
		return nil, ErrOpen
	}
	if err := checkRSA(&k.PublicKey); err != nil {
		return nil, err
	}
	k.Precompute()
	if err := k.Validate(); err != nil {
		return nil, ErrOpen
	}
	return k, nil
}
