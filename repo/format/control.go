package format

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strings"

	"packhold/crypt"
	"packhold/crypt/canon"
)

// The bodies of the control objects of format 1. Each is deterministic CBOR inside a Signed (crypt.SignBody), sealed
// under the control key of a write epoch. Times are Unix seconds.

// Settings is the changeable part of a repository: settings/<generation>, signed by the root.
type Settings struct {
	Generation  uint64              `cbor:"1,keyasint"`
	Previous    []byte              `cbor:"2,keyasint,omitempty"` // SHA-256 of the object of the generation before; none for the first
	Time        int64               `cbor:"3,keyasint"`
	WriteEpoch  uint32              `cbor:"4,keyasint"`            // the W that new objects use
	ReadKeys    []crypt.ReadKeyForm `cbor:"5,keyasint"`            // public, by epoch; new sessions use the last
	Parity      uint8               `cbor:"6,keyasint"`            // shards per pack, 0 to 16
	PackSize    uint32              `cbor:"7,keyasint"`            // target of data packs, bytes
	Compression string              `cbor:"8,keyasint"`            // name of a level (pack.ParseLevel), for the reader to check
	Lock        int64               `cbor:"9,keyasint,omitempty"`  // seconds that new objects stay write-once
	LockMode    string              `cbor:"10,keyasint,omitempty"` // "governance", "compliance", or ""
	PackParity  []uint8             `cbor:"11,keyasint,omitempty"` // group parity: data and parity packs
	Domains     []string            `cbor:"12,keyasint,omitempty"` // dedup domains beside the shared one
	Revocations [][]byte            `cbor:"13,keyasint,omitempty"` // SHA-256 of every revocation mark
	HostForget  bool                `cbor:"14,keyasint,omitempty"` // hosts may forget their own snapshots
	ClassLocks  []ClassLock         `cbor:"15,keyasint,omitempty"` // by class: what is not Lock
}

// ClassLock is for how long what sessions of a retention class store stays write-once.
type ClassLock struct {
	_       struct{} `cbor:",toarray"`
	Class   string
	Seconds int64
}

// MaxLock is the longest time that objects may be locked for, ten years: where nobody can end a lock early, whoever makes one too long, by mistake or to
// do harm, has somebody else pay for the storage to its end.
const MaxLock = 3653 * 24 * 60 * 60

// Lease is leases/<session> and its renewals leases/<session>.<n>, signed by the session's host.
type Lease struct {
	Session crypt.SessionID `cbor:"1,keyasint"`
	Host    crypt.HostID    `cbor:"2,keyasint"`
	Nonce   []byte          `cbor:"3,keyasint"` // 32
	Time    int64           `cbor:"4,keyasint"` // the host's clock: shown, never judged by
	Renewal uint32          `cbor:"5,keyasint,omitempty"`
	Purpose string          `cbor:"6,keyasint,omitempty"` // "backup", "prune", "repair", "replicate", "undelete"
}

// PackRef names one stored pack.
type PackRef struct {
	_           struct{} `cbor:",toarray"`
	Name        crypt.ID
	Tree        bool
	Incarnation uint32
}

// Condemned is condemned/<id>: packs that will go. Signed by the prune role, about the id.
type Condemned struct {
	ID      [16]byte        `cbor:"1,keyasint"`
	Session crypt.SessionID `cbor:"2,keyasint"` // of the prune run
	Time    int64           `cbor:"3,keyasint"`
	Packs   []PackRef       `cbor:"4,keyasint"`
}

// CondemnedLeases is condemned/<id>.leases: the sessions that may not have seen the set.
type CondemnedLeases struct {
	ID       [16]byte          `cbor:"1,keyasint"`
	Time     int64             `cbor:"2,keyasint"`
	Sessions []crypt.SessionID `cbor:"3,keyasint"`
}

// CondemnedFinal is condemned/<id>.final: the packs of the set that are gone for ever. It binds every sweeper.
type CondemnedFinal struct {
	ID    [16]byte  `cbor:"1,keyasint"`
	Time  int64     `cbor:"2,keyasint"`
	Packs []PackRef `cbor:"3,keyasint"`
}

// Forgotten is forgotten/<sha256>: a snapshot taken out of the list, the whole record with it.
type Forgotten struct {
	Session crypt.SessionID `cbor:"1,keyasint"`
	Object  crypt.ID        `cbor:"2,keyasint"` // SHA-256 of snapshots/<session>
	Record  []byte          `cbor:"3,keyasint"` // the object itself
	Host    crypt.HostID    `cbor:"4,keyasint"` // who took it out
	Time    int64           `cbor:"5,keyasint"`
	Reason  string          `cbor:"6,keyasint,omitempty"`
}

// MarkKind is what a mark says. The numbers are part of format 1.
type MarkKind uint8

// The kinds of marks.
const (
	MarkTag MarkKind = iota + 1
	MarkHold
	MarkSuspect
	MarkPin
	MarkAcknowledgement
	MarkApproval
	MarkAttestation
	MarkRevocation
)

// Mark is marks/<sha256>: something said about a snapshot, host, session or object.
type Mark struct {
	Kind    MarkKind        `cbor:"1,keyasint"`
	Session crypt.SessionID `cbor:"2,keyasint,omitzero"`
	Host    crypt.HostID    `cbor:"3,keyasint,omitzero"`
	Object  string          `cbor:"4,keyasint,omitempty"` // name of an acknowledged object
	Hash    []byte          `cbor:"5,keyasint,omitempty"` // its SHA-256
	Remove  bool            `cbor:"6,keyasint,omitempty"` // takes an earlier mark of the kind back
	Time    int64           `cbor:"7,keyasint"`
	Until   int64           `cbor:"8,keyasint,omitempty"`
	Text    []byte          `cbor:"9,keyasint,omitempty"` // HPKE-sealed to the read key of Epoch (crypt.SealText)
	Epoch   uint32          `cbor:"10,keyasint,omitempty"`
	Kept    []KeptSnapshot  `cbor:"11,keyasint,omitempty"` // revocations: the host's snapshots that stay valid, by session
}

// KeptSnapshot is a snapshot that a revocation leaves valid: it was there before the host fell.
type KeptSnapshot struct {
	_       struct{} `cbor:",toarray"`
	Session crypt.SessionID
	Object  crypt.ID // SHA-256 of snapshots/<session>
}

// Verified is verified/<sha256>: what a reader opened and hashed, what was lost.
type Verified struct {
	Host   crypt.HostID `cbor:"1,keyasint"`
	Time   int64        `cbor:"2,keyasint"`
	Packs  []PackRef    `cbor:"3,keyasint,omitempty"` // every blob opened and hashed to its ID
	Lost   []PackRef    `cbor:"4,keyasint,omitempty"` // gone or beyond mending: count as absent
	Failed []FailedBlob `cbor:"5,keyasint,omitempty"`
}

// FailedBlob is a blob that did not open or hash in one pack: it counts as absent there.
type FailedBlob struct {
	_    struct{} `cbor:",toarray"`
	ID   crypt.ID
	Pack crypt.ID
}

// Group is group/<sha256>: parity over a group of packs. The shards follow the sealed body (JoinGroup).
type Group struct {
	Members []GroupMember `cbor:"1,keyasint"` // in shard order
	Parity  uint8         `cbor:"2,keyasint"`
	Shard   uint64        `cbor:"3,keyasint"` // bytes: the largest member, the others are padded with zeros
	Digests [][]byte      `cbor:"4,keyasint"` // SHA-256 of each parity shard
}

// GroupMember is one pack of a group.
type GroupMember struct {
	_    struct{} `cbor:",toarray"`
	Pack PackRef
	Size uint64
}

// Succession is roots/<sha256>: a new root, signed by the old one (the Signed) and by the new one (Sig).
type Succession struct {
	Old  []byte `cbor:"1,keyasint"`
	New  []byte `cbor:"2,keyasint"`
	Time int64  `cbor:"3,keyasint"`
	Sig  []byte `cbor:"4,keyasint"` // by the new root over the body with an empty Sig
}

// Body is a control object's body.
type Body interface {
	Settings | Lease | Condemned | CondemnedLeases | CondemnedFinal | Forgotten | Mark | Verified | Group | Succession | Set | Receipt
}

// Parse decodes a body, strictly: canon.Marshal(*v) == b, and v can have been made by a writer of format 1.
func Parse[B Body](b []byte) (*B, error) {
	v := new(B)
	if err := canon.Unmarshal(b, v); err != nil {
		return nil, err
	}
	if err := any(v).(interface{ validate() error }).validate(); err != nil {
		return nil, err
	}
	return v, nil
}

// Bounds of the target of data packs, and of a pack's file, bytes.
const (
	MinPackSize     = 1 << 20
	MaxPackSize     = 240 << 20
	DefaultPackSize = 32 << 20
	MaxPackFile     = 256 << 20
)

// MaxParity is how many parity shards a pack or a group of packs may have.
const MaxParity = 16

// Caps of lists and texts in control bodies; what has none is bounded by the object's size.
const (
	maxEpochs      = 1024
	maxDomains     = 1024
	maxRevocations = 1 << 16
	maxText        = 1024     // bytes of a domain, purpose or reason
	maxMarkText    = 64 << 10 // bytes of a mark's sealed text
	maxClassLocks  = 64
	maxClass       = 64  // bytes of a retention class, as in the index
	maxMembers     = 240 // packs of a group: with 16 of parity, what GF(2^8) codes
)

// ascending refuses lists with an element out of order or twice: so that a set has one form.
func ascending[T any](list []T, compare func(a, b T) int) error {
	for i := 1; i < len(list); i++ {
		if compare(list[i-1], list[i]) >= 0 {
			return fmt.Errorf("element %d of %d is out of order", i, len(list))
		}
	}
	return nil
}

// Compare orders by name, kind, incarnation.
func (p PackRef) Compare(q PackRef) int {
	tree := func(p PackRef) int {
		if p.Tree {
			return 1
		}
		return 0
	}
	return cmp.Or(bytes.Compare(p.Name[:], q.Name[:]), cmp.Compare(tree(p), tree(q)), cmp.Compare(p.Incarnation, q.Incarnation))
}

// validate refuses settings that a root never makes.
func (s *Settings) validate() error {
	switch {
	case s.Generation == 0 || (s.Generation == 1) != (len(s.Previous) == 0) || s.Generation > 1 && len(s.Previous) != 32:
		return errors.New("all generations but the first name their predecessor")
	case s.WriteEpoch == 0:
		return errors.New("no write epoch")
	case len(s.ReadKeys) == 0 || len(s.ReadKeys) > maxEpochs:
		return fmt.Errorf("%d read keys", len(s.ReadKeys))
	case s.Parity > MaxParity:
		return fmt.Errorf("%d parity shards: %w", s.Parity, crypt.ErrPolicy)
	case s.PackSize < MinPackSize || s.PackSize > MaxPackSize:
		return fmt.Errorf("pack size %d: %w", s.PackSize, crypt.ErrPolicy)
	case s.Lock < 0 || (s.Lock == 0) != (s.LockMode == "") || s.LockMode != "" && s.LockMode != "governance" && s.LockMode != "compliance":
		return fmt.Errorf("lock of %d seconds, mode %q", s.Lock, s.LockMode)
	case s.Lock > MaxLock || len(s.ClassLocks) > 0 && s.Lock == 0 || len(s.ClassLocks) > maxClassLocks:
		return fmt.Errorf("lock of %d seconds, the limit is %d; %d classes: %w", s.Lock, MaxLock, len(s.ClassLocks), crypt.ErrPolicy)
	case len(s.PackParity) != 0 && (len(s.PackParity) != 2 || s.PackParity[0] == 0 || s.PackParity[0] > maxMembers ||
		s.PackParity[1] == 0 || s.PackParity[1] > MaxParity):
		return fmt.Errorf("group parity %v", s.PackParity)
	case len(s.Domains) > maxDomains || len(s.Revocations) > maxRevocations:
		return fmt.Errorf("%d domains, %d revocations", len(s.Domains), len(s.Revocations))
	}
	for _, d := range s.Domains {
		if d == "" || len(d) > maxText {
			return fmt.Errorf("domain of %d bytes", len(d))
		}
	}
	for _, h := range s.Revocations {
		if len(h) != 32 {
			return fmt.Errorf("hash of %d bytes", len(h))
		}
	}
	for _, c := range s.ClassLocks {
		if c.Class == "" || len(c.Class) > maxClass || c.Seconds <= 0 || c.Seconds > MaxLock {
			return fmt.Errorf("lock of %d seconds for a class of %d bytes: %w", c.Seconds, len(c.Class), crypt.ErrPolicy)
		}
	}
	for _, err := range []error{
		ascending(s.ClassLocks, func(a, b ClassLock) int { return strings.Compare(a.Class, b.Class) }),
		ascending(s.ReadKeys, func(a, b crypt.ReadKeyForm) int { return cmp.Compare(a.Epoch, b.Epoch) }),
		ascending(s.Domains, strings.Compare),
		ascending(s.Revocations, bytes.Compare),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *Lease) validate() error {
	if len(l.Nonce) != 32 || l.Host == (crypt.HostID{}) || len(l.Purpose) > maxText {
		return errors.New("bad field")
	}
	return nil
}

func (c *Condemned) validate() error {
	if len(c.Packs) == 0 {
		return errors.New("no packs")
	}
	return ascending(c.Packs, PackRef.Compare)
}

func (c *CondemnedLeases) validate() error {
	return ascending(c.Sessions, func(a, b crypt.SessionID) int { return bytes.Compare(a[:], b[:]) })
}

// validate lets an empty list pass: the second look may have taken every pack off the set.
func (c *CondemnedFinal) validate() error { return ascending(c.Packs, PackRef.Compare) }

func (f *Forgotten) validate() error {
	if len(f.Reason) > maxText || len(f.Record) == 0 || crypt.Sum(f.Record) != f.Object {
		return errors.New("bad field")
	}
	return nil
}

func (m *Mark) validate() error {
	var noSession crypt.SessionID
	var noHost crypt.HostID
	switch {
	case m.Kind < MarkTag || m.Kind > MarkRevocation:
		return fmt.Errorf("kind %d", m.Kind)
	case m.Session == noSession && m.Host == noHost && m.Object == "":
		return errors.New("about nothing")
	case m.Object != "" && !KnownName(m.Object) || len(m.Hash) != 0 && len(m.Hash) != 32:
		return errors.New("bad object")
	case len(m.Text) > maxMarkText || (len(m.Text) == 0) != (m.Epoch == 0):
		return fmt.Errorf("text of %d bytes, epoch %d", len(m.Text), m.Epoch)
	case m.Kind == MarkAcknowledgement && len(m.Hash) == 0:
		return errors.New("an acknowledgement names a hash")
	case m.Kind == MarkRevocation && (m.Host == noHost || m.Remove):
		return errors.New("a revocation names a host, and is not taken back")
	case m.Kind != MarkRevocation && len(m.Kept) > 0:
		return errors.New("only a revocation keeps snapshots")
	}
	return ascending(m.Kept, func(a, b KeptSnapshot) int { return bytes.Compare(a.Session[:], b.Session[:]) })
}

// About is what a mark's text is sealed to (crypt.SealText), so that it does not open in another mark: "mark" | kind u8 | session 16 | host 16 |
// object.
func (m *Mark) About() string {
	return "mark" + string([]byte{byte(m.Kind)}) + string(m.Session[:]) + string(m.Host[:]) + m.Object
}

// Signers says which roles may make a mark of kind k; the root may make all of them. Tags and suspicions of a writer are about its own
// snapshots, which is for their reader to check.
func (k MarkKind) Signers() crypt.Role {
	switch k {
	case MarkTag, MarkSuspect, MarkPin, MarkAttestation:
		return crypt.RoleWriter | crypt.RoleOperator | crypt.RoleAdmin
	case MarkHold:
		return crypt.RoleOperator | crypt.RoleAdmin
	case MarkAcknowledgement, MarkApproval:
		return crypt.RoleAdmin
	}
	return 0 // a revocation is the root's
}

func (v *Verified) validate() error {
	for _, err := range []error{ascending(v.Packs, PackRef.Compare), ascending(v.Lost, PackRef.Compare),
		ascending(v.Failed, func(a, b FailedBlob) int {
			return cmp.Or(bytes.Compare(a.ID[:], b.ID[:]), bytes.Compare(a.Pack[:], b.Pack[:]))
		})} {
		if err != nil {
			return err
		}
	}
	return nil
}
