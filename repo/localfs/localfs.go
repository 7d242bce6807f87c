// Package localfs is file metadata of the running system: read from a source tree, applied to restored files.
//
// Both sides work on open directories and single names. No path is looked up twice, and no symbolic link is
// followed except the one an operator may name as the source root. So a tree that somebody rearranges meanwhile
// changes which entries are seen, never where the reader or the writer ends up, and neither the length of a path nor
// the depth of a tree has a limit: a walk needs one descriptor per level that is open. The Go runtime raises the soft
// RLIMIT_NOFILE to the hard one at start (524,288 under systemd, 4,096 at the least in practice).
//
// On Linux (4.11 or newer, for statx) everything a Node can hold is read and applied, and /proc must be mounted:
// the attributes of links and special files have no other door that cannot be tricked into following a link.
// macOS and FreeBSD read and apply owners, permission bits, times, and extended attributes of files and directories,
// and hard and symbolic links; special files are recorded but not made; file flags, holes and extended attributes of
// links are not kept. Windows keeps names, bytes, links, the read-only bit and modification times of files and
// directories.
package localfs

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"packhold/repo/snapshot"
)

// ErrChanged says that an entry is not, or no longer, what its Node says: another type or another inode.
var ErrChanged = errors.New("the entry was replaced while in use")

// ErrNotRegular says that an entry opened for its bytes is not, or no longer, a regular file.
var ErrNotRegular = errors.New("not a regular file")

// IsSpecial tells whether entries of a type are devices or FIFOs: what can be read and is no file.
func IsSpecial(t snapshot.Type) bool {
	return t == snapshot.BlockDevice || t == snapshot.CharDevice || t == snapshot.FIFO
}

// ErrName says that a name is not one single directory entry: empty, ".", "..", or holding '/' or NUL.
// (Also, on Windows, names its file systems give another meaning.)
var ErrName = errors.New("not the name of a directory entry")

// Stat is what the system says of an entry beside what a snapshot.Node keeps.
type Stat struct {
	Dev        uint64        // the real device: major << 32 | minor on Linux; changes with a reboot
	Mount      uint64        // Linux 5.8 and newer: the mount; tells bind mounts of one device apart. Else 0
	Attributes uint64        // Linux: STATX_ATTR_* bits, of those that the file system supports
	Blocks     uint64        // 512-byte blocks stored; less than the size needs means the file has holes
	ATime      snapshot.Time // for Node.ATime, which is recorded only on request
}

// Sparse tells whether a file of size bytes stores less than that, so that asking for holes is worth it.
// (File systems that compress also store less; then the answer is merely a question too many.)
func (s Stat) Sparse(size uint64) bool {
	return s.Blocks < size/512
}

// DetailOptions leaves parts of Details out.
type DetailOptions struct {
	NoXAttrs bool
	NoFlags  bool
}

// ApplyOptions says how a Node becomes metadata. The zero value applies everything, owners by number.
type ApplyOptions struct {
	// Owners finds ids by the recorded names. Nil: numbers as recorded.
	Owners *Owners
	// NumericOwner takes the numbers as recorded even where Owners knows the name.
	NumericOwner bool
	// NoOwner leaves owner and group as they are.
	NoOwner bool
	// NoPrivileged leaves out what gives power to whoever runs or reads the file: setuid and setgid bits of
	// files, security.* and trusted.* attributes.
	NoPrivileged bool
}

// AttrError is one attribute that could not be read or applied.
type AttrError struct {
	Attr string // "owner", "mode", "times", "flags", "xattrs", `xattr "user.comment"`
	Err  error
}

func (e AttrError) Error() string { return e.Attr + ": " + e.Err.Error() }
func (e AttrError) Unwrap() error { return e.Err }

// PartialError lists the attributes of one entry that could not be read or applied. All others were.
type PartialError struct {
	Failed []AttrError // never empty
}

func (e *PartialError) Error() string {
	var b strings.Builder
	for i, f := range e.Failed {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.Error())
	}
	return b.String()
}

// Unwrap makes errors.Is and errors.As look at every attribute.
func (e *PartialError) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		errs[i] = f
	}
	return errs
}

// failures collects AttrErrors.
type failures []AttrError

func (f *failures) add(attr string, err error) {
	if err != nil {
		*f = append(*f, AttrError{attr, err})
	}
}

func (f *failures) addXAttr(name string, err error) {
	if err != nil {
		f.add(fmt.Sprintf("xattr %q", name), err)
	}
}

// err is nil (and not a nil pointer in an error) when nothing failed.
func (f failures) err() error {
	if len(f) == 0 {
		return nil
	}
	return &PartialError{f}
}

// maxXAttrBytes bounds the extended attributes of one entry, because they must fit one blob (16 MiB at most). ext4
// holds 64 KiB in all, XFS 64 KiB for each of the names that fit a list of 64 KiB.
const maxXAttrBytes = 8 << 20

// settableFlags are the inode flags worth recording: those a user may set that mean the same on every file system
// that has them. The rest describes how one file system lays the file out (extents, indexes, encryption, verity).
const settableFlags = flagCompressed | flagSync | flagImmutable | flagAppend | flagNoDump | flagNoATime |
	flagNoCompress | flagDirSync | flagNoCOW | flagProjectInherit

// Inode flags, from linux/fs.h (FS_*_FL). Part of format 1 through Node.Flags.
const (
	flagCompressed     = 0x00000004
	flagSync           = 0x00000008
	flagImmutable      = 0x00000010
	flagAppend         = 0x00000020
	flagNoDump         = 0x00000040
	flagNoATime        = 0x00000080
	flagNoCompress     = 0x00000400
	flagDirSync        = 0x00010000
	flagNoCOW          = 0x00800000
	flagProjectInherit = 0x20000000
)

// lockingFlags forbid to write, rename, link or touch a file, so they come after everything else.
const lockingFlags = flagImmutable | flagAppend

// birthFlags count only on a file that has no bytes yet.
const birthFlags = flagCompressed | flagNoCompress | flagNoCOW

const (
	modeSetUID = 0o4000
	modeSetGID = 0o2000
	modeAll    = 0o7777
)

// checkName accepts exactly the names that mean one entry of the directory at hand.
func checkName(op, name string) error {
	if name == "" || name == "." || name == ".." || strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0 ||
		!validOnSystem(name) {
		return &fs.PathError{Op: op, Path: name, Err: ErrName}
	}
	return nil
}

// privilegedXAttr tells whether an attribute gives power or is the system's own (see ApplyOptions.NoPrivileged).
func privilegedXAttr(name string) bool {
	return strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "trusted.")
}

// removableXAttr tells whether an attribute that the destination has and the node has not must go: a fresh entry
// inherits ACLs from its directory, an existing one may have anything. Labels that the system itself puts on every
// new file (SELinux, IMA) stay.
func removableXAttr(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
}
