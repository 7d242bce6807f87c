//go:build linux

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// remoteOptions are the flags of `bench remote`.
type remoteOptions struct {
	packhold, work, out, trace string
	packSize                   string
	places, tools              []string
	delays                     []time.Duration
	rounds, mib, files         int
}

// remoteRow is one measured step against a server.
type remoteRow struct {
	place, tool, step string
	delay             time.Duration
	row
	kinds map[string]int // requests
}

// remoteSteps are what is measured with each server, delay and tool, in their order.
var remoteSteps = []string{"first", "again", "restore"}

// runRemote measures packhold beside restic against servers on the loopback with a longer round trip: `bench remote`.
func runRemote(ctx context.Context, args []string) error {
	var o remoteOptions
	var places, tools, delays string
	f := flag.NewFlagSet("bench remote", flag.ExitOnError)
	f.StringVar(&o.packhold, "packhold", "build/packhold", "the built program")
	f.StringVar(&o.work, "work", "/dev/shm/packhold-remote", "folder of files, servers and clients, on tmpfs; removed")
	f.StringVar(&o.out, "out", "build/bench-remote.md", "file for the table")
	f.StringVar(&o.trace, "trace", "", "file for a line about each request")
	f.StringVar(&o.packSize, "pack-size", "", "of packhold's repositories; its default unless given")
	f.StringVar(&places, "places", "s3,sftp", "servers, separated by commas")
	f.StringVar(&tools, "tools", "restic,packhold", "tools, separated by commas")
	f.StringVar(&delays, "delays", "0,20,100", "round trips in ms that are added, separated by commas")
	f.IntVar(&o.rounds, "rounds", 1, "rounds; the median counts, and the order of the tools rotates")
	f.IntVar(&o.mib, "mib", 1024, "MiB of random bytes")
	f.IntVar(&o.files, "files", 7000, "small files")
	f.Parse(args)
	o.places, o.tools = strings.Split(places, ","), strings.Split(tools, ",")
	for _, d := range strings.Split(delays, ",") {
		ms, err := strconv.Atoi(d)
		if err != nil {
			return err
		}
		o.delays = append(o.delays, time.Duration(ms)*time.Millisecond)
	}
	var err error
	if o.packhold, err = filepath.Abs(o.packhold); err != nil {
		return err
	}
	if err := os.RemoveAll(o.work); err != nil {
		return err
	}
	defer os.RemoveAll(o.work)
	if err := os.MkdirAll(o.work, 0o700); err != nil {
		return err
	}
	seen := new(counts)
	if o.trace != "" {
		t, err := os.Create(o.trace)
		if err != nil {
			return err
		}
		defer t.Close()
		seen.trace = t
	}
	src := filepath.Join(o.work, "source")
	if err := makeRemoteSource(src, o.mib, o.files); err != nil {
		return err
	}
	var rows []remoteRow
	for round := range o.rounds {
		for _, place := range o.places {
			for _, d := range o.delays {
				for i := range o.tools {
					name := o.tools[(i+round)%len(o.tools)]
					t, err := newTool(name, o.packhold)
					if err != nil {
						return err
					}
					r, err := measureRemote(ctx, o, t, place, d, seen)
					rows = append(rows, r...)
					if err != nil {
						return fmt.Errorf("%s on %s with %v: %w", name, place, d, err)
					}
				}
			}
		}
	}
	text := remoteTable(o, rows)
	fmt.Print(text)
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(o.out, []byte(text), 0o644); err != nil {
		return err
	}
	for _, r := range rows {
		if r.problem != "" {
			return fmt.Errorf("%s, %s, %s: %s", r.place, r.tool, r.step, r.problem)
		}
	}
	return nil
}

// makeRemoteSource makes a file of random bytes beside small ones of which no two are equal, 100 to a folder. They are the same on every machine.
func makeRemoteSource(dir string, mib, files int) error {
	if err := extend(filepath.Join(dir, "small"), 0, files); err != nil {
		return err
	}
	cmd := exec.Command("python3", "-c", "import random, sys\n"+
		"with open(sys.argv[1], 'wb') as f:\n"+
		"    for i in range(int(sys.argv[2])): f.write(random.Random(i).randbytes(1 << 20))", filepath.Join(dir, "random"), strconv.Itoa(mib))
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// server is what a repository is kept on.
type server struct {
	url  func(tool string) string
	args map[string][]string // of every call, by tool
	env  []string
	stop func()
}

// measureRemote runs the steps of one tool against a new server.
func measureRemote(ctx context.Context, o remoteOptions, t tool, place string, d time.Duration, seen *counts) (rows []remoteRow, err error) {
	dir := filepath.Join(o.work, "run")
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	for _, sub := range []string{"tmp", ".ssh"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	start := map[string]func(string, time.Duration, *counts) (*server, error){"s3": startGateway, "sftp": startSSHD}[place]
	if start == nil {
		return nil, fmt.Errorf("there is no server %s", place)
	}
	s, err := start(dir, d, seen)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	local := t.env
	t.env = func(dir string) []string {
		return append(append(local(dir), s.env...), strings.ToUpper(t.name)+"_REPOSITORY="+s.url(t.name))
	}
	src := filepath.Join(o.work, "source")
	command := func(in string, args []string) *exec.Cmd {
		return t.command(dir, in, slices.Concat(s.args[t.name], args))
	}
	if o.packSize != "" && t.name == "packhold" {
		t.init = append(slices.Clip(t.init), "--pack-size", o.packSize)
	}
	if out, err := command(dir, t.init).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("init: %w\n%s", err, out)
	}
	dst := filepath.Join(dir, "restored")
	for _, step := range remoteSteps {
		if err := ctx.Err(); err != nil {
			return rows, err
		}
		var cmd *exec.Cmd
		if step == "restore" { // as on another machine
			if err := os.RemoveAll(filepath.Join(dir, "cache")); err != nil {
				return rows, err
			}
			cmd = command(dir, t.restore(2, dst))
		} else {
			cmd = command(src, t.backup(1))
		}
		seen.take()
		if seen.trace != nil {
			fmt.Fprintf(seen.trace, "%s %s %v %s\n", t.name, place, d, step)
		}
		r, err := timed(cmd)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", step, err)
		}
		rows = append(rows, remoteRow{place, t.name, step, d, r, seen.take()})
		if step == "restore" {
			if out, err := exec.CommandContext(ctx, "diff", "-rq", "--no-dereference", src, dst).CombinedOutput(); err != nil {
				rows[len(rows)-1].problem = "restored differently: " + strings.SplitN(string(out), "\n", 2)[0]
			}
		}
		last := rows[len(rows)-1]
		fmt.Fprintf(os.Stderr, "%-5s %4d ms  %-9s %-8s %8.2f s  cpu %7.2f s  %5d requests: %s  %s\n", place, d.Milliseconds(), t.name, step,
			last.wall.Seconds(), last.cpu.Seconds(), total(last.kinds), inWords(last.kinds), last.problem)
	}
	return rows, os.RemoveAll(dir)
}

// free returns an address that nobody listens at.
func free() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// startServer runs a server until stop, and waits until it answers at addr.
func startServer(cmd *exec.Cmd, addr string) (stop func(), err error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", addr); err == nil {
			return stop, conn.Close()
		}
		if time.Now().After(end) {
			stop()
			return nil, fmt.Errorf("%s does not answer", cmd.Path)
		}
	}
}

// startGateway starts versitygw on a folder in dir, behind a line.
func startGateway(dir string, d time.Duration, seen *counts) (*server, error) {
	path, err := exec.LookPath("versitygw")
	if err != nil {
		out, _ := exec.Command("go", "env", "GOPATH").Output()
		path = filepath.Join(strings.TrimSpace(string(out)), "bin", "versitygw")
	}
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(filepath.Join(data, "bucket"), 0o700); err != nil {
		return nil, err
	}
	addr, err := free()
	if err != nil {
		return nil, err
	}
	stop, err := startServer(exec.Command(path, "--access", "bench", "--secret", "bench-secret", "--port", addr, "--quiet", "--keep-alive", "posix", data), addr)
	if err != nil {
		return nil, err
	}
	n, err := newLine(addr, d, seen.http)
	if err != nil {
		stop()
		return nil, err
	}
	return &server{url: func(string) string { return "s3:http://" + n.addr() + "/bucket/repo" },
		env: []string{"AWS_ACCESS_KEY_ID=bench", "AWS_SECRET_ACCESS_KEY=bench-secret"}, stop: func() { n.l.Close(); stop() }}, nil
}

// startSSHD starts OpenSSH's server with keys of its own in dir, behind a line.
func startSSHD(dir string, d time.Duration, seen *counts) (_ *server, err error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	find := func(name string) string {
		for _, path := range []string{name, "/usr/sbin/" + name, "/usr/lib/openssh/" + name} {
			if found, err := exec.LookPath(path); err == nil {
				return found
			}
		}
		return name
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	keys := filepath.Join(dir, ".ssh")
	for _, name := range []string{"host", "id_ed25519"} {
		if out, err := exec.Command(find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(keys, name)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w\n%s", err, out)
		}
	}
	socket := filepath.Join(dir, "sftp")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	go seen.serveSFTP(l, find("sftp-server"))
	addr, err := free()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	config := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %[2]s/host\nAuthorizedKeysFile %[2]s/id_ed25519.pub\nPidFile none\nStrictModes no\nUsePAM no\n"+
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\nSubsystem sftp %s pipe-sftp %s\n", port, keys, self, socket)
	if err := os.WriteFile(filepath.Join(keys, "server"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "sshd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(find("sshd"), "-D", "-e", "-f", filepath.Join(keys, "server"))
	cmd.Stderr = io.Writer(log)
	stop, err := startServer(cmd, addr)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	n, err := newLine(addr, d, nil)
	if err != nil {
		return nil, err
	}
	host, err := os.ReadFile(filepath.Join(keys, "host.pub"))
	if err != nil {
		return nil, err
	}
	_, port, _ = net.SplitHostPort(n.addr())
	if err := os.WriteFile(filepath.Join(keys, "known_hosts"), fmt.Appendf(nil, "[127.0.0.1]:%s %s", port, host), 0o600); err != nil {
		return nil, err
	}
	repo := filepath.Join(dir, "repo")
	ssh := fmt.Sprintf("sftp.command=ssh -F none -p %s -i %s/id_ed25519 -o UserKnownHostsFile=%[2]s/known_hosts %s@127.0.0.1 -s sftp", port, keys, me.Username)
	return &server{url: func(tool string) string {
		if tool == "restic" {
			return "sftp:" + me.Username + "@127.0.0.1:" + repo
		}
		return "sftp://" + me.Username + "@" + n.addr() + repo
	}, args: map[string][]string{"restic": {"-o", ssh}}, stop: func() { n.l.Close(); stop(); l.Close() }}, nil
}

// remoteTable writes the measurements in Markdown.
func remoteTable(o remoteOptions, rows []remoteRow) string {
	var b strings.Builder
	b.WriteString("# Bench of remote storage\n\n")
	for _, l := range machine() {
		fmt.Fprintf(&b, "- %s\n", l)
	}
	for _, name := range o.tools {
		if t, err := newTool(name, o.packhold); err == nil {
			fmt.Fprintf(&b, "- %s: %s\n", name, t.version())
		}
	}
	fmt.Fprintf(&b, "- source: %d MiB of random bytes in one file beside %d small files\n", o.mib, o.files)
	b.WriteString("\n| server | round trip ms | step |")
	for _, t := range o.tools {
		fmt.Fprintf(&b, " %s wall s | requests |", t)
	}
	both := slices.Contains(o.tools, "packhold") && slices.Contains(o.tools, "restic")
	if both {
		b.WriteString(" packhold/restic |")
	}
	b.WriteString("\n|---|--:|---|" + strings.Repeat("--:|--:|", len(o.tools)))
	if both {
		b.WriteString("--:|")
	}
	b.WriteString("\n")
	for _, place := range o.places {
		for _, d := range o.delays {
			for _, step := range remoteSteps {
				fmt.Fprintf(&b, "| %s | %d | %s |", place, d.Milliseconds(), step)
				walls := make(map[string]time.Duration)
				for _, t := range o.tools {
					var wall []time.Duration
					requests, mark := 0, ""
					for _, r := range rows {
						if r.place == place && r.delay == d && r.step == step && r.tool == t {
							wall = append(wall, r.wall)
							requests = max(requests, total(r.kinds))
							if r.problem != "" {
								mark = " (wrong)"
							}
						}
					}
					if len(wall) == 0 {
						b.WriteString(" | |")
						continue
					}
					walls[t] = median(wall)
					fmt.Fprintf(&b, " %.2f%s | %d |", walls[t].Seconds(), mark, requests)
				}
				if both && walls["restic"] > 0 {
					fmt.Fprintf(&b, " %.2f |", walls["packhold"].Seconds()/walls["restic"].Seconds())
				}
				b.WriteString("\n")
			}
		}
	}
	b.WriteString("\nwall: median of the rounds; requests: the most of any round, of HTTP before versitygw, or packets of SFTP before sftp-server. first: a backup into an\n" +
		"empty repository; again: with nothing changed; restore: into an empty folder, without the cache. Servers beside the clients, their files on tmpfs.\n")
	return b.String()
}
