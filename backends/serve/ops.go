package serve

import (
	"errors"
	"os"
	"syscall"

	"packhold/backends/noreplace"
)

const (
	dirMode = 0o700

	// fileMode is that of temporary files, too: the handle that creates one can write whatever its mode says, and nobody else shall.
	fileMode = 0o400
)

// ops are the steps that change the disk or need what not all file systems have. They are fields so that tests can record their order and make each one
// fail. Names are relative to root.
type ops struct {
	lock     func(f *os.File) error                                        // until f is closed; EWOULDBLOCK if another process has it
	create   func(root *os.Root, name string, flags int) (*os.File, error) // exclusively
	write    func(f *os.File, data []byte, off int64) error
	truncate func(f *os.File, size int64) error
	syncFile func(f *os.File) error
	link     func(root *os.Root, from, to string) error // fs.ErrExist if to exists
	rename   func(root *os.Root, from, to string) error // fs.ErrExist if to exists
	replace  func(root *os.Root, from, to string) error
	mkdir    func(root *os.Root, name string) error
	syncDir  func(root *os.Root, name string) error
	remove   func(root *os.Root, name string) error
}

func systemOps() ops {
	return ops{
		lock: flock,
		create: func(root *os.Root, name string, flags int) (*os.File, error) {
			return root.OpenFile(name, flags|os.O_CREATE|os.O_EXCL, fileMode)
		},
		write: func(f *os.File, data []byte, off int64) error {
			_, err := f.WriteAt(data, off)
			return err
		},
		truncate: (*os.File).Truncate,
		syncFile: (*os.File).Sync,
		link:     (*os.Root).Link,
		rename:   renameExclusive,
		replace:  (*os.Root).Rename,
		mkdir:    func(root *os.Root, name string) error { return root.Mkdir(name, dirMode) },
		syncDir:  syncDir,
		remove:   (*os.Root).Remove,
	}
}

// renameExclusive renames from to to unless that exists. A crash may leave both names where the system has no rename that refuses.
func renameExclusive(root *os.Root, from, to string) error {
	err := noreplace.Rename(root, from, to)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := root.Link(from, to); err != nil {
		return err
	}
	return root.Remove(from)
}

func syncDir(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil // EINVAL and the like: what file systems say that have no way to synchronize a directory, some FUSE and SMB ones
}
