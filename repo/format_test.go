package repo

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/pack"
	"packhold/repo/format"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

func TestGroup(t *testing.T) {
	st, _ := newTestRepo(t)
	r := enroll(t, st, "pruner", crypt.RolePrune, "")
	shards := randomBlobs(2, 5000)
	g := &format.Group{Members: []format.GroupMember{{Pack: format.PackRef{Incarnation: 1}, Size: 5000}}, Parity: 2, Shard: 5000}
	for _, s := range shards {
		sum := crypt.Sum(s)
		g.Digests = append(g.Digests, sum[:])
	}
	name, object, err := r.sealGroup(g, shards)
	if err != nil || !format.KnownName(name) {
		t.Fatal(name, err)
	}
	got, back, whole, err := r.control().Group(name, object)
	if err != nil || !whole || !bytes.Equal(back[0], shards[0]) || !bytes.Equal(back[1], shards[1]) || !bytes.Equal(canon.Marshal(got), canon.Marshal(g)) {
		t.Errorf("whole %v, %v", whole, err)
	}
	if err := r.CheckObject(name, object); err != nil {
		t.Error(err)
	}
	end := len(object) - 4
	for what, c := range map[string]struct {
		b      []byte
		shards [2]bool // that are still known
		err    bool
	}{
		"first shard":  {flipAt(object, end-7000), [2]bool{false, true}, false},
		"second shard": {flipAt(object, end-1), [2]bool{true, false}, false},
		"body":         {flipAt(object, 100), [2]bool{}, true},
		"length":       {flipAt(object, end), [2]bool{}, true},
		"huge length":  {flipAt(object, end+3), [2]bool{}, true},
		"cut":          {append(bytes.Clone(object[:end-4000]), object[end:]...), [2]bool{true, false}, false},
		"empty":        {nil, [2]bool{}, true},
	} {
		_, back, whole, err := r.control().Group(name, c.b)
		if (err != nil) != c.err || whole {
			t.Errorf("%s: whole %v, %v", what, whole, err)
			continue
		}
		if !c.err && (back[0] != nil != c.shards[0] || back[1] != nil != c.shards[1]) {
			t.Errorf("%s: shards %v %v", what, back[0] != nil, back[1] != nil)
		}
		if r.CheckObject(name, c.b) == nil {
			t.Errorf("%s: the check finds nothing", what)
		}
	}
	if _, object, err := openWriter(t, st, baseCredential).sealGroup(g, shards); err != nil {
		t.Error(err)
	} else if err := r.CheckObject("group/"+crypt.Sum(object).String(), object); !errors.Is(err, ErrTampered) {
		t.Errorf("a writer's group: %v", err)
	}
}

func flipAt(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0x80
	return b
}

func TestSuccession(t *testing.T) {
	st, _ := newTestRepo(t)
	r := admin(t, st)
	old := r.keys.Admin
	next, err := crypt.NewRoot(old.Repo)
	if err != nil {
		t.Fatal(err)
	}
	name, object, err := format.SealSuccession(old, next, 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckObject(name, object); err != nil {
		t.Error(err)
	}
	if err := r.CheckObject(name, flip(object)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a flipped bit: %v", err)
	}
	stranger, err := crypt.NewRoot(crypt.RepoID{1})
	if err != nil {
		t.Fatal(err)
	}
	if name, object, err = format.SealSuccession(stranger, next, 5); err != nil {
		t.Fatal(err)
	}
	if err := r.CheckObject(name, object); !errors.Is(err, ErrTampered) {
		t.Errorf("of another repository: %v", err)
	}
}

// TestLimits holds the limits that format and pack both have together, and has settings with a compression that pack does not know.
func TestLimits(t *testing.T) {
	if format.MaxParity != pack.MaxParity || format.MaxPackFile != pack.MaxFile {
		t.Errorf("%d parity shards, files of %d bytes; pack has %d and %d", format.MaxParity, format.MaxPackFile, pack.MaxParity, pack.MaxFile)
	}
	st, c := newTestRepo(t)
	nextSettings(t, st, func(s *format.Settings) { s.Compression = "lzma" })
	if r := openWriter(t, st, c); r.settings.Generation != 1 || problemsWith(t, r, "settings/2", ErrDamaged) != 1 {
		t.Errorf("settings with an unknown compression: %v", r.Problems())
	}
}

func TestCopied(t *testing.T) {
	st, c := newTestRepo(t)
	snap := store(t, openWriter(t, st, c), []byte("a"))
	object, err := stored.Fetch(t.Context(), st, snap.Name)
	if err != nil {
		t.Fatal(err)
	}
	r := openWriter(t, st, c)
	name, copied := format.JoinCopied(snap.ID(), object)
	rec, _, err := r.control().Copied(name, copied)
	if err != nil || rec.Session != snap.Session {
		t.Fatal(err)
	}
	if err := r.CheckObject(name, copied); err != nil {
		t.Error(err)
	}
	name, copied = format.JoinCopied(crypt.SessionID{1}, object)
	if _, _, err := r.control().Copied(name, copied); err == nil {
		t.Error("under another session: accepted")
	}
	for _, bad := range [][]byte{nil, copied[:15], flipAt(copied, 60)} {
		if _, _, err := r.control().Copied("copied/"+crypt.Sum(bad).String(), bad); err == nil {
			t.Errorf("%d bytes: accepted", len(bad))
		}
	}
}

// TestMarkSigners has every kind of mark made by every role.
func TestMarkSigners(t *testing.T) {
	t.Parallel()
	st, _ := newTestRepo(t)
	want := map[crypt.Role]string{crypt.RoleWriter: "1347", crypt.RoleReader: "", crypt.RoleAdmin: "1234567", crypt.RolePrune: "", crypt.RoleOperator: "12347", 0: "12345678"}
	for role, kinds := range want {
		r := admin(t, st)
		if role != 0 {
			r = enroll(t, st, "host", role, "")
		}
		got := ""
		for k := format.MarkTag; k <= format.MarkRevocation; k++ {
			m := format.Mark{Kind: k, Session: crypt.SessionID{1}, Host: crypt.HostID{1}, Hash: bytes.Repeat([]byte{1}, 32)}
			name, object, err := r.sealSigned(crypt.TypeMark, "marks/", canon.Marshal(m), role == 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := openWriter(t, st, baseCredential).control().Mark(name, object); err == nil {
				got += string('0' + rune(k))
			} else if !errors.Is(err, ErrTampered) {
				t.Error(err)
			}
		}
		if got != kinds {
			t.Errorf("role %d makes marks of the kinds %s, want %s", role, got, kinds)
		}
	}
}

// FuzzSnapshotObject puts bytes, as they are and as the sealed and signed body of a snapshot, through all that a writer does to such an object.
func FuzzSnapshotObject(f *testing.F) {
	// Made by hand: a whole repository would cost every fuzzing process a second.
	id, err := crypt.NewIdentity()
	if err != nil {
		f.Fatal(err)
	}
	r := newRepo(nil, Options{})
	r.config, r.settings = &format.Config{ID: crypt.RepoID{1}}, &format.Settings{WriteEpoch: 1}
	r.keys = &Keys{Writes: map[uint32]crypt.WriteSecret{1: {2}}, Identity: id}
	r.trust = &crypt.Trust{Repo: r.config.ID}
	r.trust.Add(id.Certificate("host", crypt.RoleWriter, 1, time.Unix(1e9, 0)))
	nonce := [32]byte{3}
	session := crypt.NewSessionID(id.Host, nonce)
	name := "snapshots/" + session.String()
	rec := snapshot.Record{Session: session, Host: id.Host, Nonce: nonce, Kind: snapshot.Snapshot, Type: snapshot.Full, Root: crypt.ID{4},
		Body: canon.Marshal(format.SealedBody{Session: []byte("record"), Sealed: []byte("sealed")})}
	body, err := rec.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	_, object, err := r.sealSigned(crypt.TypeSnapshot, name, body, false)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := r.SnapshotObject(name, object); err != nil {
		f.Fatal(err)
	}
	f.Add(object)
	f.Add(body)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := r.SnapshotObject(name, b); err == nil && !bytes.Equal(b, object) {
			t.Error("another object is taken for the snapshot")
		}
		_, sealed, err := r.sealSigned(crypt.TypeSnapshot, name, b, false)
		if err != nil {
			return
		}
		rec, err := r.SnapshotObject(name, sealed)
		if err != nil {
			return
		}
		if again, err := rec.Marshal(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x is encoded as %x, %v", b, again, err)
		}
		_, _ = r.OpenBody(&Snapshot{Record: *rec, Name: name})
	})
}
