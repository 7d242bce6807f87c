package localfs

import (
	"io/fs"
	"os"
	"runtime"
	"syscall"
	"time"

	"packhold/repo/snapshot"
)

const (
	ownersSupported = false
	openNonBlock    = 0
)

func sysStat(info fs.FileInfo, n *snapshot.Node, st *Stat) {
	a, ok := info.Sys().(*syscall.Win32FileAttributeData)
	if !ok {
		return
	}
	n.BTime = timeOf(a.CreationTime)
	st.ATime = timeOf(a.LastAccessTime)
	st.Attributes = uint64(a.FileAttributes)
}

func timeOf(t syscall.Filetime) snapshot.Time {
	v := time.Unix(0, t.Nanoseconds())
	return snapshot.Time{Sec: v.Unix(), Nsec: uint32(v.Nanosecond())}
}

// linkTimes does nothing: times of links are not kept here.
func (d *DestDir) linkTimes(string, *snapshot.Node) error { return nil }

func openFileTimes(f *os.File, atime, mtime time.Time) error {
	defer runtime.KeepAlive(f)
	for _, t := range []time.Time{atime, mtime} {
		if !time.Unix(0, t.UnixNano()).Equal(t) { // before 1678 or after 2262
			return syscall.ERANGE
		}
	}
	a, m := syscall.NsecToFiletime(atime.UnixNano()), syscall.NsecToFiletime(mtime.UnixNano())
	return syscall.SetFileTime(syscall.Handle(f.Fd()), nil, &a, &m)
}
