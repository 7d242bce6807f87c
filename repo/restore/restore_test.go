package restore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/format"
	"packhold/repo/localfs"
	"packhold/repo/repotest"
	"packhold/repo/restore"
	"packhold/repo/snapshot"
)

const passphrase = repotest.Passphrase

func newRepo(t *testing.T) (*mem.Store, *crypt.Credential) {
	t.Helper()
	s := mem.New(time.Now)
	c, err := repotest.Copy(t.Context(), s, repotest.Options{Parity: 2, PackSize: format.MinPackSize})
	must(t, err)
	return s, c
}

func open(t *testing.T, s backends.Storage, a repo.Access) *repo.Repo {
	t.Helper()
	r, err := repo.Open(t.Context(), s, a, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// readers are the repositories opened with the passphrase, by their storage.
var readers sync.Map

func reader(t *testing.T, s backends.Storage) *repo.Repo {
	t.Helper()
	had, ok := readers.Load(s)
	if !ok {
		had = open(t, s, repo.Access{Passphrase: []byte(passphrase)})
		readers.Store(s, had)
	}
	r := had.(*repo.Repo)
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// take backs sources up.
func take(t *testing.T, s backends.Storage, c *crypt.Credential, sources ...string) *repo.Snapshot {
	t.Helper()
	res, err := backup.Run(t.Context(), open(t, s, repo.Access{Credential: c}), backup.Options{Sources: sources, Type: snapshot.Full})
	if err != nil {
		t.Fatal(err)
	}
	return res.Snapshot
}

// bring restores, and wants no error.
func bring(t *testing.T, s backends.Storage, snap *repo.Snapshot, dst string, o restore.Options) *restore.Result {
	t.Helper()
	res, err := restore.Run(t.Context(), reader(t, s), snap, dst, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// clean wants that nothing is wrong with a restore.
func clean(t *testing.T, res *restore.Result) {
	t.Helper()
	if res.ProblemCount+res.LostCount+res.UnsafeCount+res.MismatchCount > 0 {
		t.Errorf("problems %v, lost %v, unsafe %v, mismatches %v", res.Problems, res.Lost, res.Unsafe, res.Mismatch)
	}
}

func random(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	_, _ = r.Read(b) // never fails
	return b
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// state is everything about an entry that a restore brings back.
type state struct {
	node  snapshot.Node
	data  string // digest of the bytes
	first string // first path with the same inode
}

// scan reads a tree. Paths are relative; "" is dir itself.
func scan(t *testing.T, dir string) map[string]state {
	t.Helper()
	out := map[string]state{}
	inodes := map[uint64]string{}
	var walk func(d *localfs.Dir, path string)
	walk = func(d *localfs.Dir, path string) {
		names, err := d.Names(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range append([]string{""}, names...) {
			p := strings.TrimPrefix(path+"/"+name, "/")
			if name == "" {
				p = path
			}
			var s state
			if _, err := d.Stat(name, &s.node); err != nil {
				t.Fatal(err)
			}
			if err := d.Details(name, &s.node, localfs.DetailOptions{}); err != nil {
				t.Fatal(err)
			}
			n := &s.node
			if n.Type != snapshot.Dir && n.Links > 1 {
				if s.first = inodes[n.Inode]; s.first == "" {
					inodes[n.Inode] = p
				}
			}
			if n.Type == snapshot.File {
				b, err := os.ReadFile(filepath.Join(dir, p))
				if err != nil {
					t.Fatal(err)
				}
				s.data = crypt.Sum(b).String()
			}
			n.Name, n.CTime, n.BTime, n.ATime, n.Inode, n.Flags = "", snapshot.Time{}, snapshot.Time{}, snapshot.Time{}, 0, 0
			if n.Type == snapshot.Dir {
				n.Links = 0
			}
			out[p] = s
			if n.Type == snapshot.Dir && name != "" {
				child, err := d.Open(name)
				if err != nil {
					t.Fatal(err)
				}
				walk(child, p)
				child.Close()
			}
		}
	}
	d, err := localfs.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	walk(d, "")
	return out
}

// same wants two trees to be equal.
func same(t *testing.T, got, want map[string]state) {
	t.Helper()
	for p, w := range want {
		g, ok := got[p]
		if !ok {
			t.Errorf("%q is missing", p)
		} else if !reflect.DeepEqual(g, w) {
			t.Errorf("%q differs:\n got %+v\nwant %+v", p, g, w)
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%q should not be there", p)
		}
	}
}

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// varied makes a tree with at least one of everything, as far as the user and the system may.
func varied(t *testing.T) string {
	src := filepath.Join(t.TempDir(), "source")
	write(t, src+"/empty", nil)
	write(t, src+"/inline", []byte("hello"))
	write(t, src+"/small", random(1, 5000))
	write(t, src+"/again/small-too", random(1, 5000)) // the same blob
	write(t, src+"/deep/er/and/deeper/large", random(2, 3<<19))
	write(t, src+"/again/large-too", random(2, 3<<19))
	write(t, src+"/zeros", make([]byte, 1<<20))
	write(t, src+"/mixed", slices.Concat(random(3, 100_000), make([]byte, 400_000), random(4, 1<<20), make([]byte, 100_000)))
	write(t, src+"/read-only", []byte("r"))
	must(t, os.Chmod(src+"/read-only", 0o400))
	for i := range 40 {
		write(t, fmt.Sprintf("%s/many/%02d", src, i), random(uint64(100+i), 200+i*37))
	}
	f, err := os.Create(src + "/sparse")
	must(t, err)
	must(t, f.Truncate(40<<20))
	_, err = f.WriteAt(random(5, 9000), 20<<20)
	must(t, err)
	must(t, f.Close())
	must(t, os.Mkdir(src+"/nothing", 0o711))
	must(t, os.Symlink("../nowhere/ \xff", src+"/link"))
	must(t, os.Symlink("small", src+"/again/link"))
	must(t, os.Link(src+"/small", src+"/again/hard"))
	must(t, os.Link(src+"/deep/er/and/deeper/large", src+"/a-hard"))
	must(t, os.Link(src+"/inline", src+"/zz-hard"))
	write(t, src+"/odd\n\x1b[31m \xfe\\ name ", []byte("odd"))
	d, err := localfs.OpenDir(src)
	must(t, err)
	defer d.Close()
	root, err := os.OpenRoot(src)
	must(t, err)
	defer root.Close()
	dd, err := localfs.OpenParent(root, "")
	must(t, err)
	defer dd.Close()
	for _, n := range []snapshot.Node{{Name: "fifo", Type: snapshot.FIFO}, {Name: "socket", Type: snapshot.Socket},
		{Name: "null", Type: snapshot.CharDevice, Rdev: 1<<32 | 3}} {
		if err := dd.Mknod(n.Name, &n); err != nil {
			t.Logf("without %s: %v", n.Name, err)
		}
	}
	var n snapshot.Node
	_, err = d.Stat("small", &n)
	must(t, err)
	n.XAttrs = []snapshot.XAttr{{Name: "user.comment", Value: []byte("two\x00words")}}
	n.Mode = 0o4751
	if err := dd.Apply("small", &n, localfs.ApplyOptions{}); err != nil {
		t.Logf("without attributes: %v", err)
	}
	_, err = d.Stat("deep", &n)
	must(t, err)
	n.XAttrs, n.Mode = []snapshot.XAttr{{Name: "user.large", Value: random(6, 3500)}, {Name: "user.more", Value: random(6, 400)}}, 0o1750
	if err := dd.Apply("deep", &n, localfs.ApplyOptions{}); err != nil {
		t.Logf("without attributes: %v", err)
	}
	_, err = d.Stat("mixed", &n)
	must(t, err)
	n.XAttrs = []snapshot.XAttr{{Name: "user.a", Value: random(7, 1800)}, {Name: "user.b", Value: random(8, 1900)}}
	_ = dd.Apply("mixed", &n, localfs.ApplyOptions{}) // over what ext4 holds in a block on some systems
	// Times last, deepest first.
	var all []string
	must(t, filepath.WalkDir(src, func(p string, e fs.DirEntry, err error) error {
		if e.Type()&fs.ModeSymlink == 0 {
			all = append(all, p)
		}
		return err
	}))
	slices.Reverse(all)
	for i, p := range all {
		at := time.Unix(1_500_000_000+int64(i)*977, int64(i)*1_000_003+7)
		must(t, os.Chtimes(p, at, at))
	}
	return src
}

func TestRoundTrip(t *testing.T) {
	st, c := newRepo(t)
	src := varied(t)
	want := scan(t, src)
	snap := take(t, st, c, src)
	dst := filepath.Join(t.TempDir(), "not", "there")
	dry := bring(t, st, snap, dst, restore.Options{DryRun: true})
	if _, err := os.Lstat(filepath.Dir(dst)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dry run wrote: %v", err)
	}
	res := bring(t, st, snap, dst, restore.Options{Verify: true})
	clean(t, res)
	same(t, scan(t, dst), want)
	if res.Verified < uint64(len(want)) {
		t.Errorf("verified %d of %d", res.Verified, len(want))
	}
	if res.Files+res.Dirs+res.Links+res.Symlinks+res.Specials != uint64(len(want)-1) {
		t.Errorf("counted %+v, want %d entries", res, len(want)-1)
	}
	dry.Verified = res.Verified
	if !reflect.DeepEqual(dry, res) {
		t.Errorf("dry run %+v\nreal run %+v", dry, res)
	}
	var fi localfs.Stat
	d, err := localfs.OpenDir(dst)
	must(t, err)
	defer d.Close()
	var n snapshot.Node
	if fi, err = d.Stat("sparse", &n); err != nil || fi.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file has %d blocks, %v", fi.Blocks, err)
	}
	// Again, over itself: nothing changes.
	clean(t, bring(t, st, snap, dst, restore.Options{Verify: true}))
	same(t, scan(t, dst), want)
	for _, o := range []restore.Overwrite{restore.IfChanged, restore.IfNewer, restore.Never} {
		r := bring(t, st, snap, dst, restore.Options{Overwrite: o})
		clean(t, r)
		if r.Files > 0 && o != restore.IfChanged || r.Bytes > 0 && o == restore.Never {
			t.Errorf("policy %d wrote %+v", o, r)
		}
		same(t, scan(t, dst), want)
	}
}

// TestSmallWindows has more windows than files, several of them with parts of one file.
func TestSmallWindows(t *testing.T) {
	st, c := newRepo(t)
	src := varied(t)
	snap := take(t, st, c, src)
	for i, workers := range []int{1, 3, 1, 3} {
		dst := t.TempDir()
		o := restore.Options{Verify: true, Workers: workers, Far: i > 1}
		restore.SmallWindows(&o)
		clean(t, bring(t, st, snap, dst, o))
		same(t, scan(t, dst), scan(t, src))
	}
}

func TestOverwrite(t *testing.T) {
	st, c := newRepo(t)
	src := varied(t)
	want := scan(t, src)
	snap := take(t, st, c, src)
	dst := t.TempDir()
	guard := t.TempDir()
	write(t, guard+"/precious", []byte("precious"))
	write(t, dst+"/inline", []byte("longer than before"))
	write(t, dst+"/small", random(9, 5000)) // same size
	must(t, os.Link(dst+"/small", guard+"/other-name"))
	must(t, os.Symlink(guard+"/precious", dst+"/empty"))
	must(t, os.Symlink(guard, dst+"/deep"))
	must(t, os.Symlink(guard, dst+"/many"))
	must(t, os.Mkdir(dst+"/mixed", 0o700))
	write(t, dst+"/again", []byte("a file, not a directory"))
	write(t, dst+"/link", []byte("a file, not a link"))
	must(t, os.Mkdir(dst+"/nothing", 0o500))
	write(t, dst+"/zeros", random(10, 3<<20))
	before := scan(t, guard)
	clean(t, bring(t, st, snap, dst, restore.Options{Verify: true}))
	same(t, scan(t, dst), want)
	after := scan(t, guard)
	for _, m := range []map[string]state{before, after} {
		for p, s := range m {
			s.node.Links = 0
			m[p] = s
		}
	}
	same(t, after, before)
	// What is not in the snapshot stays, and a directory with content is not removed.
	must(t, os.Remove(dst+"/small"))
	write(t, dst+"/small/kept", []byte("kept"))
	write(t, dst+"/extra", []byte("extra"))
	res := bring(t, st, snap, dst, restore.Options{})
	if len(res.Problems) != 1 || !strings.HasSuffix(res.Problems[0].Path, "/small") || res.LostCount+res.UnsafeCount > 0 {
		t.Errorf("%+v", res)
	}
	got := scan(t, dst)
	for _, p := range []string{"small/kept", "extra"} {
		if _, ok := got[p]; !ok {
			t.Errorf("%s was removed", p)
		}
	}
	// The second name of that file is restored all the same.
	if got["again/hard"].data != want["again/hard"].data {
		t.Error("the other name of a file that could not be restored is missing")
	}
}

func TestPolicies(t *testing.T) {
	st, c := newRepo(t)
	src := t.TempDir()
	write(t, src+"/old", []byte("snapshot"))
	write(t, src+"/new", []byte("snapshot"))
	write(t, src+"/missing", []byte("snapshot"))
	now := time.Unix(1_600_000_000, 0)
	for _, n := range []string{"old", "new", "missing"} {
		must(t, os.Chtimes(src+"/"+n, now, now))
	}
	snap := take(t, st, c, src)
	for _, x := range []struct {
		o    restore.Overwrite
		want map[string]string
		kept uint64
	}{
		{restore.Always, map[string]string{"old": "snapshot", "new": "snapshot", "missing": "snapshot"}, 0},
		{restore.IfNewer, map[string]string{"old": "snapshot", "new": "existing", "missing": "snapshot"}, 1},
		{restore.Never, map[string]string{"old": "existing", "new": "existing", "missing": "snapshot"}, 2},
		{restore.IfChanged, map[string]string{"old": "snapshot", "new": "snapshot", "missing": "snapshot"}, 0},
	} {
		dst := t.TempDir()
		for n, d := range map[string]time.Duration{"old": -time.Second, "new": time.Second} {
			write(t, dst+"/"+n, []byte("existing"))
			must(t, os.Chtimes(dst+"/"+n, now.Add(d), now.Add(d)))
		}
		res := bring(t, st, snap, dst, restore.Options{Overwrite: x.o, Verify: true})
		clean(t, res)
		for n, w := range x.want {
			if got, err := os.ReadFile(dst + "/" + n); string(got) != w {
				t.Errorf("policy %d: %s holds %q, %v, want %q", x.o, n, got, err, w)
			}
		}
		if res.Kept != x.kept {
			t.Errorf("policy %d: kept %d, want %d", x.o, res.Kept, x.kept)
		}
	}
}

func paths(m map[string]state) []string {
	var out []string
	for p := range m {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

func TestSelection(t *testing.T) {
	st, c := newRepo(t)
	base := t.TempDir()
	for _, p := range []string{"one/a/x", "one/a/y", "one/b/x", "two/z", "single"} {
		write(t, filepath.Join(base, p), []byte(p))
	}
	under := strings.TrimPrefix(base, "/")
	var above []string // of base, below a destination
	for i, ch := range under + "/" {
		if ch == '/' {
			above = append(above, under[:i])
		}
	}
	with := func(list ...string) []string {
		out := append([]string{""}, above...)
		for _, p := range list {
			out = append(out, under+"/"+p)
		}
		slices.Sort(out)
		return out
	}
	suffix := func(list ...string) restore.Match {
		return func(p string, _ bool) bool {
			return slices.ContainsFunc(list, func(s string) bool { return strings.HasSuffix(p, s) })
		}
	}
	descended := 0
	for name, x := range map[string]struct {
		sources []string
		o       restore.Options
		want    []string
	}{
		"one":      {[]string{"one"}, restore.Options{}, []string{"", "a", "a/x", "a/y", "b", "b/x"}},
		"full":     {[]string{"one"}, restore.Options{FullPath: true}, with("one", "one/a", "one/a/x", "one/a/y", "one/b", "one/b/x")},
		"two":      {[]string{"one", "two"}, restore.Options{}, with("one", "one/a", "one/a/x", "one/a/y", "one/b", "one/b/x", "two", "two/z")},
		"file":     {[]string{"single"}, restore.Options{}, []string{"", "single"}},
		"filefull": {[]string{"single"}, restore.Options{FullPath: true}, with("single")},
		"include":  {[]string{"one"}, restore.Options{Include: suffix("/x")}, []string{"", "a", "a/x", "b", "b/x"}},
		"subtree":  {[]string{"one"}, restore.Options{Include: suffix("/one/a")}, []string{"", "a", "a/x", "a/y"}},
		"source":   {[]string{"one"}, restore.Options{Include: suffix("/one")}, []string{"", "a", "a/x", "a/y", "b", "b/x"}},
		"exclude":  {[]string{"one"}, restore.Options{Exclude: suffix("/a", "b/x")}, []string{"", "b"}},
		"both":     {[]string{"one"}, restore.Options{Include: suffix("/a"), Exclude: suffix("/y")}, []string{"", "a", "a/x"}},
		"nothing":  {[]string{"one"}, restore.Options{Include: suffix("/none")}, []string{""}},
		"descend": {[]string{"one"}, restore.Options{Include: suffix("/x"), Descend: func(p string) bool {
			descended++
			return strings.HasSuffix(p, "/a")
		}}, []string{"", "a", "a/x"}},
	} {
		var sources []string
		for _, s := range x.sources {
			sources = append(sources, filepath.Join(base, s))
		}
		snap := take(t, st, c, sources...)
		dst := t.TempDir()
		x.o.Verify = true
		clean(t, bring(t, st, snap, dst, x.o))
		if got := paths(scan(t, dst)); !slices.Equal(got, x.want) {
			t.Errorf("%s: got %q\nwant %q", name, got, x.want)
		}
	}
	if descended != 4 { // two directories, in two walks
		t.Errorf("asked %d times whether to descend", descended)
	}
}

func TestForbidden(t *testing.T) {
	st, c := newRepo(t)
	src := t.TempDir()
	write(t, src+"/a", []byte("a"))
	snap := take(t, st, c, src)
	keep := t.TempDir()
	link := t.TempDir() + "/link"
	must(t, os.Symlink(keep, link))
	for _, dst := range []string{keep, keep + "/below/that", link, link + "/x"} {
		_, err := restore.Run(t.Context(), reader(t, st), snap, dst, restore.Options{Forbidden: []string{"/no/such/directory", keep}})
		if !errors.Is(err, restore.ErrForbidden) {
			t.Errorf("%s: %v", dst, err)
		}
	}
	if got := paths(scan(t, keep)); len(got) != 1 {
		t.Errorf("written: %q", got)
	}
	// Inside the destination it stays as it is.
	write(t, src+"/sub/file", []byte("restored"))
	snap = take(t, st, c, src)
	dst := t.TempDir()
	write(t, dst+"/sub/file", []byte("precious"))
	res := bring(t, st, snap, dst, restore.Options{Forbidden: []string{dst + "/sub"}, Delete: true})
	if res.ProblemCount != 1 || !errors.Is(res.Problems[0].Err, restore.ErrForbidden) {
		t.Errorf("%+v", res)
	}
	if b, err := os.ReadFile(dst + "/sub/file"); string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
}

// dataPacks lists the data packs with their bytes.
func dataPacks(t *testing.T, s backends.Storage, prefix string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for i, err := range s.List(t.Context(), prefix) {
		must(t, err)
		b, err := s.Get(t.Context(), i.Name, 0, -1)
		must(t, err)
		out[i.Name] = b
	}
	return out
}

func TestDamage(t *testing.T) {
	t.Run("near", func(t *testing.T) { damage(t, false) })
	t.Run("far", func(t *testing.T) { damage(t, true) })
}

func damage(t *testing.T, far bool) {
	st, c := newRepo(t)
	src := t.TempDir()
	for i := range 6 {
		write(t, fmt.Sprintf("%s/%02d", src, i), random(uint64(i), 300_000))
	}
	write(t, src+"/large", random(99, 2<<20))
	must(t, os.Link(src+"/large", src+"/zlarge"))
	snap := take(t, st, c, src)
	want := scan(t, src)

	t.Run("mended", func(t *testing.T) {
		bad := st.Clone()
		for name, b := range dataPacks(t, bad, "packs/") {
			b[len(b)/3] ^= 1
			must(t, bad.Put(t.Context(), name, b, backends.PutOptions{}))
		}
		for name, b := range dataPacks(t, bad, "meta/") {
			b[60] ^= 1
			must(t, bad.Put(t.Context(), name, b, backends.PutOptions{}))
		}
		dst := t.TempDir()
		res := bring(t, bad, snap, dst, restore.Options{Verify: true, Far: far})
		clean(t, res)
		if res.Mended == 0 {
			t.Error("nothing was mended")
		}
		same(t, scan(t, dst), want)
	})
	for name, spoil := range map[string]func(s backends.Storage, name string, b []byte) error{
		"flipped": func(s backends.Storage, name string, b []byte) error {
			for i := 48; i < len(b)-len(b)/10; i += 10_000 {
				b[i] ^= 0x40
			}
			return s.Put(t.Context(), name, b, backends.PutOptions{})
		},
		"missing": func(s backends.Storage, name string, b []byte) error { return s.Delete(t.Context(), name) },
		"truncated": func(s backends.Storage, name string, b []byte) error {
			return s.Put(t.Context(), name, b[:1000], backends.PutOptions{})
		},
		"emptied": func(s backends.Storage, name string, b []byte) error {
			return s.Put(t.Context(), name, nil, backends.PutOptions{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := st.Clone()
			packs := dataPacks(t, bad, "packs/")
			names := slices.Sorted(func(yield func(string) bool) {
				for n := range packs {
					if !yield(n) {
						return
					}
				}
			})
			if len(names) < 3 {
				t.Fatalf("%d packs", len(names))
			}
			must(t, spoil(bad, names[1], packs[names[1]]))
			dst := t.TempDir()
			write(t, dst+"/large", []byte("an older one"))
			res := bring(t, bad, snap, dst, restore.Options{Verify: true, Far: far})
			if res.LostCount == 0 || res.LostCount == uint64(len(want)-1) || res.ProblemCount+res.UnsafeCount+res.MismatchCount > 0 {
				t.Fatalf("%+v", res)
			}
			got := scan(t, dst)
			for _, l := range res.Lost {
				p := strings.TrimPrefix(l.Path, src+"/")
				if _, ok := got[p]; ok && p != "large" {
					t.Errorf("%s is damaged and there", p)
				}
				if len(l.Ranges) == 0 || l.Ranges[0].N == 0 || !errors.Is(l.Err, repo.ErrDamaged) && !errors.Is(l.Err, io.ErrUnexpectedEOF) {
					t.Errorf("%+v", l)
				}
				if p == "large" {
					if b, _ := os.ReadFile(dst + "/large"); string(b) != "an older one" {
						t.Error("what was there was replaced by a damaged file")
					}
				}
				delete(want, p)
				delete(got, p)
			}
			same(t, got, want)
			want = scan(t, src)
		})
	}
}

// TestMovedPacks restores with an index that is older than the packs: as when a prune moved the blobs meanwhile.
func TestMovedPacks(t *testing.T) {
	st, c := newRepo(t)
	build := func(put, data func([]byte) crypt.ID) crypt.ID {
		var nodes []snapshot.Node
		for i := range 20 {
			a, b := random(uint64(i), 90_000+i), random(uint64(1000+i), 40_000)
			nodes = append(nodes, snapshot.Node{Name: fmt.Sprint("f", i), Type: snapshot.File, Mode: 0o600, Size: uint64(len(a) + len(b)),
				UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Extents: []snapshot.Extent{
					{Kind: snapshot.Data, Length: uint64(len(a)), ID: data(a)}, {Kind: snapshot.Data, Length: uint64(len(b)), ID: data(b)}}})
		}
		return page(t, put, nodes...)
	}
	snap := hostile(t, st, c, []string{"/"}, build)
	for i, kinds := range [][]string{{"packs/"}, {"meta/"}, {"packs/", "meta/"}, {"packs/"}, {"packs/", "meta/"}} {
		s := st.Clone()
		stale := reader(t, s)
		for _, prefix := range append(kinds, "index/") {
			for name := range dataPacks(t, s, prefix) {
				must(t, s.Delete(t.Context(), name))
			}
		}
		hostile(t, s, c, []string{"/"}, build) // stores it all again
		dst := t.TempDir()
		res, err := restore.Run(t.Context(), stale, snap, dst, restore.Options{Verify: true, Far: i > 2})
		must(t, err)
		clean(t, res)
		for i := range 20 {
			b, err := os.ReadFile(fmt.Sprint(dst, "/f", i))
			if err != nil || !bytes.Equal(b, slices.Concat(random(uint64(i), 90_000+i), random(uint64(1000+i), 40_000))) {
				t.Errorf("file %d differs: %v", i, err)
			}
		}
	}
}

// watch is a Progress that calls done with the number of entries finished.
type watch struct {
	entries atomic.Int64
	bytes   atomic.Int64
	done    func(entries, bytes int64)
	deleted func(path string)
}

func (w *watch) Done(entries, n int64) { w.done(w.entries.Add(entries), w.bytes.Add(n)) }
func (w *watch) Deleted(path string) {
	if w.deleted != nil {
		w.deleted(path)
	}
}
func (*watch) Failed(string, error)  {}
func (*watch) Verified(int64, int64) {}
func (*watch) Mended(string, error)  {}

// TestCancel stops a restore at many moments: what has a final name is whole, and the next run completes everything and leaves nothing.
func TestCancel(t *testing.T) {
	st, c := newRepo(t)
	src := varied(t)
	want := scan(t, src)
	snap := take(t, st, c, src)
	stopped, kept := 0, 0
	for after := range int64(12) {
		ctx, cancel := context.WithCancel(t.Context())
		p := &watch{done: func(entries, n int64) {
			if entries >= after*4 || after%4 == 3 && n > after<<17 {
				cancel()
			}
		}}
		dst := t.TempDir()
		o := restore.Options{Progress: p, Far: after%3 == 1}
		if after%2 == 0 {
			restore.SmallWindows(&o)
		}
		start := time.Now()
		res, err := restore.Run(ctx, reader(t, st), snap, dst, o)
		cancel()
		if err == nil {
			continue
		}
		stopped++
		if !errors.Is(err, context.Canceled) || res == nil || time.Since(start) > 5*time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		for path, s := range scan(t, dst) {
			w, ok := want[path]
			switch {
			case strings.HasPrefix(filepath.Base(path), ".packhold-partial-"): // the next run goes on with it
				kept++
			case !ok:
				t.Errorf("%q was left", path)
			case s.node.Type == snapshot.File && s.data != w.data:
				t.Errorf("%q is half written", path)
			}
		}
		clean(t, bring(t, st, snap, dst, restore.Options{}))
		same(t, scan(t, dst), want)
	}
	if kept == 0 {
		t.Error("nothing was ever kept to go on with")
	}
	if stopped < 6 {
		t.Errorf("only %d runs were stopped", stopped)
	}
}

// TestVerifyFinds changes restored files before they are read again.
func TestVerifyFinds(t *testing.T) {
	st, c := newRepo(t)
	src := t.TempDir()
	write(t, src+"/content", random(1, 3<<19))
	write(t, src+"/inline", []byte("inline"))
	write(t, src+"/mode", []byte("mode"))
	write(t, src+"/short", random(2, 5000))
	write(t, src+"/zeros", make([]byte, 1<<20))
	write(t, src+"/gone", []byte("gone"))
	write(t, src+"/good", random(3, 5000))
	write(t, src+"/one-name", []byte("one"))
	must(t, os.Link(src+"/one-name", src+"/two-names"))
	snap := take(t, st, c, src)
	dst := t.TempDir()
	once := sync.Once{}
	change := func(path string, f func(p string) error) {
		info, err := os.Stat(dst + "/" + path)
		if err == nil {
			if err = f(dst + "/" + path); err == nil && path != "gone" {
				err = os.Chtimes(dst+"/"+path, info.ModTime(), info.ModTime())
			}
		}
		if err != nil {
			t.Error(err)
		}
	}
	at := func(off int64, b string) func(p string) error {
		return func(p string) error {
			f, err := os.OpenFile(p, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte(b), off)
			return err
		}
	}
	p := &watch{done: func(entries, _ int64) {
		if entries < 9 {
			return
		}
		once.Do(func() {
			change("content", at(1<<20+5, "!"))
			change("inline", at(0, "I"))
			change("mode", func(p string) error { return os.Chmod(p, 0o755) })
			change("short", func(p string) error { return os.Truncate(p, 4000) })
			change("zeros", at(700_000, "!"))
			change("gone", os.Remove)
			change("two-names", func(p string) error {
				if err := os.Remove(p); err != nil {
					return err
				}
				return os.WriteFile(p, []byte("one"), 0o644)
			})
		})
	}}
	res := bring(t, st, snap, dst, restore.Options{Verify: true, Progress: p})
	found := map[string][]string{}
	for _, m := range res.Mismatch {
		if m.What == "content" && (m.Want == m.Got || m.N == 0) {
			t.Errorf("%+v", m)
		}
		n := strings.TrimPrefix(m.Path, src)
		found[n] = append(found[n], m.What)
	}
	for n, w := range map[string]string{"/content": "content", "/inline": "content", "/mode": "mode", "/short": "size", "/zeros": "content",
		"/gone": "reading", "/two-names": "hard link"} {
		if !slices.Contains(found[n], w) {
			t.Errorf("%s: found %q, want %q", n, found[n], w)
		}
		delete(found, n)
	}
	delete(found, "") // its time changed
	if len(found) > 0 {
		t.Errorf("found too much: %v", found)
	}
}
