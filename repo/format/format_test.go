package format

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"packhold/chunk"
	"packhold/crypt"
	"packhold/crypt/canon"
)

var update = flag.Bool("update", false, "write vectors that are missing")

func filled[T ~[16]byte | ~[32]byte](c byte) (v T) {
	for i := range len(v) {
		v[i] = c
	}
	return v
}

func h32(c byte) []byte { return bytes.Repeat([]byte{c}, 32) }

// examples has every body with every field set, and some with none of the optional ones.
func examples() map[string]any {
	ref := func(c byte, tree bool, inc uint32) PackRef {
		return PackRef{Name: filled[crypt.ID](c), Tree: tree, Incarnation: inc}
	}
	record := []byte("the object of a snapshot, whole")
	session, host := filled[crypt.SessionID](0x20), filled[crypt.HostID](0x10)
	id := filled[[16]byte](0x30)
	return map[string]any{
		"settings": &Settings{Generation: 7, Previous: h32(0x70), Time: 1700000000, WriteEpoch: 3,
			ReadKeys: []crypt.ReadKeyForm{{Epoch: 1, Wrap: 1, RSA: []byte("an RSA key"), HPKE: []byte("an HPKE key")}, {Epoch: 2, Wrap: 1, RSA: []byte{1}, HPKE: []byte{2}}},
			Parity:   2, PackSize: DefaultPackSize, Compression: "auto", Lock: 86400, LockMode: "governance", PackParity: []uint8{20, 2},
			Domains: []string{"finance", "lab"}, Revocations: [][]byte{h32(0x71), h32(0x72)}, HostForget: true},
		"settings-classes": &Settings{Generation: 1, Time: 1700000000, WriteEpoch: 1, ReadKeys: []crypt.ReadKeyForm{{Epoch: 1, Wrap: 1, RSA: []byte{1}, HPKE: []byte{2}}},
			PackSize: MinPackSize, Compression: "auto", Lock: 30 * 86400, LockMode: "compliance",
			ClassLocks: []ClassLock{{Class: "1y", Seconds: 365 * 86400}, {Class: "7y", Seconds: 2557 * 86400}}},
		"settings-first": &Settings{Generation: 1, Time: -1, WriteEpoch: 1, ReadKeys: []crypt.ReadKeyForm{{Epoch: 1, Wrap: 1, RSA: []byte{1}, HPKE: []byte{2}}},
			PackSize: MinPackSize, Compression: "none"},
		"lease":                &Lease{Session: session, Host: host, Nonce: h32(0x21), Time: 1700000000, Renewal: 12, Purpose: "backup"},
		"lease-first":          &Lease{Session: session, Host: host, Nonce: h32(0x21), Time: 1700000000},
		"condemned":            &Condemned{ID: id, Session: session, Time: 1700000000, Packs: []PackRef{ref(0x40, false, 0), ref(0x40, true, 0), ref(0x41, false, 70000)}},
		"condemned-leases":     &CondemnedLeases{ID: id, Time: 1700000001, Sessions: []crypt.SessionID{session, filled[crypt.SessionID](0x22)}},
		"condemned-final":      &CondemnedFinal{ID: id, Time: 1700000002, Packs: []PackRef{ref(0x40, true, 0)}},
		"condemned-none":       &CondemnedFinal{ID: id, Time: 1700000002},
		"forgotten":            &Forgotten{Session: session, Object: crypt.Sum(record), Record: record, Host: host, Time: 1700000003, Reason: "keep-daily 7"},
		"mark-tag":             &Mark{Kind: MarkTag, Session: session, Time: 1700000004, Until: 1800000000, Text: []byte("sealed text"), Epoch: 2},
		"mark-hold":            &Mark{Kind: MarkHold, Session: session, Host: host, Remove: true, Time: 1700000005},
		"mark-acknowledgement": &Mark{Kind: MarkAcknowledgement, Object: "snapshots/" + strings.Repeat("20", 16), Hash: h32(0x50), Time: 1700000006},
		"mark-revocation": &Mark{Kind: MarkRevocation, Host: host, Time: 1700000007, Kept: []KeptSnapshot{{Session: session, Object: filled[crypt.ID](0x51)},
			{Session: filled[crypt.SessionID](0x23), Object: filled[crypt.ID](0x52)}}},
		"verified": &Verified{Host: host, Time: 1700000008, Packs: []PackRef{ref(0x40, false, 0), ref(0x42, false, 0)}, Lost: []PackRef{ref(0x43, true, 1)},
			Failed: []FailedBlob{{ID: filled[crypt.ID](0x60), Pack: filled[crypt.ID](0x40)}}},
		"group": &Group{Members: []GroupMember{{Pack: ref(0x41, false, 0), Size: 65536}, {Pack: ref(0x40, false, 0), Size: 40960}}, Parity: 2, Shard: 65536,
			Digests: [][]byte{h32(0x61), h32(0x62)}},
		"succession": &Succession{Old: h32(0x80), New: h32(0x81), Time: 1700000009, Sig: bytes.Repeat([]byte{0x82}, 64)},
		"set": &Set{ID: id, Time: 1700000010, Packs: []SetPack{{Name: filled[crypt.ID](0x40), Tree: true, Size: 65536, Carried: true},
			{Name: filled[crypt.ID](0x41), Incarnation: 3, Size: 1 << 25, Class: "7y"}}, Snapshots: []KeptSnapshot{{Session: session, Object: filled[crypt.ID](0x51)}}},
		"receipt":              &Receipt{ID: id, Time: 1700000011, Packs: []crypt.ID{filled[crypt.ID](0x40)}, Sessions: []crypt.SessionID{session}},
		"snapshot-sealed-body": &SealedBody{Session: []byte("a session record"), Sealed: []byte("a sealed body")},
	}
}

// parseAs decodes b as the type of v, and encodes what it got.
func parseAs(v any, b []byte) (again []byte, got any, err error) {
	switch v.(type) {
	case *Settings:
		got, err = asAny(Parse[Settings](b))
	case *Lease:
		got, err = asAny(Parse[Lease](b))
	case *Condemned:
		got, err = asAny(Parse[Condemned](b))
	case *CondemnedLeases:
		got, err = asAny(Parse[CondemnedLeases](b))
	case *CondemnedFinal:
		got, err = asAny(Parse[CondemnedFinal](b))
	case *Forgotten:
		got, err = asAny(Parse[Forgotten](b))
	case *Mark:
		got, err = asAny(Parse[Mark](b))
	case *Verified:
		got, err = asAny(Parse[Verified](b))
	case *Group:
		got, err = asAny(Parse[Group](b))
	case *Succession:
		got, err = asAny(Parse[Succession](b))
	case *Set:
		got, err = asAny(Parse[Set](b))
	case *Receipt:
		got, err = asAny(Parse[Receipt](b))
	case *SealedBody:
		s := new(SealedBody)
		got, err = s, canon.Unmarshal(b, s)
	default:
		return nil, nil, errors.New("not a body")
	}
	if err != nil {
		return nil, nil, err
	}
	return canon.Marshal(got), got, nil
}

func asAny[T any](v *T, err error) (any, error) { return v, err }

// TestControlVectors compares every body with the bytes that format 1 gave it once.
func TestControlVectors(t *testing.T) {
	const path = "testdata/control.json"
	want := map[string]string{}
	if b, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
	} else if !*update {
		t.Fatal(err)
	}
	for name, v := range examples() {
		b := canon.Marshal(v)
		if want[name] == "" && *update { // what is there is never changed
			want[name] = hex.EncodeToString(b)
		}
		if hex.EncodeToString(b) != want[name] {
			t.Errorf("%s is %x, want %s", name, b, want[name])
		}
		again, got, err := parseAs(v, b)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := equalBodies(v, got); err != nil {
			t.Errorf("%s comes back as %+v", name, got)
		}
	}
	if len(want) != len(examples()) {
		t.Errorf("%d vectors, %d examples", len(want), len(examples()))
	}
	if *update {
		b, err := json.MarshalIndent(want, "", "  ")
		if err == nil {
			err = os.WriteFile(path, append(b, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// equalBodies compares but for nil lists, which come back empty.
func equalBodies(a, b any) error {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for i := range va.NumField() {
		x, y := va.Field(i), vb.Field(i)
		if x.Kind() == reflect.Slice && x.Len() == 0 && y.Len() == 0 {
			continue
		}
		if x.CanInterface() && !reflect.DeepEqual(x.Interface(), y.Interface()) {
			return errors.New("not equal")
		}
	}
	return nil
}

// TestControlDamage changes every bit and length of every vector: it is refused, or it is the one form of something else.
func TestControlDamage(t *testing.T) {
	t.Parallel()
	for _, name := range slices.Sorted(maps.Keys(examples())) {
		v := examples()[name]
		good := canon.Marshal(v)
		try := func(what string, b []byte) {
			if again, _, err := parseAs(v, b); err == nil && (!bytes.Equal(again, b) || bytes.Equal(b, good)) {
				t.Errorf("%s, %s: accepted", name, what)
			}
		}
		for bit := range 8 * len(good) {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			try("flipped", b)
		}
		for n := range good {
			if _, _, err := parseAs(v, good[:n]); err == nil {
				t.Errorf("%s cut to %d bytes: accepted", name, n)
			}
		}
		for _, c := range []byte{0, 0x40, 0xa0, 0xff} {
			if _, _, err := parseAs(v, append(bytes.Clone(good), c)); err == nil {
				t.Errorf("%s with a byte %#x more: accepted", name, c)
			}
		}
	}
}

// TestControlLimits has bodies that no writer makes.
func TestControlLimits(t *testing.T) {
	ex := examples()
	refuse := func(what string, v interface{ validate() error }) {
		t.Helper()
		if v.validate() == nil {
			t.Errorf("%s: accepted", what)
		}
		if _, _, err := parseAs(v, canon.Marshal(v)); err == nil {
			t.Errorf("%s: parsed", what)
		}
	}
	for what, f := range map[string]func(*Settings){
		"generation 0":         func(s *Settings) { s.Generation = 0 },
		"no predecessor":       func(s *Settings) { s.Previous = nil },
		"first with one":       func(s *Settings) { s.Generation = 1 },
		"short hash":           func(s *Settings) { s.Previous = s.Previous[:31] },
		"no write epoch":       func(s *Settings) { s.WriteEpoch = 0 },
		"no read key":          func(s *Settings) { s.ReadKeys = nil },
		"read key twice":       func(s *Settings) { s.ReadKeys[1].Epoch = 1 },
		"read keys turned":     func(s *Settings) { slices.Reverse(s.ReadKeys) },
		"too much parity":      func(s *Settings) { s.Parity = 17 },
		"lock too long":        func(s *Settings) { s.Lock = MaxLock + 1 },
		"class without lock":   func(s *Settings) { s.Lock, s.LockMode, s.ClassLocks = 0, "", []ClassLock{{Class: "a", Seconds: 1}} },
		"class without name":   func(s *Settings) { s.ClassLocks = []ClassLock{{Seconds: 1}} },
		"class without length": func(s *Settings) { s.ClassLocks = []ClassLock{{Class: "a"}} },
		"class too long":       func(s *Settings) { s.ClassLocks = []ClassLock{{Class: "a", Seconds: MaxLock + 1}} },
		"class twice":          func(s *Settings) { s.ClassLocks = []ClassLock{{Class: "a", Seconds: 1}, {Class: "a", Seconds: 2}} },
		"small packs":          func(s *Settings) { s.PackSize = MinPackSize - 1 },
		"large packs":          func(s *Settings) { s.PackSize = MaxPackSize + 1 },
		"negative lock":        func(s *Settings) { s.Lock = -1 },
		"lock without mode":    func(s *Settings) { s.LockMode = "" },
		"mode without lock":    func(s *Settings) { s.Lock = 0 },
		"unknown mode":         func(s *Settings) { s.LockMode = "soft" },
		"one group number":     func(s *Settings) { s.PackParity = []uint8{20} },
		"large group":          func(s *Settings) { s.PackParity = []uint8{241, 2} },
		"group without parity": func(s *Settings) { s.PackParity = []uint8{20, 0} },
		"empty domain":         func(s *Settings) { s.Domains = []string{""} },
		"long domain":          func(s *Settings) { s.Domains = []string{strings.Repeat("d", maxText+1)} },
		"domain twice":         func(s *Settings) { s.Domains = []string{"a", "a"} },
		"many domains":         func(s *Settings) { s.Domains = make([]string, maxDomains+1) },
		"short revocation":     func(s *Settings) { s.Revocations = [][]byte{{1}} },
		"revocations turned":   func(s *Settings) { slices.Reverse(s.Revocations) },
	} {
		s := examples()["settings"].(*Settings)
		f(s)
		refuse("settings: "+what, s)
	}
	lease := *ex["lease"].(*Lease)
	lease.Nonce = lease.Nonce[:31]
	refuse("lease: short nonce", &lease)
	lease = *ex["lease"].(*Lease)
	lease.Host = crypt.HostID{}
	refuse("lease: no host", &lease)
	c := *ex["condemned"].(*Condemned)
	slices.Reverse(c.Packs)
	refuse("condemned: packs turned", &c)
	refuse("condemned: nothing", &Condemned{})
	refuse("leases: twice", &CondemnedLeases{Sessions: []crypt.SessionID{{1}, {1}}})
	refuse("final: twice", &CondemnedFinal{Packs: []PackRef{{}, {}}})
	f := *ex["forgotten"].(*Forgotten)
	f.Record = append(f.Record, 0)
	refuse("forgotten: another record", &f)
	f = *ex["forgotten"].(*Forgotten)
	f.Reason = strings.Repeat("r", maxText+1)
	refuse("forgotten: long reason", &f)
	for what, change := range map[string]func(*Mark){
		"kind 0":               func(m *Mark) { m.Kind = 0 },
		"kind 9":               func(m *Mark) { m.Kind = 9 },
		"about nothing":        func(m *Mark) { m.Session = crypt.SessionID{} },
		"no name":              func(m *Mark) { m.Object = "../config" },
		"short hash":           func(m *Mark) { m.Hash = []byte{1} },
		"text without epoch":   func(m *Mark) { m.Epoch = 0 },
		"epoch without text":   func(m *Mark) { m.Text = nil },
		"long text":            func(m *Mark) { m.Text = make([]byte, maxMarkText+1) },
		"no hash":              func(m *Mark) { m.Kind = MarkAcknowledgement },
		"revokes nobody":       func(m *Mark) { m.Kind = MarkRevocation },
		"revocation back":      func(m *Mark) { m.Kind, m.Host, m.Remove = MarkRevocation, crypt.HostID{1}, true },
		"keeps without reason": func(m *Mark) { m.Kept = []KeptSnapshot{{}} },
	} {
		m := examples()["mark-tag"].(*Mark)
		change(m)
		refuse("mark: "+what, m)
	}
	refuse("verified: twice", &Verified{Lost: []PackRef{{}, {}}})
	refuse("verified: blob twice", &Verified{Failed: []FailedBlob{{}, {}}})
	for what, change := range map[string]func(*Group){
		"no member":     func(g *Group) { g.Members = nil },
		"no parity":     func(g *Group) { g.Parity, g.Digests = 0, nil },
		"much parity":   func(g *Group) { g.Parity = 17 },
		"a digest less": func(g *Group) { g.Digests = g.Digests[:1] },
		"short digest":  func(g *Group) { g.Digests[0] = nil },
		"member twice":  func(g *Group) { g.Members[1] = g.Members[0] },
		"empty member":  func(g *Group) { g.Members[1].Size = 0 },
		"short shards":  func(g *Group) { g.Shard-- },
		"huge shards":   func(g *Group) { g.Shard, g.Members[0].Size = 1<<62, 1<<62 },
		"many bytes":    func(g *Group) { g.Shard, g.Members[0].Size = 200<<20, 200<<20 },
		"many members": func(g *Group) {
			for i := range maxMembers {
				g.Members = append(g.Members, GroupMember{Pack: PackRef{Incarnation: uint32(i)}, Size: 1})
			}
		},
	} {
		g := examples()["group"].(*Group)
		change(g)
		refuse("group: "+what, g)
	}
	s := *ex["succession"].(*Succession)
	s.New = s.Old
	refuse("succession: to itself", &s)
}

func TestGroup(t *testing.T) {
	shards := [][]byte{bytes.Repeat([]byte{1}, 5000), bytes.Repeat([]byte{2}, 5000)}
	g := &Group{Members: []GroupMember{{Pack: PackRef{Incarnation: 1}, Size: 5000}}, Parity: 2, Shard: 5000}
	for _, s := range shards {
		sum := crypt.Sum(s)
		g.Digests = append(g.Digests, sum[:])
	}
	sealed := []byte("a group, sealed")
	if _, _, err := JoinGroup(g, sealed, shards[:1]); err == nil {
		t.Error("a group without a shard was made")
	}
	if _, _, err := JoinGroup(g, sealed, [][]byte{shards[1], shards[0]}); err == nil {
		t.Error("a group of shards in another order was made")
	}
	name, object, err := JoinGroup(g, sealed, shards)
	if err != nil || !KnownName(name) {
		t.Fatal(name, err)
	}
	got, parity, err := SplitGroup(object)
	if err != nil || !bytes.Equal(got, sealed) {
		t.Errorf("%q, %v", got, err)
	}
	for what, c := range map[string]struct {
		parity []byte
		found  [2]bool
		exact  bool
	}{
		"whole":        {parity, [2]bool{true, true}, true},
		"first shard":  {append([]byte{3}, parity[1:]...), [2]bool{false, true}, true},
		"cut":          {parity[:9999], [2]bool{true, false}, false},
		"a byte more":  {append(bytes.Clone(parity), 0), [2]bool{true, true}, false},
		"nothing left": {nil, [2]bool{}, false},
	} {
		back, exact := g.Shards(c.parity)
		if exact != c.exact || len(back) != 2 || back[0] != nil != c.found[0] || back[1] != nil != c.found[1] {
			t.Errorf("%s: exact %v, %d shards", what, exact, len(back))
		}
	}
	for _, bad := range [][]byte{nil, {0, 0, 0}, {1, 0, 0, 0}, {0, 0, 0, 0, 0x80}} {
		if _, _, err := SplitGroup(bad); err == nil {
			t.Errorf("%x is a group", bad)
		}
	}
}

func TestSuccession(t *testing.T) {
	t.Parallel()
	old, err := crypt.NewRoot(filled[crypt.RepoID](0x0d))
	if err != nil {
		t.Fatal(err)
	}
	next, err := crypt.NewRoot(old.Repo)
	if err != nil {
		t.Fatal(err)
	}
	name, object, err := SealSuccession(old, next, 5)
	if err != nil || !KnownName(name) {
		t.Fatal(name, err)
	}
	if s, err := ParseSuccession(old.Repo, name, object); err != nil || !bytes.Equal(s.Old, old.Public()) || !bytes.Equal(s.New, next.Public()) || s.Time != 5 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := ParseSuccession(old.Repo, "roots/"+strings.Repeat("0", 64), object); !errors.Is(err, ErrName) {
		t.Errorf("under another name: %v", err)
	}
	for bit := range 8 * len(object) {
		bad := bytes.Clone(object)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseSuccession(old.Repo, "roots/"+crypt.Sum(bad).String(), bad); err == nil {
			t.Fatalf("bit %d is not protected", bit)
		}
	}
	if _, err := ParseSuccession(crypt.RepoID{1}, name, object); !errors.Is(err, crypt.ErrSignature) {
		t.Errorf("in another repository: %v", err)
	}
	// Signed by one of the two only.
	for _, by := range []*crypt.Root{old, next} {
		s := Succession{Old: old.Public(), New: next.Public(), Time: 5}
		signed, err := crypt.ParseSigned(by.Sign(crypt.TypeRoots, successionSubject, canon.Marshal(s)))
		if err != nil {
			t.Fatal(err)
		}
		s.Sig = signed.Sig
		bad := append(crypt.Header{Type: crypt.TypeRoots}.Append(nil), by.Sign(crypt.TypeRoots, "", canon.Marshal(s))...)
		if _, err := ParseSuccession(old.Repo, "roots/"+crypt.Sum(bad).String(), bad); !errors.Is(err, crypt.ErrSignature) {
			t.Errorf("signed by one root twice: %v", err)
		}
	}
}

func TestCopied(t *testing.T) {
	session, object := filled[crypt.SessionID](0x20), []byte("the object of a snapshot, whole")
	name, copied := JoinCopied(session, object)
	if s, o, err := SplitCopied(name, copied); err != nil || s != session || !bytes.Equal(o, object) || !KnownName(name) {
		t.Errorf("%v %q, %v", s, o, err)
	}
	copied[0] ^= 1
	if _, _, err := SplitCopied(name, copied); !errors.Is(err, ErrName) {
		t.Errorf("other bytes: %v", err)
	}
	if _, _, err := SplitCopied("copied/"+crypt.Sum(nil).String(), nil); !errors.Is(err, ErrName) {
		t.Errorf("nothing: %v", err)
	}
}

// TestConfigVector reads and makes again the config that format 1 wrote once. Ed25519 signatures have one form.
func TestConfigVector(t *testing.T) {
	const path = "testdata/config.json"
	good, err := os.ReadFile(path)
	if err != nil && *update {
		c := Config{Profile: FIPS, Created: 1700000000, Chunker: chunk.DefaultParams()}
		root, rerr := crypt.NewRoot(filled[crypt.RepoID](0x0f))
		if rerr != nil {
			t.Fatal(rerr)
		}
		c.ID, c.Root = root.Repo, root.Public()
		if good, err = c.Marshal(root); err == nil {
			err = os.WriteFile(path, good, 0o644)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(good)
	if err != nil {
		t.Fatal(err)
	}
	if c.ID != filled[crypt.RepoID](0x0f) || c.Profile != FIPS || c.Created != 1700000000 || c.Chunker.Rule != "gear" {
		t.Errorf("config %+v", c)
	}
}

func TestNames(t *testing.T) {
	h16, h32 := strings.Repeat("0a", 16), strings.Repeat("0a", 32)
	for _, name := range []string{"config", "replica/1/config", "replica/2/config", "settings/1", "settings/123456789012345678", "roots/" + h32, "keys/" + h16,
		"replica/1/keys/" + h16, "bundles/1-" + h16 + "-" + h32, "hosts/" + h16 + "/1-" + h32, "grants/1-" + h16 + "-" + h32, "packs/0a/" + h32,
		"packs/0a/" + h32 + ".1", "meta/0a/" + h32, "group/" + h32, "index/" + h32, "forgotten/" + h32, "copied/" + h32, "marks/" + h32, "verified/" + h32,
		"snapshots/" + h16, "leases/" + h16, "leases/" + h16 + ".12", "condemned/" + h16, "condemned/" + h16 + ".leases", "condemned/" + h16 + ".final",
		"audit/" + h16 + "/tile/data/000.p/3", "audit/" + h16 + "/checkpoint/17"} {
		if !KnownName(name) {
			t.Errorf("%s is not known", name)
		}
	}
	for _, name := range []string{"", "Config", "config/", "replica/3/config", "settings/01", "settings/-1", "settings/1234567890123456789", "settings/1.tmp",
		"keys/" + strings.ToUpper(h16), "keys/" + h16 + "0", "keys/../config", "packs/" + h32, "packs/0a/" + h32 + ".01", "packs/0a/" + h32 + ".",
		"index/" + h16, "snapshots/" + h16 + ".1", "condemned/" + h16 + ".gone", "tmp/x", "index/" + h32 + "\n", "lost+found", "audit/" + h16 + "/tile/A",
		"audit/" + h16 + "/tile/" + strings.Repeat("1", 250)} {
		if KnownName(name) {
			t.Errorf("%q is known", name)
		}
	}
	for _, inc := range []uint32{0, 1, 1<<32 - 1} {
		for _, tree := range []bool{false, true} {
			name := PackName(filled[crypt.ID](0xab), tree, inc)
			id, tr, in, err := ParsePackName(name)
			if err != nil || id != filled[crypt.ID](0xab) || tr != tree || in != inc {
				t.Errorf("%s: %v %v %d %v", name, id, tr, in, err)
			}
		}
	}
	for _, name := range []string{"packs/0b/" + h32, "packs/0a/" + h32 + ".0", "packs/0a/" + h32 + ".4294967296", "index/" + h32, ""} {
		if _, _, _, err := ParsePackName(name); err == nil {
			t.Errorf("%q is a pack's name", name)
		}
	}
}

func FuzzConfig(f *testing.F) {
	if b, err := os.ReadFile("testdata/config.json"); err == nil {
		f.Add(b)
	}
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		if err := c.Chunker.Validate(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzControl parses bytes as every body: what is accepted is encoded to the same bytes.
func FuzzControl(f *testing.F) {
	all := examples()
	names := slices.Sorted(maps.Keys(all))
	for i, name := range names {
		f.Add(uint8(i), canon.Marshal(all[name]))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		name := names[int(which)%len(names)]
		if again, _, err := parseAs(all[name], b); err == nil && !bytes.Equal(again, b) {
			t.Errorf("%s: %x is encoded as %x", name, b, again)
		}
	})
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	root, err := crypt.NewRoot(filled[crypt.RepoID](0x0e))
	if err != nil {
		t.Fatal(err)
	}
	made := Config{ID: root.Repo, Profile: Standard, Created: 1700000000, Root: root.Public(), Chunker: chunk.DefaultParams()}
	good, err := made.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(good)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*c, made) {
		t.Errorf("%+v comes back as %+v", made, *c)
	}
	if again, err := c.Marshal(root); err != nil || !bytes.Equal(again, good) {
		t.Errorf("%s comes back as %s, %v", good, again, err)
	}
	id := fmt.Sprintf("%x", c.ID[:])
	for what, f := range map[string]func(string) string{
		"key twice":       func(s string) string { return strings.Replace(s, `"profile"`, `"profile": "fips", "profile"`, 1) },
		"unknown key":     func(s string) string { return strings.Replace(s, `"profile"`, `"more": 1, "profile"`, 1) },
		"key in capitals": func(s string) string { return strings.Replace(s, `"profile"`, `"Profile"`, 1) },
		"no last newline": func(s string) string { return s[:len(s)-1] },
		"two values":      func(s string) string { return s + s },
		"other spaces":    func(s string) string { return strings.Replace(s, "  ", "\t", 1) },
		"id in capitals":  func(s string) string { return strings.Replace(s, id, strings.ToUpper(id), 1) },
		"unknown profile": func(s string) string { return strings.Replace(s, "standard", "stondard", 1) },
		"other chunker":   func(s string) string { return strings.Replace(s, `"average": `, `"average": 1`, 1) },
		"huge number":     func(s string) string { return strings.Replace(s, `"min": `, `"min": 99999999999999999999`, 1) },
		"a null":          func(string) string { return "null\n" },
		"a list":          func(string) string { return "[]\n" },
		"nothing":         func(string) string { return "" },
		"too long":        func(s string) string { return s + strings.Repeat(" ", maxConfig) },
	} {
		if bad := f(string(good)); bad == string(good) {
			t.Errorf("%s: nothing was changed", what)
		} else if _, err := ParseConfig([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	for bit := range 8 * len(good) {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseConfig(bad); err == nil {
			t.Errorf("bit %d is not protected", bit)
		}
	}
	// Signed by a root, and outside policy all the same.
	for what, f := range map[string]func(*Config){"profile": func(c *Config) { c.Profile = "none" }, "chunker": func(c *Config) { c.Chunker.Max = 1 << 30 }} {
		bad := *c
		bad.Root = ed25519.PublicKey(root.Public())
		f(&bad)
		b, err := bad.Marshal(root)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseConfig(b); err == nil {
			t.Errorf("%s outside policy: accepted", what)
		}
	}
}
