package crypt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"testing"
	"time"
)

func testSession(t testing.TB, host byte, epoch uint32) (SessionKey, *SessionRecord) {
	t.Helper()
	key, r, err := NewSession(testRepo, testIdentity(t, host), testReadKey(t, epoch).Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, r
}

func testTrust(t testing.TB, roles Role, hosts ...byte) *Trust {
	t.Helper()
	trust := &Trust{Repo: testRepo, Roots: []ed25519.PublicKey{testRoot().Public()}}
	for _, h := range hosts {
		trust.Add(testIdentity(t, h).Certificate("host", roles, 1, time.Time{}))
	}
	return trust
}

func TestSession(t *testing.T) {
	read := testReadKey(t, 7)
	key, r := testSession(t, 1, 7)
	if r.Session != NewSessionID(testIdentity(t, 1).Host, [32]byte(r.Nonce)) || r.Epoch != 7 || len(r.RSA) != wrappedSize || len(r.HPKE) != encSize {
		t.Fatalf("record %+v", r)
	}
	b := r.Bytes()
	got, err := ParseSessionRecord(b)
	if err != nil || !bytes.Equal(got.Bytes(), b) {
		t.Fatal(err)
	}
	if unwrapped, err := read.Unwrap(testRepo, got); err != nil || unwrapped != key {
		t.Fatal("Unwrap gives another key", err)
	}
	if err := testTrust(t, RoleWriter, 1).CheckSession(got); err != nil {
		t.Error(err)
	}
	if err := testTrust(t, RoleReader, 1).CheckSession(got); !errors.Is(err, ErrSignature) {
		t.Errorf("a reader opened a session: %v", err)
	}
	if err := testTrust(t, RoleWriter, 2).CheckSession(got); !errors.Is(err, ErrSignature) {
		t.Errorf("an unknown host opened a session: %v", err)
	}
}

func TestSessionFlips(t *testing.T) {
	t.Parallel()
	_, r := testSession(t, 1, 7)
	trust := testTrust(t, RoleWriter, 1)
	check := func(b []byte) error {
		r, err := ParseSessionRecord(b)
		if err != nil {
			return err
		}
		return trust.CheckSession(r)
	}
	b := r.Bytes()
	if err := check(b); err != nil {
		t.Fatal(err)
	}
	flips(b, 1, func(bit int, b []byte) {
		if check(b) == nil {
			t.Errorf("bit %d was accepted", bit)
		}
	})
	cuts(b, func(b []byte) {
		if check(b) == nil {
			t.Errorf("%d bytes were accepted", len(b))
		}
	})
}

// TestSessionForms gives records that are rightly signed and of a wrong form.
func TestSessionForms(t *testing.T) {
	other := testIdentity(t, 2)
	for what, c := range map[string]struct {
		change func(*SessionRecord)
		want   error
	}{
		"another host's nonce": {func(r *SessionRecord) { r.Host = other.Host }, ErrSignature},
		"another nonce":        {func(r *SessionRecord) { r.Nonce[0] ^= 1 }, ErrSignature},
		"another session":      {func(r *SessionRecord) { r.Session[15] ^= 1 }, ErrSignature},
		"no host":              {func(r *SessionRecord) { r.Host = HostID{}; r.Session = NewSessionID(HostID{}, [32]byte(r.Nonce)) }, nil},
		"short nonce":          {func(r *SessionRecord) { r.Nonce = r.Nonce[:31] }, nil},
		"no commitment":        {func(r *SessionRecord) { r.Commit = nil }, nil},
		"short RSA":            {func(r *SessionRecord) { r.RSA = r.RSA[1:] }, nil},
		"long HPKE":            {func(r *SessionRecord) { r.HPKE = append(r.HPKE, 0) }, nil},
		"wrap 0":               {func(r *SessionRecord) { r.Wrap = 0 }, ErrPolicy},
		"wrap 2":               {func(r *SessionRecord) { r.Wrap = 2 }, ErrPolicy},
		"short signature":      {func(r *SessionRecord) { r.Sig = r.Sig[:63] }, nil},
	} {
		_, r := testSession(t, 1, 7)
		c.change(r)
		if len(r.Sig) == 64 {
			r.Sig = Sign(other.Sign, TypeSession, testRepo, r.Session.String(), r.unsigned())
		}
		if _, err := ParseSessionRecord(r.Bytes()); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("parsing, %s: %v", what, err)
		}
		if err := testTrust(t, RoleWriter, 1, 2).CheckSession(r); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("checking, %s: %v", what, err)
		}
	}
	if _, err := ParseSessionRecord(make([]byte, maxSessionRecord+1)); err == nil {
		t.Error("a record over the limit was accepted")
	}
}

// TestUnwrapRefused checks that whatever is wrong, the error is one and the same.
func TestUnwrapRefused(t *testing.T) {
	read := testReadKey(t, 7)
	_, r := testSession(t, 1, 7)
	_, other := testSession(t, 1, 7)
	want := ""
	for what, change := range map[string]func(r *SessionRecord){
		"RSA of another session":  func(r *SessionRecord) { r.RSA = other.RSA },
		"HPKE of another session": func(r *SessionRecord) { r.HPKE = other.HPKE },
		"both of another session": func(r *SessionRecord) { r.RSA, r.HPKE, r.Commit = other.RSA, other.HPKE, other.Commit },
		"commitment":              func(r *SessionRecord) { r.Commit = other.Commit },
		"no commitment":           func(r *SessionRecord) { r.Commit = nil },
		"RSA changed":             func(r *SessionRecord) { r.RSA = bytes.Clone(r.RSA); r.RSA[511] ^= 1 },
		"RSA too large":           func(r *SessionRecord) { r.RSA = bytes.Repeat([]byte{0xff}, 512) },
		"RSA zero":                func(r *SessionRecord) { r.RSA = make([]byte, 512) },
		"RSA empty":               func(r *SessionRecord) { r.RSA = nil },
		"HPKE lattice changed":    func(r *SessionRecord) { r.HPKE = bytes.Clone(r.HPKE); r.HPKE[0] ^= 1 },
		"HPKE point changed":      func(r *SessionRecord) { r.HPKE = bytes.Clone(r.HPKE); r.HPKE[1152] ^= 1 },
		"HPKE empty":              func(r *SessionRecord) { r.HPKE = nil },
		"both empty":              func(r *SessionRecord) { r.RSA, r.HPKE = nil, nil },
		"epoch":                   func(r *SessionRecord) { r.Epoch++ },
		"wrap":                    func(r *SessionRecord) { r.Wrap++ },
		"short k1": func(r *SessionRecord) {
			k1, info := make([]byte, 31), sessionInfo(testRepo, r.Session, r.Epoch)
			var err error
			if r.RSA, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &read.RSA.PublicKey, k1, info); err != nil {
				t.Fatal(err)
			}
			var k2 []byte
			if r.HPKE, k2, err = send(read.HPKE.PublicKey(), info, "packhold/1/session"); err != nil {
				t.Fatal(err)
			}
			if _, r.Commit, err = combine(k1, k2, testRepo, r.Session); err != nil {
				t.Fatal(err)
			}
		},
	} {
		c := *r
		change(&c)
		key, err := read.Unwrap(testRepo, &c)
		if !errors.Is(err, ErrOpen) || key != (SessionKey{}) {
			t.Fatalf("%s: %v", what, err)
		}
		if want == "" {
			want = err.Error()
		}
		if err.Error() != want {
			t.Errorf("%s: the error is %q, of others %q", what, err, want)
		}
	}
	if _, err := read.Unwrap(RepoID{}, r); !errors.Is(err, ErrOpen) {
		t.Errorf("other repository: %v", err)
	}
	if _, err := testReadKey(t, 8).Unwrap(testRepo, r); !errors.Is(err, ErrOpen) {
		t.Errorf("other epoch: %v", err)
	}
	// The same key pair under another epoch: the label binds the epoch, whatever the record says.
	moved := *r
	moved.Epoch = 8
	if _, err := testReadKey(t, 8).Unwrap(testRepo, &moved); !errors.Is(err, ErrOpen) {
		t.Errorf("moved epoch: %v", err)
	}
}

func TestReadKeyForms(t *testing.T) {
	read := testReadKey(t, 7)
	private, err := read.Form()
	if err != nil {
		t.Fatal(err)
	}
	public, err := read.Public().Form()
	if err != nil {
		t.Fatal(err)
	}
	if k, err := public.Public(); err != nil || k.Epoch != 7 || !k.RSA.Equal(&read.RSA.PublicKey) || !bytes.Equal(k.HPKE.Bytes(), read.HPKE.PublicKey().Bytes()) {
		t.Fatal(err)
	}
	if k, err := private.Private(); err != nil || !k.RSA.Equal(read.RSA) {
		t.Fatal(err)
	}
	form := func(n *big.Int, e int) []byte {
		b, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: e})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	n := read.RSA.N
	of := func(bits int) *big.Int { return new(big.Int).Rsh(n, uint(4096-bits)) }
	factor := func(p int64) *big.Int { // the multiple of p next below n
		return new(big.Int).Mul(new(big.Int).Div(n, big.NewInt(p)), big.NewInt(p))
	}
	ed, err := x509.MarshalPKIXPublicKey(testIdentity(t, 1).Sign.Public())
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		wrap uint8
		rsa  []byte
		want error
	}{
		"wrap 0":        {0, public.RSA, ErrPolicy},
		"wrap 2":        {2, public.RSA, ErrPolicy},
		"exponent 1":    {1, form(n, 1), ErrPolicy},
		"exponent 2":    {1, form(n, 2), ErrPolicy},
		"exponent 3":    {1, form(n, 3), ErrPolicy},
		"exponent more": {1, form(n, 65539), ErrPolicy},
		"1024 bits":     {1, form(of(1024), 65537), ErrPolicy},
		"2048 bits":     {1, form(of(2048), 65537), ErrPolicy},
		"4095 bits":     {1, form(of(4095), 65537), ErrPolicy},
		"8192 bits":     {1, form(new(big.Int).Mul(n, n), 65537), ErrPolicy},
		"a million":     {1, form(new(big.Int).Lsh(n, 1_000_000), 65537), ErrPolicy},
		"even":          {1, form(factor(2), 65537), ErrPolicy},
		"factor 3":      {1, form(factor(3), 65537), ErrPolicy},
		"factor 751":    {1, form(factor(751), 65537), ErrPolicy},
		"Ed25519":       {1, ed, ErrPolicy},
		"private":       {1, private.RSA, ErrPolicy},
		"empty":         {1, nil, nil},
		"trailing":      {1, append(bytes.Clone(public.RSA), 0), nil},
	} {
		if _, err := (ReadKeyForm{7, c.wrap, c.rsa, public.HPKE}).Public(); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("public, %s: %v", what, err)
		}
	}
	if _, err := (ReadKeyForm{7, 1, public.RSA, public.HPKE[1:]}).Public(); err == nil {
		t.Error("a short HPKE key was accepted")
	}
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	smallDER, err := x509.MarshalPKCS8PrivateKey(small)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		wrap uint8
		rsa  []byte
		want error
	}{
		"wrap 2":    {2, private.RSA, ErrPolicy},
		"2048 bits": {1, smallDER, ErrPolicy},
		"long":      {1, make([]byte, maxPrivateRSA+1), ErrPolicy},
		"public":    {1, public.RSA, nil},
		"trailing":  {1, append(bytes.Clone(private.RSA), 0), nil},
		"empty":     {1, nil, nil},
	} {
		if _, err := (ReadKeyForm{7, c.wrap, c.rsa, private.HPKE}).Private(); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("private, %s: %v", what, err)
		}
	}
	if _, _, err := NewSession(testRepo, testIdentity(t, 1), &ReadPublic{RSA: &small.PublicKey, HPKE: read.HPKE.PublicKey()}); !errors.Is(err, ErrPolicy) {
		t.Errorf("a session for a key of 2,048 bits: %v", err)
	}
}
