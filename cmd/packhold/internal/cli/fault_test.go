package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"packhold/backends"
	"packhold/backends/fault"
	"packhold/backends/local"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/repo/format"
	"packhold/repo/repotest"
)

// unlock are the variables of whoever knows the passphrase.
var unlock = []string{"PACKHOLD_PASSPHRASE", repotest.Passphrase}

// enrolled makes a home folder with a repository at its default place, on whose host it is.
func enrolled(t *testing.T) (home string) {
	t.Helper()
	home = t.TempDir()
	st, err := local.Open(repositoryOf(home), local.Options{Create: true, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	c, err := repotest.Init(t.Context(), st, repotest.Options{Parity: 2, PackSize: format.MinPackSize})
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.WriteFile(filepath.Join(home, ".config/packhold", fmt.Sprintf("%x", c.Repo), run.CredentialFile), b); err != nil {
		t.Fatal(err)
	}
	return home
}

func repositoryOf(home string) string { return filepath.Join(home, ".local/share/packhold/repository") }

// copyOf copies a home folder.
func copyOf(t *testing.T, home string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "home")
	if err := os.CopyFS(to, os.DirFS(home)); err != nil {
		t.Fatal(err)
	}
	return to
}

// files makes a source of files with random bytes, large ones and small ones, and changes or adds to what is there.
func files(t *testing.T, dir string, r *rand.Rand) {
	t.Helper()
	for i, size := range []int{1 << 20, 200_000, 3000, 10} {
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		name := filepath.Join(dir, fmt.Sprintf("d%d", i%2), fmt.Sprintf("%d-%d", i, r.IntN(2)))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// contents maps the files below dir to their bytes.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// restores fails the test unless the snapshot restores to what is wanted.
func restores(t *testing.T, home, id string, want map[string]string) {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "restored")
	r := packhold(t, home, unlock, "restore", "--quiet", "--backup-id", id, "--destination", dst)
	if r.code != 0 {
		t.Fatalf("restoring snapshot %s: exit %d\n%s", id, r.code, r.err)
	}
	got := contents(t, dst)
	if len(got) != len(want) {
		t.Errorf("snapshot %s: %d files, want %d", id, len(got), len(want))
	}
	for path, b := range want {
		if got[path] != b {
			t.Errorf("snapshot %s: %s differs", id, path)
		}
	}
	os.RemoveAll(dst)
}

func listedSnapshots(t *testing.T, home string) int {
	t.Helper()
	r := packhold(t, home, nil, "list", "--json")
	if r.code != 0 {
		t.Fatalf("list: exit %d\n%s", r.code, r.err)
	}
	return strings.Count(r.out, `"message_type":"snapshot"`)
}

// A backup whose n-th call to the storage fails, for every n, ends with 15 or 14 and without a snapshot, or, where the call is one that
// nothing depends on, with a snapshot that is whole. What was there stays, and the next backup works.
func TestBackupFaults(t *testing.T) {
	base, source := enrolled(t), t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	files(t, source, r)
	if got := packhold(t, base, nil, "backup", "--quiet", "--source", source); got.code != 0 {
		t.Fatal(got.err)
	}
	first := contents(t, source)
	files(t, source, r)
	second := contents(t, source)

	count := map[int]int{}
	for _, k := range []struct {
		err    error
		code   int
		sticky bool
	}{{backends.ErrNoSpace, 15, false}, {syscall.EIO, 14, false}, {backends.ErrNoSpace, 15, true}, {syscall.EIO, 14, true}} {
		step := 1
		if testing.Short() {
			step = 9
		} else if k.sticky {
			step = 3
		}
		for n := 1; ; n += step {
			home := copyOf(t, base)
			var st *fault.Store
			over := func(s backends.Storage) backends.Storage {
				st = fault.New(s, fault.Rule{N: n, Sticky: k.sticky, Err: k.err})
				return st
			}
			got := runOver(t, over, home, nil, "backup", "--quiet", "--source", source)
			calls := 0
			for op := fault.Put; op <= fault.Delete; op++ {
				calls += st.Calls(op)
			}
			name := fmt.Sprintf("call %d of %d fails by %v, sticky %v", n, calls, k.err, k.sticky)
			count[got.code]++
			want := 1
			switch got.code {
			case 0:
				want = 2
			case k.code:
				word := got.err[strings.LastIndex(got.err, "[")+1 : strings.LastIndex(got.err, "]")]
				if checkFour(t, got.err, word); !strings.HasPrefix(word, "storage.") {
					t.Errorf("%s: the word is %s", name, word)
				}
				if next := got.err[strings.Index(got.err, "\n  next: "):]; k.code == 15 && !(strings.Contains(next, "forget") && strings.Contains(next, "prune")) {
					t.Errorf("%s: the next step names neither forget nor prune:\n%s", name, got.err)
				}
			default:
				t.Errorf("%s: exit %d\n%s", name, got.code, got.err)
			}
			if have := listedSnapshots(t, home); have != want {
				t.Errorf("%s: exit %d, and %d snapshots\n%s", name, got.code, have, got.err)
			}
			if got := packhold(t, home, nil, "backup", "--quiet", "--source", source); got.code != 0 {
				t.Errorf("%s: the next backup: exit %d\n%s", name, got.code, got.err)
			}
			if got := packhold(t, home, unlock, "verify", "--quiet", "--read-data"); got.code != 0 {
				t.Errorf("%s: verify after the next backup: exit %d\n%s", name, got.code, got.err)
			}
			restores(t, home, "1", first)
			restores(t, home, "latest", second)
			os.RemoveAll(home)
			if t.Failed() {
				t.Fatal(name)
			}
			if calls < n {
				break
			}
		}
	}
	t.Logf("runs by exit code: %v", count)
	for _, code := range []int{0, 14, 15} {
		if count[code] == 0 {
			t.Errorf("no run ended with %d", code)
		}
	}
}

// Every command whose storage goes away at its n-th call and stays away, for every n, ends with 14, as any that depends on it must: an error of a network is
// of no kind that the program knows.
func TestStorageAway(t *testing.T) {
	base, source := enrolled(t), t.TempDir()
	files(t, source, rand.New(rand.NewPCG(5, 6)))
	if got := packhold(t, base, nil, "backup", "--quiet", "--source", source); got.code != 0 {
		t.Fatal(got.err)
	}
	for _, args := range [][]string{
		{"backup", "--source", source, "--type", "full"},
		{"verify", "--read-data"},
		{"verify", "--checksums"},
		{"restore", "--destination", filepath.Join(t.TempDir(), "restored")},
		{"list"},
		{"stats"},
		{"forget", "--keep-last", "1"},
		{"prune"},
		{"key", "list"},
	} {
		count := map[int]int{}
		for n := 1; ; n++ {
			if testing.Short() && n%5 != 1 {
				continue
			}
			home := copyOf(t, base)
			var st *fault.Store
			over := func(s backends.Storage) backends.Storage {
				st = fault.New(s, fault.Rule{N: n, Sticky: true, Err: errors.New("connection reset")})
				return st
			}
			got := runOver(t, over, home, unlock, args...)
			calls := 0
			for op := fault.Put; op <= fault.Delete; op++ {
				calls += st.Calls(op)
			}
			os.RemoveAll(home)
			if count[got.code]++; got.code != 0 && got.code != 14 {
				t.Errorf("%q, the storage goes away at call %d of %d: exit %d\n%s", args, n, calls, got.code, got.err)
			}
			if calls < n {
				break
			}
		}
		if t.Logf("%q: runs by exit code: %v", args, count); count[14] == 0 {
			t.Errorf("%q: no run ended with 14", args)
		}
	}
}

// alteration is one way to damage a stored object.
type alteration struct {
	name string
	make func(b []byte) []byte
}

// alterations of an object of n bytes: flipped bits at its ends, in the middle and at random, cuts, and a byte more.
func alterations(n int, r *rand.Rand, many int) []alteration {
	var list []alteration
	flip := func(bit int) {
		list = append(list, alteration{fmt.Sprintf("bit %d flipped", bit), func(b []byte) []byte {
			b = slices.Clone(b)
			b[bit/8] ^= 1 << (bit % 8)
			return b
		}})
	}
	cut := func(to int) {
		list = append(list, alteration{fmt.Sprintf("cut to %d bytes", to), func(b []byte) []byte { return b[:to] }})
	}
	flip(0)
	flip(8*n - 1)
	cut(n - 1)
	cut(0)
	list = append(list, alteration{"a byte appended", func(b []byte) []byte { return append(slices.Clone(b), byte(r.Uint32())) }})
	for range many {
		flip(r.IntN(8 * n))
	}
	cut(r.IntN(n))
	return list
}

// Whatever is altered in whatever object, verify --read-data tells, and a restore either gives the very bytes or does not end with 0.
func TestAlterations(t *testing.T) {
	base, source := enrolled(t), t.TempDir()
	r := rand.New(rand.NewPCG(3, 4))
	want := make([]map[string]string, 2)
	for i := range want {
		files(t, source, r)
		if got := packhold(t, base, nil, "backup", "--quiet", "--source", source); got.code != 0 {
			t.Fatal(got.err)
		}
		want[i] = contents(t, source)
	}
	many := 4
	if os.Getenv("PACKHOLD_SOAK") != "" {
		many = 200
	}
	objects, runs, codes := 0, 0, map[int]int{}
	for name := range contents(t, repositoryOf(base)) {
		if strings.HasPrefix(name, "/tmp/") {
			continue
		}
		objects++
		if testing.Short() && objects%8 != 0 {
			continue
		}
		good, err := os.ReadFile(repositoryOf(base) + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range alterations(len(good), r, many) {
			home := copyOf(t, base)
			path := repositoryOf(home) + name
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, a.make(good), 0o400); err != nil {
				t.Fatal(err)
			}
			runs++
			got := packhold(t, home, unlock, "verify", "--quiet", "--read-data")
			codes[got.code]++
			if !slices.Contains([]int{12, 17, 20, 21, 22}, got.code) {
				t.Errorf("%s, %s: verify --read-data: exit %d\n%s%s", name, a.name, got.code, got.out, got.err)
			}
			for i := range want {
				dst := filepath.Join(home, "restored")
				res := packhold(t, home, unlock, "restore", "--quiet", "--backup-id", fmt.Sprint(i+1), "--destination", dst)
				if res.code == 0 || res.code == 20 {
					have := contents(t, dst)
					for path, b := range want[i] {
						if have[path] != b {
							t.Errorf("%s, %s: restore ends with %d, and %s differs", name, a.name, res.code, path)
						}
					}
				}
				for path, b := range contentsIfAny(t, dst) {
					if want[i][path] != b {
						t.Errorf("%s, %s: restore ends with %d and leaves a wrong %s", name, a.name, res.code, path)
					}
				}
				os.RemoveAll(dst)
			}
			os.RemoveAll(home)
			if t.Failed() {
				t.FailNow()
			}
		}
	}
	t.Logf("%d objects, %d alterations, exit codes of verify: %v", objects, runs, codes)
}

func contentsIfAny(t *testing.T, dir string) map[string]string {
	t.Helper()
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	return contents(t, dir)
}

// forgetful is a storage that does not obey, or does not know, what an exclusive Put asks for.
type forgetful struct{ backends.Storage }

func (f forgetful) Put(ctx context.Context, name string, data []byte, o backends.PutOptions) error {
	o.IfAbsent = false
	return f.Storage.Put(ctx, name, data, o)
}

// TestPruneExclusive: prune deletes nothing in a place that creates files exclusively no more, whatever was known of it.
func TestPruneExclusive(t *testing.T) {
	home, source := enrolled(t), t.TempDir()
	for range 2 {
		files(t, source, rand.New(rand.NewPCG(9, 9)))
		if got := packhold(t, home, nil, "backup", "--quiet", "--source", source); got.code != 0 {
			t.Fatal(got.err)
		}
	}
	before := contents(t, repositoryOf(home))
	over := func(s backends.Storage) backends.Storage { return forgetful{s} }
	got := runOver(t, over, home, unlock, "prune")
	if got.code != 4 {
		t.Errorf("exit %d\n%s", got.code, got.err)
	}
	checkFour(t, got.err, "prune.exclusive")
	after := contents(t, repositoryOf(home))
	for name := range before {
		if _, ok := after[name]; !ok {
			t.Errorf("%s is gone", name)
		}
	}
	if got := packhold(t, home, unlock, "prune", "--quiet"); got.code != 0 {
		t.Errorf("where it works: exit %d\n%s", got.code, got.err)
	}
	for name := range contents(t, repositoryOf(home)) {
		if strings.HasPrefix(name, "/probe/") {
			t.Errorf("%s is left", name)
		}
	}
}

// TestStaleListing: listings that lack half of the packs, always, or half of the index at first, as those of a storage that lags do, make nobody report damage,
// nor end with less than there is.
func TestStaleListing(t *testing.T) {
	base, source := enrolled(t), t.TempDir()
	r := rand.New(rand.NewPCG(7, 8))
	for range 3 {
		files(t, source, r)
		if got := packhold(t, base, nil, "backup", "--quiet", "--source", source); got.code != 0 {
			t.Fatal(got.err)
		}
	}
	want := contents(t, source)
	for _, rule := range []fault.Rule{
		{Op: fault.List, Prefix: "packs/", Sticky: true, Effect: fault.Short},
		{Op: fault.List, Prefix: "meta/", Sticky: true, Effect: fault.Short},
		{Op: fault.List, Prefix: "index/", Effect: fault.Short},
	} {
		home := copyOf(t, base)
		var st *fault.Store
		over := func(s backends.Storage) backends.Storage {
			st = fault.New(s, rule)
			return st
		}
		dst := filepath.Join(home, "restored")
		for _, args := range [][]string{
			{"restore", "--quiet", "--destination", dst}, {"verify", "--quiet", "--read-data"}, {"backup", "--quiet", "--type", "full", "--source", source},
		} {
			if got := runOver(t, over, home, unlock, args...); got.code != 0 {
				t.Errorf("%q, listings of %s are short: exit %d\n%s", args, rule.Prefix, got.code, got.err)
			}
		}
		if got := contents(t, dst); len(got) != len(want) {
			t.Errorf("listings of %s are short: %d files are restored, of %d", rule.Prefix, len(got), len(want))
		}
		if got := packhold(t, home, unlock, "verify", "--quiet", "--read-data"); got.code != 0 {
			t.Errorf("listings of %s were short: verify: exit %d\n%s", rule.Prefix, got.code, got.err)
		}
		restores(t, home, "latest", want)
		restores(t, home, "3", want)
		os.RemoveAll(home)
	}
}

// TestBadReadBack: a storage that says it stored a file, and stored other bytes, half of them, or gives others back, is found out: there is no snapshot that
// anybody was told of, and the next backup stores what was lost.
func TestBadReadBack(t *testing.T) {
	base, source := enrolled(t), t.TempDir()
	files(t, source, rand.New(rand.NewPCG(5, 6)))
	want := contents(t, source)
	for name, rule := range map[string]fault.Rule{
		"a data pack is stored garbled":     {Op: fault.Put, Prefix: "packs/", Effect: fault.Garble, Bit: 54321},
		"a data pack is stored short":       {Op: fault.Put, Prefix: "packs/", Effect: fault.Short},
		"a data pack is read garbled":       {Op: fault.Get, Prefix: "packs/", Effect: fault.Garble, Bit: 54321},
		"a tree pack is stored garbled":     {Op: fault.Put, Prefix: "meta/", Effect: fault.Garble, Bit: 54321},
		"an index segment is stored short":  {Op: fault.Put, Prefix: "index/", Effect: fault.Short},
		"a snapshot record is stored short": {Op: fault.Put, Prefix: "snapshots/", Effect: fault.Short},
		"a snapshot record is garbled":      {Op: fault.Put, Prefix: "snapshots/", Effect: fault.Garble, Bit: 4321},
	} {
		t.Run(name, func(t *testing.T) {
			home := copyOf(t, base)
			over := func(s backends.Storage) backends.Storage { return fault.New(s, rule) }
			got := runOver(t, over, home, nil, "backup", "--quiet", "--source", source)
			if got.code != 21 || !strings.Contains(got.err, "reading back "+rule.Prefix) {
				t.Errorf("exit %d\n%s", got.code, got.err)
			}
			checkFour(t, got.err, "damage.lost")
			if got := packhold(t, home, nil, "backup", "--quiet", "--source", source); got.code != 0 {
				t.Errorf("the next backup: exit %d\n%s", got.code, got.err)
			}
			id := "latest"
			if rule.Prefix == "snapshots/" { // the record may be of anything, so that nobody knows what is the latest
				id = "2"
			}
			restores(t, home, id, want)
			// Without validation nobody notices before somebody reads.
			if rule.Op == fault.Put {
				home = copyOf(t, base)
				if got := runOver(t, over, home, nil, "backup", "--quiet", "--source", source, "--no-validate"); got.code != 0 {
					t.Errorf("without validation: exit %d\n%s", got.code, got.err)
				}
				if got := packhold(t, home, unlock, "verify", "--quiet", "--read-data"); got.code < 20 {
					t.Errorf("verify after that: exit %d\n%s", got.code, got.err)
				}
			}
		})
	}
}
