package replicate

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo"
	"packhold/repo/audit"
	"packhold/repo/format"
)

// export writes a set, by the replicator at home.
func (h *home) export(from, medium backends.Storage, full bool) (*Result, *format.Set, error) {
	h.t.Helper()
	return Export(h.t.Context(), open(h.t, from, repo.Access{Credential: h.copy}), medium, Options{Logs: audit.Files}, full)
}

// bring takes all sets of a medium into a replica, as import does.
func (h *home) bring(medium, to backends.Storage) (all []*Result, err error) {
	h.t.Helper()
	src := open(h.t, medium, repo.Access{Credential: h.copy})
	sets, problems, err := Sets(h.t.Context(), src)
	if err != nil || len(problems) > 0 {
		h.t.Fatal(problems, err)
	}
	for _, set := range sets {
		o := h.options(to)
		o.Set = set
		res, err := Run(h.t.Context(), src, to, o)
		if err != nil {
			return all, err
		}
		all = append(all, res)
	}
	return all, WriteReceipt(h.t.Context(), open(h.t, to, repo.Access{Credential: h.copy}), medium)
}

func (h *home) mustExport(medium backends.Storage) *Result {
	h.t.Helper()
	res, _, err := h.export(h.store, medium, false)
	if err != nil || len(res.Problems) > 0 {
		h.t.Fatal(err, res.Problems)
	}
	return res
}

func (h *home) mustBring(medium, to backends.Storage) []*Result {
	h.t.Helper()
	all, err := h.bring(medium, to)
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// TestSets: a medium goes to and fro between a home and a vault that never meet. After a receipt it carries what is new and nothing else.
func TestSets(t *testing.T) {
	h, vault, medium := newHome(t), mem.New(time.Now), mem.New(time.Now)
	h.backup(h.store, 2<<20)
	h.backup(h.store, 1000)
	if res := h.mustExport(medium); len(res.Snapshots) != 2 || res.Packs < 3 {
		t.Errorf("%+v", res)
	}
	if all := h.mustBring(medium, vault); len(all) != 1 || len(all[0].Snapshots) != 2 || all[0].Missing != 0 {
		t.Errorf("%+v", all)
	}
	if got, want := whole(t, vault), whole(t, h.store); !slices.Equal(got, want) {
		t.Errorf("snapshots %v, at home %v", got, want)
	}

	// The same medium again, and another one on which only the receipt lies.
	h.backup(h.store, 3000)
	fresh := mem.New(time.Now)
	receipt := names(t, medium, "receipt/")[0]
	if err := fresh.Put(t.Context(), receipt, get(t, medium, receipt), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*mem.Store{fresh, medium} {
		if res := h.mustExport(m); len(res.Snapshots) != 1 || res.Packs != 2 {
			t.Errorf("%+v", res)
		}
	}
	if n := len(names(t, fresh, "packs/")) + len(names(t, fresh, "meta/")); n != 2 {
		t.Errorf("%d packs on the medium", n)
	}
	h.mustBring(fresh, vault)
	if got, want := whole(t, vault), whole(t, h.store); !slices.Equal(got, want) {
		t.Errorf("snapshots %v, at home %v", got, want)
	}
	if all := h.mustBring(medium, vault); len(all) != 2 || all[0].Packs+all[1].Packs != 0 {
		t.Errorf("what is there was copied again: %+v", all)
	}

	// A set that builds on what the vault never saw.
	empty := mem.New(time.Now)
	if _, err := h.bring(fresh, empty); !errors.Is(err, ErrBase) {
		t.Error(err)
	}
	if got := whole(t, empty); len(got) != 0 {
		t.Errorf("%d snapshots", len(got))
	}
	full := mem.New(time.Now)
	if err := full.Put(t.Context(), receipt, get(t, medium, receipt), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if res, _, err := h.export(h.store, full, true); err != nil || len(res.Snapshots) != 3 {
		t.Errorf("%v %+v", err, res)
	}
	h.mustBring(full, empty)
	if got := whole(t, empty); len(got) != 3 {
		t.Errorf("%d snapshots", len(got))
	}
}

// TestSetDamaged: what the medium did to its files is mended, or told; nothing that is not whole comes into the vault.
func TestSetDamaged(t *testing.T) {
	h, medium := newHome(t), mem.New(time.Now)
	h.backup(h.store, 2<<20)
	h.mustExport(medium)
	pack := names(t, medium, "packs/")[0]
	set := names(t, medium, "set/")[0]
	record := names(t, medium, "snapshots/")[0]
	for _, c := range []struct {
		what   string
		change func(m *mem.Store)
		want   error // nil: mended
	}{
		{"bit of a pack", func(m *mem.Store) { h.change(m, pack, func(b []byte) []byte { b[1000] ^= 1; return b }) }, nil},
		{"half a pack", func(m *mem.Store) { h.change(m, pack, func(b []byte) []byte { return b[:len(b)/2] }) }, ErrLost},
		{"no pack", func(m *mem.Store) { h.delete(m, pack) }, ErrLost},
		{"no record", func(m *mem.Store) { h.delete(m, record) }, ErrLost},
		{"bit of a record", func(m *mem.Store) { h.change(m, record, func(b []byte) []byte { b[100] ^= 1; return b }) }, ErrLost},
	} {
		m, vault := medium.Clone(), mem.New(time.Now)
		c.change(m)
		all, err := h.bring(m, vault)
		switch {
		case c.want != nil && !errors.Is(err, c.want):
			t.Errorf("%s: %v", c.what, err)
		case c.want == nil && (err != nil || len(all[0].Mended) != 1):
			t.Errorf("%s: %v %+v", c.what, err, all)
		}
		want := 0
		if c.want == nil {
			want = 1
		}
		if got := whole(t, vault); len(got) != want {
			t.Errorf("%s: %d snapshots", c.what, len(got))
		}
	}
	// A set that the medium changed, or that a host without the role made, is a problem and no set.
	m := medium.Clone()
	h.change(m, set, func(b []byte) []byte { b[100] ^= 1; return b })
	forged := "set/" + strings.Repeat("ab", 16)
	r := open(t, h.store, repo.Access{Credential: h.host})
	_, object, err := r.SealControl(crypt.TypeSet, forged, canon.Marshal(format.Set{ID: [16]byte{0xab}, Time: 1}))
	if err == nil {
		err = m.Put(t.Context(), forged, object, backends.PutOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	sets, problems, err := Sets(t.Context(), open(t, m, repo.Access{Credential: h.copy}))
	if err != nil || len(sets) != 0 || len(problems) != 2 {
		t.Errorf("%d sets, %v, %v", len(sets), problems, err)
	}
}

func (h *home) change(s backends.Storage, name string, f func(b []byte) []byte) {
	h.t.Helper()
	if err := s.Put(h.t.Context(), name, f(get(h.t, s, name)), backends.PutOptions{}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *home) delete(s backends.Storage, name string) {
	h.t.Helper()
	if err := s.Delete(h.t.Context(), name); err != nil {
		h.t.Fatal(err)
	}
}

// TestExportInterrupted fails every call at the medium once: without a set nothing counts, and the next export makes it whole.
func TestExportInterrupted(t *testing.T) {
	h := newHome(t)
	h.backup(h.store, 1<<20)
	want := whole(t, h.store)
	step := 1
	if testing.Short() {
		step = 9
	}
	for n := 1; ; n += step {
		medium := mem.New(time.Now)
		f := fault.New(medium, fault.Rule{N: n})
		_, _, err := h.export(h.store, f, false)
		if err == nil && n > f.Calls(fault.Any) {
			break
		}
		if err != nil && len(names(t, medium, "set/")) != 0 {
			t.Fatalf("call %d: a set after %v", n, err)
		}
		h.mustExport(medium)
		vault := mem.New(time.Now)
		h.mustBring(medium, vault)
		if got := whole(t, vault); !slices.Equal(got, want) {
			t.Fatalf("call %d: %v", n, got)
		}
	}
}
