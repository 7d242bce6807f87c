package restore

import (
	"context"
	"os"

	"packhold/repo/compare"
	"packhold/repo/restore/fetch"
	"packhold/repo/snapshot"
)

// verify walks the tree once more, reads everything that was restored, and compares.
func (e *engine) verify(ctx context.Context, pages *fetch.Pages, root *os.Root) error {
	walk := func(ctx context.Context, f func(compare.Entry) error) error {
		if n := e.tree.self; n != nil && e.tree.picked && e.o.Overwrite == Always {
			if err := f(compare.Entry{Node: e.owned(n), Path: e.tree.prefix, Meta: true}); err != nil {
				return err
			}
		}
		known := func(string, uint64, error) error { return nil } // reported when it was restored
		return e.each(ctx, pages, func(x picked) error {
			dir := x.Node.Type == snapshot.Dir
			// Directories that are not picked exist only if something below them is.
			it := compare.Entry{Node: e.owned(x.Node.Clone()), Path: x.path, Depth: x.Depth, Content: x.in && !dir && !e.missing.has(x.seq)}
			it.Meta = x.in && !e.missing.has(x.seq) && !e.partly.has(x.seq)
			return f(it)
		}, known)
	}
	return compare.Run(ctx, root, walk, compare.Options{Pages: pages, Damaged: fetch.Damage, Workers: e.o.Workers,
		NoOwner: e.o.Apply.NoOwner, NoPrivileged: e.o.Apply.NoPrivileged,
		Mismatch: e.mismatch,
		Done: func(entries, bytes int64) {
			e.n.verified.Add(uint64(entries))
			e.o.Progress.Verified(entries, bytes)
		}})
}

func (e *engine) mismatch(m Mismatch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.res.MismatchCount++; len(e.res.Mismatch) < maxListed {
		e.res.Mismatch = append(e.res.Mismatch, m)
	}
}
