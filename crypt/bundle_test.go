package crypt

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"testing"

	"packhold/crypt/canon"
)

// testOpened is the slot with the given id, opened.
func testOpened(t testing.TB, id byte) *OpenedSlot {
	t.Helper()
	return &OpenedSlot{Slot: &Slot{ID: SlotID{id}}, Private: fixedKEM(t, id), Root: testRoot().Public(), Repo: testRepo}
}

func sealBundle(t testing.TB, o *OpenedSlot, b *Bundle) []byte {
	t.Helper()
	object, err := testRoot().SealBundle(o.Private.PublicKey(), b)
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func smallBundle(id byte) *Bundle {
	return &Bundle{Generation: 4, Slot: SlotID{id}, Writes: map[uint32]WriteSecret{1: testW}, Chunker: fixed(0x63)}
}

func TestBundle(t *testing.T) {
	o := testOpened(t, 1)
	b := smallBundle(1)
	b.Writes = map[uint32]WriteSecret{0: fixed(1), 7: fixed(2), 1 << 31: fixed(3), 1<<32 - 1: fixed(4)}
	b.Read = map[uint32]*ReadPrivate{0: testReadKey(t, 0), 1<<32 - 1: testReadKey(t, 1<<32-1)}
	b.Root, b.Identity = testRoot(), testIdentity(t, 2)
	got, err := o.OpenBundle(4, sealBundle(t, o, b))
	if err != nil {
		t.Fatal(err)
	}
	if got.Generation != 4 || got.Slot != b.Slot || got.Chunker != b.Chunker || len(got.Writes) != 4 || len(got.Read) != 2 {
		t.Fatalf("generation %d, %d write secrets, %d read keys", got.Generation, len(got.Writes), len(got.Read))
	}
	for e, w := range b.Writes {
		if got.Writes[e] != w {
			t.Errorf("write secret %d differs", e)
		}
	}
	for e, k := range b.Read {
		if g := got.Read[e]; g == nil || g.Epoch != e || !g.RSA.Equal(k.RSA) {
			t.Errorf("read key %d differs", e)
		}
	}
	if !got.Root.key.Equal(b.Root.key) || got.Root.Repo != testRepo || got.Identity.Host != b.Identity.Host {
		t.Error("root or identity differ")
	}
	if got, err = o.OpenBundle(4, sealBundle(t, o, smallBundle(1))); err != nil || got.Root != nil || got.Identity != nil || len(got.Read) != 0 {
		t.Errorf("a reader's bundle: %v, %v", got, err)
	}
}

// TestBundleManyEpochs checks that a key that was rotated for years still opens.
func TestBundleManyEpochs(t *testing.T) {
	o, b := testOpened(t, 1), smallBundle(1)
	b.Read = make(map[uint32]*ReadPrivate)
	k := testReadKey(t, 0)
	n := uint32(40)
	if raceEnabled {
		n = 15
	}
	for e := range n {
		b.Read[e] = &ReadPrivate{Epoch: e, RSA: k.RSA, HPKE: k.HPKE}
		b.Writes[e] = testW
	}
	got, err := o.OpenBundle(4, sealBundle(t, o, b))
	if err != nil || len(got.Read) != int(n) {
		t.Fatal(err)
	}
	for e := range uint32(30_000) {
		b.Writes[e] = testW
	}
	if _, err := testRoot().SealBundle(o.Private.PublicKey(), b); err == nil {
		t.Error("a bundle was sealed that is too long to be opened")
	}
}

func TestSealBundleRefused(t *testing.T) {
	pub := testOpened(t, 1).Private.PublicKey()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Bundle){
		"no write secret":            func(b *Bundle) { b.Writes = nil },
		"no read key":                func(b *Bundle) { b.Read = map[uint32]*ReadPrivate{3: nil} },
		"read key of other epoch":    func(b *Bundle) { b.Read = map[uint32]*ReadPrivate{3: testReadKey(t, 2)} },
		"another root":               func(b *Bundle) { b.Root = &Root{Repo: testRepo, key: key} },
		"root of another repository": func(b *Bundle) { b.Root = &Root{key: testRoot().key} },
	} {
		b := smallBundle(1)
		change(b)
		if _, err := testRoot().SealBundle(pub, b); err == nil {
			t.Errorf("%s was sealed", what)
		}
	}
}

func TestBundleRefused(t *testing.T) {
	t.Parallel()
	o := testOpened(t, 1)
	object := sealBundle(t, o, smallBundle(1))
	refused := func(what string, o *OpenedSlot, generation uint64, b []byte, want error) {
		t.Helper()
		if got, err := o.OpenBundle(generation, b); got != nil || !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	flips(object, 9, func(bit int, b []byte) {
		want := ErrOpen
		if bit/8 == 8 {
			want = ErrFormat
		}
		refused(fmt.Sprint("bit ", bit), o, 4, b, want)
	})
	cuts(object, func(b []byte) { refused(fmt.Sprint("length ", len(b)), o, 4, b, ErrOpen) })
	refused("over the limit", o, 4, make([]byte, maxSealed+1), ErrOpen)
	refused("older", o, 3, object, ErrOpen)
	refused("newer", o, 5, object, ErrOpen)
	refused("other slot", testOpened(t, 2), 4, object, ErrOpen)
	same := testOpened(t, 1)
	same.Slot.ID = SlotID{2}
	refused("same key, other slot", same, 4, object, ErrOpen)
	same = testOpened(t, 1)
	same.Repo = RepoID{}
	refused("other repository", same, 4, object, ErrOpen)
	same = testOpened(t, 1)
	same.Root = testIdentity(t, 9).Sign.Public().(ed25519.PublicKey)
	refused("other root", same, 4, object, ErrSignature)

	// What only somebody who holds the root's or a slot's secrets can make.
	r, info := testRoot(), bundleInfo(testRepo, SlotID{1}, 4)
	seal := func(h Header, about string, body []byte) []byte {
		b, err := r.sealSigned(o.Private.PublicKey(), h, info, about, body)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := bundleForm{Generation: 4, Slot: SlotID{1}, Writes: []writeForm{{1, testW}}}
	about := SlotID{1}.String()
	if _, err := o.OpenBundle(4, seal(Header{Type: TypeBundle}, about, canon.Marshal(good))); err != nil {
		t.Fatal(err)
	}
	refused("signed for another slot", o, 4, seal(Header{Type: TypeBundle}, SlotID{2}.String(), canon.Marshal(good)), ErrSignature)
	refused("header of a grant", o, 4, seal(Header{Type: TypeGrant}, about, canon.Marshal(good)), ErrOpen)
	refused("header with a variant", o, 4, seal(Header{Type: TypeBundle, Variant: 1}, about, canon.Marshal(good)), ErrOpen)
	refused("no CBOR", o, 4, seal(Header{Type: TypeBundle}, about, []byte("body")), ErrOpen)
	for what, c := range map[string]struct {
		change func(*bundleForm)
		want   error
	}{
		"inner generation":    {func(f *bundleForm) { f.Generation = 3 }, ErrOpen},
		"inner slot":          {func(f *bundleForm) { f.Slot = SlotID{2} }, ErrOpen},
		"no write secret":     {func(f *bundleForm) { f.Writes = nil }, ErrOpen},
		"double epoch":        {func(f *bundleForm) { f.Writes = []writeForm{{1, testW}, {1, WriteSecret{}}} }, ErrOpen},
		"unordered epochs":    {func(f *bundleForm) { f.Writes = []writeForm{{2, testW}, {1, testW}} }, ErrOpen},
		"short root":          {func(f *bundleForm) { f.Root = make([]byte, 31) }, ErrOpen},
		"another root's seed": {func(f *bundleForm) { f.Root = make([]byte, 32) }, ErrSignature},
		"read key policy":     {func(f *bundleForm) { f.Read = []ReadKeyForm{{Wrap: 9}} }, ErrPolicy},
	} {
		f := good
		c.change(&f)
		refused(what, o, 4, seal(Header{Type: TypeBundle}, about, canon.Marshal(f)), c.want)
	}
	if _, err := r.sealSigned(o.Private.PublicKey(), Header{Type: TypeBundle}, info, about, make([]byte, 1<<20)); err == nil {
		t.Error("a bundle over the limit was sealed")
	}
	// A slot's holder wraps a rightly signed bundle again: no good for another slot.
	second := testOpened(t, 2)
	body := sealBundle(t, o, smallBundle(1))
	plain, err := openFrom(o.Private, append(bundleInfo(testRepo, SlotID{1}, 4), body[:HeaderSize]...), body[HeaderSize:])
	if err != nil {
		t.Fatal(err)
	}
	again, err := sealTo(second.Private.PublicKey(), append(bundleInfo(testRepo, SlotID{2}, 4), body[:HeaderSize]...), plain)
	if err != nil {
		t.Fatal(err)
	}
	refused("wrapped again", second, 4, append(body[:HeaderSize:HeaderSize], again...), ErrSignature)
}

func TestGrant(t *testing.T) {
	t.Parallel()
	r, id := testRoot(), testIdentity(t, 1)
	c := testCertificate(t, 1, RoleWriter)
	g := &Grant{Epoch: 9, Writes: map[uint32]WriteSecret{8: fixed(8), 9: fixed(9)}, Chunker: fixed(3)}
	object, err := r.SealGrant(c, g)
	if err != nil {
		t.Fatal(err)
	}
	got, err := id.OpenGrant(testRepo, r.Public(), 9, object)
	if err != nil || got.Epoch != 9 || got.Host != id.Host || len(got.Writes) != 2 || got.Writes[8] != g.Writes[8] || got.Writes[9] != g.Writes[9] || got.Chunker != g.Chunker {
		t.Fatal(err)
	}
	refused := func(what string, id *Identity, repo RepoID, root ed25519.PublicKey, epoch uint32, b []byte, want error) {
		t.Helper()
		if got, err := id.OpenGrant(repo, root, epoch, b); got != nil || !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	flips(object, 9, func(bit int, b []byte) {
		want := ErrOpen
		if bit/8 == 8 {
			want = ErrFormat
		}
		refused(fmt.Sprint("bit ", bit), id, testRepo, r.Public(), 9, b, want)
	})
	cuts(object, func(b []byte) { refused(fmt.Sprint("length ", len(b)), id, testRepo, r.Public(), 9, b, ErrOpen) })
	refused("other host", testIdentity(t, 2), testRepo, r.Public(), 9, object, ErrOpen)
	same := testIdentity(t, 1)
	same.Host = HostID{5}
	refused("same key, other host", same, testRepo, r.Public(), 9, object, ErrOpen)
	refused("other repository", id, RepoID{}, r.Public(), 9, object, ErrOpen)
	refused("other epoch", id, testRepo, r.Public(), 8, object, ErrOpen)
	refused("other root", id, testRepo, id.Sign.Public().(ed25519.PublicKey), 9, object, ErrSignature)

	if _, err := r.SealGrant(c, &Grant{Epoch: 9, Writes: map[uint32]WriteSecret{8: testW}}); err == nil {
		t.Error("a grant without its own epoch was sealed")
	}
	bad := *c
	bad.HPKE = nil
	if _, err := r.SealGrant(&bad, g); err == nil {
		t.Error("a grant was sealed to no key")
	}
	for what, f := range map[string]grantForm{
		"inner epoch":   {Epoch: 8, Host: id.Host, Writes: []writeForm{{9, testW}}},
		"inner host":    {Epoch: 9, Host: HostID{5}, Writes: []writeForm{{9, testW}}},
		"missing epoch": {Epoch: 9, Host: id.Host, Writes: []writeForm{{8, testW}}},
		"double epoch":  {Epoch: 9, Host: id.Host, Writes: []writeForm{{9, testW}, {9, testW}}},
	} {
		b, err := r.sealSigned(id.HPKE.PublicKey(), Header{Type: TypeGrant, Epoch: 9}, grantInfo(testRepo, id.Host, 9), id.Host.String(), canon.Marshal(f))
		if err != nil {
			t.Fatal(err)
		}
		refused(what, id, testRepo, r.Public(), 9, b, ErrOpen)
	}
}

// TestSealedSwaps gives bundles and grants, made for one key, in each other's place.
func TestSealedSwaps(t *testing.T) {
	r, o, id := testRoot(), testOpened(t, 1), testIdentity(t, 1)
	c := testCertificate(t, 1, RoleWriter)
	if !bytes.Equal(c.HPKE, o.Private.PublicKey().Bytes()) {
		t.Fatal("the test's keys differ")
	}
	bundle := sealBundle(t, o, smallBundle(1))
	grant, err := r.SealGrant(c, &Grant{Epoch: 4, Writes: map[uint32]WriteSecret{4: testW}})
	if err != nil {
		t.Fatal(err)
	}
	for _, rewrite := range []bool{false, true} {
		b, g := bytes.Clone(bundle), bytes.Clone(grant)
		if rewrite {
			b[9], g[9] = byte(TypeGrant), byte(TypeBundle)
		}
		if _, err := id.OpenGrant(testRepo, r.Public(), 4, b); !errors.Is(err, ErrOpen) {
			t.Errorf("bundle as grant: %v", err)
		}
		if _, err := o.OpenBundle(4, g); !errors.Is(err, ErrOpen) {
			t.Errorf("grant as bundle: %v", err)
		}
	}
}

func TestNewRoot(t *testing.T) {
	a, b := NewRepoID(), NewRepoID()
	r, err := NewRoot(a)
	if err != nil || a == b || r.Repo != a || len(r.Public()) != 32 {
		t.Fatal(err)
	}
}
