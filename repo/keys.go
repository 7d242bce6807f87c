package repo

import (
	"context"
	"fmt"

	"packhold/crypt"
)

// KeySlot is what can be said of a key slot.
type KeySlot struct {
	ID         crypt.SlotID
	Label      string
	Iterations uint64
	Current    bool // the one this process opened
}

// ListKeys lists the key slots that a root signed. It needs a write secret only.
func (r *Repo) ListKeys(ctx context.Context) ([]KeySlot, error) {
	slots, unread, err := r.ring.Slots(ctx, "")
	if err == nil {
		err = unread
	}
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	var out []KeySlot
	for _, s := range slots {
		if !s.Signed {
			continue
		}
		label, err := s.Label(r.config.ID, r.keys.Writes)
		if err != nil {
			label = ""
		}
		out = append(out, KeySlot{ID: s.ID, Label: label, Iterations: s.Iterations(), Current: s.ID == r.keys.Slot})
	}
	return out, nil
}

// AdoptCredential lets this process also sign and store as the host of c.
func (r *Repo) AdoptCredential(c *crypt.Credential) {
	r.keys.Identity, r.keys.Local = c.Identity, &c.Local
}
