//go:build !race

package repo

const race = false
