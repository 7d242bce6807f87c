package pack

import (
	"bytes"
	"errors"
	"fmt"

	"packhold/crypt"

	"github.com/klauspost/compress/zstd"
)

// Level says how hard a Codec tries to compress.
type Level uint8

// The levels, from none to the slowest.
const (
	None Level = iota
	Fastest
	Default
	Better
	Best
)

// ParseLevel reads a level's name: none, fastest, default, better, best; auto is fastest.
func ParseLevel(s string) (Level, error) {
	switch s {
	case "none":
		return None, nil
	case "auto", "fastest":
		return Fastest, nil
	case "default":
		return Default, nil
	case "better":
		return Better, nil
	case "best":
		return Best, nil
	}
	return 0, fmt.Errorf("compression %q is none of none, auto, fastest, default, better, best", s)
}

// compression is what a table says of a blob that was compressed at l.
func (l Level) compression() crypt.Compression { return crypt.Compression(l) }

// ErrSelfCheck is matched by the error for a blob whose sealed bytes do not open to what was given, even uncompressed.
// The bytes are not stored. It means faulty memory or a faulty processor.
var ErrSelfCheck = errors.New("self-check failed: sealed bytes do not open to what was given")

const (
	// window of the encoder. On a disk image and a system tree in chunks of about 1 MiB, 1, 2, 4 and 8 MiB give sizes
	// equal to 0.01 %, and an encoder at the fastest level takes 1.8, 2.8, 4.8 and 8.8 MiB; 2 leaves room for larger chunks.
	window = 2 << 20
	// minSample is the least length of which byte frequencies say anything. Counting 2 KiB takes 1 us, a vain try to compress them 7.
	minSample = 1 << 10
	// sampleSize at every sampleStep, of small blobs at every smallStep, is looked at: 4 KiB of every 128 KiB at some 40 GB/s of input.
	smallBlob  = 64 << 10
	smallStep  = 16 << 10
	sampleStep = 128 << 10
	sampleSize = 4 << 10
	// maxChi is where a sample's chi-square of byte frequencies stops to look random. For random bytes it is 255 with a
	// deviation of 23, so 512 is beyond chance; text and programs have tens of thousands.
	maxChi = 512
	// slack lets the decoder copy in whole words; what it writes there is cut off.
	slack = 64
)

// Codec compresses, decompresses and checks blobs. It holds an encoder, a decoder and two buffers that grow to the
// largest blob seen, and is made for one worker: calls must not overlap. The encoder takes about 3 MiB (4 at Default,
// 7 at Better, 37 at Best).
type Codec struct {
	level     Level
	encode    func(plain, dst []byte) []byte // made when first used; tests put a broken one here
	decoder   *zstd.Decoder
	out       []byte // compressed, and later opened, bytes
	plain     []byte // decompressed bytes
	fallbacks int
}

// NewCodec returns a Codec that compresses at the given level.
func NewCodec(level Level) (*Codec, error) {
	if level > Best {
		return nil, fmt.Errorf("making codec: unknown level %d", level)
	}
	return &Codec{level: level}, nil
}

// SetLevel changes how hard what follows is compressed, to a level that ParseLevel returns. A change costs the memory of a new encoder.
func (c *Codec) SetLevel(l Level) {
	if c.level != l {
		c.level, c.encode = l, nil
	}
}

// Fallbacks is how many blobs were stored uncompressed because their compressed form did not come back as it was:
// each is a bug of the encoder, or of the machine, that would have lost the blob.
func (c *Codec) Fallbacks() int { return c.fallbacks }

// Compress returns plain compressed, in memory of the Codec that stays as it is until it compresses, opens or checks
// again, or plain itself and Uncompressed where compression does not save a 32nd. The same plain always gives the same data: blob keys rest on it.
func (c *Codec) Compress(plain []byte) (data []byte, how crypt.Compression) {
	if c.level == None || len(plain) == 0 || len(plain) > MaxRaw || looksRandom(plain) {
		return plain, crypt.Uncompressed
	}
	data = c.tryEncode(plain)
	if len(data) == 0 || len(data) > len(plain)-len(plain)/32-1 {
		return plain, crypt.Uncompressed
	}
	return data, c.level.compression()
}

// tryEncode returns nil where the encoder breaks. The library panics on its own errors; those must not end a backup
// that can store the blob as it is.
func (c *Codec) tryEncode(plain []byte) (data []byte) {
	if c.encode == nil {
		levels := [...]zstd.EncoderLevel{Fastest: zstd.SpeedFastest, Default: zstd.SpeedDefault,
			Better: zstd.SpeedBetterCompression, Best: zstd.SpeedBestCompression}
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), // GCM is the checksum
			zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true), zstd.WithEncoderLevel(levels[c.level]),
			zstd.WithWindowSize(window), zstd.WithAllLitEntropyCompression(true)) // a thirtieth of the speed, and text without long matches shrinks
		if err != nil {
			panic("pack: zstd refuses constant options: " + err.Error())
		}
		c.encode = e.EncodeAll
	}
	defer func() {
		if recover() != nil {
			c.encode, data = nil, nil // a new encoder next time: this one's state is unknown
			c.fallbacks++
		}
	}()
	c.out = room(c.out, len(plain)+len(plain)/1024+slack)
	return c.encode(plain, c.out)
}

// looksRandom reports whether samples all over b have the byte frequencies of random bytes. It counts in integers,
// because its answer decides how a blob is stored and must be the same on every machine.
func looksRandom(b []byte) bool {
	if len(b) < minSample {
		return false
	}
	step, size := sampleStep, min(sampleSize, len(b))
	if len(b) <= smallBlob {
		step = smallStep
	}
	for off := 0; off+size <= len(b); off += step {
		var n [256]uint32
		for _, c := range b[off : off+size] {
			n[c]++
		}
		var squares uint32 // at most sampleSize^2
		for _, x := range n {
			squares += x * x
		}
		if chi := squares/uint32(size)*256 + squares%uint32(size)*256/uint32(size); chi-uint32(size) > maxChi {
			return false
		}
	}
	return true
}

// room returns an empty slice with a capacity of at least n, b's memory where that is enough.
func room(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, 0, (n+1<<18-1)&^(1<<18-1)) // in steps of 256 KiB, or growing chunks allocate each time
	}
	return b[:0]
}

// grow is room for what is appended to b: n bytes more.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	return append(room(nil, len(b)+n), b...)
}

// Decompress appends the raw bytes of plaintext that data holds to dst. It never writes more than a few bytes beyond
// raw, and refuses data that yields any other length. raw is at most MaxRaw.
func (c *Codec) Decompress(dst, data []byte, how crypt.Compression, raw uint32) ([]byte, error) {
	if raw == 0 || raw > MaxRaw {
		return dst, fmt.Errorf("decompressing blob: %d bytes, allowed are 1 to %d", raw, MaxRaw)
	}
	if how > crypt.ZstdBest {
		return dst, fmt.Errorf("decompressing blob: unknown compression %d", how)
	}
	if how == crypt.Uncompressed {
		if len(data) != int(raw) {
			return dst, fmt.Errorf("decompressing blob: %d bytes, want %d", len(data), raw)
		}
		return append(dst, data...), nil
	}
	if c.decoder == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxRaw+slack),
			zstd.WithDecoderMaxWindow(MaxRaw), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
		if err != nil {
			return dst, fmt.Errorf("decompressing blob: %w", err)
		}
		c.decoder = d
	}
	n := len(dst)
	dst = grow(dst, int(raw)+slack)
	out, err := c.decoder.DecodeAll(data, dst[:n:n+int(raw)+slack])
	if err != nil {
		return dst[:n], fmt.Errorf("decompressing blob: %w", err)
	}
	if len(out)-n != int(raw) {
		return dst[:n], fmt.Errorf("decompressing blob: %d bytes, want %d", len(out)-n, raw)
	}
	return out, nil
}

// Open appends the plaintext of a sealed blob to dst. It checks that the plaintext is the blob's: Sum(plain) == info.ID.
// A failure to open matches crypt.ErrOpen.
func (c *Codec) Open(dst []byte, key *crypt.PackKey, info crypt.BlobInfo, sealed []byte) ([]byte, error) {
	n := len(dst)
	e := Entry{ID: info.ID, Compression: info.Compression, Raw: info.Raw, Length: uint32(min(len(sealed), MaxFile))}
	if err := e.check(); err != nil {
		return dst, fmt.Errorf("opening blob: %w", err)
	}
	var out []byte
	var err error
	if info.Compression == crypt.Uncompressed {
		out, err = key.Open(dst, info, sealed)
	} else {
		var data []byte
		if data, err = c.opened(key, info, sealed); err == nil {
			out, err = c.Decompress(dst, data, info.Compression, info.Raw)
		}
	}
	if err != nil {
		return dst, err
	}
	if crypt.Sum(out[n:]) != info.ID {
		return dst, fmt.Errorf("opening blob %v: its plaintext has another hash", info.ID)
	}
	return out, nil
}

// opened returns the bytes that were sealed, in c.out.
func (c *Codec) opened(key *crypt.PackKey, info crypt.BlobInfo, sealed []byte) ([]byte, error) {
	c.out = room(c.out, len(sealed))
	return key.Open(c.out, info, sealed)
}

// Check opens and decompresses sealed and compares with plain. It is cheap right after sealing, while all is in the
// processor's cache, and ends the use of what Compress returned.
func (c *Codec) Check(key *crypt.PackKey, info crypt.BlobInfo, sealed, plain []byte) error {
	data, err := c.opened(key, info, sealed)
	if err != nil {
		return fmt.Errorf("checking blob %v: %w", info.ID, err)
	}
	if info.Compression != crypt.Uncompressed {
		c.plain = room(c.plain, int(min(info.Raw, MaxRaw))+slack)
		if data, err = c.Decompress(c.plain, data, info.Compression, info.Raw); err != nil {
			return fmt.Errorf("checking blob %v: %w", info.ID, err)
		}
	}
	if !bytes.Equal(data, plain) {
		return fmt.Errorf("checking blob %v: %w", info.ID, ErrSelfCheck)
	}
	return nil
}
