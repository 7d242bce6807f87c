package crypt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
)

func testPackKey(t testing.TB, repo RepoID, salt byte) *PackKey {
	t.Helper()
	k, err := SessionKey(fixed(0x53)).PackKey(repo, fixed(salt))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestBlob(t *testing.T) {
	k := testPackKey(t, testRepo, 1)
	for _, n := range []int{0, 1, 15, 16, 17, 255, 4096, 1 << 20} {
		data := bytes.Repeat([]byte{0xa5}, n)
		info := BlobInfo{ID: Sum(data), Raw: uint32(n), Compression: ZstdBetter, Tree: n%2 == 1}
		sealed, err := k.Seal([]byte("before"), info, data)
		if err != nil || len(sealed) != 6+n+Overhead || string(sealed[:6]) != "before" {
			t.Fatalf("Seal of %d bytes: %d bytes, %v", n, len(sealed), err)
		}
		got, err := k.Open([]byte("dst"), info, sealed[6:])
		if err != nil || string(got[:3]) != "dst" || !bytes.Equal(got[3:], data) {
			t.Fatalf("Open of %d bytes: %v", n, err)
		}
	}
}

func TestBlobRefused(t *testing.T) {
	k := testPackKey(t, testRepo, 1)
	data := []byte("the contents of a small file, compressed or not")
	info := BlobInfo{ID: Sum(data), Raw: uint32(len(data)), Compression: ZstdDefault}
	sealed, err := k.Seal(nil, info, data)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, k *PackKey, info BlobInfo, b []byte) {
		t.Helper()
		if got, err := k.Open([]byte("dst"), info, b); !errors.Is(err, ErrOpen) || string(got) != "dst" {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	flips(sealed, 1, func(bit int, b []byte) { refused(fmt.Sprint("bit ", bit), k, info, b) })
	cuts(sealed, func(b []byte) { refused(fmt.Sprint("length ", len(b)), k, info, b) })
	for what, change := range map[string]func(*BlobInfo){
		"other blob":        func(b *BlobInfo) { b.ID[31] ^= 1 },
		"other length":      func(b *BlobInfo) { b.Raw++ },
		"other compression": func(b *BlobInfo) { b.Compression = ZstdBest },
		"tree":              func(b *BlobInfo) { b.Tree = true },
	} {
		other := info
		change(&other)
		refused(what, k, other, sealed)
	}
	refused("other pack", testPackKey(t, testRepo, 2), info, sealed)
	refused("other repository", testPackKey(t, RepoID{9}, 1), info, sealed)
	otherSession, err := SessionKey(fixed(0x54)).PackKey(testRepo, fixed(1))
	if err != nil {
		t.Fatal(err)
	}
	refused("other session", otherSession, info, sealed)
}

// TestBlobKeys checks that keys are the same every time, and differ for anything that makes the sealed bytes differ.
func TestBlobKeys(t *testing.T) {
	seen := make(map[string]string)
	for _, salt := range []byte{1, 2} {
		for _, repo := range []RepoID{testRepo, {1}} {
			k, again := testPackKey(t, repo, salt), testPackKey(t, repo, salt)
			for i := range 50 {
				for c := Uncompressed; c <= ZstdBest; c++ {
					var b BlobInfo
					b.Compression = c
					binary.LittleEndian.PutUint32(b.ID[28:], uint32(i))
					key := string(k.blobKey(b))
					if key != string(again.blobKey(b)) {
						t.Fatal("a key is not the same every time")
					}
					place := fmt.Sprint(salt, repo, i, c)
					if seen[key] != "" {
						t.Fatalf("%s and %s have the same key", place, seen[key])
					}
					seen[key] = place
				}
			}
		}
	}
}

func TestBlobNonces(t *testing.T) {
	k := testPackKey(t, testRepo, 1)
	seen := make(map[string]bool)
	for range 2000 {
		sealed, err := k.Seal(nil, BlobInfo{}, nil)
		if err != nil || seen[string(sealed[:12])] {
			t.Fatalf("nonce came twice, or %v", err)
		}
		seen[string(sealed[:12])] = true
	}
}

func TestBlobConcurrently(t *testing.T) {
	k := testPackKey(t, testRepo, 1)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 100 {
				data := fmt.Appendf(nil, "%d %d", g, i)
				info := BlobInfo{ID: Sum(data), Raw: uint32(len(data))}
				sealed, err := k.Seal(nil, info, data)
				if err != nil {
					t.Error(err)
				}
				if got, err := k.Open(nil, info, sealed); err != nil || !bytes.Equal(got, data) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkBlob(b *testing.B) {
	k := testPackKey(b, testRepo, 1)
	for _, n := range []int{2 << 10, 1 << 20} {
		data := make([]byte, n)
		info := BlobInfo{ID: Sum(data), Raw: uint32(n)}
		sealed, err := k.Seal(nil, info, data)
		if err != nil {
			b.Fatal(err)
		}
		dst := make([]byte, 0, n+Overhead)
		b.Run(fmt.Sprintf("Seal/%dKiB", n>>10), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				k.Seal(dst, info, data)
			}
		})
		b.Run(fmt.Sprintf("Open/%dKiB", n>>10), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				k.Open(dst, info, sealed)
			}
		})
	}
}
