package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"packhold/cmd/packhold/internal/cli/term"
)

// Origin says where a setting came from.
type Origin string

// The origins. That of a setting from the environment is "environment NAME", from the file "file".
const (
	FromFlag    Origin = "flag"
	FromFile    Origin = "file"
	FromDefault Origin = "default"
)

// FromEnvironment is the origin of a setting taken from the variable name.
func FromEnvironment(name string) Origin { return Origin("environment " + name) }

// Flags are the settings given on the command line; empty ones are not given.
type Flags struct {
	Config, Repository, CacheDir string
	LimitUpload, LimitDownload   string
}

// Settings is what a run works with.
type Settings struct {
	Folders          Folders
	Path             string // of the configuration file, "" if there is none
	PathOrigin       Origin
	File             *File // never nil
	Repository       Location
	RepositoryOrigin Origin
	CacheOrigin      Origin
	Up, Down         int64 // bytes a second to and from the repository; 0: any
}

// FileError is an error of the configuration file at Path. The cause is a *Problem, or the system's error.
type FileError struct {
	Path string
	Err  error
}

// Error returns the path and the cause.
func (e *FileError) Error() string {
	return fmt.Sprintf("reading configuration %s: %v", e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// Load finds and reads the configuration file and settles every setting: flag before environment before file before
// default. A file that was named must exist. Errors are *FileError, ErrNoHome, or about the named repository.
func Load(flags Flags, getenv func(string) string) (*Settings, error) {
	s := &Settings{File: new(File), CacheOrigin: FromDefault}
	var err error
	if s.Folders, err = FindFolders(getenv); err != nil && !errors.Is(err, ErrNoHome) {
		return nil, err
	}
	switch {
	case flags.CacheDir != "":
		if s.Folders.Cache, err = filepath.Abs(flags.CacheDir); err != nil {
			return nil, err
		}
		s.CacheOrigin = FromFlag
	case getenv("PACKHOLD_CACHE_DIR") != "":
		s.CacheOrigin = FromEnvironment("PACKHOLD_CACHE_DIR")
	}
	if err := s.loadFile(flags, getenv); err != nil {
		return nil, err
	}
	if s.Up, err = Rate(cmp.Or(flags.LimitUpload, s.File.LimitUpload)); err != nil {
		return nil, fmt.Errorf("limit of uploads: %w", err)
	}
	if s.Down, err = Rate(cmp.Or(flags.LimitDownload, s.File.LimitDownload)); err != nil {
		return nil, fmt.Errorf("limit of downloads: %w", err)
	}
	return s, s.findRepository(flags, getenv)
}

// leastRate is the slowest rate, bytes a second: what takes longer than a server waits for the rest of a request is no connection.
const leastRate = 1 << 10

// Rate reads a number of bytes a second, such as 2M. Nothing is no limit, which is 0.
func Rate(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := term.ParseSize(text)
	if err == nil && n < leastRate {
		err = fmt.Errorf("%s a second is too slow: at least %s", term.Bytes(n), term.Bytes(leastRate))
	}
	return n, err
}

// loadFile reads the file that is named, or else the first of the user's and the machine's that exists.
func (s *Settings) loadFile(flags Flags, getenv func(string) string) error {
	path, origin, named := FilePath(flags, getenv, s.Folders)
	candidates := []string{path}
	if !named {
		candidates = append(candidates, SystemFile())
	}
	for _, path := range candidates {
		if path == "" {
			continue
		}
		data, err := readCapped(path)
		if errors.Is(err, fs.ErrNotExist) && !named {
			continue
		}
		if err != nil {
			return &FileError{path, err}
		}
		if s.File, err = Parse(data); err != nil {
			return &FileError{path, err}
		}
		s.Path, s.PathOrigin = path, origin
		return nil
	}
	return nil
}

// FilePath returns which configuration file is named by flag or environment, or else the user's.
func FilePath(flags Flags, getenv func(string) string, folders Folders) (path string, origin Origin, named bool) {
	if flags.Config != "" {
		return flags.Config, FromFlag, true
	}
	if env := getenv("PACKHOLD_CONFIG"); env != "" {
		return env, FromEnvironment("PACKHOLD_CONFIG"), true
	}
	if folders.Config == "" {
		return "", FromDefault, false
	}
	return filepath.Join(folders.Config, "config.json"), FromDefault, false
}

func readCapped(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxFile+1)) // Parse refuses the one byte too many
}

func (s *Settings) findRepository(flags Flags, getenv func(string) string) error {
	var err error
	switch env := getenv("PACKHOLD_REPOSITORY"); {
	case flags.Repository != "":
		s.Repository, err = ParseLocation(flags.Repository)
		s.RepositoryOrigin = FromFlag
	case env != "":
		s.Repository, err = ParseLocation(env)
		s.RepositoryOrigin = FromEnvironment("PACKHOLD_REPOSITORY")
	case s.File.Storage != nil:
		s.Repository = s.File.Storage.Location()
		s.RepositoryOrigin = FromFile
	case s.Folders.Data == "":
		err = ErrNoHome
	default:
		path := s.Folders.DefaultRepository()
		s.Repository = Location{Type: "local", Path: path, text: path}
		s.RepositoryOrigin = FromDefault
	}
	return err
}

// Entry is one effective setting with its origin, for `config show`.
type Entry struct {
	Name   string
	Value  string
	Origin Origin
}

// hidden are the variables whose value is never shown.
func hidden() []string {
	return []string{"PACKHOLD_PASSPHRASE", "PACKHOLD_NEW_PASSPHRASE", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
}

// Entries lists the effective settings. Secrets are masked: a password in the repository's address is left out, a
// passphrase is told to be there and no more.
func (s *Settings) Entries(getenv func(string) string) []Entry {
	f := s.File
	from := func(name, value, fallback string) Entry {
		if value == "" {
			return Entry{name, fallback, FromDefault}
		}
		return Entry{name, value, FromFile}
	}
	flag := func(name string, set bool) Entry {
		if set {
			return Entry{name, "true", FromFile}
		}
		return Entry{name, "false", FromDefault}
	}
	folder := func(name, value, env string) Entry {
		origin := FromDefault
		if getenv(env) != "" {
			origin = FromEnvironment(env)
		}
		return Entry{name, value, origin}
	}
	path, pathOrigin := s.Path, s.PathOrigin
	if path == "" {
		path, pathOrigin = "none", FromDefault
	}
	list := []Entry{
		{"config", path, pathOrigin},
		{"repository", s.Repository.String(), s.RepositoryOrigin},
		folder("config_dir", s.Folders.Config, "PACKHOLD_CONFIG_DIR"),
		{"cache_dir", s.Folders.Cache, s.CacheOrigin},
		folder("state_dir", s.Folders.State, "PACKHOLD_STATE_DIR"),
		from("limit_upload", f.LimitUpload, "none"),
		from("limit_download", f.LimitDownload, "none"),
		from("compression", f.Compression, Compressions()[0]),
		from("exclude", strings.Join(f.Exclude, " "), ""),
		from("exclude_file", strings.Join(f.ExcludeFile, " "), ""),
		flag("exclude_caches", f.ExcludeCaches),
		flag("one_file_system", f.OneFileSystem),
		from("tags", strings.Join(f.Tags, " "), ""),
	}
	for _, name := range []string{"PACKHOLD_PASSPHRASE_FILE", "PACKHOLD_PASSPHRASE_COMMAND"} {
		if v := getenv(name); v != "" {
			list = append(list, Entry{strings.ToLower(strings.TrimPrefix(name, "PACKHOLD_")), v, FromEnvironment(name)})
		}
	}
	for _, name := range hidden() {
		if getenv(name) != "" {
			list = append(list, Entry{strings.ToLower(strings.TrimPrefix(name, "PACKHOLD_")), "(hidden)", FromEnvironment(name)})
		}
	}
	for i := range f.Jobs {
		j := &f.Jobs[i]
		value := j.Type
		if value == "" {
			value = BackupTypes()[0]
		}
		value += " of " + strings.Join(j.Source, " ")
		if j.Schedule != "" {
			value += ", schedule " + j.Schedule
		}
		if j.Retention != "" {
			value += ", retention " + j.Retention
		}
		list = append(list, Entry{"job " + j.Title(), value, FromFile})
	}
	return list
}
