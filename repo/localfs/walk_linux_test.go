package localfs

import (
	"context"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"packhold/repo/snapshot"
)

// BenchmarkWalk lists a tree and reads the metadata of every entry: what a backup of unchanged files costs at least.
// PACKHOLD_BENCH_TREE names the tree.
func BenchmarkWalk(b *testing.B) {
	tree := os.Getenv("PACKHOLD_BENCH_TREE")
	if tree == "" {
		b.Skip("PACKHOLD_BENCH_TREE is not set")
	}
	for _, readers := range []int{1, runtime.GOMAXPROCS(0)} {
		b.Run(map[bool]string{true: "one", false: "all"}[readers == 1], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				entries := walkTree(b, tree, readers)
				b.ReportMetric(float64(time.Since(start).Nanoseconds())/float64(entries), "ns/entry")
				b.ReportMetric(float64(entries), "entries")
			}
		})
	}
}

func walkTree(tb testing.TB, path string, readers int) int {
	root, err := OpenDir(path)
	if err != nil {
		tb.Fatal(err)
	}
	var (
		mu      sync.Mutex
		cond    = sync.NewCond(&mu)
		queue   = []*Dir{root}
		busy    int
		entries int
		wg      sync.WaitGroup
	)
	for range readers {
		wg.Go(func() {
			var n snapshot.Node
			mu.Lock()
			defer mu.Unlock()
			for {
				for len(queue) == 0 && busy > 0 {
					cond.Wait()
				}
				if len(queue) == 0 {
					cond.Broadcast()
					return
				}
				d := queue[len(queue)-1]
				queue = queue[:len(queue)-1]
				busy++
				mu.Unlock()
				var children []*Dir
				names, err := d.Names(context.Background())
				if err != nil {
					tb.Error(err)
				}
				for _, name := range names {
					if _, err := d.Stat(name, &n); err != nil {
						tb.Error(err)
						continue
					}
					if n.Type == snapshot.Dir {
						c, err := d.Open(name)
						if err != nil {
							tb.Error(err)
							continue
						}
						children = append(children, c)
					}
				}
				d.Close()
				mu.Lock()
				busy--
				entries += len(names)
				queue = append(queue, children...)
				cond.Broadcast()
			}
		})
	}
	wg.Wait()
	return entries
}
