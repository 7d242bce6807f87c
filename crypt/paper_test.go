package crypt

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"testing"
	"time"

	"packhold/crypt/canon"
)

func paperBundle(t testing.TB) *Bundle {
	t.Helper()
	return &Bundle{Writes: map[uint32]WriteSecret{0: fixed(1), 1<<32 - 1: testW}, Chunker: fixed(3), Root: testRoot(), Identity: testIdentity(t, 2),
		Read: map[uint32]*ReadPrivate{1<<32 - 1: testReadKey(t, 1<<32-1), 7: testReadKey(t, 7)}}
}

// paperParameters are those of SealPaper at the floor of the iterations.
func paperParameters() *paperForm {
	return &paperForm{KDF: kdfPBKDF2, Iterations: MinIterations, Repo: testRepo}
}

func TestPaper(t *testing.T) {
	slow(t)
	b := paperBundle(t)
	object, err := sealPaper([]byte(testPassphrase), paperParameters(), testRoot().Public(), b)
	if err != nil {
		t.Fatal(err)
	}
	got, root, err := OpenPaper([]byte(testPassphrase), testRepo, object)
	if err != nil || !root.Equal(testRoot().Public()) || len(got.Writes) != 2 || got.Writes[1<<32-1] != testW || got.Chunker != b.Chunker ||
		!got.Root.key.Equal(b.Root.key) || got.Root.Repo != testRepo || got.Identity.Host != b.Identity.Host || len(got.Read) != 2 {
		t.Fatal(err)
	}
	// The key that is made again from its primes unwraps, and can be stored in a bundle.
	key, record := testSession(t, 1, 7)
	form, err := got.Read[7].Form()
	if err != nil {
		t.Fatal(err)
	}
	stored, err := form.Private()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*ReadPrivate{got.Read[7], stored} {
		if unwrapped, err := k.Unwrap(testRepo, record); err != nil || unwrapped != key {
			t.Error("the exported read key does not unwrap", err)
		}
	}
	for _, p := range []string{"", "short", testPassphrase + "\n"} {
		if _, _, err := OpenPaper([]byte(p), testRepo, object); !errors.Is(err, ErrPassphrase) {
			t.Errorf("with %q: %v", p, err)
		}
	}
	if _, _, err := OpenPaper([]byte(testPassphrase), RepoID{}, object); !errors.Is(err, ErrOpen) {
		t.Errorf("in another repository: %v", err)
	}
	reader := &Bundle{Writes: map[uint32]WriteSecret{1: testW}}
	if object, err = sealPaper([]byte(testPassphrase), paperParameters(), testRoot().Public(), reader); err != nil {
		t.Fatal(err)
	}
	if got, _, err := OpenPaper([]byte(testPassphrase), testRepo, object); err != nil || got.Root != nil || got.Identity != nil || len(got.Read) != 0 {
		t.Errorf("a reader's: %v", err)
	}
}

func TestSealPaperRefused(t *testing.T) {
	if _, err := SealPaper([]byte("thirteen byte"), testRepo, testRoot().Public(), paperBundle(t)); !errors.Is(err, ErrPolicy) {
		t.Errorf("a short passphrase: %v", err)
	}
	for what, change := range map[string]func(*Bundle){
		"no read key":             func(b *Bundle) { b.Read[9] = nil },
		"read key of other epoch": func(b *Bundle) { b.Read[9] = testReadKey(t, 8) },
		"other repository":        func(b *Bundle) { b.Root = &Root{key: testRoot().key} },
		"other root":              func(b *Bundle) { b.Root = &Root{Repo: testRepo, key: testIdentity(t, 1).Sign} },
	} {
		b := paperBundle(t)
		change(b)
		if _, err := sealPaper([]byte(testPassphrase), paperParameters(), testRoot().Public(), b); err == nil {
			t.Errorf("%s was exported", what)
		}
	}
}

func TestPaperPolicy(t *testing.T) {
	for what, change := range map[string]func(*paperForm){
		"1": func(f *paperForm) { f.Iterations = 1 }, "0": func(f *paperForm) { f.Iterations = 0 }, "99,999": func(f *paperForm) { f.Iterations = MinIterations - 1 },
		"10,000,001": func(f *paperForm) { f.Iterations = MaxIterations + 1 }, "2^31": func(f *paperForm) { f.Iterations = 1 << 31 },
		"2^63": func(f *paperForm) { f.Iterations = 1 << 63 }, "other KDF": func(f *paperForm) { f.KDF = 2 }, "no salt": func(f *paperForm) { f.Salt = nil },
	} {
		f := paperParameters()
		f.Salt = make([]byte, 32)
		change(f)
		took := time.Hour
		for range 3 {
			start := time.Now()
			_, _, err := OpenPaper([]byte(testPassphrase), testRepo, canon.Marshal(f))
			took = min(took, time.Since(start))
			if !errors.Is(err, ErrPolicy) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if took > 10*time.Millisecond {
			t.Errorf("%s was refused only after %v", what, took)
		}
	}
	if _, _, err := OpenPaper([]byte(testPassphrase), testRepo, make([]byte, maxPaper+1)); err == nil {
		t.Error("an exported key over the limit was accepted")
	}
}

// TestPaperFlips changes every bit under the keys that the unchanged parameters give. Changed parameters give other keys.
func TestPaperFlips(t *testing.T) {
	object, err := sealPaper([]byte(testPassphrase), paperParameters(), testRoot().Public(), &Bundle{Writes: map[uint32]WriteSecret{1: testW}, Root: testRoot()})
	if err != nil {
		t.Fatal(err)
	}
	var f paperForm
	if err := canon.Unmarshal(object, &f); err != nil {
		t.Fatal(err)
	}
	seal, commit, err := f.stretch([]byte(testPassphrase))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.open(seal, commit); err != nil {
		t.Fatal(err)
	}
	flips(object, 1, func(bit int, b []byte) {
		var f paperForm
		if canon.Unmarshal(b, &f) != nil {
			return
		}
		if _, _, err := f.open(seal, commit); !errors.Is(err, ErrOpen) && !errors.Is(err, ErrPassphrase) {
			t.Errorf("bit %d: %v", bit, err)
		}
	})
	cuts(object, func(b []byte) {
		if _, _, err := OpenPaper([]byte(testPassphrase), testRepo, b); err == nil {
			t.Errorf("%d bytes were accepted", len(b))
		}
	})
	moved := f
	moved.Salt = bytes.Clone(f.Salt)
	moved.Salt[0] ^= 1
	if _, _, err := OpenPaper([]byte(testPassphrase), testRepo, canon.Marshal(moved)); !errors.Is(err, ErrPassphrase) {
		t.Errorf("other salt: %v", err)
	}
}

// TestPaperForms gives payloads that only a holder of the passphrase can make.
func TestPaperForms(t *testing.T) {
	seal, commit := fixed(1), fixed(2)
	root := testRoot()
	primes := testReadKey(t, 1).RSA.Primes
	p, q, h := primes[0].Bytes(), primes[1].Bytes(), make([]byte, 32)
	open := func(payload []byte) error {
		f := paperParameters()
		f.Commit = commit[:]
		a, err := newGCM(seal[:])
		if err != nil {
			t.Fatal(err)
		}
		f.Sealed = a.Seal(nil, nil, payload, f.aad())
		_, _, err = f.open(seal[:], commit[:])
		return err
	}
	good := paperPayload{Public: root.Public(), Writes: []writeForm{{1, testW}}, Read: []paperRead{{Epoch: 1, P: p, Q: q, HPKE: h}}}
	if err := open(canon.Marshal(good)); err != nil {
		t.Fatal(err)
	}
	composite := bytes.Clone(p)
	composite[255] ^= 2
	for what, c := range map[string]struct {
		change func(*paperPayload)
		want   error
	}{
		"no root":             {func(p *paperPayload) { p.Public = nil }, ErrOpen},
		"short seed":          {func(p *paperPayload) { p.Root = make([]byte, 31) }, ErrOpen},
		"another root's seed": {func(p *paperPayload) { p.Root = make([]byte, ed25519.SeedSize) }, ErrSignature},
		"double write epoch":  {func(p *paperPayload) { p.Writes = []writeForm{{1, testW}, {1, testW}} }, ErrOpen},
		"double read epoch":   {func(p *paperPayload) { p.Read = append(p.Read, p.Read[0]) }, ErrOpen},
		"no primes":           {func(f *paperPayload) { f.Read = []paperRead{{HPKE: h}} }, ErrOpen},
		"long prime":          {func(f *paperPayload) { f.Read = []paperRead{{P: make([]byte, 40_000), Q: q, HPKE: h}} }, ErrOpen},
		"zero prime":          {func(f *paperPayload) { f.Read = []paperRead{{P: make([]byte, 256), Q: q, HPKE: h}} }, ErrOpen},
		"one prime twice":     {func(f *paperPayload) { f.Read = []paperRead{{P: p, Q: p, HPKE: h}} }, ErrOpen},
		"composite":           {func(f *paperPayload) { f.Read = []paperRead{{P: composite, Q: q, HPKE: h}} }, nil},
		"no HPKE key":         {func(f *paperPayload) { f.Read = []paperRead{{P: p, Q: q}} }, nil},
		"bad identity":        {func(f *paperPayload) { f.Identity = []byte{0xa0} }, nil},
	} {
		bad := good
		c.change(&bad)
		if err := open(canon.Marshal(bad)); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := open([]byte("no CBOR")); !errors.Is(err, ErrOpen) {
		t.Error(err)
	}
}

// TestPaperSize holds the promise that an exported key can be printed, and that one of many epochs is refused at once.
func TestPaperSize(t *testing.T) {
	slow(t)
	k := testReadKey(t, 0)
	b := &Bundle{Writes: map[uint32]WriteSecret{0: testW}, Read: make(map[uint32]*ReadPrivate), Root: testRoot(), Identity: testIdentity(t, 1)}
	for n, want := range map[uint32]string{1: "", 130: fmt.Sprintf("the limit is %d", maxPaper)} {
		for e := range n {
			b.Read[e] = &ReadPrivate{Epoch: e, RSA: k.RSA, HPKE: k.HPKE}
		}
		object, err := sealPaper([]byte(testPassphrase), paperParameters(), testRoot().Public(), b)
		if want == "" && (err != nil || len(object) > 1200) || want != "" && err == nil {
			t.Errorf("%d read keys: %d bytes, %v", n, len(object), err)
		}
		clear(b.Read)
	}
}

func TestNewSecret(t *testing.T) {
	if a, b := NewSecret(), NewSecret(); a == b || a == ([32]byte{}) {
		t.Error("a secret came twice")
	}
}
