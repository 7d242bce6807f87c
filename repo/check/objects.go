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
	copies := make(map[string]int)   // of what has replicas
	slots := make(map[string]bool)   // that are whole
	bundles := make(map[string]bool) // slots of which a bundle is whole
	var keys []Problem               // with slots and bundles: how bad they are shows when all were seen
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
			base := i.Name
			if rest, ok := strings.CutPrefix(base, "replica/"); ok {
				_, base, _ = strings.Cut(rest, "/")
			}
			slot, isSlot := strings.CutPrefix(base, "keys/")
			isKey := isSlot || strings.HasPrefix(base, "bundles/")
			if isKey && (stored.Isolated(err) || stored.Unreadable(err)) {
				keys = append(keys, Problem{Object: i.Name, Err: err})
				err = nil
			} else if err == nil && isSlot {
				slots[slot] = true
			} else if err == nil && isKey {
				bundles[bundleSlot(base)] = true
			}
			if err := c.found(i.Name, err, rebuildable(i.Name)); err != nil {
				return err
			}
			copies[base]++
		}
	}
	opens := false
	for slot := range slots {
		if bundles[slot] {
			opens = true
		} else {
			keys = append(keys, Problem{Object: "keys/" + slot, Err: fmt.Errorf("%w: the key slot has no whole bundle, so it opens nothing", repo.ErrDamaged)})
		}
	}
	for _, p := range keys {
		p.Mendable = opens
		c.problem(p)
	}
	if !opens {
		c.problem(Problem{Object: "keys/", Err: fmt.Errorf("%w: no key slot with a bundle is whole, so no passphrase opens the repository; an exported key still does", repo.ErrDamaged)})
	}
	for name, n := range copies {
		if (name == "config" || strings.HasPrefix(name, "keys/")) && n < replicas {
			c.problem(Problem{Object: name, Mendable: true, Err: fmt.Errorf("%w: %d of %d copies are there", repo.ErrDamaged, n, replicas)})
		}
	}
	return nil
}

// bundleSlot is the slot that a bundle of the given name is for.
func bundleSlot(name string) string {
	parts := strings.SplitN(strings.TrimPrefix(name, "bundles/"), "-", 3)
	if len(parts) < 2 {
		return ""
	}
	return parts[1]
}

// replicas is how many copies config and key slots have.
const replicas = 3
