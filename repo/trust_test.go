package repo

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo/format"
)

// nextEpoch stores settings of the next generation, which announce write epoch 2 and are sealed under it, and returns its secret.
func nextEpoch(t *testing.T, s backends.Storage) (*Repo, crypt.WriteSecret) {
	t.Helper()
	a := admin(t, s)
	w := crypt.WriteSecret{2, 2, 2}
	a.keys.addWrites(map[uint32]crypt.WriteSecret{2: w})
	sum := crypt.Sum(mustGet(t, s, "settings/1"))
	next := *a.settings
	next.Generation, next.Previous, next.WriteEpoch = 2, sum[:], 2
	a.settings = &next
	put(t, a, crypt.TypeSettings, "settings/2", next, true)
	return a, w
}

// putGrant stores a grant of epoch 2 for host c, signed by root.
func putGrant(t *testing.T, s backends.Storage, root *crypt.Root, c *crypt.Credential, w crypt.WriteSecret) string {
	t.Helper()
	g, err := root.SealGrant(c.Identity.Certificate("host-a", crypt.RoleWriter, 1, time.Unix(1e9, 0)),
		&crypt.Grant{Epoch: 2, Writes: map[uint32]crypt.WriteSecret{1: c.Writes[1], 2: w}, Chunker: c.Chunker})
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("grants/2-%v-%v", c.Identity.Host, crypt.Sum(g))
	mustPut(t, s, name, g)
	return name
}

// TestGrants has a write epoch begin while a host is away: its credential knows the first one only.
func TestGrants(t *testing.T) {
	st, c := newTestRepo(t)
	store(t, openWriter(t, st, c), []byte("before"))
	a, w := nextEpoch(t, st)

	without := openWriter(t, st.Clone(), c)
	if without.settings.Generation != 1 || problemsWith(t, without, "settings/2", ErrDamaged) != 1 {
		t.Errorf("without a grant: generation %d, %v", without.settings.Generation, without.Problems())
	}
	forged := st.Clone()
	stranger, err := crypt.NewRoot(c.Repo)
	if err != nil {
		t.Fatal(err)
	}
	name := putGrant(t, forged, stranger, c, crypt.WriteSecret{3})
	if r := openWriter(t, forged, c); len(r.keys.Writes) != 1 || problemsWith(t, r, name, ErrTampered) != 1 {
		t.Errorf("a grant that the root did not sign: %d secrets, %v", len(r.keys.Writes), r.Problems())
	}

	putGrant(t, st, a.keys.Admin, c, w)
	r := openWriter(t, st, c)
	if r.settings.WriteEpoch != 2 || r.keys.Writes[2] != w || len(r.Problems()) > 0 {
		t.Fatalf("with a grant: epoch %d, %v", r.settings.WriteEpoch, r.Problems())
	}
	if len(c.Writes) != 1 {
		t.Error("the caller's credential was changed")
	}
	snap := store(t, r, []byte("before"), []byte("after"))
	if snap.Stats.Blobs != 1 || len(snap.Prev) != 1 { // the tree page is there too
		t.Errorf("%d blobs stored, %d predecessors: what was stored before is not seen", snap.Stats.Blobs, len(snap.Prev))
	}
	if h, err := crypt.ParseHeader(mustGet(t, st, snap.Name)); err != nil || h.Epoch != 2 {
		t.Errorf("the snapshot is of epoch %d, %v", h.Epoch, err)
	}
	if all := snapshotsIn(t, st, c); len(all) != 2 {
		t.Errorf("%d snapshots", len(all))
	}
}

// TestSuccessor has a new root take over: what it signs counts for everybody who pinned the old one, and for nobody without the succession.
func TestSuccessor(t *testing.T) {
	t.Parallel()
	base, c := newTestRepo(t)
	a := admin(t, base)
	old := a.keys.Admin
	next, err := crypt.NewRoot(c.Repo)
	if err != nil {
		t.Fatal(err)
	}
	a.keys.Admin = next
	sum := crypt.Sum(mustGet(t, base, "settings/1"))
	settings := *a.settings
	settings.Generation, settings.Previous, settings.Parity = 2, sum[:], 3
	put(t, a, crypt.TypeSettings, "settings/2", settings, true)
	id, err := crypt.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if err := PutHost(t.Context(), a, id.Certificate("host-b", crypt.RoleWriter, 1, time.Unix(1e9, 0))); err != nil {
		t.Fatal(err)
	}
	second := *c
	second.Identity = id
	later := second // enrolled by the new root, which is all it knows
	later.Root = next.Public()
	object, slot, err := next.NewSlot([]byte("the new one's passphrase"), crypt.MinIterations, "next", c.Writes[1], 1)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, base, "keys/"+slot.ID.String(), object)
	bundle, err := next.SealBundle(slot.Public, &crypt.Bundle{Generation: 2, Slot: slot.ID, Writes: c.Writes, Chunker: c.Chunker, Read: a.keys.Read, Root: next})
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, base, fmt.Sprintf("bundles/2-%v-%v", slot.ID, crypt.Sum(bundle)), bundle)
	name, succession, err := format.SealSuccession(old, next, 5)
	if err != nil {
		t.Fatal(err)
	}

	// Without it the new root is a stranger, and so are its hosts.
	r := openWriter(t, base, c)
	if r.settings.Generation != 1 || problemsWith(t, r, "settings/2", ErrTampered) != 1 || problemsWith(t, r, "hosts/"+id.Host.String(), ErrTampered) != 1 {
		t.Errorf("without the succession: generation %d, %v", r.settings.Generation, r.Problems())
	}
	if err := r.CheckObject("keys/"+slot.ID.String(), object); !errors.Is(err, ErrTampered) {
		t.Errorf("its key slot: %v", err)
	}
	if _, err := open(t, base, "the new one's passphrase"); err == nil {
		t.Error("its passphrase opens the repository")
	}
	if _, err := Open(t.Context(), base, Access{Credential: &later}, Options{}); !errors.Is(err, ErrForeign) || !errors.Is(err, ErrTampered) {
		t.Errorf("a credential that knows it alone: %v", err)
	}
	// One that the old root signed and the new one did not is worth nothing.
	half := base.Clone()
	s := format.Succession{Old: old.Public(), New: next.Public(), Time: 5, Sig: make([]byte, 64)}
	bad := append(crypt.Header{Type: crypt.TypeRoots}.Append(nil), old.Sign(crypt.TypeRoots, "", canon.Marshal(s))...)
	badName := "roots/" + crypt.Sum(bad).String()
	mustPut(t, half, badName, bad)
	if r := openWriter(t, half, c); r.settings.Generation != 1 || problemsWith(t, r, badName, ErrTampered) != 1 {
		t.Errorf("half a succession: generation %d, %v", r.settings.Generation, r.Problems())
	}

	mustPut(t, base, name, succession)
	r = openWriter(t, base, c)
	if r.settings.Generation != 2 || r.settings.Parity != 3 || len(r.Problems()) > 0 {
		t.Errorf("with the succession: generation %d, %v", r.settings.Generation, r.Problems())
	}
	for _, object := range []string{"keys/" + slot.ID.String(), name, "config", "settings/1", "settings/2"} {
		if err := r.CheckObject(object, mustGet(t, base, object)); err != nil {
			t.Error(err)
		}
	}
	store(t, openWriter(t, base, &second), []byte("by a host of the new root"))
	if all := snapshotsIn(t, base, c); len(all) != 1 {
		t.Errorf("%d snapshots", len(all))
	}
	if keys, err := r.ListKeys(t.Context()); err != nil || len(keys) != 2 {
		t.Errorf("%d keys, %v", len(keys), err)
	}

	// Who pinned the new root alone believes the old one no more: not its settings, not its hosts; but the config is the repository's.
	for what, access := range map[string]Access{"credential": {Credential: &later}, "passphrase": {Passphrase: []byte("the new one's passphrase")}} {
		r, err := Open(t.Context(), base, access, Options{})
		if err != nil {
			t.Fatalf("by the new root's %s: %v", what, err)
		}
		if !r.keys.Root.Equal(next.Public()) || r.settings.Generation != 2 || r.trust.Certificate(c.Identity.Host) != nil || r.trust.Certificate(id.Host) == nil {
			t.Errorf("by the new root's %s: generation %d", what, r.settings.Generation)
		}
		if problemsWith(t, r, "hosts/"+c.Identity.Host.String(), ErrTampered) != 1 {
			t.Errorf("by the new root's %s: %v", what, r.Problems())
		}
		for _, p := range r.Problems() {
			if strings.Contains(p.Object, "config") || strings.HasPrefix(p.Object, "roots/") {
				t.Errorf("by the new root's %s: %v", what, p)
			}
		}
	}
}
