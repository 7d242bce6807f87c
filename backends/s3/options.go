package s3

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// Defaults of Options.
const (
	DefaultEndpoint    = "s3.amazonaws.com"
	DefaultConnections = 8
	DefaultStall       = 2 * time.Minute

	// firstRegion is the one Amazon's s3.amazonaws.com and most other servers call theirs. One of another region says which.
	firstRegion = "us-east-1"
)

// Options says where a repository is and how it is reached. Bucket and Credentials are needed, the rest has useful zero values.
type Options struct {
	// Endpoint is a host or host:port, DefaultEndpoint if empty.
	Endpoint string

	// PlainHTTP does without TLS: everybody on the way can read object names and times, cut, delay and repeat. Contents stay sealed.
	PlainHTTP bool

	// Bucket is the bucket's name. Amazon's directory buckets (S3 Express) are not supported.
	Bucket string

	// Prefix is where in the bucket the repository is, like "backups/prod"; slashes at its ends do not count. Empty is the whole bucket.
	Prefix string

	// Region is the bucket's. Empty, or wrong, it is taken from the endpoint's name or from the server's first answer.
	Region string

	// Addressing says where the bucket's name stands in addresses.
	Addressing Addressing

	// Credentials are the places to look for credentials; the first that has some is used. When they expire all are asked again.
	Credentials []Provider

	// CA, if not empty, holds certificates in PEM form to trust besides the system's.
	CA []byte

	// Proxy returns the proxy for a request, or nil; http.ProxyFromEnvironment reads the usual variables. Nil is no proxy. It may be called concurrently.
	Proxy func(*http.Request) (*url.URL, error)

	// Classes maps prefixes of names, such as "packs/", to the storage class of the files below; the longest one that fits counts. Others, and those
	// whose class is "", get the bucket's default. The repository reads and lists everything but packs at any time: only "packs/" may be cold, and
	// restoring, verifying, repairing and pruning need a cold pack back first (ErrCold).
	Classes map[string]string

	// Create makes the bucket if it is missing, with CreateLocked one with object lock, which cannot be had later everywhere.
	Create       bool
	CreateLocked bool

	// Checksum is sent with every file, and compared by the server.
	Checksum Checksum

	// NoReceipts has Put report no checksums, for who wants to read everything back.
	NoReceipts bool

	// Connections is the greatest number at a time, DefaultConnections if 0. Further calls wait.
	Connections int

	// Stall is for how long nothing may move on a connection, in either direction, before the call that waits for it fails; DefaultStall if 0. It
	// bounds too how long the server may take to answer what it has received.
	Stall time.Duration

	// Conn, if not nil, wraps every connection, below TLS, such as limit.Limiter.Conn.
	Conn func(net.Conn) net.Conn

	// Abilities, if not nil, is what an earlier Probe of this bucket at this endpoint found. Nil makes the first Put that needs to know probe.
	Abilities *Abilities
}

// Addressing says where the bucket's name stands in addresses.
type Addressing int

// PathStyle is https://endpoint/bucket/key, VirtualHost is https://bucket.endpoint/key. Auto is VirtualHost for Amazon, Google and Aliyun, where the
// name has no dot, and else PathStyle.
const (
	Auto Addressing = iota
	PathStyle
	VirtualHost
)

func (a Addressing) lookup() minio.BucketLookupType {
	return [...]minio.BucketLookupType{Auto: minio.BucketLookupAuto, PathStyle: minio.BucketLookupPath, VirtualHost: minio.BucketLookupDNS}[a]
}

// Checksum is a checksum of a file's bytes.
type Checksum int

// CRC32C finds accidents at no cost. SHA256 costs a pass over the bytes, is covered by the signature of the request, and is an approved algorithm.
const (
	CRC32C Checksum = iota
	SHA256
)

// checked returns o with its defaults filled in.
func (o Options) checked() (Options, error) {
	if o.Endpoint == "" {
		o.Endpoint = DefaultEndpoint
	}
	if strings.Contains(o.Endpoint, "/") {
		return o, fmt.Errorf("the endpoint %q is not a host or host:port", o.Endpoint)
	}
	if err := s3utils.CheckValidBucketName(o.Bucket); err != nil {
		return o, err
	}
	if o.Prefix = strings.Trim(o.Prefix, "/"); o.Prefix != "" {
		for element := range strings.SplitSeq(o.Prefix, "/") {
			if element == "" || element == "." || element == ".." {
				return o, fmt.Errorf("the prefix %q has an element %q", o.Prefix, element)
			}
		}
		if err := s3utils.CheckValidObjectName(o.Prefix); err != nil {
			return o, fmt.Errorf("the prefix %q: %w", o.Prefix, err)
		}
		o.Prefix += "/"
	}
	if o.Region == "" {
		if o.Region = s3utils.GetRegionFromURL(url.URL{Scheme: "https", Host: o.Endpoint}); o.Region == "" {
			o.Region = firstRegion
		}
	}
	if len(o.Credentials) == 0 {
		return o, errors.New("no credentials are given, nor a place to look for them")
	}
	if o.Addressing < Auto || o.Addressing > VirtualHost || o.Checksum < CRC32C || o.Checksum > SHA256 {
		return o, errors.New("an option has an unknown value")
	}
	if o.Connections <= 0 {
		o.Connections = DefaultConnections
	}
	if o.Stall <= 0 {
		o.Stall = DefaultStall
	}
	return o, nil
}

// class returns the storage class of a file.
func (o Options) class(name string) string {
	class, longest := "", -1
	for prefix, c := range o.Classes {
		if len(prefix) > longest && strings.HasPrefix(name, prefix) {
			class, longest = c, len(prefix)
		}
	}
	return class
}

// transport returns the way to the server. It speaks HTTP/1.1 only: S3 servers do, and a stream each of one connection would not be faster.
func (o Options) transport() (*http.Transport, error) {
	t := &http.Transport{
		Proxy:               o.Proxy,
		DialContext:         dialer{stall: o.Stall, wrap: o.Conn}.dial,
		MaxConnsPerHost:     o.Connections,
		MaxIdleConns:        o.Connections,
		MaxIdleConnsPerHost: o.Connections,
		IdleConnTimeout:     time.Minute,
		TLSHandshakeTimeout: min(o.Stall, 20*time.Second),
		// Ranges and lengths are those of the stored bytes.
		DisableCompression: true,
		// The default of 4 KiB costs a system call each.
		WriteBufferSize: 128 << 10,
		ReadBufferSize:  64 << 10,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if len(o.CA) == 0 {
		return t, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without certificates: those given have to do
	}
	if !pool.AppendCertsFromPEM(o.CA) {
		return nil, errors.New("there is no certificate in the CA file: it must be in PEM form")
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

// dialTimeout is for one address of the endpoint.
const dialTimeout = 30 * time.Second

func netDialer(stall time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: min(stall, dialTimeout), KeepAlive: 30 * time.Second}
}
