package pack

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"packhold/crypt"

	"github.com/klauspost/compress/zstd"
)

func TestParseLevel(t *testing.T) {
	for s, want := range map[string]Level{"none": None, "auto": Fastest, "fastest": Fastest, "default": Default, "better": Better, "best": Best} {
		if l, err := ParseLevel(s); err != nil || l != want {
			t.Errorf("%s: %v, %v", s, l, err)
		}
	}
	for _, s := range []string{"", "Best", "zstd", "1"} {
		if _, err := ParseLevel(s); err == nil {
			t.Errorf("%q accepted", s)
		}
	}
	if Fastest.compression() != crypt.ZstdFastest || Best.compression() != crypt.ZstdBest {
		t.Error("levels and stored compressions differ")
	}
	if _, err := NewCodec(Best + 1); err == nil {
		t.Error("unknown level accepted")
	}
}

// The blob key rests on this: the same plaintext gives the same data, whatever the encoder did before.
func TestCompressIsDeterministic(t *testing.T) {
	inputs := [][]byte{mixed(1, 50), mixed(2, 3000), mixed(3, 200_000), bytes.Repeat([]byte{7}, 300_000), mixed(4, 600_000), []byte("a"), mixed(5, 129)}
	for l := Fastest; l <= Best; l++ {
		if l == Best && raceEnabled {
			continue // clearing its tables takes seconds then
		}
		used := mustCodec(t, l)
		for _, in := range [][]byte{inputs[3], inputs[1], inputs[2]} {
			used.Compress(in)
		}
		for i, in := range inputs {
			a, how := used.Compress(in)
			a = bytes.Clone(a)
			b, how2 := mustCodec(t, l).Compress(in)
			if how != how2 || !bytes.Equal(a, b) {
				t.Errorf("level %d, input %d: a used encoder gives other bytes than a fresh one", l, i)
			}
			if how != crypt.Uncompressed && how != l.compression() {
				t.Errorf("level %d says %d", l, how)
			}
			if how == crypt.Uncompressed != (len(a) == len(in)) {
				t.Errorf("level %d, input %d: %d of %d bytes as %d", l, i, len(a), len(in), how)
			}
			plain, err := used.Decompress(nil, b, how, uint32(len(in)))
			if err != nil || !bytes.Equal(plain, in) {
				t.Errorf("level %d, input %d: %v", l, i, err)
			}
		}
	}
}

func TestCompressOnlyWhereItPays(t *testing.T) {
	c := mustCodec(t, Fastest)
	for name, in := range map[string][]byte{"random": random(1, 1<<20), "short": []byte("abc"), "random 4K": random(2, 4096), "barely": append(random(3, 60000), bytes.Repeat([]byte{1}, 1000)...)} {
		if data, how := c.Compress(in); how != crypt.Uncompressed || &data[0] != &in[0] {
			t.Errorf("%s: compressed to %d of %d", name, len(data), len(in))
		}
	}
	if data, how := c.Compress(nil); len(data) != 0 || how != crypt.Uncompressed {
		t.Error("nothing was compressed")
	}
	if _, how := mustCodec(t, None).Compress(make([]byte, 1000)); how != crypt.Uncompressed {
		t.Error("compressed at level none")
	}
	// Random in front, zeros behind, and the other way round: no sample may decide for the whole.
	for _, in := range [][]byte{append(random(4, 600<<10), make([]byte, 400<<10)...), append(make([]byte, 140<<10), random(5, 800<<10)...)} {
		if _, how := c.Compress(in); how == crypt.Uncompressed {
			t.Error("half a blob of zeros was not compressed")
		}
	}
}

func TestDecompressIsBounded(t *testing.T) {
	enc := func(o ...zstd.EOption) *zstd.Encoder {
		e, err := zstd.NewWriter(nil, append(o, zstd.WithEncoderConcurrency(1))...)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	bomb := enc().EncodeAll(make([]byte, 64<<20), nil)
	var stream bytes.Buffer // no content size in its frame
	w := enc(zstd.WithWindowSize(32 << 20))
	w.Reset(&stream)
	if _, err := w.Write(make([]byte, 20<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	small := enc().EncodeAll(make([]byte, 1000), nil)
	twice := append(bytes.Clone(small), small...)
	c := mustCodec(t, None)
	for name, x := range map[string]struct {
		data []byte
		how  crypt.Compression
		raw  uint32
	}{
		"bomb":           {bomb, crypt.ZstdFastest, 1000},
		"bomb, 16M":      {bomb, crypt.ZstdFastest, MaxRaw},
		"stream":         {stream.Bytes(), crypt.ZstdFastest, 1000},
		"stream, 16M":    {stream.Bytes(), crypt.ZstdFastest, MaxRaw},
		"one less":       {small, crypt.ZstdFastest, 999},
		"one more":       {small, crypt.ZstdFastest, 1001},
		"two frames":     {twice, crypt.ZstdFastest, 1000},
		"over the limit": {small, crypt.ZstdFastest, MaxRaw + 1},
		"raw 0":          {small, crypt.ZstdFastest, 0},
		"no frame":       {nil, crypt.ZstdFastest, 5},
		"cut":            {small[:len(small)-1], crypt.ZstdFastest, 1000},
		"unknown":        {small, crypt.ZstdBest + 1, 1000},
		"uncompressed":   {small, crypt.Uncompressed, uint32(len(small)) + 1},
	} {
		dst := []byte("before")
		if out, err := c.Decompress(dst, x.data, x.how, x.raw); err == nil || string(out) != "before" {
			t.Errorf("%s: %d bytes, %v", name, len(out), err)
		}
		if n := testing.AllocsPerRun(1, func() { c.Decompress(dst, x.data, x.how, x.raw) }); n > 100 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if out, err := c.Decompress([]byte("before"), small, crypt.ZstdBetter, 1000); err != nil || len(out) != 1006 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func TestCheck(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	c := mustCodec(t, Fastest)
	for _, plain := range [][]byte{mixed(1, 300_000), random(2, 300_000)} {
		data, how := c.Compress(plain)
		info := crypt.BlobInfo{ID: crypt.Sum(plain), Raw: uint32(len(plain)), Compression: how}
		sealed, err := k.pack.Seal(nil, info, data)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(k.pack, info, sealed, plain); err != nil {
			t.Fatal(err)
		}
		other := bytes.Clone(plain)
		other[len(other)-1] ^= 1
		if err := c.Check(k.pack, info, sealed, other); !errors.Is(err, ErrSelfCheck) {
			t.Errorf("other plaintext: %v", err)
		}
		sealed[len(sealed)/2] ^= 1
		if err := c.Check(k.pack, info, sealed, plain); !errors.Is(err, crypt.ErrOpen) {
			t.Errorf("changed bytes: %v", err)
		}
		if n := testing.AllocsPerRun(5, func() { c.Check(k.pack, info, sealed, plain) }); n > 40 {
			t.Errorf("%v allocations", n)
		}
	}
}

func FuzzDecompress(f *testing.F) {
	c := mustCodec(f, Fastest)
	for _, in := range [][]byte{mixed(1, 50), mixed(2, 3000), bytes.Repeat([]byte{7}, 5000)} {
		data, how := c.Compress(in)
		f.Add(bytes.Clone(data), uint8(how), uint32(len(in)))
	}
	f.Fuzz(func(t *testing.T, data []byte, how uint8, raw uint32) {
		out, err := c.Decompress(nil, data, crypt.Compression(how), raw)
		if err == nil && len(out) != int(raw) || err != nil && len(out) != 0 {
			t.Fatalf("%d bytes for %d, %v", len(out), raw, err)
		}
	})
}

// program is the first MiB of this test's own program, which is there on every machine.
func program(b *testing.B) []byte {
	name, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	p, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	return p[:1<<20]
}

func BenchmarkCompress(b *testing.B) {
	for name, in := range map[string][]byte{"random": random(1, 1<<20), "program": program(b)} {
		b.Run(name, func(b *testing.B) {
			c := mustCodec(b, Fastest)
			b.SetBytes(int64(len(in)))
			var n int
			for b.Loop() {
				data, _ := c.Compress(in)
				n = len(data)
			}
			b.ReportMetric(100*float64(n)/float64(len(in)), "%size")
		})
	}
}

// What a worker does with a chunk after hashing, against sealing alone.
func BenchmarkSealAndCheck(b *testing.B) {
	for name, in := range map[string][]byte{"random": random(1, 1<<20), "program": program(b)} {
		k := newKeys(b, crypt.TypeDataPack, ShardBLAKE3)
		c := mustCodec(b, Fastest)
		data, how := c.Compress(in)
		data = bytes.Clone(data)
		info := crypt.BlobInfo{ID: crypt.Sum(in), Raw: uint32(len(in)), Compression: how}
		dst := make([]byte, 0, len(data)+crypt.Overhead)
		for _, check := range []bool{false, true} {
			b.Run(name+map[bool]string{false: "/seal", true: "/seal+check"}[check], func(b *testing.B) {
				b.SetBytes(int64(len(in)))
				for b.Loop() {
					sealed, err := k.pack.Seal(dst, info, data)
					if err != nil {
						b.Fatal(err)
					}
					if check {
						if err := c.Check(k.pack, info, sealed, in); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}
