package snapshot

import (
	"fmt"
	"strings"

	"packhold/crypt"
	"packhold/crypt/canon"
)

// Kind is what a record says about its session. The numbers are part of format 1.
type Kind uint8

// The kinds of records.
const (
	Snapshot Kind = iota + 1
	Copied        // makes the records it lists count at a replica
	Void          // the session ends without a snapshot
)

// BackupType is how a snapshot was compared with earlier ones. The numbers are part of format 1.
type BackupType uint8

// The types of backups. Every one is a complete tree.
const (
	Full         BackupType = iota + 1 // every byte was read again
	Incremental                        // compared with the newest snapshot of the lineage
	Differential                       // compared with the newest full one
)

// Validation is how it was made sure that what a session stored is what it meant. The numbers are part of format 1.
type Validation uint8

// The results of validation. There is none for "differs": such a session stores no snapshot.
const (
	NotValidated Validation = iota
	ReadBack                // all that was stored was read back and is equal
	Confirmed               // of some or all of it the storage reported an equal checksum instead
)

// Limits of records and bodies.
const (
	MaxRecord       = 16 << 20 // bytes encoded, the sealed body included
	MaxBody         = 12 << 20 // bytes of a body's plaintext: it fits into a record with the rest at its limits
	MaxSeen         = 256      // heads of other hosts: a witness that rotates need not hold all
	MaxPrev         = 1024     // heads of this host: each is a job that ran beside others since the last snapshot
	MaxCopied       = 50000    // records that one session copies: 1.7 MB of IDs
	MaxText         = 1024     // bytes of a host, user, job, program, tag or retention class
	MaxSources      = 4096
	MaxTags         = 1024
	MaxExcludes     = 65536
	MaxPattern      = 65535        // bytes of a source path or an exclude pattern
	MaxSkipped      = 10000        // skipped items with their paths; SkippedMore counts the rest
	MaxSkippedBytes = 4 << 20      // bytes of them all
	MaxReason       = 1024         // bytes of a reason to skip
	minYear1        = -62135596800 // 0001-01-01, the first second that time.Time formats
	maxYear9999     = 253402300799 // 9999-12-31, the last one
)

// Record is the envelope of a snapshot, readable with the write secret; of the source it holds nothing but numbers.
// Its stored form is the commit of a session.
type Record struct {
	Session [16]byte   `cbor:"1,keyasint,omitzero"`
	Host    [16]byte   `cbor:"2,keyasint,omitzero"`
	Nonce   [32]byte   `cbor:"3,keyasint,omitzero"` // what Session was made of; zero in a void that another host signed
	Kind    Kind       `cbor:"4,keyasint,omitzero"`
	Number  uint64     `cbor:"5,keyasint,omitzero"` // a convenience: highest seen + 1; ties are possible
	Start   Time       `cbor:"6,keyasint,omitzero"` // years 1 to 9999, as End
	End     Time       `cbor:"7,keyasint,omitzero"`
	Type    BackupType `cbor:"8,keyasint,omitzero"`
	Root    crypt.ID   `cbor:"9,keyasint,omitzero"`  // the root page
	Lineage [32]byte   `cbor:"10,keyasint,omitzero"` // HMAC of host and sources: finds the parent
	Parent  [16]byte   `cbor:"11,keyasint,omitzero"` // the session compared with; zero: none
	Stats   Stats      `cbor:"12,keyasint,omitzero"`

	Retention string    `cbor:"13,keyasint,omitempty"` // retention class, "" for the default one
	Prev      []Ref     `cbor:"14,keyasint,omitempty"` // all committed heads of this host
	Seen      []SeenRef `cbor:"15,keyasint,omitempty"` // heads of other hosts: witnesses against rollback

	AuditSize uint64   `cbor:"16,keyasint,omitzero"` // of the host's log, with the entry about this session
	AuditRoot [32]byte `cbor:"17,keyasint,omitzero"`

	Origin     *Origin    `cbor:"18,keyasint,omitempty"` // nil unless copied from a repository with other keys, or brought back in this one
	Validation Validation `cbor:"19,keyasint,omitzero"`
	Copied     []crypt.ID `cbor:"20,keyasint,omitempty"` // SHA-256 of the stored records; kind Copied only
	Body       []byte     `cbor:"21,keyasint,omitempty"` // a Body, sealed; opaque here
}

// Stats counts what a session did. Blobs and bytes new are what no pack had before.
type Stats struct {
	Files       uint64 `cbor:"1,keyasint,omitzero"` // in the tree, as Dirs and Others
	Dirs        uint64 `cbor:"2,keyasint,omitzero"`
	Others      uint64 `cbor:"3,keyasint,omitzero"`
	New         uint64 `cbor:"4,keyasint,omitzero"` // files by comparison with the parent, as Changed and Unmodified
	Changed     uint64 `cbor:"5,keyasint,omitzero"`
	Unmodified  uint64 `cbor:"6,keyasint,omitzero"`
	Skipped     uint64 `cbor:"7,keyasint,omitzero"`  // items that could not be read
	BytesTotal  uint64 `cbor:"8,keyasint,omitzero"`  // sizes of all files
	BytesRead   uint64 `cbor:"9,keyasint,omitzero"`  // from the source
	BytesNew    uint64 `cbor:"10,keyasint,omitzero"` // of new blobs, before compression
	BytesStored uint64 `cbor:"11,keyasint,omitzero"` // of new blobs, sealed
	Blobs       uint64 `cbor:"12,keyasint,omitzero"` // new blobs
}

// Ref names a snapshot and the very bytes of its record.
type Ref struct {
	Session [16]byte `cbor:"1,keyasint"`
	Object  crypt.ID `cbor:"2,keyasint"` // SHA-256 of the stored object
}

// SeenRef is a Ref of another host.
type SeenRef struct {
	Host    [16]byte `cbor:"1,keyasint"`
	Session [16]byte `cbor:"2,keyasint"`
	Object  crypt.ID `cbor:"3,keyasint"`
}

// Origin is where a copied snapshot comes from.
type Origin struct {
	Repository [16]byte `cbor:"1,keyasint"`
	Session    [16]byte `cbor:"2,keyasint"`
}

// Body is the part of a snapshot that only a reader may see. Strings are any bytes.
type Body struct {
	Sources     []string      `cbor:"1,keyasint,omitempty"` // absolute paths
	Hostname    string        `cbor:"2,keyasint,omitempty"`
	User        string        `cbor:"3,keyasint,omitempty"`
	Job         string        `cbor:"4,keyasint,omitempty"`
	Tags        []string      `cbor:"5,keyasint,omitempty"`
	Excludes    []string      `cbor:"6,keyasint,omitempty"`
	Skipped     []SkippedItem `cbor:"7,keyasint,omitempty"` // the first ones, see Skip
	SkippedMore uint64        `cbor:"8,keyasint,omitzero"`
	Program     string        `cbor:"9,keyasint,omitempty"` // name and version

	skippedBytes int // of Skipped, once Skip has counted them
}

// SkippedItem is a path that could not be backed up.
type SkippedItem struct {
	Path   string `cbor:"1,keyasint"`
	Reason string `cbor:"2,keyasint"`
}

// Skip adds an item to b.Skipped while it has room (MaxSkipped items, MaxSkippedBytes); the first that finds none and all
// later ones are counted in b.SkippedMore. Long reasons are cut to MaxReason bytes, paths to MaxPath.
func (b *Body) Skip(path, reason string) {
	if b.SkippedMore > 0 || len(b.Skipped) == MaxSkipped {
		b.SkippedMore++
		return
	}
	path, reason = path[:min(len(path), MaxPath)], reason[:min(len(reason), MaxReason)]
	size := len(path) + len(reason)
	if b.skippedBytes == 0 {
		for _, s := range b.Skipped {
			b.skippedBytes += len(s.Path) + len(s.Reason)
		}
	}
	if size > MaxSkippedBytes-b.skippedBytes {
		b.SkippedMore++
		return
	}
	b.skippedBytes += size
	b.Skipped = append(b.Skipped, SkippedItem{path, reason})
}

// Validate returns an error, which wraps ErrMalformed, unless r can be stored. It does not check that the session's name
// is made of host and nonce, nor that r is signed: who stores and loads records does.
func (r *Record) Validate() error {
	var zero [16]byte
	switch {
	case r.Session == zero || r.Host == zero:
		return malformed("a record has a session and a host")
	case !r.Start.inRecord() || !r.End.inRecord():
		return malformed("start or end outside the years 1 to 9999")
	case len(r.Retention) > MaxText:
		return malformed("retention class of %d bytes, the limit is %d", len(r.Retention), MaxText)
	case len(r.Prev) > MaxPrev:
		return malformed("%d previous heads, the limit is %d", len(r.Prev), MaxPrev)
	case len(r.Seen) > MaxSeen:
		return malformed("%d seen heads, the limit is %d", len(r.Seen), MaxSeen)
	case len(r.Copied) > MaxCopied:
		return malformed("%d copied records, the limit is %d", len(r.Copied), MaxCopied)
	case r.Validation > Confirmed:
		return malformed("validation %d", r.Validation)
	case len(r.Body) > MaxRecord:
		return malformed("body of %d bytes", len(r.Body))
	case r.Origin != nil && (r.Origin.Repository == zero || r.Origin.Session == zero):
		return malformed("an origin has a repository and a session")
	}
	for _, p := range r.Prev {
		if p.Session == zero || p.Object.IsZero() {
			return malformed("a previous head has a session and an object")
		}
	}
	for _, s := range r.Seen {
		if s.Host == zero || s.Session == zero || s.Object.IsZero() {
			return malformed("a seen head has a host, a session and an object")
		}
	}
	for _, id := range r.Copied {
		if id.IsZero() {
			return malformed("copied record without an ID")
		}
	}
	return r.validateKind(zero)
}

func (r *Record) validateKind(zero [16]byte) error {
	if r.Kind != Void && r.Nonce == ([32]byte{}) {
		return malformed("a record has a nonce")
	}
	isTree := r.Kind == Snapshot
	if isTree == r.Root.IsZero() {
		return malformed("a snapshot has a root page, other kinds have none")
	}
	if !isTree && (r.Type != 0 || r.Parent != zero || r.Origin != nil || r.Stats != (Stats{}) || r.Lineage != [32]byte{}) {
		return malformed("type, lineage, parent, origin or statistics, but kind %d is not a snapshot", r.Kind)
	}
	switch r.Kind {
	case Snapshot:
		if r.Type < Full || r.Type > Differential {
			return malformed("backup type %d", r.Type)
		}
		if r.Parent == r.Session {
			return malformed("a snapshot that is its own parent")
		}
	case Copied:
		if len(r.Copied) == 0 {
			return malformed("nothing copied")
		}
	case Void:
		if len(r.Body) > 0 || r.Validation != NotValidated {
			return malformed("a void with a body or a validation")
		}
	default:
		return malformed("kind %d", r.Kind)
	}
	if r.Kind != Copied && len(r.Copied) > 0 {
		return malformed("copied records, but kind %d", r.Kind)
	}
	return nil
}

func (t Time) inRecord() bool { return t.valid() && t.Sec >= minYear1 && t.Sec <= maxYear9999 }

// Validate returns an error, which wraps ErrMalformed, unless b can be stored.
func (b *Body) Validate() error {
	for _, s := range [...]string{b.Hostname, b.User, b.Job, b.Program} {
		if len(s) > MaxText {
			return malformed("text of %d bytes, the limit is %d", len(s), MaxText)
		}
	}
	if len(b.Skipped) > MaxSkipped {
		return malformed("%d skipped items, the limit is %d", len(b.Skipped), MaxSkipped)
	}
	for _, l := range [...]struct {
		name       string
		list       []string
		most, size int
	}{
		{"sources", b.Sources, MaxSources, MaxPattern},
		{"tags", b.Tags, MaxTags, MaxText},
		{"excludes", b.Excludes, MaxExcludes, MaxPattern},
	} {
		if len(l.list) > l.most {
			return malformed("%d %s, the limit is %d", len(l.list), l.name, l.most)
		}
		for _, s := range l.list {
			if s == "" || len(s) > l.size || strings.IndexByte(s, 0) >= 0 {
				return malformed("%s: %s", l.name, quote(s))
			}
		}
	}
	for _, s := range b.Skipped {
		if len(s.Path) > MaxPath || len(s.Reason) > MaxReason {
			return malformed("skipped item of %d and %d bytes", len(s.Path), len(s.Reason))
		}
	}
	return nil
}

// Marshal returns the bytes of r, the same for equal records. Invalid records and more than MaxRecord bytes are refused.
func (r *Record) Marshal() ([]byte, error) { return marshal("record", MaxRecord, r.Validate, r) }

// ParseRecord is the inverse of Marshal; it accepts nothing that Marshal does not return. Errors wrap ErrMalformed.
func ParseRecord(data []byte) (*Record, error) {
	r := new(Record)
	if err := parse("record", MaxRecord, data, r); err != nil {
		return nil, err
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("parsing record: %w", err)
	}
	return r, nil
}

// Marshal returns the bytes of b, the same for equal bodies. Invalid bodies and more than MaxBody bytes are refused.
func (b *Body) Marshal() ([]byte, error) { return marshal("body", MaxBody, b.Validate, b) }

// ParseBody is the inverse of Marshal; it accepts nothing that Marshal does not return. Errors wrap ErrMalformed.
func ParseBody(data []byte) (*Body, error) {
	b := new(Body)
	if err := parse("body", MaxBody, data, b); err != nil {
		return nil, err
	}
	if err := b.Validate(); err != nil {
		return nil, fmt.Errorf("parsing body: %w", err)
	}
	return b, nil
}

func marshal(what string, most int, validate func() error, v any) ([]byte, error) {
	if err := validate(); err != nil {
		return nil, fmt.Errorf("encoding %s: %w", what, err)
	}
	data := canon.MarshalBytes(v) // whatever is valid has an encoding
	if len(data) > most {
		return nil, fmt.Errorf("encoding %s: %w", what, malformed("%d bytes, the limit is %d", len(data), most))
	}
	return data, nil
}

// parse decodes data into v, a pointer to a zero value, and refuses every encoding but the one of marshal.
func parse(what string, most int, data []byte, v any) error {
	if len(data) > most {
		return fmt.Errorf("parsing %s: %w", what, malformed("%d bytes, the limit is %d", len(data), most))
	}
	if err := canon.UnmarshalBytes(data, v); err != nil {
		return fmt.Errorf("parsing %s: %w", what, malformed("%w", err))
	}
	return nil
}
