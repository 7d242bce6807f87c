package repo

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"packhold/crypt"
)

// The names of objects. Anything else under these prefixes is foreign: ignored and counted.
const (
	hex16 = `[0-9a-f]{32}`
	hex32 = `[0-9a-f]{64}`
	num   = `(?:0|[1-9][0-9]{0,17})`
)

var namePatterns = regexp.MustCompile(`^(?:` + strings.Join([]string{
	`(?:replica/[12]/)?config`,
	`settings/` + num,
	`roots/` + hex32,
	`(?:replica/[12]/)?keys/` + hex16,
	`bundles/` + num + `-` + hex16 + `-` + hex32,
	`hosts/` + hex16 + `/` + num + `-` + hex32,
	`grants/` + num + `-` + hex16 + `-` + hex32,
	`(?:packs|meta)/[0-9a-f]{2}/` + hex32 + `(?:\.` + num + `)?`,
	`(?:group|index|forgotten|copied|marks|verified)/` + hex32,
	`snapshots/` + hex16,
	`leases/` + hex16 + `(?:\.` + num + `)?`,
	`condemned/` + hex16 + `(?:\.leases|\.final)?`,
	`audit/` + hex16 + `/(?:tile/[0-9a-z/.]+|checkpoint/` + num + `)`,
}, `|`) + `)$`)

// KnownName reports whether name is one that format 1 gives to an object.
func KnownName(name string) bool { return len(name) <= 255 && namePatterns.MatchString(name) }

// PackName is the name under which a pack is stored: packs/ for data, meta/ for trees, sharded by its first byte.
// An incarnation above zero stands only where a condemned or final pack came back.
func PackName(id crypt.ID, tree bool, incarnation uint32) string {
	s := id.String()
	dir := "packs/"
	if tree {
		dir = "meta/"
	}
	name := dir + s[:2] + "/" + s
	if incarnation > 0 {
		name += "." + strconv.FormatUint(uint64(incarnation), 10)
	}
	return name
}

// parsePackName is the inverse of PackName for names that KnownName accepts.
func parsePackName(name string) (id crypt.ID, tree bool, incarnation uint32, err error) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || !KnownName(name) {
		return id, false, 0, fmt.Errorf("parsing pack name %q", name)
	}
	base, n, ok := strings.Cut(parts[2], ".")
	if ok {
		v, err := strconv.ParseUint(n, 10, 32)
		if err != nil || v == 0 {
			return id, false, 0, fmt.Errorf("parsing pack name %q", name)
		}
		incarnation = uint32(v)
	}
	if base[:2] != parts[1] {
		return id, false, 0, fmt.Errorf("parsing pack name %q: wrong shard folder", name)
	}
	id, err = crypt.ParseID(base)
	return id, parts[0] == "meta", incarnation, err
}
