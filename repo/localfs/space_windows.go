package localfs

import (
	"errors"

	"golang.org/x/sys/windows"
)

// NoSpace reports that an error says that a file system, or a quota on it, has no space left.
func NoSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}
