package s3

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"github.com/minio/minio-go/v7"

	"packhold/backends"
)

// Retention returns until when a file is kept, the zero time if nobody keeps it. A missing file is an error matching fs.ErrNotExist. Without the
// permission s3:GetObjectRetention Amazon shows no date.
func (s *Store) Retention(ctx context.Context, name string) (time.Time, error) {
	until, err := s.retention(ctx, name)
	if err != nil {
		return time.Time{}, fmt.Errorf("looking until when %q is kept: %w", name, err)
	}
	return until, nil
}

func (s *Store) retention(ctx context.Context, name string) (time.Time, error) {
	if err := check(ctx, name); err != nil {
		return time.Time{}, err
	}
	o, err := s.stat(ctx, s.key(name))
	if err != nil {
		return time.Time{}, err
	}
	value := o.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")
	if value == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, value)
}

// Extend keeps a file until a later date than before, in the mode of Options.RetainMode, which may become Compliance but not Governance again. A date
// that would shorten the retention is an error matching fs.ErrPermission. A bucket without object lock is ErrUnsupported.
func (s *Store) Extend(ctx context.Context, name string, until time.Time) error {
	if err := s.extend(ctx, name, until); err != nil {
		return fmt.Errorf("keeping %q until %s: %w", name, until.UTC().Format(time.RFC3339), err)
	}
	return nil
}

func (s *Store) extend(ctx context.Context, name string, until time.Time) error {
	if err := check(ctx, name); err != nil {
		return err
	}
	able, err := s.known(ctx)
	if err != nil {
		return err
	}
	if !able.ObjectLock {
		return fmt.Errorf("the bucket has no object lock: %w", backends.ErrUnsupported)
	}
	// Not every server refuses an earlier date to everybody, and one never set is an error to some and none to others.
	now, err := s.retention(ctx, name)
	if err != nil {
		return err
	}
	if until = wholeSecond(until); until.Before(now) {
		return fmt.Errorf("%w: it is kept until %s", fs.ErrPermission, now.UTC().Format(time.RFC3339))
	}
	mode := s.o.RetainMode.mode()
	ctx, c := withCall(ctx)
	withMD5(func() {
		err = s.core.PutObjectRetention(ctx, s.o.Bucket, s.key(name), minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until})
	})
	return s.found(ctx, s.key(name), s.classify(ctx, err, c))
}

// wholeSecond rounds up: the headers have whole seconds, and a file must not be free before its time.
func wholeSecond(t time.Time) time.Time { return t.Add(time.Second - 1).Truncate(time.Second).UTC() }
