package repo

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"packhold/backends"
	"packhold/crypt"
)

// putHost certifies id under name and stores the certificate.
func (r *Repo) putHost(ctx context.Context, id *crypt.Identity, name string, roles crypt.Role) error {
	c := id.Certificate(name, roles, 1, r.now())
	prefix := fmt.Sprintf("hosts/%v/%d-", c.Host, c.Serial)
	full, object, err := r.sealSigned(crypt.TypeHost, prefix, c.Bytes(), true)
	if err != nil {
		return err
	}
	if err := r.put(ctx, full, object, backends.PutOptions{}); err != nil {
		return err
	}
	if r.trust != nil {
		r.addHost(c)
	}
	return nil
}

// bundle is what a key slot's holder gets: everything for an administrator.
func (r *Repo) bundle(holder *crypt.Identity) *crypt.Bundle {
	return &crypt.Bundle{Generation: r.settings.Generation, Writes: r.keys.Writes, Chunker: r.keys.Chunker, Read: r.keys.Read,
		Root: r.keys.Admin, Identity: holder}
}

// putSlot makes a key slot with its bundle. The bundle is stored first: a slot that is there can be used.
func (r *Repo) putSlot(ctx context.Context, passphrase []byte, iterations int, label string, holder *crypt.Identity) (id crypt.SlotID, err error) {
	epoch := r.settings.WriteEpoch
	object, slot, err := r.keys.Admin.NewSlot(passphrase, iterations, label, r.keys.Writes[epoch], epoch)
	if err != nil {
		return id, err
	}
	b := r.bundle(holder)
	b.Slot = slot.ID
	sealed, err := r.keys.Admin.SealBundle(slot.Public, b)
	if err != nil {
		return id, err
	}
	var stored []string
	defer func() {
		// A slot that was not reported as made should not open the repository: best effort, the other keys work in any case.
		for i := len(stored) - 1; err != nil && i >= 0; i-- {
			_ = r.storage.Delete(context.WithoutCancel(ctx), stored[i])
		}
	}()
	name := fmt.Sprintf("bundles/%d-%v-%v", b.Generation, slot.ID, crypt.Sum(sealed))
	stored = append(stored, name)
	if err = r.put(ctx, name, sealed, backends.PutOptions{}); err != nil {
		return id, err
	}
	for _, prefix := range slotPrefixes {
		stored = append(stored, prefix+slot.ID.String())
		if err = r.putExclusive(ctx, prefix+slot.ID.String(), object); err != nil {
			return id, err
		}
	}
	return slot.ID, nil
}

// slotPrefixes are where a key slot and its replicas stand; the main one is written last and removed first.
var slotPrefixes = [...]string{"replica/2/keys/", "replica/1/keys/", "keys/"}

// KeySlot is what can be said of a key slot.
type KeySlot struct {
	ID         crypt.SlotID
	Label      string
	Iterations uint64
	Current    bool // the one this process opened
}

// ListKeys lists the key slots that the root signed. It needs a write secret only.
func (r *Repo) ListKeys(ctx context.Context) ([]KeySlot, error) {
	slots, unread, err := r.slots(ctx, r.keys.Root, "")
	if err == nil {
		err = unread
	}
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	var out []KeySlot
	for _, s := range slots {
		if !s.signed {
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

// AddKey makes a key slot for another passphrase, with the same rights as the one this process opened.
func (r *Repo) AddKey(ctx context.Context, passphrase []byte, label string) (crypt.SlotID, error) {
	if r.keys.Admin == nil {
		return crypt.SlotID{}, fmt.Errorf("adding key: %w", ErrNeedAdmin)
	}
	var id crypt.SlotID
	holder, err := crypt.NewIdentity()
	if err == nil {
		if err = r.putHost(ctx, holder, label, crypt.RoleReader|crypt.RoleAdmin); err == nil {
			id, err = r.putSlot(ctx, passphrase, r.iterations, label, holder)
		}
	}
	if err != nil {
		return crypt.SlotID{}, fmt.Errorf("adding key: %w", err)
	}
	return id, nil
}

// RemoveKey removes the one key slot whose id begins with prefix. The last slot stays (ErrLastKey).
// What its holder copied before is not taken back: that needs a rotation of the read key.
func (r *Repo) RemoveKey(ctx context.Context, prefix string) (crypt.SlotID, error) {
	id, err := r.removeKey(ctx, prefix)
	if err != nil {
		return id, fmt.Errorf("removing key: %w", err)
	}
	return id, nil
}

func (r *Repo) removeKey(ctx context.Context, prefix string) (crypt.SlotID, error) {
	if r.keys.Admin == nil {
		return crypt.SlotID{}, ErrNeedAdmin
	}
	slots, err := r.ListKeys(ctx)
	if err != nil {
		return crypt.SlotID{}, err
	}
	var found []crypt.SlotID
	for _, s := range slots {
		if strings.HasPrefix(s.ID.String(), prefix) && prefix != "" {
			found = append(found, s.ID)
		}
	}
	if len(found) != 1 {
		return crypt.SlotID{}, fmt.Errorf("%d key slots begin with %q: %w", len(found), prefix, ErrNoKey)
	}
	if len(slots) == 1 {
		return found[0], ErrLastKey
	}
	id := found[0]
	for i := len(slotPrefixes) - 1; i >= 0; i-- {
		name := slotPrefixes[i] + id.String()
		if err := r.storage.Delete(ctx, name); err != nil && !isMissing(err) {
			return id, storageErr("removing", name, err)
		}
	}
	infos, _, err := List(ctx, r.storage, "bundles/")
	if err != nil {
		return id, err
	}
	for _, i := range infos {
		if strings.Contains(i.Name, "-"+id.String()+"-") {
			if err := r.storage.Delete(ctx, i.Name); err != nil && !isMissing(err) {
				return id, storageErr("removing", i.Name, err)
			}
		}
	}
	return id, nil
}

// ChangePassphrase makes a new slot for passphrase and then removes the one that this process opened: at every instant one works.
func (r *Repo) ChangePassphrase(ctx context.Context, passphrase []byte) (crypt.SlotID, error) {
	fail := func(err error) (crypt.SlotID, error) {
		return crypt.SlotID{}, fmt.Errorf("changing passphrase: %w", err)
	}
	if r.keys.Admin == nil || r.keys.Slot == (crypt.SlotID{}) {
		return fail(ErrNeedAdmin)
	}
	slots, err := r.ListKeys(ctx)
	if err != nil {
		return fail(err)
	}
	label := ""
	for _, s := range slots {
		if s.Current {
			label = s.Label
		}
	}
	old := r.keys.Slot
	id, err := r.AddKey(ctx, passphrase, label)
	if err != nil {
		return fail(err)
	}
	if _, err := r.removeKey(ctx, old.String()); err != nil {
		return fail(err)
	}
	r.keys.Slot = id
	return id, nil
}

// ExportKey seals what this process opened under passphrase, for paper.
func (r *Repo) ExportKey(passphrase []byte) ([]byte, error) {
	if !r.CanRead() {
		return nil, fmt.Errorf("exporting key: %w", ErrNeedRead)
	}
	return crypt.SealPaper(passphrase, r.config.ID, r.keys.Root, r.bundle(r.keys.Identity))
}

// EnrollHost makes a host of this repository and returns its credential. It needs an administrator.
// Its certificate and its grant of the write secrets are stored before it is returned.
func (r *Repo) EnrollHost(ctx context.Context, name string) (*crypt.Credential, error) {
	c, err := r.enrollHost(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("enrolling host %q: %w", name, err)
	}
	return c, nil
}

func (r *Repo) enrollHost(ctx context.Context, name string) (*crypt.Credential, error) {
	if r.keys.Admin == nil {
		return nil, ErrNeedAdmin
	}
	id, err := crypt.NewIdentity()
	if err != nil {
		return nil, err
	}
	c := &crypt.Credential{Repo: r.config.ID, Root: r.keys.Root, Identity: id, Writes: r.keys.Writes, Chunker: r.keys.Chunker,
		Local: crypt.LocalKey(crypt.NewSecret())}
	for _, f := range r.settings.ReadKeys {
		pub, err := f.Public()
		if err != nil {
			return nil, err
		}
		c.Read = append(c.Read, pub)
	}
	if err := r.putHost(ctx, id, name, crypt.RoleWriter); err != nil {
		return nil, err
	}
	epoch := r.settings.WriteEpoch
	grant, err := r.keys.Admin.SealGrant(r.trust.Certificate(id.Host), &crypt.Grant{Epoch: epoch, Writes: r.keys.Writes, Chunker: r.keys.Chunker})
	if err != nil {
		return nil, err
	}
	object := "grants/" + strconv.FormatUint(uint64(epoch), 10) + "-" + id.Host.String() + "-" + crypt.Sum(grant).String()
	return c, r.put(ctx, object, grant, backends.PutOptions{})
}

// AdoptCredential lets this process also sign and store as the host of c.
func (r *Repo) AdoptCredential(c *crypt.Credential) {
	r.keys.Identity, r.keys.Local = c.Identity, &c.Local
}
