//go:build !unix && !windows

package index

import (
	"errors"
	"os"
)

func openFile(path string) (*os.File, error) { return os.Open(path) }

func mapFile(*os.File, int) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmapFile([]byte) error { return nil }
