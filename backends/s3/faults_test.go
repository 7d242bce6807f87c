package s3_test

import (
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/backends/retry"
	"packhold/backends/s3"
)

// soon is how a Store is wrapped where a test has no time to wait.
var soon = retry.Options{First: 5 * time.Millisecond, Most: 100 * time.Millisecond, GiveUp: 30 * time.Second}

// TestFaults has real lines to a real server fail.
func TestFaults(t *testing.T) {
	backendtest.Faults(t, backendtest.Server{Addr: sharedServer(t).addr, Open: func(t *testing.T, addr, place string) backends.Storage {
		o := options(addr)
		o.Bucket, o.Stall = place, backendtest.Stall
		o.Abilities = &s3.Abilities{Conditional: true}
		return retry.New(open(t, o), soon)
	}})
}
