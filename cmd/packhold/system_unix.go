//go:build unix

package main

import (
	"os"
	"syscall"
)

func endSignals() []os.Signal {
	return []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
}

func pipeSignals() []os.Signal { return []os.Signal{syscall.SIGPIPE} }

// redrawable reports whether lines of f can be redrawn. A terminal that calls itself dumb, as editors do, cannot.
func redrawable(f *os.File) bool { return isTerminal(f) && os.Getenv("TERM") != "dumb" }

// noCoreDumps keeps keys and plaintext off the disk if the process crashes. Whoever wants a dump can raise the limit of the running process.
func noCoreDumps() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err != nil {
		return err
	}
	limit.Cur = 0
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &limit)
}
