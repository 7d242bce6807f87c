package snapshot

import (
	"errors"
	"fmt"
	"strings"

	"packhold/crypt"
)

// The limits of format 1. Decoders check them before they allocate, writers before they store.
const (
	MaxBlob        = 16 << 20  // bytes of a blob's plaintext
	MaxName        = 4096      // bytes of a name: file systems end at 255 to 1,024, archives and FUSE go to PATH_MAX
	MaxTarget      = 65535     // bytes of a link target: PATH_MAX is 4,096, NTFS holds 32,767 UTF-16 units
	MaxOwner       = 1024      // bytes of a user or group name: directory services qualify names by domain
	MaxMode        = 0o7777    // the bits of st_mode that are not the type
	MaxFileSize    = 1<<63 - 1 // bytes: off_t
	MaxInline      = 128       // bytes of a file inside its node: about what an extent and its index entry cost
	MaxExtents     = 1024      // extents in a node: 42 KiB encoded; streams count too
	MaxExtentBlobs = 16384     // extent blobs of a node: of 12,288 extents on average, more than 100 TiB of 0.7 MiB chunks
	MaxBlobExtents = 65536     // extents in an extent blob: 3 MiB encoded and decoded
	MaxXAttrInline = 4096      // bytes of names and values in a node: a block, what ext4 keeps outside the inode
	MaxXAttrName   = 1024      // bytes: XATTR_NAME_MAX is 255 on Linux; FreeBSD adds a namespace
	MaxXAttrs      = 65536     // attributes of a node in an xattr blob
	MaxStreams     = 64        // child records of a node
	MaxStreamName  = 1024      // bytes: NTFS holds 255 UTF-16 units
	MaxPage        = 2 << 20   // bytes of an encoded page: it ends when it reaches 1 MiB, and the limits above let its last node have 700 KiB
	MaxPageEntries = 2048      // nodes of a leaf, or children of a branch
	MaxPageLevels  = 8         // pages from a directory's root to its leaf: 64 to the 7th is more than any directory holds
	MaxDepth       = 4096      // names in a path
	MaxPath        = 1 << 20   // bytes of a path: MaxDepth names of 255 bytes
)

// ErrMalformed is wrapped by every error that says that stored bytes are not what the format asks for.
// Errors of a Getter do not wrap it.
var ErrMalformed = errors.New("malformed")

// malformed returns an error that wraps ErrMalformed.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, args...))
}

// quote returns s quoted for a message, shortened: hostile names are as long as a page.
func quote(s string) string {
	const most = 256
	if len(s) > most {
		return fmt.Sprintf("%q... (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// CheckName returns an error unless name can be the name of a node: 1 to MaxName bytes, no '/' and no NUL, not "." or "..".
func CheckName(name string) error {
	switch {
	case name == "":
		return malformed("empty name")
	case len(name) > MaxName:
		return malformed("name of %d bytes, the limit is %d", len(name), MaxName)
	case name == "." || name == "..":
		return malformed("name %q", name)
	case strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0:
		return malformed("name %s holds '/' or NUL", quote(name))
	}
	return nil
}

// Validate returns an error, which wraps ErrMalformed, unless n can be stored: every field within its limits, fields only
// where the type allows them, and a file's size equal to what its inline bytes or extents hold. Where the extents are in
// blobs, EachExtent checks their sum.
func (n *Node) Validate() error {
	if err := CheckName(n.Name); err != nil {
		return err
	}
	if err := n.validate(); err != nil {
		return fmt.Errorf("node %s: %w", quote(n.Name), err)
	}
	return nil
}

func (n *Node) validate() error {
	if n.Type < File || n.Type > BlockDevice {
		return malformed("type %d", n.Type)
	}
	switch {
	case n.Mode > MaxMode:
		return malformed("mode %#o", n.Mode)
	case len(n.User) > MaxOwner || strings.IndexByte(n.User, 0) >= 0:
		return malformed("user %s", quote(n.User))
	case len(n.Group) > MaxOwner || strings.IndexByte(n.Group, 0) >= 0:
		return malformed("group %s", quote(n.Group))
	case !n.MTime.valid() || !n.CTime.valid() || !n.BTime.valid() || !n.ATime.valid():
		return malformed("a time with a nanosecond over 999999999")
	case n.Type != File && (n.Size != 0 || len(n.Inline) > 0 || len(n.Extents) > 0 || len(n.ExtentBlobs) > 0):
		return malformed("content, but type %d is not a file", n.Type)
	case (n.Type == Dir) != !n.Subtree.IsZero():
		return malformed("a directory has a subtree, others have none")
	case n.Type == Dir && n.Links > 1:
		return malformed("directory with %d links", n.Links)
	case (n.Type == Symlink) != (n.Target != ""):
		return malformed("a symbolic link has a target, others have none")
	case len(n.Target) > MaxTarget || strings.IndexByte(n.Target, 0) >= 0:
		return malformed("target %s", quote(n.Target))
	case n.Rdev != 0 && n.Type != CharDevice && n.Type != BlockDevice:
		return malformed("device number, but type %d is not a device", n.Type)
	}
	if n.Type == File {
		if err := n.validateContent(); err != nil {
			return err
		}
	}
	if len(n.XAttrs) > 0 {
		if !n.XAttrBlob.IsZero() {
			return malformed("extended attributes both inline and in a blob")
		}
		total, err := checkXAttrs(n.XAttrs)
		if err != nil {
			return err
		}
		if total > MaxXAttrInline {
			return malformed("%d bytes of inline extended attributes, the limit is %d", total, MaxXAttrInline)
		}
	}
	if len(n.Streams) > 0 {
		return n.validateStreams()
	}
	return nil
}

func (n *Node) validateContent() error {
	kinds := 0
	for _, has := range [...]bool{len(n.Inline) > 0, len(n.Extents) > 0, len(n.ExtentBlobs) > 0} {
		if has {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return malformed("content of more than one kind")
	case n.Size > MaxFileSize:
		return malformed("size %d", n.Size)
	case len(n.Inline) > MaxInline:
		return malformed("%d inline bytes, the limit is %d", len(n.Inline), MaxInline)
	case len(n.Extents) > MaxExtents:
		return malformed("%d extents, the limit is %d", len(n.Extents), MaxExtents)
	case len(n.ExtentBlobs) > MaxExtentBlobs:
		return malformed("%d extent blobs, the limit is %d", len(n.ExtentBlobs), MaxExtentBlobs)
	}
	if len(n.ExtentBlobs) > 0 {
		for _, id := range n.ExtentBlobs {
			if id.IsZero() {
				return malformed("extent blob without an ID")
			}
		}
		if n.Size == 0 {
			return malformed("extent blobs, but size 0")
		}
		return nil
	}
	sum, err := checkExtents(n.Extents)
	if err != nil {
		return err
	}
	if sum += uint64(len(n.Inline)); sum != n.Size {
		return malformed("size %d, but content of %d bytes", n.Size, sum)
	}
	return nil
}

func (n *Node) validateStreams() error {
	if len(n.Streams) > MaxStreams {
		return malformed("%d streams, the limit is %d", len(n.Streams), MaxStreams)
	}
	extents := len(n.Extents)
	for i, s := range n.Streams {
		switch {
		case s.Name == "" || len(s.Name) > MaxStreamName || strings.IndexByte(s.Name, 0) >= 0:
			return malformed("stream name %s", quote(s.Name))
		case i > 0 && s.Name <= n.Streams[i-1].Name:
			return malformed("stream %s out of order", quote(s.Name))
		}
		if _, err := checkExtents(s.Extents); err != nil {
			return fmt.Errorf("stream %s: %w", quote(s.Name), err)
		}
		extents += len(s.Extents)
	}
	if extents > MaxExtents {
		return malformed("%d extents with those of streams, the limit is %d", extents, MaxExtents)
	}
	return nil
}

func (t Time) valid() bool { return t.Nsec < 1e9 }

// checkExtents returns the sum of the lengths, which does not exceed MaxFileSize.
func checkExtents(extents []Extent) (uint64, error) {
	var sum uint64
	for i := range extents {
		e := &extents[i]
		if err := e.check(); err != nil {
			return 0, fmt.Errorf("extent %d: %w", i, err)
		}
		if e.Length > MaxFileSize-sum {
			return 0, malformed("extent %d: the sum of the lengths exceeds %d", i, uint64(MaxFileSize))
		}
		sum += e.Length
	}
	return sum, nil
}

func (e *Extent) check() error {
	switch {
	case e.Kind < Data || e.Kind > Zeros:
		return malformed("kind %d", e.Kind)
	case e.Length == 0:
		return malformed("empty")
	case e.Kind == Data && e.Length > MaxBlob:
		return malformed("%d bytes of data, a blob holds %d at most", e.Length, MaxBlob)
	case (e.Kind == Data) == (e.ID == crypt.ID{}):
		return malformed("data has an ID, holes and zeros have none")
	}
	return nil
}

// checkXAttrs returns the bytes of all names and values.
func checkXAttrs(xattrs []XAttr) (total int, err error) {
	if len(xattrs) > MaxXAttrs {
		return 0, malformed("%d extended attributes, the limit is %d", len(xattrs), MaxXAttrs)
	}
	for i := range xattrs {
		x := &xattrs[i]
		switch {
		case x.Name == "" || len(x.Name) > MaxXAttrName || strings.IndexByte(x.Name, 0) >= 0:
			return 0, malformed("extended attribute name %s", quote(x.Name))
		case i > 0 && x.Name <= xattrs[i-1].Name:
			return 0, malformed("extended attribute %s out of order", quote(x.Name))
		case len(x.Value) > MaxBlob:
			return 0, malformed("extended attribute %s of %d bytes", quote(x.Name), len(x.Value))
		}
		// No overflow on 32 bits: what came before is at most MaxBlob.
		if total += len(x.Name) + len(x.Value); total > MaxBlob {
			return 0, malformed("more than %d bytes of extended attributes", MaxBlob)
		}
	}
	return total, nil
}
