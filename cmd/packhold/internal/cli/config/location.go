package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"packhold/cmd/packhold/internal/cli/term"
)

// ErrUnsupported is matched by the error of a storage that this version has no driver for.
var ErrUnsupported = errors.New("not supported by this version")

// Location is where a repository is.
type Location struct {
	Type string // local, sftp or s3
	Path string // local: an absolute path; otherwise "", the text says it
	text string
}

// String returns the location as it may be shown, without a password.
func (l Location) String() string { return l.text }

// Supported returns an error matching ErrUnsupported if this version cannot open the location.
func (l Location) Supported() error {
	if l.Type != "local" {
		return fmt.Errorf("storage type %s is %w", l.Type, ErrUnsupported)
	}
	return nil
}

// ParseLocation reads what --repo and PACKHOLD_REPOSITORY take: a path, sftp://user@host:port/absolute/path or
// s3://endpoint/bucket/prefix (s3:http://host:port/bucket/prefix for plain HTTP). Relative paths begin at the working
// folder.
func ParseLocation(s string) (Location, error) {
	switch scheme, _, found := strings.Cut(s, "://"); {
	case s == "" || strings.ContainsRune(s, 0):
		return Location{}, fmt.Errorf("%s is not a repository", term.Name(s))
	case strings.HasPrefix(s, "s3:"):
		u, err := url.Parse(strings.TrimPrefix(s, "s3:"))
		if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
			return Location{}, errors.New("an S3 repository is written s3://endpoint/bucket/prefix or s3:http://host:port/bucket/prefix")
		}
		return Location{Type: "s3", text: "s3:" + masked(u)}, nil
	case scheme == "sftp" && found:
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
			return Location{}, errors.New("an SFTP repository is written sftp://user@host:port/absolute/path, /~/ for the home folder")
		}
		return Location{Type: "sftp", text: masked(u)}, nil
	case found && schemeLike(scheme):
		return Location{}, fmt.Errorf("%s:// is no kind of repository; it is a path, an sftp:// or an s3:// address", scheme)
	}
	path, err := filepath.Abs(s)
	if err != nil {
		return Location{}, fmt.Errorf("finding the working folder: %w", err)
	}
	return Location{Type: "local", Path: path, text: path}, nil
}

// masked returns u without its password. url.Redacted would keep a placeholder for it, which looks like a value.
func masked(u *url.URL) string {
	shown := *u
	if u.User != nil {
		shown.User = url.User(u.User.Username())
	}
	return shown.String()
}

func schemeLike(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '+' && c != '-' && c != '.' {
			return false
		}
	}
	return len(s) > 1 // a single letter is a Windows drive
}

// Location returns where s says the repository is. s is from a checked file.
func (s *Storage) Location() Location {
	switch s.Type {
	case "sftp":
		u := url.URL{Scheme: "sftp", Host: s.Host, Path: s.Path}
		if s.Port != 0 {
			u.Host = net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
		}
		if s.User != "" {
			u.User = url.User(s.User)
		}
		return Location{Type: "sftp", text: u.String()}
	case "s3":
		endpoint, scheme := s.Endpoint, "s3"
		if endpoint == "" {
			endpoint = "s3.amazonaws.com"
		}
		u := url.URL{Scheme: scheme, Host: endpoint, Path: "/" + s.Bucket}
		if s.Prefix != "" {
			u.Path += "/" + s.Prefix
		}
		return Location{Type: "s3", text: u.String()}
	}
	path := filepath.Clean(s.Path)
	return Location{Type: "local", Path: path, text: path}
}
