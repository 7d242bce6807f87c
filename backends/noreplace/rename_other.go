//go:build !linux

package noreplace

import (
	"errors"
	"os"
)

func rename(*os.Root, string, string) error { return errors.ErrUnsupported }
