package writeonce

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/repo/format"
)

const day = 24 * time.Hour

func packName(n byte) string { return format.PackName(crypt.Sum([]byte{n}), n%2 == 0, uint32(n%3)) }

func hold(t *testing.T, k *Keeper, objects ...Object) Held {
	t.Helper()
	h, err := k.Hold(t.Context(), func(yield func(Object, error) bool) {
		for _, o := range objects {
			if !yield(o, nil) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestSettings(t *testing.T) {
	for _, p := range []Policy{{}, {Length: day}, {Length: day, Compliance: true}, {Length: day, Classes: map[string]time.Duration{"7y": 2557 * day, "1y": 365 * day}}} {
		var s format.Settings
		p.Settle(&s)
		p.Since = time.Unix(0, 0)
		if got := PolicyOf(&s); fmt.Sprint(got) != fmt.Sprint(p) {
			t.Errorf("%v comes back as %v", p, got)
		}
		if got := p.Of("7y"); got != p.Length && got != 2557*day || p.Of("other") != p.Length {
			t.Errorf("%v: 7y is kept for %v", p, got)
		}
	}
}

// TestPut: every name is locked or not by what it is, and in the way of the policy.
func TestPut(t *testing.T) {
	now := time.Now()
	st := mem.New(func() time.Time { return now })
	k := New(st, Policy{Length: day, Classes: map[string]time.Duration{"long": 10 * day}, Compliance: true}, func() time.Time { return now }, Memory{})
	h32, h64 := crypt.Sum(nil).String()[:32], crypt.Sum(nil).String()
	for name, want := range map[string]bool{
		"config": true, "replica/1/config": true, "settings/1": true, "roots/" + h64: true, "keys/" + h32: true, "replica/2/keys/" + h32: true,
		"bundles/1-" + h32 + "-" + h64: true, "hosts/" + h32 + "/1-" + h64: true, "grants/1-" + h32 + "-" + h64: true, packName(1): true, packName(2): true,
		"group/" + h64: true, "index/" + h64: true, "snapshots/" + h32: true, "copied/" + h64: true, "forgotten/" + h64: true, "marks/" + h64: true,
		"verified/" + h64: true, "audit/" + h32 + "/tile/data/000.p/3": true, "audit/" + h32 + "/checkpoint/3": true, "condemned/" + h32 + ".final": true,
		"condemned/" + h32: false, "condemned/" + h32 + ".leases": false, "leases/" + h32: false, "leases/" + h32 + ".1": false, "probe/x": false,
	} {
		for class, length := range map[string]time.Duration{"": day, "long": 10 * day, "other": day} {
			name := name
			if class != "" && name != "config" {
				name += "0"
				if !format.KnownName(name) {
					continue
				}
			}
			if err := k.Class(class).Put(t.Context(), name, []byte("x"), backends.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			info, err := st.Stat(t.Context(), name)
			if err != nil || info.RetainUntil.IsZero() == want || want && (info.RetainUntil.Before(now.Add(length)) || info.Guard != backends.Compliance) {
				t.Errorf("%s of class %q: %+v, %v", name, class, info, err)
			}
		}
	}
	own := now.Add(100 * day)
	if err := k.Put(t.Context(), "leases/"+h32+".2", nil, backends.PutOptions{RetainUntil: own}); err != nil {
		t.Fatal(err)
	}
	if info, err := st.Stat(t.Context(), "leases/"+h32+".2"); err != nil || !info.RetainUntil.Equal(own) {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestClock: a clock that shows less than when the settings were made locks nothing.
func TestClock(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	st := mem.New(clock)
	k := New(st, Policy{Length: day, Since: now}, clock, Memory{})
	if err := k.Put(t.Context(), packName(1), nil, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(-23 * time.Hour)
	if err := k.Put(t.Context(), packName(2), nil, backends.PutOptions{}); err != nil {
		t.Error(err)
	}
	now = now.Add(-2 * time.Hour)
	if err := k.Put(t.Context(), packName(3), nil, backends.PutOptions{}); !errors.Is(err, backends.ErrClock) {
		t.Error(err)
	}
	if err := k.Put(t.Context(), "leases/"+crypt.Sum(nil).String()[:32], nil, backends.PutOptions{}); err != nil {
		t.Error(err)
	}
	k.Doubt()
	if _, err := k.Hold(t.Context(), func(yield func(Object, error) bool) { yield(Object{Name: packName(1)}, nil) }); !errors.Is(err, backends.ErrClock) {
		t.Error(err)
	}
}

// TestMode: what is locked less strictly than the policy says becomes as strict.
func TestMode(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	st := mem.New(clock)
	soft := New(st, Policy{Length: day}, clock, Memory{})
	if err := soft.Put(t.Context(), packName(1), nil, backends.PutOptions{RetainUntil: now.Add(9 * day)}); err != nil {
		t.Fatal(err)
	}
	strict := New(st, Policy{Length: day, Compliance: true}, clock, Memory{})
	if h := hold(t, strict, Object{Name: packName(1)}); h.Extended != 1 {
		t.Errorf("%+v", h)
	}
	if h := hold(t, strict, Object{Name: packName(1)}); h != (Held{Objects: 1, Asked: 1}) {
		t.Errorf("%+v", h)
	}
}

// TestMemory: what was found out lasts for the next run, sealed; what is not ours, or cut, or swapped, is as if there were nothing.
func TestMemory(t *testing.T) {
	now := time.Unix(1_800_000_000, 0) // a day on which one pack more is looked at than the first
	clock := func() time.Time { return now }
	faults := fault.New(mem.New(clock))
	path := filepath.Join(t.TempDir(), "locks")
	var key, other crypt.LocalKey
	_, _ = rand.Read(key[:])
	m := Memory{Path: path, Key: &key}
	policy := Policy{Length: 30 * day}
	k := New(faults, policy, clock, m)
	var objects []Object
	for n := range byte(20) {
		objects = append(objects, Object{Name: packName(n)})
		if err := k.Put(t.Context(), packName(n), []byte{n}, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Save(); err != nil {
		t.Fatal(err)
	}
	sample := 1
	k = New(faults, policy, clock, m)
	for _, o := range objects[1:] {
		if k.sampled(o.Name) {
			sample++
		}
	}
	if h := hold(t, k, objects...); h != (Held{Objects: 20, Asked: sample}) || sample > 3 {
		t.Errorf("%+v, want %d", h, sample)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		file []byte
		m    Memory
	}{
		"another key": {good, Memory{path, &other}}, "no key": {good, Memory{Path: path}}, "no file": {good, Memory{Key: &key}},
		"cut": {good[:len(good)-1], m}, "empty": {nil, m}, "changed": {append([]byte{good[0] ^ 1}, good[1:]...), m},
	} {
		if err := os.WriteFile(path, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		if h := hold(t, New(faults, policy, clock, c.m), objects...); h != (Held{Objects: 20, Asked: 20}) {
			t.Errorf("%s: %+v", what, h)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	// Of another storage nothing that is remembered is believed, as soon as one date is another.
	elsewhere := mem.New(clock)
	for n := range byte(20) {
		if err := elsewhere.Put(t.Context(), packName(n), []byte{n}, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if h := hold(t, New(elsewhere, policy, clock, m), objects...); h != (Held{Objects: 20, Asked: 20, Extended: 20}) {
		t.Errorf("%+v", h)
	}
	for _, o := range objects {
		if info, err := elsewhere.Stat(t.Context(), o.Name); err != nil || info.RetainUntil.Before(now.Add(30*day)) {
			t.Errorf("%+v, %v", info, err)
		}
	}

	// Doubt asks again. What ended is forgotten.
	k = New(faults, policy, clock, m)
	k.Doubt()
	if h := hold(t, k, objects...); h != (Held{Objects: 20, Asked: 20}) {
		t.Errorf("%+v", h)
	}
	now = now.Add(100 * day)
	k = New(faults, policy, clock, m)
	if n := len(k.memory.ends); n != 0 {
		t.Errorf("%d packs are known whose locks ended", n)
	}
	if h := hold(t, k, objects...); h != (Held{Objects: 20, Asked: 20, Extended: 20}) {
		t.Errorf("%+v", h)
	}
	// A folder that is not there costs nothing but requests.
	k = New(faults, policy, clock, Memory{filepath.Join(path, "none"), &key})
	hold(t, k, objects...)
	if err := k.Save(); err == nil {
		t.Error("saved nowhere")
	}
}

// TestFirstFailure: what is told is why a lock could not be extended, not that the rest was stopped for it, at whichever object that is noticed.
func TestFirstFailure(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	clock := func() time.Time { return now }
	st := fault.New(mem.New(clock), fault.Rule{Op: fault.Stat, Prefix: "packs/"})
	failed := make(chan struct{})
	st.SetHook(func(op fault.Op, _ string) error {
		if op == fault.Stat {
			defer close(failed)
		}
		return nil
	})
	objects := func(yield func(Object, error) bool) {
		for i := range 3 {
			if i == 2 {
				<-failed
				time.Sleep(10 * time.Millisecond) // until the failure is noticed: without it the test passes
			}
			if i > 0 && !yield(Object{Name: fmt.Sprintf("packs/%02x/%064x", i, i)}, nil) {
				return
			}
		}
	}
	if _, err := New(st, Policy{Length: day}, clock, Memory{}).Hold(t.Context(), objects); !errors.Is(err, fault.ErrInjected) || errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
