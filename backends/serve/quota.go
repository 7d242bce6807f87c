package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"packhold/backends"
)

// quota counts what the folder holds against a limit.
type quota struct {
	limit int64 // 0 is none

	used   int64 // as counted last, and what this process wrote since; what was removed since is still in it
	recent int64 // at which value of used files are counted again, because of what other processes write

	counted time.Time     // when that was done last
	took    time.Duration // and how long it took
}

func (q *quota) start(ctx context.Context, s *session) error {
	if q.limit == 0 {
		return nil
	}
	return q.count(ctx, s)
}

// take takes n bytes, or returns an error matching backends.ErrNoSpace.
func (q *quota) take(ctx context.Context, s *session, n int64) error {
	if q.limit == 0 || n == 0 {
		return nil
	}
	if n > q.limit-q.used || q.used+n > q.recent {
		if err := q.refresh(ctx, s); err != nil {
			return err
		}
	}
	if n > q.limit-q.used {
		return fmt.Errorf("%w: the quota of %d bytes is used up", backends.ErrNoSpace, q.limit)
	}
	q.used += n
	return nil
}

// refresh counts again, unless that would take more than a twentieth of the time: a client that goes on writing to a full folder must not cost more.
func (q *quota) refresh(ctx context.Context, s *session) error {
	const share = 20
	if s.now().Sub(q.counted) < share*q.took {
		return nil
	}
	return q.count(ctx, s)
}

func (q *quota) count(ctx context.Context, s *session) error {
	const least = 64 << 20
	began := s.now()
	c := counter{ctx: ctx, s: s, seen: map[inode]struct{}{}}
	if err := c.folder("."); err != nil {
		return fmt.Errorf("counting what the folder holds: %w", err)
	}
	// Files without a name that are still open take room, too.
	for _, h := range s.handles {
		info, err := h.file.Stat()
		if err != nil {
			return err
		}
		if id, n := links(info); n == 0 && !h.dir {
			c.add(id, info.Size())
		}
	}
	q.counted = s.now()
	q.took = q.counted.Sub(began)
	q.used = c.sum
	q.recent = q.used + max((q.limit-q.used)/16, least)
	return nil
}

// counter adds up the files of a folder.
type counter struct {
	ctx  context.Context
	s    *session
	sum  int64
	seen map[inode]struct{} // files with several names, or none
}

func (c *counter) add(id inode, size int64) {
	if _, again := c.seen[id]; !again {
		c.seen[id] = struct{}{}
		c.sum += size
	}
}

func (c *counter) folder(name string) error {
	d, err := c.s.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since
	}
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		names, err := d.Readdirnames(1024)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, entry := range names {
			entry = name + "/" + entry
			info, err := c.s.root.Lstat(entry)
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				return err
			case info.IsDir():
				if err := c.folder(entry); err != nil {
					return err
				}
			case info.Mode().IsRegular():
				if id, n := links(info); n > 1 {
					c.add(id, info.Size())
				} else {
					c.sum += info.Size()
				}
			}
		}
	}
}

// room is what a file system has.
type room struct {
	block                   uint64 // bytes
	blocks, free, available uint64
	files, freeFiles        uint64
	readOnly                bool
}

// statVFS answers with the room of the file system, or of the quota if that is less.
func (s *session) statVFS(ctx context.Context, q request) error {
	d, err := s.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	r, err := space(d)
	if err != nil {
		return err
	}
	if s.quota.limit > 0 {
		if err := s.quota.refresh(ctx, s); err != nil {
			return err
		}
		r.block = max(r.block, 1)
		left := uint64(max(s.quota.limit-s.quota.used, 0)) / r.block
		r.blocks = min(r.blocks, uint64(s.quota.limit)/r.block)
		r.free, r.available = min(r.free, left), min(r.available, left)
	}
	var flags uint64
	if r.readOnly {
		flags = 1
	}
	s.answer.begin(typeExtendedReply, q.id)
	for _, v := range []uint64{r.block, r.block, r.blocks, r.free, r.available, r.files, r.freeFiles, r.freeFiles, 0, flags, backends.MaxName} {
		s.answer.u64(v)
	}
	return nil
}
