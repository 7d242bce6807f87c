package localfs

import (
	"io"
	"os"

	"golang.org/x/sys/windows"
)

// TryLock takes the lock of an open file, and reports false if another process or open file has it. It lasts until f is closed or the process
// ends: so it tells who is alive.
func TryLock(f *os.File) (bool, error) {
	// A byte that no file reaches: locks forbid reading and writing here.
	at := &windows.Overlapped{OffsetHigh: 1 << 30}
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, at)
	if err == windows.ERROR_LOCK_VIOLATION || err == windows.ERROR_IO_PENDING {
		return false, nil
	}
	return err == nil, err
}

// Duplicate does nothing here: what is open cannot be removed by others.
func Duplicate(f *os.File) (io.Closer, error) { return io.NopCloser(nil), nil }
