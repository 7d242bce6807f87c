package crypt

import (
	"bytes"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"packhold/crypt/canon"
)

func TestSlot(t *testing.T) {
	r := testRoot()
	object, made, err := r.NewSlot([]byte(testPassphrase), MinIterations, "escrow", testW, 3)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSlot(object)
	if err != nil || s.ID != made.ID || s.Iterations() != MinIterations {
		t.Fatal(err)
	}
	if err := s.CheckSigned(r.Public(), testRepo); err != nil {
		t.Error(err)
	}
	if label, err := s.Label(testRepo, map[uint32]WriteSecret{3: testW}); err != nil || label != "escrow" {
		t.Errorf("Label = %q, %v", label, err)
	}
	for what, ws := range map[string]map[uint32]WriteSecret{"no W": nil, "other epoch": {2: testW}, "other W": {3: {}}} {
		if _, err := s.Label(testRepo, ws); !errors.Is(err, ErrOpen) {
			t.Errorf("Label with %s: %v", what, err)
		}
	}
	o, err := s.Open([]byte(testPassphrase), testRepo)
	if err != nil || !o.Root.Equal(r.Public()) || !bytes.Equal(o.Private.PublicKey().Bytes(), s.Public.Bytes()) || o.Repo != testRepo || o.Slot != s {
		t.Fatal(err)
	}
	for _, p := range []string{"", "short", testPassphrase + "\n"} {
		if _, err := s.Open([]byte(p), testRepo); !errors.Is(err, ErrPassphrase) {
			t.Errorf("Open with %q: %v", p, err)
		}
	}
	if _, err := s.Open([]byte(testPassphrase), RepoID{}); !errors.Is(err, ErrOpen) {
		t.Errorf("Open in another repository: %v", err)
	}
	if err := s.CheckSigned((&Root{key: testIdentity(t, 1).Sign}).Public(), testRepo); !errors.Is(err, ErrSignature) {
		t.Errorf("another root: %v", err)
	}
}

func TestNewSlotPolicy(t *testing.T) {
	slow(t)
	r := testRoot()
	for what, c := range map[string]struct {
		passphrase string
		iterations int
	}{
		"empty":        {"", MinIterations},
		"13 bytes":     {"thirteen byte", MinIterations},
		"1 iteration":  {testPassphrase, 1},
		"-1 iteration": {testPassphrase, -1},
		"99,999":       {testPassphrase, MinIterations - 1},
		"10,000,001":   {testPassphrase, MaxIterations + 1},
	} {
		if _, _, err := r.NewSlot([]byte(c.passphrase), c.iterations, "", testW, 0); !errors.Is(err, ErrPolicy) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := r.NewSlot([]byte("fourteen bytes"), MinIterations, strings.Repeat("l", 1024), testW, 0); err != nil {
		t.Errorf("14 bytes: %v", err)
	}
	if _, _, err := r.NewSlot([]byte(testPassphrase), MinIterations, strings.Repeat("l", 1025), testW, 0); err == nil {
		t.Error("a label of 1,025 bytes was accepted")
	}
	if _, s, err := r.NewSlot([]byte(testPassphrase), 0, "", testW, 0); err != nil || s.Iterations() != 600_000 {
		t.Errorf("the default is not 600,000: %v", err)
	}
}

// TestSlotPolicy gives slots that the root signed and that would open, had their parameters been accepted.
func TestSlotPolicy(t *testing.T) {
	r := testRoot()
	weak := func(iterations int) func(*slotForm) {
		return func(f *slotForm) {
			f.Iterations = uint64(iterations)
			kek, err := pbkdf2.Key(sha256.New, testPassphrase, f.Salt, iterations, 32)
			if err != nil {
				t.Fatal(err)
			}
			if f.Commit, err = hkdf.Key(sha256.New, kek, nil, "commit", 32); err != nil {
				t.Fatal(err)
			}
		}
	}
	asks := func(n uint64) func(*slotForm) { return func(f *slotForm) { f.Iterations = n } }
	for what, change := range map[string]func(*slotForm){
		"1": weak(1), "99,999": weak(MinIterations - 1), "0": asks(0), "10,000,001": asks(MaxIterations + 1),
		"2^31": asks(1 << 31), "2^32+600,000": asks(1<<32 + 600_000), "2^63": asks(1 << 63), "2^64-1": asks(1<<64 - 1),
		"other KDF": func(f *slotForm) { f.KDF = 2 }, "no KDF": func(f *slotForm) { f.KDF = 0 },
	} {
		s, err := ParseSlot(testSlot(t, r, change))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		took := time.Hour
		for range 3 { // the best of three, for a busy machine
			start := time.Now()
			_, err = s.Open([]byte(testPassphrase), testRepo)
			took = min(took, time.Since(start))
			if !errors.Is(err, ErrPolicy) || errors.Is(err, ErrPassphrase) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if took > 10*time.Millisecond {
			t.Errorf("%s was refused only after %v", what, took)
		}
	}
	for what, change := range map[string]func(*slotForm){
		"no salt": func(f *slotForm) { f.Salt = nil }, "31 bytes": func(f *slotForm) { f.Salt = f.Salt[:31] }, "33 bytes": func(f *slotForm) { f.Salt = append(f.Salt, 0) },
	} {
		if _, err := ParseSlot(testSlot(t, r, change)); !errors.Is(err, ErrPolicy) {
			t.Errorf("salt of %s: %v", what, err)
		}
	}
}

// TestSlotTampered changes what the passphrase protects, in slots that the commitment still fits.
func TestSlotTampered(t *testing.T) {
	slow(t)
	t.Parallel()
	r := testRoot()
	another, o, err := r.NewSlot([]byte(testPassphrase), MinIterations, "", testW, 3)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		change func(*slotForm)
		want   error
	}{
		"id":               {func(f *slotForm) { f.ID[0] ^= 1 }, ErrOpen},
		"epoch":            {func(f *slotForm) { f.Epoch++ }, ErrOpen},
		"public key":       {func(f *slotForm) { f.Public = o.form.Public }, ErrOpen},
		"payload":          {func(f *slotForm) { f.Sealed[20] ^= 1 }, ErrOpen},
		"payload of other": {func(f *slotForm) { f.Sealed = o.form.Sealed }, ErrOpen},
		"no payload":       {func(f *slotForm) { f.Sealed = nil }, ErrOpen},
		"commitment":       {func(f *slotForm) { f.Commit[0] ^= 1 }, ErrPassphrase},
		"no commitment":    {func(f *slotForm) { f.Commit = nil }, ErrPassphrase},
		"iterations":       {func(f *slotForm) { f.Iterations++ }, ErrPassphrase},
		"salt":             {func(f *slotForm) { f.Salt = bytes.Clone(f.Salt); f.Salt[0] ^= 1 }, ErrPassphrase},
	} {
		s, err := ParseSlot(testSlot(t, r, c.change))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := s.Open([]byte(testPassphrase), testRepo); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A slot that fits the passphrase but that its own root did not sign.
	s, err := ParseSlot(another)
	if err != nil {
		t.Fatal(err)
	}
	s.signed.Sig = bytes.Clone(s.signed.Sig)
	s.signed.Sig[3] ^= 1
	if _, err := s.Open([]byte(testPassphrase), testRepo); !errors.Is(err, ErrSignature) {
		t.Errorf("bad signature: %v", err)
	}
	s.signed.Signer = HostID{1}
	if _, err := s.Open([]byte(testPassphrase), testRepo); !errors.Is(err, ErrSignature) {
		t.Errorf("signed by a host: %v", err)
	}
}

// TestSlotFlips changes every bit; what still parses no longer bears the root's signature.
func TestSlotFlips(t *testing.T) {
	t.Parallel()
	r := testRoot()
	object := testSlot(t, r, nil)
	check := func(b []byte) error {
		s, err := ParseSlot(b)
		if err != nil {
			return err
		}
		return s.CheckSigned(r.Public(), testRepo)
	}
	if err := check(object); err != nil {
		t.Fatal(err)
	}
	flips(object, 1, func(bit int, b []byte) {
		if check(b) == nil {
			t.Errorf("bit %d was accepted", bit)
		}
	})
	cuts(object, func(b []byte) {
		if check(b) == nil {
			t.Errorf("%d bytes were accepted", len(b))
		}
	})
	if check(make([]byte, maxSlot+1)) == nil {
		t.Error("a slot over the limit was accepted")
	}
	// Every other type in its header, and a body that is a slot signed as every other type.
	s, err := ParseSigned(object[HeaderSize:])
	if err != nil {
		t.Fatal(err)
	}
	var f slotForm
	if err := canon.Unmarshal(s.Body, &f); err != nil {
		t.Fatal(err)
	}
	for _, typ := range allTypes() {
		if typ == TypeKeySlot {
			continue
		}
		b := bytes.Clone(object)
		b[9] = byte(typ)
		if check(b) == nil {
			t.Errorf("a slot with the header of a %v was accepted", typ)
		}
		if check(append(object[:HeaderSize:HeaderSize], r.Sign(typ, f.ID.String(), s.Body)...)) == nil {
			t.Errorf("a slot signed as %v was accepted", typ)
		}
	}
}
