package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"packhold/crypt"
	"packhold/repo/restore/fetch"
	"packhold/repo/snapshot"
)

// tree is what of a snapshot is restored, and how its paths become places below the destination.
type tree struct {
	root   crypt.ID       // page of the directory that becomes the destination
	self   *snapshot.Node // metadata of the destination; nil: none
	prefix string         // path in the snapshot of what becomes the destination, "" for "/"
	single *snapshot.Node // the source is this one entry
	picked bool           // the destination itself is picked
	backed []string       // what was backed up: absolute paths, "" for all of it
}

// open finds the source.
func (t *tree) open(ctx context.Context, e *engine, pages *fetch.Pages) error {
	body := e.snap.Body
	if body == nil {
		var err error
		if body, err = e.repo.OpenBody(e.snap); err != nil {
			return err
		}
	}
	t.root = e.snap.Root
	t.picked = e.picks("/", true)
	for _, s := range body.Sources {
		t.backed = append(t.backed, strings.Join(append([]string{""}, sourceNames(s)...), "/"))
	}
	var names []string
	switch {
	case e.o.Path != "":
		names = sourceNames(e.o.Path)
	case !e.o.FullPath && len(body.Sources) == 1:
		names = sourceNames(body.Sources[0])
	}
	if len(names) == 0 {
		return nil
	}
	n, err := snapshot.Lookup(ctx, pages, t.root, names)
	if errors.Is(err, snapshot.ErrNotFound) && e.o.Path != "" {
		return fmt.Errorf("%w %q", ErrNoPath, e.o.Path)
	}
	if errors.Is(err, snapshot.ErrNotFound) {
		return fmt.Errorf("%w %q", ErrNoSource, body.Sources[0])
	}
	if err != nil {
		return err
	}
	n = n.Clone()
	up := names
	if n.Type != snapshot.Dir {
		t.single = n
		up = names[:len(names)-1]
	} else {
		t.self, t.root = n, n.Subtree
	}
	for i := range up {
		t.prefix += "/" + up[i]
		t.picked = t.picked || e.picks(t.prefix, true)
	}
	return nil
}

// sourceNames splits a source's path into the names of the tree, as backup made them: a volume "C:" is "C".
func sourceNames(source string) []string {
	if len(source) >= 2 && source[1] == ':' || strings.HasPrefix(source, `\\`) {
		source = strings.ReplaceAll(source, `\`, "/")
		if source[1] == ':' {
			source = source[:1] + source[2:]
		}
	}
	return strings.FieldsFunc(source, func(r rune) bool { return r == '/' })
}

// holds reports whether a path is, or lies in, what was backed up. What is above that the snapshot knows in part only.
func (t *tree) holds(path string) bool {
	for _, b := range t.backed {
		if b == "" || path == b || strings.HasPrefix(path, b+"/") {
			return true
		}
	}
	return false
}

func (e *engine) picks(path string, dir bool) bool {
	return e.o.Include == nil || e.o.Include(path, dir)
}

// picked is an entry of the walk.
type picked struct {
	snapshot.Entry
	path string // in the snapshot, absolute
	seq  uint64 // number in the walk: the same in every walk of the run
	in   bool   // it, or a directory above, is picked; otherwise it is a directory that may lead to something
}

// each walks the tree and calls f with what is not left out, in the order of the walk. Entries of depth n lie in the last one of depth n-1.
// Errors of the walk go to bad, which stops the walk if it returns one.
func (e *engine) each(ctx context.Context, pages *fetch.Pages, f func(picked) error, bad func(path string, seq uint64, err error) error) error {
	if n := e.tree.single; n != nil {
		path := e.tree.prefix + "/" + n.Name
		if e.o.Exclude != nil && e.o.Exclude(path, false) || !e.tree.picked && !e.picks(path, false) {
			return nil
		}
		return f(picked{snapshot.Entry{Path: n.Name, Node: n, Depth: 1}, path, 1, true})
	}
	in := []bool{e.tree.picked}
	seq := uint64(0)
	for ent, err := range snapshot.Walk(ctx, pages, e.tree.root, snapshot.WalkOptions{}) {
		seq++
		path := e.tree.prefix + "/" + ent.Path
		if ent.Path == "" && e.tree.prefix != "" { // an error about the destination itself
			path = e.tree.prefix
		}
		if err != nil {
			if ctx.Err() != nil || !fetch.Damage(err) {
				return err
			}
			if err := bad(path, seq, err); err != nil {
				return err
			}
			continue
		}
		dir := ent.Node.Type == snapshot.Dir
		if e.o.Exclude != nil && e.o.Exclude(path, dir) {
			if dir {
				ent.SkipDir()
			}
			continue
		}
		in = in[:ent.Depth]
		now := in[ent.Depth-1] || e.picks(path, dir)
		if !now && (!dir || e.o.Descend != nil && !e.o.Descend(path)) {
			if dir {
				ent.SkipDir()
			}
			continue
		}
		if dir {
			in = append(in, now)
		}
		if err := f(picked{ent, path, seq, now}); err != nil {
			return err
		}
	}
	return ctx.Err()
}
