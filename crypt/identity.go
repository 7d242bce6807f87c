package crypt

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"packhold/crypt/canon"
)

// HostID names a host: 16 random bytes drawn at enrolment. The zero HostID stands for the root identity.
type HostID [16]byte

// String returns 32 lower-case hexadecimal digits.
func (h HostID) String() string { return hex.EncodeToString(h[:]) }

// SessionID names a writer session: the first 16 bytes of SHA-256("packhold/1/session" | host id | nonce 32),
// so that a session belongs to its host by its very name.
type SessionID [16]byte

// String returns 32 lower-case hexadecimal digits.
func (s SessionID) String() string { return hex.EncodeToString(s[:]) }

// NewSessionID computes the name of host's session with the given nonce.
func NewSessionID(host HostID, nonce [32]byte) SessionID {
	h := sha256.New()
	h.Write([]byte("packhold/1/session"))
	h.Write(host[:])
	h.Write(nonce[:])
	return SessionID(h.Sum(nil)[:16])
}

// Role is a set of things a host is certified to do. The bits are part of format 1.
type Role uint8

// The roles.
const (
	RoleWriter   Role = 1 << iota // stores packs, segments, snapshots
	RoleReader                    // records what it verified
	RoleAdmin                     // forgets, holds, approves
	RolePrune                     // condemns and removes packs
	RoleOperator                  // tags and marks
)

// ErrSignature is matched by every signature that does not verify, or whose signer may not sign that type of object.
var ErrSignature = errors.New("signature is not valid")

// kem is the HPKE key encapsulation of format 1, MLKEM768-P256: it holds as long as either of the two does.
func kem() hpke.KEM { return hpke.MLKEM768P256() }

// Identity is a host's secret half: what it signs with, and what secrets are sealed to.
type Identity struct {
	Host HostID
	Sign ed25519.PrivateKey
	HPKE hpke.PrivateKey
}

// NewIdentity draws a new identity.
func NewIdentity() (*Identity, error) {
	_, sign, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("making identity: %w", err)
	}
	k, err := kem().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("making identity: %w", err)
	}
	id := &Identity{Sign: sign, HPKE: k}
	rand.Read(id.Host[:])
	return id, nil
}

type identityForm struct {
	Host HostID `cbor:"1,keyasint"`
	Seed []byte `cbor:"2,keyasint"`
	HPKE []byte `cbor:"3,keyasint"`
}

// Bytes encodes the identity with its secrets.
func (id *Identity) Bytes() ([]byte, error) {
	k, err := id.HPKE.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding identity: %w", err)
	}
	return canon.Marshal(identityForm{id.Host, id.Sign.Seed(), k}), nil
}

// ParseIdentity is the inverse of Bytes.
func ParseIdentity(b []byte) (*Identity, error) {
	var f identityForm
	if err := canon.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("parsing identity: %w", err)
	}
	if len(f.Seed) != ed25519.SeedSize || f.Host == (HostID{}) {
		return nil, errors.New("parsing identity: bad signing key or host id")
	}
	k, err := kem().NewPrivateKey(f.HPKE)
	if err != nil {
		return nil, fmt.Errorf("parsing identity: %w", err)
	}
	return &Identity{Host: f.Host, Sign: ed25519.NewKeyFromSeed(f.Seed), HPKE: k}, nil
}

// allRoles is every bit that format 1 knows.
const allRoles = RoleWriter | RoleReader | RoleAdmin | RolePrune | RoleOperator

// Caps of the texts in a certificate, in bytes.
const (
	maxCertificateText = 1024
	maxCertificate     = 8 << 10 // the keys are 1,281 bytes, the texts 2,048
)

// Certificate is what the root says of a host. Times are Unix seconds: it is not valid before Before nor after After,
// and After 0 means no end. Expiry stops new sessions, never reading. Name and Domain are UTF-8 of at most 1,024 bytes.
type Certificate struct {
	Host   HostID `cbor:"1,keyasint"`
	Serial uint32 `cbor:"2,keyasint"`
	Name   string `cbor:"3,keyasint"`
	Sign   []byte `cbor:"4,keyasint"` // Ed25519 public key
	HPKE   []byte `cbor:"5,keyasint"` // MLKEM768-P256 public key
	Roles  Role   `cbor:"6,keyasint"`
	Domain string `cbor:"7,keyasint,omitempty"` // dedup domain, "" is the shared one
	Before int64  `cbor:"8,keyasint"`
	After  int64  `cbor:"9,keyasint,omitempty"`
}

// Certificate makes the unsigned certificate of id.
func (id *Identity) Certificate(name string, roles Role, serial uint32, now time.Time) *Certificate {
	return &Certificate{Host: id.Host, Serial: serial, Name: name, Roles: roles, Before: now.Unix(),
		Sign: id.Sign.Public().(ed25519.PublicKey), HPKE: id.HPKE.PublicKey().Bytes()}
}

// ParseCertificate decodes and checks a certificate's form, not its signature.
func ParseCertificate(b []byte) (*Certificate, error) {
	if len(b) > maxCertificate {
		return nil, fmt.Errorf("parsing certificate: %d bytes, the limit is %d", len(b), maxCertificate)
	}
	c := new(Certificate)
	if err := canon.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("parsing certificate: %w", err)
	}
	if len(c.Sign) != ed25519.PublicKeySize || c.Host == (HostID{}) || c.Serial == 0 || c.Roles&^allRoles != 0 ||
		len(c.Name) > maxCertificateText || len(c.Domain) > maxCertificateText || c.After != 0 && c.After < c.Before {
		return nil, errors.New("parsing certificate: bad field")
	}
	if _, err := kem().NewPublicKey(c.HPKE); err != nil {
		return nil, fmt.Errorf("parsing certificate: %w", err)
	}
	return c, nil
}

// Bytes is the inverse of ParseCertificate.
func (c *Certificate) Bytes() []byte { return canon.Marshal(c) }

// signInput is "packhold/1/<type>" NUL | repo id 16 | subject | SHA-256(body) 32. No type's name holds a NUL, so the
// first one ends it, and the two fixed lengths bound the subject: no two inputs run together.
func signInput(t Type, repo RepoID, subject string, body []byte) []byte {
	sum := sha256.Sum256(body)
	b := append([]byte("packhold/1/"+t.String()+"\x00"), repo[:]...)
	b = append(b, subject...)
	return append(b, sum[:]...)
}

// Sign signs body as an object of type t about subject: a name or a session, "" for objects named by their hash.
func Sign(key ed25519.PrivateKey, t Type, repo RepoID, subject string, body []byte) []byte {
	return ed25519.Sign(key, signInput(t, repo, subject, body))
}

// Verify checks what Sign made. A failure matches ErrSignature.
func Verify(key ed25519.PublicKey, t Type, repo RepoID, subject string, s *Signed) error {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, signInput(t, repo, subject, s.Body), s.Sig) {
		return fmt.Errorf("verifying %v %s: %w", t, subject, ErrSignature)
	}
	return nil
}

// Signed is a body with who signed it: CBOR [body, signer, signature].
type Signed struct {
	_      struct{} `cbor:",toarray"`
	Body   []byte
	Signer HostID // zero: the root
	Sig    []byte
}

// SignBody wraps body in a Signed by id, as an object of type t about subject, and encodes it.
func (id *Identity) SignBody(t Type, repo RepoID, subject string, body []byte) []byte {
	return canon.Marshal(Signed{Body: body, Signer: id.Host, Sig: Sign(id.Sign, t, repo, subject, body)})
}

// ParseSigned is the inverse of SignBody. It checks the form only; Trust checks the signature.
func ParseSigned(b []byte) (*Signed, error) {
	s := new(Signed)
	if err := canon.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("parsing signed object: %w", err)
	}
	if len(s.Sig) != ed25519.SignatureSize {
		return nil, fmt.Errorf("parsing signed object: signature of %d bytes, want %d", len(s.Sig), ed25519.SignatureSize)
	}
	return s, nil
}

// signers says which roles may sign a type of object; no role at all means the root only. The root may sign every
// type: it could certify itself for any role, so refusing it would protect nothing.
func signers(t Type) Role {
	switch t {
	case TypeDataPack, TypeTreePack, TypePackTable, TypeSession, TypeIndex, TypeSnapshot, TypeLease:
		return RoleWriter | RolePrune
	case TypeCondemned, TypeCondemnedLeases, TypeCondemnedFinal, TypeGroup, TypeSet, TypeReceipt:
		return RolePrune
	case TypeForgotten:
		return RoleAdmin | RoleWriter // a writer its own only: the caller checks
	case TypeMark:
		return RoleWriter | RoleAdmin | RoleOperator // by kind: the caller checks
	case TypeVerified:
		return RoleReader
	case TypeAuditTile, TypeAuditCheckpoint:
		return allRoles
	}
	return 0
}

// Trust is whose signatures count: the roots, and the hosts they certified. The zero Trust trusts nobody.
// It may be used concurrently once it is no longer added to.
type Trust struct {
	Repo    RepoID
	Roots   []ed25519.PublicKey       // the pinned one and its successors
	hosts   map[HostID][]*Certificate // in the order added
	revoked map[HostID]bool
}

// Add trusts a certificate whose signature by the root the caller has verified. A later serial does not undo an earlier
// one, since what a host signed under it stays valid: to take a role from a host, revoke it and enrol it under a new id.
func (t *Trust) Add(c *Certificate) {
	if t.hosts == nil {
		t.hosts = make(map[HostID][]*Certificate)
	}
	t.hosts[c.Host] = append(t.hosts[c.Host], c)
}

// Revoke notes that host was revoked. Check does not look at it: Revoked is for the caller to ask.
func (t *Trust) Revoke(host HostID) {
	if t.revoked == nil {
		t.revoked = make(map[HostID]bool)
	}
	t.revoked[host] = true
}

// Revoked reports whether host was revoked.
func (t *Trust) Revoked(host HostID) bool { return t.revoked[host] }

// Certificate returns the certificate of host with the highest serial, the first added of equals, nil if it has none.
func (t *Trust) Certificate(host HostID) *Certificate {
	var best *Certificate
	for _, c := range t.hosts[host] {
		if best == nil || c.Serial > best.Serial {
			best = c
		}
	}
	return best
}

// Roles returns every role that any certificate gives to host: a later certificate does not undo what the host signed under an earlier one.
func (t *Trust) Roles(host HostID) (roles Role) {
	for _, c := range t.hosts[host] {
		roles |= c.Roles
	}
	return roles
}

// SameDomain reports whether host a relies on packs of host b. The shared domain is "", which every host is in that was not
// put elsewhere. A host in a domain that is not among domains is alone. What prune stores, it copied from packs that it opened and
// hashed, so everybody relies on it.
func (t *Trust) SameDomain(a, b HostID, domains []string) bool {
	if t.Roles(b)&RolePrune != 0 {
		return true
	}
	ca, cb := t.Certificate(a), t.Certificate(b)
	if ca == nil || cb == nil || ca.Domain != cb.Domain {
		return false
	}
	return ca.Domain == "" || slices.Contains(domains, ca.Domain)
}

// Certificates returns the newest certificate of every host, in no order.
func (t *Trust) Certificates() []*Certificate {
	var all []*Certificate
	for h := range t.hosts {
		all = append(all, t.Certificate(h))
	}
	return all
}

// Check verifies that s was signed, as an object of type typ about subject, by a signer who may.
// Revocation is the caller's to judge, since what a host stored before it stays readable. Failures match ErrSignature.
func (t *Trust) Check(typ Type, subject string, s *Signed) error {
	return t.CheckDetached(typ, subject, s.Signer, s.Body, s.Sig)
}

// CheckDetached is Check for a signature that stands apart from its body.
func (t *Trust) CheckDetached(typ Type, subject string, signer HostID, body, sig []byte) error {
	if signer == (HostID{}) {
		for _, root := range t.Roots {
			if Verify(root, typ, t.Repo, subject, &Signed{Body: body, Sig: sig}) == nil {
				return nil
			}
		}
		return fmt.Errorf("verifying %v %s: %w", typ, subject, ErrSignature)
	}
	may := signers(typ)
	for _, c := range t.hosts[signer] {
		if c.Roles&may != 0 && Verify(c.Sign, typ, t.Repo, subject, &Signed{Body: body, Sig: sig}) == nil {
			return nil
		}
	}
	return fmt.Errorf("verifying %v %s by host %v: %w", typ, subject, signer, ErrSignature)
}
