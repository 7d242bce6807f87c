//go:build !linux && !darwin && !freebsd

package serve

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// supported: without flock(2) nothing could keep a file that has its name from being written through a handle opened before.
const supported = false

const openFlags = os.O_RDONLY

type inode struct{}

func flock(*os.File) error              { return errors.ErrUnsupported }
func links(fs.FileInfo) (inode, uint64) { return inode{}, 1 }
func space(*os.File) (room, error)      { return room{}, errors.ErrUnsupported }

// Stdio is not supported on this system: the error matches errors.ErrUnsupported.
func Stdio(_, _ *os.File) (io.ReadWriteCloser, error) { return nil, errors.ErrUnsupported }
