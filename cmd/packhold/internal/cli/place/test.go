package place

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"packhold/backends"
)

// Finding is one thing that a place was asked to do.
type Finding struct {
	What   string // "exclusive create"
	OK     bool
	Needed bool // without it no repository can be kept there
	Detail string
}

// probeFolder is where Test puts its files: names that no format of a repository uses, so that listings leave them out.
const probeFolder = "probe/"

// racers is how many try to create a file at once: more than a server that looks first and writes then lets pass by chance.
const racers = 8

// Test finds out what the storage at a place can do, by doing it with small files of its own, which it removes as far as the storage
// lets it. An error is of a storage that does not work at all.
func Test(ctx context.Context, s backends.Storage, now func() time.Time) (list []Finding, err error) {
	base := probeFolder + strings.ToLower(rand.Text()) + "/"
	add := func(what string, needed bool, err error, detail string) {
		if err != nil {
			detail = err.Error()
		}
		list = append(list, Finding{what, err == nil, needed, detail})
	}
	name := base + "first"
	data := []byte(rand.Text())
	start := now()
	if err := s.Put(ctx, name, data, backends.PutOptions{}); err != nil {
		return nil, err
	}
	took := now().Sub(start)
	add("store", true, nil, took.Round(100*time.Microsecond).String())

	start = now()
	b, err := s.Get(ctx, name, 0, -1)
	if err == nil && !bytes.Equal(b, data) {
		err = errors.New("other bytes come back than were stored")
	}
	add("read", true, err, now().Sub(start).Round(100*time.Microsecond).String())

	info, err := s.Stat(ctx, name)
	if err == nil && info.Size != int64(len(data)) {
		err = fmt.Errorf("it has %d bytes, and %d were stored", info.Size, len(data))
	}
	add("describe", true, err, "")
	var ahead time.Duration
	if err == nil {
		ahead = info.ModTime.Sub(now())
		add("clock", false, nil, skewText(ahead))
	}
	add("list", true, listed(ctx, s, base, name), "")
	add("exclusive create", true, exclusive(ctx, s, name, data), "")
	add("exclusive create, many at once", true, race(ctx, s, base+"race"), fmt.Sprintf("one of %d won", racers))
	add("replace", false, replace(ctx, s, name), "needed for repair")
	kept, err := keep(ctx, s, base+"kept", now, ahead)
	add("write-once", false, err, kept)

	add("delete", false, remove(ctx, s, name, base+"race"), "")
	return list, ctx.Err()
}

// Exclusive finds out whether the storage still creates files exclusively: it may have been moved since that was asked last. If not, the error matches
// backends.ErrUnsupported.
func Exclusive(ctx context.Context, s backends.Storage) error {
	base := probeFolder + strings.ToLower(rand.Text()) + "/"
	name := base + "first"
	data := []byte(rand.Text())
	err := s.Put(ctx, name, data, backends.PutOptions{})
	if err == nil {
		err = exclusive(ctx, s, name, data)
	}
	if err == nil {
		err = race(ctx, s, base+"race")
	}
	_ = remove(ctx, s, name, base+"race") // what stays is foreign to everything
	return err
}

// remove deletes files, which need not be there. Only a refusal says that the place is meant to keep them.
func remove(ctx context.Context, s backends.Storage, names ...string) error {
	var refused []string
	var failed error
	for _, n := range names {
		switch err := s.Delete(ctx, n); {
		case errors.Is(err, fs.ErrPermission):
			refused = append(refused, n)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			failed = errors.Join(failed, err)
		}
	}
	switch {
	case failed != nil:
		return failed
	case len(refused) > 0:
		return fmt.Errorf("refused: an append-only place. %s stay", strings.Join(refused, ", "))
	}
	for _, n := range names {
		if _, err := s.Stat(ctx, n); err == nil {
			return errors.New("a deleted file is still there")
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func skewText(d time.Duration) string {
	if d.Abs() < 2*time.Second {
		return "as this machine's"
	}
	if d > 0 {
		return d.Round(time.Second).String() + " ahead of this machine's"
	}
	return (-d).Round(time.Second).String() + " behind this machine's"
}

func listed(ctx context.Context, s backends.Storage, prefix, name string) error {
	for info, err := range s.List(ctx, prefix) {
		if err != nil {
			return err
		}
		if info.Name == name {
			return nil
		}
	}
	return errors.New("a file that was stored is not listed")
}

// exclusive tries to create what is there.
func exclusive(ctx context.Context, s backends.Storage, name string, data []byte) error {
	err := s.Put(ctx, name, []byte("another"), backends.PutOptions{IfAbsent: true})
	if err == nil {
		return fmt.Errorf("an existing file was replaced: %w", backends.ErrUnsupported)
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	b, err := s.Get(ctx, name, 0, -1)
	if err == nil && !bytes.Equal(b, data) {
		err = fmt.Errorf("refused, and the existing file is another now: %w", backends.ErrUnsupported)
	}
	return err
}

// race has many create one name at once.
func race(ctx context.Context, s backends.Storage, name string) error {
	var won atomic.Int32
	var mu sync.Mutex // guards bad
	var bad error
	var g sync.WaitGroup
	for i := range racers {
		g.Go(func() {
			switch err := s.Put(ctx, name, fmt.Append(nil, i), backends.PutOptions{IfAbsent: true}); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, fs.ErrExist):
				mu.Lock()
				defer mu.Unlock()
				bad = err
			}
		})
	}
	g.Wait()
	n := won.Load()
	if n > 1 {
		return fmt.Errorf("%d of %d created the same file: %w", n, racers, backends.ErrUnsupported)
	}
	if bad == nil && n == 0 {
		return fmt.Errorf("none of %d created the file", racers)
	}
	return bad
}

func replace(ctx context.Context, s backends.Storage, name string) error {
	data := []byte(rand.Text())
	if err := s.Put(ctx, name, data, backends.PutOptions{}); err != nil {
		return err
	}
	b, err := s.Get(ctx, name, 0, -1)
	if err == nil && !bytes.Equal(b, data) {
		err = errors.New("the old bytes come back")
	}
	return err
}

// keptFor is how long the file of the test of write-once is kept: longer than a request or two take, and short enough to wait for, so that
// nothing stays behind.
const keptFor = 3 * time.Second

// keep stores a file until a date, tries to remove it, and removes it after. ahead is by how much the storage's clock is.
func keep(ctx context.Context, s backends.Storage, name string, now func() time.Time, ahead time.Duration) (detail string, err error) {
	until := now().Add(ahead + keptFor)
	err = s.Put(ctx, name, []byte("kept"), backends.PutOptions{RetainUntil: until})
	if errors.Is(err, backends.ErrUnsupported) {
		return "", errors.New("not offered")
	}
	if err != nil {
		return "", err
	}
	info, err := s.Stat(ctx, name)
	if err != nil {
		return "", err
	}
	if err := s.Delete(ctx, name); err == nil {
		return "", errors.New("a locked file was deleted all the same")
	}
	detail = "by " + info.Guard.Text()
	select {
	case <-time.After(keptFor + time.Second): // dates are rounded up to a second
	case <-ctx.Done():
	}
	if err := s.Delete(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		detail += "; " + name + " stays"
	}
	return detail, nil
}
