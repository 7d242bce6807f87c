package sftp

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"packhold/backends"
	"packhold/backends/backendtest"
)

// TestFull fills real file systems, one by bytes and one by files. OpenSSH calls that a failure, Go's server says why.
func TestFull(t *testing.T) {
	for name, argv := range map[string][]string{
		"OpenSSH": openSSHServer(t), "Go": goServer(t, "hardlink@openssh.com posix-rename@openssh.com"),
	} {
		for _, options := range []string{"size=4m", "nr_inodes=40"} {
			t.Run(name+" "+options, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "disk")
				backendtest.Mount(t, "tmpfs", dir, options)
				s := openTest(t, Options{Command: argv, Path: dir})
				data := make([]byte, 200_000)
				var stored []string
				for i := 0; ; i++ {
					name := "packs/" + string([]byte{'a' + byte(i/26), 'a' + byte(i%26)})
					err := s.Put(t.Context(), name, data, backends.PutOptions{IfAbsent: i%2 == 0})
					if err != nil {
						if !errors.Is(err, backends.ErrNoSpace) {
							t.Errorf("a full disk: %v", err)
						}
						if _, err := s.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
							t.Errorf("the file that did not fit: %v", err)
						}
						break
					}
					if stored = append(stored, name); i > 100 {
						t.Fatal("the disk never gets full")
					}
				}
				if got, err := backendtest.Names(t, s, ""); err != nil || !slices.Equal(got, stored) || len(got) < 10 {
					t.Errorf("%q, %v", got, err)
				}
				// One more, many requests under way: a failed replacement leaves the old bytes.
				if err := s.Put(t.Context(), stored[0], make([]byte, 5<<20), backends.PutOptions{}); options == "size=4m" && !errors.Is(err, backends.ErrNoSpace) {
					t.Errorf("replacing: %v", err)
				} else if err != nil {
					wantFile(t, s, stored[0], string(data))
				}
				// Opening tells the time by a file, and does without where there is no room.
				openTest(t, Options{Command: argv, Path: dir, RemoveStale: true})
				s.Close()
				backendtest.Empty(t, filepath.Join(dir, tempDir))
			})
		}
	}
}

// TestReadOnly: OpenSSH calls a read-only file system a failure.
func TestReadOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	backendtest.Mount(t, "tmpfs", dir, "size=4m")
	s := openTest(t, Options{Command: openSSHServer(t), Path: dir})
	backendtest.Put(t, s, "d/a", "x")
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		backendtest.Lacks(t, "cannot remount: %v", err)
	}
	if err := s.Put(t.Context(), "d/b", nil, backends.PutOptions{IfAbsent: true}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Put: %v", err)
	}
	if err := s.Delete(t.Context(), "d/a"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Delete: %v", err)
	}
	openTest(t, Options{Command: openSSHServer(t), Path: dir, RemoveStale: true})
	wantFile(t, s, "d/a", "x")
}
