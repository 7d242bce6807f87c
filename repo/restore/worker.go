package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/keyring"
	"packhold/repo/localfs"
	"packhold/repo/restore/fetch"
	"packhold/repo/snapshot"
)

// ref is one place that wants a blob.
type ref struct {
	id     crypt.ID
	pack   int32 // in window.packs
	offset uint32
	length uint32
	raw    uint32
	how    crypt.Compression
	again  bool // looked for a second time
	to     *item
	at     int64 // in the file
}

func (w *window) place(r *ref) index.Place {
	return index.Place{Pack: w.packs[r.pack], Offset: r.offset, Length: r.length, Raw: r.raw, Compression: r.how}
}

// job is a part of a window: references to one range of one pack, or items that need no blob.
type job struct {
	w        *window
	from, to int32        // in window.refs, or in window.items where n is 0
	off, n   int64        // range of the pack
	ahead    *fetch.Ahead // nil: fetched by who does the job
}

// worker does jobs. Its two readers hold one blob each: the one being written, and one of attributes or extents.
type worker struct {
	e      *engine
	reader *repo.Reader
	meta   *repo.Reader
	buf    []byte // of existing bytes
}

func (e *engine) newWorker() (*worker, error) {
	d, err := e.repo.NewReader()
	if err != nil {
		return nil, err
	}
	m, err := e.repo.NewReader()
	if err != nil {
		return nil, err
	}
	return &worker{e: e, reader: d, meta: m}, nil
}

func (w *worker) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case j, ok := <-w.e.jobs:
			if !ok {
				return nil
			}
			if err := w.do(ctx, j); err != nil {
				return err
			}
			if j.w.left.Add(-1) == 0 {
				<-w.e.windows
			}
		}
	}
}

func (w *worker) do(ctx context.Context, j job) error {
	if j.n > 0 {
		return w.part(ctx, j)
	}
	for _, it := range j.w.items[j.from:j.to] {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.simple(ctx, it); err != nil {
			return err
		}
	}
	return nil
}

// part deals with a range of a pack, but for the places that have their bytes.
func (w *worker) part(ctx context.Context, j job) error {
	refs := j.w.refs[j.from:j.to]
	if !slices.ContainsFunc(refs, func(r ref) bool { return r.to.base }) {
		return w.want(ctx, j)
	}
	left := 0
	for i := range refs {
		if it := refs[i].to; !it.base || !w.has(&refs[i]) {
			refs[left] = refs[i]
			left++
		} else if err := w.drop(ctx, it); err != nil {
			return err
		}
	}
	for _, rest := range j.w.cut(nil, int(j.from), int(j.from)+left) {
		if err := w.want(ctx, rest); err != nil {
			return err
		}
	}
	return nil
}

// has reports whether nothing is to be done for a place in an existing file: it has its bytes, or the file is only compared.
func (w *worker) has(r *ref) bool {
	it, p := r.to, w.e.pool
	if it.check && it.differ.Load() {
		return true
	}
	if p.Take(it) != nil {
		it.differ.Store(true)
		return it.check // otherwise writing says why
	}
	defer p.Give(it)
	w.buf = slices.Grow(w.buf[:0], int(r.raw))[:r.raw]
	if n, err := it.f.ReadAt(w.buf, r.at); err == nil && n == len(w.buf) && crypt.Sum(w.buf) == r.id {
		if !it.check { // there it counts when all of it is right
			w.e.n.reused.Add(uint64(n))
			w.e.o.Progress.Done(0, int64(n))
		}
		return true
	}
	it.differ.Store(true)
	return it.check
}

// want fetches what a range is wanted for. A dry run counts it.
func (w *worker) want(ctx context.Context, j job) error {
	e, refs := w.e, j.w.refs[j.from:j.to]
	if !e.o.DryRun {
		return w.fetch(ctx, j)
	}
	e.n.fetched.Add(uint64(j.n))
	for i := range refs {
		if i == 0 || refs[i].offset != refs[i-1].offset {
			e.n.blobs.Add(1)
		}
		e.n.written.Add(uint64(refs[i].raw))
		if err := w.drop(ctx, refs[i].to); err != nil {
			return err
		}
	}
	return nil
}

// fetch reads a range of a pack and opens every blob in it once.
func (w *worker) fetch(ctx context.Context, j job) error {
	e, refs := w.e, j.w.refs[j.from:j.to]
	var sealed []byte
	var gone, err error
	switch {
	case j.ahead != nil:
		defer j.ahead.Finish()
		sealed, err = j.ahead.Wait(ctx, j.off, j.n)
	case !e.full.Load():
		defer func() { backends.Release(sealed) }() // what is opened is in the reader's memory
		sealed, err = e.repo.ReadPack(ctx, j.w.packs[refs[0].pack], j.off, j.n)
		e.n.fetched.Add(uint64(len(sealed)))
	}
	if err != nil {
		if !fetch.Damage(err) {
			return err
		}
		gone = err
	}
	for len(refs) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := 1
		for n < len(refs) && refs[n].offset == refs[0].offset && refs[n].id == refs[0].id {
			n++
		}
		if err := w.blob(ctx, j, refs[:n], sealed, gone); err != nil {
			return err
		}
		refs = refs[n:]
	}
	return nil
}

// blob opens one blob and gives it to all places that want it.
func (w *worker) blob(ctx context.Context, j job, refs []ref, sealed []byte, gone error) error {
	e := w.e
	if e.full.Load() {
		for i := range refs {
			if err := w.failed(ctx, &refs[i], &failure{err: ErrFull}); err != nil {
				return err
			}
		}
		return nil
	}
	at := j.w.place(&refs[0])
	err := gone
	var plain []byte
	if err == nil {
		from := int64(at.Offset) - j.off
		plain, err = w.reader.Open(refs[0].id, at, sealed[from:from+int64(at.Length)])
	}
	if err != nil {
		if !fetch.Damage(err) && !errors.Is(err, keyring.ErrNoKey) { // whose key nobody has may be elsewhere under another
			return err
		}
		first := err
		plain, err = w.reader.Get(ctx, refs[0].id)
		switch {
		case err == nil:
			e.n.mended.Add(1)
			e.o.Progress.Mended(refs[0].to.path(), first)
		case !fetch.Damage(err):
			return err
		default:
			return w.damaged(ctx, refs, err)
		}
	}
	e.n.blobs.Add(1)
	for i := range refs {
		if err := w.write(ctx, &refs[i], plain); err != nil {
			return err
		}
	}
	return nil
}

// damaged deals with a blob that cannot be had: if its pack is gone, a prune may have moved it since the index was read.
func (w *worker) damaged(ctx context.Context, refs []ref, err error) error {
	for i := range refs {
		r := &refs[i]
		if fetch.Gone(err) && !r.again && w.e.later(*r) {
			continue
		}
		if err := w.failed(ctx, r, &failure{lost: true, ranges: []Range{{r.at, int64(r.raw)}}, err: err}); err != nil {
			return err
		}
	}
	return nil
}

// maxRetry bounds the references kept for a second look.
const maxRetry = maxRefs

// later keeps a reference for the time after the index was read again.
func (e *engine) later(r ref) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.retry) == maxRetry {
		return false
	}
	r.again = true
	e.retry = append(e.retry, r)
	return true
}

// maxRanges bounds the lost ranges of one file.
const maxRanges = 64

// failed notes that a place does not get its bytes.
func (w *worker) failed(ctx context.Context, r *ref, f *failure) error {
	w.e.note(r.to, f)
	return w.drop(ctx, r.to)
}

// note adds to what is wrong with an item. What the repository lost counts more than what the destination refused.
func (e *engine) note(it *item, f *failure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case it.fail == nil || f.lost && !it.fail.lost:
		it.fail = f
		return
	case !f.lost || len(f.ranges) == 0:
		return
	}
	list, r := it.fail.ranges, f.ranges[0]
	for i := range list {
		switch {
		case list[i].Off+list[i].N == r.Off:
			list[i].N += r.N
			return
		case r.Off+r.N == list[i].Off:
			list[i].Off, list[i].N = r.Off, list[i].N+r.N
			return
		}
	}
	if len(list) < maxRanges {
		it.fail.ranges = append(list, r)
		return
	}
	last := &list[maxRanges-1]
	from, to := min(last.Off, r.Off), max(last.Off+last.N, r.Off+r.N)
	last.Off, last.N = from, to-from
}

func (e *engine) failure(it *item) *failure {
	e.mu.Lock()
	defer e.mu.Unlock()
	return it.fail
}

// write puts a blob where it belongs.
func (w *worker) write(ctx context.Context, r *ref, plain []byte) error {
	it := r.to
	if it.how == whole {
		return w.finish(ctx, it, plain)
	}
	if w.e.failure(it) == nil {
		err := w.touch(it)
		if err == nil {
			err = w.put(it, plain, r.at)
		}
		if err != nil {
			if localfs.NoSpace(err) { // now, not when the file is finished: it may be large
				w.e.full.Store(true)
			}
			w.e.note(it, &failure{err: err})
		} else {
			it.wrote.Store(true)
			w.e.n.written.Add(uint64(len(plain)))
			w.e.o.Progress.Done(0, int64(len(plain)))
		}
	}
	return w.drop(ctx, it)
}

func (w *worker) writeAt(it *item, plain []byte, at int64) error {
	p := w.e.pool
	if err := p.Take(it); err != nil {
		return err
	}
	defer p.Give(it)
	// The system lets one writer at a time into a file, and others burn a core while they wait.
	it.writing.Lock()
	defer it.writing.Unlock()
	_, err := it.f.WriteAt(plain, at)
	return err
}

// drop notes that a place of an item is dealt with. The last one finishes it.
func (w *worker) drop(ctx context.Context, it *item) error {
	if it.todo.Add(-1) > 0 {
		return nil
	}
	return w.finish(ctx, it, nil)
}

// simple finishes an item that needs no blob.
func (w *worker) simple(ctx context.Context, it *item) error {
	if w.e.full.Load() && it.how != metadata {
		w.e.note(it, &failure{err: ErrFull})
	}
	return w.finish(ctx, it, it.node.Inline)
}

// finish gives an item its metadata and its name, or reports and removes it, and tells its directory.
func (w *worker) finish(ctx context.Context, it *item, plain []byte) error {
	e := w.e
	f := e.failure(it)
	if f == nil {
		node, err := w.complete(ctx, it.node)
		if err != nil {
			return err
		}
		err = w.make(ctx, it, node, plain)
		if err == errDiffers {
			// The planner plans it again, as a whole; its directory and its group go on waiting.
			n := &item{dir: it.dir, node: it.node, seq: it.seq, group: it.group}
			e.mu.Lock()
			defer e.mu.Unlock()
			e.redo = append(e.redo, n)
			return nil
		}
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, repo.ErrStorage) {
				return err
			}
			f = &failure{lost: fetch.Damage(err), err: err}
		}
	}
	if f != nil {
		e.abandon(it)
		if f.lost {
			e.lost(Lost{Path: it.path(), Ranges: f.ranges, Err: f.err}, it.seq)
		} else {
			e.local(it.path(), it.seq, it.node, f.err)
		}
	}
	if g := it.group; g != nil {
		g.end(f)
	}
	return w.left(ctx, it.dir)
}

// complete returns n with the attributes that are in a blob. Without them the entry is restored all the same; the attributes are lost.
func (w *worker) complete(ctx context.Context, n *snapshot.Node) (*snapshot.Node, error) {
	if w.e.o.Owner != nil {
		n = w.e.owned(n)
	}
	if n.XAttrBlob.IsZero() {
		return n, nil
	}
	c := *n
	var err error
	c.XAttrs, err = snapshot.XAttrs(ctx, w.meta, n)
	if err != nil && (ctx.Err() != nil || !fetch.Damage(err)) {
		return nil, err
	}
	if err != nil {
		c.XAttrs = nil
		return &c, nil
	}
	c.XAttrBlob = crypt.ID{}
	return &c, nil
}

// make makes the entry, or completes it. Its error is about this entry and the destination, or errDiffers.
func (w *worker) make(ctx context.Context, it *item, n *snapshot.Node, plain []byte) error {
	switch {
	case it.how == pieces:
		return w.makePieces(ctx, it, n)
	case w.e.o.DryRun && it.how == metadata:
		w.e.n.kept.Add(1)
		return nil
	case w.e.o.DryRun:
		w.e.n.written.Add(uint64(len(n.Inline)))
		w.e.restored(it, n, 0)
		return nil
	}
	return persist(func() error { return w.makeWhole(it, n, plain) })
}

// persist tries again what failed because a temporary entry is gone: another restore in the same directory took it for a leftover.
func persist(try func() error) error {
	err := try()
	for i := 0; i < 3 && errors.Is(err, fs.ErrNotExist); i++ {
		err = try()
	}
	return err
}

func (w *worker) makeWhole(it *item, n *snapshot.Node, plain []byte) error {
	e, d := w.e, it.dir
	p := e.pool
	if err := p.Take(d); err != nil {
		return err
	}
	defer p.Give(d)
	if it.how == metadata {
		e.n.kept.Add(1)
		e.attributes(it, n, d.h.Apply(n.Name, n, e.o.Apply))
		return nil
	}
	var attrs error
	if n.Type == snapshot.File {
		temp := e.tempName()
		f, err := d.h.CreateFile(temp)
		if err != nil {
			return err
		}
		if attrs, err = fill(f, n, plain, e.o.Apply); err != nil {
			_ = d.h.Remove(temp) // the error says it all
			return err
		}
		if err := e.publish(d, temp, n.Name, it.absent); err != nil {
			return err
		}
	} else {
		name, err := e.special(it, n)
		if err != nil {
			return err
		}
		attrs = d.h.Apply(name, n, e.o.Apply)
		if name != n.Name {
			if err := e.publish(d, name, n.Name, it.absent); err != nil {
				return err
			}
		}
	}
	e.n.written.Add(uint64(len(plain)))
	e.restored(it, n, len(plain))
	e.attributes(it, n, attrs)
	return nil
}

// fill writes and closes a small file.
func fill(f *os.File, n *snapshot.Node, plain []byte, opt localfs.ApplyOptions) (attrs, err error) {
	localfs.PrepareFile(f, n)
	if len(plain) > 0 {
		_, err = f.Write(plain)
	}
	if err == nil {
		attrs = localfs.ApplyFile(f, n, opt)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return attrs, err
}

// special makes a link or special file: under its own name where nothing can have that, else under a temporary one.
func (e *engine) special(it *item, n *snapshot.Node) (name string, err error) {
	create := func(name string) error {
		if n.Type == snapshot.Symlink {
			return it.dir.h.Symlink(n.Target, name)
		}
		return it.dir.h.Mknod(name, n)
	}
	if it.dir.fresh && create(n.Name) == nil {
		return n.Name, nil
	}
	name = e.tempName()
	return name, create(name)
}

// attributes reports metadata that could not be set, and sets the flags that forbid changes, which come last.
func (e *engine) attributes(it *item, n *snapshot.Node, err error) {
	if it.group == nil && it.how != metadata {
		err = both(err, it.dir.h.ApplyLockingFlags(n.Name, n))
	}
	if !n.XAttrBlob.IsZero() {
		err = both(err, errAttributesLost)
	}
	if len(n.Streams) > 0 {
		err = both(err, errStreams)
	}
	if err != nil {
		e.local(it.path(), it.seq, nil, err)
	}
}

// both is two errors in one line.
func both(a, b error) error {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	return fmt.Errorf("%w; %w", a, b)
}

var (
	errAttributesLost = fmt.Errorf("%w: its extended attributes cannot be read", repo.ErrDamaged)
	errStreams        = errors.New("its named streams are not restored")
)

// restored counts an entry that has its final name.
func (e *engine) restored(it *item, n *snapshot.Node, written int) {
	switch n.Type {
	case snapshot.File:
		e.n.files.Add(1)
		e.n.bytes.Add(n.Size)
	case snapshot.Symlink:
		e.n.symlinks.Add(1)
	default:
		e.n.specials.Add(1)
	}
	if privileged(n) {
		e.n.privileged.Add(1)
	}
	e.o.Progress.Done(1, int64(written))
}

func privileged(n *snapshot.Node) bool {
	if n.Type == snapshot.CharDevice || n.Type == snapshot.BlockDevice || n.Type == snapshot.File && n.Mode&0o6000 != 0 {
		return true
	}
	for i := range n.XAttrs {
		if n.XAttrs[i].Name == "security.capability" {
			return true
		}
	}
	return false
}

// left notes that an entry of d is dealt with. The last one sets the metadata of d, and so on upwards.
func (w *worker) left(ctx context.Context, d *dir) error {
	e := w.e
	for d != nil && d.todo.Add(-1) == 0 {
		if d.made && !e.o.DryRun {
			if err := w.leave(ctx, d); err != nil {
				return err
			}
		}
		d.node = nil // d itself may be kept, as the place of a file with several names
		d = d.up
	}
	return nil
}

func (w *worker) leave(ctx context.Context, d *dir) error {
	e := w.e
	defer e.pool.Discard(d)
	if d.node == nil {
		return nil
	}
	n, err := w.complete(ctx, d.node)
	if err != nil {
		return err
	}
	if err = e.pool.Take(d); err == nil {
		err = d.h.Apply("", n, e.o.Apply)
		e.pool.Give(d)
	}
	if err == nil && !n.XAttrBlob.IsZero() {
		err = errAttributesLost
	}
	if err != nil {
		e.local(d.path, d.seq, nil, err)
	}
	return nil
}
