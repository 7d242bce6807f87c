package chunk

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"pgregory.net/rapid"
)

var writeVectors = flag.Bool("write-vectors", false, "write testdata/vectors.json anew: for a new format only")

type vector struct {
	Name   string
	Params Params
	Secret string // hexadecimal
	Input  string
	Pieces []int // lengths; a zero extent is negative
}

const vectorInput = "24 MiB from SHA-256('packhold chunk vectors' | i as 8 bytes little-endian), i = 0, 1, ...; " +
	"zeroed: [5242880, +61440), [8388708, +204800), [24117248, +1048576); set to 0xff: [12582912, +9437184)"

func vectorBytes() []byte {
	const mib = 1 << 20
	b := counterBytes("packhold chunk vectors", 24*mib)
	clear(b[5*mib:][:60<<10])      // a page too short for a zero extent
	clear(b[8*mib+100:][:200<<10]) // not aligned
	clear(b[23*mib:])              // to the end
	copy(b[12*mib:21*mib], bytes.Repeat([]byte{0xff}, 9*mib))
	return b
}

func TestVectors(t *testing.T) {
	data := vectorBytes()
	const file = "testdata/vectors.json"
	if *writeVectors {
		var vs []vector
		small, _ := ParamsFor(Gear, 64<<10)
		rabin, _ := ParamsFor(Rabin, DefaultParams().Avg)
		for _, v := range []vector{{Name: "gear default", Params: DefaultParams()}, {Name: "gear 64 KiB", Params: small}, {Name: "rabin", Params: rabin}} {
			v.Secret, v.Input = hex.EncodeToString(testSecret[:]), vectorInput
			v.Pieces = newReference(t, v.Params, testSecret)(data, 0)
			vs = append(vs, v)
		}
		out, err := json.MarshalIndent(vs, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(out, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(in, &vs); err != nil {
		t.Fatal(err)
	}
	if len(vs) != 3 || vs[0].Params != DefaultParams() {
		t.Fatalf("%d vectors, the first for %+v", len(vs), vs[0].Params)
	}
	for _, v := range vs {
		secret, err := hex.DecodeString(v.Secret)
		if err != nil || len(secret) != 32 {
			t.Fatalf("%s: secret %q", v.Name, v.Secret)
		}
		rule, err := New(v.Params, [32]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		pool, err := NewPool(v.Params, 1)
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSplitter(rule, pool)
		if err != nil {
			t.Fatal(err)
		}
		if got := collect(t, s, bytes.NewReader(data), 0, data); !slices.Equal(got, v.Pieces) {
			t.Errorf("%s: pieces\n%v, want\n%v", v.Name, got, v.Pieces)
		}
	}
}

func TestParams(t *testing.T) {
	if p, err := ParamsFor(Gear, DefaultParams().Avg); err != nil || p != DefaultParams() {
		t.Errorf("gear at the default average: %+v, %v", p, err)
	}
	for _, rule := range []string{Gear, Rabin} {
		for _, avg := range []int{64 << 10, 64<<10 + 1, 100_000, 128<<10 - 1, 448 << 10, 1 << 20, 3_000_000, 4 << 20} {
			p, err := ParamsFor(rule, avg)
			if err != nil || p.Avg != avg || p.Min > avg-avg/4 || p.Min < avg/2-1 || p.Max < 2*avg || p.Max > 8<<20 {
				t.Errorf("%s %d: %+v, %v", rule, avg, p, err)
			}
		}
		for _, avg := range []int{-1, 0, 64<<10 - 1, 4<<20 + 1} {
			if p, err := ParamsFor(rule, avg); err == nil {
				t.Errorf("%s %d: %+v, no error", rule, avg, p)
			}
		}
	}
	if _, err := ParamsFor("buzhash", 1<<20); err == nil {
		t.Error("unknown rule: no error")
	}
	for _, p := range []Params{
		{},
		{"", 1 << 19, 1 << 20, 1 << 23},
		{Gear, LowestMin - 1, 1 << 20, 1 << 23},
		{Gear, 1 << 19, 1 << 20, HighestMax + 1},
		{Gear, 1 << 19, 1<<19 + 1023, 1 << 23},
		{Gear, 1 << 19, 1 << 18, 1 << 23},
		{Gear, 1 << 19, -1 << 31, 1 << 23},
		{Gear, 1 << 19, 1 << 20, 1<<20 - 1},
		{Rabin, 1 << 19, 1<<20 + 1, 1 << 23},
	} {
		if err := p.Validate(); err == nil {
			t.Errorf("%+v is valid", p)
		}
		if _, err := New(p, testSecret); err == nil {
			t.Errorf("New took %+v", p)
		}
		if _, err := NewPool(p, 1); err == nil {
			t.Errorf("NewPool took %+v", p)
		}
	}
	for _, n := range []int{-1, 0, 1025} {
		if _, err := NewPool(DefaultParams(), n); err == nil {
			t.Errorf("a pool of %d buffers", n)
		}
	}
	small := mustRule(t, Params{Gear, 4096, 8192, 16384})
	big, err := NewPool(DefaultParams(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSplitter(small, big); err != nil {
		t.Error(err)
	}
	if _, err := NewSplitter(mustRule(t, Params{Gear, 4096, 8192, HighestMax}), big); err == nil {
		t.Error("a splitter took buffers that are too small")
	}
}

// Inputs that have broken chunkers elsewhere: kopia #5451 (runs), borg #8963 and #6587 (zeros).
var classes = map[string]func(seed uint64, n int) []byte{
	"zeros":  func(_ uint64, n int) []byte { return make([]byte, n) },
	"0xff":   func(_ uint64, n int) []byte { return bytes.Repeat([]byte{0xff}, n) },
	"random": func(seed uint64, n int) []byte { return counterBytes(fmt.Sprint(seed), n) },
	"pattern": func(seed uint64, n int) []byte {
		return bytes.Repeat(counterBytes(fmt.Sprint(seed), window), n/window+1)[:n]
	},
	"text": func(seed uint64, n int) []byte {
		r := rand.New(rand.NewPCG(seed, 1))
		words := []string{"the ", "quick ", "brown ", "fox ", "jumps ", "over ", "a ", "lazy ", "dog.\n"}
		b := make([]byte, 0, n+8)
		for len(b) < n {
			b = append(b, words[r.IntN(len(words))]...)
		}
		return b[:n]
	},
}

var classNames = []string{"random", "zeros", "0xff", "pattern", "text"}

// Small sizes, so that short inputs meet every limit.
func smallParams(rule string) Params { return Params{rule, 4 << 10, 8 << 10, 24 << 10} }

// TestSplitEqualsReference: the pieces are those of the format text, however the stream is read and buffered.
func TestSplitEqualsReference(t *testing.T) {
	for _, rule := range []string{Gear, Rabin} {
		p := smallParams(rule)
		r, ref := mustRule(t, p), newReference(t, p, testSecret)
		lengths := []int{0, 1, p.Min, p.Max, 2 * p.Max, 3*p.Max + 1, window, ZeroAlign, ZeroMin, ZeroMin + ZeroAlign, 2 * ZeroMin, 200_000}
		rapid.Check(t, func(t *rapid.T) {
			var data []byte
			for range rapid.IntRange(1, 4).Draw(t, "parts") {
				n := max(0, rapid.SampledFrom(lengths).Draw(t, "length")+rapid.IntRange(-2, 2).Draw(t, "more"))
				class := rapid.SampledFrom(classNames).Draw(t, "class")
				data = append(data, classes[class](rapid.Uint64Max(9).Draw(t, "seed"), n)...)
			}
			off := rapid.SampledFrom([]int64{0, 0, 1, 4095, 4096, 1<<40 + 7}).Draw(t, "offset")
			pool := newPool(p.Max+leastSlack+rapid.SampledFrom([]int{0, 1, 4096, 100_000}).Draw(t, "slack"), 1)
			s, err := NewSplitter(r, pool)
			if err != nil {
				t.Fatal(err)
			}
			want := ref(data, off)
			for range 2 { // the second time from the middle of a used buffer
				rd := &raggedReader{rest: data, sizes: rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 63, 4096, 5000, 65536, 1 << 20}), 1, 4).Draw(t, "reads"), eofWithData: rapid.Bool().Draw(t, "eof")}
				if len(data) > 1<<14 {
					rd.sizes = append(rd.sizes, 50_000)
				}
				if got := collect(t, s, rd, off, data); !slices.Equal(got, want) {
					t.Fatalf("%s: pieces %v, want %v", rule, got, want)
				}
			}
			s.Close()
			if len(pool.free) != 1 {
				t.Fatal("the buffer did not come back")
			}
		})
	}
}

// raggedReader reads in the given sizes, again and again.
type raggedReader struct {
	rest        []byte
	sizes       []int
	calls       int
	eofWithData bool
}

func (r *raggedReader) Read(p []byte) (int, error) {
	n := r.sizes[r.calls%len(r.sizes)]
	if r.calls++; r.calls%50 == 0 {
		n = len(p) // sizes of 0 and 1 alone would take for ever
	}
	n = copy(p[:min(n, len(p))], r.rest)
	r.rest = r.rest[n:]
	if len(r.rest) == 0 && (r.eofWithData || n == 0) {
		return n, io.EOF
	}
	return n, nil
}

// TestLengths tries every class at every length around the limits.
func TestLengths(t *testing.T) {
	for _, rule := range []string{Gear, Rabin} {
		p := smallParams(rule)
		ref := newReference(t, p, testSecret)
		s, err := NewSplitter(mustRule(t, p), newPool(p.Max+leastSlack, 1))
		if err != nil {
			t.Fatal(err)
		}
		for class, make := range classes {
			for _, at := range []int{0, window, p.Min, 2 * p.Min, p.Max, 2 * p.Max, ZeroMin, 3*p.Max + 1} {
				for n := max(0, at-1); n <= at+1; n++ {
					data := make(1, n)
					got := collect(t, s, bytes.NewReader(data), 0, data)
					if want := ref(data, 0); !slices.Equal(got, want) {
						t.Errorf("%s, %s of %d: %v, want %v", rule, class, n, got, want)
					}
				}
			}
		}
	}
}

// TestCutRate: no kind of input makes more chunks than Min allows or larger ones than Max; random data has the average.
func TestCutRate(t *testing.T) {
	const size = 4 << 20
	for _, rule := range []string{Gear, Rabin} {
		p, err := ParamsFor(rule, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		for class, make := range classes {
			data := make(3, size)
			c, n := mustRule(t, p).Cutter(), 0
			for rest := data; len(rest) > 0; n++ {
				k := c.Next(rest, true)
				if k > p.Max || k < p.Min && k != len(rest) || k <= 0 {
					t.Fatalf("%s, %s: a chunk of %d", rule, class, k)
				}
				rest = rest[k:]
			}
			if avg := size / n; class == "random" && (avg < p.Avg*9/10 || avg > p.Avg*11/10) {
				t.Errorf("%s, %s: average %d, not about %d", rule, class, avg, p.Avg)
			}
		}
	}
}

// TestResynchronises: behind an insertion the old cuts come back.
func TestResynchronises(t *testing.T) {
	const size, at = 4 << 20, 100_000
	for _, rule := range []string{Gear, Rabin} {
		p, err := ParamsFor(rule, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		old := counterBytes("old", size)
		for _, n := range []int{1, 57, 4096, 100_000} {
			changed := slices.Concat(old[:at], counterBytes("inserted", n), old[at:])
			ends := func(data []byte, shift int) map[int]bool {
				m, c := map[int]bool{}, mustRule(t, p).Cutter()
				for pos := 0; pos < len(data); {
					pos += c.Next(data[pos:], true)
					if pos-shift > size/2 {
						m[pos-shift] = true
					}
				}
				return m
			}
			before, after := ends(old, 0), ends(changed, n)
			same := 0
			for e := range before {
				if after[e] {
					same++
				}
			}
			if same != len(before) || same != len(after) || same < 20 {
				t.Errorf("%s, %d bytes inserted: %d of %d cuts of the second half are there, among %d", rule, n, same, len(before), len(after))
			}
		}
	}
}

// TestSecretMatters: other secrets cut elsewhere.
func TestSecretMatters(t *testing.T) {
	data := counterBytes("data", 1<<20)
	for _, rule := range []string{Gear, Rabin} {
		p := smallParams(rule)
		if slices.Equal(newReference(t, p, [32]byte{1})(data, 0), newReference(t, p, [32]byte{2})(data, 0)) {
			t.Errorf("%s: two secrets, the same cuts", rule)
		}
	}
}

// TestCutterResumes: a chunk that comes byte by byte, and moves, is cut where it is cut whole; Reset forgets.
func TestCutterResumes(t *testing.T) {
	for _, rule := range []string{Gear, Rabin} {
		p := smallParams(rule)
		r := mustRule(t, p)
		data := counterBytes("resume", 8*p.Max)
		whole, parts := r.Cutter(), r.Cutter()
		for len(data) > p.Max {
			want := whole.Next(data, false)
			parts.Next(data[1:p.Min], false)
			parts.Reset()
			for n := 0; ; n++ {
				got := parts.Next(slices.Clone(data[:n:n]), false)
				if n < want && got != 0 || n == want && got != want {
					t.Fatalf("%s: %d bytes cut at %d, want %d", rule, n, got, want)
				}
				if n == want {
					break
				}
				if n > 10 && n < p.Min-window-20 || n > p.Min+10 && n < want-20 {
					n += 9
				}
			}
			data = data[want:]
		}
	}
}

// TestFirstPlace: the first length that may be cut is Min, decided by the 64 bytes before it.
func TestFirstPlace(t *testing.T) {
	p := smallParams(Gear)
	g := mustRule(t, p).gear
	var place []byte // 64 bytes that end a chunk, nothing in them does
	for i := 0; place == nil; i++ {
		b := counterBytes(fmt.Sprint("place", i), window)
		if n, _ := g.scan(b, 0); n == window {
			place = b
		}
	}
	filler := []byte("a")
	if n, _ := g.scan(bytes.Repeat(filler, 1000), 0); n != 0 {
		t.Fatal("the filler ends chunks")
	}
	for _, c := range []struct{ end, want int }{{p.Min - 1, p.Max}, {p.Min, p.Min}, {p.Min + 1, p.Min + 1}, {p.Max - 1, p.Max - 1}, {p.Max, p.Max}, {p.Max + 1, p.Max}} {
		data := bytes.Repeat(filler, 2*p.Max)
		copy(data[c.end-window:], place)
		if got := mustRule(t, p).Cutter().Next(data, true); got != c.want {
			t.Errorf("a place at %d: cut at %d, want %d", c.end, got, c.want)
		}
	}
}

// TestRabinFingerprint: a Rabin cut is where the 64 bytes before it, as a polynomial modulo the key's, end in zero bits.
func TestRabinFingerprint(t *testing.T) {
	p := smallParams(Rabin)
	pol := uint64(referencePolynomial(t, testSecret))
	ends := func(b []byte) bool {
		r := uint64(0)
		for _, x := range b {
			for i := 7; i >= 0; i-- {
				if r = r<<1 | uint64(x>>i&1); r>>53 != 0 {
					r ^= pol
				}
			}
		}
		return r&uint64(p.Avg-p.Min-1) == 0
	}
	data := counterBytes("fingerprint", 200_000)
	c := mustRule(t, p).Cutter()
	for cuts := 0; ; cuts++ {
		n := c.Next(data, false)
		if n == 0 {
			if cuts < 15 {
				t.Errorf("%d cuts only", cuts)
			}
			return
		}
		for i := p.Min; i <= n; i++ {
			if ends(data[i-window:i]) != (i == n) && n < p.Max {
				t.Fatalf("chunk of %d: place %d", n, i)
			}
		}
		data = data[n:]
	}
}

func TestGearLimit(t *testing.T) {
	for _, span := range []int{1 << 10, 1025, 100_000, 114_688, 1 << 17, 1<<20 - 1} {
		g, err := newGear(Params{Gear, LowestMin, LowestMin + span, HighestMax}, testSecret)
		if err != nil {
			t.Fatal(err)
		}
		want := new(big.Int).Lsh(big.NewInt(1), 64)
		if want.Div(want, big.NewInt(int64(span))); !want.IsUint64() || g.limit != want.Uint64() {
			t.Errorf("span %d: limit %d, want %v", span, g.limit, want)
		}
	}
}

func TestZeroRun(t *testing.T) {
	page := func(n int) []byte { return make([]byte, n*ZeroAlign) }
	x := []byte{1}
	for _, c := range []struct {
		name     string
		data     []byte
		off      int64
		start, n int
	}{
		{"empty", nil, 0, 0, 0},
		{"empty, unaligned", nil, 5, 0, 0},
		{"less than a page", page(1)[1:], 0, 0, 0},
		{"ends before a page begins", page(1)[:4], ZeroAlign - 5, 4, 0},
		{"no whole page", page(2)[2:], 1, ZeroAlign - 1, 0},
		{"a page", page(1), 0, 0, ZeroAlign},
		{"undecided", page(15), 0, 0, 15 * ZeroAlign},
		{"undecided, partial page", page(16)[1:], 0, 0, 15 * ZeroAlign},
		{"decided", page(16), 0, 0, 16 * ZeroAlign},
		{"too short", slices.Concat(page(15), x, page(1)[1:]), 0, 16 * ZeroAlign, 0},
		{"too short, then undecided", slices.Concat(page(15), x, page(3)[1:]), 0, 16 * ZeroAlign, 2 * ZeroAlign},
		{"maximal", slices.Concat(page(40), x, page(30)), 0, 0, 40 * ZeroAlign},
		{"last byte not zero", slices.Concat(page(1)[1:], x, page(20)), 0, ZeroAlign, 20 * ZeroAlign},
		{"aligned in the file", page(20), 1, ZeroAlign - 1, 19 * ZeroAlign},
		{"far away", page(20), 1<<50 - 3, 3, 19 * ZeroAlign},
	} {
		if start, n := ZeroRun(c.data, c.off); start != c.start || n != c.n {
			t.Errorf("%s: %d+%d, want %d+%d", c.name, start, n, c.start, c.n)
		}
	}
}

// TestConcurrentUse: splitters that share a pool, each with several users of its pieces, all get their bytes.
func TestConcurrentUse(t *testing.T) {
	p := smallParams(Gear)
	r := mustRule(t, p)
	for _, buffers := range []int{2, 3, 5} {
		pool := newPool(p.Max+leastSlack+1000, buffers)
		var wg sync.WaitGroup
		for i := range 2 {
			data := counterBytes(fmt.Sprint(i), 3<<20)
			s, err := NewSplitter(r, pool)
			if err != nil {
				t.Fatal(err)
			}
			type job struct {
				Piece
				want []byte
			}
			jobs := make(chan job, 2)
			wg.Go(func() {
				defer close(jobs)
				defer s.Close()
				for at := range 30 { // streams that begin anywhere
					rest := data[at*1000 : at*1000+100_000]
					s.Reset(iotest.HalfReader(bytes.NewReader(rest)), int64(at))
					for {
						piece, err := s.Next(t.Context())
						if err == io.EOF {
							break
						}
						if err != nil {
							t.Error(err)
							return
						}
						jobs <- job{piece, rest[:piece.Len()]}
						rest = rest[piece.Len():]
					}
				}
			})
			for range 2 {
				wg.Go(func() {
					for j := range jobs {
						if !bytes.Equal(j.Data, j.want) {
							t.Error("a piece changed while it was in use")
						}
						j.Release()
					}
				})
			}
		}
		wg.Wait()
		if len(pool.free) != buffers {
			t.Errorf("%d of %d buffers came back", len(pool.free), buffers)
		}
	}
}

// TestNextWaits: with all buffers in use Next waits for a release or for the end of its context.
func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := smallParams(Gear)
		pool := newPool(p.Max+leastSlack, 1)
		data := counterBytes("waits", 3*pool.size)
		s, err := NewSplitter(mustRule(t, p), pool)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		s.Reset(bytes.NewReader(data), 0)
		var held []Piece
		next := func() chan error {
			done := make(chan error, 1)
			go func() {
				for {
					piece, err := s.Next(ctx)
					if err != nil {
						done <- err
						return
					}
					if len(held) == 0 {
						held = append(held, piece)
					} else {
						piece.Release()
					}
				}
			}()
			synctest.Wait()
			return done
		}
		done := next()
		if len(done) != 0 {
			t.Fatal("Next did not wait for a buffer")
		}
		held[0].Release()
		if err := <-done; err != io.EOF {
			t.Fatal(err)
		}
		held = nil
		s.Reset(bytes.NewReader(data), 0)
		done = next()
		cancel()
		if err := <-done; err != context.Canceled {
			t.Fatal(err)
		}
		s.Close()
		if len(pool.free) != 0 {
			t.Fatal("the buffer of a piece in use is in the pool")
		}
		if held[0].Release(); len(pool.free) != 1 {
			t.Fatal("the buffer did not come back")
		}
		s.Reset(bytes.NewReader(data), 0)
		if _, err := s.Next(ctx); err != context.Canceled {
			t.Fatal(err)
		}
	})
}

type badReader int

func (r badReader) Read(p []byte) (int, error) {
	if r > 0 {
		return len(p) + 1, nil
	}
	return int(r), nil
}

func TestReaderErrors(t *testing.T) {
	p := smallParams(Gear)
	s, err := NewSplitter(mustRule(t, p), newPool(p.Max+slack, 1))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := s.Next(ctx); err == nil || err == io.EOF {
		t.Error("Next before Reset:", err)
	}
	data := counterBytes("fine", 100_000)
	want := newReference(t, p, testSecret)(data, 0)
	broken := errors.New("broken")
	long := bytes.Repeat([]byte("a"), 5*ZeroAlign) // holds no cut, as TestFirstPlace checks
	if want[0] >= len(long) {
		t.Fatal("the first cut is too late to be missed by a cutter that goes on behind it")
	}
	for _, c := range []struct {
		name string
		r    io.Reader
		want error // nil: any but io.EOF
	}{
		{"error", iotest.ErrReader(broken), broken},
		{"error after data", io.MultiReader(bytes.NewReader(long), iotest.ErrReader(broken)), broken},
		{"early end", iotest.ErrReader(io.ErrUnexpectedEOF), io.ErrUnexpectedEOF},
		{"too much", badReader(1), nil},
		{"negative", badReader(-1), nil},
		{"nothing", badReader(0), io.ErrNoProgress},
	} {
		for s.Reset(c.r, 0); ; {
			piece, err := s.Next(ctx)
			if err == nil {
				piece.Release()
				continue
			}
			if err == io.EOF || c.want != nil && err != c.want {
				t.Errorf("%s: %v", c.name, err)
			}
			if _, again := s.Next(ctx); again != err {
				t.Errorf("%s: then %v", c.name, again)
			}
			break
		}
		// What the broken stream left, a chunk half scanned among it, has no influence on the next.
		if got := collect(t, s, bytes.NewReader(data), 0, data); !slices.Equal(got, want) {
			t.Errorf("%s: the pieces of the next stream are %v, want %v", c.name, got, want)
		}
	}
	s.Close()
	s.Close()
	if _, err := s.Next(ctx); err == nil || err == io.EOF {
		t.Error("Next after Close:", err)
	}
}

func FuzzSplit(f *testing.F) {
	for class := range classes {
		f.Add(classes[class](1, 70_000), uint16(5000), int64(1))
	}
	p := smallParams(Gear)
	r, ref, pool := mustRule(f, p), newReference(f, p, testSecret), newPool(p.Max+leastSlack, 1)
	f.Fuzz(func(t *testing.T, data []byte, read uint16, off int64) {
		if off < 0 {
			return
		}
		off %= 1 << 60
		// A mutated input is short: spread it over pages, half of them zero.
		var spread []byte
		for i, b := range data[:min(len(data), 20)] {
			spread = append(spread, bytes.Repeat([]byte{b & byte(i)}, int(b)*64)...)
		}
		data = append(spread, data...)
		s, err := NewSplitter(r, pool)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		got := collect(t, s, &raggedReader{rest: data, sizes: []int{int(read) + 1}}, off, data)
		if want := ref(data, off); !slices.Equal(got, want) {
			t.Errorf("pieces %v, want %v", got, want)
		}
	})
}

func BenchmarkCutter(b *testing.B) {
	data := counterBytes("bench", 64<<20)
	for _, rule := range []string{Gear, Rabin} {
		for _, avg := range []int{64 << 10, DefaultParams().Avg} {
			p, err := ParamsFor(rule, avg)
			if err != nil {
				b.Fatal(err)
			}
			c := mustRule(b, p).Cutter()
			b.Run(fmt.Sprint(rule, "/", avg>>10, "K"), func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					for rest := data; len(rest) > 0; {
						rest = rest[c.Next(rest, true):]
					}
				}
			})
		}
	}
}

func BenchmarkZeroRun(b *testing.B) {
	for class, data := range map[string][]byte{"random": counterBytes("bench", 16<<20), "one zero run": append(make([]byte, 16<<20), 1)} {
		b.Run(class, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				ZeroRun(data, 0)
			}
		})
	}
}

func BenchmarkSplitter(b *testing.B) {
	data := counterBytes("bench", 64<<20)
	p := DefaultParams()
	pool, err := NewPool(p, DefaultBuffers)
	if err != nil {
		b.Fatal(err)
	}
	s, err := NewSplitter(mustRule(b, p), pool)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		s.Reset(bytes.NewReader(data), 0)
		for {
			piece, err := s.Next(b.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			piece.Release()
		}
	}
}
