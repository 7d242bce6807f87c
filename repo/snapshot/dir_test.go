package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"packhold/crypt"
)

var errLost = errors.New("blob is lost")

// store keeps blobs in memory and counts what is asked for.
type store struct {
	blobs map[crypt.ID][]byte
	gets  map[crypt.ID]int
}

func newStore() *store { return &store{map[crypt.ID][]byte{}, map[crypt.ID]int{}} }

func (s *store) put(plain []byte) (crypt.ID, error) {
	id := crypt.Sum(plain)
	s.blobs[id] = bytes.Clone(plain)
	return id, nil
}

func (s *store) Get(ctx context.Context, id crypt.ID) ([]byte, error) {
	s.gets[id]++
	plain, ok := s.blobs[id]
	if !ok {
		return nil, errLost
	}
	return plain, ctx.Err()
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

func (s *store) dir(t fataler, nodes []Node) crypt.ID {
	t.Helper()
	w := NewDirWriter(s.put)
	for i := range nodes {
		if err := w.Add(&nodes[i]); err != nil {
			t.Fatalf("%v", err)
		}
	}
	root, count, err := w.Finish()
	if err != nil || count != uint64(len(nodes)) {
		t.Fatalf("finished with %d nodes, %v; want %d", count, err, len(nodes))
	}
	return root
}

// page stores a page as it is, valid or not.
func (s *store) page(p *Page) crypt.ID {
	id, _ := s.put(p.encode())
	return id
}

// readDir returns the names and the errors of a directory.
func readDir(g Getter, root crypt.ID) (names []string, errs []error) {
	r := OpenDir(context.Background(), g, root)
	for {
		n, err := r.Next()
		switch {
		case err == io.EOF:
			return names, errs
		case err != nil:
			errs = append(errs, err)
		default:
			names = append(names, n.Name)
		}
	}
}

func pipes(names ...string) []Node {
	nodes := make([]Node, len(names))
	for i, name := range names {
		nodes[i] = Node{Name: name, Type: FIFO}
	}
	return nodes
}

func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("n%07d", i)
	}
	return names
}

func TestDirEqualsNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := genNodes(20).Draw(t, "nodes")
		// Many plain nodes between the drawn ones, so that there is more than one page.
		have := map[string]bool{}
		for _, n := range nodes {
			have[n.Name] = true
		}
		for range rapid.SampledFrom([]int{0, 0, 60, 900}).Draw(t, "more") {
			name := fmt.Sprintf("%c%d", 'A'+len(nodes)%50, len(nodes))
			if !have[name] {
				nodes = append(nodes, Node{Name: name, Type: FIFO})
			}
		}
		slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
		s := newStore()
		root := s.dir(t, nodes)
		r := OpenDir(context.Background(), s, root)
		every := rapid.IntRange(1, 1000).Draw(t, "release")
		for i := range nodes {
			if i%max(every, 90) == 0 {
				r.release()
			}
			n, err := r.Next()
			if err != nil || !reflect.DeepEqual(*n, nodes[i]) {
				t.Fatalf("node %d: %+v, %v; want %+v", i, n, err, nodes[i])
			}
			if i%100 == 0 {
				if f, err := Find(context.Background(), s, root, nodes[i].Name); err != nil || !reflect.DeepEqual(*f, nodes[i]) {
					t.Fatalf("found %+v, %v; want %+v", f, err, nodes[i])
				}
				absent := nodes[i].Name + "\x01"
				if !have[absent] {
					if f, err := Find(context.Background(), s, root, absent); !errors.Is(err, ErrNotFound) {
						t.Fatalf("found %+v, %v; want no entry", f, err)
					}
				}
			}
		}
		if n, err := r.Next(); err != io.EOF {
			t.Fatalf("after the last node: %v, %v", n, err)
		}
		// The pages depend on the nodes alone.
		again := newStore()
		if other := again.dir(t, nodes); other != root || !maps.EqualFunc(s.blobs, again.blobs, bytes.Equal) {
			t.Fatalf("written again: %v, want %v", other, root)
		}
	})
}

func TestDirSizes(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 65, 2047, 2048, 2049, 5000} {
		s := newStore()
		names := numbered(n)
		root := s.dir(t, pipes(names...))
		got, errs := readDir(s, root)
		if errs != nil || !slices.Equal(got, names) {
			t.Errorf("%d nodes: %d read, %v", n, len(got), errs)
		}
		p, err := DecodePage(s.blobs[root])
		if err != nil {
			t.Fatal(err)
		}
		if n <= pageLeast && len(s.blobs) != 1 {
			t.Errorf("%d nodes: %d pages", n, len(s.blobs))
		}
		if len(s.blobs) > 1 && len(p.Children) < 2 {
			t.Errorf("%d nodes: %d pages, but a root of %d children", n, len(s.blobs), len(p.Children))
		}
	}
}

// The rule of format 1, step by step: where leaves end.
func TestPageRule(t *testing.T) {
	s := newStore()
	names := numbered(40000)
	root := s.dir(t, pipes(names...))
	p, err := DecodePage(s.blobs[root])
	if err != nil {
		t.Fatal(err)
	}
	at, byHash := 0, 0
	for i, c := range p.Children {
		at += int(c.Count)
		last := names[at-1]
		switch ends := endsPage(last); {
		case ends && c.Count >= pageLeast:
			byHash++
		case c.Count == MaxPageEntries:
		case i == len(p.Children)-1:
		default:
			t.Errorf("leaf %d of %d nodes ends after %s", i, c.Count, last)
		}
		for k := at - int(c.Count) + pageLeast - 1; k < at-1; k++ {
			if endsPage(names[k]) {
				t.Errorf("leaf %d goes on after %s", i, names[k])
			}
		}
	}
	if at != len(names) || byHash < 40 {
		t.Errorf("%d nodes, %d leaves ended by hash", at, byHash)
	}
	// By size: 20 nodes of 60 KiB fill a page.
	big := make([]Node, 60)
	for i := range big {
		big[i] = Node{Name: fmt.Sprintf("%02d", i), Type: Symlink, Target: strings.Repeat("t", 60000)}
	}
	root = s.dir(t, big)
	if p, err = DecodePage(s.blobs[root]); err != nil || len(p.Children) != 4 || p.Children[0].Count != 18 {
		t.Errorf("page of %d children, %v", len(p.Children), err)
	}
	// Branches end as leaves do: long first names make them end by size.
	for i := range big {
		big[i] = Node{Name: fmt.Sprintf("%02d", i), Type: FIFO}
	}
	var many []Node
	for i := range 5000 {
		many = append(many, Node{Name: fmt.Sprintf("%05d", i) + strings.Repeat("x", 4000), Type: FIFO})
	}
	s = newStore()
	root = s.dir(t, many)
	if got, errs := readDir(s, root); errs != nil || len(got) != len(many) {
		t.Errorf("%d nodes, %v", len(got), errs)
	}
}

// The cuts of format 1 for one directory, computed apart from this code: sizes of leaves.
func TestGoldenCuts(t *testing.T) {
	s := newStore()
	p, err := DecodePage(s.blobs[s.dir(t, pipes(numbered(5000)...))])
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for _, c := range p.Children {
		got = append(got, c.Count)
	}
	if want := []uint64{692, 620, 616, 170, 1160, 1492, 88, 162}; !slices.Equal(got, want) {
		t.Errorf("leaves of %d nodes, want %d", got, want)
	}
}

// One name more rewrites one leaf, two where it makes or moves an end, and the branches above.
func TestOneNameRewritesFewPages(t *testing.T) {
	names := numbered(1_000_000)
	s := newStore()
	s.dir(t, pipes(names...))
	rng := rand.New(rand.NewPCG(1, 2))
	most := 0
	for range 2 {
		i := rng.IntN(len(names))
		with := slices.Insert(slices.Clone(names), i, names[i]+"x")
		slices.Sort(with)
		other := newStore()
		other.dir(t, pipes(with...))
		leaves, branches := 0, 0
		for id, plain := range other.blobs {
			if s.blobs[id] != nil {
				continue
			}
			if plain[1] == tagLeaf {
				leaves++
			} else {
				branches++
			}
		}
		most = max(most, leaves)
		if leaves < 1 || leaves > 2 || branches < 1 || branches > 2 {
			t.Errorf("%q rewrote %d leaves and %d branches of %d pages", with[i], leaves, branches, len(other.blobs))
		}
	}
	if len(s.blobs) < 100 || most == 0 {
		t.Errorf("%d pages", len(s.blobs))
	}
}

func TestDirWriterRefuses(t *testing.T) {
	errPut := errors.New("no space")
	for _, c := range []struct {
		what  string
		nodes []Node
		put   error
		want  error
	}{
		{"order", pipes("b", "a"), nil, ErrMalformed},
		{"twice", pipes("a", "a"), nil, ErrMalformed},
		{"invalid", pipes(".."), nil, ErrMalformed},
		{"put of a full page", pipes(numbered(3000)...), errPut, errPut},
		{"put of the last page", pipes("a"), errPut, errPut},
	} {
		w := NewDirWriter(func([]byte) (crypt.ID, error) { return crypt.ID{1}, c.put })
		for i := range c.nodes {
			_ = w.Add(&c.nodes[i]) // the error sticks
		}
		if _, _, err := w.Finish(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
}

func TestDirReaderRefuses(t *testing.T) {
	child := func(s *store, names ...string) Child {
		return Child{names[0], s.page(&Page{Nodes: pipes(names...)}), uint64(len(names))}
	}
	for _, c := range []struct {
		what  string
		root  func(s *store) *Page
		names string // what is read all the same
		errs  int
		want  string
	}{
		{"good", func(s *store) *Page { return &Page{Children: []Child{child(s, "a", "b"), child(s, "c")}} }, "abc", 0, ""},
		{"lost page", func(s *store) *Page {
			return &Page{Children: []Child{child(s, "a", "b"), {"c", testID("lost"), 1}, child(s, "d")}}
		}, "abd", 1, "lost"},
		{"pages overlap", func(s *store) *Page {
			return &Page{Children: []Child{child(s, "a", "c"), child(s, "b", "d"), child(s, "e")}}
		}, "ace", 1, "after"},
		{"name in two pages", func(s *store) *Page { return &Page{Children: []Child{child(s, "a", "b"), child(s, "b")}} }, "ab", 1, "after"},
		{"first name", func(s *store) *Page {
			k := child(s, "b", "c")
			k.First = "a"
			return &Page{Children: []Child{k, child(s, "d")}}
		}, "d", 1, "branch says"},
		{"count", func(s *store) *Page {
			k := child(s, "a", "b")
			k.Count = 3
			return &Page{Children: []Child{k, child(s, "d")}}
		}, "d", 1, "branch says"},
		{"count of a branch", func(s *store) *Page {
			k := Child{"a", s.page(&Page{Children: []Child{child(s, "a"), child(s, "b")}}), 3}
			return &Page{Children: []Child{k, child(s, "d")}}
		}, "d", 1, "branch says"},
		{"empty leaf below", func(s *store) *Page {
			return &Page{Children: []Child{{"a", s.page(&Page{}), 1}, child(s, "d")}}
		}, "d", 1, "branch says"},
		{"not a page", func(s *store) *Page {
			id, _ := s.put([]byte("text"))
			return &Page{Children: []Child{{"a", id, 1}, child(s, "d")}}
		}, "d", 1, "malformed"},
		{"bad names", func(s *store) *Page { return &Page{Nodes: pipes("..", "a", "b/c", "d", "e\x00")} }, "ad", 3, "name"},
		{"duplicate names", func(s *store) *Page {
			return &Page{Children: []Child{child(s, "a"), {"b", s.page(&Page{Nodes: pipes("b", "b")}), 2}, child(s, "c")}}
		}, "ac", 1, "out of order"},
	} {
		s := newStore()
		root := s.page(c.root(s))
		names, errs := readDir(s, root)
		if got := strings.Join(names, ""); got != c.names || len(errs) != c.errs {
			t.Errorf("%s: read %q with %v, want %q", c.what, got, errs, c.names)
		}
		for _, err := range errs {
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "page ") || !errors.Is(err, errLost) && !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %v, want %q", c.what, err, c.want)
			}
		}
	}
}

func TestPageLevels(t *testing.T) {
	for levels := 1; levels <= MaxPageLevels+2; levels++ {
		s := newStore()
		c := Child{"b", s.page(&Page{Nodes: pipes("b")}), 1}
		for range levels - 1 {
			c = Child{"b", s.page(&Page{Children: []Child{c}}), 1}
		}
		names, errs := readDir(s, c.ID)
		_, err := Find(context.Background(), s, c.ID, "b")
		ok := levels <= MaxPageLevels
		if ok != (len(names) == 1) || ok != (errs == nil) || ok != (err == nil) {
			t.Errorf("%d levels: %q, %v, %v", levels, names, errs, err)
		}
		if !ok && (!errors.Is(err, ErrMalformed) || !errors.Is(errs[0], ErrMalformed)) {
			t.Errorf("%d levels: %v, %v", levels, errs, err)
		}
	}
}

func TestFind(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	names := numbered(30000)
	root := s.dir(t, pipes(names...))
	for _, name := range []string{"", "a", "n", names[0], names[20000], names[len(names)-1], "n0020000x", "z"} {
		clear(s.gets)
		_, want := slices.BinarySearch(names, name)
		n, err := Find(ctx, s, root, name)
		if want && (err != nil || n.Name != name) || !want && !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %+v, %v", name, n, err)
		}
		if len(s.gets) > 3 {
			t.Errorf("%q: %d pages read", name, len(s.gets))
		}
	}
	// A leaf whose names reach into the next one: two nodes of one name could hide each other.
	over := &Page{Children: []Child{{"a", s.page(&Page{Nodes: pipes("a", "c")}), 2}, {"b", s.page(&Page{Nodes: pipes("b")}), 1}}}
	if n, err := Find(ctx, s, s.page(over), "a"); !errors.Is(err, ErrMalformed) {
		t.Errorf("overlapping pages: %v, %v", n, err)
	}
	if n, err := Find(ctx, s, s.page(&Page{Nodes: pipes("..")}), ".."); !errors.Is(err, ErrMalformed) {
		t.Errorf("bad name: %v, %v", n, err)
	}
	// A lost page is not an answer.
	lost := s.page(&Page{Children: []Child{{"a", testID("lost"), 1}, {"b", testID("lost2"), 1}}})
	if _, err := Find(ctx, s, lost, "a"); !errors.Is(err, errLost) || errors.Is(err, ErrNotFound) {
		t.Errorf("lost page: %v", err)
	}
}

func TestLookup(t *testing.T) {
	ctx := context.Background()
	s := newStore()
	inner := s.dir(t, pipes("x"))
	root := s.dir(t, []Node{{Name: "d", Type: Dir, Subtree: inner}, {Name: "f", Type: File}})
	if n, err := Lookup(ctx, s, root, nil); err != nil || n.Type != Dir || n.Subtree != root {
		t.Errorf("empty path: %+v, %v", n, err)
	}
	if n, err := Lookup(ctx, s, root, []string{"d", "x"}); err != nil || n.Name != "x" {
		t.Errorf("d/x: %+v, %v", n, err)
	}
	for _, path := range [][]string{{"x"}, {"d", "y"}, {"f", "x"}, {"d", "x", "y"}, {""}, {".."}} {
		if n, err := Lookup(ctx, s, root, path); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %+v, %v", path, n, err)
		}
	}
}
