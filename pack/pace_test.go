package pack

import (
	"testing"
	"time"
)

// The level rises while packs wait for the storage most of the time, falls when they do not, and stays within its bounds.
func TestPace(t *testing.T) {
	now := time.Unix(0, 0)
	clock := func() time.Time { return now }
	p, err := NewPace("auto", clock)
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		work, wait time.Duration
		want       Level
	}{
		{10, 0, Fastest}, {10, 1, Fastest}, {10, 5, Fastest}, {10, 10, Fastest}, // exactly half moves nothing
		{10, 30, Default}, {10, 9, Default}, {10, 30, Better}, {10, 30, Better}, // Best takes too much memory
		{10, 3, Better}, {10, 1, Default}, {10, 0, Fastest}, {10, 0, Fastest}, {0, 0, Fastest},
	} {
		now = now.Add(step.work * time.Second)
		p.wait(func() { now = now.Add(step.wait * time.Second) })
		p.opened()
		if p.Level() != step.want {
			t.Errorf("step %d, %d s of work and %d s of waiting: level %d, want %d", i, step.work, step.wait, p.Level(), step.want)
		}
	}
	for name, want := range map[string]Level{"none": None, "fastest": Fastest, "default": Default, "best": Best} {
		p, err := NewPace(name, clock)
		if err != nil {
			t.Fatal(err)
		}
		p.wait(func() { now = now.Add(time.Hour) })
		p.opened()
		if p.Level() != want {
			t.Errorf("%s moved to %d", name, p.Level())
		}
	}
	if _, err := NewPace("fast", clock); err == nil {
		t.Error("an unknown level is taken")
	}
}

// Another level makes another encoder, and its bytes say so.
func TestSetLevel(t *testing.T) {
	c := mustCodec(t, Fastest)
	text := make([]byte, 200_000)
	for i := range text {
		text[i] = "packhold stores what it was given, "[i*i%35]
	}
	small, how := c.Compress(text)
	n := len(small)
	if how != Fastest.compression() {
		t.Fatalf("compression %d", how)
	}
	c.SetLevel(Better)
	better, how := c.Compress(text)
	if how != Better.compression() || len(better) >= n {
		t.Errorf("compression %d, %d bytes after %d", how, len(better), n)
	}
	if back, err := c.Decompress(nil, better, how, uint32(len(text))); err != nil || string(back) != string(text) {
		t.Errorf("%v", err)
	}
}
