package index

import (
	"slices"

	"packhold/crypt"
)

// Superseding is what a segment, By, says of others: it takes the place of Supersedes, together with Companions.
type Superseding struct {
	By                     crypt.ID
	Supersedes, Companions []crypt.ID
}

// DropSuperseded takes out of live, the segments in the storage, what newly added ones supersede. A segment's word counts only where all its
// companions are added and in live, and where nobody supersedes it in turn, so that no two segments can take each other away. What is not
// dropped costs memory alone.
func (x *Index) DropSuperseded(live map[crypt.ID]struct{}, news []Superseding) {
	if len(news) == 0 {
		return
	}
	have := make(map[crypt.ID]bool)
	for _, id := range x.Segments() {
		_, listed := live[id]
		have[id] = listed
	}
	var whole []Superseding
	gone := make(map[crypt.ID]bool)
	for _, s := range news {
		if slices.ContainsFunc(s.Companions, func(id crypt.ID) bool { return !have[id] }) {
			continue
		}
		whole = append(whole, s)
		for _, id := range s.Supersedes {
			gone[id] = true
		}
	}
	for _, s := range whole {
		if gone[s.By] || slices.ContainsFunc(s.Companions, func(id crypt.ID) bool { return gone[id] }) {
			continue
		}
		for _, id := range s.Supersedes {
			delete(live, id)
		}
	}
}
