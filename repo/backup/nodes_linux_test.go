package backup_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"packhold/backends/backendtest"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/snapshot"
)

// Everything a node can hold comes into the tree, also by the way of an incremental backup.
func TestNodes(t *testing.T) {
	for _, base := range []string{"/dev/shm", "/var/tmp"} {
		t.Run(base, func(t *testing.T) {
			src, err := os.MkdirTemp(base, "packhold-test")
			if err != nil {
				backendtest.Lacks(t, "%v", err)
			}
			defer os.RemoveAll(src)
			testNodes(t, src)
		})
	}
}

func testNodes(t *testing.T, src string) {
	in := func(name string) string { return filepath.Join(src, name) }
	names := []string{"new\nline", "\x1b[31m", "\xff\xfe", "-rf", "trailing ", " ", "é", "e\u0301", strings.Repeat("n", 255), "\\", "*", "C:"}
	for _, n := range names {
		write(t, in(n), []byte(n))
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(syscall.Mkfifo(in("fifo"), 0o640))
	must(os.Symlink("any \xff target\n", in("link")))
	write(t, in("h/one"), random(1, 9000))
	must(os.Link(in("h/one"), in("two")))
	must(os.Mkdir(in("emptydir"), 0o711))
	must(os.Chmod(in("two"), os.ModeSetuid|0o751))
	sparse(t, in("small-sparse"), 3)
	sparse(t, in("many-extents"), 1100)
	write(t, in("only-hole"), nil)
	must(os.Truncate(in("only-hole"), 5<<20))
	write(t, in("zeros"), make([]byte, 300_000))
	special := syscall.Mknod(in("null"), syscall.S_IFCHR|0o600, 1<<8|3) == nil
	var big []byte
	for _, size := range []int{60_000, 3000} { // ext4 holds less than a page
		if big = random(7, size); unix.Setxattr(in("two"), "user.big", big, 0) == nil {
			break
		}
		big = nil
	}
	st, c := newRepo(t)
	o := backup.Options{Sources: []string{src}, CacheDir: t.TempDir(), ATime: true}
	first := run(t, open(t, st, repo.Access{Credential: c}), o)
	if len(first.Skipped) > 0 {
		t.Errorf("skipped %v", first.Skipped)
	}
	o.ATime = false
	o.Type = snapshot.Full
	full := run(t, open(t, st, repo.Access{Credential: c}), o)
	o.Type = snapshot.Incremental
	again := run(t, open(t, st, repo.Access{Credential: c}), o)
	if again.Stats.Unmodified != again.Stats.Files {
		t.Errorf("again: %+v", again.Stats)
	}
	if at(t, st, again.Snapshot, src) != at(t, st, full.Snapshot, src) {
		t.Error("incremental and full differ")
	}
	_, d := getter(t, st)
	nodes := map[string]*snapshot.Node{}
	for e, err := range snapshot.Walk(t.Context(), d, again.Snapshot.Root, snapshot.WalkOptions{}) {
		must(err)
		if p, ok := strings.CutPrefix("/"+e.Path, src+"/"); ok {
			nodes[p] = e.Node.Clone()
		}
	}
	for _, n := range names {
		if nodes[n] == nil || nodes[n].Size != uint64(len(n)) || len(n) < 128 && string(nodes[n].Inline) != n {
			t.Errorf("%q: %+v", n, nodes[n])
		}
	}
	if n := nodes["fifo"]; n == nil || n.Type != snapshot.FIFO || n.Mode != 0o640 {
		t.Errorf("fifo: %+v", n)
	}
	if n := nodes["link"]; n == nil || n.Type != snapshot.Symlink || n.Target != "any \xff target\n" {
		t.Errorf("link: %+v", n)
	}
	if n := nodes["emptydir"]; n == nil || n.Type != snapshot.Dir || n.Mode != 0o711 {
		t.Errorf("emptydir: %+v", n)
	}
	one, two := nodes["h/one"], nodes["two"]
	if one.Inode != two.Inode || one.Device != two.Device || one.Links != 2 || two.Mode != 0o4751 || !slices.Equal(one.Extents, two.Extents) {
		t.Errorf("hard links: inodes %d and %d, devices %d and %d, %d links, mode %o", one.Inode, two.Inode, one.Device, two.Device, one.Links, two.Mode)
	}
	if special {
		if n := nodes["null"]; n == nil || n.Type != snapshot.CharDevice || n.Rdev != 1<<32|3 {
			t.Errorf("null: %+v", n)
		}
	}
	if big != nil {
		attrs, err := snapshot.XAttrs(t.Context(), d, one)
		must(err)
		if i := slices.IndexFunc(attrs, func(x snapshot.XAttr) bool { return x.Name == "user.big" }); i < 0 || !bytes.Equal(attrs[i].Value, big) {
			t.Errorf("%d attributes, the big one is missing or other", len(attrs))
		}
		if inBlob := one.XAttrBlob != (crypt.ID{}); inBlob != (len(big) > 4096) {
			t.Errorf("attributes of %d bytes in a blob: %v", len(big), inBlob)
		}
	}
	kinds := func(name string) (holes, zeros, data int) {
		for x, err := range snapshot.EachExtent(t.Context(), d, nodes[name]) {
			must(err)
			switch x.Kind {
			case snapshot.Hole:
				holes++
			case snapshot.Zeros:
				zeros++
			default:
				data++
			}
		}
		return
	}
	for name, want := range map[string][3]int{"small-sparse": {4, 0, 3}, "many-extents": {1101, 0, 1100}, "only-hole": {1, 0, 0}, "zeros": {0, 1, 1}} {
		h, z, n := kinds(name)
		if [3]int{h, z, n} != want {
			t.Errorf("%s: %d holes, %d zeros, %d data, want %v", name, h, z, n, want)
		}
	}
	if len(nodes["many-extents"].ExtentBlobs) == 0 {
		t.Error("many extents are not in blobs")
	}
	_, d2 := getter(t, st)
	for _, name := range []string{"small-sparse", "many-extents", "only-hole", "zeros"} {
		if !bytes.Equal(content(t, d2, nodes[name]), read(t, in(name))) {
			t.Errorf("%s differs", name)
		}
	}
}

func TestOneFileSystem(t *testing.T) {
	a, err := os.Stat("/dev")
	b, err2 := os.Stat("/dev/shm")
	if err != nil || err2 != nil || a.Sys().(*syscall.Stat_t).Dev == b.Sys().(*syscall.Stat_t).Dev {
		backendtest.Lacks(t, "/dev/shm is no file system of its own")
	}
	x, err := backup.NewExcludes([]string{"/dev/*", "!/dev/shm", "!/dev/null"})
	if err != nil {
		t.Fatal(err)
	}
	if got := saved(t, backup.Options{Sources: []string{"/dev"}, OneFileSystem: true, Exclude: x}, "/dev"); !slices.Equal(got, []string{"null", "shm/"}) {
		t.Errorf("saved %q", got)
	}
}
