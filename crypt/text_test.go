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
		if len(sealed) != encSize+Overhead+len(text) {
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
		if err != nil || bytes.Equal(again[:encSize], sealed[:encSize]) || bytes.Equal(again[encSize:], sealed[encSize:]) {
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
const textVector = `MZXd2WuPbDenBbeP4WMn4N7IhRoYU54+g3KyxjS0IZjscDhfc6kcdG2Q8hAbNV87eLrmDB3pNSQvCj2+5MREv/eOp3mA8+C+3R4IZ3JPlJ3cgn/jaWrfUhOYzRR5t672tajcyrW95VgI
KgFcSGMwD8skvJdOKu+zc6empJNGh1wMMQeRk5YRvgvoBGKO7zdY6fE3MT5gd2AWK2mFyNGFwEd8URZuNID2mXanBUzbgQS4rDDWOQeeSVTk8B1V4cmujGhrYTuUT79dEq1grbbH5UKT
p+ngTR2pIIwjxcAqncIz0LIAWz+dDPztpNCwDav6f+g4fJsYQzBy7RrERxfLUywUuVhbPpZx3idTAXi2N+DySW8ib1LULHPvHguQJMAtCWMvJ3W+STpb3S6OTTT2KlWqCIKQ6ZXoLVUK
rNRzV96FPI4nE6TAeY1/jFa6mXk+fxBo9Xwc23SEnn/r1HVQ6rxn5jDHzOw7CO/IqulV1wBv618340pWVoVDu6Yz6Wrsmh4CZLWs88Bk49z0qRSneUt9nidC1f5rPf4EpQvH8lwpwUAF
2+Kucb8xTMIYun0uwfihb2sI+5zipmZHrK46ChQdc21zp3oatcakCfj91/p6CL0TSdMXm5567glAejgmKoNBYjyAAypI0Bxtl26BlXSzVHIxhWmqPvhh6UtBpY2WALfCoPfYG9pSvpGe
naCdu8uitvPbjrZocOstFXzEO+OHe+1HyCSW3YfdbkReWj00jYXKDnOzqH8VP/Yv3ny+l54UZBWd3dSg8z/z6xiHoArdPP3wy7q9XEadT7FKVXqVKuV7Y92yCygXr8IChxnXqc3wYD2+
L7JYMdzVuIqPtxWKwz5UTb6UTv8I8KwF+O8IczNieRn+uNcSZUQziKei8ZzhsXrGXCq6/NlUQZxTE4zYM1cF0wIbx90JdfJBgbG2c7NekDB5mN+hP9FY0q0U1ScaT32XdN/23mg7wblR
PtBWEKFj/xXsP45hJjzTLiIqSTdp8WmIAWW4Y+nCkRzyH03DInRwOeeSD+WdzokejjEODWuBCrkZxfYaXyeDoeBKRJchbjt7EOo7q0lPmF40QhNF2D9sXxfVV5p9Y7sw3mSM44Thu7Mi
dL4NJyFQLvP2YMe1pIkZzC4sdeztg0iz0orG6RDCYvPghSxwQsr9h9qzM58sym7oRvF8wsn2oh3of38x08IvBHRmo5jd8vM2gg+jYMD4Q06r0rPAEMf9c1klG8ObMoDmXVDg0OEuSQt9
1lZovhqOGK6+BdZplzN3qMi8g2rVWsDE4kh1uOoTzAGxkexBD98WPDD7bDWqsTt9HS4Pmw5d89x1C/3cHQoUxVd3jybeHLuReB5y1kafvMzyGR+AnQrlLP5228bJlJpT2CbbPcmEljzN
6OQcKvZUlAoYRbRcKFePisOnOZSEcLDlgAvr/LWFawJwTczUuKQEuya+wO8yLgVl469r7vn3akUa44d9Jhj9747dpJnPoAVEtVwr3XHdtWuDcQnfUz7mg07QfEhUHMm2qEeUJP4XQDmJ
ZfDf9FHib6P5TlrsFplawZmPf9c/IS+534HEF3AhGpVPYcjg7cfFLj8=`
