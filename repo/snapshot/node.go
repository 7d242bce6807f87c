// Package snapshot is a backed-up tree: its encoding, and how to walk and compare trees.
//
// A snapshot is a [Record] that names the root page of a tree. A directory is one or more pages ([Page]): leaf pages hold
// the nodes in ascending order of their name bytes, branch pages hold the first name, the blob ID and the number of nodes
// of the pages below. [DirWriter] cuts the pages where the names say so, so one new name rewrites one leaf and its
// branches. Everything stored is deterministic CBOR (RFC 8949, section 4.2.1) with integer map keys, and every decoder
// holds the law: what it accepts, encoded again, is the same bytes.
//
// The package does no I/O of its own: bytes come from a [Getter] and go to a put function.
package snapshot

import (
	"slices"
	"strings"

	"packhold/crypt"
)

// Type is what a Node is. The numbers are part of format 1.
type Type uint8

// The types of nodes.
const (
	File Type = iota + 1
	Dir
	Symlink
	FIFO
	Socket // recorded, never restored with a listener
	CharDevice
	BlockDevice
)

// Time is an instant in seconds and nanoseconds since 1970-01-01 UTC. Seconds are apart from
// nanoseconds because file systems hold years that 64 bits of nanoseconds cannot (1678 to 2262).
// The zero Time means "not recorded", except in Node.MTime, which is always recorded: there it is 1970 itself, a common
// time in images that are built reproducibly.
type Time struct {
	Sec  int64
	Nsec uint32
}

// XAttr is one extended attribute: any bytes under a name with its namespace ("user.comment").
type XAttr struct {
	Name  string
	Value []byte
}

// ExtentKind is what an Extent holds. The numbers are part of format 1.
type ExtentKind uint8

// The kinds of extents.
const (
	Data  ExtentKind = iota + 1 // Length bytes: the blob ID
	Hole                        // Length bytes that the file system does not store
	Zeros                       // Length stored bytes, all zero, not kept as blobs
)

// Extent is a part of a file's content.
type Extent struct {
	Kind   ExtentKind
	Length uint64   // at least 1; Data: at most MaxBlob
	ID     crypt.ID // for Data only
}

// Stream is a named child record of a node: an alternate data stream, or a security descriptor under a name of its own.
type Stream struct {
	Name    string
	Extents []Extent // none: an empty stream
}

// Node is one entry of a directory: everything about it but, for files, the bytes.
//
// Names and link targets are byte strings: any byte but NUL (and, in names, '/'). A name that is valid here need not be
// on every system ("C:", "CON", a backslash): who restores must check that.
type Node struct {
	Name   string
	Type   Type
	Mode   uint32 // permission, setuid, setgid and sticky bits: st_mode & 07777
	UID    uint32
	GID    uint32
	User   string // "" where the system knows no name
	Group  string
	Size   uint64 // files: bytes, equal to the sum of the extents or the inline bytes; others 0
	MTime  Time
	CTime  Time
	BTime  Time
	ATime  Time // recorded only on request
	Inode  uint64
	Device uint32 // small number within the snapshot, so that a reboot changes nothing
	Links  uint32 // more than 1: nodes with equal Device and Inode are one file; directories: 0 or 1
	Target string // symbolic links
	Rdev   uint64 // devices: major << 32 | minor
	Flags  uint32 // inode flags as FS_IOC_GETFLAGS gives them (append, immutable, nodump, compression)

	XAttrs    []XAttr  // sorted by name; at most 4 KiB in all, otherwise
	XAttrBlob crypt.ID // the blob that holds them

	Inline      []byte     // files of at most 128 bytes
	Extents     []Extent   // other files, in order, at most 1,024, otherwise
	ExtentBlobs []crypt.ID // the blobs that hold them, in order
	Subtree     crypt.ID   // directories: the root page
	Streams     []Stream   // sorted by name; room in format 1, nothing writes them yet
}

// Clone returns a copy that shares no memory with n. Nodes that come from a page share the page's memory (up to a few
// MiB), so who keeps few nodes of many for long should keep clones.
func (n *Node) Clone() *Node {
	c := *n
	c.Name = strings.Clone(n.Name)
	c.User = strings.Clone(n.User)
	c.Group = strings.Clone(n.Group)
	c.Target = strings.Clone(n.Target)
	c.XAttrs = slices.Clone(n.XAttrs)
	for i, x := range c.XAttrs {
		c.XAttrs[i] = XAttr{strings.Clone(x.Name), slices.Clone(x.Value)}
	}
	c.Inline = slices.Clone(n.Inline)
	c.Extents = slices.Clone(n.Extents)
	c.ExtentBlobs = slices.Clone(n.ExtentBlobs)
	c.Streams = slices.Clone(n.Streams)
	for i, s := range c.Streams {
		c.Streams[i] = Stream{strings.Clone(s.Name), slices.Clone(s.Extents)}
	}
	return &c
}
