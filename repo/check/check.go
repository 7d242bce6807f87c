// Package check verifies a repository: its structure, the checksums of its packs, and every blob.
//
// Structure needs the passphrase for trees; checksums (Scrub) need no key at all; reading data opens and hashes every blob. What is found becomes
// Problems, each with the object, what is wrong, and whether the repository itself can make it good.
package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// Problem is one thing that is not as it should be.
type Problem struct {
	Object   string   // name in the storage
	Off, N   int64    // range of bytes, where known
	Err      error    // matches repo.ErrDamaged or repo.ErrTampered
	Mendable bool     // parity, another copy or a rebuild makes it good; nothing is lost
	Packs    []string // that hold, or held, a blob that cannot be read
	Files    []File   // what cannot be restored completely because of it
}

// File is a file that has damaged content.
type File struct {
	Snapshot crypt.SessionID
	Number   uint64
	Path     string
}

// String says the problem in one line.
func (p Problem) String() string {
	where := p.Object
	if p.N > 0 {
		where = fmt.Sprintf("%s bytes %d-%d", p.Object, p.Off, p.Off+p.N-1)
	}
	return fmt.Sprintf("%s: %v", where, p.Err)
}

// Progress is told what goes on. Its methods are called concurrently.
type Progress interface {
	Total(bytes int64)
	Done(bytes int64)
}

// Options say how deep to look.
type Options struct {
	ReadData bool    // open and hash every blob, and check every byte of every pack
	Subset   float64 // share of the packs to read, 0 < Subset <= 1; 0 means all
	Pick     uint64  // which share: packs are drawn by a hash of this and their name
	// Last says when packs were read before, as far as that is known. With Oldest the share is of those that were not read for longest; Since passes over those that
	// were read since then, and so goes on with a run that was interrupted.
	Last     map[string]time.Time
	Oldest   bool
	Since    time.Time
	Checked  func(name string, size int64, good bool) // told of each pack that was read; called concurrently; may be nil
	Only     []*repo.Snapshot                         // look at the trees of these alone, and read the packs that they need; nil: of all
	Workers  int                                      // 0: one per processor
	Progress Progress
}

// Report is what was looked at and found.
type Report struct {
	Snapshots, Trees, Files, Blobs, Packs, Segments uint64
	Read                                            uint64 // packs of which every byte was read
	Earlier                                         uint64 // packs passed over for Options.Since
	Whole                                           bool   // these are all packs that are there
	Bytes                                           uint64 // of packs read
	Orphans                                         int    // packs that no index names: of an unfinished session, the next backup adopts them
	Foreign                                         int    // files that are none of ours
	Problems                                        []Problem
	Count                                           int // of problems; at most 10,000 are in the list, of each kind the first

	// What is beyond mending: Note makes the next backup store it again.
	Lost     []format.PackRef
	Failed   []format.FailedBlob
	Verified []format.PackRef // of which every byte and every blob was found good

	Unnamed []string // packs that hold what snapshots need, and that no segment names: the index lost something

	kinds uint8 // of problems seen
}

// maxProblems bounds the report's memory; the rest is counted.
const maxProblems = 10_000

// checker is one run.
type checker struct {
	r   *repo.Repo // nil for a scrub without keys
	s   backends.Storage
	o   Options
	mu  sync.Mutex // guards rep.Problems and what follows rep
	rep *Report
	bad map[crypt.ID]bool // blobs that no copy yields

	lostPacks map[format.PackRef]bool
	failed    map[format.FailedBlob]format.PackRef // copies of blobs, and the packs they are in
	wanted    map[string]bool                      // packs that Options.Only needs; nil: all
	named     map[string]bool                      // packs that the index named when the run began
	strange   map[string]bool                      // packs that hold what is needed, and were not among them
	opened    map[string]bool                      // packs of which every blob was opened, by itself where that was possible
	again     bool                                 // the index was read once more, with what no segment names

	bytes, blobs atomic.Uint64
}

func (c *checker) problem(p Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rep.Add(p)
}

// Add files a problem. The first of each kind is in the list even when it is full: the worst there is always shows.
func (r *Report) Add(p Problem) {
	r.Count++
	kind := p.kind()
	if len(r.Problems) < maxProblems || r.kinds&kind == 0 {
		r.Problems = append(r.Problems, p)
	}
	r.kinds |= kind
}

// kind is a bit for what a problem means to the user.
func (p *Problem) kind() uint8 {
	switch {
	case errors.Is(p.Err, repo.ErrTampered):
		return 1
	case p.Mendable:
		return 2
	}
	return 4
}

// found files an error: damage and tampering become problems, anything else stops the run.
func (c *checker) found(object string, err error, mendable bool) error {
	var e *repo.Error
	if errors.As(err, &e) && e.Object != "" {
		object = e.Object
	}
	switch {
	case err == nil:
		return nil
	case stored.Isolated(err) || stored.Unreadable(err):
		c.problem(Problem{Object: object, Err: err, Mendable: mendable})
		return nil
	}
	return err
}

func (o *Options) defaults() {
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Progress == nil {
		o.Progress = silent{}
	}
	if o.Checked == nil {
		o.Checked = func(string, int64, bool) {}
	}
}

type silent struct{}

func (silent) Total(int64) {}
func (silent) Done(int64)  {}

// Run verifies the structure of r and, with ReadData, every byte of its packs. The error is for a run that could not be finished; what is wrong with the repository is in
// the Report.
func Run(ctx context.Context, r *repo.Repo, o Options) (*Report, error) {
	o.defaults()
	c := &checker{r: r, s: r.Storage(), o: o, rep: new(Report), bad: make(map[crypt.ID]bool),
		lostPacks: make(map[format.PackRef]bool), failed: make(map[format.FailedBlob]format.PackRef),
		strange: make(map[string]bool), opened: make(map[string]bool)}
	if err := c.run(ctx); err != nil {
		return nil, fmt.Errorf("verifying: %w", err)
	}
	return c.rep, nil
}

func (c *checker) run(ctx context.Context) error {
	// Snapshots are listed before the index is read: what they refer to was stored before they were.
	snaps, err := c.r.Snapshots(ctx)
	if err != nil {
		return err
	}
	missing, err := c.r.Missing(ctx, snaps)
	if err != nil {
		return err
	}
	for _, p := range missing {
		c.problem(Problem{Object: p.Object, Err: p.Err})
	}
	if err := c.r.LoadIndex(ctx); err != nil {
		return err
	}
	if err := c.objects(ctx); err != nil {
		return err
	}
	there, err := c.packs(ctx)
	if err != nil {
		return err
	}
	if c.o.Only != nil {
		snaps = c.o.Only
		if c.o.ReadData {
			if err := c.want(ctx); err != nil {
				return err
			}
		}
	}
	if c.o.ReadData {
		if err := c.readData(ctx, there); err != nil {
			return err
		}
	}
	if err := c.trees(ctx, snaps); err != nil {
		return err
	}
	if err := c.sumStrange(ctx); err != nil {
		return err
	}
	for _, p := range c.r.Problems() {
		if !slices.ContainsFunc(c.rep.Problems, func(q Problem) bool { return q.Object == p.Object }) {
			c.problem(Problem{Object: p.Object, Err: p.Err, Mendable: rebuildable(p.Object)})
		}
	}
	if err := c.meanwhile(ctx); err != nil {
		return err
	}
	if err := c.judgePacks(); err != nil {
		return err
	}
	c.sumLost()
	c.rep.Bytes, c.rep.Blobs = c.bytes.Load(), c.blobs.Load()
	slices.SortStableFunc(c.rep.Problems, func(a, b Problem) int { return strings.Compare(a.Object, b.Object) })
	return nil
}

// rebuildable reports whether what an object says is held elsewhere too: replicas, pack tables, the other slots.
func rebuildable(name string) bool {
	for _, p := range []string{"config", "replica/", "keys/", "bundles/", "index/", "leases/", "group/", "condemned/"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// packs compares what the index names with what the storage lists, and returns the sizes of all packs that are there.
func (c *checker) packs(ctx context.Context) (map[string]int64, error) {
	there := make(map[string]int64)
	for _, prefix := range []string{"packs/", "meta/"} {
		infos, foreign, err := stored.List(ctx, c.s, prefix)
		if err != nil {
			return nil, err
		}
		c.rep.Foreign += foreign
		for _, i := range infos {
			there[i.Name] = i.Size
		}
	}
	named := make(map[string]bool)
	for p, err := range c.r.Index().Packs() {
		if err != nil {
			return nil, err
		}
		name := format.PackName(p.Name, p.Tree(), p.Incarnation)
		if named[name] || p.Excluded()&index.Final != 0 {
			continue
		}
		named[name] = true
		c.rep.Packs++
		size, ok := there[name]
		if !ok {
			// A listing may lag: a pack that an index names is asked for before it is believed missing.
			info, err := c.s.Stat(ctx, name)
			if err == nil {
				size, ok = info.Size, true
				there[name] = size
			} else if !errors.Is(err, errNotExist) {
				return nil, stored.Failed("looking for", name, err)
			}
		}
		switch {
		case !ok:
			c.problem(Problem{Object: name, Err: fmt.Errorf("%w: the pack is missing", repo.ErrDamaged)})
			c.lostPack(p)
		case uint64(size) != p.Size:
			reason := fmt.Errorf("%w: %d bytes, should be %d", repo.ErrDamaged, size, p.Size)
			if size == 0 {
				reason = fmt.Errorf("%w: the file is empty, as after a power loss on a storage that does not sync", repo.ErrDamaged)
			}
			c.problem(Problem{Object: name, Err: reason, Mendable: uint64(size) > p.Size})
			if uint64(size) < p.Size {
				c.lostPack(p)
			}
		}
	}
	c.named = named
	for name := range there {
		if !named[name] {
			c.rep.Orphans++
		}
	}
	return there, nil
}

// choose draws the subset: so many packs as the share says, rounded up, so that some are read wherever there are any.
func (c *checker) choose(jobs []job) []job {
	if c.o.Subset == 0 || c.o.Subset >= 1 {
		all := len(jobs)
		if !c.o.Since.IsZero() {
			jobs = slices.DeleteFunc(jobs, func(j job) bool { return !c.o.Last[j.name].Before(c.o.Since) })
		}
		c.rep.Earlier = uint64(all - len(jobs))
		c.rep.Whole = c.rep.Earlier == 0 && c.wanted == nil
		return jobs
	}
	draw := func(j job) crypt.ID { return crypt.Sum(append([]byte(fmt.Sprint(c.o.Pick, "/")), j.id[:]...)) }
	slices.SortFunc(jobs, func(a, b job) int {
		x, y := draw(a), draw(b)
		if c.o.Oldest {
			if n := c.o.Last[a.name].Compare(c.o.Last[b.name]); n != 0 {
				return n
			}
		}
		return bytes.Compare(x[:], y[:])
	})
	return jobs[:int(math.Ceil(c.o.Subset*float64(len(jobs))))]
}

// job is one pack to read.
type job struct {
	name string
	id   crypt.ID
	size int64
	info *index.PackInfo // nil without an index
}

// each runs f over jobs with all workers.
func (c *checker) each(ctx context.Context, jobs []job, f func(ctx context.Context, next func() (job, bool)) error) error {
	total := int64(0)
	for _, j := range jobs {
		total += j.size
	}
	c.o.Progress.Total(total)
	var at atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for range c.o.Workers {
		g.Go(func() error {
			return f(gctx, func() (job, bool) {
				i := at.Add(1) - 1
				if i >= int64(len(jobs)) || gctx.Err() != nil {
					return job{}, false
				}
				return jobs[i], true
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}
