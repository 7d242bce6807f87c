package s3

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"

	"packhold/backends"
)

const (
	pageSize = 1000 // the most a server gives

	// maxPage is far more than 1,000 keys of at most 1,024 bytes take, with all that S3 says about each.
	maxPage = 16 << 20

	// maxEmpty is how many pages without a key may follow each other, and still say that there is more.
	maxEmpty = 1000

	emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// List implements backends.Storage. A page that is no whole answer of S3, repeats what was listed or names keys not asked for is an error.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[backends.Info, error] {
	return func(yield func(backends.Info, error) bool) {
		if err := s.list(ctx, prefix, yield); err != nil && !errors.Is(err, errStopped) {
			yield(backends.Info{}, fmt.Errorf("listing %q: %w", prefix, err))
		}
	}
}

var errStopped = errors.New("listing stopped by its reader")

func (s *Store) list(ctx context.Context, prefix string, yield func(backends.Info, error) bool) error {
	if err := ended(ctx); err != nil {
		return err
	}
	if err := backends.CheckPrefix(prefix); err != nil {
		return err
	}
	var (
		l      = listing{prefix: s.key(prefix), max: pageSize}
		seen   = map[string]bool{} // tokens, and the first key of each page: what comes again goes on for ever
		listed = 0
		empty  = 0
	)
	for {
		p := s.takeOpened(prefix, listed)
		if p == nil {
			ctx, c := withCall(ctx)
			var err error
			if p, err = s.page(ctx, l); err != nil {
				return s.classify(ctx, err, c)
			}
		}
		if len(p.Contents) == 0 {
			if empty++; empty > maxEmpty {
				return fmt.Errorf("the server gives more than %d empty pages", maxEmpty)
			}
		} else {
			empty = 0
			first := "key " + p.Contents[0].Key
			if seen[first] {
				return fmt.Errorf("the server lists %q again", p.Contents[0].Key)
			}
			seen[first] = true
		}
		// Foreign ones count: they, too, can go on for ever.
		if listed += len(p.Contents); listed > backends.MaxListed {
			return fmt.Errorf("more than %d objects", backends.MaxListed)
		}
		for _, o := range p.Contents {
			name := strings.TrimPrefix(o.Key, s.prefix)
			if !backends.ValidName(name) {
				continue // foreign
			}
			// Stat's answer has whole seconds.
			if !yield(backends.Info{Name: name, Size: o.Size, ModTime: o.LastModified.Truncate(time.Second)}, nil) {
				return errStopped
			}
		}
		switch {
		case p.NextContinuationToken != "":
			if seen["token "+p.NextContinuationToken] {
				return errors.New("the server repeats the token for the next page")
			}
			seen["token "+p.NextContinuationToken] = true
			l.token, l.after = p.NextContinuationToken, ""
		case p.IsTruncated:
			return errors.New("the server says that there is more, but not how to ask for it")
		case len(p.Contents) >= pageSize:
			// A full page is rarely the last one, and some servers forget to say that there is more.
			l.token, l.after = "", p.Contents[len(p.Contents)-1].Key
		default:
			return nil
		}
		if err := ended(ctx); err != nil {
			return err
		}
	}
}

// opened is the page that Open read.
type opened struct {
	page *page
	at   time.Time
}

// openedFresh is how old that page may be: the listing might have begun as early.
const openedFresh = time.Second

// takeOpened returns that page, once, to a listing of everything that begins soon after. What this Store changes makes it too old.
func (s *Store) takeOpened(prefix string, listed int) *page {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.opened
	if o == nil || prefix != "" || listed > 0 {
		return nil
	}
	s.opened = nil
	if time.Since(o.at) > openedFresh {
		return nil
	}
	return o.page
}

// changing notes that this Store is about to change what a listing shows.
func (s *Store) changing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened = nil
}

// listing asks for one page of a listing.
type listing struct {
	prefix string // of keys
	max    int
	token  string // of the page, from the one before
	after  string // only keys behind this one
}

// page is an answer to ListObjectsV2.
type page struct {
	XMLName               xml.Name `xml:"ListBucketResult"` // minio-go takes any document, an error too, for an empty listing
	EncodingType          string
	IsTruncated           bool
	NextContinuationToken string
	KeyCount              *int
	Contents              []struct {
		Key          string
		Size         int64
		LastModified time.Time
	}
}

// page gets one page. The error is one for classify.
func (s *Store) page(ctx context.Context, l listing) (*page, error) {
	query := url.Values{"list-type": {"2"}, "encoding-type": {"url"}, "prefix": {l.prefix}, "max-keys": {strconv.Itoa(l.max)}}
	if l.token != "" {
		query.Set("continuation-token", l.token)
	}
	if l.after != "" {
		query.Set("start-after", l.after)
	}
	text, err := s.getBucket(ctx, query)
	if err != nil {
		return nil, err
	}
	return parsePage(text, l.prefix)
}

// parsePage reads an answer about the keys that begin with prefix.
func parsePage(text []byte, prefix string) (*page, error) {
	p := new(page)
	err := xml.Unmarshal(text, p)
	if err != nil {
		return nil, fmt.Errorf("the answer is not a listing: %w", err)
	}
	if p.KeyCount != nil && *p.KeyCount != len(p.Contents) {
		return nil, fmt.Errorf("a page says that it lists %d keys and lists %d", *p.KeyCount, len(p.Contents))
	}
	for i := range p.Contents {
		o := &p.Contents[i]
		if o.Key, err = decodeKey(o.Key, p.EncodingType); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(o.Key, prefix) || o.Size < 0 || o.LastModified.IsZero() {
			return nil, fmt.Errorf("the server lists %q (%d bytes, %v), asked for what begins with %q", o.Key, o.Size, o.LastModified, prefix)
		}
	}
	return p, nil
}

// maxVersions bounds the versions of one object. Ours has one, more if a repair or someone else replaced it.
const maxVersions = 10_000

// versionPage is an answer to ListObjectVersions.
type versionPage struct {
	XMLName             xml.Name `xml:"ListVersionsResult"`
	EncodingType        string
	IsTruncated         bool
	NextKeyMarker       string
	NextVersionIDMarker string `xml:"NextVersionIdMarker"`
	Items               []struct {
		XMLName   xml.Name
		Key       string
		VersionID string `xml:"VersionId"`
	} `xml:",any"` // versions and delete markers in their order, and what else there is
}

// versions returns the versions of an object and its delete markers, newest first.
func (s *Store) versions(ctx context.Context, key string) (list []string, err error) {
	query := url.Values{"versions": {""}, "encoding-type": {"url"}, "prefix": {key}, "max-keys": {strconv.Itoa(pageSize)}}
	for range maxVersions / pageSize {
		ctx, c := withCall(ctx)
		text, err := s.getBucket(ctx, query)
		if err != nil {
			return nil, s.classify(ctx, err, c)
		}
		var p versionPage
		if err := xml.Unmarshal(text, &p); err != nil {
			return nil, fmt.Errorf("the answer is not a listing of versions: %v", err)
		}
		others := false
		for _, v := range p.Items {
			if v.XMLName.Local != "Version" && v.XMLName.Local != "DeleteMarker" {
				continue
			}
			if got, err := decodeKey(v.Key, p.EncodingType); err != nil {
				return nil, err
			} else if got != key {
				others = true // longer names sort after it
				break
			}
			list = append(list, v.VersionID)
		}
		if others || !p.IsTruncated {
			return list, nil
		}
		next, err := decodeKey(p.NextKeyMarker, p.EncodingType)
		if err != nil {
			return nil, err
		}
		query.Set("key-marker", next)
		query.Set("version-id-marker", p.NextVersionIDMarker)
	}
	return nil, fmt.Errorf("more than %d versions", maxVersions)
}

func decodeKey(key, encoding string) (string, error) {
	if encoding != "url" {
		return key, nil
	}
	decoded, err := url.QueryUnescape(key)
	if err != nil {
		return "", fmt.Errorf("a listed key: %v", err)
	}
	return decoded, nil
}

// getBucket asks about the bucket, and returns the body of a successful answer. minio-go's own listings cannot be used: they take an error for an
// empty listing, and show no pages to those who have a context. The error is one for classify.
func (s *Store) getBucket(ctx context.Context, query url.Values) ([]byte, error) {
	// The address is that of a presigned request, which is the only way to have it from minio-go. The signature goes where it always does.
	u, err := s.core.Presign(ctx, http.MethodGet, s.o.Bucket, "", time.Minute, query)
	if err != nil {
		return nil, err
	}
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	keys, err := s.creds.GetWithContext(&credentials.CredContext{Client: &http.Client{Transport: s.http.inner}, Context: ctx})
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Amz-Content-Sha256", emptySHA256)
	resp, err := s.http.RoundTrip(signer.SignV4(*req, keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken, s.region))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errorResponse(resp)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxPage+1))
	if err != nil {
		return nil, fmt.Errorf("reading a listing: %w", err)
	}
	if len(text) > maxPage {
		return nil, fmt.Errorf("a page of a listing has more than %d bytes", maxPage)
	}
	return text, nil
}
