package admin

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"packhold/backends"
	"packhold/repo"
	"packhold/repo/writeonce"
)

// TestSetLock: write-once comes, and gets stricter, with new settings that everybody follows; it never gets weaker.
func TestSetLock(t *testing.T) {
	const day = 24 * time.Hour
	st := newTestRepo(t)
	c := st.credential
	holder := repo.Access{Passphrase: []byte(passphrase)}
	for i, step := range []struct {
		p  writeonce.Policy
		ok bool
	}{
		{writeonce.Policy{}, false},
		{writeonce.Policy{Length: 30 * day}, true},
		{writeonce.Policy{Length: 29 * day}, false},
		{writeonce.Policy{Length: 30 * day, Classes: map[string]time.Duration{"7y": 300 * day, "short": day}}, true},
		{writeonce.Policy{Length: 60 * day}, false},
		{writeonce.Policy{Length: 30 * day, Classes: map[string]time.Duration{"7y": 299 * day}}, false},
		{writeonce.Policy{Length: 400 * day}, true},
		{writeonce.Policy{Length: 400 * day, Compliance: true}, true},
		{writeonce.Policy{Length: 500 * day}, false},
		{writeonce.Policy{Length: 5000 * day, Compliance: true}, false},
	} {
		r := open(t, st, holder)
		before := r.Settings()
		err := SetLock(t.Context(), r, step.p)
		if (err == nil) != step.ok {
			t.Errorf("step %d, %v: %v", i, step.p, err)
		}
		for _, a := range []repo.Access{holder, {Credential: c}} {
			r := open(t, st, a)
			if len(r.Problems()) > 0 {
				t.Errorf("step %d: %v", i, r.Problems())
			}
			after := r.Settings()
			if !step.ok {
				if after.Generation != before.Generation {
					t.Errorf("step %d: generation %d", i, after.Generation)
				}
				continue
			}
			got := writeonce.PolicyOf(after)
			got.Since = time.Time{}
			if after.Generation != before.Generation+1 || fmt.Sprint(got) != fmt.Sprint(step.p) || r.Keeper() == nil || after.Compression != before.Compression {
				t.Errorf("step %d: %+v", i, got)
			}
		}
	}
	// Not by a host, and not where somebody else was faster.
	if err := SetLock(t.Context(), open(t, st, repo.Access{Credential: c}), writeonce.Policy{Length: 600 * day, Compliance: true}); !errors.Is(err, repo.ErrNeedAdmin) {
		t.Error(err)
	}
	one, two := open(t, st, holder), open(t, st, holder)
	if err := SetLock(t.Context(), one, writeonce.Policy{Length: 600 * day, Compliance: true}); err != nil {
		t.Error(err)
	}
	if err := SetLock(t.Context(), two, writeonce.Policy{Length: 700 * day, Compliance: true}); !errors.Is(err, ErrChanged) {
		t.Error(err)
	}
	// The settings before are locked: nobody goes back.
	store(t, open(t, st, repo.Access{Credential: c}), []byte("x"))
	if err := st.Delete(t.Context(), "settings/5"); !errors.Is(err, backends.ErrKept) {
		t.Error(err)
	}
}
