//go:build !windows

package localfs

import (
	"errors"
	"syscall"
)

// NoSpace reports that an error says that a file system, or a quota on it, has no space left.
func NoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
