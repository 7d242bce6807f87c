package backup

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"packhold/chunk"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

var errChanged = errors.New("changed while it was read")

// small reads a file of up to smallFile bytes and stores it.
func (w *worker) small(p *part, i int, had verdict) error {
	n, d := &p.nodes[i], p.d
	name := n.Name
	f, err := d.h.OpenFile(name)
	if err != nil {
		w.lost(d, n, name, err)
		return nil
	}
	defer f.Close()
	st, problem := w.opened(f, n)
	if n.Name == "" {
		w.lost(d, n, name, problem)
		return nil
	}
	if n.Size > smallFile { // it was replaced, or grew, since it was listed
		w.e.queue.pushLarge(w.later(p, i, had))
		return nil
	}
	read, srcErr, err := w.content(f, n, st.Sparse(n.Size))
	if err != nil {
		return err
	}
	if srcErr != nil {
		w.lost(d, n, name, srcErr)
		return nil
	}
	if err := w.still(f, n, read); err != nil {
		problem = err
	}
	n.Size = read
	if err := w.externXAttrs(d, n); err != nil {
		return err
	}
	if problem != nil {
		w.e.skip(&SourceError{Path: w.path(d) + "/" + name, Err: problem})
	} else {
		w.e.links.put(n)
	}
	w.saved(d, n, had)
	w.e.o.Progress.Done(1, int64(read), 0)
	return nil
}

// lost is lose for a file that progress was told of.
func (w *worker) lost(d *dir, n *snapshot.Node, name string, err error) {
	w.lose(d, n, name, err)
	w.e.o.Progress.Done(1, 0, 0)
}

// opened reads the metadata of the open file, which is the truth: the entry may have been replaced since it was listed. After an error n has no
// name if nothing can be saved.
func (w *worker) opened(f *localfs.File, n *snapshot.Node) (localfs.Stat, error) {
	name := n.Name
	st, err := f.Stat(n)
	if err != nil {
		n.Name = ""
		return st, err
	}
	n.Name = name
	w.fill(n, st, nil)
	if err = f.Details(n, localfs.DetailOptions{}); err != nil && !isPartial(err) {
		n.Name = ""
	}
	return st, err
}

// still compares the file with what it was when it was opened. A name that came or went is no change of the file.
func (w *worker) still(f *localfs.File, n *snapshot.Node, read uint64) error {
	var now snapshot.Node
	if _, err := f.Stat(&now); err != nil {
		return err
	}
	if now.Size != n.Size || now.MTime != n.MTime || now.CTime != n.CTime && now.Links == n.Links || read != n.Size {
		return fmt.Errorf("%w: %d bytes of it were saved", errChanged, read)
	}
	return nil
}

// content reads an open small file and stores its bytes, at most n.Size. The two errors never mix: srcErr is the source's, err the
// repository's.
func (w *worker) content(f *localfs.File, n *snapshot.Node, sparse bool) (read uint64, srcErr, err error) {
	n.Inline, n.Extents, n.ExtentBlobs = nil, nil, nil
	size := int64(n.Size)
	if size <= snapshot.MaxInline {
		data := w.buf[:size]
		k, err := f.ReadAt(data, 0)
		if err != nil && err != io.EOF {
			return 0, err, nil
		}
		w.stats.BytesRead += uint64(k)
		n.Inline = slices.Clone(data[:k])
		return uint64(k), nil, nil
	}
	for off := int64(0); off < size; {
		start, end := off, size
		if sparse {
			if start, end, srcErr = f.NextData(off, size); srcErr != nil {
				return read, srcErr, nil
			}
			if start > off {
				n.Extents = append(n.Extents, snapshot.Extent{Kind: snapshot.Hole, Length: uint64(start - off)})
				read += uint64(start - off)
			}
		}
		data := w.buf[:end-start]
		k, err := f.ReadAt(data, start)
		if err != nil && err != io.EOF {
			return read, err, nil
		}
		read += uint64(k)
		w.stats.BytesRead += uint64(k)
		if err := w.storeSmall(n, data[:k], start); err != nil {
			return read, nil, err
		}
		if k < len(data) { // it became shorter
			break
		}
		off = end
	}
	return read, nil, nil
}

// storeSmall stores a stretch of a small file, which begins at off, in pieces as a chunk.Splitter cuts them.
func (w *worker) storeSmall(n *snapshot.Node, data []byte, off int64) error {
	for len(data) > 0 {
		start, zeros := chunk.ZeroRun(data, off)
		if zeros < chunk.ZeroMin {
			start, zeros = len(data), 0 // the stretch ends: what was undecided is content
		}
		w.cutter.Reset()
		for rest := data[:start]; len(rest) > 0; {
			k := w.cutter.Next(rest, true)
			id, err := w.put(rest[:k])
			if err != nil {
				return err
			}
			n.Extents = append(n.Extents, snapshot.Extent{Kind: snapshot.Data, Length: uint64(k), ID: id})
			rest = rest[k:]
		}
		if zeros > 0 {
			n.Extents = append(n.Extents, snapshot.Extent{Kind: snapshot.Zeros, Length: uint64(zeros)})
		}
		data = data[start+zeros:]
		off += int64(start + zeros)
	}
	return nil
}
