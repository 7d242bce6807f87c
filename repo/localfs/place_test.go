package localfs

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"packhold/repo/snapshot"
)

func destination(t *testing.T) (string, *DestDir) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := OpenParent(root, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		root.Close()
	})
	return dir, d
}

func TestRenameNew(t *testing.T) {
	dir, d := destination(t)
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.RenameNew("a", "new"); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("this system cannot rename without replacing")
	} else if err != nil {
		t.Fatal(err)
	}
	if err := d.RenameNew("b", "new"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "new")); string(b) != "a" {
		t.Errorf("the first one holds %q, %v", b, err)
	}
	for _, bad := range []string{"", "..", "a/b"} {
		if err := d.RenameNew("b", bad); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", bad, err)
		}
		if err := d.RenameNew(bad, "c"); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestLock(t *testing.T) {
	_, d := destination(t)
	f, err := d.CreateFile("f")
	if err != nil {
		t.Fatal(err)
	}
	other := func() bool {
		g, err := d.OpenRead("f")
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		ok, err := TryLock(g)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if ok, err := TryLock(f); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if other() {
		t.Error("locked twice")
	}
	again, err := Duplicate(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if runtime.GOOS != "windows" {
		if other() {
			t.Error("a duplicate does not hold the lock")
		}
		again.Close()
	}
	if !other() {
		t.Error("the lock outlives its file")
	}
	if err := d.Symlink("f", "l"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.OpenRead("l"); err == nil {
		t.Error("a link was followed")
	}
}

func TestZeros(t *testing.T) {
	_, d := destination(t)
	f, err := d.CreateFile("f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	full := bytes.Repeat([]byte{7}, 1<<20)
	if _, err := f.WriteAt(full, 0); err != nil {
		t.Fatal(err)
	}
	check := func(from, to int64, stored, zero bool) {
		t.Helper()
		s, z, err := Stored(context.Background(), f, from, to)
		if err != nil || s != stored && runtime.GOOS == "linux" || z != zero {
			t.Errorf("%d to %d: stored %v, zeros %v, %v", from, to, s, z, err)
		}
	}
	check(0, 1<<20, true, false)
	if err := Clear(f, 64<<10, 128<<10); err != nil {
		t.Fatal(err)
	}
	check(64<<10, 192<<10, false, true)
	check(64<<10, 192<<10+1, true, false)
	check(64<<10-1, 65<<10, true, false)
	check(2<<20, 3<<20, false, true)
	if _, err := f.WriteAt(make([]byte, 8192), 80<<10); err != nil {
		t.Fatal(err)
	}
	check(64<<10, 192<<10, true, true)
	want := bytes.Clone(full)
	clear(want[64<<10 : 192<<10])
	got := make([]byte, 1<<20)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the bytes around changed, %v", err)
	}
	if err := Reserve(f, 64<<10, 128<<10); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
	var n snapshot.Node
	if st, err := StatFile(f, &n); err != nil || n.Size != 1<<20 || n.Type != snapshot.File || runtime.GOOS == "linux" && st.Blocks*512 < 1<<20 {
		t.Errorf("%+v, %+v, %v", n, st, err)
	}
	for _, x := range []struct {
		b    []byte
		want int
	}{{nil, -1}, {make([]byte, 9000), -1}, {append(make([]byte, 8192), 1), 8192}, {append([]byte{1}, make([]byte, 9000)...), 0}} {
		if got := NotZero(x.b); got != x.want {
			t.Errorf("not zero at %d, want %d", got, x.want)
		}
	}
}

func TestZeroRun(t *testing.T) {
	one := []byte{1}
	z := func(n int) []byte { return make([]byte, n) }
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for i, x := range []struct {
		b    []byte
		off  int64
		n    int
		zero bool
	}{
		{one, 0, 1, false}, {z(4095), 0, 4095, false}, {z(4096), 0, 4096, true}, {z(4097), 0, 4096, true}, {z(4096), 1, 4096, false},
		{z(8192), 1, 4095, false}, {z(8191), 1, 4095, false}, {z(9000), 4096, 8192, true}, {cat(one, z(8191)), 0, 4096, false},
		{cat(z(4096), one), 1 << 40, 4096, true}, {cat(one, z(4095), one, z(4095), z(4096)), 0, 8192, false},
	} {
		if n, zero := ZeroRun(x.b, x.off); n != x.n || zero != x.zero {
			t.Errorf("%d: %d bytes, zeros %v; want %d, %v", i, n, zero, x.n, x.zero)
		}
	}
}

func TestWithin(t *testing.T) {
	dir := t.TempDir()
	keep, link := filepath.Join(dir, "keep"), filepath.Join(dir, "link")
	for _, d := range []string{keep, filepath.Join(dir, "keeper")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(keep, link); err != nil {
		t.Skip(err)
	}
	for path, want := range map[string]bool{keep: true, filepath.Join(keep, "not", "there"): true, link: true, filepath.Join(link, "x"): true,
		filepath.Join(dir, "keeper"): false, dir: false} {
		got, err := Within(path, []string{filepath.Join(dir, "none"), keep})
		if err != nil || (got != "") != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	if _, err := Within(filepath.Join(dir, "dangling", "x"), []string{keep}); err == nil {
		t.Error("a dangling link leads somewhere")
	}
}

// counted is a Handle that counts how often it is opened.
type counted struct {
	state       HandleState
	up          *counted
	opens, open int
}

func (c *counted) State() *HandleState { return &c.state }
func (c *counted) Shut() error         { c.open--; return nil }
func (c *counted) Reopen(o Opening) error {
	if c.up != nil {
		if err := o.Take(c.up); err != nil {
			return err
		}
		defer o.Give(c.up)
	}
	c.opens++
	c.open++
	return nil
}

func TestPool(t *testing.T) {
	p := NewPool(3)
	top := new(counted)
	var all []*counted
	for range 6 {
		all = append(all, &counted{up: top})
	}
	use := func(c *counted) {
		t.Helper()
		if err := p.Take(c); err != nil {
			t.Fatal(err)
		}
		if c.open != 1 {
			t.Errorf("in use and open %d times", c.open)
		}
	}
	for range 3 {
		for _, c := range all {
			use(c)
			p.Give(c)
		}
	}
	n := top.open
	for _, c := range all {
		n += c.open
	}
	if n > 4 || all[0].opens != 3 {
		t.Errorf("%d are open, the first was opened %d times", n, all[0].opens)
	}
	use(all[0])
	if err := p.Discard(all[0]); err != nil || all[0].open != 1 {
		t.Error("closed in use")
	}
	for _, c := range all[1:] {
		use(c) // more than the pool holds, as long as they are in use
	}
	for _, c := range all[1:] {
		p.Give(c)
	}
	p.Abandon(all[0])
	p.Close()
	for i, c := range append(all, top) {
		if c.open != 0 {
			t.Errorf("%d is open", i)
		}
	}
}
