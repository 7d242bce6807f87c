package backends

import (
	"context"
	"errors"
	"syscall"
)

// Steps of reading a file with bad sectors, bytes: where the wider one fails, the finer one loses a sector alone.
const (
	wideStep = 256 << 10
	fineStep = 4 << 10
)

// GetBroken reads the first size bytes of a file. Sectors that the disk cannot read (EIO) come as zeros, and bad counts their bytes; more than
// limit of them, or any other error, is the storage's and ends it.
func GetBroken(ctx context.Context, s Storage, name string, size, limit int64) (file []byte, bad int64, err error) {
	file, err = s.Get(ctx, name, 0, size)
	if err == nil || !errors.Is(err, syscall.EIO) {
		return file, 0, err
	}
	file = make([]byte, size)
	for off, step := int64(0), int64(wideStep); off < size; {
		n := min(step, size-off)
		b, err := s.Get(ctx, name, off, n)
		switch {
		case err == nil:
			copy(file[off:], b)
		case !errors.Is(err, syscall.EIO):
			return nil, bad, err
		case step == wideStep:
			step = fineStep
			continue
		default:
			if bad += n; bad > limit {
				return nil, bad, err
			}
		}
		if off += n; off%wideStep == 0 {
			step = wideStep
		}
	}
	return file, bad, nil
}
