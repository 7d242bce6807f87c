// Package serving is the command serve: a folder over SFTP to the client at the other end of standard input and output.
package serving

import (
	"context"
	"errors"
	"os"

	"github.com/urfave/cli/v2"

	sftpserve "packhold/backends/serve"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
)

// Command is the command, for a run of the program.
func Command(r *run.Run) *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "serve a folder over SFTP to one client, as a forced command of sshd", ArgsUsage: "DIR",
		Description: "In authorized_keys on the backup server, in one line:\n\n" +
			"  command=\"packhold serve --stdio --append-only /srv/backup\",restrict ssh-ed25519 AAAA...\n\n" +
			"The folder is then / to the client, whose repository is sftp://user@server/~/. With --append-only it can read and add, and neither delete nor replace what is finished.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "stdio", Usage: "speak SFTP on standard input and output (needed: there is no other way)"},
			&cli.BoolFlag{Name: "append-only", Usage: "refuse to delete and to replace finished files"},
			&cli.StringFlag{Name: "quota", Usage: "refuse to let the folder grow beyond `SIZE`, such as 500G"},
		},
		Action: r.Action(func(ctx context.Context, v run.Values, args []string) error { return serve(ctx, r, v, args) }),
	}
}

// serve carries the command out until the client goes or ctx ends. Standard input and output must be files.
func serve(ctx context.Context, r *run.Run, v run.Values, args []string) error {
	const next = "packhold help serve"
	switch {
	case !v.Bool("stdio"):
		return fail.Usagef("flag", next, "--stdio is missing")
	case len(args) != 1:
		return fail.Usagef("argument", next, "serve takes the folder as its one argument, found %d", len(args))
	}
	o := sftpserve.Options{AppendOnly: v.Bool("append-only")}
	if v.IsSet("quota") {
		var err error
		if o.Quota, err = term.ParseSize(v.String("quota")); err != nil || o.Quota == 0 {
			return fail.Usagef("size", next, "--quota %s is no size above 0", term.Name(v.String("quota")))
		}
	}
	inFile, isFile := r.Env.Stdin.(*os.File)
	outFile, areFiles := r.Env.Stdout.(*os.File)
	if !isFile || !areFiles {
		return fail.Usagef("stdio", next, "standard input and output are no files")
	}
	conn, err := sftpserve.Stdio(inFile, outFile)
	if err != nil {
		return err
	}
	err = sftpserve.Run(ctx, args[0], conn, o)
	if errors.Is(err, sftpserve.ErrProtocol) {
		return &fail.Error{Code: fail.Unclassified, Word: "serve.protocol", Problem: err.Error(), Where: "standard input", Cause: err,
			Effect: "The connection was ended. What is stored there stays.", Next: "connect with an SFTP client; " + next + " says how"}
	}
	return err
}
