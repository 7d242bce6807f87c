package tests

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// lacks says what the machine has not that a test needs. The test is skipped, or fails where CI says that nothing may be missing: one that does not run
// proves nothing.
func lacks(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI is set, and "+format, args...)
	}
	t.Skipf(format, args...)
}

// lacksMount is lacks of a file system that err kept from being mounted. A kernel that does not know its kind skips the test even where CI is set: no set-up
// brings it.
func lacksMount(t *testing.T, kind string, err error) {
	t.Helper()
	if known, e := os.ReadFile("/proc/filesystems"); e == nil && !slices.Contains(strings.Fields(string(known)), kind) {
		t.Skipf("this kernel has no %s: %v", kind, err)
	}
	lacks(t, "cannot mount %s: %v", kind, err)
}

// needRoot asks for root: for devices, owners, mounts.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		lacks(t, "this is not run by root")
	}
}
