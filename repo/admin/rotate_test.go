package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

const second = "another long passphrase"

// peopled is a repository with the hosts a to d, and two passphrases.
type peopled struct {
	*testRepo
	hosts map[string]*crypt.Credential
	torn  bool // there are parts of objects whose Put failed
}

var basePeopled = sync.OnceValues(func() (*peopled, error) {
	b, err := baseRepo()
	if err != nil {
		return nil, err
	}
	p := &peopled{&testRepo{b.Clone(), b.credential, b.keys}, map[string]*crypt.Credential{"a": b.credential}, false}
	ctx := context.Background()
	r, err := repo.Open(ctx, p, repo.Access{Passphrase: []byte(passphrase)}, repo.Options{})
	if err != nil {
		return nil, err
	}
	a, err := rootOf(r)
	if err != nil {
		return nil, err
	}
	a.iterations = crypt.MinIterations
	if _, err := a.addKey(ctx, r, []byte(second), "second"); err != nil {
		return nil, err
	}
	for _, name := range []string{"b", "c", "d"} {
		if p.hosts[name], err = a.enrollHost(ctx, r, "host-"+name, crypt.RoleWriter, ""); err != nil {
			return nil, err
		}
	}
	return p, nil
})

func newPeopled(t testing.TB) *peopled {
	t.Helper()
	p, err := basePeopled()
	if err != nil {
		t.Fatal(err)
	}
	return &peopled{&testRepo{p.Clone(), p.credential, p.keys}, p.hosts, false}
}

func (p *peopled) id(name string) crypt.HostID { return p.hosts[name].Identity.Host }

func (p *peopled) open(t testing.TB, s backends.Storage, name string) *repo.Repo {
	t.Helper()
	return open(t, s, repo.Access{Credential: p.hosts[name]})
}

// holder opens s by a passphrase.
func holder(t testing.TB, s backends.Storage, word string) (*repo.Repo, *root) {
	t.Helper()
	r := open(t, s, repo.Access{Passphrase: []byte(word)})
	a, err := rootOf(r)
	if err != nil {
		t.Fatal(err)
	}
	a.iterations = crypt.MinIterations
	return r, a
}

// anotherKey makes a read key in no time: the RSA key of the tests, for another epoch and beside another key.
func anotherKey(epoch uint32) (*crypt.ReadPrivate, error) {
	k, err := readKey()
	if err != nil {
		return nil, err
	}
	other, err := crypt.NewIdentity()
	if err != nil {
		return nil, err
	}
	return &crypt.ReadPrivate{Epoch: epoch, RSA: k.RSA, HPKE: other.HPKE}, nil
}

// whole checks that hosts can back up to s, that every passphrase reads what they stored, and signs as before.
func (p *peopled) whole(t testing.TB, s *mem.Store, hosts ...string) {
	t.Helper()
	var made []*repo.Snapshot
	for _, name := range hosts {
		r := p.open(t, s, name)
		for _, problem := range r.Problems() {
			if !p.torn || !errors.Is(problem.Err, repo.ErrDamaged) {
				t.Errorf("host %s: %v", name, problem)
			}
		}
		snap := store(t, r, []byte(fmt.Sprint("by ", name, time.Now())))
		made = append(made, snap)
		if h, err := crypt.ParseHeader(fetch(t, s, snap.Name)); err != nil || h.Epoch != r.Settings().WriteEpoch {
			t.Errorf("host %s stored under epoch %d, %v", name, h.Epoch, err)
		}
	}
	for _, word := range []string{passphrase, second} {
		r, _ := holder(t, s, word)
		all, err := r.Snapshots(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range made {
			i := slices.IndexFunc(all, func(s *repo.Snapshot) bool { return s.ID() == m.ID() })
			if i < 0 {
				t.Errorf("%q does not see a snapshot: %v", word, r.Problems())
			} else if _, err := r.OpenBody(all[i]); err != nil {
				t.Errorf("%q: %v", word, err)
			}
		}
		if r.Keys().Reader == nil || r.Trust().Roles(r.Keys().Reader.Host)&crypt.RoleAdmin == 0 {
			t.Errorf("%q signs as nobody", word)
		}
	}
}

func fetch(t testing.TB, s backends.Storage, name string) []byte {
	t.Helper()
	b, err := stored.Fetch(t.Context(), s, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ids(t testing.TB, r *repo.Repo) (list []crypt.SessionID) {
	t.Helper()
	all, err := r.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		list = append(list, s.ID())
	}
	return list
}

func TestRevokeHost(t *testing.T) {
	t.Parallel()
	p := newPeopled(t)
	early := store(t, p.open(t, p, "b"), []byte("early"))
	thief := p.open(t, p, "b") // does not look at the settings again
	reader, _ := holder(t, p, second)
	identity := reader.Keys().Reader.Host

	r, _ := holder(t, p, passphrase)
	if _, err := RevokeHost(t.Context(), r, crypt.HostID{1}, nil); !errors.Is(err, ErrNoHost) {
		t.Errorf("a host that is not there: %v", err)
	}
	if _, err := RevokeHost(t.Context(), r, r.Keys().Identity.Host, nil); !errors.Is(err, ErrSelf) {
		t.Errorf("oneself: %v", err)
	}
	v, err := RevokeHost(t.Context(), r, p.id("b"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.Before || v.Kept != 1 || v.Dropped != 0 || r.Settings().WriteEpoch != v.Epoch {
		t.Errorf("%+v", v)
	}

	honest := p.open(t, p, "b")
	if _, err := honest.Begin(t.Context(), repo.SessionOptions{}); !errors.Is(err, repo.ErrRevoked) {
		t.Errorf("the revoked host begins a session: %v", err)
	}
	if _, ok := honest.Keys().Writes[v.Epoch]; ok {
		t.Error("the revoked host was granted the new secret")
	}
	before := namesIn(t, p, "")
	stolen := store(t, thief, []byte("stolen"))
	inBetween := namesIn(t, p, "")
	store(t, p.open(t, p, "c"), []byte("later"))
	for _, name := range namesIn(t, p, "") { // what the others store opens under the new secret alone
		if slices.Contains(before, name) || slices.Contains(inBetween, name) {
			continue
		}
		if h, err := crypt.ParseHeader(fetch(t, p, name)); err != nil || h.Epoch != v.Epoch {
			t.Errorf("%s is of epoch %d, %v", name, h.Epoch, err)
		}
	}
	for _, r := range []*repo.Repo{p.open(t, p, "a"), p.open(t, p, "c")} {
		list := ids(t, r)
		if slices.Contains(list, stolen.ID()) || !slices.Contains(list, early.ID()) {
			t.Errorf("snapshots %v", list)
		}
		if ps := r.Problems(); len(ps) != 1 || ps[0].Object != stolen.Name || !errors.Is(ps[0].Err, repo.ErrTampered) {
			t.Errorf("problems %v", ps)
		}
	}
	reader, _ = holder(t, p, second)
	if reader.Keys().Reader == nil || reader.Keys().Reader.Host != identity {
		t.Error("the other holder has another identity")
	}
	if all, err := reader.Snapshots(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("%d snapshots, %v", len(all), err)
	} else if _, err := reader.OpenBody(all[0]); err != nil {
		t.Error(err)
	}
	p.whole(t, p.Store, "a", "c")

	// d was away all the time, and still is while b is revoked again and c as well.
	r, _ = holder(t, p, second)
	again, err := RevokeHost(t.Context(), r, p.id("b"), func(*repo.Snapshot) bool { return false })
	if err != nil || !again.Before || again.Epoch <= v.Epoch {
		t.Fatalf("%+v, %v", again, err)
	}
	r, _ = holder(t, p, passphrase)
	if _, err := RevokeHost(t.Context(), r, p.id("c"), nil); err != nil {
		t.Fatal(err)
	}
	if list := ids(t, p.open(t, p, "d")); !slices.Contains(list, early.ID()) {
		t.Error("revoked again: its snapshots do not count any more")
	}
	p.whole(t, p.Store, "a", "d")
}

// TestRevokeDrops revokes a host of whose snapshots some are false. A forgotten one that is kept can still be brought back.
func TestRevokeDrops(t *testing.T) {
	t.Parallel()
	p := newPeopled(t)
	good := store(t, p.open(t, p, "b"), []byte("good"))
	lost := store(t, p.open(t, p, "b"), []byte("forgotten"))
	bad := store(t, p.open(t, p, "b"), []byte("bad"))
	r, _ := holder(t, p, passphrase)
	name, object, err := r.SealControl(crypt.TypeForgotten, "forgotten/", canon.Marshal(format.Forgotten{Session: lost.ID(), Object: lost.Object,
		Record: fetch(t, p, lost.Name), Host: r.Keys().Identity.Host, Time: 5}))
	if err != nil {
		t.Fatal(err)
	}
	if err := stored.Put(t.Context(), p, name, object, backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	v, err := RevokeHost(t.Context(), r, p.id("b"), func(s *repo.Snapshot) bool { return s.ID() != bad.ID() })
	if err != nil || v.Kept != 2 || v.Dropped != 1 {
		t.Fatalf("%+v, %v", v, err)
	}
	c := p.open(t, p, "c")
	if list := ids(t, c); len(list) != 1 || list[0] != good.ID() {
		t.Errorf("%v", list)
	}
	if _, err := c.SnapshotObject(lost.Name, fetch(t, p, lost.Name)); err != nil {
		t.Errorf("the forgotten one: %v", err)
	}
}

// TestRevocationUnread does not rotate where it cannot be told who was revoked.
func TestRevocationUnread(t *testing.T) {
	t.Parallel()
	p := newPeopled(t)
	r, _ := holder(t, p, passphrase)
	if _, err := RevokeHost(t.Context(), r, p.id("b"), nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range namesIn(t, p, "marks/") {
		if err := p.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	before := len(namesIn(t, p, ""))
	r, a := holder(t, p, passphrase)
	if _, err := a.rotateKeys(t.Context(), r, anotherKey); !errors.Is(err, repo.ErrTampered) {
		t.Errorf("rotation: %v", err)
	}
	if _, err := RevokeHost(t.Context(), r, p.id("c"), nil); !errors.Is(err, repo.ErrTampered) {
		t.Errorf("revocation: %v", err)
	}
	if n := len(namesIn(t, p, "")); n != before {
		t.Errorf("%d objects, %d before", n, before)
	}
}

func TestRotateKeys(t *testing.T) {
	t.Parallel()
	p := newPeopled(t)
	early := store(t, p.open(t, p, "b"), []byte("early"))
	old, _ := holder(t, p, passphrase) // who had the keys before, and keeps them
	for name := range map[string]bool{"settings/2": true, "settings/3": true} {
		if err := p.Put(t.Context(), name, []byte("junk"), backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r, _ := holder(t, p, second)
	epoch, err := RotateKeys(t.Context(), r) // with a key that is really made
	if err != nil {
		t.Fatal(err)
	}
	if epoch != 4 || r.Settings().Generation != 5 || r.Settings().WriteEpoch != epoch || len(r.Settings().ReadKeys) != 2 {
		t.Errorf("epoch %d, %+v", epoch, r.Settings())
	}
	for _, name := range []string{"settings/2", "settings/3"} {
		if err := p.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	late := store(t, p.open(t, p, "b"), []byte("late"))
	p.whole(t, p.Store, "a", "b", "c", "d")
	both, _ := holder(t, p, passphrase)
	for what, x := range map[string]struct {
		r    *repo.Repo
		late bool
	}{"the old keys": {old, false}, "the new ones": {both, true}} {
		if _, err := x.r.OpenBody(early); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := x.r.OpenBody(late); (err == nil) != x.late {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := x.r.SnapshotObject(late.Name, fetch(t, p, late.Name)); (err == nil) != x.late {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// changes are what needs the keys to stay as they are, or changes them.
var changes = map[string]func(ctx context.Context, p *peopled, r *repo.Repo, a *root) error{
	"revoke": func(ctx context.Context, p *peopled, r *repo.Repo, a *root) error {
		_, err := a.revokeHost(ctx, r, p.id("b"), nil)
		return err
	},
	"rotate": func(ctx context.Context, p *peopled, r *repo.Repo, a *root) error {
		_, err := a.rotateKeys(ctx, r, anotherKey)
		return err
	},
	"add": func(ctx context.Context, p *peopled, r *repo.Repo, a *root) error {
		_, err := a.addKey(ctx, r, []byte("the third long passphrase"), "third")
		return err
	},
	"enroll": func(ctx context.Context, p *peopled, r *repo.Repo, a *root) error {
		c, err := a.enrollHost(ctx, r, "host-e", crypt.RoleWriter, "")
		if err == nil {
			p.hosts["e"] = c
		}
		return err
	},
}

// after checks p after changes: those that were reported as done are.
func (p *peopled) after(t testing.TB, s *mem.Store, done ...string) {
	t.Helper()
	hosts := []string{"c"}
	if slices.Contains(done, "enroll") {
		hosts = append(hosts, "e")
	}
	p.whole(t, s, hosts...)
	r, _ := holder(t, s, second)
	if slices.Contains(done, "revoke") {
		b := p.open(t, s, "b")
		if _, ok := b.Keys().Writes[r.Settings().WriteEpoch]; ok || !r.Trust().Revoked(p.id("b")) {
			t.Error("b was revoked, and is not")
		}
	}
	if slices.Contains(done, "rotate") && len(r.Settings().ReadKeys) < 2 {
		t.Error("the read key was rotated, and was not")
	}
	if slices.Contains(done, "add") {
		third, _ := holder(t, s, "the third long passphrase")
		if len(third.Problems()) > 0 {
			t.Errorf("the third passphrase: %v", third.Problems())
		}
		if _, ok := third.Keys().Writes[r.Settings().WriteEpoch]; !ok || len(third.Keys().Read) < len(r.Settings().ReadKeys) {
			t.Error("the third passphrase lacks keys")
		}
	}
}

// TestTwoAdministrators runs a change inside another, at each of its calls, both from the same settings: what is reported as done is, what is not
// is told to look again, and nobody else is harmed.
func TestTwoAdministrators(t *testing.T) {
	t.Parallel()
	base := newPeopled(t)
	for _, x := range [][2]string{{"revoke", "rotate"}, {"revoke", "revoke"}, {"rotate", "rotate"}, {"rotate", "revoke"}, {"revoke", "add"}, {"add", "rotate"},
		{"revoke", "enroll"}, {"enroll", "revoke"}} {
		t.Run(strings.Join(x[:], " "), func(t *testing.T) {
			step := 3
			switch {
			case long:
				step = 1
			case race || testing.Short():
				step = 19
			}
			for n := 1; ; n += step {
				p := newPeopled(t)
				p.hosts = map[string]*crypt.Credential{}
				for name, c := range base.hosts {
					p.hosts[name] = c
				}
				st := fault.New(p.Store)
				outer, oa := holder(t, st, passphrase)
				inner, ia := holder(t, p, second)
				var mu sync.Mutex
				at, innerErr := 0, errors.New("not run")
				st.SetHook(func(fault.Op, string) error {
					mu.Lock()
					defer mu.Unlock()
					if at++; at == n {
						innerErr = changes[x[1]](t.Context(), p, inner, ia)
					}
					return nil
				})
				outerErr := changes[x[0]](t.Context(), p, outer, oa)
				var done []string
				for i, err := range []error{outerErr, innerErr} {
					switch {
					case err == nil:
						done = append(done, x[i])
					case !errors.Is(err, ErrChanged) && at >= n:
						t.Errorf("%s: %v", x[i], err)
					}
				}
				if at >= n && len(done) == 0 {
					t.Error("neither succeeded")
				}
				p.after(t, p.Store, done...)
				if t.Failed() {
					t.Fatalf("at call %d: %v and %v", n, outerErr, innerErr)
				}
				if at < n {
					break
				}
			}
		})
	}
}

// TestRotateFaults lets every call fail, in one manner or with PACKHOLD_LONG in all: nobody is locked out, and running it again does it.
func TestRotateFaults(t *testing.T) {
	t.Parallel()
	manners := []fault.Rule{{Effect: fault.Before}, {Effect: fault.Before, Sticky: true}, {Effect: fault.After}, {Effect: fault.Partial}}
	try := func(t *testing.T, name string, rule fault.Rule, want error) int {
		base := newPeopled(t)
		base.torn = rule.Effect == fault.Partial
		inner := base.Store
		st := fault.New(inner)
		r, a := holder(t, st, passphrase)
		before := allCalls(st)
		st.Add(rule)
		err := changes[name](t.Context(), base, r, a)
		calls := allCalls(st) - before
		st.Clear()
		if err == nil {
			base.after(t, inner, name)
			return calls
		}
		if !errors.Is(err, want) {
			t.Errorf("the error is %v", err)
		}
		base.after(t, inner)
		r, a = holder(t, inner, second)
		if err := changes[name](t.Context(), base, r, a); err != nil {
			t.Errorf("again: %v", err)
		}
		base.after(t, inner, name)
		return calls
	}
	for _, name := range []string{"revoke", "rotate"} {
		t.Run(name, func(t *testing.T) {
			step := 3
			switch {
			case long:
				step = 1
			case race || testing.Short():
				step = 19
			}
			for i, calls := 0, 1; i*step < calls; i++ {
				for j := range manners {
					if j != i%len(manners) && !long {
						continue
					}
					rule, kind := manners[j], kinds[i%len(kinds)]
					rule.N, rule.Err = i*step+1, kind.inject
					calls = max(calls, try(t, name, rule, kind.want))
					if t.Failed() {
						t.Fatalf("with %+v", rule)
					}
				}
			}
		})
	}
}
