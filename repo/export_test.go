package repo

import (
	"context"
	"flag"
	"fmt"

	"packhold/backends"
	"packhold/crypt"
	"packhold/crypt/canon"
	"packhold/repo/format"
	"packhold/repo/stored"
)

// update makes tests write what they otherwise compare with: vectors that are missing, and golden repositories anew.
var update = flag.Bool("update", false, "write testdata")

// Update reports whether the golden repositories are to be made anew.
func Update() bool { return *update }

// Passphrase is that of all test repositories.
const Passphrase = passphrase

// ReadKey is the read key of all test repositories.
func ReadKey() (*crypt.ReadPrivate, error) { return readKey() }

// MakeRepo makes the repository of all tests in s. TestMain sets it: this package's own tests cannot import repo/admin.
var MakeRepo func(ctx context.Context, s backends.Storage) (*crypt.Credential, error)

// sealSigned is SealControl, or the same by the root.
func (r *Repo) sealSigned(t crypt.Type, name string, body []byte, asRoot bool) (string, []byte, error) {
	if !asRoot {
		return r.SealControl(t, name, body)
	}
	epoch := r.settings.WriteEpoch
	signed := r.keys.Admin.Sign(t, format.Subject(t, name), body)
	return format.Sealer{Repo: r.config.ID, Epoch: epoch, Write: r.keys.Writes[epoch]}.Seal(t, name, signed)
}

// sealGroup makes a group object.
func (r *Repo) sealGroup(g *format.Group, shards [][]byte) (string, []byte, error) {
	_, sealed, err := r.SealControl(crypt.TypeGroup, "group/", canon.Marshal(g))
	if err != nil {
		return "", nil, err
	}
	return format.JoinGroup(g, sealed, shards)
}

// put stores an object.
func (r *Repo) put(ctx context.Context, name string, object []byte) error {
	return stored.Put(ctx, r.storage, name, object, backends.PutOptions{})
}

// PutControl seals body as r's host, or the root, and stores it under name or, for content-named types, below the prefix name.
func PutControl(ctx context.Context, r *Repo, t crypt.Type, name string, body any) (string, error) {
	full, object, err := r.sealSigned(t, name, canon.Marshal(body), r.keys.Identity == nil)
	if err != nil {
		return "", err
	}
	return full, r.put(ctx, full, object)
}

// PutHost certifies a host.
func PutHost(ctx context.Context, r *Repo, c *crypt.Certificate) error {
	full, object, err := r.sealSigned(crypt.TypeHost, fmt.Sprintf("hosts/%v/%d-", c.Host, c.Serial), c.Bytes(), true)
	if err != nil {
		return err
	}
	return r.put(ctx, full, object)
}

// SealGroup is sealGroup.
func SealGroup(r *Repo, g *format.Group, shards [][]byte) (string, []byte, error) {
	return r.sealGroup(g, shards)
}

// ParseGroup is parseGroup.
func ParseGroup(r *Repo, name string, object []byte) (*format.Group, [][]byte, bool, error) {
	return r.control().Group(name, object)
}
