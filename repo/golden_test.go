package repo_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/reedsolomon"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/chunk"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/admin"
	"packhold/repo/audit"
	"packhold/repo/backup"
	"packhold/repo/check"
	"packhold/repo/format"
	"packhold/repo/localfs"
	"packhold/repo/restore"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// The golden repositories of format 1, testdata/golden/<name>: every later version opens them. They are made once, by
// `go test -run TestGolden -update ./repo`, and hold an object of every kind.
const goldenPassphrase = "a golden passphrase for ever"

// goldenNow is the time of the hosts that made them.
var goldenNow = time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)

type golden struct {
	name    string
	profile format.Profile
	chunker chunk.Params
}

var goldens = []golden{
	{"standard", format.Standard, chunk.Params{Rule: chunk.Gear, Min: 6 << 10, Avg: 8 << 10, Max: 32 << 10}},
	{"fips", format.FIPS, chunk.Params{Rule: chunk.Rabin, Min: 4 << 10, Avg: 8 << 10, Max: 32 << 10}},
}

// bytesFrom makes n bytes: SHA-256 of a counter under a seed. They do not compress.
func bytesFrom(seed string, n int) []byte {
	out := make([]byte, 0, n+32)
	for i := byte(0); len(out) < n; i++ {
		sum := sha256.Sum256([]byte{i, byte(len(out) >> 8), byte(len(out) >> 16)})
		sum = sha256.Sum256(append([]byte(seed), sum[:]...))
		out = append(out, sum[:]...)
	}
	return out[:n]
}

// goldenFiles is what the first and the second snapshot hold.
func goldenFiles(second bool) map[string][]byte {
	files := map[string][]byte{
		"empty":            {},
		"inline.txt":       []byte("short files stand in their directory\n"),
		"text.txt":         bytes.Repeat([]byte("packhold keeps what it was given, bit by bit. "), 300),
		"dir/random.bin":   bytesFrom("random", 20_000),
		"dir/zeros.bin":    make([]byte, 200_000),
		"dir/mixed.bin":    slices.Concat(bytesFrom("head", 3000), make([]byte, 150_000), bytesFrom("tail", 3000)),
		"dir/deep/ä ö.txt": []byte("a name that is not ASCII"),
	}
	if second {
		files["text.txt"] = append(files["text.txt"], "And once more."...)
		files["new.bin"] = bytesFrom("new", 5000)
		delete(files, "empty")
	}
	return files
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			dir := filepath.Join("testdata", "golden", g.name)
			if repo.Update() {
				g.make(t, dir)
			}
			s := load(t, dir)
			g.damage(t, s, g.read(t, s))
		})
	}
}

// load reads a golden repository into memory.
func load(t *testing.T, dir string) *mem.Store {
	t.Helper()
	s := mem.New(time.Now)
	size := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		size += len(b)
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return s.Put(t.Context(), filepath.ToSlash(name), b, backends.PutOptions{})
	})
	if err != nil {
		t.Fatal(err)
	}
	if size == 0 || size > 300<<10 {
		t.Errorf("%s has %d bytes", dir, size)
	}
	return s
}

func (g golden) read(t *testing.T, s *mem.Store) *repo.Repo {
	r, err := repo.Open(t.Context(), s, repo.Access{Passphrase: []byte(goldenPassphrase)}, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := r.Config()
	if c.Profile != g.profile || c.Chunker != g.chunker || c.Created != goldenNow.Unix() {
		t.Errorf("config %+v", c)
	}
	all, err := r.Snapshots(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%d snapshots, %v", len(all), err)
	}
	for i, snap := range all {
		if snap.Number != uint64(i+1) || snap.Type != []snapshot.BackupType{snapshot.Full, snapshot.Incremental}[i] || snap.Stats.Files == 0 {
			t.Errorf("snapshot %+v", snap.Record)
		}
		body, err := r.OpenBody(snap)
		if err != nil || body.Job != "golden" || !slices.Equal(body.Tags, []string{"one", "two"}) {
			t.Errorf("body %+v, %v", body, err)
		}
		dst := t.TempDir()
		res, err := restore.Run(t.Context(), r, snap, dst, restore.Options{Apply: localfs.ApplyOptions{NoOwner: true}, Verify: true})
		if err != nil || res.LostCount+res.UnsafeCount > 0 {
			t.Fatalf("restoring: %v, %+v", err, res)
		}
		want, got := goldenFiles(i == 1), readTree(t, dst)
		if !maps.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("snapshot %d: restored %v, want %v", i+1, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	}
	rep, err := check.Run(t.Context(), r, check.Options{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range rep.Problems {
		t.Errorf("verify: %v", p)
	}
	if rep.Packs < 4 || rep.Foreign != 0 || rep.Orphans != 0 || rep.Blobs < 8 {
		t.Errorf("verify: %+v", rep)
	}
	if rep, err := check.Scrub(t.Context(), s, check.Options{}); err != nil || len(rep.Problems) > 0 {
		t.Errorf("scrub: %v, %v", err, rep)
	}
	if rep, err := audit.Verify(t.Context(), r, audit.VerifyOptions{}); err != nil || len(rep.Problems) > 0 || len(rep.Logs) != 1 || rep.Logs[0].Size < 3 {
		t.Errorf("audit: %v, %+v", err, rep)
	}
	g.control(t, s, r)
	return r
}

// control reads the objects that no command of this version writes.
func (g golden) control(t *testing.T, s *mem.Store, r *repo.Repo) {
	kinds := map[string]int{}
	for i, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		kind, rest, _ := strings.Cut(i.Name, "/")
		if _, suffix, ok := strings.Cut(rest, "."); ok && kind == "condemned" {
			kind += "." + suffix
		}
		kinds[kind]++
		b, err := s.Get(t.Context(), i.Name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		switch kind {
		case "group":
			body, shards, whole, err := repo.ParseGroup(r, i.Name, b)
			if err != nil || !whole {
				t.Fatalf("group: %v", err)
			}
			g.regroup(t, s, body, shards)
		case "packs", "meta", "audit":
		default:
			if err := r.CheckObject(i.Name, b); err != nil {
				t.Error(err)
			}
		}
	}
	for _, kind := range []string{"config", "replica", "settings", "roots", "keys", "bundles", "hosts", "grants", "packs", "meta", "group", "index", "snapshots",
		"leases", "condemned", "condemned.leases", "condemned.final", "forgotten", "copied", "marks", "verified", "audit"} {
		if kinds[kind] == 0 {
			t.Errorf("no object under %s/", kind)
		}
	}
}

// regroup loses each member of a group in turn, and brings it back from the others.
func (g golden) regroup(t *testing.T, s *mem.Store, body *format.Group, parity [][]byte) {
	e, err := reedsolomon.New(len(body.Members), int(body.Parity))
	if err != nil {
		t.Fatal(err)
	}
	for lost := range body.Members {
		var shards [][]byte
		for _, m := range body.Members {
			b, err := s.Get(t.Context(), format.PackName(m.Pack.Name, m.Pack.Tree, m.Pack.Incarnation), 0, -1)
			if err != nil || uint64(len(b)) != m.Size {
				t.Fatalf("member of %d bytes: %v", len(b), err)
			}
			shards = append(shards, append(b, make([]byte, body.Shard-m.Size)...))
		}
		want := shards[lost]
		shards[lost] = nil
		if err := e.Reconstruct(append(shards, parity...)); err != nil {
			t.Fatal(err)
		}
		all := append(shards[:len(shards):len(shards)], parity...)
		if err := e.Reconstruct(all); err != nil || !bytes.Equal(all[lost], want) {
			t.Errorf("member %d does not come back: %v", lost, err)
		}
	}
}

// damage flips one byte in the middle of every object: none is taken for whole.
func (g golden) damage(t *testing.T, good *mem.Store, r *repo.Repo) {
	s := good.Clone()
	for i, err := range good.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := good.Get(t.Context(), i.Name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 0x10
		if strings.HasPrefix(i.Name, "packs/") || strings.HasPrefix(i.Name, "meta/") {
			if err := s.Put(t.Context(), i.Name, b, backends.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if !strings.HasPrefix(i.Name, "audit/") && r.CheckObject(i.Name, b) == nil {
			t.Errorf("damage in %s is not found", i.Name)
		}
	}
	rep, err := check.Scrub(t.Context(), s, check.Options{})
	if err != nil || len(rep.Problems) != int(rep.Packs) {
		t.Errorf("scrub of damaged packs: %d problems in %d packs, %v", len(rep.Problems), rep.Packs, err)
	}
}

func readTree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		out[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func writeTree(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, b := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, goldenNow, goldenNow); err != nil {
			t.Fatal(err)
		}
	}
}

// make makes a golden repository anew.
func (g golden) make(t *testing.T, dir string) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := crypt.NewReadKey(1) // its own: the tests' one is in the clear beside it
	must(err)
	s := mem.New(func() time.Time { return goldenNow })
	now := func() time.Time { return goldenNow }
	c, err := admin.Init(ctx, s, admin.InitOptions{Passphrase: []byte(goldenPassphrase), Iterations: crypt.MinIterations,
		Config: format.Config{Profile: g.profile, Chunker: g.chunker}, Parity: 1, PackSize: format.MinPackSize, Compression: "default", HostName: "golden-host",
		Label: "golden-key", ReadKey: key, Now: goldenNow})
	must(err)
	open := func(a repo.Access) *repo.Repo {
		r, err := repo.Open(ctx, s, a, repo.Options{Now: now})
		must(err)
		return r
	}
	root := open(repo.Access{Passphrase: []byte(goldenPassphrase)})
	_, err = admin.EnrollHost(ctx, root, "golden-second", crypt.RoleWriter)
	must(err)
	host := open(repo.Access{Credential: c})
	log, err := audit.Open(ctx, host, audit.Options{Now: now, User: "somebody", Tool: "packhold"})
	must(err)
	source := t.TempDir()
	var snaps []*repo.Snapshot
	for i := range 3 {
		must(os.RemoveAll(source))
		writeTree(t, source, goldenFiles(i > 0))
		kind := snapshot.Incremental
		if i == 0 {
			kind = snapshot.Full
		}
		res, err := backup.Run(ctx, host, backup.Options{Sources: []string{source}, Type: kind, Tags: []string{"one", "two"}, Job: "golden", Hostname: "golden",
			User: "somebody", Program: "packhold", Journal: log, Now: now})
		must(err)
		snaps = append(snaps, res.Snapshot)
	}
	void, err := host.Begin(ctx, repo.SessionOptions{}) // leaves a lease and a void
	must(err)
	void.Close(ctx)

	put := func(r *repo.Repo, typ crypt.Type, name string, body any) {
		t.Helper()
		_, err := repo.PutControl(ctx, r, typ, name, body)
		must(err)
	}
	role := func(name string, roles crypt.Role) *repo.Repo {
		id, err := crypt.NewIdentity()
		must(err)
		must(repo.PutHost(ctx, root, id.Certificate(name, roles, 1, goldenNow)))
		k := *c
		k.Identity = id
		return open(repo.Access{Credential: &k})
	}
	prune, reader, boss := role("golden-prune", crypt.RolePrune), role("golden-reader", crypt.RoleReader), role("golden-admin", crypt.RoleAdmin)
	hostOf := func(r *repo.Repo) crypt.HostID { return r.Keys().Identity.Host }

	gone := []format.PackRef{{Name: crypt.Sum([]byte("a pack that is gone"))}}
	set := [16]byte{0xc0}
	base := "condemned/" + hex.EncodeToString(set[:])
	put(prune, crypt.TypeCondemned, base, format.Condemned{ID: set, Session: void.ID, Time: goldenNow.Unix(), Packs: gone})
	put(prune, crypt.TypeCondemnedLeases, base+".leases", format.CondemnedLeases{ID: set, Time: goldenNow.Unix(), Sessions: []crypt.SessionID{void.ID}})
	put(prune, crypt.TypeCondemnedFinal, base+".final", format.CondemnedFinal{ID: set, Time: goldenNow.Unix(), Packs: gone})

	last := snaps[2]
	object, err := stored.Fetch(ctx, s, last.Name)
	must(err)
	put(boss, crypt.TypeForgotten, "forgotten/", format.Forgotten{Session: last.ID(), Object: last.Object, Record: object, Host: hostOf(boss), Time: goldenNow.Unix(), Reason: "keep-last 2"})
	first, err := stored.Fetch(ctx, s, snaps[0].Name)
	must(err)
	name, copied := format.JoinCopied(snaps[0].ID(), first)
	must(s.Put(ctx, name, copied, backends.PutOptions{}))

	tag := format.Mark{Kind: format.MarkTag, Session: snaps[0].ID(), Time: goldenNow.Unix(), Epoch: 1}
	tag.Text, err = key.Public().SealText(c.Repo, tag.About(), []byte("monthly"))
	must(err)
	put(boss, crypt.TypeMark, "marks/", tag)
	put(host, crypt.TypeMark, "marks/", format.Mark{Kind: format.MarkPin, Host: c.Identity.Host, Session: snaps[1].ID(), Time: goldenNow.Unix()})

	var packs []format.PackRef
	var members []format.GroupMember
	var shards [][]byte
	largest := 0
	for i, err := range s.List(ctx, "packs/") {
		must(err)
		id, tree, inc, err := format.ParsePackName(i.Name)
		must(err)
		b, err := s.Get(ctx, i.Name, 0, -1)
		must(err)
		ref := format.PackRef{Name: id, Tree: tree, Incarnation: inc}
		packs = append(packs, ref)
		members = append(members, format.GroupMember{Pack: ref, Size: uint64(len(b))})
		shards = append(shards, b)
		largest = max(largest, len(b))
	}
	put(reader, crypt.TypeVerified, "verified/", format.Verified{Host: hostOf(reader), Time: goldenNow.Unix(), Packs: packs, Lost: gone})
	for i, b := range shards {
		shards[i] = append(b, make([]byte, largest-len(b))...)
	}
	shards = append(shards, make([]byte, largest))
	e, err := reedsolomon.New(len(members), 1)
	must(err)
	must(e.Encode(shards))
	sum := crypt.Sum(shards[len(members)])
	name, group, err := repo.SealGroup(prune, &format.Group{Members: members, Parity: 1, Shard: uint64(largest), Digests: [][]byte{sum[:]}}, shards[len(members):])
	must(err)
	must(s.Put(ctx, name, group, backends.PutOptions{}))

	next, err := crypt.NewRoot(c.Repo)
	must(err)
	name, object, err = format.SealSuccession(root.Keys().Admin, next, goldenNow.Unix())
	must(err)
	must(s.Put(ctx, name, object, backends.PutOptions{}))

	must(os.RemoveAll(dir))
	for i, err := range s.List(ctx, "") {
		must(err)
		b, err := s.Get(ctx, i.Name, 0, -1)
		must(err)
		path := filepath.Join(dir, filepath.FromSlash(i.Name))
		must(os.MkdirAll(filepath.Dir(path), 0o755))
		must(os.WriteFile(path, b, 0o644))
	}
}

// TestGoldenWrongPassphrase is here because a golden repository that opens by any passphrase would prove nothing.
func TestGoldenWrongPassphrase(t *testing.T) {
	s := load(t, filepath.Join("testdata", "golden", "standard"))
	if _, err := repo.Open(t.Context(), s, repo.Access{Passphrase: []byte(goldenPassphrase + ".")}, repo.Options{}); !errors.Is(err, crypt.ErrPassphrase) {
		t.Errorf("wrong passphrase: %v", err)
	}
}
