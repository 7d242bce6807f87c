package crypt

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"
)

func TestText(t *testing.T) {
	k := testReadKey(t, 3)
	for _, text := range [][]byte{nil, []byte("root"), bytes.Repeat([]byte("long "), 1000)} {
		sealed, err := k.Public().SealText(testRepo, "audit/x/7", text)
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed) != 32+encSize+Overhead+len(text) {
			t.Errorf("%d bytes are sealed in %d", len(text), len(sealed))
		}
		if len(text) > 0 && bytes.Contains(sealed, text) {
			t.Error("the text is in clear")
		}
		got, err := k.OpenText(testRepo, "audit/x/7", sealed)
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("opened as %.20q, %v", got, err)
		}
		again, err := k.Public().SealText(testRepo, "audit/x/7", text)
		if err != nil || bytes.Equal(again[:32], sealed[:32]) || bytes.Equal(again[32:32+encSize], sealed[32:32+encSize]) || bytes.Equal(again[32+encSize:], sealed[32+encSize:]) {
			t.Errorf("the same text is sealed alike: %v", err)
		}
	}
}

func TestTextElsewhere(t *testing.T) {
	k := testReadKey(t, 3)
	sealed, err := k.Public().SealText(testRepo, "audit/x/7", []byte("root"))
	if err != nil {
		t.Fatal(err)
	}
	other := testRepo
	other[15] ^= 1
	later := testReadKey(t, 4) // the same key by another number
	stranger := testReadKey(t, 3)
	stranger.HPKE = fixedKEM(t, 0x53)
	open := func(what string, k *ReadPrivate, repo RepoID, about string) {
		t.Helper()
		if text, err := k.OpenText(repo, about, sealed); !errors.Is(err, ErrOpen) || text != nil {
			t.Errorf("%s: %q, %v", what, text, err)
		}
	}
	open("another repository", k, other, "audit/x/7")
	open("another epoch", later, testRepo, "audit/x/7")
	open("another key", stranger, testRepo, "audit/x/7")
	for _, about := range []string{"", "audit/x/", "audit/x/8", "audit/x/70", "audit/y/7"} {
		open(about, k, testRepo, about)
	}
	// A bundle or grant that is sealed to the same key is no text, nor the other way round.
	b, err := sealTo(k.HPKE.PublicKey(), []byte("audit/x/7"), []byte("root"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.OpenText(testRepo, "audit/x/7", b); !errors.Is(err, ErrOpen) {
		t.Errorf("sealed as something else: %v", err)
	}
}

// TestTextChanged flips every bit of a sealed text, and cuts it. ML-KEM opens anything to some key, so the tag of the text must show it.
func TestTextChanged(t *testing.T) {
	k := testReadKey(t, 3)
	sealed, err := k.Public().SealText(testRepo, "audit/x/7", []byte("root"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	flips(sealed, 1, func(bit int, changed []byte) {
		n++
		if _, err := k.OpenText(testRepo, "audit/x/7", changed); !errors.Is(err, ErrOpen) {
			t.Errorf("bit %d: %v", bit, err)
		}
	})
	if !raceEnabled && n != 8*len(sealed) {
		t.Errorf("%d bits of %d bytes were flipped", n, len(sealed))
	}
	cuts(sealed, func(changed []byte) {
		if _, err := k.OpenText(testRepo, "audit/x/7", changed); !errors.Is(err, ErrOpen) {
			t.Errorf("%d bytes: %v", len(changed), err)
		}
	})
}

// TestTextVector opens a text that was sealed once.
func TestTextVector(t *testing.T) {
	sealed, err := base64.StdEncoding.DecodeString(textVector)
	if err != nil {
		t.Fatal(err)
	}
	text, err := testReadKey(t, 3).OpenText(testRepo, "audit/efcec99cdbe5d3f2275baa1f929ea750/7", sealed)
	if want := `{"user":"root"}`; err != nil || string(text) != want {
		t.Errorf("opened as %q, %v, want %q", text, err, want)
	}
}

// textVector is the base64 of a sealed text; line feeds do not matter.
const textVector = `l5NoDd7wOtHwUIf8LFixUobv7ITm8x6t1MsDrrXfyNqGOd7D8mTT76m+iv0lGVU4UFKRyOFYrGhzC6+P35EMN+rd2iFeEIYVMbGzqAYBP/y/rJCJMvGmmQkZ4EkDXLCOxiU+KQaCIgy0
Sz3QiVMU8HB3z3weQnozLZHuAZKsb1/G5A4OCwWUiWVdW3qE8CYtzSx0JC28ynxfaTR9Md0OsxSE8CiTdZjikGMaUzc2Jwx7AJJCeA7hYBea7NRK7C8zkNdfdHs4bgQlWVC7GxwsESk9
T2GUEy6bnQeJozSVLHUrYLoujTpTaQw+NwlfEYpgXCAHHoGP8OA8373TfCiYAz/2A8cggazp6BhsqCIGsGyV7aPOpLjl/rNG6TvZQYXCP6d1PRzCV4FQdxowqhWya6V45BRZjZGtSPTj
exJ2KRx6VQMY2EmLyNyewtuhbp9xB3SbIDNV/JWipshXvkoh/M/3g0w6JxowllXImVl1jrOtZJxl0Qq//bJN4qMk652v4Rzys8XfX2EgM6FdoMgPSIrTsNF4qB/NgDcbmHDrRS98spOL
qO2CH33oRQpIsOaqdj7zcgL+9iNDOHtbWnj/T/tmWcc36tJD66Uf1su8EaajjOXj1219ZdMhd6A4EIrC7JuZrHI1fYAZq6uE6yERwsP9xkRdOygyh1vixpkZ46ZSp/7YTqShv6w/cNcE
ghEkiDV4vUBS5LYSulN4ShP2p7Weo02xJWAmc4cH0YSCxZmqT5pCF5EF/3vtK/4DHIsd9ykMaaCg70fsmr0o4I4xw5jKMmoktlPC4sJ5TVKeXoUkuxL7vGhHWnpflGA45kGzUGMUOMWI
1kE8IDa0VWLcipgmys7Kz4PK4s8Ct5sySjKVXYzjZBfkFE3gE7yyiavb2hGPb2TmA+6z2CkWFyL5AWH7kei2gVUPeEykhTXwIiylCWQzLKpPHIIH5JQV5aF+S/44352nYqsductW2jtR
FdEF/ZN3pPJU/eY0PDdskpsMug5xYF/42n7s+NUz15S5P3bRxgH3bUcHesN7j0mHFlVwLH+0loadStD0x0iR5C1vQbv6nJO2nkk/w4Sn/EyGSl65WAwDUhdesXnKyDh8EfuldK1d9eej
SiR2cr5b7sXYUI5aGZZjiipysmfcE27Nnr41fN9mNjO8rLfEZKWkivndwZSgO3IwX0m86okTof9SFji+Ol+FzwqWjoVsbHT3SvQhPLM8Boj0IBYcpSQPAYmPiRTnYCDsTQvWLXUSFUZD
n+6LcCfUBD5dalDEjXNXJLtqxfmsAToBaKAVYbT1WBUkSvRDtc2mURoZ1TRWI21Gdb/XjyfAo5CvtL1OoANPuMhE2X4klbWSbG3A4a4oUdfC5RCOvW28xoa5sZjiD3jEqiDNd7k5zqUW
V+E0jjKt9DpSzxZja6AqxnOXINxXdW0xEz/Hq1XYSW7FZs+kpR0JE6Hfhvkddai2JsSa5UeoaVZ3HMC45OUdTqsHk+hWOgQbEpgtGcqaBpy2eoGNjXEMoEcEl2njbFkgl8dTiILADk2H
enAIOrOJYSNym20+iYbuS1/7hgs1w8sE4rINK6g+g9If1Eq9sfnJfHMajfiiTDKyEYzPBMosWh7EE4KN1PBmu3VuFRjR9ge3eg==`
