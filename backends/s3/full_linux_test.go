package s3_test

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"

	"packhold/backends"
	"packhold/backends/backendtest"
)

// TestD7Full fills the disk of a real server: what does not fit is no file, and what is stored stays.
func TestD7Full(t *testing.T) {
	program(t)
	dir := filepath.Join(t.TempDir(), "disk")
	backendtest.Mount(t, "tmpfs", dir, "size=8m")
	server := start(t, dir)
	t.Cleanup(func() { server.stop(); _ = server.log.Close() })
	s := open(t, options(server.addr))
	data := make([]byte, 300_000)
	var stored []string
	for i := 0; ; i++ {
		name := fmt.Sprintf("packs/%03d", i)
		err := s.Put(t.Context(), name, data, backends.PutOptions{IfAbsent: i%2 == 0})
		if err != nil {
			want(t, "a full disk", err, "ErrNoSpace")
			if _, err := s.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the file that did not fit: %v", err)
			}
			break
		}
		if stored = append(stored, name); i > 100 {
			t.Fatal("the disk never gets full")
		}
	}
	if got, err := listed(t, s, "packs/"); err != nil || !slices.Equal(got, stored) || len(got) < 10 {
		t.Errorf("%q, %v", got, err)
	}
	if b, err := s.Get(t.Context(), stored[0], 0, -1); err != nil || len(b) != len(data) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
