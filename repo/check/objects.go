package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"packhold/backends"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// objects checks every object that is neither a pack nor of an audit log.
func (c *checker) objects(ctx context.Context) error {
	copies := make(map[string]int) // of what has replicas
	for _, prefix := range format.ControlPrefixes {
		infos, foreign := []backends.Info{{Name: prefix}}, 0
		if prefix != "config" {
			var err error
			if infos, foreign, err = stored.List(ctx, c.s, prefix); err != nil {
				return err
			}
		}
		c.rep.Foreign += foreign
		for _, i := range infos {
			if strings.HasPrefix(i.Name, "index/") {
				c.rep.Segments++
			}
			b, err := stored.Fetch(ctx, c.s, i.Name)
			if err == nil {
				err = c.r.CheckObject(i.Name, b)
			}
			if errors.Is(err, fs.ErrNotExist) {
				continue // leases come and go
			}
			if err := c.found(i.Name, err, rebuildable(i.Name)); err != nil {
				return err
			}
			base := i.Name
			if rest, ok := strings.CutPrefix(base, "replica/"); ok {
				_, base, _ = strings.Cut(rest, "/")
			}
			copies[base]++
		}
	}
	for name, n := range copies {
		if (name == "config" || strings.HasPrefix(name, "keys/")) && n < replicas {
			c.problem(Problem{Object: name, Mendable: true, Err: fmt.Errorf("%w: %d of %d copies are there", repo.ErrDamaged, n, replicas)})
		}
	}
	return nil
}

// replicas is how many copies config and key slots have.
const replicas = 3
