package repo

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/stored"
)

// slotBody is a key slot's body, to craft hostile ones (crypt keeps its own form to itself).
type slotBody struct {
	ID         crypt.SlotID `cbor:"1,keyasint"`
	KDF        uint8        `cbor:"2,keyasint"`
	Iterations uint64       `cbor:"3,keyasint"`
	Salt       []byte       `cbor:"4,keyasint"`
	Commit     []byte       `cbor:"5,keyasint"`
	Public     []byte       `cbor:"6,keyasint"`
	Sealed     []byte       `cbor:"7,keyasint"`
	Label      []byte       `cbor:"8,keyasint"`
	Epoch      uint32       `cbor:"9,keyasint"`
}

// craft changes a slot, and signs it by root or, with nil, leaves the old signature.
func craft(t *testing.T, object []byte, root *crypt.Root, change func(*slotBody)) []byte {
	t.Helper()
	signed, err := crypt.ParseSigned(object[crypt.HeaderSize:])
	if err != nil {
		t.Fatal(err)
	}
	var b slotBody
	if err := canon.Unmarshal(signed.Body, &b); err != nil {
		t.Fatal(err)
	}
	change(&b)
	signed.Body = canon.Marshal(b)
	out := bytes.Clone(object[:crypt.HeaderSize])
	if root != nil {
		return append(out, root.Sign(crypt.TypeKeySlot, b.ID.String(), signed.Body)...)
	}
	return append(out, canon.Marshal(signed)...)
}

func mustPut(t *testing.T, s backends.Storage, name string, b []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, b, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, s backends.Storage, prefixes ...string) {
	t.Helper()
	for _, prefix := range prefixes {
		for name := range allNames(t, s, "") {
			if strings.HasPrefix(name, prefix) {
				if err := s.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// slotNames are the main key slot's name and those of its replicas.
func slotNames(t *testing.T, s backends.Storage) (names []string) {
	t.Helper()
	for name := range allNames(t, s, "keys/") {
		names = append(names, name, "replica/1/"+name, "replica/2/"+name)
	}
	if len(names) != 3 {
		t.Fatalf("slots %v", names)
	}
	return names
}

func open(t *testing.T, s backends.Storage, word string) (*Repo, error) {
	return Open(t.Context(), s, Access{Passphrase: []byte(word)}, Options{})
}

func TestSlots(t *testing.T) {
	t.Parallel()
	base, _ := newTestRepo(t)
	root := admin(t, base).keys.Admin
	names := slotNames(t, base)
	good, err := stored.Fetch(t.Context(), base, names[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, base, "not the passphrase"); !errors.Is(err, crypt.ErrPassphrase) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, err := open(t, base, ""); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("no passphrase: %v", err)
	}
	for what, f := range map[string]func(*slotBody){
		"1 iteration":     func(b *slotBody) { b.Iterations = 1 },
		"2^31 iterations": func(b *slotBody) { b.Iterations = 1 << 31 },
		"2^63 iterations": func(b *slotBody) { b.Iterations = 1 << 63 },
		"another KDF":     func(b *slotBody) { b.KDF = 2 },
	} {
		for _, by := range []*crypt.Root{nil, root} {
			s := base.Clone()
			bad := craft(t, good, by, f)
			for _, name := range names {
				mustPut(t, s, name, bad)
			}
			began := time.Now()
			if _, err := open(t, s, passphrase); !errors.Is(err, crypt.ErrPolicy) {
				t.Errorf("%s: %v", what, err)
			}
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("%s: refused after %v", what, d)
			}
			// One good copy is enough, and it is the one that is used.
			mustPut(t, s, names[2], good)
			if by == nil && !race {
				r, err := open(t, s, passphrase)
				if err != nil {
					t.Fatalf("%s, with a good replica: %v", what, err)
				}
				if problemsWith(t, r, names[0], ErrTampered) != 1 {
					t.Errorf("%s: %v", what, r.Problems())
				}
			}
		}
	}
	// Damage anywhere in the main copy: the replicas answer.
	for _, at := range []int{0, 9, 20, 60, len(good) / 2, len(good) - 1} {
		if race && at != 60 {
			continue
		}
		s := base.Clone()
		bad := bytes.Clone(good)
		bad[at] ^= 4
		mustPut(t, s, names[0], bad)
		r, err := open(t, s, passphrase)
		if err != nil {
			t.Errorf("byte %d of the slot: %v", at, err)
		} else if len(r.Problems()) != 1 {
			t.Errorf("byte %d: %v", at, r.Problems())
		}
	}
	for what, f := range map[string]func(s *mem.Store){
		"empty":   func(s *mem.Store) { mustPut(t, s, names[0], nil) },
		"huge":    func(s *mem.Store) { mustPut(t, s, names[0], make([]byte, 1<<20)) },
		"missing": func(s *mem.Store) { remove(t, s, names[0]) },
	} {
		s := base.Clone()
		f(s)
		if _, err := open(t, s, passphrase); err != nil {
			t.Errorf("%s slot: %v", what, err)
		}
	}
	none := base.Clone()
	remove(t, none, "keys/", "replica/1/keys/", "replica/2/keys/")
	if _, err := open(t, none, passphrase); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("no slots: %v", err)
	}
	noBundle := base.Clone()
	remove(t, noBundle, "bundles/")
	if _, err := open(t, noBundle, passphrase); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("no bundle: %v", err)
	}
	unread := fault.New(base.Clone(), fault.Rule{Op: fault.Stat, Prefix: "keys/", Sticky: true}, fault.Rule{Op: fault.Stat, Prefix: "replica/1/keys/", Sticky: true})
	if _, err := open(t, unread, passphrase); err != nil {
		t.Errorf("two copies on bad sectors: %v", err)
	}
	unread.Add(fault.Rule{Op: fault.Stat, Prefix: "replica/2/keys/", Sticky: true})
	if _, err := open(t, unread, passphrase); !errors.Is(err, ErrStorage) || errors.Is(err, crypt.ErrPassphrase) {
		t.Errorf("three copies on bad sectors: %v", err)
	}
}

// TestBundles has a newer bundle, which counts, and an older one, which counts only where the newer one is damaged: a storage that fails is no
// reason to go on with old keys.
func TestBundles(t *testing.T) {
	t.Parallel()
	base, _ := newTestRepo(t)
	r := admin(t, base)
	slots, _, err := r.ring.Slots(t.Context(), "")
	if err != nil || len(slots) != 1 {
		t.Fatal(slots, err)
	}
	b := &crypt.Bundle{Generation: 2, Slot: slots[0].ID, Writes: map[uint32]crypt.WriteSecret{1: r.keys.Writes[1], 2: {9}}, Chunker: r.keys.Chunker,
		Read: r.keys.Read, Root: r.keys.Admin, Identity: r.keys.Identity}
	object, err := r.keys.Admin.SealBundle(slots[0].Public, b)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("bundles/2-%v-%v", b.Slot, crypt.Sum(object))
	mustPut(t, base, name, object)
	if r, err := open(t, base, passphrase); err != nil || len(r.keys.Writes) != 2 {
		t.Errorf("the newer bundle: %v", err)
	}
	if _, err := open(t, fault.New(base, fault.Rule{Op: fault.Get, Prefix: name}), passphrase); !errors.Is(err, ErrStorage) {
		t.Errorf("the newer bundle cannot be read: %v", err)
	}
	mustPut(t, base, name, flip(object))
	if r, err := open(t, base, passphrase); err != nil || len(r.keys.Writes) != 1 || problemsWith(t, r, name, ErrDamaged) != 1 {
		t.Errorf("the newer bundle is damaged: %v", err)
	}
}

// TestJunkSlots puts slots of a stranger before the real one: they neither hide it nor cost more than a bounded number of derivations.
func TestJunkSlots(t *testing.T) {
	t.Parallel()
	base, _ := newTestRepo(t)
	good, err := stored.Fetch(t.Context(), base, slotNames(t, base)[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range 25 {
		junk := craft(t, good, nil, func(b *slotBody) { b.ID = crypt.SlotID{0, 0, byte(i)} })
		mustPut(t, base, "keys/"+crypt.SlotID{0, 0, byte(i)}.String(), junk)
	}
	if r, err := open(t, base, passphrase); err != nil {
		t.Errorf("with junk slots: %v", err)
	} else if n := problemsWith(t, r, "keys/", ErrTampered); n != 25 {
		t.Errorf("%d problems", n)
	}
	if _, err := open(t, base, "not the passphrase"); !errors.Is(err, crypt.ErrPassphrase) {
		t.Errorf("wrong passphrase, with junk slots: %v", err)
	}
	if race {
		return // the rest derives 20 keys
	}
	id := strings.TrimPrefix(slotNames(t, func() backends.Storage { s, _ := newTestRepo(t); return s }())[0], "keys/")
	remove(t, base, "keys/"+id, "replica/")
	_, err = open(t, base, passphrase)
	if !errors.Is(err, keyring.ErrNoKey) || !strings.Contains(err.Error(), "hint") {
		t.Errorf("junk slots alone: %v", err)
	}
	if _, err := Open(t.Context(), base, Access{Passphrase: []byte(passphrase), Hint: id[:8]}, Options{}); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("a hint that fits nothing: %v", err)
	}
}

func TestConfigs(t *testing.T) {
	t.Parallel()
	base, c := newTestRepo(t)
	other := mem.New(time.Now)
	if _, err := MakeRepo(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	good, err := stored.Fetch(t.Context(), base, "config")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := stored.Fetch(t.Context(), other, "config")
	if err != nil {
		t.Fatal(err)
	}
	access := Access{Credential: c}
	for _, name := range format.ConfigNames {
		for what, b := range map[string][]byte{"flipped": flip(good), "empty": {}, "foreign": foreign, "huge": make([]byte, 1<<20)} {
			s := base.Clone()
			mustPut(t, s, name, b)
			r, err := Open(t.Context(), s, access, Options{})
			if err != nil {
				t.Errorf("%s %s: %v", what, name, err)
				continue
			}
			// The replicas are read where the first one is not good; a check reads them, as it must.
			if p := r.Problems(); name == format.ConfigNames[0] && (len(p) != 1 || p[0].Object != name) || name != format.ConfigNames[0] && len(p) != 0 {
				t.Errorf("%s %s: %v", what, name, p)
			}
			if err := r.CheckObject(name, b); !stored.Isolated(err) {
				t.Errorf("checking %s %s: %v", what, name, err)
			}
		}
		s := base.Clone()
		remove(t, s, name)
		if r, err := Open(t.Context(), s, access, Options{}); err != nil || (len(r.Problems()) == 1) != (name == format.ConfigNames[0]) {
			t.Errorf("%s missing: %v", name, err)
		}
	}
	all := func(b []byte) *mem.Store {
		s := base.Clone()
		for _, name := range format.ConfigNames {
			mustPut(t, s, name, b)
		}
		return s
	}
	if _, err := Open(t.Context(), all(flip(good)), access, Options{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("all configs damaged: %v", err)
	}
	if _, err := Open(t.Context(), all(foreign), access, Options{}); !errors.Is(err, ErrForeign) || !errors.Is(err, ErrTampered) {
		t.Errorf("another repository's config: %v", err)
	}
	if _, err := Open(t.Context(), other, access, Options{}); !errors.Is(err, ErrForeign) {
		t.Errorf("another repository in this place: %v", err)
	}
	// Without a credential the first good copy counts, and a check tells of others than it.
	mixed := base.Clone()
	mustPut(t, mixed, format.ConfigNames[2], foreign)
	r, err := open(t, mixed, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckObject(format.ConfigNames[2], foreign); !errors.Is(err, ErrTampered) {
		t.Errorf("another repository's config in a replica: %v", err)
	}
	// The passphrase alone finds the swap too: the slot knows its root.
	if _, err := open(t, all(foreign), passphrase); err == nil || errors.Is(err, crypt.ErrPassphrase) {
		t.Errorf("another repository's config, by passphrase: %v", err)
	}
	if _, err := Open(t.Context(), all(bytes.Replace(good, []byte(`"packhold": 1`), []byte(`"packhold": 2`), 1)), access, Options{}); !errors.Is(err, crypt.ErrFormat) {
		t.Errorf("a newer format: %v", err)
	}
	none := base.Clone()
	remove(t, none, format.ConfigNames[:]...)
	if _, err := Open(t.Context(), none, access, Options{}); !errors.Is(err, ErrNoConfig) {
		t.Errorf("no config: %v", err)
	}
	if _, err := Open(t.Context(), mem.New(time.Now), access, Options{}); !errors.Is(err, ErrNoRepository) {
		t.Errorf("an empty place: %v", err)
	}
}

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

// TestSecretsStayInside prints what holds secrets in every way that fmt knows.
func TestSecretsStayInside(t *testing.T) {
	s, c := newTestRepo(t)
	r := admin(t, s)
	w := c.Writes[1]
	for _, v := range []any{*r.keys, r.keys, Access{Credential: c, Passphrase: []byte(passphrase)}, &Access{Passphrase: []byte(passphrase)}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
			got := fmt.Sprintf(verb, v)
			for _, secret := range []string{passphrase, fmt.Sprintf("%x", passphrase), fmt.Sprint([]byte(passphrase)), fmt.Sprint(c.Chunker[:]),
				fmt.Sprintf("%x", c.Chunker[:]), fmt.Sprint([32]byte(w)), fmt.Sprintf("%x", [32]byte(w))} {
				if strings.Contains(got, strings.Trim(secret, "[]")) {
					t.Errorf("%T by %s: %s", v, verb, got)
				}
			}
		}
	}
}
