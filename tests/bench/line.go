//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// counts is how often each kind of request was seen. It is safe for concurrent use.
type counts struct {
	mu    sync.Mutex // guards what follows
	kinds map[string]int
	trace io.Writer // a line for each; nil: none
}

func (c *counts) add(kind, detail string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kinds == nil {
		c.kinds = make(map[string]int)
	}
	c.kinds[kind]++
	if c.trace != nil {
		fmt.Fprintf(c.trace, "%s %s %s\n", time.Now().Format("05.000"), kind, detail)
	}
}

// take returns the counts since the last take.
func (c *counts) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.kinds
	c.kinds = nil
	return k
}

func total(kinds map[string]int) (n int) {
	for _, v := range kinds {
		n += v
	}
	return n
}

// inWords writes counts like "GET 5, PUT 7".
func inWords(kinds map[string]int) string {
	var out []string
	for k, n := range kinds {
		out = append(out, fmt.Sprint(k, " ", n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// line passes TCP connections on to a server and delivers every byte half a round trip later. It does not limit how many bytes are under way, so
// bandwidth stays that of the loopback. Making a connection takes a round trip, as it does elsewhere.
type line struct {
	l    net.Listener
	to   string
	half time.Duration
	look func(io.Reader) // reads what a client sends on one connection; nil: nobody does
}

func newLine(to string, roundTrip time.Duration, look func(io.Reader)) (*line, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &line{l, to, roundTrip / 2, look}
	go n.serve()
	return n, nil
}

func (n *line) addr() string { return n.l.Addr().String() }

func (n *line) serve() {
	for {
		from, err := n.l.Accept()
		if err != nil {
			return
		}
		go n.pass(from)
	}
}

func (n *line) pass(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", n.to)
	if err != nil {
		return
	}
	defer to.Close()
	open := time.Now().Add(2 * n.half) // before, a client does not know that it is connected
	var sent io.Reader = from
	var ends sync.WaitGroup
	if n.look != nil {
		r, w := io.Pipe()
		defer w.Close()
		sent = io.TeeReader(from, w)
		go func() {
			n.look(r)
			io.Copy(io.Discard, r)
		}()
	}
	ends.Go(func() { delay(to, sent, n.half, open) })
	ends.Go(func() { delay(from, to, n.half, open) })
	ends.Wait()
}

// delay copies src to dst, every byte late after it came or after open, until src ends.
func delay(dst io.Writer, src io.Reader, late time.Duration, open time.Time) {
	type piece struct {
		bytes []byte
		due   time.Time
	}
	pieces := make(chan piece, 1<<14)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 256<<10)
			n, err := src.Read(b)
			if n > 0 {
				came := time.Now()
				if came.Before(open) {
					came = open
				}
				pieces <- piece{b[:n:n], came.Add(late)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := dst.Write(p.bytes); err != nil {
			break
		}
	}
	if c, ok := dst.(*net.TCPConn); ok {
		c.CloseWrite()
	}
	for range pieces { // the reader ends when the connection is closed
	}
}

// http returns a line's look that counts HTTP requests by method.
func (c *counts) http(r io.Reader) {
	in := bufio.NewReaderSize(r, 256<<10)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		kind := req.Method
		if req.Method == http.MethodGet && (req.URL.Query().Has("list-type") || req.URL.Query().Has("prefix")) {
			kind = "LIST"
		}
		c.add(kind, req.URL.RequestURI()+" "+req.Header.Get("Range"))
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
	}
}

// packetNames are the requests of the SFTP protocol, version 3.
var packetNames = map[byte]string{1: "init", 3: "open", 4: "close", 5: "read", 6: "write", 7: "lstat", 8: "fstat", 9: "setstat", 10: "fsetstat", 11: "opendir", 12: "readdir",
	13: "remove", 14: "mkdir", 15: "rmdir", 16: "realpath", 17: "stat", 18: "rename", 19: "readlink", 20: "symlink", 200: "extended"}

// sftp reads what an SFTP client sends and counts its packets by kind.
func (c *counts) sftp(r io.Reader) {
	in := bufio.NewReaderSize(r, 256<<10)
	for {
		var head [5]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		rest := int(binary.BigEndian.Uint32(head[:4])) - 1
		name := packetNames[head[4]]
		if name == "" {
			name = fmt.Sprint("type ", head[4])
		}
		text, _ := in.Peek(min(rest, 200))
		detail := strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return -1
			}
			return r
		}, string(text[min(4, len(text)):]))
		if name == "write" {
			detail = ""
		}
		c.add(name, detail)
		if _, err := in.Discard(rest); err != nil {
			return
		}
	}
}

// serveSFTP answers connections to a socket with sftp-server, one process each, and counts what clients ask it. sshd starts pipeSFTP, which connects.
func (c *counts) serveSFTP(l net.Listener, server string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			r, w := io.Pipe()
			defer w.Close()
			go func() {
				c.sftp(r)
				io.Copy(io.Discard, r)
			}()
			cmd := exec.Command(server)
			cmd.Stdin, cmd.Stdout = io.TeeReader(conn, w), conn
			if err := cmd.Run(); err != nil {
				fmt.Fprintln(os.Stderr, "bench: sftp-server:", err)
			}
		}()
	}
}

// pipeSFTP passes standard input and output on to a socket.
func pipeSFTP(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, os.Stdin)
		sent <- errors.Join(err, conn.(*net.UnixConn).CloseWrite())
	}()
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		return err
	}
	return <-sent
}
