package crypt

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"packhold/crypt/canon"
)

func testCertificate(t testing.TB, c byte, roles Role) *Certificate {
	t.Helper()
	return testIdentity(t, c).Certificate("host", roles, 1, time.Unix(1_700_000_000, 0))
}

func TestIdentity(t *testing.T) {
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	b, err := id.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseIdentity(b)
	if err != nil || got.Host != id.Host || !got.Sign.Equal(id.Sign) || !bytes.Equal(got.HPKE.PublicKey().Bytes(), id.HPKE.PublicKey().Bytes()) {
		t.Fatalf("ParseIdentity: %v", err)
	}
	for what, f := range map[string]identityForm{
		"no host":     {Seed: make([]byte, 32), HPKE: make([]byte, 32)},
		"short seed":  {Host: id.Host, Seed: make([]byte, 31), HPKE: make([]byte, 32)},
		"long seed":   {Host: id.Host, Seed: make([]byte, 64), HPKE: make([]byte, 32)},
		"no HPKE key": {Host: id.Host, Seed: make([]byte, 32)},
	} {
		if _, err := ParseIdentity(canon.Marshal(f)); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	cuts(b, func(b []byte) {
		if _, err := ParseIdentity(b); err == nil {
			t.Error("a cut identity was accepted")
		}
	})
}

func TestCertificate(t *testing.T) {
	c := testCertificate(t, 1, RoleWriter)
	c.Domain, c.After = "finance", c.Before+1
	b := c.Bytes()
	got, err := ParseCertificate(b)
	if err != nil || !bytes.Equal(got.Bytes(), b) || got.Domain != "finance" || got.Host != c.Host {
		t.Fatalf("ParseCertificate: %+v, %v", got, err)
	}
	for what, change := range map[string]func(*Certificate){
		"zero host":        func(c *Certificate) { c.Host = HostID{} },
		"serial 0":         func(c *Certificate) { c.Serial = 0 },
		"long name":        func(c *Certificate) { c.Name = strings.Repeat("n", 1025) },
		"long domain":      func(c *Certificate) { c.Domain = strings.Repeat("n", 1025) },
		"name not UTF-8":   func(c *Certificate) { c.Name = "\xff" },
		"short key":        func(c *Certificate) { c.Sign = c.Sign[:31] },
		"no HPKE key":      func(c *Certificate) { c.HPKE = nil },
		"short HPKE key":   func(c *Certificate) { c.HPKE = c.HPKE[1:] },
		"bad HPKE point":   func(c *Certificate) { c.HPKE = append(c.HPKE[:len(c.HPKE)-1:len(c.HPKE)-1], c.HPKE[len(c.HPKE)-1]^1) },
		"bad HPKE lattice": func(c *Certificate) { c.HPKE = append([]byte{0xff, 0xff, 0xff}, c.HPKE[3:]...) },
		"unknown role":     func(c *Certificate) { c.Roles |= 1 << 5 },
		"ends first":       func(c *Certificate) { c.After = c.Before - 1 },
	} {
		other := *c
		change(&other)
		if _, err := ParseCertificate(other.Bytes()); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	if _, err := ParseCertificate(make([]byte, maxCertificate+1)); err == nil {
		t.Error("a certificate over the limit was accepted")
	}
}

// TestCertificateFlips checks that the root's signature covers every bit of a stored certificate.
func TestCertificateFlips(t *testing.T) {
	t.Parallel()
	r := testRoot()
	c := testCertificate(t, 1, RoleWriter)
	trust := &Trust{Repo: testRepo, Roots: []ed25519.PublicKey{r.Public()}}
	check := func(b []byte) error {
		s, err := ParseSigned(b)
		if err != nil {
			return err
		}
		if err := trust.Check(TypeHost, c.Host.String(), s); err != nil {
			return err
		}
		_, err = ParseCertificate(s.Body)
		return err
	}
	b := r.Sign(TypeHost, c.Host.String(), c.Bytes())
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

// TestRoles holds who may sign what; the root may sign everything.
func TestRoles(t *testing.T) {
	const w, r, a, p, o = RoleWriter, RoleReader, RoleAdmin, RolePrune, RoleOperator
	want := map[Type]Role{
		TypeDataPack: w | p, TypeTreePack: w | p, TypePackTable: w | p, TypeSession: w | p, TypeIndex: w | p, TypeSnapshot: w | p, TypeLease: w | p,
		TypeCondemned: p, TypeCondemnedLeases: p, TypeCondemnedFinal: p, TypeGroup: p, TypeSet: p, TypeReceipt: p,
		TypeForgotten: a | w, TypeMark: w | a | o, TypeVerified: r,
		TypeAuditTile: w | r | a | p | o, TypeAuditCheckpoint: w | r | a | p | o,
		TypeSettings: 0, TypeRoots: 0, TypeKeySlot: 0, TypeBundle: 0, TypeHost: 0, TypeGrant: 0, TypeSnapshotBody: 0, TypeConfig: 0,
	}
	if len(want) != len(allTypes()) {
		t.Fatalf("the table has %d types of %d", len(want), len(allTypes()))
	}
	root := testRoot()
	id := testIdentity(t, 1)
	for _, typ := range allTypes() {
		for bit := range 8 {
			role := Role(1) << bit
			trust := &Trust{Repo: testRepo, Roots: []ed25519.PublicKey{root.Public()}}
			trust.Add(id.Certificate("host", role, 1, time.Time{}))
			s, err := ParseSigned(id.SignBody(typ, testRepo, "name", []byte("body")))
			if err != nil {
				t.Fatal(err)
			}
			err = trust.Check(typ, "name", s)
			if may := want[typ]&role != 0; may != (err == nil) || err != nil && !errors.Is(err, ErrSignature) {
				t.Errorf("role %d signs %v: %v", role, typ, err)
			}
		}
		trust := &Trust{Repo: testRepo, Roots: []ed25519.PublicKey{root.Public()}}
		s, err := ParseSigned(root.Sign(typ, "name", []byte("body")))
		if err != nil || trust.Check(typ, "name", s) != nil {
			t.Errorf("the root does not sign %v: %v", typ, err)
		}
	}
}

func TestSignatureRefused(t *testing.T) {
	root, id, other := testRoot(), testIdentity(t, 1), testIdentity(t, 2)
	trust := &Trust{Repo: testRepo, Roots: []ed25519.PublicKey{root.Public()}}
	trust.Add(id.Certificate("one", allRoles, 1, time.Time{}))
	trust.Add(other.Certificate("two", allRoles, 1, time.Time{}))
	sig := Sign(id.Sign, TypeLease, testRepo, "name", []byte("body"))
	if err := trust.CheckDetached(TypeLease, "name", id.Host, []byte("body"), sig); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"other name":       trust.CheckDetached(TypeLease, "nam", id.Host, []byte("body"), sig),
		"other body":       trust.CheckDetached(TypeLease, "name", id.Host, []byte("bodY"), sig),
		"other host":       trust.CheckDetached(TypeLease, "name", other.Host, []byte("body"), sig),
		"unknown host":     trust.CheckDetached(TypeLease, "name", HostID{9}, []byte("body"), sig),
		"as the root":      trust.CheckDetached(TypeLease, "name", HostID{}, []byte("body"), sig),
		"no signature":     trust.CheckDetached(TypeLease, "name", id.Host, []byte("body"), nil),
		"short signature":  trust.CheckDetached(TypeLease, "name", id.Host, []byte("body"), sig[:63]),
		"long signature":   trust.CheckDetached(TypeLease, "name", id.Host, []byte("body"), append(sig[:64:64], 0)),
		"other repository": (&Trust{Roots: []ed25519.PublicKey{root.Public()}, hosts: trust.hosts}).CheckDetached(TypeLease, "name", id.Host, []byte("body"), sig),
		"nobody trusted":   (&Trust{}).CheckDetached(TypeLease, "name", id.Host, []byte("body"), sig),
		"no root":          (&Trust{}).CheckDetached(TypeLease, "name", HostID{}, []byte("body"), sig),
		"no key":           Verify(nil, TypeLease, testRepo, "name", &Signed{Body: []byte("body"), Sig: sig}),
	} {
		if !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", what, err)
		}
	}
	flips(sig, 1, func(bit int, sig []byte) {
		if err := trust.CheckDetached(TypeLease, "name", id.Host, []byte("body"), sig); !errors.Is(err, ErrSignature) {
			t.Errorf("bit %d: %v", bit, err)
		}
	})
	// A signature counts for its own type only, between any two types that the signer may sign.
	for _, from := range allTypes() {
		sig := Sign(root.key, from, testRepo, "name", []byte("body"))
		for _, to := range allTypes() {
			if err := Verify(root.Public(), to, testRepo, "name", &Signed{Body: []byte("body"), Sig: sig}); (err == nil) != (from == to) {
				t.Errorf("%v as %v: %v", from, to, err)
			}
		}
	}
}

// TestSignInput checks that no two different things have one signature input.
func TestSignInput(t *testing.T) {
	seen := make(map[string]string)
	for _, typ := range append(allTypes(), 0, 200) {
		for _, repo := range []RepoID{{}, testRepo, RepoID([]byte("-leases\x00packhold"))} {
			for _, subject := range []string{"", "a", "ab", string(testRepo[:]), "-leases"} {
				for _, body := range []string{"", "a", "b"} {
					what := fmt.Sprintf("%v %x %q %q", typ, repo, subject, body)
					in := string(signInput(typ, repo, subject, []byte(body)))
					if seen[in] != "" {
						t.Errorf("%s and %s have one input", what, seen[in])
					}
					seen[in] = what
				}
			}
		}
	}
}

func TestSigned(t *testing.T) {
	b := (&Identity{Sign: testIdentity(t, 1).Sign, Host: HostID{1}}).SignBody(TypeLease, testRepo, "name", nil)
	s, err := ParseSigned(b)
	if err != nil || s.Signer != (HostID{1}) || len(s.Body) != 0 {
		t.Fatal(s, err)
	}
	for what, b := range map[string][]byte{
		"empty":           nil,
		"no signature":    canon.Marshal(Signed{}),
		"short signature": canon.Marshal(Signed{Sig: make([]byte, 63)}),
		"long signature":  canon.Marshal(Signed{Sig: make([]byte, 65)}),
		"a map":           {0xa0},
		"two elements":    append([]byte{0x82}, b[1:]...),
		"null body":       append([]byte{0x83, 0xf6}, b[2:]...),
		"long form":       append([]byte{0x83, 0x58, 0x00}, b[2:]...),
		"indefinite":      append(append([]byte{0x9f}, b[1:]...), 0xff),
	} {
		if _, err := ParseSigned(b); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

func TestTrust(t *testing.T) {
	id := testIdentity(t, 1)
	trust := &Trust{Repo: testRepo, Roots: []ed25519.PublicKey{testRoot().Public()}}
	if trust.Certificate(id.Host) != nil || trust.Revoked(id.Host) || trust.Certificates() != nil {
		t.Fatal("the zero Trust knows a host")
	}
	for _, serial := range []uint32{2, 3, 1} {
		trust.Add(id.Certificate(fmt.Sprint(serial), RoleWriter, serial, time.Time{}))
	}
	trust.Add(testIdentity(t, 2).Certificate("two", RoleReader, 1, time.Time{}))
	if c := trust.Certificate(id.Host); c.Serial != 3 || c.Name != "3" || len(trust.Certificates()) != 2 {
		t.Errorf("the newest certificate is %v", c)
	}
	trust.Revoke(id.Host)
	if !trust.Revoked(id.Host) || trust.Revoked(testIdentity(t, 2).Host) {
		t.Error("Revoked is wrong")
	}
	// A renewed host may have a new key; what it signed with the old one stays valid.
	renewed := testIdentity(t, 3)
	renewed.Host = id.Host
	trust.Add(renewed.Certificate("4", RoleWriter, 4, time.Time{}))
	for _, key := range []ed25519.PrivateKey{id.Sign, renewed.Sign} {
		if err := trust.CheckDetached(TypeLease, "n", id.Host, nil, Sign(key, TypeLease, testRepo, "n", nil)); err != nil {
			t.Error(err)
		}
	}
}
