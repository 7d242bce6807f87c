package repair

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"packhold/backends"
	"packhold/crypt"
	"packhold/index"
	"packhold/pack"
	"packhold/repo/check"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// trailer looks for a pack's trailer in the index segments, which carry it for packs that lost both copies. nil is that none does.
func (m *mender) trailer(ctx context.Context, id crypt.ID) (*pack.Trailer, error) {
	infos, _, err := stored.List(ctx, m.s, "index/")
	if err != nil {
		return nil, err
	}
	var found *pack.Trailer
	err = stored.Each(ctx, m.s, infos, func(i backends.Info, object []byte, err error) error {
		var seg *index.Segment
		if err == nil {
			seg, err = m.r.SegmentObject(i.Name, object)
		}
		if unmendable(err) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, p := range seg.Packs {
			if p.Name == id {
				if t, err := pack.ParseCompact(p.Trailer); err == nil && t.Name() == id {
					found = t
				}
			}
		}
		return nil
	})
	return found, err
}

// whole returns the very bytes of a pack, from what is left of it here or from the replica, and how they came to be: 0 is that nothing is wrong with it. Where
// they are lost the error is unmendable.
func (m *mender) whole(ctx context.Context, name string) ([]byte, How, error) {
	id, tree, inc, err := format.ParsePackName(name)
	if err != nil {
		return nil, 0, stored.Damaged("mending", name, err)
	}
	file, err := stored.ReadBroken(ctx, m.s, name, pack.MaxFile)
	if err == nil {
		if rep, verr := pack.Verify(file, id, nil); verr == nil && rep.OK() {
			return file, 0, nil
		}
		var good []byte
		good, err = m.coder.Repair(file, id, nil)
		if errors.Is(err, pack.ErrNoTrailer) {
			t, terr := m.trailer(ctx, id)
			if terr != nil {
				return nil, 0, terr
			}
			if t != nil {
				good, err = m.coder.Repair(file, id, t)
			}
		}
		if err == nil {
			return good, Parity, nil
		}
		err = stored.Damaged("mending", name, err)
	}
	if m.from == nil || !unmendable(err) {
		return nil, 0, err
	}
	// A replica has it under the first incarnation that its own prunes left free.
	names := []string{format.PackName(id, tree, 0)}
	if inc > 0 {
		names = append(names, name)
	}
	infos, _, lerr := stored.List(ctx, m.from, name[:strings.LastIndexByte(name, '/')+1])
	if lerr != nil {
		return nil, 0, lerr
	}
	for _, i := range infos {
		if other, _, n, err := format.ParsePackName(i.Name); err == nil && other == id && n > 0 && i.Name != name {
			names = append(names, i.Name)
		}
	}
	for _, there := range names {
		b, berr := m.fetch(ctx, there, id)
		if berr == nil {
			return b, Replica, nil
		}
		if !unmendable(berr) {
			return nil, 0, berr
		}
	}
	return nil, 0, err
}

// fetch reads a pack of the replica, through its parity where that has to be.
func (m *mender) fetch(ctx context.Context, name string, id crypt.ID) ([]byte, error) {
	file, err := stored.ReadBroken(ctx, m.from, name, pack.MaxFile)
	if err != nil {
		return nil, err
	}
	good, err := m.coder.Repair(file, id, nil)
	if err != nil {
		return nil, stored.Damaged("reading", name, err)
	}
	return good, nil
}

// errBeside says that a pack which its lock keeps as it is was mended before.
var errBeside = errors.New("the damaged file is kept until its date; a whole one stands beside it and is used")

// besides reports whether another incarnation of a pack is named in the index, and whole.
func (m *mender) besides(ctx context.Context, id crypt.ID, inc uint32) (bool, error) {
	for p, err := range m.r.Index().Packs() {
		if err != nil {
			return false, err
		}
		if p.Name != id || p.Incarnation == inc || p.Excluded()&index.Final != 0 {
			continue
		}
		file, err := stored.ReadBroken(ctx, m.s, format.PackName(id, p.Tree(), p.Incarnation), int64(p.Size))
		if err != nil && !unmendable(err) {
			return false, err
		}
		if rep, verr := pack.Verify(file, id, nil); err == nil && verr == nil && rep.OK() {
			return true, nil
		}
	}
	return false, nil
}

// mendPack puts a pack back. A storage that keeps the bad file until a date gets the good one beside it, as the next incarnation: the result is then
// the pack to name in the index.
func (m *mender) mendPack(ctx context.Context, name string) (How, *index.Segment, error) {
	file, how, err := m.whole(ctx, name)
	if err != nil || how == 0 {
		return how, nil, err
	}
	err = m.replace(ctx, name, file)
	if !errors.Is(err, backends.ErrKept) && !errors.Is(err, fs.ErrPermission) {
		return how, nil, err
	}
	kept := err
	id, tree, inc, err := format.ParsePackName(name)
	if err != nil {
		return how, nil, err
	}
	switch done, err := m.besides(ctx, id, inc); {
	case err != nil:
		return how, nil, err
	case done:
		return 0, nil, &leftError{fmt.Errorf("%w: %w", errBeside, kept)}
	}
	dead, blind := m.r.Dead()
	if blind {
		return how, nil, kept
	}
	for inc++; ; inc++ {
		if dead[index.PackID{Name: id, Incarnation: inc}] != 0 {
			continue
		}
		beside := format.PackName(id, tree, inc)
		if err := stored.Put(ctx, m.s, beside, file, backends.PutOptions{IfAbsent: true}); stored.Exists(err) {
			there, err := stored.ReadBroken(ctx, m.s, beside, int64(len(file)))
			if err != nil {
				return how, nil, err
			}
			if rep, err := pack.Verify(there, id, nil); err != nil || !rep.OK() {
				continue
			}
		} else if err != nil {
			return how, nil, fmt.Errorf("%w, and it cannot stand beside it: %w", kept, err)
		}
		if err := stored.Compare(ctx, m.s, beside, file, stored.NearWindow); err != nil {
			return how, nil, err
		}
		seg, err := m.describe(ctx, beside)
		return how, seg, err
	}
}

// unnamed finds the packs that no segment names and that nothing condemned, and the segments that are damaged. Packs of sessions that are open are theirs to
// name.
func (m *mender) unnamed(ctx context.Context) (packs, bad []string, err error) {
	listed := make(map[string]index.PackID)
	var order []string
	for _, prefix := range []string{"packs/", "meta/"} {
		infos, _, err := stored.List(ctx, m.s, prefix)
		if err != nil {
			return nil, nil, err
		}
		for _, i := range infos {
			id, _, inc, err := format.ParsePackName(i.Name)
			if err != nil {
				return nil, nil, stored.Damaged("listing", i.Name, err)
			}
			listed[i.Name] = index.PackID{Name: id, Incarnation: inc}
			order = append(order, i.Name)
		}
	}
	named, segments, err := check.Named(ctx, m.r)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range segments {
		how, err := m.rotten(ctx, name, Tables)
		if err != nil {
			return nil, nil, err
		}
		if how != 0 {
			bad = append(bad, name)
		}
	}
	dead, blind := m.r.Dead()
	if blind {
		return nil, nil, stored.Damaged("reading", "condemned/", errors.New("a final cannot be read, and its set is gone: which packs are dead cannot be told"))
	}
	for _, name := range order {
		if id := listed[name]; !named[id] && dead[id]&^index.NoDedup == 0 {
			packs = append(packs, name)
		}
	}
	return packs, bad, nil
}

// missing finds packs of the replica that are not here, where blobs are needed that no pack here has: with its segment the index lost their very names. What
// was removed here on purpose a final names.
func (m *mender) missing(ctx context.Context, damaged []string) ([]string, error) {
	unknown := slices.ContainsFunc(damaged, func(name string) bool {
		return strings.HasPrefix(name, "blob ") || strings.HasPrefix(name, "snapshots/")
	})
	if m.from == nil || !unknown {
		return nil, nil
	}
	here, err := stored.ListPacks(ctx, m.s)
	if err != nil {
		return nil, err
	}
	named, _, err := check.Named(ctx, m.r)
	if err != nil {
		return nil, err
	}
	known := make(map[crypt.ID]bool)
	for id := range named {
		known[id.Name] = true
	}
	dead, blind := m.r.Dead()
	if blind {
		return nil, nil
	}
	for id, why := range dead {
		if why&index.Final != 0 {
			known[id.Name] = true
		}
	}
	var out []string
	for _, prefix := range []string{"packs/", "meta/"} {
		infos, _, err := stored.List(ctx, m.from, prefix)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			id, tree, inc, err := format.ParsePackName(i.Name)
			if err != nil || known[id] {
				continue
			}
			if _, ok := here.Size(id, inc); ok {
				continue
			}
			known[id] = true
			out = append(out, format.PackName(id, tree, 0))
		}
	}
	return out, nil
}

// describe makes a segment of what a pack says of itself.
func (m *mender) describe(ctx context.Context, name string) (*index.Segment, error) {
	info, err := stored.Stat(ctx, m.s, name)
	if err != nil {
		return nil, err
	}
	info.Name = name
	id, _, inc, err := format.ParsePackName(name)
	if err != nil {
		return nil, err
	}
	return m.r.Describe(ctx, index.PackID{Name: id, Incarnation: inc}, info)
}
