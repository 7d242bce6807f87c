// Package chunk cuts a byte stream into content-defined chunks.
//
// A [Rule], made from [Params] and a secret, says where to cut; a [Cutter] applies it to bytes in memory; a [Splitter]
// applies it to a stream, and takes long runs of zeros out of it first. Where a file is cut is a function of its
// bytes, the parameters and the secret, of nothing else: not of read sizes, buffers or timing. The rules are part of the
// repository format (FORMAT.md, "Chunks"; vectors in testdata/vectors.json): a changed cut makes every later backup
// store everything again.
package chunk

import (
	"fmt"
	"math/bits"
)

// The cut rules, as [Params.Rule] names them.
const (
	Gear  = "gear"  // keyed gear hash, the default
	Rabin = "rabin" // Rabin fingerprints as restic cuts them (github.com/restic/chunker), polynomial from the secret
)

// Limits of [Params.Validate], in bytes.
const (
	LowestMin  = 4 << 10  // below it the index would outweigh the data
	HighestMax = 16 << 20 // the largest blob a repository may hold
)

// Limits of the average that [ParamsFor] accepts, in bytes.
const (
	LowestAvg  = 64 << 10
	HighestAvg = 4 << 20
)

const (
	defaultAvg = 448 << 10
	defaultMax = 8 << 20 // reached only by repetitive data; it bounds the buffers
)

// Params are a cut rule and its sizes in bytes. They are stored in a repository's config and never change.
type Params struct {
	Rule string // Gear or Rabin
	Min  int    // no chunk is shorter, except before a zero extent and at the end
	Avg  int    // mean length of chunks on random data
	Max  int    // no chunk is longer
}

// DefaultParams returns the parameters of a new repository: gear, 336 KiB, 448 KiB, 8 MiB.
//
// They were measured on a pair of 4 GiB disk images (the second has 0.05 % of its 4 KiB blocks rewritten and three
// inserts of 12,345 bytes), zero extents taken out, every chunk compressed by zstd fastest; stored for the first image
// plus for the second, MiB, with mean length of chunks, KiB; for keyed rules the mean of one to three keys:
//
//	gear  min 256 + 128   1017 +  92 = 1109   409
//	gear  min 320 + 128   1019 + 104 = 1123   471
//	gear  min 336 + 112   1022 + 101 = 1122   467   the default
//	gear  min 384 +  96   1020 + 104 = 1125   493
//	gear  min 384 + 128   1021 + 112 = 1132   532
//	gear  min 512 +  64   1030 + 116 = 1146   579
//	gear  min 512 + 128   1022 + 132 = 1154   655
//	gear  min 256 + 256   1018 + 135 = 1153   549
//	FastCDC, two masks: min 256, 20 bits to 512, then 16    1024 + 111 = 1134   541
//	FastCDC, two masks: min 256, 19 bits to 512, then 17    1019 + 119 = 1138   561
//	FastCDC, two masks: min 384, 20 bits to 640, then 16    1033 + 139 = 1172   667
//	Rabin min 512, 20 bits (restic's sizes)                 1025 + 219 = 1243   761
//
// What is stored follows the mean length whatever the rule, as long as the lengths are close together: Min at 3/4 of
// the average. So the average was chosen to leave room for parity within 1,150 MiB (restic: 1,185), and no lower, as
// each chunk costs about 130 bytes of tables and index.
func DefaultParams() Params {
	return Params{Rule: Gear, Min: defaultAvg / 4 * 3, Avg: defaultAvg, Max: defaultMax}
}

// ParamsFor returns the parameters of a rule for an average chunk length in bytes, from [LowestAvg] to [HighestAvg].
// ParamsFor(Gear, DefaultParams().Avg) is DefaultParams().
//
// Gear has Min = 3/4 Avg. Rabin, whose cut condition counts bits, has the Min nearest below that for which
// Avg - Min is a power of two. Max is 16 times the least power of two that is not below the average, at most 8 MiB.
func ParamsFor(rule string, avg int) (Params, error) {
	if avg < LowestAvg || avg > HighestAvg {
		return Params{}, fmt.Errorf("choosing chunk sizes: an average of %d bytes is outside %d..%d", avg, LowestAvg, HighestAvg)
	}
	p := Params{Rule: rule, Min: avg - avg/4, Avg: avg, Max: min(16<<bits.Len(uint(avg-1)), defaultMax)}
	if rule == Rabin {
		p.Min = avg - 1<<bits.Len(uint(avg-1)/4)
	}
	return p, p.Validate()
}

// Validate reports whether p can be used: a known rule, LowestMin <= Min < Avg <= Max <= HighestMax, Avg - Min at least
// 1 KiB and, for Rabin, a power of two.
func (p Params) Validate() error {
	span := p.Avg - p.Min
	switch {
	case p.Rule != Gear && p.Rule != Rabin:
		return fmt.Errorf("checking chunk parameters: unknown rule %q, known are %q and %q", p.Rule, Gear, Rabin)
	case p.Min < LowestMin || p.Max > HighestMax:
		return fmt.Errorf("checking chunk parameters: sizes %d..%d are outside %d..%d", p.Min, p.Max, LowestMin, HighestMax)
	case p.Avg < p.Min || span < 1<<10 || p.Max < p.Avg:
		return fmt.Errorf("checking chunk parameters: minimum %d, average %d, maximum %d: the average has to be at least 1024 above the minimum and not above the maximum", p.Min, p.Avg, p.Max)
	case p.Rule == Rabin && span&(span-1) != 0:
		return fmt.Errorf("checking chunk parameters: rule %q needs an average a power of two above the minimum, not %d", p.Rule, span)
	}
	return nil
}
