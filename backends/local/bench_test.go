package local

import (
	"fmt"
	"os"
	"testing"

	"packhold/backends"
)

// Benchmarks run in TMPDIR; with a tmpfs there they measure everything but the disk.

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{1 << 10, 32 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, err := Open(b.TempDir(), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			data := make([]byte, size)
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				name := fmt.Sprintf("packs/%02x/%d", i%4, i)
				if err := s.Put(b.Context(), name, data, backends.PutOptions{IfAbsent: true}); err != nil {
					b.Fatal(err)
				}
				if size > 1<<20 && i >= 4 {
					b.StopTimer()
					_ = os.Remove(fmt.Sprintf("%s/packs/%02x/%d", s.path, (i-4)%4, i-4))
					b.StartTimer()
				}
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.Put(b.Context(), "packs/ab/cd", make([]byte, 32<<20), backends.PutOptions{}); err != nil {
		b.Fatal(err)
	}
	for _, size := range []int64{1 << 10, 1 << 20, 32 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Get(b.Context(), "packs/ab/cd", 0, size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
