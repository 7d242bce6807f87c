package repo

import (
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
	WriteEpoch  uint32              `cbor:"4,keyasint"` // the W that new objects use
	ReadKeys    []crypt.ReadKeyForm `cbor:"5,keyasint"` // public, by epoch; new sessions use the last
	Parity      uint8               `cbor:"6,keyasint"` // shards per pack, 0 to 16
	PackSize    uint32              `cbor:"7,keyasint"` // target of data packs, bytes
	Compression string              `cbor:"8,keyasint"`
	Lock        int64               `cbor:"9,keyasint,omitempty"`  // seconds that new objects stay write-once
	LockMode    string              `cbor:"10,keyasint,omitempty"` // "governance", "compliance", or ""
	PackParity  []uint8             `cbor:"11,keyasint,omitempty"` // group parity: data and parity packs
	Domains     []string            `cbor:"12,keyasint,omitempty"` // dedup domains beside the shared one
	Revocations [][]byte            `cbor:"13,keyasint,omitempty"` // SHA-256 of every revocation mark
	HostForget  bool                `cbor:"14,keyasint,omitempty"` // hosts may forget their own snapshots
}

// Lease is leases/<session> and its renewals leases/<session>.<n>, signed by the session's host.
type Lease struct {
	Session crypt.SessionID `cbor:"1,keyasint"`
	Host    crypt.HostID    `cbor:"2,keyasint"`
	Nonce   []byte          `cbor:"3,keyasint"` // 32
	Time    int64           `cbor:"4,keyasint"` // the host's clock: shown, never judged by
	Renewal uint32          `cbor:"5,keyasint,omitempty"`
	Purpose string          `cbor:"6,keyasint,omitempty"` // "backup", "prune", "repair", "replicate"
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
	Text    []byte          `cbor:"9,keyasint,omitempty"` // HPKE-sealed to the read key
	Epoch   uint32          `cbor:"10,keyasint,omitempty"`
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

// Group is group/<sha256>: parity over a group of packs. The shards follow the sealed body.
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
	Sig  []byte `cbor:"4,keyasint"` // by the new root over the body without this field
}

// body is a control object's body.
type body interface {
	Settings | Lease | Condemned | CondemnedLeases | CondemnedFinal | Forgotten | Mark | Verified | Group | Succession
}

// parseBody decodes a body, strictly.
func parseBody[B body](b []byte) (*B, error) {
	v := new(B)
	if err := canon.Unmarshal(b, v); err != nil {
		return nil, err
	}
	return v, nil
}
