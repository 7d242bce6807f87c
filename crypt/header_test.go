package crypt

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestID(t *testing.T) {
	id := Sum([]byte("abc"))
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2, appendix B.1
	if id.String() != want {
		t.Fatalf("Sum(abc) = %v", id)
	}
	if got, err := ParseID(want); err != nil || got != id {
		t.Fatalf("ParseID = %v, %v", got, err)
	}
	if id.IsZero() || !(ID{}).IsZero() {
		t.Error("IsZero is wrong")
	}
	for _, s := range []string{"", want[:63], want + "0", strings.ToUpper(want), want[:63] + "g", want[:63] + " ", "0x" + want[:62], want[:62] + "é"} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("ParseID(%q) was accepted", s)
		}
	}
}

func TestHeader(t *testing.T) {
	for typ := TypeDataPack; int(typ) < len(typeNames); typ++ {
		h := Header{Type: typ, Variant: 2, Epoch: 0xfffefdfc, Salt: fixed(9)}
		b := h.Append(nil)
		if len(b) != HeaderSize {
			t.Fatalf("%d bytes", len(b))
		}
		if got, err := ParseHeader(append(b, 1, 2, 3)); err != nil || got != h {
			t.Errorf("ParseHeader = %v, %v, want %v", got, err, h)
		}
	}
	good := Header{Type: TypeIndex}.Append(nil)
	for _, c := range []struct {
		at     int
		to     byte
		format bool
	}{{0, 'p', false}, {7, 0, false}, {8, 0, true}, {8, 2, true}, {8, 255, true}, {9, 0, false}, {9, byte(len(typeNames)), false}, {9, 255, false}, {11, 1, false}} {
		b := bytes.Clone(good)
		b[c.at] = c.to
		if _, err := ParseHeader(b); err == nil || errors.Is(err, ErrFormat) != c.format {
			t.Errorf("byte %d = %d: %v", c.at, c.to, err)
		}
	}
	for n := range HeaderSize {
		if _, err := ParseHeader(good[:n]); err == nil {
			t.Errorf("%d bytes were accepted", n)
		}
	}
}

// TestTypeNames holds the names and numbers of format 1: they stand in every signature.
func TestTypeNames(t *testing.T) {
	want := "data-pack tree-pack settings roots key-slot bundle host grant group index snapshot lease condemned condemned-leases " +
		"condemned-final forgotten mark verified audit-tile audit-checkpoint pack-table snapshot-body session config set receipt"
	if got := strings.TrimSpace(strings.Join(typeNames[:], " ")); got != want {
		t.Errorf("names are %s", got)
	}
	if TypeConfig != 24 || TypeReceipt != 26 || int(TypeReceipt) != len(typeNames)-1 || TypePackTable != 21 || TypeIndex != 10 {
		t.Error("type numbers have moved")
	}
	if Type(0).String() != "type-0" || Type(200).String() != "type-200" {
		t.Error("unknown types have names")
	}
}
