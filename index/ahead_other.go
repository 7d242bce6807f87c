//go:build !linux

package index

import "os"

// readAhead does nothing here: a file that is not in memory is read page by page.
func readAhead(*os.File, int64) {}
