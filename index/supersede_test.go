package index

import (
	"slices"
	"testing"

	"packhold/crypt"
)

func TestDropSuperseded(t *testing.T) {
	a, b, c, d := crypt.ID{1}, crypt.ID{2}, crypt.ID{3}, crypt.ID{4}
	for what, x := range map[string]struct {
		news []Superseding
		left []crypt.ID
	}{
		"nothing":                {nil, []crypt.ID{a, b, c}},
		"one":                    {[]Superseding{{a, []crypt.ID{b}, nil}}, []crypt.ID{a, c}},
		"one, with a companion":  {[]Superseding{{a, []crypt.ID{b}, []crypt.ID{c}}}, []crypt.ID{a, c}},
		"a companion is missing": {[]Superseding{{a, []crypt.ID{b}, []crypt.ID{d}}}, []crypt.ID{a, b, c}},
		"the companion goes":     {[]Superseding{{a, []crypt.ID{b}, []crypt.ID{c}}, {b, []crypt.ID{c}, nil}}, []crypt.ID{a, b, c}},
		"each other":             {[]Superseding{{a, []crypt.ID{b}, nil}, {b, []crypt.ID{a}, nil}}, []crypt.ID{a, b, c}},
		"itself":                 {[]Superseding{{c, []crypt.ID{c}, nil}}, []crypt.ID{a, b, c}},
	} {
		index := New()
		live := map[crypt.ID]struct{}{}
		for _, id := range []crypt.ID{a, b, c} {
			if err := index.AddSegment(id, new(Segment)); err != nil {
				t.Fatal(err)
			}
			live[id] = struct{}{}
		}
		index.DropSuperseded(live, x.news)
		for _, id := range []crypt.ID{a, b, c} {
			if _, ok := live[id]; ok != slices.Contains(x.left, id) {
				t.Errorf("%s: segment %d is left: %v", what, id[0], ok)
			}
		}
	}
}
