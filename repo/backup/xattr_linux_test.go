package backup_test

import "golang.org/x/sys/unix"

func setXAttr(path, name string, value []byte) error { return unix.Setxattr(path, name, value, 0) }
