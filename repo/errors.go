package repo

import (
	"errors"
	"fmt"

	"packhold/repo/control"
	"packhold/repo/stored"
)

// Sentinels that a caller branches on. Storage problems pass through with the sentinels of backends and io/fs.
var (
	ErrStorage      = stored.ErrStorage
	ErrDamaged      = stored.ErrDamaged
	ErrTampered     = stored.ErrTampered
	ErrNoRepository = errors.New("no repository here")
	ErrNoConfig     = errors.New("the repository's config is missing")
	ErrExists       = errors.New("a repository already exists here")
	ErrNeedRead     = errors.New("this needs the passphrase")
	ErrNeedAdmin    = errors.New("this needs an administrator's passphrase")
	ErrNeedHost     = errors.New("this host is not enrolled")
	ErrRevoked      = fmt.Errorf("%w any more: it was revoked", ErrNeedHost)
	ErrFenced       = errors.New("the session was declared dead")
	ErrLastKey      = errors.New("the last key cannot be removed")
	ErrForeign      = control.ErrForeign
	ErrNotKept      = control.ErrNotKept
	ErrNoSnapshot   = errors.New("there is no such snapshot")
	ErrAmbiguous    = errors.New("more than one snapshot fits")
)

// Error is a failure about one stored object.
type Error = stored.Error

// Problem is an object that is not used, and why. The repository goes on without it.
type Problem struct {
	Object string
	Err    error // matches ErrDamaged or ErrTampered, or is the disk's that cannot read it
}

// String says it in one line.
func (p Problem) String() string { return fmt.Sprintf("%s: %v", p.Object, p.Err) }
