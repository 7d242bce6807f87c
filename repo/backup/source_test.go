package backup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"packhold/backends/mem"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/format"
	"packhold/repo/repotest"
	"packhold/repo/snapshot"
)

// paths lists all entries of a snapshot below dir, directories with a slash at the end.
func paths(t *testing.T, s *repo.Reader, snap *repo.Snapshot, dir string) []string {
	t.Helper()
	var out []string
	for e, err := range snapshot.Walk(t.Context(), s, snap.Root, snapshot.WalkOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		p, ok := strings.CutPrefix("/"+e.Path, dir+"/")
		if e.Node == nil || !ok {
			continue
		}
		if e.Node.Type == snapshot.Dir {
			p += "/"
		}
		out = append(out, p)
	}
	return out
}

// saved backs o up and lists what is below dir.
func saved(t *testing.T, o backup.Options, dir string) []string {
	t.Helper()
	st, c := shared(t)
	res := run(t, open(t, st, repo.Access{Credential: c}), o)
	_, d := getter(t, st)
	return paths(t, d, res.Snapshot, dir)
}

// shared returns a repository that the tests of one binary share, where what it holds already is of no matter.
func shared(t *testing.T) (*mem.Store, *crypt.Credential) {
	t.Helper()
	m, err := common()
	if err != nil {
		t.Fatal(err)
	}
	return m.store, m.c
}

type filled struct {
	store *mem.Store
	c     *crypt.Credential
}

var common = sync.OnceValues(func() (filled, error) {
	m := filled{store: mem.New(time.Now)}
	var err error
	m.c, err = repotest.Copy(context.Background(), m.store, repotest.Options{PackSize: format.MinPackSize})
	return m, err
})

func TestExclude(t *testing.T) {
	src := t.TempDir()
	for _, f := range []string{"a.o", "b.c", "build/tmp/x", "build/y", "deep/build/tmp/z", "cache/f", "sub/cache", "keep/one", "keep/two", "\xff.o", "log/1/log", "sp ace"} {
		write(t, filepath.Join(src, f), []byte("x"))
	}
	all := saved(t, backup.Options{Sources: []string{src}}, src)
	for _, test := range []struct {
		patterns string
		gone     string
	}{
		{"*.o", "a.o \xff.o"},
		{"build/tmp", "build/tmp/ build/tmp/x deep/build/tmp/ deep/build/tmp/z"},
		{"./build//tmp/", "build/tmp/ build/tmp/x deep/build/tmp/ deep/build/tmp/z"},
		{"cache/", "cache/ cache/f"},
		{"cache", "cache/ cache/f sub/cache"},
		{src + "/keep/*|!one", "keep/two"},
		{src + "/keep|!one", "keep/ keep/one keep/two"},
		{"{a,b}.[a-z]", "a.o b.c"},
		{"?.c", "b.c"},
		{src + "/**/tmp", "build/tmp/ build/tmp/x deep/build/tmp/ deep/build/tmp/z"},
		{src + "/*/tmp", "build/tmp/ build/tmp/x"},
		{"log", "log/ log/1/ log/1/log"},
		{"1/*", "log/1/log"},
		{"!a.o|a.o", "a.o"},
		{"a.o|!a.o|a.o", "a.o"},
		{"*.o|!*.o", ""},
		{"sp ace", "sp\x00ace"},
		{filepath.Base(src), ""}, // a source is never left out
		{src, ""},
		{"**", strings.Join(all, " ")},
	} {
		x, err := backup.NewExcludes(strings.Split(test.patterns, "|"))
		if err != nil {
			t.Errorf("%q: %v", test.patterns, err)
			continue
		}
		got := saved(t, backup.Options{Sources: []string{src}, Exclude: x}, src)
		var gone []string
		for _, p := range all {
			if !slices.Contains(got, p) {
				gone = append(gone, strings.ReplaceAll(p, " ", "\x00"))
			}
		}
		if strings.Join(gone, " ") != strings.ReplaceAll(test.gone, "sp ace", "sp\x00ace") {
			t.Errorf("%q left out %q, want %q", test.patterns, gone, test.gone)
		}
	}
	for _, bad := range []string{"", "!", "/", "//", ".", "!/", "[a", "{a", "a/../../b", "..", "a\x00", `a\`} {
		if _, err := backup.NewExcludes([]string{"ok", bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestLeftOut(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "c/CACHEDIR.TAG"), []byte("Signature: 8a477f597d28d172789f06886806bc55\nmore"))
	write(t, filepath.Join(src, "c/big"), random(1, 5000))
	write(t, filepath.Join(src, "d/CACHEDIR.TAG"), []byte("Signature: other"))
	write(t, filepath.Join(src, "d/f"), random(2, 1001))
	write(t, filepath.Join(src, "g"), random(2, 1000))
	write(t, filepath.Join(src, "repo/packs/p"), random(2, 100))
	if err := os.Symlink(filepath.Join(src, "repo"), filepath.Join(src, "l")); err != nil {
		t.Fatal(err)
	}
	got := saved(t, backup.Options{Sources: []string{src}, ExcludeCaches: true, LargerThan: 1000, Avoid: []string{filepath.Join(src, "l"), "/does/not/exist"}}, src)
	if want := []string{"c/", "c/CACHEDIR.TAG", "d/", "d/CACHEDIR.TAG", "g", "l", "repo/"}; !slices.Equal(got, want) {
		t.Errorf("saved %q, want %q", got, want)
	}
	// A file that is itself a source is never too large.
	if got := saved(t, backup.Options{Sources: []string{filepath.Join(src, "d/f")}, LargerThan: 1000}, src); !slices.Equal(got, []string{"d/", "d/f"}) {
		t.Errorf("saved %q", got)
	}
}

func TestSources(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "a/b/f"), []byte("1"))
	write(t, filepath.Join(src, "a/g"), []byte("2"))
	write(t, filepath.Join(src, "a-b/h"), []byte("3"))
	write(t, filepath.Join(src, "z"), []byte("4"))
	for link, to := range map[string]string{"dirlink": "a", "filelink": "z", "dangling": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(src, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		sources string
		want    string
		skipped int
	}{
		{"a/b a a a/b/f a-b", "a/ a/b/ a/b/f a/g a-b/ a-b/h", 0},
		{"a/b", "a/ a/b/ a/b/f", 0},
		{"a/b z", "a/ a/b/ a/b/f z", 0},
		{"z", "z", 0},
		{"dirlink", "dirlink/ dirlink/b/ dirlink/b/f dirlink/g", 0},
		{"dirlink/b", "dirlink/ dirlink/b/ dirlink/b/f", 0},
		{"filelink", "filelink", 0},
		{"dangling", "dangling", 0},
		{"gone z gone2/x gone2/y", "z", 3},
	} {
		var o backup.Options
		for _, s := range strings.Fields(test.sources) {
			o.Sources = append(o.Sources, filepath.Join(src, s))
		}
		st, c := shared(t)
		p := &hook{}
		o.Progress = p
		res := run(t, open(t, st, repo.Access{Credential: c}), o)
		_, d := getter(t, st)
		got, want := paths(t, d, res.Snapshot, src), strings.Fields(test.want)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: saved %q, want %q", test.sources, got, want)
		}
		if len(res.Skipped) != test.skipped || len(p.skipped) != test.skipped {
			t.Errorf("%s: skipped %v", test.sources, res.Skipped)
		}
		r, _ := getter(t, st)
		body, err := r.OpenBody(res.Snapshot)
		if err != nil || len(body.Skipped) != test.skipped {
			t.Errorf("%s: the snapshot says %v, %v", test.sources, body, err)
		}
	}
	st, c := newRepo(t)
	for _, sources := range [][]string{nil, {src + "/no"}, {src + "/no", "/none/at/all"}, {"relative"}} {
		res, err := backup.Run(t.Context(), open(t, st, repo.Access{Credential: c}), backup.Options{Sources: sources})
		if !errors.Is(err, backup.ErrNoSource) || res != nil {
			t.Errorf("%q: %v", sources, err)
		}
	}
	if _, err := backup.Run(t.Context(), open(t, st, repo.Access{Credential: c}), backup.Options{Sources: []string{"/\x00"}}); err == nil {
		t.Error("a source with NUL is accepted")
	}
	if n := snapshots(t, open(t, st, repo.Access{Credential: c})); n != 0 {
		t.Errorf("%d snapshots", n)
	}
}

func TestRootAsSource(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "f"), []byte("1"))
	var patterns []string
	for at := src; at != "/"; at = filepath.Dir(at) {
		patterns = append([]string{filepath.Join(filepath.Dir(at), "*"), "!" + at}, patterns...)
	}
	x, err := backup.NewExcludes(patterns)
	if err != nil {
		t.Fatal(err)
	}
	if got := saved(t, backup.Options{Sources: []string{"/", src}, Exclude: x}, src); !slices.Equal(got, []string{"f"}) {
		t.Errorf("saved %q", got)
	}
}

func TestChangedWhileRead(t *testing.T) {
	const large = 3 << 20
	for _, test := range []struct {
		name string
		size int
		do   func(path string) error
		kept int // bytes, -1: nothing
	}{
		{"vanishes", 5000, os.Remove, -1},
		{"vanishes", large, os.Remove, -1},
		{"shrinks", 5000, func(p string) error { return os.Truncate(p, 100) }, 100},
		{"shrinks", large, func(p string) error { return os.Truncate(p, 100) }, 100},
		{"grows", 5000, func(p string) error { return os.WriteFile(p, random(9, large), 0o600) }, large},
		{"becomes a link", 5000, func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) }, -1},
		{"becomes a link", large, func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) }, -1},
		{"becomes a directory", 5000, func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, -1},
	} {
		src := t.TempDir()
		path := filepath.Join(src, "f")
		write(t, path, random(1, test.size))
		write(t, filepath.Join(src, "rest/g"), []byte("rest"))
		st, c := shared(t)
		p := &hook{start: func(name string) {
			if name == path {
				if err := test.do(path); err != nil {
					t.Error(err)
				}
			}
		}}
		res := run(t, open(t, st, repo.Access{Credential: c}), backup.Options{Sources: []string{src}, Progress: p})
		got := tree(t, st, res.Snapshot)
		if got[filepath.Join(src, "rest/g")] != "rest" {
			t.Errorf("%s: the rest is lost", test.name)
		}
		f, ok := got[path]
		if ok != (test.kept >= 0) || ok && len(f) != test.kept {
			t.Errorf("%s of %d: kept %v, %d bytes", test.name, test.size, ok, len(f))
		}
		if lost := test.kept < 0; lost != (len(res.Skipped) == 1) || lost && res.Skipped[0].Path != path {
			t.Errorf("%s of %d: skipped %v", test.name, test.size, res.Skipped)
		}
		if s := res.Stats; s.Files != uint64(len(got)) || s.New != s.Files || s.Changed+s.Unmodified != 0 {
			t.Errorf("%s: stats %+v for %d files", test.name, s, len(got))
		}
	}
}

// A file that changes after it was opened: the large file's size is known when its first chunk is done.
func TestChangedAfterOpen(t *testing.T) {
	src := t.TempDir()
	path := filepath.Join(src, "f")
	data := random(1, 28<<20)
	for _, to := range []int64{1 << 20, 30 << 20} {
		write(t, path, data)
		st, c := newRepo(t)
		var did bool
		p := &hook{}
		p.done = func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if !did {
				did = true
				if err := os.Truncate(path, to); err != nil {
					t.Error(err)
				}
			}
		}
		cache := t.TempDir()
		o := backup.Options{Sources: []string{src}, Progress: p, CacheDir: cache}
		res := run(t, open(t, st, repo.Access{Credential: c}), o)
		got := tree(t, st, res.Snapshot)[path]
		if len(got) > len(data) || to > int64(len(data)) && len(got) != len(data) {
			t.Errorf("to %d: saved %d bytes", to, len(got))
		}
		// A read that is under way sees zeros behind the new end: the system clears its pages before it lets go of them.
		for i := range []byte(got) {
			if got[i] != data[i] && (int64(i) < to || got[i] != 0) {
				t.Errorf("to %d: byte %d of %d is none that there was", to, i, len(got))
				break
			}
		}
		if len(res.Skipped) != 1 || res.Skipped[0].Path != path || !strings.Contains(res.Skipped[0].Reason, "changed while it was read") {
			t.Errorf("to %d: skipped %v", to, res.Skipped)
		}
		if to > int64(len(data)) {
			continue
		}
		// The next backup has it as it is.
		res = run(t, open(t, st, repo.Access{Credential: c}), o)
		if got := tree(t, st, res.Snapshot)[path]; int64(len(got)) != to || res.Stats.Changed != 1 {
			t.Errorf("to %d: then saved %d bytes, %+v", to, len(got), res.Stats)
		}
	}
}

// A directory that goes away, or is replaced, while the walk is at its siblings: it is saved empty, and listed once.
func TestDirectoryVanishes(t *testing.T) {
	for name, do := range map[string]func(path string) error{
		"vanished":        func(string) error { return nil },
		"not a directory": func(path string) error { return os.Symlink("/etc", path) },
	} {
		src := t.TempDir()
		write(t, filepath.Join(src, "zz"), random(1, 500)) // read between looking at z and listing it
		write(t, filepath.Join(src, "z/f"), []byte("x"))
		st, c := shared(t)
		var once sync.Once
		p := &hook{start: func(name string) {
			once.Do(func() {
				z := filepath.Join(src, "z")
				if err := errors.Join(os.RemoveAll(z), do(z)); err != nil {
					t.Error(err)
				}
			})
		}}
		res := run(t, open(t, st, repo.Access{Credential: c}), backup.Options{Sources: []string{src}, Progress: p})
		if len(res.Skipped) != 1 || res.Skipped[0].Path != filepath.Join(src, "z") || !strings.Contains(res.Skipped[0].Reason, name) {
			t.Errorf("%s: skipped %v", name, res.Skipped)
		}
	}
}
