// Package admin says who can open a repository: it does what takes the root key, from making a repository on.
package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/stored"
)

// root stores what the root signs.
type root struct {
	storage    backends.Storage
	keys       *repo.Keys // with the root's secret
	settings   *format.Settings
	now        time.Time
	iterations int // of new key slots; 0: the default
}

// rootOf is the root of r. repo.ErrNeedAdmin says that r was opened without its secret.
func rootOf(r *repo.Repo) (*root, error) {
	if r.Keys().Admin == nil {
		return nil, repo.ErrNeedAdmin
	}
	return &root{storage: r.Storage(), keys: r.Keys(), settings: r.Settings(), now: r.Now()}, nil
}

// seal makes an object signed by the root, sealed under the current write epoch (format.Sealer.Seal).
func (a *root) seal(t crypt.Type, name string, body []byte) (full string, object []byte, err error) {
	epoch := a.settings.WriteEpoch
	w, ok := a.keys.Writes[epoch]
	if !ok {
		return "", nil, fmt.Errorf("sealing %s: write secret of epoch %d: %w", name, epoch, keyring.ErrNoKey)
	}
	signed := a.keys.Admin.Sign(t, format.Subject(t, name), body)
	return format.Sealer{Repo: a.keys.Repo, Epoch: epoch, Write: w}.Seal(t, name, signed)
}

// putHost certifies id under name and stores the certificate.
func (a *root) putHost(ctx context.Context, id *crypt.Identity, name string, roles crypt.Role, domain string) (*crypt.Certificate, error) {
	c := id.Certificate(name, roles, 1, a.now)
	c.Domain = domain
	full, object, err := a.seal(crypt.TypeHost, fmt.Sprintf("hosts/%v/%d-", c.Host, c.Serial), c.Bytes())
	if err != nil {
		return nil, err
	}
	return c, stored.Put(ctx, a.storage, full, object, backends.PutOptions{})
}

// bundle is what a key slot's holder gets: all that keys has.
func bundle(keys *repo.Keys, generation uint64, holder *crypt.Identity) *crypt.Bundle {
	return &crypt.Bundle{Generation: generation, Writes: keys.Writes, Chunker: keys.Chunker, Read: keys.Read, Root: keys.Admin, Identity: holder}
}

// putSlot makes a key slot with its bundle. The bundle is stored first: a slot that is there can be used. check has the last word.
func (a *root) putSlot(ctx context.Context, passphrase []byte, label string, holder *crypt.Identity, check func() error) (id crypt.SlotID, err error) {
	epoch := a.settings.WriteEpoch
	object, slot, err := a.keys.Admin.NewSlot(passphrase, a.iterations, label, a.keys.Writes[epoch], epoch)
	if err != nil {
		return id, err
	}
	b := bundle(a.keys, a.settings.Generation, holder)
	b.Slot = slot.ID
	sealed, err := a.keys.Admin.SealBundle(slot.Public, b)
	if err != nil {
		return id, err
	}
	var made []string
	defer func() {
		// A slot that was not reported as made should not open the repository: best effort, the other keys work in any case.
		for i := len(made) - 1; err != nil && i >= 0; i-- {
			_ = a.storage.Delete(context.WithoutCancel(ctx), made[i])
		}
	}()
	name := bundleName(b, sealed)
	made = append(made, name)
	if err = stored.Put(ctx, a.storage, name, sealed, backends.PutOptions{}); err != nil {
		return id, err
	}
	for _, prefix := range format.SlotPrefixes {
		made = append(made, prefix+slot.ID.String())
		if err = stored.Create(ctx, a.storage, prefix+slot.ID.String(), object); err != nil {
			return id, err
		}
	}
	if err = check(); err != nil {
		return id, err
	}
	return slot.ID, nil
}

// AddKey makes a key slot for another passphrase, with the same rights as the one that r was opened with. ErrChanged says that keys are rotated meanwhile.
func AddKey(ctx context.Context, r *repo.Repo, passphrase []byte, label string) (crypt.SlotID, error) {
	var id crypt.SlotID
	a, err := rootOf(r)
	if err == nil {
		id, err = a.addKey(ctx, r, passphrase, label)
	}
	if err != nil {
		return id, fmt.Errorf("adding key: %w", err)
	}
	return id, nil
}

func (a *root) addKey(ctx context.Context, r *repo.Repo, passphrase []byte, label string) (id crypt.SlotID, err error) {
	holder, err := crypt.NewIdentity()
	if err != nil {
		return id, err
	}
	c, err := a.putHost(ctx, holder, label, crypt.RoleReader|crypt.RoleAdmin|crypt.RolePrune, "")
	if err != nil {
		return id, err
	}
	r.Trust().Add(c)
	return a.putSlot(ctx, passphrase, label, holder, func() error { return a.unchanged(ctx, r) })
}

// RemoveKey removes the one key slot whose id begins with prefix. The last slot that can be opened stays (repo.ErrLastKey).
// What its holder copied before is not taken back: that needs a rotation of the read key.
func RemoveKey(ctx context.Context, r *repo.Repo, prefix string) (crypt.SlotID, error) {
	var id crypt.SlotID
	a, err := rootOf(r)
	if err == nil {
		id, err = a.removeKey(ctx, r, prefix)
	}
	if err != nil {
		return id, fmt.Errorf("removing key: %w", err)
	}
	return id, nil
}

func (a *root) removeKey(ctx context.Context, r *repo.Repo, prefix string) (crypt.SlotID, error) {
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
		return crypt.SlotID{}, fmt.Errorf("%d key slots begin with %q: %w", len(found), prefix, keyring.ErrNoKey)
	}
	id := found[0]
	infos, _, err := stored.List(ctx, a.storage, "bundles/")
	if err != nil {
		return id, err
	}
	others, err := a.usable(ctx, infos, slots, id)
	if err != nil {
		return id, err
	}
	if others == 0 {
		return id, repo.ErrLastKey
	}
	for i := len(format.SlotPrefixes) - 1; i >= 0; i-- {
		if err := stored.Remove(ctx, a.storage, format.SlotPrefixes[i]+id.String()); err != nil {
			return id, err
		}
	}
	for _, i := range infos {
		if strings.Contains(i.Name, "-"+id.String()+"-") {
			if err := stored.Remove(ctx, a.storage, i.Name); err != nil {
				return id, err
			}
		}
	}
	return id, nil
}

// usable counts the slots but for one that a passphrase can open: those with a bundle whose bytes match its name. Only its holder can look inside.
func (a *root) usable(ctx context.Context, bundles []backends.Info, slots []repo.KeySlot, but crypt.SlotID) (n int, err error) {
	good := make(map[crypt.SlotID]bool)
	var unread error
	for _, i := range bundles {
		for _, s := range slots {
			if s.ID == but || good[s.ID] || !strings.Contains(i.Name, "-"+s.ID.String()+"-") {
				continue
			}
			b, err := stored.Fetch(ctx, a.storage, i.Name)
			switch {
			case err == nil:
				good[s.ID] = strings.HasSuffix(i.Name, crypt.Sum(b).String())
			case !stored.Missing(err) && !stored.Isolated(err):
				unread = err
			}
		}
	}
	for _, ok := range good {
		if ok {
			n++
		}
	}
	if n == 0 {
		return 0, unread
	}
	return n, nil
}

// ChangePassphrase makes a new slot for passphrase and then removes the one that r was opened with: at every instant one works. Where the old one cannot
// be removed the new one works all the same, and is returned with the error; of a write-once repository that is a *backends.KeptError.
func ChangePassphrase(ctx context.Context, r *repo.Repo, passphrase []byte) (crypt.SlotID, error) {
	var id crypt.SlotID
	a, err := rootOf(r)
	if err == nil {
		id, err = a.changePassphrase(ctx, r, passphrase)
	}
	if err != nil {
		return id, fmt.Errorf("changing passphrase: %w", err)
	}
	return id, nil
}

func (a *root) changePassphrase(ctx context.Context, r *repo.Repo, passphrase []byte) (id crypt.SlotID, err error) {
	old := a.keys.Slot
	if old == (crypt.SlotID{}) {
		return id, repo.ErrNeedAdmin
	}
	slots, err := r.ListKeys(ctx)
	if err != nil {
		return id, err
	}
	label := ""
	for _, s := range slots {
		if s.Current {
			label = s.Label
		}
	}
	if id, err = a.addKey(ctx, r, passphrase, label); err != nil {
		return id, fmt.Errorf("adding key: %w", err)
	}
	if _, err := a.removeKey(ctx, r, old.String()); err != nil {
		return id, err
	}
	a.keys.Slot = id
	return id, nil
}

// ExportKey seals what r was opened with under passphrase, for paper. repo.ErrNeedRead says that r was opened without one.
func ExportKey(r *repo.Repo, passphrase []byte) ([]byte, error) {
	if !r.CanRead() {
		return nil, fmt.Errorf("exporting key: %w", repo.ErrNeedRead)
	}
	k := r.Keys()
	return crypt.SealPaper(passphrase, k.Repo, k.Root, bundle(k, r.Settings().Generation, k.Identity))
}

// EnrollHost makes a host of this repository with the given roles and returns its credential.
// Its certificate and its grant of the write secrets are stored before it is returned. ErrChanged says that keys are rotated meanwhile.
func EnrollHost(ctx context.Context, r *repo.Repo, name string, roles crypt.Role) (*crypt.Credential, error) {
	return EnrollHostIn(ctx, r, name, roles, "")
}

// Strict is the dedup domain that the settings never name: each of its hosts is alone, also beside the others.
const Strict = "strict"

// EnrollHostIn does what EnrollHost does for a host of a dedup domain: it relies on packs of no host outside. A domain is a name of at most 1,024 bytes, "" the
// one of all hosts that were not put elsewhere; one that is new is stored in the settings, so two of these at the same time may give ErrChanged.
func EnrollHostIn(ctx context.Context, r *repo.Repo, name string, roles crypt.Role, domain string) (*crypt.Credential, error) {
	a, err := rootOf(r)
	if err == nil {
		err = a.addDomain(ctx, r, domain)
	}
	var c *crypt.Credential
	if err == nil {
		c, err = a.enrollHost(ctx, r, name, roles, domain)
	}
	if err != nil {
		return nil, fmt.Errorf("enrolling host %q: %w", name, err)
	}
	return c, nil
}

// addDomain has the settings name a domain before any host is in it: one that they do not name would be a strict one.
func (a *root) addDomain(ctx context.Context, r *repo.Repo, domain string) error {
	at, there := slices.BinarySearch(a.settings.Domains, domain)
	if domain == "" || domain == Strict || there {
		return nil
	}
	err := a.nextSettings(ctx, r, func(s *format.Settings) { s.Domains = slices.Insert(slices.Clone(s.Domains), at, domain) })
	if err == nil {
		*r.Settings() = *a.settings
	}
	return err
}

func (a *root) enrollHost(ctx context.Context, r *repo.Repo, name string, roles crypt.Role, domain string) (*crypt.Credential, error) {
	id, err := crypt.NewIdentity()
	if err != nil {
		return nil, err
	}
	c := &crypt.Credential{Repo: a.keys.Repo, Root: a.keys.Root, Identity: id, Writes: a.keys.Writes, Chunker: a.keys.Chunker,
		Local: crypt.LocalKey(crypt.NewSecret())}
	for _, f := range a.settings.ReadKeys {
		pub, err := f.Public()
		if err != nil {
			return nil, err
		}
		c.Read = append(c.Read, pub)
	}
	cert, err := a.putHost(ctx, id, name, roles, domain)
	if err != nil {
		return nil, err
	}
	r.Trust().Add(cert)
	if err := a.putGrant(ctx, cert, a.settings.WriteEpoch, a.keys.Writes); err != nil {
		return nil, err
	}
	return c, a.unchanged(ctx, r)
}

// putGrant gives the host that c certifies the write secrets of epoch and of all earlier ones.
func (a *root) putGrant(ctx context.Context, c *crypt.Certificate, epoch uint32, writes map[uint32]crypt.WriteSecret) error {
	grant, err := a.keys.Admin.SealGrant(c, &crypt.Grant{Epoch: epoch, Writes: writes, Chunker: a.keys.Chunker})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("grants/%d-%v-%v", epoch, c.Host, crypt.Sum(grant))
	return stored.Put(ctx, a.storage, name, grant, backends.PutOptions{})
}

// Empower certifies more roles for the identity that r signs with, whose holder is the administrator.
func Empower(ctx context.Context, r *repo.Repo, more crypt.Role) error {
	a, err := rootOf(r)
	if err == nil {
		err = a.empower(ctx, r, more)
	}
	if err != nil {
		return fmt.Errorf("certifying roles: %w", err)
	}
	return nil
}

func (a *root) empower(ctx context.Context, r *repo.Repo, more crypt.Role) error {
	id := r.Keys().Identity
	old := r.Trust().Certificate(id.Host)
	if old == nil {
		return repo.ErrNeedHost
	}
	cert := id.Certificate(old.Name, r.Trust().Roles(id.Host)|more, old.Serial+1, a.now)
	cert.Domain = old.Domain
	name, object, err := a.seal(crypt.TypeHost, fmt.Sprintf("hosts/%v/%d-", cert.Host, cert.Serial), cert.Bytes())
	if err != nil {
		return err
	}
	if err := stored.Put(ctx, a.storage, name, object, backends.PutOptions{}); err != nil {
		return err
	}
	r.Trust().Add(cert)
	return nil
}
