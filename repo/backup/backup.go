// Package backup backs a file tree up into a repository: one long operation, from walking the source to the commit.
//
// Several workers take tasks from one stack: a directory to list, the next part of its entries, a chunk of a large file. One worker
// carries a small file or a chunk through everything, reading, SHA-256, index lookup, compression, sealing and self-check, while it is
// hot in that core's cache. Large files are read, and their cuts found, by one goroutine; their chunks are processed by all.
//
// # What is saved
//
// Every entry below the sources, with what package localfs reads of it, and the directories that lead to them. A source, and what is
// above it, may be reached through symbolic links to directories; below it no link is followed. Holes stay holes. FIFOs,
// sockets and devices are recorded and never opened, unless Options.ReadSpecial is set. File systems that the kernel makes up (proc, sysfs and
// their like) are saved as empty directories; one that is itself a source is listed as skipped. A file counts as unmodified, and is not read, if size, mtime, ctime and inode are those
// of the parent snapshot, both times lie before its start by more than two seconds, and every blob of it is there as this session
// may count on.
//
// What cannot be read is listed once and everything else is saved. A file that vanishes is left out; one that changes while it is
// read is saved as it was read, never more than the size it had when it was opened; of a large file whose reading fails what came
// before is saved; a directory that cannot be listed is saved empty. Names of one inode are read once, unless it changes between them.
//
// # Memory
//
// A directory is walked in parts of 512 entries, which are encoded and let go in order. At most 16 parts of one directory wait
// for an earlier one (3 MB), and no further part is begun while 64 or more large files wait to be read, so memory does not grow with the tree. What
// does grow: the names of a directory while it is walked (about 40 bytes per entry), 44 bytes in the tree cache's table per page (a page holds
// up to 2,048 entries of one directory), and about 200 bytes per inode with several names until all of them were seen. Open
// descriptors: one per directory that is not walked through, so at most one per level, one for each worker, and the large files that wait.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"packhold/repo"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// SourceError is a failure to read the source: the item is skipped, and everything else is saved. It never comes from the repository.
type SourceError struct {
	Path string
	Err  error
}

// Error implements error.
func (e *SourceError) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *SourceError) Unwrap() error { return e.Err }

// ErrNoSource is matched when nothing at all could be backed up, ErrEmpty also when that is because Stdin holds nothing.
var (
	ErrNoSource = errors.New("no source can be read")
	ErrEmpty    = fmt.Errorf("%w: standard input is empty", ErrNoSource)
)

// Progress is told what goes on. Its methods are called concurrently and must not block.
type Progress interface {
	Expect(files, bytes int64)         // how much there is to do, as far as the last backup tells; at most once
	Start(path string)                 // a file is about to be read
	Done(files, bytes, unread int64)   // files finished, their bytes, and how many of these were not read because nothing changed
	Skipped(path string, reason error) // an item could not be read
}

// Options say what to back up and how. Sources or Stdin is required.
type Options struct {
	Sources       []string            // absolute paths; a source below another is part of it
	Stdin         io.Reader           // in place of Sources; it is an error if it fails or holds no bytes
	StdinName     string              // name of the one file that Stdin becomes
	Type          snapshot.BackupType // 0: Incremental
	Exclude       *Excludes           // never applied to a source itself, nor to what is above it
	ExcludeCaches bool                // of a directory with a CACHEDIR.TAG keep only the tag
	LargerThan    int64               // leave out files with more bytes, but for sources; 0: none
	OneFileSystem bool                // do not enter other file systems: their mount points are saved empty
	Avoid         []string            // absolute paths of directories that are saved empty: the repository itself, its cache
	ATime         bool                // record access times
	ReadSpecial   bool                // save devices and FIFOs as files, with the bytes that reading them to their end gives
	Tags          []string
	Job           string
	Hostname      string
	User          string
	Program       string
	DryRun        bool   // walk and compare, but read no file and store nothing, neither in the repository nor in CacheDir
	CacheDir      string // of the last trees; "" keeps none
	Workers       int    // 0: one per processor
	Session       repo.SessionOptions
	Progress      Progress     // nil: nobody is told
	Journal       repo.Journal // nil: no audit entry
	Now           func() time.Time
}

// Result is what a backup did.
type Result struct {
	Snapshot *repo.Snapshot // nil after a dry run
	Stats    snapshot.Stats
	Stored   repo.Stored
	Skipped  []snapshot.SkippedItem
	More     uint64 // skipped items beyond those listed
	Parent   *repo.Snapshot
	CacheErr error // the cache could not be written: the next run is slower
	Fallback int   // blobs whose compressed form did not decode: stored uncompressed
}

// maxSessions is how often a fenced session is begun again before the backup gives up.
const maxSessions = 3

// Run backs up the sources of o into r. It returns a Result also where items were skipped: Skipped says which, in the order of paths.
// Errors match ErrNoSource, or are the repository's or ctx's, or those of Stdin; after them there is no snapshot. At most one Run at a
// time may use r. If ctx ends while Stdin blocks, one goroutine stays until Stdin's Read returns; all others have ended when Run returns.
func Run(ctx context.Context, r *repo.Repo, o Options) (*Result, error) {
	res, err := retry(ctx, r, &o)
	if err != nil {
		return nil, fmt.Errorf("backing up: %w", err)
	}
	return res, nil
}

func retry(ctx context.Context, r *repo.Repo, o *Options) (*Result, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		res, err := run(ctx, r, o)
		// A stream cannot be read again.
		if err == nil || !errors.Is(err, repo.ErrFenced) || try == maxSessions || o.Stdin != nil {
			return res, err
		}
	}
}

// complete sets what was left out, and checks the rest before anything is stored.
func (o *Options) complete() error {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Progress == nil {
		o.Progress = silent{}
	}
	if o.Type == 0 {
		o.Type = snapshot.Incremental
	}
	if o.Stdin != nil {
		if err := snapshot.CheckName(o.StdinName); err != nil {
			return fmt.Errorf("name of the stream: %w", err)
		}
		o.Sources = []string{"/" + o.StdinName}
		return nil
	}
	for _, s := range o.Sources {
		if !filepath.IsAbs(s) {
			return fmt.Errorf("source %q: %w: not an absolute path", s, ErrNoSource)
		}
	}
	if o.Sources = outermost(o.Sources); len(o.Sources) == 0 {
		return fmt.Errorf("%w: none is named", ErrNoSource)
	}
	return nil
}

// body is what the snapshot tells its readers.
func (o *Options) body() *snapshot.Body {
	b := &snapshot.Body{Sources: o.Sources, Hostname: o.Hostname, User: o.User, Job: o.Job, Tags: o.Tags, Program: o.Program}
	if o.Exclude != nil {
		b.Excludes = o.Exclude.patterns
	}
	return b
}

type silent struct{}

func (silent) Expect(int64, int64)      {}
func (silent) Start(string)             {}
func (silent) Done(int64, int64, int64) {}
func (silent) Skipped(string, error)    {}

// outermost cleans and sorts paths and drops those below others.
func outermost(paths []string) []string {
	var out []string
	for _, p := range paths {
		out = append(out, filepath.Clean(p))
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(a+"/", b+"/") })
	keep := out[:0]
	for _, p := range out {
		if n := len(keep); n > 0 && (p == keep[n-1] || strings.HasPrefix(p, strings.TrimSuffix(keep[n-1], "/")+"/")) {
			continue
		}
		keep = append(keep, p)
	}
	return keep
}

// run is one session, from its lease to its commit.
func run(ctx context.Context, r *repo.Repo, o *Options) (*Result, error) {
	lineage, err := r.Lineage(o.Sources)
	if err != nil {
		return nil, err
	}
	body := o.body()
	if err := body.Validate(); err != nil {
		return nil, err
	}
	e := &engine{o: o, repo: r, owners: new(localfs.Owners), started: o.Now(), res: new(Result)}
	if o.DryRun {
		if err := r.LoadListed(ctx); err != nil {
			return nil, err
		}
	} else {
		if e.session, err = r.Begin(ctx, o.Session); err != nil {
			return nil, err
		}
		defer e.session.Close(ctx)
		e.started = e.session.Started
	}
	all, err := r.RecentSnapshots(ctx)
	if err != nil {
		return nil, err
	}
	if o.Type != snapshot.Full && o.Stdin == nil {
		e.res.Parent = r.Parent(all, lineage, o.Type == snapshot.Differential)
	}
	if p := r.Parent(all, lineage, false); p != nil {
		o.Progress.Expect(int64(p.Stats.Files), int64(p.Stats.BytesTotal))
	}
	defer e.cleanup()
	if err := e.prepare(lineage); err != nil {
		return nil, err
	}
	root, err := e.work(ctx)
	if err != nil {
		return nil, err
	}
	if o.DryRun {
		return e.res, nil
	}
	rec := &snapshot.Record{Type: o.Type, Root: root, Lineage: lineage, Start: timeOf(e.started), Retention: o.Session.Retention, Stats: e.res.Stats}
	if p := e.res.Parent; p != nil {
		rec.Parent = p.Session
	}
	for _, s := range e.res.Skipped {
		body.Skip(s.Path, s.Reason)
	}
	body.SkippedMore += e.res.More
	snap, err := e.session.Commit(ctx, rec, body, o.Journal)
	if err != nil {
		return nil, err
	}
	snap.Body = body
	e.res.Snapshot, e.res.Stats, e.res.Stored = snap, snap.Stats, e.session.StoredStats()
	e.res.CacheErr = errors.Join(e.res.CacheErr, e.keepCache(lineage, all), r.SaveCache())
	return e.res, nil
}

func timeOf(t time.Time) snapshot.Time {
	return snapshot.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}
