package backendtest

import (
	"os"
	"testing"
)

// Lacks says what the machine has not that a test needs. The test is skipped, or fails where the variable CI says that nothing may be missing: one that
// does not run proves nothing.
func Lacks(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI is set, and "+format, args...)
	}
	t.Skipf(format, args...)
}
