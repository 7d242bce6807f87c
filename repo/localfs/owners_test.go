package localfs

import (
	"os/user"
	"strconv"
	"sync"
	"testing"

	"packhold/repo/snapshot"
)

func TestOwners(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Skip(err)
	}
	uid, err := strconv.ParseUint(me.Uid, 10, 32)
	if err != nil {
		t.Skip("users have no numbers here")
	}
	const nobody = 3999999999
	var o Owners
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				n := snapshot.Node{UID: uint32(uid), GID: nobody, Group: "left over"}
				o.Fill(&n)
				if n.User != me.Username || n.Group != "" {
					t.Errorf("names %q and %q", n.User, n.Group)
				}
				n = snapshot.Node{UID: nobody, GID: 17, User: me.Username, Group: "no such group, surely"}
				if u, g := o.IDs(&n); u != uint32(uid) || g != 17 {
					t.Errorf("ids %d and %d", u, g)
				}
				// a number is not a name
				n = snapshot.Node{UID: 5, GID: 6, User: "0", Group: "0"}
				if u, g := o.IDs(&n); u != 5 || g != 6 {
					t.Errorf("ids %d and %d", u, g)
				}
			}
		})
	}
	wg.Wait()
	n := snapshot.Node{UID: uint32(uid), GID: nobody}
	if allocs := testing.AllocsPerRun(100, func() { o.Fill(&n) }); allocs != 0 {
		t.Errorf("Fill allocates %v times", allocs)
	}
}
