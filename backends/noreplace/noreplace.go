// Package noreplace renames files where an existing target has to refuse.
package noreplace

import "os"

// Rename renames from to to, both relative to root, unless to exists: then the error matches fs.ErrExist. One that matches
// errors.ErrUnsupported changed nothing: the system or the file system has no such rename. Of the file systems without hard
// links vfat and exFAT have it. It may be called concurrently.
func Rename(root *os.Root, from, to string) error { return rename(root, from, to) }
