package limit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"packhold/backends"
	"packhold/backends/backendtest"
	"packhold/backends/mem"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, l := range []*Limiter{New(0, 0), New(1<<30, 1<<30)} {
		backendtest.Run(t, func(t *testing.T) backends.Storage { return l.Storage(mem.New(time.Now)) })
	}
}

// pair is a connection and its other end.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// passed sends n bytes over a connection and returns how long it took. The bytes must arrive as they are.
func passed(t *testing.T, w, r net.Conn, n int) time.Duration {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789"), n/10)
	start := time.Now()
	go w.Write(data)
	got := make([]byte, len(data))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, data) {
		t.Errorf("other bytes, or %v", err)
	}
	return time.Since(start)
}

func TestRate(t *testing.T) {
	t.Parallel()
	const rate, size = 1 << 20, 640_000 // 550 ms behind the burst
	least := (size - burst) * time.Second * 9 / 10 / rate
	for _, c := range []struct {
		up, down  int64
		out, back bool // slow
	}{{0, 0, false, false}, {rate, 0, true, false}, {0, rate, false, true}} {
		a, b := pair(t)
		a = New(c.up, c.down).Conn(a)
		if d := passed(t, a, b, size); (d >= least) != c.out {
			t.Errorf("%+v: sent in %v", c, d)
		}
		if d := passed(t, b, a, size); (d >= least) != c.back {
			t.Errorf("%+v: received in %v", c, d)
		}
	}
	s := New(rate, rate).Storage(mem.New(time.Now))
	start := time.Now()
	if err := s.Put(t.Context(), "x", make([]byte, size), backends.PutOptions{}); err != nil || time.Since(start) < least {
		t.Errorf("stored in %v: %v", time.Since(start), err)
	}
	start = time.Now()
	if b, err := s.Get(t.Context(), "x", 0, -1); err != nil || len(b) != size || time.Since(start) < least {
		t.Errorf("read in %v: %v", time.Since(start), err)
	}
}

// All connections of a limiter share its rate.
func TestShared(t *testing.T) {
	t.Parallel()
	l := New(1<<20, 0)
	start := time.Now()
	done := make(chan struct{})
	for range 4 {
		a, b := pair(t)
		go func() { passed(t, l.Conn(a), b, 160_000); done <- struct{}{} }()
	}
	for range 4 {
		<-done
	}
	if d := time.Since(start); d < 450*time.Millisecond {
		t.Errorf("four connections took %v", d)
	}
}

// Waits end with the connection, or with the context.
func TestEnds(t *testing.T) {
	t.Parallel()
	a, _ := pair(t)
	slow := New(1, 1)
	c := slow.Conn(a)
	time.AfterFunc(50*time.Millisecond, func() { c.Close() })
	start := time.Now()
	if _, err := c.Write(make([]byte, 1<<20)); !errors.Is(err, net.ErrClosed) || time.Since(start) > 2*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(stop) })
	if err := slow.Storage(mem.New(time.Now)).Put(ctx, "x", make([]byte, 1<<20), backends.PutOptions{}); !errors.Is(err, stop) {
		t.Error(err)
	}
}
