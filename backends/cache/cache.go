// Package cache keeps small files of a storage in a folder of this machine, so that they need not be fetched again.
//
// Only files whose names end in the SHA-256 of their bytes are kept, and what is kept counts only if its bytes have that hash. So whatever happens
// to the folder, a file is read as it was stored or fetched from the storage: deleting, truncating, swapping or corrupting changes speed, never a
// result. What exists is always the storage's word: listings and descriptions are never kept, and neither is what is not named by its hash. Whoever
// wants to know what the storage really holds reads it without this package.
package cache

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"packhold/backends"
)

// Options say where and how much. Dir is required.
type Options struct {
	Dir  string                 // made when there is something to keep
	Keep func(name string) bool // which files are worth it; nil: all that are named by their hash
	File int64                  // largest file that is kept, in bytes; 0: DefaultFile
	Most int64                  // bytes of all files, of which some go when they are more; 0: DefaultMost
}

// The default bounds: a certificate or a mark has a few KiB.
const (
	DefaultFile = 256 << 10
	DefaultMost = 64 << 20
)

// Store is a backends.Storage in front of another. Of the calls only Get is ever answered from the folder. A folder that cannot be read or written is no
// error. Several processes may share a folder.
type Store struct {
	backends.Storage
	o Options

	mu   sync.Mutex // guards size
	size int64      // of the folder, as far as this process knows; negative: nobody looked
}

var _ backends.Storage = (*Store)(nil)

// New returns a Store in front of inner.
func New(inner backends.Storage, o Options) *Store {
	o.File, o.Most = cmp.Or(o.File, DefaultFile), cmp.Or(o.Most, DefaultMost)
	return &Store{Storage: inner, o: o, size: -1}
}

// kept returns the hash in a name, in hexadecimal digits, and whether its file may be kept.
func (s *Store) kept(name string) (sum string, ok bool) {
	const digits = 2 * sha256.Size
	if len(name) < digits || s.o.Keep != nil && !s.o.Keep(name) {
		return "", false
	}
	sum = name[len(name)-digits:]
	_, err := hex.DecodeString(sum)
	return sum, err == nil
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Get implements backends.Storage.
func (s *Store) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	sum, ok := s.kept(name)
	if !ok || ctx.Err() != nil {
		return s.Storage.Get(ctx, name, off, n)
	}
	if data := s.load(sum); data != nil && off >= 0 {
		if span, err := backends.Span(int64(len(data)), off, n); err == nil {
			return data[off : off+span : off+span], nil
		}
	}
	data, err := s.Storage.Get(ctx, name, off, n)
	if err == nil && off == 0 {
		s.store(sum, data) // a part of the file has another hash
	}
	return data, err
}

// Put implements backends.Storage. What is stored is kept at once.
func (s *Store) Put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	err := s.Storage.Put(ctx, name, data, opts)
	if sum, ok := s.kept(name); ok && err == nil && !opts.Extend {
		s.store(sum, data)
	}
	return err
}

// Delete implements backends.Storage.
func (s *Store) Delete(ctx context.Context, name string) error {
	if sum, ok := s.kept(name); ok {
		_ = os.Remove(s.path(sum)) // nobody will ask for it
	}
	return s.Storage.Delete(ctx, name)
}

func (s *Store) path(sum string) string { return filepath.Join(s.o.Dir, sum) }

// load returns the bytes with that hash, nil if they are not there.
func (s *Store) load(sum string) []byte {
	path := s.path(sum)
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > s.o.File {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, s.o.File+1))
	if err != nil || sumOf(data) != sum {
		_ = os.Remove(path)
		return nil
	}
	return data
}

// store keeps bytes that have that hash. A power loss may leave anything under the name, which load then finds.
func (s *Store) store(sum string, data []byte) {
	if int64(len(data)) > s.o.File || sumOf(data) != sum {
		return
	}
	path := s.path(sum)
	if _, err := os.Lstat(path); err == nil || os.MkdirAll(s.o.Dir, 0o700) != nil {
		return
	}
	f, err := os.CreateTemp(s.o.Dir, temporary+"*") // mode 0600
	if err != nil {
		return
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return
	}
	s.grown(int64(len(data)))
}

const (
	temporary = "new-"

	// staleAge is when a temporary file is a killed run's: writing one takes milliseconds.
	staleAge = time.Hour
)

// grown counts a new file, and makes room once there are too many: a quarter of the bytes go, the oldest files first.
func (s *Store) grown(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size >= 0 {
		if s.size += n; s.size <= s.o.Most {
			return
		}
	}
	entries, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return
	}
	var files []fs.FileInfo
	s.size = 0
	now := time.Now()
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // another process was quicker
		}
		if stale := now.Sub(info.ModTime()) > staleAge; stale && len(e.Name()) > len(temporary) && e.Name()[:len(temporary)] == temporary {
			_ = os.Remove(filepath.Join(s.o.Dir, e.Name()))
			continue
		}
		files = append(files, info)
		s.size += info.Size()
	}
	if s.size <= s.o.Most {
		return
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, f := range files {
		if s.size <= s.o.Most-s.o.Most/4 {
			return
		}
		if os.Remove(filepath.Join(s.o.Dir, f.Name())) == nil {
			s.size -= f.Size()
		}
	}
}
