package repo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/pack"
)

// maxGroupParity caps the parity shards of a group together, bytes: a reader holds them in memory.
const maxGroupParity = 256 << 20

func (g *Group) validate() error {
	n, m := len(g.Members), int(g.Parity)
	switch {
	case n == 0 || n > maxMembers || m == 0 || m > pack.MaxParity || len(g.Digests) != m:
		return fmt.Errorf("%d members, %d parity shards, %d digests", n, m, len(g.Digests))
	case g.Shard > pack.MaxFile || g.Shard*uint64(m) > maxGroupParity:
		return fmt.Errorf("%d shards of %d bytes, the limit is %d bytes together", m, g.Shard, maxGroupParity)
	}
	largest := uint64(0)
	seen := make(map[PackRef]bool, n)
	for _, p := range g.Members {
		if seen[p.Pack] || p.Size == 0 {
			return errors.New("a member stands twice or is empty")
		}
		seen[p.Pack] = true
		largest = max(largest, p.Size)
	}
	if largest != g.Shard {
		return fmt.Errorf("shards of %d bytes, the largest member has %d", g.Shard, largest)
	}
	for _, d := range g.Digests {
		if len(d) != 32 {
			return fmt.Errorf("digest of %d bytes", len(d))
		}
	}
	return nil
}

// sealGroup makes a group object: the sealed body | the parity shards | the length of the sealed body, u32. It is named by the SHA-256 of
// all of it. The digests in the body say which shards are whole where the object as a whole is not.
func (r *Repo) sealGroup(g *Group, shards [][]byte) (name string, object []byte, err error) {
	if err := g.validate(); err != nil {
		return "", nil, fmt.Errorf("sealing group: %w", err)
	}
	for i, s := range shards {
		if sum := crypt.Sum(s); i >= len(g.Digests) || uint64(len(s)) != g.Shard || !bytes.Equal(sum[:], g.Digests[i]) {
			return "", nil, fmt.Errorf("sealing group: shard %d is not the one of its digest", i)
		}
	}
	if len(shards) != len(g.Digests) {
		return "", nil, fmt.Errorf("sealing group: %d shards of %d", len(shards), len(g.Digests))
	}
	_, sealed, err := r.sealSigned(crypt.TypeGroup, "group/", canon.Marshal(g), false)
	if err != nil {
		return "", nil, fmt.Errorf("sealing group: %w", err)
	}
	object = bytes.Join(append([][]byte{sealed}, shards...), nil)
	object = binary.LittleEndian.AppendUint32(object, uint32(len(sealed)))
	return "group/" + crypt.Sum(object).String(), object, nil
}

// parseGroup is the inverse of sealGroup. Of an object that does not match its name whole is false, and shards that do not match their
// digests are nil; where not even the body can be opened the error matches ErrDamaged or ErrTampered.
func (r *Repo) parseGroup(name string, object []byte) (g *Group, shards [][]byte, whole bool, err error) {
	fail := func(err error) (*Group, [][]byte, bool, error) { return nil, nil, false, damaged("reading", name, err) }
	if len(object) < 4 || len(object) > maxGroup {
		return fail(fmt.Errorf("%d bytes", len(object)))
	}
	rest := object[:len(object)-4]
	n := binary.LittleEndian.Uint32(object[len(rest):])
	if uint64(n) > uint64(len(rest)) {
		return fail(errors.New("the length of the body is beyond the object"))
	}
	// The body's own hash is its name for unseal, which knows objects that are named by their hash.
	sealed := rest[:n]
	s, err := r.openSigned(crypt.TypeGroup, "group/"+crypt.Sum(sealed).String(), sealed)
	if err != nil {
		return nil, nil, false, err
	}
	if g, err = parseBody[Group](s.Body); err != nil {
		return fail(err)
	}
	rest = rest[n:]
	whole = name == "group/"+crypt.Sum(object).String() && uint64(len(rest)) == uint64(g.Parity)*g.Shard
	shards = make([][]byte, g.Parity)
	for i := range shards {
		from := uint64(i) * g.Shard
		if from+g.Shard > uint64(len(rest)) {
			break
		}
		b := rest[from : from+g.Shard]
		if sum := crypt.Sum(b); bytes.Equal(sum[:], g.Digests[i]) {
			shards[i] = b
		}
	}
	return g, shards, whole, nil
}
