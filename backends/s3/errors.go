package s3

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"packhold/backends"
)

// ErrCold says that a file is in a storage class whose files must be restored before they can be read, such as GLACIER. Its errors match
// fs.ErrPermission too: trying again does not help.
var ErrCold = errors.New("in cold storage: restore the object there, then try again")

// errConflict says that another write of the same name is under way.
var errConflict = errors.New("another write of this name is under way")

// errUnconfirmed is the error of a 404 that is not an answer of S3 about the key. HEAD has no body that could say what is missing: the file, the
// bucket, or just the page a proxy looked for. found asks again.
var errUnconfirmed = errors.New("not found, says something that may not be the storage")

// classify makes an error of minio-go match the sentinels that callers look for. Those of the network never match any: nothing they say is about a file.
func (s *Store) classify(ctx context.Context, err error, c *call) error {
	if err == nil {
		return nil
	}
	if end := ended(ctx); end != nil {
		return end
	}
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		if cert := certificateError(err); cert != nil {
			return fmt.Errorf("the server's certificate is not trusted: %w: %w", backends.ErrPermanent, cert)
		}
		if none, ok := errors.AsType[*credentialsError](err); ok {
			return fmt.Errorf("%w: %v", fs.ErrPermission, none)
		}
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return opaque(err)
		}
		return &lostError{opaque(err)}
	}
	text := describe(answer, c)
	match := func(sentinel error) error { return fmt.Errorf("%w: %s", sentinel, text) }
	status := answer.StatusCode
	if status == 0 {
		status = c.status
	}
	switch answer.Code {
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidAccessKeyId", "InvalidToken", "InvalidTokenId", "XAdminUserNotFound":
		// The last one is versitygw's InvalidAccessKeyId, with status 404. Keys that were withdrawn look like keys that never were.
		if s.renewed(ctx, c.keys) {
			return errors.New(text)
		}
		return match(fs.ErrPermission)
	case "InvalidObjectState":
		return fmt.Errorf("%w: %w: %s", ErrCold, fs.ErrPermission, text)
	case "InsufficientStorage", "QuotaExceeded", "EntityTooLarge", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "NoSpaceLeft", "StorageFull":
		return match(backends.ErrNoSpace)
	case "RequestTimeTooSkewed":
		skew, _ := c.skew()
		return fmt.Errorf("%w by %s: %s", backends.ErrClock, skew.Round(time.Second), text)
	case "ConditionalRequestConflict":
		return match(errConflict)
	case "NotImplemented":
		return match(backends.ErrUnsupported)
	case "InvalidRequest":
		// Without a code of its own, as Amazon words it and others repeat it.
		if strings.Contains(answer.Message, "missing Object") && strings.Contains(answer.Message, "Configuration") {
			return match(backends.ErrUnsupported)
		}
		if strings.Contains(answer.Message, "WORM protected") { // MinIO's answer to deleting what is locked
			return match(fs.ErrPermission)
		}
	}
	switch status {
	case http.StatusNotFound:
		if answer.XMLName.Local != "Error" { // minio-go made it up
			return match(errUnconfirmed)
		}
		switch answer.Code {
		case "NoSuchKey", "NoSuchVersion":
			return match(fs.ErrNotExist)
		case "NoSuchBucket":
			return match(backends.ErrGone)
		}
	case http.StatusUnauthorized, http.StatusForbidden:
		return match(fs.ErrPermission)
	case http.StatusPreconditionFailed:
		return match(fs.ErrExist)
	case http.StatusInsufficientStorage, http.StatusRequestEntityTooLarge:
		return match(backends.ErrNoSpace)
	case http.StatusNotImplemented:
		return match(backends.ErrUnsupported)
	}
	if after, ok := retryAfter(c); ok {
		return &busyError{errors.New(text), after}
	}
	return errors.New(text)
}

// found replaces an unconfirmed "not found" about a key by what a listing says, which has a body: an error matching fs.ErrNotExist or
// backends.ErrGone, or another if the key is there.
func (s *Store) found(ctx context.Context, key string, err error) error {
	if !errors.Is(err, errUnconfirmed) {
		return err
	}
	ctx, c := withCall(ctx)
	p, listErr := s.page(ctx, listing{prefix: key, max: 1})
	if listErr != nil {
		return s.classify(ctx, listErr, c)
	}
	// The key itself sorts before those that go on after it.
	if len(p.Contents) > 0 && p.Contents[0].Key == key {
		return fmt.Errorf("%v, but it is listed", err)
	}
	return fmt.Errorf("%w: %v, and it is not listed", fs.ErrNotExist, err)
}

// describe says what the server answered.
func describe(a minio.ErrorResponse, c *call) string {
	text := fmt.Sprintf("the storage answers %s", a.Code)
	if c.status != 0 {
		text += fmt.Sprintf(" (%d)", c.status)
	}
	if a.Message != "" && a.Message != a.Code {
		text += fmt.Sprintf(": %.500s", a.Message)
	}
	if hint := a.Region; hint != "" && (c.status == http.StatusMovedPermanently || c.status == http.StatusTemporaryRedirect || c.status == http.StatusBadRequest) {
		text += fmt.Sprintf(" (the bucket is in region %s)", hint)
	}
	if a.RequestID != "" && a.RequestID != "minio" {
		text += fmt.Sprintf(" [request %.100s]", a.RequestID)
	}
	return text
}

// opaque keeps an error's text only: one of the network may match context.DeadlineExceeded, io.ErrUnexpectedEOF or fs.ErrPermission, which here would
// say something about the call, or a file.
func opaque(err error) error { return errors.New(err.Error()) }

// lostError is the error of a request whose connection ended before an answer came, or whose answer made no sense. It may have had its effect.
type lostError struct{ error }

// busyError is the error of a storage that asks to be left alone for a while.
type busyError struct {
	error
	after time.Duration
}

// RetryAfter returns for how long.
func (e *busyError) RetryAfter() time.Duration { return e.after }

func retryAfter(c *call) (time.Duration, bool) {
	value := c.header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	if date, err := http.ParseTime(value); err == nil {
		now := time.Now()
		if server, err := http.ParseTime(c.header.Get("Date")); err == nil {
			now = server
		}
		return max(0, date.Sub(now)), true
	}
	return 0, false
}

// regionHint returns the region that the server expects, if it refused a request because of that.
func regionHint(err error) string {
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		return ""
	}
	switch answer.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		return answer.Region
	}
	return ""
}

// errorResponse reads the body of an answer that is not a success, like minio-go does.
func errorResponse(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var answer minio.ErrorResponse
	if err != nil || xml.Unmarshal(text, &answer) != nil {
		answer = minio.ErrorResponse{Code: resp.Status, Message: strings.ToValidUTF8(string(text), "?")}
	}
	answer.StatusCode = resp.StatusCode
	if answer.Region == "" {
		answer.Region = resp.Header.Get("X-Amz-Bucket-Region")
	}
	if answer.RequestID == "" {
		answer.RequestID = resp.Header.Get("X-Amz-Request-Id")
	}
	return answer
}
