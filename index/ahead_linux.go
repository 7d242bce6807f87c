package index

import (
	"os"

	"golang.org/x/sys/unix"
)

// readAhead asks the system to read a file. It saves time only.
func readAhead(f *os.File, size int64) { _ = unix.Fadvise(int(f.Fd()), 0, size, unix.FADV_WILLNEED) }
