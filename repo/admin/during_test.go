package admin

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"packhold/backends/fault"
	"packhold/repo"
)

// TestDuringBackup: keys are rotated, and the host is revoked, while it backs up: after its lease, before its packs, and before its commit. What was begun
// under the old keys counts; what a revoked host commits does not, and it begins nothing more.
func TestDuringBackup(t *testing.T) {
	t.Parallel()
	for _, revoke := range []bool{false, true} {
		for _, prefix := range []string{"leases/", "packs/", "index/", "snapshots/"} {
			p := newPeopled(t)
			early := store(t, p.open(t, p, "b"), []byte("early"))
			f := fault.New(p.Store)
			var once sync.Once
			f.SetHook(func(op fault.Op, name string) error {
				if op == fault.Put && strings.HasPrefix(name, prefix) {
					once.Do(func() {
						r, a := holder(t, p, passphrase)
						var err error
						if revoke {
							_, err = RevokeHost(t.Context(), r, p.id("b"), nil)
						} else {
							_, err = a.rotateKeys(t.Context(), r, anotherKey)
						}
						if err != nil {
							t.Errorf("%s, revoke %v: %v", prefix, revoke, err)
						}
					})
				}
				return nil
			})
			late := store(t, p.open(t, f, "b"), []byte("late"))
			list := ids(t, p.open(t, p, "c"))
			counts := false
			for _, s := range list {
				counts = counts || s == late.ID()
			}
			if len(list) == 0 || list[0] != early.ID() || counts == revoke {
				t.Errorf("at %s, revoke %v: %v", prefix, revoke, list)
			}
			_, err := p.open(t, p, "b").Begin(t.Context(), repo.SessionOptions{})
			if errors.Is(err, repo.ErrRevoked) != revoke || (err != nil) != revoke {
				t.Errorf("at %s, revoke %v: the next one: %v", prefix, revoke, err)
			}
			p.whole(t, p.Store, "a", "c")
		}
	}
}
