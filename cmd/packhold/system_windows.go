package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

func endSignals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

func pipeSignals() []os.Signal { return nil }

func statusSignals() []os.Signal { return nil }

// redrawable switches the console's understanding of escape sequences on and reports whether it has it.
func redrawable(f *os.File) bool {
	handle := windows.Handle(f.Fd())
	var mode uint32
	if windows.GetConsoleMode(handle, &mode) != nil {
		return false
	}
	return windows.SetConsoleMode(handle, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}

// noCoreDumps has nothing to do: Windows keeps no dump of a process that no one asked it to watch.
func noCoreDumps() error { return nil }
