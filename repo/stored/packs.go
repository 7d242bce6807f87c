package stored

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

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
	foreign := 0
	for _, prefix := range []string{"packs/", "meta/"} {
		for info, err := range s.List(ctx, prefix) {
			if err != nil {
				return nil, Failed("listing", prefix, err)
			}
			id, _, incarnation, err := format.ParsePackName(info.Name)
			switch {
			case err == nil && len(list) < maxList:
				list = append(list, listedPack{bitsOf(id), incarnation, info.Size})
			case err == nil:
				return nil, Tampered("listing", prefix, fmt.Errorf("more than %d names", maxList))
			default:
				if foreign++; foreign > backends.MaxListed {
					return nil, Tampered("listing", prefix, fmt.Errorf("more than %d foreign names", backends.MaxListed))
				}
			}
		}
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
