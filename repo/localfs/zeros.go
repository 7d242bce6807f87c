package localfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"packhold/repo/snapshot"
)

// NotZero returns the index of the first byte that is not 0, or -1.
func NotZero(b []byte) int {
	var zeros [4096]byte
	for at := 0; at < len(b); at += len(zeros) {
		part := b[at:min(at+len(zeros), len(b))]
		if bytes.Equal(part, zeros[:len(part)]) {
			continue
		}
		for i, c := range part {
			if c != 0 {
				return at + i
			}
		}
	}
	return -1
}

// ZeroBlock is the unit of ZeroRun: what file systems allocate at least.
const ZeroBlock = 4096

// ZeroRun finds how many of the first bytes of b, which belong at an offset of a file, are whole blocks of zeros, or none such.
func ZeroRun(b []byte, off int64) (n int, zero bool) {
	for n < len(b) {
		end := min(n+ZeroBlock-int(off+int64(n))%ZeroBlock, len(b))
		z := end-n == ZeroBlock && NotZero(b[n:end]) < 0
		if n > 0 && z != zero {
			break
		}
		n, zero = end, z
	}
	return n, zero
}

// Clear makes a range of an open file a hole where the file system has holes, and writes zeros where not. A file that ends in the range may
// keep its size.
func Clear(f *os.File, off, n int64) error {
	err := Punch(f, off, n)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		part := min(n, int64(len(zeros)))
		if _, err := f.WriteAt(zeros[:part], off); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// Stored reports whether an open file stores bytes from off up to end, and whether all of them are zeros. Holes are not read.
func Stored(ctx context.Context, f *os.File, off, end int64) (stored, zero bool, err error) {
	var n snapshot.Node
	if _, err := StatFile(f, &n); err != nil {
		return false, false, err
	}
	var buf []byte
	for end = min(end, int64(n.Size)); off < end; {
		from, to, err := NextData(f, off, end)
		if err != nil {
			return false, false, err
		}
		for from < to {
			if err := ctx.Err(); err != nil {
				return false, false, err
			}
			if buf == nil {
				buf = make([]byte, min(1<<20, end-from))
			}
			k, err := f.ReadAt(buf[:min(to-from, int64(len(buf)))], from)
			stored = stored || k > 0
			if NotZero(buf[:k]) >= 0 {
				return true, false, nil
			}
			if err != nil && err != io.EOF {
				return false, false, err
			}
			if k == 0 {
				break
			}
			from += int64(k)
		}
		off = max(to, off+1)
	}
	return stored, true, nil
}

// Within finds out whether path, or what of it exists, is or lies below one of dirs: by identity, so that other names of them count. It
// returns that directory, "" for none. Directories that do not exist hold nothing.
func Within(path string, dirs []string) (string, error) {
	at, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for { // what exists of it
		real, err := filepath.EvalSymlinks(at)
		if err == nil {
			at = real
			break
		}
		up := filepath.Dir(at)
		if !errors.Is(err, fs.ErrNotExist) || up == at {
			return "", err
		}
		if _, lerr := os.Lstat(at); lerr == nil { // a dangling link: mkdir would not follow it
			return "", err
		}
		at = up
	}
	var deny []fs.FileInfo
	for _, d := range dirs {
		info, err := os.Stat(d)
		if err == nil {
			deny = append(deny, info)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	for {
		info, err := os.Stat(at)
		if err != nil {
			return "", err
		}
		for i := range deny {
			if os.SameFile(info, deny[i]) {
				return at, nil
			}
		}
		up := filepath.Dir(at)
		if up == at {
			return "", nil
		}
		at = up
	}
}
