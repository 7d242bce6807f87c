package sftp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"strings"
	"time"
)

// Defaults of Options, and its bounds.
const (
	defaultPort        = 22
	defaultConnections = 3
	maxConnections     = 16
	defaultDialTimeout = 20 * time.Second

	// defaultKeepAlive: a ping after 15 seconds of silence and three of these before a link is given up notice a dead one within a minute. Shorter
	// than any timeout of a firewall that forgets idle connections.
	defaultKeepAlive = 15 * time.Second
)

// Options says where a repository's files are and how to get there. Nothing is taken from the environment or the home folder: the caller passes
// what it wants used. Either Host or Command must be set.
type Options struct {
	// Host is the name or address of the server, Port its port (0 is 22) and User the name to log in with, which must be set.
	Host string
	Port int
	User string

	// Command, if not empty, is run for each connection instead of connecting by itself, and speaks SFTP on its standard input and output: such as
	// "ssh", "-s", "host", "sftp", or "rclone", "serve", "sftp", "--stdio", "remote:". Who is talked to is then its business alone: of these
	// options only Path and what follows Connections count.
	Command []string

	// Path is the repository's directory on the server. One that is not absolute begins where the server lets a session begin, commonly the
	// user's home folder; "" is that place itself.
	Path string

	// KeyFiles are private keys, tried in order and before those of the agent. One that is missing or unusable is passed over, and named when no
	// other is accepted either. Beside a key, a certificate (NAME-cert.pub) is offered first.
	KeyFiles []string

	// Passphrase is asked for the passphrase of an encrypted key file when the server accepts that key, once for a Store. Nil passes over encrypted
	// keys that the agent does not hold. It may take its time, and is never called concurrently.
	Passphrase func(ctx context.Context, file string) ([]byte, error)

	// AgentSocket is the socket of an SSH agent, "" for none. With IdentitiesOnly only those of its keys are offered whose public keys are in KeyFiles.
	AgentSocket    string
	IdentitiesOnly bool

	// KnownHosts are files with the host keys that are trusted, in OpenSSH's format. A missing one is empty. There is no way to accept an unknown key.
	KnownHosts []string

	// HostKeyAlias, if not "", is looked up in KnownHosts instead of Host and Port.
	HostKeyAlias string

	// Connections is how many connections are open at most, 1 to 16; 0 is 3. Further ones are opened when calls would wait for each other. A server
	// that refuses more than it likes is served with those it allows.
	Connections int

	// DialTimeout bounds the time to connect and log in, without the typing of passphrases. 0 is 20 seconds.
	DialTimeout time.Duration

	// KeepAlive is the time of silence after which the server is asked for a sign of life; after three times as long without one the connection is
	// given up, and after eight times as long if the server is alive but answers no call. 0 is 15 seconds.
	KeepAlive time.Duration

	// Conn, if not nil, wraps every connection, below SSH, such as limit.Limiter.Conn. It does not count for a Command.
	Conn func(net.Conn) net.Conn

	// Create makes the directory, and those above it, if missing. The directory made is open to its owner alone, if the server lets it.
	Create bool

	// RemoveStale removes the temporary files that interrupted writers left behind more than 24 hours ago, as the server counts them: by the time it
	// gives to a new file. A server that takes none, being full or read-only, keeps them.
	RemoveStale bool
}

func (o Options) withDefaults() (Options, error) {
	switch {
	case len(o.Command) > 0 && o.Host != "":
		return o, errors.New("both a host and a command are given")
	case len(o.Command) > 0:
		if o.Command[0] == "" {
			return o, errors.New("the command's name is empty")
		}
	case o.Host == "":
		return o, errors.New("no host is given")
	case strings.ContainsAny(o.Host, "/@ \t\n\x00"):
		return o, fmt.Errorf("%q is no host name", o.Host)
	case o.User == "":
		return o, errors.New("no user is given")
	case o.Port < 0 || o.Port > 65535:
		return o, fmt.Errorf("%d is no port", o.Port)
	}
	if o.Connections < 0 || o.Connections > maxConnections {
		return o, fmt.Errorf("%d connections: the limit is %d", o.Connections, maxConnections)
	}
	if strings.ContainsRune(o.Path, 0) {
		return o, fmt.Errorf("%q is no path", o.Path)
	}
	if o.DialTimeout < 0 || o.KeepAlive < 0 {
		return o, errors.New("a negative time")
	}
	o.Path = path.Clean(o.Path) // "" becomes "."
	if o.Port == 0 {
		o.Port = defaultPort
	}
	if o.Connections == 0 {
		o.Connections = defaultConnections
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = defaultDialTimeout
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = defaultKeepAlive
	}
	return o, nil
}

// place says where o leads, for errors.
func (o Options) place() string {
	if len(o.Command) > 0 {
		return fmt.Sprintf("%q by %q", o.Path, o.Command[0])
	}
	return fmt.Sprintf("%q on %s", o.Path, o.Host)
}
