package writeonce

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"time"

	"packhold/crypt"
	"packhold/repo/format"
)

// Memory is where a Keeper writes down until when packs are kept, as the storage said it or itself made it so. The zero value forgets.
//
// The file is sealed: who could write one that promises too much would make a host rely on packs that are free. An older file promises less than
// is true, because no lock gets shorter. What is true of one storage need not be of another with the same repository, nor after an administrator ended
// locks of governance mode early: so Hold asks for a sample all the same, and forgets everything where it is wrong.
type Memory struct {
	Path string
	Key  *crypt.LocalKey
}

// purpose of the sealed file.
const purpose = "locks"

// pack names a pack in memory.
type pack struct {
	id          crypt.ID
	incarnation uint32
}

// memory holds what is known. Objects other than packs are few: they are asked for every time.
type memory struct {
	Memory

	mu      sync.Mutex // guards what follows
	ends    map[pack]int64
	changed bool
}

// entrySize is that of a pack in the file: name, incarnation, date in Unix seconds.
const entrySize = 32 + 4 + 8

// maxEntries bounds the file, to 44 MB. What is beyond it is asked for again.
const maxEntries = 1 << 20

func (m Memory) load(now time.Time) *memory {
	k := &memory{Memory: m, ends: make(map[pack]int64)}
	if m.Path == "" || m.Key == nil {
		return k
	}
	sealed, err := os.ReadFile(m.Path)
	if err != nil {
		return k
	}
	b, err := m.Key.Open(purpose, sealed)
	if err != nil {
		return k
	}
	for ; len(b) >= entrySize && len(k.ends) < maxEntries; b = b[entrySize:] {
		if end := int64(binary.LittleEndian.Uint64(b[36:])); end > now.Unix() {
			k.ends[pack{crypt.ID(b[:32]), binary.LittleEndian.Uint32(b[32:])}] = end
		}
	}
	return k
}

// until returns until when a pack is known to be kept, zero for unknown.
func (m *memory) until(name string) time.Time {
	id, _, n, err := format.ParsePackName(name)
	if err != nil {
		return time.Time{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if end, ok := m.ends[pack{id, n}]; ok {
		return time.Unix(end, 0)
	}
	return time.Time{}
}

func (m *memory) note(name string, until time.Time) {
	id, _, n, err := format.ParsePackName(name)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key, end := pack{id, n}, until.Unix() // rounded down
	if m.ends[key] < end {
		m.ends[key], m.changed = end, true
	}
}

func (m *memory) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.ends)
	m.changed = true
}

// save replaces the file in one step. It need not last: it may be lost at any moment.
func (m *memory) save(now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.changed || m.Path == "" || m.Key == nil {
		return nil
	}
	var b []byte
	for p, end := range m.ends {
		if end > now.Unix() && len(b) < maxEntries*entrySize {
			b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(append(b, p.id[:]...), p.incarnation), uint64(end))
		}
	}
	sealed, err := m.Key.Seal(purpose, b)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(m.Path), "locks-*")
	if err != nil {
		return err
	}
	_, err = f.Write(sealed)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), m.Path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	m.changed = false
	return nil
}
