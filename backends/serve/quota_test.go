//go:build linux || darwin || freebsd

package serve

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fillUp writes to new temporary files, of 1,000 bytes in each write, until that is refused, and returns how many writes there were.
func (c *client) fillUp(t *testing.T, prefix string) (writes int) {
	t.Helper()
	h := ""
	for ; writes < 1000; writes++ {
		if writes%10 == 0 {
			if h != "" {
				c.want(t, codeOK, verbClose, h)
			}
			h = c.handleOf(t, verbOpen, fmt.Sprintf("tmp/%s%d", prefix, writes), uint32(flagWrite|flagCreate), attributes{})
		}
		code, body := c.ask(t, verbWrite, h, uint64(writes%10*1000), string(make([]byte, 1000)))
		if code != codeOK {
			if code != codeFailure || !strings.Contains(string(body), "no space") || !strings.Contains(string(body), "quota") {
				t.Errorf("code %d, %q", code, body)
			}
			c.want(t, codeFailure, verbFsetstat, h, attributes{flags: attrSize, size: 11_000})
			break
		}
	}
	c.want(t, codeOK, verbClose, h)
	return writes
}

// available returns what statvfs says is left, in bytes.
func (c *client) available(t *testing.T) uint64 {
	t.Helper()
	b := c.want(t, codeOK, verbStatVFS, "/")
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	if len(b) != 11*8 || at(1) == 0 || at(3) < at(4) || at(2) < at(3) {
		t.Fatalf("% x", b)
	}
	return at(1) * at(4)
}

// room waits until n bytes are available, 10 s at most: files are not counted again at once.
func (c *client) room(t *testing.T, n uint64) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); c.available(t)+4096 < n; wait() { // statvfs counts in blocks
		if time.Now().After(end) {
			t.Fatalf("%d bytes are available, not %d", c.available(t), n)
		}
	}
}

// wait lets the time pass in which files are not counted again.
func wait() { time.Sleep(50 * time.Millisecond) }

func TestQuota(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "FOREIGN"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "FOREIGN/x"), make([]byte, 100_000), 0o400); err != nil {
		t.Fatal(err)
	}
	o := Options{Quota: 200_000}
	c := start(t, dir, o, quick())
	if n := c.available(t); n > 100_000 || n < 90_000 {
		t.Errorf("%d bytes are available", n)
	}
	if n := c.fillUp(t, "a"); n != 100 {
		t.Errorf("%d writes fit", n)
	}
	if n := c.available(t); n != 0 {
		t.Errorf("%d bytes are available", n)
	}
	// Overwriting takes no room, and a second name none either.
	h := c.handleOf(t, verbOpen, "tmp/empty", uint32(flagWrite|flagCreate), attributes{})
	c.want(t, codeFailure, verbWrite, h, uint64(0), "x")
	c.want(t, codeOK, verbHardlink, "tmp/a0", "packs/aa/f")
	wait()
	// Another connection finds the folder full, too, and counts a file with two names once.
	other := start(t, dir, o, quick())
	if n := other.fillUp(t, "b"); n != 0 {
		t.Errorf("%d writes fit", n)
	}
	c.want(t, codeOK, verbRemove, "tmp/a20")
	other.room(t, 10_000)
	if n := other.fillUp(t, "twice"); n != 10 {
		t.Errorf("%d writes fit", n)
	}
	// What is removed makes room for everybody; what is linked elsewhere does not.
	c.want(t, codeOK, verbRemove, "tmp/a0")
	wait()
	if n := other.fillUp(t, "c"); n != 0 {
		t.Errorf("%d writes fit", n)
	}
	c.want(t, codeOK, verbRemove, "packs/aa/f")
	other.room(t, 10_000)
	if n := other.fillUp(t, "d"); n != 10 {
		t.Errorf("%d writes fit", n)
	}
	wait()
	if n := c.fillUp(t, "e"); n != 0 {
		t.Errorf("%d writes fit", n)
	}
	// A file that is open takes room without a name.
	c.want(t, codeOK, verbRemove, "tmp/a10")
	c.room(t, 10_000)
	h = c.handleOf(t, verbOpen, "tmp/hidden", uint32(flagWrite|flagCreate), attributes{})
	c.want(t, codeOK, verbWrite, h, uint64(0), string(make([]byte, 10_000)))
	c.want(t, codeOK, verbWrite, h, uint64(0), string(make([]byte, 10_000)))
	c.want(t, codeOK, verbRemove, "tmp/hidden")
	wait()
	if n := c.fillUp(t, "f"); n != 0 {
		t.Errorf("%d writes fit", n)
	}
	c.want(t, codeOK, verbClose, h)
	c.room(t, 10_000)
	if n := c.fillUp(t, "g"); n != 10 {
		t.Errorf("%d writes fit", n)
	}
}

// TestQuotaTogether: connections that know nothing of each other's writes count again in time.
func TestQuotaTogether(t *testing.T) {
	const megabyte, quota, clients = 1 << 20, 600, 4
	dir := t.TempDir()
	var cs [clients]*client
	for i := range cs {
		cs[i] = start(t, dir, Options{Quota: quota * megabyte}, quick())
	}
	total := int64(0)
	for i, c := range cs {
		for n := 0; ; n++ { // sparse, to be fast
			h := c.handleOf(t, verbOpen, fmt.Sprintf("tmp/%d-%d", i, n), uint32(flagWrite|flagCreate), attributes{})
			code, _ := c.ask(t, verbFsetstat, h, attributes{flags: attrSize, size: 10 * megabyte})
			c.want(t, codeOK, verbClose, h)
			if code != codeOK {
				break
			}
			total += 10
		}
	}
	// As Options says: each of the others may exceed it by 64 MiB.
	if total < quota || total > quota+(clients-1)*64 {
		t.Errorf("%d MiB fit into %d", total, quota)
	}
}

// TestRealNoSpace: a full disk looks as a full quota does.
func TestRealNoSpace(t *testing.T) {
	r := &recorder{}
	c := start(t, t.TempDir(), Options{}, r.ops())
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		r.fail = nil
		name := fmt.Sprintf("tmp/%d", c.id)
		h := c.creates(t, name, "x")
		r.fail = func(int, string) error { return full }
		code, body := c.ask(t, verbWrite, h, uint64(0), "x")
		if text := string(body); code != codeFailure || !strings.Contains(text, "no space") && !strings.Contains(text, "quota") && !strings.Contains(text, "file too large") {
			t.Errorf("%v: code %d, %q", full, code, text)
		}
		code, body = c.ask(t, verbHardlink, name, "packs/aa/f")
		if code != codeFailure || bytes.Contains(body, []byte("not exist")) {
			t.Errorf("%v: code %d, %q", full, code, body)
		}
	}
}

// TestStale: what was left behind a day ago is removed at the start, unless it is being written; what is younger or foreign stays.
func TestStale(t *testing.T) {
	dir := folder(t)
	writer := start(t, dir, Options{}, quick())
	writer.creates(t, "tmp/slow", "x")
	for name, age := range map[string]time.Duration{"tmp/old": 25 * time.Hour, "tmp/src": 23 * time.Hour, "tmp/slow": 48 * time.Hour, "packs/aa/f": 99 * time.Hour, "FOREIGN": 99 * time.Hour} {
		at := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, dir)
	c := start(t, dir, Options{AppendOnly: true}, quick())
	c.want(t, codeNoSuchFile, verbStat, "tmp/old")
	delete(before, "tmp/old")
	before["tmp"] = tree(t, dir)["tmp"]
	if after := tree(t, dir); len(before) != len(after) {
		t.Errorf("%d files are left of %d", len(after), len(before))
	}
	finishedUnchanged(t, before, tree(t, dir))
}
