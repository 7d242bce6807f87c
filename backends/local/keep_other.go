//go:build !linux

package local

import (
	"errors"
	"os"
)

// Elsewhere files are kept by their date and mode.

func immutable(*os.File) (bool, error) { return false, nil }

func setFlag(*os.File, bool) error { return errors.ErrUnsupported }
