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

// staleAge is far longer than any upload takes, and than Probe.
const staleAge = 24 * time.Hour

// RemoveStale removes what was left behind below the repository's prefix more than a day ago, by the storage's clock: multipart uploads that were
// never finished, which other programs start and the owner of the bucket pays for, and files of Probe. What may not be removed stays. It returns how
// many there were.
func (s *Store) RemoveStale(ctx context.Context) (removed int, err error) {
	uploads, err := s.abortUploads(ctx)
	if err != nil {
		return uploads, fmt.Errorf("removing abandoned uploads: %w", err)
	}
	probes, err := s.removeProbes(ctx)
	if err != nil {
		return uploads + probes, fmt.Errorf("removing old probe files: %w", err)
	}
	return uploads + probes, nil
}

func (s *Store) abortUploads(ctx context.Context) (aborted int, err error) {
	var key, id string // where the next page begins
	for range maxEmpty {
		paged, c := withCall(ctx)
		p, err := s.core.ListMultipartUploads(paged, s.o.Bucket, s.prefix, key, id, "", pageSize)
		if err != nil {
			return aborted, unlessUnsupported(s.classify(paged, err, c))
		}
		now := s.serverTime(c)
		for _, u := range p.Uploads {
			if now.Sub(u.Initiated) <= s.staleAge {
				continue
			}
			ctx, c := withCall(ctx)
			if err := s.core.AbortMultipartUpload(ctx, s.o.Bucket, u.Key, u.UploadID); err != nil && minio.ToErrorResponse(err).Code != "NoSuchUpload" {
				err = s.classify(ctx, err, c)
				if errors.Is(err, fs.ErrPermission) {
					continue
				}
				return aborted, err
			}
			aborted++
		}
		if !p.IsTruncated {
			return aborted, nil
		}
		if p.NextKeyMarker == key && p.NextUploadIDMarker == id {
			return aborted, errors.New("the server repeats a page of uploads")
		}
		key, id = p.NextKeyMarker, p.NextUploadIDMarker
	}
	return aborted, fmt.Errorf("more than %d pages of uploads", maxEmpty)
}

// removeProbes removes old files below tempDir.
func (s *Store) removeProbes(ctx context.Context) (removed int, err error) {
	// They are few: what one page lacks the next time finds.
	paged, c := withCall(ctx)
	p, err := s.page(paged, listing{prefix: s.key(tempDir + "probe-"), max: pageSize})
	if err != nil {
		return 0, s.classify(paged, err, c)
	}
	now := s.serverTime(c)
	for _, o := range p.Contents {
		if now.Sub(o.LastModified) <= s.staleAge {
			continue
		}
		switch err := s.remove(ctx, o.Key); {
		case err == nil:
			removed++
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
			return removed, err
		}
	}
	return removed, nil
}

func (s *Store) serverTime(c *call) time.Time {
	skew, _ := c.skew()
	return time.Now().Add(skew)
}

// unlessUnsupported drops the error of a server without multipart uploads, or of a user who may not list them.
func unlessUnsupported(err error) error {
	if errors.Is(err, backends.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}
