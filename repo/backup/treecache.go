package backup

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

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
	table []byte // per page: ID 32 | block u32 | offset u32 | length u32; as put, then sorted
	ends  []byte // per block: end offset in the file u64
	off   int64
	err   error
}

const tableEntry = 44

// unfinished is what the names of caches begin with that are being written.
const unfinished = ".new-"

// lineageDigits is how many digits of its lineage the name of a cache begins with.
const lineageDigits = 16

func newTreeWriter(dir, name string, key crypt.LocalKey) (*treeWriter, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, unfinished+name[:lineageDigits]+"-*")
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
		sort.Sort(tableOrder(w.table))
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

// tableOrder sorts a table by ID, in place: of a million pages it is 44 MB.
type tableOrder []byte

func (t tableOrder) Len() int { return len(t) / tableEntry }

func (t tableOrder) Less(i, j int) bool { return bytes.Compare(t.id(i), t.id(j)) < 0 }

func (t tableOrder) id(i int) []byte { return t[i*tableEntry:][:32] }

func (t tableOrder) Swap(i, j int) {
	var tmp [tableEntry]byte
	a, b := t[i*tableEntry:][:tableEntry], t[j*tableEntry:][:tableEntry]
	copy(tmp[:], a)
	copy(a, b)
	copy(b, tmp[:])
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
	table tableOrder // sorted, or pages are not found

	mu     sync.Mutex // guards blocks
	blocks []block    // as last used, newest first
}

// block is an open one.
type block struct {
	number uint32
	plain  []byte
}

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
	return &treeReader{key: key, f: f, ends: b[:8*blocks], table: tableOrder(b[8*blocks:])}, nil
}

var errNotCached = errors.New("not in the tree cache")

// Get implements snapshot.Getter.
func (t *treeReader) Get(_ context.Context, id crypt.ID) ([]byte, error) {
	i, ok := sort.Find(t.table.Len(), func(i int) int { return bytes.Compare(id[:], t.table.id(i)) })
	if !ok {
		return nil, errNotCached
	}
	e := t.table[i*tableEntry+32:]
	off, n := uint64(binary.LittleEndian.Uint32(e[4:])), uint64(binary.LittleEndian.Uint32(e[8:]))
	b, err := t.block(binary.LittleEndian.Uint32(e))
	if err != nil {
		return nil, err
	}
	if off+n > uint64(len(b)) {
		return nil, errNotCached
	}
	page := b[off : off+n]
	if crypt.Sum(page) != id {
		return nil, errNotCached
	}
	return page, nil
}

func (t *treeReader) block(i uint32) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := slices.IndexFunc(t.blocks, func(b block) bool { return b.number == i }); k >= 0 {
		b := t.blocks[k]
		copy(t.blocks[1:], t.blocks[:k])
		t.blocks[0] = b
		return b.plain, nil
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
	if len(t.blocks) == maxBlocks {
		t.blocks = t.blocks[:maxBlocks-1]
	}
	t.blocks = slices.Insert(t.blocks, 0, block{i, b})
	return b, nil
}

// cacheName is the file of one snapshot's tree.
func cacheName(lineage [32]byte, session [16]byte) string {
	return hex.EncodeToString(lineage[:8]) + "-" + hex.EncodeToString(session[:])
}

// parentGetter reads the pages of the parent's tree: from the cache, or with the passphrase from the repository.
type parentGetter struct {
	cache *treeReader // nil: none

	mu       sync.Mutex // guards what follows
	reader   *repo.Reader
	failures int
}

// maxFailures is how many pages may fail to be read from the repository before none is asked for any more: the next one may
// cost minutes of retries, and all they can save is to read some files again.
const maxFailures = 16

// Get implements snapshot.Getter.
func (g *parentGetter) Get(ctx context.Context, id crypt.ID) ([]byte, error) {
	if g.cache != nil {
		if b, err := g.cache.Get(ctx, id); err == nil {
			return b, nil
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reader == nil || g.failures >= maxFailures {
		return nil, errNotCached
	}
	b, err := g.reader.Get(ctx, id)
	if err != nil {
		g.failures++
		return nil, err
	}
	return bytes.Clone(b), nil
}

// Pages reads the tree of a snapshot that this host made from its copy below cacheDir, without a key that reads history; with the passphrase, after LoadIndex, what is not
// there comes from the repository. repo.ErrNeedRead says that there is neither. Calls may overlap; done lets the copy go.
func Pages(r *repo.Repo, cacheDir string, s *repo.Snapshot) (pages snapshot.Getter, done func(), err error) {
	g := new(parentGetter)
	if local := r.Keys().Local; local != nil && cacheDir != "" {
		g.cache, _ = openTreeReader(filepath.Join(cacheDir, "trees", cacheName(s.Lineage, s.Session)), *local) // else the passphrase is needed
	}
	if r.CanRead() {
		if g.reader, err = r.NewReader(); err != nil {
			return nil, nil, err
		}
	}
	if g.cache == nil && g.reader == nil {
		return nil, nil, fmt.Errorf("opening the tree of %s: %w", s.Name, repo.ErrNeedRead)
	}
	return g, func() {
		if g.cache != nil {
			g.cache.f.Close()
		}
	}, nil
}

// staleAfter is the age after which an unfinished cache is nobody's any more. To remove one in use costs its owner time only.
const staleAfter = 7 * 24 * time.Hour

// keepCache finishes the cache of the new tree and removes those no longer wanted: of a lineage, the last tree and the last full one
// stay.
func (e *engine) keepCache(lineage [32]byte, all []*repo.Snapshot) error {
	if e.trees == nil {
		return nil
	}
	w := e.trees
	e.trees = nil
	if err := w.finish(); err != nil {
		return err
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
		return err
	}
	prefix := filepath.Base(w.path)[:lineageDigits] + "-"
	for _, f := range old {
		stale := false
		if info, err := f.Info(); err == nil && strings.HasPrefix(f.Name(), unfinished) {
			stale = e.o.Now().Sub(info.ModTime()) > staleAfter
		}
		if stale || strings.HasPrefix(f.Name(), prefix) && !keep[f.Name()] {
			os.Remove(filepath.Join(dir, f.Name())) // what stays goes with the next run
		}
	}
	return nil
}
