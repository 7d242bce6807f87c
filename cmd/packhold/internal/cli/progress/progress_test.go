package progress

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"packhold/cmd/packhold/internal/cli/term"
)

// watch runs four minutes of work at 1 MiB and one file a second, of 400, and returns what the screen got.
func watch(t *testing.T, mode Mode, asked chan struct{}) (screen string, status []Status) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		s := term.NewScreen(&b)
		s.Terminal, s.Width = mode == Bar, func() int { return 100 }
		c := new(Counter)
		stop := errors.New("enough")
		err := Watch(c, Options{Action: "saving", Mode: mode, Screen: s, Asked: asked, Now: time.Now, Emit: func(s Status) { status = append(status, s) }}, func() error {
			c.Total(400, 400<<20)
			time.Sleep(100 * time.Millisecond) // never at the moment of a tick
			for range 240 {
				time.Sleep(time.Second)
				c.File("/data/x\x1b\xff")
				c.Done(1, 1<<20)
			}
			time.Sleep(time.Millisecond)
			return stop
		})
		if err != stop {
			t.Errorf("the work's error came back as %v", err)
		}
		screen = b.String()
	})
	return screen, status
}

func TestLines(t *testing.T) {
	got, _ := watch(t, Lines, nil)
	want := "saving: 59.0 MiB of 400 MiB  59 of 400 files, 1007 KiB/s, 1:00, 14.7%, 5:46 left, at \"/data/x\\x1b\\xff\"\n"
	if lines := strings.SplitAfter(got, "\n"); len(lines) < 4 || len(lines) > 5 || !strings.HasPrefix(lines[0], "saving: ") || !strings.Contains(lines[0], " of 400 files") {
		t.Errorf("got %d lines\n%s\nwant the first like\n%s", len(lines), got, want)
	}
}

func TestBar(t *testing.T) {
	got, _ := watch(t, Bar, nil)
	if !strings.Contains(got, "]  50.0%  200 MiB of 400 MiB  200 of 400 files  ") {
		t.Errorf("half way the bar is not half full: %.300q", got[len(got)/2:])
	}
	for line := range strings.SplitSeq(got, "\x1b[J") {
		line, _, _ = strings.Cut(line, "\n")
		open, rest, ok := strings.Cut(strings.TrimPrefix(line, "["), "]")
		full, cells := strings.Count(open, "#"), len(open)
		if strings.HasPrefix(rest, "  50.0%") && (!ok || cells < 20 || full != cells/2) || len(line) > 99 {
			t.Fatalf("line %q", line)
		}
	}
	if !strings.Contains(got, `"/data/x\x1b\xff"`) || strings.Contains(got, "\xff") {
		t.Error("the file is not shown, or not quoted")
	}
	if !strings.HasSuffix(got, "\x1b[J") {
		t.Error("the bar is not removed at the end")
	}
}

func TestJSONAndQuiet(t *testing.T) {
	screen, status := watch(t, JSON, nil)
	if screen != "" || len(status) < 239 || len(status) > 241 {
		t.Fatalf("%d status lines, screen %q", len(status), screen)
	}
	s := status[199]
	if s.Percent < 49 || s.Percent > 51 || s.SecondsLeft < 190 || s.SecondsLeft > 210 || s.TotalFiles != 400 || s.Rate < 1<<20*0.9 || s.CurrentRaw == "" || s.Action != "saving" {
		t.Errorf("half way: %+v", s)
	}
	if screen, status := watch(t, Quiet, nil); screen != "" || status != nil {
		t.Errorf("quiet: %q, %d lines", screen, len(status))
	}
}

func TestAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		asked := make(chan struct{})
		c := new(Counter)
		err := Watch(c, Options{Action: "saving", Mode: Quiet, Screen: term.NewScreen(&b), Asked: asked, Now: time.Now}, func() error {
			c.Done(3, 4096)
			time.Sleep(2 * time.Second)
			asked <- struct{}{}
			synctest.Wait()
			return nil
		})
		if want := "saving: 4.00 KiB  3 files, 2.00 KiB/s, 2.0 s\n"; err != nil || b.String() != want {
			t.Errorf("got %q, want %q", b.String(), want)
		}
	})
}

func TestCounterConcurrently(t *testing.T) {
	var mu sync.Mutex
	warned := 0
	c := &Counter{OnWarn: func(_, _ string) { mu.Lock(); warned++; mu.Unlock() }}
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for range 1000 {
				c.Total(1, 10)
				c.File("f")
				c.Done(1, 10)
				c.Warn("f", "why")
				if s := c.State(); s.DoneFiles > s.TotalFiles || s.DoneBytes > s.TotalBytes {
					t.Errorf("more is done than there is: %+v", s)
					return
				}
			}
		})
	}
	wait.Wait()
	if s := c.State(); s != (State{4000, 40000, 4000, 40000, 4000, "f"}) || warned != 4000 || c.Skipped() != 4000 {
		t.Errorf("%+v, %d warned", s, warned)
	}
}

func TestLeft(t *testing.T) {
	m := new(meter)
	start := time.Unix(0, 0)
	if _, ok := m.left(State{TotalBytes: 1}); ok {
		t.Error("time left without a sample")
	}
	m.add(start, State{})
	m.add(start, State{DoneBytes: 5})
	if b, f := m.rate(); b != 0 || f != 0 {
		t.Error("a rate without time")
	}
	for i := 1; i <= 100; i++ { // 10 files a second and no bytes
		m.add(start.Add(time.Duration(i)*time.Second), State{DoneFiles: int64(10 * i)})
	}
	if len(m.samples) > 17 {
		t.Errorf("%d samples are kept", len(m.samples))
	}
	if d, ok := m.left(State{TotalFiles: 1100, DoneFiles: 1000}); !ok || d.Round(time.Second) != 10*time.Second {
		t.Errorf("left %v, %v", d, ok)
	}
	if d, ok := m.left(State{TotalFiles: 1100, DoneFiles: 1000, TotalBytes: 5}); ok {
		t.Errorf("left %v though no byte moves", d)
	}
	if d, ok := m.left(State{TotalFiles: 1e12}); ok {
		t.Errorf("left %v", d)
	}
}
