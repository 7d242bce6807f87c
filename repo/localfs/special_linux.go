package localfs

import (
	"context"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Special is an open device or FIFO, whose bytes are read as a stream. It is used by one goroutine.
type Special struct {
	*File
	ctx context.Context
}

// OpenSpecial opens a block or character device, or a FIFO, for its bytes. With follow name may be a symbolic link to one. Everything else is
// ErrNotRegular. Nothing is waited for; reading waits, until ctx ends.
func (d *Dir) OpenSpecial(ctx context.Context, name string, follow bool) (*Special, error) {
	flags := unix.O_NOFOLLOW | unix.O_NOCTTY
	if follow {
		flags = unix.O_NOCTTY
	}
	f, err := d.openFile(name, flags, IsSpecial)
	if err != nil {
		return nil, err
	}
	return &Special{f, ctx}, nil
}

// pollMillis is how long the end of a context may go unnoticed while a device or FIFO has no bytes.
const pollMillis = 200

// Read waits for bytes. A FIFO ends when it had a writer and has none any more.
func (s *Special) Read(p []byte) (int, error) {
	for {
		if err := s.ctx.Err(); err != nil {
			return 0, err
		}
		// Opened without waiting, a FIFO without writers would read as ended although none came yet. poll(2) tells the two apart.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, pollMillis)
		if err == nil && n > 0 {
			n, err = unix.Read(s.fd, p)
			if err == nil && n == 0 && len(p) > 0 {
				return 0, io.EOF
			}
			if err == nil {
				return n, nil
			}
		}
		if err != nil && err != unix.EINTR && err != unix.EAGAIN {
			return 0, &fs.PathError{Op: "reading", Path: s.name, Err: err}
		}
	}
}

// Synthetic tells whether the kernel makes up what is below the directory while it is read, as in /proc and /sys: nothing there is stored, sizes
// are wrong, and reading some of the files does things or never ends.
func (d *Dir) Synthetic() bool {
	var st unix.Statfs_t
	if unix.Fstatfs(d.fd, &st) != nil {
		return false
	}
	switch uint32(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC,
		unix.SECURITYFS_MAGIC, unix.SELINUX_MAGIC, unix.SMACK_MAGIC, unix.BPF_FS_MAGIC, unix.BINFMTFS_MAGIC,
		0x62656570, // configfs
		0x65735543, // fusectl
		0x67596969, // rpc_pipefs
		0x6e667364, // nfsd
		0x19800202: // mqueue
		return true
	}
	return false
}
