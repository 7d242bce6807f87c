//go:build linux || darwin || freebsd

package serve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"packhold/backends"
	"packhold/backends/backendtest"
	driver "packhold/backends/sftp"
)

// serveVariable makes the test binary a server of the folder it names: clients start it by themselves. fullVariable makes it one that lets delete, and
// quotaVariable holds its quota.
const (
	serveVariable = "PACKHOLD_TEST_SERVE"
	fullVariable  = "PACKHOLD_TEST_SERVE_FULL"
	quotaVariable = "PACKHOLD_TEST_SERVE_QUOTA"
)

func TestMain(m *testing.M) {
	dir, ok := os.LookupEnv(serveVariable)
	if !ok {
		_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // of the servers, which end by the dozen
		os.Exit(m.Run())
	}
	conn, err := Stdio(os.Stdin, os.Stdout)
	if err == nil {
		o := Options{AppendOnly: os.Getenv(fullVariable) == ""}
		_, _ = fmt.Sscan(os.Getenv(quotaVariable), &o.Quota) // not set: none
		err = run(context.Background(), dir, conn, o, quick())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// openSSH runs commands of OpenSSH's sftp, and returns what it prints and whether all went well.
func openSSH(t *testing.T, dir, commands string) (string, error) {
	t.Helper()
	cmd := exec.Command("sftp", "-b", "-", "-D", os.Args[0])
	cmd.Env = append(os.Environ(), serveVariable+"="+dir)
	cmd.Stdin = strings.NewReader(commands)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestOpenSSH: the client that everybody has.
func TestOpenSSH(t *testing.T) {
	if _, err := exec.LookPath("sftp"); err != nil {
		backendtest.Lacks(t, "OpenSSH's sftp is missing; tests/setup.sh installs it")
	}
	dir, here := folder(t), t.TempDir()
	local := filepath.Join(here, "local")
	if err := os.WriteFile(local, bytes.Repeat([]byte("0123456789"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	got := filepath.Join(here, "got")
	commands := strings.ReplaceAll(`pwd
put LOCAL tmp/up
rename tmp/up packs/aa/up
put -f LOCAL tmp/up2
rename -l tmp/up2 packs/aa/up2
put LOCAL tmp/up3
ln tmp/up3 packs/aa/up3
rm tmp/up3
mkdir meta
mkdir meta/ab
cd packs
ls -l aa
cd ..
df
get packs/aa/up HERE/got
`, "LOCAL", local)
	out, err := openSSH(t, dir, strings.ReplaceAll(commands, "HERE", here))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(out, "up3") || strings.Contains(out, "FOREIGN") {
		t.Errorf("%s", out)
	}
	want, err := os.ReadFile(local)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{got, filepath.Join(dir, "packs/aa/up"), filepath.Join(dir, "packs/aa/up2"), filepath.Join(dir, "packs/aa/up3")} {
		if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	before := tree(t, dir)
	for _, c := range []string{
		"rm packs/aa/f", "rm config", "rmdir packs", "rmdir tmp", "put LOCAL packs/aa/f", "put LOCAL packs/aa/new", "put LOCAL config", "put LOCAL ../new", "put LOCAL /etc/new", "put -a LOCAL packs/aa/f",
		"rename packs/aa/f packs/aa/x", "rename -l packs/aa/f packs/aa/x", "rename tmp/src packs/aa/f", "rename -l tmp/src packs/aa/f", "rename tmp/src ../x", "rename tmp/src UPPER/x", "ln packs/aa/f packs/aa/x",
		"ln tmp/src packs/aa/f", "ln -s /etc/passwd packs/aa/x", "symlink ../../x tmp/x", "chmod 777 packs/aa/f", "chmod 777 tmp/old", "chown 1 packs/aa/f", "chgrp 1 packs/aa/f", "mkdir ../x", "mkdir .ssh", "mkdir tmp/x",
		"get out/f HERE/stolen", "get ../secret HERE/stolen", "get FOREIGN HERE/stolen", "cd out",
	} {
		c = strings.ReplaceAll(strings.ReplaceAll(c, "LOCAL", local), "HERE", here)
		if out, err := openSSH(t, dir, c+"\n"); err == nil {
			t.Errorf("%s is allowed: %s", c, out)
		}
		if after := tree(t, dir); !maps.Equal(before, after) {
			t.Errorf("%s changed something", c)
			before = after
		}
	}
	if _, err := os.Lstat(filepath.Join(here, "stolen")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is outside was read: %v", err)
	}
}

// openDriver opens packhold's own driver on a server of its own.
func openDriver(t *testing.T, dir string, o driver.Options) *driver.Store {
	t.Helper()
	o.Command = []string{os.Args[0]}
	s, err := driver.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestDriver: a server that lets delete is a storage like any other.
func TestDriver(t *testing.T) {
	t.Setenv(fullVariable, "1")
	backendtest.Run(t, func(t *testing.T) backends.Storage {
		dir := t.TempDir()
		t.Setenv(serveVariable, dir)
		return openDriver(t, dir, driver.Options{Path: "/", Create: true, RemoveStale: true})
	})
}

// TestDriverAppends: with one that does not, everything works but deleting and replacing, which match fs.ErrPermission.
func TestDriverAppends(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(serveVariable, dir)
	s := openDriver(t, dir, driver.Options{Create: true, RemoveStale: true}) // where a session begins
	if !s.Durable() {
		t.Error("files are not durable")
	}
	data := bytes.Repeat([]byte("x"), 3<<20)
	for _, ifAbsent := range []bool{false, true} {
		name := fmt.Sprintf("packs/ab/%v", ifAbsent)
		if err := s.Put(t.Context(), name, data, backends.PutOptions{IfAbsent: ifAbsent}); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), name, nil, backends.PutOptions{IfAbsent: true}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("creating again: %v", err)
		}
		if err := s.Put(t.Context(), name, nil, backends.PutOptions{}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("replacing: %v", err)
		}
		if err := s.Delete(t.Context(), name); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("deleting: %v", err)
		}
		if b, err := s.Get(t.Context(), name, 0, -1); err != nil || !bytes.Equal(b, data) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	}
	if err := s.Delete(t.Context(), "packs/ab/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deleting nothing: %v", err)
	}
	n := 0
	for info, err := range s.List(t.Context(), "packs/") {
		if err != nil || info.Size != int64(len(data)) {
			t.Errorf("%+v, %v", info, err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d files are listed", n)
	}
}

// TestDriverNoSpace: a used up quota is told as what it is.
func TestDriverNoSpace(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(serveVariable, dir)
	t.Setenv(quotaVariable, "1000000")
	s := openDriver(t, dir, driver.Options{})
	if err := s.Put(t.Context(), "packs/ab/fits", make([]byte, 900_000), backends.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	for _, ifAbsent := range []bool{false, true} {
		err := s.Put(t.Context(), "packs/ab/too-much", make([]byte, 200_000), backends.PutOptions{IfAbsent: ifAbsent})
		if !errors.Is(err, backends.ErrNoSpace) {
			t.Error(err)
		}
	}
	if _, err := s.Stat(t.Context(), "packs/ab/too-much"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for try := 0; ; try++ { // the driver removes what it could not finish when it has time
		err := s.Put(t.Context(), "packs/ab/fits-too", make([]byte, 50_000), backends.PutOptions{IfAbsent: true})
		if err == nil {
			break
		}
		if try == 100 {
			t.Fatal(err)
		}
		wait()
	}
}
