package cli

import (
	"context"
	"packhold/cmd/packhold/internal/cli/run"
	"strconv"

	"github.com/urfave/cli/v2"
)

func (a *app) versionCommand() *cli.Command {
	return &cli.Command{Name: "version", Usage: "print the versions of the program, its format and its cryptography", Action: a.Action(a.version)}
}

func (a *app) version(context.Context, run.Values, []string) error {
	b := run.ReadBuild()
	if a.Out.JSON {
		return a.Out.Object("version", b)
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
	a.Out.Data(text + "repository format " + strconv.Itoa(b.Format) + "\n" + b.Go + " " + b.Platform + "\nFIPS 140-3 mode " + state + ", Go Cryptographic Module " + b.FIPSName + "\n")
	return nil
}
