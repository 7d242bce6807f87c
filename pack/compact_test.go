package pack

import (
	"bytes"
	"reflect"
	"testing"
)

func TestCompactIsTheTrailer(t *testing.T) {
	for _, v := range vectors {
		b := readVector(t, v.name)
		tr, err := ParseTrailer(b)
		if err != nil {
			t.Fatal(err)
		}
		short := tr.Compact([]byte("x"))[1:]
		again, err := ParseCompact(short)
		if err != nil || !reflect.DeepEqual(again, tr) || !bytes.HasSuffix(b, again.Append(nil)) {
			t.Fatalf("%s: %+v, %v", v.name, again, err)
		}
		for n := range short {
			if _, err := ParseCompact(short[:n]); err == nil {
				t.Fatalf("%s: the first %d bytes parse", v.name, n)
			}
		}
		for i := range short {
			short[i] ^= 1
			if c, err := ParseCompact(short); err == nil && c.Name() == tr.Name() {
				t.Fatalf("%s: byte %d is not seen", v.name, i)
			}
			short[i] ^= 1
		}
	}
}
