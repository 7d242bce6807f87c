package cli

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"packhold/backends"
)

// onFirstPack does something once, before the first pack is stored.
type onFirstPack struct {
	backends.Storage
	do func()
}

func (s onFirstPack) Put(ctx context.Context, name string, data []byte, o backends.PutOptions) error {
	if strings.HasPrefix(name, "packs/") {
		s.do()
	}
	return s.Storage.Put(ctx, name, data, o)
}

// TestChangingFiles changes a file while it is read: when the first of its packs is stored the reader is at most two buffers ahead, far from its end. What
// is saved is told, and the next backup has the file as it then is.
func TestChangingFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("open files are not removed there")
	}
	const size = 64 << 20
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	late := data[size-4096:]
	grow := func(name string) error {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.Write(late)
			err = errors.Join(err, f.Close())
		}
		return err
	}
	overwrite := func(name string) error {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(bytes.Repeat([]byte("new!"), len(late)/4), size-int64(len(late)))
			err = errors.Join(err, f.Close())
		}
		return err
	}
	base := enrolled(t)
	for name, c := range map[string]struct {
		change func(a, b string) error
		code   int
		told   string // the file that the message names
		saved  func(a []byte) bool
		lacks  string
	}{
		"grows":   {func(a, _ string) error { return grow(a) }, 3, "a", func(a []byte) bool { return bytes.Equal(a, data) }, ""},
		"shrinks": {func(a, _ string) error { return os.Truncate(a, 1<<20) }, 3, "a", func(a []byte) bool { return len(a) < size && bytes.Equal(a[:1<<20], data[:1<<20]) }, ""},
		"is overwritten": {func(a, _ string) error { return overwrite(a) }, 3, "a",
			func(a []byte) bool {
				return len(a) == size && bytes.Equal(a[:1<<20], data[:1<<20]) && bytes.HasSuffix(a, []byte("new!"))
			}, ""},
		"is overwritten, and its time put back": {func(a, _ string) error {
			i, err := os.Stat(a)
			if err == nil {
				err = errors.Join(overwrite(a), os.Chtimes(a, time.Time{}, i.ModTime()))
			}
			return err
		}, 3, "a", func(a []byte) bool { return bytes.HasSuffix(a, []byte("new!")) }, ""},
		"vanishes while it is open":   {func(a, _ string) error { return os.Remove(a) }, 0, "", func(a []byte) bool { return bytes.Equal(a, data) }, ""},
		"vanishes before it was read": {func(_, b string) error { return os.Remove(b) }, 3, "b", func(a []byte) bool { return bytes.Equal(a, data) }, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "shrinks" && name != "is overwritten" {
				t.Skip("64 MiB more: two of them show a data race")
			}
			home, source := copyOf(t, base), t.TempDir()
			a, b := filepath.Join(source, "a"), filepath.Join(source, "b")
			for path, content := range map[string][]byte{a: data, b: data[:4<<20], filepath.Join(source, "small"): []byte("small")} {
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var once sync.Once
			over := func(s backends.Storage) backends.Storage {
				return onFirstPack{s, func() {
					once.Do(func() {
						if err := c.change(a, b); err != nil {
							t.Error(err)
						}
					})
				}}
			}
			got := runOver(t, over, home, nil, "backup", "--source", source)
			if got.code != c.code || c.told != "" && !strings.Contains(got.err, filepath.Join(source, c.told)+": ") {
				t.Errorf("exit %d\n%s", got.code, got.err)
			}
			if got.code == 3 {
				checkFour(t, got.err, "source.skipped")
			}
			dst := filepath.Join(t.TempDir(), "out")
			if r := packhold(t, home, unlock, "restore", "--quiet", "--backup-id", "1", "--destination", dst); r.code != 0 {
				t.Fatalf("restore: exit %d\n%s", r.code, r.err)
			}
			first := contents(t, dst)
			if !c.saved([]byte(first["/a"])) || first["/small"] != "small" {
				t.Errorf("%d bytes were saved of the file, %q beside it", len(first["/a"]), first["/small"])
			}
			if _, there := first["/b"]; there != (c.lacks != "b") {
				t.Errorf("the other file is there: %v", there)
			}
			if got := packhold(t, home, nil, "backup", "--quiet", "--source", source); got.code != 0 {
				t.Errorf("the next backup: exit %d\n%s", got.code, got.err)
			}
			restores(t, home, "latest", contents(t, source))
			os.RemoveAll(home)
		})
	}
}
