package check_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/chunk"
	"packhold/crypt"
	"packhold/pack"
	"packhold/repo"
	"packhold/repo/admin"
	"packhold/repo/backup"
	"packhold/repo/check"
	"packhold/repo/format"
	"packhold/repo/snapshot"
)

// tinyCredential is that of the host that wrote tiny.
var tinyCredential *crypt.Credential

const passphrase = "correct horse battery"

// tiny is a small repository with two snapshots, made once; each test works on a clone.
var tiny = sync.OnceValues(func() (*mem.Store, error) {
	key, err := crypt.NewReadKey(1)
	if err != nil {
		return nil, err
	}
	s := mem.New(time.Now)
	ctx, now := context.Background(), time.Now()
	c, err := admin.Init(ctx, s, admin.InitOptions{Passphrase: []byte(passphrase), Iterations: crypt.MinIterations,
		Config: format.Config{Profile: format.Standard, Chunker: chunk.DefaultParams()}, Parity: 2, PackSize: format.MinPackSize,
		Compression: "fastest", HostName: "host-a", Label: "first", ReadKey: key, Now: now})
	if err != nil {
		return nil, err
	}
	tinyCredential = c
	dir, err := os.MkdirTemp("", "check-test")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for i, data := range []string{strings.Repeat("one ", 2000), strings.Repeat("two ", 2000)} {
		if err := os.WriteFile(filepath.Join(dir, "f"+string(rune('0'+i))), []byte(data), 0o600); err != nil {
			return nil, err
		}
		r, err := repo.Open(ctx, s, repo.Access{Credential: c}, repo.Options{})
		if err != nil {
			return nil, err
		}
		if _, err := backup.Run(ctx, r, backup.Options{Sources: []string{dir}, Type: snapshot.Full}); err != nil {
			return nil, err
		}
	}
	return s, nil
})

func clone(t *testing.T) *mem.Store {
	t.Helper()
	s, err := tiny()
	if err != nil {
		t.Fatal(err)
	}
	return s.Clone()
}

func open(t *testing.T, s backends.Storage) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), s, repo.Access{Passphrase: []byte(passphrase)}, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func verify(t *testing.T, s backends.Storage, o check.Options) *check.Report {
	t.Helper()
	rep, err := check.Run(t.Context(), open(t, s), o)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func names(t *testing.T, s backends.Storage) []string {
	t.Helper()
	var out []string
	for i, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, i.Name)
	}
	return out
}

func read(t *testing.T, s backends.Storage, name string) []byte {
	t.Helper()
	b, err := s.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHealthy(t *testing.T) {
	s := clone(t)
	rep := verify(t, s, check.Options{ReadData: true})
	if len(rep.Problems) > 0 || rep.Orphans > 0 || rep.Foreign > 0 {
		t.Errorf("healthy repository: %+v", rep)
	}
	if rep.Snapshots != 2 || rep.Blobs == 0 || rep.Files != 3 || rep.Bytes == 0 {
		t.Errorf("looked at %+v", rep)
	}
	scrub, err := check.Scrub(t.Context(), s, check.Options{})
	if err != nil || len(scrub.Problems) > 0 || scrub.Packs != rep.Packs {
		t.Errorf("scrub: %+v, %v", scrub, err)
	}
}

// notices reports whether damage in an object is seen, as verify --read-data looks at it.
func notices(r *repo.Repo, name string, b []byte) bool {
	if strings.HasPrefix(name, "packs/") || strings.HasPrefix(name, "meta/") {
		id, err := crypt.ParseID(name[len(name)-64:])
		if err != nil {
			return true
		}
		rep, err := pack.Verify(b, id, nil)
		return err != nil || !rep.OK()
	}
	return r.CheckObject(name, b) != nil
}

// TestEveryFlip flips every bit of every object, cuts it at every length and lengthens it by every byte: each must be noticed.
func TestEveryFlip(t *testing.T) {
	s := clone(t)
	r := open(t, s)
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	step := 1
	if testing.Short() {
		step = 97
	}
	flips := 0
	for _, name := range names(t, s) {
		if strings.HasPrefix(name, "audit/") {
			continue // that room has its own
		}
		good := read(t, s, name)
		if notices(r, name, good) {
			t.Errorf("%s: damage is seen where there is none", name)
		}
		flips += 8 * len(good) / step
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			var missed atomic.Int64
			g := new(errgroup.Group)
			for part := range runtime.GOMAXPROCS(0) {
				g.Go(func() error {
					b := bytes.Clone(good)
					for bit := part * step; bit < 8*len(good); bit += step * runtime.GOMAXPROCS(0) {
						b[bit/8] ^= 1 << (bit % 8)
						if !notices(r, name, b) {
							missed.Add(1)
							t.Logf("bit %d of byte %d", bit%8, bit/8)
						}
						b[bit/8] ^= 1 << (bit % 8)
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			if missed.Load() > 0 {
				t.Errorf("%d flips were not noticed", missed.Load())
			}
			for n := 0; n < len(good); n += 1 + step/8 {
				if !notices(r, name, good[:n]) {
					t.Errorf("a cut to %d bytes was not noticed", n)
				}
			}
			for c := range 256 {
				if !notices(r, name, append(bytes.Clone(good), byte(c))) {
					t.Errorf("an added byte %d was not noticed", c)
				}
			}
		})
	}
	t.Logf("%d flips", flips)
}

// TestEveryObjectRun damages every object at its ends and at random, and lets a whole verification look: what TestEveryFlip sees in an object by itself
// must come to be told, under its name or by what cannot be opened without it.
func TestEveryObjectRun(t *testing.T) {
	s := clone(t)
	const many = 4
	r := rand.New(rand.NewPCG(7, 8))
	g := new(errgroup.Group)
	g.SetLimit(runtime.GOMAXPROCS(0))
	runs := 0
	for _, name := range names(t, s) {
		if strings.HasPrefix(name, "audit/") {
			continue // that room has its own
		}
		good := read(t, s, name)
		flip := func(bit int) []byte {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			return b
		}
		bad := map[string][]byte{"first bit": flip(0), "last bit": flip(8*len(good) - 1), "a byte less": good[:len(good)-1], "a byte more": append(bytes.Clone(good), 0), "empty": nil}
		for range many {
			bit := r.IntN(8 * len(good))
			bad[fmt.Sprint("bit ", bit)] = flip(bit)
		}
		for what, b := range bad {
			if runs++; testing.Short() && runs%8 > 0 {
				continue
			}
			g.Go(func() error {
				c := s.Clone()
				if err := c.Put(t.Context(), name, b, backends.PutOptions{}); err != nil {
					return err
				}
				r, err := repo.Open(t.Context(), c, repo.Access{Passphrase: []byte(passphrase)}, repo.Options{})
				if err != nil { // nothing opens, which says it too: only of what there is one of
					if !errors.Is(err, repo.ErrDamaged) && !errors.Is(err, repo.ErrTampered) && !errors.Is(err, crypt.ErrFormat) {
						t.Errorf("%s, %s: opening: %v", name, what, err)
					}
					return nil
				}
				rep, err := check.Run(t.Context(), r, check.Options{ReadData: true, Workers: 1})
				if err != nil {
					return fmt.Errorf("%s, %s: %w", name, what, err)
				}
				if !slices.ContainsFunc(rep.Problems, func(p check.Problem) bool { return p.Object == name }) {
					t.Errorf("%s, %s: not told, but %v", name, what, rep.Problems)
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d runs", runs)
}

// TestSwap gives every object the bytes of every other one: none may pass in another's place.
func TestSwap(t *testing.T) {
	s := clone(t)
	r := open(t, s)
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := names(t, s)
	for _, a := range all {
		for _, b := range all {
			other := read(t, s, b)
			if a == b || strings.HasPrefix(a, "audit/") || bytes.Equal(other, read(t, s, a)) {
				continue
			}
			if !notices(r, a, other) {
				t.Errorf("the bytes of %s pass as %s", b, a)
			}
		}
	}
}

// TestUnreadable lets the disk fail to read one place of one object: a verification goes on, and says so.
func TestUnreadable(t *testing.T) {
	s := clone(t)
	for _, name := range names(t, s) {
		if strings.HasPrefix(name, "audit/") || strings.HasPrefix(name, "settings/") || name == "config" {
			continue // that room has its own; without them nothing opens
		}
		prefix, _, _ := strings.Cut(name, "/")
		for _, at := range []int64{0, 60, int64(len(read(t, s, name))) - 1} {
			bad := badSector{s, name, at}
			if prefix != "hosts" && prefix != "bundles" {
				rep := verify(t, bad, check.Options{ReadData: true})
				if len(rep.Problems) == 0 {
					t.Errorf("%s at %d: nothing was found", name, at)
				}
			}
			if prefix != "packs" && prefix != "meta" {
				continue
			}
			rep, err := check.Scrub(t.Context(), bad, check.Options{})
			if err != nil || len(rep.Problems) != 1 || rep.Problems[0].Object != name {
				t.Errorf("%s at %d: %v, %v", name, at, rep, err)
			}
		}
	}
}

// badSector cannot read one byte of one file, nor what is read with it.
type badSector struct {
	backends.Storage
	name string
	at   int64
}

func (b badSector) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if name == b.name && off <= b.at && (n < 0 || off+n > b.at) {
		return nil, fmt.Errorf("reading %s: %w", name, syscall.EIO)
	}
	return b.Storage.Get(ctx, name, off, n)
}

// TestUnnamedPack: what a damaged pack held that no whole index segment names is lost, unless the trees show that nobody misses it, as with a leftover
// of a killed backup. Without a key that reads trees it is lost if a segment is bad, which may have named it.
func TestUnnamedPack(t *testing.T) {
	look := func(s *mem.Store, with repo.Access) *check.Report {
		r, err := repo.Open(t.Context(), s, with, repo.Options{})
		if err != nil {
			t.Fatal(err)
		}
		rep, err := check.Run(t.Context(), r, check.Options{ReadData: r.CanRead()})
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	clone(t)
	reader := repo.Access{Passphrase: []byte(passphrase)}
	writer := repo.Access{Credential: tinyCredential}
	packOf := func(s *mem.Store) string {
		for _, name := range names(t, s) {
			if strings.HasPrefix(name, "packs/") {
				return name
			}
		}
		t.Fatal("no pack")
		return ""
	}
	damage := func(s *mem.Store, name string) {
		b := bytes.Clone(read(t, s, name))
		for i := range b { // nothing of it is left: no trailer, no table
			b[i] ^= 0xff
		}
		if err := s.Put(t.Context(), name, b, backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name     string
		orphan   bool // else a segment names the pack
		segments bool // are bad
		with     repo.Access
		mendable bool // if it is told at all
	}{
		{"named by a bad segment", false, true, reader, false},
		{"named by a bad segment, without a reader's key", false, true, writer, false},
		{"named", false, false, reader, false},
		{"orphan", true, false, reader, true},
		{"orphan beside a bad segment", true, true, reader, true},
		{"orphan beside a bad segment, without a reader's key", true, true, writer, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := clone(t)
			name := packOf(s)
			if c.orphan {
				// As of a backup that was killed before its segment.
				name = "packs/00/" + strings.Repeat("0", 64)
				if err := s.Put(t.Context(), name, read(t, s, packOf(s)), backends.PutOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			damage(s, name)
			if c.segments {
				for _, i := range names(t, s) {
					if strings.HasPrefix(i, "index/") {
						damage(s, i)
					}
				}
			}
			rep := look(s, c.with)
			lost, told := false, false
			for _, p := range rep.Problems {
				lost = lost || !p.Mendable
				if p.Object == name {
					told = true
					if p.Mendable != c.mendable {
						t.Errorf("mendable: %v", p.Mendable)
					}
				}
			}
			if lost == c.mendable || !told && (c.segments || !c.orphan) {
				t.Errorf("lost: %v, the pack is told of: %v; problems: %v", lost, told, rep.Problems)
			}
		})
	}
}

// However many problems there are, the first of each kind is in the list, and all are counted.
func TestManyProblems(t *testing.T) {
	var r check.Report
	mendable := check.Problem{Object: "leases/x", Err: repo.ErrDamaged, Mendable: true}
	for range 9_996 {
		r.Add(mendable)
	}
	r.Add(check.Problem{Object: "marks/x", Err: repo.ErrTampered})
	for range 20 {
		r.Add(mendable)
	}
	for range 5 {
		r.Add(check.Problem{Object: "packs/x", Err: repo.ErrDamaged})
	}
	seen := make(map[string]int)
	for _, p := range r.Problems {
		seen[p.Object]++
	}
	if r.Count != 9_996+1+20+5 || len(r.Problems) != 10_001 || seen["marks/x"] != 1 || seen["packs/x"] != 1 {
		t.Errorf("%d problems, %d listed: %v", r.Count, len(r.Problems), seen)
	}
}
