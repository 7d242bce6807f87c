package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"packhold/backends"
	"packhold/backends/noreplace"
)

// ops are the steps that change the disk. They are fields so that tests can record their order and make each one fail.
// Names are relative to root.
type ops struct {
	create   func(root *os.Root, name string) (*os.File, error) // exclusively, for writing
	write    func(f *os.File, data []byte) error
	chmod    func(f *os.File) error // to fileMode
	syncFile func(f *os.File) error
	link     func(root *os.Root, from, to string) error // fs.ErrExist if to exists; from may stay
	rename   func(root *os.Root, from, to string) error // replaces to
	mkdir    func(root *os.Root, name string) error
	syncDir  func(d *os.File) error // the entries of a directory
	remove   func(root *os.Root, name string) error
	keep     func(f *os.File, until time.Time) error // writes the date into it
	setFlag  func(f *os.File, on bool) error         // the immutable flag
}

func systemOps(noSync bool) ops {
	o := ops{
		create: func(root *os.Root, name string) (*os.File, error) {
			// os.Root adds O_NOFOLLOW.
			return root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, tempMode)
		},
		write: func(f *os.File, data []byte) error {
			_, err := f.Write(data)
			return err
		},
		chmod:    protect,
		syncFile: (*os.File).Sync,
		link:     exclusive,
		rename:   (*os.Root).Rename,
		mkdir:    func(root *os.Root, name string) error { return root.Mkdir(name, dirMode) },
		syncDir:  syncDir,
		remove:   (*os.Root).Remove,
		keep:     keepOwn,
		setFlag:  setFlag,
	}
	if noSync {
		o.syncFile = func(*os.File) error { return nil }
		o.syncDir = func(*os.File) error { return nil }
	}
	return o
}

// keepOwn writes the date into a file that may have its mode already, which is a temporary one's for that moment where this user has to.
func keepOwn(f *os.File, until time.Time) error {
	err := setKept(f, until)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err := f.Chmod(tempMode); err != nil {
		return err
	}
	return errors.Join(setKept(f, until), protect(f))
}

// exclusive gives from the name to, unless that is taken, with link(2), or where the file system has no hard links with
// a rename that refuses.
func exclusive(root *os.Root, from, to string) error {
	err := root.Link(from, to)
	// link(2): EPERM if the file system has no hard links. from is our own file, so it is not the protection of others'.
	if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return withoutLinks(root, from, to, err)
}

func withoutLinks(root *os.Root, from, to string, linkErr error) error {
	err := noreplace.Rename(root, from, to)
	if errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("creating exclusively: %w: %w", backends.ErrUnsupported, linkErr)
	}
	return err
}
