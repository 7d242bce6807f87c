package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/pack"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/stored"
	"packhold/repo/writeonce"
)

// InitOptions are what a new repository is made with.
type InitOptions struct {
	Passphrase  []byte
	Iterations  int // 0: the default
	Config      format.Config
	Parity      int
	PackSize    int
	Compression string
	HostName    string
	Label       string // of the first key slot
	ReadKey     *crypt.ReadPrivate
	Now         time.Time

	// Lock is for how long objects are write-once. What Init stores, which a crash may leave unfinished, is not locked yet: the first lock.Extend
	// does it. A storage that cannot is backends.ErrUnsupported, before anything is stored.
	Lock writeonce.Policy
}

// Format prints no secret.
func (InitOptions) Format(f fmt.State, _ rune) { io.WriteString(f, "[init options]") }

// Init makes a repository in s and returns the credential of this host. The config is stored last: until it is
// there, no repository exists, and init may be run again. repo.ErrExists says that there is one.
func Init(ctx context.Context, s backends.Storage, o InitOptions) (*crypt.Credential, error) {
	c, err := initRepo(ctx, s, o)
	if err != nil {
		return nil, fmt.Errorf("making repository: %w", err)
	}
	return c, nil
}

func initRepo(ctx context.Context, s backends.Storage, o InitOptions) (*crypt.Credential, error) {
	if err := clearUnfinished(ctx, s); err != nil {
		return nil, err
	}
	if o.Lock.Length > 0 {
		if err := writeonce.Check(ctx, s, o.Lock, o.Now); err != nil {
			return nil, err
		}
	}
	key, err := crypt.NewRoot(crypt.NewRepoID())
	if err != nil {
		return nil, err
	}
	cfg := o.Config
	cfg.ID, cfg.Root, cfg.Created = key.Repo, key.Public(), o.Now.Unix()
	config, err := cfg.Marshal(key)
	if err != nil {
		return nil, err
	}
	if _, err := format.ParseConfig(config); err != nil {
		return nil, err
	}
	read := o.ReadKey
	if read == nil {
		if read, err = crypt.NewReadKey(1); err != nil {
			return nil, err
		}
	}
	form, err := read.Public().Form()
	if err != nil {
		return nil, err
	}
	const epoch = 1
	keys := &repo.Keys{Repo: key.Repo, Root: key.Public(), Admin: key, Writes: map[uint32]crypt.WriteSecret{epoch: crypt.NewSecret()},
		Chunker: crypt.NewSecret(), Read: map[uint32]*crypt.ReadPrivate{1: read}}
	if keys.Identity, err = crypt.NewIdentity(); err != nil {
		return nil, err
	}
	settings := &format.Settings{Generation: 1, Time: o.Now.Unix(), WriteEpoch: epoch, ReadKeys: []crypt.ReadKeyForm{form},
		Parity: uint8(o.Parity), PackSize: uint32(o.PackSize), Compression: o.Compression}
	o.Lock.Settle(settings)
	body := canon.Marshal(settings)
	if _, err := format.Parse[format.Settings](body); err != nil {
		return nil, err
	}
	if _, err := pack.ParseLevel(o.Compression); err != nil {
		return nil, err
	}
	a := &root{storage: s, keys: keys, settings: settings, now: o.Now, iterations: o.Iterations}
	name, object, err := a.seal(crypt.TypeSettings, format.SettingsName(1), body)
	if err != nil {
		return nil, err
	}
	if err := stored.Create(ctx, s, name, object); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("%w: another init is at work", repo.ErrExists)
		}
		return nil, err
	}
	if _, err := a.putHost(ctx, keys.Identity, o.HostName, crypt.RoleWriter, ""); err != nil {
		return nil, err
	}
	holder, err := crypt.NewIdentity()
	if err != nil {
		return nil, err
	}
	if _, err := a.putHost(ctx, holder, o.Label, crypt.RoleReader|crypt.RoleAdmin|crypt.RolePrune, ""); err != nil {
		return nil, err
	}
	slot, err := a.putSlot(ctx, o.Passphrase, o.Label, holder, func() error { return nil })
	if err != nil {
		return nil, err
	}
	for i := len(format.ConfigNames) - 1; i >= 0; i-- { // the first name last: it makes the repository
		if err := stored.Create(ctx, s, format.ConfigNames[i], config); err != nil {
			if errors.Is(err, fs.ErrExist) {
				return nil, fmt.Errorf("%w: another init was faster", repo.ErrExists)
			}
			return nil, err
		}
	}
	if err := a.check(ctx, o.Passphrase, slot, object); err != nil {
		return nil, err
	}
	return &crypt.Credential{Repo: key.Repo, Root: key.Public(), Identity: keys.Identity, Writes: keys.Writes, Chunker: keys.Chunker,
		Read: []*crypt.ReadPublic{read.Public()}, Local: crypt.LocalKey(crypt.NewSecret())}, nil
}

// check opens the new repository as people and hosts will. Another init that began before the config was there may have taken some of it for
// remains and removed it.
func (a *root) check(ctx context.Context, passphrase []byte, slot crypt.SlotID, settings []byte) error {
	r, err := repo.Open(ctx, a.storage, repo.Access{Passphrase: passphrase, Hint: slot.String()}, repo.Options{})
	var there []byte
	if err == nil {
		there, err = stored.Fetch(ctx, a.storage, format.SettingsName(1))
	}
	if err == nil && r.Keys().Slot == slot && bytes.Equal(r.Keys().Root, a.keys.Root) && bytes.Equal(there, settings) && r.Trust().Certificate(a.keys.Identity.Host) != nil {
		return nil
	}
	lost := fmt.Errorf("%w: another init was at work and removed a part of this one: empty the place and begin again", repo.ErrExists)
	switch {
	case err == nil && len(r.Problems()) > 0:
		return fmt.Errorf("%w: %w", lost, r.Problems()[0].Err)
	case err == nil || stored.Missing(err) || stored.Isolated(err) || errors.Is(err, keyring.ErrNoKey) || errors.Is(err, crypt.ErrPassphrase):
		return lost
	}
	return err
}

// clearUnfinished refuses a place that holds a repository, and removes what an init that never stored its config left.
func clearUnfinished(ctx context.Context, s backends.Storage) error {
	if _, err := stored.Stat(ctx, s, format.ConfigNames[0]); err == nil {
		return repo.ErrExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, prefix := range []string{"snapshots/", "packs/", "meta/", "index/"} {
		infos, _, err := stored.List(ctx, s, prefix)
		if err != nil {
			return err
		}
		if len(infos) > 0 {
			return fmt.Errorf("%w, and %w", repo.ErrExists, repo.ErrNoConfig)
		}
	}
	return removeRemains(ctx, s)
}

// maxRemains bounds the memory of what is kept while it is removed: an init leaves 20 KB.
const maxRemains = 16 << 20

// removeRemains removes what an unfinished init left. The settings are listed last: who has stored anything that is seen before has stored them, so
// an init that is at work finds them gone when it checks itself. One that ended meanwhile gets everything back. What remains open is the instant
// between reading settings/1 and removing it, if all of another init falls into it: that takes half a second at least.
func removeRemains(ctx context.Context, s backends.Storage) (err error) {
	var all []backends.Info
	for _, prefix := range []string{"replica/", "hosts/", "keys/", "bundles/", "grants/", "settings/"} {
		infos, _, err := stored.List(ctx, s, prefix)
		if err != nil {
			return err
		}
		all = append(all, infos...)
	}
	removed := make(map[string][]byte)
	size := 0
	for _, i := range all {
		var object []byte // nil: unreadable, or too much
		if size += int(min(i.Size, maxRemains)); size <= maxRemains {
			object, err = stored.Fetch(ctx, s, i.Name)
		}
		if err == nil || stored.Missing(err) || stored.Isolated(err) {
			removed[i.Name] = object
			err = stored.Remove(ctx, s, i.Name)
		}
		if err != nil {
			break
		}
	}
	if len(removed) == 0 {
		return err
	}
	if _, there := stored.Stat(ctx, s, format.ConfigNames[0]); there != nil {
		if err == nil && !stored.Missing(there) {
			err = there
		}
		return err
	}
	ctx = context.WithoutCancel(ctx) // what is missing now is a repository's
	for name, object := range removed {
		if object == nil {
			continue
		}
		if back := stored.Create(ctx, s, name, object); back != nil && !stored.Exists(back) {
			err = errors.Join(err, back)
		}
	}
	return errors.Join(fmt.Errorf("%w: another init made it", repo.ErrExists), err)
}
