// Package repo keeps blobs by content, and the manifests that keep them alive.
//
// It owns the names of objects, the leases of writer sessions and the order of calls that makes a commit: packs, then index
// segments, then the audit entry, then snapshots/<session>, created exclusively. FORMAT.md beside this file is the byte-exact format.
package repo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/index"
	"packhold/pack"
)

// Keys is what this process can open and sign.
type Keys struct {
	Repo     crypt.RepoID
	Root     ed25519.PublicKey
	Writes   map[uint32]crypt.WriteSecret
	Chunker  [32]byte
	Identity *crypt.Identity               // nil: cannot store anything
	Read     map[uint32]*crypt.ReadPrivate // empty without a passphrase
	Admin    *crypt.Root                   // nil but for an administrator
	Local    *crypt.LocalKey               // nil without a credential
	Slot     crypt.SlotID                  // the key slot that was opened; zero for none
}

// Access is what a caller has to open a repository with: a credential, a passphrase, or both.
type Access struct {
	Credential *crypt.Credential
	Passphrase []byte
	Hint       string // beginning of the id of the slot to try, "" for all
	Paper      []byte // an exported key, used with Passphrase in place of a key slot
}

// Options are the ways a caller shapes a repository. The zero value is good.
type Options struct {
	Now       func() time.Time // nil: time.Now
	CachePath string           // file of the index cache; "" keeps none
}

// Repo is an open repository. Its methods may be called concurrently, but LoadIndex before anything that looks up blobs.
type Repo struct {
	storage  backends.Storage
	config   *Config
	keys     *Keys
	trust    *crypt.Trust
	settings *Settings
	now      func() time.Time
	cache    string

	index *index.Index

	mu       sync.Mutex // guards what follows
	problems []Problem
	records  map[crypt.SessionID]*crypt.SessionRecord
	sessions map[crypt.SessionID]crypt.SessionKey
	packKeys map[crypt.ID]*crypt.PackKey
	coder    *pack.Coder
}

// maxSlotTries is how many key slots are tried without a hint: each wrong one costs a key derivation, which a storage could
// make us pay for ever (restic #3776).
const maxSlotTries = 20

// Open opens the repository in s. It reads config, settings and host certificates; LoadIndex reads the rest.
//
// Errors match ErrNoRepository, ErrNoConfig, ErrForeign, ErrNoKey, crypt.ErrPassphrase, crypt.ErrPolicy, crypt.ErrFormat, ErrTampered
// or are the storage's.
func Open(ctx context.Context, s backends.Storage, a Access, o Options) (*Repo, error) {
	r := newRepo(s, o)
	if err := r.readConfig(ctx, a.Credential); err != nil {
		return nil, err
	}
	if a.Credential != nil {
		r.keys = fromCredential(a.Credential)
	}
	if len(a.Passphrase) > 0 {
		if err := r.unlock(ctx, a); err != nil {
			return nil, err
		}
	}
	if r.keys == nil {
		return nil, fmt.Errorf("opening repository %x: %w", r.config.ID, ErrNoKey)
	}
	r.trust = &crypt.Trust{Repo: r.config.ID, Root: r.keys.Root}
	if err := r.readSettings(ctx); err != nil {
		return nil, err
	}
	if err := r.readHosts(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

func newRepo(s backends.Storage, o Options) *Repo {
	r := &Repo{storage: s, now: o.Now, cache: o.CachePath, records: make(map[crypt.SessionID]*crypt.SessionRecord),
		sessions: make(map[crypt.SessionID]crypt.SessionKey), packKeys: make(map[crypt.ID]*crypt.PackKey), coder: new(pack.Coder)}
	if r.now == nil {
		r.now = time.Now
	}
	return r
}

// Config returns what never changes.
func (r *Repo) Config() *Config { return r.config }

// Settings returns the newest settings read.
func (r *Repo) Settings() *Settings { return r.settings }

// Keys returns what this process can open and sign.
func (r *Repo) Keys() *Keys { return r.keys }

// Trust returns whose signatures count.
func (r *Repo) Trust() *crypt.Trust { return r.trust }

// Storage returns where the repository is kept.
func (r *Repo) Storage() backends.Storage { return r.storage }

// CanRead reports whether file bytes and names can be opened.
func (r *Repo) CanRead() bool { return len(r.keys.Read) > 0 }

// Problems returns the objects found so far that are not used, and why.
func (r *Repo) Problems() []Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Problem(nil), r.problems...)
}

func (r *Repo) problem(object string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.problems {
		if p.Object == object {
			return
		}
	}
	r.problems = append(r.problems, Problem{object, err})
}

// configNames are the config and its replicas: any one is enough.
var configNames = [...]string{"config", "replica/1/config", "replica/2/config"}

// readConfig finds a config that parses, and that names the root the credential pins.
func (r *Repo) readConfig(ctx context.Context, c *crypt.Credential) error {
	var first error
	missing := 0
	for _, name := range configNames {
		b, err := Fetch(ctx, r.storage, name)
		if isMissing(err) {
			missing++
			continue
		}
		if err == nil {
			var cfg *Config
			if cfg, err = ParseConfig(b); err == nil {
				if c != nil && (c.Repo != cfg.ID || !bytes.Equal(c.Root, cfg.Root)) {
					err = tampered("reading", name, fmt.Errorf("repository %x: %w %x", cfg.ID, ErrForeign, c.Repo))
				} else if r.config == nil {
					r.config = cfg
				} else if cfg.ID != r.config.ID {
					err = tampered("reading", name, ErrForeign)
				}
			} else if !errors.Is(err, crypt.ErrFormat) {
				err = damaged("reading", name, err)
			}
		}
		if err != nil {
			r.problem(name, err)
			if first == nil {
				first = err
			}
		}
	}
	switch {
	case r.config != nil:
		if missing > 0 {
			for _, name := range configNames {
				if _, err := r.storage.Stat(ctx, name); isMissing(err) {
					r.problem(name, damaged("reading", name, errors.New("missing, another copy is good")))
				}
			}
		}
		return nil
	case first != nil:
		return fmt.Errorf("opening repository: %w", first)
	}
	for _, prefix := range []string{"keys/", "snapshots/", "packs/"} {
		infos, _, err := List(ctx, r.storage, prefix)
		if err != nil {
			return fmt.Errorf("opening repository: %w", err)
		}
		if len(infos) > 0 {
			return fmt.Errorf("opening repository: %w: %w", ErrDamaged, ErrNoConfig)
		}
	}
	return fmt.Errorf("opening repository: %w", ErrNoRepository)
}

func fromCredential(c *crypt.Credential) *Keys {
	return &Keys{Repo: c.Repo, Root: c.Root, Writes: c.Writes, Chunker: c.Chunker, Identity: c.Identity, Local: &c.Local}
}

// addBundle merges what a key slot's holder has into what the credential gave.
func (k *Keys) addBundle(b *crypt.Bundle) {
	writes := make(map[uint32]crypt.WriteSecret)
	for e, w := range k.Writes {
		writes[e] = w
	}
	for e, w := range b.Writes {
		writes[e] = w
	}
	k.Writes, k.Read, k.Admin, k.Chunker = writes, b.Read, b.Root, b.Chunker
	if k.Identity == nil {
		k.Identity = b.Identity
	}
}

// slots reads the key slots that parse, in the order of their names; a damaged one is mended by its replica or passed over.
func (r *Repo) slots(ctx context.Context) ([]*crypt.Slot, error) {
	byName := make(map[string][]string) // id -> names
	for _, prefix := range []string{"keys/", "replica/1/keys/", "replica/2/keys/"} {
		infos, _, err := List(ctx, r.storage, prefix)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			id := i.Name[strings.LastIndexByte(i.Name, '/')+1:]
			byName[id] = append(byName[id], i.Name)
		}
	}
	ids := make([]string, 0, len(byName))
	for id := range byName {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	var slots []*crypt.Slot
	for _, id := range ids {
		for _, name := range byName[id] {
			b, err := Fetch(ctx, r.storage, name)
			if err == nil {
				var s *crypt.Slot
				if s, err = crypt.ParseSlot(b); err == nil && s.ID.String() != id {
					err = crypt.ErrOpen
				}
				if err == nil {
					slots = append(slots, s)
					break
				}
				err = damaged("reading", name, err)
			} else if !isMissing(err) && ctx.Err() != nil {
				return nil, err
			}
			r.problem(name, err)
		}
	}
	return slots, nil
}

// unlock opens a key slot with the passphrase, and the newest bundle for it.
func (r *Repo) unlock(ctx context.Context, a Access) error {
	fail := func(err error) error { return fmt.Errorf("unlocking repository %x: %w", r.config.ID, err) }
	root := r.config.Root
	if r.keys != nil {
		root = r.keys.Root
	}
	if a.Paper != nil {
		b, pub, err := crypt.OpenPaper(a.Passphrase, r.config.ID, a.Paper)
		if err != nil {
			return fail(err)
		}
		if !bytes.Equal(pub, root) {
			return fail(tampered("opening", "key file", crypt.ErrSignature))
		}
		r.takeBundle(root, crypt.SlotID{}, b)
		return nil
	}
	slots, err := r.slots(ctx)
	if err != nil {
		return fail(err)
	}
	worst := error(crypt.ErrPassphrase)
	if len(slots) == 0 {
		worst = ErrNoKey
	}
	tries := 0
	for _, s := range slots {
		if !strings.HasPrefix(s.ID.String(), a.Hint) {
			continue
		}
		if tries++; tries > maxSlotTries {
			worst = fmt.Errorf("%w: more than %d key slots, name one by a hint", ErrNoKey, maxSlotTries)
			break
		}
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		open, err := s.Open(a.Passphrase, r.config.ID)
		if err == nil && !bytes.Equal(open.Root, root) {
			err = tampered("reading", "keys/"+s.ID.String(), crypt.ErrSignature)
		}
		if err == nil {
			var b *crypt.Bundle
			if b, err = r.newestBundle(ctx, open); err == nil {
				r.takeBundle(root, s.ID, b)
				return nil
			}
		}
		if errors.Is(err, crypt.ErrPassphrase) {
			continue
		}
		r.problem("keys/"+s.ID.String(), err)
		if !errors.Is(worst, crypt.ErrPolicy) {
			worst = err
		}
	}
	return fail(worst)
}

func (r *Repo) takeBundle(root ed25519.PublicKey, slot crypt.SlotID, b *crypt.Bundle) {
	if r.keys == nil {
		r.keys = &Keys{Repo: r.config.ID, Root: root}
	}
	r.keys.Slot = slot
	r.keys.addBundle(b)
}

// newestBundle opens the bundle of the highest generation that opens.
func (r *Repo) newestBundle(ctx context.Context, o *crypt.OpenedSlot) (*crypt.Bundle, error) {
	infos, _, err := List(ctx, r.storage, "bundles/")
	if err != nil {
		return nil, err
	}
	type candidate struct {
		name       string
		generation uint64
	}
	var all []candidate
	for _, i := range infos {
		p := strings.SplitN(strings.TrimPrefix(i.Name, "bundles/"), "-", 3)
		if p[1] != o.Slot.ID.String() {
			continue
		}
		g, err := strconv.ParseUint(p[0], 10, 64)
		if err == nil {
			all = append(all, candidate{i.Name, g})
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].generation > all[j].generation })
	if len(all) == 0 {
		return nil, damaged("reading", "bundles/", fmt.Errorf("none for key slot %v: %w", o.Slot.ID, ErrNoKey))
	}
	var last error
	for _, c := range all {
		b, err := Fetch(ctx, r.storage, c.name)
		if err == nil {
			if !strings.HasSuffix(c.name, crypt.Sum(b).String()) {
				err = damaged("reading", c.name, errors.New("the bytes do not match the name"))
			} else {
				var bundle *crypt.Bundle
				if bundle, err = o.OpenBundle(c.generation, b); err == nil {
					return bundle, nil
				}
				err = damaged("reading", c.name, err)
			}
		}
		r.problem(c.name, err)
		last = err
	}
	return nil, last
}

// readSettings finds the newest generation that the root signed. An invalid object under a generation's name is skipped and reported.
func (r *Repo) readSettings(ctx context.Context) error {
	infos, _, err := List(ctx, r.storage, "settings/")
	if err != nil {
		return err
	}
	for _, i := range infos {
		g, err := strconv.ParseUint(strings.TrimPrefix(i.Name, "settings/"), 10, 64)
		if err != nil || r.settings != nil && g < r.settings.Generation {
			continue
		}
		s, err := r.getSigned(ctx, crypt.TypeSettings, i.Name)
		if err == nil {
			var v *Settings
			if v, err = parseBody[Settings](s.Body); err == nil {
				if err = v.validate(); err == nil && v.Generation == g {
					r.settings = v
					continue
				}
			}
			if err == nil {
				err = crypt.ErrOpen
			}
			err = damaged("reading", i.Name, err)
		} else if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrTampered) {
			return err
		}
		r.problem(i.Name, err)
	}
	if r.settings == nil {
		return fmt.Errorf("opening repository %x: %w: no settings can be read", r.config.ID, ErrDamaged)
	}
	return nil
}

// validate refuses settings that a root never makes.
func (s *Settings) validate() error {
	switch {
	case len(s.ReadKeys) == 0:
		return errors.New("no read key")
	case s.Parity > pack.MaxParity:
		return fmt.Errorf("%d parity shards: %w", s.Parity, crypt.ErrPolicy)
	case s.PackSize < MinPackSize || s.PackSize > MaxPackSize:
		return fmt.Errorf("pack size %d: %w", s.PackSize, crypt.ErrPolicy)
	}
	_, err := pack.ParseLevel(s.Compression)
	return err
}

// readHosts reads the host certificates that the root signed.
func (r *Repo) readHosts(ctx context.Context) error {
	infos, _, err := List(ctx, r.storage, "hosts/")
	if err != nil {
		return err
	}
	for _, i := range infos {
		s, err := r.getSigned(ctx, crypt.TypeHost, i.Name)
		if err == nil {
			var c *crypt.Certificate
			c, err = crypt.ParseCertificate(s.Body)
			if err == nil && !strings.HasPrefix(i.Name, fmt.Sprintf("hosts/%v/%d-", c.Host, c.Serial)) {
				err = crypt.ErrOpen
			}
			if err == nil {
				r.trust.Add(c)
				continue
			}
			err = damaged("reading", i.Name, err)
		} else if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrTampered) {
			return err
		}
		r.problem(i.Name, err)
	}
	return nil
}

// Bounds of the pack size, bytes. The file may be at most 256 MiB.
const (
	MinPackSize     = 1 << 20
	MaxPackSize     = 240 << 20
	DefaultPackSize = 32 << 20
)

// InitOptions are what a new repository is made with.
type InitOptions struct {
	Passphrase  []byte
	Iterations  int // 0: the default
	Config      Config
	Parity      int
	PackSize    int
	Compression string
	HostName    string
	Label       string // of the first key slot
	ReadKey     *crypt.ReadPrivate
	Now         time.Time
}

// Init makes a repository in s and returns the credential of this host. The config is stored last: until it is
// there, no repository exists, and init may be run again. ErrExists says that there is one.
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
	root, err := crypt.NewRoot(crypt.NewRepoID())
	if err != nil {
		return nil, err
	}
	cfg := o.Config
	cfg.ID, cfg.Root, cfg.Created = root.Repo, root.Public(), o.Now.Unix()
	config, err := cfg.marshal(root)
	if err != nil {
		return nil, err
	}
	if _, err := ParseConfig(config); err != nil {
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
	keys := &Keys{Repo: root.Repo, Root: root.Public(), Admin: root, Writes: map[uint32]crypt.WriteSecret{epoch: crypt.NewSecret()},
		Chunker: crypt.NewSecret(), Read: map[uint32]*crypt.ReadPrivate{1: read}}
	if keys.Identity, err = crypt.NewIdentity(); err != nil {
		return nil, err
	}
	r := newRepo(s, Options{Now: func() time.Time { return o.Now }})
	r.config, r.keys = &cfg, keys
	r.settings = &Settings{Generation: 1, Time: o.Now.Unix(), WriteEpoch: epoch, ReadKeys: []crypt.ReadKeyForm{form},
		Parity: uint8(o.Parity), PackSize: uint32(o.PackSize), Compression: o.Compression}
	if err := r.settings.validate(); err != nil {
		return nil, err
	}
	name, object, err := r.sealSigned(crypt.TypeSettings, "settings/1", canon.Marshal(r.settings), true)
	if err != nil {
		return nil, err
	}
	if err := r.putExclusive(ctx, name, object); err != nil {
		if exists(err) {
			return nil, fmt.Errorf("%w: another init is at work", ErrExists)
		}
		return nil, err
	}
	if err := r.putHost(ctx, keys.Identity, o.HostName, crypt.RoleWriter); err != nil {
		return nil, err
	}
	holder, err := crypt.NewIdentity()
	if err != nil {
		return nil, err
	}
	if err := r.putHost(ctx, holder, o.Label, crypt.RoleReader|crypt.RoleAdmin); err != nil {
		return nil, err
	}
	if err := r.putSlot(ctx, o.Passphrase, o.Iterations, o.Label, holder); err != nil {
		return nil, err
	}
	for i := len(configNames) - 1; i >= 0; i-- { // the first name last: it makes the repository
		if err := r.putExclusive(ctx, configNames[i], config); err != nil {
			if exists(err) {
				return nil, fmt.Errorf("%w: another init was faster", ErrExists)
			}
			return nil, err
		}
	}
	return &crypt.Credential{Repo: root.Repo, Root: root.Public(), Identity: keys.Identity, Writes: keys.Writes, Chunker: keys.Chunker,
		Read: []*crypt.ReadPublic{read.Public()}, Local: crypt.LocalKey(crypt.NewSecret())}, nil
}

// clearUnfinished refuses a place that holds a repository, and removes what an init that never stored its config left.
func clearUnfinished(ctx context.Context, s backends.Storage) error {
	if _, err := s.Stat(ctx, configNames[0]); err == nil {
		return ErrExists
	} else if !isMissing(err) {
		return storageErr("reading", configNames[0], err)
	}
	for _, prefix := range []string{"snapshots/", "packs/", "meta/", "index/"} {
		infos, _, err := List(ctx, s, prefix)
		if err != nil {
			return err
		}
		if len(infos) > 0 {
			return fmt.Errorf("%w, and %w", ErrExists, ErrNoConfig)
		}
	}
	for _, prefix := range []string{"replica/", "settings/", "hosts/", "keys/", "bundles/", "grants/"} {
		infos, _, err := List(ctx, s, prefix)
		if err != nil {
			return err
		}
		for _, i := range infos {
			if err := s.Delete(ctx, i.Name); err != nil && !isMissing(err) {
				return storageErr("removing", i.Name, err)
			}
		}
	}
	return nil
}

// ReadConfig finds a readable config in s without any key: what a program needs to know which credential to take. Errors are those of Open.
func ReadConfig(ctx context.Context, s backends.Storage) (*Config, error) {
	r := newRepo(s, Options{})
	if err := r.readConfig(ctx, nil); err != nil {
		return nil, err
	}
	return r.config, nil
}
