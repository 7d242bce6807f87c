package index

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync/atomic"
	"unsafe"
)

const (
	pageSize  = 64 << 10 // bytes read at once where the file is not mapped
	pageSlots = 256      // pages kept, 16 MiB
)

var errFault = errors.New("the file was cut or cannot be read")

// source reads the cache file: through a memory map where the system gives one, otherwise with ReadAt and a small page cache.
// It may be used concurrently. What it returns is unchecked: other programs may change the file at any moment.
type source struct {
	file  *os.File
	size  int64
	data  []byte // the map, or nil
	pages [pageSlots]atomic.Pointer[page]

	asked atomic.Int64 // questions to a map, about
	ahead atomic.Bool  // that all of it is read was asked of the system
}

// Questions go all over the map. Read ahead of each, as systems do by default, a large file in little memory is read again and again: 8 MiB for
// every question, 600 GB for a million of them. So each reads its page alone; but once the pages cost as much as the whole file read
// through, at aheadPer bytes a question, the system is asked to do that.
const (
	aheadPer = 64 << 10
	sampled  = 256 // one of so many questions is counted, so that workers do not wait for each other
)

// sample counts a question to the map, of so many that came.
func (s *source) sample() {
	if s.asked.Add(sampled)*aheadPer > s.size && s.data != nil && s.ahead.CompareAndSwap(false, true) {
		readAhead(s.file, s.size)
	}
}

// readThrough fills dst from off past the map, for who reads from one end to the other.
func (s *source) readThrough(dst []byte, off int64) error {
	if _, err := s.file.ReadAt(dst, off); err != nil {
		return errFault
	}
	return nil
}

type page struct {
	number int64
	data   []byte
}

// newSource takes over f.
func newSource(f *os.File, mapped bool) (*source, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s := &source{file: f, size: info.Size()}
	if mapped && s.size > 0 && int64(int(s.size)) == s.size {
		if data, err := mapFile(f, int(s.size)); err == nil {
			s.data = data
		}
	}
	return s, nil
}

func (s *source) close() error {
	var err error
	if s.data != nil {
		err = unmapFile(s.data)
		s.data = nil
	}
	return errors.Join(err, s.file.Close())
}

// view returns n bytes from off: a part of the map, or of buf, which holds at least n bytes.
// The caller must have deferred guard.
func (s *source) view(off int64, n int, buf []byte) ([]byte, error) {
	if off < 0 || off > s.size-int64(n) {
		return nil, fmt.Errorf("%d bytes from %d: behind the end", n, off)
	}
	if s.data != nil {
		return s.data[off : off+int64(n) : off+int64(n)], nil
	}
	buf = buf[:n]
	for done := 0; done < n; {
		p, err := s.page((off + int64(done)) / pageSize)
		if err != nil {
			return nil, err
		}
		from := int((off + int64(done)) % pageSize)
		if from >= len(p) {
			return nil, errFault
		}
		done += copy(buf[done:], p[from:])
	}
	return buf, nil
}

// read fills dst from off. The caller must have deferred guard.
func (s *source) read(dst []byte, off int64) error {
	b, err := s.view(off, len(dst), dst)
	copy(dst, b)
	return err
}

func (s *source) page(number int64) ([]byte, error) {
	slot := &s.pages[number%pageSlots]
	if p := slot.Load(); p != nil && p.number == number {
		return p.data, nil
	}
	data := make([]byte, pageSize)
	n, err := s.file.ReadAt(data, number*pageSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slot.Store(&page{number, data[:n]})
	return data[:n], nil
}

// guard is deferred, with the result of debug.SetPanicOnFault(true), around everything that touches the map. It turns a fault
// there, which is what a reader of a file that another program truncates gets (SIGBUS), into an error. Every other panic goes on.
func (s *source) guard(old bool, err *error) {
	debug.SetPanicOnFault(old)
	if s.data == nil {
		return
	}
	r := recover()
	if r == nil {
		return
	}
	if f, ok := r.(interface{ Addr() uintptr }); ok {
		if start := uintptr(unsafe.Pointer(&s.data[0])); f.Addr()-start < uintptr(len(s.data)) {
			*err = errFault
			return
		}
	}
	panic(r)
}
