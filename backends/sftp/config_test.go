package sftp

import (
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestWithConfig(t *testing.T) {
	home := t.TempDir()
	const text = `
# comment
Host vault vault2
  HostName %h.example.com
  Port 2222
  User backup
  IdentityFile ~/.ssh/vault key
  IdentityFile "keys/%r@%h"
  UserKnownHostsFile ~/known1 %d/known2
  HostKeyAlias the-vault
  IdentityAgent ~/agent.sock
  IdentitiesOnly yes
host jumped
  ProxyJump gate
Host piped
  proxycommand nc %h %p
Host direct
  ProxyJump none
  IdentityAgent none
  IdentityFile none
Host bad
  Port many
Host *
  User anyone
`
	under := func(names ...string) (files []string) {
		for _, n := range names {
			files = append(files, filepath.Join(home, n))
		}
		return files
	}
	for _, c := range []struct {
		in, want Options
	}{
		{Options{Host: "vault"}, Options{
			Host: "vault.example.com", Port: 2222, User: "backup", KeyFiles: under(".ssh/vault key", ".ssh/keys/backup@vault.example.com"),
			KnownHosts: under("known1", "known2"), HostKeyAlias: "the-vault", AgentSocket: filepath.Join(home, "agent.sock"), IdentitiesOnly: true,
		}},
		{
			Options{Host: "vault2", Port: 22, User: "me", KeyFiles: []string{"k"}, KnownHosts: []string{"h"}, HostKeyAlias: "a", AgentSocket: "s"},
			Options{Host: "vault2.example.com", Port: 22, User: "me", KeyFiles: []string{"k"}, KnownHosts: []string{"h"}, HostKeyAlias: "a", AgentSocket: filepath.Join(home, "agent.sock"), IdentitiesOnly: true},
		},
		{Options{Host: "elsewhere", Path: "p", AgentSocket: "s"}, Options{Host: "elsewhere", User: "anyone", Path: "p", AgentSocket: "s"}},
		{Options{Host: "direct", AgentSocket: "s"}, Options{Host: "direct", User: "anyone"}},
		{Options{Command: []string{"x"}}, Options{Command: []string{"x"}}},
	} {
		if got, err := c.in.WithConfig([]byte(text), home); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v:\n got %+v, %v\nwant %+v", c.in, got, err, c.want)
		}
	}
	for host, says := range map[string]string{"jumped": "ssh -s jumped sftp", "piped": "ssh -s piped sftp"} {
		if _, err := (Options{Host: host}).WithConfig([]byte(text), home); !errors.Is(err, ErrProxy) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, bad := range []string{"Host bad\nPort many", "Match exec true\nUser x"} {
		if _, err := (Options{Host: "bad"}).WithConfig([]byte(bad), home); err == nil || errors.Is(err, ErrProxy) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
