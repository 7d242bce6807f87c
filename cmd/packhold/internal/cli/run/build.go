package run

import (
	"crypto/fips140"
	"runtime"
	"runtime/debug"

	"packhold/crypt"
)

// Build is what the program knows of its own making.
type Build struct {
	Module   string `json:"module"`
	Version  string `json:"module_version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified"` // the source had changes that are in no revision
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Format   int    `json:"format"` // of repositories
	FIPS     bool   `json:"fips140"`
	FIPSName string `json:"fips140_module"`
}

// ReadBuild asks the running program.
func ReadBuild() Build {
	b := Build{
		Module: "packhold", Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Format: crypt.Format, FIPS: fips140.Enabled(), FIPSName: fips140.Version(),
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}
