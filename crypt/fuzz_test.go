package crypt

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
)

// The fuzzer works in several processes, so what is refused or accepted comes from the vectors, not from fresh randomness.

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
	v := readVectors(f)
	read, trust := testReadKey(f, v.Record.Epoch), testTrust(f, RoleWriter, 0x48)
	f.Add([]byte(v.Record.Record))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseSessionRecord(b)
		if err != nil {
			return
		}
		if !bytes.Equal(got.Bytes(), b) {
			t.Error("the record is encoded in another form")
		}
		_, err = read.Unwrap(testRepo, got)
		if genuine := bytes.Equal(b, v.Record.Record); trust.CheckSession(got) == nil != genuine || genuine && err != nil {
			t.Error("a record was forged, or the genuine one refused")
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
	f.Add(id.SignBody(TypeLease, testRepo, "name", []byte("body")))
	f.Add(testRoot().Sign(TypeLease, "name", []byte("body")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSigned(b); err == nil && trust.Check(TypeLease, "name", s) == nil && string(s.Body) != "body" {
			t.Error("a signature was forged")
		}
	})
}

func FuzzObject(f *testing.F) {
	v := readVectors(f)
	private, err := kem().NewPrivateKey(v.Slot.Private)
	if err != nil {
		f.Fatal(err)
	}
	id, root, lease := testIdentity(f, 0x48), testRoot().Public(), v.Objects[0]
	o := &OpenedSlot{Slot: &Slot{ID: SlotID(v.Slot.ID)}, Private: private, Root: root, Repo: testRepo}
	for _, b := range []hexBytes{lease.Object, v.Grant.Object, v.Bundle.Object} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(err error, genuine []byte) {
			if err == nil != bytes.Equal(b, genuine) || err != nil && !errors.Is(err, ErrOpen) && !errors.Is(err, ErrFormat) {
				t.Error(err)
			}
		}
		_, err := testW.OpenObject(testRepo, TypeLease, lease.Name, b)
		check(err, lease.Object)
		_, err = id.OpenGrant(testRepo, root, v.Grant.Epoch, b)
		check(err, v.Grant.Object)
		_, err = o.OpenBundle(v.Bundle.Generation, b)
		check(err, v.Bundle.Object)
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
