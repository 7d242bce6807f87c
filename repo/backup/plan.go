package backup

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// plan is the part of the tree above the sources.
type plan struct {
	name     string
	path     string // as the system takes it
	source   bool
	children []*plan
}

// makePlan arranges the sources under one root. On Windows the volumes are its children.
func makePlan(sources []string) *plan {
	root := &plan{path: "/"}
	for _, s := range sources {
		at, sys := root, "/"
		volume := filepath.VolumeName(s)
		parts := strings.Split(strings.Trim(filepath.ToSlash(s[len(volume):]), "/"), "/")
		if volume != "" {
			parts = append([]string{volume}, parts...)
			sys = ""
		}
		for _, p := range parts {
			if p == "" {
				continue
			}
			name := strings.TrimSuffix(p, ":") // a volume "C:" is stored as "C"
			sys = filepath.Join(sys, p)
			if p == volume {
				sys = p + string(filepath.Separator)
			}
			i := slices.IndexFunc(at.children, func(c *plan) bool { return c.name == name })
			if i < 0 {
				at.children = append(at.children, &plan{name: name, path: sys})
				i = len(at.children) - 1
			}
			at = at.children[i]
		}
		at.source = true
	}
	root.sort()
	return root
}

func (p *plan) sort() {
	slices.SortFunc(p.children, func(a, b *plan) int { return strings.Compare(a.name, b.name) })
	for _, c := range p.children {
		c.sort()
	}
}

// eachSource calls f with the path of every source at or below p.
func (p *plan) eachSource(f func(path string)) {
	if p.source {
		f(p.path)
		return
	}
	for _, c := range p.children {
		c.eachSource(f)
	}
}

// pushRoot starts the walk.
func (e *engine) pushRoot() {
	p := makePlan(e.o.Sources)
	d := &dir{plan: p}
	if e.parent != nil {
		d.prev = e.res.Parent.Root
	}
	e.queue.push(&listTask{d: d})
}

// planned backs up a directory above the sources: only what leads to them.
func (w *worker) planned(d *dir) error {
	p := w.newPart(d, len(d.plan.children))
	d.ended = true
	for i, c := range d.plan.children {
		old, err := w.before(d, c.name)
		if err == nil {
			err = w.plannedEntry(p, i, c, old)
		}
		if err != nil {
			return err
		}
	}
	w.launch()
	return w.partDone(p)
}

// plannedEntry backs up a source, or a directory above one. It may be a symbolic link to a directory: this is the one place where links are followed.
func (w *worker) plannedEntry(p *part, i int, c *plan, prev *snapshot.Node) error {
	n, d := &p.nodes[i], p.d
	st, err := statDir(c.path, n)
	partial := err
	if err != nil && !isPartial(err) {
		partial = nil
		*n = snapshot.Node{}
		switch {
		case c.source && d.h != nil && isFile(d, c.name):
			return w.entry(p, i, c.name, prev)
		case !c.source && passable(c.path, n):
			// A directory that may be passed and not read, as /home often is: what leads on is known, the rest is its owner's.
		default:
			c.eachSource(func(path string) { w.e.skip(&SourceError{Path: path, Err: err}) })
			return nil
		}
	}
	n.Name = c.name
	w.fill(n, st, prev)
	if err := w.externXAttrs(d, n); err != nil {
		return err
	}
	child := w.child(p, i, st.Dev, prev)
	child.plan, child.partial = c, partial
	w.next = append(w.next, &listTask{d: child})
	return nil
}

// statDir reads the metadata of a directory by its path.
func statDir(path string, n *snapshot.Node) (localfs.Stat, error) {
	h, err := localfs.OpenDir(path)
	if err != nil {
		return localfs.Stat{}, err
	}
	defer h.Close()
	st, err := h.Stat("", n)
	if err == nil {
		err = h.Details("", n, localfs.DetailOptions{})
	}
	return st, err
}

func isFile(d *dir, name string) bool {
	var n snapshot.Node
	_, err := d.h.Stat(name, &n)
	return err == nil && n.Type != snapshot.Dir
}

// passable fills what is known of a directory that cannot be opened.
func passable(path string, n *snapshot.Node) bool {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	*n = snapshot.Node{Type: snapshot.Dir, Mode: uint32(info.Mode().Perm()), MTime: timeOf(info.ModTime())}
	return true
}

// volumes reports whether d is the root that holds Windows's volumes, which is no directory of the system.
func (d *dir) volumes() bool { return runtime.GOOS == "windows" && d.up == nil }
