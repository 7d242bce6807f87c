package stored

import (
	"context"
	"fmt"
	"strings"

	"packhold/backends"
)

// fewNames is for how many names each is asked for by itself. A listing tells of a thousand at once, wanted or not.
const fewNames = 64

// Present finds which of names, each told after prefix by its String, are stored: by asking for each, or where these are many by a listing. What was stored
// before the call is found on every storage whose listings are up to date; a name that is not stored is never said to be. Errors are those of Stat and List.
func Present[N interface {
	comparable
	fmt.Stringer
}](ctx context.Context, s backends.Storage, prefix string, names []N) (map[N]bool, error) {
	there := make(map[N]bool)
	if len(names) <= fewNames {
		for _, n := range names {
			switch _, err := Stat(ctx, s, prefix+n.String()); {
			case err == nil:
				there[n] = true
			case !Missing(err):
				return nil, err
			}
		}
		return there, nil
	}
	wanted := make(map[string]N, len(names))
	for _, n := range names {
		wanted[n.String()] = n
	}
	infos, _, err := List(ctx, s, prefix)
	if err != nil {
		return nil, err
	}
	for _, i := range infos {
		if n, is := wanted[strings.TrimPrefix(i.Name, prefix)]; is {
			there[n] = true
		}
	}
	return there, nil
}
