// Package place opens the storage that a repository is kept in.
package place

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"packhold/backends"
	"packhold/backends/cache"
	"packhold/backends/limit"
	"packhold/backends/local"
	"packhold/backends/retry"
	"packhold/backends/s3"
	"packhold/cmd/packhold/internal/cli/config"
	"packhold/repo/stored"
)

// Options say how to open a place.
type Options struct {
	Getenv       func(string) string
	Create       bool   // make what the repository is kept in: a folder, a bucket
	CreateLocked bool   // with object lock
	Stale        bool   // remove what killed runs left half written
	User         string // who runs the program
	Now          func() time.Time

	// Ask asks for the passphrase of a key file; nil: nobody is there to be asked.
	Ask func(ctx context.Context, prompt string) ([]byte, error)

	Memory string // the folder that remembers what places can do; "" forgets

	// Up and Down are how many bytes a second may go to the place and come from it; 0: any.
	Up, Down int64

	// Waiting is told that a call failed and is tried again after the wait, and Back that the place answers again: see retry.Options.
	Waiting func(what string, err error, wait time.Duration)
	Back    func(away time.Duration)
}

// Place is an open storage. Close lets it go.
type Place struct {
	backends.Storage
	io.Closer

	// Far says that every call costs a round trip on a network, Flat that a listing costs one whatever it lists.
	Far, Flat bool
}

// Cached returns p with a folder of this machine for the small objects that are named by their hash and that a repository finds by listings. It is
// not for who has to know what the storage holds. A place that is near is returned as it is.
func (p *Place) Cached(folder string) backends.Storage {
	if !p.Far {
		return p
	}
	return cache.New(p, cache.Options{Dir: folder, Keep: func(name string) bool {
		return slices.ContainsFunc(cachedPrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	}})
}

// cachedPrefixes are where such objects stand. The index has a cache of its own, and packs are not named by all of their bytes.
var cachedPrefixes = []string{"roots/", "hosts/", "grants/", "bundles/", "forgotten/", "copied/", "verified/"}

// Open opens the place at l. One that does not exist is an error matching fs.ErrNotExist unless Create is set.
func Open(ctx context.Context, l config.Location, o Options) (*Place, error) {
	switch l.Type {
	case "local":
		st, err := local.Open(l.Path, local.Options{Create: o.Create, RemoveStale: o.Stale})
		if err != nil {
			return nil, err
		}
		if o.Up+o.Down > 0 {
			return &Place{Storage: limit.New(o.Up, o.Down).Storage(st), Closer: st}, nil
		}
		return &Place{Storage: st, Closer: st}, nil
	case "s3":
		st, err := openS3(ctx, l, o)
		if err != nil {
			return nil, stored.Failed("opening", l.String(), err)
		}
		return &Place{Storage: retry.New(st, retry.Options{Waiting: o.Waiting, Back: o.Back}), Closer: st, Far: true, Flat: true}, nil
	case "sftp":
		known := recall(o, l)
		if known == nil {
			known = new(memory)
		}
		o.Stale = known.sweeps(o)
		st, err := openSFTP(ctx, l.Storage, o)
		if err != nil {
			return nil, stored.Failed("opening", l.String(), err)
		}
		if o.Stale {
			known.Swept = o.Now()
			remember(o, l, *known)
		}
		p := &Place{Storage: retry.New(st, retry.Options{Waiting: o.Waiting, Back: o.Back}), Closer: st, Far: true}
		if o.Up+o.Down > 0 && len(l.Storage.Command) > 0 { // which has no connection of ours
			p.Storage = limit.New(o.Up, o.Down).Storage(p.Storage)
		}
		return p, nil
	}
	return nil, fmt.Errorf("storage type %s is unknown", l.Type) // config accepts no other
}

func optionsS3(c config.Storage, o Options) (s3.Options, error) {
	so := s3.Options{Endpoint: c.Endpoint, PlainHTTP: c.PlainHTTP, Bucket: c.Bucket, Prefix: c.Prefix, Create: o.Create, CreateLocked: o.CreateLocked, NoReceipts: c.ReadBack, Connections: c.Connections,
		Region: cmp.Or(c.Region, o.Getenv("AWS_REGION"), o.Getenv("AWS_DEFAULT_REGION")), Proxy: http.ProxyFromEnvironment}
	if o.Up+o.Down > 0 {
		so.Conn = limit.New(o.Up, o.Down).Conn
	}
	switch c.Addressing {
	case "path":
		so.Addressing = s3.PathStyle
	case "virtual-host":
		so.Addressing = s3.VirtualHost
	}
	if c.PackClass != "" {
		so.Classes = map[string]string{"packs/": c.PackClass}
	}
	if c.CAFile != "" {
		var err error
		if so.CA, err = os.ReadFile(c.CAFile); err != nil {
			return so, err
		}
	}
	file := o.Getenv("AWS_SHARED_CREDENTIALS_FILE")
	if home := cmp.Or(o.Getenv("HOME"), o.Getenv("USERPROFILE")); file == "" && home != "" {
		file = filepath.Join(home, ".aws", "credentials")
	}
	shared := s3.SharedFile(file, cmp.Or(c.Profile, o.Getenv("AWS_PROFILE")))
	so.Credentials = []s3.Provider{s3.Environment(o.Getenv), shared, s3.Instance(o.Getenv, "")}
	if c.Profile != "" { // whoever names a profile means it
		so.Credentials = []s3.Provider{shared}
	}
	return so, nil
}

func openS3(ctx context.Context, l config.Location, o Options) (*s3.Store, error) {
	so, err := optionsS3(l.Storage, o)
	if err != nil {
		return nil, err
	}
	known := recall(o, l)
	if !o.Create && known != nil { // who makes a repository looks for himself
		so.Abilities, so.Region = &known.S3, cmp.Or(so.Region, known.Region)
	}
	st, err := s3.Open(ctx, so)
	if err != nil {
		return nil, err
	}
	if known.sweeps(o) {
		if _, err = st.RemoveStale(ctx); err == nil && so.Abilities != nil {
			known.Swept = o.Now()
			remember(o, l, *known)
		}
	}
	if so.Abilities == nil && err == nil {
		var a s3.Abilities
		if a, err = st.Probe(ctx); err == nil {
			m := memory{S3: a, Region: st.Region()}
			if o.Stale || o.Create { // or there is nothing of ours yet
				m.Swept = o.Now()
			}
			remember(o, l, m)
		}
	}
	// Who may only read can do neither, and needs neither.
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
}
