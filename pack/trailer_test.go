package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"testing"

	"packhold/crypt"

	"github.com/fxamacker/cbor/v2"
)

func TestTrailerHasOneForm(t *testing.T) {
	_, f := small(t, ShardBLAKE3)
	raw := f.Trailer.Append(nil)
	tr, err := ParseTrailer(raw)
	if err != nil || !reflect.DeepEqual(tr, f.Trailer) {
		t.Fatalf("%+v, %v", tr, err)
	}
	if crypt.Sum(raw) != f.Name {
		t.Fatal("name is not the trailer's hash")
	}
	if _, err := ParseTrailer(f.Data[len(f.Data)-MaxTrailer:]); err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			if raceEnabled && bit != i%8 {
				continue // one bit of each byte is enough to look for races
			}
			raw[i] ^= 1 << bit
			// What still parses is another pack's trailer: it must be found by its name, and say just these bytes.
			if tr, err := ParseTrailer(raw); err == nil && (tr.Name() == f.Name || !bytes.Equal(tr.Append(nil), raw)) {
				t.Fatalf("byte %d bit %d is not seen", i, bit)
			}
			raw[i] ^= 1 << bit
		}
	}
	for n := range raw {
		if _, err := ParseTrailer(raw[:n]); err == nil {
			t.Fatalf("the first %d bytes parse", n)
		}
	}
}

func TestTrailerRefusesLyingGeometry(t *testing.T) {
	_, f := small(t, ShardBLAKE3)
	for name, change := range map[string]func(*Trailer){
		"type":               func(t *Trailer) { t.Header.Type = crypt.TypeSnapshot },
		"shard hash":         func(t *Trailer) { t.Header.Variant = 0 },
		"17 parity":          func(t *Trailer) { t.Parity = 17; t.Digests = make([][32]byte, t.Data+17) },
		"129 data":           func(t *Trailer) { t.Data = 129; t.Digests = make([][32]byte, 130) },
		"1 data":             func(t *Trailer) { t.Data = 1; t.Digests = make([][32]byte, 2) },
		"0 data":             func(t *Trailer) { t.Data = 0; t.Digests = make([][32]byte, 1) },
		"few large shards":   func(t *Trailer) { t.ShardSize = 8192 },
		"not a power of two": func(t *Trailer) { t.ShardSize = 5000 },
		"small shards":       func(t *Trailer) { t.ShardSize = 2048 },
		"no shards":          func(t *Trailer) { t.ShardSize = 0 },
		"huge shards":        func(t *Trailer) { t.Data, t.ShardSize = 64, 8<<20; t.Digests = make([][32]byte, 65) },
		"over 256 MiB":       func(t *Trailer) { t.Data, t.ShardSize = 65, 4<<20; t.Digests = make([][32]byte, 66) },
		"digests missing":    func(t *Trailer) { t.Digests = t.Digests[1:] },
		"table of nothing":   func(t *Trailer) { t.TableSize = 0 },
		"odd table":          func(t *Trailer) { t.TableSize = 4097 },
		"table too long":     func(t *Trailer) { t.TableSize = t.Data * t.ShardSize },
		"table of 33 MiB":    func(t *Trailer) { t.TableSize = 33 << 20 },
	} {
		tr := *f.Trailer
		tr.Digests = slices.Clone(tr.Digests)
		change(&tr)
		if err := tr.Validate(); err == nil {
			t.Errorf("%s: valid", name)
		}
		if len(tr.Digests) == tr.Data+tr.Parity { // what Append wants
			if _, err := ParseTrailer(tr.Append(nil)); err == nil {
				t.Errorf("%s: parsed", name)
			}
		}
	}
	raw := f.Trailer.Append(nil)
	raw[8]++
	if _, err := ParseTrailer(raw); !errors.Is(err, crypt.ErrFormat) {
		t.Errorf("format 2: %v", err)
	}
}

// tableOf is the plaintext table of a file and its parts.
func tableOf(t testing.TB, k keys, f *File) (plain []byte, tr *Trailer) {
	t.Helper()
	off := f.Trailer.TableOffset()
	plain, err := k.write.OpenTable(k.repo, k.header, f.Trailer.TableSalt, f.Data[off:off+f.Trailer.TableSize])
	if err != nil {
		t.Fatal(err)
	}
	return plain, f.Trailer
}

func TestTableIsDeterministicCBOR(t *testing.T) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	for _, session := range []int{0, 1, 23, 24, 255, 256, 65535 % (MaxSession + 1), MaxSession} {
		for _, n := range []int{1, 2, 6, 7, 100, 1598, 1599} {
			s, sig := random(1, session), [64]byte(random(2, 64))
			entries := make([]Entry, n)
			var packed []byte
			for i := range entries {
				entries[i] = Entry{ID: crypt.ID(random(uint64(i), 32)), Compression: 1, Length: 100, Raw: 200}
				packed = entries[i].append(packed)
			}
			want, err := mode.Marshal(map[int][]byte{1: s, 2: packed, 3: sig[:]})
			if err != nil {
				t.Fatal(err)
			}
			plain := appendTable([]byte("x"), s, entries, sig)[1:]
			if (len(plain)+crypt.Overhead)%block != 0 || len(plain)+crypt.Overhead != tableSize(session, n) {
				t.Fatalf("table of %d bytes", len(plain))
			}
			l := binary.LittleEndian.Uint32(plain)
			if !bytes.Equal(plain[4:4+l], want) || !allZero(plain[4+l:]) {
				t.Fatalf("session of %d, %d entries: not the library's encoding", session, n)
			}
		}
	}
}

func TestTableIsStrict(t *testing.T) {
	k, f := small(t, ShardBLAKE3)
	plain, tr := tableOf(t, k, f)
	good, err := ParseTable(plain, tr)
	if err != nil {
		t.Fatal(err)
	}
	// Any bit: refused, or other bytes signed than before, or another signature.
	digest := SignedDigest(tr.Header, good.Session, good.Entries)
	for i := range plain {
		for bit := range 8 {
			if raceEnabled && bit != i%8 {
				continue
			}
			plain[i] ^= 1 << bit
			tab, err := ParseTable(plain, tr)
			if err == nil && tab.Signature == good.Signature && SignedDigest(tr.Header, tab.Session, tab.Entries) == digest {
				t.Fatalf("byte %d bit %d is not seen", i, bit)
			}
			plain[i] ^= 1 << bit
		}
	}
	e := good.Entries
	for name, entries := range map[string][]Entry{
		"none":            {},
		"twice":           {e[0], e[0]},
		"zero ID":         {{Length: 100, Raw: 72}, e[1]},
		"raw 0":           {{ID: e[0].ID, Length: 28}, e[1]},
		"raw over 16 MiB": {{ID: e[0].ID, Compression: 1, Length: 100, Raw: MaxRaw + 1}, e[1]},
		"length 2^32-1":   {{ID: e[0].ID, Compression: 1, Length: 1<<32 - 1, Raw: MaxRaw}, e[1]},
		"beyond the part": {{ID: e[0].ID, Length: 1<<20 + 28, Raw: 1 << 20}, e[1]},
		"shorter":         {{ID: e[0].ID, Length: e[0].Raw + 27, Raw: e[0].Raw}, e[1]},
		"compression 5":   {{ID: e[0].ID, Compression: 5, Length: e[0].Length, Raw: e[0].Raw}, e[1]},
		"longer than raw": {{ID: e[0].ID, Compression: 1, Length: e[0].Raw + 28, Raw: e[0].Raw}, e[1]},
		"sealed nothing":  {{ID: e[0].ID, Compression: 1, Length: 28, Raw: e[0].Raw}, e[1]},
		"other geometry":  {{ID: e[0].ID, Length: 4128, Raw: 4100}, e[1]},
	} {
		if _, err := ParseTable(appendTable(nil, good.Session, entries, good.Signature), tr); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := ParseTable(appendTable(nil, make([]byte, MaxSession+1), e, good.Signature), tr); err == nil {
		t.Error("long session: accepted")
	}
	for n := range plain {
		if _, err := ParseTable(plain[:n], tr); err == nil {
			t.Fatalf("the first %d bytes parse", n)
		}
	}
	if _, err := ParseTable(append(plain, make([]byte, block)...), tr); err == nil {
		t.Error("longer than the trailer says: accepted")
	}
	// Padding of a block more than needed, though trailer and geometry agree: not the one form.
	longer := *tr
	longer.TableSize += block
	longer.Data++
	if _, err := ParseTable(append(plain, make([]byte, block)...), &longer); err == nil {
		t.Error("a block of padding too many: accepted")
	}
	// Heads longer than need be, of other types, other keys: see cutString.
	for _, b := range [][]byte{{}, {1}, {1, 0x41}, {2, 0x40}, {1, 0x58, 1, 0}, {1, 0x59, 0, 1, 0}, {1, 0x5f, 0x40, 0xff}, {1, 0x61, 'a'}, {1, 0x1b, 0, 0, 0, 0, 0, 0, 0, 0},
		{1, 0x5a, 0xff, 0xff, 0xff, 0xff, 0}, {1, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		if _, _, err := cutString(b, 1, 1<<20); err == nil {
			t.Errorf("%x accepted", b)
		}
	}
}

func FuzzTrailer(f *testing.F) {
	for _, v := range vectors {
		b := readVector(f, v.name)
		f.Add(b[len(b)-block:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := ParseTrailer(b)
		if err != nil {
			return
		}
		if !bytes.HasSuffix(b, tr.Append(nil)) {
			t.Fatal("parsed and encoded again it differs")
		}
		if n := tr.FileSize(); n > MaxFile || tr.TableOffset() < 0 || tr.TrailerOffsets()[1]+tr.size() != n || tr.ShardOffset(0) != 0 {
			t.Fatalf("%+v", tr)
		}
	})
}

func FuzzTable(f *testing.F) {
	var tr *Trailer
	for _, v := range vectors {
		var plain []byte
		var err error
		if tr, err = ParseTrailer(readVector(f, v.name)); err != nil {
			f.Fatal(err)
		}
		plain, tr = tableOf(f, newKeys(f, v.kind, v.variant), &File{Data: readVector(f, v.name), Trailer: tr})
		f.Add(plain[:4+binary.LittleEndian.Uint32(plain)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 20000 {
			return
		}
		// Most of a table is padding; the fuzzer should not have to make it.
		padded := append(bytes.Clone(b), make([]byte, roundUp(len(b)+crypt.Overhead)-crypt.Overhead-len(b))...)
		tr := *tr
		tr.TableSize = len(padded) + crypt.Overhead
		tr.Data = 2 + tr.TableSize/block
		tab, err := ParseTable(padded, &tr)
		if err != nil {
			return
		}
		end := uint32(crypt.HeaderSize)
		for _, e := range tab.Entries {
			if e.Offset != end || e.check() != nil {
				t.Fatalf("%+v", e)
			}
			end += e.Length
		}
		if int(end) > tr.TableOffset() || !bytes.Equal(appendTable(nil, tab.Session, tab.Entries, tab.Signature), padded) {
			t.Fatal("parsed and encoded again it differs")
		}
	})
}
