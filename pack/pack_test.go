package pack

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"packhold/crypt"

	"pgregory.net/rapid"
)

// keys are those of one pack: all fixed, but for the nonces.
type keys struct {
	repo    crypt.RepoID
	write   crypt.WriteSecret
	session crypt.SessionKey
	header  crypt.Header
	pack    *crypt.PackKey
	host    ed25519.PrivateKey
}

func newKeys(t testing.TB, kind crypt.Type, variant uint8) keys {
	t.Helper()
	k := keys{repo: crypt.RepoID{1, 2, 3}, write: crypt.WriteSecret(crypt.Sum([]byte("write"))), session: crypt.SessionKey(crypt.Sum([]byte("session"))),
		header: crypt.Header{Type: kind, Variant: variant, Epoch: 7, Salt: crypt.Sum([]byte("salt"))}}
	var err error
	if k.pack, err = k.session.PackKey(k.repo, k.header.Salt); err != nil {
		t.Fatal(err)
	}
	seed := crypt.Sum([]byte("host"))
	k.host = ed25519.NewKeyFromSeed(seed[:])
	return k
}

func (k keys) sealer() TableSealer {
	return TableSealer{
		Sign: func(d [32]byte) ([64]byte, error) { return [64]byte(ed25519.Sign(k.host, d[:])), nil },
		Seal: func(plain []byte) ([32]byte, []byte, error) { return k.write.SealTable(k.repo, k.header, plain) },
	}
}

func (k keys) options(target, parity int) Options {
	return Options{Header: k.header, Key: k.pack, Target: target, Parity: parity, Session: []byte("a session record")}
}

// openTable parses the table of a file by what stands in the file alone.
func (k keys) openTable(t testing.TB, file []byte) (*Trailer, *Table) {
	t.Helper()
	tr, err := ParseTrailer(file[max(0, len(file)-MaxTrailer):])
	if err != nil {
		t.Fatal(err)
	}
	off := tr.TableOffset()
	plain, err := k.write.OpenTable(k.repo, tr.Header, tr.TableSalt, file[off:off+tr.TableSize])
	if err != nil {
		t.Fatal(err)
	}
	tab, err := ParseTable(plain, tr)
	if err != nil {
		t.Fatal(err)
	}
	d := SignedDigest(tr.Header, tab.Session, tab.Entries)
	if !ed25519.Verify(k.host.Public().(ed25519.PublicKey), d[:], tab.Signature[:]) {
		t.Fatal("signature does not verify")
	}
	return tr, tab
}

// mixed returns n bytes of which about half compress.
func mixed(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		if (i/700)%2 == 0 {
			b[i] = byte(r.Uint32())
		} else {
			b[i] = "compressible "[i%13]
		}
	}
	copy(b, binary.LittleEndian.AppendUint64(nil, seed)) // no two alike, of 8 bytes and more
	return b
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8(crypt.Sum(binary.LittleEndian.AppendUint64(nil, seed)))
	r.Read(b)
	return b
}

func mustCodec(t testing.TB, l Level) *Codec {
	t.Helper()
	c, err := NewCodec(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func add(b *Builder, c *Codec, plain []byte) error {
	data, how := c.Compress(plain)
	return b.Add(c, &Blob{ID: crypt.Sum(plain), Plain: plain, Data: data, Compression: how})
}

func build(t testing.TB, k keys, o Options, blobs ...[]byte) *File {
	t.Helper()
	b, err := NewBuilder(nil, o)
	if err != nil {
		t.Fatal(err)
	}
	c := mustCodec(t, Fastest)
	for _, p := range blobs {
		if err := add(b, c, p); err != nil {
			t.Fatal(err)
		}
	}
	f, err := b.Finish(new(Coder), k.sealer())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// checkFile checks a file against the blobs that went in, by the file alone.
func checkFile(t testing.TB, k keys, f *File, blobs map[crypt.ID][]byte) {
	t.Helper()
	r, err := Verify(f.Data, f.Name, nil)
	if err != nil || !r.OK() {
		t.Fatalf("fresh pack fails: %+v, %v", r, err)
	}
	tr, tab := k.openTable(t, f.Data)
	if tr.Name() != f.Name || tr.FileSize() != len(f.Data) || tr.Header != k.header {
		t.Fatal("trailer does not fit the file")
	}
	if len(tab.Entries) != len(f.Entries) || len(tab.Entries) != len(blobs) {
		t.Fatalf("%d entries stored, %d returned, %d blobs", len(tab.Entries), len(f.Entries), len(blobs))
	}
	c := mustCodec(t, None)
	for i, e := range tab.Entries {
		if e != f.Entries[i] {
			t.Fatalf("entry %d: stored %+v, returned %+v", i, e, f.Entries[i])
		}
		plain, err := c.Open(nil, k.pack, e.Info(tr.Header.Type), f.Data[e.Offset:e.Offset+e.Length])
		if err != nil {
			t.Fatal(err)
		}
		if want, ok := blobs[e.ID]; !ok || !bytes.Equal(plain, want) {
			t.Fatalf("blob %v differs or was not stored", e.ID)
		}
	}
	last := f.Entries[len(f.Entries)-1]
	if !allZero(f.Data[last.Offset+last.Length : tr.TableOffset()]) {
		t.Fatal("bytes between blobs and table are not zero")
	}
}

func TestRoundTrip(t *testing.T) {
	var coder Coder
	buf := bytes.Repeat([]byte{0xaa}, BufferSize(1<<20, 16)) // stale bytes, never cleared between packs
	rapid.Check(t, func(rt *rapid.T) {
		kind := rapid.SampledFrom([]crypt.Type{crypt.TypeDataPack, crypt.TypeTreePack}).Draw(rt, "kind")
		k := newKeys(t, kind, rapid.SampledFrom([]uint8{ShardBLAKE3, ShardSHA256}).Draw(rt, "variant"))
		o := k.options(rapid.IntRange(5000, 1<<20).Draw(rt, "target"), rapid.IntRange(0, 16).Draw(rt, "parity"))
		o.Session = random(1, rapid.SampledFrom([]int{0, 1, 23, 24, 255, 256, 2000, MaxSession}).Draw(rt, "session"))
		b, err := NewBuilder(buf, o)
		if err != nil {
			rt.Fatal(err)
		}
		c := mustCodec(t, rapid.SampledFrom([]Level{None, Fastest, Default, Better}).Draw(rt, "level"))
		blobs := map[crypt.ID][]byte{}
		for i, n := range rapid.SliceOfN(rapid.IntRange(1, 30000), 1, 40).Draw(rt, "sizes") {
			plain := mixed(uint64(i), n)
			if _, ok := blobs[crypt.Sum(plain)]; ok {
				continue
			}
			if err := add(b, c, plain); errors.Is(err, ErrFull) {
				break
			} else if err != nil {
				rt.Fatal(err)
			}
			blobs[crypt.Sum(plain)] = plain
			if b.Count() > 1 && b.Len() > o.Target {
				rt.Fatalf("%d bytes over a target of %d", b.Len(), o.Target)
			}
		}
		if b.Count() != len(blobs) {
			rt.Fatal("count differs")
		}
		f, err := b.Finish(&coder, k.sealer())
		if err != nil {
			rt.Fatal(err)
		}
		checkFile(t, k, f, blobs)
		if len(f.Data) > BufferSize(b.Len(), o.Parity) {
			rt.Fatalf("file of %d bytes, BufferSize says %d", len(f.Data), BufferSize(b.Len(), o.Parity))
		}
	})
}

func TestGeometry(t *testing.T) {
	lengths := []int{minLength, minLength + 1, DefaultTarget, MaxFile}
	for s := minShard; s <= MaxFile/64; s *= 2 {
		for _, shards := range []int{2, 3, 63, 64, 65, 127, 128} {
			lengths = append(lengths, s*shards-1, s*shards, s*shards+1)
		}
	}
	for _, l := range lengths {
		if l < minLength || l > MaxFile {
			continue
		}
		k, s := geometry(l)
		switch {
		case k*s < l || k*s-l >= s:
			t.Errorf("length %d: %d shards of %d", l, k, s)
		case k < 2 || k > maxShards || s > minShard && k < 64:
			t.Errorf("length %d: %d shards of %d", l, k, s)
		case s > minShard && 64*s > l, 128*s <= l:
			t.Errorf("length %d: shard size %d is not the largest", l, s)
		case (k*s-l)*64 > max(l, 64*minShard):
			t.Errorf("length %d: padding %d", l, k*s-l)
		}
		for _, m := range []int{0, 1, 2, 16} {
			tr := Trailer{Data: k, Parity: m, ShardSize: s, Digests: make([][32]byte, k+m)}
			if tr.FileSize() > BufferSize(l, m) {
				t.Errorf("length %d, parity %d: file %d, buffer %d", l, m, tr.FileSize(), BufferSize(l, m))
			}
			if tr.size() > MaxTrailer {
				t.Errorf("trailer of %d bytes", tr.size())
			}
		}
	}
}

// One blob whose pack ends just before, at and just after the lengths where shards double or one is added.
func TestSizesAroundSteps(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	const rest = crypt.HeaderSize + crypt.Overhead + block + locatorSize
	buf := make([]byte, BufferSize(2<<20, 2))
	for _, l := range []int{minLength, 2 * 4096, 3 * 4096, 63 * 4096, 64 * 4096, 127 * 4096, 128 * 4096, 65 * 8192} {
		for d := -1; d <= 1; d++ {
			n := l + d - rest
			if n < 1 {
				continue
			}
			plain := random(uint64(n), n)
			b, err := NewBuilder(buf, k.options(2<<20, 2))
			if err != nil {
				t.Fatal(err)
			}
			if err := add(b, mustCodec(t, None), plain); err != nil {
				t.Fatal(err)
			}
			if b.Len() != l+d {
				t.Fatalf("length %d, want %d", b.Len(), l+d)
			}
			f, err := b.Finish(new(Coder), k.sealer())
			if err != nil {
				t.Fatal(err)
			}
			checkFile(t, k, f, map[crypt.ID][]byte{crypt.Sum(plain): plain})
		}
	}
}

func TestRefused(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	for name, change := range map[string]func(*Options){
		"type":    func(o *Options) { o.Header.Type = crypt.TypeIndex },
		"variant": func(o *Options) { o.Header.Variant = 3 },
		"key":     func(o *Options) { o.Key = nil },
		"parity":  func(o *Options) { o.Parity = 17 },
		"minus":   func(o *Options) { o.Parity = -1 },
		"target":  func(o *Options) { o.Target = MaxFile },
		"session": func(o *Options) { o.Session = make([]byte, MaxSession+1) },
	} {
		o := k.options(0, 2)
		change(&o)
		if _, err := NewBuilder(nil, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	b, err := NewBuilder(nil, k.options(1<<20, 2))
	if err != nil {
		t.Fatal(err)
	}
	c := mustCodec(t, Fastest)
	id := crypt.Sum([]byte("x"))
	for name, blob := range map[string]Blob{
		"empty":       {ID: id},
		"zero ID":     {Plain: []byte("x"), Data: []byte("x")},
		"too large":   {ID: id, Plain: make([]byte, MaxRaw+1), Data: make([]byte, MaxRaw+1)},
		"longer":      {ID: id, Plain: []byte("x"), Data: []byte("xx"), Compression: crypt.ZstdFastest},
		"other size":  {ID: id, Plain: []byte("x"), Data: []byte("xx")},
		"compression": {ID: id, Plain: []byte("xx"), Data: []byte("x"), Compression: 9},
	} {
		if err := b.Add(c, &blob); err == nil || errors.Is(err, ErrFull) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.Finish(new(Coder), k.sealer()); err == nil {
		t.Error("a pack without blobs was finished")
	}
	b, _ = NewBuilder(nil, k.options(1<<20, 2))
	if err := add(b, c, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := add(b, c, []byte("x")); err == nil || errors.Is(err, ErrFull) {
		t.Errorf("the same blob twice: %v", err)
	}
	bad := k.sealer()
	bad.Seal = func(p []byte) ([32]byte, []byte, error) { return [32]byte{}, p, nil }
	if _, err := b.Finish(new(Coder), bad); err == nil {
		t.Error("a table that was not sealed was taken")
	}
	if _, err := b.Finish(new(Coder), k.sealer()); err == nil {
		t.Error("finished twice")
	}
	if err := add(b, c, []byte("y")); !errors.Is(err, ErrFull) {
		t.Errorf("add after finish: %v", err)
	}
}

func TestManyTinyBlobsFill(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	o := k.options(512<<10, 1)
	b, err := NewBuilder(make([]byte, BufferSize(o.Target, o.Parity)), o)
	if err != nil {
		t.Fatal(err)
	}
	c := mustCodec(t, Fastest)
	blobs := map[crypt.ID][]byte{}
	for i := uint32(0); ; i++ {
		plain := binary.LittleEndian.AppendUint32(nil, i)
		if err := add(b, c, plain); errors.Is(err, ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		blobs[crypt.Sum(plain)] = plain
	}
	// 73 bytes each, blob and entry; the last table block may be begun.
	if n := len(blobs); n < (o.Target-3*block)/73 {
		t.Errorf("only %d blobs", n)
	}
	if b.Len() > o.Target || b.Len() < o.Target-2*block {
		t.Errorf("length %d for a target of %d", b.Len(), o.Target)
	}
	f, err := b.Finish(new(Coder), k.sealer())
	if err != nil {
		t.Fatal(err)
	}
	checkFile(t, k, f, blobs)
}

func TestBlobLargerThanTarget(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	buf := make([]byte, BufferSize(64<<10, 2))
	b, err := NewBuilder(buf, k.options(64<<10, 2))
	if err != nil {
		t.Fatal(err)
	}
	c, big := mustCodec(t, Fastest), random(1, MaxRaw)
	if err := add(b, c, big); err != nil {
		t.Fatal(err)
	}
	if err := add(b, c, []byte("small")); !errors.Is(err, ErrFull) {
		t.Fatalf("beside a blob larger than the target: %v", err)
	}
	f, err := b.Finish(new(Coder), k.sealer())
	if err != nil {
		t.Fatal(err)
	}
	checkFile(t, k, f, map[crypt.ID][]byte{crypt.Sum(big): big})

	// Not as the first one: it waits for the next pack.
	b, _ = NewBuilder(buf, k.options(64<<10, 2))
	if err := add(b, c, []byte("small")); err != nil {
		t.Fatal(err)
	}
	if err := add(b, c, big); !errors.Is(err, ErrFull) {
		t.Fatalf("second: %v", err)
	}
}

// Bytes of an earlier pack in the same memory must never leave with a later one.
func TestBufferIsReused(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	buf := make([]byte, BufferSize(256<<10, 4))
	for i, n := range []int{250000, 100, 130000, 30000} {
		for j := range buf {
			buf[j] |= 0x55
		}
		b, err := NewBuilder(buf, k.options(256<<10, 4))
		if err != nil {
			t.Fatal(err)
		}
		plain := random(uint64(i), n)
		if err := add(b, mustCodec(t, Fastest), plain); err != nil {
			t.Fatal(err)
		}
		f, err := b.Finish(new(Coder), k.sealer())
		if err != nil {
			t.Fatal(err)
		}
		if &f.Data[0] != &buf[0] {
			t.Fatal("the buffer was not used")
		}
		// Zeros between blobs and table are checked here, all else is by trailer and digests.
		checkFile(t, k, f, map[crypt.ID][]byte{crypt.Sum(plain): plain})
		locator := f.Data[f.Trailer.TableOffset()+f.Trailer.TableSize:][:locatorSize]
		if !bytes.Equal(locator, f.Trailer.appendLocator(nil)) || !allZero(locator[36:]) {
			t.Fatal("locator")
		}
	}
}

// Workers fill packs together, as the backup does: whoever meets a full pack finishes it while others still seal.
func TestConcurrentWorkers(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	const workers, each = 6, 60
	o := k.options(300<<10, 2)
	open := func() *Builder {
		b, err := NewBuilder(nil, o)
		if err != nil {
			t.Error(err)
		}
		return b
	}
	var (
		coder Coder
		mu    sync.Mutex // guards all below
		cur   = open()
		files []*File
		wg    sync.WaitGroup
	)
	finish := func(b *Builder) {
		f, err := b.Finish(&coder, k.sealer())
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		files = append(files, f)
		mu.Unlock()
	}
	for w := range workers {
		wg.Go(func() {
			c, err := NewCodec(Fastest)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range each {
				plain := mixed(uint64(w*each+i), 20+(w*7919+i*104729)%30000)
				data, how := c.Compress(plain)
				blob := &Blob{ID: crypt.Sum(plain), Plain: plain, Data: data, Compression: how}
				for {
					mu.Lock()
					b := cur
					mu.Unlock()
					err := b.Add(c, blob)
					if err == nil {
						break
					}
					if !errors.Is(err, ErrFull) {
						t.Error(err)
						return
					}
					mu.Lock()
					mine := cur == b
					if mine {
						cur = open()
					}
					mu.Unlock()
					if mine {
						finish(b)
					}
				}
			}
		})
	}
	wg.Wait()
	finish(cur)
	seen := map[crypt.ID]bool{}
	c := mustCodec(t, None)
	for _, f := range files {
		if r, err := Verify(f.Data, f.Name, nil); err != nil || !r.OK() {
			t.Fatalf("%+v, %v", r, err)
		}
		tr, tab := k.openTable(t, f.Data)
		for _, e := range tab.Entries {
			if _, err := c.Open(nil, k.pack, e.Info(tr.Header.Type), f.Data[e.Offset:e.Offset+e.Length]); err != nil {
				t.Fatal(err)
			}
			seen[e.ID] = true
		}
	}
	if len(seen) != workers*each {
		t.Fatalf("%d blobs in %d packs, want %d", len(seen), len(files), workers*each)
	}
}

// A compressed blob whose encoder lied is stored uncompressed (restic #4523, #4677), and the pack stays whole.
func TestBrokenEncoder(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	plain := bytes.Repeat([]byte("all work and no play "), 5000)
	good := mustCodec(t, Fastest).tryEncode(plain)
	other := mustCodec(t, Fastest).tryEncode(append(bytes.Clone(plain[1:]), 'x')) // well-formed, same length, wrong bytes
	for name, encode := range map[string]func(plain, dst []byte) []byte{
		"garbage":   func(p, d []byte) []byte { return append(d, random(1, len(p)/2)...) },
		"one bit":   func(p, d []byte) []byte { d = append(d, good...); d[len(d)/2] ^= 4; return d },
		"cut":       func(p, d []byte) []byte { return append(d, good[:len(good)-1]...) },
		"other":     func(p, d []byte) []byte { return append(d, other...) },
		"too short": func(p, d []byte) []byte { return append(d, mustCodec(t, Fastest).tryEncode(plain[:len(plain)-1])...) },
		"nothing":   func(p, d []byte) []byte { return d },
		"panic":     func(p, d []byte) []byte { panic("encoder bug") },
	} {
		t.Run(name, func(t *testing.T) {
			b, err := NewBuilder(nil, k.options(1<<20, 2))
			if err != nil {
				t.Fatal(err)
			}
			c := mustCodec(t, Fastest)
			c.encode = encode
			data, how := c.Compress(plain)
			blob := &Blob{ID: crypt.Sum(plain), Plain: plain, Data: data, Compression: how}
			if err := b.Add(c, blob); err != nil {
				t.Fatal(err)
			}
			if blob.Compression != crypt.Uncompressed {
				t.Fatal("stored as compressed")
			}
			if want := 1; name != "nothing" && c.Fallbacks() != want {
				t.Fatalf("%d fallbacks, want %d", c.Fallbacks(), want)
			}
			next := mixed(1, 5000)
			c.encode = nil
			if err := add(b, c, next); err != nil {
				t.Fatal(err)
			}
			f, err := b.Finish(new(Coder), k.sealer())
			if err != nil {
				t.Fatal(err)
			}
			// The place of the bad form holds a blob of its own kind: what it is does not matter, that it opens does.
			blobs := map[crypt.ID][]byte{crypt.Sum(plain): plain, crypt.Sum(next): next}
			for _, e := range f.Entries {
				if _, ok := blobs[e.ID]; !ok {
					got, err := c.Open(nil, k.pack, e.Info(k.header.Type), f.Data[e.Offset:e.Offset+e.Length])
					if err != nil {
						t.Fatal(err)
					}
					blobs[e.ID] = got
				}
			}
			checkFile(t, k, f, blobs)
		})
	}
}

// The uncompressed form may not fit any more: the same Blob goes to the next pack, uncompressed.
func TestBrokenEncoderInNearlyFullPack(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	c := mustCodec(t, Fastest)
	c.encode = func(p, d []byte) []byte { return append(d, random(1, len(p)/10)...) }
	plain := bytes.Repeat([]byte("all work and no play "), 5000)
	data, how := c.Compress(plain)
	blob := &Blob{ID: crypt.Sum(plain), Plain: plain, Data: data, Compression: how}
	for i, want := range []error{ErrFull, nil} {
		b, err := NewBuilder(nil, k.options(60_000, 2))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Add(c, blob); !errors.Is(err, want) {
			t.Fatalf("pack %d: %v", i, err)
		}
		f, err := b.Finish(new(Coder), k.sealer())
		if err != nil {
			t.Fatal(err)
		}
		if r, err := Verify(f.Data, f.Name, nil); err != nil || !r.OK() {
			t.Fatalf("pack %d: %+v, %v", i, r, err)
		}
		if e := f.Entries[0]; len(f.Entries) != 1 || (e.ID == blob.ID) != (want == nil) {
			t.Fatalf("pack %d: %+v", i, f.Entries)
		}
	}
	if c.Fallbacks() != 1 {
		t.Fatalf("%d fallbacks", c.Fallbacks())
	}
}

// Faulty memory: even uncompressed the blob does not come back. It is refused, and the pack stays usable.
func TestSelfCheckFails(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	b, err := NewBuilder(nil, k.options(1<<20, 2))
	if err != nil {
		t.Fatal(err)
	}
	c := mustCodec(t, Fastest)
	plain := random(1, 1000)
	flipped := bytes.Clone(plain)
	flipped[500] ^= 1
	err = b.Add(c, &Blob{ID: crypt.Sum(plain), Plain: plain, Data: flipped})
	if !errors.Is(err, ErrSelfCheck) {
		t.Fatalf("error %v", err)
	}
	if err := add(b, c, plain); err != nil {
		t.Fatal(err)
	}
	f, err := b.Finish(new(Coder), k.sealer())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(f.Data, f.Name, nil); err != nil || !r.OK() || len(f.Entries) != 2 || f.Entries[1].ID != crypt.Sum(plain) {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, e := range f.Entries {
		if _, err := c.Open(nil, k.pack, e.Info(k.header.Type), f.Data[e.Offset:e.Offset+e.Length]); err != nil {
			t.Fatal(err)
		}
	}
}

// Every entry opens only as what its table says: no swap of two blobs, of kinds or of fields goes unseen.
func TestBlobsInWrongRoles(t *testing.T) {
	k := newKeys(t, crypt.TypeDataPack, ShardBLAKE3)
	f := build(t, k, k.options(1<<20, 2), mixed(1, 5000), mixed(2, 5000), random(3, 4000), random(4, 4000))
	c := mustCodec(t, None)
	at := func(e Entry) []byte { return f.Data[e.Offset : e.Offset+e.Length] }
	for i, e := range f.Entries {
		for j, o := range f.Entries {
			if i != j {
				if _, err := c.Open(nil, k.pack, e.Info(k.header.Type), at(o)); err == nil {
					t.Errorf("blob %d opened as %d", j, i)
				}
			}
		}
		for _, info := range []crypt.BlobInfo{
			{ID: e.ID, Raw: e.Raw, Compression: e.Compression, Tree: true},
			{ID: e.ID, Raw: e.Raw + 1, Compression: e.Compression},
			{ID: e.ID, Raw: e.Raw - 1, Compression: e.Compression},
			{ID: e.ID, Raw: e.Raw, Compression: (e.Compression + 1) % 5},
			{ID: crypt.ID{1}, Raw: e.Raw, Compression: e.Compression},
		} {
			if _, err := c.Open(nil, k.pack, info, at(e)); err == nil {
				t.Errorf("blob %d opened as %+v", i, info)
			}
		}
	}
	// Right key, right seal, wrong hash: a hostile writer's blob.
	plain := []byte("not what the ID says")
	info := crypt.BlobInfo{ID: crypt.Sum([]byte("other")), Raw: uint32(len(plain))}
	sealed, err := k.pack.Seal(nil, info, plain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(nil, k.pack, info, sealed); err == nil || !strings.Contains(err.Error(), "another hash") {
		t.Errorf("error %v", err)
	}
}
