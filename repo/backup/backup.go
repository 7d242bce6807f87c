// Package backup backs a file tree up into a repository: one long operation, from walking the source to the commit.
//
// Several workers take tasks from one stack: a directory to list, a slice of its entries, a chunk of a large file. One worker carries a file or a
// chunk through everything, reading, SHA-256, index lookup, compression, sealing and self-check, while it is hot in that core's
// cache. Cuts in a large file are found by one goroutine and its chunks are processed by all.
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

// ErrNoSource is matched when nothing at all could be backed up.
var ErrNoSource = errors.New("no source can be read")

// Progress is told what goes on. Its methods are called concurrently and must not block.
type Progress interface {
	Expect(files, bytes int64)         // how much there is to do, as far as the last backup tells; at most once
	Start(path string)                 // a file is about to be read
	Done(files, bytes, unread int64)   // files finished, their bytes, and how many of these were not read because nothing changed
	Skipped(path string, reason error) // an item could not be read
}

// Options say what to back up and how. Sources or Stdin is required.
type Options struct {
	Sources       []string // absolute paths; a source below another is part of it
	Stdin         io.Reader
	StdinName     string // name of the one file that Stdin becomes
	Type          snapshot.BackupType
	Exclude       *Excludes
	ExcludeCaches bool
	LargerThan    int64    // leave out files with more bytes; 0: none
	OneFileSystem bool     // do not enter other file systems
	Avoid         []string // absolute paths never entered: the repository itself, its cache
	ATime         bool     // record access times
	Tags          []string
	Job           string
	Hostname      string
	User          string
	Program       string
	DryRun        bool
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

// Run backs up the sources of o into r. It returns a Result also where items were skipped: Skipped says which.
// Errors match ErrNoSource, or are the repository's; after them there is no snapshot.
func Run(ctx context.Context, r *repo.Repo, o Options) (*Result, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Progress == nil {
		o.Progress = silent{}
	}
	if o.Stdin == nil {
		o.Sources = outermost(o.Sources)
	} else {
		o.Sources = []string{"/" + o.StdinName}
	}
	for try := 1; ; try++ {
		res, err := run(ctx, r, &o)
		if err == nil || !errors.Is(err, repo.ErrFenced) || try == maxSessions || o.Stdin != nil {
			if err != nil {
				err = fmt.Errorf("backing up: %w", err)
			}
			return res, err
		}
	}
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
	e := &engine{o: o, repo: r, owners: new(localfs.Owners), started: o.Now(), res: new(Result)}
	if o.DryRun {
		if err := r.LoadIndex(ctx); err != nil {
			return nil, err
		}
	} else {
		if e.session, err = r.Begin(ctx, o.Session); err != nil {
			return nil, err
		}
		defer e.session.Close(ctx)
		e.started = e.session.Started
	}
	all, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	if o.Type != snapshot.Full && o.Stdin == nil {
		e.res.Parent = r.Parent(all, lineage, o.Type == snapshot.Differential)
	}
	if p := r.Parent(all, lineage, false); p != nil {
		o.Progress.Expect(int64(p.Stats.Files), int64(p.Stats.BytesTotal))
	}
	if err := e.prepare(ctx, lineage, all); err != nil {
		return nil, err
	}
	defer e.cleanup()
	root, err := e.work(ctx)
	if err != nil {
		return nil, err
	}
	e.res.Stats = e.stats.sum()
	e.res.Stats.Skipped = uint64(len(e.res.Skipped)) + e.res.More
	if e.res.Stats.Skipped > 0 && e.res.Stats.Files+e.res.Stats.Others+e.res.Stats.Dirs == 0 {
		return nil, fmt.Errorf("%w: %s: %s", ErrNoSource, e.res.Skipped[0].Path, e.res.Skipped[0].Reason)
	}
	if o.DryRun {
		return e.res, nil
	}
	rec := &snapshot.Record{Type: o.Type, Root: root, Lineage: lineage, Start: timeOf(e.started), Retention: o.Session.Retention}
	rec.Stats = e.res.Stats
	if p := e.res.Parent; p != nil {
		rec.Parent = p.Session
	}
	body := &snapshot.Body{Sources: o.Sources, Hostname: o.Hostname, User: o.User, Job: o.Job, Tags: o.Tags, Program: o.Program, SkippedMore: e.res.More}
	if o.Exclude != nil {
		body.Excludes = o.Exclude.patterns
	}
	for _, s := range e.res.Skipped {
		body.Skip(s.Path, s.Reason)
	}
	snap, err := e.session.Commit(ctx, rec, body, o.Journal)
	if err != nil {
		return nil, err
	}
	snap.Body = body
	e.res.Snapshot, e.res.Stats, e.res.Stored = snap, snap.Stats, e.session.StoredStats()
	e.keepCache(lineage, all)
	return e.res, nil
}

func timeOf(t time.Time) snapshot.Time {
	return snapshot.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}
