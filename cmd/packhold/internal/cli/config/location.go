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

// Location is where a repository is.
type Location struct {
	Type string // local, sftp or s3
	Path string // local: an absolute path; otherwise ""
	text string

	Storage Storage // sftp and s3: all that was said of it
}

// String returns the location as it may be shown, without a password.
func (l Location) String() string { return l.text }

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
		if u.User != nil || u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https" {
			return Location{}, errors.New("an S3 repository is written s3://endpoint/bucket/prefix or s3:http://host:port/bucket/prefix; keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
		}
		bucket, prefix, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
		return Location{Type: "s3", text: "s3:" + masked(u), Storage: Storage{Type: "s3", Endpoint: u.Host, Bucket: bucket, Prefix: prefix, PlainHTTP: u.Scheme == "http"}}, nil
	case scheme == "sftp" && found:
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
			return Location{}, errors.New("an SFTP repository is written sftp://user@host:port/absolute/path, /~/ for the home folder")
		}
		st := Storage{Type: "sftp", Host: u.Hostname(), User: u.User.Username(), Path: u.Path}
		if p := u.Port(); p != "" {
			if st.Port, err = strconv.Atoi(p); err != nil {
				return Location{}, fmt.Errorf("%s is no port", term.Name(p))
			}
		}
		if _, secret := u.User.Password(); secret {
			return Location{}, errors.New("a password has no place in the address of a repository: use a key")
		}
		if u.RawQuery != "" || u.Fragment != "" {
			return Location{}, errors.New("an SFTP repository is written sftp://user@host:port/absolute/path, /~/ for the home folder")
		}
		if home, ok := strings.CutPrefix(u.Path, "/~/"); ok {
			st.Path = home
		}
		return Location{Type: "sftp", text: masked(u), Storage: st}, nil
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

// defaultFolder is where in the home folder on an SFTP server a repository is when nothing is said.
const defaultFolder = "packhold"

// Location returns where s says the repository is. s is from a checked file. What it is shown as means the same place to ParseLocation.
func (s *Storage) Location() Location {
	switch s.Type {
	case "sftp":
		in := *s
		if in.Path == "" {
			in.Path = defaultFolder
		}
		u := url.URL{Scheme: "sftp", Host: s.Host, Path: in.Path}
		if !strings.HasPrefix(in.Path, "/") {
			u.Path = "/~/" + in.Path
		}
		if strings.Contains(s.Host, ":") {
			u.Host = "[" + s.Host + "]"
		}
		if s.Port != 0 {
			u.Host = net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
		}
		if s.User != "" {
			u.User = url.User(s.User)
		}
		return Location{Type: "sftp", text: u.String(), Storage: in}
	case "s3":
		endpoint, scheme := s.Endpoint, "s3"
		if endpoint == "" {
			endpoint = "s3.amazonaws.com"
		}
		u := url.URL{Scheme: scheme, Host: endpoint, Path: "/" + s.Bucket}
		if s.Prefix != "" {
			u.Path += "/" + s.Prefix
		}
		if s.PlainHTTP {
			u.Scheme = "http"
			return Location{Type: "s3", text: "s3:" + u.String(), Storage: *s}
		}
		return Location{Type: "s3", text: u.String(), Storage: *s}
	}
	path := filepath.Clean(s.Path)
	return Location{Type: "local", Path: path, text: path}
}
