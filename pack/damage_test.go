package pack

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"packhold/crypt"
)

// TestDamagePatterns damages packs in every way that disks, cables and programs do it, several at once. What is within the parity comes back as it was, bit by bit; beyond it
// there is an error and never a file. PACKHOLD_SOAK makes it 100,000 patterns.
func TestDamagePatterns(t *testing.T) {
	patterns := 1000
	if os.Getenv("PACKHOLD_SOAK") != "" {
		patterns = 100_000
	}
	type kind struct {
		f *File
		m int
	}
	var kinds []kind
	for i, m := range []int{0, 1, 2, 4, 16} {
		for j, variant := range []uint8{ShardBLAKE3, ShardSHA256} {
			k := newKeys(t, crypt.TypeDataPack, variant)
			kinds = append(kinds, kind{build(t, k, k.options(1<<20, m), random(uint64(i), 20_000+70_000*j), random(uint64(j), 30_001)), m})
		}
	}
	const seed = 11
	r := rand.New(rand.NewPCG(seed, 1))
	var c Coder
	within, beyond := 0, 0
	for n := range patterns {
		k := kinds[n%len(kinds)]
		tr := k.f.Trailer
		file := bytes.Clone(k.f.Data)
		for range 1 + r.IntN(4) {
			at := r.IntN(len(file))
			end := min(at+1+r.IntN(3*tr.ShardSize), len(file))
			switch r.IntN(7) {
			case 0: // a bit
				file[at] ^= 1 << r.IntN(8)
			case 1: // an unreadable stretch, as it is given to the repair
				clear(file[at:end])
			case 2: // another stretch in its place
				copy(file[at:end], random(r.Uint64(), end-at))
			case 3: // a sector that was written in the wrong place
				from := r.IntN(len(file)/block) * block
				copy(file[at/block*block:], file[from:min(from+block, len(file))])
			case 4: // cut
				if end-at < len(file)-at && r.IntN(2) == 0 {
					file = file[:len(file)-(end-at)/2-1]
				}
			case 5: // grown
				file = append(file, random(r.Uint64(), r.IntN(5000)+1)...)
			case 6: // all bits of a stretch
				for i := at; i < end; i++ {
					file[i] ^= 0xff
				}
			}
			if len(file) < 2*block {
				break
			}
		}
		// The oracle compares bytes, where the scrub compares digests.
		bad := 0
		for i := range tr.Data + tr.Parity {
			off := tr.ShardOffset(i)
			if off+tr.ShardSize > len(file) || !bytes.Equal(file[off:off+tr.ShardSize], k.f.Data[off:off+tr.ShardSize]) {
				bad++
			}
		}
		for _, known := range []*Trailer{tr, nil} {
			got, err := c.Repair(file, k.f.Name, known)
			switch {
			case err == nil && bytes.Equal(got, k.f.Data) && bad <= k.m:
				within++
			case err == nil:
				t.Fatalf("seed %d, pattern %d: %d shards of parity %d are bad, and a false file comes out", seed, n, bad, k.m)
			case known == nil && errors.Is(err, ErrNoTrailer): // nothing is known of the pack
			case bad <= k.m || !errors.Is(err, ErrBeyondParity):
				t.Fatalf("seed %d, pattern %d: %d shards of parity %d are bad: %v", seed, n, bad, k.m, err)
			default:
				beyond++
			}
		}
	}
	if within < patterns/4 || beyond < patterns/4 {
		t.Errorf("%d repairs, %d refusals", within, beyond)
	}
	t.Logf("%d patterns: %d repairs, all exact; %d refusals, all right", patterns, within, beyond)
}
