package term

import (
	"io"
	"strings"
	"sync"
)

// Screen writes lines for people and keeps a few status lines below them, which it redraws. Its methods may be called
// concurrently. What cannot be written is dropped: a closed terminal must not stop a backup.
type Screen struct {
	// Terminal says that the writer understands the escape sequences for moving up and clearing. Without it status
	// lines are not shown.
	Terminal bool
	// Width returns the present number of columns, 0 if unknown.
	Width func() int

	mu     sync.Mutex // guards what follows and the order of writes
	w      io.Writer
	status []string
	drawn  int // status lines on the screen now
}

// NewScreen returns a screen that writes to w.
func NewScreen(w io.Writer) *Screen { return &Screen{w: w} }

// Print writes text, which may be several lines, above the status lines. A newline is added where it lacks one.
func (s *Screen) Print(text string) {
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	io.WriteString(s.w, s.erase()+text+s.draw())
}

// SetStatus replaces the status lines; none removes them.
func (s *Screen) SetStatus(lines ...string) {
	if !s.Terminal {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	erase := s.erase()
	s.status = lines
	if out := erase + s.draw(); out != "" {
		io.WriteString(s.w, out)
	}
}

// Columns returns the width to format for: that of the terminal, or 0.
func (s *Screen) Columns() int {
	if s.Width == nil {
		return 0
	}
	return s.Width()
}

// erase returns what removes the status lines from the screen, leaving the cursor where they began.
func (s *Screen) erase() string {
	if s.drawn == 0 {
		return ""
	}
	up := strings.Repeat("\x1b[1A", s.drawn-1)
	s.drawn = 0
	return "\r" + up + "\x1b[J"
}

// draw returns the status lines, the cursor staying at the end of the last. A line that wrapped would make erase go up
// too little, so all are cut to one column less than the width.
func (s *Screen) draw() string {
	if len(s.status) == 0 {
		return ""
	}
	columns := s.Columns()
	if columns <= 0 {
		columns = 80
	}
	cut := make([]string, len(s.status))
	for i, line := range s.status {
		cut[i] = Fit(Clean(line), columns-1)
	}
	s.drawn = len(cut)
	return strings.Join(cut, "\n")
}
