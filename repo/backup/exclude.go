package backup

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Excludes is a list of patterns of what to leave out. It may be used concurrently.
//
//	pattern      leaves out
//	*.o          every entry whose name ends in .o, in any directory
//	build/tmp    tmp in every directory named build
//	/home/*/x    x in every directory below /home, as absolute paths
//	/srv/**/log  log anywhere below /srv: ** stands for any number of directories, also none
//	{a,b}, [a-z] as in a shell; * and ? do not match a slash; \ takes the next character literally
//	cache/       directories, not files, named cache
//	!keep.o      nothing: it takes back what an earlier pattern left out
//
// The last pattern that matches decides. What is below a directory that is left out is not looked at, so nothing there can be taken
// back: to keep one entry of a directory, leave out "dir/*" and take back "dir/entry". Paths are compared byte by byte, with "/" between names.
// Sources, and the directories above them, are never left out.
type Excludes struct {
	patterns []string
	rules    []rule
}

type rule struct {
	glob    string
	literal bool // no special character in it
	dirOnly bool
	negate  bool
	base    bool // no slash inside: the last name decides
}

// NewExcludes compiles patterns. One that is invalid, or can never match, is an error: it must not come to mean "nothing" or "everything".
func NewExcludes(patterns []string) (*Excludes, error) {
	x := &Excludes{patterns: slices.Clone(patterns)}
	for _, p := range patterns {
		r := rule{}
		rest, negate := strings.CutPrefix(p, "!")
		rest, r.dirOnly = strings.CutSuffix(rest, "/")
		r.glob, r.negate = path.Clean(rest), negate
		if rest == "" || r.glob == "." || r.glob == "/" || slices.Contains(strings.Split(r.glob, "/"), "..") || strings.IndexByte(p, 0) >= 0 {
			return nil, fmt.Errorf("exclude pattern %q can match nothing", p)
		}
		r.base = !strings.Contains(r.glob, "/") && r.glob != "**"
		r.literal = !strings.ContainsAny(r.glob, `*?[{\`)
		if !r.base && r.glob[0] != '/' {
			r.glob, r.literal = "/**/"+r.glob, false
		}
		if !doublestar.ValidatePattern(r.glob) {
			return nil, fmt.Errorf("exclude pattern %q is not valid", p)
		}
		x.rules = append(x.rules, r)
	}
	return x, nil
}

// match reports whether a name in a directory, whose absolute path has no slash at its end, is left out.
func (x *Excludes) match(parent, name string, dir bool) bool {
	out, full := false, ""
	for i := range x.rules {
		r := &x.rules[i]
		if out != r.negate || r.dirOnly && !dir {
			continue // it would change nothing
		}
		what := name
		if !r.base {
			if full == "" {
				full = parent + "/" + name
			}
			what = full
		}
		ok := what == r.glob
		if !r.literal {
			ok, _ = doublestar.Match(r.glob, what) // the pattern was validated: it cannot fail
		}
		if ok {
			out = !r.negate
		}
	}
	return out
}

// Match reports whether a pattern picks the entry at an absolute path. Restores pick entries by the same patterns.
func (x *Excludes) Match(p string, dir bool) bool {
	parent, name := path.Split(p)
	return x.match(strings.TrimSuffix(parent, "/"), name, dir)
}
