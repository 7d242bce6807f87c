package cli

import "github.com/urfave/cli/v2"

func (a *app) restoreCommand() *cli.Command { return &cli.Command{Name: "restore"} }
