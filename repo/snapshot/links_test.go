package snapshot

import (
	"testing"

	"packhold/crypt"
)

func TestLinks(t *testing.T) {
	host := func(n int) [16]byte { return [16]byte{byte(n >> 8), byte(n), 1} }
	snap := func(h, s int, number uint64, prev ...int) Stored {
		x := Stored{Record: new(Record), Object: crypt.ID{byte(s)}}
		x.Host, x.Session, x.Number = host(h), [16]byte{byte(s >> 8), byte(s)}, number
		for _, p := range prev {
			x.Prev = append(x.Prev, Ref{Session: [16]byte{byte(p >> 8), byte(p)}})
		}
		return x
	}
	n, prev, seen := Links([]Stored{snap(1, 1, 1), snap(1, 2, 2, 1), snap(1, 3, 2, 1), snap(2, 4, 3, 2), snap(2, 5, 1<<60)}, host(1))
	if n != 4 {
		t.Errorf("number %d, a hostile one was followed", n)
	}
	if len(prev) != 2 || prev[0].Session[1] != 2 || prev[1].Session[1] != 3 {
		t.Errorf("previous %v: what another host links to hides nothing", prev)
	}
	if len(seen) != 1 || seen[0].Session[1] != 5 {
		t.Errorf("seen %v, want the newest head of each other host", seen)
	}
	if n, _, _ := Links([]Stored{snap(1, 1, 1+maxNumberStep)}, host(1)); n != 2+maxNumberStep {
		t.Errorf("number %d", n)
	}
	gone := snap(1, 9, 7, 1)
	gone.Forgotten = true
	if n, prev, seen := Links([]Stored{snap(1, 1, 1), gone}, host(1)); n != 8 || len(prev) != 1 || prev[0].Session[1] != 1 || len(seen) != 0 {
		t.Errorf("beside a forgotten one: number %d, previous %v, seen %v", n, prev, seen)
	}
	var all []Stored
	for h := 2; h < 400; h++ {
		all = append(all, snap(h, h, uint64(h)))
	}
	known := map[[16]byte]bool{}
	for range 2 {
		var number uint64
		number, _, seen = Links(all, host(1))
		if len(seen) != MaxSeen {
			t.Fatalf("%d seen", len(seen))
		}
		for _, s := range seen {
			known[s.Host] = true
		}
		all = append(all, snap(1, 500+int(number), number))
	}
	if len(known) != 398 {
		t.Errorf("two snapshots in a row name %d of 398 hosts", len(known))
	}
}
