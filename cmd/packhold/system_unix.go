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
