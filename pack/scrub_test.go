package pack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"packhold/crypt"
)

// small is a pack of about 20 KiB with one parity shard, in two blobs.
func small(t testing.TB, variant uint8) (keys, *File) {
	k := newKeys(t, crypt.TypeDataPack, variant)
	return k, build(t, k, k.options(1<<20, 1), mixed(1, 1500), random(2, 700))
}

func TestEveryBitFlipIsReported(t *testing.T) {
	_, f := small(t, ShardBLAKE3)
	var wg sync.WaitGroup
	const parts = 4
	for p := range parts {
		wg.Go(func() {
			file := bytes.Clone(f.Data)
			lo, hi := len(file)*p/parts, len(file)*(p+1)/parts
			for i := lo; i < hi; i++ {
				for bit := range 8 {
					if raceEnabled && bit != i%8 {
						continue // one bit of each byte: the race detector makes it ten times slower
					}
					file[i] ^= 1 << bit
					r, err := Verify(file, f.Name, nil)
					if err != nil || r.OK() || r.Trailer == nil || !r.Mendable() {
						t.Errorf("byte %d bit %d: %+v, %v", i, bit, r, err)
						return
					}
					// Exactly the part that was hit is named.
					bad := len(r.Bad)
					for _, ok := range r.Trailers {
						if !ok {
							bad++
						}
					}
					if bad != 1 {
						t.Errorf("byte %d bit %d: %d parts fail", i, bit, bad)
						return
					}
					if len(r.Bad) == 1 {
						if off, n := r.Range(r.Bad[0]); int64(i) < off || int64(i) >= off+n {
							t.Errorf("byte %d: shard %d at %d is named", i, r.Bad[0], off)
							return
						}
					}
					file[i] ^= 1 << bit
				}
			}
		})
	}
	wg.Wait()
}

func TestEveryTruncationAndExtensionIsReported(t *testing.T) {
	_, f := small(t, ShardSHA256)
	for n := range len(f.Data) {
		if n%block > 40 && n%block < block-40 && n%7 != 0 {
			continue
		}
		r, err := Verify(f.Data[:n], f.Name, nil)
		if err != nil || r.OK() {
			t.Fatalf("cut to %d: %+v, %v", n, r, err)
		}
		if first := f.Trailer.TrailerOffsets()[0] + f.Trailer.size(); (r.Trailer != nil) != (n >= first) {
			t.Fatalf("cut to %d: trailer known %v", n, r.Trailer != nil)
		}
	}
	for _, extra := range [][]byte{{0}, make([]byte, block), make([]byte, 100_000), random(1, 5000), f.Data} {
		long := append(bytes.Clone(f.Data), extra...)
		r, err := Verify(long, f.Name, nil)
		if err != nil || r.OK() || r.Trailer == nil || len(r.Bad) != 0 {
			t.Fatalf("%d bytes more: %+v, %v", len(extra), r, err)
		}
		mended, err := new(Coder).Repair(long, f.Name, nil)
		if err != nil || !bytes.Equal(mended, f.Data) {
			t.Fatalf("%d bytes more: %v", len(extra), err)
		}
	}
	for _, file := range [][]byte{nil, {1}, make([]byte, 20000)} {
		if r, err := Verify(file, f.Name, nil); err != nil || r.OK() || r.Mendable() {
			t.Errorf("%d bytes: %+v, %v", len(file), r, err)
		}
		if _, err := new(Coder).Repair(file, f.Name, nil); !errors.Is(err, ErrNoTrailer) {
			t.Errorf("%d bytes: %v", len(file), err)
		}
	}
}

func TestOtherName(t *testing.T) {
	_, f := small(t, ShardBLAKE3)
	_, g := small(t, ShardBLAKE3) // other nonces, so another pack
	if f.Name == g.Name {
		t.Fatal("two packs with one name")
	}
	if r, err := Verify(f.Data, g.Name, nil); err != nil || r.OK() || r.Trailer != nil {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Verify(f.Data, g.Name, f.Trailer); err == nil {
		t.Error("a trailer of another pack was taken")
	}
	r, err := Verify(f.Data, g.Name, g.Trailer)
	if err != nil || r.OK() || r.Mendable() || len(r.Bad) < 3 || r.Trailers != [2]bool{} {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := new(Coder).Repair(f.Data, g.Name, g.Trailer); !errors.Is(err, ErrBeyondParity) {
		t.Error(err)
	}
}

// shardsHit is the oracle: the shards that a damaged range touches.
func shardsHit(tr *Trailer, off, n int) (hit []int) {
	for i := range tr.Data + tr.Parity {
		if s := tr.ShardOffset(i); s < off+n && off < s+tr.ShardSize {
			hit = append(hit, i)
		}
	}
	return hit
}

func TestRepairShards(t *testing.T) {
	for _, m := range []int{0, 1, 2, 5, 16} {
		t.Run(fmt.Sprint(m), func(t *testing.T) {
			k := newKeys(t, crypt.TypeTreePack, ShardBLAKE3)
			f := build(t, k, k.options(1<<20, m), random(1, 70_000), random(2, 30_001))
			n := f.Trailer.Data + f.Trailer.Parity
			seed := uint64(m + 1)
			r := rand.New(rand.NewPCG(seed, 2))
			var c Coder
			for round := range 60 {
				bad := r.Perm(n)[:min(n, 1+round%(m+3))]
				slices.Sort(bad)
				file := bytes.Clone(f.Data)
				for _, i := range bad {
					off := f.Trailer.ShardOffset(i)
					s := file[off : off+f.Trailer.ShardSize]
					switch r.IntN(3) {
					case 0:
						s[r.IntN(len(s))] ^= 1 << r.IntN(8)
					case 1:
						clear(s)
						s[0] = 1 // a shard that was all zeros is damaged too
					case 2:
						copy(s, random(r.Uint64(), len(s)))
					}
				}
				rep, err := Verify(file, f.Name, nil)
				if err != nil || !slices.Equal(rep.Bad, bad) {
					t.Fatalf("seed %d: shards %v damaged, %v reported, %v", seed, bad, rep.Bad, err)
				}
				mended, err := c.Repair(file, f.Name, nil)
				if len(bad) <= m {
					if err != nil || !bytes.Equal(mended, f.Data) {
						t.Fatalf("seed %d: shards %v of %d: %v", seed, bad, n, err)
					}
				} else if !errors.Is(err, ErrBeyondParity) || mended != nil {
					t.Fatalf("seed %d: %d bad shards, parity %d: %v", seed, len(bad), m, err)
				}
			}
		})
	}
}

// A burst of up to m-1 shards and a byte, wherever it starts, hits at most m shards; one shorter than the parity never
// hits both trailers. Cutting the file is a burst at its end.
func TestRepairBursts(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	const m = 4
	f := build(t, k, k.options(1<<20, m), random(1, 200_000))
	tr, c := f.Trailer, new(Coder)
	length := (m-1)*tr.ShardSize + 1
	step := tr.ShardSize/2 - 1
	for off := -length + 1; off < len(f.Data); off += step {
		lo, hi := max(off, 0), min(off+length, len(f.Data))
		file := bytes.Clone(f.Data)
		for i := lo; i < hi; i++ {
			file[i] ^= 0xff
		}
		rep, err := Verify(file, f.Name, nil)
		if err != nil || !slices.Equal(rep.Bad, shardsHit(tr, lo, hi-lo)) {
			t.Fatalf("burst at %d: %v, %v", off, rep.Bad, err)
		}
		if mended, err := c.Repair(file, f.Name, nil); err != nil || !bytes.Equal(mended, f.Data) {
			t.Fatalf("burst at %d: %v", off, err)
		}
	}
	burst := m*tr.ShardSize - 1
	for off := 0; off+burst <= len(f.Data); off += step {
		file := bytes.Clone(f.Data)
		clear(file[off : off+burst])
		rep, err := Verify(file, f.Name, nil)
		if err != nil || rep.Trailer == nil || !slices.Equal(rep.Bad, shardsHit(tr, off, burst)) {
			t.Fatalf("burst at %d: %v, %v", off, rep.Bad, err)
		}
		if _, err := c.Repair(file, f.Name, nil); (err == nil) != (len(rep.Bad) <= m) {
			t.Fatalf("burst at %d: %d shards, %v", off, len(rep.Bad), err)
		}
	}
	for _, cut := range []int{1, tr.size(), tr.size() + 1, tr.size() + tr.ShardSize, tr.size() + m*tr.ShardSize} {
		if mended, err := c.Repair(f.Data[:len(f.Data)-cut], f.Name, nil); err != nil || !bytes.Equal(mended, f.Data) {
			t.Errorf("%d bytes cut: %v", cut, err)
		}
	}
}

// The index carries a Trailer's fields; from these the pack is mended that lost both copies.
func TestRepairBothTrailersLost(t *testing.T) {
	for _, variant := range []uint8{ShardBLAKE3, ShardSHA256} {
		k := newKeys(t, crypt.TypeDataPack, variant)
		f := build(t, k, k.options(1<<20, 3), random(1, 300_000))
		tr := f.Trailer
		file := bytes.Clone(f.Data)
		for _, off := range tr.TrailerOffsets() {
			clear(file[off : off+tr.size()])
		}
		file[tr.ShardOffset(5)] ^= 1
		file[tr.ShardOffset(tr.Data+1)] ^= 1
		if _, err := new(Coder).Repair(file, f.Name, nil); !errors.Is(err, ErrNoTrailer) {
			t.Errorf("without trailer: %v", err)
		}
		known := &Trailer{Header: tr.Header, Data: tr.Data, Parity: tr.Parity, ShardSize: tr.ShardSize,
			TableSalt: tr.TableSalt, TableSize: tr.TableSize, Digests: slices.Clone(tr.Digests)}
		mended, err := new(Coder).Repair(file, f.Name, known)
		if err != nil || !bytes.Equal(mended, f.Data) {
			t.Errorf("with trailer: %v", err)
		}
		known.Digests[5] = tr.digest(file[tr.ShardOffset(5) : tr.ShardOffset(5)+tr.ShardSize])
		if _, err := new(Coder).Repair(file, f.Name, known); err == nil {
			t.Error("mended with a trailer that is not this pack's")
		}
		known.Digests = nil
		if _, err := new(Coder).Repair(file, f.Name, known); err == nil {
			t.Error("mended with a trailer that is none")
		}
	}
}

// readerAt counts, and fails where told.
type readerAt struct {
	data    []byte
	largest int
	fail    int64 // reads that reach this offset fail
}

var errDisk = errors.New("disk on fire")

func (r *readerAt) ReadAt(p []byte, off int64) (int, error) {
	r.largest = max(r.largest, len(p))
	if r.fail >= 0 && off <= r.fail && r.fail < off+int64(len(p)) {
		return int(r.fail - off), errDisk
	}
	return bytes.NewReader(r.data).ReadAt(p, off)
}

func TestScrubIsVerify(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	f := build(t, k, k.options(4<<20, 2), random(1, 3_000_000))
	for name, change := range map[string]func([]byte) []byte{
		"whole":    func(b []byte) []byte { return b },
		"flipped":  func(b []byte) []byte { b[77777] ^= 1; return b },
		"cut":      func(b []byte) []byte { return b[:len(b)-5] },
		"longer":   func(b []byte) []byte { return append(b, 1, 2, 3) },
		"one end":  func(b []byte) []byte { b[len(b)-1] = 1; return b },
		"only end": func(b []byte) []byte { clear(b[:len(b)-f.Trailer.size()]); return b },
		"empty":    func(b []byte) []byte { return nil },
	} {
		file := change(bytes.Clone(f.Data))
		want, err := Verify(file, f.Name, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := &readerAt{data: file, fail: -1}
		got, err := Scrub(r, int64(len(file)), f.Name, nil)
		if err != nil || !slices.Equal(got.Bad, want.Bad) || got.Trailers != want.Trailers || got.Size != want.Size || got.OK() != want.OK() || (got.Trailer == nil) != (want.Trailer == nil) {
			t.Errorf("%s: %+v, want %+v, %v", name, got, want, err)
		}
		if got.OK() != (name == "whole") {
			t.Errorf("%s: OK is %v", name, got.OK())
		}
		if name == "whole" && r.largest > f.Trailer.ShardSize {
			t.Errorf("read %d bytes at once, a shard has %d", r.largest, f.Trailer.ShardSize)
		}
	}
	// Shorter than the storage said.
	if r, err := Scrub(bytes.NewReader(f.Data[:1_000_000]), int64(len(f.Data)), f.Name, f.Trailer); err != nil || r.OK() || len(r.Bad) == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, at := range []int64{0, 1_000_000, int64(f.Trailer.TrailerOffsets()[0]), int64(f.Trailer.ShardOffset(f.Trailer.Data)), int64(len(f.Data) - 1)} {
		if _, err := Scrub(&readerAt{data: f.Data, fail: at}, int64(len(f.Data)), f.Name, nil); !errors.Is(err, errDisk) {
			t.Errorf("read error at %d: %v", at, err)
		}
	}
	var _ io.ReaderAt = (*readerAt)(nil)
}

func BenchmarkVerify(b *testing.B) {
	for variant, name := range map[uint8]string{ShardBLAKE3: "BLAKE3", ShardSHA256: "SHA256"} {
		b.Run(name, func(b *testing.B) {
			_, f := filled(b, variant)
			b.SetBytes(int64(len(f.Data)))
			for b.Loop() {
				if r, err := Verify(f.Data, f.Name, nil); err != nil || !r.OK() {
					b.Fatal(err)
				}
			}
		})
	}
}

// filled is a pack of about 32 MiB in blobs of 1 MiB, with its open Builder's state.
func filled(b *testing.B, variant uint8) (*Builder, *File) {
	k := newKeys(b, crypt.TypeDataPack, variant)
	bl, err := NewBuilder(nil, k.options(0, 2))
	if err != nil {
		b.Fatal(err)
	}
	c := mustCodec(b, None)
	for i := range uint64(31) {
		if err := add(bl, c, random(i, 1<<20)); err != nil {
			b.Fatal(err)
		}
	}
	f, err := bl.Finish(new(Coder), k.sealer())
	if err != nil {
		b.Fatal(err)
	}
	return bl, f
}

func BenchmarkFinish(b *testing.B) {
	for variant, name := range map[uint8]string{ShardBLAKE3: "BLAKE3", ShardSHA256: "SHA256"} {
		b.Run(name, func(b *testing.B) {
			bl, f := filled(b, variant)
			k := newKeys(b, crypt.TypeDataPack, variant)
			var c Coder
			b.SetBytes(int64(len(f.Data)))
			for b.Loop() {
				if _, err := bl.finish(&c, k.sealer()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A chunk's whole way into packs, by one worker: compress, seal, check, and its share of finishing.
func BenchmarkAdd(b *testing.B) {
	for name, in := range map[string][]byte{"random": random(1, 1<<20), "program": program(b)} {
		b.Run(name, func(b *testing.B) {
			k := newKeys(b, crypt.TypeDataPack, ShardBLAKE3)
			buf := make([]byte, BufferSize(0, 2))
			var coder Coder
			c := mustCodec(b, Fastest)
			bl, _ := NewBuilder(buf, k.options(0, 2))
			b.SetBytes(int64(len(in)))
			var id crypt.ID
			for b.Loop() {
				data, how := c.Compress(in)
				for i := range id { // a new name each time; hashing is not measured here
					if id[i]++; id[i] != 0 {
						break
					}
				}
				blob := &Blob{ID: id, Plain: in, Data: data, Compression: how}
				err := bl.Add(c, blob)
				if errors.Is(err, ErrFull) {
					if _, err = bl.Finish(&coder, k.sealer()); err != nil {
						b.Fatal(err)
					}
					bl, _ = NewBuilder(buf, k.options(0, 2))
					err = bl.Add(c, blob)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
