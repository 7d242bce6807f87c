package repair

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"packhold/backends"
	"packhold/crypt"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// matches reports whether an object that is named by its hash has the bytes of its name. Others have no such name.
func matches(name string, object []byte) bool {
	return strings.HasSuffix(name, crypt.Sum(object).String())
}

// copies are all names under which the same bytes stand, its own included: of the config and of key slots there are three.
func copies(name string) []string {
	base := strings.TrimPrefix(strings.TrimPrefix(name, "replica/1/"), "replica/2/")
	if base == "config" {
		return format.ConfigNames[:]
	}
	slot, ok := strings.CutPrefix(base, "keys/")
	if !ok || slot == "" {
		return nil
	}
	var all []string
	for _, prefix := range format.SlotPrefixes {
		all = append(all, prefix+slot)
	}
	return all
}

// good reads an object that is valid under its name, nil if there is none in s.
func (m *mender) good(ctx context.Context, s backends.Storage, name string) ([]byte, error) {
	b, err := stored.Fetch(ctx, s, name)
	if err == nil {
		err = m.r.CheckObject(name, b)
	}
	if unmendable(err) {
		return nil, nil
	}
	return b, err
}

// twin finds good bytes for a copy of the config or of a key slot that is bad or missing: those of another copy here, or of the replica. Where only
// the number of copies is wrong, name is one that is good, and the missing ones are stored with it.
func (m *mender) twin(ctx context.Context, name string) ([]byte, How, error) {
	for _, other := range copies(name) {
		if b, err := m.good(ctx, m.s, other); b != nil || err != nil {
			return b, Copy, err
		}
	}
	if m.from == nil {
		return nil, 0, nil
	}
	for _, other := range copies(name) {
		if b, err := m.good(ctx, m.from, other); b != nil || err != nil {
			return b, Replica, err
		}
	}
	return nil, 0, nil
}

// abroad reads an object from the replica, nil if it has no good one. There a snapshot stands as it was, with its session behind it, under copied/.
func (m *mender) abroad(ctx context.Context, name string) ([]byte, error) {
	if m.from == nil {
		return nil, nil
	}
	session, ok := strings.CutPrefix(name, "snapshots/")
	if !ok {
		return m.good(ctx, m.from, name)
	}
	infos, _, err := stored.List(ctx, m.from, "copied/")
	if err != nil {
		return nil, err
	}
	var found []byte
	err = stored.Each(ctx, m.from, infos, func(_ backends.Info, object []byte, err error) error {
		switch {
		case unmendable(err):
			return nil
		case err != nil:
			return err
		case len(object) < len(crypt.SessionID{}):
			return nil
		}
		at := len(object) - len(crypt.SessionID{})
		if record := object[:at]; crypt.SessionID(object[at:]).String() == session && m.r.CheckObject(name, record) == nil {
			found = bytes.Clone(record)
		}
		return nil
	})
	return found, err
}

// mendCopies stores b as every copy that is bad or missing. A key slot that somebody removes meanwhile stays removed: the last of its other copies is looked
// for once more.
func (m *mender) mendCopies(ctx context.Context, name string, b []byte, how How) error {
	var made []string
	left := 0
	for _, other := range copies(name) {
		switch there, err := m.good(ctx, m.s, other); {
		case err != nil:
			return err
		case there != nil:
			left++
			continue
		}
		if err := m.replace(ctx, other, b); err != nil {
			return err
		}
		made = append(made, other)
	}
	if how != Copy || left == 0 || strings.HasSuffix(name, "config") {
		return nil
	}
	for _, other := range copies(name) {
		if there, err := m.good(ctx, m.s, other); err != nil || there != nil && !slices.Contains(made, other) {
			return err
		}
	}
	for _, other := range made {
		if err := stored.Remove(ctx, m.s, other); err != nil {
			return err
		}
	}
	return nil
}

// replace stores bytes that were proved under a name whose bytes are bad or missing, and reads them back.
func (m *mender) replace(ctx context.Context, name string, b []byte) error {
	if err := stored.Put(ctx, m.s, name, b, backends.PutOptions{}); err != nil {
		return err
	}
	return stored.Compare(ctx, m.s, name, b, stored.NearWindow)
}
