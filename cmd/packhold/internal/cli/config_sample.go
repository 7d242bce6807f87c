package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"packhold/cmd/packhold/internal/cli/config"
	"packhold/cmd/packhold/internal/cli/fail"
	"packhold/cmd/packhold/internal/cli/run"
	"packhold/cmd/packhold/internal/cli/term"
)

func (a *app) configSampleCommand() *cli.Command {
	return &cli.Command{
		Name:  "config-sample",
		Usage: "write a commented configuration file",
		Description: "Writes the file that --config or PACKHOLD_CONFIG names, or else that of the user, which every command " +
			"reads. A file that is there is kept.",
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "stdout", Usage: "print it instead"}},
		Action: a.Action(a.configSample),
	}
}

func (a *app) configSample(_ context.Context, v run.Values, _ []string) error {
	folders, err := config.FindFolders(a.Env.Getenv)
	if err != nil && !errors.Is(err, config.ErrNoHome) {
		return err
	}
	repository, err := a.sampleRepository(folders)
	if err != nil {
		return err
	}
	text := config.Sample(repository)
	if v.Bool("stdout") {
		a.Out.Data(text)
		return nil
	}
	path, _, _ := config.FilePath(a.Flags, a.Env.Getenv, folders)
	if path == "" {
		return config.ErrNoHome
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	a.Where = term.Name(path)
	if err := createFile(path, text); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return &fail.Error{Code: fail.Exists, Word: "config.exists", Problem: "there is a configuration file already", Effect: "It was kept as it is.",
				Next: "edit it, or print a sample with: packhold config-sample --stdout", Cause: err}
		}
		return fmt.Errorf("writing the configuration file: %w", err)
	}
	if a.Out.JSON {
		line := struct {
			Path string `json:"path"`
			Raw  string `json:"path_raw,omitempty"`
		}{}
		line.Path, line.Raw = term.RawName(path)
		return a.Out.Object("config_sample", line)
	}
	a.Out.Say("wrote %s\nThe repository will be at %s. Edit the file if you like, then: packhold init", term.Name(path), term.Name(repository))
	return nil
}

// sampleRepository returns the path that the sample names: that of the flag or the environment if it is one, else the
// default repository's, else the manual's.
func (a *app) sampleRepository(folders config.Folders) (string, error) {
	given := a.Flags.Repository
	if given == "" {
		given = a.Env.Getenv("PACKHOLD_REPOSITORY")
	}
	if given != "" {
		l, err := config.ParseLocation(given)
		if err != nil {
			return "", run.SettingsError(err)
		}
		if l.Type != "local" {
			return "", fail.Usagef("repository", "packhold config-sample, then put the storage into the file", "the sample is for a local repository, not for %s", term.Name(l.String()))
		}
		return l.Path, nil
	}
	if path := folders.DefaultRepository(); path != "" {
		return path, nil
	}
	return "/backups", nil
}

// createFile writes a file that must not exist, readable by its owner only. When it returns nil the bytes are on disk; a
// part of them is never left behind by an error.
func createFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
