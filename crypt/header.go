package crypt

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Format is the repository format this package reads and writes.
const Format = 1

// ErrFormat is matched by the error for an object of a newer, unknown format.
var ErrFormat = errors.New("unknown format")

// Type says what an object is. The numbers are part of format 1, and of every AAD and signature:
// valid bytes in a wrong role must fail (as they did not in borg's CVE-2016-10099 and CVE-2023-36811).
type Type uint8

// The types of objects.
const (
	TypeDataPack Type = iota + 1
	TypeTreePack
	TypeSettings
	TypeRoots
	TypeKeySlot
	TypeBundle
	TypeHost
	TypeGrant
	TypeGroup
	TypeIndex
	TypeSnapshot
	TypeLease
	TypeCondemned
	TypeCondemnedLeases
	TypeCondemnedFinal
	TypeForgotten
	TypeMark
	TypeVerified
	TypeAuditTile
	TypeAuditCheckpoint
	TypePackTable    // the table inside a pack
	TypeSnapshotBody // the part of a snapshot record under the session key
	TypeSession      // a session record
	TypeConfig
	TypeSet     // what a removable medium carries
	TypeReceipt // what a replica has, for the next set
)

var typeNames = [...]string{"", "data-pack", "tree-pack", "settings", "roots", "key-slot", "bundle", "host", "grant", "group",
	"index", "snapshot", "lease", "condemned", "condemned-leases", "condemned-final", "forgotten", "mark", "verified",
	"audit-tile", "audit-checkpoint", "pack-table", "snapshot-body", "session", "config", "set", "receipt"}

// String is the name of t that stands in key derivations and signature inputs: part of format 1.
func (t Type) String() string {
	if t == 0 || int(t) >= len(typeNames) {
		return fmt.Sprintf("type-%d", uint8(t))
	}
	return typeNames[t]
}

// HeaderSize is the length of an encoded Header.
const HeaderSize = 48

// Magic opens every object.
const Magic = "PACKHOLD"

// Header stands in clear before every object: "PACKHOLD" | format 1 | type 1 | variant 1 | 0 | W epoch u32 | salt 32.
type Header struct {
	Type    Type
	Variant uint8 // packs: the shard hash; otherwise 0
	Epoch   uint32
	Salt    [32]byte
}

// Append appends the encoded header to dst.
func (h Header) Append(dst []byte) []byte {
	dst = append(dst, Magic...)
	dst = append(dst, Format, byte(h.Type), h.Variant, 0)
	dst = binary.LittleEndian.AppendUint32(dst, h.Epoch)
	return append(dst, h.Salt[:]...)
}

// ParseHeader reads the header at the start of b. It is the inverse of Append: ParseHeader(h.Append(nil)) == h for every
// known type. An unknown format matches ErrFormat.
func ParseHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, fmt.Errorf("parsing header: %d bytes, want %d", len(b), HeaderSize)
	}
	if string(b[:8]) != Magic {
		return h, errors.New("parsing header: not a packhold object")
	}
	if b[8] != Format {
		return h, fmt.Errorf("parsing header: %w %d, this program knows %d", ErrFormat, b[8], Format)
	}
	if b[9] == 0 || int(b[9]) >= len(typeNames) {
		return h, fmt.Errorf("parsing header: unknown type %d", b[9])
	}
	if b[11] != 0 {
		return h, errors.New("parsing header: reserved byte is set")
	}
	h.Type, h.Variant = Type(b[9]), b[10]
	h.Epoch = binary.LittleEndian.Uint32(b[12:])
	copy(h.Salt[:], b[16:])
	return h, nil
}
