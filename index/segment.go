package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"packhold/crypt"
	"packhold/crypt/canon"
)

// Limits of a segment, checked by Marshal and, before anything is allocated for it, by ParseSegment.
const (
	MaxSegment  = 64 << 20  // bytes of a body
	MaxEntries  = 1_000_000 // entries of a body
	MaxPacks    = 1 << 16   // packs of a body
	MaxSessions = 1 << 16   // session records of a body: their number is a uint16
	MaxNames    = 1 << 16   // names in each of Supersedes and Companions
	MaxRecord   = 16 << 10  // bytes of a session record or of a trailer
	MaxClass    = 64        // bytes of the name of a storage class or retention class
	MaxPackSize = 256 << 20 // bytes of a pack file
	MaxRaw      = 16 << 20  // bytes of a blob's plaintext
)

// entrySize is the length of an encoded entry:
// ID 32 | pack number u32 | offset u32 | sealed length u32 | raw length u32 | compression u8.
const entrySize = 49

// PackID names a pack: the SHA-256 of its trailer, and which incarnation of that name the file is.
// Incarnation 0 is the plain name; higher ones exist only where a condemned or final pack came back.
type PackID struct {
	Name        crypt.ID
	Incarnation uint32
}

// Compare orders by name, then by incarnation.
func (p PackID) Compare(q PackID) int {
	return cmp.Or(bytes.Compare(p.Name[:], q.Name[:]), cmp.Compare(p.Incarnation, q.Incarnation))
}

// Pack describes a pack in a segment.
type Pack struct {
	PackID
	Kind      crypt.Type // TypeDataPack or TypeTreePack
	Class     string     // storage class, at most MaxClass bytes
	Retention string     // retention class, at most MaxClass bytes
	Session   uint16     // number of the session record in Segment.Sessions
	Size      uint64     // bytes of the file, at most MaxPackSize
	Salt      [32]byte   // of the pack key
	Epoch     uint32     // W epoch of the sealed table
	Trailer   []byte     // what rebuilds the trailer bit-exactly; opaque here, 1 to MaxRecord bytes
}

// Entry says where one blob lies: Length sealed bytes from Offset of the pack with number Pack.
type Entry struct {
	ID          crypt.ID
	Pack        uint32 // number in Segment.Packs
	Offset      uint32
	Length      uint32 // sealed bytes
	Raw         uint32 // bytes of the plaintext
	Compression crypt.Compression
}

// Segment is the body of an index segment: what one writer, or prune, says of some packs.
// That Session comes from Host and Nonce, and that Host may speak for these packs, is the caller's to check.
type Segment struct {
	Host       crypt.HostID
	Session    crypt.SessionID
	Nonce      [32]byte
	Sessions   [][]byte   // session records, opaque here, no two equal, 1 to MaxRecord bytes each
	Packs      []Pack     // ascending by PackID, no two equal
	Entries    []Entry    // ascending by ID, then pack number, no two equal
	Supersedes []crypt.ID // segments this one replaces, ascending
	Companions []crypt.ID // segments that must be present for Supersedes to count, ascending
}

type wireSegment struct {
	Host       [16]byte   `cbor:"1,keyasint"`
	Session    [16]byte   `cbor:"2,keyasint"`
	Nonce      [32]byte   `cbor:"3,keyasint"`
	Sessions   [][]byte   `cbor:"4,keyasint"`
	Packs      []wirePack `cbor:"5,keyasint"`
	Entries    []byte     `cbor:"6,keyasint"`
	Supersedes [][32]byte `cbor:"7,keyasint"`
	Companions [][32]byte `cbor:"8,keyasint"`
}

type wirePack struct {
	_           struct{} `cbor:",toarray"`
	Name        [32]byte
	Incarnation uint32
	Kind        uint8
	Class       string
	Retention   string
	Session     uint16
	Size        uint64
	Salt        [32]byte
	Epoch       uint32
	Trailer     []byte
}

// Marshal encodes s, whose lists must be in order (Sort puts them so) and within the limits.
// ParseSegment(s.Marshal()) equals s but for nil lists, which come back empty.
func (s *Segment) Marshal() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("encoding segment: %w", err)
	}
	w := wireSegment{Host: s.Host, Session: s.Session, Nonce: s.Nonce, Sessions: s.Sessions}
	size := len(s.Entries) * entrySize
	w.Packs = make([]wirePack, len(s.Packs))
	for i, p := range s.Packs {
		w.Packs[i] = wirePack{Name: p.Name, Incarnation: p.Incarnation, Kind: uint8(p.Kind), Class: p.Class, Retention: p.Retention,
			Session: p.Session, Size: p.Size, Salt: p.Salt, Epoch: p.Epoch, Trailer: p.Trailer}
		size += len(p.Trailer)
	}
	for _, r := range s.Sessions {
		size += len(r)
	}
	if size > MaxSegment {
		return nil, fmt.Errorf("encoding segment: over %d bytes", MaxSegment)
	}
	w.Entries = make([]byte, 0, len(s.Entries)*entrySize)
	for i := range s.Entries {
		w.Entries = s.Entries[i].append(w.Entries)
	}
	for _, n := range s.Supersedes {
		w.Supersedes = append(w.Supersedes, n)
	}
	for _, n := range s.Companions {
		w.Companions = append(w.Companions, n)
	}
	b := canon.Marshal(&w)
	if len(b) > MaxSegment {
		return nil, fmt.Errorf("encoding segment: %d bytes, at most %d", len(b), MaxSegment)
	}
	return b, nil
}

// ParseSegment decodes a segment body. It accepts exactly what Marshal makes: every other encoding of the same content,
// every list out of order and every number out of range is an error. The result does not share memory with b.
func ParseSegment(b []byte) (*Segment, error) {
	s, err := parseSegment(b)
	if err != nil {
		return nil, fmt.Errorf("parsing segment: %w", err)
	}
	return s, nil
}

func parseSegment(b []byte) (*Segment, error) {
	if len(b) > MaxSegment {
		return nil, fmt.Errorf("%d bytes, at most %d", len(b), MaxSegment)
	}
	var w wireSegment
	if err := canon.Unmarshal(b, &w); err != nil {
		return nil, err
	}
	n := len(w.Entries) / entrySize
	if len(w.Entries)%entrySize != 0 || n > MaxEntries {
		return nil, fmt.Errorf("%d bytes of entries, want a multiple of %d and at most %d entries", len(w.Entries), entrySize, MaxEntries)
	}
	s := &Segment{Host: w.Host, Session: w.Session, Nonce: w.Nonce, Sessions: w.Sessions,
		Packs: make([]Pack, len(w.Packs)), Entries: make([]Entry, n),
		Supersedes: make([]crypt.ID, 0, len(w.Supersedes)), Companions: make([]crypt.ID, 0, len(w.Companions))}
	for i, p := range w.Packs {
		s.Packs[i] = Pack{PackID: PackID{p.Name, p.Incarnation}, Kind: crypt.Type(p.Kind), Class: p.Class, Retention: p.Retention,
			Session: p.Session, Size: p.Size, Salt: p.Salt, Epoch: p.Epoch, Trailer: p.Trailer}
	}
	for i := range s.Entries {
		s.Entries[i] = parseEntry(w.Entries[i*entrySize:])
	}
	for _, n := range w.Supersedes {
		s.Supersedes = append(s.Supersedes, n)
	}
	for _, n := range w.Companions {
		s.Companions = append(s.Companions, n)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

func (e *Entry) append(dst []byte) []byte {
	dst = append(dst, e.ID[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, e.Pack)
	dst = binary.LittleEndian.AppendUint32(dst, e.Offset)
	dst = binary.LittleEndian.AppendUint32(dst, e.Length)
	dst = binary.LittleEndian.AppendUint32(dst, e.Raw)
	return append(dst, byte(e.Compression))
}

// parseEntry is the inverse of append. b holds at least entrySize bytes.
func parseEntry(b []byte) Entry {
	_ = b[entrySize-1]
	return Entry{ID: crypt.ID(b[:32]), Pack: binary.LittleEndian.Uint32(b[32:]), Offset: binary.LittleEndian.Uint32(b[36:]),
		Length: binary.LittleEndian.Uint32(b[40:]), Raw: binary.LittleEndian.Uint32(b[44:]), Compression: crypt.Compression(b[48])}
}

// Sort puts the lists of s into the order that Marshal wants and renumbers the packs in the entries.
// Pack numbers out of range are left as they are, for Marshal to refuse.
func (s *Segment) Sort() {
	order := make([]uint32, len(s.Packs))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortStableFunc(order, func(a, b uint32) int { return s.Packs[a].Compare(s.Packs[b].PackID) })
	packs, number := make([]Pack, len(order)), make([]uint32, len(order))
	for to, from := range order {
		packs[to], number[from] = s.Packs[from], uint32(to)
	}
	s.Packs = packs
	for i := range s.Entries {
		if p := s.Entries[i].Pack; uint64(p) < uint64(len(number)) {
			s.Entries[i].Pack = number[p]
		}
	}
	slices.SortFunc(s.Entries, compareEntries)
	slices.SortFunc(s.Supersedes, compareIDs)
	slices.SortFunc(s.Companions, compareIDs)
}

func compareIDs(a, b crypt.ID) int { return bytes.Compare(a[:], b[:]) }

func compareEntries(a, b Entry) int {
	return cmp.Or(bytes.Compare(a.ID[:], b.ID[:]), cmp.Compare(a.Pack, b.Pack))
}

func (s *Segment) check() error {
	if len(s.Sessions) > MaxSessions || len(s.Packs) > MaxPacks || len(s.Entries) > MaxEntries ||
		len(s.Supersedes) > MaxNames || len(s.Companions) > MaxNames {
		return fmt.Errorf("%d sessions, %d packs, %d entries, %d superseded, %d companions: over the limits", len(s.Sessions), len(s.Packs),
			len(s.Entries), len(s.Supersedes), len(s.Companions))
	}
	seen := make(map[string]struct{}, len(s.Sessions))
	for i, r := range s.Sessions {
		if len(r) == 0 || len(r) > MaxRecord {
			return fmt.Errorf("session record %d has %d bytes, want 1 to %d", i, len(r), MaxRecord)
		}
		seen[string(r)] = struct{}{}
	}
	if len(seen) != len(s.Sessions) {
		return errors.New("a session record stands twice")
	}
	for i := range s.Packs {
		p := &s.Packs[i]
		if i > 0 && s.Packs[i-1].Compare(p.PackID) >= 0 {
			return fmt.Errorf("pack %d is out of order", i)
		}
		if int(p.Session) >= len(s.Sessions) {
			return fmt.Errorf("pack %d has session %d of %d", i, p.Session, len(s.Sessions))
		}
		if err := p.check(); err != nil {
			return fmt.Errorf("pack %d: %w", i, err)
		}
	}
	for i := range s.Entries {
		e := &s.Entries[i]
		if i > 0 && compareEntries(s.Entries[i-1], *e) >= 0 {
			return fmt.Errorf("entry %d is out of order", i)
		}
		if uint64(e.Pack) >= uint64(len(s.Packs)) {
			return fmt.Errorf("entry %d is in pack %d of %d", i, e.Pack, len(s.Packs))
		}
		if err := e.check(s.Packs[e.Pack].Size); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	for _, names := range [][]crypt.ID{s.Supersedes, s.Companions} {
		for i := 1; i < len(names); i++ {
			if compareIDs(names[i-1], names[i]) >= 0 {
				return errors.New("superseded segments or companions are out of order")
			}
		}
	}
	return nil
}

func (p *Pack) check() error {
	switch {
	case p.Kind != crypt.TypeDataPack && p.Kind != crypt.TypeTreePack:
		return fmt.Errorf("kind %d", p.Kind)
	case len(p.Class) > MaxClass || !utf8.ValidString(p.Class) || len(p.Retention) > MaxClass || !utf8.ValidString(p.Retention):
		return fmt.Errorf("class or retention class is not UTF-8 of at most %d bytes", MaxClass)
	case p.Size < crypt.HeaderSize || p.Size > MaxPackSize:
		return fmt.Errorf("%d bytes, want %d to %d", p.Size, crypt.HeaderSize, MaxPackSize)
	case len(p.Trailer) == 0 || len(p.Trailer) > MaxRecord:
		return fmt.Errorf("trailer of %d bytes, want 1 to %d", len(p.Trailer), MaxRecord)
	}
	return nil
}

// check takes the pack's size. Its sum is of uint64s, so it cannot wrap.
func (e *Entry) check(size uint64) error {
	switch {
	case e.Offset < crypt.HeaderSize || e.Length < crypt.Overhead || uint64(e.Offset)+uint64(e.Length) > size:
		return fmt.Errorf("%d bytes from %d in a pack of %d", e.Length, e.Offset, size)
	case e.Raw > MaxRaw:
		return fmt.Errorf("blob of %d bytes, at most %d", e.Raw, MaxRaw)
	case e.Compression > crypt.ZstdBest:
		return fmt.Errorf("compression %d", e.Compression)
	}
	return nil
}
