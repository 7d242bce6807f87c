package cli

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"packhold/backends/local"
	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/repotest"
)

// dataBlobs are the places of all blobs of files in a repository.
func dataBlobs(t *testing.T, place, passphrase string) (list []index.Located) {
	t.Helper()
	st, err := local.Open(place, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	r, err := repo.Open(t.Context(), st, repo.Access{Passphrase: []byte(passphrase)}, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	for l, err := range r.Index().All() {
		if err != nil {
			t.Fatal(err)
		}
		if !l.Pack.Tree() {
			list = append(list, l)
		}
	}
	if len(list) == 0 {
		t.Fatal("no blobs")
	}
	return list
}

// TestCompressionFlag: each level is the one that the blobs say they were compressed with.
func TestCompressionFlag(t *testing.T) {
	base, source := enrolled(t), t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	var text bytes.Buffer
	for text.Len() < 1<<20 {
		fmt.Fprintf(&text, "%d %x the quick brown fox %d\n", r.IntN(1000), r.IntN(1<<20), r.IntN(10))
	}
	if err := os.WriteFile(filepath.Join(source, "text"), text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flag string
		want crypt.Compression
	}{{"off", crypt.Uncompressed}, {"fastest", crypt.ZstdFastest}, {"default", crypt.ZstdDefault}, {"better", crypt.ZstdBetter}, {"best", crypt.ZstdBest}} {
		home := copyOf(t, base)
		if got := packhold(t, home, nil, "backup", "--quiet", "--source", source, "--compression", c.flag); got.code != 0 {
			t.Fatalf("%s: exit %d\n%s", c.flag, got.code, got.err)
		}
		stored := uint64(0)
		for _, l := range dataBlobs(t, repositoryOf(home), repotest.Passphrase) {
			stored += uint64(l.Length)
			if l.Compression != c.want {
				t.Errorf("%s: a blob is compressed by %d, want %d", c.flag, l.Compression, c.want)
			}
		}
		if raw := uint64(text.Len()); (stored < raw) != (c.want != crypt.Uncompressed) {
			t.Errorf("%s: %d bytes take %d", c.flag, raw, stored)
		}
		restores(t, home, "1", contents(t, source))
	}
}

// TestSizeFlags: --chunk-size and --pack-size of init show in what is stored.
func TestSizeFlags(t *testing.T) {
	source := t.TempDir()
	const size = 12 << 20
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(data)
	if err := os.WriteFile(filepath.Join(source, "f"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	passphrase := strings.Repeat("long enough ", 3)
	for _, c := range []struct {
		flags               []string
		least, most         int   // average of the chunks
		leastPack, mostPack int64 // of the largest pack
	}{
		{nil, 256 << 10, 1 << 20, 2 << 20, 32<<20 + 2<<20},
		{[]string{"--chunk-size", "64K", "--pack-size", "1M"}, 32 << 10, 128 << 10, 1 << 19, 1<<20 + 1<<17},
	} {
		home := t.TempDir()
		if got := packhold(t, home, []string{"PACKHOLD_PASSPHRASE", passphrase}, append([]string{"init", "--quiet"}, c.flags...)...); got.code != 0 {
			t.Fatalf("init %q: exit %d\n%s", c.flags, got.code, got.err)
		}
		if got := packhold(t, home, nil, "backup", "--quiet", "--source", source); got.code != 0 {
			t.Fatalf("backup: exit %d\n%s", got.code, got.err)
		}
		blobs, raw := dataBlobs(t, repositoryOf(home), passphrase), 0
		for _, l := range blobs {
			raw += int(l.Raw)
		}
		if average := raw / len(blobs); raw != size || average < c.least || average > c.most {
			t.Errorf("%q: %d chunks of %d bytes", c.flags, len(blobs), average)
		}
		packs, err := filepath.Glob(filepath.Join(repositoryOf(home), "packs/*/*"))
		if err != nil {
			t.Fatal(err)
		}
		largest := int64(0)
		for _, p := range packs {
			info, err := os.Stat(p)
			if err != nil {
				t.Fatal(err)
			}
			largest = max(largest, info.Size())
		}
		if largest < c.leastPack || largest > c.mostPack {
			t.Errorf("%q: %d packs, the largest of %d bytes", c.flags, len(packs), largest)
		}
	}
}
