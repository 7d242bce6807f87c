//go:build race

package admin

// race says that the race detector is on, which makes key derivation twenty times as slow: tests whose subject is not concurrency do less.
const race = true
