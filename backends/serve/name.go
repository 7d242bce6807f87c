package serve

import (
	"fmt"
	"io/fs"
	"strings"

	"packhold/backends"
)

// tempDir is kept out of the way by backends.ValidName.
const tempDir = "tmp"

// kind says what a path of a client may name.
type kind uint8

const (
	kindRoot      kind = iota // the folder itself
	kindTempDir               // the directory of the temporary files
	kindTemporary             // a file in it
	kindFinished              // a repository's file, or a directory that leads to one
)

// target is a client's path that was understood. Its name is relative to the folder.
type target struct {
	kind kind
	name string
}

// parse understands a client's path, to which the folder is both "/" and where a session begins. One slash may stand before a name and one after it; "."
// is the folder. Everything else that does not name a file of the repository or a temporary one is refused, ".." among it: what is let through
// needs no cleaning, and no cleaning can go wrong.
func parse(path string) (target, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/")
	temp, below := strings.CutPrefix(name, tempDir+"/")
	switch {
	case (name == "" || name == ".") && len(path) <= 2:
		return target{kindRoot, "."}, nil
	case name == tempDir:
		return target{kindTempDir, tempDir}, nil
	case below && validTemporary(temp):
		return target{kindTemporary, name}, nil
	case backends.ValidName(name):
		return target{kindFinished, name}, nil
	}
	return target{}, fmt.Errorf("%w: not a name of a repository's file, nor one in %s/: %.*q", fs.ErrPermission, tempDir, backends.MaxName, path)
}

// validTemporary reports whether name may stand in the directory of temporary files: up to 200 letters, digits, '.', '_' and '-', the first no dot.
func validTemporary(name string) bool {
	if name == "" || len(name) > 200 || name[0] == '.' {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// child returns the entry of a directory, and whether clients may see it. What else is in the folder is foreign.
func (t target) child(name string) (target, bool) {
	if t.kind != kindRoot {
		name = t.name + "/" + name
	}
	c, err := parse(name)
	return c, err == nil && c.name == name
}
