//go:build linux || darwin || freebsd

package serve

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const supported = true

// openFlags keeps the opening of a named pipe that took a file's place from blocking. Regular files ignore it.
const openFlags = os.O_RDONLY | syscall.O_NONBLOCK | syscall.O_NOFOLLOW

func flock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// inode identifies a file that has several names.
type inode struct{ dev, ino uint64 }

// links returns a file's identity and the number of its names.
func links(info fs.FileInfo) (inode, uint64) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, 1
	}
	return inode{uint64(s.Dev), uint64(s.Ino)}, uint64(s.Nlink)
}

// space describes the file system of d.
func space(d *os.File) (room, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &s); err != nil {
		return room{}, os.NewSyscallError("statfs", err)
	}
	const readOnly = 1 // MNT_RDONLY and ST_RDONLY alike
	return room{
		block: uint64(s.Bsize), blocks: s.Blocks, free: s.Bfree, available: uint64(max(s.Bavail, 0)),
		files: s.Files, freeFiles: uint64(max(s.Ffree, 0)), readOnly: s.Flags&readOnly != 0,
	}, nil
}

// Stdio makes a connection for Run of standard input and output, or other pipes or sockets, whose Close ends a Read and a Write that wait. It works on
// duplicates: in and out stay open, and must not be used meanwhile.
func Stdio(in, out *os.File) (io.ReadWriteCloser, error) {
	from, err := pollable(in)
	if err != nil {
		return nil, err
	}
	to, err := pollable(out)
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	return stdio{from, to}, nil
}

func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// stdio is a connection of two files.
type stdio struct{ in, out *os.File }

func (c stdio) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c stdio) Write(b []byte) (int, error) { return c.out.Write(b) }
func (c stdio) Close() error                { return errors.Join(c.in.Close(), c.out.Close()) }
