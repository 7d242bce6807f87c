package backup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"packhold/repo"
	"packhold/repo/backup"
	"packhold/repo/snapshot"
)

// A FIFO is read until its last writer goes, also one that comes late; and waiting for a writer ends with the context and leaves nothing open.
func TestReadSpecial(t *testing.T) {
	src := t.TempDir()
	fifo := filepath.Join(src, "fifo")
	if err := syscall.Mkfifo(fifo, 0o640); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(src, "large"), random(1, 3<<20))
	data := random(2, 2<<20)
	st, c := newRepo(t)
	o := backup.Options{Sources: []string{src}, ReadSpecial: true}
	for _, late := range []time.Duration{0, 500 * time.Millisecond} {
		written := make(chan error, 1)
		go func() {
			time.Sleep(late)
			f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.Write(data)
				err = errors.Join(err, f.Close())
			}
			written <- err
		}()
		res := run(t, open(t, st, repo.Access{Credential: c}), o)
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		if got := tree(t, st, res.Snapshot)[fifo]; got != string(data) || len(res.Skipped) > 0 || res.Stats.Files != 2 {
			t.Errorf("%v later: %d bytes, %+v, skipped %v", late, len(got), res.Stats, res.Skipped)
		}
	}
	o.DryRun = true
	if res := run(t, open(t, st, repo.Access{Credential: c}), o); res.Stats.Files != 2 {
		t.Errorf("a dry run: %+v", res.Stats)
	}
	o.DryRun, o.Type = false, snapshot.Full
	r := open(t, st, repo.Access{Credential: c})
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := backup.Run(ctx, r, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for nobody: %v", err)
	}
	settled(t, goroutines, files)
}
