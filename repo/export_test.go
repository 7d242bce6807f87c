package repo

import (
	"context"
	"flag"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
)

// update makes tests write what they otherwise compare with: vectors that are missing, and golden repositories anew.
var update = flag.Bool("update", false, "write testdata")

// Update reports whether the golden repositories are to be made anew.
func Update() bool { return *update }

// ReadKey is the read key of all test repositories.
func ReadKey() (*crypt.ReadPrivate, error) { return readKey() }

// PutControl seals body as r's host, or the root, and stores it under name or, for content-named types, below the prefix name.
func PutControl(ctx context.Context, r *Repo, t crypt.Type, name string, body any) (string, error) {
	full, object, err := r.sealSigned(t, name, canon.Marshal(body), r.keys.Identity == nil)
	if err != nil {
		return "", err
	}
	return full, r.put(ctx, full, object, backends.PutOptions{})
}

// PutHost certifies id.
func PutHost(ctx context.Context, r *Repo, id *crypt.Identity, name string, roles crypt.Role) error {
	return r.putHost(ctx, id, name, roles)
}

// SealGroup is sealGroup.
func SealGroup(r *Repo, g *Group, shards [][]byte) (string, []byte, error) {
	return r.sealGroup(g, shards)
}

// ParseGroup is parseGroup.
func ParseGroup(r *Repo, name string, object []byte) (*Group, [][]byte, bool, error) {
	return r.parseGroup(name, object)
}

// SealCopied is sealCopied.
func SealCopied(session crypt.SessionID, object []byte) (string, []byte) {
	return sealCopied(session, object)
}

// SealSuccession is sealSuccession.
func SealSuccession(old, next *crypt.Root, time int64) (string, []byte, error) {
	return sealSuccession(old, next, time)
}

// About is what a mark's text is sealed to.
func About(m *Mark) string { return m.about() }

// ParsePackName is parsePackName.
func ParsePackName(name string) (crypt.ID, bool, uint32, error) { return parsePackName(name) }
