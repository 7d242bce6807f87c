//go:build unix

package backup_test

import (
	"io/fs"
	"syscall"
)

func sameDevice(a, b fs.FileInfo) bool {
	return a.Sys().(*syscall.Stat_t).Dev == b.Sys().(*syscall.Stat_t).Dev
}
