package crypt

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"packhold/crypt/canon"
)

// WrapRSAHPKE is the one way of wrapping session keys in format 1:
// RSA-4096-OAEP-SHA-256 and HPKE with MLKEM768-P256, HKDF-SHA-256, export only. Both must fall before a session key does.
const WrapRSAHPKE = 1

// rsaBits is the only RSA size accepted: the requirement's 4,096.
const rsaBits = 4096

// Lengths and caps in bytes. An RSA-4096 key takes 550 bytes in PKIX form and about 2,375 in PKCS #8; the caps stand
// before the parsers, because checking a hostile key of a million bits would take hours.
const (
	wrappedSize      = rsaBits / 8
	encSize          = 1088 + 65 // MLKEM768-P256: ML-KEM ciphertext, uncompressed point
	maxPublicRSA     = 1 << 10
	maxPrivateRSA    = 4 << 10
	maxSessionRecord = 4 << 10 // the parts add up to about 1,900
)

// ErrPolicy is matched when a key, cipher or KDF parameter is outside what this program accepts.
var ErrPolicy = errors.New("outside policy")

// ReadPublic is the public half of a read key: with it a host seals sessions that it cannot open.
type ReadPublic struct {
	Epoch uint32
	RSA   *rsa.PublicKey
	HPKE  hpke.PublicKey
}

// ReadPrivate is the private half. It may be used concurrently.
type ReadPrivate struct {
	Epoch uint32
	RSA   *rsa.PrivateKey
	HPKE  hpke.PrivateKey
}

// NewReadKey draws the read key of an epoch. Generating the RSA key takes about a second.
func NewReadKey(epoch uint32) (*ReadPrivate, error) {
	r, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return nil, fmt.Errorf("making read key: %w", err)
	}
	h, err := kem().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("making read key: %w", err)
	}
	return &ReadPrivate{Epoch: epoch, RSA: r, HPKE: h}, nil
}

// Public returns the public half.
func (k *ReadPrivate) Public() *ReadPublic {
	return &ReadPublic{Epoch: k.Epoch, RSA: &k.RSA.PublicKey, HPKE: k.HPKE.PublicKey()}
}

// ReadKeyForm is a read key, public (RSA in PKIX form) or private (PKCS #8), as it is stored.
type ReadKeyForm struct {
	Epoch uint32 `cbor:"1,keyasint"`
	Wrap  uint8  `cbor:"2,keyasint"`
	RSA   []byte `cbor:"3,keyasint"`
	HPKE  []byte `cbor:"4,keyasint"`
}

// Form encodes the public key.
func (k *ReadPublic) Form() (ReadKeyForm, error) {
	r, err := x509.MarshalPKIXPublicKey(k.RSA)
	if err != nil {
		return ReadKeyForm{}, fmt.Errorf("encoding read key: %w", err)
	}
	return ReadKeyForm{Epoch: k.Epoch, Wrap: WrapRSAHPKE, RSA: r, HPKE: k.HPKE.Bytes()}, nil
}

// Form encodes the private key.
func (k *ReadPrivate) Form() (ReadKeyForm, error) {
	r, err := x509.MarshalPKCS8PrivateKey(k.RSA)
	if err != nil {
		return ReadKeyForm{}, fmt.Errorf("encoding read key: %w", err)
	}
	h, err := k.HPKE.Bytes()
	if err != nil {
		return ReadKeyForm{}, fmt.Errorf("encoding read key: %w", err)
	}
	return ReadKeyForm{Epoch: k.Epoch, Wrap: WrapRSAHPKE, RSA: r, HPKE: h}, nil
}

// checkRSA refuses keys that are not of 4,096 bits with the usual exponent, and, as NIST SP 800-89 section 5.3.3 asks,
// those with a factor below 752.
func checkRSA(k *rsa.PublicKey) error {
	if k.N.BitLen() != rsaBits || k.E != 65537 {
		return fmt.Errorf("RSA key of %d bits with exponent %d (accepted: %d, 65537): %w", k.N.BitLen(), k.E, rsaBits, ErrPolicy)
	}
	var d, rest big.Int
	for p := int64(2); p < 752; p++ {
		if rest.Rem(k.N, d.SetInt64(p)).Sign() == 0 {
			return fmt.Errorf("RSA modulus with the factor %d: %w", p, ErrPolicy)
		}
	}
	return nil
}

// check refuses forms that are too long to be parsed, or of a wrapping that is unknown.
func (f ReadKeyForm) check(maxRSA int) error {
	if f.Wrap != WrapRSAHPKE {
		return fmt.Errorf("wrap algorithm %d: %w", f.Wrap, ErrPolicy)
	}
	if len(f.RSA) > maxRSA {
		return fmt.Errorf("RSA key of %d bytes, the limit is %d: %w", len(f.RSA), maxRSA, ErrPolicy)
	}
	return nil
}

// errDER is for a key in an encoding that is not the one its value has.
var errDER = errors.New("RSA key is not in its one encoding")

// Public decodes a public read key: k.Form() == f for every accepted f. A key outside policy matches ErrPolicy.
func (f ReadKeyForm) Public() (*ReadPublic, error) {
	if err := f.check(maxPublicRSA); err != nil {
		return nil, fmt.Errorf("parsing read key: %w", err)
	}
	p, err := x509.ParsePKIXPublicKey(f.RSA)
	if err != nil {
		return nil, fmt.Errorf("parsing read key: %w", err)
	}
	r, ok := p.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("parsing read key: not an RSA key: %w", ErrPolicy)
	}
	if err := checkRSA(r); err != nil {
		return nil, fmt.Errorf("parsing read key: %w", err)
	}
	if again, err := x509.MarshalPKIXPublicKey(r); err != nil || !bytes.Equal(again, f.RSA) {
		return nil, fmt.Errorf("parsing read key: %w", errDER)
	}
	h, err := kem().NewPublicKey(f.HPKE)
	if err != nil {
		return nil, fmt.Errorf("parsing read key: %w", err)
	}
	return &ReadPublic{Epoch: f.Epoch, RSA: r, HPKE: h}, nil
}

// Private decodes a private read key: k.Form() == f for every accepted f. A key outside policy matches ErrPolicy.
func (f ReadKeyForm) Private() (*ReadPrivate, error) {
	if err := f.check(maxPrivateRSA); err != nil {
		return nil, fmt.Errorf("parsing read key: %w", err)
	}
	p, err := x509.ParsePKCS8PrivateKey(f.RSA)
	if err != nil {
		return nil, fmt.Errorf("parsing read key: %w", err)
	}
	r, ok := p.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("parsing read key: not an RSA key: %w", ErrPolicy)
	}
	if err := checkRSA(&r.PublicKey); err != nil {
		return nil, fmt.Errorf("parsing read key: %w", err)
	}
	if len(r.Primes) != 2 {
		return nil, fmt.Errorf("parsing read key: RSA key of %d primes: %w", len(r.Primes), ErrPolicy)
	}
	if again, err := x509.MarshalPKCS8PrivateKey(r); err != nil || !bytes.Equal(again, f.RSA) {
		return nil, fmt.Errorf("parsing read key: %w", errDER)
	}
	h, err := kem().NewPrivateKey(f.HPKE)
	if err != nil {
		return nil, fmt.Errorf("parsing read key: %w", err)
	}
	return &ReadPrivate{Epoch: f.Epoch, RSA: r, HPKE: h}, nil
}

// SessionRecord is what a reader needs to find a session's key again. It stands in every pack table and index segment.
type SessionRecord struct {
	Session SessionID `cbor:"1,keyasint"`
	Host    HostID    `cbor:"2,keyasint"`
	Nonce   []byte    `cbor:"3,keyasint"` // 32: proves that the session is the host's
	Epoch   uint32    `cbor:"4,keyasint"` // of the read key
	Wrap    uint8     `cbor:"5,keyasint"`
	RSA     []byte    `cbor:"6,keyasint"` // k1 wrapped, 512 bytes
	HPKE    []byte    `cbor:"7,keyasint"` // encapsulated key, 1,153 bytes
	Commit  []byte    `cbor:"8,keyasint"` // 32: of the session key
	Sig     []byte    `cbor:"9,keyasint"` // by the host, over the record without this field
}

// sessionInfo binds a wrapped key to its place: repo id | session | read key epoch.
func sessionInfo(repo RepoID, s SessionID, epoch uint32) []byte {
	b := append([]byte("packhold/1/session"), repo[:]...)
	b = append(b, s[:]...)
	return binary.LittleEndian.AppendUint32(b, epoch)
}

// combine is HKDF-SHA-256(k1 | k2, salt = session, "packhold/1/session" | repo id), with its commitment.
func combine(k1, k2 []byte, repo RepoID, s SessionID) (key SessionKey, commit []byte, err error) {
	k, err := deriveKey(append(append(make([]byte, 0, 64), k1...), k2...), s[:], "session", repo)
	if err != nil {
		return key, nil, err
	}
	copy(key[:], k)
	commit, err = deriveKey(k, s[:], "session-commit", repo)
	return key, commit, err
}

// NewSession starts a session of id in repo: it draws a nonce and a key, and wraps the key for the holders of read.
func NewSession(repo RepoID, id *Identity, read *ReadPublic) (SessionKey, *SessionRecord, error) {
	fail := func(err error) (SessionKey, *SessionRecord, error) {
		return SessionKey{}, nil, fmt.Errorf("making session key: %w", err)
	}
	if err := checkRSA(read.RSA); err != nil {
		return fail(err)
	}
	nonce, k1 := make([]byte, 32), make([]byte, 32)
	rand.Read(nonce)
	rand.Read(k1)
	r := &SessionRecord{Host: id.Host, Nonce: nonce, Epoch: read.Epoch, Wrap: WrapRSAHPKE}
	r.Session = NewSessionID(id.Host, [32]byte(nonce))
	info := sessionInfo(repo, r.Session, read.Epoch)
	var err error
	if r.RSA, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, read.RSA, k1, info); err != nil {
		return fail(err)
	}
	enc, k2, err := send(read.HPKE, info, "packhold/1/session")
	if err != nil {
		return fail(err)
	}
	r.HPKE = enc
	key, commit, err := combine(k1, k2, repo, r.Session)
	if err != nil {
		return fail(err)
	}
	r.Commit = commit
	r.Sig = Sign(id.Sign, TypeSession, repo, r.Session.String(), r.unsigned())
	return key, r, nil
}

// unsigned is the record with an empty signature: what the signature is over.
func (r *SessionRecord) unsigned() []byte {
	c := *r
	c.Sig = nil
	return canon.Marshal(c)
}

// Bytes encodes the record.
func (r *SessionRecord) Bytes() []byte { return canon.Marshal(r) }

// check refuses records of a wrong form, and sessions that are not the host's by their name.
func (r *SessionRecord) check() error {
	if r.Wrap != WrapRSAHPKE {
		return fmt.Errorf("wrap algorithm %d: %w", r.Wrap, ErrPolicy)
	}
	if r.Host == (HostID{}) || len(r.Nonce) != 32 || len(r.Commit) != 32 || len(r.Sig) != ed25519.SignatureSize ||
		len(r.RSA) != wrappedSize || len(r.HPKE) != encSize {
		return errors.New("bad field")
	}
	if NewSessionID(r.Host, [32]byte(r.Nonce)) != r.Session {
		return fmt.Errorf("session %v is not host %v's: %w", r.Session, r.Host, ErrSignature)
	}
	return nil
}

// ParseSessionRecord decodes a record and checks that the session is the host's by its name; CheckSession checks the signature.
func ParseSessionRecord(b []byte) (*SessionRecord, error) {
	if len(b) > maxSessionRecord {
		return nil, fmt.Errorf("parsing session record: %d bytes, the limit is %d", len(b), maxSessionRecord)
	}
	r := new(SessionRecord)
	if err := canon.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("parsing session record: %w", err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("parsing session record: %w", err)
	}
	return r, nil
}

// CheckSession verifies that the session is its host's by name, and the signature of that host.
func (t *Trust) CheckSession(r *SessionRecord) error {
	if err := r.check(); err != nil {
		return fmt.Errorf("checking session record: %w", err)
	}
	return t.CheckDetached(TypeSession, r.Session.String(), r.Host, r.unsigned(), r.Sig)
}

// Unwrap finds the session key. Every failure matches ErrOpen: which half failed is told neither by the error nor by
// the work done, so that nobody who feeds records to a reader learns anything about the RSA half alone.
func (k *ReadPrivate) Unwrap(repo RepoID, r *SessionRecord) (SessionKey, error) {
	key, ok := k.unwrap(repo, r)
	if !ok {
		return SessionKey{}, fmt.Errorf("unwrapping key of session %v: %w", r.Session, ErrOpen)
	}
	return key, nil
}

func (k *ReadPrivate) unwrap(repo RepoID, r *SessionRecord) (key SessionKey, ok bool) {
	if r.Wrap != WrapRSAHPKE || r.Epoch != k.Epoch {
		return key, false
	}
	info := sessionInfo(repo, r.Session, r.Epoch)
	ok = true
	k1, err := k.RSA.Decrypt(nil, r.RSA, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: info})
	if err != nil || len(k1) != 32 {
		ok, k1 = false, make([]byte, 32)
	}
	k2, err := receive(r.HPKE, k.HPKE, info, "packhold/1/session")
	if err != nil {
		ok, k2 = false, make([]byte, 32)
	}
	key, commit, err := combine(k1, k2, repo, r.Session)
	if err != nil || subtle.ConstantTimeCompare(commit, r.Commit) != 1 {
		ok = false
	}
	return key, ok
}

// receive is the recipient's end of an HPKE export of 32 bytes.
func receive(enc []byte, priv hpke.PrivateKey, info []byte, context string) ([]byte, error) {
	r, err := hpke.NewRecipient(enc, priv, hpke.HKDFSHA256(), hpke.ExportOnly(), info)
	if err != nil {
		return nil, err
	}
	return r.Export(context, 32)
}

// send is the sender's end of receive.
func send(pub hpke.PublicKey, info []byte, context string) (enc, secret []byte, err error) {
	enc, s, err := hpke.NewSender(pub, hpke.HKDFSHA256(), hpke.ExportOnly(), info)
	if err != nil {
		return nil, nil, err
	}
	secret, err = s.Export(context, 32)
	return enc, secret, err
}

// sealTo seals plain to an HPKE public key: encapsulated key | nonce | ciphertext | tag. HPKE only exports the key;
// AES-GCM with a random nonce does the sealing, because it is the one GCM that Go's FIPS module counts as approved.
func sealTo(pub hpke.PublicKey, info, plain []byte) ([]byte, error) {
	enc, key, err := send(pub, info, "packhold/1/seal")
	if err != nil {
		return nil, err
	}
	a, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	return a.Seal(enc, nil, plain, info), nil
}

// openFrom is the inverse of sealTo. A failure matches ErrOpen.
func openFrom(priv hpke.PrivateKey, info, sealed []byte) ([]byte, error) {
	if len(sealed) < encSize+Overhead {
		return nil, ErrOpen
	}
	key, err := receive(sealed[:encSize], priv, info, "packhold/1/seal")
	if err != nil {
		return nil, ErrOpen
	}
	a, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, nil, sealed[encSize:], info)
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}
