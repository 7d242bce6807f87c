package s3

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"packhold/backends"
)

const (
	// tempDir is the driver's own place, foreign to listings: backends.ValidName refuses it.
	tempDir = "tmp/"

	probeRaces   = 3 // rounds
	probeWriters = 8

	// probeLock is for how long a probe file is locked, by the server's clock. It must outlast the two requests that follow.
	probeLock = 30 * time.Second
)

// Abilities is what a bucket at an endpoint can do. A caller may remember it, and should probe again from time to time: a server may be replaced.
type Abilities struct {
	// Conditional says that exclusive creation works: it was tried.
	Conditional bool

	// ObjectLock says that the bucket keeps locked files: it was tried.
	ObjectLock bool

	// Versioning says that the bucket keeps versions.
	Versioning bool

	// ClockSkew is by how much the storage's clock is ahead of this machine's, to about a second.
	ClockSkew time.Duration
}

// Probe finds out what the bucket can do, by doing it below "tmp/", which no listing shows, and remembers it in the Store. It makes about 40 requests.
// In a bucket with object lock it leaves a file of some bytes that nobody can delete at once, and RemoveStale does after a day.
func (s *Store) Probe(ctx context.Context) (Abilities, error) {
	if err := s.lockProbing(ctx); err != nil {
		return Abilities{}, err
	}
	defer s.unlockProbing()
	return s.probe(ctx)
}

// known returns the abilities, after probing them if need be.
func (s *Store) known(ctx context.Context) (Abilities, error) {
	if a, ok := s.remembered(); ok {
		return a, nil
	}
	if err := s.lockProbing(ctx); err != nil {
		return Abilities{}, err
	}
	defer s.unlockProbing()
	if a, ok := s.remembered(); ok {
		return a, nil
	}
	return s.probe(ctx)
}

func (s *Store) remembered() (Abilities, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.abilities == nil {
		return Abilities{}, false
	}
	return *s.abilities, true
}

func (s *Store) lockProbing(ctx context.Context) error {
	select {
	case <-s.probing:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}

func (s *Store) unlockProbing() { s.probing <- struct{}{} }

func (s *Store) probe(ctx context.Context) (Abilities, error) {
	a, err := s.tryAll(ctx)
	if err != nil {
		return Abilities{}, fmt.Errorf("probing what the storage can do: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abilities = &a
	return a, nil
}

func (s *Store) tryAll(ctx context.Context) (a Abilities, err error) {
	if err := ended(ctx); err != nil {
		return a, err
	}
	dated, c := withCall(ctx)
	if _, err := s.page(dated, listing{prefix: s.key(tempDir), max: 1}); err != nil {
		return a, s.classify(dated, err, c)
	}
	if skew, ok := c.skew(); ok {
		a.ClockSkew = skew.Round(time.Second)
	}
	if a.Conditional, a.Versioning, err = s.tryCreate(ctx); err != nil {
		return a, err
	}
	for range probeRaces {
		if !a.Conditional {
			break
		}
		if a.Conditional, err = s.tryRace(ctx); err != nil {
			return a, err
		}
	}
	a.ObjectLock, err = s.tryLock(ctx, a.ClockSkew)
	return a, err
}

func (s *Store) probeKey() string { return s.key(tempDir + "probe-" + strings.ToLower(rand.Text())) }

// putProbe stores what a probe stores.
func (s *Store) putProbe(ctx context.Context, key, data string, opts backends.PutOptions) (version string, err error) {
	return s.store(ctx, key, []byte(data), s.request("", []byte(data), opts))
}

var onlyNew = backends.PutOptions{IfAbsent: true}

// tryCreate creates a file exclusively, then again with other bytes, and reports whether that was refused and the file is as it was.
func (s *Store) tryCreate(ctx context.Context) (works, versions bool, err error) {
	key := s.probeKey()
	defer func() { err = errors.Join(err, s.removeProbe(ctx, key)) }()
	version, err := s.putProbe(ctx, key, "first", onlyNew)
	if errors.Is(err, backends.ErrUnsupported) {
		version, err = s.putProbe(ctx, key, "first", backends.PutOptions{})
		return false, version != "", err
	}
	if err != nil {
		return false, false, err
	}
	_, err = s.putProbe(ctx, key, "another", onlyNew)
	if !errors.Is(err, fs.ErrExist) {
		if errors.Is(err, backends.ErrUnsupported) {
			err = nil
		}
		return false, version != "", err
	}
	works, err = s.holds(ctx, key, "first")
	return works, version != "", err
}

// tryRace lets several writers create a file at once, and reports whether exactly one did, and its bytes are there. A writer that the server refuses
// because of the others has lost.
func (s *Store) tryRace(ctx context.Context) (works bool, err error) {
	key := s.probeKey()
	defer func() { err = errors.Join(err, s.removeProbe(ctx, key)) }()
	var (
		wg   sync.WaitGroup
		errs [probeWriters]error
		text = func(i int) string { return fmt.Sprintf("of writer %d", i) }
	)
	for i := range errs {
		wg.Go(func() { _, errs[i] = s.putProbe(ctx, key, text(i), onlyNew) })
	}
	wg.Wait()
	winner, won := 0, 0
	for i, err := range errs {
		switch {
		case err == nil:
			winner, won = i, won+1
		case !errors.Is(err, fs.ErrExist) && !errors.Is(err, errConflict):
			return false, err
		}
	}
	if won != 1 {
		return false, nil
	}
	return s.holds(ctx, key, text(winner))
}

// tryLock reports whether a file that is kept until a date cannot be deleted before.
func (s *Store) tryLock(ctx context.Context, skew time.Duration) (works bool, err error) {
	asked, c := withCall(ctx)
	state, _, _, _, err := s.core.GetObjectLockConfig(asked, s.o.Bucket)
	if err != nil {
		// There is none, the server does not know the question, or does not let this user ask: nothing to try.
		if c.status >= 400 && c.status < 500 || c.status == http.StatusNotImplemented {
			return false, ended(ctx)
		}
		return false, s.classify(asked, err, c)
	}
	if state != "Enabled" {
		return false, nil
	}
	key := s.probeKey()
	version, err := s.putProbe(ctx, key, "locked", backends.PutOptions{RetainUntil: time.Now().Add(skew + probeLock)})
	if errors.Is(err, backends.ErrUnsupported) || errors.Is(err, fs.ErrPermission) { // of the permission to lock
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch err := s.removeVersion(ctx, key, version); {
	case err == nil:
		return false, nil
	case errors.Is(err, fs.ErrPermission):
		return s.holds(ctx, key, "locked")
	default:
		return false, err
	}
}

// holds reports whether an object has the bytes of text.
func (s *Store) holds(ctx context.Context, key, text string) (bool, error) {
	ctx, c := withCall(ctx)
	r, _, _, err := s.core.GetObject(ctx, s.o.Bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return false, s.classify(ctx, err, c)
	}
	defer r.Close()
	got, err := io.ReadAll(io.LimitReader(r, int64(len(text))+1))
	if err != nil {
		return false, opaque(err)
	}
	return string(got) == text, nil
}

// removeProbe removes a probe file. A bucket may keep every file for a time, and a user may be allowed to add only: then RemoveStale has to.
func (s *Store) removeProbe(ctx context.Context, key string) error {
	err := s.remove(ctx, key)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
