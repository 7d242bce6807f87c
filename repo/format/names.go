package format

import (
	"encoding/hex"
	"errors"
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

// ConfigNames are the config and its replicas: any one is enough. The first one makes the repository.
var ConfigNames = [...]string{"config", "replica/1/config", "replica/2/config"}

// SlotPrefixes are where a key slot and its replicas stand; the main one is written last and removed first.
var SlotPrefixes = [...]string{"replica/2/keys/", "replica/1/keys/", "keys/"}

// ControlPrefixes are where all objects stand but packs and audit logs.
var ControlPrefixes = [...]string{"config", "replica/", "settings/", "roots/", "keys/", "bundles/", "hosts/", "grants/", "group/", "index/",
	"snapshots/", "leases/", "condemned/", "forgotten/", "copied/", "marks/", "verified/"}

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

// ParsePackName is the inverse of PackName for names that KnownName accepts.
func ParsePackName(name string) (id crypt.ID, tree bool, incarnation uint32, err error) {
	// By hand, without the pattern: a backup begins with a million of these names.
	dir, rest, _ := strings.Cut(name, "/")
	shard, base, _ := strings.Cut(rest, "/")
	base, n, again := strings.Cut(base, ".")
	if again {
		v, err := strconv.ParseUint(n, 10, 32)
		if err != nil || v == 0 || n[0] < '1' || n[0] > '9' {
			return id, false, 0, fmt.Errorf("parsing pack name %q", name)
		}
		incarnation = uint32(v)
	}
	if dir != "packs" && dir != "meta" || len(shard) != 2 || !strings.HasPrefix(base, shard) {
		return id, false, 0, fmt.Errorf("parsing pack name %q: wrong folder", name)
	}
	id, err = crypt.ParseID(base)
	return id, dir == "meta", incarnation, err
}

// SettingsName is the name of a generation of the settings.
func SettingsName(generation uint64) string {
	return "settings/" + strconv.FormatUint(generation, 10)
}

// LeaseName is the name of the lease of a session, or of its n-th renewal.
func LeaseName(id crypt.SessionID, n uint32) string {
	if n == 0 {
		return "leases/" + id.String()
	}
	return fmt.Sprintf("leases/%v.%d", id, n)
}

// LeaseSession is the session that the name of a lease or renewal says.
func LeaseSession(name string) (id crypt.SessionID, err error) {
	base, _, _ := strings.Cut(strings.TrimPrefix(name, "leases/"), ".")
	b, err := hex.DecodeString(base)
	if err != nil || len(b) != len(id) {
		return id, errors.New("not the name of a lease")
	}
	return crypt.SessionID(b), nil
}

// WriteOnce reports whether the object called name is kept for as long as the settings say: all but what others must be able to delete soon, which
// are leases, and condemned sets that have no final yet.
func WriteOnce(name string) bool {
	return KnownName(name) && !strings.HasPrefix(name, "leases/") && (!strings.HasPrefix(name, "condemned/") || strings.HasSuffix(name, ".final"))
}

// Caps of objects by their kind, bytes.
const (
	maxSmall  = 16 << 10         // leases, certificates, key slots: real ones take 1 to 5 KiB
	maxSecret = 1<<20 + 4<<10    // bundles and grants
	maxTile   = 32<<20 + 4<<10   // tiles of audit logs: 256 records of 112 KiB
	maxGroup  = 256<<20 + 32<<20 // parity shards and the sealed part
	maxOther  = crypt.MaxObject  // everything else that is no pack
)

// MaxSize is how many bytes the object called name has at most, if it is not a pack: what is longer is damaged.
func MaxSize(name string) int64 {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "replica/1/"), "replica/2/")
	prefix, _, _ := strings.Cut(name, "/")
	switch prefix {
	case "config":
		return maxConfig
	case "keys", "hosts", "leases", "roots":
		return maxSmall
	case "bundles", "grants":
		return maxSecret
	case "group":
		return maxGroup
	case "audit":
		if strings.Contains(name, "/checkpoint/") {
			return maxSmall
		}
		return maxTile
	}
	return maxOther
}
