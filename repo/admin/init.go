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
	"packhold/repo/stored"
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
	if _, err := a.putHost(ctx, keys.Identity, o.HostName, crypt.RoleWriter); err != nil {
		return nil, err
	}
	holder, err := crypt.NewIdentity()
	if err != nil {
		return nil, err
	}
	if _, err := a.putHost(ctx, holder, o.Label, crypt.RoleReader|crypt.RoleAdmin); err != nil {
		return nil, err
	}
	if _, err := a.putSlot(ctx, o.Passphrase, o.Label, holder); err != nil {
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
	// Another init that began before the config was there may have taken these settings for remains and removed them.
	if there, err := stored.Fetch(ctx, s, name); errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.Equal(there, object) {
		return nil, fmt.Errorf("%w: another init was at work and removed the settings of this one: empty the place and begin again", repo.ErrExists)
	} else if err != nil {
		return nil, err
	}
	return &crypt.Credential{Repo: key.Repo, Root: key.Public(), Identity: keys.Identity, Writes: keys.Writes, Chunker: keys.Chunker,
		Read: []*crypt.ReadPublic{read.Public()}, Local: crypt.LocalKey(crypt.NewSecret())}, nil
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
	for _, prefix := range []string{"replica/", "settings/", "hosts/", "keys/", "bundles/", "grants/"} {
		infos, _, err := stored.List(ctx, s, prefix)
		if err != nil {
			return err
		}
		for _, i := range infos {
			if err := stored.Remove(ctx, s, i.Name); err != nil {
				return err
			}
		}
	}
	return nil
}
