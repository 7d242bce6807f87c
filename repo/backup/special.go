package backup

import (
	"io/fs"
	"os"

	"packhold/chunk"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// leadsToSpecial reports whether a source that is a symbolic link, as the names of volumes in /dev are, leads to a device or FIFO.
func leadsToSpecial(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&(fs.ModeDevice|fs.ModeNamedPipe) != 0
}

// special leaves a device or FIFO to the reader of large files. It is read each time: nothing tells whether its bytes changed.
func (w *worker) special(p *part, i int, prev *snapshot.Node, follow bool) error {
	n, d := &p.nodes[i], p.d
	had := fresh
	if prev != nil && prev.Type == snapshot.File {
		had = changed
	}
	w.e.o.Progress.Start(w.path(d) + "/" + n.Name)
	if w.e.o.DryRun {
		asFile(n)
		w.saved(d, n, had)
		w.e.o.Progress.Done(1, 0, 0)
		return nil
	}
	f := w.later(p, i, had)
	f.special, f.follow = true, follow
	w.e.queue.pushLarge(f)
	return nil
}

// asFile makes the node of a device or FIFO that of a file with its bytes.
func asFile(n *snapshot.Node) {
	n.Type, n.Target, n.Rdev, n.Links = snapshot.File, "", 0, 1
}

// readSpecial reads a device or FIFO to its end. What was read before a failure is kept, and the failure told.
func (w *worker) readSpecial(s *chunk.Splitter, f *largeFile) (problem, err error) {
	n, d := &f.p.nodes[f.i], f.p.d
	name := n.Name
	in, err := f.h.OpenSpecial(w.ctx, name, f.follow)
	if err != nil {
		w.lose(d, n, name, err)
		return nil, nil
	}
	defer in.Close()
	st, err := in.Stat(n)
	if err != nil {
		w.lose(d, n, name, err)
		return nil, nil
	}
	n.Name = name
	w.fill(n, st, nil)
	problem = in.Details(n, localfs.DetailOptions{NoFlags: true}) // only a *PartialError: it is no link
	asFile(n)
	_, srcErr, err := w.pieces(s, f, in, 0)
	if srcErr != nil {
		problem = srcErr
	}
	return problem, err
}
