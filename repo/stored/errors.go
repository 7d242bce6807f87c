package stored

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"packhold/backends"
)

// What the error about an object matches. Storage problems pass through with the sentinels of backends and io/fs.
var (
	ErrStorage  = errors.New("the storage fails")
	ErrDamaged  = errors.New("damaged")
	ErrTampered = errors.New("tampering suspected")
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

// Damaged wraps err so that it matches ErrDamaged.
func Damaged(op, object string, err error) error {
	return &Error{Op: op, Object: object, Err: fmt.Errorf("%w: %w", ErrDamaged, err)}
}

// Tampered wraps err so that it matches ErrTampered.
func Tampered(op, object string, err error) error {
	return &Error{Op: op, Object: object, Err: fmt.Errorf("%w: %w", ErrTampered, err)}
}

// Failed names the object of a storage failure. One that says nothing more exact of itself matches ErrStorage.
func Failed(op, object string, err error) error {
	if err == nil {
		return nil
	}
	exact := false
	for _, is := range []error{backends.ErrNoSpace, backends.ErrGone, backends.ErrUnsupported, backends.ErrClock, fs.ErrPermission, fs.ErrNotExist, fs.ErrExist, context.Canceled} {
		exact = exact || errors.Is(err, is)
	}
	if !exact {
		err = fmt.Errorf("%w: %w", ErrStorage, err)
	}
	return &Error{Op: op, Object: object, Err: err}
}

// Missing reports an authenticated "does not exist". No other error is ever taken for one.
func Missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// Exists reports whether err says that an exclusive create lost.
func Exists(err error) bool { return errors.Is(err, fs.ErrExist) }

// Unreadable reports that the disk cannot read a sector of an object. Who only reads goes on without that object, as without a damaged one; who
// would remove something because of what an object does not say must not.
func Unreadable(err error) bool { return errors.Is(err, syscall.EIO) }

// Isolated reports whether err concerns one object alone, which is left out and reported: nothing else is ever skipped.
func Isolated(err error) bool { return errors.Is(err, ErrDamaged) || errors.Is(err, ErrTampered) }
