//go:build !linux

package localfs

import (
	"errors"
	"os"

	"packhold/repo/snapshot"
)

// RenameNew is not supported here: its error is errors.ErrUnsupported.
func (d *DestDir) RenameNew(oldName, newName string) error { return errors.ErrUnsupported }

// StatFile is Dir.Stat of an open file.
func StatFile(f *os.File, n *snapshot.Node) (Stat, error) {
	info, err := f.Stat()
	if err != nil {
		return Stat{}, err
	}
	return statNode(info, info.Name(), n)
}

// Punch is not supported here: its error is errors.ErrUnsupported.
func Punch(f *os.File, off, n int64) error { return errors.ErrUnsupported }

// Reserve is not supported here: its error is errors.ErrUnsupported.
func Reserve(f *os.File, off, n int64) error { return errors.ErrUnsupported }

// NextData finds the first stretch of stored bytes at or after off. Here everything is data.
func NextData(f *os.File, off, size int64) (start, end int64, err error) {
	return min(off, size), size, nil
}

// Self is Lstat of the directory itself.
func (d *DestDir) Self(n *snapshot.Node) (Stat, error) {
	info, err := d.root.Lstat(d.path)
	if err != nil {
		return Stat{}, err
	}
	return statNode(info, info.Name(), n)
}

// OpenRead opens an existing regular file for reading. Everything else is ErrNotRegular.
func (d *DestDir) OpenRead(name string) (*os.File, error) {
	if err := checkName("opening file", name); err != nil {
		return nil, err
	}
	return openSame(d.root, d.at(name), os.O_RDONLY, snapshot.File)
}
