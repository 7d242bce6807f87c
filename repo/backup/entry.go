package backup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// entry backs up one entry of a directory into p.nodes[i]. A problem of the source is noted and leaves the entry out.
func (w *worker) entry(p *part, i int, name string, prev *snapshot.Node) error {
	n, d, o := &p.nodes[i], p.d, w.e.o
	st, err := d.h.Stat(name, n)
	if err != nil {
		w.lose(d, n, name, err)
		return nil
	}
	source := d.plan != nil && !d.plan.source
	if !source {
		if o.Exclude != nil && o.Exclude.match(w.path(d), name, n.Type == snapshot.Dir) ||
			o.LargerThan > 0 && n.Type == snapshot.File && n.Size > uint64(o.LargerThan) {
			*n = snapshot.Node{}
			return nil
		}
	}
	if source && d.h.Synthetic() {
		w.lose(d, n, name, errSynthetic)
		return nil
	}
	w.fill(n, st, prev)
	if o.ReadSpecial && (localfs.IsSpecial(n.Type) || source && n.Type == snapshot.Symlink && leadsToSpecial(w.path(d)+"/"+name)) {
		return w.special(p, i, prev, source)
	}
	if n.Type == snapshot.File {
		return w.file(p, i, prev)
	}
	partial, err := w.details(d, n, prev)
	if err != nil || n.Name == "" {
		return err
	}
	if n.Type != snapshot.Dir {
		if err := n.Validate(); err != nil {
			w.lose(d, n, name, err)
		} else if partial != nil {
			w.e.skip(&SourceError{Path: w.path(d) + "/" + name, Err: partial})
		}
		return nil
	}
	if d.depth+1 >= snapshot.MaxDepth || d.length+len(name) >= snapshot.MaxPath-snapshot.MaxName {
		w.lose(d, n, name, errTooDeep)
		return nil
	}
	child := w.child(p, i, st.Dev, prev)
	child.partial = partial
	if o.OneFileSystem && st.Dev != d.dev {
		w.report(child, nil)
		return w.walk(child) // nothing was listed: empty
	}
	w.next = append(w.next, &listTask{d: child, from: d.h.take(), name: name})
	return nil
}

// errTooDeep is about a directory that could not be walked again.
var errTooDeep = fmt.Errorf("its path has more than %d names or %d bytes", snapshot.MaxDepth, snapshot.MaxPath-snapshot.MaxName)

// lose leaves an entry out, and notes why.
func (w *worker) lose(d *dir, n *snapshot.Node, name string, err error) {
	*n = snapshot.Node{}
	w.e.skip(&SourceError{Path: w.path(d) + "/" + name, Err: plain(err)})
}

var errVanished = errors.New("vanished before it was read")

// plain gives the usual reason its plain name.
func plain(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errVanished
	}
	return err
}

// fill completes what the system said of an entry.
func (w *worker) fill(n *snapshot.Node, st localfs.Stat, prev *snapshot.Node) {
	if w.device.number == 0 || w.device.dev != st.Dev {
		w.device.dev, w.device.number = st.Dev, w.e.devices.number(st.Dev, prev)
	}
	n.Device = w.device.number
	if n.Type == snapshot.Dir {
		n.Links = 0 // they count children: no hard links
	}
	if w.e.o.ATime {
		n.ATime = st.ATime
	}
	if o := &w.owner; !o.known || o.uid != n.UID || o.gid != n.GID {
		w.e.owners.Fill(n)
		*o = owner{n.UID, n.GID, n.User, n.Group, true}
	}
	n.User, n.Group = w.owner.user, w.owner.group
}

// details reads link target, attributes and flags, unless the parent has them: whatever changes them changes the ctime. What could not be read is told
// in partial, for the caller to list.
func (w *worker) details(d *dir, n, prev *snapshot.Node) (partial, err error) {
	if w.e.unchanged(prev, n) && (prev.XAttrBlob.IsZero() || w.has(prev.XAttrBlob)) {
		n.Target, n.XAttrs, n.XAttrBlob, n.Flags = prev.Target, prev.XAttrs, prev.XAttrBlob, prev.Flags
		return nil, nil
	}
	if partial = d.h.Details(n.Name, n, localfs.DetailOptions{}); partial != nil && !isPartial(partial) {
		w.lose(d, n, n.Name, partial)
		return nil, nil
	}
	return partial, w.externXAttrs(d, n)
}

// report lists a directory that is not saved as it is: once, also where neither all its attributes nor its names could be read.
func (w *worker) report(d *dir, unlisted error) {
	err := d.partial
	switch {
	case unlisted != nil && err != nil:
		err = fmt.Errorf("%w; %w", plain(unlisted), err)
	case unlisted != nil:
		err = plain(unlisted)
	case err == nil:
		return
	}
	w.e.skip(&SourceError{Path: cmp.Or(w.path(d), "/"), Err: err})
}

// isPartial reports whether the entry can be saved all the same.
func isPartial(err error) bool {
	var p *localfs.PartialError
	return errors.As(err, &p)
}

// externXAttrs moves attributes that are too large for a node into a blob. Those that no blob holds are left out.
func (w *worker) externXAttrs(d *dir, n *snapshot.Node) error {
	size := 0
	for _, x := range n.XAttrs {
		size += len(x.Name) + len(x.Value)
	}
	if size <= snapshot.MaxXAttrInline {
		return nil
	}
	b, err := snapshot.EncodeXAttrs(n.XAttrs)
	n.XAttrs = nil
	if err != nil {
		w.e.skip(&SourceError{Path: w.path(d) + "/" + n.Name, Err: err})
		return nil
	}
	n.XAttrBlob, err = w.putTree(b)
	return err
}

// unchanged reports whether n is what the parent saw: equal in everything that a change of content or metadata changes, and older than
// the parent's start by more than the racy window.
func (e *engine) unchanged(prev, n *snapshot.Node) bool {
	return prev != nil && prev.Type == n.Type && prev.Size == n.Size && prev.MTime == n.MTime && prev.CTime == n.CTime &&
		prev.Inode == n.Inode && before(n.MTime, e.racy) && before(n.CTime, e.racy)
}

func before(a, b snapshot.Time) bool {
	return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec
}

// verdict is how a file compares with the parent's.
type verdict uint8

const (
	fresh verdict = iota
	changed
	same
)

// file backs up a regular file.
func (w *worker) file(p *part, i int, prev *snapshot.Node) error {
	n, e := &p.nodes[i], w.e
	if prev != nil && prev.Type != snapshot.File {
		prev = nil
	}
	if e.unchanged(prev, n) {
		if kept, err := w.keep(n, prev); err != nil || kept {
			w.unread(p.d, n, same)
			return err
		}
	}
	had := fresh
	if prev != nil {
		had = changed
	}
	if n.Links > 1 && n.Inode != 0 && e.links.take(n) {
		w.unread(p.d, n, had)
		return nil
	}
	e.o.Progress.Start(w.path(p.d) + "/" + n.Name)
	switch {
	case e.o.DryRun:
		w.stats.BytesRead += n.Size
		e.links.put(n)
		w.saved(p.d, n, had)
		e.o.Progress.Done(1, int64(n.Size), 0)
		return nil
	case n.Size > smallFile:
		w.e.queue.pushLarge(w.later(p, i, had))
		return nil
	}
	return w.small(p, i, had)
}

// saved counts a file that is complete.
func (w *worker) saved(d *dir, n *snapshot.Node, had verdict) {
	if !w.e.o.DryRun { // there it has no content
		if err := n.Validate(); err != nil {
			w.lose(d, n, n.Name, err)
			return
		}
	}
	switch had {
	case fresh:
		w.stats.New++
	case changed:
		w.stats.Changed++
	case same:
		w.stats.Unmodified++
	}
}

// unread is saved for a file that was not read.
func (w *worker) unread(d *dir, n *snapshot.Node, had verdict) {
	w.seen.files++
	w.seen.bytes += int64(n.Size)
	w.saved(d, n, had)
}

// keep takes the parent's content list for an unchanged file, if every blob of it is there in this session's view.
func (w *worker) keep(n, prev *snapshot.Node) (bool, error) {
	if !prev.XAttrBlob.IsZero() && !w.has(prev.XAttrBlob) || !w.hasData(prev.Extents) {
		return false, nil
	}
	for _, id := range prev.ExtentBlobs {
		if !w.has(id) {
			return false, nil
		}
		b, err := w.e.parent.Get(w.ctx, id)
		if err != nil {
			return false, w.ctx.Err()
		}
		list, err := snapshot.DecodeExtents(b)
		if err != nil || !w.hasData(list) {
			return false, nil
		}
		w.e.trees.put(id, b)
	}
	takeContent(n, prev)
	return true, nil
}

func (w *worker) hasData(list []snapshot.Extent) bool {
	return !slices.ContainsFunc(list, func(x snapshot.Extent) bool { return x.Kind == snapshot.Data && !w.has(x.ID) })
}
