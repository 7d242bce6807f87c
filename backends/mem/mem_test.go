package mem_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/backends/mem"
)

func TestStorage(t *testing.T) {
	backendtest.Run(t, func(*testing.T) backends.Storage { return mem.New(time.Now) })
}

func TestClock(t *testing.T) {
	ctx := context.Background()
	now := time.Unix(1_000_000, 0)
	s := mem.New(func() time.Time { return now })
	until := now.Add(time.Hour)
	if err := s.Put(ctx, "a", []byte("1"), backends.PutOptions{RetainUntil: until}); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Stat(ctx, "a"); err != nil || !info.ModTime.Equal(now) {
		t.Fatalf("%+v, %v", info, err)
	}
	// The same bytes without a date keep the date.
	if err := s.Put(ctx, "a", []byte("1"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	now = until.Add(-1)
	if err := s.Delete(ctx, "a"); !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("deleted before its date: %v", err)
	}
	now = until
	if err := s.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
}

func TestClone(t *testing.T) {
	ctx := context.Background()
	s := mem.New(time.Now)
	for _, name := range []string{"a", "b"} {
		if err := s.Put(ctx, name, []byte(name), backends.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c := s.Clone()
	if err := c.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(ctx, "b", []byte("new"), backends.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(ctx, "a"); err != nil {
		t.Error("a deletion in the clone reached the original")
	}
	if b, err := c.Get(ctx, "b", 0, -1); err != nil || string(b) != "b" {
		t.Errorf("a replacement in the original reached the clone: %q, %v", b, err)
	}
}
