package sftp

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"packhold/backends"
)

var (
	// ErrUnknownHost says that no known_hosts file has a key for the server. The error names the key's fingerprint and the line that would trust it.
	ErrUnknownHost = fmt.Errorf("the host key is not known (%w)", backends.ErrPermanent)

	// ErrHostKeyChanged says that the server has another key than the known_hosts files say, or a revoked one: it was installed anew, or someone is
	// in between. The error names the fingerprints of both.
	ErrHostKeyChanged = fmt.Errorf("the host key is not the known one (%w)", backends.ErrPermanent)
)

// knownHosts are the host keys that are trusted.
type knownHosts struct {
	check       ssh.HostKeyCallback
	files       []string
	authorities bool // some line trusts an authority that certifies host keys
}

func readKnownHosts(files []string) (*knownHosts, error) {
	h := &knownHosts{files: files}
	var existing []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, masked("reading known hosts", err)
		}
		existing = append(existing, file)
		h.authorities = h.authorities || bytes.Contains(text, []byte("@cert-authority"))
	}
	var err error
	if h.check, err = knownhosts.New(existing...); err != nil {
		return nil, masked("reading known hosts", err)
	}
	return h, nil
}

// masked is err without what it matches: a missing or unreadable file here says nothing about one in the storage.
func masked(what string, err error) error { return fmt.Errorf("%s: %v", what, err) }

// algorithms returns those of host keys in order of preference: first those of the keys that are known, as a server has several keys.
func (h *knownHosts) algorithms(address string) []string {
	supported := ssh.SupportedAlgorithms().HostKeys
	known := map[string]bool{}
	var unknown *knownhosts.KeyError
	if errors.As(h.check(address, stubAddr{}, stubKey{}), &unknown) {
		for _, k := range unknown.Want {
			known[k.Key.Type()] = true
			if k.Key.Type() == ssh.KeyAlgoRSA {
				known[ssh.KeyAlgoRSASHA256], known[ssh.KeyAlgoRSASHA512] = true, true
			}
		}
	}
	var first, rest []string
	for _, a := range supported {
		certificate := strings.Contains(a, "-cert-")
		switch {
		case certificate && !h.authorities:
		case certificate || known[a]:
			first = append(first, a)
		default:
			rest = append(rest, a)
		}
	}
	return append(first, rest...)
}

// stubKey matches no known key, and stubAddr is never looked at: they make a check tell what is known.
type (
	stubKey  struct{}
	stubAddr struct{}
)

func (stubKey) Type() string                        { return "none" }
func (stubKey) Marshal() []byte                     { return []byte("none") }
func (stubKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }
func (stubAddr) Network() string                    { return "tcp" }
func (stubAddr) String() string                     { return "0.0.0.0:0" }

// hostCheck checks the key of one connection.
type hostCheck struct {
	hosts   *knownHosts
	address string
	err     error // of the check
}

func (c *hostCheck) callback(_ string, remote net.Addr, key ssh.PublicKey) error {
	c.err = c.explain(c.hosts.check(c.address, remote, key), key)
	return c.err
}

func (c *hostCheck) explain(err error, key ssh.PublicKey) error {
	offered := fmt.Sprintf("%s %s", key.Type(), ssh.FingerprintSHA256(key))
	host := knownhosts.Normalize(c.address)
	var revoked *knownhosts.RevokedError
	if errors.As(err, &revoked) {
		return fmt.Errorf("%w: %s offers %s, which %s:%d says is revoked", ErrHostKeyChanged, host, offered, revoked.Revoked.Filename, revoked.Revoked.Line)
	}
	var unknown *knownhosts.KeyError
	if !errors.As(err, &unknown) {
		return err
	}
	if len(unknown.Want) > 0 {
		var known []string
		for _, k := range unknown.Want {
			known = append(known, fmt.Sprintf("%s %s (%s:%d)", k.Key.Type(), ssh.FingerprintSHA256(k.Key), k.Filename, k.Line))
		}
		return fmt.Errorf("%w: %s offers %s, known is %s; if the server was installed anew, compare the fingerprint with its administrator and replace that line",
			ErrHostKeyChanged, host, offered, strings.Join(known, " and "))
	}
	file := "a known_hosts file"
	if len(c.hosts.files) > 0 {
		file = c.hosts.files[0]
	}
	return fmt.Errorf("%w: %s offers %s; compare the fingerprint with the server's administrator, then add this line to %s: %s",
		ErrUnknownHost, host, offered, file, knownhosts.Line([]string{c.address}, key))
}
