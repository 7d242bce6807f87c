package restore

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// maxHandles bounds the open directories and files of a run. A third of the 1,024 that every system allows.
const maxHandles = 340

// dir is a directory of the destination.
type dir struct {
	root   *os.Root // of the destination itself
	up     *dir     // nil for the destination itself
	name   string
	path   string // in the snapshot
	seq    uint64
	node   *snapshot.Node // metadata to set at the end; nil: none
	in     bool           // picked, so that what is in it and not in the snapshot is picked too
	made   bool           // it exists in the destination; the planner decides
	fresh  bool           // this run made it: nothing in it is overwritten
	bad    bool           // it cannot be used, and that was reported
	broken bool           // the snapshot's list of it is not whole, so nobody knows what is too many
	had    *listing       // what was in it before, while it is planned; nil: nothing, or not known
	todo   atomic.Int32   // entries not finished, child directories, and one for the planner

	h    *localfs.DestDir
	pool localfs.HandleState
}

func (d *dir) State() *localfs.HandleState { return &d.pool }

func (d *dir) Reopen(o localfs.Opening) (err error) {
	if d.up == nil {
		d.h, err = localfs.OpenParent(d.root, "")
		return err
	}
	if err := o.Take(d.up); err != nil {
		return err
	}
	defer o.Give(d.up)
	d.h, err = d.up.h.Open(d.name)
	return err
}

func (d *dir) Shut() error { return d.h.Close() }

// listing is what an existing directory held when the planner came to it.
type listing struct {
	names  []string // sorted by bytes, as the snapshot's
	next   int      // the first name that the walk has not passed
	extras []string // passed, and not in the snapshot
	left   []string // temporary files of other runs
}

func (l *listing) has(name string) bool {
	_, ok := slices.BinarySearch(l.names, name)
	return ok
}

// pass notes that the walk has come to a picked entry of d, which is made by now. With keep the names before it are kept as extras: the snapshot does
// not have them, or the filters hide them.
func (d *dir) pass(name string, keep bool) {
	l := d.had
	if l == nil {
		return
	}
	for l.next < len(l.names) && l.names[l.next] < name {
		if keep {
			l.extras = append(l.extras, l.names[l.next])
		}
		l.next++
	}
	if l.next < len(l.names) && l.names[l.next] == name {
		l.next++
		if strings.HasPrefix(name, tempMark) { // a snapshot that was taken of a leftover
			l.left = slices.DeleteFunc(l.left, func(s string) bool { return s == name })
		}
	}
}

// item is an entry of the destination that is not a directory.
type item struct {
	dir    *dir
	node   *snapshot.Node
	seq    uint64
	group  *group // of files with several names, nil for others
	how    action
	absent bool // nothing had its name when it was planned
	base   bool // a file that has bytes already: those that are right stay
	place  bool // beside base: that file is the one of the final name
	check  bool // beside place: it is only compared, and restored whole if it differs
	gaps   bool // there are holes or zeros to look after when the blobs are written
	todo   atomic.Int32
	differ atomic.Bool // some of its bytes are not the snapshot's
	wrote  atomic.Bool // some of its bytes were written

	fail *failure // guarded by engine.mu

	f       *os.File
	id      fileID     // of f when it was first opened
	made    bool       // this run made it; as f and id guarded by the pool
	writing sync.Mutex // of f; it guards dirty too
	dirty   bool       // a file of the final name is being changed
	temp    string     // name while unfinished
	pool    localfs.HandleState
}

// fileID says which file it is.
type fileID struct{ dev, inode uint64 }

// action is what is done with an item.
type action uint8

const (
	whole    action = iota // made in one go, from what the node holds or from one blob
	pieces                 // a file whose bytes come one by one
	metadata               // only the metadata of what exists
)

// failure says why an item is not restored.
type failure struct {
	lost   bool // by the repository's fault
	ranges []Range
	err    error
}

func (it *item) path() string { return join(it.dir.path, it.node.Name) }

func (it *item) State() *localfs.HandleState { return &it.pool }

var (
	errSwapped = errors.New("another file has its place now")
	errLinked  = errors.New("the file has other names, so that it is not changed in place")
	errBusy    = errors.New("another restore is writing the file")
)

// Reopen makes the temporary file of its final size, a single hole, or opens what there is. Whoever writes to a temporary file has its lock: two
// restores that go on at once never write to the same one.
func (it *item) Reopen(o localfs.Opening) error {
	if err := o.Take(it.dir); err != nil {
		return err
	}
	defer o.Give(it.dir)
	if !it.base && !it.made {
		return it.create()
	}
	f, err := it.dir.h.OpenFile(it.temp)
	if it.check && errors.Is(err, fs.ErrPermission) { // immutable, or not to be written by its owner: comparing is reading
		f, err = it.dir.h.OpenRead(it.temp)
	}
	if err == nil {
		if err = it.accept(f); err != nil {
			f.Close()
		}
	}
	return err
}

// accept takes an open file for the item's, if it is what it should be.
func (it *item) accept(f *os.File) error {
	var n snapshot.Node
	st, err := localfs.StatFile(f, &n)
	if err != nil {
		return err
	}
	id := fileID{st.Dev, n.Inode}
	switch {
	case it.id != (fileID{}) && it.id != id:
		return errSwapped
	case n.Links > 1 && !it.check: // bytes that are written would show under names that may lie outside the destination
		return errLinked
	case n.Links == 0:
		return errSwapped
	}
	if !it.place {
		// Whoever owns a leftover or may write to it could have it open, and change it later.
		if !it.made && runtime.GOOS != "windows" && (n.UID != uint32(os.Geteuid()) || n.Mode&0o077 != 0) {
			return errSwapped
		}
		if ok, err := localfs.TryLock(f); err == nil && !ok {
			return errBusy
		} else if err != nil && !it.made {
			return err // nobody can tell whether its run is alive
		}
		if it.base && n.Size != it.node.Size {
			if err := f.Truncate(int64(it.node.Size)); err != nil {
				return err
			}
		}
	}
	it.f, it.id = f, id
	return nil
}

// create makes the temporary file.
func (it *item) create() error {
	f, err := it.dir.h.CreateFile(it.temp)
	if err != nil {
		return err
	}
	it.made = true
	if err := it.accept(f); err != nil { // between the two calls another restore may have taken it for a leftover
		f.Close()
		return err
	}
	localfs.PrepareFile(f, it.node)
	if err := f.Truncate(int64(it.node.Size)); err != nil {
		f.Close()
		return err
	}
	return nil
}

func (it *item) Shut() error { return it.f.Close() }

// abandon removes what there is of an unfinished item, but no file under its final name.
func (e *engine) abandon(it *item) {
	if it.how != pieces {
		return
	}
	e.pool.Abandon(it)
	e.partial.Delete(it)
	if it.place || !it.made && !it.base {
		return
	}
	if e.pool.Take(it.dir) == nil {
		_ = it.dir.h.Remove(it.temp) // best effort: the name says what it is
		e.pool.Give(it.dir)
	}
}

// removePartial removes the temporary files of a run that ended early; where it was interrupted, those that the next run can go on with stay. Nobody
// uses any handle any more.
func (e *engine) removePartial(interrupted bool) {
	e.partial.Range(func(p, _ any) bool {
		if it := p.(*item); interrupted && (it.base || it.wrote.Load()) {
			e.pool.Abandon(it)
		} else {
			e.abandon(it)
		}
		return true
	})
}

// tempMark begins all temporary names. The name of a file of several blobs ends in a digest of its final name, so that a later run finds it.
const tempMark = ".packhold-partial-"

// tempPrefix begins all temporary names of a run. 26 random letters: no snapshot can hold one of them on purpose, nor another run by chance.
func tempPrefix() string { return tempMark + rand.Text() + "-" }

func (e *engine) tempName() string {
	return e.temp + strconv.FormatUint(e.temps.Add(1), 36)
}

// digestOf ends the temporary name of a file.
func digestOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "-" + hex.EncodeToString(sum[:8])
}

var (
	errExists  = errors.New("something else has its name, and stays")
	errCollide = errors.New("its name was taken meanwhile: by another program, or by another entry whose name the file system takes for the same")
	errDirHere = errors.New("a directory that is not empty has its name")
)

// publish gives the temporary entry its final name. What has that name is replaced, a directory only if it is empty; but where nothing had it
// nothing is: on a file system that takes two names of the snapshot for one, the second must not replace the first.
func (e *engine) publish(d *dir, temp, name string, absent bool) error {
	var err error
	if absent {
		err = e.renameNew(d, temp, name)
	} else {
		err = d.h.Rename(temp, name)
	}
	if err == nil {
		return nil
	}
	var n snapshot.Node
	switch {
	case absent && errors.Is(err, fs.ErrExist):
		err = errCollide
	case errors.Is(err, fs.ErrNotExist):
		return err // the temporary entry is gone
	default:
		if _, serr := d.h.Lstat(name, &n); serr == nil && n.Type == snapshot.Dir {
			if rerr := d.h.Remove(name); rerr == nil {
				err = d.h.Rename(temp, name)
			} else {
				err = errDirHere
			}
		}
	}
	if err != nil {
		_ = d.h.Remove(temp) // the error says it all
	}
	return err
}

func (e *engine) renameNew(d *dir, temp, name string) error {
	err := d.h.RenameNew(temp, name)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	e.naming.Lock() // between looking and renaming no other entry of this run may get the name
	defer e.naming.Unlock()
	var n snapshot.Node
	if _, err := d.h.Lstat(name, &n); err == nil || errors.Is(err, fs.ErrInvalid) {
		return fs.ErrExist
	}
	return d.h.Rename(temp, name)
}

// stat looks for an entry of d. A type that no Node has is 0.
func (e *engine) stat(d *dir, name string, n *snapshot.Node) (localfs.Stat, bool, error) {
	if err := e.pool.Take(d); err != nil {
		return localfs.Stat{}, false, err
	}
	defer e.pool.Give(d)
	st, err := d.h.Lstat(name, n)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return st, false, nil
	case errors.Is(err, fs.ErrInvalid): // it is in the way
		n.Type = 0
		return st, true, nil
	}
	return st, err == nil, err
}

// owner is who an entry will belong to.
func (e *engine) owner(n *snapshot.Node) (uid, gid uint32) {
	switch a := &e.o.Apply; {
	case e.o.Owner != nil:
		return e.o.Owner(n)
	case a.Owners != nil && !a.NumericOwner:
		return a.Owners.IDs(n)
	}
	return n.UID, n.GID
}

// owned is n with the numbers of that owner, and no names.
func (e *engine) owned(n *snapshot.Node) *snapshot.Node {
	c := *n
	c.UID, c.GID = e.owner(n)
	c.User, c.Group = "", ""
	return &c
}
