package sftp

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kevinburke/ssh_config"

	"packhold/backends"
)

// ErrProxy says that the way to the host leads through another one, which this package does not go by itself.
var ErrProxy = fmt.Errorf("the SSH configuration reaches the host through another (%w)", backends.ErrPermanent)

// WithConfig returns o with what the text of an OpenSSH client configuration (such as ~/.ssh/config) says about o.Host, which may be an alias there:
// HostName replaces Host, and IdentityAgent replaces AgentSocket; Port, User, IdentityFile, UserKnownHostsFile, HostKeyAlias and IdentitiesOnly count
// where o sets nothing itself. home stands for ~ and %d; files that the text includes are looked for in the running user's ~/.ssh. "Match exec" and the
// like are errors, as are ProxyJump and ProxyCommand for this host (ErrProxy). Everything else is ignored, and so is the whole text if o has a Command.
func (o Options) WithConfig(text []byte, home string) (Options, error) {
	if len(o.Command) > 0 {
		return o, nil
	}
	config, err := ssh_config.Decode(bytes.NewReader(text))
	if err != nil {
		return o, fmt.Errorf("reading the SSH configuration: %w", err)
	}
	c := &hostConfig{config: config, alias: o.Host, home: home}
	for _, key := range []string{"ProxyJump", "ProxyCommand"} {
		if v := c.get(key); v != "" && !strings.EqualFold(v, "none") {
			return o, fmt.Errorf("%w (%s %s): set the command to ssh -s %s sftp", ErrProxy, key, v, o.Host)
		}
	}
	c.host = strings.ReplaceAll(c.get("HostName"), "%h", o.Host)
	if c.host == "" {
		c.host = o.Host
	}
	if o.User == "" {
		o.User = c.get("User")
	}
	c.user = o.User
	if v := c.get("Port"); o.Port == 0 && v != "" {
		if o.Port, err = strconv.Atoi(v); err != nil {
			return o, fmt.Errorf("reading the SSH configuration: %q is no port", v)
		}
	}
	o.Host = c.host
	if o.HostKeyAlias == "" {
		o.HostKeyAlias = c.get("HostKeyAlias")
	}
	if o.KeyFiles == nil {
		o.KeyFiles = c.files(c.all("IdentityFile"))
	}
	if o.KnownHosts == nil {
		var files []string
		for _, v := range c.all("UserKnownHostsFile") {
			files = append(files, strings.Fields(v)...)
		}
		o.KnownHosts = c.files(files)
	}
	switch v := c.get("IdentityAgent"); {
	case v == "" || v == "SSH_AUTH_SOCK" || v[0] == '$': // that of the environment, which is for the caller to know
	case strings.EqualFold(v, "none"):
		o.AgentSocket = ""
	default:
		o.AgentSocket = c.path(v)
	}
	o.IdentitiesOnly = o.IdentitiesOnly || strings.EqualFold(c.get("IdentitiesOnly"), "yes")
	return o, c.err
}

// hostConfig is what a configuration says about one host.
type hostConfig struct {
	config     *ssh_config.Config
	alias      string
	host, user string // for the tokens in paths
	home       string
	err        error
}

func (c *hostConfig) get(key string) string {
	v, err := c.config.Get(c.alias, key)
	if err != nil && c.err == nil {
		c.err = fmt.Errorf("reading the SSH configuration: %w", err)
	}
	return strings.Trim(v, `"`)
}

func (c *hostConfig) all(key string) []string {
	v, err := c.config.GetAll(c.alias, key)
	if err != nil && c.err == nil {
		c.err = fmt.Errorf("reading the SSH configuration: %w", err)
	}
	return v
}

// files returns the paths of a list, in which "none" stands for no file. Nil is nothing said.
func (c *hostConfig) files(list []string) []string {
	var paths []string
	for _, v := range list {
		if v = strings.Trim(v, `"`); v != "" && !strings.EqualFold(v, "none") {
			paths = append(paths, c.path(v))
		}
	}
	return paths
}

func (c *hostConfig) path(v string) string {
	v = strings.NewReplacer("%%", "%", "%d", c.home, "%h", c.host, "%n", c.alias, "%r", c.user).Replace(v)
	if rest, ok := strings.CutPrefix(v, "~/"); ok {
		v = filepath.Join(c.home, rest)
	}
	if !filepath.IsAbs(v) {
		v = filepath.Join(c.home, ".ssh", v)
	}
	return v
}
