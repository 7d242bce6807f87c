package check

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/index"
	"packhold/repo"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// maxFailed bounds the size of what is noted: 200,000 copies of blobs are 16 MB. Where more failed their packs count as lost.
const maxFailed = 200_000

func refOf(p *index.PackInfo) format.PackRef {
	return format.PackRef{Name: p.Name, Tree: p.Tree(), Incarnation: p.Incarnation}
}

// lostPack notes that nothing should rely on a pack. What can be read of it still is.
func (c *checker) lostPack(p *index.PackInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lostPacks[refOf(p)] = true
}

// lostBlob notes that no copy of a blob can be read.
func (c *checker) lostBlob(id crypt.ID) {
	places := c.r.Index().Places(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bad[id] = true
	for _, p := range places {
		c.failed[format.FailedBlob{ID: id, Pack: p.Pack.Name}] = refOf(p.Pack)
	}
}

// copies finds which of the bad packs hold nothing that no other pack holds: those are damaged, and nothing is lost. With unnamed, those that
// the index does not name are among them.
func (c *checker) copies(bad map[string]bool, unnamed bool) (spare map[string]bool, err error) {
	spare = make(map[string]bool)
	if unnamed {
		maps.Copy(spare, bad)
	}
	sole := make(map[string]bool) // bad packs that alone hold something, and not so that it can be read
	var id crypt.ID
	var in []string // the bad packs that hold the blob id
	other := false  // a good one does too
	settle := func() {
		for _, name := range in {
			sole[name] = sole[name] || !other && !c.opened[name] || c.bad[id]
		}
		in, other = in[:0], false
	}
	for l, err := range c.r.Index().All() {
		if err != nil {
			return nil, err
		}
		if l.ID != id {
			settle()
			id = l.ID
		}
		if name := format.PackName(l.Pack.Name, l.Pack.Tree(), l.Pack.Incarnation); bad[name] {
			in = append(in, name)
		} else {
			other = true
		}
	}
	settle()
	for name, alone := range sole {
		spare[name] = !alone
	}
	return spare, nil
}

// judgePacks makes problems of whole packs mendable where other packs hold all that they did, or nobody misses what they held. A pack that the index
// does not name is a leftover of a backup that was killed, unless a bad segment named it: then that nothing else is lost in any tree must show it.
func (c *checker) judgePacks() error {
	bad := make(map[string]bool)
	ofPack := func(p *Problem) bool {
		return !p.Mendable && !errors.Is(p.Err, repo.ErrTampered) && (strings.HasPrefix(p.Object, "packs/") || strings.HasPrefix(p.Object, "meta/"))
	}
	segment, missed := false, !c.r.CanRead()
	for i := range c.rep.Problems {
		p := &c.rep.Problems[i]
		if ofPack(p) {
			bad[p.Object] = true
		} else {
			segment = segment || strings.HasPrefix(p.Object, "index/")
			missed = missed || !p.Mendable
		}
	}
	if len(bad) == 0 || len(c.rep.Problems) < c.rep.Count { // with so many problems not all of them are known
		return nil
	}
	spare, err := c.copies(bad, !segment || !missed)
	if err != nil {
		return err
	}
	for i := range c.rep.Problems {
		if p := &c.rep.Problems[i]; ofPack(p) && spare[p.Object] {
			p.Mendable = true
		}
	}
	return nil
}

// sumLost completes the report.
func (c *checker) sumLost() {
	many := len(c.failed) > maxFailed
	for f, p := range c.failed {
		// An entry has no room for an incarnation.
		if many || p.Incarnation != 0 {
			c.lostPacks[p] = true
			delete(c.failed, f)
		}
	}
	slices.SortFunc(c.rep.Verified, format.PackRef.Compare)
	c.rep.Lost = slices.SortedFunc(maps.Keys(c.lostPacks), format.PackRef.Compare)
	c.rep.Failed = slices.SortedFunc(maps.Keys(c.failed), func(a, b format.FailedBlob) int {
		return cmp.Or(bytes.Compare(a.ID[:], b.ID[:]), bytes.Compare(a.Pack[:], b.Pack[:]))
	})
}

// maxNoted is how many packs one object names that were found good: they are 1 MB, and whoever reads the index reads all such objects.
const maxNoted = 20_000

// NoteVerified stores which packs rep says are good, for whoever asks later when they were read. repo.ErrNeedRead says that no reader's key is here.
func NoteVerified(ctx context.Context, r *repo.Repo, rep *Report) error {
	reader := r.Keys().Reader
	if reader == nil {
		return fmt.Errorf("noting what was verified: %w", repo.ErrNeedRead)
	}
	for packs := range slices.Chunk(rep.Verified, maxNoted) {
		if err := store(ctx, r, &format.Verified{Host: reader.Host, Time: r.Now().Unix(), Packs: packs}); err != nil {
			return fmt.Errorf("noting what was verified: %w", err)
		}
	}
	return nil
}

func store(ctx context.Context, r *repo.Repo, v *format.Verified) error {
	name, object, err := r.SealAs(r.Keys().Reader, crypt.TypeVerified, "verified/", canon.Marshal(v))
	if err != nil {
		return err
	}
	return stored.Put(ctx, r.Storage(), name, object, backends.PutOptions{})
}

// Note stores what rep says is lost, as far as nobody said so before: from then on it counts as absent, and the next backup stores it
// again. repo.ErrNeedRead says that no reader's key is here.
func Note(ctx context.Context, r *repo.Repo, rep *Report) error {
	if err := note(ctx, r, rep); err != nil {
		return fmt.Errorf("noting what is lost: %w", err)
	}
	return nil
}

func note(ctx context.Context, r *repo.Repo, rep *Report) error {
	reader := r.Keys().Reader
	if reader == nil {
		return repo.ErrNeedRead
	}
	lost := make(map[format.PackRef]bool)
	failed := make(map[format.FailedBlob]bool)
	err := r.EachVerified(ctx, func(v *format.Verified) {
		for _, p := range v.Lost {
			lost[p] = true
		}
		for _, f := range v.Failed {
			failed[f] = true
		}
	})
	if err != nil {
		return err
	}
	v := format.Verified{Host: reader.Host, Time: r.Now().Unix()}
	v.Lost = slices.DeleteFunc(slices.Clone(rep.Lost), func(p format.PackRef) bool { return lost[p] })
	v.Failed = slices.DeleteFunc(slices.Clone(rep.Failed), func(f format.FailedBlob) bool { return failed[f] })
	if len(v.Lost)+len(v.Failed) == 0 {
		return nil
	}
	return store(ctx, r, &v)
}
