package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"packhold/crypt"
)

// tree is a tree in memory: directories by name, and other nodes.
type tree struct {
	dirs map[string]*tree
	rest map[string]Node
	meta uint32 // the UID of the directory itself
}

func (tr *tree) nodes(s *store, t fataler) []Node {
	var nodes []Node
	for name, n := range tr.rest {
		n.Name = name
		nodes = append(nodes, n)
	}
	for name, d := range tr.dirs {
		nodes = append(nodes, Node{Name: name, Type: Dir, UID: d.meta, Subtree: s.dir(t, d.nodes(s, t))})
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes
}

// flat returns the nodes by path, without their subtrees.
func (tr *tree) flat(prefix string, out map[string]Node) map[string]Node {
	for name, n := range tr.rest {
		n.Name = name
		out[path.Join(prefix, name)] = n
	}
	for name, d := range tr.dirs {
		out[path.Join(prefix, name)] = Node{Name: name, Type: Dir, UID: d.meta}
		d.flat(path.Join(prefix, name), out)
	}
	return out
}

// drawTree draws a tree; wide directories have several pages.
func drawTree(t *rapid.T, depth int) *tree {
	tr := &tree{map[string]*tree{}, map[string]Node{}, rapid.Uint32Range(0, 2).Draw(t, "meta")}
	if depth < 3 && rapid.IntRange(0, 9).Draw(t, "wide") == 0 {
		for _, name := range numbered(900) {
			tr.rest[name] = Node{Type: FIFO}
		}
	}
	for range rapid.IntRange(0, 4).Draw(t, "entries") {
		name := rapid.SampledFrom([]string{"a", "b", "c", "d!", "n0000700"}).Draw(t, "name")
		delete(tr.rest, name)
		delete(tr.dirs, name)
		if depth > 0 && rapid.Bool().Draw(t, "dir") {
			tr.dirs[name] = drawTree(t, depth-1)
		} else {
			tr.rest[name] = Node{Type: File, Mode: rapid.Uint32Range(0, 3).Draw(t, "mode")}
		}
	}
	return tr
}

// pathLess orders paths by their names.
func pathCompare(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

func TestWalkEqualsTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := drawTree(t, 3)
		s := newStore()
		root := s.dir(t, tr.nodes(s, t))
		want := tr.flat("", map[string]Node{})
		var paths, open []string
		for e, err := range Walk(context.Background(), s, root, WalkOptions{Post: true}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Depth != strings.Count(e.Path, "/")+1 || e.Node.Name != path.Base(e.Path) {
				t.Fatalf("%q at depth %d is %q", e.Path, e.Depth, e.Node.Name)
			}
			if e.Post {
				if len(open) == 0 || open[len(open)-1] != e.Path {
					t.Fatalf("%q ends, open are %q", e.Path, open)
				}
				open = open[:len(open)-1]
				continue
			}
			if parent := path.Dir(e.Path); parent != "." && (len(open) == 0 || open[len(open)-1] != parent) {
				t.Fatalf("%q is not in the open directory of %q", e.Path, open)
			}
			if e.Node.Type == Dir {
				open = append(open, e.Path)
			}
			paths = append(paths, e.Path)
			n := *e.Node
			n.Subtree = crypt.ID{}
			if w := want[e.Path]; !equal(&n, &w) {
				t.Fatalf("%q is %+v, want %+v", e.Path, n, w)
			}
		}
		if len(open) > 0 || !slices.Equal(paths, slices.SortedFunc(maps.Keys(want), pathCompare)) {
			t.Fatalf("walked %q, open %q", paths, open)
		}
	})
}

func TestDiffEqualsTrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawTree(t, 3), drawTree(t, 3)
		if rapid.Bool().Draw(t, "related") {
			for name, d := range a.dirs { // equal subtrees
				b.dirs[name] = d
				delete(b.rest, name)
			}
		}
		s := newStore()
		old, new := s.dir(t, a.nodes(s, t)), s.dir(t, b.nodes(s, t))
		fa, fb := a.flat("", map[string]Node{}), b.flat("", map[string]Node{})
		want := map[string]string{}
		for p, n := range fa {
			if m, ok := fb[p]; !ok {
				want[p] = "removed"
			} else if !equal(&n, &m) {
				want[p] = "changed"
			}
		}
		for p := range fb {
			if _, ok := fa[p]; !ok {
				want[p] = "added"
			}
		}
		got := map[string]string{}
		last := ""
		for c, err := range Diff(context.Background(), s, old, new) {
			if err != nil {
				t.Fatal(err)
			}
			if last != "" && pathCompare(last, c.Path) >= 0 {
				t.Fatalf("%q after %q", c.Path, last)
			}
			last = c.Path
			switch {
			case c.Old == nil:
				got[c.Path] = "added"
			case c.New == nil:
				got[c.Path] = "removed"
			default:
				got[c.Path] = "changed"
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("differences %v, want %v", got, want)
		}
	})
}

// Of two directories of 30,000 entries that differ in two, few pages are read.
func TestDiffReadsWhatDiffers(t *testing.T) {
	s := newStore()
	names := numbered(30000)
	old := s.dir(t, pipes(names...))
	nodes := pipes(append(slices.Clone(names), "z")...)
	nodes[15000].Mode = 1
	new := s.dir(t, nodes)
	changes := 0
	for c, err := range Diff(context.Background(), s, old, new) {
		if err != nil || c.Path != names[15000] && c.Path != "z" {
			t.Errorf("%+v, %v", c, err)
		}
		changes++
	}
	if changes != 2 || len(s.gets) > 8 {
		t.Errorf("%d changes, %d pages read of %d", changes, len(s.gets), len(s.blobs))
	}
	clear(s.gets)
	for c, err := range Diff(context.Background(), s, new, new) {
		t.Errorf("equal trees: %+v, %v", c, err)
	}
	if len(s.gets) != 0 {
		t.Errorf("%d pages of equal trees read", len(s.gets))
	}
}

func TestWalkSkip(t *testing.T) {
	s := newStore()
	inner := s.dir(t, pipes("x"))
	root := s.dir(t, []Node{{Name: "a", Type: Dir, Subtree: inner}, {Name: "b", Type: Dir, Subtree: inner}, {Name: "c", Type: FIFO}})
	var got []string
	for e, err := range Walk(context.Background(), s, root, WalkOptions{Post: true}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.Path, e.Post))
		if e.Path == "a" || e.Path == "c" {
			e.SkipDir()
		}
	}
	if want := "afalse bfalse b/xfalse btrue cfalse"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	n := 0
	for range Walk(context.Background(), s, root, WalkOptions{}) {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("%d entries after break", n)
	}
}

func TestWalkGoesOn(t *testing.T) {
	s := newStore()
	inner := s.dir(t, pipes("x"))
	bad := s.page(&Page{Nodes: append(pipes("..", "good"), Node{Name: "kind", Type: 9}, Node{Name: "last", Type: FIFO})})
	root := s.dir(t, []Node{{Name: "a", Type: Dir, Subtree: testID("lost")}, {Name: "b", Type: Dir, Subtree: bad}, {Name: "c", Type: Dir, Subtree: inner}})
	var got []string
	for e, err := range Walk(context.Background(), s, root, WalkOptions{}) {
		if err != nil {
			if !strings.Contains(err.Error(), fmt.Sprintf("%q", e.Path)) || e.Node != nil || e.Depth != 1 {
				t.Errorf("%+v: %v", e, err)
			}
			if errors.Is(err, errLost) != (e.Path == "a") || errors.Is(err, ErrMalformed) != (e.Path == "b") {
				t.Errorf("%q: %v", e.Path, err)
			}
			got = append(got, "error:"+e.Path)
			continue
		}
		got = append(got, e.Path)
	}
	if want := "a error:a b error:b b/good error:b b/last c c/x"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	// A comparison stops where it cannot tell, and goes on beside it.
	other := s.dir(t, []Node{{Name: "a", Type: Dir, Subtree: inner}, {Name: "b", Type: Dir, Subtree: inner}, {Name: "d", Type: FIFO}})
	got = nil
	for c, err := range Diff(context.Background(), s, root, other) {
		if err != nil {
			got = append(got, "error:"+c.Path)
			continue
		}
		got = append(got, c.Path)
	}
	if want := "error:a error:b c c/x d"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	// The root itself lost.
	n := 0
	for e, err := range Walk(context.Background(), s, testID("lost"), WalkOptions{Post: true}) {
		if n++; e.Path != "" || !errors.Is(err, errLost) {
			t.Errorf("%+v, %v", e, err)
		}
	}
	if n != 1 {
		t.Errorf("%d entries of a lost root", n)
	}
}

func TestWalkStopsWithContext(t *testing.T) {
	s := newStore()
	root := s.dir(t, pipes(numbered(5000)...))
	for _, walk := range []func(context.Context) (int, error){
		func(ctx context.Context) (n int, last error) {
			for _, last = range Walk(ctx, s, root, WalkOptions{}) {
				n++
			}
			return n, last
		},
		func(ctx context.Context) (n int, last error) {
			for _, last = range Diff(ctx, s, s.dir(t, nil), root) {
				n++
			}
			return n, last
		},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if n, err := walk(ctx); n != 1 || !errors.Is(err, context.Canceled) {
			t.Errorf("%d entries, %v", n, err)
		}
	}
}

// chain returns the root of n directories inside each other, and below them a file.
func chain(t fataler, s *store, n int) crypt.ID {
	id := s.dir(t, pipes("end"))
	for range n {
		id = s.dir(t, []Node{{Name: "d", Type: Dir, Subtree: id}})
	}
	return id
}

func TestWalkDepth(t *testing.T) {
	for _, c := range []struct{ dirs, entries, errs int }{
		{MaxDepth - 1, MaxDepth, 0}, {MaxDepth, MaxDepth, 1},
	} {
		s := newStore()
		entries, errs := 0, 0
		for e, err := range Walk(context.Background(), s, chain(t, s, c.dirs), WalkOptions{}) {
			if err == nil {
				entries++
				continue
			}
			errs++
			if !errors.Is(err, ErrMalformed) || e.Depth != MaxDepth || !strings.Contains(err.Error(), `"d/d/`) || len(err.Error()) > 1000 {
				t.Errorf("%d directories: depth %d, %v", c.dirs, e.Depth, err)
			}
		}
		if entries != c.entries || errs != c.errs {
			t.Errorf("%d directories: %d entries, %d errors", c.dirs, entries, errs)
		}
	}
	// Long names reach the limit of bytes first.
	s := newStore()
	id := s.dir(t, pipes("end"))
	for range 300 {
		id = s.dir(t, []Node{{Name: strings.Repeat("n", MaxName), Type: Dir, Subtree: id}})
	}
	entries, errs := 0, 0
	for _, err := range Walk(context.Background(), s, id, WalkOptions{}) {
		if err != nil {
			errs++
		} else {
			entries++
		}
	}
	if entries != MaxPath/(MaxName+1) || errs != 1 {
		t.Errorf("long names: %d entries, %d errors", entries, errs)
	}
}

// liar serves bytes under IDs that they do not have, as no honest Getter does.
type liar map[crypt.ID]*Page

func (l liar) Get(_ context.Context, id crypt.ID) ([]byte, error) { return l[id].encode(), nil }

func TestWalkCycle(t *testing.T) {
	a, b := testID("a"), testID("b")
	l := liar{
		a: {Nodes: []Node{{Name: "x", Type: Dir, Subtree: a}, {Name: "y", Type: Dir, Subtree: b}, {Name: "z", Type: FIFO}}},
		b: {Nodes: []Node{{Name: "v", Type: Dir, Subtree: a}, {Name: "w", Type: Dir, Subtree: a}}},
	}
	var got []string
	for e, err := range Walk(context.Background(), l, a, WalkOptions{}) {
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			got = append(got, "error:"+e.Path)
			continue
		}
		got = append(got, e.Path)
	}
	if want := "x error:x y y/v error:y/v y/w error:y/w z"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	for range Diff(context.Background(), l, a, b) { // ends
	}
	// A branch that is its own child.
	l[a] = &Page{Children: []Child{{"m", a, 1}, {"n", a, 1}}}
	names, errs := readDir(l, a)
	if len(names) != 0 || len(errs) != 2 {
		t.Errorf("branch inside itself: %q, %v", names, errs)
	}
}

// Directories inside each other, each with a page of many nodes, cost the memory of few of them.
func TestWalkMemory(t *testing.T) {
	s := newStore()
	var id crypt.ID
	const levels, width = 140, MaxPageEntries - 1
	names := numbered(width)
	nodes := pipes(append(names, "")...)
	for i := range levels {
		nodes[width] = Node{Name: "o", Type: Dir, Subtree: id}
		if i == 0 {
			nodes[width] = Node{Name: "o", Type: FIFO}
		}
		// The directory lies in the middle, so that its parent is needed again.
		mid := slices.Clone(nodes)
		mid[width].Name = "n0001000x"
		slices.SortFunc(mid, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
		id = s.page(&Page{Nodes: mid})
	}
	clear(s.gets)
	entries, most := 0, int64(0)
	w := &walker{ctx: context.Background(), g: s, frames: []frame{{new: OpenDir(context.Background(), s, id)}}}
	w.run(func(_ step, err error) bool {
		if err != nil {
			t.Fatal(err)
		}
		if entries++; entries%100 == 0 {
			held := int64(0)
			for i := range w.frames {
				held += w.frames[i].new.held()
			}
			most = max(most, held)
		}
		return true
	})
	again := 0
	for _, n := range s.gets {
		again += n - 1
	}
	if entries != levels*(width+1) || most > maxWalkPages+2<<20 || again == 0 || again > levels {
		t.Errorf("%d entries, %d bytes held, %d pages read again", entries, most, again)
	}
}

func BenchmarkWalk(b *testing.B) {
	s := newStore()
	nodes := typicalNodes(30)
	var dirs []Node
	for i := range 1000 {
		nodes[0].Extents = []Extent{{Hole, uint64(i) + 1, crypt.ID{}}}
		nodes[0].Size = uint64(i) + 1
		dirs = append(dirs, Node{Name: fmt.Sprintf("%04d", i), Type: Dir, Subtree: s.dir(b, nodes)})
	}
	root := s.dir(b, dirs)
	entries := 0
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range Walk(context.Background(), s, root, WalkOptions{}) {
			if err != nil {
				b.Fatal(err)
			}
			entries++
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(entries), "ns/entry")
}
