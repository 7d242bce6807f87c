package crypt

import (
	"bytes"
	"crypto/fips140"
	"testing"
	"testing/cryptotest"
)

// TestClone runs every way of sealing twice with the same random numbers, as a cloned virtual machine does, for inputs
// that differ in one thing. The nonces come out the same, which shows that the clone is one; the keys must not.
// Keys that differ show in the bytes after the nonce: where plaintexts are equal, so would the ciphertexts be, and where
// they differ in their first byte alone, the rest would be.
func TestClone(t *testing.T) {
	slow(t)
	if fips140.Version() == "v1.0.0" {
		t.Skip("the Go Cryptographic Module v1.0.0 cannot be given random numbers by a test")
	}
	root, o := testRoot(), testOpened(t, 1)
	session := SessionKey(fixed(0x53))
	type sealer func() ([]byte, error)
	object := func(epoch uint32, typ Type, name, body string) sealer {
		return func() ([]byte, error) { return testW.SealObject(testRepo, epoch, typ, name, []byte(body)) }
	}
	table := func(h Header, plain string) sealer {
		return func() ([]byte, error) {
			_, b, err := testW.SealTable(testRepo, h, []byte(plain))
			return b, err
		}
	}
	snapshotBody := func(id SessionID, body string) sealer {
		return func() ([]byte, error) { return session.SealBody(testRepo, id, []byte(body)) }
	}
	local := func(purpose, data string) sealer {
		return func() ([]byte, error) { return LocalKey(fixed(1)).Seal(purpose, []byte(data)) }
	}
	blob := func(c Compression, body string) sealer {
		return func() ([]byte, error) {
			return testPackKey(t, testRepo, 1).Seal(nil, BlobInfo{ID: Sum([]byte(body)), Raw: 1, Compression: c}, []byte(body))
		}
	}
	bundle := func(b Bundle) sealer {
		return func() ([]byte, error) { return root.SealBundle(o.Private.PublicKey(), &b) }
	}
	grant := func(g Grant) sealer {
		return func() ([]byte, error) { return root.SealGrant(testCertificate(t, 1, RoleWriter), &g) }
	}
	slot := func(iterations int, epoch uint32) sealer {
		return func() ([]byte, error) {
			_, s, err := root.NewSlot([]byte(testPassphrase), iterations, "label", testW, epoch)
			if err != nil {
				return nil, err
			}
			return s.form.Sealed, nil
		}
	}
	paper := func(repo RepoID, chunker byte) sealer {
		return func() ([]byte, error) {
			p := paperParameters()
			p.Repo = repo
			_, err := sealPaper([]byte(testPassphrase), p, root.Public(), &Bundle{Chunker: fixed(chunker)})
			return p.Sealed, err
		}
	}
	pack := Header{Type: TypeDataPack, Variant: 1}
	w := map[uint32]WriteSecret{4: testW}
	const text = "0123456789abcdef0123456789abcdef"
	for what, c := range map[string]struct {
		nonce int // its offset
		a, b  sealer
	}{
		"object body":       {HeaderSize, object(1, TypeLease, "n", "a"+text), object(1, TypeLease, "n", "b"+text)},
		"object name":       {HeaderSize, object(1, TypeLease, "n", text), object(1, TypeLease, "m", text)},
		"object type":       {HeaderSize, object(1, TypeLease, "n", text), object(1, TypeMark, "n", text)},
		"object epoch":      {HeaderSize, object(1, TypeLease, "n", text), object(2, TypeLease, "n", text)},
		"table":             {0, table(pack, "a"+text), table(pack, "b"+text)},
		"table of pack":     {0, table(pack, text), table(Header{Type: TypeDataPack, Variant: 1, Salt: fixed(1)}, text)},
		"snapshot body":     {HeaderSize, snapshotBody(SessionID{1}, "a"+text), snapshotBody(SessionID{1}, "b"+text)},
		"session":           {HeaderSize, snapshotBody(SessionID{1}, text), snapshotBody(SessionID{2}, text)},
		"local":             {32, local("p", "a"+text), local("p", "b"+text)},
		"local purpose":     {32, local("p", text), local("q", text)},
		"blob":              {0, blob(ZstdBest, "a"+text), blob(ZstdBest, "b"+text)},
		"blob compression":  {0, blob(ZstdBest, text), blob(ZstdFastest, text)},
		"bundle":            {HeaderSize + encSize, bundle(Bundle{Writes: w, Chunker: fixed(1)}), bundle(Bundle{Writes: w, Chunker: fixed(2)})},
		"bundle generation": {HeaderSize + encSize, bundle(Bundle{Writes: w}), bundle(Bundle{Writes: w, Generation: 1})},
		"grant":             {HeaderSize + encSize, grant(Grant{Epoch: 4, Writes: w, Chunker: fixed(1)}), grant(Grant{Epoch: 4, Writes: w, Chunker: fixed(2)})},
		"paper":             {0, paper(testRepo, 1), paper(testRepo, 2)},
		"paper's place":     {0, paper(testRepo, 1), paper(RepoID{}, 1)},
		"slot epoch":        {0, slot(MinIterations, 1), slot(MinIterations, 2)},
	} {
		t.Run(what, func(t *testing.T) {
			seed := uint64(1)
			seal := func(s sealer) []byte {
				cryptotest.SetGlobalRandom(t, seed)
				b, err := s()
				if err != nil {
					t.Fatal(err)
				}
				return b[c.nonce:]
			}
			a, again, b := seal(c.a), seal(c.a), seal(c.b)
			if !bytes.Equal(a, again) {
				t.Fatal("one input is sealed to two texts: the random numbers were not the same")
			}
			if !bytes.Equal(a[:12], b[:12]) {
				t.Fatalf("nonces %x and %x: the second was not sealed by a clone", a[:12], b[:12])
			}
			if n := equalBytes(a[12:], b[12:]); n > 16 {
				t.Errorf("%d bytes after the same nonce are the same: so is the key", n)
			}
		})
	}
}

// equalBytes counts the places at which a and b have the same byte. Of 300 random ones about 1 is.
func equalBytes(a, b []byte) (n int) {
	for i := range min(len(a), len(b), 300) {
		if a[i] == b[i] {
			n++
		}
	}
	return n
}
