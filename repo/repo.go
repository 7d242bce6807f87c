// Package repo keeps blobs by content, and the manifests that keep them alive.
//
// It owns the names of objects, the leases of writer sessions and the order of calls that makes a commit: packs, then index
// segments, then the audit entry, then snapshots/<session>, created exclusively. FORMAT.md beside this file is the byte-exact format.
package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/pack"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/stored"
	"packhold/repo/writeonce"
)

// Keys is what this process can open and sign.
type Keys struct {
	Repo     crypt.RepoID
	Root     ed25519.PublicKey // the pinned one: the credential's, or the one that the passphrase vouches for
	Writes   map[uint32]crypt.WriteSecret
	Chunker  [32]byte
	Identity *crypt.Identity               // nil: cannot store anything
	Read     map[uint32]*crypt.ReadPrivate // empty without a passphrase
	Reader   *crypt.Identity               // of who holds the passphrase; nil without one
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
	LocksPath string           // file of what is known of locks at this place; "" keeps none
	Found     *Found           // what ReadConfig returned for the same storage just now; nil: it is read
	Far, Flat bool             // each call on the storage costs a round trip; a listing one, whatever it lists
}

// Repo is an open repository. Its methods may be called concurrently, but LoadIndex before anything that looks up blobs, and those that
// change keys or hosts beside no other.
type Repo struct {
	storage  backends.Storage
	keeper   *writeonce.Keeper // nil: the settings lock nothing; otherwise it is storage
	config   *format.Config
	keys     *Keys
	ring     *keyring.Ring
	trust    *crypt.Trust
	settings *format.Settings
	now      func() time.Time
	cache    string
	coder    *pack.Coder
	surveys  *stored.Surveys
	opening  *stored.Survey // serves Open alone

	kept              map[crypt.SessionID]crypt.ID // snapshots of revoked hosts that stay valid, by their objects
	unknownRevocation bool                         // a revocation cannot be read: any host may be the revoked one
	unsure            error                        // the disk cannot read what says whom to believe: enough to read, too little to rely on

	index atomic.Pointer[index.Index] // nil before LoadIndex

	loadMu    stored.Gate   // serializes readings of the index, and guards what follows
	loads     uint64        // how often the index was read
	listPacks bool          // the session wants packs looked up in the storage's listing
	loaded    time.Time     // when the last reading ended
	loading   time.Duration // how long it took
	reloaded  bool          // it was read again for a blob that was missed
	gone      map[index.PackID]struct{}
	badIndex  bool                             // a segment cannot be used
	dead      map[index.PackID]index.Exclusion // packs condemned, final or lost
	blind     bool                             // see exclusions
	alone     crypt.SessionID                  // the session that relies on nothing but what it stores; zero: none
	unnamed   unnamed
	tailMost  int // of the index; see loader

	mu       sync.Mutex // guards what follows
	active   bool       // a session is open
	stale    bool       // the index holds claims of a session that never stored what it claimed
	problems []Problem
	reported map[string]bool
	sessions map[crypt.SessionID]crypt.SessionKey
	packKeys map[packKeyID]*crypt.PackKey
	known    map[string]knownObject // by name: what was read and checked need not be read again
}

// Format prints no secret, so that no message gives it away.
func (Keys) Format(f fmt.State, _ rune) { io.WriteString(f, "[keys]") }

// Format prints no secret.
func (Access) Format(f fmt.State, _ rune) { io.WriteString(f, "[access]") }

// Open opens the repository in s. It reads config, settings and host certificates; LoadIndex reads the rest.
//
// Errors match ErrNoRepository, ErrNoConfig, ErrForeign, keyring.ErrNoKey, crypt.ErrPassphrase, crypt.ErrPolicy, crypt.ErrFormat, ErrTampered
// or are the storage's.
func Open(ctx context.Context, s backends.Storage, a Access, o Options) (*Repo, error) {
	r := newRepo(s, o)
	if f, c := o.Found, a.Credential; f != nil && (c == nil || c.Repo == f.ID && bytes.Equal(c.Root, f.Root)) {
		r.config, r.surveys, r.opening = f.Config, f.surveys, f.opening
		if r.opening != nil && r.surveys.Recent() == nil { // somebody was asked for a passphrase meanwhile
			var err error
			if r.opening, err = r.lookAround(ctx); err != nil {
				return nil, fmt.Errorf("opening repository %x: %w", r.config.ID, err)
			}
		}
		for _, p := range f.problems {
			r.problem(p.Object, p.Err)
		}
	} else if err := r.readConfig(ctx, c); err != nil {
		return nil, err
	}
	pinned := r.config.Root
	if a.Credential != nil {
		r.keys = fromCredential(a.Credential)
		pinned = r.keys.Root
	}
	var err error
	if r.ring, err = keyring.Open(ctx, keyObjects{r}, r.config.ID, pinned); err != nil {
		return nil, fmt.Errorf("opening repository %x: %w", r.config.ID, err)
	}
	if len(a.Passphrase) > 0 {
		if err := r.unlock(ctx, a); err != nil {
			return nil, fmt.Errorf("unlocking repository %x: %w", r.config.ID, err)
		}
	}
	if r.keys == nil {
		return nil, fmt.Errorf("opening repository %x: %w", r.config.ID, keyring.ErrNoKey)
	}
	if a.Credential != nil {
		if err := r.readGrant(ctx); err != nil {
			return nil, fmt.Errorf("opening repository %x: %w", r.config.ID, err)
		}
	}
	r.trust = &crypt.Trust{Repo: r.config.ID, Roots: r.ring.Roots()}
	if err := r.readSettings(ctx); err != nil {
		return nil, err
	}
	if r.settings.Lock != 0 {
		m := writeonce.Memory{Path: o.LocksPath, Key: r.keys.Local}
		r.keeper = writeonce.New(s, writeonce.PolicyOf(r.settings), r.now, m)
		r.storage = r.keeper
	}
	if err := r.readHosts(ctx); err != nil {
		return nil, err
	}
	if err := r.readRevocations(ctx); err != nil {
		return nil, err
	}
	r.opening = nil
	return r, nil
}

func newRepo(s backends.Storage, o Options) *Repo {
	r := &Repo{loadMu: stored.NewGate(), storage: s, now: o.Now, cache: o.CachePath, coder: new(pack.Coder), tailMost: tailMost,
		kept: make(map[crypt.SessionID]crypt.ID), gone: make(map[index.PackID]struct{}), reported: make(map[string]bool),
		sessions: make(map[crypt.SessionID]crypt.SessionKey), packKeys: make(map[packKeyID]*crypt.PackKey),
		known: make(map[string]knownObject)}
	if r.now == nil {
		r.now = time.Now
	}
	r.surveys = stored.NewSurveys(s, r.now, o.Far, o.Flat)
	return r
}

// Config returns what never changes.
func (r *Repo) Config() *format.Config { return r.config }

// Settings returns the newest settings read.
func (r *Repo) Settings() *format.Settings { return r.settings }

// Keys returns what this process can open and sign.
func (r *Repo) Keys() *Keys { return r.keys }

// Trust returns whose signatures count.
func (r *Repo) Trust() *crypt.Trust { return r.trust }

// Now returns the time by the clock that the repository was opened with.
func (r *Repo) Now() time.Time { return r.now() }

// Keeper returns what locks objects, nil if the settings do not say so.
func (r *Repo) Keeper() *writeonce.Keeper { return r.keeper }

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
	switch {
	case r.reported[object]:
	case len(r.problems) < maxProblems:
		r.reported[object] = true
		r.problems = append(r.problems, Problem{object, err})
	case len(r.problems) == maxProblems:
		r.problems = append(r.problems, Problem{"(more)", fmt.Errorf("%w: more than %d objects", ErrDamaged, maxProblems)})
	}
}

// maxProblems bounds the memory of what is reported: a hostile storage holds any number of junk objects.
const maxProblems = 10_000

// readConfig finds a config that parses, and that names the root the credential pins. The replicas are read where the first is not good; a check
// reads all.
func (r *Repo) readConfig(ctx context.Context, c *crypt.Credential) error {
	var err error
	if r.opening, err = r.lookAround(ctx); err != nil {
		return fmt.Errorf("opening repository: %w", err)
	}
	var first error
	var missing []string
	for _, name := range format.ConfigNames {
		b, err := r.opening.Fetch(ctx, r.storage, name)
		if stored.Missing(err) {
			missing = append(missing, name)
			continue
		}
		if err == nil {
			var cfg *format.Config
			cfg, err = format.ParseConfig(b)
			switch {
			case err != nil && !errors.Is(err, crypt.ErrFormat):
				err = stored.Damaged("reading", name, err)
			case err != nil:
			case c != nil && c.Repo != cfg.ID:
				err = stored.Tampered("reading", name, fmt.Errorf("repository %x: %w %x", cfg.ID, ErrForeign, c.Repo))
			case c != nil && !bytes.Equal(c.Root, cfg.Root):
				err = r.checkSuccessor(ctx, name, cfg, c.Root)
			}
			if err == nil {
				r.config = cfg
				break
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
		for _, name := range missing {
			r.problem(name, stored.Damaged("reading", name, errors.New("missing, another copy is good")))
		}
		return nil
	case first != nil:
		return fmt.Errorf("opening repository: %w", first)
	}
	for _, prefix := range []string{"keys/", "snapshots/", "packs/"} {
		infos, _, err := stored.List(ctx, r.storage, prefix)
		if err != nil {
			return fmt.Errorf("opening repository: %w", err)
		}
		if len(infos) > 0 {
			return fmt.Errorf("opening repository: %w: %w", ErrDamaged, ErrNoConfig)
		}
	}
	return fmt.Errorf("opening repository: %w", ErrNoRepository)
}

// lookAround takes the survey that serves Open.
func (r *Repo) lookAround(ctx context.Context) (*stored.Survey, error) {
	all, err := r.surveys.All(ctx)
	if all == nil && err == nil {
		return r.surveys.Parts(ctx, append(format.SlotPrefixes[:], "roots/", "bundles/", "grants/", "settings/", "hosts/")...)
	}
	return all, err
}

func fromCredential(c *crypt.Credential) *Keys {
	return &Keys{Repo: c.Repo, Root: c.Root, Writes: c.Writes, Chunker: c.Chunker, Identity: c.Identity, Local: &c.Local}
}

// addBundle merges what a key slot's holder has into what the credential gave.
func (k *Keys) addBundle(b *crypt.Bundle) {
	k.addWrites(b.Writes)
	k.Read, k.Admin, k.Chunker = b.Read, b.Root, b.Chunker
	k.Reader = b.Identity
	if k.Identity == nil {
		k.Identity = b.Identity
	}
}

// addWrites leaves the credential's own map alone.
func (k *Keys) addWrites(more map[uint32]crypt.WriteSecret) {
	writes := make(map[uint32]crypt.WriteSecret)
	maps.Copy(writes, k.Writes)
	maps.Copy(writes, more)
	k.Writes = writes
}

// checkSuccessor checks that root is a successor of the one that a config names. The config never changes, so it may name a root that is no longer
// believed: its other fields count as the successor vouches for them, by its signature that it took over.
func (r *Repo) checkSuccessor(ctx context.Context, name string, c *format.Config, root ed25519.PublicKey) error {
	ring, err := keyring.Open(ctx, keyObjects{r}, c.ID, c.Root)
	if err == nil && !ring.Believes(root) {
		err = stored.Tampered("reading", name, fmt.Errorf("its root is none that this host knows: %w", ErrForeign))
	}
	return err
}

// readGrant adds the write secrets of epochs that began since this host's credential was made.
func (r *Repo) readGrant(ctx context.Context) error {
	g, err := r.ring.Grant(ctx, r.keys.Identity, r.keys.Writes, r.keys.Chunker)
	if err == nil && g != nil {
		r.keys.addWrites(g.Writes)
	}
	return err
}

// keyObjects is the repository as a keyring.Ring sees it.
type keyObjects struct{ r *Repo }

func (o keyObjects) List(ctx context.Context, prefix string) ([]string, error) {
	infos, err := o.r.opening.List(ctx, o.r.storage, prefix)
	names := make([]string, len(infos))
	for i, info := range infos {
		names[i] = info.Name
	}
	return names, err
}

func (o keyObjects) Fetch(ctx context.Context, name string) (object []byte, bad, err error) {
	object, err = o.r.opening.Fetch(ctx, o.r.storage, name)
	if stored.Unreadable(err) {
		o.r.unsure = err
	}
	if stored.Isolated(err) || stored.Unreadable(err) || stored.Missing(err) {
		return nil, err, nil
	}
	return object, nil, err
}

func (o keyObjects) Reject(name string, why error, forged bool) error {
	if _, said := errors.AsType[*Error](why); !said {
		if forged {
			why = stored.Tampered("reading", name, why)
		} else {
			why = stored.Damaged("reading", name, why)
		}
	}
	o.r.problem(name, why)
	return why
}

// unlock opens a key slot with the passphrase, and the newest bundle for it.
func (r *Repo) unlock(ctx context.Context, a Access) error {
	var o *keyring.Opened
	var err error
	if a.Paper != nil {
		o, err = r.ring.OpenPaper(a.Passphrase, a.Paper)
	} else {
		o, err = r.ring.Unlock(ctx, a.Passphrase, a.Hint)
	}
	if err != nil {
		return err
	}
	if r.keys == nil {
		r.keys = &Keys{Repo: r.config.ID, Root: o.Root}
		r.ring.Pin(o.Root)
	}
	r.keys.Slot = o.Slot
	r.keys.addBundle(o.Bundle)
	return nil
}

// maxSettings is how many generations are tried, the newest first, before the repository counts as tampered with.
const maxSettings = 1000

// readSettings finds the newest generation that the root signed. An invalid object under a generation's name is skipped and reported, so
// generations may have gaps; a generation whose predecessor is not the one it names is reported too.
func (r *Repo) readSettings(ctx context.Context) error {
	infos, err := r.opening.List(ctx, r.storage, "settings/")
	if err != nil {
		return err
	}
	byGeneration := make(map[uint64]string)
	for _, i := range infos {
		if g, err := strconv.ParseUint(strings.TrimPrefix(i.Name, "settings/"), 10, 64); err == nil {
			byGeneration[g] = i.Name
		}
	}
	newest := slices.Sorted(maps.Keys(byGeneration))
	slices.Reverse(newest)
	var unread error
	for _, g := range newest[:min(len(newest), maxSettings)] {
		name := byGeneration[g]
		object, err := r.opening.Fetch(ctx, r.storage, name)
		var v *format.Settings
		if err == nil {
			v, err = r.control().Generation(name, g, object)
		}
		switch {
		case stored.Unreadable(err):
			unread = err
			r.problem(name, err)
			continue
		case stored.Isolated(err) || stored.Missing(err):
			r.problem(name, err)
			continue
		case err != nil:
			return err
		case r.settings == nil:
			r.settings, r.unsure = v, cmp.Or(unread, r.unsure)
			if len(v.Previous) == 0 {
				return nil
			}
			continue
		}
		// The first valid one below the newest is its predecessor.
		if sum := crypt.Sum(object); !bytes.Equal(r.settings.Previous, sum[:]) {
			break
		}
		return nil
	}
	if r.settings == nil && unread != nil {
		return unread
	}
	if r.settings == nil {
		return fmt.Errorf("opening repository %x: %w: no settings can be read", r.config.ID, ErrDamaged)
	}
	name := format.SettingsName(r.settings.Generation)
	r.problem(name, stored.Tampered("reading", name, errors.New("the settings before it are missing or others")))
	return nil
}

// readHosts reads the host certificates that the root signed.
func (r *Repo) readHosts(ctx context.Context) error {
	infos, err := r.opening.List(ctx, r.storage, "hosts/")
	if err != nil {
		return err
	}
	return stored.Each(ctx, r.storage, infos, func(i backends.Info, object []byte, err error) error {
		var c *crypt.Certificate
		if err == nil {
			c, err = r.control().Host(i.Name, object)
		}
		switch {
		case err == nil:
			r.trust.Add(c)
		case stored.Isolated(err) || stored.Missing(err):
			r.problem(i.Name, err)
		case stored.Unreadable(err):
			r.unsure = err
			r.problem(i.Name, err)
		default:
			return err
		}
		return nil
	})
}

// readRevocations reads the revocations that the settings name. One that cannot be read makes this process rely on no other host's
// packs, because any host may be the one.
func (r *Repo) readRevocations(ctx context.Context) error {
	infos := make([]backends.Info, len(r.settings.Revocations))
	for i, h := range r.settings.Revocations {
		infos[i].Name = "marks/" + crypt.ID(h).String()
	}
	return stored.Each(ctx, r.storage, infos, func(i backends.Info, object []byte, err error) error {
		var m *format.Mark
		if err == nil {
			if m, _, err = r.control().Mark(i.Name, object); err == nil && (m.Kind != format.MarkRevocation || m.Remove) {
				err = stored.Tampered("reading", i.Name, errors.New("the settings call it a revocation"))
			}
		}
		switch {
		case err == nil:
			r.trust.Revoke(m.Host)
			for _, k := range m.Kept {
				r.kept[k.Session] = k.Object
			}
		case stored.Missing(err):
			r.unknownRevocation = true
			r.problem(i.Name, stored.Tampered("reading", i.Name, errors.New("a revocation is missing")))
		case stored.Isolated(err), stored.Unreadable(err):
			r.unknownRevocation = true
			r.problem(i.Name, err)
		default:
			return err
		}
		return nil
	})
}

// Found is a config that was read without any key.
type Found struct {
	*format.Config
	problems []Problem
	surveys  *stored.Surveys
	opening  *stored.Survey
}

// ReadConfig finds a readable config in s without any key: what a program needs to know which credential to take. Of o, Now and Flat count.
// Errors are those of Open.
func ReadConfig(ctx context.Context, s backends.Storage, o Options) (*Found, error) {
	r := newRepo(s, o)
	if err := r.readConfig(ctx, nil); err != nil {
		return nil, err
	}
	return &Found{r.config, r.Problems(), r.surveys, r.opening}, nil
}
