package stored

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo/format"
)

// Packs is which packs the storage lists. It takes 24 bytes a pack: of a name it keeps 64 bits, since it only has to tell what is gone, and one
// pack that is gone unnoticed because another has the same bits is as unlikely as one in 2^44 with a million packs.
type Packs []listedPack

type listedPack struct {
	name        uint64
	incarnation uint32
	size        int64
}

func (p listedPack) compare(q listedPack) int {
	return cmp.Or(cmp.Compare(p.name, q.name), cmp.Compare(p.incarnation, q.incarnation))
}

func bitsOf(id crypt.ID) uint64 { return binary.BigEndian.Uint64(id[:8]) }

// ListPacks lists the packs of s.
func ListPacks(ctx context.Context, s backends.Storage) (Packs, error) {
	var list Packs
	var mu sync.Mutex // guards list and foreign
	foreign := 0
	g, gctx := errgroup.WithContext(ctx)
	for _, prefix := range []string{"packs/", "meta/"} {
		g.Go(func() error {
			for info, err := range s.List(gctx, prefix) {
				if err != nil {
					return Failed("listing", prefix, err)
				}
				id, _, incarnation, err := format.ParsePackName(info.Name)
				mu.Lock()
				if err == nil {
					list = append(list, listedPack{bitsOf(id), incarnation, info.Size})
				} else {
					foreign++
				}
				most := max(len(list)-maxList, foreign-backends.MaxListed)
				mu.Unlock()
				if most > 0 {
					return Tampered("listing", prefix, fmt.Errorf("more than %d names, or more than %d foreign ones", maxList, backends.MaxListed))
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(list, listedPack.compare)
	return list, nil
}

// Size returns the size of a pack; false says that it was not listed.
func (l Packs) Size(id crypt.ID, incarnation uint32) (int64, bool) {
	i, ok := slices.BinarySearchFunc(l, listedPack{name: bitsOf(id), incarnation: incarnation}, listedPack.compare)
	if !ok {
		return 0, false
	}
	return l[i].size, true
}
