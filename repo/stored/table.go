package stored

import (
	"context"
	"errors"
	"fmt"

	"packhold/backends"
	"packhold/crypt"
	"packhold/pack"
	"packhold/repo/format"
)

// Tables opens and checks the tables of packs.
type Tables struct {
	Repo   crypt.RepoID
	Writes map[uint32]crypt.WriteSecret
	Trust  *crypt.Trust
}

// Read reads what a pack says of itself: its trailer and its signed table.
// Errors match ErrDamaged, ErrTampered, or are the storage's.
func (o Tables) Read(ctx context.Context, s backends.Storage, i backends.Info) (*pack.Trailer, *pack.Table, error) {
	return o.read(i, func(off, n int64) ([]byte, error) { return s.Get(ctx, i.Name, off, n) })
}

// Parse is Read of a pack whose bytes are here.
func (o Tables) Parse(name string, file []byte) (*pack.Trailer, *pack.Table, error) {
	return o.read(backends.Info{Name: name, Size: int64(len(file))}, func(off, n int64) ([]byte, error) {
		if _, err := backends.Span(int64(len(file)), off, n); err != nil {
			return nil, err
		}
		return file[off : off+n], nil
	})
}

func (o Tables) read(i backends.Info, get func(off, n int64) ([]byte, error)) (*pack.Trailer, *pack.Table, error) {
	id, tree, _, err := format.ParsePackName(i.Name)
	if err != nil {
		return nil, nil, Damaged("reading", i.Name, err)
	}
	if i.Size > pack.MaxFile {
		return nil, nil, Damaged("reading", i.Name, fmt.Errorf("%d bytes, the limit is %d", i.Size, pack.MaxFile))
	}
	n := min(i.Size, pack.MaxTrailer)
	b, err := get(i.Size-n, n)
	if err != nil {
		return nil, nil, Failed("reading", i.Name, err)
	}
	t, err := pack.ParseTrailer(b)
	if err == nil && (t.Name() != id || int64(t.FileSize()) != i.Size || (t.Header.Type == crypt.TypeTreePack) != tree) {
		err = errors.New("the trailer does not match the name")
	}
	if err != nil {
		return nil, nil, Damaged("reading", i.Name, err)
	}
	sealed, err := get(int64(t.TableOffset()), int64(t.TableSize))
	if err != nil {
		return nil, nil, Failed("reading", i.Name, err)
	}
	w, ok := o.Writes[t.Header.Epoch]
	if !ok {
		return nil, nil, Damaged("reading", i.Name, fmt.Errorf("no write secret of epoch %d", t.Header.Epoch))
	}
	plain, err := w.OpenTable(o.Repo, t.Header, t.TableSalt, sealed)
	if err != nil {
		return nil, nil, Damaged("reading", i.Name, err)
	}
	table, err := pack.ParseTable(plain, t)
	if err != nil {
		return nil, nil, Damaged("reading", i.Name, err)
	}
	rec, err := crypt.ParseSessionRecord(table.Session)
	if err == nil {
		err = o.Trust.CheckSession(rec)
	}
	if err == nil {
		d := pack.SignedDigest(t.Header, table.Session, table.Entries)
		err = o.Trust.CheckDetached(crypt.TypePackTable, rec.Session.String(), rec.Host, d[:], table.Signature[:])
	}
	if err != nil {
		return nil, nil, Tampered("reading", i.Name, err)
	}
	return t, table, nil
}

// CheckWhole reads a pack and checks every byte of it against its name.
func CheckWhole(ctx context.Context, s backends.Storage, i backends.Info, id crypt.ID) error {
	b, err := s.Get(ctx, i.Name, 0, i.Size)
	if err != nil {
		return Failed("reading", i.Name, err)
	}
	rep, err := pack.Verify(b, id, nil)
	if err != nil {
		return Damaged("reading", i.Name, err)
	}
	if !rep.OK() {
		return Damaged("reading", i.Name, fmt.Errorf("%d shards fail", len(rep.Bad)))
	}
	return nil
}

// ReadBroken reads what there is of a pack that should have size bytes: sectors that the disk cannot read come as zeros, as long as parity may
// mend them.
func ReadBroken(ctx context.Context, s backends.Storage, name string, size int64) ([]byte, error) {
	info, err := Stat(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if info.Size > pack.MaxFile {
		info.Size = size // something was appended
	}
	// 16 parity shards of at most a 32nd of the pack each mend no more than half of it.
	file, _, err := backends.GetBroken(ctx, s, name, info.Size, info.Size/2)
	return file, Failed("reading pack", name, err)
}
