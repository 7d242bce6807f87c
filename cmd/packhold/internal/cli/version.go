package cli

import (
	"context"
	"crypto/fips140"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/urfave/cli/v2"

	"packhold/crypt"
)

func (a *app) versionCommand() *cli.Command {
	return &cli.Command{Name: "version", Usage: "print the versions of the program, its format and its cryptography", Action: a.action(a.version)}
}

// build is what the program knows of its own making.
type build struct {
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

func readBuild() build {
	b := build{
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

func (a *app) version(context.Context, values, []string) error {
	b := readBuild()
	if a.out.json {
		return a.out.object("version", b)
	}
	state := "off"
	if b.FIPS {
		state = "on"
	}
	text := "packhold " + b.Version + "\n"
	if b.Revision != "" {
		text += "revision " + b.Revision
		if b.Modified {
			text += ", modified"
		}
		text += "\n"
	}
	a.out.data(text + "repository format " + strconv.Itoa(b.Format) + "\n" + b.Go + " " + b.Platform + "\nFIPS 140-3 mode " + state + ", Go Cryptographic Module " + b.FIPSName + "\n")
	return nil
}
