package localfs

import (
	"time"

	"golang.org/x/sys/unix"

	"packhold/repo/snapshot"
)

// timespec converts t. Nanoseconds beyond a second are refused, as the system takes two such numbers for "now" and
// "leave it"; seconds that the platform cannot hold (beyond 2038 on 32 bits) are ERANGE.
func timespec(t snapshot.Time) (unix.Timespec, error) {
	if t.Nsec >= 1e9 {
		return unix.Timespec{}, unix.EINVAL
	}
	return unix.TimeToTimespec(time.Unix(t.Sec, int64(t.Nsec)))
}
