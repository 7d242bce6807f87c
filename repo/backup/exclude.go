package backup

import (
	"fmt"
	"path"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Excludes is a list of patterns of what to leave out. A pattern with a slash at its start is matched against absolute paths; any
// other against the path below every directory, so "*.o" and "build/tmp" match anywhere. "**" crosses directories. A slash
// at the end matches directories only. A pattern after "!" takes back what an earlier one excluded; the last that matches decides. What is below an excluded directory
// is not looked at. It may be used concurrently.
type Excludes struct {
	patterns []string
	rules    []rule
}

type rule struct {
	glob     string
	absolute bool
	dirOnly  bool
	negate   bool
	base     bool // no slash inside: the last name decides
}

// NewExcludes compiles patterns. An invalid one is an error: it must never come to mean "nothing" or "everything".
func NewExcludes(patterns []string) (*Excludes, error) {
	x := &Excludes{patterns: patterns}
	for _, p := range patterns {
		r := rule{glob: p}
		if r.glob, r.negate = strings.CutPrefix(r.glob, "!"); r.glob == "" {
			return nil, fmt.Errorf("exclude pattern %q is empty", p)
		}
		if r.glob != "/" {
			r.glob, r.dirOnly = strings.CutSuffix(r.glob, "/")
		}
		r.absolute = strings.HasPrefix(r.glob, "/")
		if r.absolute {
			r.glob = path.Clean(r.glob)
		}
		r.base = !strings.Contains(r.glob, "/") && r.glob != "**"
		if !r.absolute && !r.base {
			r.glob = "/**/" + r.glob
		}
		if !doublestar.ValidatePattern(r.glob) {
			return nil, fmt.Errorf("exclude pattern %q is not valid", p)
		}
		x.rules = append(x.rules, r)
	}
	return x, nil
}

// Match reports whether the entry at an absolute path is left out.
func (x *Excludes) Match(p string, dir bool) bool {
	if x == nil {
		return false
	}
	out := false
	for _, r := range x.rules {
		if out != r.negate || r.dirOnly && !dir {
			continue // it would change nothing
		}
		name := p
		if r.base {
			name = path.Base(p)
		}
		// The pattern was validated: Match cannot fail.
		if ok, _ := doublestar.Match(r.glob, name); ok {
			out = !r.negate
		}
	}
	return out
}
