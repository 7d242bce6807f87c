// Package backends says where a repository's files are kept: the Storage contract, which every driver and wrapper below
// this folder fulfils and backends/backendtest proves.
package backends

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"strings"
	"time"
)

// MaxObject is the size in bytes above which Put and Get refuse a file: packs are at most 256 MiB, the rest is slack for
// their parity and for later formats. Get refuses before it allocates.
const MaxObject = 512 << 20

// MaxName is the greatest length of a name in bytes. It is the limit of one path element of common file systems, so that
// a name fits wherever a driver has to flatten it.
const MaxName = 255

// MaxListed is the number of files after which a listing ends with an error: 2 PiB of 32 MiB packs. It keeps a hostile
// storage from listing for ever.
const MaxListed = 1 << 26

var (
	// ErrNoSpace says that the storage is full or a quota is used up.
	ErrNoSpace = errors.New("no space left in the storage")

	// ErrUnsupported says that the storage cannot do what was asked: keep a file until a date, or create exclusively.
	// Nothing was changed.
	ErrUnsupported = errors.New("not supported by the storage")

	// ErrGone says that the place which held the repository when it was opened has vanished or is another one now, as
	// when a disk is unmounted during a run. It never matches fs.ErrNotExist: nothing can be said about any file.
	ErrGone = errors.New("the repository's storage has vanished or was replaced")

	// ErrPermanent is matched by a failure that trying again would not mend: a call that no storage could do, a host or
	// certificate that is not the expected one, credentials that are refused.
	ErrPermanent = errors.New("trying again would not help")

	// ErrClock says that the clocks of this machine and of the storage differ by more than MaxSkew: a date until which a file
	// is kept would not be the one that was meant. Nothing was changed.
	ErrClock = errors.New("the clocks of this machine and of the storage differ")

	// ErrKept is matched by a *KeptError.
	ErrKept = errors.New("immutable until a date")

	// ErrInvalidName says that a name does not satisfy ValidName, or a prefix ValidPrefix.
	ErrInvalidName = errors.New("invalid name")
)

// Storage keeps named files that are never changed in place. Names satisfy ValidName; every other is refused with
// ErrInvalidName. No name may be a directory of another ("a" and "a/b"): what a storage does then is not defined.
//
// All methods may be called concurrently. A context that is done makes every call fail with an error matching its cause,
// and an already cancelled one before anything has an effect. An error of Put or Delete leaves open whether the call had
// its effect, unless it says otherwise here. A refusal by the storage matches fs.ErrPermission.
type Storage interface {
	// Put stores data under name. When it returns nil the file is durable, and Get, Stat and List show it. No reader
	// ever sees a part of it. An existing file is replaced atomically, which only the repair of a content-named file may
	// ask for; with opts.IfAbsent it is kept and the error matches fs.ErrExist. Where an answer can get lost on the way,
	// the existing file may be this very call's own. A full storage is ErrNoSpace. Put keeps no reference to data.
	//
	// Bytes that are kept until a date are never lost by a Put: an existing file that is kept is either not replaced by other
	// bytes, which is a *KeptError, or stays in the storage as an older version. No Put shortens a retention.
	Put(ctx context.Context, name string, data []byte, opts PutOptions) error

	// Get returns exactly n bytes from offset off, or with a negative n all bytes from off on. A file too short for
	// that, or for off, is an error matching io.ErrUnexpectedEOF, a missing file one matching fs.ErrNotExist. The bytes
	// are the caller's, who may Release them.
	Get(ctx context.Context, name string, off, n int64) ([]byte, error)

	// Stat describes a file. A missing one is an error matching fs.ErrNotExist.
	Stat(ctx context.Context, name string) (Info, error)

	// List describes all files whose names begin with prefix, in no particular order. The prefix is a directory such as
	// "packs/" or "packs/ab/", or "" for everything (ValidPrefix). One that no file has is an empty listing; any other
	// problem is an error, which ends the listing: it is never silently short. Files whose Put or Delete overlaps the
	// listing may or may not be in it. Foreign files, whose names are not valid, are left out. The sequence may be used
	// more than once; each use lists afresh.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Delete removes a file. A missing one is an error matching fs.ErrNotExist, one that is kept until a date a *KeptError.
	// It need not be durable: after a power loss a deleted file may be back.
	Delete(ctx context.Context, name string) error
}

// PutOptions says how Put stores a file. The zero value replaces an existing file and lets anyone delete it.
type PutOptions struct {
	// IfAbsent creates exclusively: of any number of such calls for a name, by any hosts, exactly one succeeds.
	IfAbsent bool

	// RetainUntil, if not zero, makes the storage refuse to delete the file before that time. A storage that cannot
	// returns ErrUnsupported and stores nothing.
	RetainUntil time.Time

	// Compliance keeps it in a way that nobody can end early, not even the owner of the storage, where the storage has one.
	Compliance bool

	// Extend stores nothing: the file that is there is kept until RetainUntil, or longer if it is already. Its data is nil, and
	// IfAbsent is not set. A missing file is an error matching fs.ErrNotExist, but only of a storage that keeps files:
	// asked for a name that is free, any other says ErrUnsupported.
	Extend bool

	// Receipt, if not nil, is told what the storage says of the bytes it stored. A storage that says nothing leaves it alone.
	Receipt *Receipt
}

// Receipt is what a storage said of the bytes of one Put, which succeeded.
type Receipt struct {
	// Checksum names the checksum of the stored bytes that the storage computed by itself and reported, and that equals the one of what was meant:
	// "CRC-32C" or "SHA-256". "" if it reported none.
	Checksum string
}

// CheckExtend returns an error if o asks for what no storage can do.
func (o PutOptions) CheckExtend(data []byte) error {
	if o.Extend && (o.IfAbsent || o.RetainUntil.IsZero() || len(data) > 0) {
		return fmt.Errorf("a retention is extended to a date, and nothing else: %w", ErrPermanent)
	}
	return nil
}

// MaxSkew is how far the clocks of a machine and of its storage may differ where a date is until when a file is kept. Amazon refuses every
// request beyond 15 minutes; a machine that sets its clock by the network is within seconds.
const MaxSkew = 5 * time.Minute

// Guard is how well a file is guarded against being deleted, from the weakest on.
type Guard uint8

// The guards.
const (
	Unguarded  Guard = iota // whoever may write may delete
	Mode                    // a read-only file with a date, which packhold itself heeds
	Immutable               // a flag of the file system, which only root takes away
	Governance              // object lock that a special permission ends early
	Compliance              // object lock that nobody ends early
)

func (g Guard) String() string {
	names := [...]string{"none", "mode", "immutable", "governance", "compliance"}
	if int(g) >= len(names) {
		return "unknown"
	}
	return names[g]
}

// Text says it in words.
func (g Guard) Text() string {
	texts := [...]string{"nothing", "a date and a read-only mode", "the immutable flag", "object lock, governance mode", "object lock, compliance mode"}
	if int(g) >= len(texts) {
		return "unknown"
	}
	return texts[g]
}

// KeptError is the refusal to delete or replace a file that is kept until a date. It matches fs.ErrPermission and ErrKept.
type KeptError struct {
	Until time.Time
}

// Error says until when.
func (e *KeptError) Error() string {
	return "immutable until " + e.Until.UTC().Format(time.RFC3339)
}

// Unwrap returns what it matches.
func (e *KeptError) Unwrap() []error { return []error{fs.ErrPermission, ErrKept} }

// Info describes a stored file.
type Info struct {
	Name    string
	Size    int64     // bytes
	ModTime time.Time // when it was stored, by the storage's clock

	// RetainUntil is until when the file is kept, zero for not at all, and Guard how. Stat knows them, List does not say.
	RetainUntil time.Time
	Guard       Guard
}

// ValidName reports whether name may name a file: at most MaxName bytes of elements separated by single slashes, each of
// lower-case letters, digits, '.', '_' and '-'. Further refused, because other programs make them beside our files or file
// systems do not keep them apart: elements that begin with a dot (".", "..", ".nfs0001", "._x", ".snapshot") or end with
// one (Windows drops it), those that end in ".tmp", and the first element "tmp", which is the drivers' own.
func ValidName(name string) bool {
	if len(name) > MaxName {
		return false
	}
	first := true
	for element := range strings.SplitSeq(name, "/") {
		if !validElement(element) || first && element == "tmp" {
			return false
		}
		first = false
	}
	return true
}

func validElement(e string) bool {
	if e == "" || e[0] == '.' || e[len(e)-1] == '.' || strings.HasSuffix(e, ".tmp") {
		return false
	}
	for i := range len(e) {
		c := e[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// ValidPrefix reports whether prefix may be given to List: it is empty, or a valid name followed by a slash.
func ValidPrefix(prefix string) bool {
	dir, ok := strings.CutSuffix(prefix, "/")
	return prefix == "" || ok && ValidName(dir)
}

// CheckName returns an error matching ErrInvalidName unless ValidName(name).
func CheckName(name string) error {
	if ValidName(name) {
		return nil
	}
	return fmt.Errorf("%w %.*q", ErrInvalidName, MaxName, name)
}

// CheckPrefix returns an error matching ErrInvalidName unless ValidPrefix(prefix).
func CheckPrefix(prefix string) error {
	if ValidPrefix(prefix) {
		return nil
	}
	return fmt.Errorf("%w prefix %.*q", ErrInvalidName, MaxName, prefix)
}

// Span returns how many bytes Get(off, n) reads of a file of size bytes: n, or with a negative n those from off on. It
// returns an error matching io.ErrUnexpectedEOF if the file ends before, and another if the result exceeds MaxObject.
func Span(size, off, n int64) (int64, error) {
	if off < 0 {
		return 0, fmt.Errorf("negative offset %d: %w", off, ErrPermanent)
	}
	if off > size || n > size-off {
		return 0, fmt.Errorf("bytes %d+%d of %d: %w", off, max(n, 0), size, io.ErrUnexpectedEOF)
	}
	if n < 0 {
		n = size - off
	}
	if n > MaxObject {
		return 0, fmt.Errorf("%d bytes at once, the limit is %d: %w", n, int64(MaxObject), ErrPermanent)
	}
	return n, nil
}

// Parents returns the directory dir of files and those above it, deepest first: "a/b", "a" for "a/b", none for ".". It is what
// drivers on file systems make and synchronize.
func Parents(dir string) []string {
	var list []string
	for ; dir != "."; dir = path.Dir(dir) {
		list = append(list, dir)
	}
	return list
}
