package crypt

import (
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/pem"
	"os"
	"sync"
	"testing"

	"packhold/crypt/canon"
)

// testRSA is testdata/test-rsa.pem, a key that protects nothing: drawing one takes seconds.
var testRSA = sync.OnceValues(func() ([]byte, error) {
	b, err := os.ReadFile("testdata/test-rsa.pem")
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	return block.Bytes, nil
})

// fixed returns 32 bytes that are all c.
func fixed(c byte) (b [32]byte) {
	for i := range b {
		b[i] = c
	}
	return b
}

func fixedKEM(t testing.TB, c byte) hpke.PrivateKey {
	t.Helper()
	seed := fixed(c)
	k, err := kem().NewPrivateKey(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testReadKey(t testing.TB, epoch uint32) *ReadPrivate {
	t.Helper()
	der, err := testRSA()
	if err != nil {
		t.Fatal(err)
	}
	seed := fixed(0x52)
	k, err := ReadKeyForm{Epoch: epoch, Wrap: WrapRSAHPKE, RSA: der, HPKE: seed[:]}.Private()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func testIdentity(t testing.TB, c byte) *Identity {
	t.Helper()
	seed := fixed(c)
	return &Identity{Host: HostID(seed[:16]), Sign: ed25519.NewKeyFromSeed(seed[:]), HPKE: fixedKEM(t, c)}
}

func testRoot() *Root {
	seed := fixed(0x70)
	return &Root{Repo: testRepo, key: ed25519.NewKeyFromSeed(seed[:])}
}

var (
	testRepo = RepoID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	testW    = WriteSecret(fixed(0x77))
)

const testPassphrase = "correct horse battery staple"

// flips calls f with copies of b that differ in one bit: in every bit of the first 64 and the last 32 bytes, and of the
// rest in every step-th bit (fewer under the race detector). A step of 1 is every bit, one of 9 a bit of nearly every byte.
func flips(b []byte, step int, f func(bit int, changed []byte)) {
	if raceEnabled {
		step *= 51
	}
	c := append([]byte(nil), b...)
	for bit := range 8 * len(c) {
		if i := bit / 8; i < 64 || i >= len(c)-32 || bit%step == 0 {
			c[i] ^= 1 << (bit % 8)
			f(bit, c)
			c[i] ^= 1 << (bit % 8)
		}
	}
}

// slow skips a test of one goroutine that stretches many passphrases under the race detector, which makes that ten times slower.
func slow(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("slow under the race detector, and has one goroutine")
	}
}

// cuts calls f with b shortened to some lengths and lengthened by one byte.
func cuts(b []byte, f func(changed []byte)) {
	for _, n := range []int{0, 1, 8, 12, 47, 48, 49, 59, 60, 75, 76, len(b) / 2, len(b) - 1} {
		if n < len(b) {
			f(b[:n:n])
		}
	}
	f(append(b[:len(b):len(b)], 0))
}

// madeSlot is a slot of testRoot at the floor of the iterations: stretching is what these tests spend their time on.
var madeSlot = sync.OnceValues(func() ([]byte, error) {
	object, _, err := testRoot().NewSlot([]byte(testPassphrase), MinIterations, "escrow", testW, 3)
	return object, err
})

// testSlot is a slot of r, which is testRoot, with changes that a hostile maker could make, rightly signed.
func testSlot(t testing.TB, r *Root, change func(*slotForm)) []byte {
	t.Helper()
	object, err := madeSlot()
	if err != nil {
		t.Fatal(err)
	}
	if change == nil {
		return object
	}
	s, err := ParseSlot(object)
	if err != nil {
		t.Fatal(err)
	}
	change(&s.form)
	h := Header{Type: TypeKeySlot}
	copy(h.Salt[:], s.form.Salt)
	return append(h.Append(nil), r.Sign(TypeKeySlot, s.form.ID.String(), canon.Marshal(s.form))...)
}
