//go:build !windows

package restore

import (
	"errors"
	"syscall"
)

// isFull reports that the destination, or a quota on it, has no space left.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
