package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"packhold/crypt"
)

// entrySize is ID 32 | compression 1 | sealed length u32 | raw length u32.
const entrySize = 41

// Table says what is in a pack, in whose session, and is signed by that session's host.
type Table struct {
	Session   []byte // session record
	Entries   []Entry
	Signature [64]byte // over SignedDigest, by the host of the session: the caller checks it
}

// SignedDigest is what the host signs: SHA-256(header 48 | session record | entries as stored).
func SignedDigest(h crypt.Header, session []byte, entries []Entry) [32]byte {
	d := sha256.New()
	d.Write(h.Append(make([]byte, 0, crypt.HeaderSize)))
	d.Write(session)
	b := make([]byte, 0, entrySize)
	for _, e := range entries {
		d.Write(e.append(b))
	}
	return [32]byte(d.Sum(nil))
}

func (e Entry) append(dst []byte) []byte {
	dst = append(dst, e.ID[:]...)
	dst = append(dst, byte(e.Compression))
	dst = binary.LittleEndian.AppendUint32(dst, e.Length)
	return binary.LittleEndian.AppendUint32(dst, e.Raw)
}

// bodySize is the length of the table body for a session record and n entries.
func bodySize(session, n int) int {
	return 1 + 3 + len(appendStringHead(nil, session)) + session +
		len(appendStringHead(nil, n*entrySize)) + n*entrySize + len(appendStringHead(nil, 64)) + 64
}

// tableSize is the length of the sealed table, a multiple of block.
func tableSize(session, n int) int {
	return roundUp(crypt.Overhead + 4 + bodySize(session, n))
}

// appendTable appends the plaintext of a table: body length u32 | body | zeros. The body is the deterministic CBOR of
// {1: session record, 2: entries, 3: signature}, all byte strings.
func appendTable(dst, session []byte, entries []Entry, sig [64]byte) []byte {
	n := tableSize(len(session), len(entries)) - crypt.Overhead
	start := len(dst)
	dst = append(dst, make([]byte, n)...)
	out := binary.LittleEndian.AppendUint32(dst[:start], uint32(bodySize(len(session), len(entries))))
	out = append(out, 0xa3, 1)
	out = append(appendStringHead(out, len(session)), session...)
	out = appendStringHead(append(out, 2), len(entries)*entrySize)
	for _, e := range entries {
		out = e.append(out)
	}
	out = append(appendStringHead(append(out, 3), len(sig)), sig[:]...)
	return out[:start+n] // the same memory: tableSize left room, and what follows the body is zero
}

// appendStringHead appends the head of a CBOR byte string of n bytes, in its one shortest form.
func appendStringHead(dst []byte, n int) []byte {
	switch {
	case n < 24:
		return append(dst, 0x40|byte(n))
	case n < 1<<8:
		return append(dst, 0x58, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 0x59), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(dst, 0x5a), uint32(n))
	}
}

// cutString cuts a CBOR byte string of at most limit bytes, under the given map key, off the front of b.
func cutString(b []byte, key byte, limit int) (s, rest []byte, err error) {
	if len(b) < 2 || b[0] != key {
		return nil, nil, fmt.Errorf("map key %d is missing", key)
	}
	b = b[1:]
	head := 1
	switch b[0] {
	case 0x58:
		head = 2
	case 0x59:
		head = 3
	case 0x5a:
		head = 5
	}
	if len(b) < head {
		return nil, nil, fmt.Errorf("string %d is cut off", key)
	}
	n := uint64(b[0] & 0x1f)
	if head > 1 {
		n = 0
		for _, c := range b[1:head] {
			n = n<<8 | uint64(c)
		}
	}
	if n > uint64(limit) || n > uint64(len(b)-head) {
		return nil, nil, fmt.Errorf("string %d of %d bytes is longer than allowed or than what there is", key, n)
	}
	// A different head is a longer form, or no byte string at all.
	if string(appendStringHead(nil, int(n))) != string(b[:head]) {
		return nil, nil, fmt.Errorf("string %d is not in its shortest form", key)
	}
	return b[head : head+int(n)], b[head+int(n):], nil
}

// ParseTable reads the opened table of the pack with trailer t, which must be valid. It accepts exactly what a Builder
// writes: one encoding, no blob twice, and blobs, table and locator that lead to the trailer's shards. The signature
// is not checked. The Table keeps plain.
func ParseTable(plain []byte, t *Trailer) (*Table, error) {
	tab, err := parseTable(plain, t)
	if err != nil {
		return nil, fmt.Errorf("parsing pack table: %w", err)
	}
	return tab, nil
}

func parseTable(plain []byte, t *Trailer) (*Table, error) {
	if len(plain) != t.TableSize-crypt.Overhead || len(plain) < 4 || len(plain) > MaxTable {
		return nil, fmt.Errorf("%d bytes, want %d", len(plain), t.TableSize-crypt.Overhead)
	}
	n := binary.LittleEndian.Uint32(plain)
	if uint64(n) > uint64(len(plain)-4) || roundUp(crypt.Overhead+4+int(n)) != t.TableSize {
		return nil, fmt.Errorf("body of %d bytes in a table of %d", n, t.TableSize)
	}
	body, pad := plain[4:4+n], plain[4+n:]
	if !allZero(pad) {
		return nil, errors.New("padding is not zero")
	}
	if len(body) == 0 || body[0] != 0xa3 {
		return nil, errors.New("not a map of three")
	}
	session, rest, err := cutString(body[1:], 1, MaxSession)
	if err != nil {
		return nil, err
	}
	packed, rest, err := cutString(rest, 2, len(rest))
	if err != nil {
		return nil, err
	}
	sig, rest, err := cutString(rest, 3, 64)
	if err != nil {
		return nil, err
	}
	if len(sig) != 64 || len(rest) != 0 || len(packed) == 0 || len(packed)%entrySize != 0 {
		return nil, fmt.Errorf("signature of %d bytes, entries of %d, %d bytes too many", len(sig), len(packed), len(rest))
	}
	tab := &Table{Session: session, Signature: [64]byte(sig), Entries: make([]Entry, 0, len(packed)/entrySize)}
	seen := make(map[crypt.ID]struct{}, len(packed)/entrySize)
	end, limit := crypt.HeaderSize, t.TableOffset() // at most MaxFile, and a length at most MaxRaw+Overhead: no overflow
	for ; len(packed) > 0; packed = packed[entrySize:] {
		e := Entry{ID: crypt.ID(packed[:32]), Compression: crypt.Compression(packed[32]), Offset: uint32(end),
			Length: binary.LittleEndian.Uint32(packed[33:]), Raw: binary.LittleEndian.Uint32(packed[37:])}
		if err := e.check(); err != nil {
			return nil, err
		}
		if _, ok := seen[e.ID]; ok {
			return nil, fmt.Errorf("blob %v is listed twice", e.ID)
		}
		seen[e.ID] = struct{}{}
		if end += int(e.Length); end > limit {
			return nil, fmt.Errorf("blob %v ends at %d, beyond the blobs' part of %d bytes", e.ID, end, limit)
		}
		tab.Entries = append(tab.Entries, e)
	}
	if k, s := geometry(end + t.TableSize + locatorSize); k != t.Data || s != t.ShardSize {
		return nil, fmt.Errorf("blobs of %d bytes make %d shards of %d, the trailer says %d of %d", end, k, s, t.Data, t.ShardSize)
	}
	return tab, nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
