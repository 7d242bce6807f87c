package check

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/compare"
	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// Change is what became of an entry of the source since it was backed up.
type Change string

// The changes.
const (
	Changed    Change = "changed"    // somebody changed it, as its times tell
	Gone       Change = "gone"       // it is not there
	Unreadable Change = "unreadable" // it cannot be read
	Rotten     Change = "rotten"     // its bytes differ, and nothing tells that anybody wrote to it
)

// Difference is one entry of the source that is not as it was backed up.
type Difference struct {
	Path   string
	Change Change
	What   string // what differs: "content", "size", ...; of what is unreadable the reason
	Off, N int64  // of the first content that differs
	node   *snapshot.Node
	times  bool // times, size or type differ
	bytes  bool // content differs
}

// SourceOptions say how to compare a source.
type SourceOptions struct {
	Pages    snapshot.Getter // of the snapshot's tree
	Sources  []string        // absolute paths, as they were backed up
	Sample   float64         // share of the files, 0 < Sample <= 1; 0 means all
	Pick     uint64          // which share
	Workers  int             // 0: one per processor
	Progress Progress
}

// SourceReport is what was compared and found.
type SourceReport struct {
	Files       uint64       // compared
	Bytes       uint64       // read
	Differences []Difference // by path
	More        int          // differences that are not in the list
	Counts      map[Change]int
}

// maxDifferences bounds the list.
const maxDifferences = 100_000

// racy is how long before a backup's start a file's last change may lie that the clock of the file system does not tell from a later one.
const racy = 2 * time.Second

// Source compares the live files with the newest snapshot of them: every byte is read, and hashed as the snapshot has it. What came new since is not looked for.
// The error is for a run that could not be finished.
func Source(ctx context.Context, s *repo.Snapshot, o SourceOptions) (*SourceReport, error) {
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Progress == nil {
		o.Progress = silent{}
	}
	c := &sourceCheck{o: o, s: s, found: make(map[string]*Difference), rep: &SourceReport{Counts: make(map[Change]int)}}
	for _, source := range o.Sources {
		if err := c.source(ctx, source); err != nil {
			return nil, fmt.Errorf("comparing %q: %w", source, err)
		}
	}
	c.judge()
	return c.rep, nil
}

type sourceCheck struct {
	o SourceOptions
	s *repo.Snapshot

	mu    sync.Mutex // guards what follows
	found map[string]*Difference
	rep   *SourceReport
}

// names are those of a path in the tree. A volume "C:" is stored as "C".
func names(path string) (parts []string) {
	volume := filepath.VolumeName(path)
	for _, p := range strings.Split(strings.TrimSuffix(volume, ":")+"/"+filepath.ToSlash(path[len(volume):]), "/") {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return parts
}

func (c *sourceCheck) source(ctx context.Context, source string) error {
	n, err := snapshot.Lookup(ctx, c.o.Pages, c.s.Root, names(source))
	if errors.Is(err, snapshot.ErrNotFound) {
		return nil // it could not be backed up, and the snapshot says so
	}
	if err != nil {
		return err
	}
	top, depth := source, 0
	if n.Type != snapshot.Dir {
		top, depth = filepath.Dir(source), 1
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		c.mismatch(compare.Mismatch{Path: source, Node: n, What: "reading", Err: err})
		return nil
	}
	defer root.Close()
	walk := func(ctx context.Context, f func(compare.Entry) error) error {
		if depth == 1 {
			return c.entry(f, n, source, 1)
		}
		for e, err := range snapshot.Walk(ctx, c.o.Pages, n.Subtree, snapshot.WalkOptions{}) {
			if err != nil {
				return err // the tree cannot be compared without it
			}
			if err := c.entry(f, e.Node, filepath.Join(source, filepath.FromSlash(e.Path)), e.Depth); err != nil {
				return err
			}
		}
		return nil
	}
	return compare.Run(ctx, root, walk, compare.Options{Pages: c.o.Pages, Damaged: func(error) bool { return false }, Workers: c.o.Workers, ChangeTime: true,
		Mismatch: c.mismatch, Done: func(_, bytes int64) {
			c.mu.Lock()
			c.rep.Bytes += uint64(bytes)
			c.mu.Unlock()
			c.o.Progress.Done(bytes)
		}})
}

// entry hands an entry on. Of directories only that they are there counts: their times change with every name.
func (c *sourceCheck) entry(f func(compare.Entry) error, n *snapshot.Node, path string, depth int) error {
	x := compare.Entry{Node: n.Clone(), Path: path, Depth: depth, Meta: true, Content: n.Type == snapshot.File}
	if n.Type != snapshot.Dir {
		if !c.drawn(path) {
			return nil
		}
		c.mu.Lock()
		c.rep.Files++
		c.mu.Unlock()
		c.o.Progress.Total(int64(n.Size))
	}
	return f(x)
}

// drawn draws the sample.
func (c *sourceCheck) drawn(path string) bool {
	if c.o.Sample == 0 || c.o.Sample >= 1 {
		return true
	}
	h := crypt.Sum([]byte(fmt.Sprint(c.o.Pick, path)))
	return float64(binary.LittleEndian.Uint64(h[:])>>11)/(1<<53) < c.o.Sample
}

func (c *sourceCheck) mismatch(m compare.Mismatch) {
	if m.Node.Type == snapshot.Dir && m.What != "type" && m.What != "reading" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.found[m.Path]
	if d == nil {
		if len(c.found) >= maxDifferences {
			c.rep.More++
			return
		}
		d = &Difference{Path: m.Path, Change: Changed, What: m.What, node: m.Node}
		c.found[m.Path] = d
	}
	switch m.What {
	case "reading":
		d.Change, d.What = Unreadable, fmt.Sprint(m.Err)
		if errors.Is(m.Err, fs.ErrNotExist) {
			d.Change, d.What = Gone, "everything"
		}
	case "content":
		if !d.bytes || m.Off < d.Off {
			d.bytes, d.Off, d.N = true, m.Off, m.N
		}
	case "modification time", "change time", "size", "type":
		d.times = true
	}
}

// judge tells rot from changes: nobody wrote to a file of which all times are those of the backup, now too.
func (c *sourceCheck) judge() {
	edge := c.s.StartTime().Add(-racy)
	for _, d := range c.found {
		if d.Change == Changed && d.bytes {
			d.What = "content"
			last := max(d.node.MTime.Sec, d.node.CTime.Sec)
			if !d.times && time.Unix(last+1, 0).Before(edge) && untouched(d.Path, d.node) {
				d.Change = Rotten
			}
		}
		c.rep.Counts[d.Change]++
		c.rep.Differences = append(c.rep.Differences, *d)
	}
	slices.SortFunc(c.rep.Differences, func(a, b Difference) int { return cmp.Compare(a.Path, b.Path) })
}

// untouched looks at a file once more: it may have been changed while it was read.
func untouched(path string, want *snapshot.Node) bool {
	dir, err := localfs.OpenDir(filepath.Dir(path))
	if err != nil {
		return false
	}
	defer dir.Close()
	var got snapshot.Node
	_, err = dir.Stat(filepath.Base(path), &got)
	return err == nil && got.Type == want.Type && got.Size == want.Size && got.MTime == want.MTime && (want.CTime == snapshot.Time{} || got.CTime == want.CTime)
}
