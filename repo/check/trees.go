package check

import (
	"context"
	"errors"
	"fmt"

	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/snapshot"
	"packhold/repo/stored"
)

// maxFiles is how many affected files a problem lists.
const maxFiles = 1000

// getter reads tree pages and notes those that are lost.
type getter struct {
	c *checker
	d *repo.Reader
}

// Get implements snapshot.Getter.
func (g getter) Get(ctx context.Context, id crypt.ID) ([]byte, error) {
	b, err := g.d.Get(ctx, id)
	if errors.Is(err, repo.ErrDamaged) || stored.Unreadable(err) {
		g.c.lostBlob(id)
	}
	if err == nil {
		g.c.known(id)
	}
	return b, err
}

// trees walks the tree of every snapshot: each page opens, each blob has a place. Subtrees that several snapshots share are walked once, unless there are
// damaged blobs whose files have to be named.
func (c *checker) trees(ctx context.Context, snaps []*repo.Snapshot) error {
	c.rep.Snapshots = uint64(len(snaps))
	if !c.r.CanRead() {
		return nil
	}
	d, err := c.r.NewReader()
	if err != nil {
		return err
	}
	seen := make(map[crypt.ID]bool)
	for _, s := range snaps {
		if _, err := c.r.OpenBody(s); err != nil {
			if err := c.found(s.Name, err, false); err != nil {
				return err
			}
		}
		if err := c.tree(ctx, getter{c, d}, s, seen); err != nil {
			return err
		}
		if len(c.bad) > 0 {
			clear(seen)
		}
	}
	return nil
}

// want finds the packs that the chosen snapshots need, also those of which the first copy is bad.
func (c *checker) want(ctx context.Context) error {
	d, err := c.r.NewReader()
	if err != nil {
		return err
	}
	c.wanted = make(map[string]bool)
	need := func(id crypt.ID) {
		for _, p := range c.r.Index().Places(id) {
			c.wanted[format.PackName(p.Pack.Name, p.Pack.Tree(), p.Pack.Incarnation)] = true
		}
	}
	// Pages that cannot be read are told of by the walk that follows.
	g := wanting{d, need}
	seen := make(map[crypt.ID]bool)
	for _, s := range c.o.Only {
		for e, err := range snapshot.Walk(ctx, g, s.Root, snapshot.WalkOptions{}) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				if !errors.Is(err, repo.ErrDamaged) && !errors.Is(err, snapshot.ErrMalformed) && !stored.Unreadable(err) {
					return err
				}
				continue
			}
			if e.Node.Type == snapshot.Dir {
				if seen[e.Node.Subtree] {
					e.SkipDir()
				}
				seen[e.Node.Subtree] = true
			}
			for id, err := range snapshot.Blobs(ctx, g, e.Node) {
				if err == nil {
					need(id)
				} else if !errors.Is(err, repo.ErrDamaged) && !errors.Is(err, snapshot.ErrMalformed) && !stored.Unreadable(err) {
					return err
				}
			}
		}
	}
	return nil
}

// wanting reads pages, and tells of each.
type wanting struct {
	d    *repo.Reader
	need func(crypt.ID)
}

// Get implements snapshot.Getter.
func (g wanting) Get(ctx context.Context, id crypt.ID) ([]byte, error) {
	g.need(id)
	return g.d.Get(ctx, id)
}

func (c *checker) tree(ctx context.Context, g getter, s *repo.Snapshot, seen map[crypt.ID]bool) error {
	if seen[s.Root] {
		return nil
	}
	seen[s.Root] = true
	for e, err := range snapshot.Walk(ctx, g, s.Root, snapshot.WalkOptions{}) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		file := File{Snapshot: s.ID(), Number: s.Number, Path: "/" + e.Path}
		if err != nil {
			if !errors.Is(err, repo.ErrDamaged) && !errors.Is(err, snapshot.ErrMalformed) && !stored.Unreadable(err) {
				return err
			}
			c.problem(Problem{Object: s.Name, Err: fmt.Errorf("%w: %w", repo.ErrDamaged, err), Files: []File{file}})
			continue
		}
		n := e.Node
		switch n.Type {
		case snapshot.Dir:
			c.rep.Trees++
			if seen[n.Subtree] {
				e.SkipDir()
			}
			seen[n.Subtree] = true
		case snapshot.File:
			c.rep.Files++
		}
		for id, err := range snapshot.Blobs(ctx, g, n) {
			if err == nil {
				if c.isBad(id) {
					err = fmt.Errorf("%w: blob %v cannot be read", repo.ErrDamaged, id)
				} else if err = c.locate(ctx, id); err == nil {
					continue
				}
			}
			if !errors.Is(err, repo.ErrDamaged) && !errors.Is(err, snapshot.ErrMalformed) && !stored.Unreadable(err) {
				return err
			}
			c.lost(id, err, file)
		}
	}
	return nil
}

func (c *checker) isBad(id crypt.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad[id]
}

// lost notes a file that a blob is missing from; one problem per blob.
func (c *checker) lost(id crypt.ID, err error, f File) {
	object := "blob " + id.String()
	c.mu.Lock()
	for i := range c.rep.Problems {
		p := &c.rep.Problems[i]
		if p.Object == object {
			if len(p.Files) < maxFiles {
				p.Files = append(p.Files, f)
			}
			c.mu.Unlock()
			return
		}
	}
	c.mu.Unlock()
	if !errors.Is(err, repo.ErrDamaged) {
		err = fmt.Errorf("%w: %w", repo.ErrDamaged, err)
	}
	var packs []string
	for _, p := range c.r.Index().Places(id) {
		packs = append(packs, format.PackName(p.Pack.Name, p.Pack.Tree(), p.Pack.Incarnation))
	}
	c.problem(Problem{Object: object, Err: err, Packs: packs, Files: []File{f}})
}
