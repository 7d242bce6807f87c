package snapshot

import (
	"slices"

	"packhold/crypt"
)

// maxNumberStep is how far a number may be above the count of snapshots before it is ignored for the choice of the next: a hostile
// host cannot use numbers up.
const maxNumberStep = 1_000_000

// Stored is a record and the SHA-256 of the object that holds it.
type Stored struct {
	*Record
	Object    crypt.ID
	Forgotten bool // its number is taken, nothing else
}

// Links finds the number of the next snapshot by host, and what it links back to: all heads of its own host, and the newest head of each other, of
// which a different part each time where they are more than fit. all is in the order of numbers, but for the forgotten.
func Links(all []Stored, host [16]byte) (number uint64, prev []Ref, seen []SeenRef) {
	type of struct{ host, session [16]byte }
	linked := make(map[of]bool) // by snapshots of the same host: what others say hides no head
	for _, s := range all {
		if s.Number <= uint64(len(all))+maxNumberStep {
			number = max(number, s.Number)
		}
		if s.Forgotten {
			continue
		}
		for _, p := range s.Prev {
			linked[of{s.Host, p.Session}] = true
		}
	}
	number++
	heads := make(map[[16]byte]bool)
	var others []SeenRef
	for _, s := range slices.Backward(all) {
		if s.Forgotten || linked[of{s.Host, s.Session}] {
			continue
		}
		if s.Host == host {
			if len(prev) < MaxPrev {
				prev = append(prev, Ref{Session: s.Session, Object: s.Object})
			}
		} else if !heads[s.Host] {
			heads[s.Host] = true
			others = append(others, SeenRef{Host: s.Host, Session: s.Session, Object: s.Object})
		}
	}
	slices.SortFunc(others, func(a, b SeenRef) int { return slices.Compare(a.Host[:], b.Host[:]) })
	for i := range min(len(others), MaxSeen) {
		at := i
		if len(others) > MaxSeen {
			at = int((number*MaxSeen + uint64(i)) % uint64(len(others)))
		}
		seen = append(seen, others[at])
	}
	slices.SortFunc(prev, func(a, b Ref) int { return slices.Compare(a.Session[:], b.Session[:]) })
	slices.SortFunc(seen, func(a, b SeenRef) int { return slices.Compare(a.Session[:], b.Session[:]) })
	return number, prev, seen
}
