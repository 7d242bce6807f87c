package progress

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"packhold/cmd/packhold/internal/cli/term"
)

// Mode is how progress is shown.
type Mode int

// The modes.
const (
	Lines Mode = iota // a line a minute, for logs
	Bar               // two lines at the foot of a terminal
	JSON              // a status object a second
	Quiet             // nothing but what is asked for through Options.Asked
)

// interval is the time between two showings.
func (m Mode) interval() time.Duration {
	switch m {
	case Bar:
		return 200 * time.Millisecond // five a second is fluent, and costs nothing
	case JSON:
		return time.Second
	}
	return time.Minute
}

// Status is a JSON status line. Numbers that are not known are zero, the seconds left -1.
type Status struct {
	Action      string  `json:"action"`
	Seconds     float64 `json:"seconds_elapsed"`
	SecondsLeft float64 `json:"seconds_remaining"`
	Percent     float64 `json:"percent_done"` // 0 to 100
	TotalFiles  int64   `json:"total_files"`
	FilesDone   int64   `json:"files_done"`
	TotalBytes  int64   `json:"total_bytes"`
	BytesDone   int64   `json:"bytes_done"`
	Rate        float64 `json:"bytes_per_second"`
	Skipped     int64   `json:"skipped"`
	Current     string  `json:"current"`
	CurrentRaw  string  `json:"current_raw,omitempty"`
}

// Options say where and how progress is shown.
type Options struct {
	Action string // a present participle: "saving", "restoring"
	Mode   Mode
	Screen *term.Screen
	Emit   func(Status)    // takes the status lines of mode JSON
	Asked  <-chan struct{} // a value asks for a line at once, in every mode; nil if nobody can ask
	Names  bool            // lines name the current file
	Now    func() time.Time
}

// Watch runs work and shows c while it runs. It returns what work returns, when the last line is written.
func Watch(c *Counter, o Options, work func() error) error {
	m := new(meter)
	m.add(o.Now(), c.State())
	stop := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(o.Mode.interval())
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				s := c.State()
				m.add(o.Now(), s)
				o.show(m, s)
			case <-o.Asked:
				s := c.State()
				m.add(o.Now(), s)
				o.Screen.Print(o.line(m, s))
			}
		}
	})
	// A panic in work must leave the screen usable for its message.
	defer func() {
		close(stop)
		wait.Wait()
		o.Screen.SetStatus()
	}()
	return work()
}

// show is one regular showing.
func (o *Options) show(m *meter, s State) {
	switch o.Mode {
	case Bar:
		o.Screen.SetStatus(o.bar(m, s, columns(o.Screen)), currentLine(s))
	case JSON:
		o.Emit(o.status(m, s))
	case Lines:
		o.Screen.Print(o.line(m, s))
	}
}

// columns returns the width of the screen, or that of the smallest usual terminal.
func columns(s *term.Screen) int {
	if n := s.Columns(); n > 0 {
		return n
	}
	return 80
}

func currentLine(s State) string {
	if s.Current == "" {
		return ""
	}
	return term.Name(s.Current)
}

// share returns how much is done, by bytes or, where there are none, by files; ok is false while the total is unknown.
func share(s State) (done, total int64, ok bool) {
	if s.TotalBytes > 0 {
		return s.DoneBytes, s.TotalBytes, true
	}
	return s.DoneFiles, s.TotalFiles, s.TotalFiles > 0
}

// bar returns "[####------]  40.0%  4.00 GiB of 10.0 GiB  1,234 files  512 MiB/s  0:12 left", the bar taking what room the
// text leaves; without a total no bar.
func (o *Options) bar(m *meter, s State, columns int) string {
	rate, _ := m.rate()
	parts := []string{o.Action, amount(s), term.Rate(rate)}
	done, total, known := share(s)
	if known {
		parts[0] = term.Percent(done, total)
	}
	if s.Skipped > 0 {
		parts = append(parts, term.Count(s.Skipped)+" skipped")
	}
	if d, ok := m.left(s); ok {
		parts = append(parts, term.Duration(d.Round(time.Second))+" left")
	} else {
		parts = append(parts, term.Duration(m.elapsed()))
	}
	text := strings.Join(parts, "  ")
	// Brackets, a gap of two and the last column, which stays free, take five. Shorter bars show nothing.
	cells := min(30, columns-5-term.Width(text))
	if !known || cells < 5 {
		return text
	}
	full := int(float64(cells) * min(float64(done)/float64(total), 1))
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", cells-full) + "]  " + text
}

// line returns one line for a log.
func (o *Options) line(m *meter, s State) string {
	rate, _ := m.rate()
	text := fmt.Sprintf("%s: %s, %s, %s", o.Action, amount(s), term.Rate(rate), term.Duration(m.elapsed()))
	if done, total, known := share(s); known {
		text += ", " + term.Percent(done, total)
	}
	if d, ok := m.left(s); ok {
		text += ", " + term.Duration(d) + " left"
	}
	if s.Skipped > 0 {
		text += ", " + term.Count(s.Skipped) + " skipped"
	}
	if s.Current != "" && o.Names { // logs are for many eyes: names only where they are asked for
		text += ", at " + term.Name(s.Current)
	}
	return text
}

func amount(s State) string {
	text := term.Bytes(s.DoneBytes)
	if s.TotalBytes > 0 {
		text += " of " + term.Bytes(s.TotalBytes)
	}
	text += "  " + term.Count(s.DoneFiles)
	if s.TotalFiles > 0 {
		text += " of " + term.Count(s.TotalFiles)
	}
	return text + " files"
}

func (o *Options) status(m *meter, s State) Status {
	rate, _ := m.rate()
	out := Status{
		Action: o.Action, Seconds: m.elapsed().Seconds(), SecondsLeft: -1,
		TotalFiles: s.TotalFiles, FilesDone: s.DoneFiles, TotalBytes: s.TotalBytes, BytesDone: s.DoneBytes,
		Rate: rate, Skipped: s.Skipped,
	}
	if done, total, known := share(s); known {
		out.Percent = 100 * min(float64(done)/float64(total), 1)
	}
	if d, ok := m.left(s); ok {
		out.SecondsLeft = d.Seconds()
	}
	out.Current, out.CurrentRaw = term.RawName(s.Current)
	return out
}

// elapsed returns the time from the first sample to the last.
func (m *meter) elapsed() time.Duration {
	if len(m.samples) == 0 {
		return 0
	}
	return m.samples[len(m.samples)-1].at.Sub(m.start)
}
