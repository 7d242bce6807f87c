package stored

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"packhold/backends"
	"packhold/crypt"
)

// large says of every file that it has 40 MiB, and counts the bytes that were asked for and not yet let go.
type large struct {
	backends.Storage
	mu        sync.Mutex
	now, most int64
}

const largeSize = 40 << 20

func (l *large) Stat(_ context.Context, name string) (backends.Info, error) {
	return backends.Info{Name: name, Size: largeSize}, nil
}

func (l *large) Get(_ context.Context, _ string, _, n int64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now += n
	l.most = max(l.most, l.now)
	return nil, nil
}

// TestEachBounded: what a storage claims objects to be must not cost more memory than one of the largest.
func TestEachBounded(t *testing.T) {
	var infos []backends.Info
	for i := range 24 {
		infos = append(infos, backends.Info{Name: fmt.Sprintf("forgotten/%064x", i)})
	}
	l := new(large)
	calls := 0
	err := Each(t.Context(), l, infos, func(i backends.Info, _ []byte, err error) error {
		if err != nil {
			return err
		}
		calls++
		l.mu.Lock()
		defer l.mu.Unlock()
		l.now -= largeSize
		return nil
	})
	if err != nil || calls != len(infos) {
		t.Fatalf("%d calls, %v", calls, err)
	}
	if l.most > crypt.MaxObject {
		t.Errorf("%d bytes at once", l.most)
	}
}
