package index

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"packhold/crypt"
)

// none is the new row of a pack that the cache will not hold.
const none = 1<<32 - 1

// WriteCache writes the segments of x, base and tail, as a cache file for Open: into a temporary file beside path, named
// path.*.tmp, which is synced and renamed over it. Packs that no stored segment names are left out, and Exclude has no effect: the cache
// says what the segments say, and the same segments make the same bytes. x keeps the base it has.
// It takes about 16 bytes of memory a pack, 1 MiB for counters, and a 64th of the tail's size.
func (x *Index) WriteCache(path string, key [32]byte) error {
	if err := x.writeCache(path, key); err != nil {
		return fmt.Errorf("writing index cache: %w", err)
	}
	return nil
}

func (x *Index) writeCache(path string, key [32]byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	removeLeftovers(f, path)
	m := x.plan()
	w := newCacheWriter(f, key, m.segments, m.most)
	if err := m.writeEntries(w); err != nil {
		return err
	}
	if err := m.writePacks(w); err != nil {
		return err
	}
	if err := w.finish(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	// The folder is not synced: if a crash undoes the rename, the older cache is as right.
	return os.Rename(f.Name(), path)
}

// leftoverAge is far longer than writing a cache takes.
const leftoverAge = 24 * time.Hour

// removeLeftovers removes what killed writers of the cache at path left, by the file system's clock: f is new.
func removeLeftovers(f *os.File, path string) {
	now, err := f.Stat()
	if err != nil {
		return // the next one tries
	}
	dir, prefix := filepath.Dir(path), filepath.Base(path)+"."
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		if info, err := e.Info(); err == nil && now.ModTime().Sub(info.ModTime()) > leftoverAge {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// merger is what goes into a new cache file: the segments there were when it was made. Their rows, entries and sessions do not
// change, so it needs no lock.
type merger struct {
	x        *Index
	base     *base
	tail     []*PackInfo
	segments []segmentRef
	rows     []oldRow // by new row
	fromBase []uint32 // new rows, or none, by row of the base
	fromTail []uint32
	most     uint64 // entries there can be
}

type oldRow struct {
	row  uint32
	base bool
}

func (x *Index) plan() *merger {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := &merger{x: x, base: x.usableBase(), tail: *x.rows.Load()}
	inBase := map[crypt.ID]int{}
	m.most = uint64(x.TailLen())
	if m.base != nil {
		m.most += m.base.entries
		m.fromBase = slices.Repeat([]uint32{none}, int(m.base.packs))
		for i, s := range m.base.segments {
			if !m.base.gone[i] {
				inBase[s.name] = i
			}
		}
	}
	m.fromTail = slices.Repeat([]uint32{none}, len(m.tail))
	names := slices.AppendSeq(slices.Collect(maps.Keys(x.segments)), maps.Keys(inBase))
	slices.SortFunc(names, compareIDs)
	for _, name := range slices.Compact(names) {
		start := len(m.rows)
		if rows, ok := x.segments[name]; ok {
			for _, row := range rows {
				m.fromTail[row] = uint32(len(m.rows))
				m.rows = append(m.rows, oldRow{row, false})
			}
		} else {
			i := inBase[name]
			for row := m.base.starts[i]; row < m.base.starts[i+1]; row++ {
				m.fromBase[row] = uint32(len(m.rows))
				m.rows = append(m.rows, oldRow{row, true})
			}
		}
		m.segments = append(m.segments, segmentRef{name, uint32(len(m.rows) - start)})
	}
	return m
}

func (m *merger) writeEntries(w *cacheWriter) error {
	c := cursor{base: m.base}
	var run []Entry // of one ID
	for n := range shardCount {
		list := m.x.tail.sorted(n, func(row uint32) bool { return uint64(row) < uint64(len(m.fromTail)) && m.fromTail[row] != none })
		for {
			e, ok, err := c.peek()
			if err != nil {
				m.x.fail(err)
				return err
			}
			ok = ok && int(e.ID[0]>>(8-shardBits)) <= n
			if !ok && len(list) == 0 {
				break
			}
			id := e.ID
			if !ok || len(list) > 0 && compareIDs(list[0].id, id) < 0 {
				id = list[0].id
			}
			run = run[:0]
			for ok && e.ID == id {
				if row := m.fromBase[e.Pack]; row != none {
					e.Pack = row
					run = append(run, e.Entry)
				}
				c.step()
				if e, ok, err = c.peek(); err != nil {
					m.x.fail(err)
					return err
				}
			}
			for ; len(list) > 0 && list[0].id == id; list = list[1:] {
				r := &list[0]
				run = append(run, Entry{id, m.fromTail[r.row], r.offset, r.length, r.raw, r.compression})
			}
			slices.SortFunc(run, func(a, b Entry) int { return cmp.Compare(a.Pack, b.Pack) })
			for i := range run {
				if err := w.entry(&run[i]); err != nil {
					return err
				}
			}
		}
	}
	return w.fanOut()
}

func (m *merger) info(r oldRow) (*PackInfo, error) {
	if !r.base {
		return m.tail[r.row], nil
	}
	p, err := m.base.infoOnce(r.row)
	if err != nil {
		m.x.fail(err)
	}
	return p, err
}

// writePacks writes packs and sessions. Sessions are numbered by first use.
func (m *merger) writePacks(w *cacheWriter) error {
	byRef, byHash := map[uint32]uint32{}, map[[32]byte]uint32{}
	var hashes [][32]byte
	var refs []uint32
	for _, from := range m.rows {
		info, err := m.info(from)
		if err != nil {
			return err
		}
		n, ok := byRef[info.Session]
		if !ok {
			record, err := m.x.Session(info.Session)
			if err != nil {
				return err
			}
			hash := sha256.Sum256(record)
			if n, ok = byHash[hash]; !ok {
				n = uint32(len(refs))
				byHash[hash] = n
				hashes, refs = append(hashes, hash), append(refs, info.Session)
			}
			byRef[info.Session] = n
		}
		if err := w.pack(info, n); err != nil {
			return err
		}
	}
	return w.sessions(hashes, func(n int) ([]byte, error) { return m.x.Session(refs[n]) })
}

// cacheWriter writes the sections of a cache file in order.
type cacheWriter struct {
	f       *os.File
	w       *bufio.Writer
	key     [32]byte
	head    head
	seeds   [seedCount]uint32
	meta    []byte
	classes map[string]uint32
	fanBits uint32   // of fan: as many as the file will have, or more
	fan     []uint32 // how many entries begin with these bits
	buf     []byte
}

// newCacheWriter takes the number of entries that will come at most.
func newCacheWriter(f *os.File, key [32]byte, segments []segmentRef, most uint64) *cacheWriter {
	w := &cacheWriter{f: f, w: bufio.NewWriterSize(f, 256<<10), key: key, seeds: seeds(key, segments),
		classes: map[string]uint32{}, fanBits: fanBits(most), fan: make([]uint32, 1<<fanBits(most))}
	w.head.segments = uint32(len(segments))
	for _, s := range segments {
		w.meta = append(w.meta, s.name[:]...)
		w.meta = binary.LittleEndian.AppendUint32(w.meta, s.packs)
	}
	// The head comes last, so that a file without an end is never taken for whole. A write error stays in w.
	w.w.Write(make([]byte, headSize))
	return w
}

// entry writes the next entry, whose Pack is the row.
func (w *cacheWriter) entry(e *Entry) error {
	if w.head.entries == 1<<32-1 {
		return errors.New("too many entries")
	}
	w.buf = e.append(w.buf[:0])
	w.seal(entrySeed, uint32(w.head.entries))
	w.head.entries++
	w.fan[top(&e.ID, w.fanBits)]++
	_, err := w.w.Write(w.buf)
	return err
}

// seal appends the check to buf.
func (w *cacheWriter) seal(seed int, number uint32) {
	w.buf = binary.LittleEndian.AppendUint32(w.buf, sum(w.seeds[seed], number, w.buf))
}

func (w *cacheWriter) fanOut() error {
	w.head.fanBits = min(fanBits(w.head.entries), w.fanBits)
	step := 1 << (w.fanBits - w.head.fanBits)
	below := uint32(0)
	w.buf = binary.LittleEndian.AppendUint32(w.buf[:0], 0)
	for i, n := range w.fan {
		if below += n; (i+1)%step == 0 {
			w.buf = binary.LittleEndian.AppendUint32(w.buf, below)
		}
	}
	_, err := w.w.Write(w.buf)
	return err
}

func (w *cacheWriter) class(name string) uint32 {
	n, ok := w.classes[name]
	if !ok {
		n = w.head.classes
		w.classes[name] = n
		w.head.classes++
		w.meta = append(append(w.meta, byte(len(name))), name...)
	}
	return n
}

func (w *cacheWriter) pack(p *PackInfo, session uint32) error {
	b := append(w.buf[:0], p.Name[:]...)
	b = append(b, p.Salt[:]...)
	b = binary.LittleEndian.AppendUint64(b, p.Size)
	for _, v := range []uint32{p.Incarnation, p.Epoch, session, w.class(p.Class), w.class(p.Retention)} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	w.buf = append(b, byte(p.Kind), 0, 0, 0)
	w.seal(packSeed, w.head.packs)
	w.head.packs++
	_, err := w.w.Write(w.buf)
	return err
}

func (w *cacheWriter) sessions(hashes [][32]byte, record func(n int) ([]byte, error)) error {
	w.head.sessions = uint32(len(hashes))
	// Twice over the records, because their lengths come first and together they may not fit into memory.
	for n, hash := range hashes {
		r, err := record(n)
		if err != nil {
			return err
		}
		w.buf = append(w.buf[:0], hash[:]...)
		w.buf = binary.LittleEndian.AppendUint64(w.buf, w.head.recordLength)
		w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(len(r)))
		w.seal(sessionSeed, uint32(n))
		w.head.recordLength += uint64(len(r))
		if _, err := w.w.Write(w.buf); err != nil {
			return err
		}
	}
	for n := range hashes {
		r, err := record(n)
		if err != nil {
			return err
		}
		if _, err := w.w.Write(r); err != nil {
			return err
		}
	}
	return nil
}

func (w *cacheWriter) finish() error {
	w.head.metaLength = uint64(len(w.meta))
	if w.head.metaLength > maxMeta {
		return errors.New("too many segments or classes")
	}
	if _, err := w.w.Write(w.meta); err != nil {
		return err
	}
	if err := w.w.Flush(); err != nil {
		return err
	}
	b := w.head.marshal()
	copy(b[headSize-macSize:], headMAC(w.key, b, w.meta))
	_, err := w.f.WriteAt(b, 0)
	return err
}
