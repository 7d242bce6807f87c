package backendtest

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Mount mounts a file system that needs no device, such as tmpfs, at dir, which it makes, until the test ends. A kernel that does not know the kind
// skips the test even where CI is set: no set-up brings it.
func Mount(t testing.TB, kind, dir, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", dir, kind, 0, options); err != nil {
		LacksMount(t, kind, err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// LacksMount is Lacks of a file system that err kept from being mounted.
func LacksMount(t testing.TB, kind string, err error) {
	t.Helper()
	if known, e := os.ReadFile("/proc/filesystems"); e == nil && !slices.Contains(strings.Fields(string(known)), kind) {
		t.Skipf("this kernel has no %s: %v", kind, err)
	}
	Lacks(t, "cannot mount %s: %v", kind, err)
}
