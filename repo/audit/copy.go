package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"packhold/backends"
	"packhold/repo"
)

// Files lists the objects of all logs that a copy of the repository needs, in the order in which to store them: what a checkpoint rests on comes
// before it. Checkpoints are listed first and tiles after, so that every tile of a listed checkpoint is listed, or a wider one. What was
// appended in between is left out, because beyond its newest checkpoint a log may have one tile, no more.
func Files(ctx context.Context, r *repo.Repo) ([]backends.Info, error) {
	list, err := files(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("listing audit logs: %w", err)
	}
	return list, nil
}

func files(ctx context.Context, r *repo.Repo) (list []backends.Info, err error) {
	first, _, err := listLogs(ctx, r, "audit/")
	if err != nil {
		return nil, err
	}
	then, _, err := listLogs(ctx, r, "audit/")
	if err != nil {
		return nil, err
	}
	ends := make(map[string]uint64) // by tag: the records that are copied
	for tag, f := range first {
		if n := len(f.checkpoints); n > 0 && then[tag] != nil {
			ends[tag] = f.checkpoints[n-1].n
		}
	}
	for tag, f := range then {
		for n, tiles := range f.data {
			if n*tileWidth >= int64(ends[tag]) {
				continue
			}
			most := min(ends[tag]-uint64(n)*tileWidth, tileWidth) // records of this tile that are copied
			for _, t := range tiles {
				list = append(list, t.info)
				if t.n >= most {
					break // the first that has them all; the others are narrower, or hold more than one record beyond
				}
			}
		}
		for _, t := range f.hashes {
			if t.n <= ends[tag] {
				list = append(list, t.info)
			}
		}
	}
	slices.SortFunc(list, func(a, b backends.Info) int { return strings.Compare(a.Name, b.Name) })
	for tag, f := range first {
		for _, c := range f.checkpoints {
			if c.n <= ends[tag] {
				list = append(list, c.info)
			}
		}
	}
	return list, nil
}
