//go:build unix

package index

import (
	"os"

	"golang.org/x/sys/unix"
)

func openFile(path string) (*os.File, error) { return os.Open(path) }

func mapFile(f *os.File, size int) ([]byte, error) {
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err == nil {
		_ = unix.Madvise(data, unix.MADV_RANDOM) // it saves time only
	}
	return data, err
}

func unmapFile(data []byte) error { return unix.Munmap(data) }
