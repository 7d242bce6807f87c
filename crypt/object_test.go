package crypt

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// allTypes lists every type.
func allTypes() (l []Type) {
	for t := TypeDataPack; int(t) < len(typeNames); t++ {
		l = append(l, t)
	}
	return l
}

func sealTest(t testing.TB, typ Type, name string, body []byte) []byte {
	t.Helper()
	b, err := testW.SealObject(testRepo, 5, typ, name, body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestObject(t *testing.T) {
	for _, typ := range allTypes() {
		for _, n := range []int{0, 1, 251, 252, 253, 4091, 4092, 4093, 70000} {
			body := bytes.Repeat([]byte{7}, n)
			b := sealTest(t, typ, "name", body)
			if len(b) != HeaderSize+paddedSize(typ, n+4)+Overhead {
				t.Fatalf("%v of %d bytes is %d bytes", typ, n, len(b))
			}
			if h, err := ParseHeader(b); err != nil || h.Type != typ || h.Epoch != 5 || h.Variant != 0 {
				t.Fatalf("header %+v, %v", h, err)
			}
			if got, err := testW.OpenObject(testRepo, typ, "name", b); err != nil || !bytes.Equal(got, body) {
				t.Fatalf("%v of %d bytes: %v", typ, n, err)
			}
		}
	}
}

func TestObjectRefused(t *testing.T) {
	b := sealTest(t, TypeLease, "name", []byte("body"))
	refused := func(what string, w WriteSecret, repo RepoID, typ Type, name string, b []byte) {
		t.Helper()
		if got, err := w.OpenObject(repo, typ, name, b); got != nil || !errors.Is(err, ErrOpen) && !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	flips(b, 1, func(bit int, b []byte) {
		_, err := testW.OpenObject(testRepo, TypeLease, "name", b)
		if inFormat := bit/8 == 8; !errors.Is(err, ErrOpen) != inFormat || errors.Is(err, ErrFormat) != inFormat {
			t.Errorf("bit %d: %v", bit, err)
		}
	})
	cuts(b, func(b []byte) { refused(fmt.Sprint("length ", len(b)), testW, testRepo, TypeLease, "name", b) })
	refused("other W", WriteSecret{}, testRepo, TypeLease, "name", b)
	refused("other repository", testW, RepoID{}, TypeLease, "name", b)
	refused("other name", testW, testRepo, TypeLease, "nam", b)
	refused("longer name", testW, testRepo, TypeLease, "names", b)
	refused("no name", testW, testRepo, TypeLease, "", b)
	refused("too long", testW, testRepo, TypeLease, "name", make([]byte, MaxObject+1))
	for _, typ := range allTypes() {
		if typ != TypeLease {
			refused("as "+typ.String(), testW, testRepo, typ, "name", b)
		}
	}
}

// TestObjectSwaps gives every type in place of every other, as stored and with the header's type rewritten.
func TestObjectSwaps(t *testing.T) {
	for _, from := range allTypes() {
		b := sealTest(t, from, "name", []byte("body"))
		for _, to := range allTypes() {
			if from == to {
				continue
			}
			if _, err := testW.OpenObject(testRepo, to, "name", b); !errors.Is(err, ErrOpen) {
				t.Errorf("%v as %v: %v", from, to, err)
			}
			b[9] = byte(to)
			if _, err := testW.OpenObject(testRepo, to, "name", b); !errors.Is(err, ErrOpen) {
				t.Errorf("%v as %v with its header: %v", from, to, err)
			}
			b[9] = byte(from)
		}
	}
}

func TestMaxBody(t *testing.T) {
	for _, typ := range []Type{TypeSnapshot, TypeIndex} {
		if n := HeaderSize + paddedSize(typ, MaxBody+4) + Overhead; n > MaxObject {
			t.Errorf("the longest %v is sealed to %d bytes and does not open", typ, n)
		}
	}
	long := make([]byte, MaxBody+1)
	if _, err := testW.SealObject(testRepo, 0, TypeIndex, "", long); err == nil {
		t.Error("SealObject took a body over the limit")
	}
	if _, err := (SessionKey{}).SealBody(testRepo, SessionID{}, long); err == nil {
		t.Error("SealBody took a body over the limit")
	}
}

func TestPaddedSize(t *testing.T) {
	for _, typ := range []Type{TypeSnapshot, TypeIndex, TypeAuditTile} {
		last := 0
		for n := 0; n < 1<<26; n += 1 + n/977 {
			p := paddedSize(typ, n)
			if p < n || p < last || p < 256 || paddedSize(typ, p) != p {
				t.Fatalf("%v: paddedSize(%d) = %d, and of that %d", typ, n, p, paddedSize(typ, p))
			}
			if (typ == TypeSnapshot || n < 4096) && p&(p-1) != 0 {
				t.Fatalf("%v: paddedSize(%d) = %d is no power of two", typ, n, p)
			}
			if typ != TypeSnapshot && n >= 4096 && p-n > n/16 {
				t.Fatalf("%v: paddedSize(%d) = %d wastes more than 1/16", typ, n, p)
			}
			last = p
		}
	}
	for _, c := range []struct{ n, snapshot, index int }{{0, 256, 256}, {256, 256, 256}, {257, 512, 512}, {4095, 4096, 4096}, {4096, 4096, 4096},
		{4097, 8192, 4352}, {4352, 8192, 4352}, {4353, 8192, 4608}, {1 << 20, 1 << 20, 1 << 20}, {1<<20 + 1, 1 << 21, 1<<20 + 1<<16}} {
		if s, x := paddedSize(TypeSnapshot, c.n), paddedSize(TypeIndex, c.n); s != c.snapshot || x != c.index {
			t.Errorf("paddedSize(%d) = %d, index %d", c.n, s, x)
		}
	}
}

func TestUnpad(t *testing.T) {
	for _, typ := range []Type{TypeSnapshot, TypeIndex} {
		for _, n := range []int{0, 1, 252, 253, 4092, 4093, 5000} {
			body := bytes.Repeat([]byte{1}, n)
			p := pad(typ, body)
			if got, err := unpad(typ, p); err != nil || !bytes.Equal(got, body) || cap(got) != n {
				t.Fatalf("unpad(pad(%d)): %d, %v", n, len(got), err)
			}
			refused := func(what string, p []byte) {
				t.Helper()
				if _, err := unpad(typ, p); err == nil {
					t.Errorf("%v of %d: %s was accepted", typ, n, what)
				}
			}
			refused("one zero more", append(bytes.Clone(p), 0))
			refused("twice the padding", append(bytes.Clone(p), make([]byte, len(p))...))
			refused("one byte less", p[:len(p)-1])
			refused("nothing", nil)
			refused("three bytes", p[:3])
			for _, lie := range []string{"\xff\xff\xff\xff", "\xff\xff\xff\x7f", "\x00\x00\x00\x80", "\x00\x00\x01\x00"} {
				if string(p[:4]) != lie {
					refused("a lie about the length", append([]byte(lie), p[4:]...))
				}
			}
			if n+4 < len(p) {
				q := bytes.Clone(p)
				q[len(q)-1] = 1
				refused("a last byte that is not zero", q)
				q = bytes.Clone(p)
				q[n+4] = 0x80
				refused("a first byte that is not zero", q)
			}
		}
	}
}

func TestTable(t *testing.T) {
	h := Header{Type: TypeTreePack, Variant: 1, Epoch: 4, Salt: fixed(3)}
	plain := bytes.Repeat([]byte("entry"), 100)
	salt, sealed, err := testW.SealTable(testRepo, h, plain)
	if err != nil || len(sealed) != len(plain)+Overhead {
		t.Fatal(len(sealed), err)
	}
	if got, err := testW.OpenTable(testRepo, h, salt, sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatal(err)
	}
	refused := func(what string, w WriteSecret, repo RepoID, h Header, salt [32]byte, b []byte) {
		t.Helper()
		if _, err := w.OpenTable(repo, h, salt, b); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: %v", what, err)
		}
	}
	flips(sealed, 1, func(bit int, b []byte) { refused(fmt.Sprint("bit ", bit), testW, testRepo, h, salt, b) })
	cuts(sealed, func(b []byte) { refused("length", testW, testRepo, h, salt, b) })
	refused("other W", WriteSecret{}, testRepo, h, salt, sealed)
	refused("other repository", testW, RepoID{}, h, salt, sealed)
	refused("other salt", testW, testRepo, h, fixed(1), sealed)
	for what, change := range map[string]func(*Header){
		"data": func(h *Header) { h.Type = TypeDataPack }, "hash": func(h *Header) { h.Variant = 2 },
		"epoch": func(h *Header) { h.Epoch++ }, "pack": func(h *Header) { h.Salt[0]++ }, "no pack": func(h *Header) { h.Type = TypeIndex },
	} {
		other := h
		change(&other)
		refused(what, testW, testRepo, other, salt, sealed)
	}
	if _, _, err := testW.SealTable(testRepo, Header{Type: TypeIndex}, plain); err == nil {
		t.Error("a table of an index segment was sealed")
	}
}

func TestBody(t *testing.T) {
	s, session := SessionKey(fixed(8)), SessionID{1}
	b, err := s.SealBody(testRepo, session, []byte("sources and tags"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.OpenBody(testRepo, session, b); err != nil || string(got) != "sources and tags" {
		t.Fatal(err)
	}
	for what, open := range map[string]func() ([]byte, error){
		"other key":        func() ([]byte, error) { return SessionKey{}.OpenBody(testRepo, session, b) },
		"other repository": func() ([]byte, error) { return s.OpenBody(RepoID{}, session, b) },
		"other session":    func() ([]byte, error) { return s.OpenBody(testRepo, SessionID{2}, b) },
		"under W": func() ([]byte, error) {
			return WriteSecret(s).OpenObject(testRepo, TypeSnapshotBody, session.String(), b)
		},
	} {
		if _, err := open(); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: %v", what, err)
		}
	}
	flips(b, 1, func(bit int, b []byte) {
		if _, err := s.OpenBody(testRepo, session, b); !errors.Is(err, ErrOpen) && !errors.Is(err, ErrFormat) {
			t.Errorf("bit %d: %v", bit, err)
		}
	})
}

func TestLocal(t *testing.T) {
	l := LocalKey(fixed(9))
	for _, n := range []int{0, 1, 1000} {
		data := bytes.Repeat([]byte{3}, n)
		b, err := l.Seal("tree", data)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := l.Open("tree", b); err != nil || !bytes.Equal(got, data) {
			t.Fatal(err)
		}
		if _, err := l.Open("body", b); !errors.Is(err, ErrOpen) {
			t.Errorf("other purpose: %v", err)
		}
		if _, err := (LocalKey{}).Open("tree", b); !errors.Is(err, ErrOpen) {
			t.Errorf("other key: %v", err)
		}
		refused := func(_ int, b []byte) {
			if _, err := l.Open("tree", b); !errors.Is(err, ErrOpen) {
				t.Errorf("changed bytes: %v", err)
			}
		}
		flips(b, 1, refused)
		cuts(b, func(b []byte) { refused(0, b) })
	}
}

// TestPurposes checks that no two uses of a secret share a key: their HKDF infos differ for every two repositories.
func TestPurposes(t *testing.T) {
	seen := make(map[string]string)
	for _, p := range []string{"index", "snapshot", "table", "control", "pack", "body", "session", "session-commit"} {
		for _, repo := range []RepoID{{}, testRepo, RepoID([]byte("-commit---------"))} {
			k, err := deriveKey(testW[:], make([]byte, 32), p, repo)
			if err != nil {
				t.Fatal(err)
			}
			if seen[string(k)] != "" {
				t.Errorf("%s and %s share a key", p, seen[string(k)])
			}
			seen[string(k)] = p
		}
	}
	for typ, want := range map[Type]string{TypeIndex: "index", TypeSnapshot: "snapshot", TypePackTable: "table", TypeSettings: "control", TypeLease: "control"} {
		if purpose(typ) != want {
			t.Errorf("%v is under the %s key", typ, purpose(typ))
		}
	}
}

func TestSalt(t *testing.T) {
	seen := make(map[[32]byte]bool)
	for range 1000 {
		h, err := ParseHeader(sealTest(t, TypeMark, "n", []byte("same")))
		if s := NewSalt(nil); err != nil || seen[s] || seen[h.Salt] || s == h.Salt {
			t.Fatal("a salt came twice")
		} else {
			seen[s], seen[h.Salt] = true, true
		}
	}
	// Equal random bytes, as a cloned machine has them: other bytes or another place still give another salt.
	r := fixed(1)
	same := mixSalt(r, []byte("place"), []byte("plain"))
	if same != mixSalt(r, []byte("place"), []byte("plain")) {
		t.Error("a salt is not a function of its inputs")
	}
	for _, c := range [][2]string{{"place", "plaiN"}, {"placE", "plain"}, {"placep", "lain"}, {"plac", "eplain"}, {"", "placeplain"}} {
		if mixSalt(r, []byte(c[0]), []byte(c[1])) == same {
			t.Errorf("place %q and plaintext %q give the same salt", c[0], c[1])
		}
	}
	if mixSalt(fixed(2), []byte("place"), []byte("plain")) == same {
		t.Error("the random bytes do not count")
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	id, root := testIdentity(t, 0x61), testRoot()
	w := WriteSecret(fixed(0x61))
	for _, v := range []any{w, &w, SessionKey(fixed(0x61)), LocalKey(fixed(0x61)), id, *id, root, *root, map[uint32]WriteSecret{1: w},
		Bundle{Chunker: fixed(0x61)}, &Grant{Chunker: fixed(0x61)}, Credential{Chunker: fixed(0x61), Identity: id}, testReadKey(t, 1), &OpenedSlot{Root: root.Public()}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
			if s := fmt.Sprintf(verb, v); strings.Contains(s, "97") || strings.Contains(s, "61") || strings.Contains(s, "aaa") || len(s) > 60 {
				t.Errorf("%T with %s prints %s", v, verb, s)
			}
		}
	}
}
