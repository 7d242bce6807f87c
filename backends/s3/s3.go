// Package s3 keeps a repository's files in a bucket of an S3 storage: Amazon's, MinIO, Ceph, or any other.
//
// The file "packs/ab/x" is the object "<prefix>/packs/ab/x". Every file is stored by one PUT with a checksum of its bytes (CRC32C or SHA-256), which
// the server compares before it answers; a multipart upload would neither be exclusive nor one checksum. Exclusive creation is the conditional write
// "If-None-Match: *". Servers that do not know it ignore it and overwrite, so it is used only where Probe has seen it work.
//
// What the storage or something in front of it says is not believed without need. "Does not exist" is an answer that S3 itself gave about this key in
// this bucket; a listing ends only with a whole document that says it is the last; a cut body, a wrong range or an answer that is no S3 answer is an
// error. Contents are not compared with the stored checksum when read: the repository checks them, and mends what is damaged only if it gets it.
//
// Nothing is tried twice, with one exception (see Put): callers wrap a Store in something that retries. The error of a storage that asks to be left
// alone for a while has a method RetryAfter() time.Duration, to be found with errors.As.
package s3

import (
	"context"
	"crypto/fips140"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"packhold/backends"
)

// maxConflicts is how often a write is tried anew that ran into another one of the same name. The other one takes as long as its upload.
const maxConflicts = 5

// Store is a backends.Storage in a bucket. Listings are sorted by name where the server sorts them, as it should. Modification times are whole seconds.
//
// In a bucket with versions the newest version of an object is the file. Delete removes all its versions, the oldest first, and leaves no delete
// marker behind: it frees the space, or is refused with fs.ErrPermission while the file stays as it was.
type Store struct {
	o        Options
	prefix   string // of keys: "" or "a/b/"
	region   string
	core     *minio.Core
	creds    *credentials.Credentials
	http     *recorder
	probing  chan struct{} // holds a token while nobody probes
	staleAge time.Duration // see RemoveStale

	mu        sync.Mutex          // guards what follows
	abilities *Abilities          // nil as long as unknown
	made      map[string]struct{} // files that this Store created, in a bucket without versions; at most maxMade
	opened    *opened             // nil: used up
}

// maxMade bounds the memory of Store.made: they are leases, of which a session has a few.
const maxMade = 64

// plain notes that a file was created and has no version.
func (s *Store) plain(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made == nil {
		s.made = make(map[string]struct{})
	}
	if len(s.made) < maxMade {
		s.made[s.key(name)] = struct{}{}
	}
}

// takePlain reports whether plain noted a key, once.
func (s *Store) takePlain(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.made[key]
	delete(s.made, key)
	return ok
}

var (
	_ backends.Storage = (*Store)(nil)
	_ io.Closer        = (*Store)(nil)
)

// Open opens the repository's place in a bucket. It reads the first page of a listing of everything, with which the first such List begins that
// follows within a second; with o.Create it makes the bucket; it writes nothing else. A missing bucket is an error matching fs.ErrNotExist, a refusal
// one matching fs.ErrPermission. Close must be called.
func Open(ctx context.Context, o Options) (*Store, error) {
	s, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("opening bucket %q: %w", o.Bucket, err)
	}
	return s, nil
}

func open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.checked()
	if err != nil {
		return nil, err
	}
	transport, err := o.transport()
	if err != nil {
		return nil, err
	}
	s := &Store{
		o: o, prefix: o.Prefix, region: o.Region, http: &recorder{inner: transport}, creds: credentials.New(&chain{providers: o.Credentials}),
		probing: make(chan struct{}, 1), staleAge: staleAge,
	}
	s.probing <- struct{}{}
	if o.Abilities != nil {
		known := *o.Abilities
		s.abilities = &known
	}
	if err := s.connect(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// connect finds the region, and makes the bucket if that is asked for and it is missing.
func (s *Store) connect(ctx context.Context) error {
	made := false
	for try := 0; ; try++ {
		core, err := minio.NewCore(s.o.Endpoint, &minio.Options{
			Creds: s.creds, Secure: !s.o.PlainHTTP, Transport: s.http, Region: s.region, BucketLookup: s.o.Addressing.lookup(),
			MaxRetries: 1, // one try: retrying is the caller's
		})
		if err != nil {
			return err
		}
		s.core = core
		ctx, c := withCall(ctx)
		p, err := s.page(ctx, listing{prefix: s.prefix, max: pageSize})
		if err == nil {
			s.opened = &opened{p, time.Now()}
			return nil
		}
		// A server that expects another region names it.
		if hint := regionHint(err); hint != "" && hint != s.region && try < 3 {
			s.region = hint
			continue
		}
		err = s.classify(ctx, err, c)
		if !errors.Is(err, backends.ErrGone) {
			return err
		}
		if !s.o.Create || made {
			// %v: nothing was there before, so it cannot have gone.
			return fmt.Errorf("%w: %v", fs.ErrNotExist, err)
		}
		if err := s.makeBucket(ctx); err != nil {
			return err
		}
		made = true
	}
}

func (s *Store) makeBucket(ctx context.Context) error {
	ctx, c := withCall(ctx)
	var err error
	withMD5(func() {
		err = s.core.MakeBucket(ctx, s.o.Bucket, minio.MakeBucketOptions{Region: s.region, ObjectLocking: s.o.CreateLocked})
	})
	switch minio.ToErrorResponse(err).Code {
	case "BucketAlreadyOwnedByYou", "BucketAlreadyExists": // the listing that follows tells whether it can be used
		return nil
	case "OperationAborted", "InternalError": // servers say so too where somebody else makes it at the same moment
		if ok, there := s.core.BucketExists(ctx, s.o.Bucket); there == nil && ok {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("making the bucket: %w", s.classify(ctx, err, c))
	}
	return nil
}

// withMD5 calls f, for which minio-go sends an MD5 of a small document as S3 demands. It is no more than a checksum, and the signature covers the
// document. With GODEBUG=fips140=only it would panic.
func withMD5(f func()) { fips140.WithoutEnforcement(f) }

// Close gives up the connections that are not in use. Calls that are under way end as ever.
func (s *Store) Close() error {
	s.http.inner.CloseIdleConnections()
	return nil
}

// Region returns the region of the bucket, for an Options.Region that saves a request.
func (s *Store) Region() string { return s.region }

func (s *Store) key(name string) string { return s.prefix + name }

// Put implements backends.Storage. Where the server has no conditional writes as found by Probe, opts.IfAbsent is ErrUnsupported, and likewise
// opts.RetainUntil where the bucket has no object lock. If the abilities are unknown, the first such call probes them. A conditional write that
// collides with another one is tried anew for some seconds, and one whose answer was lost is ErrExist if the file is there. RetainUntil is rounded up to a second, and needs clocks that
// agree (backends.ErrClock). Replacing a file in a bucket with versions keeps the old version, until Delete.
func (s *Store) Put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	if err := s.put(ctx, name, data, opts); err != nil {
		return fmt.Errorf("storing %q (%d bytes): %w", name, len(data), err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, name string, data []byte, opts backends.PutOptions) error {
	if err := check(ctx, name); err != nil {
		return err
	}
	if len(data) > backends.MaxObject {
		return fmt.Errorf("the limit is %d bytes: %w", backends.MaxObject, backends.ErrPermanent)
	}
	if err := opts.CheckExtend(data); err != nil {
		return err
	}
	if opts.IfAbsent || !opts.RetainUntil.IsZero() {
		able, err := s.known(ctx)
		if err != nil {
			return err
		}
		if opts.IfAbsent && !able.Conditional {
			return fmt.Errorf("creating exclusively: %w", backends.ErrUnsupported)
		}
		if !opts.RetainUntil.IsZero() && !able.ObjectLock {
			return fmt.Errorf("keeping files until a date: the bucket has no object lock: %w", backends.ErrUnsupported)
		}
	}
	if !opts.RetainUntil.IsZero() {
		if err := s.checkClock(); err != nil {
			return err
		}
	}
	if opts.Extend {
		return s.extend(ctx, name, opts.RetainUntil, opts.Compliance)
	}
	put := s.request(name, data, opts)
	for try := 0; ; try++ {
		version, err := s.store(ctx, s.key(name), data, put)
		if err == nil && opts.IfAbsent && version == "" {
			s.plain(name)
		}
		if _, lost := errors.AsType[*lostError](err); lost && opts.IfAbsent {
			// A server that refuses may close the connection before it has read the bytes, and then its answer may never arrive.
			if _, missing := s.stat(ctx, s.key(name)); missing == nil {
				return fmt.Errorf("%w: %v", fs.ErrExist, err)
			}
		}
		if !errors.Is(err, errConflict) {
			return err
		}
		// Another write of this name is under way: neither has created it yet as far as the server says.
		if try == maxConflicts {
			if _, err := s.stat(ctx, s.key(name)); err == nil {
				return fs.ErrExist
			}
			return err
		}
		if err := sleep(ctx, time.Duration(float64(50*time.Millisecond<<try)*(0.5+rand.Float64()))); err != nil {
			return err
		}
	}
}

// castagnoli is computed by an instruction, at more than 10 GB/s.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Names of headers.
const (
	headerCRC32C = "X-Amz-Checksum-Crc32c"
	headerSHA256 = "X-Amz-Checksum-Sha256"
)

// upload is what a PUT says besides its bytes.
type upload struct {
	minio.PutObjectOptions
	sum, sumHeader string // checksum, and the header that carries it
	sumName        string
	receipt        *backends.Receipt // nil: nobody asks
	sha256Hex      string            // "" leaves the bytes out of the signature
}

func (s *Store) request(name string, data []byte, opts backends.PutOptions) upload {
	u := upload{receipt: opts.Receipt}
	if s.o.Checksum == SHA256 {
		sum := sha256.Sum256(data)
		u.sumName = "SHA-256"
		u.sumHeader, u.sum, u.sha256Hex = headerSHA256, base64.StdEncoding.EncodeToString(sum[:]), hex.EncodeToString(sum[:])
	} else {
		sum := binary.BigEndian.AppendUint32(nil, crc32.Checksum(data, castagnoli))
		u.sumName = "CRC-32C"
		u.sumHeader, u.sum = headerCRC32C, base64.StdEncoding.EncodeToString(sum)
	}
	u.PutObjectOptions = minio.PutObjectOptions{
		StorageClass: s.o.class(name),
		UserMetadata: map[string]string{u.sumHeader: u.sum},
		// The signature covers the checksum instead of the bytes, without a second pass over them.
		DisableContentSha256: true,
	}
	if opts.IfAbsent {
		u.SetMatchETagExcept("*")
	}
	if !opts.RetainUntil.IsZero() {
		u.Mode = lockMode(opts.Compliance)
		u.RetainUntilDate = wholeSecond(opts.RetainUntil)
	}
	return u
}

// store does one PUT, and returns the version it made, "" in a bucket without.
func (s *Store) store(ctx context.Context, key string, data []byte, u upload) (version string, err error) {
	s.changing()
	ctx, c := withCall(ctx)
	b := &body{rest: data}
	defer b.detach()
	// Core's PutObject is a single PUT whatever the size.
	info, err := s.core.PutObject(ctx, s.o.Bucket, key, b, int64(len(data)), "", u.sha256Hex, u.PutObjectOptions)
	if err != nil {
		return "", s.classify(ctx, err, c)
	}
	if info.ETag == "" {
		return "", fmt.Errorf("the answer (%d) is not one of S3: it has no ETag", c.status)
	}
	switch echo := c.header.Get(u.sumHeader); {
	case echo != "" && echo != u.sum:
		return "", fmt.Errorf("the server stored other bytes: their checksum is %q, not %q", echo, u.sum)
	case echo != "" && u.receipt != nil && !s.o.NoReceipts:
		u.receipt.Checksum = u.sumName
	}
	return info.VersionID, nil
}

// body hands out the bytes of a Put until that returns: net/http may go on sending for a moment, and the bytes are the caller's.
type body struct {
	mu   sync.Mutex // guards rest
	rest []byte
	over bool // detached
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errors.New("the call has returned")
	}
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *body) detach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over, b.rest = true, nil
}

// Get implements backends.Storage. A file in a storage class that must be restored first is ErrCold.
func (s *Store) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	data, err := s.get(ctx, name, off, n)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	return data, nil
}

func (s *Store) get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if err := check(ctx, name); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("negative offset %d", off)
	}
	if n == 0 || n > backends.MaxObject || off > math.MaxInt64-max(n, 0) {
		// No range says this, or it is refused whatever the size.
		return s.outside(ctx, name, off, n)
	}
	ctx, c := withCall(ctx)
	var opts minio.GetObjectOptions
	switch {
	case n > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	case off > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	r, info, header, err := s.core.GetObject(ctx, s.o.Bucket, s.key(name), opts)
	if err != nil {
		if c.status == http.StatusRequestedRangeNotSatisfiable {
			return s.outside(ctx, name, off, n)
		}
		return nil, s.found(ctx, s.key(name), s.classify(ctx, err, c))
	}
	defer r.Close()
	length := info.Size // of the answer
	if length < 0 {
		return nil, fmt.Errorf("the answer (%d) does not say its length", c.status)
	}
	if n > 0 || off > 0 {
		size, err := rangeSize(header.Get("Content-Range"), off, length)
		if err != nil || c.status != http.StatusPartialContent {
			return nil, fmt.Errorf("asked for bytes from %d on, the server answers %d with the range %q", off, c.status, header.Get("Content-Range"))
		}
		if n, err = backends.Span(size, off, n); err != nil {
			return nil, err
		}
	} else if n, err = backends.Span(length, 0, -1); err != nil {
		return nil, err
	}
	if c.status == http.StatusOK && info.ETag == "" || length != n {
		return nil, fmt.Errorf("asked for %d bytes, the answer (%d) has %d", n, c.status, length)
	}
	data := backends.Buffer(n)
	if got, err := io.ReadFull(r, data); err != nil {
		backends.Release(data)
		if err := ended(ctx); err != nil {
			return nil, err
		}
		// %v: the connection ended, not the file.
		return nil, fmt.Errorf("the answer was cut after %d of %d bytes: %v", got, n, err)
	}
	return data, nil
}

// outside answers a Get of bytes that the server cannot be asked for: of none, or of a range that goes beyond the file's end.
func (s *Store) outside(ctx context.Context, name string, off, n int64) ([]byte, error) {
	o, err := s.stat(ctx, s.key(name))
	if err != nil {
		return nil, err
	}
	if n, err = backends.Span(o.Size, off, n); err != nil {
		return nil, err
	}
	if n > 0 {
		return nil, fmt.Errorf("the server refuses bytes %d+%d of %d", off, n, o.Size)
	}
	return []byte{}, nil
}

// rangeSize returns the size of the file from the header Content-Range "bytes 5-9/100" of an answer of length bytes that begins at off.
func rangeSize(header string, off, length int64) (int64, error) {
	span, total, ok := strings.Cut(strings.TrimPrefix(header, "bytes "), "/")
	first, last, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 || !strings.HasPrefix(header, "bytes ") {
		return 0, errors.New("no range")
	}
	var err error
	number := func(s string) int64 {
		v, e := strconv.ParseInt(s, 10, 64)
		err = errors.Join(err, e)
		return v
	}
	from, to, size := number(first), number(last), number(total)
	if err != nil {
		return 0, err
	}
	if from != off || to < from || to >= size || to-from+1 != length {
		return 0, errors.New("another range")
	}
	return size, nil
}

// Stat implements backends.Storage. Without the permission s3:GetObjectRetention Amazon does not say until when a file is kept.
func (s *Store) Stat(ctx context.Context, name string) (backends.Info, error) {
	err := check(ctx, name)
	if err == nil {
		var o minio.ObjectInfo
		if o, err = s.stat(ctx, s.key(name)); err == nil {
			info := backends.Info{Name: name, Size: o.Size, ModTime: o.LastModified.Truncate(time.Second)}
			if info.RetainUntil, info.Guard, err = retention(o); err == nil {
				return info, nil
			}
		}
	}
	return backends.Info{}, fmt.Errorf("looking for %q: %w", name, err)
}

func (s *Store) stat(ctx context.Context, key string) (minio.ObjectInfo, error) {
	ctx, c := withCall(ctx)
	o, err := s.core.StatObject(ctx, s.o.Bucket, key, minio.StatObjectOptions{})
	if err != nil {
		return minio.ObjectInfo{}, s.found(ctx, key, s.classify(ctx, err, c))
	}
	if o.ETag == "" || o.Size < 0 || c.status != http.StatusOK {
		return minio.ObjectInfo{}, fmt.Errorf("the answer (%d) is not one of S3: it has no ETag or no length", c.status)
	}
	return o, nil
}

// Delete implements backends.Storage. A file that this Store created in a bucket without versions is deleted without asking whether it is still there:
// if somebody else was quicker that is no error. In a bucket with versions it needs the permissions s3:ListBucketVersions and s3:DeleteObjectVersion, and without
// them matches fs.ErrPermission, as it does for a locked version. Governance mode is never bypassed.
func (s *Store) Delete(ctx context.Context, name string) error {
	err := check(ctx, name)
	if err == nil {
		err = s.remove(ctx, s.key(name))
	}
	if err != nil {
		return fmt.Errorf("deleting %q: %w", name, err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, key string) error {
	s.changing()
	if s.takePlain(key) {
		return s.removePlain(ctx, key)
	}
	// A DELETE succeeds for what does not exist, so this request has to say it.
	o, err := s.stat(ctx, key)
	if err != nil {
		return err
	}
	if o.VersionID == "" {
		return s.removeVersion(ctx, key, "")
	}
	versions, err := s.versions(ctx, key)
	if err != nil {
		return err
	}
	// The oldest first: each newer one hides those before it, so that nothing changes for readers until the newest goes, as the last.
	for i := len(versions) - 1; i >= 0; i-- {
		if versions[i] == o.VersionID {
			continue
		}
		if err := s.removeVersion(ctx, key, versions[i]); err != nil {
			return err
		}
	}
	return s.removeVersion(ctx, key, o.VersionID)
}

// removePlain deletes an object that this Store created and that had no version. If the bucket has got versions since, a delete marker hides the object
// now, which then is removed like any other.
func (s *Store) removePlain(ctx context.Context, key string) error {
	ctx, c := withCall(ctx)
	err := s.core.RemoveObject(ctx, s.o.Bucket, key, minio.RemoveObjectOptions{})
	if err != nil {
		return s.classify(ctx, err, c)
	}
	if c.status != http.StatusNoContent {
		return fmt.Errorf("the answer (%d) is not one of S3", c.status)
	}
	if c.header.Get("X-Amz-Delete-Marker") != "true" {
		return nil
	}
	versions, err := s.versions(ctx, key)
	if err != nil {
		return err
	}
	for i := len(versions) - 1; i >= 0; i-- {
		if err := s.removeVersion(ctx, key, versions[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) removeVersion(ctx context.Context, key, version string) error {
	ctx, c := withCall(ctx)
	err := s.core.RemoveObject(ctx, s.o.Bucket, key, minio.RemoveObjectOptions{VersionID: version})
	if minio.ToErrorResponse(err).Code == "NoSuchVersion" { // another Delete was quicker
		return nil
	}
	if err == nil && c.status != http.StatusNoContent {
		return fmt.Errorf("the answer (%d) is not one of S3", c.status)
	}
	return s.keptError(ctx, key, version, s.classify(ctx, err, c))
}

func check(ctx context.Context, name string) error {
	if err := ended(ctx); err != nil {
		return err
	}
	return backends.CheckName(name)
}

// ended returns an error matching the context's once that is done.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil || errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}

// certificateError finds what is wrong with a server's certificate, or nil.
func certificateError(err error) *tls.CertificateVerificationError {
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return e
	}
	return nil
}
