package place

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"packhold/backends/limit"
	"packhold/backends/sftp"
	"packhold/cmd/packhold/internal/cli/config"
)

// openSFTP opens a place on an SFTP server, as ssh would reach it: what the configuration file of packhold says counts first, then those of ssh, then what ssh does by default.
func openSFTP(ctx context.Context, c config.Storage, o Options) (*sftp.Store, error) {
	so := sftp.Options{Path: c.Path, Connections: c.Connections, Create: o.Create, RemoveStale: o.Stale}
	if o.Up+o.Down > 0 {
		so.Conn = limit.New(o.Up, o.Down).Conn
	}
	if len(c.Command) > 0 {
		so.Command = c.Command
		return sftp.Open(ctx, so)
	}
	so.Host, so.Port, so.User, so.KeyFiles, so.KnownHosts = c.Host, c.Port, c.User, c.Identity, c.KnownHosts
	so.AgentSocket = o.Getenv("SSH_AUTH_SOCK")
	home := cmp.Or(o.Getenv("HOME"), o.Getenv("USERPROFILE"))
	dir := filepath.Join(home, ".ssh")
	so, err := withSSHConfig(so, home, filepath.Join(dir, "config"), "/etc/ssh/ssh_config")
	if err != nil {
		return nil, err
	}
	if so.User == "" {
		so.User = o.User
	}
	if so.KeyFiles == nil {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			so.KeyFiles = append(so.KeyFiles, filepath.Join(dir, name))
		}
	}
	if so.KnownHosts == nil {
		so.KnownHosts = []string{filepath.Join(dir, "known_hosts"), filepath.Join(dir, "known_hosts2")}
		if runtime.GOOS != "windows" {
			so.KnownHosts = append(so.KnownHosts, "/etc/ssh/ssh_known_hosts")
		}
	}
	if o.Ask != nil {
		so.Passphrase = func(ctx context.Context, file string) ([]byte, error) {
			return o.Ask(ctx, "passphrase of the key "+file+": ")
		}
	}
	return sftp.Open(ctx, so)
}

// withSSHConfig applies the configuration files that exist. The first one that says something counts, so they are one text.
func withSSHConfig(so sftp.Options, home string, files ...string) (sftp.Options, error) {
	var text []byte
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return so, err
		}
		text = append(append(text, b...), '\n')
	}
	return so.WithConfig(text, home)
}
