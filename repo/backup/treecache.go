package backup

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/snapshot"
)

// The tree cache is the host's copy of its last trees, so that an unattended incremental backup, which holds no key that reads history, need not
// read every file again. A file holds the tree pages of one snapshot: blocks of about 1 MiB, each sealed under the local key, then a
// sealed table of what is where, then the table's length. Every page is checked by its ID, so a cache that was changed
// can only cost time.

// cacheBlock is how many bytes of pages are sealed together.
const cacheBlock = 1 << 20

// treeWriter writes the tree cache of a running session. put may be called concurrently.
type treeWriter struct {
	key  crypt.LocalKey
	path string

	mu    sync.Mutex // guards what follows
	f     *os.File
	block []byte
	table []byte // per page: ID 32 | block u32 | offset u32 | length u32
	ends  []byte // per block: end offset in the file u64
	off   int64
	err   error
}

const tableEntry = 44

func newTreeWriter(dir, name string, key crypt.LocalKey) (*treeWriter, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return nil, err
	}
	return &treeWriter{key: key, path: filepath.Join(dir, name), f: f}, nil
}

// put adds a page. Failures are kept for finish: they are no reason to stop a backup.
func (w *treeWriter) put(id crypt.ID, page []byte) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return
	}
	w.table = append(w.table, id[:]...)
	w.table = binary.LittleEndian.AppendUint32(w.table, uint32(len(w.ends)/8))
	w.table = binary.LittleEndian.AppendUint32(w.table, uint32(len(w.block)))
	w.table = binary.LittleEndian.AppendUint32(w.table, uint32(len(page)))
	w.block = append(w.block, page...)
	if len(w.block) >= cacheBlock {
		w.flush()
	}
}

func (w *treeWriter) flush() {
	b, err := w.key.Seal("tree", w.block)
	if err == nil {
		_, err = w.f.Write(b)
	}
	w.err = err
	w.off += int64(len(b))
	w.ends = binary.LittleEndian.AppendUint64(w.ends, uint64(w.off))
	w.block = w.block[:0]
}

// finish writes the table and gives the file its name.
func (w *treeWriter) finish() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && len(w.block) > 0 {
		w.flush()
	}
	if w.err == nil {
		head := binary.LittleEndian.AppendUint32(nil, uint32(len(w.ends)/8))
		b, err := w.key.Seal("tree-table", append(append(head, w.ends...), w.table...))
		if err == nil {
			_, err = w.f.Write(binary.LittleEndian.AppendUint64(b, uint64(len(b))))
		}
		w.err = err
	}
	w.err = errors.Join(w.err, w.f.Close())
	if w.err == nil {
		w.err = os.Rename(w.f.Name(), w.path)
	}
	if w.err != nil {
		os.Remove(w.f.Name())
	}
	return w.err
}

// abandon removes the unfinished file.
func (w *treeWriter) abandon() {
	if w == nil {
		return
	}
	w.f.Close()
	os.Remove(w.f.Name())
}

// treeReader reads a tree cache. It may be used concurrently.
type treeReader struct {
	key   crypt.LocalKey
	f     *os.File
	ends  []byte
	pages map[crypt.ID]pagePlace

	mu     sync.Mutex // guards blocks
	blocks map[uint32][]byte
	order  []uint32 // of use, oldest first
}

type pagePlace struct{ block, off, n uint32 }

// maxBlocks bounds the blocks that a treeReader keeps open: 16 MiB. Pages of one directory, and of directories walked together, stand together.
const maxBlocks = 16

// maxTable bounds the table of a tree cache: 10 million pages.
const maxTable = 512 << 20

func openTreeReader(path string, key crypt.LocalKey) (*treeReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	t, err := readTable(f, key)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening tree cache: %w", err)
	}
	return t, nil
}

func readTable(f *os.File, key crypt.LocalKey) (*treeReader, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var tail [8]byte
	if _, err := f.ReadAt(tail[:], info.Size()-8); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(tail[:])
	if n > maxTable || int64(n) > info.Size()-8 {
		return nil, errors.New("bad table length")
	}
	sealed := make([]byte, n)
	if _, err := f.ReadAt(sealed, info.Size()-8-int64(n)); err != nil {
		return nil, err
	}
	b, err := key.Open("tree-table", sealed)
	if err != nil {
		return nil, err
	}
	if len(b) < 4 {
		return nil, errors.New("bad table")
	}
	blocks := uint64(binary.LittleEndian.Uint32(b))
	if b = b[4:]; uint64(len(b)) < 8*blocks || (uint64(len(b))-8*blocks)%tableEntry != 0 {
		return nil, errors.New("bad table")
	}
	t := &treeReader{key: key, f: f, ends: b[:8*blocks], pages: make(map[crypt.ID]pagePlace), blocks: make(map[uint32][]byte)}
	for e := b[8*blocks:]; len(e) > 0; e = e[tableEntry:] {
		t.pages[crypt.ID(e[:32])] = pagePlace{binary.LittleEndian.Uint32(e[32:]), binary.LittleEndian.Uint32(e[36:]), binary.LittleEndian.Uint32(e[40:])}
	}
	return t, nil
}

var errNotCached = errors.New("not in the tree cache")

// Get implements snapshot.Getter.
func (t *treeReader) Get(_ context.Context, id crypt.ID) ([]byte, error) {
	p, ok := t.pages[id]
	if !ok {
		return nil, errNotCached
	}
	b, err := t.block(p.block)
	if err != nil {
		return nil, err
	}
	if uint64(p.off)+uint64(p.n) > uint64(len(b)) {
		return nil, errNotCached
	}
	page := b[p.off : p.off+p.n]
	if crypt.Sum(page) != id {
		return nil, errNotCached
	}
	return page, nil
}

func (t *treeReader) block(i uint32) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b, ok := t.blocks[i]; ok {
		return b, nil
	}
	if uint64(i) >= uint64(len(t.ends)/8) {
		return nil, errNotCached
	}
	start, end := uint64(0), binary.LittleEndian.Uint64(t.ends[8*i:])
	if i > 0 {
		start = binary.LittleEndian.Uint64(t.ends[8*i-8:])
	}
	if end < start || end-start > cacheBlock+snapshot.MaxBlob+4096 {
		return nil, errNotCached
	}
	sealed := make([]byte, end-start)
	if _, err := t.f.ReadAt(sealed, int64(start)); err != nil {
		return nil, err
	}
	b, err := t.key.Open("tree", sealed)
	if err != nil {
		return nil, err
	}
	if len(t.order) >= maxBlocks {
		delete(t.blocks, t.order[0])
		t.order = t.order[1:]
	}
	t.blocks[i] = b
	t.order = append(t.order, i)
	return b, nil
}

// cacheName is the file of one snapshot's tree.
func cacheName(lineage [32]byte, session [16]byte) string {
	return hex.EncodeToString(lineage[:8]) + "-" + hex.EncodeToString(session[:])
}

// parentGetter reads the pages of the parent's tree: from the cache, or with the passphrase from the repository.
type parentGetter struct {
	cache *treeReader

	mu     sync.Mutex // guards reader
	reader *repo.Reader
}

// Get implements snapshot.Getter.
func (g *parentGetter) Get(ctx context.Context, id crypt.ID) ([]byte, error) {
	if g.cache != nil {
		if b, err := g.cache.Get(ctx, id); err == nil {
			return b, nil
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reader == nil {
		return nil, errNotCached
	}
	b, err := g.reader.Get(ctx, id)
	return append([]byte(nil), b...), err
}

// keepCache finishes the cache of the new tree and removes those no longer wanted: of a lineage, the last tree and the last full one
// stay.
func (e *engine) keepCache(lineage [32]byte, all []*repo.Snapshot) {
	if e.trees == nil {
		return
	}
	w := e.trees
	e.trees = nil
	if err := w.finish(); err != nil {
		e.res.CacheErr = err
		return
	}
	keep := map[string]bool{filepath.Base(w.path): true}
	if e.o.Type != snapshot.Full {
		if full := e.repo.Parent(all, lineage, true); full != nil {
			keep[cacheName(lineage, full.Session)] = true
		}
	}
	dir := filepath.Dir(w.path)
	old, err := os.ReadDir(dir)
	if err != nil {
		e.res.CacheErr = err
		return
	}
	prefix := hex.EncodeToString(lineage[:8]) + "-"
	for _, f := range old {
		if strings.HasPrefix(f.Name(), prefix) && !keep[f.Name()] {
			os.Remove(filepath.Join(dir, f.Name()))
		}
	}
	e.res.CacheErr = e.repo.SaveCache()
}
