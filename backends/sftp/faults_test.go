//go:build unix

package sftp

import (
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/crypto/ssh/knownhosts"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/backends/retry"
)

// soon is how a Store is wrapped where a test has no time to wait.
var soon = retry.Options{First: 5 * time.Millisecond, Most: 100 * time.Millisecond, GiveUp: 30 * time.Second}

// TestFaults has real lines to a real server fail.
func TestFaults(t *testing.T) {
	d := startSSHD(t)
	root := t.TempDir()
	writeFile(t, filepath.Join(d.dir, "alias"), knownhosts.Line([]string{"the-server"}, d.hostKey)+"\n")
	backendtest.Faults(t, backendtest.Server{Addr: d.address(), Open: func(t *testing.T, addr, place string) backends.Storage {
		o := d.options(filepath.Join(root, place))
		_, text, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		o.Port, o.Create, o.HostKeyAlias, o.KnownHosts = port, true, "the-server", []string{filepath.Join(d.dir, "alias")}
		o.KeepAlive, o.DialTimeout = backendtest.Stall/4, backendtest.Stall
		return retry.New(openTest(t, o), soon)
	}})
}
