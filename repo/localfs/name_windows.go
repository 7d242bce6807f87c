package localfs

import (
	"path/filepath"
	"strings"
)

// validOnSystem refuses what Windows does not take as one entry of that very name: separators, streams ("a:b"),
// devices ("CON"), and trailing dots and spaces, which it cuts off.
func validOnSystem(name string) bool {
	return filepath.IsLocal(name) && !strings.ContainsAny(name, `\:`) && !strings.HasSuffix(name, ".") &&
		!strings.HasSuffix(name, " ")
}
