package restore

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// sweep removes from a directory that the walk has left what killed runs left and, with Options.Delete, what the snapshot does not have.
func (p *planner) sweep(d *dir) error {
	l, e := d.had, p.e
	d.had = nil
	if l == nil {
		return nil
	}
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if err := e.pool.Take(d); err != nil {
		return nil // then nothing is removed; who works in it says why
	}
	defer e.pool.Give(d)
	if !e.o.DryRun {
		for _, name := range l.left {
			if clean(d.h, name) {
				e.n.left.Add(1)
			}
		}
	}
	// Where entries found no space, what is too many may be all that there is.
	if !e.o.Delete || d.broken || !e.tree.holds(d.path) || e.full.Load() {
		return nil
	}
	var up snapshot.Node
	at, err := d.h.Self(&up)
	if err != nil {
		return nil
	}
	for _, name := range append(l.extras, l.names[l.next:]...) {
		if !strings.HasPrefix(name, tempMark) {
			e.remove(p.ctx, d.h, extra{name, join(d.path, name), d.in, at})
		}
	}
	return p.ctx.Err()
}

// clean removes a leftover, unless its run is alive.
func clean(h *localfs.DestDir, name string) bool {
	var n snapshot.Node
	if _, err := h.Lstat(name, &n); err != nil || n.Type == snapshot.Dir {
		return false
	}
	if n.Type == snapshot.File {
		f, err := h.OpenRead(name)
		if err != nil {
			return false
		}
		defer f.Close()
		if ok, err := localfs.TryLock(f); err != nil || !ok {
			return false
		}
	}
	return h.Remove(name) == nil
}

// extra is an entry of the destination that the snapshot does not have.
type extra struct {
	name string
	path string // it would have in the snapshot
	in   bool   // it, or a directory above, is picked
	up   localfs.Stat
}

// remove removes an extra entry, but for what the filters hide, mounts, and what is forbidden. It reports whether it is gone.
func (e *engine) remove(ctx context.Context, h *localfs.DestDir, x extra) bool {
	var n snapshot.Node
	at, err := h.Lstat(x.name, &n)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil && !errors.Is(err, fs.ErrInvalid) { // a type that no Node has goes too
		e.local(x.path, 0, nil, err)
		return false
	}
	dir := err == nil && n.Type == snapshot.Dir
	in := x.in || e.picks(x.path, dir)
	switch {
	case ctx.Err() != nil, !in, e.o.Exclude != nil && e.o.Exclude(x.path, dir), e.o.Keep != nil && e.o.Keep(x.path, dir):
		return false
	case dir && (e.deny[fileID{at.Dev, n.Inode}] || at.Dev != x.up.Dev || at.Mount != x.up.Mount):
		return false
	case dir:
		gone, err := e.removeIn(ctx, h, x.name, x.path, at)
		if err != nil {
			e.local(x.path, 0, nil, err)
		}
		if !gone {
			return false
		}
	}
	if !e.o.DryRun {
		if err := h.Remove(x.name); err != nil {
			e.local(x.path, 0, nil, err)
			return false
		}
	}
	e.n.deleted.Add(1)
	e.o.Progress.Deleted(x.path)
	return true
}

// removeIn empties a directory. Only one descriptor is held for each level.
func (e *engine) removeIn(ctx context.Context, h *localfs.DestDir, name, path string, at localfs.Stat) (gone bool, err error) {
	d, err := h.Open(name)
	if err != nil {
		return false, err
	}
	defer d.Close()
	src, err := d.Source()
	if err != nil {
		return false, err
	}
	names, err := src.Names(ctx)
	src.Close()
	if err != nil {
		return false, err
	}
	gone = true
	for _, n := range names {
		gone = e.remove(ctx, d, extra{n, join(path, n), true, at}) && gone
	}
	return gone, nil
}
