package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/minio/minio-go/v7"

	"packhold/backends"
)

// retention is until when an object is kept, and how.
func retention(o minio.ObjectInfo) (time.Time, backends.Guard, error) {
	value := o.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")
	if value == "" {
		return time.Time{}, backends.Unguarded, nil
	}
	until, err := time.Parse(time.RFC3339, value)
	if o.Metadata.Get("X-Amz-Object-Lock-Mode") == string(minio.Compliance) {
		return until, backends.Compliance, err
	}
	return until, backends.Governance, err
}

// extend keeps a file until a later date than before. Governance may become compliance, never the other way round.
func (s *Store) extend(ctx context.Context, name string, until time.Time, compliance bool) error {
	// Not every server refuses an earlier date to everybody, and one never set is an error to some and none to others.
	o, err := s.stat(ctx, s.key(name))
	if err != nil {
		return err
	}
	now, guard, err := retention(o)
	if err != nil {
		return err
	}
	compliance = compliance || guard == backends.Compliance
	if until = wholeSecond(until); !until.After(now) {
		if !compliance || guard == backends.Compliance {
			return nil
		}
		until = now
	}
	mode := lockMode(compliance)
	ctx, c := withCall(ctx)
	withMD5(func() {
		err = s.core.PutObjectRetention(ctx, s.o.Bucket, s.key(name), minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until})
	})
	return s.found(ctx, s.key(name), s.classify(ctx, err, c))
}

func lockMode(compliance bool) minio.RetentionMode {
	if compliance {
		return minio.Compliance
	}
	return minio.Governance
}

// keptError gives a refusal to delete a version the date until which it is kept, where that is what it was refused for.
func (s *Store) keptError(ctx context.Context, key, version string, refused error) error {
	if !errors.Is(refused, fs.ErrPermission) {
		return refused
	}
	ctx, c := withCall(ctx)
	o, err := s.core.StatObject(ctx, s.o.Bucket, key, minio.StatObjectOptions{VersionID: version})
	if err != nil {
		return refused
	}
	until, _, err := retention(o)
	server, dated := c.skew()
	if err != nil || until.IsZero() || dated && time.Now().Add(server).After(until) {
		return refused
	}
	return fmt.Errorf("%w: %v", &backends.KeptError{Until: until}, refused)
}

// checkClock refuses to compute a date with a clock that is far from the storage's, as the last answer told it.
func (s *Store) checkClock() error {
	skew := time.Duration(s.http.skew.Load())
	if skew.Abs() > backends.MaxSkew {
		return fmt.Errorf("%w by %v, the limit is %v", backends.ErrClock, skew.Round(time.Second), backends.MaxSkew)
	}
	return nil
}

// wholeSecond rounds up: the headers have whole seconds, and a file must not be free before its time.
func wholeSecond(t time.Time) time.Time { return t.Add(time.Second - 1).Truncate(time.Second).UTC() }
