//go:build linux || darwin || freebsd

package serve

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"packhold/backends"
)

// quick are the system's operations without fsync, which takes long.
func quick() ops {
	o := systemOps()
	o.syncFile = func(*os.File) error { return nil }
	o.syncDir = func(*os.Root, string) error { return nil }
	return o
}

// folder makes a folder to serve, beside files that no client may reach, and returns its path. All of it is below a directory of its own.
func folder(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "served")
	fill(t, dir)
	return dir
}

func fill(t testing.TB, dir string) {
	t.Helper()
	for name, text := range map[string]string{
		"config": "c", "packs/aa/f": "finished", "packs/aa/g": "finished too", "tmp/old": "temporary", "tmp/src": "source", "FOREIGN": "foreign",
		"UPPER/f": "foreign", "../outside/f": "outside", "../secret": "secret",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"out": "../outside", "file": "../secret", "in": "packs", "packs/aa/dangling": "../../../new", "tmp/link": "../config"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// tree describes everything in and beside a folder: names, kinds, bytes.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	base := filepath.Dir(dir)
	err := filepath.WalkDir(base, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += " " + string(b) + info.ModTime().String()
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(name)
			if err != nil {
				return err
			}
			text += " -> " + to
		}
		name, err = filepath.Rel(dir, name)
		all[name] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// unchanged fails the test if anything but temporary files differs.
func finishedUnchanged(t testing.TB, before, after map[string]string) {
	t.Helper()
	for name, text := range before {
		if !strings.HasPrefix(name, "tmp/") && after[name] != text {
			t.Errorf("%s was %q and is %q", name, text, after[name])
		}
	}
}

// client speaks to a server in single packets.
type client struct {
	conn net.Conn
	id   uint32
	done chan error // receives what run returns
}

func start(t testing.TB, dir string, o Options, ops ops) *client {
	t.Helper()
	here, there := net.Pipe()
	c := &client{conn: here, done: make(chan error, 1)}
	go func() {
		c.done <- run(context.Background(), dir, there, o, ops)
		there.Close()
	}()
	t.Cleanup(func() {
		here.Close()
		select {
		case <-c.done:
		case <-time.After(10 * time.Second):
			t.Error("the server did not end with its client")
		}
	})
	c.send(t, []byte{0, 0, 0, 5, typeInit, 0, 0, 0, 3})
	if b := c.receive(t); b[0] != typeVersion || !bytes.Contains(b, []byte("fsync@openssh.com")) {
		t.Fatalf("version: %q", b)
	}
	return c
}

func (c *client) send(t testing.TB, b []byte) {
	t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

func (c *client) receive(t testing.TB) []byte {
	t.Helper()
	var head [4]byte
	if err := c.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c.conn, head[:]); err != nil {
		t.Fatal("no answer:", err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c.conn, b); err != nil {
		t.Fatal("half an answer:", err)
	}
	return b
}

// attributes is what a request may say of a file.
type attributes struct {
	flags uint32
	size  uint64
}

func (a attributes) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, a.flags)
	if a.flags&attrSize != 0 {
		b = binary.BigEndian.AppendUint64(b, a.size)
	}
	if a.flags&attrOwner != 0 {
		b = binary.BigEndian.AppendUint64(b, 0)
	}
	if a.flags&attrMode != 0 {
		b = binary.BigEndian.AppendUint32(b, 0o777)
	}
	if a.flags&attrTimes != 0 {
		b = binary.BigEndian.AppendUint64(b, 1<<32+1)
	}
	return b
}

// packet builds a request. Fields are numbers as they are in the packet, texts, and attributes.
func packet(id uint32, v verb, fields ...any) []byte {
	b := []byte{0, 0, 0, 0, typeExtended}
	plain := false
	for kind, name := range verbs {
		if name == v {
			b[4], plain = kind, true
		}
	}
	b = binary.BigEndian.AppendUint32(b, id)
	if !plain {
		fields = append([]any{string(v)}, fields...)
	}
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, f)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, f)
		case attributes:
			b = f.append(b)
		default:
			panic(fmt.Sprintf("serve: a field of type %T", f))
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// ask sends a request and returns the code of its answer, codeOK for one that is no status, and what is in the answer.
func (c *client) ask(t testing.TB, v verb, fields ...any) (code uint32, body []byte) {
	t.Helper()
	c.id++
	c.send(t, packet(c.id, v, fields...))
	b := c.receive(t)
	d := decoder{rest: b[1:]}
	if id := d.u32(); id != c.id {
		t.Fatalf("%s: the answer is to %d, not %d", v, id, c.id)
	}
	if b[0] == typeStatus {
		return d.u32(), d.rest
	}
	return codeOK, d.rest
}

func (c *client) want(t testing.TB, want uint32, v verb, fields ...any) []byte {
	t.Helper()
	code, body := c.ask(t, v, fields...)
	if code != want {
		t.Errorf("%s %.80q: code %d (%.200q), want %d", v, fields, code, body, want)
	}
	return body
}

// handleOf opens and returns the handle.
func (c *client) handleOf(t testing.TB, v verb, fields ...any) string {
	t.Helper()
	d := decoder{rest: c.want(t, codeOK, v, fields...)}
	return d.str()
}

func (c *client) creates(t testing.TB, name, data string) string {
	t.Helper()
	h := c.handleOf(t, verbOpen, name, uint32(flagWrite|flagCreate|flagExcl), attributes{})
	c.want(t, codeOK, verbWrite, h, uint64(0), data)
	return h
}

// Kinds of targets in TestEveryVerb.
const (
	finished    = "finished"
	temporary   = "temporary"
	missing     = "missing"
	missingTemp = "missing temporary"
	directory   = "directory"
	top         = "root"
	tempTop     = "tmp"
	invalid     = "invalid"
	throughLink = "through a link"
	link        = "link"
	tempLink    = "temporary link"
)

var targets = map[string][]string{
	finished:    {"packs/aa/f", "/packs/aa/f", "config"},
	temporary:   {"tmp/old", "/tmp/old"},
	missing:     {"packs/aa/new", "/etc/passwd", "meta/bb/new", "snapshots"},
	missingTemp: {"tmp/new", "/tmp/UPPER.lower_1-2"},
	directory:   {"packs", "/packs/aa/"},
	top:         {"", ".", "/"},
	tempTop:     {"tmp", "/tmp/"},
	throughLink: {"out/f", "/out/new", "in/aa/f", "in/aa/new", "file/x"},
	link:        {"out", "in", "file", "packs/aa/dangling"},
	tempLink:    {"tmp/link"},
	invalid: {"..", "../secret", "/../secret", "packs/../config", "packs/../../secret", "packs/aa/../../../secret", "tmp/../config", "tmp/..", "tmp/../../secret", "./config", "packs/./aa/f",
		"packs//aa/f", "//config", "config\x00", "packs/a\x00b", "\x00", "packs\\aa\\f", "..\\secret", "C:\\x", "tmp/a/b", "tmp//a", "tmp/.", "tmp/.hidden", "tmp/a b", "tmp/a\\b", "tmp/\x00",
		"packs/AA", "FOREIGN", "UPPER/f", "packs/.x", ".x", "packs/x.", "packs/x.tmp", "packs/ä", "packs/\xff", "packs/a b", "packs/a\n", "~", "~/x", "$HOME", "*",
		strings.Repeat("a", 256), "tmp/" + strings.Repeat("a", 201), strings.Repeat("a/", 2000) + "a", strings.Repeat("../", 2000) + "etc/passwd"},
}

// codes are what a verb answers for each kind of target; those not named are denied.
type codes map[string]uint32

// except returns c with other codes for some kinds.
func (c codes) except(other codes) codes {
	c = maps.Clone(c)
	maps.Copy(c, other)
	return c
}

// TestEveryVerb asks for everything about everything.
func TestEveryVerb(t *testing.T) {
	type call struct {
		name   string
		verb   verb
		fields func(target string) []any
		want   codes
		full   codes // where it may delete, if that differs
	}
	path := func(more ...any) func(string) []any {
		return func(p string) []any { return append([]any{p}, more...) }
	}
	through := codes{throughLink: codeFailure}
	look := codes{finished: 0, temporary: 0, missing: codeNoSuchFile, missingTemp: codeNoSuchFile, directory: 0, top: 0, tempTop: 0, throughLink: codeFailure, link: 0, tempLink: 0}
	read := look.except(codes{directory: codeFailure, top: codeFailure, tempTop: codeFailure, link: codeFailure, tempLink: codeFailure})
	list := look.except(codes{finished: codeFailure, temporary: codeFailure, link: codeFailure, tempLink: codeFailure})
	all := func(code uint32) codes {
		c := codes{}
		for kind := range targets {
			c[kind] = code
		}
		return c
	}
	valid := func(code uint32) codes {
		c := all(code)
		delete(c, invalid)
		return c
	}
	attrs := through.except(codes{missing: codeNoSuchFile, missingTemp: codeNoSuchFile})
	from := codes{temporary: 0, missingTemp: codeNoSuchFile, tempLink: codeFailure}
	to := codes{finished: codeFailure, temporary: codeFailure, missing: 0, missingTemp: 0, directory: codeFailure, throughLink: codeFailure, link: codeFailure, tempLink: codeFailure}
	calls := []call{
		{"stat", verbStat, path(), look, nil},
		{"lstat", verbLstat, path(), look, nil},
		{"opendir", verbOpendir, path(), list, nil},
		{"remove", verbRemove, path(), codes{temporary: 0, missingTemp: codeNoSuchFile, tempLink: codeFailure},
			codes{temporary: 0, missingTemp: codeNoSuchFile, tempLink: codeFailure, finished: 0, missing: codeNoSuchFile, throughLink: codeFailure}},
		{"mkdir", verbMkdir, path(attributes{flags: attrMode}), codes{finished: codeFailure, missing: 0, directory: codeFailure, tempTop: codeFailure, throughLink: codeFailure, link: codeFailure}, nil},
		{"rmdir", verbRmdir, path(), codes{}, nil},
		{"readlink", verbReadlink, path(), all(codeUnsupported), nil},
		{"symlink from", verbSymlink, path("packs/aa/new2"), all(codeUnsupported), nil},
		{"symlink to", verbSymlink, func(p string) []any { return []any{"/etc/passwd", p} }, all(codeUnsupported), nil},
		{"statvfs", verbStatVFS, path(), valid(0), nil},
		{"setstat nothing", verbSetstat, path(attributes{}), attrs, nil},
		{"setstat size", verbSetstat, path(attributes{flags: attrSize}), attrs, nil},
		{"setstat owner", verbSetstat, path(attributes{flags: attrOwner}), attrs, nil},
		{"setstat mode", verbSetstat, path(attributes{flags: attrMode}), attrs, nil},
		{"setstat times", verbSetstat, path(attributes{flags: attrTimes}), attrs, nil},
		{"unknown extension", "nonsense@example.com", path(), all(codeUnsupported), nil},
		{"lsetstat", "lsetstat@openssh.com", path(attributes{flags: attrMode}), all(codeUnsupported), nil},
		{"copy-data", "copy-data", path(), all(codeUnsupported), nil},
		{"rename from", verbRename, path("packs/aa/new2"), from, nil},
		{"rename to", verbRename, func(p string) []any { return []any{"tmp/src", p} }, to, nil},
		{"rename finished to", verbRename, func(p string) []any { return []any{"packs/aa/g", p} }, codes{}, nil},
		{"rename directory to", verbRename, func(p string) []any { return []any{"packs", p} }, codes{}, nil},
		{"posix-rename from", verbPosixRename, path("packs/aa/new2"), from, nil},
		{"posix-rename to", verbPosixRename, func(p string) []any { return []any{"tmp/src", p} },
			to.except(codes{finished: codeDenied, directory: codeDenied, link: codeDenied}), to.except(codes{finished: 0})},
		{"posix-rename finished to", verbPosixRename, func(p string) []any { return []any{"packs/aa/g", p} }, codes{}, nil},
		{"hardlink from", verbHardlink, path("packs/aa/new2"), from, nil},
		{"hardlink to", verbHardlink, func(p string) []any { return []any{"tmp/src", p} }, to, nil},
		{"hardlink finished to", verbHardlink, func(p string) []any { return []any{"packs/aa/g", p} }, codes{}, nil},
		{"fsync", verbFsync, path(), all(codeFailure), nil}, // no handle
		{"close", verbClose, path(), all(codeFailure), nil},
	}
	for flags := range uint32(128) {
		if testing.Short() && flags >= 8 && flags != 0x1a && flags != 0x2b {
			continue
		}
		want := codes{} // all denied
		switch {
		case flags == flagRead:
			want = read
		case flags&flagAppend != 0:
			want = valid(codeUnsupported)
		case flags&(flagWrite|flagCreate) == flagWrite|flagCreate && flags < 64:
			want = codes{temporary: codeFailure, missingTemp: 0, tempLink: codeFailure}
		}
		calls = append(calls, call{fmt.Sprintf("open %#x", flags), verbOpen, path(flags, attributes{flags: attrMode}), want, nil})
	}
	for _, o := range []Options{{AppendOnly: true}, {}} {
		t.Run(fmt.Sprintf("append-only %v", o.AppendOnly), func(t *testing.T) {
			t.Parallel()
			var dir string
			var c *client
			var before map[string]string
			for _, call := range calls {
				for kind, paths := range targets {
					for _, p := range paths {
						if dir == "" {
							dir = folder(t)
							c = start(t, dir, o, quick())
							before = tree(t, dir)
						}
						want, ok := call.want[kind]
						if call.full != nil && !o.AppendOnly {
							want, ok = call.full[kind]
						}
						if !ok {
							want = codeDenied
						}
						if call.verb == verbMkdir && p == "meta/bb/new" {
							want = codeNoSuchFile // its parent is missing
						}
						if call.verb == verbMkdir && p == "/etc/passwd" {
							want = codeNoSuchFile
						}
						code, body := c.ask(t, call.verb, call.fields(p)...)
						if code != want {
							t.Errorf("%s %.60q (%s): code %d %.200q, want %d", call.name, p, kind, code, body, want)
						}
						after := tree(t, dir)
						if maps.Equal(before, after) {
							if d := (decoder{rest: body}); code == 0 && (call.verb == verbOpen || call.verb == verbOpendir) {
								c.want(t, codeOK, verbClose, d.str())
							}
							continue
						}
						if code != 0 || call.verb == verbStat || call.verb == verbStatVFS {
							t.Errorf("%s %.60q (%s) was refused, and changed something", call.name, p, kind)
						}
						if o.AppendOnly || kind != finished {
							finishedUnchanged(t, before, after)
						}
						dir = "" // make another one
					}
				}
			}
		})
	}
}

// TestRealpath: paths are told, whatever is there.
func TestRealpath(t *testing.T) {
	c := start(t, folder(t), Options{}, quick())
	for in, want := range map[string]string{"": "/", ".": "/", "/": "/", "..": "/", "../../etc": "/etc", "packs/../tmp": "/tmp", "/a//b/": "/a/b", "out": "/out"} {
		d := decoder{rest: c.want(t, codeOK, verbRealpath, in)}
		if n, got := d.u32(), d.str(); n != 1 || got != want {
			t.Errorf("%q is %d %q, want %q", in, n, got, want)
		}
	}
	c.want(t, codeDenied, verbRealpath, "a\x00b")
	c.want(t, codeDenied, verbRealpath, strings.Repeat("a", 5000))
}

// TestHandles: what each kind of handle can do, before and after its file got a name.
func TestHandles(t *testing.T) {
	dir := folder(t)
	c := start(t, dir, Options{AppendOnly: true}, quick())
	reading := c.handleOf(t, verbOpen, "packs/aa/f", uint32(flagRead), attributes{})
	listing := c.handleOf(t, verbOpendir, "packs")
	linked := c.creates(t, "tmp/linked", "linked")
	renamed := c.creates(t, "tmp/renamed", "renamed")
	both := c.handleOf(t, verbOpen, "tmp/both", uint32(flagRead|flagWrite|flagCreate|flagTrunc), attributes{})
	c.want(t, codeOK, verbHardlink, "tmp/linked", "packs/aa/linked")
	c.want(t, codeOK, verbRename, "tmp/renamed", "packs/aa/renamed")
	moved := c.creates(t, "tmp/moved", "moved")
	c.want(t, codeOK, verbRename, "tmp/moved", "tmp/moved2")
	gone := c.creates(t, "tmp/gone", "gone")
	c.want(t, codeOK, verbRemove, "tmp/gone")
	before := tree(t, dir)

	for _, h := range []string{reading, listing, linked, renamed, "", "99", "-1", "1\x00"} {
		want := uint32(codeDenied)
		if h == "" || h == "99" || h == "-1" || h == "1\x00" {
			want = codeFailure
		}
		c.want(t, want, verbWrite, h, uint64(0), "overwritten")
		c.want(t, want, verbWrite, h, uint64(100), "appended")
		for _, a := range []uint32{0, attrSize, attrMode, attrOwner, attrTimes, attrSize | attrTimes} {
			c.want(t, want, verbFsetstat, h, attributes{flags: a})
		}
	}
	c.want(t, codeDenied, verbSetstat, "tmp/linked", attributes{flags: attrSize})
	c.want(t, codeDenied, verbSetstat, "packs/aa/linked", attributes{flags: attrSize})
	c.want(t, codeFailure, verbOpen, "tmp/linked", uint32(flagWrite|flagCreate), attributes{})
	c.want(t, codeDenied, verbOpen, "tmp/linked", uint32(flagWrite|flagTrunc), attributes{})
	c.want(t, codeOK, verbFsync, linked)
	c.want(t, codeOK, verbFsync, renamed)
	c.want(t, codeDenied, verbFsync, reading)
	c.want(t, codeDenied, verbFsync, listing)
	c.want(t, codeFailure, verbFsync, "99")
	c.want(t, codeDenied, verbRead, linked, uint64(0), uint32(10))
	c.want(t, codeDenied, verbRead, listing, uint64(0), uint32(10))
	c.want(t, codeFailure, verbReaddir, reading)
	c.want(t, codeOK, verbFstat, reading)
	c.want(t, codeOK, verbFstat, linked)
	c.want(t, codeOK, verbFstat, listing)
	if after := tree(t, dir); !maps.Equal(before, after) {
		t.Error("something changed")
	}

	// Those that are no finished files can be written, one without any name to no purpose.
	for _, h := range []string{both, moved, gone} {
		c.want(t, codeOK, verbWrite, h, uint64(0), "0123456789")
		c.want(t, codeOK, verbFsetstat, h, attributes{flags: attrMode})
		c.want(t, codeDenied, verbFsetstat, h, attributes{flags: attrTimes})
		c.want(t, codeDenied, verbFsetstat, h, attributes{flags: attrSize | attrOwner})
		c.want(t, codeOK, verbFsetstat, h, attributes{flags: attrSize, size: 4})
		c.want(t, codeOK, verbFsync, h)
		c.want(t, codeOK, verbWrite, h, uint64(backends.MaxObject-1), "x")
		c.want(t, codeFailure, verbWrite, h, uint64(backends.MaxObject), "x")
		c.want(t, codeFailure, verbFsetstat, h, attributes{flags: attrSize, size: backends.MaxObject + 1})
		c.want(t, codeOK, verbFsetstat, h, attributes{flags: attrSize, size: 4})
		c.want(t, codeFailure, verbWrite, h, uint64(1<<62), "far away")
		c.want(t, codeFailure, verbWrite, h, uint64(1<<63), "beyond")
		c.want(t, codeFailure, verbFsetstat, h, attributes{flags: attrSize, size: 1 << 63})
	}
	c.want(t, codeOK, verbSetstat, "tmp/both", attributes{flags: attrSize, size: 2})
	if d := (decoder{rest: c.want(t, codeOK, verbRead, both, uint64(0), uint32(10))}); d.str() != "01" {
		t.Error("what was written is not read")
	}
	c.want(t, codeEOF, verbRead, both, uint64(2), uint32(10))
	c.want(t, codeEOF, verbRead, both, uint64(1<<63), uint32(10))
	for name, want := range map[string]string{"packs/aa/linked": "linked", "packs/aa/renamed": "renamed", "tmp/moved2": "0123"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "tmp/gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("tmp/gone: %v", err)
	}
	for _, h := range []string{reading, listing, linked, renamed, both, moved, gone} {
		c.want(t, codeOK, verbClose, h)
		c.want(t, codeFailure, verbClose, h)
	}
}

// TestOtherConnections: a temporary file that one connection writes is nobody else's; when its handle is closed, it is everybody's.
func TestOtherConnections(t *testing.T) {
	dir := folder(t)
	a, b := start(t, dir, Options{}, quick()), start(t, dir, Options{}, quick())
	h := a.creates(t, "tmp/x", "a's")
	for _, v := range []verb{verbRename, verbPosixRename, verbHardlink} {
		b.want(t, codeFailure, v, "tmp/x", "packs/aa/x")
	}
	b.want(t, codeFailure, verbRemove, "tmp/x")
	b.want(t, codeFailure, verbOpen, "tmp/x", uint32(flagWrite|flagCreate|flagTrunc), attributes{})
	b.want(t, codeDenied, verbSetstat, "tmp/x", attributes{flags: attrSize})
	reading := b.handleOf(t, verbOpen, "tmp/x", uint32(flagRead), attributes{})
	b.want(t, codeFailure, verbPosixRename, "tmp/old", "tmp/x")
	a.want(t, codeOK, verbWrite, h, uint64(3), " bytes")
	a.want(t, codeOK, verbClose, h)
	b.want(t, codeOK, verbHardlink, "tmp/x", "packs/aa/x")
	b.want(t, codeOK, verbHardlink, "tmp/x", "packs/aa/y")
	b.want(t, codeOK, verbRemove, "tmp/x")
	if d := (decoder{rest: b.want(t, codeOK, verbRead, reading, uint64(0), uint32(100))}); d.str() != "a's bytes" {
		t.Error("wrong bytes")
	}
	if text, err := os.ReadFile(filepath.Join(dir, "packs/aa/x")); err != nil || string(text) != "a's bytes" {
		t.Errorf("%q, %v", text, err)
	}
	// The name may be used again.
	a.creates(t, "tmp/x", "another")
}

// TestRace: of many that give one name at once, one wins, and nobody's bytes change.
func TestRace(t *testing.T) {
	dir := folder(t)
	const clients, rounds = 8, 20
	var cs [clients]*client
	for i := range cs {
		cs[i] = start(t, dir, Options{AppendOnly: true}, quick())
	}
	for round := range rounds {
		name := fmt.Sprintf("meta/%02d/new/f", round)
		var wins [clients]bool
		var wg sync.WaitGroup
		for i, c := range cs {
			wg.Go(func() {
				temp := fmt.Sprintf("tmp/race-%d-%d", round, i)
				h := c.creates(t, temp, fmt.Sprint(i))
				v := []verb{verbHardlink, verbRename, verbPosixRename}[(i+round)%3]
				code, _ := c.ask(t, v, temp, name)
				wins[i] = code == codeOK
				if refusal := map[verb]uint32{verbHardlink: codeFailure, verbRename: codeFailure, verbPosixRename: codeDenied}[v]; !wins[i] && code != refusal {
					t.Errorf("%s: code %d", v, code)
				}
				c.want(t, codeDenied, verbWrite, h, uint64(0), "late")
				c.want(t, codeOK, verbClose, h)
			})
		}
		wg.Wait()
		winner := slices.Index(wins[:], true)
		if winner < 0 || slices.Contains(wins[winner+1:], true) {
			t.Fatalf("winners: %v", wins)
		}
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != fmt.Sprint(winner) {
			t.Errorf("%d won, and the file holds %q, %v", winner, b, err)
		}
	}
}

// TestClaim: a file whose name was taken away before it was locked is not taken for what has the name now.
func TestClaim(t *testing.T) {
	dir := folder(t)
	s, err := newSession(dir, Options{}, quick())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	old := target{kindTemporary, "tmp/old"}
	for what, change := range map[string]func() error{
		"replaced": func() error { return os.Rename(filepath.Join(dir, "tmp/src"), filepath.Join(dir, "tmp/old")) },
		"removed":  func() error { return os.Remove(filepath.Join(dir, "tmp/old")) },
	} {
		if _, err := os.Lstat(filepath.Join(dir, "tmp/old")); err != nil {
			if err := os.WriteFile(filepath.Join(dir, "tmp/old"), nil, 0o400); err != nil {
				t.Fatal(err)
			}
		}
		f, err := s.openPlain(old, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if err := s.claim(f, old); err != errBusy {
			t.Errorf("%s: %v", what, err)
		}
		f.Close()
	}
}

// TestTheft: two connections of one client that try to write to a file after it got its name, by every order of what they can do.
func TestTheft(t *testing.T) {
	dir := folder(t)
	a, b := start(t, dir, Options{AppendOnly: true}, quick()), start(t, dir, Options{AppendOnly: true}, quick())
	var wg sync.WaitGroup
	end := time.Now().Add(time.Second)
	wg.Go(func() { // creates, and writes as long as it may
		for i := 0; time.Now().Before(end); i++ {
			code, body := a.ask(t, verbOpen, "tmp/t", uint32(flagWrite|flagCreate), attributes{})
			if code != 0 {
				continue
			}
			d := decoder{rest: body}
			h := d.str()
			for range 5 {
				a.ask(t, verbWrite, h, uint64(0), fmt.Sprint(i))
			}
			if i%2 == 0 {
				a.ask(t, verbRemove, "tmp/t")
			}
			a.ask(t, verbWrite, h, uint64(0), fmt.Sprint(i))
			a.ask(t, verbClose, h)
		}
	})
	seen := map[string]string{}
	wg.Go(func() { // gives names, and remembers what had them
		for i := 0; time.Now().Before(end); i++ {
			name := fmt.Sprintf("stolen/%d", i)
			if code, _ := b.ask(t, []verb{verbRename, verbHardlink}[i%2], "tmp/t", name); code == 0 {
				text, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Error(err)
				}
				seen[name] = string(text)
			}
			b.ask(t, verbRemove, "tmp/t")
		}
	})
	wg.Wait()
	if len(seen) == 0 {
		t.Error("nothing was stolen: the test shows nothing")
	}
	for name, text := range seen {
		if now, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(now) != text {
			t.Errorf("%s was %q and is %q, %v", name, text, now, err)
		}
	}
}

// TestList: what clients see of a folder.
func TestList(t *testing.T) {
	dir := folder(t)
	for i := range 250 {
		if err := os.WriteFile(filepath.Join(dir, "packs/aa", fmt.Sprintf("n%d", i)), nil, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	c := start(t, dir, Options{}, quick())
	for path, want := range map[string]int{"/": 6, "packs": 1, "packs/aa": 253, "tmp": 3} { // links are shown as what they are
		h := c.handleOf(t, verbOpendir, path)
		var names []string
		for {
			code, body := c.ask(t, verbReaddir, h)
			if code == codeEOF {
				break
			}
			d := decoder{rest: body}
			for n := d.u32(); n > 0 && !d.short; n-- {
				names = append(names, d.str())
				d.str()
				d.attributes(new(request))
			}
			if code != 0 || d.short || len(d.rest) > 0 {
				t.Fatalf("%s: code %d, %d bytes too many", path, code, len(d.rest))
			}
		}
		slices.Sort(names)
		if n := len(slices.Compact(names)); n != want || slices.Contains(names, "FOREIGN") || slices.Contains(names, "..") {
			t.Errorf("%s holds %d names, want %d: %.200q", path, n, want, names)
		}
	}
}

// TestPkgSFTP: the ordinary client, with the system's fsync.
func TestPkgSFTP(t *testing.T) {
	dir := t.TempDir()
	here, there := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Run(context.Background(), dir, there, Options{AppendOnly: true, Quota: 1 << 30}) }()
	c, err := sftp.NewClientPipe(here, here, sftp.UseConcurrentWrites(true))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range extensions {
		if v, ok := c.HasExtension(e[0]); !ok || v != e[1] {
			t.Errorf("%s: %q, %v", e[0], v, ok)
		}
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	for i, give := range []func(from, to string) error{c.Rename, c.PosixRename, c.Link} {
		temp, name := fmt.Sprintf("tmp/T%d", i), fmt.Sprintf("packs/a%d/f", i)
		f, err := c.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := f.ReadFromWithConcurrency(bytes.NewReader(data), 8); err != nil || n != int64(len(data)) {
			t.Fatal(n, err)
		}
		if err := errors.Join(f.Chmod(0o400), f.Sync()); err != nil {
			t.Fatal(err)
		}
		if err := give(temp, name); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Error(err)
		}
		got, err := c.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := got.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), data) {
			t.Errorf("%d bytes, %v", b.Len(), err)
		}
		got.Close()
		if err := give(temp, name); err == nil {
			t.Error("given twice")
		}
		for what, err := range map[string]error{
			"remove": c.Remove(name), "chmod": c.Chmod(name, 0o777), "truncate": c.Truncate(name, 0), "touch": c.Chtimes(name, time.Now(), time.Now()),
			"rename": c.Rename(name, name+"2"), "link": c.Link(name, name+"2"), "symlink": c.Symlink(name, name+"2"), "rmdir": c.RemoveDirectory("packs"),
		} {
			if err == nil {
				t.Errorf("%s is allowed", what)
			} else if errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", what, err)
			}
		}
		for _, flags := range []int{os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREATE, os.O_WRONLY | os.O_APPEND} {
			if f, err := c.OpenFile(name, flags); err == nil {
				f.Close()
				t.Errorf("opened with %#x", flags)
			}
		}
	}
	if err := c.MkdirAll("meta/ab"); err != nil {
		t.Error(err)
	}
	if info, err := c.Stat("packs/a0/f"); err != nil || info.Size() != int64(len(data)) || info.Mode() != fileMode || time.Since(info.ModTime()) > time.Minute {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := c.Stat("packs/a0/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	var walked []string
	for w := c.Walk("/"); w.Step(); {
		if err := w.Err(); err != nil {
			t.Fatal(err)
		}
		walked = append(walked, w.Path())
	}
	slices.Sort(walked)
	if want := []string{"/", "/meta", "/meta/ab", "/packs", "/packs/a0", "/packs/a0/f", "/packs/a1", "/packs/a1/f", "/packs/a2", "/packs/a2/f", "/tmp", "/tmp/T2"}; !slices.Equal(walked, want) {
		t.Errorf("%q", walked)
	}
	if v, err := c.StatVFS("/"); err != nil || v.Blocks*v.Frsize > 1<<30 || v.Bavail*v.Frsize > 1<<30-3*uint64(len(data)) || v.Bavail == 0 {
		t.Errorf("%+v, %v", v, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the end of a client: %v", err)
	}
}

// TestRubbish: what is no SFTP ends the connection, what is half right is answered, and nothing of it costs memory.
func TestRubbish(t *testing.T) {
	init := []byte{0, 0, 0, 5, typeInit, 0, 0, 0, 3}
	for name, stream := range map[string][]byte{
		"nothing at all":   {},
		"HTTP":             []byte("GET / HTTP/1.1\r\n\r\n"),
		"too long":         append(slices.Clone(init), 0xff, 0xff, 0xff, 0xff, 1),
		"just too long":    append(slices.Clone(init), 0, 4, 0, 1),
		"empty packet":     append(slices.Clone(init), 0, 0, 0, 0),
		"no id":            append(slices.Clone(init), 0, 0, 0, 2, 3, 0),
		"cut in a length":  append(slices.Clone(init), 0, 0),
		"cut in a packet":  append(slices.Clone(init), 0, 0, 0, 9, 3, 0),
		"no init":          packet(1, verbStat, "config"),
		"init of no bytes": {0, 0, 0, 1, typeInit},
	} {
		var out bytes.Buffer
		err := Run(t.Context(), t.TempDir(), &stream2{in: bytes.NewReader(stream), out: &out}, Options{AppendOnly: true})
		if wantErr := name != "nothing at all"; errors.Is(err, ErrProtocol) != wantErr || !wantErr && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if out.Len() > 200 {
			t.Errorf("%s: %d bytes of answers", name, out.Len())
		}
	}
	c := start(t, folder(t), Options{}, quick())
	for _, body := range [][]byte{
		{3, 0, 0, 0, 1}, {3, 0, 0, 0, 1, 0, 0, 0, 9, 'x'}, {3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff}, {200, 0, 0, 0, 1}, {4, 0, 0, 0, 1, 0},
		{9, 0, 0, 0, 1, 0, 0, 0, 1, 'x', 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 0, 1}, {1, 0, 0, 0, 3}, {99, 0, 0, 0, 1, 5}, {255, 0, 0, 0, 1},
	} {
		c.send(t, append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
		if b := c.receive(t); b[0] != typeStatus || b[8] != codeBadMessage && b[8] != codeUnsupported {
			t.Errorf("% x: % x", body, b)
		}
	}
	for range maxHandles {
		c.handleOf(t, verbOpen, "config", uint32(flagRead), attributes{})
	}
	c.want(t, codeFailure, verbOpen, "config", uint32(flagRead), attributes{})
	c.want(t, codeFailure, verbOpen, "tmp/x", uint32(flagWrite|flagCreate), attributes{})
	c.want(t, codeFailure, verbOpendir, "packs")
	c.want(t, codeOK, verbClose, "1")
	c.want(t, codeOK, verbOpendir, "packs")
}

// stream2 is a connection whose client says everything at once.
type stream2 struct {
	in  io.Reader
	out io.Writer
}

func (s *stream2) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s *stream2) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s *stream2) Close() error                { return nil }

// TestContext: its end ends a server that waits for a request, or for its answer to be taken.
func TestContext(t *testing.T) {
	for name, flood := range map[string]bool{"waiting for requests": false, "waiting for a reader": true} {
		t.Run(name, func(t *testing.T) {
			var files [4]*os.File // what the server reads, its other end, what it writes to, its other end
			var err error
			if files[0], files[1], err = os.Pipe(); err == nil {
				files[3], files[2], err = os.Pipe()
			}
			if err != nil {
				t.Fatal(err)
			}
			conn, err := Stdio(files[0], files[2])
			if err != nil {
				t.Fatal(err)
			}
			defer files[1].Close()
			defer files[3].Close()
			ctx, cancel := context.WithCancelCause(context.Background())
			done := make(chan error, 1)
			dir := folder(t)
			go func() { done <- Run(ctx, dir, conn, Options{}) }()
			if flood {
				big := bytes.Repeat(packet(1, verbRealpath, strings.Repeat("a", 4000)), 10)
				stream := append([]byte{0, 0, 0, 5, typeInit, 0, 0, 0, 3}, bytes.Repeat(big, 30)...)
				go files[1].Write(stream)
			}
			time.Sleep(100 * time.Millisecond)
			cause := errors.New("enough")
			cancel(cause)
			select {
			case err := <-done:
				if !errors.Is(err, cause) {
					t.Error(err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("it does not end")
			}
		})
	}
	if err := Run(t.Context(), filepath.Join(t.TempDir(), "none"), &stream2{in: strings.NewReader("")}, Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestGone: a folder that was taken away is not an empty one.
func TestGone(t *testing.T) {
	dir := folder(t)
	c := start(t, dir, Options{}, quick())
	h := c.creates(t, "tmp/x", "x")
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c.want(t, codeFailure, verbStat, "packs/aa/none")
		c.want(t, codeFailure, verbOpen, "tmp/y", uint32(flagWrite|flagCreate), attributes{})
		c.want(t, codeFailure, verbHardlink, "tmp/x", "packs/aa/x")
		c.want(t, codeFailure, verbMkdir, "meta", attributes{})
		if err := os.MkdirAll(dir, 0o700); err != nil { // as an empty mount point
			t.Fatal(err)
		}
	}
	c.want(t, codeOK, verbClose, h)
}

// TestNoLocks: on a file system that locks no file that is open for reading alone, as NFS, nobody knows whether an old temporary file has a writer. It
// stays, and the folder is served.
func TestNoLocks(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EBADF, syscall.ENOLCK, syscall.EOPNOTSUPP} {
		dir := folder(t)
		long := time.Now().Add(-48 * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, "tmp/old"), long, long); err != nil {
			t.Fatal(err)
		}
		o := quick()
		o.lock = func(*os.File) error { return errno }
		c := start(t, dir, Options{}, o)
		c.want(t, codeOK, verbLstat, "tmp/old")
		if code, _ := c.ask(t, verbRename, "tmp/old", "packs/aa/old"); code != codeFailure && code != codeUnsupported {
			t.Errorf("%v: giving a name: code %d", errno, code)
		}
	}
}
