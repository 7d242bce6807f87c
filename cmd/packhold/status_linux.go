package main

import (
	"os"
	"syscall"
)

func statusSignals() []os.Signal { return []os.Signal{syscall.SIGUSR1} }
