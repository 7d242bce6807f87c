package restore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/repo/localfs"
	"packhold/repo/restore"
	"packhold/repo/snapshot"
)

// edit changes a file and sets its modification time back.
func edit(t *testing.T, path string, f func(f *os.File) error) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	must(t, f(file))
	must(t, file.Close())
	must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	d, err := localfs.OpenDir(filepath.Dir(path))
	must(t, err)
	defer d.Close()
	var n snapshot.Node
	_, err = d.Stat(filepath.Base(path), &n)
	must(t, err)
	return n.Inode
}

// holes lists the stored stretches of a file.
func stretches(t *testing.T, path string) (out []string) {
	t.Helper()
	d, err := localfs.OpenDir(filepath.Dir(path))
	must(t, err)
	defer d.Close()
	f, err := d.OpenFile(filepath.Base(path))
	must(t, err)
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	for at := int64(0); ; {
		from, to, err := f.NextData(at, size)
		must(t, err)
		if from == to {
			return out
		}
		out = append(out, fmt.Sprint(from, "-", to))
		at = to
	}
}

// blocky makes a source of one file of each form: many blobs, holes, zeros, one blob, inline, empty.
func blocky(t *testing.T) string {
	src := filepath.Join(t.TempDir(), "source")
	write(t, src+"/large", random(1, 6<<20))
	write(t, src+"/small", random(2, 20_000))
	write(t, src+"/inline", []byte("some bytes"))
	write(t, src+"/empty", nil)
	write(t, src+"/zeros", slices.Concat(random(3, 1<<20), make([]byte, 2<<20), random(4, 1<<20)))
	f, err := os.Create(src + "/sparse")
	must(t, err)
	_, err = f.WriteAt(random(5, 2<<20), 4<<20)
	must(t, err)
	_, err = f.WriteAt(random(6, 1<<20), 16<<20)
	must(t, err)
	must(t, f.Truncate(24<<20))
	must(t, f.Close())
	for i, n := range []string{"large", "small", "inline", "empty", "zeros", "sparse"} {
		at := time.Unix(1_400_000_000+int64(i), 5)
		must(t, os.Chtimes(src+"/"+n, at, at))
	}
	at := time.Unix(1_400_000_000, 0)
	must(t, os.Chtimes(src, at, at))
	return src
}

// TestInPlace changes restored files in every way, and wants the files themselves to be put right, by little.
func TestInPlace(t *testing.T) {
	st, c := newRepo(t)
	src := blocky(t)
	snap := take(t, st, c, src)
	want := scan(t, src)
	for name, x := range map[string]struct {
		file             string
		change           func(f *os.File) error
		fetched, written uint64 // at most
	}{
		"equal":        {"large", func(*os.File) error { return nil }, 0, 0},
		"equal sparse": {"sparse", func(*os.File) error { return nil }, 0, 0},
		"equal zeros":  {"zeros", func(*os.File) error { return nil }, 0, 0},
		"one byte":     {"large", func(f *os.File) error { _, err := f.WriteAt([]byte("!"), 5<<20); return err }, 2 << 20, 2 << 20},
		"first and last": {"large", func(f *os.File) error {
			f.WriteAt([]byte("!"), 0)
			_, err := f.WriteAt([]byte("!"), 6<<20-1)
			return err
		}, 4 << 20, 4 << 20},
		"shrunk":          {"large", func(f *os.File) error { return f.Truncate(4 << 20) }, 5 << 20, 4 << 20},
		"grown":           {"large", func(f *os.File) error { return f.Truncate(9 << 20) }, 0, 0},
		"emptied":         {"large", func(f *os.File) error { return f.Truncate(0) }, 8 << 20, 6 << 20},
		"data in a hole":  {"sparse", func(f *os.File) error { _, err := f.WriteAt(random(9, 3<<20), 8<<20); return err }, 0, 0},
		"zeros in a hole": {"sparse", func(f *os.File) error { _, err := f.WriteAt(make([]byte, 1<<20), 8<<20); return err }, 0, 0},
		"hole in data":    {"sparse", func(f *os.File) error { return localfs.Clear(f, 4<<20, 1<<20) }, 3 << 20, 2 << 20},
		"data in zeros":   {"zeros", func(f *os.File) error { _, err := f.WriteAt(random(9, 1<<20), 3<<19); return err }, 0, 0},
		"short sparse":    {"sparse", func(f *os.File) error { return f.Truncate(1 << 20) }, 4 << 20, 3 << 20},
		"small":           {"small", func(f *os.File) error { _, err := f.WriteAt([]byte("!"), 5); return err }, 1 << 20, 20_000},
		"small longer":    {"small", func(f *os.File) error { return f.Truncate(20_001) }, 0, 0},
		"inline":          {"inline", func(f *os.File) error { _, err := f.WriteAt([]byte("!"), 5); return err }, 0, 10},
		"inline longer":   {"inline", func(f *os.File) error { _, err := f.WriteAt([]byte("!"), 50); return err }, 0, 0},
		"not empty":       {"empty", func(f *os.File) error { _, err := f.WriteAt([]byte("!"), 50); return err }, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dst := filepath.Join(t.TempDir(), "d")
			clean(t, bring(t, st, snap, dst, restore.Options{}))
			same(t, scan(t, dst), want)
			edit(t, dst+"/"+x.file, x.change)
			inode := inodeOf(t, dst+"/"+x.file)
			dry := bring(t, st, snap, dst, restore.Options{InPlace: true, DryRun: true})
			const pages = 64 << 10 // of the tree
			res := bring(t, st, snap, dst, restore.Options{InPlace: true, Verify: true})
			clean(t, res)
			same(t, scan(t, dst), want)
			if got := inodeOf(t, dst+"/"+x.file); got != inode {
				t.Errorf("the file was replaced")
			}
			if res.Fetched > x.fetched+pages || x.fetched == 0 && res.Blobs > 0 || res.Written > x.written || res.Fetched != dry.Fetched || res.Written != dry.Written || res.Reused != dry.Reused {
				t.Errorf("fetched %d, written %d, reused %d; at most %d and %d; the dry run said %d, %d, %d", res.Fetched, res.Written, res.Reused,
					x.fetched, x.written, dry.Fetched, dry.Written, dry.Reused)
			}
			if res.Files > 1 || res.Kept < 5 {
				t.Errorf("%d files changed, %d kept", res.Files, res.Kept)
			}
			if runtime.GOOS == "linux" && x.file != "zeros" {
				if got, want := stretches(t, dst+"/"+x.file), stretches(t, src+"/"+x.file); !slices.Equal(got, want) {
					t.Errorf("stored %v, want %v", got, want)
				}
			}
		})
	}
}

// TestInPlaceRefuses is about files that must not be changed under their own names: they are replaced.
func TestInPlaceRefuses(t *testing.T) {
	st, c := newRepo(t)
	src := blocky(t)
	snap := take(t, st, c, src)
	want := scan(t, src)
	out := t.TempDir()
	dst := filepath.Join(out, "d")
	clean(t, bring(t, st, snap, dst, restore.Options{}))
	edit(t, dst+"/large", func(f *os.File) error { _, err := f.WriteAt([]byte("!"), 5<<20); return err })
	must(t, os.Link(dst+"/large", out+"/precious"))
	before, err := os.ReadFile(out + "/precious")
	must(t, err)
	if os.Geteuid() == 0 {
		edit(t, dst+"/small", func(f *os.File) error { _, err := f.WriteAt([]byte("!"), 5); return err })
		must(t, os.Chown(dst+"/small", 12345, 12345))
	}
	theirs := inodeOf(t, dst+"/small")
	clean(t, bring(t, st, snap, dst, restore.Options{InPlace: true, Verify: true}))
	same(t, scan(t, dst), want)
	if after, err := os.ReadFile(out + "/precious"); err != nil || !bytes.Equal(after, before) {
		t.Error("another name of a file, outside the destination, was written through")
	}
	if os.Geteuid() == 0 && inodeOf(t, dst+"/small") == theirs {
		t.Error("secrets went into a file that somebody else owns")
	}
}

// TestInPlaceAgain restores everything twice: the second time there is nothing to do, for files with several names either.
func TestInPlaceAgain(t *testing.T) {
	st, c := newRepo(t)
	src := varied(t)
	snap := take(t, st, c, src)
	dst := filepath.Join(t.TempDir(), "d")
	for i := range 2 {
		res := bring(t, st, snap, dst, restore.Options{InPlace: true, Verify: true})
		clean(t, res)
		same(t, scan(t, dst), scan(t, src))
		if i > 0 && (res.Blobs > 0 || res.Written > 0 || res.Files > 0) {
			t.Errorf("again: %+v", res)
		}
	}
}

// TestInPlaceStopped stops a restore in place in the middle: the file can be told from a complete one, others may not read it, and the next run completes it.
func TestInPlaceStopped(t *testing.T) {
	st, c := newRepo(t)
	src := blocky(t)
	snap := take(t, st, c, src)
	dst := filepath.Join(t.TempDir(), "d")
	clean(t, bring(t, st, snap, dst, restore.Options{}))
	edit(t, dst+"/large", func(f *os.File) error { _, err := f.WriteAt(random(77, 6<<20), 0); return err })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := &watch{done: func(_, n int64) {
		if n > 1<<20 {
			cancel()
		}
	}}
	o := restore.Options{InPlace: true, Progress: p, Workers: 1, Include: func(p string, _ bool) bool { return strings.HasSuffix(p, "/large") }}
	restore.SmallWindows(&o)
	res, err := restore.Run(ctx, reader(t, st), snap, dst, o)
	if !errors.Is(err, context.Canceled) || res.Written == 0 || res.Written >= 6<<20 {
		t.Fatalf("%v, written %d", err, res.Written)
	}
	info, err := os.Stat(dst + "/large")
	must(t, err)
	was, err := os.Stat(src + "/large")
	must(t, err)
	if runtime.GOOS != "windows" && info.Mode() != 0o600 || info.ModTime().Equal(was.ModTime()) {
		t.Errorf("a half-changed file has mode %v and time %v", info.Mode(), info.ModTime())
	}
	res = bring(t, st, snap, dst, restore.Options{InPlace: true, Verify: true, Overwrite: restore.IfChanged})
	clean(t, res)
	same(t, scan(t, dst), scan(t, src))
	if res.Reused < 1<<20 {
		t.Errorf("only %d bytes were found", res.Reused)
	}
}

// TestCompared is the default over a restored tree: what is equal is not fetched, and what differs though size and time are equal is restored.
func TestCompared(t *testing.T) {
	st, c := newRepo(t)
	src := varied(t)
	snap := take(t, st, c, src)
	want := scan(t, src)
	dst := filepath.Join(t.TempDir(), "d")
	clean(t, bring(t, st, snap, dst, restore.Options{}))
	dry := bring(t, st, snap, dst, restore.Options{DryRun: true})
	res := bring(t, st, snap, dst, restore.Options{})
	clean(t, res)
	pages := res.Fetched
	if res.Written != 0 || res.Blobs != 0 || res.Reused < 3<<20 || dry.Fetched != res.Fetched || dry.Reused != res.Reused || dry.Kept != res.Kept {
		t.Errorf("again: %+v\ndry: %+v", res, dry)
	}
	for _, name := range []string{"mixed", "small", "inline", "zeros", "sparse", "deep/er/and/deeper/large", "many/07", "read-only"} {
		edit(t, dst+"/"+name, func(f *os.File) error {
			info, err := f.Stat()
			if err == nil {
				_, err = f.WriteAt([]byte{'!'}, info.Size()/2)
			}
			return err
		})
	}
	dry = bring(t, st, snap, dst, restore.Options{DryRun: true})
	res = bring(t, st, snap, dst, restore.Options{Verify: true})
	clean(t, res)
	same(t, scan(t, dst), want)
	if res.Files != 8 || res.Fetched <= pages || dry.Fetched != res.Fetched || dry.Written != res.Written || dry.Files != res.Files {
		t.Errorf("changed: %+v\ndry: %+v", res, dry)
	}
}

// TestLeftovers restores over the temporary files of other runs.
func TestLeftovers(t *testing.T) {
	st, c := newRepo(t)
	src := blocky(t)
	snap := take(t, st, c, src)
	want := scan(t, src)
	large, err := os.ReadFile(src + "/large")
	must(t, err)
	for name, x := range map[string]struct {
		prepare func(t *testing.T, path string)
		reused  uint64 // at least
		stays   bool
		dir     bool
	}{
		"half":     {func(t *testing.T, p string) { write(t, p, append(large[:3<<20:3<<20], make([]byte, 3<<20)...)) }, 1 << 20, false, false},
		"complete": {func(t *testing.T, p string) { write(t, p, large) }, 6 << 20, false, false},
		"longer":   {func(t *testing.T, p string) { write(t, p, append(large[:6<<20:6<<20], 1, 2, 3)) }, 6 << 20, false, false},
		"short":    {func(t *testing.T, p string) { write(t, p, large[:3<<20]) }, 1 << 20, false, false},
		"nothing":  {func(t *testing.T, p string) { write(t, p, nil) }, 0, false, false},
		"wrong":    {func(t *testing.T, p string) { write(t, p, random(66, 6<<20)) }, 0, false, false},
		"open to others": {func(t *testing.T, p string) {
			write(t, p, large)
			must(t, os.Chmod(p, 0o644))
		}, 0, false, false},
		"linked": {func(t *testing.T, p string) {
			write(t, p, large)
			must(t, os.Link(p, filepath.Join(filepath.Dir(filepath.Dir(p)), "precious")))
		}, 0, false, false},
		"link": {func(t *testing.T, p string) {
			write(t, filepath.Join(filepath.Dir(filepath.Dir(p)), "precious"), large)
			must(t, os.Symlink("../precious", p))
		}, 0, false, false},
		"busy": {func(t *testing.T, p string) {
			write(t, p, large)
			f, err := os.Open(p)
			must(t, err)
			t.Cleanup(func() { f.Close() })
			if ok, err := localfs.TryLock(f); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}, 0, true, false},
		"directory": {func(t *testing.T, p string) { must(t, os.MkdirAll(p, 0o700)) }, 0, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			dst := filepath.Join(out, "d")
			must(t, os.Mkdir(dst, 0o755))
			left := filepath.Join(dst, restore.Leftover("large"))
			if x.prepare(t, left); !x.dir && name != "open to others" && name != "link" {
				must(t, os.Chmod(left, 0o600))
			}
			small := filepath.Join(dst, restore.Leftover("gone"))
			write(t, small, []byte("what a small file was to be"))
			res := bring(t, st, snap, dst, restore.Options{Verify: true})
			clean(t, res)
			_, err := os.Lstat(left)
			if x.stays != (err == nil) {
				t.Errorf("the leftover: %v", err)
			}
			if _, err := os.Lstat(small); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the small leftover: %v", err)
			}
			got := scan(t, dst)
			delete(got, filepath.Base(left))
			same(t, got, want)
			if res.Reused < x.reused || x.reused == 0 && res.Reused > 0 || res.Leftovers < 1 {
				t.Errorf("reused %d bytes, want %d; %d leftovers", res.Reused, x.reused, res.Leftovers)
			}
			if b, err := os.ReadFile(out + "/precious"); err == nil && !bytes.Equal(b, large) {
				t.Error("a file outside was changed")
			}
		})
	}
}

// TestTwoAtOnce restores the same snapshot several times into one directory at the same time.
func TestTwoAtOnce(t *testing.T) {
	st, c := newRepo(t)
	src := varied(t)
	snap := take(t, st, c, src)
	r := reader(t, st)
	for range 4 {
		dst := filepath.Join(t.TempDir(), "d")
		must(t, os.Mkdir(dst, 0o755))
		done := make(chan error)
		for range 3 {
			go func() {
				_, err := restore.Run(context.Background(), r, snap, dst, restore.Options{Workers: 2})
				done <- err
			}()
		}
		for range 3 {
			must(t, <-done)
		}
		// Each may have left to the others what they were making; whatever has its name is whole, and one more run completes it all.
		want := scan(t, src)
		for p, s := range scan(t, dst) {
			if w, ok := want[p]; ok && s.node.Type == snapshot.File && s.data != w.data {
				t.Errorf("%q is half written", p)
			}
		}
		clean(t, bring(t, st, snap, dst, restore.Options{Verify: true}))
		got := scan(t, dst)
		same(t, got, want)
	}
}

// TestSparse is about the room that zeros take.
func TestSparse(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("holes are kept on Linux")
	}
	st, c := newRepo(t)
	src := t.TempDir()
	write(t, src+"/zeros", slices.Concat(random(3, 1<<20), make([]byte, 2<<20), random(4, 1<<20)))
	write(t, src+"/inside", slices.Concat(random(5, 10_000), make([]byte, 30_000), random(6, 10_000))) // too short a run for an extent
	write(t, src+"/all", make([]byte, 3<<20))
	f, err := os.Create(src + "/hole")
	must(t, err)
	must(t, f.Truncate(3<<20))
	must(t, f.Close())
	snap := take(t, st, c, src)
	blocks := func(dir, name string) uint64 {
		d, err := localfs.OpenDir(dir)
		must(t, err)
		defer d.Close()
		var n snapshot.Node
		st, err := d.Stat(name, &n)
		must(t, err)
		return st.Blocks * 512
	}
	plain, sparse := filepath.Join(t.TempDir(), "p"), filepath.Join(t.TempDir(), "s")
	clean(t, bring(t, st, snap, plain, restore.Options{Verify: true}))
	clean(t, bring(t, st, snap, sparse, restore.Options{Verify: true, Sparse: true}))
	same(t, scan(t, plain), scan(t, src))
	same(t, scan(t, sparse), scan(t, src))
	for name, want := range map[string][2]uint64{"zeros": {4 << 20, 2 << 20}, "inside": {50_000, 30_000}, "all": {3 << 20, 0}, "hole": {0, 0}} {
		if got := blocks(plain, name); got < want[0] || got > want[0]+want[0]/4 {
			t.Errorf("%s takes %d bytes, want %d", name, got, want[0])
		}
		if got := blocks(sparse, name); got > want[1]+8192 {
			t.Errorf("%s takes %d bytes sparsely, want %d", name, got, want[1])
		}
	}
	// In place over files that are all stored.
	for _, n := range []string{"zeros", "inside", "all", "hole"} {
		edit(t, plain+"/"+n, func(f *os.File) error {
			info, err := f.Stat()
			if err == nil {
				_, err = f.WriteAt(bytes.Repeat([]byte{1}, int(info.Size())), 0)
			}
			return err
		})
	}
	clean(t, bring(t, st, snap, plain, restore.Options{Verify: true, Sparse: true, InPlace: true}))
	same(t, scan(t, plain), scan(t, src))
	for _, n := range []string{"zeros", "inside", "all", "hole"} {
		if got, want := blocks(plain, n), blocks(sparse, n); got > want+8192 {
			t.Errorf("%s takes %d bytes sparsely in place, want %d", n, got, want)
		}
	}
}

// TestDelete is about what may go, and what must stay.
func TestDelete(t *testing.T) {
	st, c := newRepo(t)
	src := t.TempDir()
	for _, p := range []string{"a/x", "a/y", "b/deep/z", "c/only", "top"} {
		write(t, filepath.Join(src, p), []byte(p))
	}
	snap := take(t, st, c, src)
	want := scan(t, src)
	extras := []string{"extra", "a/extra", "a/dir/one", "a/dir/two/three", "b/deep/extra.log", "b/deep/keep.log", "c/extra", "zz/z"}
	suffix := func(list ...string) restore.Match {
		return func(p string, _ bool) bool {
			return slices.ContainsFunc(list, func(s string) bool { return strings.HasSuffix(p, s) })
		}
	}
	prepare := func(t *testing.T) (out, dst string) {
		out = t.TempDir()
		dst = filepath.Join(out, "d")
		clean(t, bring(t, st, snap, dst, restore.Options{}))
		for _, p := range extras {
			write(t, filepath.Join(dst, p), []byte("extra"))
		}
		write(t, out+"/outside/precious", []byte("precious"))
		must(t, os.Symlink("../outside", dst+"/a/link"))
		must(t, os.Symlink("../outside", dst+"/outlink"))
		return out, dst
	}
	all := append([]string{"a/dir", "a/dir/two", "a/link", "outlink", "zz"}, extras...)
	for name, x := range map[string]struct {
		o    restore.Options
		stay []string
	}{
		"all":         {restore.Options{}, nil},
		"place":       {restore.Options{InPlace: true}, nil},
		"never":       {restore.Options{Overwrite: restore.Never}, nil},
		"exclude":     {restore.Options{Exclude: suffix(".log", "/two", "/zz")}, []string{"b/deep/extra.log", "b/deep/keep.log", "a/dir", "a/dir/two", "a/dir/two/three", "zz", "zz/z"}},
		"keep":        {restore.Options{Keep: suffix("keep.log", "/three")}, []string{"b/deep/keep.log", "a/dir", "a/dir/two", "a/dir/two/three"}},
		"include dir": {restore.Options{Include: suffix("/a")}, []string{"extra", "outlink", "b/deep/extra.log", "b/deep/keep.log", "c/extra", "zz", "zz/z"}},
		"include names": {restore.Options{Include: suffix("extra.log", "/z")}, []string{"extra", "outlink", "a/extra", "a/dir", "a/dir/one", "a/dir/two",
			"a/dir/two/three", "a/link", "b/deep/keep.log", "c/extra", "zz", "zz/z"}},
		"forbidden": {restore.Options{Forbidden: []string{"a/dir/two"}}, []string{"a/dir", "a/dir/two", "a/dir/two/three"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, dst := prepare(t)
			for i, f := range x.o.Forbidden {
				x.o.Forbidden[i] = filepath.Join(dst, f)
			}
			before := scan(t, out)
			var told []string
			x.o.Delete, x.o.DryRun = true, true
			x.o.Progress = &watch{done: func(int64, int64) {}, deleted: func(p string) { told = append(told, strings.TrimPrefix(p, src+"/")) }}
			dry := bring(t, st, snap, dst, x.o)
			same(t, scan(t, out), before)
			x.o.DryRun = false
			listed := slices.Sorted(slices.Values(told))
			told = nil
			res := bring(t, st, snap, dst, x.o)
			clean(t, res)
			if slices.Sort(told); res.Deleted != dry.Deleted || !slices.Equal(told, listed) {
				t.Errorf("deleted %q, the dry run said %q", told, listed)
			}
			var gone []string
			got := scan(t, dst)
			for _, p := range all {
				_, ok := got[p]
				if ok != slices.Contains(x.stay, p) {
					t.Errorf("%s: there is %v", p, ok)
				}
				if !ok {
					gone = append(gone, p)
				}
			}
			if slices.Sort(gone); !slices.Equal(gone, told) {
				t.Errorf("gone %q, told %q", gone, told)
			}
			for p := range want {
				if _, ok := got[p]; !ok {
					t.Errorf("%s of the snapshot is gone", p)
				}
			}
			if b, err := os.ReadFile(out + "/outside/precious"); string(b) != "precious" {
				t.Error("outside:", err)
			}
		})
	}
	t.Run("lost listing", func(t *testing.T) {
		_, dst := prepare(t)
		bad := st.Clone()
		for name := range dataPacks(t, bad, "meta/") {
			must(t, bad.Delete(t.Context(), name))
		}
		before := scan(t, dst)
		if res, err := restore.Run(t.Context(), reader(t, bad), snap, dst, restore.Options{Delete: true, FullPath: true}); err == nil && res.LostCount == 0 {
			t.Errorf("%+v, %v", res, err)
		}
		same(t, scan(t, dst), before)
	})
	t.Run("above the source", func(t *testing.T) {
		dst := t.TempDir()
		write(t, dst+"/system/file", []byte("x"))
		write(t, filepath.Join(dst, filepath.Dir(src), "neighbour"), []byte("x"))
		write(t, filepath.Join(dst, src, "extra"), []byte("x"))
		res := bring(t, st, snap, dst, restore.Options{Delete: true, FullPath: true})
		clean(t, res)
		for p, want := range map[string]bool{"/system/file": true, filepath.Dir(src) + "/neighbour": true, src + "/extra": false, src + "/top": true} {
			if _, err := os.Lstat(dst + p); (err == nil) != want {
				t.Errorf("%s: %v", p, err)
			}
		}
		if res.Deleted != 1 {
			t.Errorf("%d deleted", res.Deleted)
		}
	})
}

// TestCollision makes a name appear between planning and publishing, as a file system does that takes two names for one.
func TestCollision(t *testing.T) {
	st, c := newRepo(t)
	src := t.TempDir()
	write(t, src+"/a", random(1, 3000))
	write(t, src+"/file", random(2, 3000))
	write(t, src+"/large", random(3, 3<<20))
	write(t, src+"/zdir/x", []byte("x"))
	write(t, src+"/zlink-first", []byte("l"))
	must(t, os.Link(src+"/zlink-first", src+"/zlink-second"))
	must(t, os.Symlink("a", src+"/symlink"))
	snap := take(t, st, c, src)
	hits := 0
	for _, fresh := range []bool{true, false} {
		for _, name := range []string{"file", "large", "symlink", "zlink-second", "zdir"} {
			dst := filepath.Join(t.TempDir(), "d")
			if !fresh {
				must(t, os.Mkdir(dst, 0o755))
			}
			var once atomic.Bool
			p := &watch{done: func(int64, int64) {
				if once.CompareAndSwap(false, true) {
					_ = os.WriteFile(dst+"/"+name, []byte("first"), 0o600) // it may be there: then this round shows nothing
				}
			}}
			o := restore.Options{Progress: p, Workers: 1}
			restore.SmallWindows(&o)
			res := bring(t, st, snap, dst, o)
			b, _ := os.ReadFile(dst + "/" + name)
			if string(b) != "first" {
				continue
			}
			hits++
			if res.ProblemCount != 1 || !strings.HasSuffix(res.Problems[0].Path, name) || res.UnsafeCount+res.LostCount > 0 {
				t.Errorf("fresh %v, %s: %+v", fresh, name, res)
			}
		}
	}
	if hits < 6 {
		t.Errorf("only %d names were taken in time", hits)
	}
}

// counting counts the reads of a storage.
type counting struct {
	backends.Storage
	reads, bytes atomic.Int64
}

func (c *counting) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	b, err := c.Storage.Get(ctx, name, off, n)
	c.reads.Add(1)
	c.bytes.Add(int64(len(b)))
	return b, err
}

// TestSubtree restores little of a large tree, and wants little to be read.
func TestSubtree(t *testing.T) {
	st, c := newRepo(t)
	src := t.TempDir()
	for i := range 400 { // names that pages cannot share
		for j := range 8 {
			write(t, fmt.Sprintf("%s/usr/d%03d/%x", src, i, random(uint64(i*8+j), 100)), []byte("x"))
		}
	}
	write(t, src+"/etc/nginx/conf", []byte("conf"))
	write(t, src+"/etc/nginx/sites/one", random(1, 5000))
	write(t, src+"/etc/other/x", []byte("x"))
	snap := take(t, st, c, src)
	within := func(prefix string) (restore.Match, func(string) bool) {
		return func(p string, _ bool) bool { return p == prefix }, func(d string) bool { return strings.HasPrefix(prefix+"/", d+"/") }
	}
	count := func(o restore.Options) (reads, bytes int64, res *restore.Result) {
		s := &counting{Storage: st}
		r := reader(t, s)
		reads, bytes = s.reads.Load(), s.bytes.Load()
		dst := filepath.Join(t.TempDir(), "d")
		res, err := restore.Run(t.Context(), r, snap, dst, o)
		must(t, err)
		clean(t, res)
		return s.reads.Load() - reads, s.bytes.Load() - bytes, res
	}
	whole, wholeBytes, _ := count(restore.Options{})
	in, descend := within(src + "/etc/nginx")
	some, someBytes, res := count(restore.Options{Include: in, Descend: descend})
	if res.Files != 2 || some > 8 || someBytes*3 > wholeBytes {
		t.Errorf("%d reads of %d bytes for a subtree of %d files, %d of %d for all", some, someBytes, res.Files, whole, wholeBytes)
	}
	s := &counting{Storage: st}
	r := reader(t, s)
	before := s.reads.Load()
	dst := filepath.Join(t.TempDir(), "d")
	res, err := restore.Run(t.Context(), r, snap, dst, restore.Options{Path: src + "/etc/nginx", Verify: true})
	must(t, err)
	clean(t, res)
	if got := paths(scan(t, dst)); !slices.Equal(got, []string{"", "conf", "sites", "sites/one"}) || s.reads.Load()-before > 10 {
		t.Errorf("%q with %d reads", got, s.reads.Load()-before)
	}
	one := filepath.Join(t.TempDir(), "d")
	clean(t, bring(t, st, snap, one, restore.Options{Path: src + "/etc/nginx/conf"}))
	if got := paths(scan(t, one)); !slices.Equal(got, []string{"", "conf"}) {
		t.Errorf("one file: %q", got)
	}
	if _, err := restore.Run(t.Context(), r, snap, t.TempDir()+"/none", restore.Options{Path: src + "/etc/apache"}); !errors.Is(err, restore.ErrNoPath) {
		t.Error(err)
	}
}

// TestOwner restores with an owner for everything.
func TestOwner(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("owners have no numbers there")
	}
	if os.Geteuid() != 0 {
		backendtest.Lacks(t, "only root gives files away")
	}
	st, c := newRepo(t)
	src := varied(t)
	snap := take(t, st, c, src)
	for _, place := range []bool{false, true} {
		dst := filepath.Join(t.TempDir(), "d")
		o := restore.Options{Verify: true, InPlace: place, Owner: func(n *snapshot.Node) (uint32, uint32) { return n.UID + 41, n.GID + 42 }}
		clean(t, bring(t, st, snap, dst, o))
		clean(t, bring(t, st, snap, dst, o))
		want := scan(t, src)
		for p, s := range want {
			s.node.UID, s.node.GID = s.node.UID+41, s.node.GID+42
			want[p] = s
		}
		same(t, scan(t, dst), want)
	}
}
