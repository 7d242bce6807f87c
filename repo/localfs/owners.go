package localfs

import (
	"errors"
	"os/user"
	"strconv"
	"sync"

	"packhold/repo/snapshot"
)

// Owners translates between ids and names of users and groups, asking the system once for each.
// Names that the system does not know are "", and ids of unknown names are not found; both answers are kept too.
// The zero Owners is ready to use, by any number of goroutines at once.
type Owners struct {
	mu     sync.RWMutex // guards the maps; not held while the system is asked (which may mean a directory server)
	users  map[uint32]string
	groups map[uint32]string
	uids   map[string]idAnswer
	gids   map[string]idAnswer
}

type idAnswer struct {
	id    uint32
	known bool
}

// Fill sets n.User and n.Group from n.UID and n.GID.
func (o *Owners) Fill(n *snapshot.Node) {
	o.mu.RLock()
	u, okU := o.users[n.UID]
	g, okG := o.groups[n.GID]
	o.mu.RUnlock()
	if !okU {
		u = o.askUser(n.UID)
	}
	if !okG {
		g = o.askGroup(n.GID)
	}
	n.User, n.Group = u, g
}

// IDs gives the ids that n.User and n.Group have on this system, and the recorded numbers where the system knows no
// such name.
func (o *Owners) IDs(n *snapshot.Node) (uid, gid uint32) {
	uid, gid = n.UID, n.GID
	if n.User != "" {
		if a := o.cached(&o.uids, n.User, lookUID); a.known {
			uid = a.id
		}
	}
	if n.Group != "" {
		if a := o.cached(&o.gids, n.Group, lookGID); a.known {
			gid = a.id
		}
	}
	return uid, gid
}

func (o *Owners) askUser(id uint32) string {
	name := ""
	u, err := user.LookupId(strconv.FormatUint(uint64(id), 10))
	if err == nil {
		name = u.Username
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.users == nil {
		o.users = map[uint32]string{}
	}
	o.users[id] = name
	return name
}

func (o *Owners) askGroup(id uint32) string {
	name := ""
	g, err := user.LookupGroupId(strconv.FormatUint(uint64(id), 10))
	if err == nil {
		name = g.Name
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.groups == nil {
		o.groups = map[uint32]string{}
	}
	o.groups[id] = name
	return name
}

func (o *Owners) cached(m *map[string]idAnswer, name string, ask func(string) (string, error)) idAnswer {
	o.mu.RLock()
	a, ok := (*m)[name]
	o.mu.RUnlock()
	if ok {
		return a
	}
	s, err := ask(name)
	if err == nil {
		var id uint64
		id, err = strconv.ParseUint(s, 10, 32) // Windows has SIDs instead, which do not parse: not found
		a = idAnswer{uint32(id), err == nil}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if *m == nil {
		*m = map[string]idAnswer{}
	}
	(*m)[name] = a
	return a
}

func lookUID(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	// A name that is a number ("1000") is looked up as an id by some systems; then it says nothing.
	if u.Username != name {
		return "", errNoSuchName
	}
	return u.Uid, nil
}

func lookGID(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	if g.Name != name {
		return "", errNoSuchName
	}
	return g.Gid, nil
}

var errNoSuchName = errors.New("no such name")
