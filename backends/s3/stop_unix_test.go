//go:build unix

package s3_test

import (
	"syscall"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/s3"
)

// A server whose process stands still, and later goes on.
func TestStopped(t *testing.T) {
	t.Parallel()
	server := own(t)
	o := options(server.addr)
	o.Abilities = &s3.Abilities{Conditional: true}
	patient := open(t, o)
	o.Stall = 400 * time.Millisecond
	hasty := open(t, o)
	if err := patient.Put(t.Context(), "d/a", []byte("a"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*s3.Store{patient, hasty} { // or its first listing is of when it was opened
		if _, err := listed(t, s, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	hangs(t, patient, hasty)
	if err := server.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*s3.Store{patient, hasty} {
		works(t, s)
	}
}
