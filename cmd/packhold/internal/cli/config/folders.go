package config

import (
	"errors"
	"path/filepath"
	"runtime"
)

// Folders are where the program keeps what is its own. They need not exist.
type Folders struct {
	Config string // config.json, and per repository the writer credential
	Cache  string // disposable
	State  string // catalogue, pins
	Data   string // the default repository is below it
}

// ErrNoHome is matched when a folder depends on the home folder and there is none.
var ErrNoHome = errors.New("no home folder is known")

// FindFolders computes the folders from the environment: PACKHOLD_CONFIG_DIR, PACKHOLD_CACHE_DIR and PACKHOLD_STATE_DIR
// as they are, else packhold below the XDG base directories, of which relative ones are ignored as their specification
// (0.8) demands, else below their defaults in the home folder; on Windows below %AppData% and %LocalAppData%.
func FindFolders(getenv func(string) string) (Folders, error) {
	home := getenv("HOME")
	config, cache, state, data := ".config", ".cache", ".local/state", ".local/share"
	if runtime.GOOS == "windows" {
		home = getenv("USERPROFILE")
		config, cache, state, data = `AppData\Roaming`, `AppData\Local\cache`, `AppData\Local\state`, `AppData\Local`
	}
	var missing error
	find := func(own, xdg, below string) string {
		if own != "" {
			if dir := getenv(own); dir != "" {
				abs, err := filepath.Abs(dir)
				if err != nil {
					missing = err
				}
				return abs
			}
		}
		if dir := getenv(xdg); filepath.IsAbs(dir) {
			return filepath.Join(dir, "packhold")
		}
		if !filepath.IsAbs(home) {
			missing = ErrNoHome
			return ""
		}
		return filepath.Join(home, filepath.FromSlash(below), "packhold")
	}
	f := Folders{
		Config: find("PACKHOLD_CONFIG_DIR", "XDG_CONFIG_HOME", config),
		Cache:  find("PACKHOLD_CACHE_DIR", "XDG_CACHE_HOME", cache),
		State:  find("PACKHOLD_STATE_DIR", "XDG_STATE_HOME", state),
	}
	// The data folder is asked for last and only for the default repository: that it is unknown is no error here.
	err := missing
	f.Data = find("", "XDG_DATA_HOME", data)
	return f, err
}

// DefaultRepository is where the repository is when nothing says otherwise, or "" where no data folder is known.
func (f Folders) DefaultRepository() string {
	if f.Data == "" {
		return ""
	}
	return filepath.Join(f.Data, "repository")
}

// SystemFile is the configuration file of the machine, read when the user has none.
func SystemFile() string {
	if runtime.GOOS == "windows" {
		return `C:\ProgramData\packhold\config.json`
	}
	return "/etc/packhold/config.json"
}
