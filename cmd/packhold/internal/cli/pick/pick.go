// Package pick says which entries of a snapshot a restore takes, and which of the destination it leaves alone.
package pick

import (
	"path"
	"strings"

	"packhold/repo/backup"
	"packhold/repo/restore"
	"packhold/repo/snapshot"
)

// Match compiles patterns. None give nil.
func Match(patterns []string) (restore.Match, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	x, err := backup.NewExcludes(patterns)
	if err != nil {
		return nil, err
	}
	return x.Match, nil
}

// Path picks one entry, by its absolute path.
func Path(p string) (include restore.Match, descend func(dir string) bool) {
	p = path.Clean(p)
	return func(at string, _ bool) bool { return at == p }, Descend([]string{p})
}

// Descend says which directories can hold what patterns pick: those that a pattern names from the root on, as far as it is plain. Nil: all.
func Descend(patterns []string) func(dir string) bool {
	var plain []string
	for _, p := range patterns {
		if strings.HasPrefix(p, "!") { // it only takes back
			continue
		}
		if !strings.HasPrefix(p, "/") {
			return nil
		}
		p = path.Clean(p)
		if i := strings.IndexAny(p, `*?[{\`); i >= 0 {
			p = p[:strings.LastIndexByte(p[:i], '/')+1]
		} else {
			p += "/"
		}
		plain = append(plain, p)
	}
	if len(plain) == 0 {
		return nil
	}
	return func(dir string) bool {
		dir = strings.TrimSuffix(dir, "/") + "/"
		for _, p := range plain {
			// On the way to it, or below it, where only a pattern with special characters still looks for something.
			if strings.HasPrefix(p, dir) || strings.HasPrefix(dir, p) {
				return true
			}
		}
		return false
	}
}

// Kept picks what a snapshot lacks for another reason than that it was not there: it was excluded by a pattern, or could not be read.
func Kept(body *snapshot.Body) (restore.Match, error) {
	excluded, err := Match(body.Excludes)
	if err != nil {
		return nil, err
	}
	skipped := make(map[string]bool)
	for _, s := range body.Skipped {
		skipped[path.Clean(s.Path)] = true
	}
	return func(p string, dir bool) bool {
		if excluded != nil && excluded(p, dir) {
			return true
		}
		for ; p != "/" && p != "."; p = path.Dir(p) {
			if skipped[p] {
				return true
			}
		}
		return skipped[p]
	}, nil
}
