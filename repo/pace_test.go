package repo

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"packhold/backends/fault"
	"packhold/crypt"
	"packhold/repo/format"
)

// A backup whose storage is slow compresses harder after a while, one whose storage is fast does not.
func TestCompressionAuto(t *testing.T) {
	// Made before: the time of the making would count as work between two packs.
	random := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("one of many words that text is made of so that it can be compressed to a third or so")
	var texts [][]byte
	for range 24 {
		var b bytes.Buffer
		for b.Len() < 1<<19 {
			b.WriteString(words[random.IntN(len(words))])
			b.WriteByte(byte(random.Uint32()))
		}
		texts = append(texts, b.Bytes())
	}
	for _, slow := range []bool{false, true} {
		inner, c := newTestRepo(t)
		st := fault.New(inner)
		r := openWriter(t, st, c)
		r.settings.PackSize = format.MinPackSize
		if slow {
			st.SetHook(func(op fault.Op, name string) error {
				if op == fault.Put && strings.HasPrefix(name, "packs/") {
					time.Sleep(time.Second)
				}
				return nil
			})
		}
		s, err := r.Begin(t.Context(), SessionOptions{Compression: "auto"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		w, err := s.NewWorker()
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range texts {
			if _, _, err := w.Store(b); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		levels := make(map[crypt.Compression]int)
		for p, err := range s.x.All() {
			if err != nil {
				t.Fatal(err)
			}
			levels[p.Compression]++
		}
		harder := len(texts) - levels[crypt.ZstdFastest] // how much harder depends on what else the machine has to do
		if levels[crypt.ZstdFastest] == 0 || harder > 0 != slow {
			t.Errorf("slow storage %v: blobs by level %v", slow, levels)
		}
	}
}
