package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// errDiffers says that a file that was compared is not the snapshot's.
var errDiffers = errors.New("the existing file differs")

// makePieces completes a file whose blobs are all written: what no blob does, then metadata and name.
func (w *worker) makePieces(ctx context.Context, it *item, n *snapshot.Node) error {
	e, d := w.e, it.dir
	p := e.pool
	if e.o.DryRun && !it.base {
		e.restored(it, n, 0)
		return nil
	}
	if err := p.Take(it); it.check && err != nil {
		return errDiffers
	} else if err != nil { // it makes the file, if that is one hole
		return err
	}
	err := w.rest(ctx, it, n)
	same := it.place && !it.differ.Load()
	if err != nil || it.check && !same || e.o.DryRun {
		p.Give(it)
		p.Abandon(it)
		switch {
		case it.check && !same:
			return errDiffers
		case err != nil:
			return err
		case same:
			e.equal(it, n)
		default:
			e.restored(it, n, 0)
		}
		return nil
	}
	if same {
		p.Give(it)
		err := p.Discard(it)
		if err == nil {
			err = p.Take(d)
		}
		if err != nil {
			return err
		}
		defer p.Give(d)
		e.equal(it, n)
		it.how = metadata // its flags are set by Apply
		e.attributes(it, n, d.h.Apply(n.Name, n, e.o.Apply))
		return nil
	}
	attrs := localfs.ApplyFile(it.f, n, e.o.Apply)
	// The lock lasts until the file has its name, so that no other restore takes it for a leftover; but closing it may fail, and then it must not get it.
	lock, err := localfs.Duplicate(it.f)
	p.Give(it)
	if err == nil {
		defer lock.Close()
		err = p.Discard(it)
	}
	if err != nil {
		return err
	}
	if err := p.Take(d); err != nil {
		return err
	}
	defer p.Give(d)
	if !it.place {
		if err := e.publish(d, it.temp, n.Name, it.absent); err != nil {
			return err
		}
	}
	e.partial.Delete(it)
	e.restored(it, n, 0)
	e.attributes(it, n, attrs)
	return nil
}

// equal counts a file that had all its bytes.
func (e *engine) equal(it *item, n *snapshot.Node) {
	e.n.kept.Add(1)
	bytes := int64(0)
	if it.check {
		e.n.reused.Add(n.Size)
		bytes = int64(n.Size)
	}
	e.o.Progress.Done(1, bytes)
}

// change says that a file with bytes of its own is about to be changed. It reports false where that must not be: then it only differs.
func (w *worker) change(it *item) (bool, error) {
	it.differ.Store(true)
	if it.check || w.e.o.DryRun {
		return false, nil
	}
	return true, w.touch(it)
}

// touch prepares a file that is changed in place, before its first change. From then on nobody but its owner may read it, who is the
// snapshot's; it has no attributes that give rights; and its time is not the snapshot's, so that no later restore takes it for complete.
func (w *worker) touch(it *item) error {
	if !it.place {
		return nil
	}
	p := w.e.pool
	if err := p.Take(it); err != nil {
		return err
	}
	defer p.Give(it)
	it.writing.Lock()
	defer it.writing.Unlock()
	if it.dirty {
		return nil
	}
	n := snapshot.Node{Name: it.node.Name, Type: snapshot.File, Mode: 0o600, MTime: snapshot.Time{Sec: it.node.MTime.Sec ^ 1}}
	n.UID, n.GID = w.e.owner(it.node)
	err := localfs.ApplyFile(it.f, &n, w.e.o.Apply)
	var partial *localfs.PartialError
	if errors.As(err, &partial) && slices.ContainsFunc(partial.Failed, func(a localfs.AttrError) bool { return a.Attr == "mode" }) {
		return fmt.Errorf("closing it to others before it is changed: %w", err)
	}
	it.dirty = true
	return nil
}

// put writes bytes to an item. With Sparse, blocks of zeros become holes.
func (w *worker) put(it *item, plain []byte, at int64) error {
	if !w.e.o.Sparse {
		return w.writeAt(it, plain, at)
	}
	for len(plain) > 0 {
		n, zero := localfs.ZeroRun(plain, at)
		var err error
		if !zero {
			err = w.writeAt(it, plain[:n], at)
		} else if it.base {
			if err = w.e.pool.Take(it); err == nil {
				err = localfs.Clear(it.f, at, int64(n))
				w.e.pool.Give(it)
			}
		}
		if err != nil {
			return err
		}
		plain, at = plain[n:], at+int64(n)
	}
	return nil
}

// rest does what no blob does: holes, zeros, bytes that the node holds, and the size. The item is open.
func (w *worker) rest(ctx context.Context, it *item, n *snapshot.Node) error {
	if it.gaps {
		at := int64(0)
		for x, err := range snapshot.EachExtent(ctx, w.meta, n) {
			if err != nil {
				return err
			}
			if x.Kind != snapshot.Data {
				if err := w.gap(ctx, it, x.Kind, [2]int64{at, at + int64(x.Length)}); err != nil {
					return err
				}
			}
			at += int64(x.Length)
		}
	}
	if !it.base {
		return nil
	}
	var have snapshot.Node
	if _, err := localfs.StatFile(it.f, &have); err != nil {
		return err
	}
	if len(n.Inline) > 0 {
		var buf [snapshot.MaxInline]byte
		k, err := it.f.ReadAt(buf[:len(n.Inline)], 0)
		if err != nil && err != io.EOF {
			return err
		}
		if bytes.Equal(buf[:k], n.Inline) {
			if !it.check {
				w.e.n.reused.Add(uint64(k))
			}
		} else {
			ok, err := w.change(it)
			if !it.check {
				w.e.n.written.Add(uint64(len(n.Inline)))
			}
			if err == nil && ok {
				err = w.writeAt(it, n.Inline, 0)
			}
			if err != nil {
				return err
			}
		}
	}
	if have.Size == n.Size {
		return nil
	}
	ok, err := w.change(it)
	if err == nil && ok {
		err = it.f.Truncate(int64(n.Size))
	}
	return err
}

// gap makes sure that a range without blobs reads as zeros, and that its room is as it was.
func (w *worker) gap(ctx context.Context, it *item, kind snapshot.ExtentKind, at [2]int64) error {
	sparse := kind == snapshot.Hole || w.e.o.Sparse
	if it.base {
		stored, zero, err := localfs.Stored(ctx, it.f, at[0], at[1])
		if err != nil {
			return err
		}
		// A file that is only compared may have its zeros stored or not: the bytes are the same.
		if stored && (!zero || sparse && !it.check) {
			ok, err := w.change(it)
			if err == nil && ok {
				err = localfs.Clear(it.f, at[0], at[1]-at[0])
			}
			if err != nil {
				return err
			}
		}
	}
	if sparse || it.check || w.e.o.DryRun {
		return nil
	}
	err := localfs.Reserve(it.f, at[0], at[1]-at[0])
	if errors.Is(err, errors.ErrUnsupported) { // the bytes are right; there is only no promise of room for them
		return nil
	}
	return err
}
