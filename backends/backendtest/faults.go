package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"packhold/backends"
)

// Stall is about how long the storages that Faults opens may take to notice that a line is dead.
const Stall = 600 * time.Millisecond

// Server is a real server, for Faults.
type Server struct {
	Addr string // host:port

	// Connections is how many at a time the storages that Open opens may have.
	Connections int

	// Open opens a storage at a place that it makes, at another address that leads to the server: the driver in a wrapper that tries again soon, as
	// backends/retry does. It notices a line where nothing moves within about Stall. The same place is opened more than once.
	Open func(t *testing.T, addr, place string) backends.Storage
}

// Faults proves that a storage over a line that fails in the ways lines do still keeps its contract. The tests are named for the rows of section D of
// docs/faults.md. It takes some 20 seconds, most of them asleep.
func Faults(t *testing.T, s Server) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, x *faulty)
	}{
		{"D1Put", faultPut},
		{"D1Delete", faultDelete},
		{"D1Random", faultRandom},
		{"D2Get", faultGet},
		{"D4Hang", faultHang},
		{"D4Silent", faultSilent},
		{"D8List", faultList},
		{"D14Dead", faultDead},
		{"D16Away", faultAway},
		{"D17Slow", faultSlow},
		{"Connections", func(t *testing.T, x *faulty) { connections(t, x, s.Connections) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			x := &faulty{line: newLine(t, s.Addr), place: "faults-" + strings.ToLower(test.name)}
			x.direct = s.Open(t, s.Addr, x.place)
			Clear(t, x.direct) // of an earlier run
			x.s = s.Open(t, x.line.addr, x.place)
			listed(t, x.s, "") // a driver may begin its first listing with what it saw when it was opened
			test.run(t, x)
		})
	}
}

// faulty is a storage over a line, and the same place undisturbed.
type faulty struct {
	line      *line
	place     string
	s, direct backends.Storage
}

// measure returns how many bytes go to the server and come from it during f.
func (x *faulty) measure(f func()) [2]int64 {
	_, _ = x.s.Stat(context.Background(), "none") // on a connection that works, then
	before := x.line.bytes()
	f()
	time.Sleep(20 * time.Millisecond) // for what nobody waits for
	after := x.line.bytes()
	return [2]int64{after[0] - before[0], after[1] - before[1]}
}

// positions are where in n bytes a line may fail.
func positions(n int64) []int64 {
	list := []int64{0, n / 3, n / 2, n - 1, n}
	if testing.Short() {
		list = []int64{0, n / 2, n}
	}
	return slices.Compact(slices.DeleteFunc(list, func(at int64) bool { return at < 0 }))
}

// strikes calls f with the line failing in every way at every position of a call that moves so many bytes, and fails where the line hardly ever failed.
func (x *faulty) strikes(t *testing.T, faults []lineFault, moved [2]int64, f func(what string)) {
	t.Helper()
	tries, struck := 0, 0
	for _, fault := range faults {
		for way, n := range moved {
			for _, at := range positions(n) {
				tries++
				x.line.arm(fault, way, at)
				f(fmt.Sprintf("%v after %d of %d bytes %s the server", fault, at, n, [...]string{"to", "from"}[way]))
				if x.line.disarm() > 0 {
					struck++
				}
				time.Sleep(2 * patience / 5) // for a reset that comes late
			}
		}
	}
	if struck < tries/2 {
		t.Errorf("the line failed in %d of %d calls only", struck, tries)
	}
}

// watch reads a file undisturbed until stop, which must be missing or whole, always.
func (x *faulty) watch(t *testing.T, name string, whole ...[]byte) (stop func()) {
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			b, err := x.direct.Get(t.Context(), name, 0, -1)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil || !slices.ContainsFunc(whole, func(w []byte) bool { return bytes.Equal(b, w) }) {
				t.Errorf("a reader of %s meanwhile: %d bytes, %v", name, len(b), err)
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// faultPut: a Put over a line that breaks anywhere, before or after the server has done its work, stores the file once, whole, and an exclusive one may
// find its own. Nobody ever sees a part.
func faultPut(t *testing.T, x *faulty) {
	for _, size := range []int{10, 2 << 20} {
		for _, put := range []backends.PutOptions{{}, {IfAbsent: true}} {
			data := filler(uint64(size), size)
			var moved [2]int64
			for _, name := range []string{"packs/first", "packs/second"} { // the first makes directories
				moved = x.measure(func() {
					if err := x.s.Put(t.Context(), name, data, put); err != nil {
						t.Fatal(err)
					}
				})
			}
			n := 0
			x.strikes(t, []lineFault{resets, deaf}, moved, func(what string) {
				n++
				name := fmt.Sprintf("packs/%d-%v-%d", size, put.IfAbsent, n)
				stop := x.watch(t, name, data)
				err := x.s.Put(t.Context(), name, data, put)
				stop()
				if err != nil && !(put.IfAbsent && errors.Is(err, fs.ErrExist)) {
					t.Errorf("%d bytes, exclusive %v, %s: %v", size, put.IfAbsent, what, err)
				}
				if b, err := x.direct.Get(t.Context(), name, 0, -1); err != nil || !bytes.Equal(b, data) {
					t.Errorf("%d bytes, exclusive %v, %s: %d bytes are there, %v", size, put.IfAbsent, what, len(b), err)
				}
				if put.IfAbsent {
					if err := x.s.Put(t.Context(), name, []byte("another"), put); !errors.Is(err, fs.ErrExist) {
						t.Errorf("%s: another writer of the name: %v", what, err)
					}
				}
			})
			if got := len(listed(t, x.direct, "packs/")); got != n+2 {
				t.Errorf("%d files are there, of %d stored", got, n+2)
			}
			Clear(t, x.direct)
		}
	}
}

// faultDelete: a file is gone after a Delete over a line that breaks, which may find that it is gone already, and others are not.
func faultDelete(t *testing.T, x *faulty) {
	put(t, x.direct, "d/keep", []byte("keep"))
	put(t, x.direct, "d/a", []byte("a"))
	moved := x.measure(func() {
		if err := x.s.Delete(t.Context(), "d/a"); err != nil {
			t.Fatal(err)
		}
	})
	x.strikes(t, []lineFault{resets, deaf}, moved, func(what string) {
		put(t, x.direct, "d/a", []byte("a"))
		if err := x.s.Delete(t.Context(), "d/a"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := x.direct.Stat(t.Context(), "d/a"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: it is there: %v", what, err)
		}
	})
	want(t, x.direct, "d/keep", []byte("keep"))
}

// faultGet: a Get over a line that breaks anywhere returns the very bytes.
func faultGet(t *testing.T, x *faulty) {
	data := filler(1, 3<<20)
	put(t, x.direct, "packs/a", data)
	for _, span := range [][2]int64{{0, -1}, {1000, 2 << 20}, {2<<20 + 5, 300}} {
		wanted := data[span[0]:]
		if span[1] >= 0 {
			wanted = wanted[:span[1]]
		}
		get := func(what string) {
			b, err := x.s.Get(t.Context(), "packs/a", span[0], span[1])
			if err != nil || !bytes.Equal(b, wanted) {
				t.Errorf("Get(%d, %d), %s: %d bytes, %v", span[0], span[1], what, len(b), err)
			}
		}
		get("at first")
		moved := x.measure(func() { get("undisturbed") })
		x.strikes(t, []lineFault{resets, deaf}, moved, get)
	}
}

// faultList: a listing over a line that breaks off is whole, and says nothing else. It may name a file twice.
func faultList(t *testing.T, x *faulty) {
	var names []string
	for i := range 60 {
		name := fmt.Sprintf("packs/%d/%03d", i%5, i)
		put(t, x.direct, name, nil)
		names = append(names, name)
	}
	slices.Sort(names)
	list := func(what string) {
		got := listed(t, x.s, "")
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, names) {
			t.Errorf("%s: %d files of %d", what, len(got), len(names))
		}
	}
	list("at first")
	moved := x.measure(func() { list("undisturbed") })
	x.strikes(t, []lineFault{resets, deaf}, moved, list)
}

// calls is one call of each kind, with data for Put and of the file d/old, and a check of its result.
func (x *faulty) calls(data []byte) map[string]func(ctx context.Context, name string) error {
	return map[string]func(ctx context.Context, name string) error{
		"Put": func(ctx context.Context, name string) error {
			return x.s.Put(ctx, "d/"+name, data, backends.PutOptions{})
		},
		"exclusive Put": func(ctx context.Context, name string) error {
			err := x.s.Put(ctx, "d/"+name, data, backends.PutOptions{IfAbsent: true})
			if errors.Is(err, fs.ErrExist) {
				err = nil // its own
			}
			return err
		},
		"Get": func(ctx context.Context, _ string) error {
			b, err := x.s.Get(ctx, "d/old", 0, -1)
			if err == nil && !bytes.Equal(b, data) {
				err = fmt.Errorf("other bytes")
			}
			return err
		},
		"Stat": func(ctx context.Context, _ string) error { _, err := x.s.Stat(ctx, "d/old"); return err },
		"List": func(ctx context.Context, _ string) error {
			n := 0
			for _, err := range x.s.List(ctx, "d/") {
				if err != nil {
					return err
				}
				n++
			}
			if n == 0 {
				return errors.New("nothing is listed")
			}
			return nil
		},
		"Delete": func(ctx context.Context, name string) error {
			if err := x.direct.Put(ctx, "e/"+name, nil, backends.PutOptions{}); err != nil {
				return err
			}
			err := x.s.Delete(ctx, "e/"+name)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil // its own
			}
			return err
		},
	}
}

// faultHang: a connection on which nothing moves any more is given up, and the call made again on another one.
func faultHang(t *testing.T, x *faulty) {
	data := filler(2, 1<<20)
	put(t, x.direct, "d/old", data)
	for what, call := range x.calls(data) {
		moved := x.measure(func() {
			if err := call(t.Context(), "measured"); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		})
		for way, n := range moved {
			x.line.arm(hangs, way, n/2)
			began := time.Now()
			if err := call(t.Context(), fmt.Sprintf("%x-%d", what, way)); err != nil {
				t.Errorf("%s, the line hangs: %v", what, err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("%s, the line hangs: it took %v", what, took)
			}
			x.line.disarm()
		}
	}
}

// faultSilent: a server that takes connections and says nothing is given up, and tried again.
func faultSilent(t *testing.T, x *faulty) {
	data := filler(3, 1000)
	put(t, x.direct, "d/old", data)
	for what, call := range x.calls(data) {
		x.line.mu.Lock()
		x.line.held = 2
		x.line.mu.Unlock()
		x.line.drop()
		began := time.Now()
		if err := call(t.Context(), fmt.Sprintf("%x", what)); err != nil {
			t.Errorf("%s, nobody answers: %v", what, err)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("%s, nobody answers: it took %v", what, took)
		}
	}
	// Whoever waits for it can stop.
	for what, call := range x.calls(data) {
		x.line.mu.Lock()
		x.line.held = 1 << 20
		x.line.mu.Unlock()
		x.line.drop()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := time.Now()
		if what == "Delete" {
			what = "Delete of nothing"
			call = func(ctx context.Context, _ string) error { return x.s.Delete(ctx, "d/none") }
		}
		if err := call(ctx, "stopped"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s, stopped while nobody answers: %v", what, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s, stopped while nobody answers: it took %v", what, took)
		}
		cancel()
	}
}

// faultDead: a call that finds every connection dead is made on a new one.
func faultDead(t *testing.T, x *faulty) {
	data := filler(4, 100_000)
	put(t, x.direct, "d/old", data)
	for round := range 3 {
		for what, call := range x.calls(data) {
			x.line.drop()
			if err := call(t.Context(), fmt.Sprintf("%x-%d", what, round)); err != nil {
				t.Errorf("%s on a dead connection: %v", what, err)
			}
		}
	}
	x.line.mu.Lock()
	defer x.line.mu.Unlock()
	if x.line.accepted < 10 {
		t.Errorf("%d connections were made", x.line.accepted)
	}
}

// faultAway: a server that cannot be reached for a while is waited for.
func faultAway(t *testing.T, x *faulty) {
	data := filler(5, 100_000)
	put(t, x.direct, "d/old", data)
	for what, call := range x.calls(data) {
		x.line.refuse()
		var wg sync.WaitGroup
		var err error
		wg.Go(func() { err = call(t.Context(), fmt.Sprintf("%x", what)) })
		time.Sleep(200 * time.Millisecond)
		x.line.listen(t)
		if wg.Wait(); err != nil {
			t.Errorf("%s while the server is away: %v", what, err)
		}
	}
}

// faultSlow: a line that is slow is no dead one, though a call takes far longer than Stall.
func faultSlow(t *testing.T, x *faulty) {
	const size = 90_000
	data := filler(6, size)
	put(t, x.direct, "d/old", data)
	slow := func(rate int64) {
		x.line.mu.Lock()
		defer x.line.mu.Unlock()
		x.line.rate = rate
	}
	before := x.line.bytes()
	slow(40_000)
	for what, call := range x.calls(data) {
		if what == "Put" || what == "exclusive Put" { // the sockets of one machine swallow as much at once
			continue
		}
		began := time.Now()
		if err := call(t.Context(), fmt.Sprintf("%x", what)); err != nil {
			t.Errorf("%s over a slow line: %v", what, err)
		}
		if took := time.Since(began); what == "Get" && took < Stall {
			t.Errorf("%s took %v only", what, took)
		}
	}
	slow(20 << 20)
	data = filler(7, 56<<20)
	began := time.Now()
	put(t, x.s, "d/large", data)
	if took := time.Since(began); took < 2*Stall {
		t.Errorf("Put took %v only", took)
	}
	if b, err := x.s.Get(t.Context(), "d/large", 0, -1); err != nil || !bytes.Equal(b, data) {
		t.Errorf("%d bytes of %d, %v", len(b), len(data), err)
	}
	// Nothing was done twice, as with a server that is taken for dead.
	after := x.line.bytes()
	if up, down := after[0]-before[0], after[1]-before[1]; up > 58<<20 || down > 58<<20 {
		t.Errorf("%d bytes were sent and %d came, for a file of %d", up, down, len(data))
	}
}

// connections: however many calls are made at once, no more connections are than were allowed, and all calls end well.
func connections(t *testing.T, x *faulty, most int) {
	data := filler(8, 1<<20)
	put(t, x.direct, "d/old", data)
	x.line.drop()
	x.line.mu.Lock()
	x.line.rate = 40 << 20 // so that calls last
	x.line.most = 0
	x.line.mu.Unlock()
	var wg sync.WaitGroup
	for i := range 6 * most {
		for what, call := range x.calls(data) {
			wg.Go(func() {
				if err := call(t.Context(), fmt.Sprintf("%x-%d", what, i)); err != nil {
					t.Errorf("%s beside many: %v", what, err)
				}
			})
		}
	}
	wg.Wait()
	x.line.mu.Lock()
	defer x.line.mu.Unlock()
	if x.line.most != most {
		t.Errorf("there were %d connections at a time, allowed are %d", x.line.most, most)
	}
}

// faultRandom: random calls over a line that breaks again and again, beside a map.
func faultRandom(t *testing.T, x *faulty) {
	r := rand.New(rand.NewPCG(7, 7))
	model := map[string][]byte{}
	arm := func() {
		x.line.arm([]lineFault{resets, deaf}[r.IntN(2)], r.IntN(2), r.Int64N(120_000))
	}
	arm()
	struck := 0
	for i := range 300 {
		name := fmt.Sprintf("r/%d", r.IntN(8))
		data := filler(uint64(i), r.IntN(60_000))
		have, there := model[name]
		if i%3 == 0 {
			struck += x.line.disarm()
			arm()
		}
		switch op := r.IntN(5); op {
		case 0, 1:
			err := x.s.Put(t.Context(), name, data, backends.PutOptions{IfAbsent: op == 1})
			switch {
			case op == 1 && there && errors.Is(err, fs.ErrExist):
			case err == nil && !(op == 1 && there), op == 1 && !there && errors.Is(err, fs.ErrExist): // its own
				model[name] = data
			default:
				t.Fatalf("call %d: Put of %s, there %v, exclusive %v: %v", i, name, there, op == 1, err)
			}
		case 2:
			b, err := x.s.Get(t.Context(), name, 0, -1)
			if there && (err != nil || !bytes.Equal(b, have)) || !there && !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("call %d: Get of %s, there %v: %d bytes, %v", i, name, there, len(b), err)
			}
		case 3:
			err := x.s.Delete(t.Context(), name)
			if !there && !errors.Is(err, fs.ErrNotExist) || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("call %d: Delete of %s, there %v: %v", i, name, there, err)
			}
			delete(model, name)
		case 4:
			got := listed(t, x.s, "r/")
			slices.Sort(got)
			if got = slices.Compact(got); len(got) != len(model) {
				t.Fatalf("call %d: %d files listed, of %d", i, len(got), len(model))
			}
		}
	}
	if struck += x.line.disarm(); struck < 10 {
		t.Errorf("the line failed %d times only", struck)
	}
	for name, data := range model {
		want(t, x.direct, name, data)
	}
}
