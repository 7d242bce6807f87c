package restore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/localfs"
	"packhold/repo/restore"
	"packhold/repo/snapshot"
)

// The keys of a node, as format 1 numbers them.
const (
	kName = iota + 1
	kType
	kMode
	kUID
	kGID
	kUser
	kGroup
	kSize
	kMTime
	_
	_
	_
	kInode
	_
	kLinks
	kTarget
	kRdev
	kFlags
	kXAttrs
	kXAttrBlob
	kInline
	kExtents
	kExtentBlobs
	kSubtree
)

// The writer of CBOR that lies.
func head(major byte, n uint64) []byte {
	switch m := major << 5; {
	case n < 24:
		return []byte{m | byte(n)}
	case n <= math.MaxUint8:
		return []byte{m | 24, byte(n)}
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16([]byte{m | 25}, uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32([]byte{m | 26}, uint32(n))
	default:
		return binary.BigEndian.AppendUint64([]byte{m | 27}, n)
	}
}

func num(n uint64) []byte     { return head(0, n) }
func text(s string) []byte    { return append(head(2, uint64(len(s))), s...) }
func hash(id crypt.ID) []byte { return text(string(id[:])) }

func list(items ...[]byte) []byte {
	return slices.Concat(append([][]byte{head(4, uint64(len(items)))}, items...)...)
}

// rawNode is a node's fields, encoded, by their keys.
type rawNode map[uint64][]byte

func (n rawNode) with(pairs ...any) rawNode {
	out := maps.Clone(n)
	for i := 0; i < len(pairs); i += 2 {
		if b, ok := pairs[i+1].([]byte); ok && b != nil {
			out[uint64(pairs[i].(int))] = b
		} else {
			delete(out, uint64(pairs[i].(int)))
		}
	}
	return out
}

func (n rawNode) encode() []byte {
	b := head(5, uint64(len(n)))
	for _, k := range slices.Sorted(maps.Keys(n)) {
		b = append(append(b, num(k)...), n[k]...)
	}
	return b
}

func leaf(nodes ...rawNode) []byte {
	var items [][]byte
	for _, n := range nodes {
		items = append(items, n.encode())
	}
	return list(num(1), list(items...))
}

func branch(children ...[]byte) []byte { return list(num(2), list(children...)) }

func child(first string, id crypt.ID, count uint64) []byte {
	return list(text(first), hash(id), num(count))
}

func owned(n rawNode) rawNode {
	if uid := os.Getuid(); uid > 0 {
		n[kUID], n[kGID] = num(uint64(uid)), num(uint64(os.Getgid()))
	}
	return n
}

func rawFile(name string) rawNode {
	return owned(rawNode{kName: text(name), kType: num(1), kMode: num(0o644), kSize: num(4), kMTime: list(num(1e9), num(0)), kInline: text("evil")})
}

func rawDir(name string, sub crypt.ID) rawNode {
	return owned(rawNode{kName: text(name), kType: num(2), kMode: num(0o755), kMTime: list(num(1e9), num(0)), kSubtree: hash(sub)})
}

func rawLink(name, target string) rawNode {
	return owned(rawNode{kName: text(name), kType: num(3), kMode: num(0o777), kMTime: list(num(1e9), num(0)), kTarget: text(target)})
}

func rawFIFO(name string) rawNode {
	return owned(rawNode{kName: text(name), kType: num(4), kMode: num(0o600), kMTime: list(num(1e9), num(0))})
}

// crafted is a tree that somebody with a key made to do harm.
type crafted struct {
	name string
	root crypt.ID
	good bool // a file "good" must come back all the same
	// what may come of it: a letter each of unsafe, lost, problems, or clean
	may string
	// what must not be below the destination
	not []string
}

// craft stores the trees of the corpus.
func craft(put, data func([]byte) crypt.ID) (all []crafted) {
	add := func(name, may string, good bool, page []byte, not ...string) {
		all = append(all, crafted{name, put(page), good, may, not})
	}
	good := rawFile("good")
	inner := put(leaf(rawFile("guard"), rawFile("precious")))

	// Names that lead elsewhere, of everything that has a name, on top and below, before and behind a good one.
	bad := []string{"..", ".", "", "/", "//", "/etc", "../guard", "a/../../guard", "guard/precious", "a\x00b", "\x00", "..\x00", "../", "a/", "./a", strings.Repeat("n", 4097)}
	for _, name := range bad {
		for kind, n := range map[string]rawNode{"file": rawFile(name), "dir": rawDir(name, inner), "link": rawLink(name, "/"), "fifo": rawFIFO(name),
			"twice": rawFile(name).with(kLinks, num(2), kInode, num(77))} {
			what := fmt.Sprintf("name %.20q %s", name, kind)
			add(what, "u", false, leaf(n))
			add(what+" beside", "u", true, leaf(good, rawDir("zz", put(leaf(n)))))
		}
	}
	// Names that one system or another takes for something else. Here they are names.
	for _, name := range []string{"...", "..x", "-rf", " ", "a\nb", "\x1b[2J", "\xff\xfe", "C:", "CON", "nul.txt", `..\x`, `a\b`, "trailing.", "trailing ", "~", "$HOME", "*", strings.Repeat("n", 255)} {
		add(fmt.Sprintf("odd name %.20q", name), "cp", true, leaf(sorted(rawFile(name), good)...))
	}
	add("name of 256 bytes", "p", true, leaf(good, rawFile(strings.Repeat("n", 256))))
	add("directory name of 4096 bytes", "p", true, leaf(good, rawDir(strings.Repeat("n", 4096), inner)))
	add("name of a leftover", "cp", true, leaf(sorted(good, rawFile(restore.Leftover("good")))...))

	// Directories whose list lies.
	add("same name twice", "u", false, leaf(rawFile("a"), rawFile("a")))
	add("link and directory of one name", "u", false, leaf(rawLink("a", "../guard"), rawDir("a", inner)), "a/guard")
	add("directory and link of one name", "u", false, leaf(rawDir("a", inner), rawLink("a", "../guard")))
	add("link, then a file in it by its name", "u", false, leaf(rawLink("a", "../guard"), rawFile("a/precious")))
	add("unsorted", "u", false, leaf(rawFile("b"), rawFile("a")))
	for kind, page := range map[string][]byte{
		"a zero byte":             {0},
		"text":                    []byte("no page at all"),
		"one byte":                {0x82},
		"tag 0":                   list(num(0), list()),
		"tag of extents":          list(num(3), list()),
		"tag of attributes":       list(num(4), list()),
		"tag 2^63":                list(num(1<<63), list()),
		"three items":             list(num(1), list(), num(0)),
		"trailing byte":           append(leaf(), 0),
		"trailing page":           append(leaf(), leaf()...),
		"2^32 nodes":              slices.Concat([]byte{0x82, 1}, head(4, 1<<32)),
		"2^63 nodes":              slices.Concat([]byte{0x82, 1}, head(4, 1<<63)),
		"65536 nodes":             slices.Concat([]byte{0x82, 1}, head(4, 65536), bytes.Repeat([]byte{0xa0}, 65536)),
		"fewer nodes than told":   slices.Concat([]byte{0x82, 1}, head(4, 2), rawFile("a").encode()),
		"indefinite array":        slices.Concat([]byte{0x82, 1, 0x9f}, rawFile("a").encode(), []byte{0xff}),
		"indefinite map":          {0x82, 1, 0x81, 0xbf, 0x01, 0x41, 'a', 0xff},
		"long head":               {0x82, 0x18, 1, 0x80},
		"nested arrays":           bytes.Repeat([]byte{0x81}, 1<<20),
		"nested maps":             bytes.Repeat([]byte{0xa1, 1}, 1<<19),
		"nested tags":             bytes.Repeat([]byte{0xc1}, 1<<20),
		"name of 2^63 bytes":      slices.Concat([]byte{0x82, 1, 0x81, 0xa1, 1}, head(2, 1<<63)),
		"name of 2^31 bytes":      slices.Concat([]byte{0x82, 1, 0x81, 0xa1, 1}, head(2, 1<<31), []byte("abc")),
		"name as text":            slices.Concat([]byte{0x82, 1, 0x81, 0xa2, 1, 0x61, 'a', 2, 1}),
		"name as number":          leaf(rawFile("a").with(kName, num(5))),
		"no name":                 leaf(rawFile("a").with(kName, nil)),
		"no type":                 leaf(rawFile("a").with(kType, nil)),
		"type 8":                  leaf(rawFile("a").with(kType, num(8))),
		"type 255":                leaf(rawFile("a").with(kType, num(255))),
		"type 2^32+1":             leaf(rawFile("a").with(kType, num(1<<32+1))),
		"unknown key":             leaf(rawFile("a").with(26, num(1))),
		"key 0":                   leaf(rawFile("a").with(0, num(1))),
		"key twice":               slices.Concat([]byte{0x82, 1, 0x81, 0xa2, 1, 0x41, 'a', 1, 0x41, 'b'}),
		"mode 2^32":               leaf(rawFile("a").with(kMode, num(1<<32))),
		"mode with type bits":     leaf(rawFile("a").with(kMode, num(0o100644))),
		"negative size":           leaf(rawFile("a").with(kSize, head(1, 3))),
		"uid 2^32":                leaf(rawFile("a").with(kUID, num(1<<32))),
		"user with NUL":           leaf(rawFile("a").with(kUser, text("ro\x00ot"))),
		"user of 2000 bytes":      leaf(rawFile("a").with(kUser, text(strings.Repeat("u", 2000)))),
		"nanoseconds over":        leaf(rawFile("a").with(kMTime, list(num(1), num(1e9)))),
		"no subtree":              leaf(rawDir("a", inner).with(kSubtree, nil)),
		"short subtree":           leaf(rawDir("a", inner).with(kSubtree, text("short"))),
		"zero subtree":            leaf(rawDir("a", inner).with(kSubtree, text(strings.Repeat("\x00", 32)))),
		"file with subtree":       leaf(rawFile("a").with(kSubtree, hash(inner))),
		"link with subtree":       leaf(rawLink("a", "/").with(kSubtree, hash(inner))),
		"directory with links":    leaf(rawDir("a", inner).with(kLinks, num(2))),
		"directory with content":  leaf(rawDir("a", inner).with(kInline, text("x"), kSize, num(1))),
		"link without target":     leaf(rawLink("a", "/").with(kTarget, nil)),
		"link with NUL":           leaf(rawLink("a", "/etc\x00/passwd")),
		"link of 65536 bytes":     leaf(rawLink("a", strings.Repeat("t", 65536))),
		"link with content":       leaf(rawLink("a", "/").with(kInline, text("x"), kSize, num(1))),
		"file with target":        leaf(rawFile("a").with(kTarget, text("/etc/passwd"))),
		"file with device":        leaf(rawFile("a").with(kRdev, num(1<<32|3))),
		"size over content":       leaf(rawFile("a").with(kSize, num(5))),
		"size under content":      leaf(rawFile("a").with(kSize, num(3))),
		"size 2^63":               leaf(rawFile("a").with(kSize, num(1<<63))),
		"size 2^64-1":             leaf(rawFile("a").with(kSize, num(math.MaxUint64))),
		"inline of 129 bytes":     leaf(rawFile("a").with(kSize, num(129), kInline, text(strings.Repeat("x", 129)))),
		"inline and extents":      leaf(rawFile("a").with(kExtents, list(list(num(2), num(4))))),
		"empty extent":            leaf(rawFile("a").with(kInline, nil, kExtents, list(list(num(2), num(0))))),
		"extents past the size":   leaf(rawFile("a").with(kInline, nil, kExtents, list(list(num(2), num(4)), list(num(2), num(1))))),
		"extents short of it":     leaf(rawFile("a").with(kInline, nil, kExtents, list(list(num(2), num(3))))),
		"extents overflow":        leaf(rawFile("a").with(kInline, nil, kExtents, list(list(num(2), num(math.MaxUint64)), list(num(2), num(5))))),
		"extent kind 9":           leaf(rawFile("a").with(kInline, nil, kExtents, list(list(num(9), num(4))))),
		"hole with a blob":        leaf(rawFile("a").with(kInline, nil, kExtents, list(list(num(2), num(4), hash(inner))))),
		"data without a blob":     leaf(rawFile("a").with(kInline, nil, kExtents, list(list(num(1), num(4))))),
		"data of 17 MiB":          leaf(rawFile("a").with(kInline, nil, kSize, num(17<<20), kExtents, list(list(num(1), num(17<<20), hash(inner))))),
		"1025 extents":            leaf(rawFile("a").with(kInline, nil, kSize, num(1025), kExtents, list(slices.Repeat([][]byte{list(num(2), num(1))}, 1025)...))),
		"2^32 extents":            leaf(rawFile("a").with(kInline, nil, kSize, num(1), kExtents, head(4, 1<<32))),
		"16385 extent blobs":      leaf(rawFile("a").with(kInline, nil, kExtentBlobs, list(slices.Repeat([][]byte{hash(inner)}, 16385)...))),
		"extent blobs and size 0": leaf(rawFile("a").with(kInline, nil, kSize, nil, kExtentBlobs, list(hash(inner)))),
		"attribute without name":  leaf(rawFile("a").with(kXAttrs, list(list(text(""), text("x"))))),
		"attribute twice":         leaf(rawFile("a").with(kXAttrs, list(list(text("user.a"), text("x")), list(text("user.a"), text("y"))))),
		"attribute with NUL":      leaf(rawFile("a").with(kXAttrs, list(list(text("user.a\x00b"), text("x"))))),
		"attribute of 5000 bytes": leaf(rawFile("a").with(kXAttrs, list(list(text("user.a"), text(strings.Repeat("x", 5000)))))),
		"attributes in two ways":  leaf(rawFile("a").with(kXAttrs, list(list(text("user.a"), text("x"))), kXAttrBlob, hash(inner))),
		"branch of nothing":       branch(),
		"branch without nodes":    branch(child("a", inner, 0)),
		"branch without page":     branch(child("a", crypt.ID{}, 1)),
		"branch to ..":            branch(child("..", inner, 2)),
		"branch unsorted":         branch(child("precious", inner, 2), child("guard", inner, 2)),
		"branch counts overflow":  branch(child("guard", inner, math.MaxUint64), child("precious", inner, 2)),
		"branch with wrong name":  branch(child("gua", inner, 2)),
		"branch with wrong count": branch(child("guard", inner, 3)),
		"branch to data":          branch(child("guard", data([]byte("these are bytes of a file")), 2)),
		"branch to itself again":  branch(child("guard", inner, 2), child("guardian", inner, 2)),
		"branch of nine levels": func() []byte {
			id := inner
			for range 9 {
				id = put(branch(child("guard", id, 2)))
			}
			return branch(child("guard", id, 2))
		}(),
	} {
		add("page: "+kind, "u", false, page)
		add("page below: "+kind, "u", true, leaf(good, rawDir("zz", put(page))))
	}

	// What a page may say and a file system need not like.
	for kind, x := range map[string]struct {
		may string
		n   rawNode
	}{
		"no such page":             {"l", rawDir("a", crypt.Sum([]byte("nowhere")))},
		"data for a page":          {"u", rawDir("a", data([]byte("bytes of a file")))},
		"no such blob":             {"l", rawFile("a").with(kInline, nil, kExtents, list(list(num(1), num(4), hash(crypt.Sum([]byte("none"))))))},
		"blob shorter":             {"l", rawFile("a").with(kInline, nil, kSize, num(9), kExtents, list(list(num(1), num(9), hash(data([]byte("short"))))))},
		"blob longer":              {"l", rawFile("a").with(kInline, nil, kExtents, list(list(num(1), num(4), hash(data([]byte("longer"))))))},
		"page for a blob":          {"lc", rawFile("a").with(kInline, nil, kSize, num(uint64(len(leaf(rawFile("guard"), rawFile("precious"))))), kExtents, list(list(num(1), num(uint64(len(leaf(rawFile("guard"), rawFile("precious"))))), hash(inner))))},
		"page for extents":         {"l", rawFile("a").with(kInline, nil, kExtentBlobs, list(hash(inner)))},
		"no such extents":          {"l", rawFile("a").with(kInline, nil, kExtentBlobs, list(hash(crypt.Sum([]byte("no extents")))))},
		"extents that name a page": {"lc", rawFile("a").with(kInline, nil, kSize, num(1<<40), kExtentBlobs, list(hash(put(list(num(3), list(list(num(2), num(1<<40))))))))},
		"extents short of a size":  {"l", rawFile("a").with(kInline, nil, kSize, num(1<<50), kExtentBlobs, list(hash(put(list(num(3), list(list(num(2), num(5))))))))},
		"extents over a size":      {"l", rawFile("a").with(kInline, nil, kSize, num(3), kExtentBlobs, list(hash(put(list(num(3), list(list(num(3), num(5))))))))},
		"16384 times one extents": {"l", rawFile("a").with(kInline, nil, kSize, num(1<<60), kExtentBlobs,
			list(slices.Repeat([][]byte{hash(put(list(num(3), list(list(num(2), num(7))))))}, 16384)...))},
		"hole of 2^63-1":          {"pc", rawFile("a").with(kInline, nil, kSize, num(1<<63-1), kExtents, list(list(num(2), num(1<<63-1))))},
		"zeros of 2^62":           {"p", rawFile("a").with(kInline, nil, kSize, num(1<<62), kExtents, list(list(num(3), num(1<<62))))},
		"hole of 2^62, then data": {"p", rawFile("a").with(kInline, nil, kSize, num(1<<62+5), kExtents, list(list(num(2), num(1<<62)), list(num(1), num(5), hash(data([]byte("bytes"))))))},
		"device 2^64-1":           {"p", rawFile("a").with(kType, num(6), kInline, nil, kSize, nil, kRdev, num(math.MaxUint64))},
		"device cut to null":      {"p", rawFile("a").with(kType, num(6), kInline, nil, kSize, nil, kRdev, num(1<<44|1<<32|3))},
		"block device":            {"pc", rawFile("a").with(kType, num(7), kInline, nil, kSize, nil, kRdev, num(8<<32))},
		"socket":                  {"c", rawFile("a").with(kType, num(5), kInline, nil, kSize, nil)},
		"nobody's set-id":         {"p", rawFile("a").with(kMode, num(0o6777), kUID, num(math.MaxUint32), kGID, num(math.MaxUint32))},
		"unknown user's set-id":   {"pc", rawFile("a").with(kMode, num(0o6777), kUID, num(4_000_000_000), kUser, text("no\x1buser"))},
		"flags of all":            {"pc", rawFile("a").with(kFlags, num(math.MaxUint32&^0x30))},
		"year 292 billion":        {"p", rawFile("a").with(kMTime, list(num(math.MaxInt64), num(0)))},
		"year -292 billion":       {"p", rawFile("a").with(kMTime, list(head(1, math.MaxInt64), num(0)))},
		"4 billion names":         {"c", rawFile("a").with(kLinks, num(math.MaxUint32), kInode, num(5))},
		"link to itself":          {"c", rawLink("a", "a")},
		"link out":                {"c", rawLink("a", "../guard/precious")},
		"link out, absolute":      {"c", rawLink("a", "/etc/passwd")},
		"link of 4095 bytes":      {"c", rawLink("a", strings.Repeat("t", 4095))},
		"link of 4096 bytes":      {"p", rawLink("a", strings.Repeat("t", 4096))},
		"link of escapes":         {"c", rawLink("a", "\x1b]0;title\x07\n\xff")},
		"attributes for a page":   {"p", rawFile("a").with(kXAttrBlob, hash(inner))},
		"no such attributes":      {"p", rawFile("a").with(kXAttrBlob, hash(crypt.Sum([]byte("no attributes"))))},
	} {
		add("entry: "+kind, x.may, true, leaf(x.n, good))
	}
	for _, attr := range []string{"system.evil", "security.selinux", "security.ima", "security.capability", "trusted.overlay.opaque", "user.", "user", "nothing.known",
		"com.apple.quarantine", "system.posix_acl_access", "system.posix_acl_default", "btrfs.compression", "user./../x", "user.\xff\n", strings.Repeat("user.", 200)} {
		add(fmt.Sprintf("attribute %.24q", attr), "pc", true, leaf(rawFile("a").with(kXAttrs, list(list(text(attr), text("\x00\x01garbage")))), good))
		add(fmt.Sprintf("directory attribute %.24q", attr), "pc", true, leaf(rawDir("a", inner).with(kXAttrs, list(list(text(attr), text("\x00\x01garbage")))), good))
	}

	// Names of one file that are not.
	one := func(n rawNode) rawNode { return n.with(kLinks, num(3), kInode, num(9)) }
	add("one inode: link and file", "c", true, leaf(one(rawLink("a", "../guard/precious")), one(rawFile("b")), good))
	add("one inode: two links", "c", true, leaf(one(rawLink("a", "../guard/precious")), one(rawLink("b", "../../etc")), good))
	add("one inode: other contents", "c", true, leaf(one(rawFile("a")), one(rawFile("b").with(kInline, text("more"))), good))
	add("one inode: first one lost", "l", true, leaf(one(rawFile("a").with(kInline, nil, kExtents, list(list(num(1), num(4), hash(crypt.Sum([]byte("none"))))))), one(rawFile("b")), good))
	add("one inode: first one refused", "p", true, leaf(one(rawFile("a").with(kType, num(6), kInline, nil, kSize, nil, kRdev, num(math.MaxUint64))),
		one(rawFile("b").with(kType, num(6), kInline, nil, kSize, nil, kRdev, num(1<<32|3))), good))
	add("one inode: below a file", "c", true, leaf(one(rawFile("a")), rawDir("b", put(leaf(one(rawFile("guard"))))), good))

	// Trees that are too deep or too many.
	id := put(leaf(rawFile("bottom")))
	for range snapshot.MaxDepth + 20 {
		id = put(leaf(rawDir("d", id)))
	}
	add("deep", "u", true, leaf(sorted(rawDir("deep", id), good)...))
	id = put(leaf(rawFile("bottom")))
	for range 300 {
		id = put(leaf(rawDir(strings.Repeat("n", 4000), id)))
	}
	add("paths of 1.2 MB", "up", true, leaf(sorted(rawDir("deep", id), good)...))
	return all
}

// sorted puts nodes into the order of their names.
func sorted(nodes ...rawNode) []rawNode {
	name := func(n rawNode) string {
		b := n[kName]
		switch {
		case b[0] < 0x58: // fewer than 24 bytes
			return string(b[1:])
		case b[0] == 0x58:
			return string(b[2:])
		}
		return string(b[3:])
	}
	slices.SortFunc(nodes, func(a, b rawNode) int { return strings.Compare(name(a), name(b)) })
	return nodes
}

// modes are the ways to restore.
var modes = []struct {
	name string
	o    restore.Options
}{
	{"always", restore.Options{}},
	{"if-changed", restore.Options{Overwrite: restore.IfChanged}},
	{"if-newer", restore.Options{Overwrite: restore.IfNewer}},
	{"never", restore.Options{Overwrite: restore.Never}},
	{"in-place", restore.Options{InPlace: true}},
	{"delete", restore.Options{Delete: true}},
	{"in-place, delete and sparse", restore.Options{InPlace: true, Delete: true, Sparse: true}},
}

// canary makes what no restore may touch beside a destination.
func canary(t *testing.T) (out string) {
	out = t.TempDir()
	write(t, out+"/guard/precious", []byte("precious"))
	write(t, out+"/guard/guard", []byte("precious too"))
	write(t, out+"/precious", bytes.Repeat([]byte("precious"), 4000))
	must(t, os.Symlink("guard/precious", out+"/link"))
	must(t, os.Mkdir(out+"/empty", 0o711))
	return out
}

// untouched compares the canary with what it was, but for the destination d and the number of names of its files.
func untouched(t *testing.T, out string, before map[string]state) {
	t.Helper()
	must(t, removeDeep(out, "d"))
	after := scan(t, out)
	for _, m := range []map[string]state{before, after} {
		for p, s := range m {
			if s.node.Links, s.first = 0, ""; p == "" {
				s.node.MTime = snapshot.Time{} // the destination comes and goes in it
			}
			m[p] = s
		}
		delete(m, "d")
	}
	same(t, after, before)
}

// verdictOf is a letter for each kind of finding: unsafe, lost, problems; c for none.
func verdictOf(res *restore.Result) string {
	v := ""
	for letter, n := range map[string]uint64{"u": res.UnsafeCount, "l": res.LostCount, "p": res.ProblemCount} {
		if n > 0 {
			v += letter
		}
	}
	if v == "" {
		v = "c"
	}
	return v
}

// TestCorpus restores every crafted tree, each in one more way than into nothing. What is outside stays, the run ends without a panic and in bounded
// memory, and it tells what it refused.
func TestCorpus(t *testing.T) {
	st, c := newRepo(t)
	var all []crafted
	first := hostile(t, st, c, []string{"/"}, func(put, data func([]byte) crypt.ID) crypt.ID {
		all = craft(put, data)
		return all[0].root
	})
	r := reader(t, st)
	cases := 0
	out := canary(t)
	before := scan(t, out)
	for i, x := range all {
		snap := *first
		snap.Root = x.root
		for _, mode := range []int{-1, i % len(modes)} {
			cases++
			name := x.name + " into nothing"
			o := restore.Options{}
			if mode >= 0 {
				name = x.name + ", " + modes[mode].name
				o = modes[mode].o
				must(t, os.Mkdir(out+"/d", 0o755))
				for _, n := range []string{"a", "b", "zz", "deep"} { // what the trees name leads out already
					must(t, os.Symlink("../guard", out+"/d/"+n))
				}
				must(t, os.Link(out+"/precious", out+"/d/good"))
			}
			t.Run(name, func(t *testing.T) {
				var was, is runtime.MemStats
				runtime.ReadMemStats(&was)
				res, err := restore.Run(t.Context(), r, &snap, out+"/d", o)
				runtime.ReadMemStats(&is)
				if err != nil {
					t.Fatal(err)
				}
				if used := is.TotalAlloc - was.TotalAlloc; used > 512<<20 { // all that came and went, so much more than was held
					t.Errorf("%d MiB allocated", used>>20)
				}
				verdict := verdictOf(res)
				for _, letter := range verdict {
					// A way that keeps what exists may find less to complain of, or more in the way.
					if !strings.ContainsRune(x.may, letter) && (mode < 0 || letter != 'c' && letter != 'p') {
						t.Errorf("verdict %s, not %s: %v %v %v", verdict, x.may, res.Unsafe, res.Lost, res.Problems)
					}
				}
				for _, p := range res.Unsafe {
					if !errors.Is(p.Err, restore.ErrUnsafe) {
						t.Error(p)
					}
				}
				b, err := os.ReadFile(out + "/d/good")
				if x.good && (mode < 0 || o.Overwrite == restore.Always) && string(b) != "evil" {
					t.Errorf("the good file: %.20q, %v", b, err)
				}
				for _, p := range x.not {
					if _, err := os.Lstat(out + "/d/" + p); err == nil && mode < 0 {
						t.Errorf("%s was restored", p)
					}
				}
				for _, n := range []string{"a", "b"} {
					if s, err := os.Lstat(out + "/d/" + n); err == nil && s.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 && strings.Contains(x.name, "nobody's") {
						t.Errorf("a set-id file of the wrong owner: %v", s.Mode())
					}
				}
				if names, err := filepath.Glob(out + "/d/.packhold-partial-*"); err == nil && len(names) > 0 && x.name != "name of a leftover" {
					t.Errorf("left: %q", names)
				}
				untouched(t, out, before)
			})
		}
	}
	t.Logf("%d cases", cases)
	if cases < 200 {
		t.Errorf("only %d cases", cases)
	}
}

// TestInTheWay has everything in the place of everything, in every way to restore.
func TestInTheWay(t *testing.T) {
	st, c := newRepo(t)
	large := random(8, 3<<18)
	wanted := map[string]func(put, data func([]byte) crypt.ID) []rawNode{
		"inline": func(_, _ func([]byte) crypt.ID) []rawNode { return []rawNode{rawFile("x")} },
		"empty": func(_, _ func([]byte) crypt.ID) []rawNode {
			return []rawNode{rawFile("x").with(kInline, nil, kSize, nil)}
		},
		"large": func(_, data func([]byte) crypt.ID) []rawNode {
			return []rawNode{rawFile("x").with(kInline, nil, kSize, num(1<<20), kExtents, list(list(num(1), num(3<<18), hash(data(large))), list(num(2), num(1<<18))))}
		},
		"directory": func(put, _ func([]byte) crypt.ID) []rawNode {
			return []rawNode{rawDir("x", put(leaf(rawFile("guard"), rawFile("precious"))))}
		},
		"link": func(_, _ func([]byte) crypt.ID) []rawNode { return []rawNode{rawLink("x", "../guard")} },
		"fifo": func(_, _ func([]byte) crypt.ID) []rawNode { return []rawNode{rawFIFO("x")} },
		"names of one file": func(_, _ func([]byte) crypt.ID) []rawNode {
			return []rawNode{rawFile("w").with(kLinks, num(2), kInode, num(9)), rawFile("x").with(kLinks, num(2), kInode, num(9))}
		},
	}
	existing := map[string]func(t *testing.T, out, path string) error{
		"nothing":        func(*testing.T, string, string) error { return nil },
		"file":           func(t *testing.T, _, p string) error { return os.WriteFile(p, []byte("existing"), 0o600) },
		"long file":      func(t *testing.T, _, p string) error { return os.WriteFile(p, random(4, 3<<19), 0o400) },
		"link to dir":    func(_ *testing.T, _, p string) error { return os.Symlink("../guard", p) },
		"link to file":   func(_ *testing.T, _, p string) error { return os.Symlink("../guard/precious", p) },
		"absolute link":  func(_ *testing.T, out, p string) error { return os.Symlink(out+"/guard", p) },
		"dangling link":  func(_ *testing.T, _, p string) error { return os.Symlink("../new", p) },
		"link to itself": func(_ *testing.T, _, p string) error { return os.Symlink("x", p) },
		"hard link out":  func(_ *testing.T, out, p string) error { return os.Link(out+"/precious", p) },
		"empty dir":      func(_ *testing.T, _, p string) error { return os.Mkdir(p, 0o700) },
		"full dir": func(t *testing.T, _, p string) error {
			write(t, p+"/inside", []byte("inside"))
			return os.Symlink("../../guard", p+"/guard")
		},
		"fifo": func(_ *testing.T, out, _ string) error {
			root, err := os.OpenRoot(out)
			if err != nil {
				return err
			}
			defer root.Close()
			d, err := localfs.OpenParent(root, "d")
			if err != nil {
				return err
			}
			defer d.Close()
			return d.Mknod("x", &snapshot.Node{Type: snapshot.FIFO})
		},
	}
	snaps := map[string]*repo.Snapshot{}
	roots := map[string]crypt.ID{}
	first := hostile(t, st, c, []string{"/"}, func(put, data func([]byte) crypt.ID) (id crypt.ID) {
		for name, build := range wanted {
			id = put(leaf(build(put, data)...))
			roots[name] = id
		}
		return id
	})
	for name, root := range roots {
		snap := *first
		snap.Root = root
		snaps[name] = &snap
	}
	r := reader(t, st)
	cases := 0
	out := canary(t)
	before := scan(t, out)
	for want, snap := range snaps {
		for have, prepare := range existing {
			for _, mode := range modes {
				cases++
				must(t, os.Mkdir(out+"/d", 0o755))
				must(t, prepare(t, out, out+"/d/x"))
				res, err := restore.Run(t.Context(), r, snap, out+"/d", mode.o)
				what := fmt.Sprintf("%s over %s, %s", want, have, mode.name)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if res.LostCount > 0 {
					t.Errorf("%s: %v", what, res.Lost)
				}
				// Only a directory that holds something stays in the way, unless existing entries are to stay.
				stays := have == "full dir" && want != "directory"
				if always := mode.o.Overwrite == restore.Always || have == "nothing"; always && stays != (res.ProblemCount > 0) || res.UnsafeCount > 0 {
					t.Errorf("%s: problems %v, unsafe %v", what, res.Problems, res.Unsafe)
				} else if always && !stays {
					if err := isAs(want, out+"/d/x", large); err != nil {
						t.Errorf("%s: %v", what, err)
					}
				}
				if mode.o.Overwrite == restore.Never && have == "file" {
					if b, err := os.ReadFile(out + "/d/x"); string(b) != "existing" {
						t.Errorf("%s: %q, %v", what, b, err)
					}
				}
				untouched(t, out, before)
				if t.Failed() {
					return
				}
			}
		}
	}
	t.Logf("%d cases", cases)
}

// isAs checks that a path holds what its tree says.
func isAs(want, path string, large []byte) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	content := map[string]string{"inline": "evil", "empty": "", "large": string(large) + string(make([]byte, 1<<18)), "names of one file": "evil"}
	if data, ok := content[want]; ok {
		if !info.Mode().IsRegular() {
			return fmt.Errorf("it is %v", info.Mode())
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != data {
			return fmt.Errorf("its %d bytes differ, %v", len(b), err)
		}
		return nil
	}
	kinds := map[string]os.FileMode{"directory": os.ModeDir, "link": os.ModeSymlink, "fifo": os.ModeNamedPipe}
	if info.Mode().Type() != kinds[want] {
		return fmt.Errorf("it is %v", info.Mode())
	}
	if want == "directory" {
		if b, err := os.ReadFile(path + "/guard"); string(b) != "evil" {
			return fmt.Errorf("its file holds %q, %v", b, err)
		}
	}
	return nil
}

// TestBomb is a tree of few pages with more entries than anything could hold: it can be stopped, and costs no memory.
func TestBomb(t *testing.T) {
	st, c := newRepo(t)
	snap := hostile(t, st, c, []string{"/"}, func(put, _ func([]byte) crypt.ID) crypt.ID {
		id := put(leaf(rawFile("bottom")))
		for range 60 {
			id = put(leaf(rawDir("a", id), rawDir("b", id)))
		}
		return id
	})
	r := reader(t, st)
	for _, dry := range []bool{true, false} {
		out := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		var was, is runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&was)
		res, err := restore.Run(ctx, r, snap, out+"/d", restore.Options{DryRun: dry})
		cancel()
		runtime.GC()
		runtime.ReadMemStats(&is)
		if !errors.Is(err, context.DeadlineExceeded) || res.Dirs < 50 {
			t.Errorf("dry %v: %v, %+v", dry, err, res)
		}
		if is.HeapAlloc > was.HeapAlloc+64<<20 {
			t.Errorf("dry %v: %d MiB more", dry, (is.HeapAlloc-was.HeapAlloc)>>20)
		}
	}
}

// TestSwap puts links in the place of directories and files while files are restored, changed in place and removed there.
func TestSwap(t *testing.T) {
	st, c := newRepo(t)
	src := t.TempDir()
	for i := range 120 {
		write(t, fmt.Sprintf("%s/d%d/e/f%03d", src, i%3, i), random(uint64(i), 700))
	}
	for i := range 3 {
		write(t, fmt.Sprintf("%s/d%d/large", src, i), random(uint64(i), 2<<20))
	}
	must(t, os.Symlink("/etc", src+"/d0/e/a-link"))
	snap := take(t, st, c, src)
	r := reader(t, st)
	rounds, swaps := 21, 0
	if testing.Short() {
		rounds = 7
	}
	for round := range rounds {
		out := t.TempDir()
		guard := out + "/guard"
		for _, p := range []string{"e/f000", "e/f001", "e/extra", "extra", "large", "f000"} {
			write(t, guard+"/"+p, bytes.Repeat([]byte("precious"), 500))
		}
		before := scan(t, out)
		dst := out + "/d"
		mode := modes[round%len(modes)]
		if round%2 == 0 { // there is something to change and to remove
			if _, err := restore.Run(t.Context(), r, snap, dst, restore.Options{}); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				write(t, fmt.Sprintf("%s/d%d/e/extra", dst, i), []byte("x"))
				write(t, fmt.Sprintf("%s/d%d/large", dst, i), random(9, 3<<20))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan int)
		go func() {
			n := 0
			for i := 0; ctx.Err() == nil; i++ {
				p := fmt.Sprintf("%s/d%d", dst, i%3)
				to := guard
				switch i % 5 {
				case 0, 1:
					p += "/e"
					to += "/e"
				case 2:
					p += "/large"
					to += "/large"
				}
				if os.Rename(p, p+".moved") == nil {
					if i%5 == 2 && i%2 == 0 {
						_ = os.Link(to, p) // the run may have been faster, in all of this
					} else {
						_ = os.Symlink(to, p)
					}
					n++
					runtime.Gosched()
					_ = os.Remove(p)
					_ = os.Rename(p+".moved", p)
				}
			}
			done <- n
		}()
		o := mode.o
		o.Workers = 3
		if round%3 == 0 {
			restore.SmallWindows(&o)
		}
		_, err := restore.Run(t.Context(), r, snap, dst, o)
		cancel()
		swaps += <-done
		if err != nil {
			t.Error(err)
		}
		untouched(t, out, before)
	}
	if t.Logf("%d swaps", swaps); swaps < 50 {
		t.Errorf("only %d swaps", swaps)
	}
}

// removeDeep removes a tree whose paths may be longer than the system takes.
func removeDeep(dir, name string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(name)
}

// hostile stores a tree that a backup never makes, and commits it.
func hostile(t *testing.T, s backends.Storage, c *crypt.Credential, sources []string, build func(put func([]byte) crypt.ID, data func([]byte) crypt.ID) crypt.ID) *repo.Snapshot {
	t.Helper()
	sess, err := open(t, s, repo.Access{Credential: c}).Begin(t.Context(), repo.SessionOptions{})
	must(t, err)
	w, err := sess.NewWorker()
	must(t, err)
	root := build(func(b []byte) crypt.ID {
		id, _, err := w.StoreTree(b)
		must(t, err)
		return id
	}, func(b []byte) crypt.ID {
		id, _, err := w.Store(b)
		must(t, err)
		return id
	})
	body := &snapshot.Body{Sources: sources}
	snap, err := sess.Commit(t.Context(), &snapshot.Record{Root: root, Type: snapshot.Full, Start: snapshot.Time{Sec: 1e9}, Lineage: [32]byte{1}}, body, nil)
	must(t, err)
	snap.Body = body
	return snap
}

// page stores a directory.
func page(t *testing.T, put func([]byte) crypt.ID, nodes ...snapshot.Node) crypt.ID {
	t.Helper()
	slices.SortFunc(nodes, func(a, b snapshot.Node) int { return strings.Compare(a.Name, b.Name) })
	w := snapshot.NewDirWriter(func(b []byte) (crypt.ID, error) { return put(bytes.Clone(b)), nil })
	for i := range nodes {
		must(t, w.Add(&nodes[i]))
	}
	id, _, err := w.Finish()
	must(t, err)
	return id
}

// TestNoSource is about a snapshot that lacks what it names.
func TestNoSource(t *testing.T) {
	st, c := newRepo(t)
	snap := hostile(t, st, c, []string{"/not/there"}, func(put, _ func([]byte) crypt.ID) crypt.ID { return page(t, put) })
	if _, err := restore.Run(t.Context(), reader(t, st), snap, t.TempDir(), restore.Options{}); !errors.Is(err, restore.ErrNoSource) {
		t.Error(err)
	}
	if _, err := restore.Run(t.Context(), open(t, st, repo.Access{Credential: c}), snap, t.TempDir(), restore.Options{}); !errors.Is(err, repo.ErrNeedRead) {
		t.Error(err)
	}
}

// TestClaims: a segment that says of blobs what is not so, of another length or under a read key that nobody has, keeps nothing from being restored that
// is elsewhere as well.
func TestClaims(t *testing.T) {
	src := varied(t)
	before := scan(t, src)
	for what, claim := range map[string]struct {
		epoch uint32
		more  uint32
	}{"another length": {1, 1}, "an unknown read key": {77, 0}, "neither": {1, 0}} {
		store, c := newRepo(t)
		snap := take(t, store, c, src)
		liar := open(t, store, repo.Access{Credential: c})
		read, err := liar.Settings().ReadKeys[0].Public()
		must(t, err)
		read.Epoch = claim.epoch
		for i, err := range store.List(t.Context(), "index/") {
			must(t, err)
			object, err := store.Get(t.Context(), i.Name, 0, -1)
			must(t, err)
			seg, err := liar.SegmentObject(i.Name, object)
			must(t, err)
			s, err := liar.Begin(t.Context(), repo.SessionOptions{})
			must(t, err)
			_, rec, err := crypt.NewSession(liar.Config().ID, liar.Keys().Identity, read)
			must(t, err)
			seg.Sessions = [][]byte{rec.Bytes()}
			for n := range seg.Entries {
				e := &seg.Entries[n]
				e.Offset, e.Length, e.Raw = 48+uint32(n), max(28, e.Length/2), e.Raw+claim.more
			}
			_, err = s.PutSegment(t.Context(), seg)
			must(t, err)
			s.Close(t.Context())
		}
		for range 5 { // which place comes first is chance
			dst := t.TempDir()
			res, err := restore.Run(t.Context(), reader(t, store), snap, dst, restore.Options{})
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			clean(t, res)
			same(t, scan(t, dst), before)
		}
	}
}
