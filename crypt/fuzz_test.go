package crypt

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
)

func FuzzHeader(f *testing.F) {
	f.Add(Header{Type: TypeDataPack, Variant: 1, Epoch: 7, Salt: fixed(1)}.Append(nil))
	f.Add([]byte(Magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ParseHeader(b); err == nil && !bytes.Equal(h.Append(nil), b[:HeaderSize]) {
			t.Errorf("%x is encoded as %x", b[:HeaderSize], h.Append(nil))
		}
	})
}

func FuzzSlot(f *testing.F) {
	r := testRoot()
	f.Add(testSlot(f, r, nil))
	f.Add(testSlot(f, r, func(f *slotForm) { f.Iterations = 1 << 63 }))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSlot(b)
		if err != nil {
			return
		}
		if s.Label(testRepo, map[uint32]WriteSecret{s.form.Epoch: testW}); s.CheckSigned(r.Public(), testRepo) == nil && s.Iterations() < MinIterations {
			if _, err := s.Open([]byte(testPassphrase), testRepo); !errors.Is(err, ErrPolicy) {
				t.Errorf("%d iterations: %v", s.Iterations(), err)
			}
		}
	})
}

func FuzzSessionRecord(f *testing.F) {
	_, r := testSession(f, 1, 7)
	read, trust := testReadKey(f, 7), testTrust(f, RoleWriter, 1)
	f.Add(r.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseSessionRecord(b)
		if err != nil {
			return
		}
		if !bytes.Equal(got.Bytes(), b) {
			t.Error("the record is encoded in another form")
		}
		if trust.CheckSession(got) != nil {
			read.Unwrap(testRepo, got)
		} else if got.Session != r.Session {
			t.Error("a record was forged")
		}
	})
}

func FuzzCertificate(f *testing.F) {
	f.Add(testCertificate(f, 1, RoleWriter).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseCertificate(b); err == nil && !bytes.Equal(c.Bytes(), b) {
			t.Error("the certificate is encoded in another form")
		}
	})
}

func FuzzSigned(f *testing.F) {
	trust := testTrust(f, RoleWriter, 1)
	id := testIdentity(f, 1)
	f.Add(SignBody(id.Sign, id.Host, TypeLease, testRepo, "name", []byte("body")))
	f.Add(testRoot().Sign(TypeLease, "name", []byte("body")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSigned(b); err == nil && trust.Check(TypeLease, "name", s) == nil && string(s.Body) != "body" {
			t.Error("a signature was forged")
		}
	})
}

func FuzzObject(f *testing.F) {
	o, id, r := testOpened(f, 1), testIdentity(f, 1), testRoot()
	object := sealTest(f, TypeLease, "name", []byte("body"))
	grant, err := r.SealGrant(testCertificate(f, 1, RoleWriter), &Grant{Epoch: 4, Writes: map[uint32]WriteSecret{4: testW}})
	if err != nil {
		f.Fatal(err)
	}
	bundle := sealBundle(f, o, smallBundle(1))
	for _, b := range [][]byte{object, grant, bundle} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		refused := func(err error, good []byte) {
			if err == nil != bytes.Equal(b, good) || err != nil && !errors.Is(err, ErrOpen) && !errors.Is(err, ErrFormat) {
				t.Error(err)
			}
		}
		_, err := testW.OpenObject(testRepo, TypeLease, "name", b)
		refused(err, object)
		_, err = id.OpenGrant(testRepo, r.Public(), 4, b)
		refused(err, grant)
		_, err = o.OpenBundle(4, b)
		refused(err, bundle)
	})
}

// FuzzBody gives unpad what an attacker with a key could put under the seal.
func FuzzBody(f *testing.F) {
	f.Add(pad(TypeIndex, make([]byte, 5000)))
	f.Add(pad(TypeLease, nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, typ := range []Type{TypeIndex, TypeLease} {
			if body, err := unpad(typ, p); err == nil && !bytes.Equal(pad(typ, body), p) {
				t.Error("padding that pad would not have made")
			}
		}
	})
}

func FuzzCredential(f *testing.F) {
	b, err := json.Marshal(testCredential(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"packhold":1,"writes":{"1":""}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Credential
		if c.UnmarshalJSON(b) != nil {
			return
		}
		once, err := c.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var again Credential
		if err := again.UnmarshalJSON(once); err != nil {
			t.Fatal(err)
		}
		if twice, err := again.MarshalJSON(); err != nil || !bytes.Equal(once, twice) {
			t.Error("the credential is encoded in two forms")
		}
	})
}
