package owners

import (
	"testing"

	"packhold/repo/snapshot"
)

func TestRules(t *testing.T) {
	old := &snapshot.Node{UID: 1001, GID: 2002, User: "nobody-here", Group: "no-group-here"}
	for _, c := range []struct {
		r        Rules
		uid, gid uint32
	}{
		{Rules{Owner: "5:6"}, 5, 6},
		{Rules{Owner: "5"}, 5, 2002},
		{Rules{Owner: ":6"}, 1001, 6},
		{Rules{Users: []string{"1001:7"}}, 7, 2002},
		{Rules{Users: []string{"nobody-here:8", "1001:7"}}, 8, 2002},
		{Rules{Users: []string{"someone:8"}, Groups: []string{"no-group-here:9"}}, 1001, 9},
		{Rules{Owner: "5", Users: []string{"1001:7"}, Groups: []string{"2002:9"}, Numeric: true}, 5, 9},
	} {
		f, err := Compile(c.r)
		if err != nil {
			t.Errorf("%+v: %v", c.r, err)
			continue
		}
		if uid, gid := f(old); uid != c.uid || gid != c.gid {
			t.Errorf("%+v: %d:%d, want %d:%d", c.r, uid, gid, c.uid, c.gid)
		}
	}
	if f, err := Compile(Rules{Numeric: true}); f != nil || err != nil {
		t.Error("a function without a rule", err)
	}
	for _, bad := range []Rules{{Owner: ":"}, {Owner: "5:"}, {Owner: "no such user here"}, {Owner: "4294967295"}, {Users: []string{"5"}}, {Users: []string{":5"}},
		{Groups: []string{"5:"}}, {Groups: []string{"a:b:c"}}, {Groups: []string{"5:no such group here"}}} {
		if _, err := Compile(bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
