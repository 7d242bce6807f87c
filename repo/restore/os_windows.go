package restore

import (
	"errors"

	"golang.org/x/sys/windows"
)

// isFull reports that the destination, or a quota on it, has no space left.
func isFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}
