package admin

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/chunk"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/keyring"
	"packhold/repo/snapshot"
)

// passphrase of all test repositories.
const passphrase = "correct horse battery"

// readKey is one read key for all tests, with the RSA key of crypt's vectors: making one takes seconds.
var readKey = sync.OnceValues(func() (*crypt.ReadPrivate, error) {
	b, err := os.ReadFile("../../crypt/testdata/test-rsa.pem")
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	return crypt.ReadKeyForm{Epoch: 1, Wrap: crypt.WrapRSAHPKE, RSA: block.Bytes, HPKE: bytes.Repeat([]byte{0x52}, 32)}.Private()
})

func initOptions() (InitOptions, error) {
	key, err := readKey()
	return InitOptions{Passphrase: []byte(passphrase), Iterations: crypt.MinIterations,
		Config: format.Config{Profile: format.Standard, Chunker: chunk.DefaultParams()}, Parity: 2, PackSize: format.MinPackSize,
		Compression: "fastest", HostName: "host-a", Label: "first", ReadKey: key, Now: time.Unix(1e9, 0)}, err
}

// testRepo is one empty repository, which tests clone, and what opens it.
type testRepo struct {
	*mem.Store
	credential *crypt.Credential
	keys       repo.Keys // what the passphrase opens
}

var baseRepo = sync.OnceValues(func() (*testRepo, error) {
	o, err := initOptions()
	if err != nil {
		return nil, err
	}
	s := mem.New(time.Now)
	c, err := Init(context.Background(), s, o)
	if err != nil {
		return nil, err
	}
	r, err := repo.Open(context.Background(), s, repo.Access{Passphrase: []byte(passphrase)}, repo.Options{})
	if err != nil {
		return nil, err
	}
	return &testRepo{s, c, *r.Keys()}, nil
})

// newTestRepo makes a repository in memory.
func newTestRepo(t testing.TB) *testRepo {
	t.Helper()
	b, err := baseRepo()
	if err != nil {
		t.Fatal(err)
	}
	return &testRepo{b.Clone(), b.credential, b.keys}
}

func open(t testing.TB, s backends.Storage, a repo.Access) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), s, a, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// administrator opens b as it stands in s, without the cost of a passphrase.
func (b *testRepo) administrator(t testing.TB, s backends.Storage) (*repo.Repo, *root) {
	t.Helper()
	r := open(t, s, repo.Access{Credential: b.credential})
	*r.Keys() = b.keys
	a, err := rootOf(r)
	if err != nil {
		t.Fatal(err)
	}
	a.iterations = crypt.MinIterations
	return r, a
}

// store commits a snapshot whose blobs are the given ones.
func store(t testing.TB, r *repo.Repo, blobs ...[]byte) *repo.Snapshot {
	t.Helper()
	s, err := r.Begin(t.Context(), repo.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	w, err := s.NewWorker()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if _, _, err := w.Store(b); err != nil {
			t.Fatal(err)
		}
	}
	page, _, err := w.StoreTree([]byte("a tree page, as far as this room knows"))
	if err != nil {
		t.Fatal(err)
	}
	rec := &snapshot.Record{Root: page, Type: snapshot.Full, Start: snapshot.Time{Sec: 1e9}, Lineage: [32]byte{1}}
	snap, err := s.Commit(t.Context(), rec, &snapshot.Body{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func namesIn(t testing.TB, s backends.Storage, prefix string) (names []string) {
	t.Helper()
	for i, err := range s.List(context.Background(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		if !format.KnownName(i.Name) {
			t.Errorf("%q is not a name of the format", i.Name)
		}
		names = append(names, i.Name)
	}
	return names
}

// kinds are what a storage fails with, and what the error must match.
var kinds = []struct{ inject, want error }{
	{backends.ErrNoSpace, backends.ErrNoSpace},
	{syscall.EIO, repo.ErrStorage},
	{fs.ErrPermission, fs.ErrPermission},
}

// long makes the fault loops complete: PACKHOLD_LONG=1 go test.
var long = os.Getenv("PACKHOLD_LONG") != ""

// eachFault runs f with every n-th storage call failing, until a run has fewer calls. The first manner is tried at each n, the others at every
// third, or with long at each. With the race detector it is a sample.
func eachFault(t *testing.T, f func(t *testing.T, rule fault.Rule, want error) (calls int)) {
	t.Helper()
	for i, m := range []fault.Rule{{Effect: fault.Before}, {Effect: fault.Before, Sticky: true}, {Effect: fault.After}, {Effect: fault.Partial}} {
		first, step := 1, 1
		switch {
		case long:
		case race && i%2 == 1:
			continue
		case race:
			first, step = 1+3*i, 19+18*min(i, 1)
		case i > 0:
			first, step = i, 3
		}
		for n := first; ; n += step {
			k := kinds[(n+i)%len(kinds)]
			m.N, m.Err = n, k.inject
			calls := f(t, m, k.want)
			if t.Failed() {
				t.Fatalf("with %+v", m)
			}
			if calls < n {
				break
			}
		}
	}
}

func allCalls(s *fault.Store) int {
	n := 0
	for op := fault.Put; op <= fault.Delete; op++ {
		n += s.Calls(op)
	}
	return n
}

func TestInitFaults(t *testing.T) {
	t.Parallel()
	o, err := initOptions()
	if err != nil {
		t.Fatal(err)
	}
	eachFault(t, func(t *testing.T, rule fault.Rule, want error) int {
		inner := mem.New(time.Now)
		st := fault.New(inner, rule)
		made := 0 // calls when the config was stored
		st.SetHook(func(op fault.Op, name string) error {
			if op == fault.Put && name == "config" {
				made = allCalls(st)
			}
			return nil
		})
		c, err := Init(t.Context(), st, o)
		calls := allCalls(st)
		if err != nil && !errors.Is(err, want) {
			t.Errorf("the error is %v", err)
		}
		if err == nil {
			open(t, inner, repo.Access{Credential: c})
		}
		again, err2 := Init(t.Context(), inner, o)
		switch {
		case err2 == nil && err == nil:
			t.Error("a repository was made over another")
		case err2 == nil:
			w := open(t, inner, repo.Access{Credential: again})
			store(t, w, []byte("blob"))
			if p := w.Problems(); len(p) > 0 {
				t.Errorf("remains: %v", p)
			}
		case errors.Is(err2, repo.ErrExists): // the first run's answer was lost, or its last Put left a broken config beside good ones
			if err != nil && rule.Effect == fault.Before && !rule.Sticky && rule.N < made {
				t.Errorf("a repository in spite of %v", err)
			}
			open(t, inner, repo.Access{Passphrase: []byte(passphrase)})
		default:
			t.Errorf("the second init: %v", err2)
		}
		return calls
	})
}

func TestInitRefused(t *testing.T) {
	b := newTestRepo(t)
	o, err := initOptions()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), b.Clone(), o); !errors.Is(err, repo.ErrExists) {
		t.Errorf("over a repository: %v", err)
	}
	noConfig := b.Clone()
	store(t, open(t, noConfig, repo.Access{Credential: b.credential}))
	for _, name := range format.ConfigNames {
		if err := noConfig.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Init(t.Context(), noConfig, o); !errors.Is(err, repo.ErrExists) || !errors.Is(err, repo.ErrNoConfig) {
		t.Errorf("over a repository without its config: %v", err)
	}
	for what, change := range map[string]func(*InitOptions){
		"compression": func(o *InitOptions) { o.Compression = "lzma" },
		"parity":      func(o *InitOptions) { o.Parity = format.MaxParity + 1 },
		"pack size":   func(o *InitOptions) { o.PackSize = format.MaxPackSize + 1 },
		"profile":     func(o *InitOptions) { o.Config.Profile = "none" },
		"passphrase":  func(o *InitOptions) { o.Passphrase = []byte("short") },
	} {
		bad := o
		change(&bad)
		s := mem.New(time.Now)
		if _, err := Init(t.Context(), s, bad); err == nil {
			t.Errorf("%s: accepted", what)
		}
		if _, err := s.Stat(t.Context(), "config"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: there is a repository: %v", what, err)
		}
	}
}

// TestInitRace lets a second init remove what it takes for remains while the first is at work: the first must not report success.
func TestInitRace(t *testing.T) {
	o, err := initOptions()
	if err != nil {
		t.Fatal(err)
	}
	inner := mem.New(time.Now)
	st := fault.New(inner)
	st.SetHook(func(op fault.Op, name string) error {
		if op == fault.Put && name == "config" {
			return inner.Delete(t.Context(), "settings/1")
		}
		return nil
	})
	if _, err := Init(t.Context(), st, o); !errors.Is(err, repo.ErrExists) {
		t.Errorf("init without its settings: %v", err)
	}
}

// TestTwoInits runs a whole init inside another, at each of its calls: at most one succeeds, and what it reports can be opened.
// It leaves out the one instant that removeRemains cannot close.
func TestTwoInits(t *testing.T) {
	t.Parallel()
	o, err := initOptions()
	if err != nil {
		t.Fatal(err)
	}
	usable := func(s backends.Storage, c *crypt.Credential, err error) {
		t.Helper()
		if err != nil {
			return
		}
		open(t, s, repo.Access{Credential: c})
		r := open(t, s, repo.Access{Passphrase: []byte(passphrase)})
		if r.Trust().Certificate(c.Identity.Host) == nil || r.Trust().Certificate(r.Keys().Identity.Host) == nil {
			t.Errorf("a host without a certificate, %v", r.Problems())
		}
	}
	remains := mem.New(time.Now) // of an init that was killed
	killed := fault.New(remains, fault.Rule{Op: fault.Put, Prefix: "config"})
	if _, err := Init(t.Context(), killed, o); err == nil {
		t.Fatal("no fault")
	}
	for _, base := range []*mem.Store{mem.New(time.Now), remains} {
		for n := 1; ; n++ {
			s := base.Clone()
			st := fault.New(s)
			var c *crypt.Credential
			inner, at := errors.New("not run"), 0
			var mu sync.Mutex
			st.SetHook(func(op fault.Op, name string) error {
				mu.Lock()
				defer mu.Unlock()
				if at++; at == n && (op != fault.Delete || name != "settings/1") { // the instant that stays open
					c, inner = Init(t.Context(), s, o)
				}
				return nil
			})
			outer, err := Init(t.Context(), st, o)
			if err == nil && inner == nil {
				t.Fatalf("call %d: both made a repository", n)
			}
			usable(s, c, inner)
			usable(s, outer, err)
			if t.Failed() {
				t.Fatalf("at call %d: %v and %v", n, err, inner)
			}
			if at < n {
				break
			}
		}
	}
}

// TestSecretsStayInside prints what holds secrets in every way that fmt knows.
func TestSecretsStayInside(t *testing.T) {
	o, err := initOptions()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{o, &o} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
			got := fmt.Sprintf(verb, v)
			for _, secret := range []string{passphrase, fmt.Sprintf("%x", passphrase), strings.Trim(fmt.Sprint([]byte(passphrase)), "[]")} {
				if strings.Contains(got, secret) {
					t.Errorf("%T by %s: %s", v, verb, got)
				}
			}
		}
	}
}

// TestLastUsableKey breaks the bundle of the only other key: the key in use stays.
func TestLastUsableKey(t *testing.T) {
	t.Parallel()
	base := newTestRepo(t)
	for what, harm := range map[string]func(s *mem.Store, name string) error{
		"gone": func(s *mem.Store, name string) error { return s.Delete(context.Background(), name) },
		"damaged": func(s *mem.Store, name string) error {
			return s.Put(context.Background(), name, []byte("junk"), backends.PutOptions{})
		},
	} {
		s := base.Clone()
		r, a := base.administrator(t, s)
		old := r.Keys().Slot
		added, err := a.addKey(t.Context(), r, []byte("another long passphrase"), "second")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range namesIn(t, s, "bundles/") {
			if strings.Contains(name, added.String()) {
				if err := harm(s, name); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := RemoveKey(t.Context(), r, old.String()); !errors.Is(err, repo.ErrLastKey) {
			t.Errorf("%s: the last key that opens was removed: %v", what, err)
		}
		open(t, s, repo.Access{Passphrase: []byte(passphrase)})
		if _, err := RemoveKey(t.Context(), r, added.String()); err != nil {
			t.Errorf("%s: the key that opens nothing: %v", what, err)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	b := newTestRepo(t)
	first, a := b.administrator(t, b)
	if _, err := RemoveKey(t.Context(), first, first.Keys().Slot.String()); !errors.Is(err, repo.ErrLastKey) {
		t.Errorf("last key removed: %v", err)
	}
	if _, err := a.addKey(t.Context(), first, []byte("another long passphrase"), "second"); err != nil {
		t.Fatal(err)
	}
	keys, err := first.ListKeys(t.Context())
	if err != nil || len(keys) != 2 {
		t.Fatalf("%v %v", keys, err)
	}
	second := open(t, b, repo.Access{Passphrase: []byte("another long passphrase")})
	if _, err := RemoveKey(t.Context(), second, ""); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("two keys have this beginning: %v", err)
	}
	if _, err := RemoveKey(t.Context(), second, first.Keys().Slot.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Open(t.Context(), b, repo.Access{Passphrase: []byte(passphrase)}, repo.Options{}); !errors.Is(err, crypt.ErrPassphrase) {
		t.Errorf("removed passphrase: %v", err)
	}
	if race {
		return // the rest derives keys of the default strength
	}
	paper, err := ExportKey(second, []byte("on paper: a passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"keys/", "replica/1/keys/", "replica/2/keys/", "bundles/"} {
		for _, name := range namesIn(t, b, prefix) {
			if err := b.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	third := open(t, b, repo.Access{Passphrase: []byte("on paper: a passphrase"), Paper: paper})
	if !third.CanRead() || third.Keys().Admin == nil {
		t.Error("the paper key opens less")
	}
}

// TestNeedAdmin has a writer try what takes the root key.
func TestNeedAdmin(t *testing.T) {
	b := newTestRepo(t)
	r := open(t, b, repo.Access{Credential: b.credential})
	before := len(namesIn(t, b, ""))
	for what, f := range map[string]func() error{
		"add":    func() error { _, err := AddKey(t.Context(), r, []byte("another long passphrase"), ""); return err },
		"remove": func() error { _, err := RemoveKey(t.Context(), r, "0"); return err },
		"change": func() error {
			_, err := ChangePassphrase(t.Context(), r, []byte("another long passphrase"))
			return err
		},
		"enroll": func() error { _, err := EnrollHost(t.Context(), r, "host-b", crypt.RoleWriter); return err },
	} {
		if err := f(); !errors.Is(err, repo.ErrNeedAdmin) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := ExportKey(r, []byte("on paper: a passphrase")); !errors.Is(err, repo.ErrNeedRead) {
		t.Errorf("export: %v", err)
	}
	if after := len(namesIn(t, b, "")); after != before {
		t.Errorf("%d objects, %d before", after, before)
	}
}

func TestEnroll(t *testing.T) {
	t.Parallel()
	b := newTestRepo(t)
	blobs := [][]byte{bytes.Repeat([]byte{1}, 5000), bytes.Repeat([]byte{2}, 5000)}
	store(t, open(t, b, repo.Access{Credential: b.credential}), blobs...)
	r, _ := b.administrator(t, b)
	c, err := EnrollHost(t.Context(), r, "host-b", crypt.RoleWriter)
	if err != nil {
		t.Fatal(err)
	}
	if cert := r.Trust().Certificate(c.Identity.Host); cert == nil || cert.Name != "host-b" {
		t.Errorf("certificate %+v", cert)
	}
	snap := store(t, open(t, b, repo.Access{Credential: c}), blobs...)
	if snap.Stats.Blobs != 0 || len(snap.Seen) != 1 || snap.Number != 2 {
		t.Errorf("second host: %+v", snap.Record)
	}
}

// TestEnrollIn has hosts store what a host of another domain stored: each time once for a domain, and for every strict host. A domain is named in the
// settings before any host is in it, and stays a host's when it is certified anew.
func TestEnrollIn(t *testing.T) {
	t.Parallel()
	b := newTestRepo(t)
	blob := bytes.Repeat([]byte{1}, 5000)
	store(t, open(t, b, repo.Access{Credential: b.credential}), blob)
	r, _ := b.administrator(t, b)
	for _, x := range []struct {
		name, domain string
		blobs        uint64 // with the root page
	}{{"lab-1", "lab", 2}, {"lab-2", "lab", 0}, {"alone-1", Strict, 2}, {"alone-2", Strict, 2}, {"attic", "attic", 2}, {"shared", "", 0}, {"lab-3", "lab", 0}} {
		c, err := EnrollHostIn(t.Context(), r, x.name, crypt.RoleWriter, x.domain)
		if err != nil {
			t.Fatal(err)
		}
		if snap := store(t, open(t, b, repo.Access{Credential: c}), blob); uint64(snap.Stats.Blobs) != x.blobs {
			t.Errorf("%s stored %d blobs, want %d", x.name, snap.Stats.Blobs, x.blobs)
		}
		own := open(t, b, repo.Access{Credential: c, Passphrase: []byte(passphrase)})
		own.Keys().Identity = c.Identity
		if err := Empower(t.Context(), own, crypt.RoleOperator); err != nil {
			t.Fatal(err)
		}
		cert := open(t, b, repo.Access{Credential: c}).Trust().Certificate(c.Identity.Host)
		if cert.Serial != 2 || cert.Domain != x.domain || cert.Roles != crypt.RoleWriter|crypt.RoleOperator {
			t.Errorf("%s is certified anew as %+v", x.name, cert)
		}
	}
	if got := open(t, b, repo.Access{Credential: b.credential}).Settings().Domains; !slices.Equal(got, []string{"attic", "lab"}) || !slices.Equal(got, r.Settings().Domains) {
		t.Errorf("the settings name %q", got)
	}
	// An administrator who opened it before does not take a newer one's domain away.
	late, _ := b.administrator(t, b)
	if _, err := EnrollHostIn(t.Context(), r, "cellar", crypt.RoleWriter, "cellar"); err != nil {
		t.Fatal(err)
	}
	if _, err := EnrollHostIn(t.Context(), late, "garden", crypt.RoleWriter, "garden"); !errors.Is(err, ErrChanged) {
		t.Errorf("two administrators at once: %v", err)
	}
}

// usable reports which key slots can be used: one that lists and has its bundle. TestKeys opens such slots with their passphrases.
func (b *testRepo) usable(t *testing.T, s backends.Storage) map[crypt.SlotID]bool {
	t.Helper()
	slots, err := open(t, s, repo.Access{Credential: b.credential}).ListKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[crypt.SlotID]bool{}
	for _, name := range namesIn(t, s, "bundles/") {
		for _, k := range slots {
			if strings.Contains(name, "-"+k.ID.String()+"-") {
				out[k.ID] = true
			}
		}
	}
	return out
}

func TestKeyFaults(t *testing.T) {
	t.Parallel()
	base := newTestRepo(t)
	word := []byte("another long passphrase")
	old := base.keys.Slot
	for name, f := range map[string]func(r *repo.Repo, a *root) (crypt.SlotID, error){
		"add":    func(r *repo.Repo, a *root) (crypt.SlotID, error) { return a.addKey(t.Context(), r, word, "second") },
		"change": func(r *repo.Repo, a *root) (crypt.SlotID, error) { return a.changePassphrase(t.Context(), r, word) },
		"enroll": func(r *repo.Repo, a *root) (crypt.SlotID, error) {
			c, err := a.enrollHost(t.Context(), r, "host-b", crypt.RoleWriter, "")
			if err == nil {
				_, err = repo.Open(t.Context(), r.Storage(), repo.Access{Credential: c}, repo.Options{})
			}
			return old, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachFault(t, func(t *testing.T, rule fault.Rule, want error) int {
				inner := base.Clone()
				st := fault.New(inner)
				r, a := base.administrator(t, st)
				before := allCalls(st)
				st.Add(rule)
				id, err := f(r, a)
				calls := allCalls(st) - before
				st.Clear()
				if err != nil && !errors.Is(err, want) {
					t.Errorf("the error is %v", err)
				}
				works := base.usable(t, inner)
				switch {
				case len(works) == 0:
					t.Error("no passphrase works any more")
				case err == nil && !works[id]:
					t.Error("success, and the new passphrase does not work")
				case err == nil && name == "change" && works[old]:
					t.Error("success, and the old passphrase still works")
				case name != "change" && !works[old]:
					t.Error("the old passphrase stopped working")
				}
				if err == nil || t.Failed() || !works[old] {
					return calls
				}
				if id, err = f(r, a); err != nil {
					t.Errorf("again: %v", err)
				}
				if works = base.usable(t, inner); !works[id] {
					t.Error("again: the new passphrase does not work")
				}
				return calls
			})
		})
	}
}
