//go:build darwin || freebsd

package localfs

import (
	"io/fs"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"packhold/repo/snapshot"
)

const (
	ownersSupported = true
	openNonBlock    = syscall.O_NONBLOCK // a FIFO that took the place of a file must not be waited for
)

func sysStat(info fs.FileInfo, n *snapshot.Node, st *Stat) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	n.UID, n.GID = s.Uid, s.Gid
	n.Inode = s.Ino
	n.Links = uint32(s.Nlink)
	n.CTime = timeOf(s.Ctimespec)
	n.BTime = timeOf(s.Birthtimespec)
	if n.Type == snapshot.CharDevice || n.Type == snapshot.BlockDevice {
		n.Rdev = uint64(unix.Major(uint64(s.Rdev)))<<32 | uint64(unix.Minor(uint64(s.Rdev)))
	}
	st.Dev = uint64(s.Dev)
	st.Blocks = uint64(s.Blocks)
	st.Attributes = uint64(s.Flags)
	st.ATime = timeOf(s.Atimespec)
}

func timeOf(t syscall.Timespec) snapshot.Time {
	return snapshot.Time{Sec: int64(t.Sec), Nsec: uint32(t.Nsec)}
}

// linkTimes sets the times of an entry itself, if it is a symbolic link too.
func (d *DestDir) linkTimes(name string, n *snapshot.Node) error {
	dir, err := d.root.Open(d.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	atime := n.ATime
	if atime == (snapshot.Time{}) {
		atime = n.MTime
	}
	var ts [2]unix.Timespec
	for i, t := range []snapshot.Time{atime, n.MTime} {
		if ts[i], err = unix.TimeToTimespec(time.Unix(t.Sec, int64(t.Nsec))); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(int(dir.Fd()), name, ts[:], unix.AT_SYMLINK_NOFOLLOW)
}

// openFileTimes sets times to the microsecond: futimens(2) is not in the library.
func openFileTimes(f *os.File, atime, mtime time.Time) error {
	defer runtime.KeepAlive(f)
	var tv [2]unix.Timeval
	for i, t := range []time.Time{atime, mtime} {
		if !time.Unix(0, t.UnixNano()).Equal(t) { // before 1678 or after 2262
			return unix.ERANGE
		}
		tv[i] = unix.NsecToTimeval(t.UnixNano())
	}
	return unix.Futimes(int(f.Fd()), tv[:])
}
