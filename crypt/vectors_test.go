package crypt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "make testdata/vectors.json anew: only before format 1 is frozen")

// hexBytes is bytes that JSON holds as hexadecimal digits.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// vectors is testdata/vectors.json. Every secret that opens what is in it is in it, but for the RSA key, which is
// testdata/test-rsa.pem.
type vectors struct {
	Repo       hexBytes `json:"repo"`
	Session    hexBytes `json:"session_key"`
	W          hexBytes `json:"write_secret"`
	RootSeed   hexBytes `json:"root_seed"`
	HostID     hexBytes `json:"host_id"`
	HostSeed   hexBytes `json:"host_signing_seed"`
	HostHPKE   hexBytes `json:"host_hpke_private"`
	ReadHPKE   hexBytes `json:"read_hpke_private"`
	Passphrase string   `json:"passphrase"`

	Header struct {
		Type    uint8    `json:"type"`
		Variant uint8    `json:"variant"`
		Epoch   uint32   `json:"epoch"`
		Salt    hexBytes `json:"salt"`
		Bytes   hexBytes `json:"bytes"`
	} `json:"header"`
	Blob struct {
		PackSalt    hexBytes `json:"pack_salt"`
		PackKey     hexBytes `json:"pack_key"`
		Compression uint8    `json:"compression"`
		Tree        bool     `json:"tree"`
		Plain       hexBytes `json:"plain"`
		ID          hexBytes `json:"id"`
		Key         hexBytes `json:"blob_key"`
		AAD         hexBytes `json:"aad"`
		Sealed      hexBytes `json:"sealed"`
	} `json:"blob"`
	Objects []vectorObject `json:"objects"`
	Table   struct {
		Header hexBytes `json:"pack_header"`
		Salt   hexBytes `json:"salt"`
		Plain  hexBytes `json:"plain"`
		Sealed hexBytes `json:"sealed"`
	} `json:"table"`
	Body struct {
		Session hexBytes `json:"session_id"`
		Body    hexBytes `json:"body"`
		Object  hexBytes `json:"object"`
	} `json:"snapshot_body"`
	Signature struct {
		Type    string   `json:"type"`
		Subject string   `json:"subject"`
		Body    hexBytes `json:"body"`
		Input   hexBytes `json:"input"`
		Sig     hexBytes `json:"signature_by_host"`
		Signed  hexBytes `json:"signed_by_host"`
	} `json:"signature"`
	Record struct {
		Nonce  hexBytes `json:"nonce"`
		ID     hexBytes `json:"session_id"`
		Epoch  uint32   `json:"epoch"`
		Label  hexBytes `json:"label"`
		Record hexBytes `json:"record"`
		Key    hexBytes `json:"session_key"`
	} `json:"session_record"`
	Certificate hexBytes `json:"certificate"`
	Identity    hexBytes `json:"identity"`
	Slot        struct {
		ID      hexBytes `json:"id"`
		Label   string   `json:"label"`
		Epoch   uint32   `json:"epoch"`
		Private hexBytes `json:"private"`
		Object  hexBytes `json:"object"`
	} `json:"slot"`
	Bundle struct {
		Generation uint64   `json:"generation"`
		Epoch      uint32   `json:"epoch"`
		Chunker    hexBytes `json:"chunker"`
		Object     hexBytes `json:"object"`
	} `json:"bundle"`
	Paper hexBytes `json:"paper"`
	Grant struct {
		Epoch   uint32   `json:"epoch"`
		Chunker hexBytes `json:"chunker"`
		Object  hexBytes `json:"object"`
	} `json:"grant"`
	Local struct {
		Key     hexBytes `json:"key"`
		Purpose string   `json:"purpose"`
		Data    hexBytes `json:"data"`
		Sealed  hexBytes `json:"sealed"`
	} `json:"local"`
	Padded     map[string][][2]int `json:"padded_sizes"`
	Credential string              `json:"writer_json"` // of the host above, with the read key of epoch 7
}

type vectorObject struct {
	Type   string   `json:"type"`
	Name   string   `json:"name"`
	Epoch  uint32   `json:"epoch"`
	Body   hexBytes `json:"body"`
	Key    hexBytes `json:"key"`
	AAD    hexBytes `json:"aad"`
	Object hexBytes `json:"object"`
}

func typeNamed(t *testing.T, name string) Type {
	t.Helper()
	for _, typ := range allTypes() {
		if typ.String() == name {
			return typ
		}
	}
	t.Fatalf("no type is called %q", name)
	return 0
}

func vectorCertificate(t *testing.T) *Certificate {
	t.Helper()
	c := testIdentity(t, 0x48).Certificate("host.example", RoleWriter|RoleReader, 3, time.Unix(1_700_000_000, 0))
	c.Domain, c.After = "finance", 1_900_000_000
	return c
}

func makeVectors(t *testing.T) *vectors {
	t.Helper()
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	session, host, root := SessionKey(fixed(0x53)), testIdentity(t, 0x48), testRoot()
	seed, readSeed, rootSeed := fixed(0x48), fixed(0x52), fixed(0x70)
	v := &vectors{Repo: testRepo[:], Session: session[:], W: testW[:], RootSeed: rootSeed[:], HostID: host.Host[:], HostSeed: seed[:], HostHPKE: seed[:],
		ReadHPKE: readSeed[:], Passphrase: testPassphrase}

	h := Header{Type: TypeTreePack, Variant: 2, Epoch: 0x01020304, Salt: fixed(0x5a)}
	v.Header.Type, v.Header.Variant, v.Header.Epoch, v.Header.Salt, v.Header.Bytes = uint8(h.Type), h.Variant, h.Epoch, h.Salt[:], h.Append(nil)

	b := &v.Blob
	b.PackSalt, b.Compression, b.Tree, b.Plain = bytes.Repeat([]byte{0x5a}, 32), uint8(Uncompressed), true, []byte("a tree page, stored as it is")
	info := BlobInfo{ID: Sum(b.Plain), Raw: uint32(len(b.Plain)), Tree: true}
	k, err := session.PackKey(testRepo, [32]byte(b.PackSalt))
	if err != nil {
		t.Fatal(err)
	}
	aad := k.aad(info)
	b.PackKey = must(deriveKey(session[:], b.PackSalt, "pack", testRepo))
	b.ID, b.Key, b.AAD, b.Sealed = info.ID[:], k.blobKey(info), aad[:], must(k.Seal(nil, info, b.Plain))

	for _, o := range []vectorObject{
		{Type: "lease", Name: "00112233445566778899aabbccddeeff", Epoch: 3, Body: []byte("a body of one kind")},
		{Type: "index", Name: "", Epoch: 3, Body: bytes.Repeat([]byte("segment "), 600)},
		{Type: "snapshot", Name: "00112233445566778899aabbccddeeff", Epoch: 0, Body: nil},
	} {
		typ := typeNamed(t, o.Type)
		o.Object = must(testW.SealObject(testRepo, o.Epoch, typ, o.Name, o.Body))
		o.Key = must(deriveKey(testW[:], o.Object[16:48], purpose(typ), testRepo))
		o.AAD = append(objectAAD(testRepo, typ, o.Name), o.Object[:HeaderSize]...)
		v.Objects = append(v.Objects, o)
	}
	salt, sealed, err := testW.SealTable(testRepo, h, []byte("a table, padded by its room"))
	v.Table.Header, v.Table.Salt, v.Table.Plain, v.Table.Sealed = v.Header.Bytes, salt[:], []byte("a table, padded by its room"), must(sealed, err)
	id := NewSessionID(host.Host, fixed(0x4e))
	v.Body.Session, v.Body.Body, v.Body.Object = id[:], []byte("sources"), must(session.SealBody(testRepo, id, []byte("sources")))

	s := &v.Signature
	s.Type, s.Subject, s.Body = "lease", id.String(), []byte("what is signed")
	s.Input = signInput(TypeLease, testRepo, s.Subject, s.Body)
	s.Sig = Sign(host.Sign, TypeLease, testRepo, s.Subject, s.Body)
	s.Signed = host.SignBody(TypeLease, testRepo, s.Subject, s.Body)

	key, r, err := NewSession(testRepo, host, testReadKey(t, 7).Public())
	v.Record.Record = must(r.Bytes(), err)
	v.Record.Nonce, v.Record.ID, v.Record.Epoch, v.Record.Key = r.Nonce, r.Session[:], r.Epoch, key[:]
	v.Record.Label = sessionInfo(testRepo, r.Session, r.Epoch)

	v.Certificate = vectorCertificate(t).Bytes()
	v.Identity = must(host.Bytes())

	object, slot, err := root.NewSlot([]byte(testPassphrase), MinIterations, "escrow of the second floor", testW, 3)
	v.Slot.Object = must(object, err)
	o, err := slot.Open([]byte(testPassphrase), testRepo)
	if err != nil {
		t.Fatal(err)
	}
	v.Slot.ID, v.Slot.Label, v.Slot.Epoch, v.Slot.Private = slot.ID[:], "escrow of the second floor", 3, must(o.Private.Bytes())
	v.Bundle.Generation, v.Bundle.Epoch, v.Bundle.Chunker = 4, 3, bytes.Repeat([]byte{0x63}, 32)
	v.Bundle.Object = must(root.SealBundle(slot.Public, &Bundle{Generation: 4, Slot: slot.ID, Writes: map[uint32]WriteSecret{3: testW}, Chunker: fixed(0x63),
		Read: map[uint32]*ReadPrivate{7: testReadKey(t, 7)}, Root: root, Identity: host}))
	v.Paper = must(sealPaper([]byte(testPassphrase), paperParameters(), root.Public(), &Bundle{Writes: map[uint32]WriteSecret{3: testW}, Chunker: fixed(0x63),
		Read: map[uint32]*ReadPrivate{7: testReadKey(t, 7)}, Root: root, Identity: host}))
	v.Grant.Epoch, v.Grant.Chunker = 3, bytes.Repeat([]byte{0x63}, 32)
	v.Grant.Object = must(root.SealGrant(vectorCertificate(t), &Grant{Epoch: 3, Writes: map[uint32]WriteSecret{3: testW}, Chunker: fixed(0x63)}))

	local := LocalKey(fixed(0x4c))
	v.Local.Key, v.Local.Purpose, v.Local.Data = local[:], "tree", []byte("the last tree")
	v.Local.Sealed = must(local.Seal("tree", v.Local.Data))

	v.Padded = make(map[string][][2]int)
	for _, typ := range []Type{TypeLease, TypeIndex} {
		for _, n := range []int{4, 256, 257, 4096, 4097, 5000, 65537, 1<<20 + 1, 64 << 20} {
			v.Padded[typ.String()] = append(v.Padded[typ.String()], [2]int{n, paddedSize(typ, n)})
		}
	}
	v.Credential = string(must(json.Marshal(vectorCredential(t))))
	return v
}

// vectorCredential is what the host of the vectors keeps.
func vectorCredential(t testing.TB) *Credential {
	return &Credential{Repo: testRepo, Root: testRoot().Public(), Identity: testIdentity(t, 0x48), Writes: map[uint32]WriteSecret{3: testW}, Chunker: fixed(0x63),
		Read: []*ReadPublic{testReadKey(t, 7).Public()}, Local: LocalKey(fixed(0x4c))}
}

const vectorFile = "testdata/vectors.json"

func readVectors(t testing.TB) *vectors {
	t.Helper()
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	v := new(vectors)
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestVectors opens and recomputes what is in testdata/vectors.json: what format 1 once wrote must be read for ever.
func TestVectors(t *testing.T) {
	if *update {
		b, err := json.MarshalIndent(makeVectors(t), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	v := readVectors(t)
	equal := func(what string, got []byte, err error, want hexBytes) {
		t.Helper()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is %x, %v; want %x", what, got, err, []byte(want))
		}
	}
	repo, session, w := RepoID(v.Repo), SessionKey(v.Session), WriteSecret(v.W)
	root, host := testRoot(), testIdentity(t, 0x48)
	equal("root's seed", root.key.Seed(), nil, v.RootSeed)
	equal("host's seed", host.Sign.Seed(), nil, v.HostSeed)
	equal("host's id", host.Host[:], nil, v.HostID)

	h := Header{Type: Type(v.Header.Type), Variant: v.Header.Variant, Epoch: v.Header.Epoch, Salt: [32]byte(v.Header.Salt)}
	equal("header", h.Append(nil), nil, v.Header.Bytes)

	k, err := session.PackKey(repo, [32]byte(v.Blob.PackSalt))
	if err != nil {
		t.Fatal(err)
	}
	packKey, err := deriveKey(v.Session, v.Blob.PackSalt, "pack", repo)
	equal("pack key", packKey, err, v.Blob.PackKey)
	id := Sum(v.Blob.Plain)
	equal("blob ID", id[:], nil, v.Blob.ID)
	info := BlobInfo{ID: id, Raw: uint32(len(v.Blob.Plain)), Compression: Compression(v.Blob.Compression), Tree: v.Blob.Tree}
	equal("blob key", k.blobKey(info), nil, v.Blob.Key)
	aad := k.aad(info)
	equal("blob AAD", aad[:], nil, v.Blob.AAD)
	plain, err := k.Open(nil, info, v.Blob.Sealed)
	equal("blob", plain, err, v.Blob.Plain)

	if len(v.Objects) != 3 {
		t.Errorf("%d objects", len(v.Objects))
	}
	for _, o := range v.Objects {
		typ := typeNamed(t, o.Type)
		key, err := deriveKey(v.W, o.Object[16:48], purpose(typ), repo)
		equal("key of "+o.Type, key, err, o.Key)
		equal("AAD of "+o.Type, append(objectAAD(repo, typ, o.Name), o.Object[:HeaderSize]...), nil, o.AAD)
		body, err := w.OpenObject(repo, typ, o.Name, o.Object)
		equal(o.Type, body, err, o.Body)
		if h, err := ParseHeader(o.Object); err != nil || h.Epoch != o.Epoch {
			t.Errorf("header of %s is %+v, %v", o.Type, h, err)
		}
	}
	packHeader, err := ParseHeader(v.Table.Header)
	if err != nil {
		t.Fatal(err)
	}
	table, err := w.OpenTable(repo, packHeader, [32]byte(v.Table.Salt), v.Table.Sealed)
	equal("table", table, err, v.Table.Plain)
	body, err := session.OpenBody(repo, SessionID(v.Body.Session), v.Body.Object)
	equal("snapshot body", body, err, v.Body.Body)

	typ := typeNamed(t, v.Signature.Type)
	equal("signature input", signInput(typ, repo, v.Signature.Subject, v.Signature.Body), nil, v.Signature.Input)
	equal("signature", Sign(host.Sign, typ, repo, v.Signature.Subject, v.Signature.Body), nil, v.Signature.Sig)
	equal("signed", host.SignBody(typ, repo, v.Signature.Subject, v.Signature.Body), nil, v.Signature.Signed)

	trust := &Trust{Repo: repo, Roots: []ed25519.PublicKey{root.Public()}}
	c, err := ParseCertificate(v.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	equal("certificate", vectorCertificate(t).Bytes(), nil, v.Certificate)
	trust.Add(c)
	identity, err := host.Bytes()
	equal("identity", identity, err, v.Identity)

	r, err := ParseSessionRecord(v.Record.Record)
	if err != nil {
		t.Fatal(err)
	}
	sessionID := NewSessionID(host.Host, [32]byte(v.Record.Nonce))
	equal("session id", sessionID[:], nil, v.Record.ID)
	equal("session label", sessionInfo(repo, r.Session, r.Epoch), nil, v.Record.Label)
	equal("session record", r.Bytes(), trust.CheckSession(r), v.Record.Record)
	unwrapped, err := testReadKey(t, v.Record.Epoch).Unwrap(repo, r)
	equal("session key", unwrapped[:], err, v.Record.Key)

	slot, err := ParseSlot(v.Slot.Object)
	if err != nil {
		t.Fatal(err)
	}
	label, err := slot.Label(repo, map[uint32]WriteSecret{v.Slot.Epoch: w})
	equal("label", []byte(label), err, []byte(v.Slot.Label))
	o, err := slot.Open([]byte(v.Passphrase), repo)
	if err != nil {
		t.Fatal(err)
	}
	private, err := o.Private.Bytes()
	equal("slot's key", private, err, v.Slot.Private)
	equal("slot's id", slot.ID[:], nil, v.Slot.ID)
	equal("slot's root", o.Root, nil, hexBytes(root.Public()))

	b, err := o.OpenBundle(v.Bundle.Generation, v.Bundle.Object)
	if err != nil {
		t.Fatal(err)
	}
	secret := b.Writes[v.Bundle.Epoch]
	equal("bundle's write secret", secret[:], nil, v.W)
	equal("bundle's chunker", b.Chunker[:], nil, v.Bundle.Chunker)
	equal("bundle's root", b.Root.key.Seed(), nil, v.RootSeed)
	equal("bundle's identity", b.Identity.Sign.Seed(), nil, v.HostSeed)
	unwrapped, err = b.Read[v.Record.Epoch].Unwrap(repo, r)
	equal("session key by the bundle", unwrapped[:], err, v.Record.Key)

	b, pub, err := OpenPaper([]byte(v.Passphrase), repo, v.Paper)
	if err != nil {
		t.Fatal(err)
	}
	secret = b.Writes[v.Bundle.Epoch]
	equal("paper's root", pub, nil, hexBytes(root.Public()))
	equal("paper's write secret", secret[:], nil, v.W)
	equal("paper's chunker", b.Chunker[:], nil, v.Bundle.Chunker)
	equal("paper's root seed", b.Root.key.Seed(), nil, v.RootSeed)
	equal("paper's identity", b.Identity.Sign.Seed(), nil, v.HostSeed)
	unwrapped, err = b.Read[v.Record.Epoch].Unwrap(repo, r)
	equal("session key by the paper", unwrapped[:], err, v.Record.Key)

	g, err := host.OpenGrant(repo, root.Public(), v.Grant.Epoch, v.Grant.Object)
	if err != nil {
		t.Fatal(err)
	}
	secret = g.Writes[v.Grant.Epoch]
	equal("grant's write secret", secret[:], nil, v.W)
	equal("grant's chunker", g.Chunker[:], nil, v.Grant.Chunker)

	data, err := LocalKey(v.Local.Key).Open(v.Local.Purpose, v.Local.Sealed)
	equal("local", data, err, v.Local.Data)
	var writer Credential
	if err := json.Unmarshal([]byte(v.Credential), &writer); err != nil {
		t.Fatal(err)
	}
	if want := vectorCredential(t); !reflect.DeepEqual(writer.Writes, want.Writes) || writer.Repo != want.Repo || !writer.Root.Equal(want.Root) || writer.Identity.Host != host.Host ||
		!writer.Identity.Sign.Equal(host.Sign) || writer.Chunker != want.Chunker || writer.Local != want.Local || len(writer.Read) != 1 || writer.Read[0].Epoch != 7 ||
		!writer.Read[0].RSA.Equal(want.Read[0].RSA) {
		t.Errorf("the credential is %+v", writer)
	}
	again, err := json.Marshal(writer)
	equal("writer.json", again, err, hexBytes(v.Credential))

	for name, sizes := range v.Padded {
		for _, s := range sizes {
			if got := paddedSize(typeNamed(t, name), s[0]); got != s[1] {
				t.Errorf("%s of %d bytes is padded to %d, want %d", name, s[0], got, s[1])
			}
		}
	}
}
