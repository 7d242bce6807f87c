// Package restore brings a snapshot's tree back: one long operation.
//
// One planner walks the tree, makes the directories and collects what is wanted into windows of at most 8,192 entries and
// 65,536 blob references. Within a window the references are sorted by pack and offset, neighbouring ones become one range, each
// range is fetched once and each blob opened once, and its bytes go to every place that wants them. Workers take the ranges;
// while they do, the planner fills the next window. At most three windows exist, so memory does not grow with the tree: about
// 30 MiB, and one range of 4 MiB (16 MiB for the largest blobs) with its plaintext per worker. What a window shares with
// another one is fetched again. Only files with several names cost memory for as long as names are missing: about 200 bytes each.
//
// Nothing is written through a path. Everything goes through handles of directories below the destination, and no symbolic link
// is followed there, whoever puts one. A file has a temporary name (".packhold-partial-…") until its bytes and metadata are
// complete, so that a kill never leaves half a file under a final name. A directory is 0700 until everything in it is done.
// With Options.InPlace existing files are changed under their own names instead, block by block.
//
// What is there already is not fetched again. A file that exists with the snapshot's size and modification time is read and compared with the
// hashes of its blobs; so are the blocks of a file changed in place, and those of a temporary file that a run left which was killed.
// Every run holds a lock on the temporary files it writes to: those that nobody holds are leftovers, taken over or removed.
//
// Holes stay holes. Runs of zeros that were stored get their room reserved, unless Options.Sparse makes them holes too.
package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"packhold/repo"
	"packhold/repo/compare"
	"packhold/repo/localfs"
	"packhold/repo/restore/fetch"
	"packhold/repo/snapshot"
)

var (
	// ErrForbidden says that the destination is, or lies in, a directory that must not be written to.
	ErrForbidden = errors.New("the destination is inside a directory that must not be restored to")
	// ErrUnsafe says that an entry was refused, because its name, or what somebody put in its place, leads elsewhere.
	ErrUnsafe = errors.New("unsafe path refused")
	// ErrFull says that the destination has no space left.
	ErrFull = errors.New("no space left in the destination")
	// ErrNoSource says that the snapshot does not hold the source it names: it could not be read during the backup.
	ErrNoSource = errors.New("the snapshot does not hold its source")
	// ErrNoPath says that the snapshot has no entry Options.Path.
	ErrNoPath = errors.New("the snapshot does not hold")
)

// Overwrite says what happens to an existing file, link or special file. Directories are merged. A directory that is not
// empty never makes room for something else, that is a Problem.
type Overwrite int

// The ways to overwrite. Files are replaced in one step, when the new one is complete.
const (
	Always    Overwrite = iota // replace everything that differs: files of the same size and modification time are read and compared
	IfChanged                  // keep the bytes of files of the same size and modification time, set their metadata
	IfNewer                    // replace only what is older than the snapshot's
	Never                      // keep what exists, metadata too
)

// Match decides about an entry by its absolute path in the snapshot. It is called by one goroutine.
type Match func(path string, dir bool) bool

// Progress is told what goes on. Its methods are called concurrently and must not block.
type Progress interface {
	Done(entries, bytes int64)        // entries finished, bytes written or found to be right
	Deleted(path string)              // an entry was removed that the snapshot does not have
	Failed(path string, reason error) // an entry is incomplete, missing or refused
	Verified(entries, bytes int64)    // entries compared, bytes read again
	Mended(path string, reason error) // damage that another copy or parity made good
}

// Options say what to restore and how. The zero value restores everything and replaces what exists.
type Options struct {
	// Path is the entry of the snapshot to restore, absolute. The destination becomes it. "": what was backed up.
	Path string
	// Include picks entries; what is below one is picked with it. Nil: everything. Directories that lead to a
	// picked entry are made, with their metadata.
	Include Match
	// Exclude leaves out entries with all that is below them, picked or not. Nil: nothing.
	Exclude Match
	// Descend tells whether anything below a directory that is not picked can be. Nil: always. It saves walking the rest.
	Descend func(dir string) bool
	// FullPath puts everything below the destination under its full path. Otherwise the destination becomes the source,
	// where the snapshot has one source; a single file gets its name there.
	FullPath  bool
	Overwrite Overwrite
	// InPlace changes existing files under their own names, and only the blocks that differ. Whoever reads such a file meanwhile sees a
	// mixture, and so does everybody after a crash, until a restore completes it; its modification time is not the snapshot's then, and only
	// its owner may read it. Files with several names and files of other owners are replaced all the same.
	InPlace bool
	// Sparse makes runs of zeros holes, in blocks of 4 KiB, also where there were none when the file was backed up.
	Sparse bool
	// Delete removes what restored directories hold and the snapshot does not: what Include and Exclude would restore, in and below
	// what was backed up. Mounts and Forbidden directories stay, and directories whose list in the snapshot is damaged are left alone.
	Delete bool
	// Keep tells what Delete leaves alone, with all that is below it, beside what Exclude tells. Nil: nothing.
	Keep Match
	// Owner decides the owner of an entry, in the place of Apply's rules. Nil: those. It is called concurrently.
	Owner func(n *snapshot.Node) (uid, gid uint32)
	// Apply says how metadata is applied. Without Owners the owners are set by number.
	Apply localfs.ApplyOptions
	// Verify reads everything that was restored again and compares bytes and metadata.
	Verify bool
	// DryRun changes nothing and counts what a run would do.
	DryRun bool
	// Forbidden are directories that must not be restored into, such as the repository and its cache.
	Forbidden []string
	// Workers is how many ranges are restored at once. 0: one per processor.
	Workers int
	// Far says that every request costs a round trip on a network: more is fetched at once, and ahead. It takes 100 MiB of memory more.
	Far      bool
	Progress Progress // nil: nobody is told

	items, refs int // of a window; 0: maxItems and maxRefs
}

// Problem is an entry that was not restored, or not with all its metadata, for a reason of the destination.
type Problem struct {
	Path string // in the snapshot
	Err  error
}

// String says it in one line.
func (p Problem) String() string { return fmt.Sprintf("%q: %v", p.Path, p.Err) }

// Range is a range of a file's bytes.
type Range struct{ Off, N int64 }

// Lost is an entry whose content the repository does not yield. A file is not left in the destination.
type Lost struct {
	Path   string
	Ranges []Range // of a file; at most 64, the last one may hold good bytes in between. None: of a directory, the listing
	Err    error   // why, for the first range
}

// Mismatch is a difference that Verify found.
type Mismatch = compare.Mismatch

// maxListed bounds each list of a Result.
const maxListed = 10_000

// Result is what a restore did, or with DryRun would do. Every list is capped at 10,000 items; the counter beside it is not.
type Result struct {
	Files, Dirs, Symlinks, Links, Specials uint64 // restored; Links are further names of files
	Bytes                                  uint64 // size of the restored files, holes too
	Written                                uint64 // bytes written to files
	Reused                                 uint64 // bytes of files that were there already, and not fetched
	Kept                                   uint64 // existing entries that stayed, with new metadata or all of it
	Deleted                                uint64 // entries removed by Options.Delete
	Leftovers                              uint64 // temporary files of killed runs, taken over or removed
	Privileged                             uint64 // restored set-id files, devices, and files with capabilities
	Blobs                                  uint64 // opened
	Packs                                  uint64 // visited, counted again by every window
	Fetched                                uint64 // bytes read from packs
	Mended                                 uint64 // blobs that only another copy or parity yielded

	Missing      uint64 // entries that found no space
	MissingBytes uint64 // their size

	Problems     []Problem // not restored completely, by the destination's fault
	ProblemCount uint64
	Lost         []Lost
	LostCount    uint64
	Unsafe       []Problem // match ErrUnsafe
	UnsafeCount  uint64
	Mismatch     []Mismatch
	MismatchCount,
	Verified uint64 // entries compared
}

// engine is one run.
type engine struct {
	o    *Options
	repo *repo.Repo
	snap *repo.Snapshot
	tree tree
	pool *localfs.Pool
	deny map[fileID]bool // the Forbidden directories

	made bool // the destination is this run's, or a dry run's that does not exist

	jobs    chan job
	windows chan struct{}     // a slot for each window that workers may hold
	aheads  chan *fetch.Ahead // ranges to fetch

	temp    string // beginning of temporary names
	temps   atomic.Uint64
	partial sync.Map    // the items that may have a temporary file
	naming  sync.Mutex  // see renameNew
	full    atomic.Bool // the destination has no space left: only list what is missing

	n counters

	mu      sync.Mutex // guards what follows
	res     Result
	retry   []ref   // blobs whose pack was gone: looked for again when the index was read again
	redo    []*item // files that were compared, and differ
	missing marks   // entries, by number, that are not as in the snapshot, and known not to be
	partly  marks   // entries whose metadata is known not to be
}

type counters struct {
	files, dirs, symlinks, links, specials, bytes, kept, privileged         atomic.Uint64
	blobs, packs, fetched, written, reused, mended, verified, deleted, left atomic.Uint64
}

// Run restores snap from r into dst, which is made if missing. The index is read unless it was. The Result is valid beside an error too, unless it
// is nil: then nothing was done.
//
// Errors match ErrForbidden, ErrFull, ErrNoSource, repo.ErrNeedRead, or are the repository's or the destination's. Everything that
// concerns single entries is in the Result instead. After an error what was complete stays, and temporary files are removed; when ctx is done those stay
// that the next run into the directory goes on with.
func Run(ctx context.Context, r *repo.Repo, snap *repo.Snapshot, dst string, o Options) (*Result, error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Progress == nil {
		o.Progress = silent{}
	}
	if o.items == 0 {
		o.items, o.refs = maxItems, maxRefs
	}
	e := &engine{o: &o, repo: r, snap: snap}
	res, err := e.run(ctx, dst)
	if err != nil {
		err = fmt.Errorf("restoring to %q: %w", dst, err)
	}
	return res, err
}

type silent struct{}

func (silent) Done(int64, int64)     {}
func (silent) Deleted(string)        {}
func (silent) Failed(string, error)  {}
func (silent) Verified(int64, int64) {}
func (silent) Mended(string, error)  {}

func (e *engine) run(ctx context.Context, dst string) (*Result, error) {
	if e.repo.Index() == nil {
		if err := e.repo.LoadListed(ctx); err != nil {
			return nil, err
		}
	}
	first, err := e.newWorker()
	if err != nil {
		return nil, err
	}
	pages := fetch.NewPages(e.repo, first.reader, e.o.Far)
	if err := e.tree.open(ctx, e, pages); err != nil {
		return nil, err
	}
	in, err := localfs.Within(dst, e.o.Forbidden)
	if err == nil && in != "" {
		err = fmt.Errorf("%w: %q", ErrForbidden, in)
	}
	if err != nil {
		return nil, err
	}
	if err := e.forbid(); err != nil {
		return nil, err
	}
	root, err := e.openDestination(dst)
	if err != nil {
		return nil, err
	}
	e.temp = tempPrefix()
	e.pool = localfs.NewPool(maxHandles)
	defer func() {
		e.pool.Close()
		if root != nil {
			root.Close()
		}
	}()
	err = e.restore(ctx, first, pages, root)
	pages.Again = nil
	e.removePartial(ctx.Err() != nil)
	if err == nil && e.full.Load() {
		err = ErrFull
	}
	if err == nil && e.o.Verify && !e.o.DryRun {
		e.pool.Close()
		err = e.verify(ctx, pages, root)
	}
	return e.result(), err
}

// openDestination opens dst, made if missing. In a dry run it is nil where there is none.
func (e *engine) openDestination(dst string) (*os.Root, error) {
	_, err := os.Stat(dst)
	e.made = errors.Is(err, fs.ErrNotExist)
	if e.made {
		if e.o.DryRun {
			return nil, nil
		}
		if err := os.MkdirAll(filepath.Dir(dst), 0o777); err != nil {
			return nil, err
		}
		mode := fs.FileMode(0o777)
		if e.tree.self != nil { // gets its own mode at the end
			mode = 0o700
		}
		if err := os.Mkdir(dst, mode); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	return os.OpenRoot(dst)
}

// restore runs planner and workers.
func (e *engine) restore(ctx context.Context, first *worker, pages *fetch.Pages, root *os.Root) error {
	workers := []*worker{}
	for range e.o.Workers {
		w, err := e.newWorker()
		if err != nil {
			return err
		}
		workers = append(workers, w)
	}
	e.jobs = make(chan job, 1024)
	e.windows = make(chan struct{}, 2)
	e.aheads = make(chan *fetch.Ahead)
	g, gctx := errgroup.WithContext(ctx)
	if e.o.Far {
		for range fetch.AheadMost {
			g.Go(func() error { return e.fetchAhead(gctx) })
		}
	}
	for _, w := range workers {
		g.Go(func() error { return w.run(gctx) })
	}
	g.Go(func() error {
		defer close(e.jobs)
		defer close(e.aheads)
		p := newPlanner(gctx, e, first, pages)
		return p.run(root)
	})
	return g.Wait()
}

func (e *engine) result() *Result {
	e.mu.Lock()
	defer e.mu.Unlock()
	r, n := &e.res, &e.n
	r.Files, r.Dirs, r.Symlinks, r.Links, r.Specials = n.files.Load(), n.dirs.Load(), n.symlinks.Load(), n.links.Load(), n.specials.Load()
	r.Bytes, r.Kept, r.Privileged = n.bytes.Load(), n.kept.Load(), n.privileged.Load()
	r.Written, r.Reused, r.Deleted, r.Leftovers = n.written.Load(), n.reused.Load(), n.deleted.Load(), n.left.Load()
	r.Blobs, r.Packs, r.Fetched, r.Mended, r.Verified = n.blobs.Load(), n.packs.Load(), n.fetched.Load(), n.mended.Load(), n.verified.Load()
	return r
}

// fetchAhead fetches what the planner asks for, one range after the other, and keeps each until nobody needs it.
func (e *engine) fetchAhead(ctx context.Context) error {
	for a := range e.aheads {
		n, err := a.Fetch(ctx, e.repo, e.full.Load())
		e.n.fetched.Add(uint64(n))
		if err != nil {
			return err
		}
	}
	return nil
}

// isUnsafe reports whether a failure of the destination says that somebody put something in the way of a directory, or that the name
// is none on this system.
func isUnsafe(err error) bool {
	return errors.Is(err, localfs.ErrName) || errors.Is(err, localfs.ErrChanged) || errors.Is(err, syscall.ENOTDIR) ||
		errors.Is(err, syscall.ELOOP) || errors.Is(err, ErrUnsafe)
}

// noNode stands for an entry whose node cannot be read.
var noNode = new(snapshot.Node)

// local files a failure of the destination about an entry: n is missing now, or, if it is nil, lacks metadata.
func (e *engine) local(path string, seq uint64, n *snapshot.Node, err error) {
	switch {
	case errors.Is(err, ErrFull):
	case localfs.NoSpace(err) && n != nil: // of an attribute it may mean that it is too large for the file system; if all is full, bytes show it
		e.full.Store(true)
		err = fmt.Errorf("%w: %w", ErrFull, err)
	case isUnsafe(err) && !errors.Is(err, ErrUnsafe):
		err = fmt.Errorf("%w: %w", ErrUnsafe, err)
	}
	e.o.Progress.Failed(path, err)
	e.mu.Lock()
	defer e.mu.Unlock()
	if n != nil {
		e.missing.set(seq)
	} else {
		e.partly.set(seq)
	}
	if n != nil && errors.Is(err, ErrFull) {
		e.res.Missing++
		e.res.MissingBytes += n.Size
	}
	if errors.Is(err, ErrUnsafe) {
		if e.res.UnsafeCount++; len(e.res.Unsafe) < maxListed {
			e.res.Unsafe = append(e.res.Unsafe, Problem{path, err})
		}
		return
	}
	if e.res.ProblemCount++; len(e.res.Problems) < maxListed {
		e.res.Problems = append(e.res.Problems, Problem{path, err})
	}
}

// lost files an entry that the repository does not yield.
func (e *engine) lost(l Lost, seq uint64) {
	e.o.Progress.Failed(l.Path, l.Err)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.missing.set(seq)
	if e.res.LostCount++; len(e.res.Lost) < maxListed {
		e.res.Lost = append(e.res.Lost, l)
	}
}

func (e *engine) kept(seq uint64) {
	e.n.kept.Add(1)
	e.mark(seq)
}

// mark notes that an entry is not as in the snapshot.
func (e *engine) mark(seq uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.missing.set(seq)
}

// marks is a set of entry numbers, a bit each: the numbers are those of the walk, and so dense.
type marks []uint64

func (m *marks) set(i uint64) {
	for uint64(len(*m)) <= i/64 {
		*m = append(*m, 0)
	}
	(*m)[i/64] |= 1 << (i % 64)
}

func (m marks) has(i uint64) bool { return i/64 < uint64(len(m)) && m[i/64]&(1<<(i%64)) != 0 }

// forbid notes what the Forbidden directories are, so that they are known inside the destination too.
func (e *engine) forbid() error {
	e.deny = make(map[fileID]bool)
	for _, f := range e.o.Forbidden {
		d, err := localfs.OpenDir(f)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) { // what cannot be listed cannot be emptied
			continue
		}
		if err != nil {
			return err
		}
		var n snapshot.Node
		st, err := d.Stat("", &n)
		d.Close()
		if err != nil {
			return err
		}
		if n.Inode != 0 { // systems without inodes
			e.deny[fileID{st.Dev, n.Inode}] = true
		}
	}
	return nil
}
