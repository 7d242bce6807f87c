// Package owners says who restored files belong to.
package owners

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"

	"packhold/repo/localfs"
	"packhold/repo/snapshot"
)

// Rules are the wishes of the command line. Users and groups are names or numbers. What Owner says stands above the maps, and they stand above the
// name that the system knows.
type Rules struct {
	Owner   string   // USER, USER:GROUP or :GROUP, for everything
	Users   []string // OLD:NEW
	Groups  []string // OLD:NEW
	Numeric bool     // the recorded numbers, even where the system knows the name
}

// ids maps what a snapshot records to what the files get.
type ids struct {
	names   map[string]uint32
	numbers map[uint32]uint32
	all     uint32
	hasAll  bool
}

func (m *ids) of(name string, number, otherwise uint32) uint32 {
	if m.hasAll {
		return m.all
	}
	if id, ok := m.names[name]; ok && name != "" {
		return id
	}
	if id, ok := m.numbers[number]; ok {
		return id
	}
	return otherwise
}

// Compile returns the function that gives an entry its owner, nil where no rule asks for one. It may be called concurrently.
func Compile(r Rules) (func(*snapshot.Node) (uid, gid uint32), error) {
	if r.Owner == "" && len(r.Users)+len(r.Groups) == 0 {
		return nil, nil
	}
	users, err := compile(r.Users, userID)
	if err != nil {
		return nil, err
	}
	groups, err := compile(r.Groups, groupID)
	if err != nil {
		return nil, err
	}
	u, g, both := strings.Cut(r.Owner, ":")
	if r.Owner != "" && u == "" && g == "" || both && g == "" {
		return nil, fmt.Errorf("%q is not USER, USER:GROUP or :GROUP", r.Owner)
	}
	if u != "" {
		users.hasAll = true
		if users.all, err = userID(u); err != nil {
			return nil, err
		}
	}
	if g != "" {
		groups.hasAll = true
		if groups.all, err = groupID(g); err != nil {
			return nil, err
		}
	}
	known := new(localfs.Owners)
	return func(n *snapshot.Node) (uint32, uint32) {
		uid, gid := n.UID, n.GID
		if !r.Numeric {
			uid, gid = known.IDs(n)
		}
		return users.of(n.User, n.UID, uid), groups.of(n.Group, n.GID, gid)
	}, nil
}

func compile(pairs []string, find func(string) (uint32, error)) (*ids, error) {
	m := &ids{names: make(map[string]uint32), numbers: make(map[uint32]uint32)}
	for _, p := range pairs {
		old, new, ok := strings.Cut(p, ":")
		if !ok || old == "" || new == "" || strings.Contains(new, ":") {
			return nil, fmt.Errorf("%q is not OLD:NEW", p)
		}
		id, err := find(new)
		if err != nil {
			return nil, err
		}
		if number, err := strconv.ParseUint(old, 10, 32); err == nil {
			m.numbers[uint32(number)] = id
		} else {
			m.names[old] = id
		}
	}
	return m, nil
}

func userID(name string) (uint32, error) {
	return idOf(name, "user", func() (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
}

func groupID(name string) (uint32, error) {
	return idOf(name, "group", func() (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
}

var errNone = errors.New("this system knows no such name")

// idOf takes numbers as they are, also those that belong to nobody here.
func idOf(name, kind string, ask func() (string, error)) (uint32, error) {
	text := name
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		if text, err = ask(); err == nil {
			id, err = strconv.ParseUint(text, 10, 32) // Windows has SIDs
		}
	}
	if err != nil || uint32(id) == ^uint32(0) { // that number means "leave it" to the system
		return 0, fmt.Errorf("%s %q: %w", kind, name, errNone)
	}
	return uint32(id), nil
}
