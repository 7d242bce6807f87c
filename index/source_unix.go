//go:build unix

package index

import (
	"os"

	"golang.org/x/sys/unix"
)

func openFile(path string) (*os.File, error) { return os.Open(path) }

func mapFile(f *os.File, size int) ([]byte, error) {
	return unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
}

func unmapFile(data []byte) error { return unix.Munmap(data) }
