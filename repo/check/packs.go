package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/pack"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

var errNotExist = fs.ErrNotExist

// window is how much of a pack is fetched at once.
const window = 4 << 20

// packReader reads a pack from front to back for a scrub, in windows, and shows each byte once to a viewer on the way. Sectors that the disk cannot
// read come as zeros, which the scrub finds bad.
type packReader struct {
	ctx  context.Context
	c    *checker
	name string
	size int64
	off  int64 // of buf
	buf  []byte
	seen int64                           // bytes shown
	view func(off int64, b []byte) error // nil: nobody looks
	err  error                           // of the storage
}

// behind is the storage with its files cut off before off.
type behind struct {
	backends.Storage
	off int64
}

func (b behind) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	return b.Storage.Get(ctx, name, b.off+off, n)
}

// ReadAt implements io.ReaderAt. Bytes at the end (the look at the trailer that comes first) are fetched apart.
func (p *packReader) ReadAt(b []byte, off int64) (int, error) {
	n := min(int64(len(b)), p.size-off)
	if n <= 0 {
		return 0, io.EOF
	}
	done := int64(0)
	for done < n {
		at := off + done
		if at < p.off || at >= p.off+int64(len(p.buf)) {
			if err := p.fetch(at, n-done); err != nil {
				return int(done), err
			}
		}
		done += int64(copy(b[done:n], p.buf[at-p.off:]))
	}
	return int(n), nil
}

// fetch makes buf hold off.
func (p *packReader) fetch(off, want int64) error {
	n := min(max(window, want), p.size-off)
	ahead := off > p.seen // not in order: the trailer
	if ahead {
		n = min(want, p.size-off)
	}
	backends.Release(p.buf)
	p.buf = nil
	b, _, err := backends.GetBroken(p.ctx, behind{p.c.s, off}, p.name, n, n)
	if err != nil {
		p.err = err
		return err
	}
	p.off, p.buf = off, b
	if !ahead && p.view != nil && off+n > p.seen {
		if err := p.view(p.seen, b[p.seen-off:]); err != nil {
			p.err = err
			return err
		}
	}
	if !ahead {
		p.c.bytes.Add(uint64(n))
		p.c.o.Progress.Done(n)
		p.seen = max(p.seen, off+n)
	}
	return nil
}

// scrub checks every byte of a pack against its name, and tells whether all are good.
func (c *checker) scrub(ctx context.Context, j job, view func(off int64, b []byte) error) (good bool, err error) {
	r := &packReader{ctx: ctx, c: c, name: j.name, size: j.size, view: view}
	rep, err := pack.Scrub(r, j.size, j.id, nil)
	backends.Release(r.buf)
	if r.err != nil && !errors.Is(r.err, io.EOF) {
		if errors.Is(r.err, fs.ErrNotExist) || errors.Is(r.err, io.ErrUnexpectedEOF) {
			c.problem(Problem{Object: j.name, Err: fmt.Errorf("%w: %w", repo.ErrDamaged, r.err)})
			return false, nil
		}
		return false, stored.Failed("reading pack", j.name, r.err)
	}
	if err != nil || rep.OK() {
		return err == nil, err
	}
	p := Problem{Object: j.name, Mendable: rep.Mendable()}
	switch {
	case rep.Trailer == nil:
		p.Err = fmt.Errorf("%w: no whole trailer is left", repo.ErrDamaged)
	case len(rep.Bad) > 0:
		p.Off, p.N = rep.Range(rep.Bad[0])
		p.Err = fmt.Errorf("%w: %d of %d shards fail, parity mends %d at most", repo.ErrDamaged, len(rep.Bad), len(rep.Trailer.Digests), rep.Trailer.Parity)
	case rep.Size != int64(rep.Trailer.FileSize()):
		p.Err = fmt.Errorf("%w: %d bytes, should be %d", repo.ErrDamaged, rep.Size, rep.Trailer.FileSize())
	default:
		p.Err = fmt.Errorf("%w: one of two trailers is bad", repo.ErrDamaged)
	}
	c.problem(p)
	return false, nil
}

// Scrub checks every pack in s against its name, and every object that is named by its own hash. It needs no key.
func Scrub(ctx context.Context, s backends.Storage, o Options) (*Report, error) {
	o.defaults()
	c := &checker{s: s, o: o, rep: new(Report)}
	if err := c.scrubAll(ctx); err != nil {
		return nil, fmt.Errorf("scrubbing: %w", err)
	}
	c.rep.Bytes = c.bytes.Load()
	slices.SortStableFunc(c.rep.Problems, func(a, b Problem) int { return strings.Compare(a.Object, b.Object) })
	return c.rep, nil
}

func (c *checker) scrubAll(ctx context.Context) error {
	var jobs []job
	for _, prefix := range []string{"packs/", "meta/"} {
		infos, foreign, err := stored.List(ctx, c.s, prefix)
		if err != nil {
			return err
		}
		c.rep.Foreign += foreign
		for _, i := range infos {
			id, err := crypt.ParseID(packBase(i.Name))
			if err != nil {
				return err
			}
			jobs = append(jobs, job{name: i.Name, id: id, size: i.Size})
		}
	}
	jobs = c.choose(jobs)
	c.rep.Packs, c.rep.Read = uint64(len(jobs)), uint64(len(jobs))
	if err := c.hashed(ctx); err != nil {
		return err
	}
	if err := c.keysThere(ctx); err != nil {
		return err
	}
	return c.each(ctx, jobs, func(ctx context.Context, next func() (job, bool)) error {
		for j, ok := next(); ok; j, ok = next() {
			good, err := c.scrub(ctx, j, nil)
			if err != nil {
				return err
			}
			c.o.Checked(j.name, j.size, good)
		}
		return nil
	})
}

// keysThere reports as lost what nobody could open any more: without keys it shows in the names alone.
func (c *checker) keysThere(ctx context.Context) error {
	slots, bundles := make(map[string]bool), make(map[string]bool)
	for _, prefix := range format.SlotPrefixes {
		infos, _, err := stored.List(ctx, c.s, prefix)
		if err != nil {
			return err
		}
		for _, i := range infos {
			slots[i.Name[strings.LastIndexByte(i.Name, '/')+1:]] = true
		}
	}
	infos, _, err := stored.List(ctx, c.s, "bundles/")
	if err != nil {
		return err
	}
	for _, i := range infos {
		bundles[bundleSlot(i.Name)] = true
	}
	for slot := range slots {
		if bundles[slot] {
			return nil
		}
	}
	c.problem(Problem{Object: "keys/", Err: fmt.Errorf("%w: no key slot with a bundle is left, so no passphrase opens the repository", repo.ErrDamaged)})
	return nil
}

// packBase is the hash in a pack's name.
func packBase(name string) string {
	base := name[strings.LastIndexByte(name, '/')+1:]
	base, _, _ = strings.Cut(base, ".")
	return base
}

// hashed checks the objects that are named by the hash of their bytes.
func (c *checker) hashed(ctx context.Context) error {
	for _, prefix := range []string{"index/", "bundles/", "hosts/", "grants/", "forgotten/", "marks/", "verified/", "copied/", "roots/", "group/"} {
		infos, foreign, err := stored.List(ctx, c.s, prefix)
		if err != nil {
			return err
		}
		c.rep.Foreign += foreign
		for _, i := range infos {
			b, err := stored.Fetch(ctx, c.s, i.Name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil && !strings.HasSuffix(i.Name, crypt.Sum(b).String()) {
				err = fmt.Errorf("%w: the bytes do not match the name", repo.ErrDamaged)
			}
			if err := c.found(i.Name, err, rebuildable(i.Name)); err != nil {
				return err
			}
			if prefix == "index/" {
				c.rep.Segments++
			}
		}
	}
	return nil
}

// readData opens and hashes every blob of the chosen packs while it scrubs them.
func (c *checker) readData(ctx context.Context, there map[string]int64) error {
	var jobs []job
	seen := make(map[string]bool)
	for p, err := range c.r.Index().Packs() {
		if err != nil {
			return err
		}
		name := format.PackName(p.Name, p.Tree(), p.Incarnation)
		size, ok := there[name]
		if seen[name] || !ok || p.Excluded()&index.Final != 0 || c.wanted != nil && !c.wanted[name] {
			continue
		}
		seen[name] = true
		jobs = append(jobs, job{name: name, id: p.Name, size: size, info: p})
	}
	jobs = c.choose(jobs)
	c.rep.Read = uint64(len(jobs))
	slices.SortFunc(jobs, func(a, b job) int { return strings.Compare(a.name, b.name) })
	return c.each(ctx, jobs, func(ctx context.Context, next func() (job, bool)) error {
		d, err := c.r.NewReader()
		if err != nil {
			return err
		}
		for j, ok := next(); ok; j, ok = next() {
			good, err := c.pack(ctx, d, j)
			if err != nil {
				return err
			}
			c.o.Checked(j.name, j.size, good)
			if good {
				c.mu.Lock()
				c.rep.Verified = append(c.rep.Verified, refOf(j.info))
				c.mu.Unlock()
			}
		}
		return nil
	})
}

// pack scrubs one pack and opens its blobs as they come by. It tells whether all are good.
func (c *checker) pack(ctx context.Context, d *repo.Reader, j job) (good bool, err error) {
	_, table, err := c.r.ReadTable(ctx, backends.Info{Name: j.name, Size: j.size})
	if stored.Missing(err) { // it was there a moment ago
		c.problem(Problem{Object: j.name, Err: fmt.Errorf("%w: the pack is missing", repo.ErrDamaged)})
		c.lostPack(j.info)
		return false, nil
	}
	if err != nil {
		// The scrub says what is wrong with the bytes; without a table the blobs are opened as the index places them.
		if !errors.Is(err, repo.ErrDamaged) && !errors.Is(err, repo.ErrTampered) && !errors.Is(err, io.ErrUnexpectedEOF) && !stored.Unreadable(err) {
			return false, err
		}
		if errors.Is(err, repo.ErrTampered) {
			c.problem(Problem{Object: j.name, Err: err})
		}
		c.lostPack(j.info)
		_, err := c.scrub(ctx, j, nil)
		return false, err
	}
	opened := true
	var carry []byte // the beginning of blob i, from windows before
	i := 0
	view := func(off int64, b []byte) error {
		for ; i < len(table.Entries); i++ {
			e := table.Entries[i]
			from := int64(e.Offset) + int64(len(carry)) - off // what is still wanted of it begins here
			rest := int64(e.Length) - int64(len(carry))
			if from > int64(len(b)) || rest > int64(len(b))-from {
				if from < int64(len(b)) {
					carry = append(carry, b[from:]...)
				}
				return nil
			}
			sealed := b[from : from+rest]
			if len(carry) > 0 {
				carry = append(carry, sealed...)
				sealed = carry
			}
			good, err := c.blob(ctx, d, j, e, sealed)
			if err != nil {
				return err
			}
			opened = opened && good
			carry = carry[:0]
		}
		return nil
	}
	good, err = c.scrub(ctx, j, view)
	all := err == nil && i == len(table.Entries)
	if all {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.opened[j.name] = true
	}
	return good && opened && all, err
}

// blob opens and hashes one blob, and checks that the index places it where the pack's table does.
func (c *checker) blob(ctx context.Context, d *repo.Reader, j job, e pack.Entry, sealed []byte) (good bool, err error) {
	c.blobs.Add(1)
	good = true
	p := index.Place{Pack: j.info, Offset: e.Offset, Length: e.Length, Raw: e.Raw, Compression: e.Compression}
	if !slices.ContainsFunc(c.r.Index().Places(e.ID), func(q index.Place) bool {
		return q.Pack.PackID == j.info.PackID && q.Offset == p.Offset && q.Length == p.Length && q.Raw == p.Raw && q.Compression == p.Compression
	}) {
		good = false
		c.problem(Problem{Object: j.name, Off: int64(e.Offset), N: int64(e.Length), Mendable: true,
			Err: fmt.Errorf("%w: the index does not place blob %v where the pack has it", repo.ErrDamaged, e.ID)})
	}
	if _, err := d.Open(e.ID, p, sealed); err != nil {
		if !errors.Is(err, repo.ErrDamaged) {
			return false, err
		}
		good = false
		_, again := d.Get(ctx, e.ID) // from another copy, or through the parity
		if again != nil && !errors.Is(again, repo.ErrDamaged) && !stored.Unreadable(again) {
			return false, again
		}
		if again != nil {
			c.lostBlob(e.ID)
		}
		c.problem(Problem{Object: j.name, Off: int64(e.Offset), N: int64(e.Length), Mendable: again == nil, Err: err})
	}
	return good, nil
}
