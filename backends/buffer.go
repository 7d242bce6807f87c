package backends

import (
	"math/bits"
	"sync"
)

// Fresh memory is dear: the system zeroes each page and maps it, the collector frees it, and both are done again for the next range. Reading 4 GiB
// in ranges of 4 MiB that way costs as much time as decrypting them. So drivers take what Get returns from here, and whoever reads much gives it back.
const (
	minKept  = 256 << 10 // smaller ones cost little to make
	maxKept  = 8 << 20   // larger ones are rare
	keptMost = 24 << 20  // bytes kept for later, all together
)

// kept holds the buffers that were given back, by the binary logarithm of their capacity.
var kept struct {
	sync.Mutex // guards what follows
	bytes      int
	by         [24][][]byte
}

// Buffer returns a slice of n bytes with any content, for a Get that fills it. It may be called concurrently.
func Buffer(n int64) []byte {
	if n < minKept || n > maxKept {
		return make([]byte, n)
	}
	class := bits.Len64(uint64(n - 1))
	kept.Lock()
	defer kept.Unlock()
	if l := kept.by[class]; len(l) > 0 {
		b := l[len(l)-1]
		kept.by[class] = l[:len(l)-1]
		kept.bytes -= cap(b)
		return b[:n]
	}
	return make([]byte, n, 1<<class)
}

// Release gives back what Get returned, or any other slice that nobody uses from now on, for a later Buffer. It need not be called: what
// is not given back is collected as ever. At most 24 MiB are kept. It may be called concurrently.
func Release(b []byte) {
	if cap(b) < minKept || cap(b) > maxKept || cap(b)&(cap(b)-1) != 0 {
		return
	}
	class := bits.Len64(uint64(cap(b) - 1))
	kept.Lock()
	defer kept.Unlock()
	if kept.bytes+cap(b) <= keptMost {
		kept.by[class] = append(kept.by[class], b[:0])
		kept.bytes += cap(b)
	}
}
