package chunk

import (
	"bytes"
	"encoding/binary"
)

// Which zeros are zero extents, in bytes. Both are part of the format.
const (
	ZeroAlign = 4 << 10  // they begin and end at multiples of it in the file: the page of file systems and disk images
	ZeroMin   = 64 << 10 // and are at least this long; a shorter run costs less as chunk content than as an extent
)

var zeroPage [ZeroAlign]byte

func isZeroPage(p []byte) bool {
	// Most pages that are not zero differ in their first word; the comparison of the rest is the runtime's.
	return binary.LittleEndian.Uint64(p) == 0 && bytes.Equal(p[:ZeroAlign], zeroPage[:])
}

// zeroPrefix returns the length of the whole zero pages that data, which begins at a page, begins with.
func zeroPrefix(data []byte) int {
	n := 0
	for len(data)-n >= ZeroAlign && isZeroPage(data[n:]) {
		n += ZeroAlign
	}
	return n
}

// ZeroRun finds the first zero extent in data, whose first byte is byte off (>= 0) of its file.
//
// A page is the ZeroAlign bytes of a file from a multiple of ZeroAlign on; an incomplete one at the end is none. Every
// maximal run of pages with only zero bytes that is ZeroMin bytes or longer is one zero extent. All other bytes are
// content of chunks: a chunk ends where a zero extent begins, a new one starts where it ends, and nothing before a zero
// extent has any influence on cuts behind it.
//
// That is a property of the whole file, so ZeroRun tells what part of data decides: bytes data[:start] are in no
// zero extent, whatever follows; data[start:start+n] are zero pages, and
//   - n >= ZeroMin: they are a zero extent, and it goes on behind data if less than a page remains there;
//   - 0 < n < ZeroMin: less than a page remains, and what follows data decides (at the end of a file: no zero extent);
//   - n == 0: there is no such run, and less than a page of bytes after start waits for the rest of its page.
//
// Pages that are not wholly in data at its beginning count as content. To go on after more bytes came, call ZeroRun
// with the bytes from start on.
func ZeroRun(data []byte, off int64) (start, n int) {
	// The distance to the next page boundary; at least 0, and less than ZeroAlign.
	i := int(-off & (ZeroAlign - 1))
	if i > len(data) {
		return len(data), 0
	}
	for len(data)-i >= ZeroAlign {
		if !isZeroPage(data[i:]) {
			i += ZeroAlign
			continue
		}
		n := zeroPrefix(data[i:])
		if n >= ZeroMin || len(data)-i-n < ZeroAlign {
			return i, n
		}
		i += n
	}
	return i, 0
}
