package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"packhold/backends"
)

// Sentinels that a caller branches on. Storage problems pass through with the sentinels of backends and io/fs.
var (
	ErrStorage      = errors.New("the storage fails")
	ErrNoRepository = errors.New("no repository here")
	ErrNoConfig     = errors.New("the repository's config is missing")
	ErrExists       = errors.New("a repository already exists here")
	ErrNeedRead     = errors.New("this needs the passphrase")
	ErrNeedAdmin    = errors.New("this needs an administrator's passphrase")
	ErrNeedHost     = errors.New("this host is not enrolled")
	ErrFenced       = errors.New("the session was declared dead")
	ErrDamaged      = errors.New("damaged")
	ErrTampered     = errors.New("tampering suspected")
	ErrLastKey      = errors.New("the last key cannot be removed")
	ErrForeign      = errors.New("another repository than the one this host knows")
	ErrNoSnapshot   = errors.New("there is no such snapshot")
	ErrAmbiguous    = errors.New("more than one snapshot fits")
)

// Error is a failure about one stored object: what was being done, to which object, and where in it.
// Its cause matches ErrDamaged, ErrTampered, or a storage error.
type Error struct {
	Op     string // "reading pack"
	Object string // name in the storage
	Off, N int64  // range of bytes, where known; N 0 for the whole
	Err    error
}

// Error implements error.
func (e *Error) Error() string {
	if e.N > 0 {
		return fmt.Sprintf("%s %s bytes %d-%d: %v", e.Op, e.Object, e.Off, e.Off+e.N-1, e.Err)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, e.Object, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Problem is an object that is not used, and why. The repository goes on without it.
type Problem struct {
	Object string
	Err    error // matches ErrDamaged or ErrTampered
}

// String says it in one line.
func (p Problem) String() string { return fmt.Sprintf("%s: %v", p.Object, p.Err) }

// damaged wraps err so that it matches ErrDamaged.
func damaged(op, object string, err error) error {
	return &Error{Op: op, Object: object, Err: fmt.Errorf("%w: %w", ErrDamaged, err)}
}

// tampered wraps err so that it matches ErrTampered.
func tampered(op, object string, err error) error {
	return &Error{Op: op, Object: object, Err: fmt.Errorf("%w: %w", ErrTampered, err)}
}

// storageErr names the object of a storage failure. One that says nothing more exact of itself matches ErrStorage.
func storageErr(op, object string, err error) error {
	if err == nil {
		return nil
	}
	exact := false
	for _, is := range []error{backends.ErrNoSpace, backends.ErrGone, backends.ErrUnsupported, fs.ErrPermission, fs.ErrNotExist, fs.ErrExist, context.Canceled} {
		exact = exact || errors.Is(err, is)
	}
	if !exact {
		err = fmt.Errorf("%w: %w", ErrStorage, err)
	}
	return &Error{Op: op, Object: object, Err: err}
}

// isMissing reports an authenticated "does not exist". No other error is ever taken for one.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
