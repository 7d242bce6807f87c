package main

import (
	"context"
	"os"
	"os/signal"
	"packhold/cmd/packhold/internal/cli/run"
	"syscall"
	"time"
)

// grace is how long the first signal leaves a command to stop by itself. A process that hangs in a system call, as on a
// dead network file system, is then ended like by the second signal: the repository takes no harm from that, since it
// takes none from a crash.
const grace = 1800 * time.Millisecond

// watchSignals makes the first signal that asks the program to end cancel the context, and the second, or the end of
// grace, exit at once; both with 128+N. It returns the channel on which signals that ask for the progress are passed on.
func watchSignals(cancel context.CancelCauseFunc) <-chan struct{} {
	end := make(chan os.Signal, 2)
	for _, s := range endSignals() {
		// What the parent had this process ignore, as nohup does with SIGHUP, stays ignored.
		if !signal.Ignored(s) {
			signal.Notify(end, s)
		}
	}
	go func() {
		first := number(<-end)
		cancel(run.Interrupted(first))
		select {
		case second := <-end:
			os.Exit(128 + number(second))
		case <-time.After(grace):
			os.Exit(128 + first)
		}
	}()
	asked := make(chan struct{}, 1)
	if list := statusSignals(); len(list) > 0 {
		c := make(chan os.Signal, 1)
		signal.Notify(c, list...)
		go func() {
			for range c {
				select {
				case asked <- struct{}{}:
				default: // one is waiting already
				}
			}
		}()
	}
	// A reader that goes away must show as an error of Write and not end the process: standard error may lose its reader
	// without harm. To be notified is enough for that; nobody reads the channel.
	if list := pipeSignals(); len(list) > 0 {
		signal.Notify(make(chan os.Signal, 1), list...)
	}
	return asked
}

func number(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return int(n)
	}
	return int(syscall.SIGINT)
}
