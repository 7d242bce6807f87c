package keyring

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo/format"
)

var testRepo = crypt.RepoID{1, 2, 3}

// objects is a storage in memory.
type objects struct {
	files    map[string][]byte
	failing  string // prefix of names that cannot be read or listed
	rejected map[string]bool
}

var errDisk = errors.New("the disk fails")

func (o *objects) List(_ context.Context, prefix string) (names []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(o.files)) {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names, nil
}

func (o *objects) Fetch(_ context.Context, name string) ([]byte, error, error) {
	if o.failing != "" && strings.HasPrefix(name, o.failing) {
		return nil, nil, errDisk
	}
	b, ok := o.files[name]
	if !ok {
		return nil, fs.ErrNotExist, nil
	}
	return bytes.Clone(b), nil, nil
}

func (o *objects) Reject(name string, why error, forged bool) error {
	if o.rejected == nil {
		o.rejected = map[string]bool{}
	}
	o.rejected[name] = forged
	return why
}

func newRoot(t *testing.T) *crypt.Root {
	t.Helper()
	r, err := crypt.NewRoot(testRepo)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// succeed stores a succession and returns its name.
func (o *objects) succeed(t *testing.T, old, next *crypt.Root) string {
	t.Helper()
	name, b, err := format.SealSuccession(old, next, 5)
	if err != nil {
		t.Fatal(err)
	}
	o.put(name, b)
	return name
}

func (o *objects) put(name string, b []byte) {
	if o.files == nil {
		o.files = map[string][]byte{}
	}
	o.files[name] = b
}

func openRing(t *testing.T, o *objects, pinned *crypt.Root) *Ring {
	t.Helper()
	k, err := Open(t.Context(), o, testRepo, pinned.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRoots(t *testing.T) {
	a, b, c, stranger, other := newRoot(t), newRoot(t), newRoot(t), newRoot(t), newRoot(t)
	o := new(objects)
	o.succeed(t, b, c)
	name := o.succeed(t, a, b)
	o.succeed(t, c, b) // a circle
	o.succeed(t, stranger, other)
	believes := func(k *Ring) (who string) {
		for i, r := range []*crypt.Root{a, b, c, stranger, other} {
			if k.Believes(r.Public()) {
				who += string("abcso"[i])
			}
		}
		return who
	}
	k := openRing(t, o, a)
	if got := believes(k); got != "abc" || len(k.Roots()) != 3 || !bytes.Equal(k.Roots()[0], a.Public()) {
		t.Errorf("from the first root: %s", got)
	}
	if k.Pin(b.Public()); believes(k) != "bc" {
		t.Errorf("from its successor: %s", believes(k))
	}
	if got := believes(openRing(t, o, other)); got != "o" {
		t.Errorf("from the end of another line: %s", got)
	}
	if len(o.rejected) > 0 {
		t.Errorf("rejected %v", o.rejected)
	}
	// Signed by one of the two only, damaged, or of another repository: nobody follows.
	whole := o.files[name]
	onlyOld := func(sigBy *crypt.Root) []byte {
		s := format.Succession{Old: a.Public(), New: stranger.Public(), Time: 5}
		signed, err := crypt.ParseSigned(sigBy.Sign(crypt.TypeRoots, "successor", canon.Marshal(s)))
		if err != nil {
			t.Fatal(err)
		}
		s.Sig = signed.Sig
		return append(crypt.Header{Type: crypt.TypeRoots}.Append(nil), sigBy.Sign(crypt.TypeRoots, "", canon.Marshal(s))...)
	}
	for what, x := range map[string]struct {
		object []byte
		forged bool
	}{
		"by the old root alone": {onlyOld(a), true},
		"by the new root alone": {onlyOld(stranger), true},
		"cut":                   {whole[:len(whole)-1], false},
		"empty":                 {nil, false},
	} {
		bad := new(objects)
		name := "roots/" + crypt.Sum(x.object).String()
		bad.put(name, x.object)
		if got := believes(openRing(t, bad, a)); got != "a" {
			t.Errorf("%s: believes %s", what, got)
		}
		if forged, ok := bad.rejected[name]; !ok || forged != x.forged {
			t.Errorf("%s: rejected %v", what, bad.rejected)
		}
	}
	misnamed := new(objects)
	misnamed.put("roots/"+strings.Repeat("0", 64), whole)
	if got := believes(openRing(t, misnamed, a)); got != "a" || len(misnamed.rejected) != 1 {
		t.Errorf("under another name: %s, %v", got, misnamed.rejected)
	}
	if k, err := Open(t.Context(), o, crypt.RepoID{9}, a.Public()); err != nil || believes(k) != "a" {
		t.Errorf("in another repository: %v", err)
	}
	o.failing = name
	if _, err := Open(t.Context(), o, testRepo, a.Public()); !errors.Is(err, errDisk) {
		t.Errorf("a succession that cannot be read: %v", err)
	}
	many := new(objects)
	for i := range maxRoots + 1 {
		many.put("roots/"+crypt.Sum([]byte{byte(i), byte(i >> 8)}).String(), nil)
	}
	openRing(t, many, a)
	if !many.rejected["roots/"] {
		t.Error("too many successions: nothing is said")
	}
}

func TestGrant(t *testing.T) {
	root, next, stranger := newRoot(t), newRoot(t), newRoot(t)
	id, err := crypt.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	someone, err := crypt.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	chunker := [32]byte{7}
	secrets := func(epochs ...uint32) map[uint32]crypt.WriteSecret {
		m := map[uint32]crypt.WriteSecret{}
		for _, e := range epochs {
			m[e] = crypt.WriteSecret{byte(e)}
		}
		return m
	}
	held := secrets(1, 2)
	// grant stores one and returns its name.
	grant := func(o *objects, by *crypt.Root, to *crypt.Identity, g crypt.Grant) string {
		t.Helper()
		b, err := by.SealGrant(to.Certificate("host", crypt.RoleWriter, 1, time.Unix(5, 0)), &g)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("grants/%d-%v-%v", g.Epoch, to.Host, crypt.Sum(b))
		o.put(name, b)
		return name
	}
	g := func(epochs ...uint32) crypt.Grant {
		return crypt.Grant{Epoch: epochs[len(epochs)-1], Writes: secrets(epochs...), Chunker: chunker}
	}
	find := func(o *objects) (uint32, error) {
		t.Helper()
		got, err := openRing(t, o, root).Grant(t.Context(), id, held, chunker)
		if got == nil {
			return 0, err
		}
		if got.Writes[got.Epoch] != (crypt.WriteSecret{byte(got.Epoch)}) {
			t.Errorf("secrets %v", got.Writes)
		}
		return got.Epoch, err
	}
	fresh := func() *objects {
		o := new(objects)
		grant(o, root, id, g(1))
		grant(o, root, id, g(1, 2))
		return o
	}
	other := g(1, 2, 3)
	other.Chunker = [32]byte{8}
	changed := g(1, 2, 3)
	changed.Writes[2] = crypt.WriteSecret{99}
	for what, x := range map[string]struct {
		add    func(o *objects) string
		want   uint32
		reject bool // and what add stored is rejected as
		forged bool
	}{
		"nothing new":            {func(*objects) string { return "" }, 0, false, false},
		"a new epoch":            {func(o *objects) string { return grant(o, root, id, g(1, 2, 3)) }, 3, false, false},
		"the newest of two":      {func(o *objects) string { grant(o, root, id, g(1, 2, 3)); return grant(o, root, id, g(1, 2, 3, 10)) }, 10, false, false},
		"of another host":        {func(o *objects) string { return grant(o, root, someone, g(1, 2, 3)) }, 0, false, false},
		"by a stranger":          {func(o *objects) string { return grant(o, stranger, id, g(1, 2, 3)) }, 0, true, true},
		"by a root to come":      {func(o *objects) string { return grant(o, next, id, g(1, 2, 3)) }, 0, true, true},
		"by a successor":         {func(o *objects) string { o.succeed(t, root, next); return grant(o, next, id, g(1, 2, 3)) }, 3, false, false},
		"another chunker secret": {func(o *objects) string { return grant(o, root, id, other) }, 0, true, true},
		"another old secret":     {func(o *objects) string { return grant(o, root, id, changed) }, 0, true, true},
		"a bad one hides no older one": {func(o *objects) string {
			grant(o, root, id, g(1, 2, 3))
			return grant(o, stranger, id, g(1, 2, 3, 4))
		}, 3, true, true},
		"damaged": {func(o *objects) string {
			name := grant(o, root, id, g(1, 2, 3))
			o.files[name][200] ^= 1
			return name
		}, 0, true, false},
		"under another epoch": {func(o *objects) string {
			name := grant(o, root, id, g(1, 2, 3))
			moved := strings.Replace(name, "grants/3-", "grants/4-", 1)
			o.files[moved] = o.files[name]
			delete(o.files, name)
			return moved
		}, 0, true, false},
		"sealed to another host": {func(o *objects) string {
			name := grant(o, root, someone, g(1, 2, 3))
			moved := strings.Replace(name, someone.Host.String(), id.Host.String(), 1)
			o.files[moved] = o.files[name]
			return moved
		}, 0, true, false},
		"an epoch that is none": {func(o *objects) string {
			name := fmt.Sprintf("grants/4294967299-%v-%v", id.Host, strings.Repeat("0", 64))
			o.put(name, nil)
			return name
		}, 0, false, false},
	} {
		o := fresh()
		name := x.add(o)
		got, err := find(o)
		if err != nil || got != x.want {
			t.Errorf("%s: epoch %d, want %d, %v", what, got, x.want, err)
		}
		if forged, ok := o.rejected[name]; ok != x.reject || forged != x.forged {
			t.Errorf("%s: rejected %v", what, o.rejected)
		}
	}
	o := fresh()
	grant(o, root, id, g(1, 2, 3))
	o.failing = grant(o, root, id, g(1, 2, 3, 4))
	if _, err := find(o); !errors.Is(err, errDisk) {
		t.Errorf("the newest cannot be read: %v", err)
	}
}

// TestUnlock has slots and bundles of a root and of its successor.
func TestUnlock(t *testing.T) {
	word := []byte("correct horse battery")
	old, next, stranger := newRoot(t), newRoot(t), newRoot(t)
	// slot stores a slot that names by, with bundles of the generations 1, 2 and so on signed by the given roots.
	slot := func(o *objects, by *crypt.Root, bundles ...*crypt.Root) {
		t.Helper()
		b, s, err := by.NewSlot(word, crypt.MinIterations, "label", crypt.WriteSecret{1}, 1)
		if err != nil {
			t.Fatal(err)
		}
		o.put("keys/"+s.ID.String(), b)
		for i, r := range bundles {
			b, err := r.SealBundle(s.Public, &crypt.Bundle{Generation: uint64(i + 1), Slot: s.ID, Writes: map[uint32]crypt.WriteSecret{1: {1}}, Root: r})
			if err != nil {
				t.Fatal(err)
			}
			o.put(fmt.Sprintf("bundles/%d-%v-%v", i+1, s.ID, crypt.Sum(b)), b)
		}
	}
	for what, x := range map[string]struct {
		store      func(o *objects)
		root       *crypt.Root // of the slot that opens
		generation uint64
		rejected   int
	}{
		"one root":                  {func(o *objects) { slot(o, old, old) }, old, 1, 0},
		"a bundle by a successor":   {func(o *objects) { o.succeed(t, old, next); slot(o, old, old, next) }, old, 2, 0},
		"a bundle by a stranger":    {func(o *objects) { slot(o, old, old, stranger) }, old, 1, 1},
		"a slot by a successor":     {func(o *objects) { o.succeed(t, old, next); slot(o, next, next) }, next, 1, 0},
		"its bundle by the old one": {func(o *objects) { o.succeed(t, old, next); slot(o, next, next, old) }, next, 1, 1},
		"a slot by a stranger":      {func(o *objects) { slot(o, stranger, stranger) }, nil, 0, 1},
		"a slot by a root to come":  {func(o *objects) { slot(o, next, next) }, nil, 0, 1},
		"no bundle":                 {func(o *objects) { slot(o, old) }, nil, 0, 1},
		"nothing":                   {func(o *objects) {}, nil, 0, 0},
	} {
		o := new(objects)
		x.store(o)
		got, err := openRing(t, o, old).Unlock(t.Context(), word, "")
		switch {
		case x.root == nil && err == nil:
			t.Errorf("%s: opens", what)
		case x.root != nil && err != nil:
			t.Errorf("%s: %v", what, err)
		case x.root != nil && (!got.Root.Equal(x.root.Public()) || got.Bundle.Generation != x.generation):
			t.Errorf("%s: generation %d", what, got.Bundle.Generation)
		}
		if len(o.rejected) != x.rejected {
			t.Errorf("%s: rejected %v", what, o.rejected)
		}
	}
	o := new(objects)
	slot(o, old, old)
	if _, err := openRing(t, o, old).Unlock(t.Context(), []byte("another long passphrase"), ""); !errors.Is(err, crypt.ErrPassphrase) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, err := openRing(t, new(objects), old).Unlock(t.Context(), word, ""); !errors.Is(err, ErrNoKey) {
		t.Errorf("no slot: %v", err)
	}
}

func TestOpenPaper(t *testing.T) {
	word := []byte("correct horse battery")
	old, next := newRoot(t), newRoot(t)
	paper, err := crypt.SealPaper(word, testRepo, next.Public(), &crypt.Bundle{Writes: map[uint32]crypt.WriteSecret{1: {1}}, Root: next})
	if err != nil {
		t.Fatal(err)
	}
	o := new(objects)
	if _, err := openRing(t, o, old).OpenPaper(word, paper); !errors.Is(err, crypt.ErrSignature) || !o.rejected["key file"] {
		t.Errorf("of another root: %v", err)
	}
	o.succeed(t, old, next)
	if got, err := openRing(t, o, old).OpenPaper(word, paper); err != nil || !got.Root.Equal(ed25519.PublicKey(next.Public())) {
		t.Errorf("of a successor: %v", err)
	}
}
